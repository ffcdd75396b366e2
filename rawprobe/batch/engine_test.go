package batch

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"synprobe/rawprobe"
)

// A fakeNet is a link under virtual time: what it answers is decided by the
// test's react, packet by packet.
type fakeNet struct {
	t *testing.T
	// react returns the answers to a probe, each with its delay.
	react func(p probe, nth int) []reply
	// refuse returns why a probe can't be sent.
	refuse func(p probe) rawprobe.Refusal
	cost   time.Duration // of a packet
	drop   func() uint64
	gone   func(addr) bool

	seen    map[netip.AddrPort][]time.Time // nil: nobody looks
	echoes  map[netip.Addr]int
	onWire  []reply // by time
	packets uint64
	failure error
}

type reply struct {
	after time.Duration
	at    time.Time
	answer
}

func (f *fakeNet) send(probes []probe) (int, rawprobe.Refusal) {
	for i, p := range probes {
		if f.refuse != nil {
			switch why := f.refuse(p); {
			case why != rawprobe.NotRefused && i > 0:
				return i, rawprobe.NotRefused // the next call says why, as sendmmsg does
			case why != rawprobe.NotRefused:
				return 0, why
			}
		}
		if f.cost > 0 {
			time.Sleep(f.cost)
		}
		f.packets++
		nth := 0
		if f.seen != nil {
			if p.tag == echoTag {
				f.echoes[p.to.netip()]++
			} else {
				t := netip.AddrPortFrom(p.to.netip(), uint16(p.tag))
				f.seen[t] = append(f.seen[t], time.Now())
				nth = len(f.seen[t])
			}
		}
		if f.react == nil {
			continue
		}
		for _, r := range f.react(p, nth) {
			r.at = time.Now().Add(r.after)
			k := len(f.onWire)
			for k > 0 && f.onWire[k-1].at.After(r.at) {
				k--
			}
			f.onWire = append(f.onWire[:k], append([]reply{r}, f.onWire[k:]...)...)
		}
	}
	return len(probes), rawprobe.NotRefused
}

func (f *fakeNet) receive(got func(*answer)) {
	now := time.Now()
	for len(f.onWire) > 0 && !f.onWire[0].at.After(now) {
		r := f.onWire[0]
		f.onWire = f.onWire[1:]
		r.receivedAt = r.at.UnixNano()
		got(&r.answer)
	}
}

func (f *fakeNet) wait(d time.Duration) {
	if d <= 0 {
		f.t.Fatalf("a wait for %v", d)
	}
	if len(f.onWire) > 0 {
		d = max(min(d, time.Until(f.onWire[0].at)), 1)
	}
	time.Sleep(d)
}

func (f *fakeNet) counts() (uint64, uint64) {
	if f.drop != nil {
		return 0, f.drop()
	}
	return 0, 0
}

func (f *fakeNet) check() error { return f.failure }

func (f *fakeNet) dead(to addr) bool { return f.gone != nil && f.gone(to) }

func (f *fakeNet) alive(addr) {}

// to answers a probe in the target's own name.
func to(p probe, kind rawprobe.ReplyKind, after time.Duration) reply {
	return reply{after: after, answer: answer{kind: kind, to: p.to, port: uint16(p.tag), seq: p.seq, from: p.to, ttl: 60}}
}

func prefix(s string, ports ...uint16) Block {
	return Block{Prefix: netip.MustParsePrefix(s), Ports: ports}
}

