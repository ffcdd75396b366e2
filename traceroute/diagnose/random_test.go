package diagnose_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"synprobe/rawprobe"
	"synprobe/rawprobe/netlab"
	"synprobe/rawprobe/simnet"
	"synprobe/traceroute"
	"synprobe/traceroute/diagnose"
)

// Random networks: each has one fault that is known, and is diagnosed from
// beginning to end in virtual time. Whatever the network, a diagnosis that
// calls itself certain is right, and the device that is to blame is in the
// fault or in an alternative.

var (
	networks = flag.Int("networks", 0, "how many random networks to diagnose; 0: 10000, or 500 with -short or the race detector")
	from     = flag.Uint64("from", 1, "seed of the first random network")
	keep     = flag.Bool("keep", false, "keep each failure, as small as it gets, in testdata/random")
)

// A network is what a random network is made from. Smaller numbers are simpler
// networks: that is how a failure is shrunk. The zero network is a client and
// an open port on one link.
type network struct {
	Seed uint64 // of the simulation
	V6   bool   `json:",omitempty"`

	Routers    int    `json:",omitempty"` // in a row
	Fork       int    `json:",omitempty"` // the router behind which there are two ways; 0 for none
	LegA, LegB int    `json:",omitempty"` // routers on each way more than one
	Back       int    `json:",omitempty"` // routers on a way back of its own; 0 for none
	Mute       uint   `json:",omitempty"` // bits of routers that let TTLs expire without a word
	Wire       int    `json:",omitempty"` // the link that is impaired; 0 for none
	Loss       int    `json:",omitempty"` // there, in percent
	Delay      int    `json:",omitempty"` // there, in milliseconds
	Quote      int    `json:",omitempty"` // of all routers; see simnet.Quote
	QuotedID   int    `json:",omitempty"`
	HostTTL    int    `json:",omitempty"` // 0 Linux, 1 Windows, 2 ICMP from 255
	NoEcho     bool   `json:",omitempty"` // the host answers no echo
	Stealth    bool   `json:",omitempty"` // the host sends no resets
	Closed     bool   `json:",omitempty"` // nothing listens on the port
	Others     bool   `json:",omitempty"` // the host has an open port 443
	Fault      string `json:",omitempty"` // see faults
	At         int    `json:",omitempty"` // the router at fault
	Hook       int    `json:",omitempty"` // 0 forward, 1 prerouting, 2 ingress
	Match      int    `json:",omitempty"` // 0 the port, 1 TCP, 2 everything
	Action     int    `json:",omitempty"` // index into actions
}

var actions = []netlab.Action{
	netlab.Drop, netlab.Reset, netlab.RejectPort, netlab.RejectAdmin, netlab.RejectHost, netlab.RejectNet,
	netlab.RejectHostAdmin, netlab.RejectNetAdmin, netlab.RejectProto, netlab.RejectPolicyFail, netlab.RejectRoute,
}

// faults are the kinds of fault, each as often as it stands here.
var faults = []string{
	"", "router", "router", "router", "router", "router", "stateful", "host", "host", "full", "dead", "just died", "gateway",
	"no route", "prohibit", "unreachable", "blackhole", "loop", "return", "return", "redirect", "synproxy", "masquerade",
	"forward", "forward to dead", "own output", "own input", "leg",
}

// randomNetwork makes a network of a seed.
func randomNetwork(seed uint64) network {
	r := rand.New(rand.NewPCG(seed, 7))
	one := func(n int) bool { return r.IntN(n) == 0 }
	n := network{
		Seed: seed, V6: one(3), Routers: r.IntN(6), Closed: one(4), Others: one(2), NoEcho: one(6), Stealth: one(10),
		Fault: faults[r.IntN(len(faults))], Hook: r.IntN(3), Match: r.IntN(3), Action: r.IntN(len(actions)),
		Quote: r.IntN(3), QuotedID: r.IntN(4),
	}
	if one(3) {
		n.Action = 0
	}
	if one(2) {
		n.Mute = uint(r.IntN(1 << (n.Routers + 1)))
	}
	if n.Routers > 1 && (one(4) || n.Fault == "leg") {
		n.Fork, n.LegA, n.LegB = 1+r.IntN(n.Routers-1), r.IntN(2), r.IntN(2)
	}
	if n.Routers > 0 && n.Fork == 0 && one(5) {
		n.Back = 1 + r.IntN(3)
	}
	if one(3) {
		n.Wire, n.Delay = 1+r.IntN(n.Routers+1), r.IntN(60)
		if one(2) {
			n.Loss = 5 + r.IntN(26)
		}
	}
	if one(4) {
		n.HostTTL = 1 + r.IntN(2)
	}
	if n.Routers > 0 {
		n.At = 1 + r.IntN(n.Routers)
	}
	return n
}

