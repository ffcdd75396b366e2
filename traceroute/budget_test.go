package traceroute

import (
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestSubjectsWhateverIsLate holds the promise of maxSubject against networks in
// which packets are late and get lost, routers say nothing at all or nothing
// about TCP, the way back is longer, and the run itself is kept waiting. What is
// sent must not rest on what has come back by then.
func TestSubjectsWhateverIsLate(t *testing.T) {
	lossy, unlucky := 0, 0
	for seed := range uint64(1500) {
		c := hardship(seed)
		c.trace(t, Options{})
		// An echo goes beside each direct try. Where echoes get lost more than
		// three are made, which is no matter of the path's.
		most := maxSubject + max(0, len(c.of("echo", full))-hopTries)
		if n := c.reached("subject"); n > most {
			t.Fatalf("seed %d: %d subject SYNs reached the host, %d are promised\n%s", seed, n, most, c.transcript())
		}
		// Where another flow is answered, the two are asked again in turns.
		if slices.ContainsFunc(c.of("other", full), func(p *probe) bool { return p.answered > 0 }) {
			most += 2 * confirmRounds
		}
		if c.loss > 0 {
			lossy++
		}
		switch n := c.reached("subject") + c.reached("other"); {
		case n <= most:
		case c.loss > 0:
			unlucky++
			t.Logf("seed %d: %d SYNs for the port reached the host, at a loss of %.2f", seed, n, c.loss)
		default:
			t.Fatalf("seed %d: %d SYNs for the port reached the host, %d are promised\n%s", seed, n, most, c.transcript())
		}
	}
	// That the subject stops before the host is believed where by chance it
	// looks so in one run in 1,000. Of 500 that is 4 or more in one in 500.
	if lossy < 400 || lossy > 600 || unlucky > 3 {
		t.Errorf("%d of %d runs with loss sent more than is promised", unlucky, lossy)
	}
}

// hardship is a network that is hard on a run, in a way that its seed decides.
// Nothing on the way drops the subject for good.
func hardship(seed uint64) *chain {
	r := rand.New(rand.NewPCG(seed, 11))
	one := func(n int) bool { return r.IntN(n) == 0 }
	upTo := func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }
	return newChain(ipv4, r.IntN(6), func(c *chain) {
		c.fate = func(p *probe) *rand.Rand {
			id := fnv.New64a()
			nth := byte(0)
			for _, q := range c.probes {
				if q.kind == p.kind && q.ttl == p.ttl && q.dst == p.dst {
					nth++
				}
			}
			id.Write([]byte(p.kind))
			id.Write([]byte{byte(p.ttl), byte(p.dst.Port() >> 8), byte(p.dst.Port()), nth})
			return rand.New(rand.NewPCG(seed, id.Sum64()))
		}
		if one(3) {
			c.loss = 0.35 * r.Float64()
		}
		if one(3) {
			c.detour = r.IntN(6)
		}
		if one(2) {
			// A router takes as long for one kind of probe as for another.
			routers, host := upTo(1500*ms)+1, make(map[string]time.Duration)
			for _, kind := range []string{"echo", "subject", "other", "ack", "syn", "udp"} {
				host[kind] = 1
				if one(2) {
					host[kind] = upTo(1500*ms) + 1
				}
			}
			c.late = func(p *probe, ttl int) time.Duration {
				most := routers
				if ttl > len(c.routers) {
					most = host[p.kind]
				}
				return time.Duration(c.random.Int64N(int64(most)))
			}
		}
		if one(3) {
			c.stall = func() time.Duration {
				if c.random.IntN(10) > 0 {
					return 0
				}
				return time.Duration(c.random.Int64N(int64(400 * ms)))
			}
		}
		switch r.IntN(6) {
		case 0:
			c.at = answers(synAck)
		case 1:
			c.at = answers(reset)
		case 2:
			c.at.other = always(synAck)
		}
		if one(4) {
			c.at.echo = nil
		}
		for _, r := range c.routers {
			switch {
			case one(10):
				r.mute = mute
			case one(10):
				r.mute = func(p *probe) bool { return p.kind != "echo" && p.kind != "udp" }
			}
		}
	})
}
