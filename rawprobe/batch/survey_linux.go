package batch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"synprobe/rawprobe"
)

// survey finds the ways to all parts of the space, and this machine's own
// addresses.
func (l *liveLink) survey(s *Space, families [2]bool) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	byIndex := make(map[int]netlink.Link, len(links))
	for _, k := range links {
		byIndex[k.Attrs().Index] = k
	}
	var inner []rng
	for family, used := range families {
		if !used {
			continue
		}
		number := netlink.FAMILY_V4
		if family == v6 {
			number = netlink.FAMILY_V6
		}
		addrs, err := netlink.AddrList(nil, number)
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // the kernel does not speak this family
		}
		if err != nil {
			return fmt.Errorf("list addresses: %w", err)
		}
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP); ok {
				l.own[fromNetip(ip)] = true
			}
			if p, ok := broadcastDomain(a, byIndex[a.LinkIndex]); ok {
				a := fromNetip(p.Addr())
				l.networks[a] = true
				inner = append(inner, rng{first: a, last: a})
			}
		}
		// A table of the whole Internet has a million routes: only those inside
		// of the space are kept.
		keep := func(dst *net.IPNet) {
			if part, ok := inside(s, dst); ok {
				inner = append(inner, part)
			}
		}
		err = netlink.RouteListFilteredIter(number, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			keep(r.Dst)
			if len(r.MultiPath) > 1 {
				for _, hop := range r.MultiPath {
					if ip, ok := netip.AddrFromSlice(hop.Gw); ok {
						l.shared[fromNetip(ip)] = true
					}
				}
			}
			return true
		})
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("list routes: %w", err)
		}
		// A policy rule for a destination parts it from its neighbours as a route
		// does, whatever table it leads to. A kernel without rules has one table.
		rules, err := netlink.RuleList(number)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EAFNOSUPPORT) {
			return fmt.Errorf("list routing rules: %w", err)
		}
		for i := range rules {
			keep(rules[i].Dst)
		}
		l.portParts[family] = s.portParts(rules)
	}
	router, err := rawprobe.OpenRouter()
	if err != nil {
		return err
	}
	defer router.Close()
	if src := l.cfg.Source; src.IsValid() && !l.own[fromNetip(src)] && !src.IsLoopback() {
		return fmt.Errorf("source %s: %w", src, rawprobe.ErrNotOurs)
	}
	l.ways, err = findWays(s, inner, func(to addr) (way, error) { return l.lookup(s, to, byIndex, router) })
	if err != nil {
		return err
	}
	return l.ways.misfit()
}

// inside returns the addresses of a prefix, where the whole of it lies inside of
// the space. nil, which stands for all addresses, does not.
func inside(s *Space, p *net.IPNet) (rng, bool) {
	if p == nil {
		return rng{}, false
	}
	ip, ok := netip.AddrFromSlice(p.IP)
	ones, size := p.Mask.Size()
	if !ok || size-ones > 62 {
		return rng{}, false
	}
	first := fromNetip(ip)
	r := rng{first: first, last: first.plus(1<<(size-ones) - 1)}
	root, ok := s.rootOf(first)
	return r, ok && root.last.compare(r.last) >= 0
}

// broadcastDomain returns the network that an address of ours puts us on, where
// it has a broadcast address (RFC 919; RFC 3021 for networks of two addresses).
// Its own address, all of whose host bits are 0, was the broadcast address once
// and no host is given it (RFC 1122, section 3.2.1.3); the kernel has taken it
// for a host's since Linux 5.14 (net/ipv4/fib_frontend.c, fib_add_ifaddr).
func broadcastDomain(a netlink.Addr, on netlink.Link) (netip.Prefix, bool) {
	ip, ok := netip.AddrFromSlice(a.IP)
	ones, size := a.Mask.Size()
	if !ok || size != 32 || ones > 30 || on == nil || on.Attrs().RawFlags&unix.IFF_BROADCAST == 0 {
		return netip.Prefix{}, false
	}
	p, err := ip.Unmap().Prefix(ones)
	return p, err == nil
}

