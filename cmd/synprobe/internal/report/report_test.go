package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"synprobe/rawprobe"
	"synprobe/traceroute"
	"synprobe/traceroute/diagnose"
)

var update = flag.Bool("update", false, "write the golden files")

// One diagnosis as it may come from the rules: the words here are made up, but
// for the enumerations.
type example struct {
	name   string // of the golden file
	target string // as typed
	all    []netip.Addr
	addr   netip.AddrPort
	d      diagnose.Diagnosis
	change func(*rawprobe.Observations)
	names  map[netip.Addr]string
}

var (
	start  = time.Date(2026, 11, 22, 8, 27, 0, 123456000, time.UTC)
	ip     = netip.MustParseAddr
	dest   = ip("10.0.4.2")
	first  = diagnose.Hop{TTL: 1, Address: ip("10.0.1.2")}
	second = diagnose.Hop{TTL: 2, Address: ip("10.0.2.2")}
	third  = diagnose.Hop{TTL: 3, Address: ip("10.0.3.2")}
	silent = diagnose.Hop{TTL: 3}
	host   = diagnose.Hop{TTL: diagnose.UnknownTTL, Address: dest}
	self   = diagnose.Hop{TTL: 0, Address: ip("10.0.1.1")}
)

func at(where diagnose.Where, hops ...diagnose.Hop) *diagnose.Fault {
	return &diagnose.Fault{Where: where, Hops: hops}
}

func because(texts ...string) (all []diagnose.Evidence) {
	for i, t := range texts {
		all = append(all, diagnose.Evidence{Rule: "rule-" + strconv.Itoa(i+1), Text: t})
	}
	return all
}

func instead(cause diagnose.Cause, f *diagnose.Fault, why string) diagnose.Alternative {
	return diagnose.Alternative{Cause: cause, Fault: *f, Why: why}
}

const threeSYNs = "3 SYNs over 1.2 s got no answer"