func mustSpace(t testing.TB, blocks ...Block) *Space {
	t.Helper()
	s, err := NewSpace(blocks)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// outcome is a run under virtual time.
type outcome struct {
	results  map[netip.AddrPort]Result
	at       map[netip.AddrPort]time.Duration
	progress Progress
	err      error
	took     time.Duration
}

// simulate runs an engine over f, and fails the test where a target gets two
// results.
func simulate(ctx context.Context, t *testing.T, s *Space, cfg Config, f *fakeNet) outcome {
	t.Helper()
	f.t = t
	f.seen, f.echoes = make(map[netip.AddrPort][]time.Time), make(map[netip.Addr]int)
	o := outcome{results: make(map[netip.AddrPort]Result), at: make(map[netip.AddrPort]time.Duration)}
	start := time.Now()
	o.progress, o.err = newEngine(s, cfg, f, func(r *Result) {
		if _, ok := o.results[r.Target]; ok {
			t.Errorf("a second result for %s", r.Target)
		}
		o.results[r.Target] = *r
		o.at[r.Target] = time.Since(start)
	}).run(ctx)
	o.took = time.Since(start)
	return o
}

// complete checks that every target has its result.
func (o *outcome) complete(t *testing.T, s *Space) {
	t.Helper()
	if uint64(len(o.results)) != s.Len() {
		t.Errorf("%d results for %d targets", len(o.results), s.Len())
	}
	for i := range s.Len() {
		if _, ok := o.results[s.At(i)]; !ok {
			t.Fatalf("no result for %s", s.At(i))
		}
	}
	if !o.progress.Finished || o.progress.Done != s.Len() || o.progress.Position != s.Len() || o.err != nil {
		t.Errorf("%+v, %v; want all %d done", o.progress, o.err, s.Len())
	}
}

func TestEveryTargetOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustSpace(t, prefix("10.0.0.0/20", 22, 80), prefix("2001:db8::/116", 443), prefix("10.0.1.0/24", 8080))
		// By the last bits: open, closed, refused by ICMP, silent.
		want := func(p addr) rawprobe.ReplyKind {
			return [...]rawprobe.ReplyKind{rawprobe.SynAck, rawprobe.Reset, rawprobe.ICMPError, ""}[p.lo%4]
		}
		f := &fakeNet{cost: 2 * time.Microsecond, react: func(p probe, _ int) []reply {
			if p.tag == echoTag {
				return nil
			}
			kind := want(p.to)
			if kind == "" {
				return nil
			}
			r := to(p, kind, 30*time.Millisecond)
			if kind == rawprobe.ICMPError {
				r.from, r.typ, r.code = fromNetip(netip.MustParseAddr("10.9.9.9")), 3, 13
			}
			return []reply{r}
		}}
		o := simulate(t.Context(), t, s, Config{Seed: 1}, f)
		o.complete(t, s)
		for target, r := range o.results {
			kind := want(fromNetip(target.Addr()))
			if r.Kind != kind {
				t.Errorf("%s: %q, want %q", target, r.Kind, kind)
			}
			tries := 1
			if kind == "" {
				tries = 3
			}
			if r.Tries != tries || len(f.seen[target]) != tries {
				t.Errorf("%s: %d tries told, %d made, want %d", target, r.Tries, len(f.seen[target]), tries)
			}
			for i := 1; i < len(f.seen[target]); i++ {
				if d := f.seen[target][i].Sub(f.seen[target][i-1]); d < interval-burst*f.cost {
					t.Errorf("%s: asked again after %v", target, d)
				}
			}
			if kind != "" && (r.RTT < 30*time.Millisecond || r.RTT > 30*time.Millisecond+burst*f.cost) {
				t.Errorf("%s: RTT %v, want 30 ms", target, r.RTT)
			}
			if kind == rawprobe.ICMPError && (r.Type != 3 || r.Code != 13 || r.From != netip.MustParseAddr("10.9.9.9") || r.NoNeighbor) {
				t.Errorf("%s: %+v", target, r)
			}
		}
		for a, n := range f.echoes {
			if n != 1 || want(fromNetip(a)) != "" {
				t.Errorf("%d echoes to %s", n, a)
			}
		}
		if got := len(f.echoes); got != (1<<12+1<<12)/4 {
			t.Errorf("%d hosts were asked for an echo, want every fourth", got)
		}
	})
}

