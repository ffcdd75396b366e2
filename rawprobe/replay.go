package rawprobe

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"synprobe/rawprobe/wire"
)

// A Record is what no packet of a run shows: what this machine knew, what was
// handed to its kernel and when, and what its sockets got. With the packets it
// makes the observations again. It is written and read as JSON.
type Record struct {
	Target      netip.AddrPort
	Start, End  time.Time
	Interrupted bool `json:",omitempty"`
	Machine     Machine
	Tap         TapStats
	Packets     int // how many packets the run saw, and sent past the tap
	EchoID      uint16
	EchoCookie  uint32
	Handed      []Handed
	Asked       []Request
	// Delivered are the numbers of the answers that a socket got, Unstamped
	// those of the packets whose time tells no round trip, Odd those where
	// the kernel says otherwise than the packet's looks whether its checksum
	// is still to be completed.
	Delivered []int `json:",omitempty"`
	Unstamped []int `json:",omitempty"`
	Odd       []int `json:",omitempty"`
}

// ErrMissing means that some of a run's packets are missing.
var ErrMissing = errors.New("packets are missing")

// maxHanded bounds what a forged record can make us do. A run sends far less: a
// dozen probes for each of 64 TTLs, and a few hundred beside.
const maxHanded = 2048

// Handed is one probe as it was handed to the kernel. Whether it left, the
// packets show.
type Handed struct {
	After   int // how many packets the run had seen by then
	Time    time.Time
	Kind    ProbeKind
	TTL     int
	Flow    Flow
	Seq     uint32
	ID      uint16
	TSval   uint32  `json:",omitempty"`
	Ack     uint32  `json:",omitempty"`
	Refused Refusal `json:",omitempty"`
}

// Request is one ARP request or neighbour solicitation of our own, by the
// number of its packet.
type Request struct {
	Packet int
	Time   time.Time
}

// NewRecord takes out of a run's observations what its packets don't show.
func NewRecord(o *Observations) *Record {
	c := &Record{
		Target: o.Target, Start: o.Start, End: o.End, Interrupted: o.Interrupted, Machine: o.Machine, Tap: o.Tap,
		Packets: o.packets, EchoID: o.echoID, EchoCookie: o.echoCookie, Odd: o.odd,
	}
	for i := range o.Sent {
		s := &o.Sent[i]
		c.Handed = append(c.Handed, Handed{
			After: s.after, Time: s.Time, Kind: s.Kind, TTL: s.TTL, Flow: s.Flow,
			Seq: s.Seq, ID: s.ID, TSval: s.TSval, Ack: s.Ack, Refused: s.Refused,
		})
		if d := s.Departed; d != nil && d.Unstamped {
			c.Unstamped = append(c.Unstamped, d.number)
		}
	}
	for i := range o.Asks {
		c.Asked = append(c.Asked, Request{o.Asks[i].number, o.Asks[i].Time})
	}
	for i := range o.Replies {
		if a := &o.Replies[i]; a.Delivered {
			c.Delivered = append(c.Delivered, a.number)
		}
		if a := &o.Replies[i]; a.unstamped {
			c.Unstamped = append(c.Unstamped, a.number)
		}
	}
	return c
}

// Replay makes a run's observations again, of its record and its packets in the
// order of their numbers, by the same rules that took them in. Of a packet only
// the Event and the Number count, without Unstamped and ChecksumPartial.
//
// Without some of the packets the observations would be others: the error is
// then ErrMissing. It is ErrTooMuch for a record that no run makes.
func (c *Record) Replay(packets []Seen) (*Observations, error) {
	switch {
	case len(packets) != c.Packets:
		return nil, fmt.Errorf("%d of %d: %w", c.Packets-len(packets), c.Packets, ErrMissing)
	case len(c.Handed) > maxHanded || len(c.Asked) > maxHanded:
		return nil, ErrTooMuch
	}
	o := &Observations{
		Target: c.Target, Start: c.Start, Interrupted: c.Interrupted, Machine: c.Machine, Tap: c.Tap,
		echoID: c.EchoID, echoCookie: c.EchoCookie, packets: c.Packets,
	}
	r := &Run{obs: o, early: make(map[deliveryKey]int)}
	delivered, unstamped, odd := numbers(c.Delivered), numbers(c.Unstamped), numbers(c.Odd)
	asked := make(map[int]time.Time)
	for _, a := range c.Asked {
		asked[a.Packet] = a.Time
	}
	handed := c.Handed
	for i := range packets {
		p := &packets[i]
		for len(handed) > 0 && handed[0].After < p.Number {
			r.hand(&handed[0], c)
			handed = handed[1:]
		}
		r.packets = p.Number
		if at, ok := asked[p.Number]; ok {
			o.Asks = append(o.Asks, Ask{Time: at, number: p.Number})
			continue
		}
		ev := p.Event
		ev.Unstamped = unstamped[p.Number]
		ev.ChecksumPartial = partialChecksum(ev.Data) != odd[p.Number]
		if s := r.judge(ev, time.Time{}); s.What == Answer {
			o.Replies[len(o.Replies)-1].Delivered = delivered[p.Number]
		}
	}
	for i := range handed {
		r.hand(&handed[i], c)
	}
	o.End = c.End
	o.doubtTimes()
	return o, nil
}