var examples = []example{
	{name: "open-listening", d: diagnose.Diagnosis{
		Verdict: diagnose.Open, Cause: diagnose.Listening, Certainty: diagnose.Certain,
		Summary:  "10.0.4.2 accepts connections on port 5432.",
		Evidence: because("a SYN-ACK came after 0.52 ms, from the host's own distance"),
		RTT:      521400 * time.Nanosecond, Tries: 1, Answered: 1,
	}},
	{name: "open-listening-likely", target: "10.0.4.2", d: diagnose.Diagnosis{
		Verdict: diagnose.Open, Cause: diagnose.Listening, Certainty: diagnose.Likely,
		Summary:      "10.0.4.2 accepts connections on port 5432.",
		Next:         "",
		Alternatives: []diagnose.Alternative{instead(diagnose.Proxy, at(diagnose.Path), "the host answers nothing else to compare with")},
		Evidence:     because("a SYN-ACK came after 12.3 ms"),
		RTT:          12345678 * time.Nanosecond, Tries: 1, Answered: 1,
	}},
	{name: "open-proxy", d: diagnose.Diagnosis{
		Verdict: diagnose.Open, Cause: diagnose.Proxy, Certainty: diagnose.Certain,
		Summary:  "A device at hop 2 (10.0.2.2) accepts connections in the name of 10.0.4.2.",
		Next:     "ask whoever runs 10.0.2.2.",
		Fault:    at(diagnose.Path, second),
		Evidence: because("the SYN-ACK comes from 2 hops away, the echo reply from 4"),
		RTT:      210 * time.Microsecond, Tries: 1, Answered: 1,
	}, names: map[netip.Addr]string{second.Address: "fw1.example.com"}},
	{name: "reject-port-closed", d: diagnose.Diagnosis{
		Verdict: diagnose.Reject, Cause: diagnose.PortClosed, Certainty: diagnose.Certain,
		Summary:  "10.0.4.2 is up and refuses connections on port 5432: nothing listens there, or its own firewall resets them.",
		Next:     "start the service, or look at the host's firewall.",
		Fault:    at(diagnose.Destination, host),
		Evidence: because("an RST came after 0.48 ms", "it comes from 4 hops away, as the echo reply does"),
		RTT:      480 * time.Microsecond, Tries: 1, Answered: 1,
	}},
	{name: "reject-host-firewall", d: diagnose.Diagnosis{
		Verdict: diagnose.Reject, Cause: diagnose.HostFirewall, Certainty: diagnose.Certain,
		Summary:  "The firewall of 10.0.4.2 refuses connections to port 5432.",
		Next:     "look at the host's firewall.",
		Fault:    at(diagnose.Destination, host),
		Evidence: because("10.0.4.2 itself answered with ICMP port unreachable"),
		RTT:      480 * time.Microsecond, Tries: 1, Answered: 1,
	}},
	{name: "reject-network-firewall", d: diagnose.Diagnosis{
		Verdict: diagnose.Reject, Cause: diagnose.NetworkFirewall, Certainty: diagnose.Certain,
		Summary:  "10.0.2.2 refuses connections to 10.0.4.2 port 5432.",
		Next:     "ask whoever runs 10.0.2.2 about rules for tcp/5432.",
		Fault:    at(diagnose.Path, diagnose.Hop{TTL: diagnose.UnknownTTL, Address: second.Address}),
		Evidence: because("10.0.2.2 answered with ICMP administratively prohibited"),
		RTT:      310 * time.Microsecond, Tries: 1, Answered: 1,
	}, names: map[netip.Addr]string{second.Address: "evil\x1b[2J.example"}},
	{name: "reject-local-firewall", d: diagnose.Diagnosis{
		Verdict: diagnose.Reject, Cause: diagnose.LocalFirewall, Certainty: diagnose.Certain,
		Summary:  "This machine's own firewall refuses connections to 10.0.4.2 port 5432.",
		Next:     "look at the OUTPUT rules: nft list ruleset.",
		Fault:    at(diagnose.Local, self),
		Evidence: because("the kernel would not send: operation not permitted", "an RST came on lo"),
		Tries:    1, Answered: 1,
	}, change: func(o *rawprobe.Observations) {
		o.Sent = o.Sent[:1]
		o.Sent[0].Departed, o.Sent[0].Refused = nil, rawprobe.RefusedByFirewall
		o.Replies = nil
	}},
	{name: "drop-network-firewall", d: diagnose.Diagnosis{
		Verdict: diagnose.Drop, Cause: diagnose.NetworkFirewall, Certainty: diagnose.Certain,
		Summary: "Between hop 2 (10.0.2.2) and hop 3 (10.0.3.2) a firewall silently drops SYNs to port 5432; other traffic passes there.",
		Next:    "ask whoever runs 10.0.2.2 (outbound) or 10.0.3.2 (inbound) about rules for tcp/5432.",
		Fault:   at(diagnose.Path, second, third),
		Evidence: because(threeSYNs, "the same SYN reached hop 2 (TTL 2) and nothing beyond (TTL 3 to 6, 3 times each)",
			"ICMP echo reached the host at hop 4: it is up"),
		Tries: 3,
	}, names: map[netip.Addr]string{second.Address: "fw1.example.com", third.Address: "fw2.example.com"}},
	{name: "drop-host-firewall", d: diagnose.Diagnosis{
		Verdict: diagnose.Drop, Cause: diagnose.HostFirewall, Certainty: diagnose.Likely,
		Summary: "10.0.4.2 is up, and SYNs to port 5432 are lost at the last step: its own firewall drops them.",
		Next:    "look at the firewall of 10.0.4.2.",
		Fault:   at(diagnose.Destination, host),
		Alternatives: []diagnose.Alternative{
			instead(diagnose.NetworkFirewall, at(diagnose.Path, third), "its outbound rules drop behind the TTL check"),
			instead(diagnose.NetworkFirewall, at(diagnose.Path, second, silent, host), "a filter that answers nothing, such as a security group, leaves the same packets"),
			instead(diagnose.NotAccepting, at(diagnose.Destination, host), "a full accept queue looks the same"),
			instead(diagnose.ReturnPath, at(diagnose.Path), "the answers may be dropped instead"),
		},
		Evidence: because(threeSYNs, "ICMP echo was answered after 0.52 ms"),
		Tries:    3,
	}},
	{name: "drop-not-accepting", d: diagnose.Diagnosis{
		Verdict: diagnose.Drop, Cause: diagnose.NotAccepting, Certainty: diagnose.Likely,
		Summary:  "10.0.4.2 answers everything but SYNs to port 5432: its accept queue is full, or a filter matches SYNs alone.",
		Next:     "see on the host whether the service accepts: ss -ltn.",
		Fault:    at(diagnose.Destination, host),
		Evidence: because(threeSYNs, "an ACK to the same port drew an RST"), Tries: 3,
	}},
	{name: "drop-return-path", d: diagnose.Diagnosis{
		Verdict: diagnose.Drop, Cause: diagnose.ReturnPath, Certainty: diagnose.Certain,
		Summary:  "SYNs arrive at 10.0.4.2, and its answers are lost on their way back.",
		Next:     "ask for the rules of the way from 10.0.4.2 to 10.0.1.1.",
		Fault:    at(diagnose.Path),
		Evidence: because(threeSYNs, "a first fragment of the SYN arrived: the host gave up waiting for the rest"), Tries: 3,
	}},
	{name: "drop-local-firewall", d: diagnose.Diagnosis{
		Verdict: diagnose.Drop, Cause: diagnose.LocalFirewall, Certainty: diagnose.Certain,
		Summary:  "10.0.4.2 answers, and this machine's own firewall eats the answer.",
		Next:     "look at the INPUT rules: nft list ruleset.",
		Fault:    at(diagnose.Local, self),
		Evidence: because("a SYN-ACK was on the wire after 0.52 ms", "the kernel never got it"),
		RTT:      521 * time.Microsecond, Tries: 3, Answered: 3,
	}},
	{name: "drop-unknown", d: diagnose.Diagnosis{
		Verdict: diagnose.Drop, Cause: diagnose.Unknown, Certainty: diagnose.Ambiguous,
		Summary: "Nothing at all comes back from 10.0.4.2.",
		Next:    "try a port that is known to be open there.",
		Fault:   at(diagnose.Nowhere),
		Alternatives: []diagnose.Alternative{
			instead(diagnose.HostFirewall, at(diagnose.Destination, host), "a host that drops all looks the same"),
			instead(diagnose.HostUnreachable, at(diagnose.Nowhere), "a dead host whose router says nothing looks the same"),
		},
		Evidence: because(threeSYNs, "ICMP echo was not answered"), Tries: 3,
	}},
	{name: "host-down-neighbor-unreachable", target: "fe80::2%eth0", addr: netip.MustParseAddrPort("[fe80::2%eth0]:22"), d: diagnose.Diagnosis{
		Verdict: diagnose.HostDown, Cause: diagnose.NeighborUnreachable, Certainty: diagnose.Certain,
		Summary:  "fe80::2 is not there: nothing on eth0 answers for it.",
		Next:     "see whether the host runs, and whether it is on this network.",
		Fault:    at(diagnose.Destination, diagnose.Hop{TTL: 1, Address: ip("fe80::2%eth0")}),
		Evidence: because("3 neighbour solicitations in 1 s got no answer"), Tries: 1,
	}, change: func(o *rawprobe.Observations) {
		o.Machine.Route = rawprobe.Route{Source: ip("fe80::1")}
		o.Asks = []rawprobe.Ask{{Time: start}, {Time: start.Add(500 * time.Millisecond)}, {Time: start.Add(time.Second)}}
		o.Machine.Neighbor = "failed"
		flow := rawprobe.Flow{Src: netip.MustParseAddrPort("[fe80::1]:40000"), Dst: netip.MustParseAddrPort("[fe80::2]:22")}
		o.Sent = []rawprobe.Sent{{Kind: rawprobe.Subject, Try: 1, TTL: 64, Flow: flow, Time: start.Add(time.Millisecond)}}
		o.Replies = nil
	}},
	{name: "host-down-host-unreachable", d: diagnose.Diagnosis{
		Verdict: diagnose.HostDown, Cause: diagnose.HostUnreachable, Certainty: diagnose.Likely,
		Summary:      "10.0.3.2 can't reach 10.0.4.2: the host is down.",
		Next:         "see whether 10.0.4.2 runs.",
		Fault:        at(diagnose.Destination, host),
		Alternatives: []diagnose.Alternative{instead(diagnose.NetworkFirewall, at(diagnose.Path, diagnose.Hop{TTL: diagnose.UnknownTTL, Address: third.Address}), "a firewall can say so of a host that lives")},
		Evidence:     because("10.0.3.2 answered with ICMP host unreachable after 3.06 s"), RTT: 3061 * time.Millisecond, Tries: 3, Answered: 1,
	}},
	{name: "network-down-no-route", d: diagnose.Diagnosis{
		Verdict: diagnose.NetworkDown, Cause: diagnose.NoRoute, Certainty: diagnose.Certain,
		Summary:  "This machine has no route to 10.0.4.2.",
		Next:     "look at the routes: ip route get 10.0.4.2.",
		Fault:    at(diagnose.Local, diagnose.Hop{TTL: 0}),
		Evidence: because("the kernel's route lookup failed: network is unreachable"),
	}, change: func(o *rawprobe.Observations) {
		o.Machine = rawprobe.Machine{Route: rawprobe.Route{Outcome: rawprobe.RouteNone}}
		o.Sent, o.Replies, o.Asks, o.Ignored, o.Tap = nil, nil, nil, rawprobe.Ignored{}, rawprobe.TapStats{}
	}},
	{name: "network-down-no-address", d: diagnose.Diagnosis{
		Verdict: diagnose.NetworkDown, Cause: diagnose.NoAddress, Certainty: diagnose.Certain,
		Summary: "This machine has no IPv4 address to send from.", Next: "look at the addresses: ip address.",
		Fault: at(diagnose.Local, diagnose.Hop{TTL: 0}), Evidence: because("a route, but no source address"),
	}},
	{name: "network-down-link-down", d: diagnose.Diagnosis{
		Verdict: diagnose.NetworkDown, Cause: diagnose.LinkDown, Certainty: diagnose.Certain,
		Summary: "eth0 has no carrier.", Next: "look at the cable or the switch port of eth0.",
		Fault: at(diagnose.Local, self), Evidence: because("eth0 is up and has no carrier"),
	}},
	{name: "network-down-gateway-down", d: diagnose.Diagnosis{
		Verdict: diagnose.NetworkDown, Cause: diagnose.GatewayDown, Certainty: diagnose.Certain,
		Summary: "The gateway 10.0.1.2 on eth0 does not answer ARP.", Next: "see whether 10.0.1.2 runs.",
		Fault: at(diagnose.Local, self, first), Evidence: because("3 ARP requests in 1 s got no answer"), Tries: 2,
	}},
	{name: "network-down-net-unreachable", d: diagnose.Diagnosis{
		Verdict: diagnose.NetworkDown, Cause: diagnose.NetUnreachable, Certainty: diagnose.Certain,
		Summary: "10.0.2.2 has no route to 10.0.4.2.", Next: "ask whoever runs 10.0.2.2 about its routes.",
		Fault: at(diagnose.Path, second), Evidence: because("10.0.2.2 answered with ICMP net unreachable"), RTT: 300 * time.Microsecond, Tries: 1, Answered: 1,
	}},
	{name: "network-down-routing-loop", d: diagnose.Diagnosis{
		Verdict: diagnose.NetworkDown, Cause: diagnose.RoutingLoop, Certainty: diagnose.Certain,
		Summary: "Packets to 10.0.4.2 go round between 10.0.2.2 and 10.0.3.2.", Next: "ask whoever runs them about their routes.",
		Fault: at(diagnose.Path, second, third), Evidence: because("the SYN with TTL 64 came back as time exceeded"), RTT: 9 * time.Millisecond, Tries: 1, Answered: 1,
	}},
	{name: "partial-flow-dependent", target: "db.example.com", all: []netip.Addr{dest, ip("10.0.4.3"), ip("2001:db8::4:2"), ip("2001:db8::4:3")}, d: diagnose.Diagnosis{
		Verdict: diagnose.Partial, Cause: diagnose.FlowDependent, Certainty: diagnose.Likely,
		Summary: "Some connections to 10.0.4.2 port 5432 get through and others do not, by their source port.",
		Next:    "ask whoever runs 10.0.2.2 about its links to 10.0.4.2.",
		Fault:   at(diagnose.Path, second, third), Evidence: because("4 of 8 source ports were answered, the same in 3 rounds"), RTT: 400 * time.Microsecond, Tries: 24, Answered: 12,
	}},
	{name: "interrupted", d: diagnose.Diagnosis{
		Verdict: diagnose.Drop, Cause: diagnose.Unknown, Certainty: diagnose.Ambiguous, Summary: "not to be shown",
	}, change: func(o *rawprobe.Observations) {
		o.Interrupted = true
		o.End = start.Add(840 * time.Millisecond)
		o.Replies = o.Replies[1:]
	}},
}

