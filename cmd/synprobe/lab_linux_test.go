package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"synprobe/rawprobe/netlab"
	"synprobe/rawprobe/simnet"
)

// binary builds the program under test once, as a release is built, and returns
// its path.
var binary = sync.OnceValue(func() string {
	dir, err := os.MkdirTemp("", "synprobe-lab")
	if err != nil {
		panic(err)
	}
	binaryDir = dir
	// Others must be able to run it, for the test without privilege.
	if err := os.Chmod(dir, 0o755); err != nil {
		panic(err)
	}
	path := filepath.Join(dir, "synprobe")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("build: %v\n%s", err, out))
	}
	return path
})

// result is the JSON of one target; see README.md.
type result struct {
	Schema string
	Target struct {
		Name, Address string
		Port          int
	}
	Source struct {
		Address, Interface, Gateway string
	}
	Verdict, Cause, Certainty, Summary string
	Fault                              *fault
	Alternatives                       []struct {
		Cause string
		Fault *fault
		Why   string
	}
	RTT      *float64 `json:"rtt_ms"`
	Tries    int
	Answered int
	Path     []pathHop
	Evidence []struct{ Rule, Text string }
	Error    *struct{ Kind, Message string }
}

type pathHop struct {
	TTL      int
	Address  string
	Subject  string
	Controls map[string]string
}

type fault struct {
	Where string
	Hops  []struct {
		TTL     *int
		Address string
	}
}

// exitCodes are the exit codes of design and README.
var exitCodes = map[string]int{"open": 0, "reject": 1, "drop": 3, "host-down": 4, "network-down": 5, "partial": 6}

// both are the families that a case runs in unless it says otherwise.
var both = []netlab.Family{netlab.IPv4, netlab.IPv6}

// A labCase is one network, one question and the answer that is right.
type labCase struct {
	name string
	net  netlab.Topology
	only []netlab.Family // nil: both
	// setup changes the running network before the probe starts.
	setup func(*testing.T, *netlab.Lab, netlab.Family)
	// target is a node's name or an address; the default is "server". It is
	// asked for port, by default 80.
	target func(*netlab.Lab, netlab.Family) string
	port   int
	args   func(*netlab.Lab, netlab.Family) []string

	// Any of them may be "any", where chance decides it.
	verdict, cause, certainty, where string
	// hops are the nodes that the fault must name, in order, by the address
	// that faces the client. Nil leaves them unchecked.
	hops []string
	// evidence are rules that must be among the evidence.
	evidence []string
	// alternatives are causes that must be among the alternatives.
	alternatives []string
	// device is the node that really is at fault. It must be among the suspects
	// of the fault or of an alternative, whatever else is said. Where it is no
	// router of a chain, its TTL stands behind it, as in "a@2".
	device string
	// maxSYN bounds the SYNs to the port that reach the server: 0 is 6.
	maxSYN uint64
	// after looks at what no field above can say.
	after func(*testing.T, *netlab.Lab, netlab.Family, result)
	// within bounds the whole command. The default is what is promised for a
	// host that never answers.
	within time.Duration
}

const neverAnswers = 4500 * time.Millisecond

// slack is what a machine that runs many labs at once may add to a bound. The
// race detector makes the program some times slower: there a bound only ends
// what would hang.
const slack = 700*time.Millisecond + raceDetector*3*time.Second

func tcp80(h netlab.Hook, a netlab.Action) netlab.Rule {
	return netlab.Rule{Hook: h, Proto: netlab.TCP, DstPort: 80, Action: a}
}

func node(name string) func(*netlab.Lab, netlab.Family) string {
	return func(l *netlab.Lab, f netlab.Family) string { return l.Addr(name, f).String() }
}

func literal(v4, v6 string) func(*netlab.Lab, netlab.Family) string {
	return func(_ *netlab.Lab, f netlab.Family) string {
		if f == netlab.IPv4 {
			return v4
		}
		return v6
	}
}

func args(a ...string) func(*netlab.Lab, netlab.Family) []string {
	return func(*netlab.Lab, netlab.Family) []string { return a }
}

func die(names ...string) func(*testing.T, *netlab.Lab, netlab.Family) {
	return func(_ *testing.T, l *netlab.Lab, _ netlab.Family) {
		for _, n := range names {
			l.Node(n).Die()
		}
	}
}

// justDied lets a node die of which its neighbour still believes that it is
// there.
func justDied(believer, dead string) func(*testing.T, *netlab.Lab, netlab.Family) {
	return func(_ *testing.T, l *netlab.Lab, f netlab.Family) {
		l.Node(believer).WarmNeighbor(l.Addr(dead, f))
		l.Node(dead).Die()
	}
}

func linkDown(node, iface string) func(*testing.T, *netlab.Lab, netlab.Family) {
	return func(_ *testing.T, l *netlab.Lab, _ netlab.Family) { l.Node(node).LinkDown(iface) }
}

