package main

import (
	"context"
	"fmt"
	"go/ast"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"synprobe/rawprobe/netlab"
)

// A thread is what the kernel says of one thread's rights, in the words of
// proc_pid_status(5).
type thread map[string]string

// threads reads all threads of a process, nil where it has ended.
func threads(pid int) []thread {
	paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	var all []thread
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			continue // it has ended
		}
		th := make(thread)
		for line := range strings.Lines(string(b)) {
			name, value, _ := strings.Cut(line, ":")
			th[name] = strings.Join(strings.Fields(value), " ")
		}
		all = append(all, th)
	}
	return all
}

// rights are the lines that count.
func (t thread) rights() string {
	var s []string
	for _, name := range []string{"Uid", "Gid", "Groups", "NoNewPrivs", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		s = append(s, name+" "+t[name])
	}
	return strings.Join(s, ", ")
}

// held is the set of capabilities of a line.
func (t thread) held(name string) uint64 {
	n, err := strconv.ParseUint(t[name], 16, 64)
	if err != nil {
		return ^uint64(0)
	}
	return n
}

// capBounding reports whether this process may itself empty a bounding set: where
// it may not, neither may what it starts.
func capBounding(t *testing.T) bool {
	t.Helper()
	for _, th := range threads(os.Getpid()) {
		return th.held("CapEff")&(1<<unix.CAP_SETPCAP) != 0
	}
	t.Fatal("/proc does not show this process")
	return false
}

// setuid is a copy of the program that becomes root for whoever executes it.
var setuid = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(binary()), "setuid", "synprobe")
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	// Not by this process: see capable.
	if out, err := exec.Command("cp", binary(), path).CombinedOutput(); err != nil {
		return "", fmt.Errorf("copy: %w: %s", err, out)
	}
	return path, os.Chmod(path, 0o755|os.ModeSetuid)
})

