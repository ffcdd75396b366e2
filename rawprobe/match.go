package rawprobe

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"net/netip"
	"slices"
	"time"

	"synprobe/pcap"
	"synprobe/rawprobe/wire"
)

// A stream is all the probes of one flow: what makes an answer ours.
type stream struct {
	kind   ProbeKind
	t      *template
	flow   Flow
	isn    uint32 // TCP
	id     uint16 // the identifier of an echo
	cookie uint32 // the first payload bytes of an echo
	seq    uint16 // the sequence number of the first echo
	ack    uint32 // the acknowledgement of the first control ACK
	probes []int  // indexes into Observations.Sent, in order
	// out is the flow as the tap saw it leave: where this machine
	// translates, answers on the tap carry these addresses.
	out   Flow
	outID uint16
}

// duplicateWindow is the time within which a second copy of an answer is no
// new answer. A tap sees a packet once for each interface that it crosses
// (macvlan, bridge), microseconds apart, while two tries are at least a
// hundred milliseconds apart.
const duplicateWindow = 2 * time.Millisecond

// maxReplies bounds the record: a few hundred probes draw no more answers than
// that, unless somebody floods us with copies.
const maxReplies = 2048

// maxCopies bounds how often one answer is recorded. A host repeats its SYN-ACK
// five times (net.ipv4.tcp_synack_retries), and answers that name no probe are
// booked under one; more is a loop, or a flood, which must not crowd out what
// has not come yet.
const maxCopies = 32

// A copyKey is what the copies of an answer have in common.
type copyKey struct {
	probe     int
	kind      ReplyKind
	from      netip.Addr
	typ, code int
}

// handle takes in one packet, and tells who watches.
func (r *Run) handle(ev Event, now time.Time) {
	if ev.Delivered {
		r.delivered(ev)
		return
	}
	r.packets++
	r.tell(r.judge(ev, now))
}

// tell shows a packet, and what it was, to who watches.
func (r *Run) tell(s Seen) {
	if r.opt.Watch != nil {
		r.opt.Watch(s)
	}
}

// judge finds out what a packet is, and records it. Now is by the run's own clock,
// and zero where it is over: of a replay.
func (r *Run) judge(ev Event, now time.Time) Seen {
	s := Seen{Event: ev, Number: r.packets, What: Stranger}
	switch {
	case ev.ARP:
		s.What = r.arp(ev)
	case ev.Direction == pcap.Outgoing || ev.Direction == pcap.Incoming:
		ip, err := wire.ParseIP(ev.Data)
		if err != nil || ip.FragmentOffset != 0 {
			r.obs.Ignored.Malformed++
			s.What = Malformed
			return s
		}
		if ev.Direction == pcap.Outgoing {
			var at int
			if s.What, at = r.departed(ev, &ip); at >= 0 {
				s.Probe = r.obs.Sent[at]
			}
			return s
		}
		valid, checked := ip.VerifyPayload()
		misfit := checked && !valid
		if misfit && ev.ChecksumPartial != partialChecksum(ev.Data) && len(r.obs.odd) < maxReplies {
			r.obs.odd = append(r.obs.odd, r.packets)
		}
		if damaged(&ev, &ip, misfit) {
			r.obs.Ignored.Malformed++
			s.What = Malformed
			return s
		}
		if s.What = r.arrived(ev, &ip, now); s.What == Answer {
			s.Reply = r.obs.Replies[len(r.obs.Replies)-1]
			s.Probe = r.obs.Sent[s.Reply.Probe]
		}
	}
	return s
}

// damaged reports whether the IP stack discards a packet that came in: what was
// damaged on the way, and what ends before it should (net/ipv4/ip_input.c,
// ip_rcv_core). Of a fragment that can't be told, and no answer to a probe is
// long enough to be one. Transport checksums are not yet filled in on loopback,
// veth and other virtual links: that they misfit is then no damage.
func damaged(ev *Event, ip *wire.IP, misfit bool) bool {
	return !ip.ChecksumOK || ip.Truncated && !ev.Cut || ip.MoreFragments || misfit && !ev.ChecksumPartial
}

