package netlab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// routes returns a node's routes as text, one for each.
func routes(t *testing.T, topo Topology, node string) []string {
	t.Helper()
	p, err := topo.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, r := range p.Node(node).Routes {
		text := r.Dst.String()
		for _, hop := range r.Next {
			text += fmt.Sprintf(" via %v %s", hop.Addr, hop.Iface)
		}
		if r.Type != Unicast {
			text += " " + r.Type.String()
		}
		if r.Table != 0 {
			text += fmt.Sprintf(" table %d", r.Table)
		}
		s = append(s, text)
	}
	return s
}

func TestResolveRoutes(t *testing.T) {
	for _, tt := range []struct {
		name string
		topo Topology
		node string
		want []string
	}{
		{"host", Chain(2), "client", []string{
			"0.0.0.0/0 via 10.0.1.2 eth0", "::/0 via fd00:0:0:1::2 eth0"}},
		{"router", Chain(2), "r1", []string{
			"10.0.3.0/24 via 10.0.2.2 eth1", "fd00:0:0:3::/64 via fd00:0:0:2::2 eth1"}},
		{"neighbours", Chain(0), "client", nil},
		{"one family", Chain(1).WithLink(1, func(l *Link) { l.Only = IPv4 }), "client", []string{
			"0.0.0.0/0 via 10.0.1.2 eth0"}},
		{"no route", Chain(1).WithRoutes("client", Route{To: "server", Type: NoRoute}), "client", nil},
		{"no route in one family", Chain(1).WithRoutes("client", Route{To: "0.0.0.0/0", Type: NoRoute}), "client", []string{
			"::/0 via fd00:0:0:1::2 eth0"}},
		{"special", Chain(1).WithRoutes("client", Route{To: "default", Type: Prohibit}), "client", []string{
			"0.0.0.0/0 prohibit", "::/0 prohibit"}},
		{"ecmp", Diamond(), "r1", []string{
			"10.0.6.2/32 via 10.0.2.2 eth1 via 10.0.3.2 eth2",
			"fd00:0:0:6::2/128 via fd00:0:0:2::2 eth1 via fd00:0:0:3::2 eth2",
			"10.0.4.0/24 via 10.0.2.2 eth1", "10.0.5.0/24 via 10.0.3.2 eth2", "10.0.6.0/24 via 10.0.2.2 eth1",
			"fd00:0:0:4::/64 via fd00:0:0:2::2 eth1", "fd00:0:0:5::/64 via fd00:0:0:3::2 eth2", "fd00:0:0:6::/64 via fd00:0:0:2::2 eth1"}},
		{"own networks", Line("client", "server").With("server", func(n *Node) {
			n.Addrs = []netip.Prefix{netip.MustParsePrefix("10.77.0.0/16")}
		}), "client", []string{"0.0.0.0/0 via 10.0.1.2 eth0"}},
		{"own interface down", Chain(1).WithLink(1, func(l *Link) { l.Ends[0].Down = true }), "client", nil},
		{"table", Chain(1).WithRoutes("client", Route{To: "10.9.0.0/16", Next: []string{"10.0.1.2"}, Table: 7}), "client", []string{
			"10.9.0.0/16 via 10.0.1.2 eth0 table 7", "0.0.0.0/0 via 10.0.1.2 eth0", "::/0 via fd00:0:0:1::2 eth0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := routes(t, tt.topo, tt.node); !slices.Equal(got, tt.want) {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(tt.want, "\n\t"))
			}
		})
	}
}