func TestEcho(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustSpace(t, prefix("10.0.0.0/24", 22, 80))
		f := &fakeNet{react: func(p probe, _ int) []reply {
			if p.tag == echoTag && p.to.lo%2 == 0 {
				return []reply{to(p, rawprobe.EchoReply, 50*time.Millisecond)}
			}
			if p.tag == echoTag { // somebody who does not know the cookie
				r := to(p, rawprobe.EchoReply, 50*time.Millisecond)
				r.seq++
				return []reply{r}
			}
			return nil
		}}
		o := simulate(t.Context(), t, s, Config{}, f)
		o.complete(t, s)
		for target, r := range o.results {
			alive := fromNetip(target.Addr()).lo%2 == 0
			if r.Kind != "" || r.EchoAnswered != alive || alive && r.EchoTTL != 60 {
				t.Errorf("%s: %+v", target, r)
			}
			if n := f.echoes[target.Addr()]; n != 1 {
				t.Errorf("%d echoes to %s", n, target.Addr())
			}
		}
	})
}

// Answers that nobody who saw our SYN would send, and answers to what was not
// asked yet, or was told already.
func TestNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustSpace(t, prefix("10.0.0.0/24", 22))
		f := &fakeNet{}
		f.react = func(p probe, nth int) []reply {
			wrongSeq := to(p, rawprobe.SynAck, time.Millisecond)
			wrongSeq.seq++
			stranger := to(p, rawprobe.SynAck, time.Millisecond)
			stranger.to = stranger.to.plus(1) // its neighbour's number is another
			outside := to(p, rawprobe.Reset, time.Millisecond)
			outside.to = fromNetip(netip.MustParseAddr("192.168.0.1"))
			port := to(p, rawprobe.Reset, time.Millisecond)
			port.port = 23
			replies := []reply{wrongSeq, stranger, outside, port}
			if p.to.lo%2 == 0 {
				// Three copies, and then another answer: the first counts.
				a := to(p, rawprobe.Reset, 2*time.Millisecond)
				replies = append(replies, a, a, a, to(p, rawprobe.SynAck, 3*time.Millisecond))
			}
			return replies
		}
		o := simulate(t.Context(), t, s, Config{NoEcho: true}, f)
		o.complete(t, s)
		for target, r := range o.results {
			want := rawprobe.ReplyKind("")
			if fromNetip(target.Addr()).lo%2 == 0 {
				want = rawprobe.Reset
			}
			if r.Kind != want {
				t.Errorf("%s: %q, want %q", target, r.Kind, want)
			}
		}
		// Four to each SYN: 128 targets were asked three times, 128 once.
		if want := uint64(4 * 4 * 128); o.progress.Unmatched != want {
			t.Errorf("%d answers to nothing told, want %d", o.progress.Unmatched, want)
		}
	})
}

// Where the next hop is known to be dead, a silence is its fault; an answer is
// an answer.
func TestDeadNextHop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustSpace(t, prefix("10.0.0.0/28", 22))
		f := &fakeNet{
			gone: func(a addr) bool { return a.lo%2 == 0 },
			react: func(p probe, _ int) []reply {
				if p.to.lo%4 == 0 {
					return []reply{to(p, rawprobe.SynAck, time.Millisecond)}
				}
				return nil
			},
		}
		o := simulate(t.Context(), t, s, Config{}, f)
		o.complete(t, s)
		for target, r := range o.results {
			if k := fromNetip(target.Addr()).lo % 4; r.NoNeighbor != (k == 2) || (r.Kind == rawprobe.SynAck) != (k == 0) {
				t.Errorf("%+v", r)
			}
		}
	})
}

// An answer that comes before the SYN was sent is none.
func TestNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustSpace(t, prefix("10.0.0.0/24", 22))
		key := secret{}
		f := &fakeNet{}
		for i := range s.Len() {
			a, port := s.at(i)
			f.onWire = append(f.onWire, reply{at: time.Now(), answer: answer{kind: rawprobe.SynAck, to: a, port: port, seq: uint32(key.of(a, uint32(port)))}})
		}
		o := simulate(t.Context(), t, s, Config{Seed: 7}, f)
		o.complete(t, s)
		for target, r := range o.results {
			if r.Kind != "" {
				t.Errorf("%s: %q", target, r.Kind)
			}
		}
	})
}

