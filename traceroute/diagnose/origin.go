package diagnose

import (
	"fmt"
	"net/netip"
	"slices"

	"synprobe/rawprobe"
	"synprobe/traceroute"
)

// An origin is where an answer in the host's name was made.
type origin struct {
	c comparison // against the host
	// proven says that TTLs, not remaining TTLs alone, show it: a probe that
	// can't have reached the host provoked the answer.
	proven   bool
	hops     []Hop // the device, or the two that it may be, where c is nearer
	provoked int   // the least TTL that provoked the answer; 0 where it was not searched
	depth    int   // the least TTL at which the host answered a control; 0 unknown
	// beside holds the hop before hops where a machine next to it could have
	// made the answer as well.
	beside []Hop
	// doubt says what speaks against the host where c is same, and hops whom it
	// points to.
	doubt string
}

// origin works out who made answers of one kind.
//
// A device that forwards sees a packet after its TTL check, and so answers in
// the host's name only from the next TTL on; one that takes the packet in
// itself (a proxy) answers at its own. The TTL that is left in the answer tells
// the two apart, where the way back is as long as the way there.
func (v *view) origin(rs []*rawprobe.Reply) (o origin) {
	o = origin{c: v.compare(rs), provoked: v.provoked(), depth: v.path.Depth}
	seems := rs[0].Distance() + 1 // the hop that the remaining TTL names
	m := o.provoked
	defer func() {
		if o.c == same && o.doubt == "" && !v.onLink() {
			o.doubt, o.hops = v.asFar(rs[0], m)
		}
	}()
	switch {
	case m == 0:
		return o
	case (o.depth > 0 && m < o.depth || v.routerAt(m)) && !v.before(m, rs[0]):
		// The host's distance is that of another way, or of an echo that was
		// not lost: what is left of the TTLs has to do.
	case o.depth > 0 && m < o.depth, v.routerAt(m):
		early := m - 1 // the device is no farther away than m, and no nearer
		for early > 1 && v.unseen(early) {
			early-- // nobody looked closer
		}
		o.hops = v.suspects(early, m)
		switch {
		case len(o.hops) > 2:
		case v.crooked(m-1) || v.crooked(m) || v.partAt(m-1) || v.partAt(m):
			// The way back is not the way there, or there are several: what is
			// left of the TTL names neither.
			o.hops = v.among(early, m)
		case seems == m-1 && m > 1, m > 1 && v.sameDistance(m-1, rs[0]):
			o.hops = []Hop{v.hop(m - 1)}
		case seems == m && m > 1:
			// This router took the SYN in; or the one before handed it to
			// another machine of its own, which is as near.
			o.hops, o.beside = []Hop{v.hop(m)}, []Hop{v.hop(m - 1)}
			if v.translates(m - 1) {
				o.hops, o.beside = o.beside, o.hops
			}
		case seems == m:
			o.hops = []Hop{v.hop(m)}
		}
		if o.c == same {
			// It needed less than the host's TTL, and came back from as far
			// away as the host's echo reply.
			o.doubt = fmt.Sprintf("it came already for a SYN with TTL %d: a device there may answer, or one before raises the TTL", m)
			break
		}
		o.c, o.proven = nearer, true
	case o.depth > 0 && m > o.depth:
		o.c = farther
	case o.depth > 0:
		// Exactly where the host answers. The last router's answer looks so
		// too, but for one hop less on the way back.
		switch {
		case o.c == nearer && m > 1 && v.sameDistance(m-1, rs[0]):
			o.hops = v.among(m-1, m-1)
		case o.c == noBaseline && m > 1 && seems == m-1 && v.sameDistance(m-1, rs[0]):
			o.c, o.hops = nearer, v.among(m-1, m-1)
		case o.c == nearer && m > 1 && v.path.Hop(m-1).Of(subjectName).Status != traceroute.Passes:
			// Nobody said that it expired one hop before: a silent router there
			// may have answered, or what it answered for less was lost.
		case o.c == nearer || o.c == farther || o.c == mixed:
			// The way back differs, or the initial TTL; or those of the last
			// router's answer do.
			o.c, o.hops = same, v.among(m-1, m-1)
			o.doubt = "it came from another distance than the host's echo reply: the last router's answer may, too"
		}
	case m > 1 && seems == m-1 && v.sameDistance(m-1, rs[0]):
		o.c = nearer
		o.hops = v.among(m-1, m-1)
	}
	return o
}

