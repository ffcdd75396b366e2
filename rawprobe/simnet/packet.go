package simnet

import (
	"encoding/binary"
	"net/netip"

	"synprobe/rawprobe/netlab"
	"synprobe/rawprobe/wire"
)

// defaultTTL is what Linux starts every packet with.
const defaultTTL = 64

// A packet is an IP packet on its way through a node.
type packet struct {
	b      []byte
	v6     bool
	header int // bytes before the transport header

	in   *iface  // where it came in; nil for what the node itself sends
	from [6]byte // the link-layer address that it came from

	conn  *conn
	reply bool // it goes against the direction in which conn was opened
	state netlab.CTState
}

func newPacket(b []byte) (*packet, bool) {
	p := &packet{b: b}
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		p.header = int(b[0]&0xf) * 4
	case len(b) >= 40 && b[0]>>4 == 6:
		p.v6, p.header = true, 40
	default:
		return nil, false
	}
	return p, p.header >= 20 && p.header <= len(b)
}

// clone returns the packet as another node receives it.
func (p *packet) clone() *packet {
	return &packet{b: append([]byte(nil), p.b...), v6: p.v6, header: p.header, from: p.from}
}

func (p *packet) family() netlab.Family {
	if p.v6 {
		return netlab.IPv6
	}
	return netlab.IPv4
}

func (p *packet) src() netip.Addr {
	if p.v6 {
		return netip.AddrFrom16([16]byte(p.b[8:24]))
	}
	return netip.AddrFrom4([4]byte(p.b[12:16]))
}

func (p *packet) dst() netip.Addr {
	if p.v6 {
		return netip.AddrFrom16([16]byte(p.b[24:40]))
	}
	return netip.AddrFrom4([4]byte(p.b[16:20]))
}

func (p *packet) proto() wire.Proto {
	if p.v6 {
		return wire.Proto(p.b[6])
	}
	return wire.Proto(p.b[9])
}

func (p *packet) isICMP() bool {
	return p.v6 && p.proto() == wire.ProtoICMPv6 || !p.v6 && p.proto() == wire.ProtoICMP
}

func (p *packet) upper() []byte { return p.b[p.header:] }

func (p *packet) ttl() uint8 {
	if p.v6 {
		return p.b[7]
	}
	return p.b[8]
}

func (p *packet) setTTL(ttl uint8) {
	if p.v6 {
		p.b[7] = ttl
		return
	}
	p.b[8] = ttl
	p.sumHeader()
}

// sumHeader fills in the checksum of an IPv4 header.
func (p *packet) sumHeader() {
	if p.v6 {
		return
	}
	binary.BigEndian.PutUint16(p.b[10:], 0)
	binary.BigEndian.PutUint16(p.b[10:], wire.Checksum(p.b[:p.header], 0))
}

// sum fills in all checksums after a change. A fragment's transport checksum is
// that of the whole and stays.
func (p *packet) sum() {
	p.sumHeader()
	u := p.upper()
	at, start := 0, uint32(0)
	switch proto := p.proto(); {
	case p.fragment():
		return
	case proto == wire.ProtoTCP && len(u) >= 20:
		at = 16
	case proto == wire.ProtoUDP && len(u) >= 8:
		at = 6
	case p.isICMP() && len(u) >= 8:
		at = 2
	default:
		return
	}
	if p.proto() != wire.ProtoICMP {
		start = wire.PseudoHeaderSum(p.src(), p.dst(), p.proto(), len(u))
	}
	binary.BigEndian.PutUint16(u[at:], 0)
	c := wire.Checksum(u, start)
	if c == 0 && at == 6 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(u[at:], c)
}

// fragment reports whether it is an IPv4 fragment.
func (p *packet) fragment() bool {
	return !p.v6 && binary.BigEndian.Uint16(p.b[6:])&0x3fff != 0
}

func (p *packet) laterFragment() bool {
	return !p.v6 && binary.BigEndian.Uint16(p.b[6:])&0x1fff != 0
}

// ports returns those of TCP and UDP, 0 in other packets.
func (p *packet) ports() (src, dst uint16) {
	u := p.upper()
	if pr := p.proto(); pr != wire.ProtoTCP && pr != wire.ProtoUDP || len(u) < 4 || p.laterFragment() {
		return 0, 0
	}
	return binary.BigEndian.Uint16(u), binary.BigEndian.Uint16(u[2:])
}

// flags are those of a TCP segment; ok is false in other packets.
func (p *packet) flags() (f wire.TCPFlags, ok bool) {
	u := p.upper()
	if p.proto() != wire.ProtoTCP || len(u) < 20 || p.laterFragment() {
		return 0, false
	}
	return wire.TCPFlags(u[13]), true
}