// A late answer, long after the wait, is believed as long as the run goes on
// and there is room to wait for it.
func TestLateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustSpace(t, prefix("10.0.0.0/20", 22))
		var late addr // the first of all
		f := &fakeNet{react: func(p probe, nth int) []reply {
			if late == (addr{}) {
				late = p.to
				return []reply{to(p, rawprobe.SynAck, 5*time.Second)}
			}
			return nil
		}}
		// Paced, so that the run takes longer: 3 * 4096 / 1000 seconds.
		o := simulate(t.Context(), t, s, Config{Rate: 1000, Wait: time.Second, Seed: 3}, f)
		o.complete(t, s)
		r := o.results[netip.AddrPortFrom(late.netip(), 22)]
		if r.Kind != rawprobe.SynAck || r.Tries != 3 || r.RTT != 0 {
			t.Errorf("%+v; want a syn-ack without an RTT", r)
		}
		if o.took < 7*time.Second {
			t.Errorf("the run took %v: nothing was late", o.took)
		}
	})
}

// The SYNs and answers of a bad line get lost: every second of each.
func TestLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustSpace(t, prefix("10.0.0.0/22", 22))
		f := &fakeNet{react: func(p probe, nth int) []reply {
			if nth < 3 {
				return nil
			}
			return []reply{to(p, rawprobe.Reset, 100*time.Millisecond)}
		}}
		o := simulate(t.Context(), t, s, Config{}, f)
		o.complete(t, s)
		for target, r := range o.results {
			if r.Kind != rawprobe.Reset || r.Tries != 3 || r.RTT != 0 {
				t.Fatalf("%s: %+v", target, r)
			}
		}
	})
}

// A router that can't reach a host says so after three seconds: the usual wait
// is longer.
func TestWaitsForARP(t *testing.T) {
	for _, tries := range []int{1, 2, 3, 5} {
		synctest.Test(t, func(t *testing.T) {
			s := mustSpace(t, prefix("10.0.0.0/28", 22))
			f := &fakeNet{react: func(p probe, nth int) []reply {
				if nth != 1 {
					return nil
				}
				r := to(p, rawprobe.ICMPError, 3100*time.Millisecond)
				r.typ, r.code, r.local = 3, 1, p.to.lo%2 == 0
				return []reply{r}
			}}
			o := simulate(t.Context(), t, s, Config{Tries: tries}, f)
			o.complete(t, s)
			for target, r := range o.results {
				if r.Kind != rawprobe.ICMPError || r.NoNeighbor != (fromNetip(target.Addr()).lo%2 == 0) {
					t.Errorf("%d tries: %s: %+v", tries, target, r)
				}
			}
		})
	}
}

// An interrupted run says where it stopped; one that goes on from there asks
// the others, and all are asked once.
func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustSpace(t, prefix("10.0.0.0/22", 22, 80))
		for _, shard := range []int{0, 2} {
			cfg := Config{Seed: 5, Rate: 2000, Shard: shard, Shards: shard}
			targets := share(s.Len(), uint64(max(shard-1, 0)), uint64(max(shard, 1)))
			for after := time.Millisecond; after < 5*time.Second; after = after*2 + 7*time.Millisecond {
				react := func(p probe, _ int) []reply {
					if p.to.lo%2 == 0 {
						return []reply{to(p, rawprobe.Reset, 40*time.Millisecond)}
					}
					return nil
				}
				ctx, cancel := context.WithTimeout(t.Context(), after)
				a := simulate(ctx, t, s, cfg, &fakeNet{react: react})
				cancel()
				if a.progress.Finished != (a.progress.Position == targets) || a.progress.Done != a.progress.Position || uint64(len(a.results)) != a.progress.Done {
					t.Errorf("interrupted after %v: %+v, %d results", after, a.progress, len(a.results))
				}
				if over := a.took - after; over > 9*time.Second {
					t.Errorf("interrupted after %v, and ended %v later", after, over)
				}
				next := cfg
				next.Rate, next.Position = 0, a.progress.Position
				b := simulate(t.Context(), t, s, next, &fakeNet{react: react})
				if b.progress.Done != targets || !b.progress.Finished {
					t.Errorf("after %d: %+v", next.Position, b.progress)
				}
				for target := range a.results {
					if _, ok := b.results[target]; ok {
						t.Fatalf("%s is in both runs", target)
					}
				}
				if n := uint64(len(a.results) + len(b.results)); n != targets {
					t.Fatalf("%d results in both runs, want %d", n, targets)
				}
			}
		}
	})
}

