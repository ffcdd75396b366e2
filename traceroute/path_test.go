package traceroute

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"synprobe/rawprobe"
)

const ms = time.Millisecond

// A family is the addresses of one IP version that the tests use, all from the
// ranges for documentation (RFC 5737, RFC 3849), and what ICMP calls things in
// it.
type family struct {
	name                   string
	us, host               netip.Addr
	routers                string // a format of their addresses, by TTL
	expired, refused       icmp   // refused is the host's own: port unreachable
	admin, noHost, noRoute icmp
}

type icmp struct{ typ, code int }

var (
	ipv4 = family{
		name: "ipv4", us: netip.MustParseAddr("192.0.2.1"), host: netip.MustParseAddr("198.51.100.9"), routers: "203.0.113.%d",
		expired: icmp{11, 0}, refused: icmp{3, 3}, admin: icmp{3, 13}, noHost: icmp{3, 1}, noRoute: icmp{3, 0},
	}
	ipv6 = family{
		name: "ipv6", us: netip.MustParseAddr("2001:db8::1"), host: netip.MustParseAddr("2001:db8:9::9"), routers: "2001:db8:7::%d",
		expired: icmp{3, 0}, refused: icmp{1, 4}, admin: icmp{1, 1}, noHost: icmp{1, 3}, noRoute: icmp{1, 0},
	}
)

func (f family) router(k int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(f.routers, k)) }

// addr shortens an address to what it is in the tests: us, host, or r with the
// number of the router.
func (f family) addr(a netip.Addr) string {
	switch a {
	case f.us:
		return "us"
	case f.host:
		return "host"
	}
	for k := range 100 {
		if a == f.router(k) {
			return fmt.Sprintf("r%d", k)
		}
	}
	return a.String()
}

func eachFamily(t *testing.T, test func(t *testing.T, f family)) {
	t.Helper()
	for _, f := range []family{ipv4, ipv6} {
		t.Run(f.name, func(t *testing.T) { test(t, f) })
	}
}

const (
	subjectPort = 5432
	ourPort     = 40001
	full        = rawprobe.DefaultTTL
)

var start = time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)

// A record is observations written by hand: each call adds one packet.
type record struct {
	family
	o *rawprobe.Observations
}

func newRecord(f family) record {
	return record{f, &rawprobe.Observations{
		Target: netip.AddrPortFrom(f.host, subjectPort), Start: start, End: start.Add(time.Minute),
		Machine: rawprobe.Machine{Route: rawprobe.Route{Source: f.us, Gateway: f.router(1)}, Addresses: []netip.Addr{f.us}},
	}}
}

// sent adds a probe and returns its index.
func (r record) sent(kind rawprobe.ProbeKind, ttl int, edit ...func(*rawprobe.Sent)) int {
	s := rawprobe.Sent{
		Kind: kind, Try: 1, TTL: ttl, Time: start.Add(time.Duration(len(r.o.Sent)) * ms),
		Flow: rawprobe.Flow{Src: netip.AddrPortFrom(r.us, ourPort), Dst: r.o.Target},
	}
	for _, f := range edit {
		f(&s)
	}
	r.o.Sent = append(r.o.Sent, s)
	return len(r.o.Sent) - 1
}

func (r record) subject(ttl int) int { return r.sent(rawprobe.Subject, ttl) }
func (r record) echo(ttl int) int    { return r.sent(rawprobe.Echo, ttl) }
func (r record) udp(ttl int) int     { return r.sent(rawprobe.ControlUDP, ttl) }

func (r record) syn(port uint16, ttl int) int {
	return r.sent(rawprobe.ControlSYN, ttl, func(s *rawprobe.Sent) { s.Flow.Dst = netip.AddrPortFrom(r.family.host, port) })
}

func (r record) flow(port uint16, ttl int) int {
	return r.sent(rawprobe.OtherFlow, ttl, func(s *rawprobe.Sent) { s.Flow.Src = netip.AddrPortFrom(r.us, port) })
}

