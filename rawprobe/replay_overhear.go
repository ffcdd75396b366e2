package rawprobe

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"synprobe/pcap"
	"synprobe/rawprobe/wire"
)

// Overheard says what is open about an attempt of which there are packets
// alone: another program's, or that of a run of ours that was killed. What is
// not in such a record may have happened all the same.
type Overheard struct {
	Ours bool // a run of ours
	// Others counts the capture's other attempts at the same address and port,
	// from other source ports or later, and Answered those of them that met a
	// SYN-ACK.
	Others, Answered int
}

// An Attempt is one connection attempt in a capture: the SYNs of one flow with
// one initial sequence number.
type Attempt struct {
	Flow  Flow
	First time.Time // the time of its first SYN
	SYNs  int
	// Answered says that a SYN-ACK came for it, Established that the
	// connection's third packet followed.
	Answered, Established bool
	// Elsewhere says that its SYNs came into the machine that captured: it is
	// not the one that attempts.
	Elsewhere bool

	isn  uint32
	last time.Time
}

// ErrTooMuch means that a capture has more to consider than is sensible: it
// should be filtered first.
var ErrTooMuch = errors.New("too many packets to consider")

// The bounds of what is kept of a capture. Many more attempts than that are
// somebody's scan.
const (
	maxAttempts  = 1 << 14
	maxOverheard = 1 << 17  // packets
	maxHeld      = 64 << 20 // bytes of them
	maxControls  = 64       // streams beside the subject's
	// keptBytes are enough of a packet for any header, and any quote of one.
	keptBytes = 1500
)

// nearby is how long before and after an attempt other traffic to the host
// still says something about it.
const nearby = 10 * time.Second

// An Overhearer finds connection attempts in a capture, and makes observations
// of them as far as the packets allow. Its zero value is ready for a capture
// of any program's.
type Overhearer struct {
	// Ours says that the packets are those of a run whose record is missing:
	// a run that was killed. Its probes are recognised for what they are.
	Ours bool

	attempts []*Attempt
	byFlow   map[Flow]*Attempt // the latest
	events   []Event
	bytes    int
	last     time.Time
}

// Take takes in the next packet of the capture. Of its fields Data, Time,
// Unstamped, Cut, Interface, Loopback and ARP must be set, and Direction where it is
// known. The only error is ErrTooMuch.
func (c *Overhearer) Take(ev Event) error {
	c.Until(ev.Time)
	if ev.ARP || !c.telling(&ev) {
		return nil
	}
	if len(c.events) >= maxOverheard || len(c.attempts) > maxAttempts || c.bytes > maxHeld {
		return ErrTooMuch
	}
	ev.Cut = ev.Cut || len(ev.Data) > keptBytes
	ev.Data = slices.Clone(ev.Data[:min(len(ev.Data), keptBytes)])
	c.bytes += len(ev.Data)
	c.events = append(c.events, ev)
	return nil
}

// Until says that the capture went on until t, whether or not a packet came
// then.
func (c *Overhearer) Until(t time.Time) { c.last = latest(c.last, t) }

// telling notes the attempts, and reports whether a packet can say anything
// about any.
func (c *Overhearer) telling(ev *Event) bool {
	ip, err := wire.ParseIP(ev.Data)
	if err != nil || ip.FragmentOffset != 0 {
		return false
	}
	switch ip.Proto {
	case wire.ProtoICMP, wire.ProtoICMPv6:
		return true
	case wire.ProtoUDP:
		return c.Ours
	case wire.ProtoTCP:
	default:
		return false
	}
	tcp, err := segmentOf(ev, &ip)
	if err != nil {
		return false
	}
	flow := flowOf(&ip, tcp.SrcPort, tcp.DstPort)
	if tcp.Flags.Has(wire.SYN) && tcp.Flags&(wire.ACK|wire.RST) == 0 {
		c.attempt(ev, &ip, &tcp, flow)
		return true
	}
	if a := c.byFlow[flow]; a != nil { // from who attempts
		done := a.Established
		if a.Answered && tcp.Flags.Has(wire.ACK) && tcp.Seq == a.isn+1 {
			a.Established = true
		}
		return !done
	}
	a := c.byFlow[flow.Reverse()]
	if a == nil || a.Established {
		return false
	}
	if tcp.Flags.Has(wire.SYN|wire.ACK) && !tcp.Flags.Has(wire.RST) && tcp.Ack == a.isn+1 {
		a.Answered = true
	}
	return true
}

