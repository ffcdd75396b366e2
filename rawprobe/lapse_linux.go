package rawprobe

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The kernel tells who asks for it of every link, address and route that changes
// (rtnetlink(7)), and needs no privilege for that. The run has a socket for it,
// which is read once, at its end: what is there then went away and came back.

const (
	// newsBuffer holds the largest message: a route of a thousand next hops.
	newsBuffer = 1 << 15
	// maxNews bounds what is read at once, while more may come: as much as a
	// socket holds of small messages.
	maxNews = 4096
)

// subscribe makes the kernel tell of changes from now on, and forgets what it
// told before. Where the kernel does not want to, nothing is ever told.
func (l *link) subscribe() {
	if l.news >= 0 {
		_ = l.hear(func(syscall.NetlinkMessage) {})
		return
	}
	groups := uint32(1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV4_ROUTE-1))
	if l.cfg.IPv6 {
		groups = 1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return
	}
	l.news = fd
}

// narrow keeps from the socket what can't concern the run, so that a machine on
// which much else happens does not fill it. Without, more is read, and no less
// understood.
func (l *link) narrow(m *Machine) {
	if l.news < 0 {
		return
	}
	raw, err := bpf.Assemble(newsFilter(m.Interface.Index, l.flow))
	if err != nil {
		return
	}
	prog := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	_ = unix.SetsockoptSockFprog(l.news, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})
}

// newsFilter accepts what the kernel tells of one interface, of the flow's source
// address, and of routes whose prefix, or the first 32 bits of it, is the
// destination's.
func newsFilter(index int, flow Flow) []bpf.Instruction {
	const (
		header       = unix.SizeofNlMsghdr
		dstLen       = header + 1 // in struct rtmsg
		accept, none = math.MaxUint32, 0
	)
	src, dst := flow.Src.Addr().AsSlice(), flow.Dst.Addr().AsSlice()
	// The messages are in the machine's own byte order, and a filter loads in
	// the network's.
	order16 := func(v uint16) uint32 {
		return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, v)))
	}
	order32 := func(v uint32) uint32 { return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, v)) }
	is := func(kind uint16, block uint8) bpf.Instruction {
		return bpf.JumpIf{Cond: bpf.JumpEqual, Val: order16(kind), SkipTrue: block}
	}
	link := []bpf.Instruction{
		bpf.LoadAbsolute{Off: header + 4, Size: 4}, // struct ifinfomsg, ifi_index
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: order32(uint32(index)), SkipFalse: 1},
		bpf.RetConstant{Val: accept},
		bpf.RetConstant{Val: none},
	}
	// The last 32 bits of the address.
	address := []bpf.Instruction{
		bpf.LoadConstant{Dst: bpf.RegA, Val: header + unix.SizeofIfAddrmsg},
		bpf.LoadConstant{Dst: bpf.RegX, Val: unix.IFA_LOCAL},
		bpf.LoadExtension{Num: bpf.ExtNetlinkAttr},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 3},
		bpf.LoadConstant{Dst: bpf.RegA, Val: header + unix.SizeofIfAddrmsg},
		bpf.LoadConstant{Dst: bpf.RegX, Val: unix.IFA_ADDRESS},
		bpf.LoadExtension{Num: bpf.ExtNetlinkAttr},
		bpf.TAX{},
		bpf.LoadIndirect{Off: uint32(unix.SizeofRtAttr + len(src) - 4), Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(src[len(src)-4:]), SkipFalse: 1},
		bpf.RetConstant{Val: accept},
		bpf.RetConstant{Val: none},
	}
	route := []bpf.Instruction{
		bpf.LoadAbsolute{Off: dstLen, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 1},
		bpf.RetConstant{Val: accept},
		bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: 32, SkipTrue: 1},
		bpf.LoadConstant{Dst: bpf.RegA, Val: 32},
		bpf.StoreScratch{Src: bpf.RegA, N: 0},
		bpf.LoadConstant{Dst: bpf.RegA, Val: header + unix.SizeofRtMsg},
		bpf.LoadConstant{Dst: bpf.RegX, Val: unix.RTA_DST},
		bpf.LoadExtension{Num: bpf.ExtNetlinkAttr},
		bpf.TAX{},
		bpf.LoadIndirect{Off: unix.SizeofRtAttr, Size: 4},
		bpf.ALUOpConstant{Op: bpf.ALUOpXor, Val: binary.BigEndian.Uint32(dst)},
		bpf.StoreScratch{Src: bpf.RegA, N: 1},
		// The bits beyond the prefix go.
		bpf.LoadScratch{Dst: bpf.RegX, N: 0},
		bpf.LoadConstant{Dst: bpf.RegA, Val: 32},
		bpf.ALUOpX{Op: bpf.ALUOpSub},
		bpf.TAX{},
		bpf.LoadScratch{Dst: bpf.RegA, N: 1},
		bpf.ALUOpX{Op: bpf.ALUOpShiftRight},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipFalse: 1},
		bpf.RetConstant{Val: accept},
		bpf.RetConstant{Val: none},
	}
	toLink, toAddress := uint8(6), uint8(6+len(link))
	toRoute := toAddress + uint8(len(address))
	return slices.Concat([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 4, Size: 2}, // nlmsg_type
		is(unix.RTM_NEWLINK, toLink), is(unix.RTM_DELLINK, toLink-1),
		is(unix.RTM_NEWADDR, toAddress-2), is(unix.RTM_DELADDR, toAddress-3),
		is(unix.RTM_NEWROUTE, toRoute-4), is(unix.RTM_DELROUTE, toRoute-5),
		bpf.RetConstant{Val: none},
	}, link, address, route)
}

