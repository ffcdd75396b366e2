package batch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
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
	}
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("route lookup: %w", err)
	}
	defer socket.Close()
	sockets := map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}
	if src := l.cfg.Source; src.IsValid() && !l.own[fromNetip(src)] && !src.IsLoopback() {
		return fmt.Errorf("source %s: %w", src, rawprobe.ErrNotOurs)
	}
	l.ways, err = findWays(s, inner, func(to addr) (way, error) { return l.lookup(to, byIndex, sockets) })
	return err
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

// lookup asks the kernel for its route, as for a raw packet: ports are 0 there
// (net/ipv4/raw.c).
func (l *liveLink) lookup(to addr, links map[int]netlink.Link, sockets map[int]*nl.SocketHandle) (way, error) {
	dst := to.netip()
	family := unix.AF_INET
	if dst.Is6() {
		family = unix.AF_INET6
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_REQUEST)
	req.Sockets = sockets
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family), Dst_len: uint8(dst.BitLen())}}
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.RTA_DST, dst.AsSlice()))
	src := l.cfg.Source
	if src.IsValid() && src.Is4() == dst.Is4() {
		msg.Src_len = uint8(src.BitLen())
		req.AddData(nl.NewRtAttr(unix.RTA_SRC, src.WithZone("").AsSlice()))
	} else {
		src = netip.Addr{}
	}
	if l.bound != nil {
		req.AddData(nl.NewRtAttr(unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(l.bound.Index))))
	}
	replies, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.ESRCH), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENETDOWN):
		return way{outcome: rawprobe.RouteNone}, nil
	case errors.Is(err, unix.EHOSTUNREACH):
		return way{outcome: rawprobe.RouteUnreachable}, nil
	case errors.Is(err, unix.EACCES):
		return way{outcome: rawprobe.RouteProhibit}, nil
	case errors.Is(err, unix.EINVAL):
		return way{outcome: rawprobe.RouteBlackhole}, nil
	case errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EADDRNOTAVAIL):
		return way{outcome: rawprobe.RouteNoAddress}, nil
	case err != nil:
		return way{}, fmt.Errorf("route lookup: %w", err)
	case len(replies) == 0:
		return way{}, errors.New("route lookup: the kernel gave no route")
	}
	w, err := parseWay(replies[0])
	if err != nil {
		return w, err
	}
	if w.gateway == to {
		w.gateway = addr{}
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
		w.source = fromNetip(src)
	}
	if w.outcome == rawprobe.RouteFound && (w.source == (addr{}) || w.source.is4() != to.is4()) {
		w.outcome = rawprobe.RouteNoAddress
	}
	return w, nil
}

// parseWay reads a route message (rtnetlink(7)).
func parseWay(b []byte) (way, error) {
	var w way
	if len(b) < unix.SizeofRtMsg {
		return w, errors.New("route lookup: short answer")
	}
	msg := nl.DeserializeRtMsg(b)
	switch msg.Type {
	case unix.RTN_LOCAL:
		w.local = true
	case unix.RTN_BROADCAST:
		w.outcome = rawprobe.RouteProhibit // what a send would say
	case unix.RTN_UNREACHABLE:
		w.outcome = rawprobe.RouteUnreachable
	case unix.RTN_PROHIBIT:
		w.outcome = rawprobe.RouteProhibit
	case unix.RTN_BLACKHOLE:
		w.outcome = rawprobe.RouteBlackhole
	case unix.RTN_THROW:
		w.outcome = rawprobe.RouteNone
	}
	attrs, err := nl.ParseRouteAttr(b[msg.Len():])
	if err != nil {
		return w, fmt.Errorf("route lookup: %w", err)
	}
	address := func(b []byte) addr {
		if ip, ok := netip.AddrFromSlice(b); ok {
			return fromNetip(ip)
		}
		return addr{}
	}
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.RTA_OIF:
			if len(a.Value) >= 4 {
				w.index = int(binary.NativeEndian.Uint32(a.Value))
			}
		case unix.RTA_GATEWAY:
			w.gateway = address(a.Value)
		case unix.RTA_VIA: // struct rtvia: a next hop of the other family
			if len(a.Value) > 2 {
				w.gateway = address(a.Value[2:])
			}
		case unix.RTA_PREFSRC:
			w.source = address(a.Value)
		case unix.RTA_METRICS:
			metrics, err := nl.ParseRouteAttr(a.Value)
			if err != nil {
				continue
			}
			for _, x := range metrics {
				if x.Attr.Type == unix.RTAX_MTU && len(x.Value) >= 4 {
					w.mtu = min(int(binary.NativeEndian.Uint32(x.Value)), 65535)
				}
			}
		}
	}
	return w, nil
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
func (l *liveLink) meetNeighbors(ctx context.Context) error {
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
	for index, q := range asked {
		ifi, err := net.InterfaceByIndex(index)
		if err != nil {
			return fmt.Errorf("interface %d: %w", index, err)
		}
		if err := q.ask(ctx, ifi, l.cfg.Rate, l.onLink); err != nil {
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
