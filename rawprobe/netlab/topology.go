// Package netlab is the test lab: networks written as data, built on the
// real kernel.
//
// A [Topology] says which nodes there are, how they are linked, which routes,
// firewall rules and services they have. It knows nothing of an operating
// system, and leaves out all that can be worked out: [Topology.Resolve] gives
// every interface its name and its addresses of both families and every node
// its routes, and returns a [Plan] in which nothing is left to choose. The same
// plan is read by the simulated internet of package simnet.
//
// [Start] builds a plan in network namespaces, by netlink alone: no ip or nft
// program is needed. The namespaces have no names and live as long as the test
// process holds them, so that even a killed test leaves nothing behind. [Use]
// does the same for a program.
package netlab

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Family is an address family. The zero Family stands for both.
type Family uint8

// The address families, named by their IP version.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// String returns "ipv4", "ipv6" or "both".
func (f Family) String() string {
	switch f {
	case IPv4:
		return "ipv4"
	case IPv6:
		return "ipv6"
	}
	return "both"
}

// FamilyOf returns the family of a, IPv6 for an IPv4-mapped address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// A Topology is a network as data.
type Topology struct {
	// Name says which topology it is in messages.
	Name string
	// Nodes are the machines, in any order.
	Nodes []Node
	// Links join them. The number of a link, from 1, is the third byte of
	// the addresses that it hands out; see [Link].
	Links []Link
}

// A Node is a host or a router.
type Node struct {
	// Name is what links, routes and rules call it. Letters, digits, '-'.
	Name string
	// Forward makes it a router: it passes on what is not its own.
	Forward bool
	// Addrs are further addresses of its own, on no link (on "lo"). Others
	// get routes to them. A prefix shorter than an address makes every
	// address in it the node's own ("ip route add local PREFIX dev lo").
	Addrs []netip.Prefix
	// Routes add to the routes that Resolve works out, or replace them.
	Routes []Route
	// Policies choose a routing table; see ip-rule(8).
	Policies []Policy
	// Rules are the node's firewall, in order: for each hook the first rule
	// that matches and decides anything decides, and what no rule
	// decides is accepted.
	Rules []Rule
	// Listen are its services: "tcp:80" accepts on all addresses of both
	// families, sends the node's name and closes; "tcp:81/full" listens with
	// an accept queue that is full (field notes 36, 37).
	Listen []string
	// Sysctls are kernel settings, such as "net.ipv4.icmp_ratelimit": "0",
	// which only a lab on a real kernel heeds.
	Sysctls map[string]string
}

// A LinkKind says what a link is made of.
type LinkKind uint8

// The kinds of links.
const (
	// Veth is a virtual Ethernet cable with two ends. What one end sends
	// the other has received before the send call returns.
	Veth LinkKind = iota
	// Tun is a point-to-point IP link of two tun devices without link-layer
	// addresses, joined by the lab, which can delay, lose, reorder and
	// duplicate packets; see [Impairment].
	Tun
	// Macvlan is a veth cable on whose first end sits a macvlan device, which
	// carries the addresses; the veth below it has none.
	Macvlan
	// VXLAN is a veth cable with addresses of its own (198.18.0.0/15), over
	// which both ends speak VXLAN; the VXLAN devices carry the addresses.
	VXLAN
	// Segment is an Ethernet switch with any number of ends.
	Segment
)

// String returns the kind's name in lower case.
func (k LinkKind) String() string {
	if int(k) < len(linkKindNames) {
		return linkKindNames[k]
	}
	return "kind" + strconv.Itoa(int(k))
}

var linkKindNames = [...]string{"veth", "tun", "macvlan", "vxlan", "segment"}

// A Link joins the interfaces of two or more nodes.
//
// Ends that name no addresses get them from the link's number k in the
// topology, counted from 1, and their own number e, counted from 1:
// 10.0.k.e/24 and fd00:0:0:k::e/64 (k and e in decimal and in hexadecimal, as
// each family writes its numbers), fe80::k:e/64 and 02:00:00:00:k:e.
type Link struct {
	Kind LinkKind
	Ends []End
	// Wire impairs a Tun link; nil is a perfect one.
	Wire *Impairment
	// MTU is in bytes; 0 is what the kernel gives.
	MTU int
	// Only restricts the addresses handed out to one family.
	Only Family
}

