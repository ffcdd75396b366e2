package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"synprobe/rawprobe/netlab"
)

// TestFiftyAtOnce runs the program fifty times at once against one host. Open
// and closed ports are told whatever the load. Where the routers' and the host's
// limits for ICMP, which all runs share, leave a run without the proof, it may say
// less, but nothing wrong for certain, and the true culprit must be among those
// that it names. It has the machine to itself, lest others miss their bounds.
func TestFiftyAtOnce(t *testing.T) {
	netlab.Require(t)
	binary() // not in the time of the first
	lab := netlab.Start(t, mixed)
	client := lab.Node("client")
	culprit := map[int]string{82: "r1", 83: "server"}
	begin := make(chan struct{})
	var runs sync.WaitGroup
	for i := range 50 {
		f := both[i%2]
		want := fates[i/2%len(fates)]
		address := lab.Addr("server", f).String()
		runs.Go(func() {
			<-begin
			ctx, cancel := context.WithTimeout(t.Context(), hang)
			defer cancel()
			out, err := client.Run(client.Command(ctx, binary(), "-n", "--json", address, fmt.Sprint(want.port)))
			if err != nil {
				t.Errorf("run %d: %v", i, err)
				return
			}
			wrong := func(format string, args ...any) {
				t.Errorf("run %d, %v port %d: %s; exit %d after %v\n%s%s", i, f, want.port, fmt.Sprintf(format, args...), out.Exit, out.Elapsed, out.Stdout, out.Stderr)
			}
			all, err := parse(out.Stdout)
			if err != nil || len(all) != 1 || all[0].Error != nil || out.Stderr != "" {
				wrong("no answer: %v", err)
				return
			}
			got := all[0]
			is := got.Verdict == want.verdict && (want.cause == "" || got.Cause == want.cause)
			if want.port == 82 {
				// A refusal that is never told is a silent drop by the same device.
				is = is || got.Verdict == "drop" && got.Cause == "network-firewall"
			}
			switch {
			case got.Target.Port != want.port || got.Target.Address != address:
				wrong("the answer for another target")
			case out.Exit != exitCodes[got.Verdict]:
				wrong("want exit %d", exitCodes[got.Verdict])
			case (want.port == 80 || want.port == 81 || got.Certainty == "certain") && !is:
				wrong("want %s %s", want.verdict, want.cause)
			case culprit[want.port] != "" && !names(lab, f, got, culprit[want.port]):
				wrong("%s is not among those named", culprit[want.port])
			}
		})
	}
	close(begin)
	runs.Wait()
}

// A change is what befalls the client in the middle of a run that nobody
// answers, and what must be said of it.
type change struct {
	name           string
	only           []netlab.Family
	args           []string
	net            *netlab.Topology // nil: a router between client and server
	after          uint64           // SYNs that have reached the server by then, other than one
	do             func(*testing.T, *netlab.Lab, netlab.Family)
	verdict, cause string
	rule, text     string
}

// twoGateways is a client on a network with two routers, of which it uses s1.
var twoGateways = netlab.Topology{
	Name: "two gateways",
	Nodes: []netlab.Node{
		{Name: "client", Routes: []netlab.Route{{To: "default", Next: []string{"s1"}}}},
		{Name: "s1", Forward: true},
		// Not by way of s1: it would send the client back there, by a redirect.
		{Name: "s2", Forward: true, Routes: []netlab.Route{{To: "server", Next: []string{"server"}}}},
		{Name: "server", Listen: []string{"tcp:80"}},
	},
	Links: []netlab.Link{
		{Kind: netlab.Segment, Ends: []netlab.End{{Node: "client"}, {Node: "s1"}, {Node: "s2"}}},
		netlab.Join("s1", "server"), netlab.Join("s2", "server"),
	},
}

