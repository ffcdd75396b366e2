package rawprobe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The tests of this file are transcripts: what the run did, at which time of a
// virtual clock that starts with it. Every time is exact.

// eachFamily runs a test once for IPv4 and once for IPv6.
func eachFamily(t *testing.T, f func(t *testing.T, n network)) {
	t.Helper()
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) { f(t, n) })
	}
}

func TestPreparation(t *testing.T) {
	eachFamily(t, func(t *testing.T, n network) {
		s, o := play(t, n, Options{}, func(s *script) { s.syn = answers(20*ms, probe.synAck) })
		src, dst := netip.AddrPortFrom(n.us, heldSrc), netip.AddrPortFrom(n.host, port)
		want := []string{
			fmt.Sprintf("survey %v", Flow{Dst: dst}),
			fmt.Sprintf("hold %v", netip.AddrPortFrom(n.us, 0)),
			fmt.Sprintf("survey %v", Flow{Src: src, Dst: dst}),
			"watch",
		}
		if !slices.Equal(s.setup, want) {
			t.Errorf("got %q, want %q", s.setup, want)
		}
		syn, echo := s.probes[0], s.probes[1]
		i := s.interest
		if i.ISN != syn.isn || i.EchoID != echo.echoID || !hasCookie(echo.data, i.EchoCookie) || !i.Neighbors || i.Port != heldSrc || i.PeerPort != port {
			t.Errorf("the tap watches for %+v, but ISN %d, echo %d and port %d were sent", i, syn.isn, echo.echoID, syn.sport)
		}
		if s.finals != 1 || o.Tap.Packets != 7 || o.Machine.Neighbor != "reachable" {
			t.Errorf("the end of the run was asked for %d times: %+v", s.finals, o.Tap)
		}
		if o.Target != dst || o.Machine.Route != s.machine.Route {
			t.Errorf("got %+v", o)
		}
	})
}

// A source that the caller chose is looked up, held and sent from.
func TestPreparationSource(t *testing.T) {
	s, o := play(t, net4, Options{Source: net4.us, SourcePort: 1234}, func(s *script) { s.syn = answers(20*ms, probe.synAck) })
	src, dst := netip.AddrPortFrom(net4.us, 1234), netip.AddrPortFrom(net4.host, port)
	ask := fmt.Sprintf("survey %v", Flow{Src: src, Dst: dst})
	want := []string{ask, fmt.Sprintf("hold %v", src), ask, "watch"}
	if !slices.Equal(s.setup, want) {
		t.Errorf("got %q, want %q", s.setup, want)
	}
	if s.probes[0].sport != 1234 || o.Sent[0].Flow != (Flow{Src: src, Dst: dst}) {
		t.Errorf("sent from %d, recorded %v", s.probes[0].sport, o.Sent[0].Flow)
	}
}

// Where there is no way out nothing is held, watched or sent.
func TestNoWayOut(t *testing.T) {
	for name, edit := range map[string]func(*Machine){
		"no route":   func(m *Machine) { m.Route.Outcome = RouteNone },
		"blackhole":  func(m *Machine) { m.Route.Outcome = RouteBlackhole },
		"no address": func(m *Machine) { m.Route.Outcome = RouteNoAddress },
		"down":       func(m *Machine) { m.Interface.Up = false },
		"no carrier": func(m *Machine) { m.Interface.Carrier = false },
	} {
		t.Run(name, func(t *testing.T) {
			var want Machine
			s, o := play(t, net4, Options{}, func(s *script) {
				edit(&s.machine)
				want = s.machine
			})
			s.want(t, "0s end")
			if len(s.setup) != 1 || !reflect.DeepEqual(o.Machine, want) || len(o.Sent) != 0 || o.Interrupted {
				t.Errorf("did %q and recorded %+v", s.setup, o)
			}
		})
	}
}