// asFar says why an answer from the host's distance may still be another's, and
// whose: the way back of a device before the host may be as long as the host's.
// It says nothing where that is excluded: the host's way there is as long as its
// way back, or the subject was answered at the host's hop and no earlier; and the
// router before the host says, of the subject and of a control, that it expired
// there, from as far away as that is.
func (v *view) asFar(r *rawprobe.Reply, provoked int) (doubt string, suspects []Hop) {
	d, depth := r.Distance(), v.path.Depth
	last := depth - 1
	switch {
	case provoked > 0 && (depth == 0 || provoked < depth):
		return fmt.Sprintf("it came already for a SYN with TTL %d, with which nothing else is known to reach the host", provoked), nil
	case depth == 0:
		return "the way there was not measured: a device before the host, with a longer way back, would look the same", nil
	case depth != d+1 && provoked == 0, provoked > depth:
		return "the way there is not as long as the way back: a device before the host, with a way back of its own, would look the same", nil
	case provoked == 0 && !v.echoAt(depth):
		return fmt.Sprintf("no echo reached the host with TTL %d: the way there may be longer than the way back, and a device before the host would look the same", depth), nil
	case last == 0, last == 1 && d == 1:
		return "", nil // our neighbour is no farther away than that
	case v.sameDistance(last, r):
		return "the last router's way back is as long as the answer's: it may have made it", v.among(last, last)
	case v.translates(last) && v.partAt(last):
		return fmt.Sprintf("a router at hop %d, or before it, translates the SYN's destination: it may hand the port to another machine", last), v.translator(last)
	case v.partAt(last) && v.alone(last):
		return fmt.Sprintf("no other probe met the router at hop %d that the SYN met: a rule for the port may lead it to another machine", last), nil
	case v.expiredFrom(depth), v.partAt(last) && !v.waysAgree(depth):
		return "ways differ by port: a device before the host would look the same if its answer took a longer one", nil
	case v.crooked(last):
		return "the last router's way back is not as long as its way there: a device before the host would look the same if its own is longer", nil
	case !v.metAt(last):
		return fmt.Sprintf("the router before the host (hop %d) did not say that both the SYN and an echo expired there: a device there, with a longer way back, would look the same", last), nil
	}
	return "", nil
}

// waysAgree reports whether enough datagrams, each by a way of its own, were sent
// to the host's hop to show a longer one, and that they get there.
func (v *view) waysAgree(depth int) bool {
	udp := string(rawprobe.ControlUDP)
	at, before := v.path.Hop(depth).Of(udp), v.path.Hop(depth-1).Of(udp)
	return at.Tries >= traceroute.WaysForCertain && (at.Status == traceroute.Answers || before.Status == traceroute.Passes)
}

// expiredFrom reports whether a router said of any probe that it expired at the
// host's hop or beyond it: there is a longer way.
func (v *view) expiredFrom(depth int) bool {
	return slices.ContainsFunc(v.o.Replies, func(r rawprobe.Reply) bool {
		s := &v.o.Sent[r.Probe]
		return r.Meaning() == rawprobe.SaysExpired && r.Exact && s.Stepped() && s.Kind != rawprobe.OtherFlow && s.TTL >= depth
	})
}

// metAt reports whether the subject, and an echo that gets to the host with the
// next TTL, are both known to have expired at a TTL. A datagram's word is none:
// each is a flow of its own.
func (v *view) metAt(ttl int) bool {
	h, next := v.path.Hop(ttl), v.path.Hop(ttl+1)
	if h == nil || next == nil || h.Of(subjectName).Status != traceroute.Passes || h.Of(subjectName).Placed {
		return false
	}
	return h.Of(string(rawprobe.Echo)).Status == traceroute.Passes && v.echoAt(ttl+1)
}

// echoAt reports whether an echo with a TTL reached the host.
func (v *view) echoAt(ttl int) bool {
	h := v.path.Hop(ttl)
	return h != nil && h.Of(string(rawprobe.Echo)).Status == traceroute.Answers
}

