package simnet

import (
	"encoding/binary"
	"net/netip"
	"time"

	"synprobe/rawprobe"
	"synprobe/rawprobe/netlab"
	"synprobe/rawprobe/wire"
)

// A rule is a firewall rule with its counters.
type rule struct {
	netlab.PlanRule
	kind   chainKind
	hits   uint64
	number int // of packets so far, for Every
	tokens time.Duration
	last   time.Time
}

// A chainKind is one of the chains that a hook has, by their priorities.
type chainKind uint8

const (
	rawChain chainKind = iota
	filterChain
	natChain
)

// addRules appends rules to the node's chains.
func (n *node) addRules(rules []netlab.PlanRule) {
	for _, pr := range rules {
		for _, part := range parts(pr) {
			r := &rule{PlanRule: part, kind: filterChain}
			switch part.Action {
			case netlab.Notrack:
				r.kind = rawChain
			case netlab.DNAT, netlab.SNAT, netlab.Masquerade, netlab.Redirect:
				r.kind = natChain
			}
			if r.kind == natChain || part.State != 0 {
				n.track.on()
			}
			n.rules[part.Hook] = append(n.rules[part.Hook], r)
		}
		if pr.Action == netlab.SynProxy {
			n.track.loose = false
		}
	}
}

// parts returns the rules that stand for r, as netlab has them for the kernel.
func parts(r netlab.PlanRule) []netlab.PlanRule {
	if r.Action != netlab.SynProxy {
		return []netlab.PlanRule{r}
	}
	syn, proxy, invalid := r, r, r
	syn.Hook, syn.Action, syn.OutIface = netlab.Prerouting, netlab.Notrack, ""
	syn.Flags, syn.FlagMask = netlab.SYN, 0
	proxy.Flags, proxy.FlagMask, proxy.State = 0, 0, netlab.CTInvalid|netlab.CTUntracked
	invalid.Flags, invalid.FlagMask, invalid.State, invalid.Action = 0, 0, netlab.CTInvalid, netlab.Drop
	return []netlab.PlanRule{syn, proxy, invalid}
}

// hook takes a packet through everything that happens at a hook. It reports
// whether the packet goes on.
func (n *node) hook(h netlab.Hook, p *packet, in, out *iface) bool {
	if len(n.rules[h]) == 0 && !n.track.active {
		return true
	}
	switch h {
	case netlab.Ingress, netlab.Egress, netlab.Forward:
		return n.chain(h, filterChain, p, in, out)
	case netlab.Prerouting:
		return n.chain(h, rawChain, p, in, out) && n.tracked(p) &&
			n.chain(h, filterChain, p, in, out) && n.translate(h, p, in, out)
	case netlab.Output:
		return n.chain(h, rawChain, p, in, out) && n.tracked(p) &&
			n.translate(h, p, in, out) && n.chain(h, filterChain, p, in, out)
	}
	if !n.chain(h, filterChain, p, in, out) || !n.translate(h, p, in, out) {
		return false
	}
	n.track.confirm(p)
	return true
}

// chain takes a packet through one chain of a hook.
func (n *node) chain(h netlab.Hook, kind chainKind, p *packet, in, out *iface) bool {
	for _, r := range n.rules[h] {
		if r.kind != kind || !n.matches(r, p, in, out) {
			continue
		}
		r.hits++
		switch r.Action {
		case netlab.Drop:
			return false
		case netlab.Accept:
			return true
		case netlab.Count:
		case netlab.SetTTL:
			p.setTTL(r.TTL)
		case netlab.Notrack:
			p.state = netlab.CTUntracked
		case netlab.SynProxy:
			if n.proxied(p) {
				return false
			}
		default:
			n.reject(r, h, p)
			return false
		}
	}
	return true
}

func (n *node) matches(r *rule, p *packet, in, out *iface) bool {
	switch {
	case r.Family != p.family(),
		r.InIface != "" && (in == nil || in.name != r.InIface),
		r.OutIface != "" && (out == nil || out.name != r.OutIface),
		r.Src.IsValid() && !r.Src.Masked().Contains(p.src()),
		r.Dst.IsValid() && !r.Dst.Masked().Contains(p.dst()),
		r.Fragment && !p.fragment(),
		r.State != 0 && r.State&p.state == 0:
		return false
	}
	if r.Proto != 0 && !matchesProto(r, p) {
		return false
	}
	if r.Every > 1 {
		k := r.number
		r.number = (r.number + 1) % r.Every
		if k != r.Phase {
			return false
		}
	}
	if r.Chance > 0 && n.net.rand.Float64() >= r.Chance {
		return false
	}
	return r.Limit.Rate == 0 || r.within() != r.Limit.Over
}