func changes() []change {
	link := func(t *testing.T, l *netlab.Lab) netlink.Link {
		t.Helper()
		k, err := l.Node("client").Netlink().LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	removeAddress := func(t *testing.T, l *netlab.Lab, f netlab.Family) {
		nl, k, own := l.Node("client").Netlink(), link(t, l), l.Addr("client", f)
		addrs, err := nl.AddrList(k, netlink.FAMILY_ALL)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			if a.IP.String() == own.String() {
				if err := nl.AddrDel(k, &a); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	return []change{
		{name: "interface down", do: linkDown("client", "eth0"),
			verdict: "network-down", cause: "link-down", rule: "link-down", text: "interface eth0 went down during the run"},
		{name: "bound interface down", args: []string{"-i", "eth0"}, do: linkDown("client", "eth0"),
			verdict: "network-down", cause: "link-down", rule: "link-down", text: "interface eth0 went down during the run"},
		{name: "interface down under the proof", only: both[:1], args: []string{"--prove"}, do: linkDown("client", "eth0"),
			verdict: "network-down", cause: "link-down", rule: "link-down", text: "interface eth0 went down during the run"},
		{name: "carrier lost", do: func(_ *testing.T, l *netlab.Lab, _ netlab.Family) { l.Node("client").NoCarrier("eth0") },
			verdict: "network-down", cause: "link-down", rule: "link-down", text: "interface eth0 lost its carrier during the run"},
		{name: "interface removed", do: func(t *testing.T, l *netlab.Lab, _ netlab.Family) {
			if err := l.Node("client").Netlink().LinkDel(link(t, l)); err != nil {
				t.Fatal(err)
			}
		}, verdict: "network-down", cause: "link-down", rule: "link-down", text: "interface eth0 was removed during the run"},
		{name: "address removed", do: removeAddress,
			verdict: "network-down", cause: "no-address", rule: "no-address", text: " was removed during the run"},
		// Now it opens further source ports, for which there is no address.
		{name: "address removed under the trace", args: []string{"--flows=10"}, after: 2, do: removeAddress,
			verdict: "network-down", cause: "no-address", rule: "no-address", text: " was removed during the run"},
		{name: "route deleted", do: func(_ *testing.T, l *netlab.Lab, _ netlab.Family) {
			l.Node("client").DelRoute("default")
		}, verdict: "network-down", cause: "no-route", rule: "no-route", text: " went away during the run"},
		{name: "route prohibited", do: func(_ *testing.T, l *netlab.Lab, _ netlab.Family) {
			l.Node("client").AddRoute(netlab.Route{To: "server", Type: netlab.Prohibit})
		}, verdict: "network-down", cause: "no-route", rule: "no-route", text: " became one of type prohibit during the run"},
		{name: "another gateway", net: &twoGateways, do: func(_ *testing.T, l *netlab.Lab, _ netlab.Family) {
			l.Node("client").AddRoute(netlab.Route{To: "server", Next: []string{"s2"}})
		}, verdict: "drop", cause: "any", rule: "changed", text: "the next hop to "},
	}
}

// TestChangedUnderRun changes the way out while a run waits for an answer that
// does not come: it says so, claims nothing for certain, and ends in time.
func TestChangedUnderRun(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	for _, c := range changes() {
		for _, f := range both {
			if c.only != nil && !slices.Contains(c.only, f) {
				continue
			}
			t.Run(c.name+"/"+f.String(), func(t *testing.T) {
				t.Parallel()
				net := netlab.Chain(1)
				if c.net != nil {
					net = *c.net
				}
				lab := netlab.Start(t, net.WithRules("server", tcp80(netlab.Input, netlab.Drop)))
				client, server := lab.Node("client"), lab.Node("server")
				syn := server.CountSYN(80)
				ctx, cancel := context.WithTimeout(t.Context(), hang)
				defer cancel()
				cmd := client.Command(ctx, binary(), slices.Concat([]string{"-n", "--json"}, c.args, []string{lab.Addr("server", f).String(), "80"})...)
				r := start(t, client, cmd)
				eventually(t, "a SYN", func() bool { return syn.Packets() >= max(1, c.after) })
				c.do(t, lab, f)
				out := r.wait(t)
				all, err := parse(out.Stdout)
				if err != nil || len(all) != 1 || all[0].Error != nil {
					t.Fatalf("exit %d, %v\n%s%s", out.Exit, err, out.Stdout, out.Stderr)
				}
				got := all[0]
				if got.Verdict != c.verdict || c.cause != "any" && got.Cause != c.cause || got.Certainty == "certain" || out.Exit != exitCodes[c.verdict] {
					t.Errorf("%s %s %s and exit %d, want %s %s and no certainty", got.Verdict, got.Cause, got.Certainty, out.Exit, c.verdict, c.cause)
				}
				said := false
				for _, e := range got.Evidence {
					said = said || e.Rule == c.rule && strings.Contains(e.Text, c.text)
				}
				if !said {
					t.Errorf("no evidence %s: %q", c.rule, c.text)
				}
				if out.Elapsed > neverAnswers+slack && len(c.args) == 0 {
					t.Errorf("took %v", out.Elapsed)
				}
				if t.Failed() {
					t.Log(out.Stdout, out.Stderr)
				}
			})
		}
	}
}

// TestNoRoom has an egress filter refuse every second packet, as a queue that is
// full for a moment does (ENOBUFS): a SYN that finds no room is sent again, and
// nobody notices.
func TestNoRoom(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	for _, f := range both {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			full := netlab.Rule{Hook: netlab.Egress, Name: "full", Proto: netlab.TCP, DstPort: 80, Every: 2, Action: netlab.Drop}
			lab := netlab.Start(t, netlab.Chain(1).WithRules("client", full))
			client := lab.Node("client")
			got, out := probe(t, client, "-n", "--json", lab.Addr("server", f).String(), "80")
			if n := client.Hits("full"); n == 0 {
				t.Fatal("nothing was refused: this test tests nothing")
			}
			if got.Verdict != "open" || got.Certainty != "certain" || got.Tries != 1 {
				t.Errorf("%s %s after %d tries, want open at the first", got.Verdict, got.Certainty, got.Tries)
			}
			if t.Failed() {
				t.Log(out.Stdout)
			}
		})
	}
}

// A memoryGroup is a group of processes whose memory the kernel limits (cgroups(7)).
type memoryGroup struct {
	dir, limit, peak string
}

// limitMemory makes a group, nil where this machine lets nobody make one.
func limitMemory(t *testing.T) *memoryGroup {
	for _, g := range []memoryGroup{
		{"/sys/fs/cgroup", "memory.max", "memory.peak"},
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"},
	} {
		dir, err := os.MkdirTemp(g.dir, "synprobe-lab")
		if err != nil {
			continue
		}
		t.Cleanup(func() {
			if err := syscall.Rmdir(dir); err != nil {
				t.Errorf("remove %s: %v", dir, err)
			}
		})
		// Not os.WriteFile, which makes the file where this is no cgroup.
		f, err := os.OpenFile(filepath.Join(dir, g.limit), os.O_WRONLY, 0)
		if err != nil {
			continue
		}
		_, err = f.WriteString(strconv.Itoa(memory))
		f.Close()
		if err != nil {
			continue
		}
		if _, err := os.ReadFile(filepath.Join(dir, g.peak)); err != nil {
			continue
		}
		g.dir = dir
		return &g
	}
	return nil
}

func (g *memoryGroup) used(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(g.dir, g.peak))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestMemory runs under a limit of 64 MiB what takes the most.
func TestMemory(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, mixed)
	client := lab.Node("client")
	v4, v6 := lab.Addr("server", netlab.IPv4).String(), lab.Addr("server", netlab.IPv6).String()
	hundred := []string{"-n", "--trace=never", "--timeout=500ms"}
	for i := range 100 {
		hundred = append(hundred, fmt.Sprintf("%s:%d", v4, fates[i%len(fates)].port))
	}
	for _, c := range []struct {
		name string
		argv []string
		exit int
	}{
		{"open", []string{"-n", v4, "80"}, 0},
		{"traced", []string{"-n", "-v", "--trace=always", "--flows=8", "--max-hops=64", v6, "80"}, 0},
		{"closed", []string{"-n", "--json", v6, "81"}, 1},
		{"silent", []string{"-n", "-v", v6, "83"}, 3},
		{"a hundred", hundred, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := limitMemory(t)
			if g == nil {
				t.Skip("NOT TESTED: this machine lets nobody limit memory by a cgroup")
			}
			ctx, cancel := context.WithTimeout(t.Context(), hang)
			defer cancel()
			join := `echo $$ >"$0"/cgroup.procs && exec "$@"`
			out, err := client.Run(client.Command(ctx, "/bin/sh", append([]string{"-c", join, g.dir, binary()}, c.argv...)...))
			if err != nil {
				t.Fatal(err)
			}
			used := g.used(t)
			t.Logf("%.1f MiB", float64(used)/(1<<20))
			if out.Exit != c.exit || used == 0 || used >= memory {
				t.Errorf("exit %d, want %d, with %d of %d bytes\n%s%s", out.Exit, c.exit, used, memory, out.Stdout, out.Stderr)
			}
		})
	}
}

