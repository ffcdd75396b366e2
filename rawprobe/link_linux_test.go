package rawprobe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"synprobe/pcap"
	"synprobe/rawprobe/netlab"
)

// These tests run on the real kernel, in network namespaces of their own.

// do runs f in a node; its error fails the test.
func do(t *testing.T, m *netlab.Machine, f func() error) {
	t.Helper()
	if err := m.Do(f); err != nil {
		t.Error(err)
	}
}

// withLink runs f in a node with a Link that it closes.
func withLink(m *netlab.Machine, cfg LinkConfig, f func(l Link) error) error {
	return m.Do(func() error {
		l, err := OpenLink(cfg)
		if err != nil {
			return err
		}
		return errors.Join(f(l), l.Close())
	})
}

// observe is a whole run in a node.
func observe(ctx context.Context, m *netlab.Machine, to netip.AddrPort, opt Options) (o *Observations, err error) {
	err = withLink(m, LinkConfig{IPv6: to.Addr().Is6()}, func(l Link) error {
		o, err = Observe(ctx, l, to, opt)
		return err
	})
	return o, err
}

var labFamilies = []netlab.Family{netlab.IPv4, netlab.IPv6}

// each runs f for both families, one after the other in the same lab.
func each(t *testing.T, f func(t *testing.T, f netlab.Family)) {
	for _, fam := range labFamilies {
		t.Run(fam.String(), func(t *testing.T) { f(t, fam) })
	}
}

func TestSurveyRoutes(t *testing.T) {
	topo := netlab.Chain(1).With("client", func(n *netlab.Node) {
		for i, typ := range []netlab.RouteType{netlab.Unreachable, netlab.Prohibit, netlab.Blackhole} {
			for _, to := range []string{fmt.Sprintf("10.99.%d.0/24", i), fmt.Sprintf("fd00:99:%d::/64", i)} {
				n.Routes = append(n.Routes, netlab.Route{To: to, Type: typ})
			}
		}
		// A raw packet, whose ports the kernel does not look at, is refused.
		n.Routes = append(n.Routes,
			netlab.Route{To: "10.98.0.0/24", Type: netlab.Unreachable}, netlab.Route{To: "fd00:98::/64", Type: netlab.Unreachable},
			netlab.Route{To: "10.98.0.0/24", Next: []string{"r1"}, Table: 100}, netlab.Route{To: "fd00:98::/64", Next: []string{"r1"}, Table: 100})
		n.Policies = append(n.Policies, netlab.Policy{Table: 100, Proto: netlab.TCP, DstPort: 443})
		// Nor is it an echo.
		n.Policies = append(n.Policies, netlab.Policy{Table: 100, Proto: netlab.ICMP})
	})
	lab := netlab.Start(t, topo)
	client := lab.Node("client")
	each(t, func(t *testing.T, fam netlab.Family) {
		own, gateway, server := lab.Addr("client", fam), lab.Addr("r1", fam), lab.Addr("server", fam)
		pick := func(v4, v6 string) netip.Addr {
			if fam == netlab.IPv4 {
				return netip.MustParseAddr(v4)
			}
			return netip.MustParseAddr(v6)
		}
		for _, c := range []struct {
			name    string
			to      netip.Addr
			port    uint16
			outcome RouteOutcome
			gateway netip.Addr
			local   bool
			byPort  bool
		}{
			{"on the link", gateway, 80, RouteFound, netip.Addr{}, false, false},
			{"behind a router", server, 80, RouteFound, gateway, false, false},
			{"own", own, 80, RouteFound, netip.Addr{}, true, false},
			{"loopback", pick("127.0.0.1", "::1"), 80, RouteFound, netip.Addr{}, true, false},
			{"unreachable", pick("10.99.0.1", "fd00:99:0::1"), 80, RouteUnreachable, netip.Addr{}, false, false},
			{"prohibit", pick("10.99.1.1", "fd00:99:1::1"), 80, RouteProhibit, netip.Addr{}, false, false},
			{"blackhole", pick("10.99.2.1", "fd00:99:2::1"), 80, RouteBlackhole, netip.Addr{}, false, false},
			{"by another port", pick("10.98.0.1", "fd00:98::1"), 80, RouteUnreachable, netip.Addr{}, false, false},
			{"by port", pick("10.98.0.1", "fd00:98::1"), 443, RouteFound, gateway, false, true},
		} {
			t.Run(c.name, func(t *testing.T) {
				do(t, client, func() error {
					l, err := OpenLink(LinkConfig{IPv6: fam == netlab.IPv6})
					if err != nil {
						return err
					}
					defer l.Close()
					m, err := l.Survey(Flow{Dst: netip.AddrPortFrom(c.to, c.port)})
					if err != nil {
						return err
					}
					r := m.Route
					if r.Outcome != c.outcome || r.Gateway.WithZone("") != c.gateway || r.Local != c.local || r.ByPort != c.byPort {
						t.Errorf("got %+v", r)
					}
					if c.outcome != RouteFound {
						return nil
					}
					ifi := m.Interface
					if c.local {
						if !ifi.Loopback || ifi.Resolves || r.MTU < 1500 {
							t.Errorf("interface %+v, MTU %d", ifi, r.MTU)
						}
						return nil
					}
					if r.Source.WithZone("") != own || r.MTU != 1500 || ifi.Name != "eth0" || ifi.Index != r.Interface || !ifi.Up || !ifi.Carrier ||
						!ifi.Resolves || ifi.Hardware == [6]byte{} || !m.Own(own) || m.Own(server) || m.NoneUp || len(m.Down) != 0 {
						t.Errorf("got %+v", m)
					}
					return nil
				})
			})
		}
	})
}

