package main

import (
	"synprobe/rawprobe/netlab"
	"synprobe/traceroute/diagnose"
)

// A scene is one network in which something is broken, and what synprobe has
// to say about it.
type scene struct {
	name    string
	verdict diagnose.Verdict
	cause   diagnose.Cause
	// title says what is broken, and where.
	title string
	// drawing is the way to the target. A name with an @ behind it is a node;
	// what is broken stands in brackets.
	drawing string
	net     netlab.Topology
	family  netlab.Family // 0 is IPv4
	// broken changes the running network.
	broken func(*netlab.Lab, netlab.Family)
	flags  []string
	target string // an address; empty is the server's
	port   string // empty is 80
}

// toPort80 is a rule for what clients send to port 80, fromPort80 one for what
// comes back.
func toPort80(h netlab.Hook, a netlab.Action) netlab.Rule {
	return netlab.Rule{Hook: h, Proto: netlab.TCP, DstPort: 80, Action: a}
}

func fromPort80(h netlab.Hook, a netlab.Action) netlab.Rule {
	return netlab.Rule{Hook: h, Proto: netlab.TCP, SrcPort: 80, Action: a}
}

func off(node string) func(*netlab.Lab, netlab.Family) {
	return func(l *netlab.Lab, _ netlab.Family) { l.Node(node).Die() }
}