func matchesProto(r *rule, p *packet) bool {
	if r.Proto == netlab.ICMP {
		u := p.upper()
		if !p.isICMP() || len(u) == 0 || p.neighborDiscovery() {
			return false
		}
		t4, t6 := r.ICMP.Types()
		return r.ICMP == netlab.AnyICMP || !p.v6 && u[0] == t4 || p.v6 && u[0] == t6
	}
	if p.proto() != wire.Proto(r.Proto) {
		return false
	}
	sport, dport := p.ports()
	if r.SrcPort != 0 && sport != r.SrcPort || r.DstPort != 0 && dport != r.DstPort {
		return false
	}
	if r.Flags == 0 && r.FlagMask == 0 {
		return true
	}
	mask := r.FlagMask
	if mask == 0 {
		mask = netlab.SYN | netlab.ACK | netlab.RST | netlab.FIN
	}
	f, ok := p.flags()
	return ok && netlab.Flags(f)&mask == r.Flags
}

// within takes a token of the rule's limit (net/netfilter/nft_limit.c).
func (r *rule) within() bool {
	per := r.Limit.Per
	if per == 0 {
		per = time.Second
	}
	b := r.Limit.Burst
	if b == 0 {
		b = 5
	}
	cost := per / time.Duration(r.Limit.Rate)
	full := cost * time.Duration(b)
	now := time.Now()
	if r.last.IsZero() {
		r.tokens = full
	} else {
		r.tokens = min(r.tokens+now.Sub(r.last), full)
	}
	r.last = now
	if r.tokens < cost {
		return false
	}
	r.tokens -= cost
	return true
}

// reject answers a packet that a rule refuses.
func (n *node) reject(r *rule, h netlab.Hook, p *packet) {
	if h == netlab.Ingress {
		n.rejectOnLink(r, p)
		return
	}
	if r.Action == netlab.Reset {
		// net/ipv4/netfilter/nf_reject_ipv4.c, nf_send_reset: it belongs to
		// the connection (nf_ct_attach) and leaves by the usual way.
		if rst := resetFor(p, defaultTTL); rst != nil {
			if rst.conn = p.conn; p.conn != nil {
				rst.reply, rst.state = !p.reply, netlab.CTRelated
			}
			_ = n.send(rst)
		}
		return
	}
	code4, code6, _ := r.Action.ICMPCodes()
	if p.v6 {
		n.icmpError(p, wire.ICMPv6DestinationUnreachable, code6)
		return
	}
	n.icmpError(p, wire.ICMPv4DestinationUnreachable, code4)
}

// rejectOnLink answers at the interface itself, from the destination's own
// address and back by the way that the packet came
// (net/netfilter/nft_reject_netdev.c).
func (n *node) rejectOnLink(r *rule, p *packet) {
	var q *packet
	if r.Action == netlab.Reset {
		q = resetFor(p, defaultTTL)
	} else {
		if m, ok := p.icmp(); ok && m.HasQuote() || p.laterFragment() || p.neighborDiscovery() {
			return
		}
		typ := wire.ICMPv4DestinationUnreachable
		code4, code6, _ := r.Action.ICMPCodes()
		if p.v6 {
			typ, code4 = wire.ICMPv6DestinationUnreachable, code6
		}
		q = n.errorOf(p, p.dst(), typ, code4)
	}
	if q != nil {
		_ = p.in.transmit(q, p.from)
	}
}

// proxied answers a SYN in the server's place, and drops what pretends to be
// the rest of a handshake (net/netfilter/nft_synproxy.c). It reports whether
// the packet was taken.
func (n *node) proxied(p *packet) bool {
	t, err := wire.ParseTCP(p.upper())
	if err != nil {
		return false
	}
	switch {
	case t.Flags.Has(wire.SYN) && !t.Flags.Has(wire.ACK):
		src, dst := netip.AddrPortFrom(p.src(), t.SrcPort), netip.AddrPortFrom(p.dst(), t.DstPort)
		a := segmentOf(dst, src, defaultTTL, n.net.rand.Uint32(), t.Seq+1, wire.SYN|wire.ACK, 0, synAckOptions(t.Options, t.Options.TSval))
		a.state = netlab.CTUntracked
		_ = n.send(a)
		return true
	case t.Flags.Has(wire.ACK):
		return true // no cookie of ours
	}
	return false
}

// A conn is a tracked connection.
type conn struct {
	orig, back tuple // the two directions, as they are seen before translation
	state      connState
	replied    bool // something came back
	confirmed  bool
	natDst     bool // the destination is translated
	natSrc     bool // the source is
	bound      [2]bool
}

