package main

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"synprobe/cmd/synprobe/internal/cli"
	"synprobe/pcap"
	"synprobe/rawprobe/netlab"
)

func TestMain(m *testing.M) {
	testscript.Main(cleanly{m}, map[string]func(){
		"synprobe": func() { os.Exit(cli.Main(os.Args)) },
	})
}

// binaryDir is where a test has built the program, "" where none has.
var binaryDir string

// cleanly removes what the tests have built.
type cleanly struct{ m *testing.M }

func (c cleanly) Run() int {
	moreAtOnce()
	defer keepStamping()()
	defer func() {
		if binaryDir != "" {
			os.RemoveAll(binaryDir)
		}
	}()
	return netlab.Main(c.m)
}

// keepStamping has the kernel stamp packets as long as the tests run. It begins
// when the first socket of the machine asks for stamps, and a moment after: what
// a run then sends first, on a busy machine, has no stamp and no round-trip time.
// Those are tests of their own; all others compare what is printed.
func keepStamping() (end func()) {
	l, err := pcap.Open(pcap.Config{Filter: pcap.Nothing})
	if err != nil {
		return func() {} // no privilege, and so no lab
	}
	return func() { l.Close() }
}

// moreAtOnce lets more tests run at once than there are processors, unless the
// command line has its own -parallel: most of them wait for a silence to be
// over. More of them at once starve each other in the kernel, where the teardown
// of a namespace holds up all route lookups (rtnl_lock), and break the bounds of
// time that they hold the program to.
func moreAtOnce() {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen {
		_ = flag.Set("test.parallel", "16") // the flag is there, and a number
	}
}

// TestScripts runs the whole program on command lines for which it must send
// nothing: no script here needs a network, a name server or a privilege.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
		},
	})
}

// exits runs a program that must end with the exit code that is the first
// argument.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARGUMENT...]")
	}
	want, err := strconv.Atoi(args[0])
	if err != nil {
		ts.Fatalf("exits: %v", err)
	}
	got := 0
	var exit *exec.ExitError
	switch err := ts.Exec(args[1], args[2:]...); {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("%v exits with %d, want %d", args[1:], got, want)
	}
}
