package main

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"synprobe/rawprobe/netlab"
)

// TestRTT compares the round-trip times of 100 probes with those of a capture
// by somebody else's code on the same interface.
//
// The comparison itself is worth no more than some tenths of a microsecond:
// the kernel stamps a packet for each tap anew, and two captures by the same
// code were 0.26 µs apart in the median (Linux 6.18). So there is one only.
func TestRTT(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	const probes, allowed = 100, 2 * time.Microsecond
	lab := netlab.Start(t, netlab.Chain(1))
	client := lab.Node("client")
	eth := listen(t, client, "eth0")
	var off, told []time.Duration
	for i := range probes {
		f := both[i%2]
		eth.taken(t)
		got, _ := probe(t, client, "-n", "--json", lab.Addr("server", f).String(), "80")
		if got.Verdict != "open" || got.RTT == nil {
			t.Fatalf("probe %d: %s, rtt %v", i, got.Verdict, got.RTT)
		}
		captured, err := handshake(eth.taken(t))
		if err != nil {
			t.Fatalf("probe %d: capture: %v", i, err)
		}
		// rtt_ms has three decimals: a rounding error of up to 0.5 µs is in
		// the figures.
		rtt := time.Duration(*got.RTT * float64(time.Millisecond)).Round(time.Microsecond)
		told = append(told, rtt)
		off = append(off, (rtt - captured).Abs())
	}
	slices.Sort(off)
	slices.Sort(told)
	t.Logf("%d probes: median RTT %v; off the capture by %v in the median, %v at most", probes, told[probes/2], off[probes/2], off[probes-1])
	if off[probes/2] > allowed {
		t.Errorf("off the capture by %v in the median, want %v", off[probes/2], allowed)
	}
}

// handshake returns the time from the first SYN sent to the SYN-ACK that came.
func handshake(frames []frame) (time.Duration, error) {
	var syn *frame
	for i, f := range frames {
		switch {
		case f.kind == "syn" && f.out && syn == nil:
			syn = &frames[i]
		case f.kind == "syn-ack" && !f.out && syn != nil && f.dst == syn.src:
			return f.time.Sub(syn.time), nil
		}
	}
	return 0, fmt.Errorf("no SYN, or no answer: %v", frames)
}

// TestRTTAfterLoss loses the first SYN-ACK on its way back. The second one
// answers the second SYN, or is the host's own repetition; it echoes the
// timestamp of the first SYN in either case (field note 29). From that SYN to
// this answer is no round-trip time.
func TestRTTAfterLoss(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, netlab.Chain(1).WithRules("r1", netlab.Rule{
		Hook: netlab.Forward, Proto: netlab.TCP, Flags: netlab.SYN | netlab.ACK, Every: 1000, Action: netlab.Drop,
	}))
	arrived := lab.Node("server").CountSYN(80)
	for _, f := range both {
		before := arrived.Packets()
		got, out := probe(t, lab.Node("client"), "-n", "--json", lab.Addr("server", f).String(), "80")
		if n := arrived.Packets() - before; got.Verdict != "open" || n < 2 {
			t.Errorf("%v: %s after %d SYNs, want open after 2 or more", f, got.Verdict, n)
		}
		// The next SYN comes 100 ms after the first one, or later.
		if got.RTT != nil && *got.RTT > 50 {
			t.Errorf("%v: rtt_ms is %v on a path of some µs", f, *got.RTT)
		}
		if t.Failed() {
			t.Log(out.Stdout)
		}
	}
}

// TestRTTOfSlowPath asks over a path so slow that the second SYN leaves before
// the first one's answer is there. That answer has a round-trip time still.
func TestRTTOfSlowPath(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, netlab.Chain(1).WithLink(2, func(l *netlab.Link) {
		l.Kind, l.Wire = netlab.Tun, &netlab.Impairment{Delay: 350 * time.Millisecond}
	}))
	for _, f := range both {
		got, out := probe(t, lab.Node("client"), "-n", "--json", lab.Addr("server", f).String(), "80")
		if got.Verdict != "open" || got.RTT == nil || *got.RTT < 700 || *got.RTT > 1300 {
			t.Errorf("%v: %s, want open in 700 ms or somewhat more\n%s", f, got.Verdict, out.Stdout)
		}
	}
}
