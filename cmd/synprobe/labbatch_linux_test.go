package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"synprobe/rawprobe/netlab"
)

// farm is a server with a network of its own, behind two routers. Its ports have
// the fates of mixed: 80 is open, 81 closed, 82 refused by r2, 83 dropped by the
// server. On the client's own link and on the server's nobody has the address
// that ends in 9. r2 does not limit its errors, so that no refusal is missing.
var farm = netlab.Chain(2).
	With("server", func(n *netlab.Node) {
		n.Addrs = []netip.Prefix{netip.MustParsePrefix("10.77.0.0/28"), netip.MustParsePrefix("fd77::/124")}
	}).
	WithRules("r2", netlab.Rule{Hook: netlab.Forward, Proto: netlab.TCP, DstPort: 82, Action: netlab.RejectAdmin}).
	WithSysctl("r2", "net.ipv4.icmp_ratelimit", "0").
	WithSysctl("r2", "net.ipv6.icmp.ratelimit", "0").
	WithRules("server", netlab.Rule{Hook: netlab.Input, Proto: netlab.TCP, DstPort: 83, Action: netlab.Drop})

// farmNetwork is the server's network, as an argument without ports.
func farmNetwork(f netlab.Family) string {
	if f == netlab.IPv4 {
		return "10.77.0.0/28"
	}
	return "[fd77::/124]"
}

// once decodes JSON, and wants each of n targets in it once.
func once(t testing.TB, out netlab.Result, n int) map[string]result {
	t.Helper()
	all := map[string]result{}
	for _, r := range decode(t, out) {
		if r.Error != nil {
			t.Fatalf("error %+v", r.Error)
		}
		key := fmt.Sprintf("%s %d", r.Target.Address, r.Target.Port)
		if _, ok := all[key]; ok {
			t.Errorf("%s has two results", key)
		}
		all[key] = r
	}
	if len(all) != n {
		t.Errorf("%d targets have a result, want %d\n%s%s", len(all), n, out.Stdout, out.Stderr)
	}
	return all
}

// TestManyVerdicts: each target of a network gets the verdict of its port, and
// addresses without a host theirs.
func TestManyVerdicts(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, farm)
	client := lab.Node("client")
	for _, f := range both {
		dead, router := "10.0.1.9", "10.0.2.2"
		if f == netlab.IPv6 {
			dead, router = "fd00:0:0:1::9", "fd00:0:0:2::2"
		}
		out := shell(t, client, "--json", farmNetwork(f)+":80-83", hostPort(dead, 80))
		for key, r := range once(t, out, 16*4+1) {
			want, where, hop := "open listening", "", ""
			switch {
			case r.Target.Address == dead:
				want, where, hop = "host-down neighbor-unreachable", "destination", dead
			case r.Target.Port == 81:
				want, where, hop = "reject port-closed", "destination", r.Target.Address
			case r.Target.Port == 82:
				want, where, hop = "reject network-firewall", "path", router
			case r.Target.Port == 83:
				want, where = "drop unknown", "unknown"
			}
			gotWhere, gotHop := "", ""
			if r.Fault != nil {
				gotWhere = r.Fault.Where
				if len(r.Fault.Hops) > 0 {
					gotHop = r.Fault.Hops[0].Address
				}
			}
			if got := r.Verdict + " " + r.Cause; got != want || gotWhere != where || gotHop != hop {
				t.Errorf("%s: %s at %s %s, want %s at %s %s", key, got, gotWhere, gotHop, want, where, hop)
			}
			if r.Certainty == "certain" || len(r.Alternatives) == 0 {
				t.Errorf("%s: %s, with %d alternatives", key, r.Certainty, len(r.Alternatives))
			}
			if r.Target.Port == 83 && !slices.ContainsFunc(r.Evidence, func(e struct{ Rule, Text string }) bool { return e.Rule == "echo-reply" }) {
				t.Errorf("%s: silent, and no word that the host answers echoes: %+v", key, r.Evidence)
			}
		}
		if out.Exit != exitCodes["host-down"] || !strings.Contains(out.Stderr, "65 targets in ") {
			t.Errorf("%v: exit %d, stderr %s", f, out.Exit, out.Stderr)
		}
	}
}

func hostPort(address string, port uint16) string {
	return netip.AddrPortFrom(netip.MustParseAddr(address), port).String()
}

// TestManyBehindRouter: what the last router says of an address that nobody has
// comes late, and counts.
func TestManyBehindRouter(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, farm)
	for _, dead := range []string{"10.0.3.9", "fd00:0:0:3::9"} {
		out := shell(t, lab.Node("client"), "--json", hostPort(dead, 80), "--rate", "100")
		for key, r := range once(t, out, 1) {
			// It may be over before the router has given up its search.
			if got := r.Verdict + " " + r.Cause; got != "host-down host-unreachable" && got != "drop unknown" {
				t.Errorf("%s: %s", key, got)
			}
		}
	}
}

