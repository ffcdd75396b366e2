package traceroute

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"synprobe/rawprobe"
)

// A drop behind router 2 of four: the direct tries at 0, 600
// and 1200 ms, the path from 100 ms on, other flows after the second silence.
func TestDrop(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		c := newChain(f, 4, func(c *chain) { c.r(2).fwd = only(drop, "subject", "other") })
		o := c.trace(t, Options{})
		want := lines(`
			depth 5
			1 r1 subject passes 1/1 icmp-echo passes 1/1
			2 r2 subject passes 1/1 icmp-echo passes 1/1
			3 r3 subject silent 0/5 icmp-echo passes 1/1 tcp-ack passes 1/1 tcp-syn:443 passes 1/1
			4 r4 subject silent 0/3 icmp-echo passes 1/1`)
		if got := f.show(Read(o)); !strings.HasPrefix(got, want) {
			t.Errorf("got\n%swant\n%s", got, want)
		}
		// Router 3 is the first that answers others: the claim rests on it.
		for ttl, want := range map[int][]time.Duration{
			3: {100 * ms, 400 * ms, 700 * ms, 1000 * ms, 1300 * ms},
			4: {100 * ms, 700 * ms, 1300 * ms},
		} {
			var at []time.Duration
			for _, p := range c.of("subject", ttl) {
				at = append(at, p.at.Truncate(10*ms))
			}
			if !slices.Equal(at, want) {
				t.Errorf("TTL %d was asked at %v, want %v", ttl, at, want)
			}
		}
	})
}

// scenarios are silent subjects, each with how long its run may take beside the
// round trips.
var scenarios = []struct {
	name  string
	n     int
	alive bool // the host answers something
	edit  func(c *chain)
}{
	{"dropped by the host", 4, true, nil},
	{"dropped by the host next to the gateway", 1, true, nil},
	{"dropped on the way in", 4, true, func(c *chain) { c.r(3).in = only(drop, "subject", "other") }},
	{"dropped in forward", 4, true, func(c *chain) { c.r(2).fwd = only(drop, "subject", "other") }},
	{"dropped by the last router", 4, true, func(c *chain) { c.r(4).fwd = only(drop, "subject", "other") }},
	{"dropped by the gateway", 4, true, func(c *chain) { c.r(1).in = only(drop, "subject", "other") }},
	{"every SYN dropped", 4, true, func(c *chain) { c.r(2).fwd = only(drop, "subject", "other", "syn") }},
	{"echo filtered by the host", 4, true, func(c *chain) { c.at.echo = nil }},
	{"echo filtered on the way", 4, true, func(c *chain) { c.r(2).fwd = only(drop, "echo", "subject", "other") }},
	{"a silent router before the fault", 4, true, func(c *chain) { c.r(1).mute, c.r(3).fwd = mute, only(drop, "subject", "other") }},
	{"a silent router at the fault", 4, true, func(c *chain) { c.r(2).mute, c.r(2).fwd = mute, only(drop, "subject", "other") }},
	{"all routers silent", 4, true, func(c *chain) {
		for _, r := range c.routers {
			r.mute = mute
		}
	}},
	{"a path of 20", 20, true, func(c *chain) { c.r(10).fwd = only(drop, "subject", "other") }},
	{"a longer way back", 4, true, func(c *chain) { c.detour = 3 }},
	{"a host that is down", 4, false, func(c *chain) { c.at = host{} }},
	{"all dropped on the way", 4, false, func(c *chain) { c.r(2).fwd = always(drop) }},
	{"all dropped by the gateway", 4, false, func(c *chain) { c.r(1).in = always(drop) }},
	{"a dark path of 20", 20, false, func(c *chain) { c.r(12).in = always(drop) }},
}