// TestLeastPrivilege looks at every thread of the built program while it waits
// for an answer that never comes: it is the calling user's, and has no
// capability any more.
func TestLeastPrivilege(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	withFile, err := capable()
	if err != nil {
		t.Fatal(err)
	}
	withBit, err := setuid()
	if err != nil {
		t.Fatal(err)
	}
	bounding := capBounding(t)
	lab := netlab.Start(t, netlab.Chain(1).WithRules("server", tcp80(netlab.Input, netlab.Drop)))
	client, server := lab.Node("client"), lab.Node("server")

	const root, user, group = 0, 12345, 23456
	sudo := func(uid, gid string) []string { return []string{"SUDO_UID=" + uid, "SUDO_GID=" + gid} }
	for i, c := range []struct {
		name     string
		path     string
		env      []string
		uid      uint32
		args     []string
		families []netlab.Family
		user     int
		group    int
		groups   string
	}{
		{"sudo", binary(), sudo("12345", "23456"), root, nil, both, user, group, ""},
		{"sudo, a reserved source port", binary(), sudo("12345", "23456"), root, []string{"--source-port", "81"}, both[:1], user, group, ""},
		{"sudo, another target before", binary(), sudo("12345", "23456"), root, []string{"%s:81"}, both[:1], user, group, ""},
		{"root", binary(), nil, root, nil, both[:1], root, root, "4 27"},
		{"the capability of the file", withFile, nil, nobody, nil, both, nobody, nobody, "4 27"},
		{"a user who says to be another", withFile, sudo("12345", "23456"), nobody, nil, both[:1], nobody, nobody, "4 27"},
		{"the set-uid bit", withBit, nil, nobody, nil, both[:1], nobody, nobody, "4 27"},
		{"the set-uid bit, and a user who says to be another", withBit, sudo("12345", "23456"), nobody, nil, both[1:], nobody, nobody, "4 27"},
		{"sudo by root", binary(), sudo("0", "0"), root, nil, both[:1], root, root, "4 27"},
		{"no number", binary(), sudo("me", "us"), root, nil, both[:1], root, root, "4 27"},
		{"no group", binary(), []string{"SUDO_UID=12345"}, root, nil, both[:1], root, root, "4 27"},
		{"no user", binary(), []string{"SUDO_GID=23456"}, root, nil, both[:1], root, root, "4 27"},
		{"empty", binary(), sudo("", ""), root, nil, both[:1], root, root, "4 27"},
		{"negative", binary(), sudo("-1", "-1"), root, nil, both[:1], root, root, "4 27"},
		{"nobody's number", binary(), sudo("4294967295", "23456"), root, nil, both[:1], root, root, "4 27"},
		{"more than 32 bits", binary(), sudo("4294979641", "23456"), root, nil, both[:1], root, root, "4 27"},
		{"more than 64 bits", binary(), sudo("18446744073709563961", "23456"), root, nil, both[:1], root, root, "4 27"},
		{"a group of more than 32 bits", binary(), sudo("12345", "4294990752"), root, nil, both[:1], root, root, "4 27"},
	} {
		for _, f := range c.families {
			t.Run(c.name+"/"+f.String(), func(t *testing.T) {
				t.Parallel()
				// Each asks from a port of its own, to know its SYN by.
				port := uint16(5000 + 2*i)
				if f == netlab.IPv6 {
					port++
				}
				if slices.Contains(c.args, "--source-port") {
					port = 81
				}
				syn := server.Count(netlab.Rule{Hook: netlab.Ingress, Proto: netlab.TCP, SrcPort: port, DstPort: 80, Flags: netlab.SYN})
				address := lab.Addr("server", f).String()
				argv := []string{"-n", "--json", fmt.Sprintf("--source-port=%d", port)}
				target := []string{address, "80"}
				if len(c.args) == 1 {
					argv, target = append(argv, fmt.Sprintf(c.args[0], address)), []string{address + ":80"}
				}
				ctx, cancel := context.WithTimeout(t.Context(), hang)
				defer cancel()
				cmd := client.Command(ctx, c.path, append(argv, target...)...)
				cmd.Dir = "/"
				cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "SUDO_") }), c.env...)
				cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.uid, Gid: c.uid, Groups: []uint32{4, 27}}
				r := start(t, client, cmd)

				id := func(n int) string { return strings.TrimSuffix(strings.Repeat(fmt.Sprintf("%d ", n), 4), " ") }
				check := func(all []thread, allowed uint64) (wrong []string) {
					for _, th := range all {
						if th["Uid"] != id(c.user) || th["Gid"] != id(c.group) || th["Groups"] != c.groups || th["NoNewPrivs"] != "1" ||
							th.held("CapInh") != 0 || th.held("CapAmb") != 0 || th.held("CapPrm")&^allowed != 0 || th.held("CapEff")&^allowed != 0 {
							wrong = append(wrong, th.rights())
						}
					}
					return wrong
				}
				eventually(t, "a SYN", func() bool { return syn.Packets() > 0 })
				all := threads(cmd.Process.Pid)
				if len(all) < 2 {
					t.Fatalf("%d threads: it has ended, or this test looks at the wrong process\n%s%s", len(all), &r.stdout, &r.stderr)
				}
				// What empties the bounding set is still there.
				if wrong := check(all, 1<<unix.CAP_SETPCAP); wrong != nil {
					t.Errorf("with the first SYN:\n%s", strings.Join(wrong, "\n"))
				}
				// The bounding set stays with who could not change it.
				empties := bounding && c.path != withFile
				eventually(t, "the end of all rights", func() bool {
					all = threads(cmd.Process.Pid)
					for _, th := range all {
						if th.held("CapPrm") != 0 || empties && th.held("CapBnd") != 0 {
							return false
						}
					}
					return true
				})
				if len(all) < 2 {
					t.Fatalf("%d threads: it ended before it had given up all\n%s%s", len(all), &r.stdout, &r.stderr)
				}
				if wrong := check(all, 0); wrong != nil {
					t.Errorf("while it waits:\n%s", strings.Join(wrong, "\n"))
				}
				out := r.wait(t)
				got, err := parse(out.Stdout)
				if err != nil || len(got) == 0 || got[len(got)-1].Verdict != "drop" || out.Exit != 3 || out.Stderr != "" {
					t.Errorf("exit %d, %v\n%s%s", out.Exit, err, out.Stdout, out.Stderr)
				}
			})
		}
	}
}