// reply adds an answer to a probe.
func (r record) reply(probe int, kind rawprobe.ReplyKind, from netip.Addr, edit ...func(*rawprobe.Reply)) {
	a := rawprobe.Reply{Kind: kind, Probe: probe, Exact: true, Time: start, RTT: 5 * ms, From: from, TTL: 60, Delivered: true}
	for _, f := range edit {
		f(&a)
	}
	r.o.Replies = append(r.o.Replies, a)
}

// expired is router k's word that the probe expired there.
func (r record) expired(probe, k int) {
	r.error(probe, r.router(k), r.family.expired, func(a *rawprobe.Reply) { a.TTL = 64 - (k - 1) })
}

func (r record) error(probe int, from netip.Addr, what icmp, edit ...func(*rawprobe.Reply)) {
	say := func(a *rawprobe.Reply) { a.Type, a.Code = what.typ, what.code }
	r.reply(probe, rawprobe.ICMPError, from, append(edit, say)...)
}

func (r record) host(probe int, kind rawprobe.ReplyKind) { r.reply(probe, kind, r.family.host) }

// show writes a path down, a line for each hop: its TTL, who is there, and of
// each kind of probe the status, the answers and the tries, and ! for answers in
// the host's name.
func (f family) show(p Path) string {
	var b strings.Builder
	fmt.Fprintf(&b, "depth %d\n", p.Depth)
	for i := range p.Hops {
		h := &p.Hops[i]
		var who []string
		for _, a := range h.Addrs {
			who = append(who, f.addr(a))
		}
		if who == nil {
			who = []string{"-"}
		}
		fmt.Fprintf(&b, "%d %s", h.TTL, strings.Join(who, ","))
		if h.Host {
			b.WriteString(" (host)")
		}
		names := p.Names
		if !slices.Contains(names, "subject") { // it may have had full TTL only
			names = append([]string{"subject"}, names...)
		}
		for _, n := range names {
			q := h.Of(n)
			if q.Status == NotSent {
				continue
			}
			fmt.Fprintf(&b, " %s %s %d/%d", n, q.Status, q.Got, q.Tries)
			if q.InName {
				b.WriteString("!")
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

// lines takes the indentation off a text that a test has written down.
func lines(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// drop is the path of design.md: a drop between hops 2 and 3, the host at 4.
func (r record) drop() {
	for range 3 {
		r.subject(full)
	}
	r.host(r.echo(full), rawprobe.EchoReply)
	for ttl := 1; ttl <= 2; ttl++ {
		r.expired(r.subject(ttl), ttl)
	}
	for range 3 {
		r.subject(3)
	}
	for ttl := 1; ttl <= 3; ttl++ {
		r.expired(r.echo(ttl), ttl)
	}
	r.host(r.echo(4), rawprobe.EchoReply)
}

func TestRead(t *testing.T) {
	for _, test := range []struct {
		name string
		play func(r record)
		want string
	}{
		{"nothing", func(record) {}, "depth 0"},
		{"a drop, and the host at the end: what had full TTL went there", record.drop, `
			depth 4
			1 r1 subject passes 1/1 icmp-echo passes 1/1
			2 r2 subject passes 1/1 icmp-echo passes 1/1
			3 r3 subject silent 0/3 icmp-echo passes 1/1
			4 host (host) subject silent 0/3 icmp-echo answers 1/1!`},
		{"full TTL alone is no path", func(r record) {
			r.host(r.subject(full), rawprobe.SynAck)
			r.host(r.echo(full), rawprobe.EchoReply)
		}, "depth 0"},
		{"an open port, its path shown", func(r record) {
			r.host(r.subject(full), rawprobe.SynAck)
			r.expired(r.subject(1), 1)
			r.expired(r.echo(1), 1)
			r.host(r.echo(2), rawprobe.EchoReply)
		}, `
			depth 2
			1 r1 subject passes 1/1 icmp-echo passes 1/1
			2 host (host) subject answers 1/1 icmp-echo answers 1/1!`},
		{"a closed port, its path shown", func(r record) {
			r.host(r.subject(full), rawprobe.Reset)
			r.expired(r.subject(1), 1)
			r.host(r.echo(2), rawprobe.EchoReply)
		}, `
			depth 2
			1 r1 subject passes 1/1
			2 host (host) subject rejects 1/1 icmp-echo answers 1/1!`},
		{"a SYN-ACK that the host repeats is the answer to one probe", func(r record) {
			i := r.subject(full)
			r.host(i, rawprobe.SynAck)
			r.host(i, rawprobe.SynAck)
			r.expired(r.subject(1), 1)
			r.host(r.echo(2), rawprobe.EchoReply)
		}, `
			depth 2
			1 r1 subject passes 1/1
			2 host (host) subject answers 1/1 icmp-echo answers 1/1!`},
		{"a subject stepped to the host needs no word from full TTL", func(r record) {
			r.host(r.subject(full), rawprobe.Reset)
			r.expired(r.subject(1), 1)
			r.subject(2)
			r.host(r.subject(2), rawprobe.Reset)
			r.host(r.echo(2), rawprobe.EchoReply)
		}, `
			depth 2
			1 r1 subject passes 1/1
			2 host (host) subject rejects 1/2! icmp-echo answers 1/1!`},
		{"a subject of full TTL that never left was not sent", func(r record) {
			r.sent(rawprobe.Subject, full, func(s *rawprobe.Sent) { s.Refused = rawprobe.RefusedByFirewall })
			r.expired(r.echo(1), 1)
			r.host(r.echo(2), rawprobe.EchoReply)
		}, `
			depth 2
			1 r1 icmp-echo passes 1/1
			2 host (host) icmp-echo answers 1/1!`},
		{"a refused probe is no try, and makes no hop", func(r record) {
			r.expired(r.subject(1), 1)
			for ttl := 1; ttl <= 3; ttl++ {
				r.sent(rawprobe.Subject, ttl, func(s *rawprobe.Sent) { s.Refused = rawprobe.RefusedNoBuffer })
			}
		}, `
			depth 0
			1 r1 subject passes 1/1`},
		{"of the silent hops at the end one is shown", func(r record) {
			r.expired(r.subject(1), 1)
			for ttl := 2; ttl <= 6; ttl++ {
				r.subject(ttl)
				r.echo(ttl)
			}
		}, `
			depth 0
			1 r1 subject passes 1/1
			2 - subject silent 0/1 icmp-echo silent 0/1`},
		{"a silent hop with another behind it stays, and so does a lone one at the end", func(r record) {
			r.expired(r.echo(1), 1)
			r.echo(2)
			r.expired(r.echo(3), 3)
			r.echo(4)
		}, `
			depth 0
			1 r1 icmp-echo passes 1/1
			2 - icmp-echo silent 0/1
			3 r3 icmp-echo passes 1/1
			4 - icmp-echo silent 0/1`},
		{"nobody answers at all", func(r record) {
			for ttl := 1; ttl <= 4; ttl++ {
				r.subject(ttl)
			}
		}, `
			depth 0
			1 - subject silent 0/1`},
		{"beyond the host there is nothing", func(r record) {
			r.expired(r.echo(1), 1)
			for ttl := 2; ttl <= 5; ttl++ {
				r.host(r.echo(ttl), rawprobe.EchoReply)
			}
		}, `
			depth 2
			1 r1 icmp-echo passes 1/1
			2 host (host) icmp-echo answers 1/1!`},
		{"unless the subject goes on there, behind an address that answers for another machine", func(r record) {
			for ttl := 1; ttl <= 3; ttl++ {
				r.expired(r.subject(ttl), ttl)
			}
			r.expired(r.echo(1), 1)
			r.host(r.echo(2), rawprobe.EchoReply)
		}, `
			depth 2
			1 r1 subject passes 1/1 icmp-echo passes 1/1
			2 r2,host (host) subject passes 1/1 icmp-echo answers 1/1!
			3 r3 subject passes 1/1`},
		{"a reset from before the host does not tell who is there", func(r record) {
			r.expired(r.subject(1), 1)
			r.host(r.subject(2), rawprobe.Reset)
			r.echo(2)
			r.expired(r.echo(3), 3)
			r.host(r.echo(4), rawprobe.EchoReply)
		}, `
			depth 4
			1 r1 subject passes 1/1
			2 - subject rejects 1/1! icmp-echo silent 0/1
			3 r3 icmp-echo passes 1/1
			4 host (host) icmp-echo answers 1/1!`},
		{"nor does a SYN-ACK, which is no distance either", func(r record) {
			r.host(r.subject(1), rawprobe.SynAck)
			r.expired(r.echo(1), 1)
			r.host(r.echo(2), rawprobe.EchoReply)
		}, `
			depth 2
			1 r1 subject answers 1/1! icmp-echo passes 1/1
			2 host (host) icmp-echo answers 1/1!`},
		{"nor where no control says where the host is", func(r record) {
			r.expired(r.subject(1), 1)
			r.host(r.subject(2), rawprobe.Reset)
		}, `
			depth 0
			1 r1 subject passes 1/1
			2 - subject rejects 1/1!`},
		{"the host's own distance is the least of its answers to controls", func(r record) {
			r.host(r.echo(4), rawprobe.EchoReply)
			r.host(r.syn(80, 3), rawprobe.Reset)
			r.host(r.syn(80, 4), rawprobe.SynAck)
		}, `
			depth 3
			1 -
			2 -
			3 host (host) tcp-syn:80 answers 1/1!`},
		{"an answer to an ACK is the host's", func(r record) {
			r.expired(r.sent(rawprobe.ControlACK, 1), 1)
			r.host(r.sent(rawprobe.ControlACK, 2), rawprobe.Reset)
		}, `
			depth 2
			1 r1 tcp-ack passes 1/1
			2 host (host) tcp-ack answers 1/1!`},
		{"so is its word that nobody listens for datagrams", func(r record) {
			r.expired(r.udp(1), 1)
			r.error(r.udp(2), r.family.host, r.refused)
		}, `
			depth 2
			1 r1 udp passes 1/1
			2 host (host) udp answers 1/1!`},
		{"but not the same word to another probe", func(r record) {
			r.expired(r.echo(1), 1)
			r.error(r.syn(80, 2), r.family.host, r.refused)
		}, `
			depth 0
			1 r1 icmp-echo passes 1/1
			2 host tcp-syn:80 rejects 1/1`},
		{"nor that word from elsewhere", func(r record) {
			r.expired(r.udp(1), 1)
			r.error(r.udp(2), r.router(7), r.refused)
		}, `
			depth 0
			1 r1 udp passes 1/1
			2 r7 udp rejects 1/1`},
		{"who refuses may be the router before: its own hop is known", func(r record) {
			r.expired(r.subject(1), 1)
			r.expired(r.subject(2), 2)
			r.error(r.subject(3), r.router(2), r.admin)
		}, `
			depth 0
			1 r1 subject passes 1/1
			2 r2 subject passes 1/1
			3 - subject rejects 1/1`},
		{"who refuses where another said that it expired does not name the hop", func(r record) {
			r.expired(r.echo(1), 1)
			r.error(r.subject(1), r.router(8), r.admin)
		}, `
			depth 0
			1 r1 subject rejects 1/1 icmp-echo passes 1/1`},
		{"time exceeded from the target's address is no answer of the host", func(r record) {
			r.error(r.subject(1), r.family.host, r.family.expired)
		}, `
			depth 0
			1 host subject passes 1/1`},
		{"every address is kept, the subject's first, each once", func(r record) {
			r.expired(r.echo(1), 5)
			r.expired(r.echo(1), 1)
			r.expired(r.subject(1), 1)
			r.expired(r.subject(1), 6)
		}, `
			depth 0
			1 r1,r6,r5 subject passes 2/2 icmp-echo passes 2/2`},
		{"one router at two TTLs next to each other stays at both", func(r record) {
			r.expired(r.subject(1), 1)
			r.expired(r.subject(2), 2)
			r.expired(r.subject(3), 2)
		}, `
			depth 0
			1 r1 subject passes 1/1
			2 r2 subject passes 1/1
			3 r2 subject passes 1/1`},
		{"an answer that may be another probe's does not count", func(r record) {
			r.expired(r.subject(1), 1)
			r.reply(r.subject(2), rawprobe.Reset, r.family.host, func(a *rawprobe.Reply) { a.Exact = false })
			r.reply(r.echo(1), rawprobe.ICMPError, r.router(9), func(a *rawprobe.Reply) {
				a.Exact, a.Type, a.Code = false, r.family.expired.typ, r.family.expired.code
			})
		}, `
			depth 0
			1 r1 subject passes 1/1 icmp-echo silent 0/1
			2 - subject silent 0/1`},
		{"records from elsewhere are none", func(r record) {
			r.expired(r.subject(1), 1)
			for _, i := range []int{-1, -1 << 62, len(r.o.Sent), 1 << 62} {
				r.expired(i, 2)
				r.host(i, rawprobe.EchoReply)
			}
		}, `
			depth 0
			1 r1 subject passes 1/1`},
		{"so are TTLs that no hop has", func(r record) {
			r.expired(r.subject(1), 1)
			for _, ttl := range []int{-1, 0, 65, 255, 1 << 40} {
				r.expired(r.subject(ttl), 2)
				r.host(r.echo(ttl), rawprobe.EchoReply)
			}
		}, `
			depth 0
			1 r1 subject passes 1/1`},
		{"a packet that is answered twice was sent once", func(r record) {
			i := r.echo(1)
			r.expired(i, 1)
			r.expired(i, 1)
		}, `
			depth 0
			1 r1 icmp-echo passes 1/1`},
		{"a later refusal does not take back what passed", func(r record) {
			r.expired(r.subject(1), 1)
			r.error(r.subject(1), r.router(1), r.noRoute)
		}, `
			depth 0
			1 r1 subject passes 2/2`},
		{"nor a later expiry a refusal", func(r record) {
			r.error(r.subject(1), r.router(1), r.noHost)
			r.expired(r.subject(1), 1)
		}, `
			depth 0
			1 r1 subject rejects 2/2`},
		{"what comes in the host's name does", func(r record) {
			r.expired(r.echo(1), 1)
			r.host(r.echo(1), rawprobe.EchoReply)
		}, `
			depth 1
			1 r1,host (host) icmp-echo answers 2/2!`},
		{"the kinds come in the order of their sending, behind the subject", func(r record) {
			r.expired(r.syn(80, 1), 1)
			r.expired(r.echo(1), 1)
			r.expired(r.syn(22, 1), 1)
			r.expired(r.syn(80, 1), 1)
			r.expired(r.subject(1), 1)
		}, `
			depth 0
			1 r1 subject passes 1/1 tcp-syn:80 passes 2/2 icmp-echo passes 1/1 tcp-syn:22 passes 1/1`},
		{"other flows have paths of their own", func(r record) {
			r.expired(r.subject(1), 1)
			r.expired(r.flow(40002, 1), 5)
			r.expired(r.flow(40002, 2), 6)
		}, `
			depth 0
			1 r1 subject passes 1/1`},
		{"a host on this link", func(r record) {
			r.host(r.echo(1), rawprobe.EchoReply)
			r.subject(full)
		}, `
			depth 1
			1 host (host) subject silent 0/1 icmp-echo answers 1/1!`},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, f family) {
				r := newRecord(f)
				test.play(r)
				if got := f.show(Read(r.o)); got != lines(test.want) {
					t.Errorf("got\n%swant\n%s", got, lines(test.want))
				}
			})
		})
	}
}

// The host is also who answers at the address to which this machine itself
// sends the probe on, and a zone is no part of an address on the wire.
func TestReadHost(t *testing.T) {
	r := newRecord(ipv4)
	elsewhere := r.router(50)
	r.reply(r.sent(rawprobe.Echo, 2, func(s *rawprobe.Sent) {
		flow := s.Flow
		flow.Dst = netip.AddrPortFrom(elsewhere, 0)
		s.Departed = &rawprobe.Departure{Flow: flow}
	}), rawprobe.EchoReply, elsewhere)
	if p := Read(r.o); p.Depth != 2 || !p.Hop(2).Host {
		t.Errorf("local translation: got %+v", p)
	}
	r = newRecord(ipv4)
	r.reply(r.echo(2), rawprobe.EchoReply, elsewhere)
	if p := Read(r.o); p.Depth != 0 {
		t.Errorf("no translation: got %+v", p)
	}
	r = newRecord(ipv6)
	r.o.Target = netip.AddrPortFrom(r.family.host.WithZone("eth0"), subjectPort)
	r.host(r.echo(1), rawprobe.EchoReply)
	if p := Read(r.o); p.Depth != 1 {
		t.Errorf("a zone: got %+v", p)
	}
}

// Full-TTL answers that are neither of the host nor refusals leave the host's
// hop silent: a subject that goes round, and the ACK of an old connection.
func TestReadFullTTL(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		for name, answer := range map[string]func(record, int){
			"a loop":            func(r record, i int) { r.expired(i, 2) },
			"an old connection": func(r record, i int) { r.host(i, rawprobe.OldAck) },
		} {
			r := newRecord(f)
			answer(r, r.subject(full))
			r.expired(r.subject(1), 1)
			r.host(r.echo(2), rawprobe.EchoReply)
			p := Read(r.o)
			if q := p.Hop(2).Of("subject"); q.Status != Silent {
				t.Errorf("%s: got %+v", name, q)
			}
		}
	})
}

