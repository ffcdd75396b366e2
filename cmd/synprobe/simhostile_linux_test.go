package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"synprobe/cmd/synprobe/internal/cli"
	"synprobe/rawprobe"
	"synprobe/rawprobe/netlab"
	"synprobe/rawprobe/simnet"
	"synprobe/traceroute"
	"synprobe/traceroute/diagnose"
)

// A ground is a network in which an attacker tries to deceive the program.
type ground struct {
	name     string
	net      netlab.Topology
	setup    func(*testing.T, *netlab.Lab, netlab.Family)
	attacker string // the node it sits on: "" is r1
	target   func(*netlab.Lab, netlab.Family) string
	port     uint16 // 0 is 80
}

func (g ground) on() string {
	if g.attacker == "" {
		return "r1"
	}
	return g.attacker
}

// grounds are networks of every verdict.
func grounds() []ground {
	two := netlab.Chain(2)
	return []ground{
		{name: "open", net: two},
		{name: "closed", net: two, port: 81},
		{name: "dropped at r2", net: netlab.Chain(3).WithRules("r2", tcp80(netlab.Forward, netlab.Drop))},
		{name: "dropped by the host", net: two.WithRules("server", tcp80(netlab.Input, netlab.Drop))},
		{name: "silence", net: two.WithRules("r2", netlab.Rule{Hook: netlab.Forward, Action: netlab.Drop})},
		{name: "host down", net: two, setup: die("server")},
		{name: "no route", net: netlab.Chain(3).WithRoutes("r2", netlab.Route{To: "server", Type: netlab.NoRoute})},
		{name: "loop", net: netlab.Chain(3).
			WithRoutes("r2", netlab.Route{To: "server", Type: netlab.NoRoute}, netlab.Route{To: "default", Next: []string{"r3"}}).
			WithRoutes("r3", netlab.Route{To: "server", Type: netlab.NoRoute}, netlab.Route{To: "default", Next: []string{"r2"}}),
			target: literal("192.0.2.9", "2001:db8::9")},
		{name: "host on the link down", net: sharedLink(), setup: die("server"), attacker: "attacker"},
	}
}

// sharedLink is an Ethernet with somebody else on it.
func sharedLink() netlab.Topology {
	return netlab.Topology{
		Name:  "shared link",
		Nodes: []netlab.Node{{Name: "client"}, {Name: "server"}, {Name: "attacker"}},
		Links: []netlab.Link{{Kind: netlab.Segment, Ends: []netlab.End{{Node: "client"}, {Node: "server"}, {Node: "attacker"}}}},
	}
}

// A told is all that the program says, but for what it measured.
type told struct {
	d       diagnose.Diagnosis
	seen    *rawprobe.Observations
	elapsed time.Duration
}

// play asks the network, with somebody at a node.
func (g ground) play(t *testing.T, f netlab.Family, on string, a simnet.Attacker) (got told) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		// What forgeries make this machine's kernel say may draw errors of its
		// own: there are enough for all.
		habits := make(map[string]simnet.Habit)
		for _, n := range g.net.Nodes {
			habits[n.Name] = simnet.Habit{Burst: 1000, Every: time.Millisecond}
		}
		sim, err := simnet.New(g.net, simnet.Options{Seed: 1, Habits: habits})
		if err != nil {
			t.Fatal(err)
		}
		defer sim.Close()
		lab := netlab.Drive(t, sim.Plan, sim)
		if g.setup != nil {
			g.setup(t, lab, f)
		}
		if err := sim.Attack(on, a); err != nil {
			t.Fatal(err)
		}
		to := lab.Addr("server", f)
		if g.target != nil {
			to = netip.MustParseAddr(g.target(lab, f))
		}
		port := g.port
		if port == 0 {
			port = 80
		}
		link, err := sim.Link("client", rawprobe.LinkConfig{IPv6: f == netlab.IPv6})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		got.seen, err = traceroute.Observe(t.Context(), link, netip.AddrPortFrom(to, port), rawprobe.Options{}, traceroute.Options{})
		got.elapsed = time.Since(begin)
		if err != nil {
			t.Fatal(err)
		}
		if err := link.Close(); err != nil {
			t.Fatal(err)
		}
		got.d = diagnose.Explain(got.seen)
	})
	return got
}