// TestManyFormats: the other formats have a line for each target, too.
func TestManyFormats(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, farm)
	client := lab.Node("client")
	targets := []string{"10.77.0.0/29:80,81", "[fd77::/125]:82"}
	want := map[string]int{"open": 8, "reject": 16}
	for _, c := range []struct {
		flag  string
		field func(line string) string // the verdict, "" of a line that has none
	}{
		{"-q", func(l string) string { return strings.Fields(l)[0] }},
		{"--csv", func(l string) string {
			if f := strings.Split(l, ","); f[3] != "verdict" {
				return f[3]
			}
			return ""
		}},
		{"--color=never", func(l string) string {
			if f := strings.Fields(l); len(f) > 3 && strings.Contains(f[0], ":8") {
				return f[1]
			}
			return ""
		}},
	} {
		out := shell(t, client, append([]string{c.flag}, targets...)...)
		got := map[string]int{}
		for line := range strings.Lines(out.Stdout) {
			if line = strings.TrimSuffix(line, "\n"); line != "" {
				if v := c.field(line); v != "" {
					got[v]++
				}
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || out.Exit != exitCodes["reject"] {
			t.Errorf("%s: %v and exit %d, want %v\n%s%s", c.flag, got, out.Exit, want, out.Stdout, out.Stderr)
		}
	}
}

// TestManyExpected proves a firewall change: nothing differs before it, and
// after it what it changed.
func TestManyExpected(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, farm)
	client := lab.Node("client")
	before := filepath.Join(t.TempDir(), "before.json")
	out := shell(t, client, "--json", "10.77.0.0/29:80,81")
	if err := os.WriteFile(before, []byte(out.Stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := shell(t, client, "--expect", before); out.Exit != 0 || !strings.HasPrefix(out.Stdout, "16 targets compared with "+before+": 0 differences\n") {
		t.Errorf("before the change: exit %d\n%s%s", out.Exit, out.Stdout, out.Stderr)
	}
	lab.Node("r1").AddRule(netlab.Rule{Hook: netlab.Forward, Proto: netlab.TCP, Dst: "10.77.0.4/31", DstPort: 80, Action: netlab.RejectAdmin})
	out = shell(t, client, "--expect", before)
	lines := strings.Split(out.Stdout, "\n")
	slices.Sort(lines[:min(2, len(lines))])
	want := []string{
		"10.77.0.4:80: expected open, found reject (network-firewall, by 10.0.1.2)",
		"10.77.0.5:80: expected open, found reject (network-firewall, by 10.0.1.2)",
		"", "16 targets compared with " + before + ": 2 differences", "  2 found reject (network-firewall)", "",
	}
	if out.Exit != 7 || !slices.Equal(lines, want) {
		t.Errorf("after the change: exit %d, got\n%s%swant\n%s", out.Exit, out.Stdout, out.Stderr, strings.Join(want, "\n"))
	}
}

// TestManyExplained: what is not open gets its path, once for each host and
// verdict.
func TestManyExplained(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, farm.WithRules("r1", netlab.Rule{Hook: netlab.Forward, Proto: netlab.TCP, DstPort: 84, Action: netlab.Drop}))
	all := once(t, shell(t, lab.Node("client"), "-n", "--json", "--explain", "10.77.0.1:80,84,184", "10.77.0.2:82"), 4)
	drop := all["10.77.0.1 84"]
	if drop.Verdict != "drop" || drop.Cause != "network-firewall" || len(drop.Path) == 0 || drop.Fault == nil || len(drop.Fault.Hops) != 2 || drop.Fault.Hops[0].Address != "10.0.1.2" {
		t.Errorf("the silent port: %+v", drop)
	}
	if r := all["10.77.0.2 82"]; r.Cause != "network-firewall" || r.Certainty != "certain" {
		t.Errorf("the refused port: %+v", r)
	}
	if r := all["10.77.0.1 184"]; r.Verdict != "reject" || r.Certainty != "certain" || r.Cause != "port-closed" {
		t.Errorf("the closed port: %+v", r)
	}
	if r := all["10.77.0.1 80"]; r.Verdict != "open" || len(r.Path) > 0 {
		t.Errorf("the open port: %+v", r)
	}
}

// TestManyShards: the parts of three machines make up the whole.
func TestManyShards(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, farm)
	var parts string
	var out netlab.Result
	for i := 1; i <= 3; i++ {
		out = shell(t, lab.Node("client"), "--json", "--shard", fmt.Sprintf("%d/3", i), "10.77.0.0/28:80,81")
		if n := strings.Count(out.Stdout, "\n"); n < 10 || n > 11 {
			t.Errorf("part %d has %d of 32 targets", i, n)
		}
		parts += out.Stdout
	}
	out.Stdout = parts
	once(t, out, 32)
}