// Silence: three tries over 1.2 s, whose order alternates, and then patience
// for the ARP timeout of a far router.
func TestSilence(t *testing.T) {
	eachFamily(t, func(t *testing.T, n network) {
		s, o := play(t, n, Options{}, func(s *script) {})
		s.want(t, `
			0s ask
			0s syn
			0s echo
			600ms echo
			600ms syn
			1.2s syn
			1.2s echo
			3.7s end`)
		if len(o.Replies) != 0 || o.Interrupted || o.Ignored != (Ignored{}) {
			t.Errorf("silence was recorded as %+v", o)
		}
		for i := range o.Sent {
			sent := &o.Sent[i]
			if sent.Departed == nil || !sent.Departed.Time.Equal(sent.Time) || sent.Departed.Interface != ethIdx || sent.Try != i/2+1 {
				t.Errorf("probe %d: %+v departed %+v", i, sent, sent.Departed)
			}
		}
	})
}

// What holds up the first SYN holds up the next ones, too: the tries are as far
// apart as silence needs.
func TestSilenceHeldUp(t *testing.T) {
	s, _ := play(t, net4, Options{}, func(s *script) {
		s.ask = func(n int) []answer {
			time.Sleep(50 * ms)
			return nil
		}
		s.machine.Interface.Resolves = true
	})
	var at []string
	for _, l := range s.lines {
		if strings.HasSuffix(l, " syn") {
			at = append(at, l)
		}
	}
	if want := []string{"50ms syn", "650ms syn", "1.25s syn"}; !slices.Equal(at, want) {
		t.Errorf("got %q, want %q", at, want)
	}
}

// A live host does not shorten the wait: the port may be forwarded to a dead
// machine by a device that answers the echo itself.
func TestSilenceOfLiveHost(t *testing.T) {
	s, o := play(t, net4, Options{}, func(s *script) { s.echo = answers(30*ms, probe.echoReply) })
	s.want(t, `
		0s ask
		0s syn
		0s echo
		600ms echo
		600ms syn
		1.2s syn
		1.2s echo
		3.73s end`)
	if len(o.Replies) != 3 || o.Replies[2].RTT != 30*ms {
		t.Errorf("got %+v", o.Replies)
	}
}

// However slow the way, there is time for three round trips after the last try.
func TestSilenceFarAway(t *testing.T) {
	s, _ := play(t, net4, Options{}, func(s *script) { s.echo = answers(1400*ms, probe.echoReply) })
	s.want(t, `
		0s ask
		0s syn
		0s echo
		600ms echo
		600ms syn
		1.2s syn
		1.2s echo
		5.4s end`)
}

// A dead next hop: four questions, and nobody is left to wait for.
func TestDeadNextHop(t *testing.T) {
	eachFamily(t, func(t *testing.T, n network) {
		s, o := play(t, n, Options{}, func(s *script) { s.ask = nil })
		s.want(t, `
			0s ask
			0s syn
			0s echo
			400ms ask
			600ms echo
			600ms syn
			800ms ask
			1.2s ask
			1.2s syn
			1.2s echo
			1.7s end`)
		if len(o.Asks) != 4 || !o.Asks[3].Answered.IsZero() || s.asked[0] != n.gateway {
			t.Errorf("asked %v, recorded %+v", s.asked, o.Asks)
		}
	})
}

// Where no question left, no silence of the next hop follows: the wait is that for
// a silent target.
func TestNextHopNotAsked(t *testing.T) {
	eachFamily(t, func(t *testing.T, n network) {
		s, o := play(t, n, Options{}, func(s *script) { s.unasked = true })
		s.want(t, `
			0s syn
			0s echo
			600ms echo
			600ms syn
			1.2s syn
			1.2s echo
			3.7s end`)
		if len(o.Asks) != 0 {
			t.Errorf("recorded %+v", o.Asks)
		}
	})
}

// After an answer no more is asked, and the record says which question it
// answered.
func TestNextHopAnswersLate(t *testing.T) {
	eachFamily(t, func(t *testing.T, n network) {
		s, o := play(t, n, Options{}, func(s *script) {
			s.ask = func(k int) []answer {
				if k < 2 {
					return nil
				}
				return []answer{neighbourAnswer(n).after(30 * ms)}
			}
		})
		s.want(t, `
			0s ask
			0s syn
			0s echo
			400ms ask
			600ms echo
			600ms syn
			1.2s syn
			1.2s echo
			3.7s end`)
		if !o.Asks[0].Answered.IsZero() || o.Asks[1].Answered.Sub(o.Start) != 430*ms || o.Asks[1].Hardware != gatewayHW {
			t.Errorf("got %+v", o.Asks)
		}
	})
}

