package netlab

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// silence is how long a connection attempt must go unanswered to count as
// silent here. Over veth an ICMP error arrives while connect still holds the
// socket, and Linux then merely remembers it (tcp_v6_err); the SYN that is sent
// again after 1 s brings the one that ends the attempt.
const silence = 2500 * time.Millisecond

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
	var wg sync.WaitGroup
	for _, f := range families {
		wg.Go(func() { wantFamily(t, l, f, from, to, port, want) })
	}
	wg.Wait()
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

// These tests wait for the kernel's timers far more than they compute.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "20"); err != nil {
		panic(err)
	}
	os.Exit(Main(m))
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
	if Rootless() {
		t.Skip("SKIPPED: a user namespace has one user only")
	}
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

// Each action, at each hook that it can be asked for on the way, on a port of
// its own.
func TestRuleActions(t *testing.T) {
	t.Parallel()
	actions := []struct {
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
	}
	chain := Chain(1).
		// Many refusals at once to one client.
		WithSysctl("r1", "net.ipv4.icmp_ratelimit", "0").
		WithSysctl("r1", "net.ipv4.icmp_msgs_burst", "1000").
		WithSysctl("r1", "net.ipv6.icmp.ratelimit", "0")
	type check struct {
		name  string
		ports [3]uint16
		only  Family
		want  any
	}
	var checks []check
	port := uint16(1000)
	for _, a := range actions {
		c := check{name: a.name, only: a.rule.Only, want: a.want}
		for i, hook := range []Hook{Ingress, Prerouting, Forward} {
			rule := a.rule
			rule.Name, rule.Hook, rule.Proto, rule.DstPort = fmt.Sprint(a.name, hook), hook, TCP, port
			chain = chain.WithRules("r1", rule).WithListen("server", fmt.Sprint("tcp:", port))
			c.ports[i] = port
			port++
		}
		checks = append(checks, c)
	}
	l := Start(t, chain)
	var wg sync.WaitGroup
	for _, c := range checks {
		for i, hook := range []Hook{Ingress, Prerouting, Forward} {
			for _, f := range families {
				want := c.want
				if c.only != 0 && c.only != f {
					want = "server"
				}
				wg.Go(func() {
					name, err := connect(l.Node("client"), l.Addr("server", f), c.ports[i])
					var got any = name
					if err != nil {
						got = err
					}
					if got != want {
						t.Errorf("%s at %s, %s: got %v, want %v", c.name, hook, f, got, want)
					}
				})
			}
		}
	}
	wg.Wait()
	for _, c := range checks {
		for _, hook := range []Hook{Ingress, Prerouting, Forward} {
			if l.Node("r1").Hits(fmt.Sprint(c.name, hook)) == 0 {
				t.Errorf("%s at %s: the rule counted nothing", c.name, hook)
			}
		}
	}
}

func TestSpecialActions(t *testing.T) {
	t.Parallel()
	// The routers listen too: who answers tells where the SYN went.
	base := Chain(2).WithListen("r1", "tcp:8080").WithListen("r2", "tcp:80").WithListen("client", "tcp:8080")
	for _, tt := range []struct {
		name string
		t    Topology
		want any
	}{
		{"dnat", base.WithRules("r1", Rule{Hook: Prerouting, Proto: TCP, DstPort: 80, Action: DNAT, To: "r2"}), "r2"},
		{"redirect", base.WithRules("r1", Rule{Hook: Prerouting, Proto: TCP, DstPort: 80, Action: Redirect, ToPort: 8080}), "r1"},
		{"output dnat", base.WithRules("client", Rule{Hook: Output, Proto: TCP, DstPort: 80, Action: DNAT, To: "r1", ToPort: 8080}), "r1"},
		{"output redirect", base.WithRules("client", Rule{Hook: Output, Proto: TCP, DstPort: 80, Action: Redirect, ToPort: 8080}), "client"},
		{"synproxy", base.WithRules("r2", Rule{Hook: Forward, Proto: TCP, DstPort: 80, Action: SynProxy}), "server"},
		{"output reject", base.WithRules("client", Rule{Hook: Output, Proto: TCP, DstPort: 80, Action: Reset}), unix.ECONNREFUSED},
		{"input drop", base.WithRules("client", Rule{Hook: Input, Proto: TCP, SrcPort: 80, Action: Drop}), unix.ETIMEDOUT},
		{"egress drop", base.WithRules("r1", Rule{Hook: Egress, OutIface: "eth0", Flags: SYN | ACK, Proto: TCP, Action: Drop}), unix.ETIMEDOUT},
		{"stateful deny", base.WithRules("r1",
			Rule{Hook: Forward, State: CTEstablished | CTRelated, Action: Accept},
			Rule{Hook: Forward, State: CTInvalid, Action: Drop},
			Rule{Hook: Forward, Proto: TCP, DstPort: 80, State: CTNew, Src: "client", Dst: "server", Action: Accept},
			Rule{Hook: Forward, Action: Drop}), "server"},
		{"source elsewhere", base.WithRules("r1", Rule{Hook: Forward, Src: "r2", Action: Drop}), "server"},
		{"output drop kills icmp only", base.WithRules("server", Rule{Hook: Ingress, Proto: ICMP, Action: Drop}), "server"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			wantConnect(t, Start(t, tt.t), "client", "server", 80, tt.want)
		})
	}
}

