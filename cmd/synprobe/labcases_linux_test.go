package main

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"synprobe/rawprobe/netlab"
)

// quick bounds the commands that an answer ends.
const quick = 700 * time.Millisecond

// silent bounds those about a drop by, or before, a host that is alive.
const silent = 2500 * time.Millisecond

// labCases are the networks that the program must explain.
func labCases() []labCase {
	var all []labCase
	for _, group := range [][]labCase{answers(), refusals(), silences(), deadHosts(), ownMachine(), ownFirewall(), ownTranslation(), links(), loss(), proofs()} {
		all = append(all, group...)
	}
	return all
}

func answers() []labCase {
	two := netlab.Chain(2)
	return []labCase{
		{name: "open", net: two, verdict: "open", cause: "listening", certainty: "certain", within: quick, evidence: []string{"syn-ack", "same-distance"}},
		{name: "open on the link", net: netlab.Chain(0), verdict: "open", cause: "listening", certainty: "certain", within: quick},
		{name: "open, echo filtered",
			net:     two.WithRules("server", netlab.Rule{Hook: netlab.Input, Proto: netlab.ICMP, ICMP: netlab.EchoRequest, Action: netlab.Drop}),
			verdict: "open", cause: "listening", certainty: "likely", alternatives: []string{"proxy"}, within: quick},
		{name: "closed", net: two, port: 81, verdict: "reject", cause: "port-closed", certainty: "certain", where: "destination", hops: []string{"server"}, within: quick},
		{name: "closed, echo filtered", port: 81,
			net:     two.WithRules("server", netlab.Rule{Hook: netlab.Input, Proto: netlab.ICMP, ICMP: netlab.EchoRequest, Action: netlab.Drop}),
			verdict: "reject", cause: "port-closed", certainty: "likely", where: "destination", alternatives: []string{"network-firewall"}, within: quick},
		{name: "proxy on a router",
			net: two.WithListen("r1", "tcp:3128").WithRules("r1",
				netlab.Rule{Hook: netlab.Prerouting, Proto: netlab.TCP, DstPort: 80, Action: netlab.Redirect, ToPort: 3128}),
			verdict: "open", cause: "proxy", certainty: "certain", where: "path", hops: []string{"r1"}, evidence: []string{"provoked-early"}, within: quick},
		{name: "port forward to a live backend", target: node("r1"),
			net:     two.WithRules("r1", netlab.Rule{Hook: netlab.Prerouting, Proto: netlab.TCP, DstPort: 80, Action: netlab.DNAT, To: "server"}),
			verdict: "open", cause: "listening", certainty: "likely", alternatives: []string{"proxy"}, within: 2 * time.Second},
	}
}

