package main

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"synprobe/rawprobe/netlab"
)

// TestLoss asks the same questions where packets get lost at random. What comes
// out may be less certain, or less, but nothing wrong may be called certain.
//
// LAB_LOSS_RUNS is how many runs there are in all.
func TestLoss(t *testing.T) {
	netlab.Require(t)
	runs := 24
	if s := os.Getenv("LAB_LOSS_RUNS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("LAB_LOSS_RUNS: %v", err)
		}
		runs = n
	}
	type question struct {
		name           string
		port           int
		rules          []netlab.Rule
		verdict, cause string
		device         string
		loss           float64
		family         netlab.Family
	}
	var questions []question
	for _, p := range []float64{0.2, 0.3} {
		for _, f := range both {
			questions = append(questions,
				question{"open", 80, nil, "open", "listening", "", p, f},
				question{"closed", 81, nil, "reject", "port-closed", "server", p, f},
				question{"drop", 80, []netlab.Rule{tcp80(netlab.Forward, netlab.Drop)}, "drop", "network-firewall", "r2", p, f})
		}
	}
	seed := rand.Uint64()
	t.Logf("order by seed %d", seed)
	order := rand.New(rand.NewPCG(seed, 0)).Perm(runs)
	var mu sync.Mutex
	asked, right := make(map[string]int), make(map[string]int)
	// The group ends when all of its parallel runs have.
	t.Run("runs", func(t *testing.T) {
		for _, i := range order {
			q := questions[i%len(questions)]
			t.Run(fmt.Sprintf("%d %s %.0f%% %v", i, q.name, 100*q.loss, q.family), func(t *testing.T) {
				t.Parallel()
				// Each direction of the line between the first two routers.
				lost := netlab.Rule{Hook: netlab.Forward, Chance: q.loss, Action: netlab.Drop}
				lab := netlab.Start(t, netlab.Chain(3).WithRules("r1", lost).WithRules("r2", q.rules...))
				got, out := probe(t, lab.Node("client"), "--json", "-n", lab.Addr("server", q.family).String(), strconv.Itoa(q.port))
				ok := got.Verdict == q.verdict && got.Cause == q.cause && (q.device == "" || names(lab, q.family, got, q.device))
				key := fmt.Sprintf("%s %.0f%%", q.name, 100*q.loss)
				mu.Lock()
				asked[key]++
				if ok {
					right[key]++
				}
				mu.Unlock()
				if !ok && got.Certainty == "certain" {
					t.Errorf("wrong, and certain:\n%s", out.Stdout)
				} else if !ok {
					t.Logf("%s %s %s: %s", got.Verdict, got.Cause, got.Certainty, out.Stdout)
				}
			})
		}
	})
	for _, key := range slices.Sorted(maps.Keys(asked)) {
		t.Logf("%-12s %d of %d right", key, right[key], asked[key])
	}
}

// An outgoing is one packet that left a node.
type outgoing struct {
	kind string
	ttl  int
}

// watch opens a tap in the client that sees what leaves. The function that it
// returns says what has.
func watch(t *testing.T, m *netlab.Machine) func() []outgoing {
	t.Helper()
	var fd int
	err := m.Do(func() (err error) {
		// Protocol numbers are in network order; unix.ETH_P_ALL is below 256.
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.ETH_P_ALL<<8)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20); err != nil && !netlab.Rootless() {
		t.Fatal(err) // which takes privilege over the whole machine
	}
	return func() []outgoing {
		var all []outgoing
		buf := make([]byte, 2048)
		for {
			n, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EAGAIN) {
				return all
			}
			if err != nil {
				t.Fatal(err)
			}
			if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype == unix.PACKET_OUTGOING {
				all = append(all, classify(l.Protocol, buf[:n]))
			}
		}
	}
}

func classify(protocol uint16, p []byte) outgoing {
	const wordEtherIPv4, wordEtherIPv6 = 0x0008, 0xdd86 // in network order
	var proto, ttl byte
	switch {
	case protocol == wordEtherIPv4 && len(p) >= 40:
		proto, ttl, p = p[9], p[8], p[20:]
	case protocol == wordEtherIPv6 && len(p) >= 48:
		proto, ttl, p = p[6], p[7], p[40:]
	default:
		return outgoing{"arp", 255}
	}
	port := 0
	if len(p) >= 4 {
		port = int(p[2])<<8 | int(p[3])
	}
	kind := "other" // the machine's own, as multicast membership
	switch {
	case proto == unix.IPPROTO_UDP:
		kind = "udp"
	case proto == unix.IPPROTO_ICMPV6 && p[0] >= 130 && p[0] <= 143:
		kind = "arp"
	case proto == unix.IPPROTO_ICMP || proto == unix.IPPROTO_ICMPV6:
		kind = "echo"
	case proto != unix.IPPROTO_TCP || len(p) < 20:
	case p[13]&0x04 != 0:
		kind = "reset" // our kernel's
	case p[13]&0x10 != 0:
		kind = "ack"
	case port == 80:
		kind = "syn"
	default:
		kind = "control-syn"
	}
	return outgoing{kind, int(ttl)}
}

