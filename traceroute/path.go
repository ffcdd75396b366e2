package traceroute

import (
	"net/netip"
	"slices"
	"time"

	"synprobe/rawprobe"
)

// Status is what became of one kind of probe at one hop.
type Status string

// The statuses.
const (
	NotSent Status = "not-sent"
	Silent  Status = "silent"  // sent, and nothing came back
	Passes  Status = "passes"  // the router at that hop said that it expired there: it got that far
	Answers Status = "answers" // the host answered
	// Rejects: a reset of the subject, or an ICMP error other than expiry.
	Rejects Status = "rejects"
)

// A Probed is what became of one kind of probe at one hop.
type Probed struct {
	Status Status
	Tries  int // probes sent
	Got    int // probes of those that were answered
	// Placed says that no answer names the probe: it is here because the router
	// named another kind of probe here. That says nothing about the way of this
	// one.
	Placed bool
	// InName says that an answer came in the host's name: its own, or forged.
	InName bool
	// Addrs are the senders of the answers, in the order of arrival.
	Addrs []netip.Addr
	RTT   time.Duration // the least
}

// A Hop is one TTL of the path.
type Hop struct {
	TTL    int
	Addrs  []netip.Addr // who answered there, to any probe, the subject's first
	RTT    time.Duration
	Host   bool // the host itself is here
	Probes map[string]Probed
}

// Of returns what became of a kind of probe at this hop, by its name.
func (h *Hop) Of(name string) Probed {
	if p, ok := h.Probes[name]; ok {
		return p
	}
	return Probed{Status: NotSent}
}

// A Path is what stepped probes showed, from TTL 1 up.
type Path struct {
	Hops []Hop
	// Depth is the least TTL at which the host itself answered a control; 0
	// where none did.
	Depth int
	// Unplaced counts the times that a router said that the subject expired,
	// without naming the probe or a place on the path: the subject's silence
	// at a hop then proves nothing.
	Unplaced int
	// Names are the kinds of probe that were stepped, the subject first, the
	// others in the order of their first sending.
	Names []string
}

// Hop returns the hop at a TTL, nil where nothing was sent so far.
func (p *Path) Hop(ttl int) *Hop {
	if ttl < 1 || ttl > len(p.Hops) {
		return nil
	}
	return &p.Hops[ttl-1]
}

// Addr returns the first address that answered at a TTL, or the zero Addr.
func (p *Path) Addr(ttl int) netip.Addr {
	if h := p.Hop(ttl); h != nil && len(h.Addrs) > 0 {
		return h.Addrs[0]
	}
	return netip.Addr{}
}

// Last returns the greatest TTL at which a kind of probe is known to have
// passed, 0 where it did nowhere.
func (p *Path) Last(name string) int {
	for i := len(p.Hops) - 1; i >= 0; i-- {
		if p.Hops[i].Of(name).Status == Passes {
			return i + 1
		}
	}
	return 0
}

// Traced reports whether the path was followed from its first hop on. A look at
// the host's surroundings alone is no trace.
func (p *Path) Traced() bool {
	return len(p.Hops) > 0 && len(p.Hops[0].Probes) > 0
}

// Find returns the least TTL at which an address said that the subject's or
// any other probe expired, 0 where it never did. The subject's word comes
// first.
func (p *Path) Find(a netip.Addr) int {
	for _, names := range [][]string{{string(rawprobe.Subject)}, p.Names} {
		for i := range p.Hops {
			for _, n := range names {
				if q := p.Hops[i].Of(n); q.Status == Passes && slices.Contains(q.Addrs, a) {
					return i + 1
				}
			}
		}
	}
	return 0
}

// Read works the path out of what a run observed. Probes of full TTL are not
// part of it, nor other flows of the subject's: see ReadFlow.
func Read(o *rawprobe.Observations) Path {
	p := read(o, func(s *rawprobe.Sent) (string, bool) {
		return s.Name(), s.Stepped() && s.Kind != rawprobe.OtherFlow
	})
	p.end(o)
	return p
}

// end puts the host at the end of the path: what was sent with full TTL went
// there. Beyond it, and beyond the first of the hops at the end that answer
// nothing, there is nothing to show.
func (p *Path) end(o *rawprobe.Observations) {
	subject := string(rawprobe.Subject)
	last, router := 0, 0
	for i := range p.Hops {
		if len(p.Hops[i].Addrs) > 0 {
			last = i + 1
		}
		for _, q := range p.Hops[i].Probes {
			if q.Status == Passes {
				router = i + 1
			}
		}
	}
	if p.Depth > 0 && router < p.Depth {
		p.Hops = p.Hops[:p.Depth]
	} else if last+1 < len(p.Hops) {
		p.Hops = p.Hops[:last+1]
	}
	if p.Depth == 0 || len(p.Hops) > p.Depth {
		return
	}
	full := p.Hops[p.Depth-1].Of(subject)
	if full.Status != NotSent && full.Status != Silent {
		return
	}
	for i := range o.Sent {
		if s := &o.Sent[i]; s.Kind == rawprobe.Subject && !s.Stepped() && s.Refused == rawprobe.NotRefused {
			full.Status = Silent
			full.Tries++
		}
	}
	for i := range o.Replies {
		r := &o.Replies[i]
		if r.Probe < 0 || r.Probe >= len(o.Sent) {
			continue
		}
		if s := &o.Sent[r.Probe]; s.Kind != rawprobe.Subject || s.Stepped() || full.Tries == 0 {
			continue
		}
		switch {
		case r.Kind == rawprobe.SynAck:
			full.Status = Answers
		case r.Kind == rawprobe.Reset, r.Kind == rawprobe.ICMPError && r.Meaning() != rawprobe.SaysExpired:
			full.Status = Rejects
		default: // it goes round, or met an old connection
			continue
		}
		full.Got = min(full.Got+1, full.Tries) // a host repeats its SYN-ACK
	}
	p.Hops[p.Depth-1].Probes[subject] = full
}