func refusals() []labCase {
	two := netlab.Chain(2)
	cases := []labCase{
		{name: "host resets", net: two.WithRules("server", tcp80(netlab.Input, netlab.Reset)),
			verdict: "reject", cause: "port-closed", certainty: "certain", where: "destination", hops: []string{"server"}, within: quick},
		{name: "router without a route", net: two.WithRoutes("r1", netlab.Route{To: "server", Type: netlab.NoRoute}),
			verdict: "network-down", cause: "net-unreachable", certainty: "likely", alternatives: []string{"network-firewall"}, where: "path", hops: []string{"r1"}, within: time.Second},
		{name: "router prohibits", net: two.WithRoutes("r1", netlab.Route{To: "server", Type: netlab.Prohibit}),
			verdict: "reject", cause: "network-firewall", certainty: "certain", where: "path", hops: []string{"r1"}, within: time.Second},
		{name: "router has an unreachable route", only: []netlab.Family{netlab.IPv4},
			net:     two.WithRoutes("r1", netlab.Route{To: "server", Type: netlab.Unreachable}),
			verdict: "host-down", cause: "host-unreachable", certainty: "likely", where: "destination", hops: []string{"server"},
			alternatives: []string{"network-firewall"}, within: time.Second},
		{name: "router has an unreachable route", only: []netlab.Family{netlab.IPv6}, // the kernel says "no route" for it
			net:     two.WithRoutes("r1", netlab.Route{To: "server", Type: netlab.Unreachable}),
			verdict: "network-down", cause: "net-unreachable", certainty: "likely", alternatives: []string{"network-firewall"}, where: "path", hops: []string{"r1"}, within: time.Second},
		{name: "routing loop",
			net: two.WithRoutes("r1", netlab.Route{To: "server", Type: netlab.NoRoute}, netlab.Route{To: "default", Next: []string{"r2"}}).
				WithRoutes("r2", netlab.Route{To: "server", Type: netlab.NoRoute}, netlab.Route{To: "default", Next: []string{"r1"}}),
			target:  literal("192.0.2.9", "2001:db8::9"),
			verdict: "network-down", cause: "routing-loop", certainty: "certain", where: "path", within: time.Second},
	}
	for _, a := range []struct {
		name   string
		action netlab.Action
	}{{"port-unreachable", netlab.RejectPort}, {"admin-prohibited", netlab.RejectAdmin}} {
		cases = append(cases, labCase{name: "host rejects with " + a.name, net: two.WithRules("server", tcp80(netlab.Input, a.action)),
			verdict: "reject", cause: "host-firewall", certainty: "certain", where: "destination", hops: []string{"server"}, within: quick})
	}
	cases = append(cases,
		labCase{name: "r1 rejects with a reset", net: two.WithRules("r1", tcp80(netlab.Forward, netlab.Reset)),
			verdict: "reject", cause: "network-firewall", certainty: "certain", where: "path", hops: []string{"r1"}, evidence: []string{"provoked-early"}, within: quick},
		// The last router's reset needs as high a TTL as the host's own.
		labCase{name: "r2 rejects with a reset", net: two.WithRules("r2", tcp80(netlab.Forward, netlab.Reset)),
			verdict: "reject", cause: "network-firewall", certainty: "likely", where: "path", hops: []string{"r2"},
			alternatives: []string{"port-closed"}, evidence: []string{"other-distance"}, within: quick},
	)
	for _, router := range []string{"r1", "r2"} {
		for _, a := range []struct {
			name   string
			action netlab.Action
		}{
			{"admin-prohibited", netlab.RejectAdmin}, {"port-unreachable", netlab.RejectPort},
			{"host-unreachable", netlab.RejectHost}, {"no-route", netlab.RejectNet},
		} {
			cases = append(cases, labCase{name: router + " rejects with " + a.name, net: two.WithRules(router, tcp80(netlab.Forward, a.action)),
				verdict: "reject", cause: "network-firewall", certainty: "certain", where: "path", hops: []string{router}, within: 2 * time.Second})
		}
	}
	return cases
}

func silences() []labCase {
	two := netlab.Chain(2)
	return []labCase{
		{name: "host drops", net: two.WithRules("server", tcp80(netlab.Input, netlab.Drop)),
			verdict: "drop", cause: "host-firewall", certainty: "likely", where: "destination", hops: []string{"server"},
			alternatives: []string{"network-firewall", "not-accepting", "return-path"}, evidence: []string{"silent-subject", "last-step"}, within: silent},
		{name: "host drops, without a trace", net: two.WithRules("server", tcp80(netlab.Input, netlab.Drop)), args: args("--trace=never"),
			verdict: "drop", cause: "unknown", certainty: "ambiguous", where: "unknown",
			alternatives: []string{"network-firewall", "host-firewall", "not-accepting", "return-path"}, evidence: []string{"silent-subject", "echo-reply"}},
		{name: "host on the link drops", net: netlab.Chain(0).WithRules("server", tcp80(netlab.Input, netlab.Drop)),
			verdict: "drop", cause: "host-firewall", certainty: "likely", where: "destination", hops: []string{"server"},
			alternatives: []string{"not-accepting", "network-firewall"}, within: silent},
		{name: "host on the link drops everything", net: netlab.Chain(0).WithRules("server",
			netlab.Rule{Hook: netlab.Input, Proto: netlab.TCP, Action: netlab.Drop}, netlab.Rule{Hook: netlab.Input, Proto: netlab.ICMP, Action: netlab.Drop},
			netlab.Rule{Hook: netlab.Input, Proto: netlab.UDP, Action: netlab.Drop}),
			verdict: "drop", cause: "host-firewall", certainty: "ambiguous", where: "destination", alternatives: []string{"host-unreachable"}},
		{name: "router drops", net: two.WithRules("r1", tcp80(netlab.Forward, netlab.Drop)),
			verdict: "drop", cause: "network-firewall", certainty: "certain", where: "path", hops: []string{"r1", "r2"}, within: silent},
		{name: "router drops everything", net: two.WithRules("r2", netlab.Rule{Hook: netlab.Forward, Action: netlab.Drop}),
			verdict: "drop", cause: "unknown", certainty: "ambiguous", where: "path", hops: []string{"r2", ""}, alternatives: []string{"network-firewall", "host-unreachable"}},
		{name: "black hole route on a router", net: two.WithRoutes("r1", netlab.Route{To: "server", Type: netlab.Blackhole}),
			verdict: "drop", cause: "unknown", certainty: "ambiguous", where: "path"},
		{name: "accept queue full", net: netlab.Chain(0).WithListen("server", "tcp:81/full"), port: 81,
			verdict: "drop", cause: "not-accepting", certainty: "likely", where: "destination", hops: []string{"server"},
			alternatives: []string{"host-firewall", "network-firewall"}, within: silent},
	}
}