// observations is what the examples' packets look like: a SYN that is
// answered by a router, and an echo that is answered by the host.
func (e *example) observations() *rawprobe.Observations {
	src := netip.MustParseAddrPort("10.0.1.1:40000")
	flow := rawprobe.Flow{Src: src, Dst: e.addr}
	echo := rawprobe.Flow{Src: netip.AddrPortFrom(src.Addr(), 0), Dst: netip.AddrPortFrom(e.addr.Addr(), 0)}
	after := func(us int) time.Time { return start.Add(time.Duration(us) * time.Microsecond) }
	o := &rawprobe.Observations{
		Target: e.addr, Start: start, End: start.Add(2300 * time.Millisecond),
		Machine: rawprobe.Machine{
			Route:     rawprobe.Route{Source: src.Addr(), Gateway: first.Address, Interface: 2},
			Interface: rawprobe.Interface{Index: 2, Name: "eth0", Up: true, Carrier: true, Resolves: true},
			Addresses: []netip.Addr{src.Addr()},
			Neighbor:  "reachable",
			Conntrack: rawprobe.Conntrack{Count: 12, Max: 65536},
		},
		Asks: []rawprobe.Ask{{Time: after(20), Answered: after(150), Hardware: [6]byte{2, 0, 0, 0, 1, 2}}},
		Sent: []rawprobe.Sent{
			{Kind: rawprobe.Subject, Try: 1, TTL: 64, Flow: flow, Time: after(190), Departed: &rawprobe.Departure{Time: after(200), Flow: flow}},
			{Kind: rawprobe.Echo, Try: 1, TTL: 64, Flow: echo, Time: after(210), Departed: &rawprobe.Departure{Time: after(220), Flow: rawprobe.Flow{Src: netip.MustParseAddrPort("192.0.2.1:0"), Dst: echo.Dst}}},
			{Kind: rawprobe.Subject, Try: 2, TTL: 64, Flow: flow, Time: after(400220)},
		},
		Replies: []rawprobe.Reply{
			{Kind: rawprobe.ICMPError, Probe: 0, Time: after(510), RTT: 310 * time.Microsecond, From: second.Address, TTL: 63, Type: 3, Code: 13},
			{Kind: rawprobe.EchoReply, Probe: 1, Time: after(740), RTT: 520 * time.Microsecond, From: dest, TTL: 61},
		},
		Ignored: rawprobe.Ignored{Unprovoked: 2, Duplicates: 1},
		Tap:     rawprobe.TapStats{Packets: 9, Drops: 1},
	}
	if e.change != nil {
		e.change(o)
	}
	return o
}

