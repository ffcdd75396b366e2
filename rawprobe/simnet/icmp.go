package simnet

import (
	"encoding/binary"
	"net/netip"
	"time"

	"synprobe/rawprobe"
	"synprobe/rawprobe/netlab"
	"synprobe/rawprobe/wire"
)

// A Habit is how a node behaves where it is no Linux machine of the default
// settings. The zero Habit is one that is.
type Habit struct {
	// Silent nodes send no ICMP errors at all; Mute ones say only not that a
	// TTL was used up.
	Silent, Mute bool
	// Quote is what errors say about the packet that they are about.
	Quote Quote
	// QuotedID is what becomes of the IPv4 identification in a quote.
	QuotedID QuotedID
	// TTL starts every packet of its own, ICMPTTL its ICMP messages; 0 means
	// 64, for ICMPTTL what TTL says.
	TTL, ICMPTTL uint8
	// Burst and Every limit ICMP errors to each peer: Burst at once, then one
	// in each Every. 0 means Linux' 6 and a second (IOS: 1 and 500 ms).
	Burst int
	Every time.Duration
	// Stealth hosts send no reset for a closed port and no ICMP error for a
	// datagram, as Windows does by default.
	Stealth bool
}

// A Quote is how much of a packet an ICMP error gives back.
type Quote uint8

// The ways to quote.
const (
	// QuoteWhole is Linux': all that fits into 576 bytes, or 1280 in IPv6.
	QuoteWhole Quote = iota
	// Quote8 is the IP header and 8 bytes (RFC 792).
	Quote8
	// QuoteExtended pads the quote to 128 bytes and adds the extension of RFC
	// 4884 that holds an MPLS label (RFC 4950).
	QuoteExtended
)

// QuotedID is what a node makes of the identification that it quotes.
type QuotedID uint8

// The ways to quote an identification.
const (
	KeepID QuotedID = iota
	SwapID          // bytes in the wrong order
	ZeroID
	NextID // one more
)

func (n *node) initialTTL(icmp bool) uint8 {
	switch {
	case icmp && n.habit.ICMPTTL != 0:
		return n.habit.ICMPTTL
	case n.habit.TTL != 0:
		return n.habit.TTL
	}
	return defaultTTL
}

func (n *node) timeExceeded(p *packet) {
	if n.habit.Mute {
		return
	}
	if p.v6 {
		n.icmpError(p, wire.ICMPv6TimeExceeded, wire.ICMPv6HopLimitExceeded)
		return
	}
	n.icmpError(p, wire.ICMPv4TimeExceeded, wire.ICMPv4TTLExceededInTransit)
}

func (n *node) hostUnreachable(p *packet) {
	if p.v6 {
		n.icmpError(p, wire.ICMPv6DestinationUnreachable, wire.ICMPv6AddressUnreachable)
		return
	}
	n.icmpError(p, wire.ICMPv4DestinationUnreachable, wire.ICMPv4HostUnreachable)
}

// noRoute answers a packet for which there is no usable route: ip_error, and
// ip6_pkt_discard and its like.
func (n *node) noRoute(p *packet, why rawprobe.RouteOutcome) {
	if why == rawprobe.RouteBlackhole {
		return
	}
	if p.v6 {
		code := wire.ICMPv6NoRoute
		if why == rawprobe.RouteProhibit {
			code = wire.ICMPv6AdminProhibited
		}
		n.icmpError(p, wire.ICMPv6DestinationUnreachable, code)
		return
	}
	// A limit of its own, which counts in the same bucket as that of all
	// errors (net/ipv4/route.c, ip_error).
	size, every := 5, time.Second
	if n.habit.Every > 0 {
		size, every = max(n.habit.Burst, 1), n.habit.Every
	}
	if !n.bucket(p.src()).take(size, every) {
		return
	}
	code := wire.ICMPv4NetUnreachable
	switch why {
	case rawprobe.RouteProhibit:
		code = wire.ICMPv4AdminProhibited
	case rawprobe.RouteUnreachable:
		code = wire.ICMPv4HostUnreachable
	}
	n.icmpError(p, wire.ICMPv4DestinationUnreachable, code)
}

// A bucket holds the tokens that a peer's errors cost, in time
// (net/ipv4/inetpeer.c, inet_peer_xrlim_allow).
type bucket struct {
	tokens time.Duration
	last   time.Time
}

func (n *node) bucket(peer netip.Addr) *bucket {
	b := n.limited[peer]
	if b == nil {
		b = &bucket{tokens: time.Hour, last: time.Now()}
		n.limited[peer] = b
	}
	return b
}