func deadHosts() []labCase {
	one := netlab.Chain(1)
	nextHop := 2 * time.Second
	return []labCase{
		{name: "target on the link is down", net: netlab.Chain(0), setup: die("server"),
			verdict: "host-down", cause: "neighbor-unreachable", certainty: "certain", where: "destination", hops: []string{"server"}, within: nextHop},
		{name: "target on the link just died", net: netlab.Chain(0), setup: justDied("client", "server"),
			verdict: "host-down", cause: "neighbor-unreachable", certainty: "certain", where: "destination", hops: []string{"server"}, within: nextHop},
		{name: "no such host on the link", net: one, target: literal("10.0.1.77", "fd00:0:0:1::77"),
			verdict: "host-down", cause: "neighbor-unreachable", certainty: "certain", where: "destination", within: nextHop},
		{name: "gateway down", net: one, setup: die("r1"),
			verdict: "network-down", cause: "gateway-down", certainty: "certain", where: "local", hops: []string{"client", "r1"}, within: nextHop},
		{name: "gateway just died", net: one, setup: justDied("client", "r1"),
			verdict: "network-down", cause: "gateway-down", certainty: "certain", where: "local", hops: []string{"client", "r1"}, within: nextHop},
		{name: "target behind a router is down", net: one, setup: die("server"),
			verdict: "host-down", cause: "host-unreachable", certainty: "likely", where: "destination", hops: []string{"server"},
			alternatives: []string{"unknown"}, evidence: []string{"searched"}},
		// The router before it says the same as for a dead host.
		{name: "last router is down", net: netlab.Chain(2), setup: die("r2"),
			verdict: "host-down", cause: "host-unreachable", certainty: "likely", where: "destination", alternatives: []string{"unknown"}},
		{name: "target behind a router just died", net: one, setup: justDied("r1", "server"),
			verdict: "drop", cause: "unknown", certainty: "ambiguous", where: "path", hops: []string{"r1", ""}, alternatives: []string{"host-unreachable"}},
		{name: "port forward to a dead backend", target: node("r1"),
			net:   one.WithRules("r1", netlab.Rule{Hook: netlab.Prerouting, Proto: netlab.TCP, DstPort: 80, Action: netlab.DNAT, To: "server"}),
			setup: die("server"), verdict: "host-down", cause: "host-unreachable", certainty: "likely", where: "destination", hops: []string{"r1"},
			evidence: []string{"icmp-from-target"}},
	}
}