func TestSynProxyHidesDrop(t *testing.T) {
	t.Parallel()
	l := Start(t, Chain(2).
		WithRules("r1", Rule{Hook: Forward, Proto: TCP, DstPort: 80, Action: SynProxy}).
		WithRules("server", Rule{Hook: Input, Proto: TCP, DstPort: 80, Action: Drop}))
	for _, f := range families {
		// The handshake succeeds although no SYN gets anywhere.
		ctx, cancel := context.WithTimeout(t.Context(), silence)
		c, err := l.Node("client").Dial(ctx, netip.AddrPortFrom(l.Addr("server", f), 80))
		cancel()
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		c.Close()
	}
}

func TestTranslateSource(t *testing.T) {
	t.Parallel()
	for _, rule := range []Rule{
		{Hook: Postrouting, OutIface: "eth1", Action: Masquerade},
		{Hook: Postrouting, OutIface: "eth1", Action: SNAT, To: "r1"},
	} {
		l := Start(t, Chain(1).WithRules("r1", rule))
		own := l.Node("server").Count(Rule{Proto: TCP, Src: "client"})
		any := l.Node("server").Count(Rule{Proto: TCP, DstPort: 80})
		wantConnect(t, l, "client", "server", 80, "server")
		if own.Packets() != 0 || any.Packets() == 0 {
			t.Errorf("action %d: %d packets of %d came from the client itself", rule.Action, own.Packets(), any.Packets())
		}
	}
}

