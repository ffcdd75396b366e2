package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"synprobe/rawprobe/netlab"
)

// promptly is how soon a run has to be over that was told to stop. It is a
// person's patience, with room for a machine that runs many labs at once.
const promptly = time.Second

// A running is a program that was started and not yet waited for.
type running struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	begun          time.Time
}

// start starts a command in a process group of its own.
func start(t testing.TB, m *netlab.Machine, cmd *exec.Cmd) *running {
	t.Helper()
	r := &running{cmd: cmd, begun: time.Now()}
	if cmd.Stdout == nil {
		cmd.Stdout = &r.stdout
	}
	cmd.Stderr = &r.stderr
	cmd.SysProcAttr.Setpgid = true
	if err := m.Begin(cmd); err != nil {
		t.Fatalf("start: %v", err)
	}
	return r
}

// wait waits for the end, and looks for processes left behind.
func (r *running) wait(t testing.TB) netlab.Result {
	t.Helper()
	err := r.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("wait: %v", err)
	}
	out := netlab.Result{Stdout: r.stdout.String(), Stderr: r.stderr.String(), Exit: r.cmd.ProcessState.ExitCode(), Elapsed: time.Since(r.begun)}
	if err := syscall.Kill(-r.cmd.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("a process of the program's group lives on: %v", err)
	}
	return out
}

// stop sends a signal and expects the end soon.
func (r *running) stop(t testing.TB, s os.Signal) netlab.Result {
	t.Helper()
	told := time.Now()
	if err := r.cmd.Process.Signal(s); err != nil {
		t.Fatalf("signal: %v", err)
	}
	out := r.wait(t)
	if took := time.Since(told); took > promptly {
		t.Errorf("over %v after %v, want %v", took, s, promptly)
	}
	return out
}