func (e example) result() *Result {
	if !e.addr.IsValid() {
		e.addr = netip.AddrPortFrom(dest, 5432)
	}
	if e.target == "" {
		e.target = "db.example.com"
	}
	if e.all == nil {
		e.all = []netip.Addr{e.addr.Addr()}
	}
	r := New(e.target, e.all, e.observations(), e.d)
	r.Names = e.names
	return r
}

var formats = []struct {
	name  string
	write func(*Result, *bytes.Buffer) error
}{
	{"text", func(r *Result, b *bytes.Buffer) error { return r.ToText(b, Style{}) }},
	{"colour", func(r *Result, b *bytes.Buffer) error { return r.ToText(b, Style{Colour: true}) }},
	{"narrow ascii without names", func(r *Result, b *bytes.Buffer) error {
		return r.ToText(b, Style{ASCII: true, NoNames: true, Width: 50})
	}},
	{"verbose", func(r *Result, b *bytes.Buffer) error { return r.ToText(b, Style{Verbose: true}) }},
	{"quiet", func(r *Result, b *bytes.Buffer) error { return r.ToLine(b) }},
	{"json", func(r *Result, b *bytes.Buffer) error { return r.ToJSON(b) }},
}

// TestGolden holds every format of every example against its golden file.
// An escape character is written as ␛ there.
func TestGolden(t *testing.T) {
	for _, e := range examples {
		t.Run(e.name, func(t *testing.T) {
			file := filepath.Join("testdata", e.name+".txtar")
			var got txtar.Archive
			for _, f := range formats {
				var b bytes.Buffer
				if err := f.write(e.result(), &b); err != nil {
					t.Fatalf("%s: %v", f.name, err)
				}
				got.Files = append(got.Files, txtar.File{Name: f.name, Data: []byte(strings.ReplaceAll(b.String(), "\x1b", "␛"))})
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(&got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(txtar.Format(&got))); diff != "" {
				t.Errorf("golden file (-want +got), see go test -update:\n%s", diff)
			}
		})
	}
}

// TestWidth checks that no line is longer than asked for, but for the header
// and the table of packets, which can be pasted only whole.
func TestWidth(t *testing.T) {
	for _, e := range examples {
		for _, width := range []int{50, 80, 120} {
			var b bytes.Buffer
			if err := e.result().ToText(&b, Style{Width: width}); err != nil {
				t.Fatal(err)
			}
			for i, line := range strings.Split(b.String(), "\n") {
				if n := utf8.RuneCountInString(line); i > 0 && n > width {
					t.Errorf("%s: %d columns where %d were asked for: %q", e.name, n, width, line)
				}
				if strings.TrimRight(line, " ") != line {
					t.Errorf("%s: spaces at the end of %q", e.name, line)
				}
			}
		}
	}
}

// TestEnumerations reads the words of the contract from the source of package
// diagnose, so that one that is added there is not forgotten here.
func TestEnumerations(t *testing.T) {
	words := constants(t, "../../../../traceroute/diagnose/diagnosis.go")
	if len(words["Verdict"]) != 6 || len(words["Cause"]) != 18 || len(words["Certainty"]) != 3 {
		t.Fatalf("package diagnose has the words %v; the tables of the README and of this test know 6 verdicts, 18 causes and 3 certainties", words)
	}
	for _, v := range words["Verdict"] {
		if colours[diagnose.Verdict(v)] == "" {
			t.Errorf("verdict %s has no colour", v)
		}
	}
	for _, c := range words["Cause"] {
		if causeWords[diagnose.Cause(c)] == "" {
			t.Errorf("cause %s has no words", c)
		}
		if !slices.ContainsFunc(examples, func(e example) bool { return string(e.d.Cause) == c }) {
			t.Errorf("cause %s has no example", c)
		}
	}
	for _, c := range words["Certainty"] {
		if _, ok := certaintyWords[diagnose.Certainty(c)]; !ok {
			t.Errorf("certainty %s has no words", c)
		}
	}
}

// constants are the string constants of a file by the name of their type.
func constants(t *testing.T, file string) map[string][]string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string][]string)
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		typ, ok := v.Type.(*ast.Ident)
		if !ok || len(v.Values) == 0 {
			return true
		}
		if lit, ok := v.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
			s, _ := strconv.Unquote(lit.Value)
			found[typ.Name] = append(found[typ.Name], s)
		}
		return true
	})
	return found
}