func (b *bucket) take(burst int, every time.Duration) bool {
	now := time.Now()
	b.tokens = min(b.tokens+now.Sub(b.last), time.Duration(burst)*every)
	b.last = now
	if b.tokens < every {
		return false
	}
	b.tokens -= every
	return true
}

// burst is XRLIM_BURST_FACTOR of net/ipv4/inetpeer.c.
const burst = 6

// mayError takes a token for an error to a peer.
func (n *node) mayError(to netip.Addr, r route) bool {
	if r.out.loopback {
		return true // net/ipv4/icmp.c, icmpv4_xrlim_allow
	}
	size, every := burst, time.Second
	if n.habit.Every > 0 {
		size, every = max(n.habit.Burst, 1), n.habit.Every
	} else if to.Is6() {
		// "Give more bandwidth to wider prefixes" (net/ipv6/icmp.c).
		every >>= (128 - r.bits) >> 5
	}
	return n.bucket(to).take(size, every)
}

// icmpError answers a packet with an error, unless errors may not be sent about
// it (RFC 1122, section 3.2.2; RFC 4443, section 2.4).
func (n *node) icmpError(p *packet, typ, code uint8) {
	to := p.src()
	if n.habit.Silent || p.laterFragment() || p.dst().IsMulticast() || to.IsUnspecified() || to.IsMulticast() {
		return
	}
	if m, ok := p.icmp(); ok && m.HasQuote() {
		return
	}
	r := n.lookup(flow{dst: to, proto: wire.ProtoICMP})
	if r.outcome != rawprobe.RouteFound || !n.mayError(to, r) {
		return
	}
	src := r.src
	if p.in != nil && n.owns(p.dst()) {
		src = p.dst()
	}
	if !src.IsValid() {
		return
	}
	e := n.errorOf(p, src, typ, code)
	if e.conn = p.conn; p.conn != nil {
		// It belongs to the connection, even to one that is not in the table yet
		// (net/ipv4/icmp.c, icmp_glue_bits; net/ipv6/icmp.c, icmpv6_getfrag).
		e.reply, e.state = !p.reply, netlab.CTRelated
	}
	_ = n.send(e)
}

// errorOf makes the error about a packet.
func (n *node) errorOf(p *packet, src netip.Addr, typ, code uint8) *packet {
	size, proto := 576-20-8, wire.ProtoICMP
	if p.v6 {
		size, proto = 1280-40-8, wire.ProtoICMPv6
	}
	quote := append([]byte(nil), p.b[:min(len(p.b), size)]...)
	if !p.v6 {
		id := binary.BigEndian.Uint16(quote[4:])
		switch n.habit.QuotedID {
		case SwapID:
			id = id>>8 | id<<8
		case ZeroID:
			id = 0
		case NextID:
			id++
		}
		binary.BigEndian.PutUint16(quote[4:], id)
	}
	u := make([]byte, 8, 8+len(quote))
	u[0], u[1] = typ, code
	switch n.habit.Quote {
	case Quote8:
		quote = quote[:min(len(quote), p.header+8)]
	case QuoteExtended:
		quote = append(quote, make([]byte, max(0, 128-len(quote)))...)[:128]
		if p.v6 {
			u[4] = 128 / 8
		} else {
			u[5] = 128 / 4
		}
		// RFC 4884, section 7: version 2, checksum; RFC 4950, section 3: one
		// label stack entry, class 1, type 1.
		ext := []byte{0x20, 0, 0, 0, 0, 8, 1, 1, 0, 0x01, 0x91, 0x01}
		binary.BigEndian.PutUint16(ext[2:], wire.Checksum(ext, 0))
		quote = append(quote, ext...)
	}
	return build(src, p.src(), proto, n.initialTTL(true), append(u, quote...))
}

// icmp takes in an ICMP message for the node itself.
func (n *node) icmp(p *packet) {
	m, ok := p.icmp()
	switch {
	case !ok:
	case p.neighborDiscovery():
		n.discovered(p, m)
	case m.IsEchoRequest() && !p.dst().IsMulticast():
		u := append([]byte(nil), p.upper()...)
		u[0] = wire.ICMPv4EchoReply
		if p.v6 {
			u[0] = wire.ICMPv6EchoReply
		}
		_ = n.send(build(p.dst(), p.src(), p.proto(), n.initialTTL(true), u))
	}
}

// fragmentPatience is how long the rest of a packet is waited for: ipfrag_time.
const fragmentPatience = 30 * time.Second

// reassemble waits for the rest of a packet, which in this world never comes.
func (n *node) reassemble(p *packet) {
	n.net.after(fragmentPatience, func() {
		if !p.laterFragment() && n.owns(p.dst()) {
			n.icmpError(p, wire.ICMPv4TimeExceeded, wire.ICMPv4ReassemblyTimeExceeded)
		}
	})
}
