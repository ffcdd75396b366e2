package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Plan is a topology in which nothing is left to choose. It is what a lab
// builds and a simulation reads.
type Plan struct {
	Topology Topology
	Nodes    []PlanNode // as in the topology
}

// A PlanNode is a node with its interfaces, and its routes, rules and services
// for each family.
type PlanNode struct {
	Node
	Interfaces []Interface // in the order of the topology's links
	Routes     []PlanRoute
	Rules      []PlanRule
	Services   []Service
}

// An Interface is one end of a link.
type Interface struct {
	Name string
	// Link and End are the indices in Topology.Links and Link.Ends.
	Link, End int
	Kind      LinkKind
	// Addrs are its addresses with their networks, without LinkLocal.
	Addrs []netip.Prefix
	// LinkLocal is its IPv6 link-local address, of a /64.
	LinkLocal netip.Addr
	// MAC is its link-layer address, nil on a Tun link.
	MAC         net.HardwareAddr
	Down, NoARP bool
}

// Addr returns the interface's first address of family f, without zone.
func (i Interface) Addr(f Family) (netip.Addr, bool) {
	for _, p := range i.Addrs {
		if FamilyOf(p.Addr()) == f {
			return p.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// A PlanRoute is a route to one prefix.
type PlanRoute struct {
	Dst    netip.Prefix
	Type   RouteType // never NoRoute
	Next   []NextHop
	Table  int // 0 is the main table
	Metric int
	Src    netip.Addr // the zero Addr where none is preferred
	// Auto is true where Resolve worked it out.
	Auto bool
}

// A NextHop is a neighbour on an interface, or with the zero Addr the
// interface's own network.
type NextHop struct {
	Addr  netip.Addr
	Iface string
}

// A PlanRule is a rule for one family and at most one source and destination
// network.
type PlanRule struct {
	Rule
	Family Family
	// Src and Dst are not valid where the rule has none.
	Src, Dst netip.Prefix
	// To is the address of DNAT and SNAT.
	To netip.Addr
}

// A Service is a port that a node listens on.
type Service struct {
	Port uint16
	// Full is true where the accept queue is full and stays so.
	Full bool
}

// Node returns the node called name, or nil.
func (p *Plan) Node(name string) *PlanNode {
	for i := range p.Nodes {
		if p.Nodes[i].Name == name {
			return &p.Nodes[i]
		}
	}
	return nil
}

// Addr returns the first address of family f of a node, the zero Addr if there
// is none.
func (p *Plan) Addr(node string, f Family) netip.Addr {
	if n := p.Node(node); n != nil {
		for _, a := range n.addrs(f) {
			return a.Addr()
		}
	}
	return netip.Addr{}
}

// addrs returns the addresses of family f on links and then those on none, 0
// being both families.
func (n *PlanNode) addrs(f Family) []netip.Prefix {
	var all []netip.Prefix
	for _, i := range n.Interfaces {
		all = append(all, i.Addrs...)
	}
	all = append(all, n.Addrs...)
	return slices.DeleteFunc(all, func(p netip.Prefix) bool { return f != 0 && FamilyOf(p.Addr()) != f })
}

// linkAddrs returns the addresses that link number k (from 1) hands out to its
// end number e (from 1).
func linkAddrs(k, e int) (v4, v6 netip.Prefix, linkLocal netip.Addr, mac net.HardwareAddr) {
	v4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(k >> 8), byte(k), byte(e)}), 24)
	v6 = netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 6: byte(k >> 8), 7: byte(k), 15: byte(e)}), 64)
	linkLocal = netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 12: byte(k >> 8), 13: byte(k), 15: byte(e)})
	mac = net.HardwareAddr{2, 0, 0, byte(k >> 8), byte(k), byte(e)}
	return v4, v6, linkLocal, mac
}

// Resolve works out all that t leaves open. Its error names what contradicts
// itself, all of it.
func (t Topology) Resolve() (*Plan, error) {
	p := &Plan{Topology: t}
	r := resolver{plan: p}
	r.nodes()
	r.links()
	if len(r.errs) == 0 { // what follows looks up names and addresses
		r.routes()
		r.rules()
	}
	if len(r.errs) > 0 {
		return nil, fmt.Errorf("netlab: topology %q: %w", t.Name, errors.Join(r.errs...))
	}
	return p, nil
}

type resolver struct {
	plan *Plan
	errs []error
}

func (r *resolver) errorf(format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf(format, args...))
}