func TestReadFlow(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		r := newRecord(f)
		r.drop()
		r.flow(40002, full)
		r.expired(r.flow(40002, 1), 1)
		r.expired(r.flow(40002, 2), 12)
		r.expired(r.flow(40003, 2), 13)
		r.flow(40002, 3)
		r.host(r.flow(40002, 4), rawprobe.SynAck)
		want := lines(`
			depth 0
			1 r1 subject passes 1/1
			2 r12 subject passes 1/1
			3 - subject silent 0/1
			4 - subject answers 1/1!`)
		if got := f.show(ReadFlow(r.o, 40002)); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
		if got := f.show(ReadFlow(r.o, ourPort)); got != "depth 0\n" {
			t.Errorf("the subject's own port: got\n%s", got)
		}
	})
}

func TestPathQuestions(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		r := newRecord(f)
		r.expired(r.echo(1), 1)
		r.expired(r.echo(2), 2)
		r.expired(r.subject(1), 1)
		r.expired(r.subject(3), 2) // later than the echo's, but the subject's
		r.expired(r.echo(4), 4)
		r.error(r.subject(4), r.router(6), r.admin)
		r.host(r.echo(5), rawprobe.EchoReply)
		p := Read(r.o)
		for _, test := range []struct {
			what      string
			got, want any
		}{
			{"Last of the subject", p.Last("subject"), 3},
			{"Last of the echo", p.Last("icmp-echo"), 4},
			{"Last of what was not sent", p.Last("udp"), 0},
			{"Find a router of both", p.Find(r.router(1)), 1},
			{"Find by the subject first", p.Find(r.router(2)), 3},
			{"Find by an echo", p.Find(r.router(4)), 4},
			{"Find who refuses", p.Find(r.router(6)), 0},
			{"Find the host", p.Find(f.host), 0},
			{"Find a stranger", p.Find(r.router(9)), 0},
			{"Find no address", p.Find(netip.Addr{}), 0},
			{"Addr", p.Addr(2), r.router(2)},
			{"Addr of the host", p.Addr(5), f.host},
			{"Addr of TTL 0", p.Addr(0), netip.Addr{}},
			{"Addr beyond", p.Addr(6), netip.Addr{}},
			{"Hop 0", p.Hop(0) == nil, true},
			{"Hop -1", p.Hop(-1) == nil, true},
			{"Hop 6", p.Hop(6) == nil, true},
			{"Hop 5", p.Hop(5).TTL, 5},
			{"Of", p.Hop(2).Of("subject").Status, NotSent},
		} {
			if test.got != test.want {
				t.Errorf("%s: got %v, want %v", test.what, test.got, test.want)
			}
		}
	})
}