func TestResolveErrors(t *testing.T) {
	for _, tt := range []struct {
		topo Topology
		want string // in the error
	}{
		{Topology{Name: "empty"}, `topology "empty": no nodes`},
		{Chain(1).WithNode(Node{Name: "r1"}), `node "r1": defined twice`},
		{Chain(1).WithNode(Node{Name: "a b"}), `"a b" is no name`},
		{Chain(1).WithLink(1, func(l *Link) { l.Ends[0].Node = "x" }), `link 1 (veth): unknown node "x"`},
		{Chain(1).WithLink(1, func(l *Link) { l.Ends = l.Ends[:1] }), `has 1 ends, needs 2`},
		{Chain(1).WithLink(1, func(l *Link) { l.Ends = append(l.Ends, End{Node: "server"}) }), `only a segment`},
		{Chain(1).WithLink(2, func(l *Link) { l.Ends[0].Iface = "eth0" }), `node "r1": duplicate interface "eth0"`},
		{Chain(1).WithLink(1, func(l *Link) { l.Ends[0].Iface = "an-interface-too-long" }), `no name for an interface`},
		{Chain(1).WithLink(2, func(l *Link) { l.Ends[0].Addrs = []netip.Prefix{netip.MustParsePrefix("10.0.1.1/24")} }), `address 10.0.1.1 is also that of node "client"`},
		{Chain(1).WithLink(1, func(l *Link) { l.Wire = &Impairment{} }), `only a tun link`},
		{Chain(1).WithLink(1, func(l *Link) { l.Kind, l.Wire = Tun, &Impairment{Reorder: 0.1} }), `reordering needs a delay`},
		{Chain(1).WithLink(1, func(l *Link) { l.Kind, l.Wire = Tun, &Impairment{Loss: 2} }), `not a probability`},
		{Chain(0).WithLink(1, func(l *Link) { l.Ends[1].NoAddrs = true }).WithRoutes("client", Route{To: "server", Type: Blackhole}), `node "server" has no address`},
		{Chain(1).WithListen("server", "80"), `service "80": want "tcp:PORT"`},
		{Chain(1).WithListen("server", "tcp:65536"), `service "tcp:65536"`},
		{Chain(1).WithRoutes("client", Route{To: "nowhere"}), `"nowhere" is no node, address or prefix`},
		{Chain(2).WithRoutes("client", Route{To: "server", Next: []string{"r2"}}), `no next hop ["r2"] is a neighbour`},
		{Chain(1).WithRoutes("client", Route{To: "server", Next: []string{"x"}}), `next hop "x" is no node or address`},
		{Chain(1).WithRules("r1", Rule{Hook: Forward, Action: Reset}), `node "r1": rule 0 (forward): only TCP can be reset`},
		{Chain(1).WithRules("r1", Rule{Hook: Forward, DstPort: 80}), `ports need Proto`},
		{Chain(1).WithRules("r1", Rule{Hook: Forward, Action: DNAT, To: "server"}), `possible at [prerouting output] only`},
		{Chain(1).WithRules("r1", Rule{Hook: Prerouting, Action: DNAT, To: "x"}), `translation to "x": no node or address`},
		{Chain(1).WithRules("r1", Rule{Hook: Forward, InIface: "eth7"}), `no interface "eth7"`},
		{Chain(1).WithRules("r1", Rule{Hook: Forward, Src: "x"}), `source: "x" is no node`},
		{Chain(1).WithRules("r1", Rule{Hook: Forward, Src: "10.0.0.1", Dst: "fd00::1"}), `matches no family`},
		{Chain(1).WithRules("r1", Rule{Hook: Forward, Action: SetTTL}), `set TTL`},
		{Chain(1).WithRules("r1", Rule{Hook: Ingress, State: CTNew}), `no connection tracking`},
		{Chain(1).WithRules("r1", Rule{Hook: Forward, Every: 3, Phase: 3}), `Phase is not below Every`},
	} {
		_, err := tt.topo.Resolve()
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
	// All that is wrong is said at once.
	_, err := Chain(1).WithListen("server", "x", "y").Resolve()
	if err == nil || !strings.Contains(err.Error(), `"x"`) || !strings.Contains(err.Error(), `"y"`) {
		t.Errorf("got %v", err)
	}
}

// The builders of topologies must not change what they were given: a table of
// tests starts many cases from one.
func TestWithCopies(t *testing.T) {
	base := Chain(1).WithRules("r1", Rule{Name: "one"}).WithSysctl("r1", "a", "b")
	before := fmt.Sprint(base)
	base.WithRules("r1", Rule{Name: "two"}).WithRoutes("r1", Route{To: "default"}).WithListen("server", "tcp:81").
		WithSysctl("r1", "a", "c").WithNode(Node{Name: "x"}).WithLink(3, func(l *Link) { *l = Join("x", "r1") }).
		WithLink(1, func(l *Link) { l.Ends[0].Down = true })
	if after := fmt.Sprint(base); after != before {
		t.Errorf("before %s\nafter  %s", before, after)
	}
	defer func() {
		if recover() == nil {
			t.Error("a node that does not exist was changed")
		}
	}()
	base.WithRules("nobody")
}

func TestLane(t *testing.T) {
	now := time.Unix(0, 0)
	im := Impairment{Delay: 10 * time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.2, Duplicate: 0.1, Seed: 1}
	run := func(im Impairment, end int) (times [][]time.Time, lost, twice int) {
		lane := im.Lane(end)
		last := now
		for i := range 10000 {
			sent := now.Add(time.Duration(i) * time.Millisecond)
			at := lane.Next(sent)
			times = append(times, at)
			switch len(at) {
			case 0:
				lost++
				continue
			case 2:
				twice++
			}
			if d := at[0].Sub(sent); d < im.Delay || d > im.Delay+im.Jitter {
				t.Fatalf("packet %d took %v", i, d)
			}
			if at[0].Before(last) {
				t.Fatalf("packet %d overtook another", i)
			}
			last = at[0]
		}
		return times, lost, twice
	}
	one, lost, twice := run(im, 0)
	if lost < 1800 || lost > 2200 || twice < 650 || twice > 950 {
		t.Errorf("of 10000 %d were lost and %d doubled", lost, twice)
	}
	if two, _, _ := run(im, 0); fmt.Sprint(two) != fmt.Sprint(one) {
		t.Error("the same seed gave something else")
	}
	if two, _, _ := run(im, 1); fmt.Sprint(two) == fmt.Sprint(one) {
		t.Error("both directions do the same")
	}
	im.Reorder = 0.5
	lane, ahead := im.Lane(0), 0
	for range 1000 {
		if at := lane.Next(now); len(at) > 0 && at[0].Equal(now) {
			ahead++
		}
	}
	if ahead < 300 || ahead > 500 {
		t.Errorf("%d of 1000 were sent ahead", ahead)
	}
}
