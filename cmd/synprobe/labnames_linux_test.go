package main

import (
	"context"
	endian "encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"synprobe/rawprobe/netlab"
)

// A zone is what a name server knows, by name with the dot at the end. What it
// does not know does not exist.
type zone map[string]answer

// An answer is what a name server says about a name.
type answer struct {
	addresses []string
	code      dnsmessage.RCode
	silent    bool
	onlyTCP   bool // over UDP it says that there is more than fits
}

// A nameServer answers queries on port 53 of a node, over UDP and TCP.
type nameServer struct {
	zone zone

	mu    sync.Mutex
	asked []string // such as "udp A db.lab.test."
}

// serveNames starts a name server in a node. It ends with the test.
func serveNames(t testing.TB, m *netlab.Machine, z zone) *nameServer {
	t.Helper()
	s := &nameServer{zone: z}
	var udp net.PacketConn
	var tcp net.Listener
	err := m.Do(func() (err error) {
		if udp, err = net.ListenPacket("udp", ":53"); err != nil {
			return err
		}
		tcp, err = net.Listen("tcp", ":53")
		return err
	})
	if err != nil {
		t.Fatalf("name server: %v", err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		b := make([]byte, 4096)
		for {
			n, from, err := udp.ReadFrom(b)
			if err != nil {
				return // closed
			}
			if reply := s.reply(b[:n], "udp"); reply != nil {
				_, _ = udp.WriteTo(reply, from)
			}
		}
	})
	serving.Go(func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return // closed
			}
			serving.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() {
		udp.Close()
		tcp.Close()
		serving.Wait()
	})
	return s
}

// serve answers one connection's queries, each with its length before it (RFC
// 1035, section 4.2.2).
func (s *nameServer) serve(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(hang))
	for {
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		b := make([]byte, endian.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		if reply := s.reply(b, "tcp"); reply != nil {
			_, _ = c.Write(append(endian.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
		}
	}
}

func (s *nameServer) reply(query []byte, network string) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	s.mu.Lock()
	s.asked = append(s.asked, fmt.Sprintf("%s %s %s", network, strings.TrimPrefix(q.Type.String(), "Type"), q.Name))
	s.mu.Unlock()
	a, known := s.zone[strings.ToLower(q.Name.String())]
	if a.silent {
		return nil
	}
	r := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionDesired: true, RecursionAvailable: true, RCode: a.code},
		Questions: m.Questions,
	}
	switch {
	case !known:
		r.RCode = dnsmessage.RCodeNameError
	case a.onlyTCP && network == "udp":
		r.Truncated = true
	default:
		for _, text := range a.addresses {
			addr := netip.MustParseAddr(text)
			h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}
			switch {
			case addr.Is4() && q.Type == dnsmessage.TypeA:
				r.Answers = append(r.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: addr.As4()}})
			case addr.Is6() && q.Type == dnsmessage.TypeAAAA:
				r.Answers = append(r.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
			}
		}
	}
	b, err := r.Pack()
	if err != nil {
		return nil
	}
	return b
}

// queries returns what was asked about a name.
func (s *nameServer) queries(name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, q := range s.asked {
		if strings.HasSuffix(q, " "+name) {
			all = append(all, q)
		}
	}
	return all
}

// TestLocalhost asks for a name with an address of each family.
func TestLocalhost(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	before, err := os.ReadFile("/etc/hosts")
	if err != nil {
		before = nil
	}
	lab := netlab.Start(t, netlab.Chain(0).WithListen("client", "tcp:22"))
	client := lab.Node("client")
	for _, c := range []struct {
		hosts  string
		flag   string
		probed string
	}{
		{"127.0.0.1 localhost\n::1 localhost\n", "-4", "127.0.0.1"},
		{"127.0.0.1 localhost\n::1 localhost\n", "-6", "::1"},
		{"127.0.0.1 localhost\n::1 localhost\n", "", "127.0.0.1 or ::1"},
		{"::1 localhost\n127.0.0.1 localhost\n", "-4", "127.0.0.1"},
	} {
		s := surrounding{Etc: etc(t, "nameserver 127.0.0.1\n", c.hosts)}
		argv := []string{binary(), "localhost", "22"}
		if c.flag != "" {
			argv = append(argv, c.flag)
		}
		out := s.run(t, client, argv...)
		shown := strings.Join(argv[1:], " ")
		if out.Exit != 0 || out.Stderr != "" {
			t.Errorf("%s: exit %d\n%s%s", shown, out.Exit, out.Stdout, out.Stderr)
		}
		lines := strings.Split(out.Stdout, "\n")
		addresses := ""
		for _, l := range lines {
			if rest, ok := strings.CutPrefix(strings.TrimSpace(l), "Addresses: "); ok {
				addresses = rest
			}
		}
		if !strings.Contains(addresses, "127.0.0.1") || !strings.Contains(addresses, "::1") || strings.Count(addresses, "(probed)") != 1 {
			t.Errorf("%s: not both addresses are named:\n%s", shown, out.Stdout)
		}
		got := decode(t, s.run(t, client, append(argv, "--json")...))[0]
		if !strings.Contains(c.probed, got.Target.Address) || got.Target.Name != "localhost" || got.Verdict != "open" {
			t.Errorf("%s: %s at %q (%s), want open at %s", shown, got.Verdict, got.Target.Address, got.Target.Name, c.probed)
		}
		if !strings.Contains(addresses, got.Target.Address+" (probed)") {
			t.Errorf("%s: %s was probed, and the text says %s", shown, got.Target.Address, addresses)
		}
	}
	// The surrounding was the program's alone.
	if after, err := os.ReadFile("/etc/hosts"); before != nil && (err != nil || string(after) != string(before)) {
		t.Fatalf("the machine's own /etc/hosts has changed: %v", err)
	}
}