// An End is one interface of a node.
type End struct {
	// Node is the node's name.
	Node string
	// Iface is the interface's name. Empty is "eth" and the number of the
	// interface among the node's own, from 0, or "tun" and that number.
	Iface string
	// Addrs replace the addresses of the link's own plan. To have none at
	// all, set NoAddrs.
	Addrs []netip.Prefix
	// NoAddrs leaves the interface without addresses, but for its IPv6
	// link-local one.
	NoAddrs bool
	// NoARP makes the interface resolve no neighbours.
	NoARP bool
	// Down leaves the interface administratively down. The other end of a
	// cable then has no carrier.
	Down bool
}

// An Impairment is what a bad line does to packets, in each direction by
// itself. The zero Impairment is a perfect line.
type Impairment struct {
	// Delay holds every packet back; Jitter adds up to as much again, even.
	// Packets keep their order unless Reorder says otherwise.
	Delay, Jitter time.Duration
	// Loss, Duplicate and Reorder are probabilities between 0 and 1. A
	// reordered packet skips the delay and so overtakes those before it.
	Loss, Duplicate, Reorder float64
	// Seed makes the same line do the same again. A direction's random
	// numbers come from Seed and the number of the end that sends.
	Seed uint64
}

// A RouteType says what a route does with a packet.
type RouteType uint8

// The types of routes; see ip-route(8).
const (
	// Unicast sends it to the next hop.
	Unicast RouteType = iota
	// Unreachable answers host-unreachable (IPv6: no route).
	Unreachable
	// Prohibit answers that it is administratively prohibited.
	Prohibit
	// Blackhole drops it without an answer.
	Blackhole
	// NoRoute is no route at all: it takes away the routes that Resolve
	// would have made to any part of the destination.
	NoRoute
)

// String returns the type's name in lower case.
func (t RouteType) String() string {
	if int(t) < len(routeTypeNames) {
		return routeTypeNames[t]
	}
	return "type" + strconv.Itoa(int(t))
}

var routeTypeNames = [...]string{"unicast", "unreachable", "prohibit", "blackhole", "noroute"}

// A Route is a route of one node, for one family or both.
type Route struct {
	// To is "default", a prefix, an address, or a node's name: then every
	// address of that node, or for NoRoute the networks of its addresses.
	To string
	// Next are the next hops of a Unicast route: addresses or names of
	// neighbours. With more than one, flows are spread evenly (ECMP).
	Next []string
	// Dev is the interface, needed only where there is no next hop.
	Dev  string
	Type RouteType
	// Table is the routing table, 0 for the main one.
	Table int
	// Metric orders routes to the same destination, lower first.
	Metric int
	// Src is the preferred source address.
	Src netip.Addr
}

// A Policy sends packets to a routing table; see ip-rule(8).
type Policy struct {
	// Table is the table that routes what matches.
	Table int
	// Proto, SrcPort and DstPort match where they are not zero.
	Proto            Proto
	SrcPort, DstPort uint16
	// UID matches packets of one user of the machine, where HasUID is set.
	UID    uint32
	HasUID bool
	// Only restricts the policy to one family.
	Only Family
}

// A Hook is a point on a packet's way through a node.
type Hook uint8

// The hooks, in the order in which a packet meets them.
const (
	// Ingress is before everything else, packet taps excepted: also before
	// the TTL is looked at.
	Ingress Hook = iota
	// Prerouting is before the routing decision and before the TTL check.
	Prerouting
	// Input is for what is the node's own.
	Input
	// Forward is for what the node passes on, after the TTL check.
	Forward
	// Output is for what the node itself sends.
	Output
	// Postrouting is before anything leaves, forwarded or own.
	Postrouting
	// Egress is after everything else.
	Egress
)

// String returns the hook's name in lower case.
func (h Hook) String() string {
	if int(h) < len(hookNames) {
		return hookNames[h]
	}
	return "hook" + strconv.Itoa(int(h))
}

var hookNames = [...]string{"ingress", "prerouting", "input", "forward", "output", "postrouting", "egress"}

// A Proto is an IP protocol. The zero Proto is any.
type Proto uint8

// The protocols that a rule can match.
const (
	TCP Proto = 6
	UDP Proto = 17
	// ICMP is ICMP in IPv4 and ICMPv6 in IPv6, there without neighbour
	// discovery (types 133 to 137): a filter that takes those away cuts the
	// cable.
	ICMP Proto = 1
)

// Flags are TCP flags as the header has them.
type Flags uint8