// differs compares two explanations, but for the packets that were counted and
// not believed, for what was measured, and for the path: how many of several
// answers are read that come at once, and end the run, is left to chance.
func differs(want, got told) string {
	plain := func(d diagnose.Diagnosis) diagnose.Diagnosis {
		d.RTT, d.Answered, d.Path = 0, 0, traceroute.Path{}
		d.Evidence = slices.DeleteFunc(slices.Clone(d.Evidence), func(e diagnose.Evidence) bool {
			return e.Rule == "ignored" || e.Rule == "neighbor-table" // which a forgery may deceive
		})
		return d
	}
	if reflect.DeepEqual(plain(want.d), plain(got.d)) {
		return ""
	}
	return cmp.Diff(plain(want.d), plain(got.d), cmpopts.EquateComparable(netip.Addr{}))
}

// same checks that an explanation is the one that stands without an attack, and
// no later.
func (got told) same(t *testing.T, want told, attack string) {
	t.Helper()
	if diff := differs(want, got); diff != "" {
		t.Errorf("%s: %s %s %s, want %s %s %s\n%s", attack, got.d.Verdict, got.d.Cause, got.d.Certainty,
			want.d.Verdict, want.d.Cause, want.d.Certainty, diff)
	}
	if got.elapsed > want.elapsed+100*time.Millisecond {
		t.Errorf("%s: took %v, %v without", attack, got.elapsed, want.elapsed)
	}
}

// suspects are the devices at fault.
func suspects(d diagnose.Diagnosis) []netip.Addr {
	var all []netip.Addr
	if d.Fault != nil {
		for _, h := range d.Fault.Hops {
			all = append(all, h.Address)
		}
	}
	return all
}

// pace spreads packets over a little time, so that the tap need not hold all of
// them at once.
func pace(i int) time.Duration { return time.Duration(i/1000%20) * time.Microsecond }

// forger answers each probe by forgeries, towards whoever sent it.
func forger(forgeries []netlab.Forgery, count *int) simnet.Attacker {
	return func(packet []byte) (a simnet.Attack) {
		p, ok := netlab.ReadProbe(packet)
		if !ok || p.Kind == "" {
			return a
		}
		for i := range forgeries {
			if !forgeries[i].Answers(p) {
				continue
			}
			for _, b := range forgeries[i].Make(p) {
				a.Back = append(a.Back, simnet.Forged{Packet: b, After: pace(*count)})
				*count++
			}
		}
		return a
	}
}

// TestForgeries: what our packets did not provoke changes nothing.
func TestForgeries(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	used, ran := make(map[string]bool), 0
	t.Cleanup(func() {
		for _, f := range netlab.Forgeries() {
			if all := ran == len(grounds())*len(both); all && !used[f.Name] {
				t.Errorf("%s: never sent", f.Name)
			}
		}
	})
	for _, g := range grounds() {
		for _, f := range both {
			t.Run(g.name+"/"+f.String(), func(t *testing.T) {
				t.Parallel()
				want := g.play(t, f, g.on(), nil)
				defer func() {
					mu.Lock()
					ran++
					mu.Unlock()
				}()
				for _, forgery := range netlab.Forgeries() {
					if forgery.Only != 0 && forgery.Only != f {
						continue
					}
					// What is said of a neighbour that lives deceives the kernel,
					// and then packets go astray.
					if (forgery.Of == "arp" || forgery.Of == "nd") && g.attacker == "" {
						continue
					}
					n := 0
					got := g.play(t, f, g.on(), forger([]netlab.Forgery{forgery}, &n))
					mu.Lock()
					used[forgery.Name] = used[forgery.Name] || n > 0
					mu.Unlock()
					got.same(t, want, forgery.Name)
				}
			})
		}
	}
}

// TestChallengeForged: a bare ACK that acknowledges anything is how a host
// answers within an old connection, so that one who forges it can't be told from
// the host. It is believed where nothing else comes, and nothing is certain
// then.
func TestChallengeForged(t *testing.T) {
	t.Parallel()
	for _, g := range grounds() {
		for _, f := range both {
			t.Run(g.name+"/"+f.String(), func(t *testing.T) {
				t.Parallel()
				want := g.play(t, f, g.on(), nil)
				n := 0
				got := g.play(t, f, g.on(), forger([]netlab.Forgery{netlab.Challenge()}, &n))
				if n == 0 && g.attacker == "" {
					t.Fatal("nothing was forged")
				}
				if got.d.Verdict == diagnose.Drop && got.d.Cause == diagnose.Unknown && got.d.Certainty == diagnose.Ambiguous {
					return
				}
				got.same(t, want, "a challenge")
			})
		}
	}
}