// departed records the proof that a probe of ours left this machine. It returns
// what the packet was, and the index of the probe, or -1.
func (r *Run) departed(ev Event, ip *wire.IP) (What, int) {
	var (
		at    = -1 // in Sent
		st    *stream
		flow  Flow
		outID uint16
	)
	switch ip.Proto {
	case wire.ProtoTCP:
		tcp, err := wire.ParseTCP(ip.Payload)
		if err != nil {
			return Stranger, -1
		}
		flow = Flow{netip.AddrPortFrom(ip.Src, tcp.SrcPort), netip.AddrPortFrom(ip.Dst, tcp.DstPort)}
		if tcp.Flags.Has(wire.RST) {
			for _, st := range r.streams {
				if st.kind == Subject && tcp.Seq == st.isn+1 && (flow == st.flow || flow == st.out) {
					r.obs.OwnResets++
					r.passed(st)
					return OwnReset, -1
				}
			}
			return Stranger, -1
		}
		for _, c := range r.streams {
			switch {
			case c.t.proto != wire.ProtoTCP:
				continue
			case c.kind == ControlACK:
				at = r.probe(c, func(s *Sent) bool { return tcp.Flags == wire.ACK && s.Seq == tcp.Seq && s.Ack == tcp.Ack })
			default:
				at = r.probe(c, func(s *Sent) bool {
					return tcp.Flags == wire.SYN && s.Seq == tcp.Seq && tcp.Options.HasTimestamps && s.TSval == tcp.Options.TSval
				})
			}
			if at >= 0 {
				st = c
				break
			}
		}
	case wire.ProtoUDP:
		udp, err := wire.ParseUDP(ip.Payload)
		if err != nil {
			return Stranger, -1
		}
		flow = Flow{netip.AddrPortFrom(ip.Src, udp.SrcPort), netip.AddrPortFrom(ip.Dst, udp.DstPort)}
		for _, c := range r.streams {
			if at = r.probe(c, func(s *Sent) bool { return s.Kind == ControlUDP && s.Flow.Dst.Port() == udp.DstPort }); at >= 0 {
				st = c
				break
			}
		}
	case wire.ProtoICMP, wire.ProtoICMPv6:
		m, err := parseICMP(ip)
		if err != nil || !m.IsEchoRequest() {
			return Stranger, -1
		}
		flow = Flow{netip.AddrPortFrom(ip.Src, 0), netip.AddrPortFrom(ip.Dst, 0)}
		outID = m.ID
		for _, c := range r.streams {
			if c.kind == Echo && hasCookie(m.Body, c.cookie) {
				st = c
				at = r.probe(st, func(s *Sent) bool { return uint16(s.Seq) == m.Seq })
			}
		}
	}
	if at < 0 {
		return Stranger, -1
	}
	s := &r.obs.Sent[at]
	// A packet may leave through several interfaces, one stacked on the other.
	// The one that the route names is the one whose times count.
	if s.Departed != nil && (s.Departed.Interface == r.obs.Machine.Route.Interface || ev.Interface != r.obs.Machine.Route.Interface) {
		return ProbeAgain, at
	}
	s.Departed = &Departure{Time: ev.Time, Unstamped: ev.Unstamped, Interface: ev.Interface, Flow: flow, EchoID: outID, number: r.packets}
	st.out, st.outID = flow, outID
	return ProbeLeft, at
}

// coarse is the part of a round trip by which its bounds may be apart where the
// kernel did not stamp the departure.
const coarse = 64

// roundTrip is the time from the probe's departure to the kernel's stamp of its
// answer, or 0 where that can't be told. A departure without a stamp lies
// between the send and the reading of the tap's copy: on a long way that is
// near enough.
func (s *Sent) roundTrip(answered time.Time) time.Duration {
	switch d := s.Departed; {
	case d == nil:
		return 0
	case !d.Unstamped:
		return max(answered.Sub(d.Time), 0)
	case d.Time.Sub(s.Time) <= answered.Sub(d.Time)/coarse:
		return answered.Sub(s.Time)
	}
	return 0
}