func TestSilentPaths(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, f family) {
				c := newChain(f, s.n, s.edit)
				o := c.trace(t, Options{})
				p := Read(o)
				begun, _ := c.begun()
				if echo := o.Replies; len(echo) > 0 && echo[0].Kind == rawprobe.EchoReply && o.Sent[echo[0].Probe].TTL == full {
					if want := max(100*ms, 4*echo[0].RTT); begun != want {
						t.Errorf("began at %v, with an echo after %v", begun, echo[0].RTT)
					}
				} else if begun != 250*ms {
					t.Errorf("began at %v, blind", begun)
				}
				rtt := time.Duration(2*s.n+2) * ms
				if limit := 2500*ms + rtt; s.alive && c.ended > limit {
					t.Errorf("took %v for a live host", c.ended)
				}
				if limit := 4500*ms + rtt; c.ended > limit {
					t.Errorf("took %v", c.ended)
				}
				if !s.alive && c.ended < 3700*ms {
					t.Errorf("nobody was waited for: %v", c.ended)
				}
				if n := c.reached("subject"); n > 6 {
					t.Errorf("%d subject SYNs reached the host", n)
				}
				if p.Depth > 0 && p.Depth != s.n+1 {
					t.Errorf("depth %d of %d routers", p.Depth, s.n)
				}
				// What the way back suggests may be too far, until it is measured.
				for _, q := range c.of("subject", 0) {
					if m := c.measured(); p.Depth > 0 && q.ttl > p.Depth && q.at > m {
						t.Errorf("the subject was stepped to %d at %v, the host was at %d since %v", q.ttl, q.at, p.Depth, m)
					}
				}
				for k, r := range c.routers {
					early := 0
					for _, at := range r.asked {
						if at < 1500*ms {
							early++
						}
					}
					if early > 6 {
						t.Errorf("router %d was asked %d times in 1.5 s: %v", k+1, early, r.asked)
					}
				}
				// The subject was asked three times wherever it is silent at a router,
				// unless it got further than that, and five times at the first that
				// answers others. A hop that answers nothing may be the host, for
				// which the SYNs are counted.
				want, claim := 5, 0
				for ttl := p.Last("subject") + 1; ttl < p.Depth; ttl++ {
					if !p.Addr(ttl).IsValid() {
						continue
					}
					if claim == 0 {
						claim = ttl
					}
					if q := p.Hop(ttl).Of("subject"); q.Status == Silent && q.Tries != want {
						t.Errorf("hop %d: %d tries, want %d", ttl, q.Tries, want)
					}
					want = 3
				}
				c.paced(t, 600*ms, claim)
				for _, o := range c.of("other", full) {
					if o.at < 600*ms {
						t.Errorf("another flow was tried at %v", o.at)
					}
				}
				if len(c.of("other", full)) < 2 {
					t.Errorf("%d tries of other flows", len(c.of("other", full)))
				}
			})
		})
	}
}

// measured is when a control was first answered at the host's own distance.
func (c *chain) measured() time.Duration {
	at := time.Hour
	for _, p := range c.probes {
		if p.kind != "subject" && p.kind != "other" && p.ttl == len(c.routers)+1 && p.answered > 0 {
			at = min(at, p.answered)
		}
	}
	return at
}

// paced checks the time between two tries of one kind at one TTL. The subject is
// asked faster at the TTL of claim.
func (c *chain) paced(t *testing.T, want time.Duration, claim int) {
	t.Helper()
	begun, _ := c.begun()
	for _, kind := range []string{"subject", "echo"} {
		for ttl := 1; ttl < full; ttl++ {
			list := c.of(kind, ttl)
			for i := 1; i < len(list); i++ {
				least := want
				// A router that is found late is asked faster.
				if kind == "subject" && (ttl == claim || list[0].at > begun+want) {
					least = min(want, 300*ms)
				}
				if d := list[i].at - list[i-1].at; d < least {
					t.Errorf("%s at TTL %d again after %v", kind, ttl, d)
				}
			}
		}
	}
}

// Where nothing is wrong the path is not followed from its first hop on, and with
// Never no packet is limited in its TTL anyhow; Always steps an open port too.
func TestModes(t *testing.T) {
	for _, test := range []struct {
		name   string
		mode   Mode
		port   action
		traced bool
	}{
		{"open", Auto, synAck, false}, {"closed", Auto, reset, false}, {"silent", Auto, drop, true}, {"the zero mode", "", drop, true},
		{"open, always", Always, synAck, true}, {"closed, always", Always, reset, true}, {"silent, never", Never, drop, false}, {"open, never", Never, synAck, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, f family) {
				c := newChain(f, 3, func(c *chain) { c.at = answers(test.port) })
				c.trace(t, Options{Mode: test.mode})
				if traced := len(c.of("echo", 1)) > 0; traced != test.traced {
					t.Errorf("traced %v", traced)
				}
				if begun, ok := c.begun(); ok && test.mode == Never {
					t.Errorf("a TTL was limited at %v", begun)
				}
				if test.port != drop && c.deepest("subject") > 4 {
					t.Errorf("the subject was stepped to %d", c.deepest("subject"))
				}
			})
		})
	}
}