func ownMachine() []labCase {
	one := netlab.Chain(1)
	var cases []labCase
	for _, r := range []netlab.RouteType{netlab.NoRoute, netlab.Unreachable, netlab.Prohibit, netlab.Blackhole} {
		cases = append(cases, labCase{name: "own route: " + r.String(), net: one.WithRoutes("client", netlab.Route{To: "server", Type: r}),
			verdict: "network-down", cause: "no-route", certainty: "certain", where: "local", hops: []string{"client"}, within: quick})
	}
	return append(cases, []labCase{
		{name: "link down, target on it", net: netlab.Chain(0), only: []netlab.Family{netlab.IPv4}, setup: linkDown("client", "eth0"),
			verdict: "network-down", cause: "link-down", certainty: "certain", where: "local", within: quick},
		{name: "link down", net: one, setup: linkDown("client", "eth0"),
			verdict: "network-down", cause: "link-down", certainty: "likely", where: "local", within: quick},
		{name: "link down, another route takes over", only: []netlab.Family{netlab.IPv4},
			net:    one.WithLink(3, func(l *netlab.Link) { *l = netlab.Join("client", "peer") }).WithNode(netlab.Node{Name: "peer"}),
			target: node("peer"), setup: func(t *testing.T, l *netlab.Lab, _ netlab.Family) {
				l.Node("client").AddRoute(netlab.Route{To: "default", Next: []string{"r1"}})
				l.Node("client").LinkDown("eth1")
			},
			verdict: "network-down", cause: "link-down", certainty: "likely", where: "local"},
		{name: "no carrier", net: one, setup: func(_ *testing.T, l *netlab.Lab, _ netlab.Family) { l.Node("client").NoCarrier("eth0") },
			verdict: "network-down", cause: "link-down", certainty: "certain", where: "local", within: quick},
		{name: "no address", only: []netlab.Family{netlab.IPv4},
			net: netlab.Chain(0).WithLink(1, func(l *netlab.Link) { l.Ends[0].NoAddrs = true }).
				WithRoutes("client", netlab.Route{To: "default", Dev: "eth0"}),
			target:  literal("192.0.2.1", ""),
			verdict: "network-down", cause: "no-address", certainty: "certain", where: "local", within: quick},
		{name: "no address but the link's", only: []netlab.Family{netlab.IPv6},
			net: netlab.Chain(0).WithLink(1, func(l *netlab.Link) { l.Ends[0].NoAddrs = true }),
			setup: func(t *testing.T, l *netlab.Lab, _ netlab.Family) {
				l.Node("client").AddRoute(netlab.Route{To: "default", Next: []string{"fe80::1:2"}, Dev: "eth0"})
			},
			target:  literal("", "2001:db8::1"),
			verdict: "network-down", cause: "no-address", certainty: "certain", where: "local", within: quick},
		{name: "loopback open", net: one.WithListen("client", "tcp:22"), target: literal("127.0.0.1", "::1"), port: 22,
			verdict: "open", cause: "listening", certainty: "certain", within: quick},
		{name: "loopback closed", net: one, target: literal("127.0.0.1", "::1"), port: 23,
			verdict: "reject", cause: "port-closed", certainty: "certain", where: "destination", within: quick},
		{name: "own address open", net: one.WithListen("client", "tcp:22"), target: node("client"), port: 22,
			verdict: "open", cause: "listening", certainty: "certain", within: quick},
		{name: "own address closed", net: one, target: node("client"), port: 23,
			verdict: "reject", cause: "port-closed", certainty: "certain", where: "destination", hops: []string{"client"}, within: quick},
		{name: "own address, own firewall drops", net: one.WithListen("client", "tcp:22").WithRules("client",
			netlab.Rule{Hook: netlab.Input, Proto: netlab.TCP, DstPort: 22, Action: netlab.Drop}), target: node("client"), port: 22,
			verdict: "drop", cause: "local-firewall", certainty: "likely", where: "local", alternatives: []string{"not-accepting"}},
		{name: "own address, own firewall rejects", net: one.WithListen("client", "tcp:22").WithRules("client",
			netlab.Rule{Hook: netlab.Input, Proto: netlab.TCP, DstPort: 22, Action: netlab.RejectPort}), target: node("client"), port: 22,
			verdict: "reject", cause: "local-firewall", certainty: "certain", where: "local", within: quick},
		{name: "policy route by port", net: one.
			WithLink(3, func(l *netlab.Link) { *l = netlab.Join("client", "r2") }).
			WithLink(4, func(l *netlab.Link) { *l = netlab.Join("r2", "server") }).
			WithNode(netlab.Node{Name: "r2", Forward: true, Rules: []netlab.Rule{tcp80(netlab.Forward, netlab.RejectAdmin)}}).
			WithRoutes("client", netlab.Route{To: "default", Next: []string{"r2"}, Table: 100}).
			With("client", func(n *netlab.Node) {
				n.Policies = []netlab.Policy{{Table: 100, Proto: netlab.TCP, DstPort: 80}}
			}),
			verdict: "reject", cause: "network-firewall", certainty: "likely", where: "path", hops: []string{"r2"},
			alternatives: []string{"local-firewall"}, evidence: []string{"policy-route"}, within: 2 * time.Second},
	}...)
}