// On the link the target itself is asked; where nothing resolves, and for this
// machine itself, nobody is.
func TestWhoIsAsked(t *testing.T) {
	s, _ := play(t, net4, Options{}, func(s *script) { s.machine.Route.Gateway, s.ask = netip.Addr{}, nil })
	if len(s.asked) != 4 || s.asked[0] != net4.host || s.ended() != "1.7s" {
		t.Errorf("asked %v until %s", s.asked, s.ended())
	}
	for name, edit := range map[string]func(*Machine){
		"tun":   func(m *Machine) { m.Interface.Resolves = false },
		"local": func(m *Machine) { m.Route.Local = true },
	} {
		s, _ := play(t, net4, Options{}, func(s *script) { edit(&s.machine) })
		if len(s.asked) != 0 {
			t.Errorf("%s: asked %v", name, s.asked)
		}
		if want := map[string]string{"tun": "3.7s", "local": "2.2s"}[name]; s.ended() != want {
			t.Errorf("%s: ended after %s, want %s", name, s.ended(), want)
		}
	}
}

// An answer ends the run as soon as the echo's is there too.
func TestAnswer(t *testing.T) {
	for _, c := range []struct {
		name      string
		syn, echo func(probe) []answer
		end       string
	}{
		{"echo first", answers(20*ms, probe.synAck), answers(15*ms, probe.echoReply), "20ms"},
		{"echo later", answers(20*ms, probe.synAck), answers(55*ms, probe.echoReply), "55ms"},
		{"echo too late", answers(20*ms, probe.synAck), answers(65*ms, probe.echoReply), "60ms"},
		{"no echo", answers(20*ms, probe.synAck), nil, "60ms"},
		{"near", answers(2*ms, probe.synAck), nil, "32ms"},
		{"far", answers(250*ms, probe.synAck), nil, "550ms"},
		{"reset", answers(20*ms, probe.reset), answers(21*ms, probe.echoReply), "21ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, n network) {
				s, o := play(t, n, Options{}, func(s *script) { s.syn, s.echo = c.syn, c.echo })
				s.want(t, "0s ask\n0s syn\n0s echo\n"+c.end+" end")
				a := o.Replies[0]
				if c.name == "echo first" {
					a = o.Replies[1]
				}
				if !a.Delivered || !a.Exact && a.Kind == SynAck || a.RTT != a.Time.Sub(o.Start) || a.From != n.host || a.TTL != 61 {
					t.Errorf("got %+v", a)
				}
			})
		})
	}
}

// A refusal ends it in the same way; an "unreachable" waits longer for the
// echo, which may contradict it.
func TestICMPAnswer(t *testing.T) {
	eachFamily(t, func(t *testing.T, n network) {
		refuse := func(from netip.Addr, code uint8) func(s *script) {
			return func(s *script) {
				s.syn = func(p probe) []answer { return []answer{p.icmp(from, n.unreachable, code).after(20 * ms)} }
			}
		}
		for _, c := range []struct {
			name string
			edit func(*script)
			end  string
		}{
			{"port", refuse(n.host, n.no), "60ms"},
			{"admin", refuse(n.router, n.admin), "60ms"},
			{"host", refuse(n.router, n.noHost), "420ms"},
			{"route", refuse(n.router, n.noRoute), "420ms"},
		} {
			s, o := play(t, n, Options{}, c.edit)
			s.want(t, "0s ask\n0s syn\n0s echo\n"+c.end+" end")
			if len(o.Replies) != 1 || !o.Replies[0].Exact || !o.Replies[0].Delivered || o.Replies[0].QuotedDst != o.Target || o.Replies[0].QuotedTTL != 1 {
				t.Errorf("%s: got %+v", c.name, o.Replies)
			}
		}
	})
}