func flowOf(ip *wire.IP, src, dst uint16) Flow {
	return Flow{netip.AddrPortFrom(ip.Src, src), netip.AddrPortFrom(ip.Dst, dst)}
}

// attempt notes a SYN.
func (c *Overhearer) attempt(ev *Event, ip *wire.IP, tcp *wire.TCP, flow Flow) {
	a := c.byFlow[flow]
	if a == nil || a.isn != tcp.Seq {
		a = &Attempt{Flow: flow, First: ev.Time, isn: tcp.Seq, Elsewhere: true}
		if c.byFlow == nil {
			c.byFlow = make(map[Flow]*Attempt)
		}
		c.byFlow[flow] = a
		c.attempts = append(c.attempts, a)
	}
	a.SYNs++
	a.last = ev.Time
	switch {
	case ev.Direction == pcap.Outgoing, ev.Loopback, c.Ours:
		a.Elsewhere = false
	case ev.Direction == pcap.Unknown && slices.Contains(initialTTLs, ip.TTL):
		a.Elsewhere = false // no router has passed it on
	}
}

// initialTTLs are the usual ones.
var initialTTLs = []uint8{32, 64, 128, 255}

// Attempts are the attempts in the order of their first SYNs. The indexes are
// for Observe.
func (c *Overhearer) Attempts() []Attempt {
	var all []Attempt
	for _, a := range c.attempts {
		all = append(all, *a)
	}
	return all
}

// Observe makes the observations of one attempt, by its index in Attempts. What
// the machine knew is not in them, but for its address and the number of
// the interface.
func (c *Overhearer) Observe(attempt int) *Observations {
	a := c.attempts[attempt]
	src := a.Flow.Src.Addr()
	o := &Observations{Target: a.Flow.Dst, Start: a.First, Overheard: &Overheard{Ours: c.Ours}}
	o.Machine.Addresses = []netip.Addr{src}
	o.Machine.Route.Source = src
	o.Machine.Route.Local = a.Flow.Dst.Addr() == src || a.Flow.Dst.Addr().IsLoopback()
	for i, other := range c.attempts {
		if i != attempt && other.Flow.Dst == a.Flow.Dst && !c.Ours {
			o.Overheard.Others++
			if other.Answered {
				o.Overheard.Answered++
			}
		}
	}
	r := &Run{obs: o, early: make(map[deliveryKey]int)}
	l := &listening{c: c, a: a, r: r}
	l.open(Subject, a.Flow, wire.ProtoTCP).isn = a.isn
	r.subject = r.streams[0]
	for i := range c.events {
		r.packets = i + 1
		l.hear(c.events[i])
	}
	l.settle()
	return o
}

// listening makes the observations of one attempt.
type listening struct {
	c *Overhearer
	a *Attempt
	r *Run
}

func (l *listening) open(kind ProbeKind, flow Flow, proto wire.Proto) *stream {
	st := &stream{kind: kind, t: &template{kind: kind, proto: proto}, flow: flow, out: flow}
	l.r.streams = append(l.r.streams, st)
	return st
}