func numbers(list []int) map[int]bool {
	set := make(map[int]bool, len(list))
	for _, n := range list {
		set[n] = true
	}
	return set
}

// hand records a probe as send does, and opens its flow where it is new.
func (r *Run) hand(h *Handed, c *Record) {
	st := r.flow(h, c)
	s := Sent{
		Kind: h.Kind, Try: r.try(st, h.TTL), TTL: h.TTL, Flow: h.Flow,
		Seq: h.Seq, ID: h.ID, TSval: h.TSval, Ack: h.Ack, Time: h.Time, Refused: h.Refused, after: h.After,
	}
	st.probes = append(st.probes, len(r.obs.Sent))
	r.obs.Sent = append(r.obs.Sent, s)
}

// flow finds the stream of a probe. Those of one flow are one stream, and a
// kind that has but one flow is one whatever its ports.
func (r *Run) flow(h *Handed, c *Record) *stream {
	for _, st := range r.streams {
		if st.kind == h.Kind && (st.flow == h.Flow || h.Kind == ControlUDP) {
			return st
		}
	}
	st := &stream{kind: h.Kind, t: &template{kind: h.Kind, proto: wire.ProtoTCP}, flow: h.Flow, out: h.Flow, isn: h.Seq}
	r.streams = append(r.streams, st)
	switch h.Kind {
	case Subject:
		if r.subject == nil {
			r.subject = st
		}
	case Echo:
		st.t.proto = wire.ProtoICMP
		if h.Flow.Dst.Addr().Is6() {
			st.t.proto = wire.ProtoICMPv6
		}
		st.id, st.outID, st.cookie, st.seq = c.EchoID, c.EchoID, c.EchoCookie, uint16(h.Seq)
	case ControlUDP:
		st.t.proto = wire.ProtoUDP
	case ControlACK:
		st.isn-- // its sequence number is the one after the SYN
		if r.subject != nil {
			st.out = r.subject.out
		}
	case Fragment:
		if r.subject != nil {
			st.out = r.subject.out
		}
		// Where SendFragment puts it.
		r.streams = slices.Insert(r.streams[:len(r.streams)-1], 0, st)
	}
	return st
}

// partialChecksum reports whether a packet's transport checksum is still to be
// completed by hardware that never saw the packet: its field then holds the sum
// of the pseudo header alone (CHECKSUM_PARTIAL, linux/skbuff.h). A packet that
// was damaged on its way does not look so.
func partialChecksum(packet []byte) bool {
	ip, err := wire.ParseIP(packet)
	if err != nil {
		return false
	}
	at := 2
	switch ip.Proto {
	case wire.ProtoTCP:
		at = 16
	case wire.ProtoUDP:
		at = 6
	case wire.ProtoICMPv6:
	default:
		return false
	}
	if len(ip.Payload) < at+2 {
		return false
	}
	dst := ip.Dst
	if ip.FinalDst.IsValid() {
		dst = ip.FinalDst
	}
	sum := ^wire.Checksum(nil, wire.PseudoHeaderSum(ip.Src, dst, ip.Proto, len(ip.Payload)))
	have := uint16(ip.Payload[at])<<8 | uint16(ip.Payload[at+1])
	return have%0xffff == sum%0xffff // 0 and 0xffff are the same sum
}