// hear takes what the kernel has told. It returns false where some of it is lost.
func (l *link) hear(take func(syscall.NetlinkMessage)) bool {
	if l.news < 0 {
		return true
	}
	buf := make([]byte, newsBuffer)
	complete := true
	for range maxNews {
		// MSG_TRUNC: n is the length of the whole (recv(2)).
		n, from, err := unix.Recvfrom(l.news, buf, unix.MSG_TRUNC)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return complete
		case err == unix.ENOBUFS: // told once; what came before is still there
			complete = false
			continue
		case err != nil:
			return false
		}
		if kernel, ok := from.(*unix.SockaddrNetlink); !ok || kernel.Pid != 0 {
			continue
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:min(n, len(buf))])
		if err != nil {
			complete = false
		}
		for _, m := range messages {
			take(m)
		}
	}
	return false
}

// A holding is one of this machine's addresses, and an interface that has it.
type holding struct {
	addr  netip.Addr
	index int
}

// lapse says what of m's way out went away since Survey. Whether it came back is
// not its business.
func (l *link) lapse(m *Machine) Lapse {
	src, dst := l.flow.Src.Addr().WithZone(""), l.flow.Dst.Addr().WithZone("")
	var holders []int
	for _, h := range l.held {
		// A link-local address is another one on each interface.
		if h.addr == src && (!src.IsLinkLocalUnicast() || h.index == m.Interface.Index) {
			holders = append(holders, h.index)
		}
	}
	var removed, down, noCarrier, noAddress bool
	var routes []routeNews
	complete := l.hear(func(msg syscall.NetlinkMessage) {
		b := msg.Data
		switch msg.Header.Type {
		case unix.RTM_NEWLINK, unix.RTM_DELLINK:
			// Of another family it is about a bridge's port.
			if len(b) < unix.SizeofIfInfomsg || b[0] != unix.AF_UNSPEC || int(binary.NativeEndian.Uint32(b[4:])) != m.Interface.Index {
				return
			}
			flags := binary.NativeEndian.Uint32(b[8:])
			switch {
			case msg.Header.Type == unix.RTM_DELLINK:
				removed = true
			case flags&unix.IFF_UP == 0:
				down = true
			case flags&unix.IFF_LOWER_UP == 0:
				noCarrier = true
			}
		case unix.RTM_NEWADDR, unix.RTM_DELADDR:
			a, index, ok := parseAddress(b)
			if !ok || a != src || src.IsLinkLocalUnicast() && index != m.Interface.Index {
				return
			}
			holders = slices.DeleteFunc(holders, func(i int) bool { return i == index })
			if msg.Header.Type == unix.RTM_NEWADDR {
				holders = append(holders, index)
			}
			noAddress = noAddress || len(holders) == 0
		case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			r, ok := parseFIB(b, dst.Is6())
			// Ours are sent with TOS 0; a clone is no route of a table.
			if !ok || !r.dst.Contains(dst) || r.tos != 0 || r.flags&unix.RTM_F_CLONED != 0 {
				return
			}
			routes = append(routes, routeNews{fibRoute: r, gone: msg.Header.Type == unix.RTM_DELROUTE, how: msg.Header.Flags})
		}
	})
	switch {
	case removed:
		return LapseRemoved
	case down:
		return LapseDown
	case noCarrier:
		return LapseNoCarrier
	case noAddress:
		return LapseNoAddress
	}
	if len(routes) > 0 {
		if lapse := l.routeLapse(routes); lapse != NoLapse {
			return lapse
		}
	}
	if !complete {
		return LapseUnknown
	}
	return NoLapse
}