// A truth is what is really the matter with a network.
type truth struct {
	// right are the verdicts and causes that are not false.
	right []claim
	where []diagnose.Where
	// devices are the names of the nodes to blame, of which one must be
	// named; none where nothing is wrong.
	devices []string
}

type claim struct {
	verdict diagnose.Verdict
	cause   diagnose.Cause
}

// built is a network that can be run.
type built struct {
	topology netlab.Topology
	options  simnet.Options
	truth    truth
	target   string // the node that is asked
	setup    func(*simnet.Net) error
	depth    map[string][]int // the hop numbers that a node has
}

func router(i int) string { return fmt.Sprintf("r%d", i) }

// build makes the network. It reports false for one that makes no sense.
func (n network) build() (b built, ok bool) {
	names := []string{"client"}
	for i := range n.Routers {
		names = append(names, router(i+1))
	}
	names = append(names, "server")
	if n.Fork >= n.Routers && n.Fork > 0 || n.Wire > n.Routers+1 || n.At > n.Routers {
		return b, false
	}
	t := netlab.Topology{Name: "random"}
	for _, name := range names {
		t.Nodes = append(t.Nodes, netlab.Node{Name: name, Forward: name[0] == 'r'})
	}
	b.depth = map[string][]int{"client": {0}}
	row := func(nodes ...string) {
		for i := 1; i < len(nodes); i++ {
			t.Links = append(t.Links, netlab.Join(nodes[i-1], nodes[i]))
		}
	}
	legs := make([][]string, 2)
	for i := 1; i < len(names); i++ {
		if n.Fork == 0 || i-1 != n.Fork {
			row(names[i-1], names[i])
			continue
		}
		for l, more := range []int{n.LegA, n.LegB} {
			leg := []string{names[i-1]}
			for k := range more + 1 {
				name := fmt.Sprintf("%c%d", 'a'+l, k+1)
				t.Nodes = append(t.Nodes, netlab.Node{Name: name, Forward: true})
				b.depth[name] = []int{n.Fork + k + 1}
				leg = append(leg, name)
			}
			legs[l] = leg[1:]
			row(append(leg, names[i])...)
		}
	}
	for i, name := range names[1:] {
		b.depth[name] = []int{i + 1}
		if n.Fork > 0 && i+1 > n.Fork {
			b.depth[name] = []int{i + 2 + n.LegA, i + 2 + n.LegB}
		}
	}
	if n.Fork > 0 {
		first, second := router(n.Fork), router(n.Fork+1)
		t = t.WithRoutes(first, netlab.Route{To: "server", Next: []string{legs[0][0], legs[1][0]}}).
			WithRoutes(second, netlab.Route{To: "client", Next: []string{legs[0][n.LegA], legs[1][n.LegB]}})
	}
	var back []string
	if n.Back > 0 {
		way := []string{"server"}
		for i := range n.Back {
			name := fmt.Sprintf("x%d", i+1)
			back = append(back, name)
			t.Nodes = append(t.Nodes, netlab.Node{Name: name, Forward: true})
			way = append(way, name)
		}
		row(append(way, "r1")...)
		t = t.WithRoutes("server", netlab.Route{To: "client", Next: []string{"x1"}})
	}
	if n.Wire > 0 {
		k := slices.IndexFunc(t.Links, func(l netlab.Link) bool { return l.Ends[0].Node == names[n.Wire-1] && l.Ends[1].Node == names[n.Wire] })
		if k < 0 {
			return b, false
		}
		t = t.WithLink(k+1, func(l *netlab.Link) {
			l.Kind = netlab.Tun
			l.Wire = &netlab.Impairment{Delay: time.Duration(n.Delay) * time.Millisecond, Loss: float64(n.Loss) / 100, Seed: n.Seed}
		})
	}
	b.options = simnet.Options{Seed: n.Seed, Habits: make(map[string]simnet.Habit)}
	for i, node := range t.Nodes {
		if node.Forward {
			b.options.Habits[node.Name] = simnet.Habit{
				Mute: n.Mute>>(i%30)&1 != 0, Quote: simnet.Quote(n.Quote), QuotedID: simnet.QuotedID(n.QuotedID),
			}
		}
	}
	host := simnet.Habit{Stealth: n.Stealth}
	switch n.HostTTL {
	case 1:
		host.TTL = 128
	case 2:
		host.ICMPTTL = 255
	}
	b.options.Habits["server"] = host
	if !n.Closed {
		t = t.WithListen("server", "tcp:80")
	}
	if n.Others {
		t = t.WithListen("server", "tcp:443")
	}
	if n.NoEcho {
		t = t.WithRules("server", netlab.Rule{Hook: netlab.Input, ICMP: netlab.EchoRequest, Action: netlab.Drop})
	}
	b.topology, b.target = t, "server"
	return b, n.fault(&b, names, legs, back)
}