// The JSON contract: the fields in their order, with the JSON type of each.
// Programs out there depend on it. A field may be added at the end of an
// object; nothing else may change here under the schema "synprobe/1".
var schema = map[string]string{
	"":               "schema:string time:string target:object source:object verdict:string cause:string certainty:string summary:string fault:object alternatives:array rtt_ms:number tries:number answered:number path:array evidence:array",
	"target":         "name:string address:string port:number",
	"source":         "address:string interface:string gateway:string",
	"fault":          "where:string hops:array",
	"fault.hops":     "ttl:number address:string",
	"alternatives":   "cause:string fault:object why:string",
	"evidence":       "rule:string text:string",
	"error":          "schema:string target:object error:object",
	"error.error":    "kind:string message:string",
	"error.nowhere":  "schema:string target:null error:object",
	"fault.hops.far": "address:string",
	"null":           "schema:string time:string target:object source:object verdict:string cause:string certainty:string summary:string fault:null alternatives:array rtt_ms:null tries:number answered:number path:array evidence:array",
}

func TestSchema(t *testing.T) {
	check := func(name string, raw json.RawMessage) map[string]json.RawMessage {
		t.Helper()
		shape, fields := shapeOf(t, raw)
		if shape != schema[name] {
			t.Errorf("object %q has the fields\n%s, want\n%s", name, shape, schema[name])
		}
		return fields
	}
	element := func(raw json.RawMessage) json.RawMessage {
		t.Helper()
		var all []json.RawMessage
		if err := json.Unmarshal(raw, &all); err != nil || len(all) == 0 {
			t.Fatalf("no element in %s: %v", raw, err)
		}
		return all[0]
	}
	full := example{d: diagnose.Diagnosis{
		Verdict: diagnose.Drop, Cause: diagnose.Unknown, Certainty: diagnose.Likely, Summary: "s",
		Fault: at(diagnose.Path, second), RTT: time.Millisecond,
		Alternatives: []diagnose.Alternative{instead(diagnose.Unknown, at(diagnose.Path, host), "w")},
		Evidence:     because("e"),
	}}
	top := check("", toJSON(t, full.result()))
	check("target", top["target"])
	check("source", top["source"])
	check("fault.hops", element(check("fault", top["fault"])["hops"]))
	alternative := check("alternatives", element(top["alternatives"]))
	check("fault.hops.far", element(check("fault", alternative["fault"])["hops"]))
	check("evidence", element(top["evidence"]))

	empty := check("null", toJSON(t, example{d: diagnose.Diagnosis{}}.result()))
	for _, name := range []string{"alternatives", "path", "evidence"} {
		if string(empty[name]) != "[]" {
			t.Errorf("%s is %s, want []", name, empty[name])
		}
	}

	var b bytes.Buffer
	if err := (Failure{Name: "h", Port: 22, Kind: UsageError, Message: "m"}).ToJSON(&b); err != nil {
		t.Fatal(err)
	}
	check("error.error", check("error", b.Bytes())["error"])
	b.Reset()
	if err := (Failure{Kind: UsageError, Message: "m"}).ToJSON(&b); err != nil {
		t.Fatal(err)
	}
	check("error.nowhere", b.Bytes())

	wantKinds := []ErrorKind{"usage", "name-not-found", "name-servers", "not-permitted", "interrupted", "unsupported", "io", "internal"}
	gotKinds := []ErrorKind{UsageError, NameNotFound, NameServers, NotPermitted, Interrupted, Unsupported, IOError, Internal}
	if !slices.Equal(gotKinds, wantKinds) {
		t.Errorf("error kinds %q, want %q", gotKinds, wantKinds)
	}
	if string(top["schema"]) != `"synprobe/1"` || string(top["time"]) != `"2026-11-22T08:27:00.123456Z"` || string(top["rtt_ms"]) != "1" {
		t.Errorf("schema %s, time %s, rtt_ms %s", top["schema"], top["time"], top["rtt_ms"])
	}
}

