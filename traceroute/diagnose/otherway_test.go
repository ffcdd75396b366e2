package diagnose_test

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"synprobe/rawprobe"
	"synprobe/rawprobe/netlab"
	"synprobe/rawprobe/simnet"
	"synprobe/traceroute"
	"synprobe/traceroute/diagnose"
)

// Another machine answers in the host's name, as far away as the host, behind a
// router that only the SYN meets. It is not certain to be the host, and the device
// that leads the SYN there is not called innocent.
func TestAnotherWayForThePort(t *testing.T) {
	line := netlab.Chain(3)
	line.Links = append(slices.Clone(line.Links), netlab.Join("r2", "q3"), netlab.Join("q3", "p4"))
	line = line.WithNode(netlab.Node{Name: "q3", Forward: true}).
		WithNode(netlab.Node{Name: "p4", Forward: true, Listen: []string{"tcp:80", "tcp:3128"}})
	proxy := line.WithRoutes("r2", netlab.Route{To: "server", Next: []string{"q3"}, Table: 100}).
		With("r2", func(n *netlab.Node) { n.Policies = []netlab.Policy{{Table: 100, Proto: netlab.TCP, DstPort: 80}} }).
		WithRoutes("q3", netlab.Route{To: "server", Next: []string{"p4"}}).
		WithRules("p4", netlab.Rule{Hook: netlab.Prerouting, Proto: netlab.TCP, DstPort: 80, Action: netlab.Redirect, ToPort: 3128})
	forward := line.WithRules("r2", netlab.Rule{Hook: netlab.Prerouting, Proto: netlab.TCP, DstPort: 80, Dst: "server", Action: netlab.DNAT, To: "p4"})
	for name, b := range map[string]built{
		"a route for the port": {topology: proxy, truth: truth{where: []diagnose.Where{diagnose.Path}, devices: []string{"p4"}}},
		"a port forward":       {topology: forward, truth: truth{where: []diagnose.Where{diagnose.Path}, devices: []string{"r2"}}},
	} {
		for _, f := range []netlab.Family{netlab.IPv4, netlab.IPv6} {
			for _, mode := range []traceroute.Mode{traceroute.Auto, traceroute.Always} {
				t.Run(name+"/"+f.String()+"/"+string(mode), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						sim, err := simnet.New(b.topology, simnet.Options{})
						if err != nil {
							t.Fatal(err)
						}
						defer sim.Close()
						link, err := sim.Link("client", rawprobe.LinkConfig{IPv6: f == netlab.IPv6})
						if err != nil {
							t.Fatal(err)
						}
						defer link.Close()
						target := netip.AddrPortFrom(sim.Plan.Addr("server", f), 80)
						o, err := traceroute.Observe(context.Background(), link, target, rawprobe.Options{}, traceroute.Options{Mode: mode})
						if err != nil {
							t.Fatal(err)
						}
						looked := 0
						for i := range o.Sent {
							if o.Sent[i].Kind == rawprobe.ControlUDP && o.Sent[i].TTL == 3 {
								looked++
							}
						}
						if looked != 4 {
							t.Errorf("%d datagrams look for the SYN's way", looked)
						}
						d := diagnose.Explain(o)
						if d.Certainty != diagnose.Likely || d.Cause != diagnose.Listening {
							t.Errorf("%s %s", d.Certainty, d.Cause)
						}
						for _, p := range b.judge(sim.Plan, &d) {
							t.Errorf("%s; alternatives %+v", p, d.Alternatives)
						}
						if !slices.ContainsFunc(d.Alternatives, func(a diagnose.Alternative) bool {
							return a.Cause == diagnose.Proxy && b.names(sim.Plan, a.Fault)
						}) {
							t.Errorf("alternatives %+v", d.Alternatives)
						}
					})
				})
			}
		}
	}
}