// doubtTimes takes back round-trip times that may be none. A host whose first
// SYN-ACK was lost repeats it, by itself or for our next SYN, and echoes the first
// SYN's timestamp in either case (field note 29): the time since that SYN is then
// the wait, not the way. And an answer that names no probe is booked under the
// last, though it may be the answer to one before. "RTT samples MUST NOT be made
// using segments that were retransmitted (and thus for which it is ambiguous
// whether the reply was for the first instance of the packet or a later
// instance)" (RFC 6298, section 3). What an echo took tells how long a way is
// possible: where that leaves no other reading, the time stands.
func (o *Observations) doubtTimes() {
	var echo time.Duration
	answered := make([]bool, len(o.Sent))
	for i := range o.Replies {
		answered[o.Replies[i].Probe] = true
		if o.Replies[i].Kind == EchoReply {
			echo = max(echo, o.Replies[i].RTT)
		}
	}
	for i := range o.Replies {
		a := &o.Replies[i]
		for j := range o.Sent {
			s := &o.Sent[j]
			if s.Kind != o.Sent[a.Probe].Kind || s.Flow != o.Sent[a.Probe].Flow || s.Departed == nil {
				continue
			}
			switch {
			case j > a.Probe && a.Kind == SynAck && a.RTT > 2*echo && s.Departed.Time.Before(a.Time):
				a.RTT = 0
			case j < a.Probe && !a.Exact && !answered[j] &&
				(echo == 0 || a.Kind == ICMPError || a.Time.Sub(s.Departed.Time) <= 2*echo): // routers may take their time
				a.RTT = 0
			}
		}
	}
}

// passed marks a flow's SYN-ACKs as delivered: our kernel has reset the
// connection, so they reached it.
func (r *Run) passed(st *stream) {
	for i := range r.obs.Replies {
		if a := &r.obs.Replies[i]; a.Kind == SynAck && r.obs.Sent[a.Probe].Flow == st.flow {
			a.Delivered = true
		}
	}
}

