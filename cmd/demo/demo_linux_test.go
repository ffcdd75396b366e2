package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"synprobe/rawprobe/netlab"
)

// hang bounds what must end by itself: far beyond any promise.
const hang = 2 * time.Minute

// built is the directory that binaries has made, "" where it was not called.
var built string

// binaries builds both programs once, as make demo does, and returns their
// directory.
var binaries = sync.OnceValue(func() string {
	dir, err := os.MkdirTemp("", "synprobe-demo")
	if err != nil {
		panic(err)
	}
	built = dir
	// Others must be able to run them, for the test without privilege.
	if err := os.Chmod(dir, 0o755); err != nil {
		panic(err)
	}
	build := exec.Command("go", "build", "-o", dir+"/", ".", "../synprobe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("build: %v\n%s", err, out))
	}
	return dir
})

func TestMain(m *testing.M) {
	code := netlab.Main(m)
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

type fault struct {
	Where string
	Hops  []struct {
		Address   string
		Addresses []string
	}
}

// TestScenes holds what each scene promises against the program's JSON: the
// verdict, the cause, and that what the drawing calls broken is among the
// suspects.
func TestScenes(t *testing.T) {
	netlab.Require(t)
	for _, s := range scenes() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), hang)
			defer cancel()
			lab := netlab.Start(t, s.net)
			a := s.probe(ctx, lab, filepath.Join(binaries(), "synprobe"), "--json", "-n")
			if a.err != nil {
				t.Fatal(a.err)
			}
			var got struct {
				Verdict, Cause string
				Fault          *fault
				Alternatives   []struct {
					Cause string
					Fault *fault
				}
			}
			if err := json.Unmarshal([]byte(a.out.Stdout), &got); err != nil {
				t.Fatalf("%v\n%s%s", err, a.out.Stdout, a.out.Stderr)
			}
			if got.Verdict != string(s.verdict) || got.Cause != string(s.cause) {
				t.Errorf("%s, %s; it promises %s, %s", got.Verdict, got.Cause, s.verdict, s.cause)
			}
			suspects := []*fault{got.Fault}
			for _, o := range got.Alternatives {
				suspects = append(suspects, o.Fault)
			}
			for _, name := range broken(s) {
				if !slices.ContainsFunc(suspects, func(f *fault) bool { return f.names(lab.Plan.Node(name)) }) {
					t.Errorf("%s is broken, and not among the suspects", name)
				}
			}
			if t.Failed() {
				t.Logf("%s\n%s%s", a.command, a.out.Stdout, a.out.Stderr)
			}
		})
	}
}

// names reports whether a node is among the suspects.
func (f *fault) names(n *netlab.PlanNode) bool {
	if f == nil {
		return false
	}
	if f.Where == "local" && n.Name == "client" {
		return true
	}
	for _, h := range f.Hops {
		for _, i := range n.Interfaces {
			for _, p := range i.Addrs {
				if a := p.Addr().String(); a == h.Address || slices.Contains(h.Addresses, a) {
					return true
				}
			}
		}
	}
	return false
}

// A traced program has a word of its own in its environment, which all that it
// starts inherits.
type traced struct {
	*exec.Cmd
	stdout, stderr bytes.Buffer
	word, tmp      string
}

// command returns the demo, not yet started.
func command(t *testing.T, args ...string) *traced {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	t.Cleanup(cancel)
	c := &traced{Cmd: exec.CommandContext(ctx, filepath.Join(binaries(), "demo"), args...), tmp: t.TempDir()}
	c.word = fmt.Sprintf("SYNPROBE_DEMO_TEST=%d %s", os.Getpid(), t.Name())
	c.Env = append(os.Environ(), c.word, "TMPDIR="+c.tmp, "LC_ALL=C")
	c.Stdout, c.Stderr = &c.stdout, &c.stderr
	// A Ctrl-C on a terminal is for the whole group.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return c
}

// children are the processes that have the word, and the namespaces that those
// other than the program itself are in.
func (c *traced) children(t *testing.T) (pids, namespaces []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range all {
		// Any of them may be gone since it was listed.
		env, err := os.ReadFile(dir + "/environ")
		if err != nil || !slices.Contains(strings.Split(string(env), "\x00"), c.word) {
			continue
		}
		pids = append(pids, filepath.Base(dir))
		if ns, err := os.Readlink(dir + "/ns/net"); err == nil && ns != own {
			namespaces = append(namespaces, ns)
		}
	}
	return pids, namespaces
}