func ownFirewall() []labCase {
	one := netlab.Chain(1)
	input := func(a netlab.Action) netlab.Rule {
		return netlab.Rule{Hook: netlab.Input, Proto: netlab.TCP, SrcPort: 80, Action: a}
	}
	return []labCase{
		{name: "own OUTPUT drops", net: one.WithRules("client", tcp80(netlab.Output, netlab.Drop)),
			verdict: "drop", cause: "local-firewall", certainty: "certain", where: "local", hops: []string{"client"}, evidence: []string{"send-refused"}, within: quick},
		{name: "own OUTPUT rejects with a reset", net: one.WithRules("client", tcp80(netlab.Output, netlab.Reset)),
			verdict: "reject", cause: "local-firewall", certainty: "certain", where: "local", hops: []string{"client"}, evidence: []string{"local-reject"}, within: quick},
		{name: "own OUTPUT rejects with ICMP", net: one.WithRules("client", tcp80(netlab.Output, netlab.RejectPort)),
			verdict: "reject", cause: "local-firewall", certainty: "certain", where: "local", hops: []string{"client"}, evidence: []string{"local-reject"}, within: quick},
		{name: "own OUTPUT says host unreachable", net: one.WithRules("client", tcp80(netlab.Output, netlab.RejectHost)),
			verdict: "reject", cause: "local-firewall", certainty: "certain", where: "local", hops: []string{"client"}, within: quick},
		{name: "own connection table full", net: one, only: []netlab.Family{netlab.IPv4},
			setup:   func(_ *testing.T, l *netlab.Lab, _ netlab.Family) { l.Node("client").FillConntrack() },
			verdict: "drop", cause: "local-firewall", certainty: "certain", where: "local", hops: []string{"client"}, evidence: []string{"conntrack-full"}, within: quick},
		{name: "own POSTROUTING drops", net: one.WithRules("client", tcp80(netlab.Postrouting, netlab.Drop)),
			verdict: "drop", cause: "local-firewall", certainty: "certain", where: "local", within: quick},
		{name: "own egress drops", net: one.WithRules("client", tcp80(netlab.Egress, netlab.Drop)),
			verdict: "drop", cause: "local-firewall", certainty: "likely", where: "local"},
		{name: "own INPUT drops the SYN-ACK", net: one.WithRules("client", input(netlab.Drop)),
			verdict: "drop", cause: "local-firewall", certainty: "certain", where: "local", hops: []string{"client"}, evidence: []string{"swallowed-answer"}},
		{name: "own INPUT drops the reset", net: one.With("server", func(n *netlab.Node) { n.Listen = nil }).WithRules("client", input(netlab.Drop)),
			verdict: "drop", cause: "local-firewall", certainty: "certain", where: "local", evidence: []string{"swallowed-answer"}},
		{name: "own INPUT drops the ICMP refusal", net: one.WithRules("server", tcp80(netlab.Input, netlab.RejectPort)).
			WithRules("client", netlab.Rule{Hook: netlab.Input, Proto: netlab.ICMP, ICMP: netlab.DestinationUnreachable, Action: netlab.Drop}),
			verdict: "drop", cause: "local-firewall", certainty: "certain", where: "local", evidence: []string{"swallowed-answer"}},
		{name: "own OUTPUT drops resets", net: one.WithRules("client",
			netlab.Rule{Hook: netlab.Output, Proto: netlab.TCP, Flags: netlab.RST, FlagMask: netlab.RST, Action: netlab.Drop}),
			verdict: "open", cause: "listening", certainty: "certain", within: quick},
		{name: "own OUTPUT drops echoes", net: one.WithRules("client",
			netlab.Rule{Hook: netlab.Output, Proto: netlab.ICMP, ICMP: netlab.EchoRequest, Action: netlab.Drop}),
			verdict: "open", cause: "listening", certainty: "likely", alternatives: []string{"proxy"}, within: quick},
		{name: "answer comes back on another interface, rp_filter", only: []netlab.Family{netlab.IPv4},
			net: one.WithLink(3, func(l *netlab.Link) { *l = netlab.Join("client", "server") }).
				WithRoutes("client", netlab.Route{To: "10.0.2.2/32", Next: []string{"r1"}}).
				WithRoutes("server", netlab.Route{To: "10.0.1.1/32", Next: []string{"10.0.3.1"}}).
				WithSysctl("client", "net.ipv4.conf.all.rp_filter", "1").
				// Else the server asks for the client in the name of its other
				// address, which the client's filter does not answer.
				WithSysctl("server", "net.ipv4.conf.all.arp_announce", "2"),
			target:  literal("10.0.2.2", ""),
			verdict: "drop", cause: "local-firewall", certainty: "certain", where: "local", evidence: []string{"reverse-path"}},
	}
}