// lookup asks the kernel for its route.
func (l *liveLink) lookup(s *Space, to addr, links map[int]netlink.Link, router *rawprobe.Router) (way, error) {
	dst, src, bound := to.netip(), l.cfg.Source, 0
	if src.IsValid() && src.Is4() != dst.Is4() {
		src = netip.Addr{}
	}
	if l.bound != nil {
		bound = l.bound.Index
	}
	r, err := router.Lookup(dst, src, bound)
	switch {
	case errors.Is(err, rawprobe.ErrBroadcast):
		return way{outcome: rawprobe.RouteNone, unfit: refusedBroadcast, err: err}, nil
	case errors.Is(err, rawprobe.ErrLoopback):
		return way{outcome: rawprobe.RouteNone, unfit: refusedLoopback, err: err}, nil
	case errors.Is(err, rawprobe.ErrNotLoopback):
		return way{outcome: rawprobe.RouteNone, unfit: refusedNotLoopback, err: err}, nil
	case err != nil:
		return way{}, err
	}
	if l.networks[to] && !s.alone(to) && r.Outcome == rawprobe.RouteFound && !r.Local && !r.Gateway.IsValid() {
		return way{outcome: rawprobe.RouteNone, unfit: refusedBroadcast, err: fmt.Errorf("%s: the network's own address: %w", dst, rawprobe.ErrBroadcast)}, nil
	}
	w := way{outcome: r.Outcome, local: r.Local, index: r.Interface, mtu: min(r.MTU, 65535)}
	if r.Gateway.IsValid() {
		w.gateway = fromNetip(r.Gateway)
	}
	if k := links[w.index]; k != nil {
		a := k.Attrs()
		// As net/ipv4/arp.c, arp_constructor.
		w.resolves = len(a.HardwareAddr) == 6 && a.EncapType == "ether" && a.RawFlags&(unix.IFF_NOARP|unix.IFF_LOOPBACK|unix.IFF_POINTOPOINT) == 0
		if w.mtu == 0 {
			w.mtu = min(a.MTU, 65535)
		}
	}
	if src.IsValid() {
		r.Source = src
	}
	if w.outcome == rawprobe.RouteFound && (!r.Source.IsValid() || r.Source.IsUnspecified() || r.Source.Is4() != dst.Is4()) {
		w.outcome = rawprobe.RouteNoAddress
	}
	if r.Source.IsValid() {
		w.source = fromNetip(r.Source)
	}
	if l.cfg.LinkLayer && w.outcome == rawprobe.RouteFound {
		return w, nil // frames go past the rules
	}
	err = l.byPort(&w, dst, src, bound, router)
	return w, err
}

// portParts returns the ports of the space, in parts between which rules by port
// may tell a difference; nil where no rule sees what a raw packet does not show
// (net/ipv4/raw.c looks its route up without ports, and not as TCP).
func (s *Space) portParts(rules []netlink.Rule) (parts []portRefusal) {
	cuts := []int{1 << 16}
	for i := range rules {
		r := &rules[i]
		switch {
		case r.Dport != nil:
			cuts = append(cuts, int(r.Dport.Start), int(r.Dport.End)+1)
		case r.Sport == nil && r.IPProto == 0:
			continue
		}
		cuts = append(cuts, 0)
	}
	if len(cuts) == 1 {
		return nil
	}
	var used [1 << 16]bool
	for i := range s.spans {
		for _, p := range s.spans[i].ports {
			used[p] = true
		}
	}
	slices.Sort(cuts)
	for i, end := range cuts[1:] {
		part := portRefusal{}
		for p := cuts[i]; p < end; p++ {
			if used[p] && part.first == 0 {
				part.first = uint16(p)
			}
			if used[p] {
				part.last = uint16(p)
			}
		}
		if part.first > 0 {
			parts = append(parts, part)
		}
	}
	return parts
}