type connState uint8

const (
	synSent connState = iota
	synReceived
	established
	closed
)

// A tracker is the connection tracking of a node. The zero tracker is off; it
// is switched on by the first rule that needs it.
type tracker struct {
	active bool
	loose  bool // takes up TCP connections in the middle
	full   bool // no room for new ones
	conns  map[tuple]*conn
}

func (t *tracker) on() {
	if !t.active {
		t.active, t.conns = true, make(map[tuple]*conn)
	}
}

// confirm puts a new connection into the table: its first packet has passed.
func (t *tracker) confirm(p *packet) {
	c := p.conn
	if c == nil || c.confirmed || p.state != netlab.CTNew {
		return
	}
	c.confirmed = true
	t.conns[c.orig], t.conns[c.back] = c, c
}

func (t *tracker) forget(c *conn) {
	delete(t.conns, c.orig)
	delete(t.conns, c.back)
}

// find returns the connection of a tuple, and whether the tuple is that of its
// answers.
func (t *tracker) find(id tuple) (*conn, bool) {
	c := t.conns[id]
	return c, c != nil && id != c.orig
}

// tracked looks up the connection that a packet belongs to, or opens one. It
// reports false where the packet ends here.
func (n *node) tracked(p *packet) bool {
	t := &n.track
	if !t.active || p.state != 0 {
		return true // nobody asks; or seen already, on the loopback interface
	}
	if p.fragment() {
		// Connections are tracked whole (nf_defrag_ipv4).
		n.reassemble(p)
		return false
	}
	p.state = netlab.CTInvalid
	var c *conn
	switch {
	case p.neighborDiscovery():
		p.state = netlab.CTUntracked
		return true
	case p.isICMP():
		m, ok := p.icmp()
		switch {
		case !ok:
			return true
		case m.HasQuote():
			t.related(p, &m)
			return true
		}
		c, p.reply = t.find(tupleOf(p))
		if c == nil && !m.IsEchoRequest() {
			return true
		}
		if p.reply {
			c.replied = true
		}
	case p.proto() == wire.ProtoTCP:
		f, ok := p.flags()
		if !ok {
			return true
		}
		c, p.reply = t.find(tupleOf(p))
		if c != nil && c.state == closed && !p.reply && f.Has(wire.SYN) {
			t.forget(c) // the same ports anew
			c = nil
		}
		if c == nil {
			open := f&(wire.SYN|wire.ACK|wire.RST|wire.FIN) == wire.SYN
			middle := f&(wire.SYN|wire.RST) == 0 && f.Has(wire.ACK) && t.loose
			if !open && !middle {
				return true
			}
			if c = t.open(p); c != nil && middle {
				c.state = established
			}
		} else if !t.segment(c, f, p.reply) {
			return true
		}
	case p.proto() == wire.ProtoUDP:
		c, p.reply = t.find(tupleOf(p))
		if p.reply {
			c.replied = true
		}
	default:
		return true
	}
	if c == nil {
		c = t.open(p)
	}
	if c == nil {
		return false // "table full, dropping packet"
	}
	p.conn, p.state = c, netlab.CTNew
	if c.replied {
		p.state = netlab.CTEstablished
	}
	return true
}

func (t *tracker) open(p *packet) *conn {
	if t.full {
		return nil
	}
	id := tupleOf(p)
	p.reply = false
	return &conn{orig: id, back: id.invert()}
}

// segment takes a connection on by one segment, after the table of
// net/netfilter/nf_conntrack_proto_tcp.c. It reports false for one that is
// invalid.
func (t *tracker) segment(c *conn, f wire.TCPFlags, reply bool) bool {
	switch {
	case f.Has(wire.RST) && reply && !c.replied:
		// "If only reply is a RST, we can consider ourselves not to have an
		// established connection."
		t.forget(c)
		c.state = closed
	case f.Has(wire.RST):
		c.state = closed
	case !reply && f.Has(wire.ACK) && c.state == synSent:
		return false
	case reply && f.Has(wire.SYN|wire.ACK) && c.state == synSent:
		c.state = synReceived
	case !reply && f.Has(wire.ACK) && c.state == synReceived:
		c.state = established
	}
	if reply {
		c.replied = true
	}
	return true
}

// related finds the connection that an ICMP error is about.
func (t *tracker) related(p *packet, m *wire.ICMP) {
	q, ok := quoted(m)
	if !ok {
		return
	}
	// The error goes against the packet that it quotes, and so in the
	// direction of the inverted tuple.
	c, reply := t.find(q.invert())
	if c == nil {
		return
	}
	p.conn, p.reply, p.state = c, reply, netlab.CTRelated
}

