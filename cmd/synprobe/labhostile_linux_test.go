package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"synprobe/rawprobe/netlab"
)

// slowly makes the second link of a chain one whose answers take longer than an
// attacker on the first router.
func slowly(t netlab.Topology) netlab.Topology {
	for _, n := range t.Nodes {
		if n.Forward {
			// What forgeries make the client's kernel say must not use up what
			// the routers may say.
			t = t.WithSysctl(n.Name, "net.ipv4.icmp_ratelimit", "0").WithSysctl(n.Name, "net.ipv6.icmp.ratelimit", "0")
		}
	}
	return t.WithLink(2, func(l *netlab.Link) { l.Kind, l.Wire = netlab.Tun, &netlab.Impairment{Delay: 8 * time.Millisecond} })
}

// inTheEnd bounds a run under attack: how long it takes at most is seen where
// time is virtual (TestForgeries, TestFloods), and here others need the
// processors too.
const inTheEnd = 3 * neverAnswers

// hostileCases are the networks in which a raw socket on the first router
// answers too. How certain the answer is suffers where the processors are busy:
// that too is held where time is virtual.
func hostileCases() []labCase {
	two, three := slowly(netlab.Chain(2)), slowly(netlab.Chain(3))
	cases := []labCase{
		{name: "open", net: two, verdict: "open", cause: "listening", certainty: "any"},
		{name: "closed", net: two, port: 81, verdict: "reject", cause: "port-closed", certainty: "any", where: "destination", hops: []string{"server"}},
		{name: "dropped at r2", net: three.WithRules("r2", tcp80(netlab.Forward, netlab.Drop)),
			verdict: "drop", cause: "network-firewall", certainty: "any", where: "path", hops: []string{"r2", "r3"}},
		{name: "dropped by the host", net: two.WithRules("server", tcp80(netlab.Input, netlab.Drop)),
			verdict: "drop", cause: "host-firewall", certainty: "any", where: "destination", hops: []string{"server"}},
		{name: "host down", net: two, setup: die("server"),
			verdict: "host-down", cause: "host-unreachable", certainty: "any", where: "destination", hops: []string{"server"}},
	}
	for i := range cases {
		cases[i].within = inTheEnd
	}
	return cases
}

// shares are the runs among which the forgeries are shared out, so that the tap
// is not flooded.
const shares = 8

// TestHostile answers probes by all forgeries from a real socket.
func TestHostile(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	forgeries := netlab.Forgeries()
	for _, c := range hostileCases() {
		for _, f := range both {
			c := c // each family has its setup once
			t.Run(c.name+"/"+f.String(), func(t *testing.T) {
				t.Parallel()
				lab := netlab.Start(t, c.net)
				probes := 0
				j := lab.Node("r1").Inject("eth0", 50_000, func(p *netlab.Probe) (bs [][]byte) {
					if p.Kind == "arp" || p.Kind == "nd" {
						return nil // they deceive the kernel, see TestForgeries
					}
					probes++
					for i := range forgeries {
						if i%shares == probes%shares && forgeries[i].Answers(p) {
							bs = append(bs, forgeries[i].Make(p)...)
						}
					}
					return bs
				})
				runs := shares
				if c.verdict != "open" && c.verdict != "reject" {
					runs = 1 // which sends enough
				}
				for range runs {
					c.on(t, lab, f)
					c.setup = nil
				}
				if probes < shares || j.Sent() < 500 {
					t.Errorf("%d forgeries sent in answer to %d probes", j.Sent(), probes)
				}
			})
		}
	}
}