// partAt reports whether another router than the subject's said of a control
// that it expired at a TTL.
func (v *view) partAt(ttl int) bool {
	h := v.path.Hop(ttl)
	return h != nil && h.Of(subjectName).Status == traceroute.Passes && slices.ContainsFunc(v.path.Names, func(name string) bool {
		q := h.Of(name)
		return q.Status == traceroute.Passes && slices.ContainsFunc(q.Addrs, func(a netip.Addr) bool { return !slices.Contains(h.Of(subjectName).Addrs, a) })
	})
}

// alone reports whether no control is known to have expired at the router where
// the subject did.
func (v *view) alone(ttl int) bool {
	h := v.path.Hop(ttl)
	subject := h.Of(subjectName)
	return !slices.ContainsFunc(v.path.Names, func(name string) bool {
		q := h.Of(name)
		return name != subjectName && q.Status == traceroute.Passes &&
			slices.ContainsFunc(q.Addrs, func(a netip.Addr) bool { return slices.Contains(subject.Addrs, a) })
	})
}

// unseen reports whether nothing is known of the subject at a TTL: it was not
// sent, or got lost where a router answers others.
func (v *view) unseen(ttl int) bool {
	switch v.path.Hop(ttl).Of(subjectName).Status {
	case traceroute.NotSent:
		return true
	case traceroute.Silent:
		lost, _, _ := traceroute.Losses(v.o)
		return lost > 0 || v.routerAt(ttl)
	}
	return false
}

// crooked reports whether a router at a TTL is farther away, or nearer, than
// that by its own word.
func (v *view) crooked(ttl int) bool {
	for i := range v.o.Replies {
		r := &v.o.Replies[i]
		s := &v.o.Sent[r.Probe]
		if r.Meaning() == rawprobe.SaysExpired && r.Exact && s.TTL == ttl && s.Kind != rawprobe.OtherFlow && r.Distance() != ttl-1 {
			return true
		}
	}
	return false
}

// among lists the suspects of some hops, and where other controls met other
// routers there, those too.
func (v *view) among(from, to int) []Hop {
	var hops []Hop
	for ttl := max(from, 1); ttl <= to; ttl++ {
		hops = append(hops, v.hop(ttl))
		if !v.partAt(ttl) {
			continue
		}
		for _, a := range v.path.Hop(ttl).Addrs {
			if h := (Hop{TTL: ttl, Address: a}); !slices.Contains(hops, h) && !v.byHost(a) {
				hops = append(hops, h)
			}
		}
	}
	return hops
}

// before reports whether a TTL that provoked an answer is too small for the host
// by the subject's own way: a control that met the same router as the subject up
// to there expired at that TTL or beyond it.
func (v *view) before(ttl int, r *rawprobe.Reply) bool {
	far := len(v.echoes) > 0 && !slices.ContainsFunc(v.echoes, func(e *rawprobe.Reply) bool { return e.Distance() < r.Distance()+2 })
	for _, name := range v.path.Names {
		if name == subjectName || name == string(rawprobe.ControlUDP) || ttl > 1 && !v.sameUpTo(name, ttl-1) {
			continue // each datagram is a flow of its own
		}
		// Or it was silent there, where none is lost, and the answer passed
		// fewer routers on its way back by more than one.
		if q := v.path.Hops[ttl-1].Of(name); ttl < v.path.Depth && q.Status == traceroute.Silent && far && traceroute.Loss(v.o) == 0 && !v.forks() {
			return true
		}
		for t := ttl; t <= len(v.path.Hops) && (v.path.Depth == 0 || t < v.path.Depth); t++ {
			if v.path.Hops[t-1].Of(name).Status == traceroute.Passes && !v.behind(t, name, ttl-1) {
				return true
			}
		}
	}
	return false
}