// quoted is the tuple of the packet that an ICMP error quotes.
func quoted(m *wire.ICMP) (tuple, bool) {
	q, err := m.Quote()
	if err != nil {
		return tuple{}, false
	}
	t := tuple{proto: q.IP.Proto}
	sport, dport := q.SrcPort, q.DstPort
	if b := q.IP.Payload; (q.IP.Proto == wire.ProtoICMP || q.IP.Proto == wire.ProtoICMPv6) && len(b) >= 8 {
		sport = binary.BigEndian.Uint16(b[4:])
		dport = sport
	} else if !q.HasPorts {
		return tuple{}, false
	}
	t.src, t.dst = netip.AddrPortFrom(q.IP.Src, sport), netip.AddrPortFrom(q.IP.Dst, dport)
	return t, true
}

// translate changes addresses: the destination before routing, the source
// after it. The first packet of a connection decides for all of it.
func (n *node) translate(h netlab.Hook, p *packet, in, out *iface) bool {
	c := p.conn
	if c == nil || p.state&(netlab.CTInvalid|netlab.CTUntracked) != 0 {
		return true
	}
	dst := h == netlab.Prerouting || h == netlab.Output
	side := 0
	if dst {
		side = 1
	}
	if p.state == netlab.CTNew && !c.bound[side] {
		c.bound[side] = true
		n.bind(h, p, in, out)
	}
	if m, ok := p.icmp(); ok && m.HasQuote() {
		p.retell(c, dst)
		return true
	}
	switch {
	case dst && !p.reply && c.natDst:
		p.setDst(c.back.src)
	case dst && p.reply && c.natSrc:
		p.setDst(c.orig.src)
	case !dst && !p.reply && c.natSrc:
		p.setSrc(c.back.dst)
	case !dst && p.reply && c.natDst:
		p.setSrc(c.orig.dst)
	default:
		return true
	}
	p.sum()
	return true
}

// bind asks the rules how to translate a new connection.
func (n *node) bind(h netlab.Hook, p *packet, in, out *iface) {
	c := p.conn
	for _, r := range n.rules[h] {
		if r.kind != natChain || !n.matches(r, p, in, out) {
			continue
		}
		r.hits++
		switch to := r.To; r.Action {
		case netlab.Redirect:
			switch {
			case h == netlab.Output && p.v6:
				to = netip.IPv6Loopback()
			case h == netlab.Output:
				to = netip.AddrFrom4([4]byte{127, 0, 0, 1})
			default:
				to = n.sourceOn(in, p.src(), p.src())
			}
			fallthrough
		case netlab.DNAT:
			port := c.back.src.Port()
			if r.ToPort != 0 {
				port = r.ToPort
			}
			c.back.src, c.natDst = netip.AddrPortFrom(to, port), true
		case netlab.Masquerade:
			if out != nil {
				to = n.lookup(flow{dst: p.dst(), proto: p.proto(), out: out}).src
			}
			fallthrough
		case netlab.SNAT:
			if to.IsValid() {
				c.back.dst, c.natSrc = netip.AddrPortFrom(to, c.back.dst.Port()), true
				n.unique(c)
			}
		}
		return
	}
}

// unique changes the port of a translated source until no other connection has
// the same tuple.
func (n *node) unique(c *conn) {
	for n.track.conns[c.back] != nil && c.orig.proto != wire.ProtoICMP && c.orig.proto != wire.ProtoICMPv6 {
		port := c.back.dst.Port() + 1
		if port < 1024 {
			port = 1024
		}
		c.back.dst = netip.AddrPortFrom(c.back.dst.Addr(), port)
	}
}

// retell translates an ICMP error and the packet that it quotes
// (net/netfilter/nf_nat_proto.c, nf_nat_icmp_reply_translation).
func (p *packet) retell(c *conn, dst bool) {
	var outer, inner func(netip.AddrPort)
	var to netip.AddrPort
	in, ok := newPacket(p.upper()[8:])
	if !ok {
		return
	}
	switch {
	case dst && p.reply && c.natSrc:
		outer, inner, to = p.setDst, in.setSrc, c.orig.src
	case dst && !p.reply && c.natDst:
		outer, inner, to = p.setDst, in.setSrc, c.back.src
	case !dst && p.reply && c.natDst:
		outer, inner, to = p.setSrc, in.setDst, c.orig.dst
	case !dst && !p.reply && c.natSrc:
		outer, inner, to = p.setSrc, in.setDst, c.back.dst
	default:
		return
	}
	outer(to)
	inner(to)
	in.sumHeader()
	p.sum()
}

var _ rawprobe.Link = (*link)(nil)