func TestShards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustSpace(t, prefix("10.0.0.0/22", 22), prefix("10.2.0.0/29", 22))
		const n = 7
		all := make(map[netip.AddrPort]int)
		for k := 1; k <= n; k++ {
			o := simulate(t.Context(), t, s, Config{Shard: k, Shards: n, Tries: 1, Seed: 9}, &fakeNet{
				react: func(p probe, _ int) []reply { return []reply{to(p, rawprobe.Reset, time.Millisecond)} },
			})
			for target, r := range o.results {
				all[target]++
				if r.Kind != rawprobe.Reset {
					t.Errorf("%s: %q", target, r.Kind)
				}
			}
			if o.progress.Targets != uint64(len(o.results)) || !o.progress.Finished {
				t.Errorf("shard %d: %+v, %d results", k, o.progress, len(o.results))
			}
		}
		for i := range s.Len() {
			if all[s.At(i)] != 1 {
				t.Errorf("%s is in %d shards", s.At(i), all[s.At(i)])
			}
		}
	})
}

// The rate counts all packets, retries and echoes too, in every stretch of
// time.
func TestRate(t *testing.T) {
	for _, rate := range []int{1, 7, 1000, 20000, 300000} {
		synctest.Test(t, func(t *testing.T) {
			s := mustSpace(t, Block{netip.MustParsePrefix("10.0.0.0/31"), []uint16{1, 2, 3}})
			if rate >= 1000 {
				s = mustSpace(t, prefix("10.0.0.0/20", 22))
			}
			f := &fakeNet{}
			var times []time.Time
			f.react = func(probe, int) []reply { times = append(times, time.Now()); return nil }
			o := simulate(t.Context(), t, s, Config{Rate: rate, Wait: time.Second}, f)
			o.complete(t, s)
			if int(o.progress.Sent) != len(times) {
				t.Errorf("rate %d: %d packets told, %d sent", rate, o.progress.Sent, len(times))
			}
			for _, k := range []int{1, 5, 100, 1000, 10000} {
				for i := 0; i+k < len(times); i++ {
					d := times[i+k].Sub(times[i])
					// A wake's packets leave together, and an echo beside its SYN.
					least := time.Duration(float64(k-1)/float64(rate)*float64(time.Second)) - quantum - burst*time.Second/time.Duration(rate)/2
					if rate < 1000 {
						least = time.Duration(float64(k-1) / float64(rate) * float64(time.Second))
					}
					if d < least-time.Microsecond {
						t.Fatalf("rate %d: packets %d to %d within %v, want at least %v", rate, i, i+k, d, least)
					}
				}
			}
			if rate == 1000 || rate == 20000 {
				sending := times[len(times)-1].Sub(times[0]).Seconds()
				least := max(float64(len(times))/float64(rate), (interval * 2).Seconds())
				// The last tries wait for each other.
				if sending > least*1.02+(2*interval).Seconds() {
					t.Errorf("rate %d: %d packets took %.2f s, want %.2f", rate, len(times), sending, least)
				}
			}
		})
	}
}