// No route and no address to send from are two things.
func TestSurveyNothing(t *testing.T) {
	lab := netlab.Start(t, netlab.Chain(1).WithLink(1, func(l *netlab.Link) { l.Only = netlab.IPv4 }))
	client := lab.Node("client")
	client.DelRoute("0.0.0.0/0")
	for to, want := range map[netip.Addr]RouteOutcome{
		lab.Addr("server", netlab.IPv4): RouteNone, lab.Addr("server", netlab.IPv6): RouteNoAddress,
	} {
		do(t, client, func() error {
			l, err := OpenLink(LinkConfig{IPv6: to.Is6()})
			if err != nil {
				return err
			}
			defer l.Close()
			m, err := l.Survey(Flow{Dst: netip.AddrPortFrom(to, 80)})
			if m.Route.Outcome != want {
				t.Errorf("%v: got %+v, want %q", to, m.Route, want)
			}
			return err
		})
	}
}

// What is down is told from what has no route, and an interface that was chosen
// stands for itself.
func TestSurveyDown(t *testing.T) {
	lab := netlab.Start(t, netlab.Chain(1))
	client := lab.Node("client")
	to := netip.AddrPortFrom(lab.Addr("server", netlab.IPv4), 80)
	router := netip.AddrPortFrom(lab.Addr("r1", netlab.IPv4), 80)
	survey := func(cfg LinkConfig, to netip.AddrPort) (m Machine) {
		t.Helper()
		if err := withLink(client, cfg, func(l Link) (err error) {
			m, err = l.Survey(Flow{Dst: to})
			return err
		}); err != nil {
			t.Error(err)
		}
		return m
	}
	if m := survey(LinkConfig{Interface: "eth0"}, to); m.Route.Outcome != RouteFound || m.Interface.Name != "eth0" {
		t.Errorf("bound: %+v", m)
	}
	client.NoCarrier("eth0")
	if m := survey(LinkConfig{}, to); m.Interface.Name == "eth0" && m.Interface.Carrier || len(m.Down) != 0 || !m.NoneUp {
		t.Errorf("no carrier: %+v", m)
	}
	if m := survey(LinkConfig{}, router); len(m.Down) != 1 || m.Down[0].Name != "eth0" || !m.Down[0].Up || m.Down[0].Carrier {
		t.Errorf("no carrier, on the link: %+v", m)
	}
	client.LinkDown("eth0")
	if m := survey(LinkConfig{}, router); m.Route.Outcome != RouteNone || len(m.Down) != 1 || m.Down[0].Up || !m.NoneUp {
		t.Errorf("down: %+v", m)
	}
	if m := survey(LinkConfig{Interface: "eth0"}, router); m.Interface.Name != "eth0" || m.Interface.Up {
		t.Errorf("down and bound: %+v", m)
	}
}