func toJSON(t *testing.T, r *Result) json.RawMessage {
	t.Helper()
	var b bytes.Buffer
	if err := r.ToJSON(&b); err != nil {
		t.Fatal(err)
	}
	if line, ok := strings.CutSuffix(b.String(), "\n"); !ok || strings.Contains(line, "\n") {
		t.Fatalf("not one line: %q", b.String())
	}
	return b.Bytes()
}

// shapeOf lists an object's fields in order with their JSON types.
func shapeOf(t *testing.T, raw json.RawMessage) (string, map[string]json.RawMessage) {
	t.Helper()
	fields := make(map[string]json.RawMessage)
	var shape []string
	d := json.NewDecoder(bytes.NewReader(raw))
	if _, err := d.Token(); err != nil {
		t.Fatal(err)
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		kind := "number"
		switch v[0] {
		case '{':
			kind = "object"
		case '[':
			kind = "array"
		case '"':
			kind = "string"
		case 'n':
			kind = "null"
		}
		fields[key.(string)] = v
		shape = append(shape, key.(string)+":"+kind)
	}
	return strings.Join(shape, " "), fields
}

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"db.example.com":  "db.example.com",
		"":                `""`,
		"a\x1b[31mb":      `"a\x1b[31mb"`,
		"a\nb":            `"a\nb"`,
		"\u202egnp.exe":   `"\u202egnp.exe"`,
		"\xff":            `"\xff"`,
		"straße":          "straße",
		"line\u2028break": `"line\u2028break"`,
	} {
		if got := Escape(in); got != want {
			t.Errorf("Escape(%q) = %s, want %s", in, got, want)
		}
	}
}