// parseAddress reads an address message (rtnetlink(7)).
func parseAddress(b []byte) (a netip.Addr, index int, ok bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return a, 0, false
	}
	attrs, err := nl.ParseRouteAttr(b[unix.SizeofIfAddrmsg:])
	if err != nil {
		return a, 0, false
	}
	for _, x := range attrs {
		// IFA_ADDRESS is the other end's on a point-to-point link, where
		// IFA_LOCAL is one's own (linux/if_addr.h).
		if x.Attr.Type == unix.IFA_LOCAL || x.Attr.Type == unix.IFA_ADDRESS && !a.IsValid() {
			a, _ = netip.AddrFromSlice(x.Value)
		}
	}
	return a, int(binary.NativeEndian.Uint32(b[4:])), a.IsValid()
}

// A fibRoute is a route as it stands in a table.
type fibRoute struct {
	table  int
	dst    netip.Prefix
	metric uint32
	kind   uint8 // RTN_UNICAST and others
	tos    uint8
	flags  uint32
	hops   []fibHop
}

type fibHop struct {
	gateway netip.Addr // the zero Addr: none
	oif     int
}

// routeNews is what the kernel told of a route.
type routeNews struct {
	fibRoute
	gone bool
	how  uint16 // NLM_F_REPLACE and others
}

// parseFIB reads a route message.
func parseFIB(b []byte, v6 bool) (r fibRoute, ok bool) {
	if len(b) < unix.SizeofRtMsg {
		return r, false
	}
	msg := nl.DeserializeRtMsg(b)
	r = fibRoute{table: int(msg.Table), kind: msg.Type, tos: msg.Tos, flags: msg.Flags}
	attrs, err := nl.ParseRouteAttr(b[unix.SizeofRtMsg:])
	if err != nil {
		return r, false
	}
	dst := netip.IPv4Unspecified()
	if v6 {
		dst = netip.IPv6Unspecified()
	}
	for _, a := range attrs {
		switch {
		case a.Attr.Type == unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(a.Value)
		case a.Attr.Type == unix.RTA_TABLE && len(a.Value) >= 4:
			r.table = int(binary.NativeEndian.Uint32(a.Value))
		case a.Attr.Type == unix.RTA_PRIORITY && len(a.Value) >= 4:
			r.metric = binary.NativeEndian.Uint32(a.Value)
		case a.Attr.Type == unix.RTA_MULTIPATH:
			// struct rtnexthop: length, flags, weight, interface
			for rest := a.Value; len(rest) >= unix.SizeofRtNexthop; {
				n := int(binary.NativeEndian.Uint16(rest))
				if n < unix.SizeofRtNexthop || n > len(rest) {
					return r, false
				}
				hop := fibHop{oif: int(binary.NativeEndian.Uint32(rest[4:]))}
				if nested, err := nl.ParseRouteAttr(rest[unix.SizeofRtNexthop:n]); err == nil {
					hop.gateway = gateway(nested)
				}
				r.hops = append(r.hops, hop)
				rest = rest[min((n+3)&^3, len(rest)):]
			}
		case a.Attr.Type == unix.RTA_OIF && len(a.Value) >= 4:
			r.hops = append(r.hops, fibHop{gateway: gateway(attrs), oif: int(binary.NativeEndian.Uint32(a.Value))})
		}
	}
	r.dst, err = dst.Prefix(int(msg.Dst_len))
	return r, err == nil
}

