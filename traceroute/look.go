package traceroute

import (
	"net/netip"
	"slices"
	"time"

	"synprobe/rawprobe"
)

// An answer in the host's name that comes from the host's distance is the
// host's, unless a device before it is as far away by a way back of its own.
// The look at the last hops excludes that, in one round trip: where an echo needs
// as many TTLs to get to the host as routers were passed on the way back, and
// the router before the host says that the subject and an echo expire there, and
// says so from one hop nearer, then the two ways are equally long.

// lookPatience is how long the last router's word is waited for, where the host
// has answered already. Routers are slower to say that a TTL ran out than to
// forward.
const lookPatience = 20 * time.Millisecond

// WaysForCertain is how many datagrams, each a flow of its own, must not end
// before the host's hop where the subject and an echo meet different routers:
// else one way may be longer, and what seems to be the host on it a router. Of
// two ways of equal weight they all miss the longer in one run in 64.
const WaysForCertain = 6

// waysToMeet is how many datagrams are sent to the router before the host at
// most, until one meets the subject's own. Else the subject may be led there by a
// rule for its port, and not by chance. Of two ways of equal weight they all miss
// it in one run in 16, which is then not certain.
const waysToMeet = 4

// wantsLook reports whether an answer that seems to be the host's own has to be
// held against the way there: there are routers on it.
func (t *tracer) wantsLook(a *rawprobe.Reply) bool {
	onLink := !t.o.Machine.Route.Gateway.IsValid() && t.o.Machine.Interface.Resolves
	e := t.echo()
	return !onLink && !t.own(a) && a.Distance() < t.opt.MaxHops && e != nil && e.Distance() == a.Distance()
}

// look takes the look one step further. Where it speaks against the host, the
// search for who answered begins.
func (t *tracer) look(a *rawprobe.Reply) (wake time.Time, busy bool, err error) {
	w, d := &t.who, a.Distance()
	p := pending{wake: t.end()}
	subject, echo := t.sweep(string(rawprobe.Subject), t.r.SendSubject), t.sweep(string(rawprobe.Echo), t.r.SendEcho)
	var sent time.Time
	// The only router on the way is our neighbour, which is no farther than that.
	if d > 1 {
		if w.ttl == 0 && t.path.status(d, subject.name) != Passes {
			w.ttl = d
			p.add(t.askWho())
			if subject.hops[d] == nil {
				subject.hops[d] = new(asked)
			}
			subject.hops[d].tries++
			subject.hops[d].last = t.now
		}
		p.add(t.ask(echo, d, 1, 0))
		if err := t.otherWays(1, d, d+1); err != nil {
			return p.wake, false, err
		}
		sent = t.sweeps["other ways"].hops[d].last
	}
	p.add(t.ask(echo, d+1, stepTries, max(stepPatience, 3*t.o.MaxRTT())))
	if p.err != nil {
		return p.wake, false, p.err
	}
	beyond, at := t.path.status(d+1, echo.name), t.path.status(d, subject.name)
	switch {
	case t.path.Depth > 0 && t.path.Depth <= d, at == Answers, at == Rejects:
		w.doubted = true // the way there is shorter, or the host did not answer
	case beyond == Silent && p.busy, beyond == NotSent && p.busy:
		return p.wake, true, nil
	case beyond != Answers:
		w.doubted = true // it is longer
	case d > 1 && !t.metThere(d):
		end := sent.Add(max(lookPatience, 2*t.o.MaxRTT()))
		return end, t.now.Before(end), nil
	case d > 1 && t.now.Before(sent.Add(t.o.MaxRTT())):
		return sent.Add(t.o.MaxRTT()), true, nil // the datagrams may show another way
	default:
		return t.compareWays()
	}
	return t.now, w.doubted, nil
}