// hear takes in one packet.
func (l *listening) hear(ev Event) {
	ip, err := wire.ParseIP(ev.Data)
	if err != nil {
		return
	}
	// Checksums of what leaves are often left to the hardware.
	valid, checked := ip.VerifyPayload()
	ev.ChecksumPartial = ev.Loopback || partialChecksum(ev.Data)
	if ip.Src != l.a.Flow.Src.Addr() && damaged(&ev, &ip, checked && !valid) {
		return
	}
	switch ip.Proto {
	case wire.ProtoTCP:
		l.segment(ev, &ip)
	case wire.ProtoUDP:
		udp, err := wire.ParseUDP(ip.Payload)
		if err != nil || !l.outward(&ip) {
			return
		}
		flow := flowOf(&ip, udp.SrcPort, udp.DstPort)
		st := l.find(func(st *stream) bool { return st.kind == ControlUDP })
		if st == nil {
			st = l.open(ControlUDP, flow, wire.ProtoUDP)
		}
		l.sent(st, ev, &ip, Sent{Flow: flow})
	case wire.ProtoICMP, wire.ProtoICMPv6:
		m, err := parseICMP(&ip)
		if err != nil {
			return
		}
		if m.IsEchoRequest() {
			l.echo(ev, &ip, &m)
			return
		}
		if !m.IsError() && !m.IsEchoReply() {
			return
		}
		// Of all that is captured most is about others.
		ignored := l.r.obs.Ignored
		ev.Loopback = ev.Loopback || ip.Src == l.a.Flow.Src.Addr()
		l.r.arrived(ev, &ip, ev.Time)
		l.r.obs.Ignored = ignored
	}
}

// outward reports whether a packet goes the way of the attempt.
func (l *listening) outward(ip *wire.IP) bool {
	return ip.Src == l.a.Flow.Src.Addr() && ip.Dst == l.a.Flow.Dst.Addr()
}

func (l *listening) find(is func(*stream) bool) *stream {
	for _, st := range l.r.streams {
		if is(st) {
			return st
		}
	}
	return nil
}

// near reports whether something happened near the attempt.
func (l *listening) near(t time.Time) bool {
	return l.c.Ours || !t.Before(l.a.First.Add(-nearby)) && !t.After(l.a.last.Add(nearby))
}

func (l *listening) segment(ev Event, ip *wire.IP) {
	tcp, err := segmentOf(&ev, ip)
	if err != nil {
		return
	}
	flow := flowOf(ip, tcp.SrcPort, tcp.DstPort)
	if tcp.Flags.Has(wire.SYN) && tcp.Flags&(wire.ACK|wire.RST) == 0 {
		if l.outward(ip) {
			l.syn(ev, ip, &tcp, flow)
		}
		return
	}
	if st := l.find(func(st *stream) bool { return st.flow == flow && st.kind != Fragment && st.t.proto == wire.ProtoTCP }); st != nil {
		l.outgoing(st, ev, ip, &tcp)
		return
	}
	if l.find(func(st *stream) bool { return st.flow == flow.Reverse() && st.t.proto == wire.ProtoTCP }) != nil {
		l.r.arrived(ev, ip, ev.Time)
	}
}

// syn takes in a SYN to the target's address.
func (l *listening) syn(ev Event, ip *wire.IP, tcp *wire.TCP, flow Flow) {
	kind := ControlSYN
	switch {
	case flow == l.a.Flow && tcp.Seq == l.a.isn && ip.MoreFragments:
		kind = Fragment
	case flow == l.a.Flow && tcp.Seq == l.a.isn:
		kind = Subject
	case flow.Dst == l.a.Flow.Dst && (tcp.Seq != l.a.isn || !l.c.Ours):
		return // another attempt
	case flow.Dst == l.a.Flow.Dst:
		kind = OtherFlow
	}
	st := l.find(func(st *stream) bool { return st.kind == kind && st.flow == flow && st.isn == tcp.Seq })
	if st == nil {
		if !l.near(ev.Time) || len(l.r.streams) >= maxControls {
			return
		}
		st = l.open(kind, flow, wire.ProtoTCP)
		st.isn = tcp.Seq
		if kind == Fragment { // as SendFragment does
			l.r.streams = slices.Insert(l.r.streams[:len(l.r.streams)-1], 0, st)
		}
	}
	l.sent(st, ev, ip, Sent{Flow: flow, Seq: tcp.Seq, TSval: tcp.Options.TSval})
}

