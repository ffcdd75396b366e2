package main

import (
	"strings"
	"testing"

	"synprobe/rawprobe/netlab"
)

// elsewhere are networks in which the client's own rules send the connection to
// another machine or port than was asked for.
func elsewhere() []labCase {
	two := netlab.Chain(2)
	to := func(t netlab.Topology, node string, port uint16) netlab.Topology {
		return t.WithRules("client", netlab.Rule{Hook: netlab.Output, Proto: netlab.TCP, DstPort: 9201, Action: netlab.DNAT, To: node, ToPort: port})
	}
	told := []string{"local-dnat"}
	return []labCase{
		{name: "to a closed port of a router", net: to(two, "r1", 22),
			verdict: "reject", cause: "port-closed", certainty: "likely", where: "destination", hops: []string{"r1"}, device: "r1",
			alternatives: []string{"network-firewall", "local-firewall"}, evidence: told, within: quick},
		{name: "to an open port of a router", net: to(two, "r1", 22).WithListen("r1", "tcp:22"),
			verdict: "open", cause: "listening", certainty: "likely", alternatives: []string{"proxy"}, evidence: told, within: silent},
		{name: "to a router that drops", net: to(two, "r1", 22).WithRules("r1", netlab.Rule{Hook: netlab.Input, Proto: netlab.TCP, DstPort: 22, Action: netlab.Drop}),
			verdict: "drop", cause: "unknown", certainty: "ambiguous", where: "unknown", device: "r1", alternatives: []string{"host-firewall", "local-firewall"}, evidence: told},
		{name: "to another port of the host", net: to(two, "server", 80),
			verdict: "open", cause: "listening", certainty: "likely", alternatives: []string{"proxy"}, evidence: told, within: quick},
		{name: "to a closed port of the host", net: to(two, "server", 81),
			verdict: "reject", cause: "port-closed", certainty: "likely", where: "destination", hops: []string{"server"}, device: "server",
			alternatives: []string{"local-firewall"}, evidence: told, within: quick},
		{name: "to a port of the host that a router drops", net: to(two, "server", 80).WithRules("r1", tcp80(netlab.Forward, netlab.Drop)),
			verdict: "drop", cause: "network-firewall", certainty: "likely", where: "path", hops: []string{"r1", "r2"}, device: "r1", alternatives: []string{"local-firewall"}, evidence: told},
		{name: "to a port of its own that it rejects", net: two.WithRules("client",
			netlab.Rule{Hook: netlab.Output, Proto: netlab.TCP, DstPort: 9201, Action: netlab.Redirect, ToPort: 15001},
			netlab.Rule{Hook: netlab.Input, Proto: netlab.TCP, DstPort: 15001, Action: netlab.RejectAdmin}),
			verdict: "reject", cause: "local-firewall", certainty: "certain", where: "local", evidence: append(told, "local-reject"), within: quick},
		{name: "to a port of its own that it drops", net: two.WithRules("client",
			netlab.Rule{Hook: netlab.Output, Proto: netlab.TCP, DstPort: 9201, Action: netlab.Redirect, ToPort: 15001},
			netlab.Rule{Hook: netlab.Input, Proto: netlab.TCP, DstPort: 15001, Action: netlab.Drop}),
			verdict: "drop", cause: "local-firewall", certainty: "likely", where: "local", alternatives: []string{"not-accepting"}, evidence: told},
	}
}

// TestLabElsewhere asks for a port that this machine's own rules send elsewhere:
// whatever comes of it, the diagnosis says so first, and names this machine.
func TestLabElsewhere(t *testing.T) {
	netlab.Require(t)
	for _, c := range elsewhere() {
		c.port = 9201
		c.after = func(t *testing.T, _ *netlab.Lab, _ netlab.Family, got result) {
			if !strings.HasPrefix(got.Summary, "This machine's own rules send the connection to ") {
				t.Errorf("summary %q", got.Summary)
			}
			local := got.Fault != nil && got.Fault.Where == "local"
			for _, a := range got.Alternatives {
				local = local || a.Fault.Where == "local"
			}
			if !local {
				t.Error("this machine is neither in the fault nor in an alternative")
			}
		}
		for _, f := range both {
			t.Run(c.name+"/"+f.String(), func(t *testing.T) {
				t.Parallel()
				c.run(t, f)
			})
		}
	}
}