// TestHostileNeighbor answers for a host on the link that is down.
func TestHostileNeighbor(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	var forgeries []netlab.Forgery
	for _, f := range netlab.Forgeries() {
		if f.Of == "arp" || f.Of == "nd" {
			forgeries = append(forgeries, f)
		}
	}
	shared := sharedLink()
	for _, f := range both {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			lab := netlab.Start(t, shared)
			lab.Node("server").Die()
			j := lab.Node("attacker").Inject("eth0", 1000, func(p *netlab.Probe) (bs [][]byte) {
				for i := range forgeries {
					if forgeries[i].Answers(p) && p.Dst == lab.Addr("server", f) {
						bs = append(bs, forgeries[i].Make(p)...)
					}
				}
				return bs
			})
			labCase{verdict: "host-down", cause: "neighbor-unreachable", certainty: "certain", where: "destination", hops: []string{"server"}, within: inTheEnd}.on(t, lab, f)
			if j.Sent() < 8 {
				t.Errorf("%d forgeries sent", j.Sent())
			}
		})
	}
}

// memory is what the program may need at any time: several times what it does.
const memory = 64 << 20

// TestHostileFlood sends 100,000 packets, as fast as one thread can, while the
// program waits for answers: such that are almost answers, or copies of one.
func TestHostileFlood(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	forgeries := netlab.Forgeries()
	near := func(p *netlab.Probe) (bs [][]byte) {
		for i := range forgeries {
			if p.Kind == "syn" && forgeries[i].Answers(p) {
				bs = append(bs, forgeries[i].Make(p)...)
			}
		}
		return bs
	}
	copies := func(p *netlab.Probe) (bs [][]byte) {
		if p.Kind == "echo" {
			bs = append(bs, p.EchoReply(64-2))
		}
		return bs
	}
	all := hostileCases()
	for _, k := range []struct {
		name string
		labCase
		family netlab.Family
		answer func(p *netlab.Probe) [][]byte
	}{
		{"near misses", all[0], netlab.IPv4, near},
		{"near misses", all[2], netlab.IPv6, near},
		{"copies", all[3], netlab.IPv4, copies},
	} {
		c := k.labCase
		t.Run(k.name+"/"+c.name+"/"+k.family.String(), func(t *testing.T) {
			t.Parallel()
			lab := netlab.Start(t, c.net)
			flooded := false
			j := lab.Node("r1").Inject("eth0", flood, func(p *netlab.Probe) [][]byte {
				bs := k.answer(p)
				if flooded || len(bs) == 0 {
					return nil
				}
				flooded = true
				for len(bs) < flood {
					bs = append(bs, bs...)
				}
				return bs
			})
			ctx, cancel := context.WithTimeout(t.Context(), hang)
			defer cancel()
			client := lab.Node("client")
			cmd := client.Command(ctx, binary(), "--json", "-n", lab.Addr("server", k.family).String(), "80")
			r := start(t, client, cmd)
			most := watchMemory(t, cmd.Process.Pid)
			out := r.wait(t)
			// One that is open ends so soon that nobody may have looked.
			if peak := <-most; peak == 0 && c.verdict != "open" || peak > memory {
				t.Errorf("%d bytes of memory in use, %d allowed", peak, memory)
			} else {
				t.Logf("%.1f MiB, %v, %d packets", float64(peak)/(1<<20), out.Elapsed, j.Sent())
			}
			got := decode(t, out)[0]
			if got.Verdict != c.verdict || got.Cause != c.cause || out.Exit != exitCodes[c.verdict] || out.Elapsed > inTheEnd {
				t.Errorf("exit %d after %v, want %s %s\n%s%s", out.Exit, out.Elapsed, c.verdict, c.cause, out.Stdout, out.Stderr)
			}
			eventually(t, "the whole flood", func() bool { return j.Sent() > flood*9/10 })
		})
	}
}

// watchMemory follows a process until it ends and then says how much memory it
// had at most. The kernel's own word at the end (ru_maxrss) counts what its
// parent had when it was forked.
func watchMemory(t *testing.T, pid int) <-chan uint64 {
	most := make(chan uint64, 1)
	go func() {
		var peak uint64
		for {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			_, rest, ok := strings.Cut(string(b), "VmHWM:")
			if err != nil || !ok { // it has ended, or given its memory back
				break
			}
			var kib uint64
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				t.Errorf("VmHWM: %v", err)
				break
			}
			peak = max(peak, kib<<10)
			time.Sleep(5 * time.Millisecond)
		}
		most <- peak
	}()
	return most
}