// TestNothingEscapes puts a terminal escape wherever text comes from outside.
func TestNothingEscapes(t *testing.T) {
	const evil = "x\x1b]0;owned\x07\r\n"
	e := example{
		target: evil,
		d: diagnose.Diagnosis{
			Verdict: diagnose.Drop, Cause: diagnose.Unknown, Certainty: diagnose.Likely, Summary: evil, Next: evil,
			Fault:        at(diagnose.Path, second),
			Evidence:     because(evil),
			Alternatives: []diagnose.Alternative{instead(diagnose.Unknown, at(diagnose.Path, third), evil)},
		},
		names: map[netip.Addr]string{second.Address: evil, third.Address: evil},
		change: func(o *rawprobe.Observations) {
			o.Machine.Interface.Name = evil
			o.Machine.Neighbor = evil
		},
	}
	for _, f := range formats {
		var b bytes.Buffer
		if err := f.write(e.result(), &b); err != nil {
			t.Fatal(err)
		}
		out := strings.ReplaceAll(b.String(), "\x1b["+colours[diagnose.Drop]+"m", "")
		out = strings.ReplaceAll(out, "\x1b[0m", "")
		if strings.ContainsAny(out, "\x1b\x07\r") {
			t.Errorf("%s lets an escape through: %q", f.name, b.String())
		}
	}
}

// JSON is made of text that a terminal can bear, and means the same.
func TestJSONIsPlain(t *testing.T) {
	const evil = "x\x1b[2J\u009b2J\x7f\u202e\u2066\u200f\U000e0041\U0010fffd\ufeff straße 漢字 \U0001f600"
	var b bytes.Buffer
	if err := (Failure{Name: evil, Kind: UsageError, Message: evil}).ToJSON(&b); err != nil {
		t.Fatal(err)
	}
	for _, r := range strings.TrimSuffix(b.String(), "\n") {
		if !unicode.IsPrint(r) {
			t.Errorf("%U in %q", r, b.String())
		}
	}
	var got jsonFailure
	if err := json.Unmarshal(b.Bytes(), &got); err != nil || got.Target.Name != evil || got.Error.Message != evil {
		t.Errorf("%v, %q", err, b.String())
	}
	if !strings.Contains(b.String(), "straße 漢字 \U0001f600") {
		t.Errorf("letters are escaped: %q", b.String())
	}
}

