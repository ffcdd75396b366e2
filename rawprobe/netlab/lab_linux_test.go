package netlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// silence is how long a connection attempt must go unanswered to count as
// silent here: everything is on one machine, and the first retransmission of a
// SYN, at 1 s, stays out of it.
const silence = 300 * time.Millisecond

var families = []Family{IPv4, IPv6}

// connect connects from m by TCP and returns what the other side said, or the
// errno that it failed with; ETIMEDOUT stands for silence.
func connect(m *Machine, to netip.Addr, port uint16) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), silence)
	defer cancel()
	c, err := m.Dial(ctx, netip.AddrPortFrom(to, port))
	if ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return "", unix.ETIMEDOUT
	}
	if err != nil {
		var errno syscall.Errno
		if errors.As(err, &errno) {
			return "", errno
		}
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

// wantConnect checks that a connection in both families does as said: want is
// the name of the node that answers, or an errno.
func wantConnect(t *testing.T, l *Lab, from, to string, port uint16, want any) {
	t.Helper()
	for _, f := range families {
		wantFamily(t, l, f, from, to, port, want)
	}
}

func wantFamily(t *testing.T, l *Lab, f Family, from, to string, port uint16, want any) {
	t.Helper()
	name, err := connect(l.Node(from), l.Addr(to, f), port)
	var got any = name
	if err != nil {
		got = err
	}
	if got != want {
		t.Errorf("%s: %s to %s port %d: got %v, want %v", f, from, to, port, got, want)
	}
}

func TestChain(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	l := Start(t, Chain(3))
	t.Logf("built in %v", time.Since(begin))
	wantConnect(t, l, "client", "server", 80, "server")
	wantConnect(t, l, "client", "server", 81, unix.ECONNREFUSED)
	wantConnect(t, l, "server", "client", 81, unix.ECONNREFUSED)
	wantConnect(t, l, "client", "r2", 81, unix.ECONNREFUSED)
	wantConnect(t, l, "server", "server", 80, "server")
	for name, want := range map[string]string{"client": "10.0.1.1 fd00:0:0:1::1", "r2": "10.0.2.2 fd00:0:0:2::2", "server": "10.0.4.2 fd00:0:0:4::2"} {
		if got := fmt.Sprint(l.Addr(name, IPv4), " ", l.Addr(name, IPv6)); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	l := Start(t, Chain(1))
	cmd := l.Node("client").Command(t.Context(), "/bin/sh", "-c", "grep -c : /proc/net/if_inet6; id -u; echo oops >&2; exit 7")
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	r, err := l.Node("client").Run(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(r.Stdout, "65534\n") || r.Stderr != "oops\n" || r.Exit != 7 {
		t.Errorf("got %+v", r)
	}
	if _, err := l.Node("client").Run(exec.Command("/nonexistent")); err == nil {
		t.Error("a program that does not exist ran")
	}
}

func TestRuleActions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		rule Rule
		want any
	}{
		{"drop", Rule{Action: Drop}, unix.ETIMEDOUT},
		{"accept", Rule{Action: Accept}, "server"},
		{"count", Rule{Action: Count}, "server"},
		{"reset", Rule{Action: Reset}, unix.ECONNREFUSED},
		{"port", Rule{Action: RejectPort}, unix.ECONNREFUSED},
		{"host", Rule{Action: RejectHost}, unix.EHOSTUNREACH},
		{"net4", Rule{Action: RejectNet, Only: IPv4}, unix.ENETUNREACH},
		{"net6", Rule{Action: RejectNet, Only: IPv6}, unix.ENETUNREACH},
		{"admin4", Rule{Action: RejectAdmin, Only: IPv4}, unix.EHOSTUNREACH},
		{"admin6", Rule{Action: RejectAdmin, Only: IPv6}, unix.EACCES},
		{"hostadmin4", Rule{Action: RejectHostAdmin, Only: IPv4}, unix.EHOSTUNREACH},
		{"netadmin4", Rule{Action: RejectNetAdmin, Only: IPv4}, unix.ENETUNREACH},
		{"proto4", Rule{Action: RejectProto, Only: IPv4}, unix.ENOPROTOOPT},
		{"policy6", Rule{Action: RejectPolicyFail, Only: IPv6}, unix.EACCES},
		{"route6", Rule{Action: RejectRoute, Only: IPv6}, unix.EACCES},
	} {
		for _, hook := range []Hook{Ingress, Prerouting, Forward} {
			t.Run(tt.name+"/"+hook.String(), func(t *testing.T) {
				t.Parallel()
				rule := tt.rule
				rule.Name, rule.Hook, rule.Proto, rule.DstPort = "it", hook, TCP, 80
				l := Start(t, Chain(1).WithListen("server", "tcp:81").WithRules("r1", rule))
				for _, f := range families {
					want := tt.want
					if rule.Only != 0 && rule.Only != f {
						want = "server"
					}
					wantFamily(t, l, f, "client", "server", 80, want)
				}
				wantConnect(t, l, "client", "server", 81, "server")
				if l.Node("r1").Hits("it") == 0 {
					t.Error("the rule counted nothing")
				}
			})
		}
	}
}