// What the caller asked for and can't have is an error that says so.
func TestLinkErrors(t *testing.T) {
	lab := netlab.Start(t, netlab.Chain(1))
	client := lab.Node("client")
	each(t, func(t *testing.T, fam netlab.Family) {
		cfg := LinkConfig{IPv6: fam == netlab.IPv6}
		own, to := lab.Addr("client", fam), netip.AddrPortFrom(lab.Addr("server", fam), 80)
		do(t, client, func() error {
			if l, err := OpenLink(LinkConfig{Interface: "nosuch0", IPv6: cfg.IPv6}); !errors.Is(err, ErrNoInterface) || !strings.Contains(err.Error(), "nosuch0") {
				t.Errorf("an interface that does not exist: %v, %v", l, err)
			}
			return nil
		})
		err := withLink(client, cfg, func(l Link) error {
			_, err := l.Survey(Flow{Src: to, Dst: to})
			return err
		})
		if !errors.Is(err, ErrNotOurs) || !strings.Contains(err.Error(), to.Addr().String()) {
			t.Errorf("another's address: %v", err)
		}
		err = withLink(client, LinkConfig{IPv6: true}, func(l Link) error {
			_, err := l.Survey(Flow{Dst: netip.MustParseAddrPort("[fe80::1%nosuch0]:80")})
			return err
		})
		if !errors.Is(err, ErrNoInterface) {
			t.Errorf("a zone that does not exist: %v", err)
		}
		// A port is held for as long as the Link is open, and no longer.
		bind := func(at netip.AddrPort) error {
			ln, err := net.Listen("tcp", at.String())
			if err != nil {
				return err
			}
			return ln.Close()
		}
		var held netip.AddrPort
		do(t, client, func() error {
			l, err := OpenLink(cfg)
			if err != nil {
				return err
			}
			if held, err = l.Hold(netip.AddrPortFrom(own, 0)); err != nil {
				return err
			}
			if held.Port() == 0 || held.Addr() != own {
				t.Errorf("held %v", held)
			}
			if err := bind(held); !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("bind to the held port: %v", err)
			}
			second, err := l.Hold(netip.AddrPortFrom(own, 0))
			if err != nil || second.Port() == held.Port() {
				t.Errorf("held %v and %v: %v", held, second, err)
			}
			other, err := OpenLink(cfg)
			if err != nil {
				return err
			}
			if _, err := other.Hold(held); !errors.Is(err, ErrPortInUse) || !strings.Contains(err.Error(), fmt.Sprint(held.Port())) {
				t.Errorf("hold what is held: %v", err)
			}
			if err := errors.Join(other.Close(), other.Close()); err != nil {
				t.Errorf("close twice: %v", err)
			}
			if err := errors.Join(l.Close(), l.Close()); err != nil {
				t.Errorf("close twice: %v", err)
			}
			return bind(held)
		})
	})
}

// A Link that watches can be closed at any time, and its stream ends.
func TestCloseEndsEvents(t *testing.T) {
	lab := netlab.Start(t, netlab.Chain(1))
	do(t, lab.Node("client"), func() error {
		l, err := OpenLink(LinkConfig{})
		if err != nil {
			return err
		}
		if err := l.Watch(pcap.Interest{ISN: 1}); err != nil {
			return err
		}
		if err := errors.Join(l.Close(), l.Close()); err != nil {
			return err
		}
		if _, ok := <-l.Events(); ok || l.Err() != nil {
			t.Errorf("after Close: %t, %v", ok, l.Err())
		}
		return nil
	})
}