// gateway is the next hop that a route's attributes name.
func gateway(attrs []syscall.NetlinkRouteAttr) (a netip.Addr) {
	for _, x := range attrs {
		switch {
		case x.Attr.Type == unix.RTA_GATEWAY:
			a, _ = netip.AddrFromSlice(x.Value)
		case x.Attr.Type == unix.RTA_VIA && len(x.Value) > 2:
			a, _ = netip.AddrFromSlice(x.Value[2:])
		}
	}
	return a
}

// fib returns the route of a table that the flow goes by now. It is not ok where
// there is none, or where the kernel can't tell: IPv4 can since 4.13, IPv6 since 4.17.
func (l *link) fib() (r fibRoute, ok bool) {
	replies, err := askRoute(nil, l.flow, l.bound, unix.IPPROTO_TCP, unix.RTM_F_LOOKUP_TABLE|unix.RTM_F_FIB_MATCH)
	if err != nil || len(replies) == 0 {
		return r, false
	}
	if r, ok = parseFIB(replies[0], l.flow.Dst.Addr().Is6()); !ok || r.flags&unix.RTM_F_CLONED != 0 {
		return r, false
	}
	if r.kind == unix.RTN_LOCAL && r.table == unix.RT_TABLE_MAIN {
		// Without rules of its own a machine has one trie for both
		// (net/ipv4/fib_trie.c, fib_trie_unmerge).
		r.table = unix.RT_TABLE_LOCAL
	}
	return r, true
}

// routeLapse says what became of the flow's route for a while, by what was told of
// the routes that cover its destination. A route that changes nothing of where the
// flow goes is none of it.
func (l *link) routeLapse(told []routeNews) Lapse {
	end, ok := l.fib()
	if !ok || l.ours == nil {
		return LapseUnknown
	}
	// Those that lead where the flow goes, of which one is enough. What it goes by
	// now, and was not told of, has been there all the time.
	way := []fibRoute{*l.ours}
	if !end.instead(l.ours) && !slices.ContainsFunc(told, func(n routeNews) bool { return n.instead(&end) }) {
		way = append(way, end)
	}
	rules := sync.OnceValues(l.rules)
	bound := func(h fibHop) bool { return h.oif == l.bound }
	lapse := NoLapse
	for i := range told {
		n := &told[i]
		if l.bound != 0 && len(n.hops) > 0 && !slices.ContainsFunc(n.hops, bound) {
			continue // by an interface that the flow may not leave by
		}
		at := slices.IndexFunc(way, func(r fibRoute) bool { return r.instead(&n.fibRoute) })
		first := &way[0]
		for k := range way {
			if way[k].table == first.table && way[k].better(first) {
				first = &way[k]
			}
		}
		switch {
		case at >= 0 && n.gone:
			// One next hop of several counts as all: which flows took it is
			// not known.
			if n.sharesHop(&way[at]) {
				way = slices.Delete(way, at, at+1)
			}
			if len(way) == 0 {
				return LapseNoRoute
			}
		case n.gone:
		case at >= 0 && n.sameHops(&way[at]):
			if n.fresh() {
				return LapseNoRoute // the one before had gone without a word
			}
		case at >= 0:
			if n.takesOver(&way[at]) {
				lapse = LapseOtherRoute
			}
		case n.table != first.table && !l.before(rules, n, first.table):
			// Of a table that nobody asks.
		case n.sameHops(l.ours):
			way = append(way, n.fibRoute)
		case n.table != first.table || n.better(first):
			lapse = LapseOtherRoute
		}
	}
	return lapse
}