// A far router that can't resolve the host says so after three seconds, and is
// waited for.
func TestFarNeighbourTimeout(t *testing.T) {
	eachFamily(t, func(t *testing.T, n network) {
		s, o := play(t, n, Options{}, func(s *script) {
			s.syn = func(p probe) []answer {
				if p.n > 1 {
					return nil
				}
				return []answer{p.icmp(n.router, n.unreachable, n.noHost).after(3100 * ms)}
			}
		})
		s.want(t, `
			0s ask
			0s syn
			0s echo
			600ms echo
			600ms syn
			1.2s syn
			1.2s echo
			3.5s end`)
		if len(o.Replies) != 1 || o.Replies[0].Probe != 0 || o.Replies[0].RTT != 3100*ms || o.Replies[0].Meaning() != SaysHostUnreachable {
			t.Errorf("got %+v", o.Replies)
		}
	})
}

// An answer that passed the tap and reached no socket is asked for again, until
// it is sure that something here eats it.
func TestUndelivered(t *testing.T) {
	eachFamily(t, func(t *testing.T, n network) {
		s, o := play(t, n, Options{}, func(s *script) {
			s.syn = func(p probe) []answer { return []answer{p.synAck().after(20 * ms).eaten()} }
			s.echo = answers(20*ms, probe.echoReply)
		})
		s.want(t, `
			0s ask
			0s syn
			0s echo
			600ms echo
			600ms syn
			1.2s syn
			1.2s echo
			1.47s end`)
		for i := range o.Replies {
			if o.Replies[i].Delivered {
				t.Errorf("reply %d is said to be delivered: %+v", i, o.Replies[i])
			}
		}
	})
}

// The socket's copy may come later than the tap's, or earlier; and a reset of
// our kernel shows as well that the SYN-ACK has reached it.
func TestDelivery(t *testing.T) {
	for _, c := range []struct {
		name string
		syn  func(p probe) []answer
		end  string
	}{
		{"late", func(p probe) []answer { return []answer{p.synAck().after(20 * ms).late(100 * ms)} }, "120ms"},
		{"first", func(p probe) []answer { return []answer{p.synAck().after(20 * ms).early()} }, "20ms"},
		{"own reset", func(p probe) []answer {
			return []answer{p.synAck().after(20 * ms).eaten(), p.ownReset().after(21 * ms)}
		}, "21ms"},
		{"second try", func(p probe) []answer {
			if p.n == 1 {
				return []answer{p.synAck().after(20 * ms).eaten()}
			}
			return []answer{p.synAck().after(20 * ms)}
		}, "620ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, n network) {
				s, o := play(t, n, Options{}, func(s *script) { s.syn, s.echo = c.syn, answers(10*ms, probe.echoReply) })
				if s.ended() != c.end {
					t.Errorf("ended after %s, want %s:\n%s", s.ended(), c.end, strings.Join(s.lines, "\n"))
				}
				i := slices.IndexFunc(o.Replies, func(a Reply) bool { return a.Kind == SynAck && a.Delivered })
				if i < 0 {
					t.Errorf("not delivered: %+v", o.Replies)
				}
				if want := map[bool]int{true: 1}[c.name == "own reset"]; o.OwnResets != want {
					t.Errorf("%d own resets, want %d", o.OwnResets, want)
				}
			})
		})
	}
}