// A dead gateway is no path to trace; one that answers is.
func TestGateway(t *testing.T) {
	for _, alive := range []bool{false, true} {
		c := newChain(ipv4, 2, func(c *chain) {
			c.machine.Interface.Resolves, c.nextHop = true, alive
			if !alive {
				c.r(1).in = always(drop)
			}
		})
		c.trace(t, Options{})
		if begun, ok := c.begun(); ok != alive {
			t.Errorf("alive %v: traced %v, at %v", alive, ok, begun)
		}
	}
}

// A reset or SYN-ACK in the host's name is traced to the least TTL that provokes
// it: that of its maker on the way in, one more in forward. One subject is in
// flight at a time.
func TestForged(t *testing.T) {
	for _, test := range []struct {
		name string
		edit func(c *chain)
		ttl  int
	}{
		{"reset in forward", func(c *chain) { c.r(2).fwd = only(reset, "subject") }, 3},
		{"reset by the last router", func(c *chain) { c.r(4).fwd = only(reset, "subject") }, 5},
		{"reset on the way in", func(c *chain) { c.r(3).in = only(reset, "subject") }, 3},
		{"SYN-ACK by a redirect", func(c *chain) { c.r(2).in = only(synAck, "subject") }, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, f family) {
				c := newChain(f, 4, test.edit)
				o := c.trace(t, Options{})
				p := Read(o)
				least := 0
				for i := range p.Hops {
					if q := p.Hops[i].Of("subject"); q.InName && least == 0 {
						least = i + 1
					}
				}
				if least != test.ttl {
					t.Errorf("first provoked at %d, want %d\n%s", least, test.ttl, f.show(p))
				}
				if c.ended > 500*ms+10*ms {
					t.Errorf("took %v", c.ended)
				}
				list := c.of("subject", 0)
				for i := 1; i < len(list); i++ {
					prev := list[i-1]
					if d := list[i].at - prev.at; d < 140*ms && (prev.answered == 0 || prev.answered > list[i].at) {
						t.Errorf("%v after %v, which is in flight", list[i].at, prev.at)
					}
				}
			})
		})
	}
}

// Who refuses in its own name is traced at once, without another SYN to the host.
func TestRefused(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		c := newChain(f, 4, func(c *chain) { c.r(2).fwd = only(admin, "subject", "other") })
		o := c.trace(t, Options{})
		p := Read(o)
		if begun, ok := c.begun(); !ok || begun > 100*ms || p.Find(f.router(2)) != 2 || c.ended > 510*ms {
			t.Errorf("began at %v, ended at %v\n%s", begun, c.ended, f.show(p))
		}
		if n := c.reached("subject"); n != 0 {
			t.Errorf("%d SYNs passed it", n)
		}
	})
}

// MaxHops bounds every kind of probe.
func TestMaxHops(t *testing.T) {
	for _, most := range []int{1, 3, 0, 64, 1000} {
		for name, edit := range map[string]func(*chain){
			"silent": nil, "dark": func(c *chain) { c.at = host{} }, "echo filtered": func(c *chain) { c.at.echo = nil },
			"reset": func(c *chain) { c.r(8).fwd = only(reset, "subject") }, "open": func(c *chain) { c.at = answers(synAck) },
		} {
			c := newChain(ipv4, 12, edit)
			c.trace(t, Options{MaxHops: most, Mode: Always})
			bound := most
			if most == 0 {
				bound = 30
			}
			for _, p := range c.probes {
				if p.ttl != full && (p.ttl > bound || p.ttl < 1) {
					t.Errorf("%s: MaxHops %d: %s went to TTL %d", name, most, p.kind, p.ttl)
				}
			}
		}
	}
}