func (r *resolver) nodes() {
	t := r.plan.Topology
	if len(t.Nodes) == 0 {
		r.errorf("no nodes")
	}
	for i, n := range t.Nodes {
		if n.Name == "" || strings.Trim(n.Name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" {
			r.errorf("node %d: %q is no name (letters, digits, '-')", i, n.Name)
		}
		if r.plan.Node(n.Name) != nil {
			r.errorf("node %q: defined twice", n.Name)
		}
		if n.Name == "default" {
			r.errorf(`node "default": the name means the default route`)
		}
		for _, a := range n.Addrs {
			if !a.IsValid() {
				r.errorf("node %q: an address is not valid", n.Name)
			}
		}
		pn := PlanNode{Node: n}
		for _, s := range n.Listen {
			svc, err := parseService(s)
			if err != nil {
				r.errorf("node %q: %w", n.Name, err)
			}
			pn.Services = append(pn.Services, svc)
		}
		r.plan.Nodes = append(r.plan.Nodes, pn)
	}
}

func parseService(s string) (Service, error) {
	port, mode, _ := strings.Cut(s, "/")
	port, tcp := strings.CutPrefix(port, "tcp:")
	n, err := strconv.ParseUint(port, 10, 16)
	if !tcp || err != nil || n == 0 || mode != "" && mode != "full" {
		return Service{}, fmt.Errorf(`service %q: want "tcp:PORT" or "tcp:PORT/full"`, s)
	}
	return Service{Port: uint16(n), Full: mode == "full"}, nil
}

func (r *resolver) links() {
	seen := map[netip.Addr]string{}
	for k, l := range r.plan.Topology.Links {
		ctx := fmt.Sprintf("link %d (%s)", k+1, l.Kind)
		if int(l.Kind) >= len(linkKindNames) {
			r.errorf("%s: unknown kind", ctx)
		}
		switch n := len(l.Ends); {
		case n < 2:
			r.errorf("%s: has %d ends, needs 2", ctx, n)
		case n > 2 && l.Kind != Segment:
			r.errorf("%s: has %d ends, and only a segment can have more than 2", ctx, n)
		case n > 254:
			r.errorf("%s: has %d ends, 254 at most", ctx, n)
		}
		if l.Wire != nil && l.Kind != Tun {
			r.errorf("%s: only a tun link can be impaired", ctx)
		}
		if l.Wire != nil {
			if err := l.Wire.validate(); err != nil {
				r.errorf("%s: %w", ctx, err)
			}
		}
		for e, end := range l.Ends {
			n := r.plan.Node(end.Node)
			if n == nil {
				r.errorf("%s: unknown node %q", ctx, end.Node)
				continue
			}
			v4, v6, ll, mac := linkAddrs(k+1, e+1)
			i := Interface{Name: end.Iface, Link: k, End: e, Kind: l.Kind, LinkLocal: ll, MAC: mac, Down: end.Down, NoARP: end.NoARP}
			switch {
			case end.NoAddrs && len(end.Addrs) > 0:
				r.errorf("%s: node %q: has addresses and NoAddrs", ctx, end.Node)
			case end.NoAddrs:
			case len(end.Addrs) > 0:
				i.Addrs = end.Addrs
			case l.Only == IPv4:
				i.Addrs = []netip.Prefix{v4}
			case l.Only == IPv6:
				i.Addrs = []netip.Prefix{v6}
			default:
				i.Addrs = []netip.Prefix{v4, v6}
			}
			prefix := "eth"
			if l.Kind == Tun {
				i.MAC, prefix = nil, "tun"
			}
			if i.Name == "" {
				i.Name = prefix + strconv.Itoa(len(n.Interfaces))
			}
			// IFNAMSIZ is 16 with its NUL, and a macvlan's or VXLAN's lower
			// device has one letter more.
			if len(i.Name) > 14 || strings.ContainsAny(i.Name, "/: ") || i.Name == "lo" {
				r.errorf("%s: node %q: %q is no name for an interface", ctx, end.Node, i.Name)
			}
			if slices.ContainsFunc(n.Interfaces, func(o Interface) bool { return o.Name == i.Name }) {
				r.errorf("%s: node %q: duplicate interface %q", ctx, end.Node, i.Name)
			}
			for _, a := range i.Addrs {
				if !a.IsValid() {
					r.errorf("%s: node %q: an address is not valid", ctx, end.Node)
				} else if other, ok := seen[a.Addr()]; ok {
					r.errorf("%s: node %q: address %v is also that of node %q", ctx, end.Node, a.Addr(), other)
				} else {
					seen[a.Addr()] = end.Node
				}
			}
			n.Interfaces = append(n.Interfaces, i)
		}
	}
}