// The TCP flags.
const (
	FIN Flags = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// An ICMPKind is a kind of ICMP message that both families have.
type ICMPKind uint8

// The ICMP kinds.
const (
	AnyICMP ICMPKind = iota
	EchoRequest
	EchoReply
	DestinationUnreachable
	TimeExceeded
)

// Types returns the message types of k in ICMP and in ICMPv6.
func (k ICMPKind) Types() (v4, v6 uint8) {
	switch k {
	case EchoRequest:
		return 8, 128
	case EchoReply:
		return 0, 129
	case DestinationUnreachable:
		return 3, 1
	case TimeExceeded:
		return 11, 3
	}
	return 0, 0
}

// CTState is a set of connection tracking states.
type CTState uint8

// The states; see nft(8), "ct state".
const (
	CTNew CTState = 1 << iota
	CTEstablished
	CTRelated
	CTInvalid
	CTUntracked
)

// A Limit is a token bucket: a rule with a limit matches Rate packets in each
// Per, and Burst at once. The zero Limit is none.
type Limit struct {
	Rate  int
	Per   time.Duration // a second (also the meaning of 0), a minute or an hour
	Burst int           // 0 is 5, as in nft(8)
	// Over turns it round: the rule matches what is above the limit.
	Over bool
}

// A Rule is one rule of a node's firewall. Every field of the match that is
// set must match; a rule that sets none matches everything, in IPv4 and IPv6.
//
// Every, Chance and Limit count for each family, and for each address of a
// node that Src or Dst names, by itself.
type Rule struct {
	Hook Hook
	// Name is for [Machine.Hits]; it need not be unique.
	Name string

	Only             Family
	Proto            Proto
	SrcPort, DstPort uint16
	// Src and Dst are a node's name (any of its addresses), an address or a
	// prefix.
	Src, Dst string
	// InIface and OutIface are the node's own interfaces.
	InIface, OutIface string
	// Flags are the flags that are set, of those in FlagMask. A zero
	// FlagMask is SYN, ACK, RST and FIN, where Flags is not zero.
	Flags, FlagMask Flags
	ICMP            ICMPKind
	State           CTState
	// Fragment matches IPv4 fragments: those with an offset or with more to
	// come.
	Fragment bool
	// Every matches one packet in Every, counted from the one that Phase
	// names: with Every 3 and Phase 0 the first, the fourth, the seventh.
	Every, Phase int
	// Chance matches at random with this probability, in steps of 1/1000.
	Chance float64
	Limit  Limit

	Action Action
	// To is where DNAT and SNAT translate to: a node's name or an address.
	To string
	// ToPort is the port for DNAT and Redirect; 0 leaves it.
	ToPort uint16
	// TTL is the TTL or hop limit that SetTTL gives.
	TTL uint8
}

// An Action is what a rule does.
type Action uint8

// The actions. The rejections are named by what they say in ICMP; IPv6 has no
// equal of some and then says what its kernel counterpart says, as in
// [Action.ICMPCodes].
const (
	Drop Action = iota
	Accept
	// Count only counts; the next rule goes on.
	Count
	// Reset answers a TCP segment with an RST from its destination.
	Reset
	RejectPort       // port unreachable
	RejectHost       // host unreachable, address unreachable
	RejectNet        // network unreachable, no route
	RejectAdmin      // administratively prohibited (3/13, 1/1)
	RejectHostAdmin  // host administratively prohibited (3/10, 1/1)
	RejectNetAdmin   // network administratively prohibited (3/9, 1/1)
	RejectProto      // protocol unreachable (3/2; 1/4 in IPv6)
	RejectPolicyFail // source address failed policy (1/5; 3/13 in IPv4)
	RejectRoute      // reject route to destination (1/6; 3/13 in IPv4)
	// DNAT changes the destination (hooks Prerouting and Output).
	DNAT
	// SNAT changes the source (Postrouting and Input).
	SNAT
	// Masquerade changes the source to that of the interface (Postrouting).
	Masquerade
	// Redirect changes the destination to the node itself (Prerouting and
	// Output).
	Redirect
	// Notrack takes the packet out of connection tracking (Prerouting and
	// Output), before it begins.
	Notrack
	// SynProxy answers SYNs in the server's place and connects to it only
	// when the client has answered (Forward and Input); see nft(8).
	SynProxy
	// SetTTL changes the TTL or hop limit, and the next rule goes on.
	SetTTL
)

// ICMPCodes returns the codes of the destination-unreachable messages that a
// rejection sends (type 3 in IPv4, 1 in IPv6), and false for other actions.
func (a Action) ICMPCodes() (v4, v6 uint8, ok bool) {
	switch a {
	case RejectPort:
		return 3, 4, true
	case RejectHost:
		return 1, 3, true
	case RejectNet:
		return 0, 0, true
	case RejectAdmin:
		return 13, 1, true
	case RejectHostAdmin:
		return 10, 1, true
	case RejectNetAdmin:
		return 9, 1, true
	case RejectProto:
		return 2, 4, true
	case RejectPolicyFail:
		return 13, 5, true
	case RejectRoute:
		return 13, 6, true
	}
	return 0, 0, false
}

// Join returns a veth link of nodes a and b.
func Join(a, b string) Link { return Link{Ends: []End{{Node: a}, {Node: b}}} }

// Chain returns a client, n routers and a server in a row: "client", "r1" to
// "rN", "server", which listens on port 80. The client is 10.0.1.1, hop k is
// 10.0.k.2 and fd00:0:0:k::2, the server is hop n+1.
func Chain(n int) Topology {
	names := []string{"client"}
	for i := range n {
		names = append(names, "r"+strconv.Itoa(i+1))
	}
	return Line(append(names, "server")...)
}

// Line returns a chain of nodes with these names: the last listens on port 80,
// those between are routers.
func Line(names ...string) Topology {
	t := Topology{Name: strings.Join(names, "-")}
	for i, name := range names {
		n := Node{Name: name, Forward: i > 0 && i < len(names)-1}
		if i == len(names)-1 {
			n.Listen = []string{"tcp:80"}
		}
		t.Nodes = append(t.Nodes, n)
		if i > 0 {
			t.Links = append(t.Links, Join(names[i-1], name))
		}
	}
	return t
}

// Diamond returns two paths of the same length between client and server, over
// which r1 spreads flows by their ports, and r2 the answers:
//
//	client - r1 - a, b - r2 - server
//
// Links are numbered client-r1, r1-a, r1-b, a-r2, b-r2, r2-server.
func Diamond() Topology {
	t := Line("client", "r1", "a", "r2", "server")
	t.Name = "diamond"
	t.Nodes = append(t.Nodes, Node{Name: "b", Forward: true})
	t.Links = []Link{
		Join("client", "r1"),
		Join("r1", "a"), Join("r1", "b"),
		Join("a", "r2"), Join("b", "r2"),
		Join("r2", "server"),
	}
	return t.
		WithRoutes("r1", Route{To: "server", Next: []string{"a", "b"}}).
		WithRoutes("r2", Route{To: "client", Next: []string{"a", "b"}})
}

// With returns a copy of t in which edit has changed a node. It panics if
// there is no such node: that is a fault of the program.
func (t Topology) With(node string, edit func(*Node)) Topology {
	i := slices.IndexFunc(t.Nodes, func(n Node) bool { return n.Name == node })
	if i < 0 {
		panic("netlab: topology " + strconv.Quote(t.Name) + " has no node " + strconv.Quote(node))
	}
	t.Nodes = slices.Clone(t.Nodes)
	edit(&t.Nodes[i])
	return t
}

// WithRules returns a copy of t with more rules on a node.
func (t Topology) WithRules(node string, rules ...Rule) Topology {
	return t.With(node, func(n *Node) { n.Rules = slices.Concat(n.Rules, rules) })
}

// WithRoutes returns a copy of t with more routes on a node.
func (t Topology) WithRoutes(node string, routes ...Route) Topology {
	return t.With(node, func(n *Node) { n.Routes = slices.Concat(n.Routes, routes) })
}

// WithListen returns a copy of t with more services on a node.
func (t Topology) WithListen(node string, services ...string) Topology {
	return t.With(node, func(n *Node) { n.Listen = slices.Concat(n.Listen, services) })
}

// WithSysctl returns a copy of t with one more kernel setting on a node.
func (t Topology) WithSysctl(node, key, value string) Topology {
	return t.With(node, func(n *Node) {
		m := map[string]string{key: value}
		for k, v := range n.Sysctls {
			if k != key {
				m[k] = v
			}
		}
		n.Sysctls = m
	})
}

// WithNode returns a copy of t with one more node.
func (t Topology) WithNode(n Node) Topology {
	t.Nodes = append(slices.Clone(t.Nodes), n)
	return t
}

// WithLink returns a copy of t in which edit has changed link k, counted from
// 1 as in addresses; k one above the last adds a link. It panics on other
// numbers.
func (t Topology) WithLink(k int, edit func(*Link)) Topology {
	links := make([]Link, max(len(t.Links), k))
	copy(links, t.Links)
	if k < 1 || k > len(t.Links)+1 {
		panic("netlab: topology " + strconv.Quote(t.Name) + " has no link " + strconv.Itoa(k))
	}
	links[k-1].Ends = slices.Clone(links[k-1].Ends)
	t.Links = links
	edit(&t.Links[k-1])
	return t
}