// arrived judges a packet that came in, and records it where one of our probes
// provoked it.
func (r *Run) arrived(ev Event, ip *wire.IP, now time.Time) What {
	reply := Reply{
		Time: ev.Time, From: ip.Src, TTL: int(ip.TTL),
		Interface: ev.Interface, Loopback: ev.Loopback, seen: now, number: r.packets, unstamped: ev.Unstamped,
	}
	var st *stream
	var key deliveryKey
	switch ip.Proto {
	case wire.ProtoTCP:
		tcp, err := segmentOf(&ev, ip)
		if err != nil {
			r.obs.Ignored.Malformed++
			return Malformed
		}
		if tcp.Flags.Has(wire.SYN) && !tcp.Flags.Has(wire.ACK) {
			return OwnReturn // our own SYN, on its way into this machine
		}
		if tcp.Flags.Has(wire.RST) && !tcp.Flags.Has(wire.ACK) && r.ownSequence(tcp.Seq) {
			return OwnReturn // our kernel's reset, on its way into this machine
		}
		st = r.answer(ip, &tcp, &reply)
		key = tcpDelivery(&tcp)
	case wire.ProtoICMP, wire.ProtoICMPv6:
		m, err := parseICMP(ip)
		if err != nil {
			r.obs.Ignored.Malformed++
			return Malformed
		}
		switch {
		case m.IsEchoRequest():
			return Stranger // our own, on loopback, or somebody else's
		case m.IsEchoReply():
			st = r.echoed(ip, &m, &reply)
		case m.IsError():
			var malformed bool
			if st, malformed = r.refused(&m, &reply); malformed {
				r.obs.Ignored.Malformed++
				return Malformed
			}
			// The answer is good whatever they are.
			reply.Extensions, _ = m.Extensions()
			key = icmpDelivery(&m)
		default:
			if n, err := wire.ParseNeighbor(m); err == nil {
				return r.neighbor(ev, ip, n)
			}
			return Stranger
		}
	default:
		return Stranger
	}
	if st == nil {
		r.obs.Ignored.Unprovoked++
		return Unprovoked
	}
	if !ev.Unstamped {
		s := &r.obs.Sent[reply.Probe]
		if reply.RTT = s.roundTrip(reply.Time); !now.IsZero() && reply.RTT > now.Sub(s.Time) {
			// Longer than the run knows of: the stamps' clock was set meanwhile.
			reply.RTT, reply.unstamped = 0, true
		}
	}
	for i := len(r.obs.Replies) - 1; i >= 0; i-- {
		old := &r.obs.Replies[i]
		// By the kernel's stamps: however late they are read, a capture
		// tells the same.
		if reply.Time.Sub(old.Time).Abs() > duplicateWindow {
			break
		}
		if old.Kind == reply.Kind && old.Probe == reply.Probe && old.From == reply.From &&
			old.TTL == reply.TTL && old.Type == reply.Type && old.Code == reply.Code {
			r.obs.Ignored.Duplicates++
			return Duplicate
		}
	}
	same := copyKey{reply.Probe, reply.Kind, reply.From, reply.Type, reply.Code}
	switch n := r.copies[same]; {
	case n >= maxCopies:
		r.obs.Ignored.Duplicates++
		return Duplicate
	case n > 0:
		reply.RTT = 0 // it has been answered: this was under way for less long
	}
	if r.early[key] > 0 {
		if r.early[key]--; r.early[key] == 0 {
			delete(r.early, key)
		}
		reply.Delivered = true
	}
	if len(r.obs.Replies) >= maxReplies {
		r.obs.Ignored.Excess++
		return Excess
	}
	if r.copies == nil {
		r.copies = make(map[copyKey]int)
	}
	r.copies[same]++
	r.keys = append(r.keys, key)
	r.obs.Replies = append(r.obs.Replies, reply)
	return Answer
}

// ownSequence reports whether seq is the one after a SYN of ours: what an
// answer acknowledges, and what a reset has that our kernel sends after a
// SYN-ACK. On loopback such a reset also arrives here.
func (r *Run) ownSequence(seq uint32) bool {
	for _, st := range r.streams {
		if st.t.proto == wire.ProtoTCP && seq == st.isn+1 {
			return true
		}
	}
	return false
}

// answer finds the flow that a TCP segment answers. RFC 9293, section 3.10.7.3:
// "If the ACK bit is set: If SEG.ACK =< ISS or SEG.ACK > SND.NXT, send a reset
// [...] and discard the segment"; a reset is acceptable only with an
// acceptable ACK. We have sent nothing but the SYN, so the acknowledgement
// must be our ISN + 1.
func (r *Run) answer(ip *wire.IP, tcp *wire.TCP, reply *Reply) *stream {
	back := Flow{Src: netip.AddrPortFrom(ip.Dst, tcp.DstPort), Dst: netip.AddrPortFrom(ip.Src, tcp.SrcPort)}
	for _, st := range r.streams {
		if st.t.proto != wire.ProtoTCP || len(st.probes) == 0 || back != st.out && back != st.flow {
			continue
		}
		if st.kind == Fragment {
			continue // what answers a whole SYN is the subject's
		}
		if st.kind == ControlACK {
			// RFC 9293, section 3.10.7.1: "If the ACK bit is on,
			// <SEQ=SEG.ACK><CTL=RST>".
			if tcp.Flags.Has(wire.RST) && !tcp.Flags.Has(wire.ACK) &&
				r.nameExactly(st, reply, func(s *Sent) bool { return s.Ack == tcp.Seq }) {
				reply.Kind = Reset
				return st
			}
			continue
		}
		valid := tcp.Flags.Has(wire.ACK) && tcp.Ack == st.isn+1
		switch {
		case tcp.Flags.Has(wire.RST) && valid:
			reply.Kind = Reset
		case tcp.Flags.Has(wire.SYN|wire.ACK) && valid && !tcp.Flags.Has(wire.RST):
			reply.Kind = SynAck
		case tcp.Flags.Has(wire.ACK) && tcp.Flags&(wire.SYN|wire.RST) == 0 && !valid:
			reply.Kind = OldAck
		default:
			continue
		}
		reply.Window, reply.Options = int(tcp.Window), tcp.Options.Count
		echoed := tcp.Options.HasTimestamps && reply.Kind == SynAck
		if !r.name(st, reply, func(s *Sent) bool { return echoed && s.TSval == tcp.Options.TSecr }) {
			continue
		}
		return st
	}
	return nil
}