// targets returns the prefixes that s names: "default", a prefix, an address,
// or a node, whose networks are meant where nets is true and whose addresses
// where not.
func (r *resolver) targets(s string, nets bool) ([]netip.Prefix, error) {
	if s == "default" {
		return []netip.Prefix{
			netip.PrefixFrom(netip.IPv4Unspecified(), 0),
			netip.PrefixFrom(netip.IPv6Unspecified(), 0),
		}, nil
	}
	if n := r.plan.Node(s); n != nil {
		all := n.addrs(0)
		for i, a := range all {
			if nets || i >= len(all)-len(n.Addrs) { // a whole prefix may be its own
				all[i] = a.Masked()
			} else {
				all[i] = netip.PrefixFrom(a.Addr(), a.Addr().BitLen())
			}
		}
		if len(all) == 0 {
			return nil, fmt.Errorf("node %q has no address", s)
		}
		return all, nil
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return []netip.Prefix{p.Masked()}, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return []netip.Prefix{netip.PrefixFrom(a.WithZone(""), a.BitLen())}, nil
	}
	return nil, fmt.Errorf("%q is no node, address or prefix", s)
}

func (r *resolver) routes() {
	for i := range r.plan.Nodes {
		n := &r.plan.Nodes[i]
		var without []netip.Prefix
		for _, rt := range n.Node.Routes {
			dsts, err := r.targets(rt.To, rt.Type == NoRoute)
			if err != nil {
				r.errorf("node %q: route to %q: %w", n.Name, rt.To, err)
				continue
			}
			if rt.Type == NoRoute {
				without = append(without, dsts...)
				continue
			}
			before := len(n.Routes)
			for _, dst := range dsts {
				pr := PlanRoute{Dst: dst, Type: rt.Type, Table: rt.Table, Metric: rt.Metric}
				if rt.Src.IsValid() && rt.Src.Is4() == dst.Addr().Is4() {
					pr.Src = rt.Src
				}
				if rt.Type == Unicast {
					pr.Next = r.nextHops(n, rt, FamilyOf(dst.Addr()))
					if len(pr.Next) == 0 {
						continue // the other family has one, or it is an error
					}
				}
				n.Routes = append(n.Routes, pr)
			}
			if len(n.Routes) == before {
				r.errorf("node %q: route to %q: no next hop %q is a neighbour with an address of its family", n.Name, rt.To, rt.Next)
			}
		}
		for _, rt := range r.auto(n, without) {
			same := func(o PlanRoute) bool { return o.Table == 0 && o.Dst == rt.Dst }
			if !slices.ContainsFunc(n.Routes, same) {
				n.Routes = append(n.Routes, rt)
			}
		}
	}
}

// nextHops returns the next hops of an explicit route in family f.
func (r *resolver) nextHops(n *PlanNode, rt Route, f Family) []NextHop {
	if len(rt.Next) == 0 && rt.Dev != "" {
		if !slices.ContainsFunc(n.Interfaces, func(i Interface) bool { return i.Name == rt.Dev }) && rt.Dev != "lo" {
			r.errorf("node %q: route to %q: no interface %q", n.Name, rt.To, rt.Dev)
		}
		return []NextHop{{Iface: rt.Dev}}
	}
	var hops []NextHop
	for _, next := range rt.Next {
		addr, err := netip.ParseAddr(next)
		peer := r.plan.Node(next)
		if err != nil && peer == nil {
			r.errorf("node %q: route to %q: next hop %q is no node or address", n.Name, rt.To, next)
			continue
		}
		for _, i := range n.Interfaces {
			if rt.Dev != "" && i.Name != rt.Dev {
				continue
			}
			hop := addr
			if peer != nil {
				hop = neighbour(i, peer, f)
			} else if !slices.ContainsFunc(i.Addrs, func(p netip.Prefix) bool { return p.Contains(addr) }) &&
				!(addr.IsLinkLocalUnicast() && rt.Dev != "") {
				continue
			}
			if hop.IsValid() && FamilyOf(hop) == f {
				hops = append(hops, NextHop{Addr: hop.WithZone(""), Iface: i.Name})
				break
			}
		}
	}
	return hops
}