func ownTranslation() []labCase {
	one := netlab.Chain(1)
	return []labCase{
		{name: "own masquerade", net: one.With("client", func(n *netlab.Node) {
			n.Addrs = []netip.Prefix{netip.MustParsePrefix("10.99.0.1/32"), netip.MustParsePrefix("fd99::1/128")}
		}).WithRules("client", netlab.Rule{Hook: netlab.Postrouting, Proto: netlab.TCP, Action: netlab.Masquerade}),
			args: func(_ *netlab.Lab, f netlab.Family) []string {
				if f == netlab.IPv4 {
					return []string{"-s", "10.99.0.1"}
				}
				return []string{"-s", "fd99::1"}
			},
			verdict: "open", cause: "listening", certainty: "certain", evidence: []string{"local-snat"}, within: quick},
		{name: "own DNAT", net: one.WithRules("client",
			netlab.Rule{Hook: netlab.Output, Proto: netlab.TCP, DstPort: 8080, Action: netlab.DNAT, To: "server", ToPort: 80}), port: 8080, target: node("r1"),
			verdict: "open", cause: "listening", certainty: "likely", evidence: []string{"local-dnat"}, within: 2 * time.Second},
		{name: "own DNAT to a closed port", net: one.WithRules("client",
			netlab.Rule{Hook: netlab.Output, Proto: netlab.TCP, DstPort: 8080, Action: netlab.DNAT, To: "server", ToPort: 81}), port: 8080,
			verdict: "reject", cause: "port-closed", certainty: "likely", where: "destination", evidence: []string{"local-dnat"}, within: quick},
		{name: "own REDIRECT", net: one.WithListen("client", "tcp:15001").WithRules("client",
			netlab.Rule{Hook: netlab.Output, Proto: netlab.TCP, DstPort: 80, Action: netlab.Redirect, ToPort: 15001}),
			verdict: "open", cause: "proxy", certainty: "certain", where: "local", evidence: []string{"local-dnat"}, within: quick},
		{name: "own REDIRECT to a dead proxy", net: one.WithRules("client",
			netlab.Rule{Hook: netlab.Output, Proto: netlab.TCP, DstPort: 80, Action: netlab.Redirect, ToPort: 15001}),
			verdict: "reject", cause: "local-firewall", certainty: "certain", where: "local", evidence: []string{"local-dnat"}, within: quick},
	}
}