// The round-trip time of a hop is the least of all; one that is not known is
// none.
func TestHopRTT(t *testing.T) {
	r := newRecord(ipv4)
	for _, rtt := range []time.Duration{0, 9 * ms, 3 * ms, 7 * ms, 0} {
		r.reply(r.echo(1), rawprobe.ICMPError, r.router(1), func(a *rawprobe.Reply) { a.Type, a.RTT = 11, rtt })
	}
	r.reply(r.subject(1), rawprobe.ICMPError, r.router(1), func(a *rawprobe.Reply) { a.Type, a.RTT = 11, 4*ms })
	p := Read(r.o)
	if h := p.Hop(1); h.RTT != 3*ms || h.Of("icmp-echo").RTT != 3*ms || h.Of("subject").RTT != 4*ms {
		t.Errorf("got %+v", h)
	}
	r = newRecord(ipv4)
	r.reply(r.echo(1), rawprobe.ICMPError, r.router(1), func(a *rawprobe.Reply) { a.Type, a.RTT = 11, 0 })
	if p := Read(r.o); p.Hop(1).RTT != 0 {
		t.Errorf("got %v of none", p.Hop(1).RTT)
	}
}

// Read changes nothing in the record.
func TestReadIsPure(t *testing.T) {
	r := newRecord(ipv6)
	r.drop()
	sent, replies := slices.Clone(r.o.Sent), slices.Clone(r.o.Replies)
	a := Read(r.o)
	b := Read(r.o)
	if ipv6.show(a) != ipv6.show(b) {
		t.Errorf("twice is not the same")
	}
	same := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	addr := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	hidden := cmpopts.IgnoreUnexported(rawprobe.Sent{}, rawprobe.Departure{}, rawprobe.Reply{})
	if d := cmp.Diff(sent, r.o.Sent, same, addr, hidden) + cmp.Diff(replies, r.o.Replies, same, addr, hidden); d != "" {
		t.Errorf("changed:\n%s", d)
	}
}