// TestLastSockets has several targets, of which the last one's sockets are
// opened late: until then the others wait with the right to open them, and then
// none has any.
func TestLastSockets(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, netlab.Chain(0).WithRules("server", netlab.Rule{Hook: netlab.Input, Proto: netlab.TCP, Action: netlab.Drop}))
	client, server := lab.Node("client"), lab.Node("server")
	first, last := server.CountSYN(81), server.CountSYN(83)
	address := lab.Addr("server", netlab.IPv4).String()
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	cmd := client.Command(ctx, binary(), "-n", "-q", "--timeout=2s", address+":81", address+":82", address+":83")
	r := start(t, client, cmd)
	// Two at once: the third waits for the end of one of them.
	eventually(t, "a SYN to the first", func() bool { return first.Packets() > 0 })
	for _, th := range threads(cmd.Process.Pid) {
		if th.held("CapPrm")&(1<<unix.CAP_NET_RAW) == 0 {
			t.Errorf("it can't open sockets any more: %s", th.rights())
		}
		if other := th.held("CapPrm") &^ (1<<unix.CAP_NET_RAW | 1<<unix.CAP_SETPCAP); other != 0 || th["NoNewPrivs"] != "1" {
			t.Errorf("before the last target: %s", th.rights())
		}
	}
	eventually(t, "a SYN to the last", func() bool { return last.Packets() > 0 })
	all := threads(cmd.Process.Pid)
	if len(all) == 0 {
		t.Error("it ended too soon to be looked at")
	}
	for _, th := range all {
		if th.held("CapPrm") != 0 || th.held("CapEff") != 0 {
			t.Errorf("after the last target's sockets: %s", th.rights())
		}
	}
	if out := r.wait(t); out.Exit != 3 || strings.Count(out.Stdout, "drop ") != 3 {
		t.Errorf("exit %d\n%s%s", out.Exit, out.Stdout, out.Stderr)
	}
}

// TestLastSocketsOfMany looks at a run with many targets, whose sockets are open
// before the first SYN leaves.
func TestLastSocketsOfMany(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, netlab.Chain(0).WithRules("server", netlab.Rule{Hook: netlab.Input, Proto: netlab.TCP, Action: netlab.Drop}))
	client, server := lab.Node("client"), lab.Node("server")
	arrived := server.Count(netlab.Rule{Proto: netlab.TCP, Flags: netlab.SYN})
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	cmd := client.Command(ctx, binary(), "-q", lab.Addr("server", netlab.IPv4).String()+":81-90")
	r := start(t, client, cmd)
	eventually(t, "a SYN", func() bool { return arrived.Packets() > 0 })
	// What the bounding set takes goes a moment later.
	eventually(t, "all capabilities gone while it runs", func() bool {
		all := threads(cmd.Process.Pid)
		return len(all) > 0 && !slices.ContainsFunc(all, func(th thread) bool { return th.held("CapPrm") != 0 || th.held("CapEff") != 0 })
	})
	if out := r.wait(t); out.Exit != 3 || strings.Count(out.Stdout, "drop ") != 10 {
		t.Errorf("exit %d\n%s%s", out.Exit, out.Stdout, out.Stderr)
	}
}

// TestNoPrograms looks in the source for what a trace of one run may miss: ways to
// run a program, and to have the environment choose a file.
func TestNoPrograms(t *testing.T) {
	getenv := []string{"cmd/synprobe/internal/cli/live.go", "rawprobe/privilege_linux.go"}
	asked := 0
	for _, f := range source(t) {
		if f.test() || f.in("rawprobe/netlab") || f.in("cmd/demo") {
			continue
		}
		for _, i := range f.Imports {
			if i.Path.Value == `"os/exec"` || i.Path.Value == `"plugin"` {
				f.errorf(t, i, "it imports %s", i.Path.Value)
			}
		}
		f.uses("os", func(s *ast.SelectorExpr) {
			switch s.Sel.Name {
			case "Getenv":
				asked++
				if !slices.Contains(getenv, f.path) {
					f.errorf(t, s, "it asks the environment; only %v may", getenv)
				}
			case "StartProcess", "Environ", "LookupEnv", "ExpandEnv", "Expand", "TempDir", "UserHomeDir", "UserConfigDir", "UserCacheDir":
				f.errorf(t, s, "it uses os.%s", s.Sel.Name)
			}
		})
	}
	if asked == 0 {
		t.Error("nobody asks the environment: this test looks at the wrong files")
	}
}

