package simnet

import (
	"net/netip"
	"strconv"

	"synprobe/rawprobe"
	"synprobe/rawprobe/netlab"
	"synprobe/rawprobe/wire"
)

// A node is a machine with the IP stack of Linux.
type node struct {
	net     *Net
	plan    *netlab.PlanNode
	name    string
	habit   Habit
	ifaces  []*iface // lo first
	routes  []netlab.PlanRoute
	dead    bool
	seed    uint64 // of its choices among several next hops
	reverse int    // rp_filter, IPv4
	limited map[netip.Addr]*bucket

	neighbors map[hop]*neighbor

	rules map[netlab.Hook][]*rule
	track tracker

	services map[uint16]netlab.Service
	requests map[tuple]*request
	links    []*link
	attacker Attacker // nil for none
}

func newNode(s *Net, plan *netlab.PlanNode) *node {
	n := &node{
		net: s, plan: plan, name: plan.Name, habit: s.opt.Habits[plan.Name], routes: append([]netlab.PlanRoute(nil), plan.Routes...),
		seed: s.seedOf(plan.Name), limited: make(map[netip.Addr]*bucket), neighbors: make(map[hop]*neighbor),
		rules: make(map[netlab.Hook][]*rule), services: make(map[uint16]netlab.Service), requests: make(map[tuple]*request),
	}
	n.track.loose = true
	lo := &iface{node: n, index: 1, name: "lo", loopback: true, up: true, mtu: 65536, addrs: []netip.Prefix{
		netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("::1/128"),
	}}
	n.ifaces = append(n.ifaces, lo)
	index := 1
	for _, pi := range plan.Interfaces {
		g := s.segments[pi.Link]
		i := &iface{node: n, name: pi.Name, up: !pi.Down, seg: g, end: pi.End, mtu: 1500}
		if g.link.MTU > 0 {
			i.mtu = g.link.MTU
		}
		if len(pi.MAC) == 6 {
			i.ethernet, i.mac = true, [6]byte(pi.MAC)
		}
		i.resolves = i.ethernet && !pi.NoARP
		switch {
		case pi.Kind == netlab.VXLAN:
			i.mtu -= 50 // what the outer headers take
			index++     // the device below; what it sees is no packet of ours
		case pi.Kind == netlab.Macvlan && pi.End == 0:
			index++
			i.lower = index
		}
		index++
		i.index = index
		g.ends[pi.End] = i
		n.ifaces = append(n.ifaces, i)
		n.address(i)
	}
	for _, v := range plan.Services {
		n.services[v.Port] = v
	}
	n.addRules(plan.Rules)
	for _, key := range []string{"net.ipv4.conf.all.rp_filter", "net.ipv4.conf.default.rp_filter"} {
		if v, err := strconv.Atoi(plan.Sysctls[key]); err == nil {
			n.reverse = max(n.reverse, v)
		}
	}
	return n
}

// address gives an interface what the plan has for it.
func (n *node) address(i *iface) {
	for _, pi := range n.plan.Interfaces {
		if pi.Name == i.name {
			i.addrs = append([]netip.Prefix(nil), pi.Addrs...)
			i.linkLocal = pi.LinkLocal
		}
	}
}

func (n *node) lo() *iface { return n.ifaces[0] }

func (n *node) iface(name string) *iface {
	for _, i := range n.ifaces {
		if i.name == name {
			return i
		}
	}
	return nil
}