// rule is a rule that matches what the network's fault is about.
func (n network) rule(h netlab.Hook, a netlab.Action) netlab.Rule {
	r := netlab.Rule{Hook: h, Action: a, Dst: "server"}
	switch n.Match {
	case 0:
		r.Proto, r.DstPort = netlab.TCP, 80
	case 1:
		r.Proto = netlab.TCP
	}
	if a == netlab.Reset && r.Proto == 0 {
		r.Proto = netlab.TCP
	}
	return r
}

// fault adds the fault, and says what is then true.
func (n network) fault(b *built, names []string, legs [][]string, back []string) bool {
	t := &b.topology
	action := actions[n.Action%len(actions)]
	last := names[len(names)-2] // who would search for the host
	answer := claim{diagnose.Open, diagnose.Listening}
	if n.Closed {
		answer = claim{diagnose.Reject, diagnose.PortClosed}
		if n.Stealth {
			answer = claim{diagnose.Drop, diagnose.Unknown}
		}
	}
	is := func(v diagnose.Verdict, c diagnose.Cause) { b.truth.right = append(b.truth.right, claim{v, c}) }
	blame := func(w diagnose.Where, nodes ...string) {
		b.truth.where = append(b.truth.where, w)
		b.truth.devices = append(b.truth.devices, nodes...)
	}
	healthy := func() {
		is(answer.verdict, answer.cause)
		if answer.verdict == diagnose.Reject {
			blame(diagnose.Destination, "server")
		}
		if answer.verdict == diagnose.Drop { // a host that hides
			is(diagnose.Drop, diagnose.HostFirewall)
			is(diagnose.Drop, diagnose.NotAccepting)
			blame(diagnose.Destination, "server")
		}
	}
	at := router(n.At)
	onPath := []string{"router", "stateful", "no route", "prohibit", "unreachable", "blackhole", "loop", "redirect", "synproxy", "masquerade", "forward", "forward to dead", "gateway"}
	if slices.Contains(onPath, n.Fault) && n.At == 0 {
		return false
	}
	reject := action != netlab.Drop
	everything := n.Match == 2 && action != netlab.Reset
	switch n.Fault {
	case "":
		healthy()
	case "router":
		h := []netlab.Hook{netlab.Forward, netlab.Prerouting, netlab.Ingress}[n.Hook%3]
		if everything && slices.Contains([]netlab.Action{netlab.RejectHost, netlab.RejectNet}, action) {
			return false // a firewall that lies about everything is taken at its word
		}
		*t = t.WithRules(at, n.rule(h, action))
		blame(diagnose.Path, at)
		if reject {
			is(diagnose.Reject, diagnose.NetworkFirewall)
		} else {
			is(diagnose.Drop, diagnose.NetworkFirewall)
		}
	case "stateful":
		*t = t.WithRules(at,
			netlab.Rule{Hook: netlab.Forward, State: netlab.CTInvalid, Action: netlab.Drop},
			netlab.Rule{Hook: netlab.Forward, State: netlab.CTEstablished | netlab.CTRelated, Action: netlab.Accept},
			netlab.Rule{Hook: netlab.Forward, Proto: netlab.ICMP, Action: netlab.Accept},
			netlab.Rule{Hook: netlab.Forward, Proto: netlab.TCP, DstPort: 443, Action: netlab.Accept},
			netlab.Rule{Hook: netlab.Forward, Action: netlab.Drop})
		is(diagnose.Drop, diagnose.NetworkFirewall)
		blame(diagnose.Path, at)
	case "host":
		r := n.rule(netlab.Input, action)
		*t = t.WithRules("server", r)
		blame(diagnose.Destination, "server")
		switch action {
		case netlab.Drop:
			is(diagnose.Drop, diagnose.HostFirewall)
		case netlab.Reset:
			is(diagnose.Reject, diagnose.PortClosed)
		case netlab.RejectHost, netlab.RejectNet:
			is(diagnose.HostDown, diagnose.HostUnreachable) // its own word
			is(diagnose.Reject, diagnose.HostFirewall)
		default:
			is(diagnose.Reject, diagnose.HostFirewall)
		}
	case "full":
		*t = t.With("server", func(s *netlab.Node) { s.Listen = append(slices.Clone(s.Listen), "tcp:80/full") })
		is(diagnose.Drop, diagnose.NotAccepting)
		is(diagnose.Drop, diagnose.HostFirewall) // on the link nothing tells them apart
		blame(diagnose.Destination, "server")
	case "dead", "just died":
		is(diagnose.HostDown, diagnose.HostUnreachable)
		is(diagnose.HostDown, diagnose.NeighborUnreachable)
		blame(diagnose.Destination, "server")
		b.setup = func(s *simnet.Net) error {
			if n.Fault == "just died" && n.Wire != n.Routers+1 {
				if err := s.WarmNeighbor(last, s.Plan.Addr("server", n.family())); err != nil {
					return err
				}
			}
			return s.Die("server")
		}
	case "gateway":
		is(diagnose.NetworkDown, diagnose.GatewayDown)
		blame(diagnose.Local, "client", "r1")
		if n.Wire == 1 {
			blame(diagnose.Path) // nobody resolves there
		}
		b.setup = func(s *simnet.Net) error { return s.Die("r1") }
	case "no route", "prohibit", "unreachable", "blackhole":
		typ := map[string]netlab.RouteType{"no route": netlab.NoRoute, "prohibit": netlab.Prohibit, "unreachable": netlab.Unreachable, "blackhole": netlab.Blackhole}[n.Fault]
		if n.Fork > 0 && (n.At == n.Fork || typ == netlab.NoRoute) || n.At == n.Routers && typ == netlab.NoRoute {
			return false // its routes are written out, or it is on the host's link
		}
		*t = t.WithRoutes(at, netlab.Route{To: "server", Type: typ})
		blame(diagnose.Path, at)
		switch {
		case typ == netlab.Prohibit:
			is(diagnose.Reject, diagnose.NetworkFirewall)
		case typ == netlab.Blackhole:
			is(diagnose.Drop, diagnose.Unknown)
			is(diagnose.Drop, diagnose.NetworkFirewall)
		case typ == netlab.Unreachable && !n.V6:
			is(diagnose.HostDown, diagnose.HostUnreachable)
			blame(diagnose.Destination, "server") // what the router says
		default:
			is(diagnose.NetworkDown, diagnose.NetUnreachable)
		}
	case "loop":
		if n.At < 2 || n.Fork > 0 {
			return false
		}
		*t = t.WithRoutes(at, netlab.Route{To: "server", Next: []string{router(n.At - 1)}})
		is(diagnose.NetworkDown, diagnose.RoutingLoop)
		blame(diagnose.Path, at, router(n.At-1))
	case "return":
		on := "server"
		switch {
		case n.Back > 0:
			on = back[n.At%len(back)]
		case n.At > 0:
			on = at
		}
		r := netlab.Rule{Hook: netlab.Forward, Proto: netlab.TCP, SrcPort: 80, Action: netlab.Drop}
		if n.Match == 2 {
			r = netlab.Rule{Hook: netlab.Forward, Src: "server", Action: netlab.Drop}
		}
		if on == "server" {
			r.Hook, r.Src = netlab.Output, ""
			if n.Match == 2 {
				return false
			}
			blame(diagnose.Destination, "server")
			is(diagnose.Drop, diagnose.HostFirewall)
		} else {
			blame(diagnose.Path, on)
		}
		*t = t.WithRules(on, r)
		is(diagnose.Drop, diagnose.ReturnPath)
	case "redirect":
		*t = t.WithListen(at, "tcp:3128").WithRules(at, netlab.Rule{Hook: netlab.Prerouting, Proto: netlab.TCP, DstPort: 80, Dst: "server", Action: netlab.Redirect, ToPort: 3128})
		is(diagnose.Open, diagnose.Proxy)
		blame(diagnose.Path, at)
	case "synproxy":
		*t = t.WithRules(at, netlab.Rule{Hook: netlab.Forward, Proto: netlab.TCP, DstPort: 80, Dst: "server", Action: netlab.SynProxy})
		is(diagnose.Open, diagnose.Proxy)
		blame(diagnose.Path, at)
	case "masquerade":
		*t = t.WithRules(at, netlab.Rule{Hook: netlab.Postrouting, Src: "client", Action: netlab.Masquerade})
		healthy()
	case "forward", "forward to dead":
		if n.Back > 0 || n.Fork > 0 {
			return false
		}
		b.target = at
		*t = t.WithRules(at, netlab.Rule{Hook: netlab.Prerouting, Proto: netlab.TCP, DstPort: 80, Dst: at, Action: netlab.DNAT, To: "server"})
		if n.Fault == "forward" {
			is(answer.verdict, answer.cause)
			switch answer.verdict {
			case diagnose.Open:
				is(diagnose.Open, diagnose.Proxy)
			case diagnose.Drop:
				is(diagnose.Drop, diagnose.HostFirewall)
				fallthrough
			default:
				blame(diagnose.Destination, "server", at)
				is(diagnose.Reject, diagnose.NetworkFirewall)
			}
			break
		}
		b.setup = func(s *simnet.Net) error { return s.Die("server") }
		is(diagnose.HostDown, diagnose.HostUnreachable)
		blame(diagnose.Destination, "server", at)
	case "own output":
		r := n.rule(netlab.Output, action)
		*t = t.WithRules("client", r)
		blame(diagnose.Local, "client")
		if reject {
			is(diagnose.Reject, diagnose.LocalFirewall)
		} else {
			is(diagnose.Drop, diagnose.LocalFirewall)
		}
	case "own input":
		*t = t.WithRules("client", netlab.Rule{Hook: netlab.Input, Proto: netlab.TCP, SrcPort: 80, Action: netlab.Drop})
		if answer.verdict == diagnose.Drop {
			healthy()
			break
		}
		is(diagnose.Drop, diagnose.LocalFirewall)
		blame(diagnose.Local, "client")
	case "leg":
		if n.Fork == 0 {
			return false
		}
		on := legs[0][len(legs[0])-1]
		r := n.rule(netlab.Forward, netlab.Drop)
		r.Dst = "server"
		*t = t.WithRules(on, r)
		// What is true depends on which way the flow takes.
		is(diagnose.Partial, diagnose.FlowDependent)
		is(diagnose.Drop, diagnose.NetworkFirewall)
		healthy()
		b.truth.where = nil // either
		b.truth.devices = append(b.truth.devices, on)
		blame(diagnose.Path)
		blame(diagnose.Destination)
	default:
		return false
	}
	return true
}