// neighbour returns the address of family f under which peer is on the link of
// interface i, the zero Addr if it is not.
func neighbour(i Interface, peer *PlanNode, f Family) netip.Addr {
	for _, pi := range peer.Interfaces {
		if pi.Link != i.Link || pi.End == i.End {
			continue
		}
		for _, a := range pi.Addrs {
			if FamilyOf(a.Addr()) == f && slices.ContainsFunc(i.Addrs, func(p netip.Prefix) bool { return p.Contains(a.Addr()) }) {
				return a.Addr()
			}
		}
	}
	return netip.Addr{}
}

// auto returns the shortest routes from n to every network of the topology
// that n is not on itself. A host whose routes all go the same way gets one
// default route instead, as hosts have.
func (r *resolver) auto(n *PlanNode, without []netip.Prefix) []PlanRoute {
	var routes []PlanRoute
	for _, f := range []Family{IPv4, IPv6} {
		reach := r.reach(n, f)
		own := map[netip.Prefix]bool{}
		for _, a := range n.addrs(f) {
			own[a.Masked()] = true
		}
		type best struct {
			dist    int
			forward bool
			hop     NextHop
		}
		var order []netip.Prefix
		to := map[netip.Prefix]best{}
		for m := range r.plan.Nodes {
			via, ok := reach[m]
			if !ok {
				continue
			}
			peer := &r.plan.Nodes[m]
			for _, a := range peer.addrs(f) {
				dst := a.Masked()
				if own[dst] {
					continue
				}
				old, known := to[dst]
				if !known {
					order = append(order, dst)
				}
				// A network is entered through a router where it has one.
				if !known || peer.Forward && !old.forward || peer.Forward == old.forward && via.dist < old.dist {
					to[dst] = best{via.dist, peer.Forward, via.hop}
				}
			}
		}
		var mine []PlanRoute
		taken, oneWay := false, true
		for _, dst := range order {
			if slices.ContainsFunc(without, func(w netip.Prefix) bool { return w.Bits() <= dst.Bits() && w.Contains(dst.Addr()) }) {
				taken = true
				continue
			}
			hop := to[dst].hop
			mine = append(mine, PlanRoute{Dst: dst, Next: []NextHop{hop}, Auto: true})
			oneWay = oneWay && hop == mine[0].Next[0]
		}
		if !n.Forward && len(mine) > 0 && oneWay && !taken {
			mine = mine[:1]
			mine[0].Dst = netip.PrefixFrom(mine[0].Next[0].Addr, 0).Masked()
		}
		routes = append(routes, mine...)
	}
	return routes
}

type via struct {
	dist int
	hop  NextHop
}

// reach returns for each node that n can reach in family f how far it is and
// which is the first hop: a breadth-first search, in which only routers pass
// on. n does not use its own interfaces that are down; what happens to a link
// further away its static routes can't know.
func (r *resolver) reach(n *PlanNode, f Family) map[int]via {
	reach := map[int]via{}
	index := func(p *PlanNode) int {
		return slices.IndexFunc(r.plan.Nodes, func(o PlanNode) bool { return o.Name == p.Name })
	}
	queue := []*PlanNode{n}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		if at != n && !at.Forward {
			continue
		}
		for _, i := range at.Interfaces {
			if at == n && i.Down {
				continue
			}
			for m := range r.plan.Nodes {
				peer := &r.plan.Nodes[m]
				if _, ok := reach[m]; ok || peer == n {
					continue
				}
				addr := neighbour(i, peer, f)
				if !addr.IsValid() {
					continue
				}
				v := via{1, NextHop{Addr: addr, Iface: i.Name}}
				if at != n {
					v = via{reach[index(at)].dist + 1, reach[index(at)].hop}
				}
				reach[m] = v
				queue = append(queue, peer)
			}
		}
	}
	return reach
}

func (r *resolver) rules() {
	for i := range r.plan.Nodes {
		n := &r.plan.Nodes[i]
		for k, rule := range n.Node.Rules {
			rules, err := r.plan.expand(n, rule)
			if err != nil {
				r.errorf("node %q: rule %d (%s): %w", n.Name, k, rule.Hook, err)
			}
			n.Rules = append(n.Rules, rules...)
		}
	}
}

// hooksOf lists the hooks at which the kernel allows an action; the others
// are allowed at all.
var hooksOf = map[Action][]Hook{
	DNAT:       {Prerouting, Output},
	Redirect:   {Prerouting, Output},
	SNAT:       {Postrouting, Input},
	Masquerade: {Postrouting},
	Notrack:    {Prerouting, Output},
	SynProxy:   {Forward, Input},
}