// The local firewall's refusal is asked for a second time.
func TestRefusedSends(t *testing.T) {
	always := func(p probe) Refusal { return map[string]Refusal{"syn": RefusedByFirewall}[p.kind] }
	s, o := play(t, net4, Options{}, func(s *script) { s.refuse = always })
	s.want(t, `
		0s ask
		0s syn refused
		0s echo
		100ms echo
		100ms syn refused
		130ms end`)
	if o.Sent[0].Refused != RefusedByFirewall || o.Sent[0].Departed != nil || o.Sent[1].Refused != NotRefused {
		t.Errorf("got %+v", o.Sent)
	}

	// What was full a moment ago may have room now.
	s, _ = play(t, net4, Options{}, func(s *script) {
		s.refuse = func(p probe) Refusal { return map[bool]Refusal{true: RefusedByFirewall}[p.n == 1] }
		s.syn = answers(20*ms, probe.synAck)
		s.echo = answers(20*ms, probe.echoReply)
	})
	s.want(t, `
		0s ask
		0s syn refused
		0s echo refused
		100ms echo
		100ms syn
		120ms end`)

	// A queue that was full is no verdict: the probe counts as lost.
	s, _ = play(t, net4, Options{}, func(s *script) {
		s.refuse = func(p probe) Refusal { return map[bool]Refusal{true: RefusedNoBuffer}[p.n == 1] }
		s.syn = answers(20*ms, probe.synAck)
		s.echo = answers(20*ms, probe.echoReply)
	})
	s.want(t, `
		0s ask
		0s syn refused
		0s echo refused
		600ms echo
		600ms syn
		620ms end`)

	// The routing table's refusal is final.
	s, _ = play(t, net4, Options{}, func(s *script) { s.refuse = func(probe) Refusal { return RefusedUnreachable } })
	s.want(t, `
		0s ask
		0s syn refused
		0s echo refused
		30ms end`)
}

// The local firewall's own answer to what it refused comes over loopback.
func TestRefusedWithAnswer(t *testing.T) {
	s, o := play(t, net4, Options{}, func(s *script) {
		s.refuse = func(p probe) Refusal {
			if p.kind != "syn" {
				return NotRefused
			}
			s.deliver([]answer{p.reset().after(1 * ms).looped()})
			return RefusedByFirewall
		}
	})
	if len(o.Replies) == 0 || o.Replies[0].Kind != Reset || !o.Replies[0].Loopback || o.Replies[0].Interface != loIdx {
		t.Errorf("got %+v after %s", o.Replies, s.ended())
	}
}

// Where echoes are lost, silence needs more tries: until its chance is below
// one in a thousand, but no more than eight.
func TestLoss(t *testing.T) {
	lost := func(numbers ...int) func(p probe) []answer {
		return func(p probe) []answer {
			if slices.Contains(numbers, p.n) {
				return nil
			}
			return []answer{p.echoReply().after(20 * ms)}
		}
	}
	for _, c := range []struct {
		name string
		echo func(p probe) []answer
		want string
	}{
		// 1 of 3, 4, 5: (1/3)^3, (1/4)^4 and (1/5)^5, of which the last is 0.00032.
		{"one in three", lost(1), `
			0s ask
			0s syn
			0s echo
			600ms echo
			600ms syn
			1.2s syn
			1.2s echo
			1.5s echo
			1.5s syn
			1.8s syn
			1.8s echo
			3.72s end`},
		{"half", lost(1, 3, 5, 7), `
			0s ask
			0s syn
			0s echo
			600ms echo
			600ms syn
			1.2s syn
			1.2s echo
			1.5s echo
			1.5s syn
			1.8s syn
			1.8s echo
			2.1s echo
			2.1s syn
			2.4s syn
			2.4s echo
			2.7s echo
			2.7s syn
			3.72s end`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, o := play(t, net4, Options{}, func(s *script) { s.echo = c.echo })
			s.want(t, c.want)
			if chance := o.SilenceByChance(); (chance < 1e-3) != (c.name == "one in three") {
				t.Errorf("silence by chance is %v", chance)
			}
		})
	}
	// Without one answered echo nothing is known about loss.
	if _, o := play(t, net4, Options{}, func(s *script) {}); o.SilenceByChance() != 0 || len(o.Sent) != 6 {
		t.Errorf("silence by chance is %v after %d probes", o.SilenceByChance(), len(o.Sent))
	}
}

