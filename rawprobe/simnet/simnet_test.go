package simnet

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/bpf"

	"synprobe/rawprobe"
	"synprobe/rawprobe/netlab"
	"synprobe/rawprobe/wire"
)

// A seen is one packet that came back to the client.
type seen struct {
	at   time.Duration // since the first packet was sent
	from netip.Addr
	ttl  uint8
	what string
	icmp wire.ICMP
}

// lab runs do with a client that hears everything that reaches it.
func lab(t *testing.T, top netlab.Topology, opt Options, do func(t *testing.T, s *Net, c *client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, err := New(top, opt)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		all, err := bpf.NewVM([]bpf.Instruction{bpf.RetConstant{Val: 65535}})
		if err != nil {
			t.Fatal(err)
		}
		l, err := openLink(s.nodes["client"], rawprobe.LinkConfig{})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		l.filter = all
		l.n.links = append(l.n.links, l)
		do(t, s, &client{t: t, s: s, l: l, start: time.Now()})
	})
}

type client struct {
	t     *testing.T
	s     *Net
	l     *link
	start time.Time
}

func (c *client) addr(node string) netip.Addr { return c.s.Plan.Addr(node, netlab.IPv4) }

func (c *client) send(p *packet) error {
	return c.l.Send(p.b, &rawprobe.Machine{}, nil)
}

// tcp sends a segment from a port of the client's to one of a node's.
func (c *client) tcp(to string, sport, dport uint16, ttl uint8, seq, ack uint32, f wire.TCPFlags) error {
	return c.send(segmentOf(netip.AddrPortFrom(c.addr("client"), sport), netip.AddrPortFrom(c.addr(to), dport), ttl, seq, ack, f, 64240, nil))
}

func (c *client) echo(to string, ttl uint8) error {
	u := make([]byte, 16)
	u[0], u[5] = wire.ICMPv4EchoRequest, 7
	return c.send(build(c.addr("client"), c.addr(to), wire.ProtoICMP, ttl, u))
}

// got waits for d and returns what came in since the last time, ARP and what
// the client itself sent aside.
func (c *client) got(d time.Duration) []seen {
	time.Sleep(d)
	synctest.Wait()
	var all []seen
	for {
		select {
		case ev := <-c.l.events:
			ip, err := wire.ParseIP(ev.Data)
			if ev.ARP || ev.Delivered || ev.Direction.String() != "incoming" || err != nil {
				continue
			}
			if valid, checked := ip.VerifyPayload(); checked && !valid {
				c.t.Errorf("wrong checksum from %v", ip.Src)
			}
			x := seen{at: ev.Time.Sub(c.start), from: ip.Src, ttl: ip.TTL, what: ip.Proto.String()}
			if tcp, err := wire.ParseTCP(ip.Payload); err == nil && ip.Proto == wire.ProtoTCP {
				x.what = tcp.Flags.String()
			}
			if m, err := wire.ParseICMPv4(ip.Payload); err == nil && ip.Proto == wire.ProtoICMP {
				x.icmp, x.what = m, m.Describe()
			}
			all = append(all, x)
		default:
			return all
		}
	}
}

func what(all []seen) []string {
	var names []string
	for _, x := range all {
		names = append(names, x.what)
	}
	return names
}