// sendUDP sends n datagrams from the client.
func sendUDP(l *Lab, to netip.Addr, n int) error {
	return l.Node("client").Do(func() error {
		var sa unix.Sockaddr = &unix.SockaddrInet6{Port: 9, Addr: to.As16()}
		family := unix.AF_INET6
		if to.Is4() {
			sa, family = &unix.SockaddrInet4{Port: 9, Addr: to.As4()}, unix.AF_INET
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for range n {
			if err := unix.Sendto(fd, []byte("x"), 0, sa); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestLossAndLimit(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		rule     Rule
		min, max uint64 // of 30 that get through
	}{
		{"every", Rule{Every: 3}, 20, 20},
		{"phase", Rule{Every: 30, Phase: 29}, 29, 29},
		{"certain", Rule{Chance: 1}, 0, 0},
		{"half", Rule{Chance: 0.5}, 3, 27}, // all but 1 in 10^7 times
		{"within limit", Rule{Limit: Limit{Rate: 1, Per: time.Minute, Burst: 7}}, 23, 23},
		{"over limit", Rule{Limit: Limit{Rate: 1, Per: time.Hour, Burst: 7, Over: true}}, 7, 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.rule.Hook, tt.rule.Proto, tt.rule.DstPort = Forward, UDP, 9
			l := Start(t, Chain(1).WithRules("r1", tt.rule))
			for _, f := range families {
				l.Node("client").WarmNeighbor(l.Addr("server", f))
				l.Node("r1").WarmNeighbor(l.Addr("server", f))
				c := l.Node("server").Count(Rule{Only: f, Proto: UDP})
				if err := sendUDP(l, l.Addr("server", f), 30); err != nil {
					t.Error(err)
				}
				if n := c.Packets(); n < tt.min || n > tt.max {
					t.Errorf("%s: %d of 30 got through, want %d to %d", f, n, tt.min, tt.max)
				}
			}
		})
	}
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		node   string
		route  Route
		v4, v6 error
	}{
		{"no route here", "client", Route{To: "default", Type: NoRoute}, unix.ENETUNREACH, unix.ENETUNREACH},
		{"unreachable here", "client", Route{To: "server", Type: Unreachable}, unix.EHOSTUNREACH, unix.EHOSTUNREACH},
		{"prohibit here", "client", Route{To: "server", Type: Prohibit}, unix.EACCES, unix.EACCES},
		{"blackhole here", "client", Route{To: "server", Type: Blackhole}, unix.EINVAL, unix.EINVAL},
		{"no route there", "r1", Route{To: "server", Type: NoRoute}, unix.ENETUNREACH, unix.ENETUNREACH},
		{"unreachable there", "r2", Route{To: "server", Type: Unreachable}, unix.EHOSTUNREACH, unix.ENETUNREACH},
		{"prohibit there", "r1", Route{To: "server", Type: Prohibit}, unix.EHOSTUNREACH, unix.EACCES},
		{"blackhole there", "r1", Route{To: "server", Type: Blackhole}, unix.ETIMEDOUT, unix.ETIMEDOUT},
		{"loop", "r2", Route{To: "server", Next: []string{"r1"}}, unix.EHOSTUNREACH, unix.EHOSTUNREACH},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := Start(t, Chain(2).WithRoutes(tt.node, tt.route))
			wantFamily(t, l, IPv4, "client", "server", 80, tt.v4)
			wantFamily(t, l, IPv6, "client", "server", 80, tt.v6)
		})
	}
}

func TestRoutesAtRunTime(t *testing.T) {
	t.Parallel()
	l := Start(t, Chain(1))
	wantConnect(t, l, "client", "server", 80, "server")
	l.Node("client").AddRoute(Route{To: "server", Type: Prohibit})
	wantConnect(t, l, "client", "server", 80, unix.EACCES)
	l.Node("client").DelRoute("server")
	l.Node("client").DelRoute("default")
	wantConnect(t, l, "client", "server", 80, unix.ENETUNREACH)
	l.Node("client").AddRoute(Route{To: "default", Next: []string{"r1"}})
	wantConnect(t, l, "client", "server", 80, "server")
	l.Node("r1").Sysctl("net.ipv4.ip_forward", "0")
	wantFamily(t, l, IPv4, "client", "server", 80, unix.ETIMEDOUT)
}

func TestPolicyRouting(t *testing.T) {
	t.Parallel()
	l := Start(t, Diamond().WithListen("server", "tcp:81").With("r1", func(n *Node) {
		n.Routes = []Route{{To: "server", Next: []string{"a"}}, {To: "server", Next: []string{"b"}, Table: 100}}
		n.Policies = []Policy{{Proto: TCP, DstPort: 81, Table: 100}}
	}))
	a, b := l.Node("a").CountSYN(81), l.Node("b").CountSYN(81)
	wantConnect(t, l, "client", "server", 80, "server")
	wantConnect(t, l, "client", "server", 81, "server")
	if a.Packets() != 0 || b.Packets() != 2 {
		t.Errorf("port 81: %d SYNs by a, %d by b, want 0 and 2", a.Packets(), b.Packets())
	}
}

func TestECMP(t *testing.T) {
	t.Parallel()
	l := Start(t, Diamond())
	for _, f := range families {
		a, b := l.Node("a").Count(Rule{Only: f, Proto: TCP, Flags: SYN}), l.Node("b").Count(Rule{Only: f, Proto: TCP, Flags: SYN})
		for range 40 {
			wantFamily(t, l, f, "client", "server", 80, "server")
		}
		if a.Packets()+b.Packets() != 40 || a.Packets() == 0 || b.Packets() == 0 {
			t.Errorf("%s: %d SYNs by a, %d by b, of 40", f, a.Packets(), b.Packets())
		}
	}
}