// echoed finds the echo request that a reply answers.
func (r *Run) echoed(ip *wire.IP, m *wire.ICMP, reply *Reply) *stream {
	for _, st := range r.streams {
		if st.kind != Echo || !hasCookie(m.Body, st.cookie) || m.ID != st.id && m.ID != st.outID ||
			ip.Src != st.flow.Dst.Addr() && ip.Src != st.out.Dst.Addr() {
			continue
		}
		reply.Kind = EchoReply
		if r.nameExactly(st, reply, func(s *Sent) bool { return uint16(s.Seq) == m.Seq }) {
			return st
		}
	}
	return nil
}

// refused finds the probe that an ICMP error quotes. The quote may have been
// rewritten by a translator that did not put it right again: the sequence
// number must be ours, and the source port or the destination.
func (r *Run) refused(m *wire.ICMP, reply *Reply) (st *stream, malformed bool) {
	q, err := m.Quote()
	if err != nil {
		return nil, true
	}
	reply.Kind, reply.Type, reply.Code = ICMPError, int(m.Type), int(m.Code)
	reply.QuotedTTL = int(q.IP.TTL)
	reply.QuotedDst = netip.AddrPortFrom(q.IP.Dst, q.DstPort)
	// By the source port first: flows that differ in it share the rest. Where that
	// was rewritten, by what names the probe.
	for _, by := range []quoteMark{byPort, byIdentity, byDestination} {
		for _, st := range r.streams {
			if len(st.probes) > 0 && q.IP.Proto == st.t.proto && r.quoted(st, &q, by, reply) {
				return st, false
			}
		}
	}
	return nil, false
}

// A quoteMark is what tells of which flow a quoted SYN is, beside its sequence
// number.
type quoteMark int

const (
	byPort        quoteMark = iota // the source port
	byIdentity                     // the destination, and what names the probe
	byDestination                  // the destination, where one flow alone goes there
)

// quoted reports whether a quote is of a probe of this flow, which it then names
// in the reply.
func (r *Run) quoted(st *stream, q *wire.Quote, by quoteMark, reply *Reply) bool {
	if st.kind == Echo {
		return q.HasEcho && (q.EchoID == st.id || q.EchoID == st.outID) &&
			r.nameExactly(st, reply, func(s *Sent) bool { return uint16(s.Seq) == q.EchoSeq })
	}
	if st.kind == Fragment {
		return q.HasSeq && q.Seq == st.isn && r.nameExactly(st, reply, func(s *Sent) bool { return s.ID == q.IP.ID || s.ID == bits.ReverseBytes16(q.IP.ID) })
	}
	if st.kind == ControlUDP {
		// No sequence number shows that it is ours: the destination must, or the
		// identification, where a translator has another destination.
		to := q.IP.Dst == st.flow.Dst.Addr() || q.IP.Dst == st.out.Dst.Addr()
		return q.HasPorts && (q.SrcPort == st.flow.Src.Port() || q.SrcPort == st.out.Src.Port()) &&
			r.nameExactly(st, reply, func(s *Sent) bool {
				return s.Flow.Dst.Port() == q.DstPort && (to || q.IP.Version == 4 && s.ID == q.IP.ID)
			})
	}
	if st.kind == ControlACK {
		if !q.HasSeq || q.Seq != st.isn+1 || !r.marked(st, q, by) {
			return false
		}
		if q.HasAck { // which nobody rewrites
			return r.nameExactly(st, reply, func(s *Sent) bool { return s.Ack == q.Ack })
		}
		return r.name(st, reply, func(s *Sent) bool { return q.IP.Version == 4 && s.ID == q.IP.ID })
	}
	if !q.HasSeq || q.Seq != st.isn || !r.marked(st, q, by) {
		return false
	}
	// The timestamp first: an identification may be rewritten on the way.
	if q.HasTSval && r.nameExactly(st, reply, func(s *Sent) bool { return s.TSval == q.TSval }) {
		return true
	}
	// See nextID for why none of these is another's. Other programs' are not so
	// careful, and count up by one: what fits exactly comes first. Or all are 0:
	// "Originating sources MAY set the IPv4 ID field of atomic datagrams to any
	// value" (RFC 6864, section 4.1).
	if q.IP.Version == 4 &&
		(r.nameAlone(st, reply, func(s *Sent) bool { return s.ID == q.IP.ID }) ||
			r.nameAlone(st, reply, func(s *Sent) bool { return s.ID == bits.ReverseBytes16(q.IP.ID) || s.ID == q.IP.ID-1 })) {
		return true
	}
	if by == byIdentity || by == byDestination && r.shared(st) {
		return false
	}
	return r.name(st, reply, func(*Sent) bool { return false })
}