// TestNames asks for names that a name server knows, and for some that none
// knows or tells.
func TestNames(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, netlab.Chain(1))
	client := lab.Node("client")
	server := serveNames(t, lab.Node("server"), zone{
		"both.lab.test.":    {addresses: []string{"10.0.2.2", "fd00:0:0:2::2"}},
		"four.lab.test.":    {addresses: []string{"10.0.2.2"}},
		"six.lab.test.":     {addresses: []string{"fd00:0:0:2::2"}},
		"far6.lab.test.":    {addresses: []string{"2001:db8::9", "10.0.2.2"}},
		"far4.lab.test.":    {addresses: []string{"192.0.2.9", "fd00:0:0:2::2"}},
		"far.lab.test.":     {addresses: []string{"2001:db8::9", "192.0.2.9"}},
		"sink.lab.test.":    {addresses: []string{"0.0.0.0", "::"}},
		"empty.lab.test.":   {},
		"large.lab.test.":   {addresses: []string{"10.0.2.2"}, onlyTCP: true},
		"broken.lab.test.":  {code: dnsmessage.RCodeServerFailure},
		"refused.lab.test.": {code: dnsmessage.RCodeRefused},
		"silent.lab.test.":  {silent: true},
	})
	// Only what is on the way to the server has a route.
	for _, f := range both {
		to := map[netlab.Family]string{netlab.IPv4: "10.0.2.0/24", netlab.IPv6: "fd00:0:0:2::/64"}[f]
		client.AddRoute(netlab.Route{To: to, Next: []string{"r1"}})
	}
	client.DelRoute("default")
	quickly := surrounding{Etc: etc(t, "nameserver 10.0.2.2\nsearch lab.test\noptions timeout:1 attempts:1\n", "")}

	for _, c := range []struct {
		argv    []string
		exit    int
		address string // probed
		word    string // verdict or kind of error
		says    string // a part of the error
	}{
		{argv: []string{"-4", "both.lab.test"}, address: "10.0.2.2", word: "open"},
		{argv: []string{"-6", "both.lab.test"}, address: "fd00:0:0:2::2", word: "open"},
		{argv: []string{"both"}, address: "10.0.2.2 or fd00:0:0:2::2", word: "open"}, // the search list
		{argv: []string{"BOTH.Lab.Test."}, address: "10.0.2.2 or fd00:0:0:2::2", word: "open"},
		{argv: []string{"four.lab.test"}, address: "10.0.2.2", word: "open"},
		{argv: []string{"six.lab.test"}, address: "fd00:0:0:2::2", word: "open"},
		{argv: []string{"far6.lab.test"}, address: "10.0.2.2", word: "open"},
		{argv: []string{"far4.lab.test"}, address: "fd00:0:0:2::2", word: "open"},
		{argv: []string{"-6", "far6.lab.test"}, exit: 5, address: "2001:db8::9", word: "network-down"},
		{argv: []string{"far.lab.test"}, exit: 5, address: "2001:db8::9 or 192.0.2.9", word: "network-down"},
		{argv: []string{"large.lab.test"}, address: "10.0.2.2", word: "open"},
		{argv: []string{"-6", "four.lab.test"}, exit: 64, word: "usage", says: "four.lab.test"},
		{argv: []string{"-4", "six.lab.test"}, exit: 64, word: "usage", says: "six.lab.test"},
		{argv: []string{"nosuch.lab.test"}, exit: 68, word: "name-not-found", says: "nosuch.lab.test"},
		{argv: []string{"empty.lab.test"}, exit: 68, word: "name-not-found", says: "empty.lab.test"},
		{argv: []string{"sink.lab.test"}, exit: 68, word: "name-not-found", says: "sink.lab.test"},
		{argv: []string{"broken.lab.test"}, exit: 75, word: "name-servers", says: "broken.lab.test"},
		{argv: []string{"refused.lab.test"}, exit: 75, word: "name-servers", says: "refused.lab.test"},
		{argv: []string{"silent.lab.test"}, exit: 75, word: "name-servers", says: "10.0.2.2"},
	} {
		argv := append([]string{binary(), "--json", "-n"}, c.argv...)
		out := quickly.run(t, client, append(argv, "80")...)
		got := decode(t, out)
		if len(got) != 1 {
			t.Errorf("%v: %d lines\n%s", c.argv, len(got), out.Stdout)
			continue
		}
		word := got[0].Verdict
		if got[0].Error != nil {
			word = got[0].Error.Kind
		}
		if out.Exit != c.exit || word != c.word || c.address != "" && !strings.Contains(c.address, got[0].Target.Address) || got[0].Target.Address == "" && c.address != "" {
			t.Errorf("%v: exit %d, %s at %q, want %d, %s at %s\n%s%s", c.argv, out.Exit, word, got[0].Target.Address, c.exit, c.word, c.address, out.Stdout, out.Stderr)
		}
		if c.says != "" {
			lines := strings.Split(strings.TrimSuffix(out.Stderr, "\n"), "\n")
			if !strings.Contains(lines[0], c.says) || len(lines) != 2 || !strings.HasPrefix(lines[1], "hint: ") {
				t.Errorf("%v: no error that names %q and a hint:\n%s", c.argv, c.says, out.Stderr)
			}
		}
	}
	if q := server.queries("large.lab.test."); len(q) == 0 || !strings.HasPrefix(q[len(q)-1], "tcp") {
		t.Errorf("a truncated answer was not asked for over TCP: %v", q)
	}

	// Twenty targets of one name ask once.
	before := len(server.queries("both.lab.test."))
	argv := []string{binary(), "--json", "-n", "-4"}
	for range 20 {
		argv = append(argv, "both.lab.test:80")
	}
	if out := quickly.run(t, client, argv...); out.Exit != 0 || len(decode(t, out)) != 20 {
		t.Errorf("twenty targets: exit %d\n%s%s", out.Exit, out.Stdout, out.Stderr)
	}
	if n := len(server.queries("both.lab.test.")) - before; n > 2 {
		t.Errorf("twenty targets of one name: %d queries, want one for each family", n)
	}
}