// One leg that is broken for the subject's port alone: other flows get through,
// and are asked again in turns with the subject.
func TestConfirm(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		c := newChain(f, 4, func(c *chain) {
			c.at = answers(synAck)
			c.r(2).fwd = only(drop, "subject")
		})
		c.trace(t, Options{})
		var order string
		direct := make(map[time.Duration]bool) // an echo goes beside each of the direct tries
		for _, p := range c.of("echo", full) {
			direct[p.at] = true
		}
		for _, p := range c.probes {
			if !direct[p.at] && p.ttl == full && (p.kind == "subject" || p.kind == "other") {
				order += p.kind[:1]
			}
		}
		if !strings.HasSuffix(order, "soos") {
			t.Errorf("confirmed in the order %q", order)
		}
		if len(c.of("other", 0)) == 0 {
			t.Error("the flow that gets through was not stepped")
		}
	})
}

// The proof is waited for where it can come, and an interruption is none then.
func TestProve(t *testing.T) {
	for _, test := range []struct {
		name        string
		f           family
		edit        func(c *chain)
		least, most time.Duration
		fragments   int
	}{
		{"no word", ipv4, nil, 36500 * ms, 37500 * ms, 2},
		{"the host's word", ipv4, func(c *chain) { c.at.fragment = always(pass) }, 32000 * ms, 33000 * ms, 2},
		{"ipv6", ipv6, nil, 0, 2600 * ms, 0},
		{"open", ipv4, func(c *chain) { c.at = answers(synAck) }, 0, 500 * ms, 0},
		{"refused", ipv4, func(c *chain) { c.r(2).fwd = only(admin, "subject") }, 0, 1500 * ms, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newChain(test.f, 3, test.edit)
			c.trace(t, Options{Prove: true})
			got := c.of("fragment", full)
			if c.ended < test.least || c.ended > test.most || len(got) != test.fragments {
				t.Errorf("ended at %v after %d fragments", c.ended, len(got))
			}
			if (len(c.waits) == 1) != (test.fragments > 0) {
				t.Errorf("told of waiting: %q", c.waits)
			}
			if len(got) == 2 && got[1].at-got[0].at != 300*ms {
				t.Errorf("sent at %v and %v", got[0].at, got[1].at)
			}
		})
	}
	for stop, interrupted := range map[time.Duration]bool{ms: true, 1500 * ms: true, 10 * time.Second: false} {
		c := newChain(ipv4, 3, nil)
		if o := c.trace(t, Options{Prove: true}, stop); o.Interrupted != interrupted || c.ended != stop {
			t.Errorf("stopped at %v: interrupted %v at %v", stop, o.Interrupted, c.ended)
		}
	}
	c := newChain(ipv4, 3, nil)
	if c.trace(t, Options{}); c.ended > 2600*ms || len(c.of("fragment", full)) > 0 {
		t.Errorf("unasked for: %v", c.ended)
	}
}

// Where the target's address only passes the port on, somebody behind it may
// still say that the machine is unreachable: the wait is not cut short.
func TestBriefNot(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		for name, edit := range map[string]func(*chain){
			"time exceeded from the target": func(c *chain) { c.r(3).addr = f.host },
			"a rewritten destination":       func(c *chain) { c.rewrite = 3 },
		} {
			c := newChain(f, 3, edit)
			if c.trace(t, Options{}); c.ended < 3700*ms {
				t.Errorf("%s: ended at %v\n%s", name, c.ended, c.transcript())
			}
		}
		c := newChain(f, 3, nil)
		if c.trace(t, Options{}); c.ended >= 3*time.Second {
			t.Errorf("no translator: ended at %v", c.ended)
		}
	})
}

// Loss does not move the last hop that the subject is seen to pass beyond the
// fault, nor sends more than six subjects to the host.
func TestLossySeeds(t *testing.T) {
	for seed := range uint64(60) {
		c := newChain(ipv4, 4, func(c *chain) {
			c.loss, c.random = 0.1, rand.New(rand.NewPCG(seed, 7))
			c.r(2).fwd = only(drop, "subject", "other")
		})
		o := c.trace(t, Options{})
		p := Read(o)
		if last := p.Last("subject"); last > 2 || c.reached("subject") > 0 {
			t.Errorf("seed %d: last %d", seed, last)
		}
		if c.ended > 6*time.Second {
			t.Errorf("seed %d: took %v", seed, c.ended)
		}
		c.paced(t, 300*ms, 0)
	}
}