func (n network) family() netlab.Family {
	if n.V6 {
		return netlab.IPv6
	}
	return netlab.IPv4
}

// An outcome is what became of one network.
type outcome struct {
	d        diagnose.Diagnosis
	problems []string
	took     time.Duration
	packets  int
}

// run diagnoses the network in a bubble of its own.
func (n network) run(t *testing.T) (out outcome, ok bool) { return n.traced(t, traceroute.Options{}) }

// traced is run with a trace of the caller's choice.
func (n network) traced(t *testing.T, opt traceroute.Options) (out outcome, ok bool) {
	b, ok := n.build()
	if !ok {
		return out, false
	}
	synctest.Test(t, func(t *testing.T) {
		defer func() {
			if p := recover(); p != nil {
				out.problems = append(out.problems, fmt.Sprintf("panic: %v", p))
			}
		}()
		sim, err := simnet.New(b.topology, b.options)
		if err != nil {
			out.problems = append(out.problems, "no such network: "+err.Error())
			return
		}
		defer sim.Close()
		if b.setup != nil {
			if err := b.setup(sim); err != nil {
				out.problems = append(out.problems, "setup: "+err.Error())
				return
			}
		}
		link, err := sim.Link("client", rawprobe.LinkConfig{IPv6: n.V6})
		if err != nil {
			out.problems = append(out.problems, err.Error())
			return
		}
		defer link.Close()
		begin := time.Now()
		target := netip.AddrPortFrom(sim.Plan.Addr(b.target, n.family()), 80)
		seen, err := traceroute.Observe(context.Background(), link, target, rawprobe.Options{}, opt)
		out.took = time.Since(begin)
		if err != nil {
			out.problems = append(out.problems, "error: "+err.Error())
			return
		}
		out.packets = len(seen.Sent)
		out.d = diagnose.Explain(seen)
		out.problems = b.judge(sim.Plan, &out.d)
		if out.took > n.limit() {
			out.problems = append(out.problems, fmt.Sprintf("took %v", out.took))
		}
	})
	return out, true
}