// isAnswer reports whether a packet that reached the client is an answer to it:
// its own are not shown to it, but for what the network turns round.
func isAnswer(packet []byte) bool {
	p, ok := netlab.ReadProbe(packet)
	return ok && p.Kind == ""
}

// TestDamagedAnswers: before each answer come its beginnings, of every length,
// and copies of it with one bit wrong.
func TestDamagedAnswers(t *testing.T) {
	t.Parallel()
	for _, g := range grounds() {
		for _, f := range both {
			t.Run(g.name+"/"+f.String(), func(t *testing.T) {
				t.Parallel()
				want := g.play(t, f, "client", nil)
				answers, n := 0, 0
				got := g.play(t, f, "client", func(packet []byte) (a simnet.Attack) {
					if !isAnswer(packet) {
						return a
					}
					answers++
					damaged := netlab.Truncations(packet)
					if !netlab.IsARP(packet) { // nothing guards it
						damaged = append(damaged, netlab.Corruptions(packet)...)
					}
					for _, b := range damaged {
						a.In = append(a.In, simnet.Forged{Packet: b, After: pace(n)})
						n++
					}
					a.Swallow, a.Again = true, []time.Duration{pace(n)} // behind them
					return a
				})
				got.same(t, want, "damaged answers")
				if answers == 0 && g.name != "host on the link down" {
					t.Error("nothing was damaged")
				}
			})
		}
	}
}

// TestRepeatedAnswers: each answer comes again, once at the same time, once
// later, or a hundred times.
func TestRepeatedAnswers(t *testing.T) {
	t.Parallel()
	var hundred []time.Duration
	for i := range time.Duration(100) {
		hundred = append(hundred, (i+1)*5*time.Millisecond)
	}
	for _, again := range []struct {
		name  string
		after []time.Duration
	}{{"at once", []time.Duration{0}}, {"later", []time.Duration{40 * time.Millisecond}}, {"a hundred times", hundred}} {
		for _, g := range grounds() {
			for _, f := range both {
				t.Run(again.name+"/"+g.name+"/"+f.String(), func(t *testing.T) {
					t.Parallel()
					want := g.play(t, f, "client", nil)
					got := g.play(t, f, "client", func(packet []byte) (a simnet.Attack) {
						if isAnswer(packet) {
							a.Again = again.after
						}
						return a
					})
					got.same(t, want, "copies")
				})
			}
		}
	}
}

// TestEndlessAnswers: somebody goes on to answer for a minute and more. The run
// ends, and says the same.
func TestEndlessAnswers(t *testing.T) {
	t.Parallel()
	var often []time.Duration
	for i := range time.Duration(400) {
		often = append(often, (i+1)*250*time.Millisecond)
	}
	for _, g := range grounds() {
		for _, f := range both {
			t.Run(g.name+"/"+f.String(), func(t *testing.T) {
				t.Parallel()
				want := g.play(t, f, "client", nil)
				copied := g.play(t, f, "client", func(packet []byte) (a simnet.Attack) {
					if isAnswer(packet) {
						a.Again = often
					}
					return a
				})
				copied.same(t, want, "copies")
				// Each answer is held back for three times as long as the run goes on already.
				var begin time.Time
				held := g.play(t, f, "client", func(packet []byte) (a simnet.Attack) {
					p, ok := netlab.ReadProbe(packet)
					if !ok || p.Kind != "" || p.Neighbor {
						return a
					}
					if begin.IsZero() {
						begin = time.Now()
					}
					a.Swallow, a.Again = true, []time.Duration{time.Second + 3*time.Since(begin)}
					return a
				})
				if limit := neverAnswers + 4*longestRoundTrip; held.elapsed > limit {
					t.Errorf("held back: took %v, promised %v", held.elapsed, limit)
				}
			})
		}
	}
}

// longestRoundTrip is what the program believes at most to be one.
const longestRoundTrip = 10 * time.Second