// marked reports whether a quote is of a flow by its source port, or else by its
// destination.
func (r *Run) marked(st *stream, q *wire.Quote, by quoteMark) bool {
	if by == byPort {
		return q.SrcPort == st.flow.Src.Port() || q.SrcPort == st.out.Src.Port()
	}
	dst := netip.AddrPortFrom(q.IP.Dst, q.DstPort)
	return dst == st.flow.Dst || dst == st.out.Dst
}

// shared reports whether another flow's SYNs go where this one's do.
func (r *Run) shared(st *stream) bool {
	return slices.ContainsFunc(r.streams, func(c *stream) bool {
		return c != st && (c.kind == Subject || c.kind == OtherFlow || c.kind == ControlSYN) && c.flow.Dst == st.flow.Dst
	})
}

// A probe without an answer may still provoke one that names no probe for three
// of the longest round trips seen, within these bounds. Who asks one TTL after
// the other must wait as long for each.
const minFlight, maxFlight = 140 * time.Millisecond, time.Second

func (r *Run) inFlight() time.Duration {
	return min(max(3*r.obs.MaxRTT(), minFlight), maxFlight)
}

// name sets the probe that a reply answers: the one that is named by what the
// reply carries, the only one that was sent, the stepped one where no other TTL
// is in flight. Else it is the last one of full TTL, and not exact: that a
// stepped probe provoked an answer must be beyond doubt.
func (r *Run) name(st *stream, reply *Reply, named func(*Sent) bool) bool {
	if r.nameExactly(st, reply, named) {
		return true
	}
	answered := make([]bool, len(r.obs.Sent))
	for i := range r.obs.Replies {
		answered[r.obs.Replies[i].Probe] = true
	}
	flying, sent, last, lastFull, stepped := make(map[int]int), 0, -1, -1, -1
	inFlight := r.inFlight()
	farFlight := maxFlight // of full TTL: the routers' answers do not tell how far the host is
	if reply.Kind == ICMPError || slices.ContainsFunc(st.probes, func(i int) bool { return answered[i] && !r.obs.Sent[i].Stepped() }) {
		farFlight = inFlight
	}
	for _, i := range st.probes {
		s := &r.obs.Sent[i]
		flight := inFlight
		if !s.Stepped() {
			flight = farFlight
		}
		if s.Refused != NotRefused && s.Refused != RefusedByFirewall {
			continue
		}
		sent++
		last = i
		if s.Stepped() {
			stepped = i
		} else {
			lastFull = i
		}
		if !answered[i] && reply.Time.Sub(s.Time) < flight {
			flying[s.TTL] = i
		}
	}
	if reply.Kind != ICMPError && r.unbooked(st, reply.Time.Add(-maxFlight)) {
		flying[DefaultTTL] = lastFull
	}
	_, full := flying[DefaultTTL]
	if reply.Meaning() == SaysExpired && stepped >= 0 && (len(flying) != 1 || full) {
		// One of full TTL does not expire where others do that were meant to.
		// Which of those it was its distance may show; no claim rests on that.
		if i, ok := flying[reply.Distance()+1]; ok {
			stepped = i
		}
		reply.Probe = stepped
		return true
	}
	reply.Probe = last
	switch {
	case sent == 0:
		return false
	case sent == 1:
		reply.Exact = true
	case len(flying) == 1 && !full:
		for _, i := range flying {
			reply.Probe = i
		}
		reply.Exact = true
	case lastFull >= 0:
		reply.Probe = lastFull
	}
	return true
}