// TestManyResumed: a run that is interrupted goes on where it was.
func TestManyResumed(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, farm)
	client := lab.Node("client")
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	shell(t, client, "-q", "10.77.0.1:80,81") // is there an engine?
	argv := []string{"--json", "--resume", state, "--rate", "20", "10.77.0.0/28:80,81"}

	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	first, err := os.Create(filepath.Join(dir, "first"))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	cmd := client.Command(ctx, binary(), argv...)
	cmd.Stdout = first
	r := start(t, client, cmd)
	eventually(t, "the first results", func() bool {
		b, _ := os.ReadFile(first.Name())
		return strings.Count(string(b), "\n") >= 4
	})
	// What was asked has its result first: at most the wait for a silent one.
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	out := r.wait(t)
	if out.Exit != 130 || !strings.Contains(out.Stderr, "hint: the same command line goes on from there: its state is in "+state) {
		t.Errorf("interrupted: exit %d, %s", out.Exit, out.Stderr)
	}
	if info, err := os.Stat(state); err != nil || info.Mode() != 0o600 {
		t.Errorf("the state: %v, %v", info, err)
	}
	b, err := os.ReadFile(first.Name())
	if err != nil {
		t.Fatal(err)
	}
	rest := shell(t, client, argv...)
	done := strings.Count(string(b), "\n")
	if done < 4 || done >= 32 || rest.Exit != exitCodes["reject"] || !strings.Contains(rest.Stderr, "32 targets in ") || !strings.Contains(rest.Stderr, fmt.Sprintf(", %d of them by an earlier run", done)) {
		t.Errorf("%d results before; exit %d, %s", done, rest.Exit, rest.Stderr)
	}
	rest.Stdout = string(b) + rest.Stdout
	once(t, rest, 32)
	if _, err := os.Stat(state); !os.IsNotExist(err) {
		t.Errorf("the state is left: %v", err)
	}
}

// TestManySendsNothing: what is refused is refused before the first packet.
func TestManySendsNothing(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, farm)
	client := lab.Node("client")
	eth := listen(t, client, "eth0")
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, []byte("10.77.0.1:80\n10.77.0.1:0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{
		{"--targets", list}, {"10.77.0.1/28:80"}, {"[::/0]:80"}, {"--expect", list}, {"--csv", "--json", "10.77.0.0/28:80"}, {"10.77.0.0/28:80", "10.77.0.1:0"},
	} {
		eth.taken(t)
		out := shell(t, client, argv...)
		if sent := eth.sent(t); out.Exit != 64 || len(sent) != 0 || out.Stdout != "" && argv[0] != "--csv" {
			t.Errorf("%v: exit %d, %d packets left: %v\n%s%s", argv, out.Exit, len(sent), sent, out.Stdout, out.Stderr)
		}
	}
}

// TestManyMisfits: a source address or an interface that can't lead to a target
// is refused as for a single target, where there are others beside it too.
func TestManyMisfits(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, farm)
	client := lab.Node("client")
	const only, beyond = "only the loopback interface leads there", "it reaches this machine only"
	for _, c := range []struct {
		argv  []string
		why   string
		other string // a target that can be probed
	}{
		{[]string{"-i", "eth0", "127.0.0.1:22"}, "interface eth0 for %s: " + only, "10.77.0.1:81"},
		{[]string{"-s", "127.0.0.1", "10.77.0.1:22"}, "source 127.0.0.1 for %s: " + beyond, "127.0.0.1:81"},
		{[]string{"-i", "lo", "10.77.0.1:22"}, "interface lo for %s: " + beyond, "127.0.0.1:81"},
		{[]string{"-i", "lo", "[fd77::1]:22"}, "interface lo for %s: " + beyond, "[::1]:81"},
	} {
		target := netip.MustParseAddrPort(c.argv[2])
		single := shell(t, client, c.argv...)
		want := fmt.Sprintf("synprobe: "+c.why+"\n", target.Addr())
		if single.Exit != 64 || !strings.HasPrefix(single.Stderr, want) {
			t.Errorf("%v: exit %d, %s", c.argv, single.Exit, single.Stderr)
		}
		many := shell(t, client, append(c.argv, "--csv")...)
		if many.Exit != single.Exit || many.Stderr != single.Stderr || many.Stdout != "" {
			t.Errorf("%v --csv: exit %d, %s%s, want as for one: %s", c.argv, many.Exit, many.Stdout, many.Stderr, single.Stderr)
		}
		mixed := shell(t, client, append(c.argv, "--json", "--rate=0", c.other)...)
		if want := fmt.Sprintf("synprobe: "+c.why+"\n", "1 target"); mixed.Exit != 64 || !strings.Contains(mixed.Stderr, want) {
			t.Errorf("%v and %s: exit %d, %s, want %s", c.argv, c.other, mixed.Exit, mixed.Stderr, want)
		}
		for _, r := range decode(t, mixed) {
			switch {
			case r.Target.Port == 22 && (r.Error == nil || r.Verdict != ""), r.Target.Port == 81 && r.Verdict != "reject":
				t.Errorf("%v and %s: %+v", c.argv, c.other, r)
			}
		}
		if n := strings.Count(mixed.Stdout, "\n"); n != 2 {
			t.Errorf("%v and %s: %d results", c.argv, c.other, n)
		}
	}
}