// TestLateAnswers: answers take seconds. What is said then may be less, and may
// be something else, but nothing else may be said for certain.
//
// Answers to ARP and to neighbour solicitations come in time: a neighbour that
// takes seconds for them is taken for dead, and by the kernel soon after.
func TestLateAnswers(t *testing.T) {
	t.Parallel()
	kinds := []struct {
		name string
		is   func(p *netlab.Probe, to netip.Addr) bool
	}{
		{"all", func(*netlab.Probe, netip.Addr) bool { return true }},
		{"segments", func(p *netlab.Probe, _ netip.Addr) bool { return p.SrcPort != 0 }},
		{"the target's", func(p *netlab.Probe, to netip.Addr) bool { return p.Src == to }},
		{"routers'", func(p *netlab.Probe, to netip.Addr) bool { return p.SrcPort == 0 && p.Src != to }},
	}
	for _, g := range grounds() {
		for _, f := range both {
			t.Run(g.name+"/"+f.String(), func(t *testing.T) {
				t.Parallel()
				want := g.play(t, f, "client", nil)
				for _, k := range kinds {
					for late := time.Second; late <= 5*time.Second; late += time.Second {
						name := fmt.Sprintf("%s answers %v late", k.name, late)
						got := g.play(t, f, "client", func(packet []byte) (a simnet.Attack) {
							if p, ok := netlab.ReadProbe(packet); ok && p.Kind == "" && !p.Neighbor && k.is(p, want.seen.Target.Addr()) {
								a.Swallow, a.Again = true, []time.Duration{late}
							}
							return a
						})
						other := got.d.Verdict != want.d.Verdict || got.d.Cause != want.d.Cause
						other = other || !slices.Equal(suspects(want.d), suspects(got.d))
						if other && got.d.Certainty == diagnose.Certain {
							t.Errorf("%s: %s %s for certain, and it is %s %s\n%v", name, got.d.Verdict, got.d.Cause, want.d.Verdict, want.d.Cause, got.d.Evidence)
						}
						if limit := neverAnswers + 4*got.seen.MaxRTT(); got.elapsed > limit {
							t.Errorf("%s: took %v, promised %v", name, got.elapsed, limit)
						}
					}
				}
			})
		}
	}
}

// flood is how many packets a flood has, bunch how many of them come at once.
const flood, bunch = 100_000, 500

// TestFloods: packets that almost answer, or copies of those that do, in such
// numbers that they are all that there is. The run ends in time and needs no
// more memory; what it says is right, or says that the tap lost packets.
func TestFloods(t *testing.T) {
	forgeries := netlab.Forgeries()
	// near answers SYNs by what is not quite an answer, for so long.
	near := func(d time.Duration, sent *int) simnet.Attacker {
		return func(packet []byte) (a simnet.Attack) {
			p, ok := netlab.ReadProbe(packet)
			if !ok || p.Kind != "syn" || *sent > 0 {
				return a
			}
			var packets [][]byte
			for i := range forgeries {
				if forgeries[i].Answers(p) {
					packets = append(packets, forgeries[i].Make(p)...)
				}
			}
			for ; *sent < flood; *sent++ {
				a.Back = append(a.Back, simnet.Forged{Packet: packets[*sent%len(packets)], After: d * time.Duration(*sent/bunch*bunch) / flood})
			}
			return a
		}
	}
	// copies repeats the first two answers.
	copies := func(d time.Duration, sent *int) simnet.Attacker {
		return func(packet []byte) (a simnet.Attack) {
			if !isAnswer(packet) || netlab.IsARP(packet) || *sent == flood {
				return a
			}
			for i := 0; i < flood/2; i++ {
				a.In = append(a.In, simnet.Forged{Packet: packet, After: d * time.Duration(i/bunch*bunch) / flood})
				*sent++
			}
			return a
		}
	}
	for _, attack := range []struct {
		name   string
		on     string
		over   time.Duration
		attack func(time.Duration, *int) simnet.Attacker
	}{
		{"near misses over 2 s", "r1", 2 * time.Second, near},
		{"near misses at once", "r1", 0, near},
		{"copies over 4 s", "client", 4 * time.Second, copies},
		{"copies at once", "client", 0, copies},
	} {
		for i, name := range []string{"open", "dropped at r2"} {
			f := both[i%2]
			t.Run(attack.name+"/"+name+"/"+f.String(), func(t *testing.T) {
				all := grounds()
				g := all[slices.IndexFunc(all, func(g ground) bool { return g.name == name })]
				want := g.play(t, f, attack.on, nil)
				runtime.GC()
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				sent := 0
				got := g.play(t, f, attack.on, attack.attack(attack.over, &sent))
				runtime.GC()
				runtime.ReadMemStats(&after)
				if sent != flood {
					t.Errorf("%d packets sent, want %d", sent, flood)
				}
				if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
					t.Errorf("%d bytes more in use, %d answers recorded", grown, len(got.seen.Replies))
				}
				runtime.KeepAlive(got.seen)
				if limit := neverAnswers + 4*got.seen.MaxRTT(); got.elapsed > limit {
					t.Errorf("took %v, promised %v", got.elapsed, limit)
				}
				lost := got.seen.Tap.Drops > 0 || got.seen.Ignored.Excess > 0
				told := slices.ContainsFunc(got.d.Evidence, func(e diagnose.Evidence) bool { return e.Rule == "tap-drops" })
				if lost != told {
					t.Errorf("packets lost: %v, told: %v", lost, told)
				}
				right := got.d.Verdict == want.d.Verdict && got.d.Cause == want.d.Cause && slices.Equal(suspects(got.d), suspects(want.d))
				switch silent := len(got.seen.Replies) == 0 || got.d.Verdict == diagnose.Drop; {
				case !right && !lost,
					(!right || silent && lost) && got.d.Certainty == diagnose.Certain:
					t.Errorf("%s %s %s %v, want %s %s %v; packets lost: %v\n%v", got.d.Verdict, got.d.Cause, got.d.Certainty, suspects(got.d),
						want.d.Verdict, want.d.Cause, suspects(want.d), lost, got.d.Evidence)
				}
			})
		}
	}
}