// sameUpTo reports whether a control and the subject met no two routers at one
// hop up to a TTL, and the subject the one that is at that TTL.
func (v *view) sameUpTo(control string, ttl int) bool {
	for t := 1; t <= ttl; t++ {
		subject, other := v.path.Hops[t-1].Of(subjectName), v.path.Hops[t-1].Of(control)
		if t == ttl && other.Status == traceroute.Passes && (subject.Status == traceroute.Silent || subject.Placed) {
			return false // it was lost, or is not there
		}
		if subject.Status == traceroute.Passes && other.Status == traceroute.Passes &&
			!slices.ContainsFunc(subject.Addrs, func(a netip.Addr) bool { return slices.Contains(other.Addrs, a) }) {
			return false
		}
	}
	return true
}

// tooFast reports whether all of several answers came much faster than any echo
// reply of the host: a device before it may have answered from what looks like
// its distance. One alone may have overtaken what the echo had to wait for.
func (v *view) tooFast(rs []*rawprobe.Reply) bool {
	if len(v.echoes) == 0 || len(rs) < 2 {
		return false
	}
	least := v.echoes[0].RTT
	for _, e := range v.echoes {
		least = min(least, e.RTT)
	}
	for _, r := range rs {
		if r.RTT == 0 || !rawprobe.MuchFaster(r.RTT, least) {
			return false
		}
	}
	return true
}

// translates reports whether the router at a TTL said in the target's name that
// the subject expired: it translates the destination, and its own error back.
func (v *view) translates(ttl int) bool {
	h := v.path.Hop(ttl)
	return h != nil && h.Of(subjectName).Status == traceroute.Passes && slices.ContainsFunc(h.Of(subjectName).Addrs, v.byHost)
}

// translator is the first of the routers up to a TTL that speak of the subject in
// the target's name: those after it only do so because their words pass it. Where
// the one before was not heard it may be that one, and none is named.
func (v *view) translator(ttl int) []Hop {
	for ttl > 1 && v.translates(ttl-1) {
		ttl--
	}
	if ttl > 1 && v.path.Hop(ttl-1).Of(subjectName).Status != traceroute.Passes {
		return nil
	}
	return v.suspects(ttl, ttl)
}

// provoked is the least TTL at which a subject SYN drew an answer in the
// host's name, 0 where that was not searched.
func (v *view) provoked() int {
	for i := range v.path.Hops {
		if v.path.Hops[i].Of(subjectName).InName {
			return i + 1
		}
	}
	return 0
}

// refusedAt is the least TTL at which a subject SYN was refused in the host's
// name by an ICMP error, 0 where no TTL was stepped to that.
func (v *view) refusedAt() int {
	for i := range v.path.Hops {
		if q := v.path.Hops[i].Of(subjectName); q.Status == traceroute.Rejects && !q.InName && slices.ContainsFunc(q.Addrs, v.byHost) && v.stepped(i+1) {
			return i + 1
		}
	}
	return 0
}

// stepped reports whether a subject SYN was sent with a TTL.
func (v *view) stepped(ttl int) bool {
	return slices.ContainsFunc(v.o.Sent, func(s rawprobe.Sent) bool { return s.Kind == rawprobe.Subject && s.TTL == ttl })
}

// routerAt reports whether a control expired at a TTL: there is a router, not
// the host.
func (v *view) routerAt(ttl int) bool {
	h := v.path.Hop(ttl)
	if h == nil {
		return false
	}
	for _, name := range v.path.Names {
		if name != string(rawprobe.ControlUDP) && h.Of(name).Status == traceroute.Passes {
			return true
		}
	}
	return false
}

// sameDistance reports whether an answer came from as far as the word of the
// router at a TTL that a probe expired there.
func (v *view) sameDistance(ttl int, r *rawprobe.Reply) bool {
	for i := range v.o.Replies {
		e := &v.o.Replies[i]
		if e.Meaning() == rawprobe.SaysExpired && v.o.Sent[e.Probe].TTL == ttl && e.Distance() == r.Distance() {
			return true
		}
	}
	return false
}