// What a record could not hold is told.
func TestExcess(t *testing.T) {
	r := &Result{seen: &rawprobe.Observations{Ignored: rawprobe.Ignored{Excess: 7}}}
	if got := r.unused(); got != "7 more than a record holds" {
		t.Errorf("%q", got)
	}
}

func TestDevices(t *testing.T) {
	e := example{d: diagnose.Diagnosis{
		Fault: at(diagnose.Path, self, second, host, silent),
		Alternatives: []diagnose.Alternative{
			instead(diagnose.Unknown, at(diagnose.Path, second, third), ""),
		},
	}}
	want := []netip.Addr{second.Address, third.Address}
	if got := e.result().Devices(); !slices.Equal(got, want) {
		t.Errorf("devices %v, want %v", got, want)
	}
}

func TestWriteErrors(t *testing.T) {
	r := examples[0].result()
	for name, err := range map[string]error{
		"text": r.ToText(broken{}, Style{}),
		"line": r.ToLine(broken{}),
		"json": r.ToJSON(broken{}),
	} {
		if !errors.Is(err, errBroken) {
			t.Errorf("%s: %v, want the writer's error", name, err)
		}
	}
}

var errBroken = errors.New("broken")

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errBroken }

// TestFit: what is too wide for a terminal is made narrower, and no address is
// lost by it.
func TestFit(t *testing.T) {
	const long, other = "2001:db8:1111:2222:3333:4444:5555:6666", "2001:db8:7777:8888:9999:aaaa:bbbb:cccc"
	head := []string{"hop", "address", "rtt", "to :80", "icmp echo", "to :443"}
	for _, c := range []struct {
		name      string
		addresses []string
		columns   int
		ttls      []int
	}{
		{"short", []string{"10.0.1.1", "10.0.1.2 10.0.1.3", noAnswer}, 6, []int{-1, 0, 1, 2}},
		{"long", []string{long, other, noAnswer}, 5, []int{-1, 0, 1, 2}},
		{"long, and two at one hop", []string{long, long + " " + other, noAnswer}, 5, []int{-1, 0, 1, 1, 2}},
	} {
		rows := [][]string{head}
		for i, a := range c.addresses {
			rows = append(rows, []string{fmt.Sprint(i), a, "0.123 ms", "passes", "passes", "not-sent"})
		}
		got, ttls := fit(rows, defaultWidth-len(margin))
		if n := wide(got); n > defaultWidth-len(margin) || len(got[0]) != c.columns || !slices.Equal(ttls, c.ttls) {
			t.Errorf("%s: %d wide, %d columns, TTLs %v, want %d columns and %v", c.name, n, len(got[0]), ttls, c.columns, c.ttls)
		}
		text := strings.Join(columns(got), "\n")
		for _, a := range strings.Fields(strings.Join(c.addresses, " ")) {
			if !strings.Contains(text, a) {
				t.Errorf("%s: %s is missing in\n%s", c.name, a, text)
			}
		}
		if n := strings.Count(text, "0.123 ms"); n != len(c.addresses) {
			t.Errorf("%s: %d round trips of %d hops", c.name, n, len(c.addresses))
		}
	}
}

// TestOpenElsewhere says of an open port that it is another one, to which this
// machine's own rules sent the SYN.
func TestOpenElsewhere(t *testing.T) {
	e := examples[0]
	for _, rule := range []string{"syn-ack", "local-dnat"} {
		e.d.Evidence = []diagnose.Evidence{{Rule: rule, Text: "the fact"}}
		var b bytes.Buffer
		if err := e.result().ToText(&b, Style{}); err != nil || strings.Contains(b.String(), "the fact") != (rule == "local-dnat") {
			t.Errorf("%s: %v\n%s", rule, err, b.String())
		}
	}
}

// TestNoStop draws no line in a picture where nothing stops.
func TestNoStop(t *testing.T) {
	for _, e := range examples {
		r := e.result()
		if ttl, _ := r.refusal(); r.stop() >= 0 || ttl >= 0 {
			continue
		}
		r.diagnosis.Path = traceroute.Path{Names: []string{subjectName}, Hops: []traceroute.Hop{{TTL: 1, Probes: map[string]traceroute.Probed{}}}}
		if r.stop() >= 0 {
			continue
		}
		var b bytes.Buffer
		if err := r.ToText(&b, Style{}); err != nil || strings.Contains(b.String(), "──") {
			t.Errorf("%s: %v\n%s", e.name, err, b.String())
		}
	}
}