// outgoing takes in what else a flow sends: what its program, or the kernel,
// makes of the answer.
func (l *listening) outgoing(st *stream, ev Event, ip *wire.IP, tcp *wire.TCP) {
	switch {
	case tcp.Flags.Has(wire.RST) && tcp.Seq == st.isn+1:
		if st.kind == Subject {
			l.r.obs.OwnResets++
		}
		l.r.passed(st)
	case l.c.Ours && tcp.Flags == wire.ACK && st.kind == Subject && tcp.Seq == st.isn+1:
		ack := l.find(func(st *stream) bool { return st.kind == ControlACK })
		if ack == nil {
			ack = l.open(ControlACK, st.flow, wire.ProtoTCP)
			ack.isn = st.isn
		}
		l.sent(ack, ev, ip, Sent{Flow: st.flow, Seq: tcp.Seq, Ack: tcp.Ack})
	case tcp.Flags.Has(wire.ACK) && tcp.Seq == st.isn+1:
		l.r.passed(st)
	}
}

// echo takes in somebody's ping of the target.
func (l *listening) echo(ev Event, ip *wire.IP, m *wire.ICMP) {
	if !l.outward(ip) || !l.near(ev.Time) || len(m.Body) < 4 {
		return
	}
	cookie := uint32(m.Body[0])<<24 | uint32(m.Body[1])<<16 | uint32(m.Body[2])<<8 | uint32(m.Body[3])
	st := l.find(func(st *stream) bool { return st.kind == Echo && st.id == m.ID && st.cookie == cookie })
	if st == nil {
		if len(l.r.streams) >= maxControls {
			return
		}
		ends := Flow{netip.AddrPortFrom(ip.Src, 0), netip.AddrPortFrom(ip.Dst, 0)}
		st = l.open(Echo, ends, ip.Proto)
		st.id, st.outID, st.cookie, st.seq = m.ID, m.ID, cookie, m.Seq
	}
	l.sent(st, ev, ip, Sent{Flow: st.flow, Seq: uint32(m.Seq)})
}

// again is the time within which a second copy of a packet is the same packet on
// another interface.
const again = 100 * time.Millisecond

// sent records a packet as a probe.
func (l *listening) sent(st *stream, ev Event, ip *wire.IP, s Sent) {
	o := l.r.obs
	s.Kind, s.ID, s.TTL, s.Time = st.kind, ip.ID, int(ip.TTL), ev.Time
	if !l.c.Ours && s.TTL >= fullTTL {
		s.TTL = DefaultTTL
	}
	for _, i := range st.probes {
		old := &o.Sent[i]
		if old.ID == s.ID && old.TSval == s.TSval && old.Seq == s.Seq && old.Ack == s.Ack && old.Flow == s.Flow && old.TTL == s.TTL && ev.Time.Sub(old.Time).Abs() < again {
			return
		}
	}
	if len(o.Sent) >= maxHanded {
		return
	}
	s.Try = l.r.try(st, s.TTL)
	s.Departed = &Departure{Time: ev.Time, Unstamped: ev.Unstamped, Interface: ev.Interface, Flow: s.Flow, number: l.r.packets}
	if st.kind == Echo {
		s.Departed.EchoID = st.id
	}
	if st.kind == Subject && o.Machine.Route.Interface == 0 {
		o.Machine.Route.Interface = ev.Interface
		o.Machine.Interface = Interface{Index: ev.Interface, Up: true, Carrier: true, Loopback: ev.Loopback}
	}
	st.probes = append(st.probes, len(o.Sent))
	o.Sent = append(o.Sent, s)
}

// fullTTL is less than what any system starts with, and more than any path is
// long: what is below was meant to expire.
const fullTTL = 30

// settle completes the record.
func (l *listening) settle() {
	o := l.r.obs
	o.End = latest(l.c.last, o.Start)
	for i := range o.Replies {
		a := &o.Replies[i]
		// The client would not have asked again had it got a SYN-ACK.
		if a.Kind != SynAck || !l.asked(l.r.subject, a.Time) || o.Sent[a.Probe].Kind != Subject {
			a.Delivered = true
		}
		// An answer that names no SYN of several has no sure round trip (RFC 6298,
		// section 3).
		if !a.Exact && (a.Kind == SynAck || a.Kind == Reset) {
			a.RTT = 0
		}
	}
	o.doubtTimes()
}

// asked reports whether a flow was tried again after t.
func (l *listening) asked(st *stream, t time.Time) bool {
	return slices.ContainsFunc(st.probes, func(i int) bool { return l.r.obs.Sent[i].Time.After(t) })
}