// owns reports whether an address is the node's own.
func (n *node) owns(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	for _, i := range n.ifaces {
		// IPv4 addresses stay while their interface is down, and answer.
		if i.linkLocal == a {
			return true
		}
		for _, p := range i.addrs {
			if p.Addr() == a {
				return true
			}
		}
	}
	for _, p := range n.plan.Addrs {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// A flow is what a route is looked up for.
type flow struct {
	src, dst     netip.Addr // src may be the zero Addr
	proto        wire.Proto // 0 for a raw packet
	sport, dport uint16
	out          *iface // bound to; nil for any
}

func flowOf(p *packet) flow {
	f := flow{src: p.src(), dst: p.dst(), proto: p.proto()}
	f.sport, f.dport = p.ports()
	return f
}

// A route is the answer.
type route struct {
	outcome rawprobe.RouteOutcome
	local   bool
	out     *iface
	gateway netip.Addr // the zero Addr where the destination is on the link
	src     netip.Addr // the zero Addr where there is none to send from
	bits    int        // of the route's destination
}

func (r route) hop(dst netip.Addr) netip.Addr {
	if r.gateway.IsValid() {
		return r.gateway
	}
	return dst
}

// lookup finds the route of a flow.
func (n *node) lookup(f flow) route {
	f.dst = f.dst.WithZone("")
	if n.owns(f.dst) && (f.out == nil || !f.dst.IsLinkLocalUnicast() || f.out.linkLocal == f.dst) {
		return route{local: true, out: n.lo(), src: f.dst, bits: f.dst.BitLen()}
	}
	for _, p := range n.plan.Policies {
		if p.Only != 0 && p.Only != netlab.FamilyOf(f.dst) || p.Proto != 0 && wire.Proto(p.Proto) != f.proto ||
			p.SrcPort != 0 && p.SrcPort != f.sport || p.DstPort != 0 && p.DstPort != f.dport || p.HasUID && p.UID != 0 {
			continue
		}
		if r, ok := n.table(p.Table, f); ok {
			return r
		}
	}
	if r, ok := n.table(0, f); ok {
		return r
	}
	if f.out != nil && f.dst.Is4() {
		// An interface that was chosen needs no route: what has none is taken
		// to be on its link (net/ipv4/route.c, ip_route_output_key_hash_rcu).
		return n.complete(route{out: f.out}, f, netip.Addr{})
	}
	return route{outcome: rawprobe.RouteNone}
}

// table looks a flow up in one routing table.
func (n *node) table(table int, f flow) (route, bool) {
	best, found := netlab.PlanRoute{}, false
	better := func(r netlab.PlanRoute) {
		if !found || r.Dst.Bits() > best.Dst.Bits() || r.Dst.Bits() == best.Dst.Bits() && r.Metric < best.Metric {
			best, found = r, true
		}
	}
	if table == 0 {
		for _, i := range n.ifaces[1:] {
			if !i.up || f.out != nil && f.out != i {
				continue
			}
			for _, p := range i.addrs {
				if p.Masked().Contains(f.dst) {
					better(netlab.PlanRoute{Dst: p.Masked(), Next: []netlab.NextHop{{Iface: i.name}}})
				}
			}
			if f.dst.Is6() && f.dst.IsLinkLocalUnicast() && i.linkLocal.IsValid() {
				better(netlab.PlanRoute{Dst: netip.PrefixFrom(f.dst, 64).Masked(), Next: []netlab.NextHop{{Iface: i.name}}})
			}
		}
	}
	for _, r := range n.routes {
		if r.Table != table || !r.Dst.Contains(f.dst) {
			continue
		}
		if r.Type == netlab.Unicast {
			var usable []netlab.NextHop
			for _, h := range r.Next {
				if i := n.iface(h.Iface); i != nil && i.up && (f.out == nil || f.out == i) {
					usable = append(usable, h)
				}
			}
			if r.Next = usable; len(usable) == 0 {
				continue
			}
		}
		better(r)
	}
	if !found {
		return route{}, false
	}
	switch best.Type {
	case netlab.Unreachable:
		return route{outcome: rawprobe.RouteUnreachable}, true
	case netlab.Prohibit:
		return route{outcome: rawprobe.RouteProhibit}, true
	case netlab.Blackhole:
		return route{outcome: rawprobe.RouteBlackhole}, true
	}
	h := best.Next[0]
	if len(best.Next) > 1 {
		h = best.Next[n.spread(f)%uint64(len(best.Next))]
	}
	r := route{out: n.iface(h.Iface), gateway: h.Addr, bits: best.Dst.Bits()}
	if r.gateway == f.dst {
		r.gateway = netip.Addr{}
	}
	return n.complete(r, f, best.Src), true
}

// complete chooses the source address.
func (n *node) complete(r route, f flow, preferred netip.Addr) route {
	if preferred.IsValid() {
		r.src = preferred
		return r
	}
	r.src = n.sourceOn(r.out, r.hop(f.dst), f.dst)
	return r
}

// sourceOn is the address that a packet to dst leaves with by an interface.
func (n *node) sourceOn(out *iface, hop, dst netip.Addr) netip.Addr {
	if dst.Is6() && dst.IsLinkLocalUnicast() {
		return out.linkLocal
	}
	var first netip.Addr
	take := func(p netip.Prefix) {
		if !first.IsValid() && p.Addr().Is4() == dst.Is4() && !p.Addr().IsLoopback() {
			first = p.Addr()
		}
	}
	for _, p := range out.addrs {
		if p.Addr().Is4() == dst.Is4() && p.Masked().Contains(hop) {
			return p.Addr()
		}
	}
	for _, p := range out.addrs {
		take(p)
	}
	for _, i := range n.ifaces {
		for _, p := range i.addrs {
			take(p)
		}
	}
	for _, p := range n.plan.Addrs {
		if p.IsSingleIP() {
			take(p)
		}
	}
	if !first.IsValid() && dst.Is6() {
		return out.linkLocal
	}
	return first
}

// spread is the hash by which a flow chooses among several next hops: over
// addresses, protocol and ports (fib_multipath_hash_policy 1).
func (n *node) spread(f flow) uint64 {
	h := n.seed
	mix := func(b byte) { h = (h ^ uint64(b)) * 1099511628211 }
	for _, a := range []netip.Addr{f.src, f.dst} {
		b := a.As16()
		for _, c := range b {
			mix(c)
		}
	}
	mix(byte(f.proto))
	for _, p := range []uint16{f.sport, f.dport} {
		mix(byte(p >> 8))
		mix(byte(p))
	}
	h ^= h >> 29
	h *= 0xbf58476d1ce4e5b9
	return h >> 32
}

// receive is ip_rcv: what came in, behind the hook of the interface.
func (n *node) receive(p *packet) {
	if !n.hook(netlab.Prerouting, p, p.in, nil) {
		return
	}
	if p.dst().IsMulticast() {
		n.deliver(p)
		return
	}
	if n.reverse == 1 && !p.v6 && !p.in.loopback {
		if r := n.lookup(flow{src: p.dst(), dst: p.src()}); r.out != p.in {
			return
		}
	}
	r := n.lookup(flowOf(p))
	switch {
	case r.local:
		n.deliver(p)
	case !n.plan.Forward || p.in.loopback && r.outcome != rawprobe.RouteFound:
	case r.outcome != rawprobe.RouteFound:
		n.noRoute(p, r.outcome)
	default:
		n.forward(p, r)
	}
}

// forward is ip_forward: the TTL is looked at before the firewall is asked.
func (n *node) forward(p *packet, r route) {
	if p.v6 && (p.src().IsLinkLocalUnicast() || p.dst().IsLinkLocalUnicast()) {
		return
	}
	if p.ttl() <= 1 {
		n.timeExceeded(p)
		return
	}
	p.setTTL(p.ttl() - 1)
	if !n.hook(netlab.Forward, p, p.in, r.out) {
		return
	}
	_ = n.leave(p, r)
}

// A refusal is why a packet could not be sent.
type refusal struct {
	reason rawprobe.Refusal
	text   string
}

func (r *refusal) Error() string { return r.text }

var (
	refuseFirewall = &refusal{rawprobe.RefusedByFirewall, "operation not permitted"}
	refuseDown     = &refusal{rawprobe.RefusedDown, "network is down"}
	refuseNoBuffer = &refusal{rawprobe.RefusedNoBuffer, "no buffer space available"}
	refuseNoRoute  = &refusal{rawprobe.RefusedNoRoute, "network is unreachable"}
)

// refusals are the errors of a send by the route's outcome; see field note 20.
var refusals = map[rawprobe.RouteOutcome]*refusal{
	rawprobe.RouteNone:        refuseNoRoute,
	rawprobe.RouteUnreachable: {rawprobe.RefusedUnreachable, "no route to host"},
	rawprobe.RouteProhibit:    {rawprobe.RefusedProhibit, "permission denied"},
	rawprobe.RouteBlackhole:   {rawprobe.RefusedBlackhole, "invalid argument"},
}

// send is ip_local_out: what the node itself sends.
func (n *node) send(p *packet) *refusal { return n.sendBy(p, n.lookup(flowOf(p))) }

func (n *node) sendBy(p *packet, r route) *refusal {
	if r.outcome != rawprobe.RouteFound {
		return refusals[r.outcome]
	}
	dst := p.dst()
	if !n.hook(netlab.Output, p, nil, r.out) {
		return refuseFirewall
	}
	if p.dst() != dst { // translated: another way (ip_route_me_harder)
		if r = n.lookup(flowOf(p)); r.outcome != rawprobe.RouteFound {
			return refusals[r.outcome]
		}
	}
	return n.leave(p, r)
}

// leave is ip_output: the last hook, and the way to the next hop.
func (n *node) leave(p *packet, r route) *refusal {
	hop := r.hop(p.dst())
	if !n.hook(netlab.Postrouting, p, p.in, r.out) {
		return refuseFirewall
	}
	return n.resolve(r.out, hop, p)
}

// deliver is ip_local_deliver: what is the node's own.
func (n *node) deliver(p *packet) {
	if p.fragment() {
		n.reassemble(p)
		return
	}
	if !n.hook(netlab.Input, p, p.in, nil) {
		return
	}
	// Raw sockets get their copies before TCP and ICMP look at checksums, but for
	// those of ICMPv6 (net/ipv6/raw.c, rawv6_rcv).
	damaged := p.damaged()
	if !damaged || !p.v6 || !p.isICMP() {
		n.copies(p)
	}
	if damaged {
		return
	}
	switch p.proto() {
	case wire.ProtoTCP:
		n.tcp(p)
	case wire.ProtoUDP:
		if len(p.upper()) >= 8 && !n.habit.Stealth {
			if p.v6 {
				n.icmpError(p, wire.ICMPv6DestinationUnreachable, wire.ICMPv6PortUnreachable)
			} else {
				n.icmpError(p, wire.ICMPv4DestinationUnreachable, wire.ICMPv4PortUnreachable)
			}
		}
	case wire.ProtoICMP, wire.ProtoICMPv6:
		n.icmp(p)
	}
}