// expand returns the rules of n that rule stands for: one for each family and
// each pair of addresses.
func (p *Plan) expand(n *PlanNode, rule Rule) ([]PlanRule, error) {
	if int(rule.Hook) >= len(hookNames) {
		return nil, errors.New("unknown hook")
	}
	hooks, special := hooksOf[rule.Action]
	_, _, rejects := rule.Action.ICMPCodes()
	switch {
	case rule.Action > SetTTL:
		return nil, fmt.Errorf("unknown action %d", rule.Action)
	case special && !slices.Contains(hooks, rule.Hook):
		return nil, fmt.Errorf("the action is possible at %v only", hooks)
	case (rejects || rule.Action == Reset) && (rule.Hook == Postrouting || rule.Hook == Egress):
		return nil, errors.New("nothing can be rejected here")
	case rule.Action == Reset && rule.Proto != TCP:
		return nil, errors.New("only TCP can be reset: set Proto")
	case rule.Action == SynProxy && rule.Proto != TCP:
		return nil, errors.New("only TCP can be proxied: set Proto")
	case (rule.SrcPort != 0 || rule.DstPort != 0 || rule.ToPort != 0) && rule.Proto != TCP && rule.Proto != UDP:
		return nil, errors.New("ports need Proto TCP or UDP")
	case (rule.Flags != 0 || rule.FlagMask != 0) && rule.Proto != TCP:
		return nil, errors.New("flags need Proto TCP")
	case rule.ICMP != AnyICMP && rule.Proto != 0 && rule.Proto != ICMP:
		return nil, errors.New("an ICMP type needs Proto ICMP")
	case rule.Every < 0 || rule.Phase < 0 || rule.Phase > max(0, rule.Every-1):
		return nil, errors.New("rule field Phase is not below Every")
	case rule.Chance < 0 || rule.Chance > 1:
		return nil, errors.New("rule field Chance is no probability")
	case rule.Limit != Limit{} && rule.Limit.Rate <= 0:
		return nil, errors.New("the limit has no rate")
	case !slices.Contains([]time.Duration{0, time.Second, time.Minute, time.Hour}, rule.Limit.Per):
		return nil, errors.New("a limit is for a second, a minute or an hour")
	case rule.Action == SetTTL && rule.TTL == 0:
		return nil, errors.New("a TTL of 0 can't be sent: set TTL")
	case rule.State != 0 && (rule.Hook == Ingress || rule.Hook == Egress):
		return nil, errors.New("there is no connection tracking yet here")
	}
	for _, name := range []string{rule.InIface, rule.OutIface} {
		if name != "" && name != "lo" && !slices.ContainsFunc(n.Interfaces, func(i Interface) bool { return i.Name == name }) {
			return nil, fmt.Errorf("no interface %q", name)
		}
	}
	if rule.ICMP != AnyICMP {
		rule.Proto = ICMP
	}
	r := resolver{plan: p}
	ends := func(s string, f Family) ([]netip.Prefix, error) {
		if s == "" {
			return []netip.Prefix{{}}, nil
		}
		all, err := r.targets(s, false)
		return slices.DeleteFunc(all, func(p netip.Prefix) bool { return FamilyOf(p.Addr()) != f }), err
	}
	var rules []PlanRule
	for _, f := range []Family{IPv4, IPv6} {
		if rule.Only != 0 && rule.Only != f || rule.Fragment && f == IPv6 {
			continue
		}
		pr := PlanRule{Rule: rule, Family: f}
		if rule.Action == DNAT || rule.Action == SNAT {
			to, err := ends(rule.To, f)
			if err != nil || rule.To == "" {
				return nil, fmt.Errorf("translation to %q: no node or address", rule.To)
			}
			if len(to) == 0 {
				continue
			}
			pr.To = to[0].Addr()
		}
		srcs, err := ends(rule.Src, f)
		if err != nil {
			return nil, fmt.Errorf("source: %w", err)
		}
		dsts, err := ends(rule.Dst, f)
		if err != nil {
			return nil, fmt.Errorf("destination: %w", err)
		}
		for _, pr.Src = range srcs {
			for _, pr.Dst = range dsts {
				rules = append(rules, pr)
			}
		}
	}
	if len(rules) == 0 {
		return nil, errors.New("matches no family")
	}
	return rules, nil
}