// icmp parses an ICMP message of the packet's own family.
func (p *packet) icmp() (wire.ICMP, bool) {
	if !p.isICMP() || p.laterFragment() {
		return wire.ICMP{}, false
	}
	parse := wire.ParseICMPv4
	if p.v6 {
		parse = wire.ParseICMPv6
	}
	m, err := parse(p.upper())
	return m, err == nil
}

// neighborDiscovery reports whether it is one of the messages without which an
// IPv6 link does not work (RFC 4861, section 4).
func (p *packet) neighborDiscovery() bool {
	u := p.upper()
	return p.v6 && p.isICMP() && len(u) > 0 && u[0] >= 133 && u[0] <= 137
}

func (p *packet) setSrc(a netip.AddrPort) { p.setEnd(12, 8, 0, a) }
func (p *packet) setDst(a netip.AddrPort) { p.setEnd(16, 24, 2, a) }

func (p *packet) setEnd(at4, at6, port int, a netip.AddrPort) {
	if p.v6 {
		b := a.Addr().As16()
		copy(p.b[at6:], b[:])
	} else {
		b := a.Addr().As4()
		copy(p.b[at4:], b[:])
	}
	u := p.upper()
	if pr := p.proto(); (pr == wire.ProtoTCP || pr == wire.ProtoUDP) && len(u) >= 4 {
		binary.BigEndian.PutUint16(u[port:], a.Port())
	}
}

// build makes a packet. Its transport checksum is filled in.
func build(src, dst netip.Addr, proto wire.Proto, ttl uint8, upper []byte) *packet {
	p := &packet{v6: src.Is6(), header: 20}
	if p.v6 {
		p.header = 40
		s, d := src.As16(), dst.As16()
		p.b = make([]byte, 40, 40+len(upper))
		p.b[0], p.b[6], p.b[7] = 0x60, byte(proto), ttl
		binary.BigEndian.PutUint16(p.b[4:], uint16(len(upper)))
		copy(p.b[8:], s[:])
		copy(p.b[24:], d[:])
	} else {
		s, d := src.As4(), dst.As4()
		p.b = make([]byte, 20, 20+len(upper))
		p.b[0], p.b[8], p.b[9] = 0x45, ttl, byte(proto)
		binary.BigEndian.PutUint16(p.b[2:], uint16(20+len(upper)))
		copy(p.b[12:], s[:])
		copy(p.b[16:], d[:])
		if proto == wire.ProtoTCP {
			p.b[6] = 0x40 // don't fragment
		}
	}
	p.b = append(p.b, upper...)
	p.sum()
	return p
}

// segmentOf makes a TCP segment.
func segmentOf(src, dst netip.AddrPort, ttl uint8, seq, ack uint32, flags wire.TCPFlags, window uint16, options []byte) *packet {
	u := make([]byte, 20, 20+len(options))
	binary.BigEndian.PutUint16(u, src.Port())
	binary.BigEndian.PutUint16(u[2:], dst.Port())
	binary.BigEndian.PutUint32(u[4:], seq)
	binary.BigEndian.PutUint32(u[8:], ack)
	u[12], u[13] = byte(20+len(options))<<2, byte(flags)
	binary.BigEndian.PutUint16(u[14:], window)
	return build(src.Addr(), dst.Addr(), wire.ProtoTCP, ttl, append(u, options...))
}

// resetFor makes the reset that answers a segment, by RFC 9293, section
// 3.10.7.1: "If the ACK bit is off, sequence number zero is used,
// <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>; If the ACK bit is on,
// <SEQ=SEG.ACK><CTL=RST>". A reset is not answered.
func resetFor(p *packet, ttl uint8) *packet {
	t, err := wire.ParseTCP(p.upper())
	if err != nil || t.Flags.Has(wire.RST) {
		return nil
	}
	src, dst := netip.AddrPortFrom(p.src(), t.SrcPort), netip.AddrPortFrom(p.dst(), t.DstPort)
	if t.Flags.Has(wire.ACK) {
		return segmentOf(dst, src, ttl, t.Ack, 0, wire.RST, 0, nil)
	}
	n := uint32(len(t.Payload))
	for _, f := range []wire.TCPFlags{wire.SYN, wire.FIN} {
		if t.Flags.Has(f) {
			n++
		}
	}
	return segmentOf(dst, src, ttl, 0, t.Seq+n, wire.RST|wire.ACK, 0, nil)
}