// socketsUsed is how many sockets of any kind the node's namespace has
// (net/ipv4/proc.c, sockstat_seq_show).
func socketsUsed(t testing.TB, m *netlab.Machine) int {
	t.Helper()
	n := -1
	err := m.Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/sockstat")
		if err == nil {
			_, err = fmt.Sscanf(string(b), "sockets: used %d", &n)
		}
		return err
	})
	if err != nil {
		t.Fatalf("sockstat: %v", err)
	}
	return n
}

// TestSignals stops runs of all kinds at random moments, by signals and by
// closing the pipe that they write to. LAB_SIGNAL_RUNS is how many. It has the
// machine to itself, as TestFiftyAtOnce.
func TestSignals(t *testing.T) {
	netlab.Require(t)
	runs := 120
	if s := os.Getenv("LAB_SIGNAL_RUNS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("LAB_SIGNAL_RUNS: %v", err)
		}
		runs = n
	}
	seed := rand.Uint64()
	t.Logf("moments by seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	lab := netlab.Start(t, mixed)
	client := lab.Node("client")
	v4, v6 := lab.Addr("server", netlab.IPv4).String(), lab.Addr("server", netlab.IPv6).String()
	before := socketsUsed(t, client)
	files := t.TempDir()

	// A run whose reader is gone goes on to its end: this makes it a near one.
	const soon = "--timeout=400ms"
	questions := [][]string{
		{v4, "80"}, {v6, "81"}, {v4, "82"}, {v6, "83", soon}, {v4, "83", soon, "-v"}, {v6, "80", "--trace=always", "--flows=3"},
		{"--json", v4 + ":80", "[" + v6 + "]:83", v4 + ":82", soon}, {"-q", "localhost:1", v4 + ":80"}, {"--prove", v6, "80"}, {"--help"},
	}
	ends := []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE}
	// What a run may end with: a verdict, the misuse among the questions, or the
	// interruption.
	allowed := []int{0, 1, 3, 64, 74, 130}

	type job struct {
		n     int
		argv  []string
		by    syscall.Signal
		twice bool
		close bool // SIGPIPE as the kernel sends it: nobody reads any more
		after time.Duration
	}
	jobs := make(chan job)
	go func() {
		defer close(jobs)
		for n := range runs {
			j := job{n: n, argv: questions[dice.IntN(len(questions))], by: ends[dice.IntN(len(ends))], twice: dice.IntN(8) == 0, close: dice.IntN(4) != 0}
			// Most of what can go wrong goes wrong while it starts or ends.
			span := []time.Duration{4, 15, 60, 400}[dice.IntN(4)] * time.Millisecond
			j.after = time.Duration(dice.Int64N(int64(span)))
			jobs <- j
		}
	}()
	const atOnce = 8
	ports := make([]int, atOnce)
	var workers sync.WaitGroup
	for w := range atOnce {
		ports[w] = 4100 + w
		workers.Go(func() {
			for j := range jobs {
				argv := append([]string{"-n"}, j.argv...)
				if j.n%2 == 0 {
					argv = append(argv, fmt.Sprintf("--source-port=%d", ports[w]))
				}
				if err := stopped(t, client, files, argv, j.by, j.twice, j.close, j.after, allowed); err != nil {
					t.Errorf("run %d: %v after %v by %v (twice: %v): %v", j.n, argv, j.after, j.by, j.twice, err)
				}
			}
		})
	}
	workers.Wait()

	for _, port := range ports {
		nothingLeft(t, client, port)
	}
	// The kernel lets packet sockets go a moment later.
	deadline := time.Now().Add(20 * time.Second)
	for socketsUsed(t, client) > before && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if n := socketsUsed(t, client); n > before {
		t.Errorf("%d sockets, and there were %d before", n, before)
	}
	left, err := os.ReadDir(files)
	if err != nil || len(left) != 0 {
		t.Errorf("files are left: %v %v", left, err)
	}
}