// limit is how long a diagnosis may take: twice what is promised, and round trips.
// What goes round a loop crosses a slow link up to 64 times.
func (n network) limit() time.Duration {
	rtt := 2 * time.Duration(n.Delay) * time.Millisecond
	if n.Fault == "loop" {
		rtt *= 32
	}
	return 9*time.Second + 3*rtt
}

// judge holds a diagnosis against the truth.
func (b *built) judge(plan *netlab.Plan, d *diagnose.Diagnosis) (problems []string) {
	right := slices.Contains(b.truth.right, claim{d.Verdict, d.Cause})
	if d.Certainty == diagnose.Certain && !right {
		problems = append(problems, fmt.Sprintf("wrong claim: %s %s %s", d.Verdict, d.Cause, d.Certainty))
	}
	if len(b.truth.devices) == 0 {
		return problems
	}
	named := d.Fault != nil && b.names(plan, *d.Fault)
	if d.Certainty == diagnose.Certain && d.Fault != nil && !named {
		problems = append(problems, fmt.Sprintf("wrong claim: the fault is not at %v", d.Fault.Hops))
	}
	for _, a := range d.Alternatives {
		// That the port is open, as an alternative, is nobody's fault.
		named = named || b.names(plan, a.Fault) || slices.Contains(b.truth.right, claim{diagnose.Open, a.Cause})
	}
	if !named && !(right && d.Verdict == diagnose.Open) {
		problems = append(problems, fmt.Sprintf("nobody names the device %v", b.truth.devices))
	}
	return problems
}