// unbooked reports whether probes of full TTL, one of them sent after a time, have
// fewer answers than they are, and one of those names none: which of them is still
// to be answered is not known.
func (r *Run) unbooked(st *stream, after time.Time) bool {
	full, late, vague := 0, false, false
	for _, i := range st.probes {
		if s := &r.obs.Sent[i]; !s.Stepped() && s.Refused == NotRefused {
			full++
			late = late || s.Time.After(after)
		}
	}
	for i := range r.obs.Replies {
		if a := &r.obs.Replies[i]; slices.Contains(st.probes, a.Probe) && !r.obs.Sent[a.Probe].Stepped() {
			full--
			vague = vague || !a.Exact
		}
	}
	return late && vague && full > 0
}

func (r *Run) nameExactly(st *stream, reply *Reply, named func(*Sent) bool) bool {
	for _, i := range st.probes {
		if named(&r.obs.Sent[i]) {
			reply.Probe, reply.Exact = i, true
			return true
		}
	}
	return false
}

// nameAlone is nameExactly for what two probes may have in common, and then names
// neither.
func (r *Run) nameAlone(st *stream, reply *Reply, named func(*Sent) bool) bool {
	n := 0
	for _, i := range st.probes {
		if named(&r.obs.Sent[i]) {
			n++
		}
	}
	return n == 1 && r.nameExactly(st, reply, named)
}

// probe finds a probe of a flow, and returns -1 where there is none.
func (r *Run) probe(st *stream, match func(*Sent) bool) int {
	for _, i := range st.probes {
		if match(&r.obs.Sent[i]) {
			return i
		}
	}
	return -1
}

// A deliveryKey recognises the copy of a packet that a socket got, in which a
// local translation of addresses and ports has already been undone.
type deliveryKey struct {
	what uint32 // TCP flags, or ICMP type and code
	a, b uint32 // sequence and acknowledgement; for a quote, its sequence
}

func tcpDelivery(t *wire.TCP) deliveryKey {
	return deliveryKey{what: uint32(t.Flags), a: t.Seq, b: t.Ack}
}

func icmpDelivery(m *wire.ICMP) deliveryKey {
	k := deliveryKey{what: 1<<31 | uint32(m.Type)<<8 | uint32(m.Code)}
	if q, err := m.Quote(); err == nil {
		k.a, k.b = q.Seq, uint32(q.EchoSeq)
	}
	return k
}

// delivered marks the answer of which a socket behind the local firewall got a
// copy. The copy may be read before the tap's.
func (r *Run) delivered(ev Event) {
	var key deliveryKey
	switch {
	case ev.ICMP:
		parse := wire.ParseICMPv4
		if ev.From.Is6() {
			parse = wire.ParseICMPv6
		}
		m, err := parse(ev.Data)
		if err != nil || !m.IsError() {
			return
		}
		// Sockets get the errors about everybody's packets.
		if st, _ := r.refused(&m, new(Reply)); st == nil {
			return
		}
		key = icmpDelivery(&m)
	default:
		tcp, err := wire.ParseTCP(ev.Data)
		if err != nil || !r.ownSegment(&tcp) {
			return
		}
		key = tcpDelivery(&tcp)
	}
	// The newest first: a try before this one may have been eaten.
	for i := len(r.keys) - 1; i >= 0; i-- {
		if r.keys[i] == key && !r.obs.Replies[i].Delivered {
			r.obs.Replies[i].Delivered = true
			return
		}
	}
	if _, known := r.early[key]; known || len(r.early) < maxEarly {
		r.early[key]++
	}
}