// stopped runs the program, stops it after a while, and says what is wrong with
// its end. It is no test's goroutine.
func stopped(t *testing.T, m *netlab.Machine, files string, argv []string, by syscall.Signal, twice, closes bool, after time.Duration, allowed []int) error {
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	defer reader.Close()
	var stderr bytes.Buffer
	cmd := m.Command(ctx, binary(), argv...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = writer, &stderr, files
	cmd.Env = append(os.Environ(), "TMPDIR="+files, "HOME="+files)
	err = m.Begin(cmd)
	writer.Close()
	if err != nil {
		return err
	}
	var stdout bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = stdout.ReadFrom(reader)
	}()
	time.Sleep(after)
	told := time.Now()
	if by == syscall.SIGPIPE && closes {
		reader.Close()
	} else {
		// It may have ended by itself.
		_ = cmd.Process.Signal(by)
		if twice {
			_ = cmd.Process.Signal(by)
		}
	}
	err = cmd.Wait()
	took := time.Since(told)
	<-read
	var exit *exec.ExitError
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case err != nil && !errors.As(err, &exit):
		return err
	case !ok:
		return errors.New("no wait status")
	case status.Signaled() && status.Signal() == by && by != syscall.SIGPIPE:
		// Before it had said how it wants to be told, or the second time.
	case status.Signaled() && status.Signal() == by && !closes && stdout.Len() == 0:
		// Likewise. Who writes to a pipe that is closed has said it long before.
	case !status.Exited() || !slices.Contains(allowed, status.ExitStatus()):
		return fmt.Errorf("%v\n%s%s", cmd.ProcessState, &stdout, &stderr)
	}
	for _, word := range []string{"panic", "goroutine", "fatal error", "this is a bug", "SIGSEGV"} {
		if strings.Contains(stdout.String()+stderr.String(), word) {
			return fmt.Errorf("%q in\n%s%s", word, &stdout, &stderr)
		}
	}
	if by != syscall.SIGPIPE && took > promptly+slack {
		return fmt.Errorf("over %v later", took)
	}
	return nil
}