// A kernel out of buffers loses no probe.
func TestNoBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustSpace(t, prefix("10.0.0.0/24", 22))
		n := 0
		f := &fakeNet{
			refuse: func(probe) rawprobe.Refusal {
				if n++; n%10 != 0 {
					return rawprobe.RefusedNoBuffer
				}
				return rawprobe.NotRefused
			},
			react: func(p probe, _ int) []reply { return []reply{to(p, rawprobe.Reset, time.Millisecond)} },
		}
		o := simulate(t.Context(), t, s, Config{}, f)
		o.complete(t, s)
		for target, r := range o.results {
			if r.Kind != rawprobe.Reset || len(f.seen[target]) != 1 {
				t.Errorf("%s: %+v, asked %d times", target, r, len(f.seen[target]))
			}
		}
	})
}

// A filter behind the IP stack refuses as a full queue does. Packets that it
// passes show the difference: the others do not wait for what it drops, be the
// queue full now and then or not.
func TestNoBufferForSome(t *testing.T) {
	for _, full := range []time.Duration{0, 200 * time.Microsecond} {
		synctest.Test(t, func(t *testing.T) {
			s := mustSpace(t, prefix("10.0.0.0/24", 22, 25))
			next := time.Now()
			f := &fakeNet{
				refuse: func(p probe) rawprobe.Refusal {
					if p.tag == 25 || time.Now().Before(next) {
						return rawprobe.RefusedNoBuffer
					}
					next = time.Now().Add(full)
					return rawprobe.NotRefused
				},
				react: func(p probe, _ int) []reply { return []reply{to(p, rawprobe.Reset, time.Millisecond)} },
			}
			o := simulate(t.Context(), t, s, Config{Rate: 1000}, f)
			o.complete(t, s)
			for target, r := range o.results {
				if target.Port() == 22 && r.Kind != rawprobe.Reset || target.Port() == 25 && r.Refused != rawprobe.RefusedNoBuffer {
					t.Errorf("%+v", r)
				}
			}
			// Until it is sure of the first it may take its time.
			if o.took > 4*starving {
				t.Errorf("256 packets that a filter drops took %v", o.took)
			}
		})
	}
}

// A queue that empties slowly is no reason to give up a packet, however long it
// is never empty.
func TestSlowQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustSpace(t, prefix("10.0.0.0/24", 22))
		f := &fakeNet{react: func(p probe, _ int) []reply { return []reply{to(p, rawprobe.Reset, time.Millisecond)} }}
		next := time.Now()
		f.refuse = func(p probe) rawprobe.Refusal {
			if time.Now().Before(next) {
				return rawprobe.RefusedNoBuffer
			}
			next = time.Now().Add(time.Second)
			return rawprobe.NotRefused
		}
		o := simulate(t.Context(), t, s, Config{}, f)
		o.complete(t, s)
		for _, r := range o.results {
			if r.Kind != rawprobe.Reset {
				t.Fatalf("%+v", r)
			}
		}
	})
}

func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustSpace(t, prefix("10.0.0.0/24", 22))
		f := &fakeNet{}
		calls := make(map[addr]int)
		f.refuse = func(p probe) rawprobe.Refusal {
			calls[p.to]++
			switch p.to.lo % 6 {
			case 1: // and this machine's own reset
				r := to(p, rawprobe.Reset, 0)
				r.at = time.Now()
				f.onWire = append([]reply{r}, f.onWire...)
				return rawprobe.RefusedByFirewall
			case 2:
				return rawprobe.RefusedNoRoute
			case 3:
				return refusedNoNeighbor
			case 4:
				if calls[p.to] == 1 { // a rule with a limit
					return rawprobe.RefusedByFirewall
				}
			case 5:
				return rawprobe.RefusedNoBuffer
			}
			return rawprobe.NotRefused
		}
		f.react = func(p probe, _ int) []reply { return []reply{to(p, rawprobe.SynAck, time.Millisecond)} }
		o := simulate(t.Context(), t, s, Config{}, f)
		o.complete(t, s)
		for target, r := range o.results {
			a := fromNetip(target.Addr())
			want := [...]Result{
				{Kind: rawprobe.SynAck, Tries: 1}, {Kind: rawprobe.Reset, Refused: rawprobe.RefusedByFirewall}, {Refused: rawprobe.RefusedNoRoute},
				{NoNeighbor: true}, {Kind: rawprobe.SynAck, Tries: 1}, {Refused: rawprobe.RefusedNoBuffer},
			}[a.lo%6]
			got := Result{Kind: r.Kind, Tries: r.Tries, Refused: r.Refused, NoNeighbor: r.NoNeighbor}
			if got != want {
				t.Errorf("%s: %+v, want %+v", target, got, want)
			}
		}
	})
}