// TestPoisonedEnvironment traces the program's system calls under an environment
// in which everything that ever named a program or a file to some program does:
// none is opened, and none is run.
func TestPoisonedEnvironment(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("NOT TESTED: there is no strace here to watch the program with")
	}
	lab := netlab.Start(t, mixed)
	client := lab.Node("client")
	const poison = "/poison-from-the-environment"
	env := []string{"LC_ALL=C.UTF-8", "TZ=:" + poison + "/zone", "GODEBUG=netdns=cgo+2", "RES_OPTIONS=debug", "LOCALDOMAIN=" + poison}
	for _, name := range []string{
		"PAGER", "LESSOPEN", "EDITOR", "VISUAL", "BROWSER", "SHELL", "SUDO_ASKPASS", "MTR_PACKET", "PATH", "HOME", "PWD", "TMPDIR", "TMP", "TEMP",
		"XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "HOSTALIASES", "RESOLV_HOST_CONF", "RESOLV_ADD_TRIM_DOMAINS", "NSS_PATH", "LOCPATH",
		"NLSPATH", "GCONV_PATH", "TERMINFO", "TERMCAP", "TZDIR", "ZONEINFO", "GOCOVERDIR", "GOROOT", "GOTMPDIR", "SSLKEYLOGFILE", "SSL_CERT_FILE",
		"SSL_CERT_DIR", "LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "MALLOC_TRACE", "SYNPROBE", "SYNPROBE_CONFIG", "SYNPROBERC", "XTABLES_LIBDIR",
	} {
		env = append(env, name+"="+poison+"/"+name)
	}
	for i, argv := range [][]string{
		{"-n", lab.Addr("server", netlab.IPv4).String(), "80"},
		{"-v", "-n", lab.Addr("server", netlab.IPv6).String(), "81"},
		{"--json", "localhost:1", "localhost:tcpmux"},
		{"-n", "--timeout=700ms", lab.Addr("server", netlab.IPv4).String(), "83"},
		{"--help"},
	} {
		for _, uid := range []string{"12345", "0x3039"} {
			log := filepath.Join(t.TempDir(), fmt.Sprintf("trace%d", i))
			ctx, cancel := context.WithTimeout(t.Context(), hang)
			args := []string{"-f", "-qq", "-s", "4096", "-e", "trace=%file,%process,prctl", "-o", log}
			for _, kv := range append(slices.Clone(env), "SUDO_UID="+uid, "SUDO_GID="+uid) {
				args = append(args, "-E", kv) // for the program alone: strace has an environment to go wrong by too
			}
			cmd := client.Command(ctx, strace, append(append(args, binary()), argv...)...)
			out, err := client.Run(cmd)
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(log)
			if err != nil {
				t.Fatalf("%v\n%s", err, out.Stderr)
			}
			trace := string(b)
			if n := strings.Count(trace, "execve("); n != 1 || strings.Contains(trace, "execveat(") {
				t.Errorf("%v: %d programs were executed, want 1", argv, n)
			}
			if n := strings.Count(trace, "clone("); strings.Count(trace, "CLONE_THREAD") != n || strings.Contains(trace, "clone3(") || strings.Contains(trace, "fork(") {
				t.Errorf("%v: it starts processes", argv)
			}
			if strings.Contains(trace, poison) || strings.Contains(out.Stdout+out.Stderr, poison) {
				t.Errorf("%v: the environment chose a file", argv)
			}
			// What this test looks for can be seen, and the program did its work.
			if !strings.Contains(trace, "PR_SET_NO_NEW_PRIVS") || !strings.Contains(trace, "\"/") || out.Exit < 0 || out.Exit == 70 {
				t.Errorf("%v: exit %d\n%s%s", argv, out.Exit, out.Stdout, out.Stderr)
			}
			if t.Failed() {
				t.Fatal(trace)
			}
		}
	}
}