// A weakness is a way in which a diagnosis is known to be wrong at times. The
// networks of every day have none. What it explains among others is counted
// apart, and bounded; whoever mends it takes it out.
type weakness struct {
	name string
	is   func(n network, d *diagnose.Diagnosis, problem string) bool
}

var weaknesses = []weakness{
	// Two ways of unequal length share the traffic by port, every probe takes the
	// one way, and the answer of the last router the longer one back.
	{"forged, from as far away as the host", func(n network, d *diagnose.Diagnosis, _ string) bool {
		return n.Fork > 0 && slices.Contains(ownCauses, d.Cause) && has(d, "straight", "provoked-at-host")
	}},
	// Which of two hops made an answer in the host's name is told by the TTL
	// that is left in it, and ways of unequal length share the traffic.
	{"the device's own way back", func(n network, d *diagnose.Diagnosis, problem string) bool {
		return n.Fork > 0 && has(d, "provoked-early") && kindOf(problem) == "wrong claim: the fault is not at"
	}},
	// A silence that losses made, where no other probe was lost, or a third of
	// all were.
	{"loss that nothing else meets", func(n network, d *diagnose.Diagnosis, _ string) bool {
		return n.Loss > 0 && (d.Certainty == diagnose.Certain || d.Verdict == diagnose.Drop)
	}},
	// The host's only answer is a SYN-ACK that it had to send again, and three
	// of its round trips are waited for.
	{"slow by a late SYN-ACK", func(n network, _ *diagnose.Diagnosis, problem string) bool {
		return n.Loss > 0 && n.NoEcho && kindOf(problem) == "took"
	}},
}

var ownCauses = []diagnose.Cause{diagnose.Listening, diagnose.PortClosed, diagnose.HostFirewall}

func has(d *diagnose.Diagnosis, rules ...string) bool {
	return slices.ContainsFunc(d.Evidence, func(e diagnose.Evidence) bool { return slices.Contains(rules, e.Rule) })
}

// weak returns the name of the weakness that explains all problems, or nothing.
func (n network) weak(out *outcome) string {
	for _, w := range weaknesses {
		if !slices.ContainsFunc(out.problems, func(p string) bool {
			// A device that nobody names follows from the wrong claim.
			return kindOf(p) != "nobody names the device" && !w.is(n, &out.d, p)
		}) {
			return w.name
		}
	}
	return ""
}

// maxWeak is the largest share of other networks than those of every day for
// which a known weakness counts: four times what 100,000 have shown.
const maxWeak = 0.0005

// enough networks make a share.
const enough = 400