// findSYN reads a tap until a SYN leaves that is the one asked for.
func findSYN(t *testing.T, tap *pcap.Listener, is func(p probe) bool) (probe, error) {
	if err := tap.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return probe{}, err
	}
	var pkt pcap.Packet
	for {
		if err := tap.Read(&pkt); err != nil {
			return probe{}, err
		}
		if pkt.Direction != pcap.Outgoing || pkt.EtherType == pcap.EtherTypeARP {
			continue
		}
		if p := readProbe(t, pkt.Data); p.tcp != nil && p.tcp.SYN && !p.tcp.ACK && is(p) {
			return p, nil
		}
	}
}

// receiveBuffers are Linux's defaults until 6.17, from which comes the usual
// window scale of 7. Later kernels have a larger maximum and a scale of 10.
const receiveBuffers = "4096 131072 6291456"

// The subject is what this kernel's own connect sends, but for the numbers.
func TestShapeOfSYN(t *testing.T) {
	for _, mtu := range []int{0, 1400, 9000} {
		topo := netlab.Chain(1).With("client", func(n *netlab.Node) { n.Sysctls = map[string]string{"net.ipv4.tcp_rmem": receiveBuffers} })
		for i := range topo.Links {
			topo.Links[i].MTU = mtu
		}
		lab := netlab.Start(t, topo)
		client := lab.Node("client")
		each(t, func(t *testing.T, fam netlab.Family) {
			to := netip.AddrPortFrom(lab.Addr("server", fam), 80)
			var tap *pcap.Listener
			do(t, client, func() (err error) {
				tap, err = pcap.Open(pcap.Config{})
				return err
			})
			defer tap.Close()
			c, err := client.Dial(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			theirs, err := findSYN(t, tap, func(probe) bool { return true })
			if err != nil {
				t.Fatal(err)
			}
			o, err := observe(t.Context(), client, to, Options{})
			if err != nil {
				t.Fatal(err)
			}
			ours, err := findSYN(t, tap, func(p probe) bool { return p.sport == o.Sent[0].Flow.Src.Port() })
			if err != nil {
				t.Fatal(err)
			}
			if got, want := shape(ours), shape(theirs); got != want {
				t.Errorf("MTU %d: ours is\n%s\nthe kernel's\n%s", mtu, got, want)
			}
			if len(ours.raw) != len(theirs.raw) || (ours.label == 0) != (theirs.label == 0) {
				t.Errorf("MTU %d: length %d, label %#x; the kernel's %d, %#x", mtu, len(ours.raw), ours.label, len(theirs.raw), theirs.label)
			}
		})
	}
}

// shape is all of a SYN but the numbers of its connection.
func shape(p probe) string {
	var b strings.Builder
	if p.raw[0]>>4 == 4 {
		fmt.Fprintf(&b, "first bytes % x, fragment field % x, ", p.raw[:2], p.raw[6:8])
	} else {
		fmt.Fprintf(&b, "traffic class %x%x, ", p.raw[0]&15, p.raw[1]>>4)
	}
	tcp := p.tcp
	fmt.Fprintf(&b, "TTL %d, %v to %v port %d, ack %d, offset %d, window %d, urgent %d, flags %08b, payload %d", p.ttl, p.src, p.dst, p.dport,
		tcp.Ack, tcp.DataOffset, tcp.Window, tcp.Urgent, p.raw[len(p.raw)-len(tcp.Contents)+13], len(tcp.Payload))
	for _, o := range tcp.Options {
		data := o.OptionData
		if o.OptionType == layers.TCPOptionKindTimestamps {
			data = data[4:] // TSval differs
		}
		fmt.Fprintf(&b, "\n  %v % x", o.OptionType, data)
	}
	return b.String()
}

// One run of each outcome on the real kernel, both families.
func TestObserveLive(t *testing.T) {
	lab := netlab.Start(t, netlab.Chain(1))
	client := lab.Node("client")
	each(t, func(t *testing.T, fam netlab.Family) {
		for p, want := range map[uint16]ReplyKind{80: SynAck, 81: Reset} {
			o, err := observe(t.Context(), client, netip.AddrPortFrom(lab.Addr("server", fam), p), Options{})
			if err != nil {
				t.Fatal(err)
			}
			var a *Reply
			for i := range o.Replies {
				if o.Replies[i].Kind == want {
					a = &o.Replies[i]
				}
			}
			if a == nil || !a.Delivered || a.Distance() != 1 || a.RTT <= 0 || a.RTT > time.Second || o.Ignored.Malformed != 0 || o.Tap.Packets == 0 || o.Tap.Drops != 0 {
				t.Errorf("port %d: %s, tap %+v", p, told(o), o.Tap)
			}
			if !o.Asks[0].Answered.After(o.Start) || o.Machine.Neighbor == "" {
				t.Errorf("port %d: asked %+v, the entry is %q", p, o.Asks, o.Machine.Neighbor)
			}
		}
	})
}

// A connection that lives on at the other side only answers with a challenge
// ACK, which has none of our numbers but the ports.
func TestChallengeAckLive(t *testing.T) {
	topo := netlab.Chain(1).WithRules("client", netlab.Rule{Hook: netlab.Output, Proto: netlab.TCP, DstPort: 90, Flags: netlab.RST, FlagMask: netlab.RST, Action: netlab.Drop})
	lab := netlab.Start(t, topo)
	each(t, func(t *testing.T, fam netlab.Family) {
		to := netip.AddrPortFrom(lab.Addr("server", fam), 90)
		var ln net.Listener
		do(t, lab.Node("server"), func() (err error) {
			ln, err = net.Listen("tcp", to.String())
			return err
		})
		defer ln.Close()
		c, err := lab.Node("client").Dial(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		peer, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		local := netip.MustParseAddrPort(c.LocalAddr().String())
		// Closed with a reset that never leaves.
		if err := errors.Join(c.(*net.TCPConn).SetLinger(0), c.Close()); err != nil {
			t.Fatal(err)
		}
		o, err := observe(t.Context(), lab.Node("client"), to, Options{SourcePort: local.Port(), Tries: 1, Timeout: 300 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if got := told(o); !strings.Contains(got, "challenge-ack(subject 1)") || strings.Contains(got, "syn-ack") {
			t.Errorf("got %q", got)
		}
	})
}

// Nothing is left of a hundred runs, a cancelled one among every ten.
func TestNothingLeft(t *testing.T) {
	lab := netlab.Start(t, netlab.Chain(1).WithRules("server", netlab.Rule{Hook: netlab.Input, Proto: netlab.TCP, DstPort: 82, Action: netlab.Drop}))
	client := lab.Node("client")
	arrived := lab.Node("server").CountSYN(82)
	run := func(i int) error {
		fam := labFamilies[i%2]
		if i%10 != 9 {
			o, err := observe(t.Context(), client, netip.AddrPortFrom(lab.Addr("server", fam), 80), Options{})
			if err == nil && !strings.Contains(told(o), "syn-ack") {
				return fmt.Errorf("run %d: %s", i, told(o))
			}
			return err
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		before := arrived.Packets()
		cancelled := make(chan time.Time, 1)
		go func() {
			for arrived.Packets() == before && t.Context().Err() == nil {
				runtime.Gosched()
			}
			cancelled <- time.Now()
			cancel()
		}()
		o, err := observe(ctx, client, netip.AddrPortFrom(lab.Addr("server", fam), 82), Options{Timeout: time.Minute})
		if err != nil {
			return err
		}
		if late := o.End.Sub(<-cancelled); !o.Interrupted || len(o.Sent) == 0 || late > time.Second {
			return fmt.Errorf("run %d: interrupted %t, %v after the cancel", i, o.Interrupted, late)
		}
		return nil
	}
	for i := range 10 { // what is opened once
		if err := run(i); err != nil {
			t.Fatal(err)
		}
	}
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for i := range 100 {
		if err := run(i); err != nil {
			t.Fatal(err)
		}
	}
	// Goroutines that have done all their work may not have exited yet.
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > goroutines && time.Now().Before(end); {
		runtime.Gosched()
	}
	if g, f := runtime.NumGoroutine(), openFiles(t); g > goroutines || f > files {
		buf := make([]byte, 1<<16)
		t.Errorf("%d goroutines, %d files before; %d, %d after\n%s", goroutines, files, g, f, buf[:runtime.Stack(buf, true)])
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}