// Lossy ways to an open port: a late try brings the answer.
func TestLossAndAnswer(t *testing.T) {
	s, o := play(t, net4, Options{}, func(s *script) {
		s.syn = func(p probe) []answer {
			if p.n < 5 {
				return nil
			}
			return []answer{p.synAck().after(20 * ms)}
		}
		s.echo = func(p probe) []answer {
			if p.n < 3 {
				return nil
			}
			return []answer{p.echoReply().after(15 * ms)}
		}
	})
	if s.ended() != "1.82s" || o.Replies[len(o.Replies)-1].Probe != s.index("syn", 5) {
		t.Errorf("ended after %s: %+v", s.ended(), o.Replies)
	}
}

// index is the place of a probe among all.
func (s *script) index(kind string, n int) int {
	return slices.IndexFunc(s.probes, func(p probe) bool { return p.kind == kind && p.n == n })
}

// Options.Tries and Options.Timeout: as many tries, and as long, as was asked
// for; always a second of listening, unless the timeout says less.
func TestTriesAndTimeout(t *testing.T) {
	for _, c := range []struct {
		opt  Options
		syns string // when
		end  string
	}{
		{Options{Tries: 1}, "0s", "3.7s"},
		{Options{Tries: 2}, "0s 600ms", "3.7s"},
		{Options{Tries: 5}, "0s 600ms 1.2s 1.8s 2.4s", "3.7s"},
		{Options{Tries: 10}, "0s 600ms 1.2s 1.8s 2.4s 3s 3.6s 4.2s 4.8s 5.4s", "6.4s"},
		{Options{Timeout: 500 * ms}, "0s 125ms 250ms", "500ms"},
		{Options{Timeout: 2 * time.Second}, "0s 500ms 1s", "2s"},
		{Options{Timeout: 10 * time.Second}, "0s 600ms 1.2s", "10s"},
		{Options{Timeout: 100 * ms, Tries: 1}, "0s", "100ms"},
		{Options{Timeout: time.Second, Tries: 4}, "0s 200ms 400ms 600ms", "1s"},
	} {
		s, _ := play(t, net4, c.opt, func(s *script) {})
		var syns []string
		for _, l := range s.lines {
			if at, what, _ := strings.Cut(l, " "); what == "syn" {
				syns = append(syns, at)
			}
		}
		if got := strings.Join(syns, " "); got != c.syns || s.ended() != c.end {
			t.Errorf("%+v: SYNs at %s, end at %s; want %s and %s", c.opt, got, s.ended(), c.syns, c.end)
		}
	}
	// Told how many tries to make, none is added for loss.
	s, _ := play(t, net4, Options{Tries: 3}, func(s *script) {
		s.echo = func(p probe) []answer {
			if p.n == 1 {
				return nil
			}
			return []answer{p.echoReply().after(20 * ms)}
		}
	})
	if s.counts["syn"] != 3 {
		t.Errorf("%d tries", s.counts["syn"])
	}
}

// A cancelled run ends at once, with what is known by then.
func TestCancel(t *testing.T) {
	for _, at := range []time.Duration{-1, 10 * ms, 750 * ms, 1300 * ms} {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(t, net4)
			ctx, cancel := context.WithCancel(t.Context())
			if at < 0 {
				cancel()
				at = 0
			}
			time.AfterFunc(at, cancel)
			s.echo = answers(5*ms, probe.echoReply)
			o, err := Observe(ctx, s, netip.AddrPortFrom(net4.host, port), Options{})
			if err != nil || !o.Interrupted || time.Since(s.start) != at || !o.End.Equal(time.Now()) {
				t.Errorf("cancelled at %v, ended after %v: %v", at, time.Since(s.start), err)
			}
			if want := map[time.Duration]int{0: 0, 10 * ms: 2, 750 * ms: 4, 1300 * ms: 6}[at]; len(o.Sent) != want || len(o.Replies) != want/2 {
				t.Errorf("cancelled at %v: %d sent, %d replies", at, len(o.Sent), len(o.Replies))
			}
			if s.finals != 1 {
				t.Errorf("the end of the run was asked for %d times", s.finals)
			}
			synctest.Wait()
		})
	}
}

