package main

import (
	"fmt"
	"sync"
	"testing"

	"synprobe/rawprobe/netlab"
)

// mixed is a network with a port for each fate, the same in both families.
var mixed = netlab.Chain(2).
	WithRules("r1", netlab.Rule{Hook: netlab.Forward, Proto: netlab.TCP, DstPort: 82, Action: netlab.RejectAdmin}).
	WithRules("server", netlab.Rule{Hook: netlab.Input, Proto: netlab.TCP, DstPort: 83, Action: netlab.Drop})

// fates are what befalls the ports of mixed.
var fates = []struct {
	port           int
	verdict, where string
	cause          string // "" where more is known with every release
}{
	{80, "open", "", "listening"},
	{81, "reject", "destination", "port-closed"},
	{82, "reject", "path", "network-firewall"},
	{83, "drop", "*", ""},
}

// TestSideBySide runs the program twenty times at once on one machine. Each
// run must tell its own packets from those of all the others.
func TestSideBySide(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	binary() // not in the time of the first
	lab := netlab.Start(t, mixed)
	client := lab.Node("client")
	var runs sync.WaitGroup
	for i := range 20 {
		f := both[i%2]
		want := fates[i/2%len(fates)]
		runs.Go(func() {
			out, err := client.Run(client.Command(t.Context(), binary(), "-n", "--json", lab.Addr("server", f).String(), fmt.Sprint(want.port)))
			if err != nil {
				t.Errorf("run %d: %v", i, err)
				return
			}
			// The goroutine is not the test's: no Fatal here.
			right := func() bool {
				got, err := parse(out.Stdout)
				if err != nil || len(got) != 1 || got[0].Error != nil {
					return false
				}
				g := got[0]
				where := ""
				if g.Fault != nil {
					where = g.Fault.Where
				}
				return g.Verdict == want.verdict && (want.cause == "" || g.Cause == want.cause) &&
					(want.where == "*" || where == want.where) &&
					g.Target.Port == want.port && g.Target.Address == lab.Addr("server", f).String() &&
					out.Exit == exitCodes[want.verdict] && out.Stderr == ""
			}
			if !right() {
				t.Errorf("run %d, %v port %d: want %s %s, got exit %d after %v\n%s%s", i, f, want.port, want.verdict, want.cause, out.Exit, out.Elapsed, out.Stdout, out.Stderr)
			}
			if out.Elapsed > neverAnswers+slack {
				t.Errorf("run %d, %v port %d: took %v", i, f, want.port, out.Elapsed)
			}
		})
	}
	runs.Wait()
}

// TestSeveralTargets names several targets in one call: answers come in the
// order of the arguments, whichever is known first, and the exit code is the
// highest.
func TestSeveralTargets(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, mixed)
	client := lab.Node("client")
	v4, v6 := lab.Addr("server", netlab.IPv4).String(), "["+lab.Addr("server", netlab.IPv6).String()+"]"

	for _, c := range []struct {
		argv []string
		want []string // verdict or kind of error, and port
		exit int
	}{
		{[]string{v4 + ":80"}, []string{"open 80"}, 0},
		{[]string{v4 + ":80", v6 + ":81"}, []string{"open 80", "reject 81"}, 1},
		{[]string{v6 + ":83", v4 + ":80", v4 + ":82", v6 + ":80"}, []string{"drop 83", "open 80", "reject 82", "open 80"}, 3},
		{[]string{v4 + ":80", v4 + ":80"}, []string{"open 80", "open 80"}, 0},
		// An error outranks verdicts, and leaves the others their answers.
		{[]string{v4 + ":81", "nosuch.invalid:80", v4 + ":80"}, []string{"reject 81", "name-not-found 80", "open 80"}, 68},
		// One port can be held by one run at a time only.
		{[]string{"--source-port", "4001", v4 + ":80", v4 + ":81", v6 + ":80"}, []string{"open 80", "reject 81", "open 80"}, 1},
		// The same again: the hosts still know the last run's five-tuples.
		{[]string{"--source-port", "4001", v4 + ":80", v4 + ":81", v6 + ":80"}, []string{"open 80", "reject 81", "open 80"}, 1},
	} {
		out := shell(t, client, append([]string{"-n", "--json"}, c.argv...)...)
		var got []string
		for _, r := range decode(t, out) {
			word := r.Verdict
			if r.Error != nil {
				word = r.Error.Kind
			}
			got = append(got, fmt.Sprintf("%s %d", word, r.Target.Port))
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) || out.Exit != c.exit {
			t.Errorf("%v: %v and exit %d, want %v and %d\n%s%s", c.argv, got, out.Exit, c.want, c.exit, out.Stdout, out.Stderr)
		}
		if out.Elapsed > neverAnswers+slack {
			t.Errorf("%v: took %v", c.argv, out.Elapsed)
		}
	}
}