func TestLab(t *testing.T) {
	netlab.Require(t)
	for _, c := range labCases() {
		for _, f := range both {
			if c.only != nil && !slices.Contains(c.only, f) {
				continue
			}
			t.Run(c.name+"/"+f.String(), func(t *testing.T) {
				t.Parallel()
				c.run(t, f)
			})
		}
	}
}

func (c labCase) run(t *testing.T, f netlab.Family) { c.on(t, netlab.Start(t, c.net), f) }

// on runs the case on a lab of its network.
func (c labCase) on(t *testing.T, lab *netlab.Lab, f netlab.Family) {
	if c.setup != nil {
		c.setup(t, lab, f)
	}
	target, port := lab.Addr, c.port
	address := ""
	if c.target != nil {
		address = c.target(lab, f)
	} else {
		address = target("server", f).String()
	}
	if port == 0 {
		port = 80
	}
	file := filepath.Join(t.TempDir(), "run.pcapng")
	argv := []string{"--json", "-n", "-w", file}
	if c.args != nil {
		argv = append(argv, c.args(lab, f)...)
	}
	argv = append(argv, address, fmt.Sprint(port))
	reached := lab.Node("server").Count(netlab.Rule{Proto: netlab.TCP, DstPort: uint16(port), Flags: netlab.SYN})
	got, out := probe(t, lab.Node("client"), argv...)

	c.check(t, lab, f, got)
	sameAgain(t, file, out)
	most := c.maxSYN
	if most == 0 {
		most = 6
	}
	if n := reached.Packets(); n > most {
		t.Errorf("%d SYNs to port %d reached the server, promised at most %d", n, port, most)
	}
	if c.after != nil {
		c.after(t, lab, f, got)
	}
	if want := exitCodes[got.Verdict]; out.Exit != want {
		t.Errorf("exit %d, want %d", out.Exit, want)
	}
	within := c.within
	if within == 0 {
		within = neverAnswers
	}
	if out.Elapsed > within+slack {
		t.Errorf("took %v, promised %v", out.Elapsed, within)
	}
	if t.Failed() {
		t.Logf("%s %s\n%s%s", binary(), strings.Join(argv, " "), out.Stdout, out.Stderr)
	}
}

func (c labCase) check(t *testing.T, lab *netlab.Lab, f netlab.Family, got result) {
	t.Helper()
	is := func(got, want string) bool { return got == want || want == "any" }
	if !is(got.Verdict, c.verdict) || !is(got.Cause, c.cause) || !is(got.Certainty, c.certainty) {
		t.Errorf("%s %s %s, want %s %s %s", got.Verdict, got.Cause, got.Certainty, c.verdict, c.cause, c.certainty)
	}
	where := ""
	if got.Fault != nil {
		where = got.Fault.Where
	}
	if !is(where, c.where) {
		t.Errorf("fault is %q, want %q", where, c.where)
	}
	if c.hops != nil && got.Fault != nil {
		var want, have []string
		for _, n := range c.hops {
			if n == "" { // a hop that answers nobody
				want = append(want, "")
				continue
			}
			want = append(want, lab.Addr(n, f).String())
		}
		for _, h := range got.Fault.Hops {
			have = append(have, h.Address)
		}
		if !slices.Equal(have, want) {
			t.Errorf("fault names %v, want %v", have, want)
		}
	}
	for _, rule := range c.evidence {
		if !slices.ContainsFunc(got.Evidence, func(e struct{ Rule, Text string }) bool { return e.Rule == rule }) {
			t.Errorf("no evidence %q", rule)
		}
	}
	for _, cause := range c.alternatives {
		found := false
		for _, a := range got.Alternatives {
			found = found || a.Cause == cause
		}
		if !found {
			t.Errorf("no alternative %q", cause)
		}
	}
	if c.device != "" && !names(lab, f, got, c.device) {
		t.Errorf("%s is at fault, and neither the fault nor an alternative names it", c.device)
	}
	if (got.Certainty == "certain") != (len(got.Alternatives) == 0) {
		t.Errorf("%s with %d alternatives", got.Certainty, len(got.Alternatives))
	}
}

// probe runs the program in a node and reads its one line of JSON.
func probe(t *testing.T, m *netlab.Machine, argv ...string) (result, netlab.Result) {
	t.Helper()
	if sim, ok := m.Driver().(*simnet.Net); ok {
		return simulate(t, sim, m.Name, argv...)
	}
	// The bound is far beyond any promise: it ends a hang.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := m.Run(m.Command(ctx, binary(), argv...))
	if err != nil {
		t.Fatalf("run: %v", err)
	}
	var got result
	if err := json.Unmarshal([]byte(out.Stdout), &got); err != nil {
		t.Fatalf("output is no JSON: %v\nexit %d\n%s%s", err, out.Exit, out.Stdout, out.Stderr)
	}
	if got.Error != nil {
		t.Fatalf("exit %d, error %s: %s", out.Exit, got.Error.Kind, got.Error.Message)
	}
	if out.Stderr != "" && !strings.HasPrefix(out.Stderr, "synprobe: waiting for ") {
		t.Errorf("stderr: %s", out.Stderr)
	}
	return got, out
}
