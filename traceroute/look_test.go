package traceroute

import (
	"net/netip"
	"testing"
	"time"

	"synprobe/rawprobe"
)

// A plain answer takes two round trips: one to get it, and one to look at the
// hops before the host.
func TestLook(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		for _, a := range []action{synAck, reset, admin} {
			c := newChain(f, 3, func(c *chain) { c.at = answers(a) })
			c.trace(t, Options{})
			c.want(t, `
				0s subject
				0s echo
				8ms subject ttl 3
				8ms echo ttl 3
				8ms udp ttl 3
				8ms udp ttl 4
				8ms echo ttl 4
				16ms end`)
		}
	})
}

// Where only our neighbour is between there is nothing to hear of it.
func TestLookPastTheGateway(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		c := newChain(f, 1, func(c *chain) { c.at = answers(reset) })
		c.trace(t, Options{})
		c.want(t, `
			0s subject
			0s echo
			4ms echo ttl 2
			8ms end`)
	})
}

// What is not looked at: a host on the link, and any where no TTL may be limited.
func TestNoLook(t *testing.T) {
	for name, test := range map[string]struct {
		routers int
		mode    Mode
	}{"on the link": {0, Auto}, "never": {2, Never}} {
		t.Run(name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, f family) {
				c := newChain(f, test.routers, func(c *chain) {
					c.at = answers(synAck)
					if test.routers == 0 {
						c.machine.Route.Gateway, c.machine.Interface.Resolves = netip.Addr{}, true
					}
				})
				c.trace(t, Options{Mode: test.mode})
				if at, ok := c.begun(); ok {
					t.Errorf("a TTL was limited at %v", at)
				}
			})
		})
	}
}

// A last router that says nothing is waited for a little, and not asked again.
func TestLookAtSilence(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		c := newChain(f, 3, func(c *chain) {
			c.at = answers(reset)
			c.r(3).mute = mute
		})
		c.trace(t, Options{})
		if want := 8*ms + lookPatience; c.ended != want || c.deepest("subject") != 3 || len(c.of("subject", 3)) != 1 {
			t.Errorf("ended at %v, want %v", c.ended, want)
		}
		c = newChain(f, 9, func(c *chain) {
			c.at = answers(reset)
			c.r(9).mute = mute
		})
		c.trace(t, Options{})
		if want := 3 * 20 * ms; c.ended != want { // two round trips are longer than its patience
			t.Errorf("ended at %v, want %v", c.ended, want)
		}
	})
}

// An echo that gets lost is sent again: the host has answered one.
func TestLookAgain(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := 0
		c := newChain(f, 3, func(c *chain) {
			c.at = answers(reset)
			c.r(3).fwd = func(p *probe) action {
				if p.kind == "echo" && p.ttl == 4 {
					if n++; n == 1 {
						return drop
					}
				}
				return pass
			}
		})
		o := c.trace(t, Options{})
		if p := Read(o); p.Depth != 4 || len(c.of("echo", 4)) != 2 || len(c.of("subject", 2)) > 0 {
			t.Errorf("depth %d\n%s", p.Depth, c.transcript())
		}
	})
}

// Where the two ways differ, it is searched for who answered.
func TestLookSpeaksAgainst(t *testing.T) {
	for name, edit := range map[string]func(*chain){
		"a longer way back":  func(c *chain) { c.detour = 2 },
		"a shorter way back": func(c *chain) { c.detour = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, f family) {
				c := newChain(f, 4, func(c *chain) {
					c.at = answers(reset)
					edit(c)
				})
				o := c.trace(t, Options{})
				p := Read(o)
				if p.Depth != 5 || !p.Hops[4].Of(string(rawprobe.Subject)).InName || p.Hops[3].Of(string(rawprobe.Subject)).Status != Passes {
					t.Errorf("got\n%s%s", f.show(p), c.transcript())
				}
				if c.reached("subject") > maxSubject {
					t.Errorf("%d SYNs reached the host", c.reached("subject"))
				}
				if c.ended > time.Second {
					t.Errorf("took %v", c.ended)
				}
			})
		})
	}
}

// Where the path is followed anyhow, the same datagrams look for another way.
func TestLookAlways(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		for _, a := range []action{synAck, reset, admin} {
			c := newChain(f, 3, func(c *chain) { c.at = answers(a) })
			c.trace(t, Options{Mode: Always})
			if len(c.of("udp", 3)) != 1 || len(c.of("udp", 4)) != 1 || c.reached("subject") > maxSubject {
				t.Errorf("%s:\n%s", a, c.transcript())
			}
		}
	})
}

// A look goes no farther than the caller allows.
func TestLookWithinMaxHops(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		for _, a := range []action{synAck, reset, admin} {
			for flows := range 2 {
				c := newChain(f, 5, func(c *chain) { c.at = answers(a) })
				c.trace(t, Options{MaxHops: 3, Flows: flows})
				for _, kind := range []string{"subject", "echo", "udp"} {
					if c.deepest(kind) > 3 {
						t.Errorf("%s, %d flows:\n%s", a, flows, c.transcript())
					}
				}
			}
		}
	})
}

// Where the path is known already, as after a SYN that got lost, the datagrams
// are waited for none the less: they may show another way. The SYN is not repeated.
func TestLookAwaitsDatagrams(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		c := newChain(f, 3, func(c *chain) {
			c.at = answers(reset)
			n := 0
			c.at.subject = func(*probe) action {
				if n++; n == 1 {
					return drop
				}
				return reset
			}
		})
		c.trace(t, Options{})
		sent := c.of("udp", 3)
		if len(sent) != 1 || sent[0].answered == 0 || c.ended < sent[0].answered || len(c.of("subject", 3)) != 1 {
			t.Errorf("got\n%s", c.transcript())
		}
	})
}