// names reports whether one of the true devices is among a fault's suspects.
func (b *built) names(plan *netlab.Plan, f diagnose.Fault) bool {
	if f.Where == diagnose.Nowhere && len(f.Hops) == 0 {
		return true
	}
	if f.Where != diagnose.Nowhere && !slices.Contains(b.truth.where, f.Where) {
		return false
	}
	if len(f.Hops) == 0 {
		return true
	}
	for _, name := range b.truth.devices {
		node := plan.Node(name)
		var own []netip.Addr
		for _, i := range node.Interfaces {
			for _, p := range i.Addrs {
				own = append(own, p.Addr())
			}
		}
		for _, h := range f.Hops {
			if slices.Contains(own, h.Address) || !h.Address.IsValid() && slices.Contains(b.depth[name], h.TTL) {
				return true
			}
		}
	}
	return false
}

// simpler returns networks that are one step simpler.
func (n network) simpler() []network {
	var all []network
	data, _ := json.Marshal(n)
	var fields map[string]any
	_ = json.Unmarshal(data, &fields)
	for name, value := range fields {
		var smaller []any
		switch v := value.(type) {
		case float64:
			if name != "Seed" {
				smaller = []any{0, float64(int(v) / 2), v - 1}
			}
		case bool:
			smaller = []any{false}
		}
		for _, s := range smaller {
			changed := make(map[string]any)
			for k, v := range fields {
				changed[k] = v
			}
			changed[name] = s
			changed["Seed"] = n.Seed
			data, _ := json.Marshal(changed)
			var m network
			if json.Unmarshal(data, &m) == nil && m != n {
				all = append(all, m)
			}
		}
	}
	return all
}

// kindOf is what a problem has in common with others of its kind.
func kindOf(problem string) string {
	kind, _, _ := strings.Cut(problem, " [")
	if strings.HasPrefix(kind, "took") {
		return "took"
	}
	return kind
}

// shrink returns the simplest network that still fails in the same way.
func (n network) shrink(t *testing.T, problem string) network {
	for budget := 300; budget > 0; {
		found := false
		for _, m := range n.simpler() {
			budget--
			out, ok := m.run(t)
			if ok && slices.ContainsFunc(out.problems, func(p string) bool { return kindOf(p) == kindOf(problem) }) {
				n, found = m, true
				break
			}
		}
		if !found {
			break
		}
	}
	return n
}

func TestRandomNetworks(t *testing.T) {
	count, everyDay := *networks, *networks == 0 && *from == 1
	if count == 0 {
		count = 10000
		if testing.Short() || raceDetector {
			count = 500
		}
	}
	var (
		mu       sync.Mutex
		next     uint64
		ran      int
		failed   int
		kinds    = make(map[string][2]int) // by fault: runs, unknown
		unknown  int
		certain  int
		correct  int
		failures = make(map[string]int)
		weak     = make(map[string]int)
		weakest  int
	)
	t.Run("all", func(t *testing.T) {
		for w := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint(w), func(t *testing.T) {
				t.Parallel()
				for {
					mu.Lock()
					k, done := next, ran >= count
					next++
					mu.Unlock()
					if done {
						return
					}
					n := randomNetwork(*from + k)
					out, ok := n.run(t)
					if !ok {
						continue
					}
					mu.Lock()
					ran++
					b, _ := n.build()
					c := kinds[n.Fault]
					c[0]++
					if out.d.Cause == diagnose.Unknown {
						c[1]++
						unknown++
					}
					kinds[n.Fault] = c
					if out.d.Certainty == diagnose.Certain {
						certain++
					}
					if slices.Contains(b.truth.right, claim{out.d.Verdict, out.d.Cause}) {
						correct++
					}
					report := false
					if len(out.problems) > 0 {
						kind := n.Fault + ": " + kindOf(out.problems[0])
						if w := n.weak(&out); w != "" && !everyDay {
							weak[w]++
							weakest++
						} else {
							report = failures[kind] == 0
							failures[kind]++
							failed++
						}
					}
					mu.Unlock()
					if report {
						small := n.shrink(t, out.problems[0])
						again, _ := small.run(t)
						t.Errorf("seed %d: %s\n%s", n.Seed, strings.Join(out.problems, "; "), describeFailure(small, again))
						if *keep {
							keepNetwork(t, small)
						}
					}
				}
			})
		}
	})
	t.Logf("%d networks: %d wrong or unnamed, %d certain, %d right, %d unknown (%.1f %%)", ran, failed, certain, correct, unknown, 100*float64(unknown)/float64(max(ran, 1)))
	for _, k := range slices.Sorted(func(yield func(string) bool) {
		for k := range kinds {
			if !yield(k) {
				return
			}
		}
	}) {
		t.Logf("  %-16q %5d runs, %5d unknown", k, kinds[k][0], kinds[k][1])
	}
	for _, w := range weaknesses {
		t.Logf("  %d wrong by a known weakness: %s", weak[w.name], w.name)
	}
	if share := float64(weakest) / float64(max(ran, 1)); weakest > 1 && share > maxWeak {
		t.Errorf("%.3f %% wrong by known weaknesses, at most %.3f %% are allowed", 100*share, 100*maxWeak)
	}
	if failed > 0 {
		var lines []string
		for f, n := range failures {
			lines = append(lines, fmt.Sprintf("%5d %s", n, f))
		}
		slices.Sort(lines)
		slices.Reverse(lines)
		t.Errorf("%d failures:\n%s", failed, strings.Join(lines[:min(len(lines), 60)], "\n"))
	}
	if share := float64(unknown) / float64(max(ran, 1)); ran >= enough && share > maxUnknown {
		t.Errorf("%.1f %% unknown, at most %.1f %% are allowed", 100*share, 100*maxUnknown)
	}
}

