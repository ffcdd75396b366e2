package rawprobe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Survey implements Link.
func (l *link) Survey(flow Flow) (Machine, error) {
	var m Machine
	l.subscribe() // before anything is asked: what changes since is told
	dst := flow.Dst.Addr()
	links, err := netlink.LinkList()
	if err != nil {
		return m, fmt.Errorf("list interfaces: %w", err)
	}
	byIndex := make(map[int]Interface, len(links))
	m.NoneUp = true
	for _, k := range links {
		ifi := describe(k)
		byIndex[ifi.Index] = ifi
		if ifi.Up && ifi.Carrier && !ifi.Loopback {
			m.NoneUp = false
		}
	}
	if l.held, err = m.addresses(dst, byIndex); err != nil {
		return m, err
	}
	src := flow.Src.Addr()
	if src.IsValid() && !m.Own(src) {
		return m, fmt.Errorf("source %s: %w", src, ErrNotOurs)
	}
	bound := 0
	switch {
	case l.bind != nil:
		bound = l.bind.Index
	case dst.Zone() != "":
		ifi, err := net.InterfaceByName(dst.Zone())
		if err != nil {
			return m, fmt.Errorf("zone %q: %w", dst.Zone(), ErrNoInterface)
		}
		bound = ifi.Index
	}
	l.flow, l.bound, l.ours = flow, bound, nil
	if bound != 0 {
		// Where the caller has chosen the interface, its state is the answer,
		// whatever other routes there are.
		m.Interface = byIndex[bound]
		m.Route.Interface = bound
	}
	if m.Route, err = lookup(flow, bound, unix.IPPROTO_TCP); err != nil {
		return m, err
	}
	if bound != 0 && m.Route.Interface == 0 {
		m.Route.Interface = bound
	}
	m.Interface = byIndex[m.Route.Interface]
	if err := fits(flow, byIndex[bound], m.Route.Local); err != nil {
		return m, err
	}
	if m.Route.Outcome != RouteFound {
		m.blame()
		return m, nil
	}
	if m.Route.MTU == 0 {
		m.Route.MTU = linkMTU(links, m.Route.Interface)
	}
	if src.IsValid() {
		m.Route.Source = src.WithZone("")
	}
	if m.Route.Gateway.IsValid() && m.Route.Gateway.Is4() != dst.Is4() {
		// A next hop of the other family (RFC 5549): our questions speak one.
		m.Interface.Resolves = false
	}
	m.source(dst)
	if m.Route.Outcome != RouteFound {
		return m, nil // nothing will be sent by any route
	}
	raw, err := lookup(Flow{Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(dst, 0)}, bound, standIn())
	if err != nil {
		return m, err
	}
	m.Route.ByPort = !m.Route.Local && (raw.Outcome != m.Route.Outcome || raw.Gateway != m.Route.Gateway || raw.Interface != m.Route.Interface)
	m.Conntrack = conntrack()
	if src.IsValid() && flow.Src.Port() != 0 { // the flow is the one that will be sent
		l.narrow(&m)
		if r, ok := l.fib(); ok {
			l.ours = &r
		}
	}
	if m.Route.ByPort {
		// Now, while the process may still do so.
		return m, l.openFrames()
	}
	return m, nil
}

// fits checks that the source address and the interface that the caller chose,
// if any, can reach the target at all. local says that it is this machine itself.
func fits(flow Flow, bound Interface, local bool) error {
	dst, src := flow.Dst.Addr(), flow.Src.Addr()
	switch {
	case bound.Index != 0 && !bound.Loopback && dst.IsLoopback():
		return fmt.Errorf("interface %s for %s: %w", bound.Name, dst, ErrNotLoopback)
	case local:
	case src.IsLoopback():
		// The lookup says EINVAL, as for a blackhole route.
		return fmt.Errorf("source %s for %s: %w", src, dst, ErrLoopback)
	case bound.Loopback:
		return fmt.Errorf("interface %s for %s: %w", bound.Name, dst, ErrLoopback)
	}
	return nil
}