// Field note 3: "a burst of 6 and then one a second for each peer".
func TestErrorLimit(t *testing.T) {
	lab(t, netlab.Chain(2), Options{}, func(t *testing.T, s *Net, c *client) {
		for range 20 {
			if err := c.echo("server", 1); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(c.got(500 * time.Millisecond)); n != 6 {
			t.Errorf("%d errors at once, want 6", n)
		}
		for range 10 {
			time.Sleep(510 * time.Millisecond)
			_ = c.echo("server", 1)
		}
		if n := len(c.got(time.Second)); n != 5 {
			t.Errorf("%d errors in 5.1 s, want 5", n)
		}
		_ = c.echo("server", 2)
		if n := len(c.got(time.Second)); n != 1 {
			t.Errorf("%d errors of another router, want 1", n)
		}
	})
}

// Field note 1: the TTL is looked at before the forward chain, and after
// prerouting.
func TestTTLAndHooks(t *testing.T) {
	for hook, want := range map[netlab.Hook]int{netlab.Forward: 1, netlab.Prerouting: 0, netlab.Ingress: 0} {
		top := netlab.Chain(2).WithRules("r1", netlab.Rule{Hook: hook, Proto: netlab.TCP, DstPort: 80, Action: netlab.Drop})
		lab(t, top, Options{}, func(t *testing.T, s *Net, c *client) {
			_ = c.tcp("server", 1000, 80, 1, 1, 0, wire.SYN)
			if n := len(c.got(time.Second)); n != want {
				t.Errorf("%v: %d answers for TTL 1, want %d", hook, n, want)
			}
			_ = c.tcp("server", 1000, 80, 64, 1, 0, wire.SYN)
			if all := c.got(time.Second); len(all) != 0 {
				t.Errorf("%v: %v", hook, what(all))
			}
		})
	}
}

// Field notes 4 and 5: three solicitations a second apart, then the word; and
// none about a neighbour that was there a moment ago.
func TestDeadHost(t *testing.T) {
	lab(t, netlab.Chain(1), Options{}, func(t *testing.T, s *Net, c *client) {
		if err := s.Die("server"); err != nil {
			t.Fatal(err)
		}
		_ = c.tcp("server", 1000, 80, 64, 1, 0, wire.SYN)
		all := c.got(2900 * time.Millisecond)
		if len(all) != 0 {
			t.Errorf("%v before 3 s", what(all))
		}
		all = c.got(200 * time.Millisecond)
		if len(all) != 1 || all[0].icmp.Code != wire.ICMPv4HostUnreachable || all[0].from != c.addr("r1") {
			t.Errorf("%v after 3 s", what(all))
		}
	})
	lab(t, netlab.Chain(1), Options{}, func(t *testing.T, s *Net, c *client) {
		if err := s.WarmNeighbor("r1", c.addr("server")); err != nil {
			t.Fatal(err)
		}
		_ = s.Die("server")
		for range 10 {
			_ = c.tcp("server", 1000, 80, 64, 1, 0, wire.SYN)
			time.Sleep(time.Second)
		}
		if all := c.got(0); len(all) != 0 {
			t.Errorf("%v of a neighbour that just died", what(all))
		}
	})
}

// Field notes 12, 21, 29, 37.
func TestHostAnswers(t *testing.T) {
	top := netlab.Chain(1).WithListen("server", "tcp:81/full")
	lab(t, top, Options{}, func(t *testing.T, s *Net, c *client) {
		for _, q := range []struct {
			port uint16
			f    wire.TCPFlags
			want []string
		}{
			{80, wire.SYN, []string{"SYN|ACK"}},
			{80, wire.ACK, []string{"RST"}},
			{81, wire.SYN, nil},
			{81, wire.ACK, []string{"RST"}},
			{82, wire.SYN, []string{"RST|ACK"}},
			{82, wire.RST, nil},
		} {
			_ = c.tcp("server", 1000+q.port, q.port, 64, 1, 9, q.f)
			if got := what(c.got(10 * time.Second)); !slices.Equal(got, q.want) {
				t.Errorf("port %d, %v: %v, want %v", q.port, q.f, got, q.want)
			}
		}
	})
	// Where our reset does not get through the host repeats its SYN-ACK.
	noResets := netlab.Chain(1).WithRules("client", netlab.Rule{Hook: netlab.Output, Proto: netlab.TCP, Flags: netlab.RST, FlagMask: netlab.RST, Action: netlab.Drop})
	lab(t, noResets, Options{}, func(t *testing.T, s *Net, c *client) {
		_ = c.tcp("server", 1000, 80, 64, 1, 0, wire.SYN)
		if n := len(c.got(3500 * time.Millisecond)); n != 3 { // at 0, 1 and 3 s
			t.Errorf("%d SYN-ACKs, want 3", n)
		}
	})
}

// Field notes 6 and 31: behind a translation everybody speaks in the target's
// name, and the quotes are put right.
func TestTranslatedErrors(t *testing.T) {
	top := netlab.Chain(3).WithRules("r1", netlab.Rule{Hook: netlab.Prerouting, Proto: netlab.TCP, DstPort: 80, Dst: "r1", Action: netlab.DNAT, To: "server"})
	lab(t, top, Options{}, func(t *testing.T, s *Net, c *client) {
		_ = c.tcp("r1", 1000, 80, 2, 1, 0, wire.SYN)
		all := c.got(time.Second)
		if len(all) != 1 || all[0].from != c.addr("r1") {
			t.Fatalf("%v", all)
		}
		q, err := all[0].icmp.Quote()
		if err != nil || q.IP.Dst != c.addr("r1") || q.SrcPort != 1000 || q.Seq != 1 {
			t.Errorf("quote %+v, %v", q, err)
		}
		_ = c.tcp("r1", 1001, 80, 64, 1, 0, wire.SYN)
		if all := c.got(time.Second / 2); len(all) != 1 || all[0].what != "SYN|ACK" || all[0].from != c.addr("r1") {
			t.Errorf("%v", all)
		}
	})
}

// Field notes 19 and 20.
func TestRefusedSends(t *testing.T) {
	top := netlab.Chain(1).WithRules("client",
		netlab.Rule{Hook: netlab.Output, Proto: netlab.TCP, DstPort: 80, Action: netlab.Drop},
		netlab.Rule{Hook: netlab.Output, Proto: netlab.TCP, DstPort: 81, Action: netlab.Reset},
		netlab.Rule{Hook: netlab.Postrouting, Proto: netlab.TCP, DstPort: 82, Action: netlab.Drop})
	lab(t, top, Options{}, func(t *testing.T, s *Net, c *client) {
		for port, want := range map[uint16][]string{80: nil, 81: {"RST|ACK"}, 82: nil} {
			err, ok := c.tcp("server", 1000, port, 64, 1, 0, wire.SYN).(*rawprobe.SendError)
			if !ok || err.Reason != rawprobe.RefusedByFirewall {
				t.Errorf("port %d: %v", port, err)
			}
			if got := what(c.got(time.Second)); !slices.Equal(got, want) {
				t.Errorf("port %d: %v, want %v", port, got, want)
			}
		}
	})
}

// Field note 38: a lone first fragment draws 11/1 after 30 s, past INPUT.
func TestLoneFragment(t *testing.T) {
	drop := netlab.Rule{Proto: netlab.TCP, DstPort: 80, Action: netlab.Drop}
	for node, want := range map[string]int{"server": 1, "r1": 0} {
		rule := drop
		if rule.Hook = netlab.Input; node == "r1" {
			rule.Hook = netlab.Forward
		}
		lab(t, netlab.Chain(1).WithRules(node, rule), Options{}, func(t *testing.T, s *Net, c *client) {
			p := segmentOf(netip.AddrPortFrom(c.addr("client"), 1000), netip.AddrPortFrom(c.addr("server"), 80), 64, 1, 0, wire.SYN, 64240, make([]byte, 4))
			p.b[6] = 0x20 // more fragments
			_ = c.send(p)
			if all := c.got(29 * time.Second); len(all) != 0 {
				t.Errorf("%v before 30 s", what(all))
			}
			all := c.got(2 * time.Second)
			if len(all) != want || want > 0 && (all[0].icmp.Type != wire.ICMPv4TimeExceeded || all[0].icmp.Code != 1) {
				t.Errorf("%s drops: %v", node, what(all))
			}
		})
	}
}

// Every way to quote is one that package wire can read.
func TestQuotes(t *testing.T) {
	for quote := range QuoteExtended + 1 {
		for id := range NextID + 1 {
			opt := Options{Habits: map[string]Habit{"r1": {Quote: quote, QuotedID: id, ICMPTTL: 255}}}
			lab(t, netlab.Chain(1), opt, func(t *testing.T, s *Net, c *client) {
				_ = c.tcp("server", 1000, 80, 1, 77, 0, wire.SYN)
				all := c.got(time.Second)
				if len(all) != 1 || all[0].ttl != 255 {
					t.Fatalf("%v", all)
				}
				if q, err := all[0].icmp.Quote(); err != nil || q.Seq != 77 || q.DstPort != 80 {
					t.Errorf("quote %d, ID %d: %+v, %v", quote, id, q, err)
				}
			})
		}
	}
}

// The same seed gives the same network, another one another.
func TestSpread(t *testing.T) {
	legs := func(seed uint64) (n int) {
		lab(t, netlab.Diamond(), Options{Seed: seed}, func(t *testing.T, s *Net, c *client) {
			l := netlab.Drive(t, s.Plan, s)
			count := l.Node("a").CountSYN(80)
			for port := range uint16(64) {
				_ = c.tcp("server", 2000+port, 80, 64, 1, 0, wire.SYN)
			}
			c.got(time.Second)
			n = int(count.Packets())
		})
		return n
	}
	for seed := range uint64(4) {
		if a, b := legs(seed), legs(seed); a != b || a < 16 || a > 48 {
			t.Errorf("seed %d: %d and %d of 64 flows by one of two legs", seed, a, b)
		}
	}
}

// An attacker sees what comes in, and its packets arrive as they are; the node
// bears them.
func TestAttack(t *testing.T) {
	top := netlab.Chain(1)
	lab(t, top, Options{}, func(t *testing.T, s *Net, c *client) {
		var heard int
		reset := segmentOf(netip.AddrPortFrom(c.addr("server"), 80), netip.AddrPortFrom(c.addr("client"), 1000), 61, 7, 2, wire.RST|wire.ACK, 0, nil).b
		err := s.Attack("r1", func(b []byte) (a Attack) {
			p, ok := newPacket(b)
			if netlab.IsARP(b) || !ok || p.src() != c.addr("client") {
				return a
			}
			if heard++; heard > 1 {
				return a
			}
			return Attack{
				Again: []time.Duration{time.Second},
				Back:  []Forged{{Packet: reset}, {Packet: reset[:21]}, {Packet: nil, After: time.Millisecond}},
				In:    []Forged{{Packet: []byte{0x45}}, {Packet: []byte{0x60}}, {Packet: nil}},
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		_ = c.tcp("server", 1000, 80, 64, 1, 0, wire.SYN)
		if got := what(c.got(500 * time.Millisecond)); !slices.Equal(got, []string{"RST|ACK", "tcp", "SYN|ACK"}) {
			t.Errorf("got %v", got)
		}
		// The SYN once more: this machine has reset the connection by then.
		if got := what(c.got(2 * time.Second)); !slices.Equal(got, []string{"SYN|ACK"}) {
			t.Errorf("got %v", got)
		}
		_ = s.Attack("r1", func([]byte) Attack { return Attack{Swallow: true} })
		_ = c.echo("server", 64)
		if got := what(c.got(time.Second)); len(got) != 0 {
			t.Errorf("got %v", got)
		}
		_ = s.Attack("r1", nil)
		_ = c.echo("server", 64)
		if got := what(c.got(time.Second)); len(got) != 1 {
			t.Errorf("got %v", got)
		}
	})
}