// A router says "unreachable" about a host that answers echoes: two other flows
// are tried, for one of several ways may have lost its route.
func TestContradiction(t *testing.T) {
	eachFamily(t, func(t *testing.T, n network) {
		for _, c := range []struct {
			name  string
			other func(p probe) []answer
			more  string // when eight more flows are tried
			end   string
		}{
			{"gets through", answers(20*ms, probe.synAck), "", "45ms"},
			{"same", func(p probe) []answer { return []answer{p.icmp(n.router, n.unreachable, n.noRoute).after(30 * ms)} }, "55ms", "85ms"},
			{"silent", nil, "125ms", "225ms"},
			{"one silent", func(p probe) []answer {
				if p.n == 1 {
					return nil
				}
				return []answer{p.synAck().after(20 * ms)}
			}, "", "125ms"},
		} {
			t.Run(c.name, func(t *testing.T) {
				s, o := play(t, n, Options{}, func(s *script) {
					s.syn = func(p probe) []answer {
						if p.kind == "other" {
							if c.other == nil {
								return nil
							}
							return c.other(p)
						}
						return []answer{p.icmp(n.router, n.unreachable, n.noRoute).after(20 * ms)}
					}
					s.echo = answers(25*ms, probe.echoReply)
				})
				more := ""
				if c.more != "" {
					more = strings.Repeat(c.more+" other\n", otherFlows-fewFlows)
				}
				s.want(t, "0s ask\n0s syn\n0s echo\n25ms other\n25ms other\n"+more+c.end+" end")
				ports := map[uint16]bool{s.probes[0].sport: true, s.probes[2].sport: true, s.probes[3].sport: true}
				if len(ports) != 3 || s.probes[2].isn != s.probes[0].isn || o.Sent[2].Kind != OtherFlow || o.Sent[3].Try != 1 {
					t.Errorf("other flows: %+v", o.Sent[2:])
				}
				for _, a := range o.Replies {
					if a.Kind == SynAck && (o.Sent[a.Probe].Kind != OtherFlow || !a.Exact) {
						t.Errorf("a SYN-ACK of another flow is booked under %+v", o.Sent[a.Probe])
					}
				}
			})
		}
	})
}

// The host's own "unreachable", a silent echo, and a mere refusal contradict
// nothing.
func TestNoContradiction(t *testing.T) {
	refusal := func(from netip.Addr, code uint8) func(p probe) []answer {
		return func(p probe) []answer { return []answer{p.icmp(from, 3, code).after(20 * ms)} }
	}
	for name, edit := range map[string]func(s *script){
		"own":     func(s *script) { s.syn, s.echo = refusal(net4.host, 1), answers(25*ms, probe.echoReply) },
		"silent":  func(s *script) { s.syn = refusal(net4.router, 1) },
		"refused": func(s *script) { s.syn, s.echo = refusal(net4.router, 13), answers(25*ms, probe.echoReply) },
	} {
		if s, _ := play(t, net4, Options{}, edit); s.counts["other"] != 0 {
			t.Errorf("%s: %q", name, s.lines)
		}
	}
}

// A SYN-ACK from another distance than the echo reply is asked for once more.
func TestDisputedDistance(t *testing.T) {
	eachFamily(t, func(t *testing.T, n network) {
		near := func(p probe) []answer {
			return []answer{p.synAck().with(func(g *segment) { g.ttl = 63 }).after(20 * ms)}
		}
		s, o := play(t, n, Options{}, func(s *script) { s.syn, s.echo = near, answers(25*ms, probe.echoReply) })
		s.want(t, `
			0s ask
			0s syn
			0s echo
			50ms echo
			50ms syn
			70ms end`)
		if o.Replies[0].Distance() != 1 || o.Replies[1].Distance() != 3 || !o.Replies[0].Delivered {
			t.Errorf("got %+v", o.Replies)
		}

		// Another initial TTL is no other distance.
		s, _ = play(t, n, Options{}, func(s *script) {
			s.syn = func(p probe) []answer {
				return []answer{p.synAck().with(func(g *segment) { g.ttl = 252 }).after(20 * ms)}
			}
			s.echo = answers(25*ms, probe.echoReply)
		})
		if s.ended() != "25ms" {
			t.Errorf("%q", s.lines)
		}
	})
}