// after asks again for what Survey found, and returns it where it has changed.
// What can't be asked is taken to be as it was.
func (l *link) after(m *Machine) *After {
	now := After{Interface: m.Interface, Route: m.Route}
	k, err := netlink.LinkByIndex(m.Interface.Index)
	var gone netlink.LinkNotFoundError
	switch {
	case err == nil:
		now.Interface = describe(k)
	case errors.As(err, &gone), errors.Is(err, unix.ENODEV):
		now.Interface = Interface{}
	}
	if route, err := lookup(l.flow, l.bound, unix.IPPROTO_TCP); err == nil {
		if l.bound != 0 && route.Interface == 0 {
			route.Interface = l.bound
		}
		now.Route = route
	}
	var addrs Machine
	if _, err := addrs.addresses(l.flow.Dst.Addr(), nil); err == nil && !addrs.Own(l.flow.Src.Addr()) {
		// The lookup says EINVAL then, as for a blackhole route, and in IPv6
		// nothing.
		now.Route.Outcome = RouteNoAddress
	}
	if a, b := &now.Route, &m.Route; a.Outcome == b.Outcome && a.Interface == b.Interface && a.Gateway == b.Gateway && a.Local == b.Local &&
		now.Interface.Up && now.Interface.Carrier {
		return nil
	}
	return &now
}

// source checks that the route has a source address that can be answered. A
// link-local source reaches no further than the link.
func (m *Machine) source(dst netip.Addr) {
	src := m.Route.Source
	switch {
	case !src.IsValid() || src.IsUnspecified():
		m.Route.Outcome = RouteNoAddress
	case src.Is6() && src.IsLinkLocalUnicast():
		if !dst.IsLinkLocalUnicast() && m.Route.Gateway.IsValid() {
			m.Route.Outcome = RouteNoAddress
			return
		}
		m.Route.Source = src.WithZone(m.Interface.Name)
	}
}

// blame names the reason for a missing route where there is a better one than
// the missing route: this machine has no address of the family to send from.
func (m *Machine) blame() {
	if m.Route.Outcome != RouteNone {
		return
	}
	for _, a := range m.Addresses {
		if !a.IsLoopback() && !(a.Is6() && a.IsLinkLocalUnicast()) {
			return
		}
	}
	if len(m.Down) == 0 && !m.NoneUp {
		m.Route.Outcome = RouteNoAddress
	}
}

func describe(k netlink.Link) Interface {
	a := k.Attrs()
	ifi := Interface{
		Index:    a.Index,
		Name:     a.Name,
		Up:       a.RawFlags&unix.IFF_UP != 0,
		Carrier:  a.RawFlags&unix.IFF_LOWER_UP != 0,
		Loopback: a.RawFlags&unix.IFF_LOOPBACK != 0,
	}
	// net/ipv4/arp.c, arp_constructor: no ARP on loopback, on point-to-point
	// links and where it is switched off.
	if len(a.HardwareAddr) == 6 && a.EncapType == "ether" && a.RawFlags&(unix.IFF_NOARP|unix.IFF_LOOPBACK|unix.IFF_POINTOPOINT) == 0 {
		ifi.Resolves = true
		copy(ifi.Hardware[:], a.HardwareAddr)
	}
	return ifi
}

// addresses fills in this machine's own addresses, and the interfaces that are
// down although their prefix covers dst. It returns who holds the addresses.
func (m *Machine) addresses(dst netip.Addr, byIndex map[int]Interface) ([]holding, error) {
	family := netlink.FAMILY_V6
	if dst.Is4() {
		family = netlink.FAMILY_V4
	}
	addrs, err := netlink.AddrList(nil, family)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // the kernel does not speak this family
	}
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var held []holding
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			continue
		}
		ip = ip.Unmap()
		m.Addresses = append(m.Addresses, ip)
		held = append(held, holding{ip, a.LinkIndex})
		ones, _ := a.Mask.Size()
		prefix, err := ip.Prefix(ones)
		ifi := byIndex[a.LinkIndex]
		if err == nil && prefix.Contains(dst.WithZone("")) && (!ifi.Up || !ifi.Carrier) && !dst.IsLinkLocalUnicast() {
			m.Down = append(m.Down, ifi)
		}
	}
	return held, nil
}