// More than six SYNs may trip a host's scan defence (field notes 34, 43),
// whatever the way back suggests of the host's distance, and whatever is sent
// before what.
func TestSubjectsAtHost(t *testing.T) {
	tcp := func(p *probe) bool { return p.kind != "echo" && p.kind != "udp" }
	for name, test := range map[string]struct {
		edit func(*chain)
		most int
	}{
		"a way back of 8 more":                {func(c *chain) { c.detour = 8 }, 6},
		"a way back of 8 more, echo filtered": {func(c *chain) { c.detour, c.at.echo = 8, nil }, 6},
		// Another flow gets through: two are tried, and asked again twice, in
		// turns with the subject.
		"the host drops the subject alone": {func(c *chain) { c.at.other = always(synAck) }, 6 + 4},
		// Its silence looks as if the subject did not get there.
		"the last router says nothing about TCP": {func(c *chain) { c.r(4).mute = tcp }, 6},
		"the last routers say nothing about TCP": {func(c *chain) { c.r(3).mute, c.r(4).mute = tcp, tcp }, 6},
		// The last hop is due again after 600 ms, other flows are 50 ms earlier.
		"kept waiting when other flows are due": {func(c *chain) {
			c.stall = func() time.Duration {
				if time.Since(c.start) == 600*ms {
					return 120 * ms
				}
				return 0
			}
		}, 6},
		// What is seen to get lost is asked for again sooner. Two more direct
		// tries make a silence by chance rare: one echo of five is lost, and that
		// five times in a row in one run in 3,000.
		"an echo is lost": {func(c *chain) {
			c.at.echo = func(p *probe) action {
				if p.at == 0 {
					return drop
				}
				return pass
			}
		}, 6 + 2},
		// Nothing is known of the way when the answer comes, and the way back
		// makes it seem longer than it is.
		"the subject's answer is late": {func(c *chain) {
			c.at, c.detour = answers(synAck), 3
			c.at.echo = nil
			for _, r := range c.routers {
				r.mute = mute
			}
			c.late = func(p *probe, ttl int) time.Duration {
				if ttl == 5 && (p.kind == "subject" || p.kind == "other") {
					return 1500 * ms
				}
				return 0
			}
		}, 6},
		// The other flow that gets through is stepped before the host's distance
		// is known.
		"the host's distance is known late": {func(c *chain) {
			c.at.other, c.at.echo, c.detour = always(synAck), nil, 8
			c.late = func(p *probe, ttl int) time.Duration {
				if ttl == 5 && p.ttl != full {
					return 700 * ms
				}
				return 0
			}
		}, 6 + 4},
	} {
		t.Run(name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, f family) {
				c := newChain(f, 4, test.edit)
				c.trace(t, Options{})
				if n, all := c.reached("subject"), c.reached("subject")+c.reached("other"); n > 6 || all > test.most {
					t.Errorf("%d subject SYNs reached the host, %d with those of other flows\n%s", n, all, c.transcript())
				}
			})
		})
	}
}

// Where the subject stops on the way, the other flows that rule out a broken way
// do not reach the host, and all of them are tried.
func TestFlowsForCertain(t *testing.T) {
	for k := 1; k <= 4; k++ {
		eachFamily(t, func(t *testing.T, f family) {
			c := newChain(f, 5, func(c *chain) { c.r(k).fwd = only(drop, "subject", "other") })
			c.trace(t, Options{})
			ports := make(map[uint16]bool)
			for _, p := range c.of("other", full) {
				ports[p.src.Port()] = true
			}
			if n := c.reached("subject") + c.reached("other"); len(ports) != FlowsForCertain || n > 0 || c.ended > 2300*ms {
				t.Errorf("dropped by router %d: %d other flows, %d SYNs at the host, ended at %v", k, len(ports), n, c.ended)
			}
		})
	}
}