// ReadFlow works out the path of one other flow, by its source port, under the
// subject's name.
func ReadFlow(o *rawprobe.Observations, port uint16) Path {
	return read(o, func(s *rawprobe.Sent) (string, bool) {
		return string(rawprobe.Subject), s.Stepped() && s.Kind == rawprobe.OtherFlow && s.Flow.Src.Port() == port
	})
}

func read(o *rawprobe.Observations, name func(*rawprobe.Sent) (string, bool)) Path {
	var p Path
	subject := string(rawprobe.Subject)
	for i := range o.Sent {
		s := &o.Sent[i]
		n, ok := name(s)
		if !ok || !onPath(s) {
			continue
		}
		h := p.at(s.TTL)
		q := h.Of(n)
		q.Tries++
		if q.Status == NotSent {
			q.Status = Silent
		}
		h.Probes[n] = q
		if !slices.Contains(p.Names, n) {
			p.Names = append(p.Names, n)
		}
	}
	if i := slices.Index(p.Names, subject); i > 0 {
		p.Names = append([]string{subject}, slices.Delete(p.Names, i, i+1)...)
	}
	for i := range o.Replies {
		r := &o.Replies[i]
		if r.Probe < 0 || r.Probe >= len(o.Sent) {
			continue // a record from elsewhere
		}
		s := &o.Sent[r.Probe]
		// A bare ACK may be about an old connection of these ports, and anybody's.
		if n, ok := name(s); ok && onPath(s) && r.Exact && r.Kind != rawprobe.OldAck {
			p.answer(n, s, r, byHost(o, s, r), s.Kind != rawprobe.Subject && s.Kind != rawprobe.OtherFlow && Forged(o, r))
		}
	}
	p.place(o, name)
	for i := range p.Hops {
		p.Hops[i].collect(&p)
	}
	return p
}

// place takes in what routers said without naming the probe that expired: at the
// hop where the same router named another one.
func (p *Path) place(o *rawprobe.Observations, name func(*rawprobe.Sent) (string, bool)) {
	for i := range o.Replies {
		r := &o.Replies[i]
		if r.Probe < 0 || r.Probe >= len(o.Sent) || r.Exact || r.Meaning() != rawprobe.SaysExpired {
			continue
		}
		s := o.Sent[r.Probe]
		n, ok := name(&s)
		if !ok || !onPath(&s) {
			continue
		}
		if ttl := p.Find(r.From); ttl > 0 && p.Hops[ttl-1].Of(n).Tries > 0 {
			s.TTL = ttl
			named := p.Hops[ttl-1].Of(n).Got > 0
			p.answer(n, &s, r, false, false)
			q := p.Hops[ttl-1].Probes[n]
			q.Placed = q.Placed || !named
			p.Hops[ttl-1].Probes[n] = q
		} else if s.Kind == rawprobe.Subject {
			p.Unplaced++
		}
	}
}

// onPath reports whether a probe could have expired at a hop.
func onPath(s *rawprobe.Sent) bool {
	return s.Refused == rawprobe.NotRefused && s.TTL >= 1 && s.TTL <= MaxHops
}

// at returns the hop of a TTL, which it makes where it is new.
func (p *Path) at(ttl int) *Hop {
	for len(p.Hops) < ttl {
		p.Hops = append(p.Hops, Hop{TTL: len(p.Hops) + 1, Probes: make(map[string]Probed)})
	}
	return &p.Hops[ttl-1]
}

// answer takes in one answer to a stepped probe.
func (p *Path) answer(name string, s *rawprobe.Sent, r *rawprobe.Reply, host, forged bool) {
	h := p.at(s.TTL)
	q := h.Of(name)
	subject := s.Kind == rawprobe.Subject || s.Kind == rawprobe.OtherFlow
	status := Rejects
	switch {
	case r.Meaning() == rawprobe.SaysExpired:
		status = Passes
	case host && forged:
		q.InName = true
	case host:
		q.InName = true
		if !subject || r.Kind == rawprobe.SynAck {
			status = Answers
		}
		if !subject && (p.Depth == 0 || s.TTL < p.Depth) {
			p.Depth = s.TTL
		}
	}
	// A later word does not take back an earlier one, but for what comes in the
	// host's name.
	if q.Status == Silent || host {
		q.Status = status
	}
	q.Got = min(q.Got+1, q.Tries)
	if !slices.Contains(q.Addrs, r.From) {
		q.Addrs = append(q.Addrs, r.From)
	}
	if r.RTT > 0 && (q.RTT == 0 || r.RTT < q.RTT) {
		q.RTT = r.RTT
	}
	h.Probes[name] = q
}