// hop is the hop of the subject's path at a TTL.
func (v *view) hop(ttl int) Hop {
	switch {
	case ttl == 0:
		return v.local().Hops[0]
	case v.moved():
		// Who says so of other probes is on the target's way.
		if h := v.path.Hop(ttl); h != nil && h.Of(subjectName).Status == traceroute.Passes {
			return Hop{TTL: ttl, Address: h.Of(subjectName).Addrs[0]}
		}
		return Hop{TTL: ttl}
	case ttl == v.path.Depth:
		return Hop{TTL: ttl, Address: v.target}
	}
	a := v.path.Addr(ttl)
	if h := v.path.Hop(ttl); h != nil && v.byHost(a) {
		// A translator put the target's address into its error. What it says
		// to controls may have its own.
		for _, b := range h.Addrs {
			if !v.byHost(b) {
				a = b
				break
			}
		}
	}
	return Hop{TTL: ttl, Address: a}
}

func (o *origin) fault() Fault { return Fault{Where: Path, Hops: o.hops} }

// named reports whether one device with an address is known.
func (o *origin) named() bool { return len(o.hops) == 1 && o.hops[0].Address.IsValid() }

// name gives the device's place in a sentence.
func (o *origin) name() string {
	switch {
	case o.named():
		return fmt.Sprintf(", %s at hop %d,", o.hops[0].Address, o.hops[0].TTL)
	case len(o.hops) > 0:
		return fmt.Sprintf(", at hop %d,", o.hops[0].TTL)
	}
	return ""
}

// certainty is how sure it is that the host did not answer, from n answers.
func (o *origin) certainty(n int) Certainty {
	switch {
	case o.proven && o.beside != nil:
		return Likely
	case o.proven:
		return Certain
	case n < 2:
		return Ambiguous
	}
	return Likely
}

// weigh adds who else may have made an answer that is put down to a device.
func (o *origin) weigh(d *Diagnosis) {
	if o.beside != nil {
		if o.beside[0].TTL < o.hops[0].TTL {
			d.or(d.Cause, Fault{Where: Path, Hops: o.beside}, "it may hand the port to another machine, as near as hop %d (DNAT)", o.provoked)
		} else {
			d.or(d.Cause, Fault{Where: Path, Hops: o.beside}, "it may answer itself: the answer came first for a SYN that could reach it")
		}
	}
}

// question adds what speaks against an answer of the host's own.
func (o *origin) question(d *Diagnosis, other Cause) {
	if o.c == same && o.doubt != "" && d.Cause != other {
		d.Certainty = Likely
		d.or(other, o.fault(), "%s", o.doubt)
	}
}

// tell adds the facts.
func (o *origin) tell(v *view, d *Diagnosis, rs []*rawprobe.Reply) {
	r := rs[0]
	switch {
	case o.proven && o.depth > 0:
		d.because("provoked-early", "%s came already for a SYN with TTL %d, and the host is at hop %d", describe(r), o.provoked, o.depth)
	case o.proven:
		d.because("provoked-early", "%s came already for a SYN with TTL %d, where a router is", describe(r), o.provoked)
	case o.provoked > 0 && o.provoked == o.depth && o.c == same:
		d.because("provoked-at-host", "%s came for TTL %d and no less, which is where the host is", describe(r), o.provoked)
	default:
		v.distance(d, rs, o.c)
		if o.c == same && o.doubt == "" {
			v.tellStraight(d, r)
		}
	}
}

// tellStraight adds why an answer from the host's distance is the host's.
func (v *view) tellStraight(d *Diagnosis, r *rawprobe.Reply) {
	depth := v.path.Depth
	last := depth - 1
	switch {
	case v.onLink() || depth != r.Distance()+1:
	case depth == 1:
		d.because("straight", "an echo reached the host with TTL 1: no router is between")
	case depth == 2:
		d.because("straight", "an echo reached the host with TTL 2: only the next hop is between")
	case v.partAt(last):
		h := v.path.Hop(last)
		d.because("straight", "an echo reached the host with TTL %d, with TTL %d the SYN expired at %s and the echo at %s, and none of %s found a longer way: the way back is as long as the way there",
			depth, last, h.Of(subjectName).Addrs[0], h.Of(string(rawprobe.Echo)).Addrs[0], plural(v.path.Hop(depth).Of(string(rawprobe.ControlUDP)).Tries, "datagram"))
	default:
		d.because("straight", "an echo reached the host with TTL %d, and with TTL %d the SYN and an echo expired at %s: the way back is as long as the way there", depth, last, v.path.Addr(last))
	}
}