// standIn is the protocol to ask for a raw packet's route by. IPv4 is asked for
// UDP where none is given (net/ipv4/route.c, inet_rtm_getroute), and a raw packet's
// own number can't be (net/ipv4/ip_output.c, rtm_getroute_parse_ip_proto): it is
// one that no policy rule names, if there is any.
func standIn() uint8 {
	rules, err := netlink.RuleList(netlink.FAMILY_V4)
	named := func(protocol int) bool {
		return slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.IPProto == protocol })
	}
	if err == nil && named(unix.IPPROTO_ICMP) && !named(unix.IPPROTO_UDP) {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_ICMP
}

// askRoute asks the kernel which route a flow takes, and returns its messages.
// For TCP it asks for the very flow: policy rules may look at the protocol and
// the ports. For another protocol, a [standIn], it asks as the kernel does for a
// raw packet (net/ipv4/raw.c). The flags are those of struct rtmsg. It asks over a
// socket that stays open, or over one of its own where sockets is nil.
func askRoute(sockets map[int]*nl.SocketHandle, flow Flow, oif int, protocol uint8, flags uint32) ([][]byte, error) {
	dst, src := flow.Dst.Addr(), flow.Src.Addr()
	family := unix.AF_INET
	if dst.Is6() {
		family = unix.AF_INET6
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_REQUEST)
	req.Sockets = sockets
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family), Dst_len: uint8(dst.BitLen()), Flags: flags}}
	if src.IsValid() {
		msg.Src_len = uint8(src.BitLen())
	}
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.RTA_DST, dst.WithZone("").AsSlice()))
	if src.IsValid() {
		req.AddData(nl.NewRtAttr(unix.RTA_SRC, src.WithZone("").AsSlice()))
	}
	if oif != 0 {
		req.AddData(nl.NewRtAttr(unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(oif))))
	}
	switch {
	case protocol == unix.IPPROTO_TCP:
		req.AddData(nl.NewRtAttr(unix.RTA_IP_PROTO, []byte{protocol}))
		req.AddData(nl.NewRtAttr(unix.RTA_DPORT, binary.BigEndian.AppendUint16(nil, flow.Dst.Port())))
		if p := flow.Src.Port(); p != 0 {
			req.AddData(nl.NewRtAttr(unix.RTA_SPORT, binary.BigEndian.AppendUint16(nil, p)))
		}
	case dst.Is4():
		req.AddData(nl.NewRtAttr(unix.RTA_IP_PROTO, []byte{protocol}))
	}
	return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
}

// lookup asks the kernel for its route, as askRoute does.
func lookup(flow Flow, oif int, protocol uint8) (Route, error) {
	return lookupOn(nil, flow, oif, protocol)
}

// lookupOn is lookup over a socket that stays open.
func lookupOn(sockets map[int]*nl.SocketHandle, flow Flow, oif int, protocol uint8) (Route, error) {
	replies, err := askRoute(sockets, flow, oif, protocol, 0)
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.ESRCH), errors.Is(err, unix.ENODEV):
		return Route{Outcome: RouteNone}, nil
	case errors.Is(err, unix.EHOSTUNREACH):
		return Route{Outcome: RouteUnreachable}, nil
	case errors.Is(err, unix.EACCES):
		return Route{Outcome: RouteProhibit}, nil
	case errors.Is(err, unix.EINVAL):
		return Route{Outcome: RouteBlackhole}, nil
	case errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EADDRNOTAVAIL):
		return Route{Outcome: RouteNoAddress}, nil
	case errors.Is(err, unix.ENETDOWN):
		return Route{Outcome: RouteNone}, nil
	case err != nil:
		return Route{}, fmt.Errorf("route lookup: %w", err)
	case len(replies) == 0:
		return Route{}, errors.New("route lookup: the kernel gave no route")
	}
	return parseRoute(replies[0], flow.Dst.Addr())
}