// TestManyOwnNetwork: of the network that it is on, a client probes what can be
// hosts. Here all of them are up.
func TestManyOwnNetwork(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, netlab.Chain(0).WithLink(1, func(l *netlab.Link) {
		l.Ends[0].Addrs = []netip.Prefix{netip.MustParsePrefix("10.9.0.1/29")}
		l.Ends[1].Addrs = nil
		for i := 2; i <= 6; i++ {
			l.Ends[1].Addrs = append(l.Ends[1].Addrs, netip.MustParsePrefix(fmt.Sprintf("10.9.0.%d/29", i)))
		}
	}).WithListen("client", "tcp:80"))
	client := lab.Node("client")
	const why = " left out: this machine's own networks' addresses and broadcast addresses are no hosts\n"
	for _, c := range []struct {
		argv    string
		results int
		left    string
		exit    int
	}{
		{"--json 10.9.0.0/29:80", 6, "2 targets", 0},
		{"--json 10.9.0.0/29:80,81", 12, "4 targets", 1},
		{"--json 10.9.0.4/30:80", 3, "1 target", 0},
		{"-q 10.9.0.4/30:80", 3, "1 target", 0},
		{"--json 10.9.0.2/31:80", 2, "", 0},
	} {
		out := shell(t, client, strings.Fields(c.argv)...)
		if n := strings.Count(out.Stdout, "\n"); n != c.results || out.Exit != c.exit {
			t.Errorf("%s: %d results, want %d; exit %d, want %d\n%s%s", c.argv, n, c.results, out.Exit, c.exit, out.Stdout, out.Stderr)
		}
		if got := strings.Contains(out.Stderr, "synprobe: "+c.left+why); got != (c.left != "") {
			t.Errorf("%s: stderr is %s", c.argv, out.Stderr)
		}
	}
	single := shell(t, client, "10.9.0.7:80")
	if out := shell(t, client, "--csv", "10.9.0.7:80"); out.Exit != 64 || out.Stdout != "" || out.Stderr != single.Stderr {
		t.Errorf("the broadcast address alone: exit %d, %s%s, want %s", out.Exit, out.Stdout, out.Stderr, single.Stderr)
	}
}

// TestManyByPort: what a routing rule by port leads another way is not told as if
// it had been probed; alone it is.
func TestManyByPort(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, farm.With("client", func(n *netlab.Node) {
		n.Policies = append(n.Policies, netlab.Policy{Table: 100, Proto: netlab.TCP, DstPort: 443})
		n.Routes = append(n.Routes,
			netlab.Route{To: "10.77.0.0/28", Type: netlab.Unreachable},
			netlab.Route{To: "10.77.0.0/28", Next: []string{"r1"}, Table: 100})
	}))
	client := lab.Node("client")
	if r := decode(t, shell(t, client, "--json", "10.77.0.1", "443"))[0]; r.Verdict != "reject" || r.Cause != "port-closed" {
		t.Errorf("alone: %s %s", r.Verdict, r.Cause)
	}
	out := shell(t, client, "--json", "10.77.0.1:80,443")
	for _, r := range decode(t, out) {
		switch {
		case r.Target.Port == 443 && r.Error == nil, r.Target.Port == 80 && r.Cause != "no-route":
			t.Errorf("%+v", r)
		}
	}
	if n := strings.Count(out.Stdout, "\n"); n != 2 || out.Exit != 74 || !strings.Contains(out.Stderr, "synprobe: 1 target left out: routing rules by protocol or port ") {
		t.Errorf("%d results, exit %d, %s", n, out.Exit, out.Stderr)
	}
}