// TestHostileNamesLive: the same names as in TestHostileNames, where a kernel, a
// name server and files have them.
func TestHostileNamesLive(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	top := netlab.Chain(3).WithRules("r2", tcp80(netlab.Forward, netlab.Drop)).
		WithLink(1, func(l *netlab.Link) { l.Ends[0].Iface = hostileIface })
	lab := netlab.Start(t, top)
	client := lab.Node("client")
	asked := servePointers(t, lab.Node("server"), "10.0.4.2:53")
	dir := etc(t, "nameserver 10.0.4.2\n", "127.0.0.1 localhost\n10.0.2.2 "+hostileName+"\n")
	if err := os.WriteFile(filepath.Join(dir, "services"), []byte("http"+hostileName+" 80/tcp "+hostileName+"\nweb 80/tcp\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := surrounding{Etc: dir}
	for _, c := range []struct {
		argv []string
		exit int
	}{
		{[]string{"10.0.4.2", "80"}, 3},
		{[]string{"-v", "10.0.4.2", "web"}, 3},
		{[]string{"-v", "10.0.4.2", "22"}, 1},
		{[]string{"-v", "10.0.1.2", "22"}, 1},
		{[]string{"-v", "fe80::1:2%" + hostileIface, "22"}, 1},
		{[]string{"-q", "fe80::1:2%" + hostileIface, "22"}, 1},
		{[]string{"--json", "fe80::1:2%" + hostileIface, "22"}, 1},
		{[]string{"--json", "-i", hostileIface, "10.0.4.2", "22"}, 1},
		{[]string{"-i", "nosuch0", "10.0.4.2", "22"}, 64},
		{[]string{"-i", "lo", "10.0.4.2", "22"}, 64},
		{[]string{"fe80::1:2", "22"}, 64},
		{[]string{"10.0.4.2", "http" + hostileIface}, 64},
		{[]string{hostileIface, "22"}, 64},
	} {
		t.Run(fmt.Sprintf("%q", c.argv), func(t *testing.T) {
			t.Parallel()
			out := s.run(t, client, append([]string{binary()}, c.argv...)...)
			if out.Exit != c.exit {
				t.Errorf("exit %d, want %d", out.Exit, c.exit)
			}
			harmless(t, "stdout", out.Stdout)
			harmless(t, "stderr", out.Stderr)
			if slices.Contains(c.argv, "--json") {
				decode(t, out)
			}
		})
	}
	t.Cleanup(func() {
		if asked.Load() == 0 {
			t.Error("the name server was not asked")
		}
	})
}

// servePointers runs a name server that knows a hostile name for every address,
// over UDP, until the test ends. It returns how often it was asked.
func servePointers(t *testing.T, m *netlab.Machine, at string) *atomic.Int64 {
	t.Helper()
	asked := new(atomic.Int64)
	var c net.PacketConn
	if err := m.Do(func() (err error) {
		c, err = net.ListenPacket("udp", at)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b := make([]byte, 4096)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return // closed
			}
			var q dnsmessage.Message
			if q.Unpack(b[:n]) != nil || len(q.Questions) != 1 {
				continue
			}
			asked.Add(1)
			r := dnsmessage.Message{
				Header:    dnsmessage.Header{ID: q.ID, Response: true, RecursionAvailable: true},
				Questions: q.Questions,
				Answers: []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Questions[0].Name, Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET, TTL: 60},
					Body:   &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName(hostileName + ".")},
				}},
			}
			if b, err := r.Pack(); err == nil {
				_, _ = c.WriteTo(b, from)
			}
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-ended
	})
	return asked
}
