package batch

import (
	"errors"
	"fmt"
	"slices"
	"sort"

	"synprobe/rawprobe"
)

// A way is how packets to some part of the space leave this machine.
type way struct {
	outcome  rawprobe.RouteOutcome
	local    bool // the targets are this machine itself
	index    int  // of the interface
	mtu      int
	source   addr
	gateway  addr // zero where the targets are on the link
	resolves bool // the link has addresses, which ARP or neighbour discovery finds

	// unfit is why nothing can be sent as the caller wants it, and err the same
	// for one of the targets; else NotRefused and nil.
	unfit rawprobe.Refusal
	err   error
	// byPort are the ports to which nothing can be sent.
	byPort []portRefusal

	// dead says that the gateway answered no request of ours, and gone that
	// this machine's IP stack does not know it either.
	dead, gone bool
	// asked says that the targets on this link were asked for their link-layer
	// address.
	asked bool
	// mac is the gateway's link-layer address.
	mac [6]byte
}

// A portRefusal is why nothing can be sent to the ports from first to last.
type portRefusal struct {
	first, last uint16
	why         rawprobe.Refusal
}

// wayKey is what makes a way another one.
type wayKey struct {
	outcome         rawprobe.RouteOutcome
	local           bool
	index, mtu      int
	source, gateway addr
	unfit           rawprobe.Refusal
	byPort          string
}

func (w *way) key() wayKey {
	k := wayKey{w.outcome, w.local, w.index, w.mtu, w.source, w.gateway, w.unfit, ""}
	if len(w.byPort) > 0 {
		k.byPort = fmt.Sprint(w.byPort)
	}
	return k
}

// closed says why nothing can be sent to a port of a way, or, for echoTag, an
// echo.
func (w *way) closed(tag uint32) rawprobe.Refusal {
	if tag != echoTag {
		for _, p := range w.byPort {
			if uint32(p.first) <= tag && tag <= uint32(p.last) {
				return p.why
			}
		}
	}
	switch {
	case w.unfit != rawprobe.NotRefused:
		return w.unfit
	case w.gone:
		return refusedNoNeighbor
	}
	return forbidden(w.outcome)
}

// forbidden is what a send would say, or NotRefused.
func forbidden(o rawprobe.RouteOutcome) rawprobe.Refusal {
	switch o {
	case rawprobe.RouteFound:
		return rawprobe.NotRefused
	case rawprobe.RouteUnreachable:
		return rawprobe.RefusedUnreachable
	case rawprobe.RouteProhibit:
		return rawprobe.RefusedProhibit
	case rawprobe.RouteBlackhole:
		return rawprobe.RefusedBlackhole
	case rawprobe.RouteNoAddress:
		return rawprobe.RefusedNoAddress
	}
	return rawprobe.RefusedNoRoute
}

// A rng is the addresses from first to last.
type rng struct {
	first, last addr
	way         int32
}

// ways tells the way of each target.
type ways struct {
	all    []way
	ranges []rng // sorted and without overlap
}

// of returns the number of the way to a, or -1.
func (w *ways) of(a addr) int32 {
	if len(w.ranges) == 1 {
		return w.ranges[0].way
	}
	k := sort.Search(len(w.ranges), func(k int) bool { return w.ranges[k].last.compare(a) >= 0 })
	if k == len(w.ranges) || w.ranges[k].first.compare(a) > 0 {
		return -1
	}
	return w.ranges[k].way
}

// alone reports whether an address is in the space without others beside it,
// as one that was named itself.
func (s *Space) alone(a addr) bool {
	b, ok := s.rootOf(a)
	return ok && b.first == b.last
}

// misfit returns why no target at all can be probed as the caller wants it, nil
// where any can.
func (w *ways) misfit() (err error) {
	for i := range w.all {
		if w.all[i].unfit == rawprobe.NotRefused {
			return nil
		}
		if err == nil || errors.Is(err, rawprobe.ErrBroadcast) {
			err = w.all[i].err
		}
	}
	return err
}

// findWays asks lookup for the way to each part of the space which the
// kernel's routes may treat alike: a prefix of the space, less the routes inside
// of it. routes are the destinations of routes, in any order.
func findWays(s *Space, routes []rng, lookup func(addr) (way, error)) (*ways, error) {
	var parts []rng
	for _, k := range s.roots {
		parts = append(parts, rng{first: s.spans[k].first, last: s.spans[k].last})
	}
	for _, r := range routes {
		if a, ok := s.rootOf(r.first); ok && a.last.compare(r.last) >= 0 && (a.first != r.first || a.last != r.last) {
			parts = append(parts, r)
		}
	}
	slices.SortFunc(parts, func(a, b rng) int {
		if c := a.first.compare(b.first); c != 0 {
			return c
		}
		return b.last.compare(a.last)
	})
	parts = slices.CompactFunc(parts, func(a, b rng) bool { return a.first == b.first && a.last == b.last })
	w := &ways{}
	known := make(map[wayKey]int32)
	var (
		open  []rng // around the present place, from the largest to the smallest
		place addr  // what is before is done
		err   error // the first of lookup
	)
	// ask finds the way of the smallest open part, in which place is and in no
	// smaller one.
	ask := func() {
		top := &open[len(open)-1]
		if top.way >= 0 || err != nil {
			return
		}
		var found way
		if found, err = lookup(place); err != nil {
			return
		}
		id, ok := known[found.key()]
		if !ok {
			id = int32(len(w.all))
			known[found.key()] = id
			w.all = append(w.all, found)
		}
		top.way = id
	}
	// until gives the smallest open part all from place to end.
	until := func(end addr) {
		if place.compare(end) > 0 {
			return
		}
		ask()
		if err != nil {
			return
		}
		way := open[len(open)-1].way
		if n := len(w.ranges); n > 0 && w.ranges[n-1].way == way && w.ranges[n-1].last.plus(1) == place {
			w.ranges[n-1].last = end
		} else {
			w.ranges = append(w.ranges, rng{place, end, way})
		}
		place = end.plus(1)
	}
	closeBefore := func(a addr, all bool) {
		for len(open) > 0 && (all || open[len(open)-1].last.compare(a) < 0) {
			until(open[len(open)-1].last)
			open = open[:len(open)-1]
		}
	}
	for _, p := range parts {
		closeBefore(p.first, false)
		if len(open) == 0 {
			place = p.first
		} else if p.first != place {
			until(p.first.minusOne())
		}
		p.way = -1
		open = append(open, p)
	}
	closeBefore(addr{}, true)
	return w, err
}

// minusOne returns the address before a.
func (a addr) minusOne() addr {
	if a.lo == 0 {
		return addr{a.hi - 1, ^uint64(0)}
	}
	return addr{a.hi, a.lo - 1}
}

// rootOf returns the span that a is in and that lies in no other.
func (s *Space) rootOf(a addr) (*span, bool) {
	k := sort.Search(len(s.roots), func(k int) bool { return s.spans[s.roots[k]].first.compare(a) > 0 })
	if k == 0 {
		return nil, false
	}
	b := &s.spans[s.roots[k-1]]
	return b, b.last.compare(a) >= 0
}