// scenes are all that the demo shows, in the order of the table of verdicts in
// the README.
func scenes() []scene {
	link, one, two := netlab.Chain(0), netlab.Chain(1), netlab.Chain(2)
	return []scene{
		{name: "open", verdict: diagnose.Open, cause: diagnose.Listening,
			title:   "Nothing is broken: the server listens on port 80.",
			drawing: "client@ -- r1@ -- r2@ -- server@", net: two},
		{name: "proxy", verdict: diagnose.Open, cause: diagnose.Proxy,
			title:   "r1 answers port 80 in the server's name: a transparent proxy.",
			drawing: "client@ -- [r1@] -- r2@ -- server@",
			net: two.WithListen("r1", "tcp:3128").
				WithRules("r1", netlab.Rule{Hook: netlab.Prerouting, Proto: netlab.TCP, DstPort: 80, Action: netlab.Redirect, ToPort: 3128})},

		{name: "port-closed", verdict: diagnose.Reject, cause: diagnose.PortClosed,
			title:   "Nothing listens on port 81 of the server.",
			drawing: "client@ -- r1@ -- r2@ -- [server@]", net: two, port: "81"},
		{name: "host-rejects", verdict: diagnose.Reject, cause: diagnose.HostFirewall,
			title:   "The server's own firewall refuses port 80 by ICMP.",
			drawing: "client@ -- r1@ -- r2@ -- [server@]", net: two.WithRules("server", toPort80(netlab.Input, netlab.RejectAdmin))},
		{name: "router-rejects", verdict: diagnose.Reject, cause: diagnose.NetworkFirewall,
			title:   "A firewall on r2 refuses port 80 by ICMP.",
			drawing: "client@ -- r1@ -- [r2@] -- server@", net: two.WithRules("r2", toPort80(netlab.Forward, netlab.RejectAdmin))},
		{name: "router-resets", verdict: diagnose.Reject, cause: diagnose.NetworkFirewall,
			title:   "A firewall on r1 forges a reset: it looks as if the server had sent it.",
			drawing: "client@ -- [r1@] -- r2@ -- server@", net: two.WithRules("r1", toPort80(netlab.Forward, netlab.Reset))},
		{name: "own-rejects", verdict: diagnose.Reject, cause: diagnose.LocalFirewall,
			title:   "The client's own firewall refuses to send to port 80.",
			drawing: "[client@] -- r1@ -- server@", net: one.WithRules("client", toPort80(netlab.Output, netlab.RejectPort))},

		{name: "router-drops", verdict: diagnose.Drop, cause: diagnose.NetworkFirewall,
			title:   "A firewall on r1 drops port 80 and says nothing.",
			drawing: "client@ -- [r1@] -- r2@ -- server@", net: two.WithRules("r1", toPort80(netlab.Forward, netlab.Drop))},
		{name: "router-drops-ipv6", verdict: diagnose.Drop, cause: diagnose.NetworkFirewall,
			title:   "The same as router-drops, in IPv6.",
			drawing: "client -- [r1@] -- r2@ -- server@", net: two.WithRules("r1", toPort80(netlab.Forward, netlab.Drop)), family: netlab.IPv6},
		{name: "host-drops", verdict: diagnose.Drop, cause: diagnose.HostFirewall,
			title:   "The server's own firewall drops port 80 and says nothing.",
			drawing: "client@ -- r1@ -- r2@ -- [server@]", net: two.WithRules("server", toPort80(netlab.Input, netlab.Drop))},
		{name: "queue-full", verdict: diagnose.Drop, cause: diagnose.NotAccepting,
			title:   "The program on port 81 hangs: its queue of new connections is full.",
			drawing: "client@ -- r1@ -- [server@]", net: one.WithListen("server", "tcp:81/full"), port: "81"},
		{name: "own-drops", verdict: diagnose.Drop, cause: diagnose.LocalFirewall,
			title:   "The client's own firewall drops what it sends to port 80.",
			drawing: "[client@] -- r1@ -- server@", net: one.WithRules("client", toPort80(netlab.Output, netlab.Drop))},
		{name: "own-drops-answer", verdict: diagnose.Drop, cause: diagnose.LocalFirewall,
			title:   "The client's own firewall drops the server's answer.",
			drawing: "[client@] -- r1@ -- server@", net: one.WithRules("client", fromPort80(netlab.Input, netlab.Drop))},
		{name: "answers-lost", verdict: diagnose.Drop, cause: diagnose.Unknown,
			title:   "r2 drops all that the server answers. Nobody can tell that from here.",
			drawing: "client@ -- r1@ -- [r2@] -- server@",
			net:     two.WithRules("r2", netlab.Rule{Hook: netlab.Forward, Src: "server", Action: netlab.Drop})},
		{name: "just-died", verdict: diagnose.Drop, cause: diagnose.Unknown,
			title:   "The server died a moment ago, and r1 has not noticed yet.",
			drawing: "client@ -- r1@ -- [server@]", net: one,
			broken: func(l *netlab.Lab, f netlab.Family) {
				l.Node("r1").WarmNeighbor(l.Addr("server", f))
				l.Node("server").Die()
			}},

		{name: "host-off", verdict: diagnose.HostDown, cause: diagnose.NeighborUnreachable,
			title:   "The server, in the client's own network, is switched off.",
			drawing: "client@ -- [server@]", net: link, broken: off("server")},
		{name: "host-off-routed", verdict: diagnose.HostDown, cause: diagnose.HostUnreachable,
			title:   "The server, behind two routers, is switched off.",
			drawing: "client@ -- r1@ -- r2@ -- [server@]", net: two, broken: off("server")},

		{name: "no-route", verdict: diagnose.NetworkDown, cause: diagnose.NoRoute,
			title:   "The client has no route to the server.",
			drawing: "[client@] -- r1@ -- server@", net: one.WithRoutes("client", netlab.Route{To: "server", Type: netlab.NoRoute})},
		{name: "no-address", verdict: diagnose.NetworkDown, cause: diagnose.NoAddress,
			title:   "The client's interface has no IPv4 address.",
			drawing: "[client] -- server@",
			net: link.WithLink(1, func(l *netlab.Link) { l.Ends[0].NoAddrs = true }).
				WithRoutes("client", netlab.Route{To: "default", Dev: "eth0"})},
		{name: "link-down", verdict: diagnose.NetworkDown, cause: diagnose.LinkDown,
			title:   "The client's network cable is pulled.",
			drawing: "[client@] -- r1@ -- server@", net: one,
			broken: func(l *netlab.Lab, _ netlab.Family) { l.Node("client").NoCarrier("eth0") }},
		{name: "gateway-off", verdict: diagnose.NetworkDown, cause: diagnose.GatewayDown,
			title:   "The client's gateway, r1, is switched off.",
			drawing: "client@ -- [r1@] -- server@", net: one, broken: off("r1")},
		{name: "router-no-route", verdict: diagnose.NetworkDown, cause: diagnose.NetUnreachable,
			title:   "r1 has no route to the server.",
			drawing: "client@ -- [r1@] -- r2@ -- server@", net: two.WithRoutes("r1", netlab.Route{To: "server", Type: netlab.NoRoute})},
		{name: "loop", verdict: diagnose.NetworkDown, cause: diagnose.RoutingLoop,
			title:   "r1 takes r2 for the way to 192.0.2.9, and r2 takes r1.",
			drawing: "client@ -- [r1@] -- [r2@] -- 192.0.2.9", target: "192.0.2.9",
			net: two.WithRoutes("r1", netlab.Route{To: "server", Type: netlab.NoRoute}, netlab.Route{To: "default", Next: []string{"r2"}}).
				WithRoutes("r2", netlab.Route{To: "server", Type: netlab.NoRoute}, netlab.Route{To: "default", Next: []string{"r1"}})},

		// Of 17 source ports all on one of the ways are one run in 65,536.
		{name: "one-way-broken", verdict: diagnose.Partial, cause: diagnose.FlowDependent,
			title:   "r1 shares connections between two ways, and the one by a is broken.",
			drawing: "client -- r1 -- [a@] or b@ -- r2 -- server@", flags: []string{"--flows", "16"},
			net: netlab.Diamond().WithRules("a", netlab.Rule{Hook: netlab.Forward, Dst: "server", Action: netlab.Drop})},
	}
}