// hostileName does what a terminal must not be told to do: it sets the title,
// rings the bell, clears the screen by a control of C1, turns the direction of
// the text and breaks the line.
const hostileName = "a\x1b]0;owned\x07\x1b[2J\u009b2J\u202ereversed\u2066\u200f\x7f\r\nDROP\tb\U000e0041\xff\x9b"

// hostileIface is what of it fits into an interface's name (net/core/dev.c,
// dev_valid_name).
const hostileIface = "e\x1b[2J\u202e\x9b\x07"

// harmless checks that nothing is printed but text and ends of lines.
func harmless(t *testing.T, what, text string) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Errorf("%s: no UTF-8: %q", what, text)
	}
	for _, r := range text {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("%s: %U in %q", what, r, text)
			return
		}
	}
}

// TestHostileNames: no name from outside reaches the terminal as it is.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	run := func(t *testing.T, g ground, f netlab.Family, change func(*cli.Env), argv ...string) (stdout, stderr string) {
		synctest.Test(t, func(t *testing.T) {
			sim, err := simnet.New(g.net, simnet.Options{Seed: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer sim.Close()
			if g.setup != nil {
				g.setup(t, netlab.Drive(t, sim.Plan, sim), f)
			}
			var out, errs bytes.Buffer
			env := simEnv(sim, "client")
			env.Stdout, env.Stderr = &out, &errs
			change(&env)
			cli.Run(t.Context(), env, append([]string{"synprobe"}, argv...))
			stdout, stderr = out.String(), errs.String()
		})
		return stdout, stderr
	}
	check := func(t *testing.T, stdout, stderr string, json bool, argv ...string) {
		t.Helper()
		what := fmt.Sprintf("%q", argv)
		harmless(t, what+": stdout", stdout)
		harmless(t, what+": stderr", stderr)
		if stdout == "" && stderr == "" {
			t.Errorf("%s: nothing was printed", what)
		}
		if json {
			if all, err := parse(stdout); err != nil || len(all) == 0 {
				t.Errorf("%s: no JSON: %v\n%q", what, err, stdout)
			}
		}
	}
	formats := [][]string{nil, {"-v"}, {"-q"}, {"--json"}, {"-v", "--trace=always"}}

	// Names of devices and of interfaces, in every kind of answer.
	for _, g := range grounds() {
		g.net = g.net.WithLink(1, func(l *netlab.Link) { l.Ends[0].Iface = hostileIface })
		for _, f := range both {
			t.Run(g.name+"/"+f.String(), func(t *testing.T) {
				var asked atomic.Int64
				for _, format := range formats {
					plan, err := g.net.Resolve()
					if err != nil {
						t.Fatal(err)
					}
					to, port := plan.Addr("server", f).String(), "80"
					if g.target != nil {
						to = g.target(nil, f)
					}
					if g.port != 0 {
						port = fmt.Sprint(g.port)
					}
					argv := append(append([]string{}, format...), to, port)
					stdout, stderr := run(t, g, f, func(env *cli.Env) {
						env.Reverse = func(context.Context, netip.Addr) ([]string, error) {
							asked.Add(1)
							return []string{hostileName}, nil
						}
					}, argv...)
					check(t, stdout, stderr, slices.Contains(format, "--json"), argv...)
				}
				if g.name == "dropped at r2" && asked.Load() == 0 {
					t.Error("no device's name was asked for")
				}
			})
		}
	}

	// This machine's interfaces, alive or not, and zones that are named so.
	link := netlab.Chain(0).WithLink(1, func(l *netlab.Link) { l.Ends[0].Iface = hostileIface })
	for _, g := range []ground{
		{name: "on the link", net: link},
		{name: "link down", net: link, setup: linkDown("client", hostileIface)},
		{name: "no carrier", net: link, setup: func(_ *testing.T, l *netlab.Lab, _ netlab.Family) { l.Node("client").NoCarrier(hostileIface) }},
		{name: "dead neighbour", net: link, setup: die("server")},
	} {
		t.Run(g.name, func(t *testing.T) {
			for _, argv := range [][]string{
				{"10.0.1.2", "80"}, {"fd00:0:0:1::2", "80"}, {"fe80::1:2%" + hostileIface, "80"}, {"-s", "fe80::1:1%" + hostileIface, "fe80::1:2%" + hostileIface, "80"},
				{"-i", hostileIface, "10.0.1.2", "80"}, {"-i", "nosuch0", "10.0.1.2", "80"}, {"fe80::1:2", "80"}, {"-i", "lo", "fe80::1:2%" + hostileIface, "80"},
			} {
				for _, format := range formats {
					all := append(append([]string{}, format...), argv...)
					stdout, stderr := run(t, g, netlab.IPv6, func(*cli.Env) {}, all...)
					check(t, stdout, stderr, slices.Contains(format, "--json"), all...)
				}
			}
		})
	}

	// What a user may have pasted, and what name servers and files say.
	for _, argv := range [][]string{
		{hostileName, "80"}, {"10.0.3.2", hostileName}, {hostileName + ":80"}, {"10.0.3.2:" + hostileName}, {"[" + hostileName + "]:80"},
		{"fe80::1%" + hostileName, "80"}, {"-i", hostileName, "10.0.3.2", "80"}, {"-s", hostileName, "10.0.3.2", "80"},
		{"--" + hostileName}, {"-" + hostileName}, {"--json=" + hostileName, "10.0.3.2", "80"}, {"--tries", hostileName, "10.0.3.2", "80"},
		{"-t", hostileName, "10.0.3.2", "80"}, {"--color", hostileName, "10.0.3.2", "80"}, {"--trace=" + hostileName, "10.0.3.2", "80"},
		{"--max-hops", hostileName, "10.0.3.2", "80"}, {"--flows", hostileName, "10.0.3.2", "80"}, {"--control-port", hostileName, "10.0.3.2", "80"},
		{"--source-port", hostileName, "10.0.3.2", "80"}, {"http://" + hostileName, "80"}, {"10.0.3.0/24" + hostileName, "80"},
		{"db.example", "80"}, {"local.example", "80"}, {"privilege.example", "80", hostileName}, {"broken.example", "80"}, {"db.example", "postgres"},
	} {
		for _, format := range formats {
			all := append(append([]string{}, format...), argv...)
			stdout, stderr := run(t, ground{net: netlab.Chain(2)}, netlab.IPv4, func(env *cli.Env) {
				env.Executable = func() (string, error) { return "/bin/" + hostileName, nil }
				env.Lookup = func(_ context.Context, name string) ([]netip.Addr, error) {
					switch name {
					case "db.example":
						return []netip.Addr{netip.MustParseAddr("10.0.3.2"), netip.MustParseAddr("fe80::1").WithZone(hostileName)}, nil
					case "local.example":
						return []netip.Addr{netip.MustParseAddr("fe80::1").WithZone(hostileName)}, nil
					}
					return nil, &net.DNSError{Err: hostileName, Name: hostileName, Server: hostileName}
				}
				env.Service = func(context.Context, string) (int, error) { return 0, errors.New(hostileName) }
				probe := env.Probe
				env.Probe = func(ctx context.Context, target netip.AddrPort, opt cli.Options) (*rawprobe.Observations, error) {
					if target.Addr().Zone() != "" {
						return nil, &rawprobe.PrivilegeError{Op: "open " + hostileName, Err: errors.New(hostileName)}
					}
					return probe(ctx, target, opt)
				}
				env.PrivilegeHint = func() string { return hostileName }
			}, all...)
			check(t, stdout, stderr, slices.Contains(format, "--json"), all...)
		}
	}
}