// TestNameServerGone asks a name server that never answers and one where
// nothing listens, with the patience that every machine has by default.
func TestNameServerGone(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, netlab.Chain(0))
	client := lab.Node("client")
	serveNames(t, lab.Node("server"), zone{"db.lab.test.": {silent: true}})
	for _, c := range []struct {
		server string
		within time.Duration
	}{
		{"10.0.1.2", 5 * time.Second},
		{"10.0.1.1", time.Second}, // the client itself, where nothing listens
	} {
		s := surrounding{Etc: etc(t, "nameserver "+c.server+"\n", "")}
		out := s.run(t, client, binary(), "db.lab.test", "80")
		if out.Exit != 75 || out.Stdout != "" || !strings.HasPrefix(out.Stderr, "synprobe: db.lab.test: the name servers do not answer") {
			t.Errorf("server %s: exit %d, want 75 and an error\n%s%s", c.server, out.Exit, out.Stdout, out.Stderr)
		}
		if out.Elapsed > c.within+slack {
			t.Errorf("server %s: took %v, want %v", c.server, out.Elapsed, c.within)
		}
	}
}

// TestInterruptedLookup stops a run that still waits for a name server.
func TestInterruptedLookup(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, netlab.Chain(0))
	client := lab.Node("client")
	server := serveNames(t, lab.Node("server"), zone{"db.lab.test.": {silent: true}})
	s := surrounding{Etc: etc(t, "nameserver 10.0.1.2\n", "")}
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	r := start(t, client, s.command(t, ctx, client, binary(), "db.lab.test", "80"))
	eventually(t, "a query", func() bool { return len(server.queries("db.lab.test.")) > 0 })
	out := r.stop(t, syscall.SIGINT)
	if out.Exit != 130 || out.Stdout != "" || !strings.HasPrefix(out.Stderr, "synprobe: interrupted") {
		t.Errorf("exit %d, want 130\n%s%s", out.Exit, out.Stdout, out.Stderr)
	}
}