// byPort finds the ports to which the kernel would lead a connection another way
// than a raw packet. Where it would forbid the connection, that is the answer.
func (l *liveLink) byPort(w *way, dst, src netip.Addr, bound int, router *rawprobe.Router) error {
	family, from := v4, l.port4
	if dst.Is6() {
		family, from = v6, l.port6
	}
	for _, part := range l.portParts[family] {
		flow := rawprobe.Flow{Src: netip.AddrPortFrom(src, from), Dst: netip.AddrPortFrom(dst, part.first)}
		r, same, err := router.LookupTCP(flow, bound)
		switch {
		case errors.Is(err, rawprobe.ErrBroadcast):
		case err != nil:
			return err
		case same:
			continue
		}
		if part.why = forbidden(r.Outcome); part.why == rawprobe.NotRefused {
			part.why = refusedByPort
		}
		w.byPort = append(w.byPort, part)
	}
	return nil
}

// maxOnLink is how many targets on the machine's own links are asked for their
// link-layer address before the run begins. The kernel's own table is no help
// there: it has room for 1024 (net.ipv4.neigh.default.gc_thresh3), and while
// it waits for one that is dead it says so for a few packets only.
const maxOnLink = 1 << 16

// meetNeighbors asks next hops for their link-layer addresses: gateways, and
// targets on our own links if they are not too many. One that answers no request
// is dead, whatever the kernel's table still has: it trusts an entry for 8
// seconds and more (field: net/core/neighbour.c).
func (l *liveLink) meetNeighbors(ctx context.Context, s *Space) error {
	asked := make(map[int]question) // by interface
	ask := func(w *way, hop addr) {
		if asked[w.index] == nil {
			asked[w.index] = make(question)
		}
		asked[w.index][hop] = w.source
	}
	usable := func(w *way) bool { return w.outcome == rawprobe.RouteFound && !w.local && w.resolves }
	for i := range l.ways.all {
		// A next hop of the other family (RFC 5549) is left to the kernel.
		if w := &l.ways.all[i]; usable(w) && w.gateway != (addr{}) {
			if w.gateway.is4() != w.source.is4() {
				w.resolves = false
				continue
			}
			ask(w, w.gateway)
		}
	}
	n := uint64(0)
	onLink := func(r rng) *way {
		if w := &l.ways.all[r.way]; usable(w) && w.gateway == (addr{}) {
			return w
		}
		return nil
	}
	for _, r := range l.ways.ranges {
		if onLink(r) != nil {
			n += min(r.last.minus(r.first), maxOnLink) + 1
		}
	}
	if n > maxOnLink && l.cfg.LinkLayer {
		return fmt.Errorf("more than %d targets on this machine's own link: %w", maxOnLink, ErrLinkLayer)
	}
	for _, r := range l.ways.ranges {
		if w := onLink(r); w != nil && n <= maxOnLink {
			w.asked = true
			for a := r.first; a.compare(r.last) <= 0; a = a.plus(1) {
				ask(w, a)
			}
		}
	}
	l.onLink = make(map[addr][6]byte)
	p := Progress{Targets: s.Part(l.cfg.Shard, l.cfg.Shards), Done: l.cfg.Position, Position: l.cfg.Position}
	rest := 0 // requests of the interfaces whose turn has not come
	for _, q := range asked {
		rest += asks * len(q)
	}
	var noted time.Time
	for index, q := range asked {
		rest -= asks * len(q)
		before := p.Asked
		note := func(sent, most int) {
			p.Asked, p.ToAsk = before+uint64(sent), before+uint64(most+rest)
			if now := time.Now(); l.cfg.Progress != nil && now.Sub(noted) >= reporting {
				noted = now
				l.cfg.Progress(p)
			}
		}
		ifi, err := net.InterfaceByIndex(index)
		if err != nil {
			return fmt.Errorf("interface %d: %w", index, err)
		}
		if err := q.ask(ctx, ifi, l.cfg.Rate, l.onLink, note); err != nil {
			return err
		}
	}
	for i := range l.ways.all {
		if w := &l.ways.all[i]; usable(w) && w.gateway != (addr{}) {
			mac, ok := l.onLink[w.gateway]
			// By which of several gateways a packet goes the kernel chooses anew for
			// each target: that one of them is dead says nothing. Frames go to this
			// one.
			w.mac, w.dead = mac, !ok && (l.cfg.LinkLayer || !l.shared[w.gateway])
			w.gone = w.dead && (l.cfg.LinkLayer || !kernelKnows(w.index, w.gateway))
		}
	}
	return nil
}
