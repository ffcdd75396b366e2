package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"synprobe/rawprobe/netlab"
)

// nobody is a user without any rights.
const nobody = 65534

// as runs a copy of the program in a node as another user.
func as(t *testing.T, uid uint32, m *netlab.Machine, path string, argv ...string) netlab.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	cmd := m.Command(ctx, path, argv...)
	cmd.Dir = "/"
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	out, err := m.Run(cmd)
	if err != nil {
		t.Fatalf("run: %v", err)
	}
	return out
}

// needsUsers skips a test that changes to another user, or trusts the
// capabilities of a file, where there is one user only.
func needsUsers(t *testing.T) {
	t.Helper()
	if netlab.Rootless() {
		t.Skip("SKIPPED: not root: a user namespace has one user only")
	}
}

// TestUnprivileged asks as a user who has nothing but the file capability, and
// expects the answers that root gets.
func TestUnprivileged(t *testing.T) {
	netlab.Require(t)
	needsUsers(t)
	t.Parallel()
	path, err := capable()
	if err != nil {
		t.Fatal(err)
	}
	// One of each way in which the program uses the kernel.
	names := []string{
		"open", "closed", "host rejects with port-unreachable", "target behind a router is down", "target on the link is down",
		"own OUTPUT drops", "own OUTPUT rejects with a reset", "own INPUT drops the SYN-ACK", "own masquerade",
		"own route: prohibit", "link down", "loopback open", "policy route by port", "bound to an interface",
		"link-local target open", "tun open",
	}
	for _, name := range names {
		found := false
		for _, c := range labCases() {
			if c.name != name {
				continue
			}
			found = true
			for _, f := range both {
				if c.only != nil && !slices.Contains(c.only, f) {
					continue
				}
				t.Run(name+"/"+f.String(), func(t *testing.T) {
					t.Parallel()
					lab := netlab.Start(t, c.net)
					if c.setup != nil {
						c.setup(t, lab, f)
					}
					argv := []string{"--json"}
					if c.args != nil {
						argv = append(argv, c.args(lab, f)...)
					}
					address, port := lab.Addr("server", f).String(), 80
					if c.target != nil {
						address = c.target(lab, f)
					}
					if c.port != 0 {
						port = c.port
					}
					out := as(t, nobody, lab.Node("client"), path, append(argv, address, fmt.Sprint(port))...)
					got := decode(t, out)
					if len(got) != 1 || got[0].Error != nil || out.Stderr != "" {
						t.Fatalf("exit %d\n%s%s", out.Exit, out.Stdout, out.Stderr)
					}
					c.check(t, lab, f, got[0])
					if want := exitCodes[c.verdict]; out.Exit != want {
						t.Errorf("exit %d, want %d", out.Exit, want)
					}
					if t.Failed() {
						t.Log(out.Stdout)
					}
				})
			}
		}
		if !found {
			t.Errorf("there is no lab case %q any more", name)
		}
	}
}

// TestNotPermitted asks without any privilege: the error says how to get it,
// and not one packet leaves.
func TestNotPermitted(t *testing.T) {
	netlab.Require(t)
	needsUsers(t)
	t.Parallel()
	withCapability, err := capable()
	if err != nil {
		t.Fatal(err)
	}
	lab := netlab.Start(t, netlab.Chain(0))
	client := lab.Node("client")
	eth := listen(t, client, "eth0")

	const confined = "hint: the file has capabilities, but this process runs under no_new_privs, which makes the kernel ignore them\n"
	for _, c := range []struct {
		name string
		path string
		run  func(argv ...string) netlab.Result
		hint string
	}{
		{"without the capability", binary(), func(argv ...string) netlab.Result {
			return as(t, nobody, client, binary(), argv...)
		}, ""},
		{"under no_new_privs", withCapability, func(argv ...string) netlab.Result {
			s := surrounding{NoNewPrivs: true, User: nobody}
			return s.run(t, client, append([]string{withCapability}, argv...)...)
		}, confined},
	} {
		for _, f := range both {
			server := lab.Addr("server", f).String()
			eth.taken(t)
			out := c.run(server, "80")
			if out.Exit != 77 || out.Stdout != "" {
				t.Errorf("%s, %v: exit %d, want 77\n%s", c.name, f, out.Exit, out.Stdout)
			}
			want := "synprobe: open packet socket: operation not permitted\n" + c.hint +
				"hint: once, as root:     sudo " + c.path + " " + server + " 80\n" +
				"hint: or for every user: sudo setcap cap_net_raw+ep " + c.path + "\n"
			if out.Stderr != want {
				t.Errorf("%s, %v: stderr is\n%swant\n%s", c.name, f, out.Stderr, want)
			}

			out = c.run("--json", server, "80")
			got := decode(t, out)
			if out.Exit != 77 || len(got) != 1 || got[0].Error == nil || got[0].Error.Kind != "not-permitted" {
				t.Errorf("%s, %v: exit %d, want 77 and an error of kind not-permitted\n%s", c.name, f, out.Exit, out.Stdout)
			}
			if sent := eth.sent(t); len(sent) != 0 {
				t.Errorf("%s, %v: %d packets left: %v", c.name, f, len(sent), sent)
			}
		}
	}

	// What is missing for a low port is another capability.
	out := as(t, nobody, client, withCapability, "--source-port", "80", "10.0.1.2", "80")
	if out.Exit != 77 || strings.Contains(out.Stderr, "setcap") || strings.Contains(out.Stderr, "cap_net_raw") || !strings.Contains(out.Stderr, "source port 80") {
		t.Errorf("low source port: exit %d\n%s%s", out.Exit, out.Stdout, out.Stderr)
	}
	if sent := eth.sent(t); len(sent) != 0 {
		t.Errorf("low source port: %d packets left: %v", len(sent), sent)
	}

	// The hints come once, not for each target.
	out = as(t, nobody, client, binary(), "10.0.1.2:80", "10.0.1.2:81", "10.0.1.2:82")
	if n := strings.Count(out.Stderr, "setcap"); out.Exit != 77 || n != 1 {
		t.Errorf("three targets: exit %d, and %d hints\n%s", out.Exit, n, out.Stderr)
	}
	if sent := eth.sent(t); len(sent) != 0 {
		t.Errorf("three targets: %d packets left: %v", len(sent), sent)
	}
}