// maxUnknown is the largest share of networks for which no cause is given. Most
// of them are such that the packets can't tell: nothing passes a point, or
// routers that never answer surround the fault.
const maxUnknown = 0.25

func describeFailure(n network, out outcome) string {
	data, _ := json.Marshal(n)
	var s strings.Builder
	fmt.Fprintf(&s, "smallest: %s\n", data)
	fmt.Fprintf(&s, "  %s %s %s: %s\n", out.d.Verdict, out.d.Cause, out.d.Certainty, out.d.Summary)
	fmt.Fprintf(&s, "  problems: %s\n", strings.Join(out.problems, "; "))
	if out.d.Fault != nil {
		fmt.Fprintf(&s, "  fault: %+v\n", *out.d.Fault)
	}
	for _, a := range out.d.Alternatives {
		fmt.Fprintf(&s, "  or %s %+v: %s\n", a.Cause, a.Fault, a.Why)
	}
	for _, e := range out.d.Evidence {
		fmt.Fprintf(&s, "  %s: %s\n", e.Rule, e.Text)
	}
	for _, h := range out.d.Path.Hops {
		fmt.Fprintf(&s, "  %d %v", h.TTL, h.Addrs)
		for _, name := range out.d.Path.Names {
			p := h.Of(name)
			fmt.Fprintf(&s, " %s:%s %d/%d", name, p.Status, p.Got, p.Tries)
		}
		fmt.Fprintln(&s)
	}
	return s.String()
}

func keepNetwork(t *testing.T, n network) {
	data, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join("testdata", "random", fmt.Sprintf("%s-%d.json", strings.ReplaceAll(n.Fault, " ", "-"), n.Seed))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, append(data, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestKeptNetworks runs the networks for which a diagnosis once was wrong.
func TestKeptNetworks(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "random", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no networks kept: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".json"), func(t *testing.T) {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var n network
			if err := json.Unmarshal(data, &n); err != nil {
				t.Fatal(err)
			}
			out, ok := n.run(t)
			if !ok {
				t.Fatal("the network makes no sense any more")
			}
			if len(out.problems) > 0 {
				t.Errorf("%s\n%s", strings.Join(out.problems, "; "), describeFailure(n, out))
			}
		})
	}
}

// TestAlwaysToTheEnd follows an open port's path as far as it goes, and not only
// as far as the way back is long: a device before the host answers here, which
// nothing else shows. The second is shown by a datagram that takes a longer way.
func TestAlwaysToTheEnd(t *testing.T) {
	for _, n := range []network{
		{Seed: 3339, V6: true, Routers: 5, Back: 2, Quote: 1, QuotedID: 2, Fault: "redirect", At: 4, Hook: 2, Action: 9},
		{Seed: 1726179, Routers: 5, Fork: 3, LegB: 1, Fault: "synproxy", At: 5},
	} {
		out, ok := n.traced(t, traceroute.Options{Mode: traceroute.Always})
		if !ok {
			t.Fatal("the network makes no sense any more")
		}
		if len(out.problems) > 0 || out.d.Certainty == diagnose.Certain {
			t.Errorf("%s\n%s", strings.Join(out.problems, "; "), describeFailure(n, out))
		}
	}
}