// A route that depends on ports: the subject waits for the next hop's address,
// and all is sent to it on the link layer.
func TestByPort(t *testing.T) {
	eachFamily(t, func(t *testing.T, n network) {
		s, _ := play(t, n, Options{}, func(s *script) {
			s.machine.Route.ByPort = true
			s.ask = func(k int) []answer {
				if k == 1 {
					return nil
				}
				return []answer{neighbourAnswer(n).after(50 * ms)}
			}
			s.syn, s.echo = answers(20*ms, probe.synAck), answers(20*ms, probe.echoReply)
		})
		s.want(t, `
			0s ask
			400ms ask
			450ms syn via 02:00:00:00:00:fe
			450ms echo via 02:00:00:00:00:fe
			470ms end`)

		// A link without addresses needs none.
		s, _ = play(t, n, Options{}, func(s *script) {
			s.machine.Route.ByPort, s.machine.Interface.Resolves = true, false
			s.syn, s.echo = answers(20*ms, probe.synAck), answers(20*ms, probe.echoReply)
		})
		s.want(t, `
			0s syn via 00:00:00:00:00:00
			0s echo via 00:00:00:00:00:00
			20ms end`)

		// A next hop that does not answer: the subject is not let loose on
		// another way than the connection's.
		s, o := play(t, n, Options{}, func(s *script) {
			s.machine.Route.ByPort, s.ask = true, nil
			s.syn = answers(20*ms, probe.synAck)
		})
		s.want(t, `
			0s ask
			400ms ask
			800ms ask
			1.2s ask
			1.7s end`)
		if len(o.Sent) != 0 || len(o.Asks) != 4 {
			t.Errorf("sent %+v", o.Sent)
		}
	})
}

// Failures of our own end the run with an error, and the record stays.
func TestFailures(t *testing.T) {
	broken := errors.New("broken")
	_, s, err := tryPlay(t, net4, Options{}, func(s *script) {
		s.fail = func(p probe) error { return map[bool]error{true: broken}[p.kind == "echo"] }
	})
	if !errors.Is(err, broken) {
		t.Errorf("a failed send: %v", err)
	}
	s.want(t, "0s ask\n0s syn\n0s echo\n0s end")

	o, s, err := tryPlay(t, net4, Options{}, func(s *script) {
		s.echo = answers(20*ms, probe.echoReply)
		time.AfterFunc(700*ms, s.breakTap)
	})
	if !errors.Is(err, errTapFailed) || s.ended() != "700ms" || len(o.Replies) != 2 || o.Interrupted {
		t.Errorf("a failed tap: %v after %s, %+v", err, s.ended(), o.Replies)
	}
}

// The neighbour timeout of this machine's own kernel is no answer: our own
// questions settle that.
func TestOwnNeighbourTimeout(t *testing.T) {
	eachFamily(t, func(t *testing.T, n network) {
		s, _ := play(t, n, Options{Timeout: 5 * time.Second}, func(s *script) {
			s.syn = func(p probe) []answer {
				return []answer{p.icmp(n.us, n.unreachable, n.noHost).after(3000 * ms).looped()}
			}
		})
		if s.ended() != "5s" {
			t.Errorf("ended after %s", s.ended())
		}
	})
}

// An old connection's challenge ACK, and an ICMP error that is no refusal, end
// nothing.
func TestInconclusive(t *testing.T) {
	for name, syn := range map[string]func(p probe) []answer{
		"challenge": func(p probe) []answer {
			return []answer{p.synAck().with(func(g *segment) { g.flags, g.ack = "A", g.ack+1000 }).after(20 * ms)}
		},
		"too big": func(p probe) []answer { return []answer{p.icmp(net4.router, 3, 4).after(20 * ms)} },
	} {
		s, o := play(t, net4, Options{}, func(s *script) { s.syn = syn })
		if s.ended() != "3.72s" || len(o.Replies) != 3 {
			t.Errorf("%s: ended after %s: %+v", name, s.ended(), o.Replies)
		}
	}
}