// compareWays sends datagrams to the host's hop where the router before it is
// not the same for all: one way may be longer than another.
func (t *tracer) compareWays() (wake time.Time, busy bool, err error) {
	d := t.path.Depth
	if d < 3 || !t.metThere(d-1) || !t.parted(d-1) {
		return t.now, false, nil
	}
	ways := 1
	if t.alone(d - 1) {
		ways = waysToMeet
	}
	if err := t.otherWays(ways, d-1); err != nil {
		return t.now, false, err
	}
	if err := t.otherWays(WaysForCertain, d); err != nil {
		return t.now, false, err
	}
	return t.awaitWays(d-1, d)
}

// metThere reports whether the subject and an echo are both known to have
// expired at a TTL.
func (t *tracer) metThere(ttl int) bool {
	return !slices.ContainsFunc([]rawprobe.ProbeKind{rawprobe.Subject, rawprobe.Echo}, func(k rawprobe.ProbeKind) bool {
		return t.path.status(ttl, string(k)) != Passes
	})
}

// parted reports whether a control met another router than the subject at a TTL.
func (t *tracer) parted(ttl int) bool {
	h := t.path.Hop(ttl)
	subject := h.Of(string(rawprobe.Subject)).Addrs
	return slices.ContainsFunc(t.path.Names, func(name string) bool {
		q := h.Of(name)
		return q.Status == Passes && slices.ContainsFunc(q.Addrs, func(a netip.Addr) bool { return !slices.Contains(subject, a) })
	})
}

// alone reports whether no control met the subject's router at a TTL.
func (t *tracer) alone(ttl int) bool {
	h := t.path.Hop(ttl)
	subject := h.Of(string(rawprobe.Subject)).Addrs
	return !slices.ContainsFunc(t.path.Names[1:], func(name string) bool {
		return slices.ContainsFunc(h.Of(name).Addrs, func(a netip.Addr) bool { return slices.Contains(subject, a) })
	})
}

// otherWays sends datagrams to some TTLs until there are n to each. Each is a
// flow of its own: where there are several ways of unequal length, it may take
// another than the subject, and so show them. Its silence says nothing.
func (t *tracer) otherWays(n int, ttls ...int) error {
	s := t.sweep("other ways", t.r.SendUDP)
	for _, ttl := range ttls {
		h := s.hops[ttl]
		if h == nil {
			h = new(asked)
			s.hops[ttl] = h
		}
		for ; h.tries < n; h.tries++ {
			if err := s.send(ttl); err != nil {
				return err
			}
			h.last = t.now
		}
	}
	return nil
}

// awaitWays waits for what becomes of the datagrams to some TTLs.
func (t *tracer) awaitWays(ttls ...int) (wake time.Time, busy bool, err error) {
	for _, ttl := range ttls {
		h := t.sweeps["other ways"].hops[ttl]
		if step := t.path.Hop(ttl); step == nil || step.Of(string(rawprobe.ControlUDP)).Got < h.tries {
			end := h.last.Add(max(lookPatience, 2*t.o.MaxRTT()))
			return end, t.now.Before(end), nil
		}
	}
	return t.now, false, nil
}

// lookAround sends datagrams to where the search for who answered has ended.
func (t *tracer) lookAround() (wake time.Time, busy bool, err error) {
	m := t.who.lowest
	if !t.who.done || m < 2 {
		return t.now, false, nil
	}
	if err := t.otherWays(1, m-1, m); err != nil {
		return t.now, false, err
	}
	return t.awaitWays(m-1, m)
}

// lookAlways sends the datagrams of a look where the path was followed anyhow, as
// soon as it is known.
func (t *tracer) lookAlways(a *rawprobe.Reply, busy bool) (wake time.Time, wait bool, err error) {
	d := t.path.Depth
	switch {
	case busy:
		return t.now, false, nil
	case t.plain(a) && !t.who.doubted && d > 2:
		if err := t.otherWays(1, d-1, d); err != nil {
			return t.now, false, err
		}
		if wake, wait, err = t.awaitWays(d-1, d); wait || err != nil {
			return wake, wait, err
		}
	}
	return t.compareWays()
}