// A SYN that this machine's own firewall rejected at first and let pass later
// was sent: what the firewall said is not the target's answer.
func TestRefusedAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustSpace(t, prefix("10.0.0.0/28", 22))
		calls := make(map[addr]int)
		f := &fakeNet{}
		f.refuse = func(p probe) rawprobe.Refusal {
			if calls[p.to]++; calls[p.to] > 1 {
				return rawprobe.NotRefused
			}
			r := to(p, rawprobe.Reset, 0)
			r.at = time.Now()
			f.onWire = append([]reply{r}, f.onWire...)
			return rawprobe.RefusedByFirewall
		}
		o := simulate(t.Context(), t, s, Config{NoEcho: true}, f)
		o.complete(t, s)
		for target, r := range o.results {
			if r.Kind != "" || r.Refused != "" || r.Tries != 2 {
				t.Errorf("%s: %+v", target, r)
			}
		}
	})
}

// Lost answers make it slower, and are told.
func TestDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustSpace(t, prefix("10.0.0.0/16", 22))
		f := &fakeNet{cost: time.Microsecond * 10}
		start := time.Now()
		f.drop = func() uint64 {
			if time.Since(start) > 200*time.Millisecond {
				return 100
			}
			return 0
		}
		var marks []time.Duration
		f.react = func(p probe, nth int) []reply {
			marks = append(marks, time.Since(start))
			return []reply{to(p, rawprobe.Reset, time.Millisecond)}
		}
		o := simulate(t.Context(), t, s, Config{Wait: time.Second}, f)
		o.complete(t, s)
		if o.progress.Drops != 100 {
			t.Errorf("%d drops told, want 100", o.progress.Drops)
		}
		count := func(from, to time.Duration) (n int) {
			for _, m := range marks {
				if m >= from && m < to {
					n++
				}
			}
			return n
		}
		before, after := count(0, 200*time.Millisecond), count(310*time.Millisecond, 510*time.Millisecond)
		if after > before*6/10 {
			t.Errorf("%d packets in 0.2 s before the drops, %d after", before, after)
		}
	})
}

// A failure on the way ends the run like an interrupt.
func TestFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustSpace(t, prefix("10.0.0.0/16", 22))
		f := &fakeNet{cost: 10 * time.Microsecond}
		n := 0
		f.react = func(p probe, _ int) []reply {
			if n++; n == 20000 {
				f.failure = fmt.Errorf("%w: full", ErrConntrack)
			}
			return []reply{to(p, rawprobe.Reset, time.Millisecond)}
		}
		o := simulate(t.Context(), t, s, Config{}, f)
		if o.err == nil || o.progress.Finished || o.progress.Done != uint64(len(o.results)) || o.progress.Done < 20000 || o.progress.Done > 40000 {
			t.Errorf("%+v, %d results, %v", o.progress, len(o.results), o.err)
		}
	})
}

func TestNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustSpace(t)
		o := simulate(t.Context(), t, s, Config{}, &fakeNet{})
		o.complete(t, s)
		if o.took != 0 {
			t.Errorf("took %v", o.took)
		}
	})
}