// ownSegment reports whether a segment that a socket got acknowledges a SYN of
// ours, by its number and its ports: others may come in any number.
func (r *Run) ownSegment(tcp *wire.TCP) bool {
	for _, st := range r.streams {
		if st.t.proto != wire.ProtoTCP || tcp.Ack != st.isn+1 {
			continue
		}
		for _, f := range []Flow{st.flow, st.out} {
			if tcp.DstPort == f.Src.Port() && tcp.SrcPort == f.Dst.Port() {
				return true
			}
		}
	}
	return false
}

// maxEarly bounds what a flood of unrelated deliveries can make us keep.
const maxEarly = 64

// arp takes in an answer to our own request: a reply of the next hop to us, on the
// link where it was asked. Another link may have a machine of the same address, as
// the routers of many have fe80::1.
func (r *Run) arp(ev Event) What {
	a, err := wire.ParseARP(ev.Data)
	m := &r.obs.Machine
	if err != nil || ev.Direction != pcap.Incoming || ev.Interface != m.Route.Interface {
		return Stranger
	}
	if a.Op == wire.ARPReply && a.Sender == r.nextHop() && a.Target == m.Route.Source && a.TargetHW == m.Interface.Hardware {
		return r.askAnswered(ev.Time, a.SenderHW)
	}
	return Stranger
}

// neighbor takes in a neighbour advertisement. RFC 4861, section 7.1.2: "The IP
// Hop Limit field has a value of 255, i.e., the packet could not possibly have
// been forwarded by a router." And section 4.4 of its link-layer address: "This
// option MUST be included on link layers that have addresses when responding to
// multicast solicitations", as ours are. One in a fragment, though it be the only
// one, is to be ignored (RFC 6980, section 5).
func (r *Run) neighbor(ev Event, ip *wire.IP, n wire.Neighbor) What {
	if ev.Interface == r.obs.Machine.Route.Interface && !n.Solicitation && n.Solicited && n.HasLinkAddr && ip.TTL == wire.NeighborHopLimit && !ip.HasFragmentHeader && n.Target == r.nextHop().WithZone("") {
		return r.askAnswered(ev.Time, n.LinkAddr)
	}
	return Stranger
}

func (r *Run) askAnswered(at time.Time, hw [6]byte) What {
	for i := len(r.obs.Asks) - 1; i >= 0; i-- {
		if a := &r.obs.Asks[i]; a.Answered.IsZero() {
			a.Answered, a.Hardware = at, hw
			break
		}
	}
	return AskAnswer
}

// segmentOf reads the TCP header of a packet. Captures that keep 64 or 68 bytes cut
// it in its options: of these it gives what is there, and one at the least.
func segmentOf(ev *Event, ip *wire.IP) (wire.TCP, error) {
	tcp, err := wire.ParseTCP(ip.Payload)
	if !ev.Cut || !errors.Is(err, wire.ErrTruncated) || len(ip.Payload) < 20 {
		return tcp, err
	}
	b := slices.Clone(ip.Payload[:len(ip.Payload)&^3])
	b[12] = byte(len(b)/4)<<4 | b[12]&15
	tcp, err = wire.ParseTCP(b)
	tcp.Options.Count = max(tcp.Options.Count, 1)
	return tcp, err
}

func parseICMP(ip *wire.IP) (wire.ICMP, error) {
	if ip.Version == 4 {
		return wire.ParseICMPv4(ip.Payload)
	}
	return wire.ParseICMPv6(ip.Payload)
}

func hasCookie(body []byte, cookie uint32) bool {
	return len(body) >= 4 && binary.BigEndian.Uint32(body) == cookie
}