func TestLoss(t *testing.T) {
	for _, test := range []struct {
		name string
		play func(r record)
		want float64
	}{
		{"nothing was sent", func(record) {}, 0},
		{"nothing is lost", func(r record) { r.drop() }, 0},
		{"a hop that never answers is no loss", func(r record) {
			r.expired(r.echo(1), 1)
			for range 3 {
				r.echo(2)
			}
		}, 0},
		{"one of two", func(r record) {
			r.echo(1)
			r.expired(r.echo(1), 1)
		}, 0.5},
		{"at each TTL for itself, then together", func(r record) {
			for range 3 {
				r.expired(r.echo(1), 1)
			}
			r.echo(1)
			r.host(r.echo(full), rawprobe.EchoReply)
			r.echo(full)
			r.echo(full)
			r.echo(full)
			r.echo(2)
		}, 0.5},
		{"a probe that is answered twice is not two", func(r record) {
			r.echo(1)
			i := r.echo(1)
			r.expired(i, 1)
			r.expired(i, 1)
		}, 0.5},
		{"the subject's do not count", func(r record) {
			r.subject(1)
			r.expired(r.subject(1), 1)
			r.expired(r.echo(1), 1)
		}, 0},
		{"nor what was never sent", func(r record) {
			r.expired(r.echo(1), 1)
			r.sent(rawprobe.Echo, 1, func(s *rawprobe.Sent) { s.Refused = rawprobe.RefusedNoBuffer })
		}, 0},
		{"nor what may still be answered", func(r record) {
			r.expired(r.echo(1), 1)
			r.sent(rawprobe.Echo, 1, func(s *rawprobe.Sent) { s.Time = r.o.End.Add(-149 * ms) })
		}, 0},
		{"one that had its time does", func(r record) {
			r.expired(r.echo(1), 1)
			r.sent(rawprobe.Echo, 1, func(s *rawprobe.Sent) { s.Time = r.o.End.Add(-150 * ms) })
		}, 0.5},
		{"three round trips of time, far away", func(r record) {
			r.reply(r.echo(1), rawprobe.ICMPError, r.router(1), func(a *rawprobe.Reply) {
				a.Type, a.Code, a.RTT = r.family.expired.typ, r.family.expired.code, 100*ms
			})
			r.sent(rawprobe.Echo, 1, func(s *rawprobe.Sent) { s.Time = r.o.End.Add(-299 * ms) })
		}, 0},
		{"records from elsewhere are none", func(r record) {
			r.expired(r.echo(1), 1)
			r.expired(-1, 1)
			r.host(99, rawprobe.EchoReply)
		}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, f family) {
				r := newRecord(f)
				test.play(r)
				if got := Loss(r.o); got != test.want {
					t.Errorf("got %v, want %v", got, test.want)
				}
			})
		})
	}
}
