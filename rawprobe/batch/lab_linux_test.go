package batch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"synprobe/rawprobe"
	"synprobe/rawprobe/netlab"
)

// far is a client and, behind a router or on its own link, a server that owns
// whole networks.
func far(routers int, nets ...string) netlab.Topology {
	return netlab.Chain(routers).With("server", func(n *netlab.Node) {
		for _, p := range nets {
			n.Addrs = append(n.Addrs, netip.MustParsePrefix(p))
		}
	})
}

// found is what a run on a machine of the lab gave.
type found struct {
	results  map[netip.AddrPort]Result
	progress Progress
	err      error
}

// probeFrom runs an engine in a node, and fails the test where a target gets
// two results.
func probeFrom(t testing.TB, m *netlab.Machine, s *Space, cfg Config) found {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	f := found{results: make(map[netip.AddrPort]Result)}
	err := m.Do(func() error {
		f.progress, f.err = Run(ctx, s, cfg, func(r *Result) {
			if _, ok := f.results[r.Target]; ok {
				t.Errorf("a second result for %s", r.Target)
			}
			f.results[r.Target] = *r
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// count groups results by what they say.
func (f *found) count() map[string]int {
	n := make(map[string]int)
	for _, r := range f.results {
		n[describe(&r)]++
	}
	return n
}

func describe(r *Result) string {
	what := fmt.Sprintf("%d %s", r.Target.Port(), r.Kind)
	if r.Kind == rawprobe.ICMPError {
		what += fmt.Sprintf(" %d/%d", r.Type, r.Code)
	}
	if r.NoNeighbor {
		what += " no neighbour"
	}
	if r.Refused != "" {
		what += " refused: " + string(r.Refused)
	}
	if r.EchoAnswered {
		what += " echo"
	}
	if r.Err != nil {
		what += " " + r.Err.Error()
	}
	return strings.TrimSpace(what)
}

func same(a, b map[string]int) bool {
	if len(a) != len(b) {
		return false
	}
	for k, n := range a {
		if b[k] != n {
			return false
		}
	}
	return true
}

// Every target of every kind has its result, once, as fast as the machine can.
func TestNetworks(t *testing.T) {
	netlab.Require(t)
	for _, linkLayer := range []bool{false, true} {
		for _, family := range []string{"v4", "v6", "both"} {
			t.Run(fmt.Sprintf("%s link layer %v", family, linkLayer), func(t *testing.T) {
				t.Parallel()
				lab := netlab.Start(t, far(1, "10.77.0.0/20", "fd77::/116").
					WithRules("server",
						netlab.Rule{Proto: netlab.TCP, DstPort: 82, Action: netlab.Reset},
						netlab.Rule{Proto: netlab.TCP, DstPort: 83, Action: netlab.RejectAdmin},
						netlab.Rule{Proto: netlab.TCP, DstPort: 84, Action: netlab.Drop}))
				ports := []uint16{80, 81, 82, 83, 84}
				want := make(map[string]int)
				var blocks []Block
				if family != "v6" {
					blocks = append(blocks, prefix("10.77.0.0/20", ports...))
					want["83 icmp-error 3/13"] += 1 << 12
				}
				if family != "v4" {
					blocks = append(blocks, prefix("fd77::/116", ports...))
					want["83 icmp-error 1/1"] += 1 << 12
				}
				for range blocks {
					want["80 syn-ack"] += 1 << 12
					want["81 reset"] += 1 << 12
					want["82 reset"] += 1 << 12
					want["84  echo"] += 1 << 12
				}
				s := mustSpace(t, blocks...)
				f := probeFrom(t, lab.Node("client"), s, Config{Seed: 1, LinkLayer: linkLayer, Wait: time.Second})
				if f.err != nil {
					t.Fatal(f.err)
				}
				// Whether a refused target's host had its echo by then is chance.
				for target, r := range f.results {
					if r.Kind != "" {
						r.EchoAnswered = false
						f.results[target] = r
					}
				}
				if got := f.count(); !same(got, want) {
					t.Errorf("got %v, want %v (%+v)", got, want, f.progress)
				}
				// Four of five targets answer.
				if f.progress.Drops != 0 || !f.progress.Finished || f.progress.Done != s.Len() || f.progress.Received < s.Len()*4/5 {
					t.Errorf("%+v", f.progress)
				}
				for target, r := range f.results {
					switch {
					case r.Kind == "":
						if r.Tries != 3 || r.EchoTTL != 63 {
							t.Fatalf("%+v", r)
						}
					case r.From != target.Addr() && r.Kind != rawprobe.ICMPError, r.TTL != 63, r.Tries != 1:
						t.Fatalf("%+v", r)
					case r.RTT <= 0 || r.RTT > 5*time.Second:
						t.Fatalf("RTT %v: %+v", r.RTT, r)
					}
				}
			})
		}
	}
}

// A host on the link that is not there, and one that is.
func TestDeadNeighbor(t *testing.T) {
	netlab.Require(t)
	for _, linkLayer := range []bool{false, true} {
		t.Run(fmt.Sprintf("link layer %v", linkLayer), func(t *testing.T) {
			t.Parallel()
			lab := netlab.Start(t, netlab.Chain(0))
			s := mustSpace(t, prefix("10.0.1.2/31", 80), prefix("fd00:0:0:1::2/127", 80))
			f := probeFrom(t, lab.Node("client"), s, Config{LinkLayer: linkLayer})
			if f.err != nil {
				t.Fatal(f.err)
			}
			for target, r := range f.results {
				alive := target.Addr() == lab.Addr("server", netlab.FamilyOf(target.Addr()))
				if alive && r.Kind != rawprobe.SynAck || r.NoNeighbor == alive {
					t.Errorf("%+v", r)
				}
			}
			if len(f.results) != 4 {
				t.Errorf("%d results", len(f.results))
			}
		})
	}
}

// A whole network on the link, of which one host is there. The kernel asks for
// all of them at once.
func TestOwnNetwork(t *testing.T) {
	netlab.Require(t)
	for _, linkLayer := range []bool{false, true} {
		t.Run(fmt.Sprintf("link layer %v", linkLayer), func(t *testing.T) {
			t.Parallel()
			lab := netlab.Start(t, netlab.Chain(0).WithLink(1, func(l *netlab.Link) {
				l.Ends[0].Addrs = []netip.Prefix{netip.MustParsePrefix("10.9.0.1/22")}
				l.Ends[1].Addrs = []netip.Prefix{netip.MustParsePrefix("10.9.0.2/22")}
			}))
			s := mustSpace(t, prefix("10.9.0.0/22", 80, 81))
			f := probeFrom(t, lab.Node("client"), s, Config{LinkLayer: linkLayer})
			if f.err != nil {
				t.Fatal(f.err)
			}
			want := map[string]int{"80 syn-ack": 1, "80 reset": 1, "81 reset": 2}
			if linkLayer {
				want = map[string]int{"80 syn-ack": 1, "81 reset": 1, "80  refused: other": 1, "81  refused: other": 1}
			}
			for _, port := range []string{"80", "81"} {
				want[port+"  no neighbour"] = 1024 - 2 - 2
				// The network's own address and the broadcast address are no hosts.
				want[port+"  a broadcast address"] = 2
			}
			if got := f.count(); !same(got, want) {
				t.Errorf("got %v, want %v (%+v)", got, want, f.progress)
			}
			for _, a := range []string{"10.9.0.0", "10.9.3.255"} {
				if r := f.results[netip.AddrPortFrom(netip.MustParseAddr(a), 80)]; r.Err != rawprobe.ErrBroadcast || r.Tries != 0 {
					t.Errorf("%s: %+v", a, r)
				}
			}
			// Whoever names it asks for it.
			f = probeFrom(t, lab.Node("client"), mustSpace(t, prefix("10.9.0.0/32", 80)), Config{LinkLayer: linkLayer})
			if got := f.count(); f.err != nil || !same(got, map[string]int{"80  no neighbour": 1}) {
				t.Errorf("the network's own address: %v, %v", got, f.err)
			}
			f = probeFrom(t, lab.Node("client"), mustSpace(t, prefix("10.9.3.255/32", 80)), Config{LinkLayer: linkLayer})
			if !errors.Is(f.err, rawprobe.ErrBroadcast) || len(f.results) > 0 {
				t.Errorf("the broadcast address: %v, %v", f.count(), f.err)
			}
		})
	}
}

// While hosts of the link are looked for, it says how far it is.
func TestLookingIsProgress(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, netlab.Chain(0).WithLink(1, func(l *netlab.Link) {
		l.Ends[0].Addrs = []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24")}
		l.Ends[1].Addrs = []netip.Prefix{netip.MustParsePrefix("10.9.0.2/24")}
	}))
	var notes []Progress
	f := probeFrom(t, lab.Node("client"), mustSpace(t, prefix("10.9.0.0/24", 80, 81)), Config{Rate: 500, Progress: func(p Progress) { notes = append(notes, p) }})
	if f.err != nil {
		t.Fatal(f.err)
	}
	n, last := 0, Progress{}
	for ; n < len(notes) && notes[n].ToAsk > 0; n++ {
		p := notes[n]
		if p.Targets != 512 || p.Done != 0 || p.Sent != 0 || p.Finished || p.Asked <= last.Asked || p.Asked > p.ToAsk || p.ToAsk > 3*253 || n > 0 && p.ToAsk > last.ToAsk {
			t.Errorf("%+v after %+v", p, last)
		}
		last = p
	}
	// 253 hosts, three times at 500 a second; one answers the first.
	if n < 3 || last.Asked <= 2*252 || last.ToAsk > 3*253-2 {
		t.Errorf("%d notes, the last is %+v", n, last)
	}
	for _, p := range notes[n:] {
		if p.ToAsk != 0 || p.Asked != 0 {
			t.Errorf("afterwards: %+v", p)
		}
	}
}

// An interrupt while thousands of hosts of the link are being asked for: they
// are left to the next run.
func TestInterruptedEarly(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, netlab.Chain(0).WithLink(1, func(l *netlab.Link) {
		l.Ends[0].Addrs = []netip.Prefix{netip.MustParsePrefix("10.9.0.1/16")}
	}))
	s := mustSpace(t, prefix("10.9.0.0/17", 80))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := lab.Node("client").Do(func() error {
		begin := time.Now()
		p, err := Run(ctx, s, Config{Position: 5}, func(r *Result) { t.Errorf("%+v", r) })
		if p.Position != 5 || p.Done != 5 || p.Finished || p.Sent != 0 {
			t.Errorf("%+v", p)
		}
		// All of them take 20 seconds.
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("took %v", took)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// A dead gateway is told for all that lies behind it.
func TestDeadGateway(t *testing.T) {
	netlab.Require(t)
	for _, linkLayer := range []bool{false, true} {
		t.Run(fmt.Sprintf("link layer %v", linkLayer), func(t *testing.T) {
			t.Parallel()
			lab := netlab.Start(t, far(1, "10.77.0.0/24", "fd77::/120"))
			lab.Node("client").WarmNeighbor(netip.MustParseAddr("10.0.1.2"))
			lab.Node("r1").Die()
			s := mustSpace(t, prefix("10.77.0.0/24", 80), prefix("fd77::/120", 80))
			f := probeFrom(t, lab.Node("client"), s, Config{LinkLayer: linkLayer})
			for target, r := range f.results {
				r.Kind = "" // the kernel may say so itself
				f.results[target] = r
			}
			want := map[string]int{"80  no neighbour": 512}
			if got := f.count(); f.err != nil || !same(got, want) || linkLayer && f.progress.Sent != 0 {
				t.Errorf("got %v, want %v; %+v, %v", got, want, f.progress, f.err)
			}
		})
	}
}

// A gateway that answers no ARP request and passes everything is not what keeps
// a port silent.
func TestGatewayWithoutARP(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, far(1, "10.77.0.0/24").WithRules("server", netlab.Rule{Proto: netlab.TCP, DstPort: 84, Action: netlab.Drop}))
	client := lab.Node("client")
	client.WarmNeighbor(netip.MustParseAddr("10.0.1.2"))
	lab.Node("r1").Sysctl("net.ipv4.conf.all.arp_ignore", "8")
	f := probeFrom(t, client, mustSpace(t, prefix("10.77.0.0/24", 80, 84)), Config{NoEcho: true, Wait: time.Second})
	if got, want := f.count(), map[string]int{"80 syn-ack": 256, "84": 256}; f.err != nil || !same(got, want) {
		t.Errorf("got %v, want %v; %v", got, want, f.err)
	}
}

// twoWays is a client with two routers to a server that owns a network. a is
// 10.0.1.2 and b 10.0.2.2.
func twoWays(next ...string) netlab.Topology {
	t := netlab.Line("client", "a", "server").WithNode(netlab.Node{Name: "b", Forward: true})
	t.Links = []netlab.Link{netlab.Join("client", "a"), netlab.Join("client", "b"), netlab.Join("a", "server"), netlab.Join("b", "server")}
	return t.
		With("server", func(n *netlab.Node) { n.Addrs = []netip.Prefix{netip.MustParsePrefix("10.77.0.0/24")} }).
		WithRoutes("client", netlab.Route{To: "10.77.0.0/24", Next: next}).
		WithRoutes("a", netlab.Route{To: "10.77.0.0/24", Next: []string{"server"}}).
		WithRoutes("b", netlab.Route{To: "10.77.0.0/24", Next: []string{"server"}})
}

// A policy rule for a part of the space sends it another way.
func TestPolicyRule(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, twoWays("a").WithRoutes("client", netlab.Route{To: "10.77.0.0/24", Next: []string{"b"}, Table: 100}))
	client := lab.Node("client")
	rule := netlink.NewRule()
	rule.Table, rule.Priority = 100, 100
	rule.Dst = &net.IPNet{IP: net.IPv4(10, 77, 0, 128).To4(), Mask: net.CIDRMask(25, 32)}
	if err := client.Netlink().RuleAdd(rule); err != nil {
		t.Fatal(err)
	}
	lab.Node("a").Die()
	f := probeFrom(t, client, mustSpace(t, prefix("10.77.0.0/24", 80)), Config{NoEcho: true, Wait: time.Second})
	want := map[string]int{"80  no neighbour": 128, "80 syn-ack": 128}
	if got := f.count(); f.err != nil || !same(got, want) {
		t.Errorf("got %v, want %v; %v", got, want, f.err)
	}
	for target, r := range f.results {
		if behind := target.Addr().As4()[3] >= 128; behind != (r.Kind == rawprobe.SynAck) {
			t.Fatalf("%s: %s", target, describe(&r))
		}
	}
}

// A policy rule that a raw packet does not meet: the ports that it leads another
// way are not told of, or by what it forbids; all others are.
func TestPolicyRuleByPort(t *testing.T) {
	netlab.Require(t)
	rule := func(change func(*netlink.Rule)) func(*testing.T, *netlab.Machine) {
		return func(t *testing.T, client *netlab.Machine) {
			r := netlink.NewRule()
			r.Family, r.Table, r.Priority = netlink.FAMILY_V4, 100, 100
			change(r)
			if err := client.Netlink().RuleAdd(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	dport := rule(func(r *netlink.Rule) { r.Dport = netlink.NewRulePortRange(443, 8000) })
	const elsewhere = "  routing rules by protocol or port lead a connection another way than raw packets"
	over := func(next string) netlab.Route {
		return netlab.Route{To: "10.77.0.0/24", Next: []string{next}, Table: 100}
	}
	for _, c := range []struct {
		name  string
		next  []string     // of the main table
		route netlab.Route // of table 100
		rule  func(*testing.T, *netlab.Machine)
		cfg   Config
		dead  string // a router, or empty
		want  map[string]int
	}{
		{"another gateway", []string{"a"}, over("b"), dport, Config{}, "", map[string]int{
			"80 syn-ack": 16, "443" + elsewhere: 16, "8000" + elsewhere: 16, "8001 reset": 16,
		}},
		{"the same gateway", []string{"a"}, over("a"), dport, Config{}, "", map[string]int{
			"80 syn-ack": 16, "443 reset": 16, "8000 reset": 16, "8001 reset": 16,
		}},
		{"a part of the network", []string{"a"}, netlab.Route{To: "10.77.0.8/29", Next: []string{"b"}, Table: 100}, dport, Config{}, "", map[string]int{
			"80 syn-ack": 16, "443" + elsewhere: 8, "443 reset": 8, "8000" + elsewhere: 8, "8000 reset": 8, "8001 reset": 16,
		}},
		{"forbidden", []string{"a"}, netlab.Route{To: "10.77.0.0/24", Type: netlab.Prohibit, Table: 100}, dport, Config{}, "", map[string]int{
			"80 syn-ack": 16, "443  refused: prohibit": 16, "8000  refused: prohibit": 16, "8001 reset": 16,
		}},
		{"protocol", []string{"a"}, over("b"), rule(func(r *netlink.Rule) { r.IPProto = 6 }), Config{}, "", map[string]int{
			"80" + elsewhere: 16, "443" + elsewhere: 16, "8000" + elsewhere: 16, "8001" + elsewhere: 16,
		}},
		{"another protocol", []string{"a"}, over("b"), rule(func(r *netlink.Rule) { r.IPProto = 17 }), Config{}, "", map[string]int{
			"80 syn-ack": 16, "443 reset": 16, "8000 reset": 16, "8001 reset": 16,
		}},
		// It meets neither a raw packet nor a connection, but the lookups that ask
		// for the raw packet's way have to name some protocol.
		{"echoes", []string{"a"}, over("b"), rule(func(r *netlink.Rule) { r.IPProto = 1 }), Config{}, "b", map[string]int{
			"80 syn-ack": 16, "443 reset": 16, "8000 reset": 16, "8001 reset": 16,
		}},
		{"echoes, link layer", []string{"a"}, over("b"), rule(func(r *netlink.Rule) { r.IPProto = 1 }), Config{LinkLayer: true}, "b", map[string]int{
			"80 syn-ack": 16, "443 reset": 16, "8000 reset": 16, "8001 reset": 16,
		}},
		{"all but echoes", []string{"a"}, over("b"), rule(func(r *netlink.Rule) { r.IPProto, r.Invert = 1, true }), Config{}, "a", map[string]int{
			"80 syn-ack": 16, "443 reset": 16, "8000 reset": 16, "8001 reset": 16,
		}},
		{"source port", []string{"a"}, over("b"), rule(func(r *netlink.Rule) { r.Sport = netlink.NewRulePortRange(1, 65534) }), Config{}, "", map[string]int{
			"80" + elsewhere: 16, "443" + elsewhere: 16, "8000" + elsewhere: 16, "8001" + elsewhere: 16,
		}},
		// The kernel looks at the socket's user for a raw packet, too.
		{"user", []string{"a"}, over("b"), rule(func(r *netlink.Rule) { r.UIDRange = netlink.NewRuleUIDRange(0, 0) }), Config{}, "a", map[string]int{
			"80 syn-ack": 16, "443 reset": 16, "8000 reset": 16, "8001 reset": 16,
		}},
		// Which next hop is a matter of the ports, but not of the rule.
		{"two gateways", []string{"a", "b"}, netlab.Route{To: "10.78.0.0/24", Next: []string{"b"}, Table: 100}, dport, Config{}, "", map[string]int{
			"80 syn-ack": 16, "443 reset": 16, "8000 reset": 16, "8001 reset": 16,
		}},
		{"link layer", []string{"a"}, over("b"), dport, Config{LinkLayer: true}, "", map[string]int{
			"80 syn-ack": 16, "443 reset": 16, "8000 reset": 16, "8001 reset": 16,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			lab := netlab.Start(t, twoWays(c.next...).WithRoutes("client", c.route).WithSysctl("client", "net.ipv4.fib_multipath_hash_policy", "1"))
			client := lab.Node("client")
			c.rule(t, client)
			if c.dead != "" {
				lab.Node(c.dead).Die()
			}
			c.cfg.NoEcho, c.cfg.Wait = true, time.Second
			f := probeFrom(t, client, mustSpace(t, prefix("10.77.0.0/28", 80, 443, 8000, 8001)), c.cfg)
			if got := f.count(); f.err != nil || !same(got, c.want) {
				t.Errorf("got %v, want %v; %v", got, c.want, f.err)
			}
		})
	}
}

// The same in IPv6, where a raw packet is refused and a connection would pass.
func TestPolicyRuleByPort6(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, far(1, "fd98::/64").With("client", func(n *netlab.Node) {
		n.Routes = append(n.Routes,
			netlab.Route{To: "fd98::/64", Type: netlab.Unreachable},
			netlab.Route{To: "fd98::/64", Next: []string{"r1"}, Table: 100})
		n.Policies = append(n.Policies, netlab.Policy{Table: 100, Proto: netlab.TCP, DstPort: 443})
	}))
	want := map[string]int{
		"80  refused: unreachable": 16, "443  routing rules by protocol or port lead a connection another way than raw packets": 16,
		"80 syn-ack": 1, "443 reset": 1,
	}
	// Frames go past the rules, and here nowhere: which is no word about a
	// connection.
	for _, linkLayer := range []bool{false, true} {
		f := probeFrom(t, lab.Node("client"), mustSpace(t, prefix("fd98::/124", 80, 443), prefix("fd00:0:0:2::2/128", 80, 443)), Config{NoEcho: true, Wait: time.Second, LinkLayer: linkLayer})
		if got := f.count(); f.err != nil || !same(got, want) {
			t.Errorf("link layer %v: got %v, want %v; %v", linkLayer, got, want, f.err)
		}
	}
}

// Of two next hops that share a route one is dead: what goes over the other has
// its answer.
func TestDeadGatewayOfTwo(t *testing.T) {
	netlab.Require(t)
	for dead, alive := range map[string]string{"a": "b", "b": "a"} {
		t.Run(dead, func(t *testing.T) {
			t.Parallel()
			own := netip.MustParsePrefix("10.66.0.1/32")
			lab := netlab.Start(t, twoWays().
				With("client", func(n *netlab.Node) {
					n.Addrs = []netip.Prefix{own}
					n.Routes = []netlab.Route{{To: "10.77.0.0/24", Next: []string{"a", "b"}, Src: own.Addr()}}
				}).
				WithRoutes("server", netlab.Route{To: "10.66.0.1", Next: []string{alive}}))
			lab.Node(dead).Die()
			f := probeFrom(t, lab.Node("client"), mustSpace(t, prefix("10.77.0.0/24", 80)), Config{NoEcho: true, Wait: time.Second})
			// The kernel spreads the addresses by a hash: each way has some of 256.
			n := f.count()["80 syn-ack"]
			if f.err != nil || n == 0 || n == 256 {
				t.Errorf("%v, %v", f.count(), f.err)
			}
		})
	}
}

// A host is asked from the address of its own network: where this machine has
// several networks on one link, a host that knows no way to another ignores what
// comes from there.
func TestTwoNetworksOnOneLink(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	only := func(a string) netlab.End { return netlab.End{Addrs: []netip.Prefix{netip.MustParsePrefix(a)}} }
	client, x, y := only("10.8.0.1/24"), only("10.8.0.2/24"), only("10.9.0.2/24")
	client.Addrs = append(client.Addrs, netip.MustParsePrefix("10.9.0.1/24"))
	client.Node, x.Node, y.Node = "client", "x", "y"
	lab := netlab.Start(t, netlab.Topology{
		Name:  "two networks",
		Nodes: []netlab.Node{{Name: "client"}, {Name: "x", Listen: []string{"tcp:80"}}, {Name: "y", Listen: []string{"tcp:80"}}},
		Links: []netlab.Link{{Kind: netlab.Segment, Ends: []netlab.End{client, x, y}}},
	}.
		WithRoutes("x", netlab.Route{To: "client", Type: netlab.NoRoute}).
		WithRoutes("y", netlab.Route{To: "client", Type: netlab.NoRoute}).
		WithSysctl("x", "net.ipv4.conf.all.rp_filter", "1").
		WithSysctl("y", "net.ipv4.conf.all.rp_filter", "1"))
	f := probeFrom(t, lab.Node("client"), mustSpace(t, prefix("10.8.0.2/32", 80), prefix("10.9.0.2/32", 80)), Config{})
	if got, want := f.count(), map[string]int{"80 syn-ack": 2}; f.err != nil || !same(got, want) {
		t.Errorf("got %v, want %v; %v", got, want, f.err)
	}
}

// What this machine itself refuses: by a rule, by a route, by having none.
func TestOwnRefusals(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, far(1, "10.77.0.0/24").
		WithRules("client",
			netlab.Rule{Hook: netlab.Output, Proto: netlab.TCP, DstPort: 81, Action: netlab.Drop},
			netlab.Rule{Hook: netlab.Output, Proto: netlab.TCP, DstPort: 82, Action: netlab.Reset},
			netlab.Rule{Hook: netlab.Output, Proto: netlab.TCP, DstPort: 83, Action: netlab.RejectHost}).
		WithRoutes("client",
			netlab.Route{To: "10.77.0.0/24", Next: []string{"10.0.1.2"}},
			netlab.Route{To: "10.77.0.16/28", Type: netlab.Unreachable},
			netlab.Route{To: "10.77.0.32/28", Type: netlab.Prohibit},
			netlab.Route{To: "10.77.0.48/28", Type: netlab.Blackhole}))
	client := lab.Node("client")
	s := mustSpace(t, prefix("10.77.0.0/26", 80), prefix("10.77.0.0/28", 81, 82, 83), prefix("172.31.0.0/28", 80))
	client.DelRoute("default")
	for _, tries := range []int{1, 3} {
		refusals(t, client, s, tries)
	}
}

func refusals(t *testing.T, client *netlab.Machine, s *Space, tries int) {
	t.Helper()
	f := probeFrom(t, client, s, Config{Wait: time.Second, Tries: tries, NoEcho: true})
	if f.err != nil {
		t.Fatal(f.err)
	}
	want := map[string]int{
		"80 syn-ack": 16, "81  refused: not-permitted": 16, "82 reset refused: not-permitted": 16, "83 icmp-error 0/0 refused: not-permitted": 16,
		"80  refused: unreachable": 16, "80  refused: prohibit": 16, "80  refused: blackhole": 16, "80  refused: no-route": 16,
	}
	if got := f.count(); !same(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// This machine's own addresses.
func TestOwnAddress(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, netlab.Chain(0).WithListen("client", "tcp:80"))
	s := mustSpace(t, prefix("127.0.0.1/32", 80, 81), prefix("10.0.1.1/32", 80, 81), prefix("::1/128", 80, 81))
	f := probeFrom(t, lab.Node("client"), s, Config{Wait: time.Second})
	want := map[string]int{"80 syn-ack": 3, "81 reset": 3}
	if got := f.count(); f.err != nil || !same(got, want) {
		t.Errorf("got %v, want %v, %v", got, want, f.err)
	}
	f = probeFrom(t, lab.Node("client"), s, Config{LinkLayer: true})
	if !errors.Is(f.err, ErrLinkLayer) || len(f.results) != 0 {
		t.Errorf("on the link layer: %v", f.err)
	}
}

// A connection table without room is told before anything is sent; where
// nothing is tracked, or past the IP stack, it does not matter.
func TestConntrack(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, far(1, "10.64.0.0/10", "10.77.0.0/24"))
	client := lab.Node("client")
	if _, ok := number("nf_conntrack_max"); !ok {
		t.Skip("SKIPPED: this kernel tracks no connections")
	}
	huge := mustSpace(t, prefix("10.64.0.0/10", 80))
	small := mustSpace(t, prefix("10.77.0.0/24", 80))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	run := func(s *Space, cfg Config) (err error) {
		if e := client.Do(func() error {
			_, err = Run(cancelled, s, cfg, func(*Result) {})
			return nil
		}); e != nil {
			t.Fatal(e)
		}
		return err
	}
	if err := run(huge, Config{}); err != nil {
		t.Errorf("nothing is tracked: %v", err)
	}
	client.AddRule(netlab.Rule{Hook: netlab.Output, State: netlab.CTNew, Action: netlab.Count})
	if err := run(huge, Config{}); !errors.Is(err, ErrConntrack) || !strings.Contains(err.Error(), "a rate of ") {
		t.Errorf("all at once: %v", err)
	}
	for _, cfg := range []Config{{LinkLayer: true}, {Rate: 100}} {
		if err := run(huge, cfg); err != nil {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	if err := run(small, Config{}); err != nil {
		t.Errorf("256 targets: %v", err)
	}
}

// What names no interface, no address and no shard of this machine.
func TestConfigErrors(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, netlab.Chain(0))
	s := mustSpace(t, prefix("10.0.1.2/32", 80))
	for _, c := range []struct {
		cfg  Config
		want error
	}{
		{Config{Interface: "nosuch"}, rawprobe.ErrNoInterface},
		{Config{Source: netip.MustParseAddr("10.9.9.9")}, rawprobe.ErrNotOurs},
		{Config{Shard: 3, Shards: 2}, ErrShard},
		{Config{Shard: 1}, ErrShard},
		{Config{Shards: 2}, ErrShard},
	} {
		if f := probeFrom(t, lab.Node("client"), s, c.cfg); !errors.Is(f.err, c.want) || len(f.results) > 0 {
			t.Errorf("%+v: %v, want %v", c.cfg, f.err, c.want)
		}
	}
	for _, cfg := range []Config{{Interface: "eth0"}, {Source: netip.MustParseAddr("10.0.1.1")}} {
		if f := probeFrom(t, lab.Node("client"), s, cfg); f.err != nil || f.count()["80 syn-ack"] != 1 {
			t.Errorf("%+v: %v, %v", cfg, f.count(), f.err)
		}
	}
}

// A source address or an interface that can't lead to a target: it is an error
// where that holds for all targets, and told of those for which it does.
func TestUnfit(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, far(1).WithListen("client", "tcp:80"))
	client := lab.Node("client")
	loop4, loop6, far4, far6 := prefix("127.0.0.1/32", 80), prefix("::1/128", 80), prefix("10.0.2.2/32", 80), prefix("fd00:0:0:2::2/128", 80)
	for _, c := range []struct {
		name   string
		cfg    Config
		loop   []Block // what is reached on loopback alone
		beyond []Block
		unfit  bool // beyond is, else loop
		want   error
		says   string
	}{
		{"interface", Config{Interface: "eth0"}, []Block{loop4, loop6}, []Block{far4, far6}, false, rawprobe.ErrNotLoopback, "interface eth0 for "},
		{"loopback", Config{Interface: "lo"}, []Block{loop4, loop6}, []Block{far4, far6}, true, rawprobe.ErrLoopback, "interface lo for "},
		{"source", Config{Source: netip.MustParseAddr("127.0.0.1")}, []Block{loop4}, []Block{far4}, true, rawprobe.ErrLoopback, "source 127.0.0.1 for 10.0.2.2: "},
		{"source of IPv6", Config{Source: netip.IPv6Loopback()}, []Block{loop6}, []Block{far6}, true, rawprobe.ErrLoopback, "source ::1 for fd00:0:0:2::2: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad, good := c.loop, c.beyond
			if c.unfit {
				bad, good = c.beyond, c.loop
			}
			f := probeFrom(t, client, mustSpace(t, bad...), c.cfg)
			if !errors.Is(f.err, c.want) || !strings.HasPrefix(f.err.Error(), c.says) || len(f.results) != 0 {
				t.Errorf("all: %v, want %v; %v", f.err, c.want, f.count())
			}
			f = probeFrom(t, client, mustSpace(t, append(good, bad...)...), c.cfg)
			for target, r := range f.results {
				wrong := c.unfit != target.Addr().IsLoopback()
				if wrong && r.Err != c.want || !wrong && (r.Err != nil || r.Kind != rawprobe.SynAck) {
					t.Errorf("%s: %v %s", target, r.Err, describe(&r))
				}
			}
			if f.err != nil || len(f.results) != len(bad)+len(good) {
				t.Errorf("some: %v, %d results", f.err, len(f.results))
			}
		})
	}
}

// A bad line: answers come late, out of order, twice or only to a later try.
// It has no Ethernet either.
func TestBadLine(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	const delay = 50 * time.Millisecond
	lab := netlab.Start(t, far(0, "10.77.0.0/22", "fd77::/122").WithLink(1, func(l *netlab.Link) {
		l.Kind = netlab.Tun
		l.Wire = &netlab.Impairment{Delay: delay, Jitter: delay / 2, Loss: 0.02, Duplicate: 0.2, Reorder: 0.1, Seed: 1}
	}))
	s := mustSpace(t, prefix("10.77.0.0/22", 80, 81), prefix("fd77::/122", 80, 81))
	// Six tries all lost: one in 10^8 for each target.
	f := probeFrom(t, lab.Node("client"), s, Config{Tries: 6, Rate: 20000, NoEcho: true})
	want := map[string]int{"80 syn-ack": 1<<10 + 1<<6, "81 reset": 1<<10 + 1<<6}
	if got := f.count(); f.err != nil || !same(got, want) {
		t.Fatalf("got %v, want %v (%+v), %v", got, want, f.progress, f.err)
	}
	again := 0
	for _, r := range f.results {
		switch {
		case r.Tries > 1:
			again++
			if r.RTT != 0 {
				t.Errorf("%+v: an RTT", r)
			}
		case r.RTT <= 0:
			t.Errorf("%+v: no RTT", r)
		}
	}
	if again == 0 {
		t.Error("nothing was lost")
	}
	if f := probeFrom(t, lab.Node("client"), s, Config{LinkLayer: true}); !errors.Is(f.err, ErrLinkLayer) {
		t.Errorf("on the link layer: %v", f.err)
	}
}

// An interrupted run leaves the others to the next.
func TestInterrupted(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, far(1, "10.77.0.0/18").WithRules("server", netlab.Rule{Proto: netlab.TCP, DstPort: 81, Action: netlab.Drop}))
	s := mustSpace(t, prefix("10.77.0.0/18", 80, 81))
	results := make(map[netip.AddrPort]bool)
	position := uint64(0)
	runs := 0
	for ; position < s.Len() && runs < 10; runs++ {
		ctx, cancel := context.WithCancel(t.Context())
		here := 0
		err := lab.Node("client").Do(func() error {
			p, err := Run(ctx, s, Config{Seed: 4, Position: position, Tries: 2, Wait: 300 * time.Millisecond}, func(r *Result) {
				if here++; here == 8000 {
					cancel()
				}
				if results[r.Target] {
					t.Errorf("a second result for %s", r.Target)
				}
				results[r.Target] = true
				if (r.Kind == rawprobe.SynAck) != (r.Target.Port() == 80) {
					t.Errorf("%+v", r)
				}
			})
			if p.Position != position+uint64(here) || p.Done != p.Position {
				t.Errorf("%d results from %d on: %+v", here, position, p)
			}
			position = p.Position
			return err
		})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
	if uint64(len(results)) != s.Len() || runs < 2 {
		t.Errorf("%d results in %d runs, want %d in several", len(results), runs, s.Len())
	}
}

// Answers that come while nobody reads, and more of them than the ring holds,
// are told as lost, and found by the next try.
func TestLostAnswers(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, far(0, "10.77.0.0/20").WithLink(1, func(l *netlab.Link) {
		l.Kind = netlab.Tun
		l.Wire = &netlab.Impairment{Delay: 200 * time.Millisecond}
	}))
	s := mustSpace(t, prefix("10.77.0.0/20", 81))
	results, later := 0, 0
	var p Progress
	err := lab.Node("client").Do(func() (err error) {
		p, err = Run(t.Context(), s, Config{Rate: 20000, Tries: 5, ringBlocks: 2}, func(r *Result) {
			if results++; results == 1 {
				time.Sleep(700 * time.Millisecond)
			}
			if r.Kind != rawprobe.Reset {
				t.Errorf("%+v", r)
			}
			if r.Tries > 1 {
				later++
			}
		})
		return err
	})
	if err != nil || p.Drops == 0 || uint64(results) != s.Len() || later == 0 {
		t.Errorf("%+v, %v; %d results, %d of them from a later try", p, err, results, later)
	}
}

// Run gives back what it opened.
func TestNothingLeft(t *testing.T) {
	netlab.Require(t)
	lab := netlab.Start(t, far(1, "10.77.0.0/28", "fd77::/124"))
	s := mustSpace(t, prefix("10.77.0.0/28", 80), prefix("fd77::/124", 80))
	open := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	maps := func() int {
		b, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(b), "socket:") // the rings
	}
	var fds int
	for i := range 5 {
		for _, cfg := range []Config{{}, {LinkLayer: true}, {Interface: "nosuch"}} {
			probeFrom(t, lab.Node("client"), s, cfg)
		}
		if i == 1 { // what the runtime itself keeps open is open by now
			fds = open()
		}
	}
	if n := open(); n > fds {
		t.Errorf("%d descriptors, and %d after three more runs", fds, n)
	}
	if n := maps(); n > 0 {
		t.Errorf("%d rings are still there", n)
	}
}

// A slow reader of results does not lose answers: nothing is sent while it is
// busy.
func TestSlowReader(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, far(1, "10.77.0.0/16").WithRules("server", netlab.Rule{Proto: netlab.TCP, Action: netlab.Reset}))
	s := mustSpace(t, prefix("10.77.0.0/16", 80))
	n := 0
	err := lab.Node("client").Do(func() error {
		p, err := Run(t.Context(), s, Config{Tries: 1, Wait: time.Second}, func(r *Result) {
			if r.Kind == rawprobe.Reset {
				if n++; n%10000 == 0 {
					time.Sleep(300 * time.Millisecond)
				}
			}
		})
		if p.Drops != 0 || p.Received < 1<<16 {
			t.Errorf("%+v", p)
		}
		return err
	})
	if err != nil || n != 1<<16 {
		t.Errorf("%d resets, %v; want %d", n, err, 1<<16)
	}
}