// sockets returns the node's sockets of the kinds that the program opens, as
// the kernel lists them.
func sockets(t testing.TB, m *netlab.Machine) []string {
	t.Helper()
	var all []string
	err := m.Do(func() error {
		for _, kind := range []string{"packet", "raw", "raw6", "udp", "udp6", "icmp", "icmp6"} {
			b, err := os.ReadFile("/proc/thread-self/net/" + kind)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			lines := slices.Collect(strings.Lines(string(b)))
			for _, l := range lines[1:] { // the first one is the heading
				all = append(all, kind+": "+strings.TrimSpace(l))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("sockets: %v", err)
	}
	return all
}

// socketsLeft returns the sockets that stay. The kernel lets a packet socket go
// on a worker, an RCU grace period and whatever else waits for that worker
// later.
func socketsLeft(t testing.TB, m *netlab.Machine) []string {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		left := sockets(t, m)
		if len(left) == 0 || time.Now().After(end) {
			return left
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestProofInterrupted stops the wait for a proof: the verdict that there is
// already is printed.
func TestProofInterrupted(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, netlab.Chain(1).WithRules("server", tcp80(netlab.Input, netlab.Drop)))
	client, server := lab.Node("client"), lab.Node("server")
	fragments := server.Count(netlab.Rule{Hook: netlab.Ingress, Only: netlab.IPv4, Fragment: true})
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	r := start(t, client, client.Command(ctx, binary(), "-n", "--json", "--prove", lab.Addr("server", netlab.IPv4).String(), "80"))
	eventually(t, "a fragment", func() bool { return fragments.Packets() > 0 })
	out := r.stop(t, syscall.SIGINT)
	got, err := parse(out.Stdout)
	if err != nil || len(got) != 1 || out.Exit != exitCodes["drop"] || got[0].Verdict != "drop" || got[0].Cause != "host-firewall" {
		t.Errorf("exit %d, %v\n%s%s", out.Exit, err, out.Stdout, out.Stderr)
	}
	if left := socketsLeft(t, client); len(left) != 0 {
		t.Errorf("sockets are left: %v", left)
	}
}

// TestInterrupted stops a silent run: it ends at once, says what it knows, and
// leaves nothing.
func TestInterrupted(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, mixed)
	client, server := lab.Node("client"), lab.Node("server")
	count := server.CountSYN(83)

	for _, c := range []struct {
		signal syscall.Signal
		f      netlab.Family
		args   []string
		check  func(out netlab.Result) error
	}{
		{syscall.SIGINT, netlab.IPv4, nil, text},
		{syscall.SIGTERM, netlab.IPv6, nil, text},
		{syscall.SIGINT, netlab.IPv6, []string{"--json"}, object},
		{syscall.SIGTERM, netlab.IPv4, []string{"--json"}, object},
		{syscall.SIGINT, netlab.IPv4, []string{"-q"}, func(out netlab.Result) error {
			if out.Stdout != "" || !strings.HasPrefix(out.Stderr, "synprobe: interrupted") {
				return errors.New("no word of it on stderr alone")
			}
			return nil
		}},
		{syscall.SIGINT, netlab.IPv4, []string{"-v"}, text},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), hang)
		before := count.Packets()
		argv := append([]string{"-n", "--source-port", "4083", lab.Addr("server", c.f).String(), "83"}, c.args...)
		r := start(t, client, client.Command(ctx, binary(), argv...))
		eventually(t, "a SYN", func() bool { return count.Packets() > before })
		if len(sockets(t, client)) == 0 {
			t.Error("no sockets while it runs: the check for sockets left is worth nothing")
		}
		out := r.stop(t, c.signal)
		cancel()
		if out.Exit != 130 {
			t.Errorf("%v, %v %v: exit %d, want 130", c.signal, c.f, c.args, out.Exit)
		}
		if err := c.check(out); err != nil {
			t.Errorf("%v, %v %v: %v\n%s%s", c.signal, c.f, c.args, err, out.Stdout, out.Stderr)
		}
		nothingLeft(t, client, 4083)
	}
}

// TestInterruptedTwice signals again at once, as timeout(1) does, which tells the
// program and then its group: what is known is told all the same.
func TestInterruptedTwice(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, mixed)
	client, server := lab.Node("client"), lab.Node("server")
	count := server.CountSYN(83)
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	r := start(t, client, client.Command(ctx, binary(), "-n", lab.Addr("server", netlab.IPv4).String(), "83"))
	eventually(t, "a SYN", func() bool { return count.Packets() > 0 })
	for first := time.Now(); time.Since(first) < 20*time.Millisecond; {
		if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
	}
	out := r.wait(t)
	if err := text(out); err != nil || out.Exit != 130 {
		t.Errorf("exit %d, want 130, %v\n%s%s", out.Exit, err, out.Stdout, out.Stderr)
	}
}

// nothingLeft looks for what a run must give back.
func nothingLeft(t *testing.T, m *netlab.Machine, port int) {
	t.Helper()
	if left := socketsLeft(t, m); len(left) != 0 {
		t.Errorf("sockets are left: %v", left)
	}
	err := m.Do(func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		return l.Close()
	})
	if err != nil {
		t.Errorf("the source port is not free: %v", err)
	}
}

// soFar is what is known of a silent port. Where the machine is busy, the signal
// finds that its path is traced already.
var soFar = regexp.MustCompile(`So far: SYN sent (1 time|[0-9]+ times), (no answer|ICMP [0-9/]+ \(time exceeded\))`)

func text(out netlab.Result) error {
	said, _ := apart(out.Stdout) // with -v the packets come first
	first, rest, _ := strings.Cut(said, "\n")
	switch {
	case !strings.HasPrefix(first, "INTERRUPTED  "):
		return errors.New("the text does not say so")
	case !soFar.MatchString(strings.Join(strings.Fields(rest), " ")):
		return errors.New("the text does not say what is known")
	case out.Stderr != "":
		return errors.New("stderr says it again")
	}
	return nil
}

func object(out netlab.Result) error {
	got, err := parse(out.Stdout)
	switch {
	case err != nil:
		return err
	case len(got) != 1:
		return fmt.Errorf("%d objects", len(got))
	case got[0].Verdict != "":
		return fmt.Errorf("a verdict %s without proof", got[0].Verdict)
	case got[0].Error == nil || got[0].Error.Kind != "interrupted":
		return errors.New("no error of kind interrupted")
	}
	return nil
}