func links() []labCase {
	var cases []labCase
	for _, k := range []netlab.LinkKind{netlab.Tun, netlab.Macvlan, netlab.VXLAN, netlab.Segment} {
		net := netlab.Chain(1).WithLink(1, func(l *netlab.Link) { l.Kind = k })
		cases = append(cases,
			labCase{name: fmt.Sprintf("%v open", k), net: net, verdict: "open", cause: "listening", certainty: "certain", within: quick},
			labCase{name: fmt.Sprintf("%v closed", k), net: net, port: 81, verdict: "reject", cause: "port-closed", certainty: "certain", where: "destination", within: quick},
			labCase{name: fmt.Sprintf("%v rejected", k), net: net.WithRules("r1", tcp80(netlab.Forward, netlab.RejectAdmin)),
				verdict: "reject", cause: "network-firewall", certainty: "certain", where: "path", hops: []string{"r1"}, within: quick},
		)
	}
	zone := func(*netlab.Lab, netlab.Family) string { return "fe80::1:2%eth0" }
	six := []netlab.Family{netlab.IPv6}
	return append(cases,
		labCase{name: "link-local target open", only: six, net: netlab.Chain(0), target: zone, verdict: "open", cause: "listening", certainty: "certain", within: quick},
		labCase{name: "link-local target closed", only: six, net: netlab.Chain(0), target: zone, port: 81,
			verdict: "reject", cause: "port-closed", certainty: "certain", where: "destination", within: quick},
		labCase{name: "link-local target down", only: six, net: netlab.Chain(0), target: zone, setup: die("server"),
			verdict: "host-down", cause: "neighbor-unreachable", certainty: "certain", where: "destination", within: 2 * time.Second},
		labCase{name: "bound to an interface", net: netlab.Chain(1), args: args("-i", "eth0"), verdict: "open", cause: "listening", certainty: "certain", within: quick},
		labCase{name: "slow line", net: netlab.Chain(1).WithLink(2, func(l *netlab.Link) {
			l.Kind, l.Wire = netlab.Tun, &netlab.Impairment{Delay: 40 * time.Millisecond, Jitter: 5 * time.Millisecond, Reorder: 0.2, Duplicate: 0.2, Seed: 7}
		}), verdict: "open", cause: "listening", certainty: "certain", within: quick},
	)
}

func loss() []labCase {
	var cases []labCase
	for phase := range 3 {
		third := netlab.Rule{Hook: netlab.Forward, Every: 3, Phase: phase, Action: netlab.Drop}
		net := netlab.Chain(2).WithRules("r1", third)
		cases = append(cases,
			labCase{name: fmt.Sprintf("a third lost from %d, open", phase), net: net, verdict: "open", cause: "listening", certainty: "any"},
			labCase{name: fmt.Sprintf("a third lost from %d, closed", phase), net: net, port: 81, verdict: "reject", cause: "port-closed", certainty: "any", where: "destination"},
		)
	}
	return cases
}

// proofs wait for the host's word on a fragment, half a minute. Its two
// fragments are SYNs, too.
func proofs() []labCase {
	two, four := netlab.Chain(2), []netlab.Family{netlab.IPv4}
	stateful := []netlab.Rule{
		{Hook: netlab.Input, State: netlab.CTEstablished | netlab.CTRelated, Action: netlab.Accept},
		tcp80(netlab.Input, netlab.Drop),
	}
	return []labCase{
		{name: "host drops, with a proof", net: two.WithRules("server", tcp80(netlab.Input, netlab.Drop)), only: four, args: args("--prove"), within: 39 * time.Second, maxSYN: 8,
			verdict: "drop", cause: "host-firewall", certainty: "likely", where: "destination", hops: []string{"server"},
			evidence: []string{"arrival"}, alternatives: []string{"not-accepting", "return-path"}},
		{name: "host drops statefully, with a proof", net: two.WithRules("server", stateful...), only: four, args: args("--prove"), within: 39 * time.Second, maxSYN: 8,
			verdict: "drop", cause: "host-firewall", certainty: "likely", where: "destination", hops: []string{"server"}, evidence: []string{"arrival"}},
		// Nothing arrives: the last router stays a suspect.
		{name: "last router drops, without a proof", net: two.WithRules("r2", tcp80(netlab.Forward, netlab.Drop)), only: four, args: args("--prove"), within: 39 * time.Second, maxSYN: 8,
			verdict: "drop", cause: "host-firewall", certainty: "likely", where: "destination", alternatives: []string{"network-firewall"}, evidence: []string{"last-step"}},
	}
}