// nothingLeft looks for what an ended program has left: processes, files, and
// whatever keeps namespaces alive, which is a process, in it or with a descriptor
// of it, or a mount. Descriptors of others are no evidence: the kernel gives a
// namespace's number away again, and other tests make namespaces too.
func (c *traced) nothingLeft(t *testing.T, namespaces []string) {
	t.Helper()
	if pids, _ := c.children(t); len(pids) > 0 {
		t.Errorf("processes live on: %v", pids)
	}
	if files, err := os.ReadDir(c.tmp); err != nil || len(files) > 0 {
		t.Errorf("temporary files: %v, %v", files, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range namespaces {
		if bytes.Contains(mounts, []byte(ns)) {
			t.Errorf("%s is mounted", ns)
		}
	}
}

// TestDemo runs all of it, as make demo does but for the terminal.
func TestDemo(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	c := command(t)
	if err := c.Run(); err != nil || c.stderr.Len() > 0 {
		t.Errorf("%v\n%s", err, c.stderr.String())
	}
	text := c.stdout.String()
	if strings.ContainsFunc(text, func(r rune) bool { return r == '\x1b' || r > 127 }) {
		t.Error("colour, or more than ASCII, in a file")
	}
	rest := text
	for i, s := range scenes() {
		_, block, found := strings.Cut(rest, fmt.Sprintf("== %d of %d, %s: %s, %s =", i+1, len(scenes()), s.name, s.verdict, s.cause))
		if !found {
			t.Errorf("no scene %s behind those before it", s.name)
			continue
		}
		rest = block
		block, _, _ = strings.Cut(block, "\n== ")
		for _, want := range []string{"\n   " + s.title + "\n", "client", " -- ", "\n\n$ synprobe ", "\n" + strings.ToUpper(string(s.verdict)) + "  "} {
			var found bool
			if _, block, found = strings.Cut(block, want); !found {
				t.Errorf("scene %s: no %q where it belongs", s.name, want)
			}
		}
	}
	if !strings.HasPrefix(rest[max(strings.LastIndex(rest, "\n\n"), 0):], fmt.Sprintf("\n\n%d scenes in ", len(scenes()))) {
		t.Errorf("it ends with %q", rest[max(len(rest)-100, 0):])
	}
	if t.Failed() {
		t.Log(text)
	}
	c.nothingLeft(t, nil)
}

// TestInterrupted presses Ctrl-C while scenes run.
func TestInterrupted(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	c := command(t, "--scene", "host-drops", "--scene", "just-died", "--scene", "host-off-routed")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var seen []string
	for end := time.Now().Add(hang); len(seen) < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain for synprobe in three networks", hang)
		}
		_, seen = c.children(t)
	}
	if err := syscall.Kill(-c.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := c.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitInterrupted {
		t.Errorf("%v, want exit %d", err, exitInterrupted)
	}
	if c.stdout.Len() > 0 || c.stderr.String() != "demo: interrupted; the networks are taken down\n" {
		t.Errorf("%s%s", c.stdout.String(), c.stderr.String())
	}
	c.nothingLeft(t, seen)
}

// TestUnprivileged: who is not root is told so.
func TestUnprivileged(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root: there is no other user to be")
	}
	t.Parallel()
	c := command(t)
	c.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	var exit *exec.ExitError
	if err := c.Run(); !errors.As(err, &exit) || exit.ExitCode() != exitRoot || !strings.HasPrefix(c.stderr.String(), "demo: needs root") {
		t.Errorf("%v, want exit %d\n%s", err, exitRoot, c.stderr.String())
	}
	if c.stdout.Len() > 0 {
		t.Errorf("%s", c.stdout.String())
	}

	out, err := exec.Command("make", "-C", "../..", "demo", "ROOT=").CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("LAB") == "" {
		t.Skip("there is no make")
	}
	if err == nil || !strings.Contains(string(out), "make demo: needs root") || strings.Contains(string(out), "go build") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestTerminal: on a terminal there is colour, and NO_COLOR takes it away.
func TestTerminal(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	for _, colour := range []bool{true, false} {
		master, slave := terminal(t)
		c := command(t, "--scene", "open")
		c.Env = append(c.Env, "TERM=xterm", "NO_COLOR=")
		if !colour {
			c.Env = append(c.Env, "NO_COLOR=1")
		}
		c.Stdout = slave
		if err := c.Run(); err != nil {
			t.Fatalf("%v\n%s", err, c.stderr.String())
		}
		slave.Close()
		// What was written stays to be read; then comes EIO, for nobody has the
		// other side open.
		var text []byte
		for buf := make([]byte, 4096); ; {
			n, err := master.Read(buf)
			text = append(text, buf[:n]...)
			if err != nil {
				break
			}
		}
		for _, s := range []string{"\x1b[1m== 1 of 1, open", "\x1b[1;32mOPEN\x1b[0m  10.0.3.2"} {
			if bytes.Contains(text, []byte(s)) != colour {
				t.Errorf("colour %v: %q", colour, text)
			}
		}
		if !bytes.Contains(text, []byte("Port 80 is open.")) {
			t.Errorf("%q", text)
		}
	}
}

// terminal opens a new pseudo terminal; see pts(4).
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}