// parseRoute reads a route message (rtnetlink(7)).
func parseRoute(b []byte, dst netip.Addr) (Route, error) {
	var r Route
	if len(b) < unix.SizeofRtMsg {
		return r, errors.New("route lookup: short answer")
	}
	msg := nl.DeserializeRtMsg(b)
	switch msg.Type {
	case unix.RTN_LOCAL:
		r.Local = true
	case unix.RTN_BROADCAST:
		// A send would fail with EACCES, as for a prohibit route.
		return r, fmt.Errorf("%s: %w", dst, ErrBroadcast)
	case unix.RTN_UNREACHABLE:
		r.Outcome = RouteUnreachable
	case unix.RTN_PROHIBIT:
		r.Outcome = RouteProhibit
	case unix.RTN_BLACKHOLE:
		r.Outcome = RouteBlackhole
	case unix.RTN_THROW:
		r.Outcome = RouteNone
	}
	attrs, err := nl.ParseRouteAttr(b[msg.Len():])
	if err != nil {
		return r, fmt.Errorf("route lookup: %w", err)
	}
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.RTA_OIF:
			if len(a.Value) >= 4 {
				r.Interface = int(binary.NativeEndian.Uint32(a.Value))
			}
		case unix.RTA_GATEWAY:
			r.Gateway, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_VIA: // struct rtvia: a next hop of the other family
			if len(a.Value) > 2 {
				r.Gateway, _ = netip.AddrFromSlice(a.Value[2:])
			}
		case unix.RTA_PREFSRC:
			r.Source, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_METRICS:
			metrics, err := nl.ParseRouteAttr(a.Value)
			if err != nil {
				continue
			}
			for _, x := range metrics {
				if x.Attr.Type == unix.RTAX_MTU && len(x.Value) >= 4 {
					r.MTU = int(binary.NativeEndian.Uint32(x.Value))
				}
			}
		}
	}
	if r.Gateway == dst.WithZone("") {
		r.Gateway = netip.Addr{}
	}
	return r, nil
}

func linkMTU(links []netlink.Link, index int) int {
	for _, k := range links {
		if k.Attrs().Index == index {
			return min(k.Attrs().MTU, 65535)
		}
	}
	return 1500
}

// reversePathFilters are the filters in force on the interfaces: "The max value
// from conf/{all,interface}/rp_filter is used" (ip-sysctl.rst), of the interface
// on which a packet comes in. IPv6 has none.
func reversePathFilters() map[int]int {
	const conf = "/proc/sys/net/ipv4/conf/"
	ifs, err := net.Interfaces()
	if err != nil {
		return nil
	}
	all, found := procInt(conf+"all/rp_filter"), make(map[int]int)
	for _, ifi := range ifs {
		if strings.Contains(ifi.Name, "/") {
			continue
		}
		if v := max(all, procInt(conf+ifi.Name+"/rp_filter")); v > 0 {
			found[ifi.Index] = v
		}
	}
	return found
}

func conntrack() Conntrack {
	return Conntrack{
		Count: procInt("/proc/sys/net/netfilter/nf_conntrack_count"),
		Max:   procInt("/proc/sys/net/netfilter/nf_conntrack_max"),
	}
}

// procInt reads a number; what can't be read counts as 0.
func procInt(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return n
}

// neighborStates names the states of linux/neighbour.h.
var neighborStates = map[int]NeighborState{
	unix.NUD_INCOMPLETE: "incomplete",
	unix.NUD_REACHABLE:  "reachable",
	unix.NUD_STALE:      "stale",
	unix.NUD_DELAY:      "delay",
	unix.NUD_PROBE:      "probe",
	unix.NUD_FAILED:     "failed",
	unix.NUD_NOARP:      "noarp",
	unix.NUD_PERMANENT:  "permanent",
}

// Final implements Link.
func (l *link) Final(m *Machine, target netip.Addr) TapStats {
	m.Conntrack = conntrack()
	// In this order what is told of, and not found, has come back by then.
	lapse := l.lapse(m)
	if m.After = l.after(m); m.After == nil {
		m.Lapse = lapse
	}
	if target.Is4() {
		m.ReversePathFilter = reversePathFilters()
	}
	family := netlink.FAMILY_V4
	if hop := m.Route.NextHop(target); hop.Is6() {
		family = netlink.FAMILY_V6
	}
	if entries, err := netlink.NeighList(m.Interface.Index, family); err == nil {
		for _, e := range entries {
			if ip, ok := netip.AddrFromSlice(e.IP); ok && ip.Unmap() == m.Route.NextHop(target).WithZone("") {
				m.Neighbor = neighborStates[e.State]
			}
		}
	}
	if l.tap == nil {
		return TapStats{}
	}
	s, err := l.tap.Stats()
	if err != nil {
		return TapStats{}
	}
	return TapStats{Packets: s.Packets, Drops: s.Drops}
}