// TestInterruptedTargets stops a run of several targets: those that are
// settled keep their answers.
func TestInterruptedTargets(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, mixed)
	client, server := lab.Node("client"), lab.Node("server")
	count := server.CountSYN(83)
	v4 := lab.Addr("server", netlab.IPv4).String()
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	cmd := client.Command(ctx, binary(), "-n", "--json", v4+":80", v4+":83", v4+":81")
	first, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, client, cmd)
	// The open port's line comes while the silent one still has no answer.
	line := make([]byte, 1<<16)
	n, err := first.Read(line)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	eventually(t, "a SYN", func() bool { return count.Packets() > 0 })
	rest := make(chan string, 1)
	go func() {
		var b bytes.Buffer
		_, _ = b.ReadFrom(first)
		rest <- b.String()
	}()
	told := time.Now()
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	// All must be read before Wait, which closes the pipe.
	stdout := string(line[:n]) + <-rest
	out := r.wait(t)
	if took := time.Since(told); took > promptly {
		t.Errorf("over %v after the signal, want %v", took, promptly)
	}
	got, err := parse(stdout)
	if err != nil || len(got) != 3 || out.Exit != 130 {
		t.Fatalf("exit %d, want 130, and %d of 3 objects: %v\n%s%s", out.Exit, len(got), err, stdout, out.Stderr)
	}
	if got[0].Verdict != "open" || got[1].Error == nil || got[1].Error.Kind != "interrupted" {
		t.Errorf("the open port or the silent one is wrong:\n%s", stdout)
	}
	if left := socketsLeft(t, client); len(left) != 0 {
		t.Errorf("sockets are left: %v", left)
	}
}

// TestReaderGone closes the pipe that the program writes to before it writes.
func TestReaderGone(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, mixed)
	client := lab.Node("client")
	v4 := lab.Addr("server", netlab.IPv4).String()
	for _, c := range []struct {
		argv   []string
		exit   int
		within time.Duration
	}{
		{[]string{v4, "80"}, 0, quick},
		{[]string{"--json", v4, "81"}, 1, quick},
		// No verdict is known where the first packet had no reader: 0 would be
		// one.
		{[]string{"-v", v4, "83"}, 130, promptly},
		// Nobody reads the answers: those that are not known yet are not
		// waited for.
		{[]string{v4 + ":80", v4 + ":83", v4 + ":83"}, 0, promptly},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), hang)
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := client.Command(ctx, binary(), append([]string{"-n"}, c.argv...)...)
		cmd.Stdout = writer
		if err := reader.Close(); err != nil {
			t.Fatal(err)
		}
		r := start(t, client, cmd)
		writer.Close()
		out := r.wait(t)
		cancel()
		if out.Exit != c.exit || out.Stderr != "" {
			t.Errorf("%v: exit %d, want %d, and stderr %q", c.argv, out.Exit, c.exit, out.Stderr)
		}
		if out.Elapsed > c.within+slack {
			t.Errorf("%v: took %v", c.argv, out.Elapsed)
		}
		if left := socketsLeft(t, client); len(left) != 0 {
			t.Errorf("%v: sockets are left: %v", c.argv, left)
		}
	}
}

// TestFullDisk writes to a device that has no room.
func TestFullDisk(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, mixed)
	client := lab.Node("client")
	v4 := lab.Addr("server", netlab.IPv4).String()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, argv := range [][]string{{v4, "80"}, {"--json", v4, "81"}, {"-q", v4 + ":80", v4 + ":81"}} {
		ctx, cancel := context.WithTimeout(t.Context(), hang)
		cmd := client.Command(ctx, binary(), append([]string{"-n"}, argv...)...)
		cmd.Stdout = full
		out := start(t, client, cmd).wait(t)
		cancel()
		if out.Exit != 74 || out.Stderr != "synprobe: write to standard output: no space left on device\n" {
			t.Errorf("%v: exit %d, want 74, and stderr %q", argv, out.Exit, out.Stderr)
		}
	}
}