func TestAsymmetric(t *testing.T) {
	t.Parallel()
	l := Start(t, Diamond().With("r1", func(n *Node) {
		n.Routes = []Route{{To: "server", Next: []string{"a"}}}
	}).With("r2", func(n *Node) {
		n.Routes = []Route{{To: "client", Next: []string{"b"}}}
	}))
	there := l.Node("b").Count(Rule{Proto: TCP, Dst: "server"})
	back := l.Node("b").Count(Rule{Proto: TCP, Dst: "client"})
	wantConnect(t, l, "client", "server", 80, "server")
	if there.Packets() != 0 || back.Packets() == 0 {
		t.Errorf("b: %d packets there, %d back", there.Packets(), back.Packets())
	}
}

func TestLinks(t *testing.T) {
	t.Parallel()
	for _, kind := range []LinkKind{Veth, Tun, Macvlan, VXLAN, Segment} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			l := Start(t, Chain(1).WithLink(1, func(l *Link) { l.Kind = kind }))
			wantConnect(t, l, "client", "server", 80, "server")
			wantConnect(t, l, "server", "client", 80, unix.ECONNREFUSED)
			if kind == VXLAN {
				return
			}
			l.Node("client").NoCarrier(l.Node("client").Interfaces[0].Name)
			wantConnect(t, l, "client", "server", 80, unix.ETIMEDOUT)
		})
	}
}

func TestSegment(t *testing.T) {
	t.Parallel()
	l := Start(t, Topology{
		Name:  "segment",
		Nodes: []Node{{Name: "a"}, {Name: "b", Listen: []string{"tcp:80"}}, {Name: "c", Listen: []string{"tcp:80"}}},
		Links: []Link{{Kind: Segment, Ends: []End{{Node: "a"}, {Node: "b"}, {Node: "c"}}}},
	})
	wantConnect(t, l, "a", "b", 80, "b")
	wantConnect(t, l, "b", "c", 80, "c")
	wantConnect(t, l, "a", "c", 80, "c")
}

func TestWireImpaired(t *testing.T) {
	t.Parallel()
	const delay = 30 * time.Millisecond
	l := Start(t, Chain(1).WithLink(1, func(l *Link) {
		l.Kind, l.Wire = Tun, &Impairment{Delay: delay, Duplicate: 1}
	}))
	for _, f := range families {
		c := l.Node("server").Count(Rule{Only: f, Proto: TCP, Flags: SYN})
		begin := time.Now()
		wantFamily(t, l, f, "client", "server", 80, "server")
		if rtt := time.Since(begin); rtt < 2*delay {
			t.Errorf("%s: connected in %v with %v each way", f, rtt, delay)
		}
		if c.Packets() != 2 {
			t.Errorf("%s: %d SYNs arrived, want one and its double", f, c.Packets())
		}
	}
	lossy := Start(t, Chain(1).WithLink(1, func(l *Link) { l.Kind, l.Wire = Tun, &Impairment{Loss: 1} }))
	wantConnect(t, lossy, "client", "server", 80, unix.ETIMEDOUT)
}

func TestFullQueue(t *testing.T) {
	t.Parallel()
	l := Start(t, Chain(1).WithListen("server", "tcp:81/full"))
	wantConnect(t, l, "client", "server", 81, unix.ETIMEDOUT)
	wantConnect(t, l, "client", "server", 82, unix.ECONNREFUSED)
}

func TestDie(t *testing.T) {
	t.Parallel()
	l := Start(t, Chain(1))
	for _, f := range families {
		l.Node("r1").WarmNeighbor(l.Addr("server", f))
	}
	l.Node("server").Die()
	for _, f := range families {
		if s := l.Node("r1").Neighbor(l.Addr("server", f)); s != "REACHABLE" {
			t.Errorf("%s: the router's entry is %q", f, s)
		}
	}
	wantConnect(t, l, "client", "server", 80, unix.ETIMEDOUT)
	l.Node("server").Revive()
	wantConnect(t, l, "client", "server", 80, "server")
}