// Losses counts the probes on the way to the host that must have been answered
// and were not, and those that were. A probe must be answered where its kind was
// once, with the same TTL; and by a router that answered another kind, where
// its own kind was answered by a later router. It had time to be. In doubt are
// those kinds of control that a router did not answer while it answered others:
// somebody may drop them.
func Losses(o *rawprobe.Observations) (lost, answered, doubt int) {
	p := Read(o)
	got := make(map[int]bool)
	for i := range o.Replies {
		got[o.Replies[i].Probe] = true
	}
	type place struct {
		name string
		ttl  int
	}
	known, doubtful := make(map[place]bool), make(map[place]bool)
	for i := range o.Sent {
		if s := &o.Sent[i]; got[i] {
			known[place{s.Name(), s.TTL}] = true
		}
	}
	wait := max(3*o.MaxRTT(), stepPatience)
	for i := range o.Sent {
		s := &o.Sent[i]
		switch {
		case s.Refused != rawprobe.NotRefused || s.Kind == rawprobe.OtherFlow:
		case got[i]:
			answered++
		case o.End.Sub(s.Time) < wait:
		case known[place{s.Name(), s.TTL}], p.status(s.TTL, s.Name()) == Silent && s.TTL < p.Last(s.Name()) && len(p.Hop(s.TTL).Addrs) > 0:
			lost++
		case s.Kind != rawprobe.Subject && len(p.passedAt(s.TTL)) > 0:
			doubtful[place{s.Name(), s.TTL}] = true
		}
	}
	return lost, answered, len(doubtful)
}

// passedAt are the kinds of probe that expired at a TTL.
func (p *Path) passedAt(ttl int) (names []string) {
	for _, n := range p.Names {
		if p.status(ttl, n) == Passes {
			names = append(names, n)
		}
	}
	return names
}

// Chance is how probable it is that the next n probes are all lost, after lost
// were and answered were not. Nothing is known before the first one: the loss is
// taken to be as likely one as another, by Jeffreys' prior.
func Chance(lost, answered, n int) float64 {
	p := 1.0
	for i := range n {
		p *= (float64(lost+i) + 0.5) / float64(lost+answered+i+1)
	}
	return p
}

// Forged reports whether a TCP answer to a control, in the host's name, seems to
// have been made by a device before the host: it came from nearer than the
// host's echo replies, or, where there are none, from no farther than a router.
func Forged(o *rawprobe.Observations, r *rawprobe.Reply) bool {
	if r.Kind != rawprobe.Reset && r.Kind != rawprobe.SynAck {
		return false
	}
	echoes, routers := -1, -1
	for i := range o.Replies {
		switch e := &o.Replies[i]; {
		case e.Kind == rawprobe.EchoReply && e.From == r.From:
			if d := e.Distance(); echoes < 0 || d < echoes {
				echoes = d
			}
		case e.Meaning() == rawprobe.SaysExpired && e.From != r.From:
			routers = max(routers, e.Distance())
		}
	}
	if echoes >= 0 {
		return r.Distance() < echoes
	}
	return r.Distance() <= routers
}

// byHost reports whether an answer is what the host itself would send. A reset
// or a SYN-ACK may be forged in its name: whoever reads a path must weigh that.
func byHost(o *rawprobe.Observations, s *rawprobe.Sent, r *rawprobe.Reply) bool {
	if r.From != o.Target.Addr().WithZone("") && (s.Departed == nil || r.From != s.Departed.Flow.Dst.Addr()) {
		return false
	}
	switch r.Kind {
	case rawprobe.EchoReply, rawprobe.SynAck, rawprobe.Reset:
		return true
	}
	return s.Kind == rawprobe.ControlUDP && r.Meaning() == rawprobe.SaysRefused
}

// collect sums a hop up over all kinds of probe. Who says that a probe expired
// is there. Who refuses one may be the router before, and what comes in the
// host's name from before the host does not tell who is there.
func (h *Hop) collect(p *Path) {
	h.Host = h.TTL == p.Depth
	for _, want := range []Status{Passes, Answers, Rejects} {
		for _, n := range p.Names {
			q, ok := h.Probes[n]
			switch {
			case !ok || q.Status != want:
				continue
			case q.InName && (h.TTL < p.Depth || p.Depth == 0):
				continue
			case want == Rejects && len(h.Addrs) > 0:
				continue
			}
			here := false
			for _, a := range q.Addrs {
				if !slices.Contains(h.Addrs, a) && (want != Rejects || p.Find(a) == 0) {
					h.Addrs = append(h.Addrs, a)
				}
				here = here || slices.Contains(h.Addrs, a)
			}
			if here && q.RTT > 0 && (h.RTT == 0 || q.RTT < h.RTT) {
				h.RTT = q.RTT
			}
		}
	}
}