// instead reports whether r and o can't both be in force: they differ in their next
// hops at most.
func (r *fibRoute) instead(o *fibRoute) bool {
	return r.table == o.table && r.dst == o.dst && r.metric == o.metric
}

// better reports whether r wins over another route of the same table.
func (r *fibRoute) better(o *fibRoute) bool {
	if r.dst.Bits() != o.dst.Bits() {
		return r.dst.Bits() > o.dst.Bits()
	}
	return r.metric < o.metric
}

// sameHops reports whether r leads where o does.
func (r *fibRoute) sameHops(o *fibRoute) bool {
	return r.kind == o.kind && slices.Equal(r.hops, o.hops)
}

// sharesHop reports whether r leads to some next hop of o.
func (r *fibRoute) sharesHop(o *fibRoute) bool {
	return r.kind == o.kind && (len(r.hops) == 0 || slices.ContainsFunc(r.hops, func(h fibHop) bool { return slices.Contains(o.hops, h) }))
}

// fresh reports whether there was no such route before it was added. IPv4 says so
// with NLM_F_EXCL (net/ipv4/fib_trie.c, fib_table_insert), IPv6 with NLM_F_CREATE
// alone (net/ipv6/ip6_fib.c, fib6_add).
func (n *routeNews) fresh() bool {
	if n.dst.Addr().Is4() {
		return n.how&unix.NLM_F_EXCL != 0
	}
	return n.how&(unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_APPEND) == unix.NLM_F_CREATE
}

// takesOver reports whether a route of the same prefix and metric as ours takes
// some of its traffic. In IPv4 it does unless it was put behind it, in IPv6 where it
// replaces it, or joins it as another next hop (net/ipv6/ip6_fib.c,
// fib6_add_rt2node).
func (n *routeNews) takesOver(ours *fibRoute) bool {
	if n.dst.Addr().Is4() {
		return n.how&unix.NLM_F_APPEND == 0
	}
	routed := func(r *fibRoute) bool {
		return slices.ContainsFunc(r.hops, func(h fibHop) bool { return h.gateway.IsValid() })
	}
	return n.how&unix.NLM_F_REPLACE != 0 || routed(&n.fibRoute) && routed(ours)
}

// rules are those by which a table is chosen, in their order (ip-rule(8)).
func (l *link) rules() ([]netlink.Rule, error) {
	if l.cfg.IPv6 {
		return netlink.RuleList(netlink.FAMILY_V6)
	}
	return netlink.RuleList(netlink.FAMILY_V4)
}

// before reports whether the rules may have the table of a route asked for the flow
// before another one, which has a route for it.
func (l *link) before(rules func() ([]netlink.Rule, error), n *routeNews, other int) bool {
	all, err := rules()
	if err != nil {
		return n.table == unix.RT_TABLE_LOCAL // as it is where there are none
	}
	src, dst := l.flow.Src.Addr(), l.flow.Dst.Addr()
	for i := range all {
		r := &all[i]
		switch {
		case r.Invert: // who knows
		case r.Src != nil && !r.Src.Contains(src.AsSlice()), r.Dst != nil && !r.Dst.Contains(dst.AsSlice()):
			continue
		case r.IPProto != 0 && r.IPProto != unix.IPPROTO_TCP, !within(r.Sport, l.flow.Src), !within(r.Dport, l.flow.Dst):
			continue
		case r.Mark != 0, r.IifName != "" && r.IifName != "lo": // nobody marks what we send before its route is found
			continue
		case r.Table == n.table && n.dst.Bits() <= r.SuppressPrefixlen:
			continue
		}
		switch r.Table {
		case n.table:
			return true
		case other:
			return false
		}
	}
	return false
}

// within reports whether a rule for some ports, or for all where it names none,
// is for one.
func within(ports *netlink.RulePortRange, a netip.AddrPort) bool {
	return ports == nil || ports.Start <= a.Port() && a.Port() <= ports.End
}