func TestLinkDownAndUp(t *testing.T) {
	t.Parallel()
	l := Start(t, Chain(1))
	l.Node("client").LinkDown("eth0")
	wantConnect(t, l, "client", "server", 80, unix.ENETUNREACH)
	l.Node("client").LinkUp("eth0")
	wantConnect(t, l, "client", "server", 80, "server")
}

func TestBornDown(t *testing.T) {
	t.Parallel()
	for end, want := range []error{unix.ENETUNREACH, unix.ETIMEDOUT} {
		l := Start(t, Chain(1).WithLink(1, func(l *Link) { l.Ends[end].Down = true }))
		wantConnect(t, l, "client", "server", 80, want)
	}
}

func TestOwnAddresses(t *testing.T) {
	t.Parallel()
	l := Start(t, Chain(1).With("server", func(n *Node) {
		n.Addrs = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("10.77.0.0/16"), netip.MustParsePrefix("fd77::/64")}
	}))
	for _, a := range []string{"192.0.2.1", "10.77.3.4", "fd77::1234"} {
		if name, err := connect(l.Node("client"), netip.MustParseAddr(a), 80); name != "server" {
			t.Errorf("%s: got %q, %v", a, name, err)
		}
	}
	// Link-local, by zone.
	client := l.Node("r1")
	ll := l.Node("server").Interfaces[0].LinkLocal.WithZone("eth1")
	if name, err := connect(client, ll, 80); name != "server" {
		t.Errorf("%s: got %q, %v", ll, name, err)
	}
}

func TestSetTTL(t *testing.T) {
	t.Parallel()
	for ttl, want := range map[uint8]any{1: unix.ETIMEDOUT, 2: "server"} {
		// What r1 sends with 1 left, r2 does not pass on; nor does r1 hear
		// why, since it is the client that would be told.
		l := Start(t, Chain(2).
			WithRules("r1", Rule{Hook: Postrouting, OutIface: "eth1", Proto: TCP, Action: SetTTL, TTL: ttl}).
			WithRules("client", Rule{Hook: Ingress, ICMP: TimeExceeded, Action: Drop}))
		wantConnect(t, l, "client", "server", 80, want)
	}
}

func TestInterfaceSettings(t *testing.T) {
	t.Parallel()
	l := Start(t, Chain(1).WithLink(1, func(l *Link) {
		l.MTU, l.Only, l.Ends[0].Iface, l.Ends[0].NoARP = 1400, IPv4, "uplink0", true
	}).WithLink(2, func(l *Link) { l.Ends[1].NoAddrs = true }))
	dev, err := l.Node("client").Netlink().LinkByName("uplink0")
	if err != nil {
		t.Fatal(err)
	}
	if dev.Attrs().MTU != 1400 {
		t.Errorf("MTU is %d", dev.Attrs().MTU)
	}
	wantFamily(t, l, IPv4, "client", "r1", 80, unix.ETIMEDOUT)
	if s := l.Node("client").Neighbor(l.Addr("r1", IPv4)); s != "NOARP" {
		t.Errorf("the neighbour entry is %q", s)
	}
	if a := l.Plan.Addr("server", IPv4); a.IsValid() {
		t.Errorf("the server has address %v", a)
	}
}

func TestLongChain(t *testing.T) {
	t.Parallel()
	wantConnect(t, Start(t, Chain(19)), "client", "server", 80, "server")
}

func BenchmarkStart(b *testing.B) {
	for _, n := range []int{0, 3, 19} {
		b.Run(fmt.Sprintf("hops=%d", n+1), func(b *testing.B) {
			for b.Loop() {
				l := Start(b, Chain(n))
				b.StopTimer()
				if err := l.close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

func TestFillConntrack(t *testing.T) {
	if testing.Short() {
		t.Skip("fills 80 MiB of kernel memory")
	}
	l := Start(t, Line("client", "server"))
	wantConnect(t, l, "client", "server", 80, "server")
	begin := time.Now()
	l.Node("client").FillConntrack()
	t.Logf("full in %v", time.Since(begin))
	for _, f := range families {
		if err := sendUDP(l, l.Addr("server", f), 1); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: got %v, want EPERM", f, err)
		}
	}
}