// TestPromises measures what the program promises: how long it takes and how
// much it sends.
func TestPromises(t *testing.T) {
	netlab.Require(t)
	three := netlab.Chain(3)
	for _, p := range []struct {
		name           string
		net            netlab.Topology
		median         time.Duration
		packets        int
		verdict, cause string
	}{
		{"drop", three.WithRules("r2", tcp80(netlab.Forward, netlab.Drop)), 2500 * time.Millisecond, 150, "drop", "network-firewall"},
		{"last step", three.WithRules("server", tcp80(netlab.Input, netlab.Drop)), 2500 * time.Millisecond, 150, "drop", "host-firewall"},
		{"icmp reject", three.WithRules("r2", tcp80(netlab.Forward, netlab.RejectAdmin)), 500 * time.Millisecond, 150, "reject", "network-firewall"},
		{"reset", three.WithRules("r2", tcp80(netlab.Forward, netlab.Reset)), 500 * time.Millisecond, 150, "reject", "network-firewall"},
		{"host unreachable", three.WithRules("r2", tcp80(netlab.Forward, netlab.RejectHost)), 500 * time.Millisecond, 150, "reject", "network-firewall"},
	} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			for _, f := range both {
				var took []time.Duration
				for range 3 {
					// Routers limit their errors: each run has its own.
					lab := netlab.Start(t, p.net)
					sent := watch(t, lab.Node("client"))
					got, out := probe(t, lab.Node("client"), "--json", "-n", lab.Addr("server", f).String(), "80")
					if got.Verdict != p.verdict || got.Cause != p.cause {
						t.Errorf("%s %s", got.Verdict, got.Cause)
					}
					took = append(took, out.Elapsed)
					all := slices.DeleteFunc(sent(), func(o outgoing) bool { return o.kind == "other" })
					kinds := make(map[string]int)
					for _, s := range all {
						kinds[s.kind]++
					}
					if len(all) == 0 || len(all) > p.packets {
						t.Errorf("%d packets sent, promised at most %d: %v", len(all), p.packets, kinds)
					}
					t.Logf("%v: %v, %d packets: %v", f, out.Elapsed.Round(time.Millisecond), len(all), kinds)
				}
				slices.Sort(took)
				if median := took[len(took)/2]; median > p.median+slack {
					t.Errorf("%v: median %v, promised %v", f, median, p.median)
				}
			}
		})
	}
}

// TestTraceNever lets no packet leave that could expire on the way.
func TestTraceNever(t *testing.T) {
	netlab.Require(t)
	three := netlab.Chain(3)
	for _, c := range []labCase{
		{name: "open", net: three},
		{name: "closed", net: three.With("server", func(n *netlab.Node) { n.Listen = nil })},
		{name: "drop", net: three.WithRules("r2", tcp80(netlab.Forward, netlab.Drop))},
		{name: "reset", net: three.WithRules("r2", tcp80(netlab.Forward, netlab.Reset))},
		{name: "reject", net: three.WithRules("r2", tcp80(netlab.Forward, netlab.RejectHost))},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			lab := netlab.Start(t, c.net)
			sent := watch(t, lab.Node("client"))
			for _, f := range both {
				got, _ := probe(t, lab.Node("client"), "--json", "-n", "--trace=never", lab.Addr("server", f).String(), "80")
				if len(got.Path) != 0 {
					t.Errorf("%v: a path of %d hops", f, len(got.Path))
				}
				all := sent()
				syns := 0
				for _, s := range all {
					if s.kind == "syn" {
						syns++
					}
					if s.ttl < 64 && s.kind != "arp" && s.kind != "other" {
						t.Errorf("%v: %s with TTL %d", f, s.kind, s.ttl)
					}
				}
				if syns == 0 {
					t.Errorf("%v: the tap saw no SYN leave", f)
				}
			}
		})
	}
}
