package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"synprobe/rawprobe"
)

// Observations are written down as transcripts, one fact a line. They start
// from a machine "me" on eth0, whose gateway "gw" leads over two routers to
// "host", and last 4.3 s; what differs is told:
//
//	route none                  the route lookup's outcome: none, unreachable, prohibit, blackhole, no-address
//	route link                  the host is on eth0's own network; on a tunnel: route tunnel; this machine itself: route local
//	route by-port               policy routing
//	eth0 down                   or no-carrier
//	covering eth1 down          the interface that holds the host's prefix: down or no-carrier
//	all down                    no interface is up
//	neighbor failed             the kernel's opinion of the next hop
//	conntrack 100/100
//	rp_filter 1
//	drops 2                     packets that the tap lost
//	unprovoked 3                packets that were not believed
//	after eth0 down             how the machine stood at the end: also no-carrier, gone
//	after route none            likewise; after route via other, after route on eth1: another way
//	interrupted
//	end 0.9s
//
//	ask 0s 0.4s 0.8s            our own ARP requests; with "answered" at the end, the last was
//	syn 0s 0.6s 1.2s            subject SYNs; also: refused=not-permitted, unseen, to=other:8080, from=nat:999, ttl=2
//	echo 0s                     likewise
//	flow 0s                     likewise: the SYN from another source port; port=41000 names it
//	tcp-ack 0s, tcp-443 0s      likewise: an ACK of the SYN's five-tuple, a SYN to port 443
//	udp 0s                      likewise: a datagram
//
//	+0.3ms syn-ack              an answer to the last SYN (or flow): syn-ack, reset, ack, icmp 3/13, icmp refused
//	+0.4ms echo-reply           an answer to the last echo
//	+0.4ms icmp refused for echo
//
// An answer comes from host, by way of eth0, with a TTL that is left after two
// routers (none on the link), and is delivered. Otherwise: from=gw, ttl=63,
// on=eth1, on=lo, swallowed, bare (window=0 and options=0), quotes=other:80.
//
// The words refused, host-unreachable, net-unreachable, expired and too-big
// stand for an ICMP error of either family, a pair of numbers for one of its own.

// A family is the address family that a transcript plays in.
type family int

const (
	v4 family = 4
	v6 family = 6
)

var start = time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)

const subjectPort = 5432

// names are the parties of all transcripts.
var names = []struct{ name, v4, v6 string }{
	{"me", "10.0.1.1", "fd00:1::1"},
	{"gw", "10.0.1.2", "fd00:1::2"},
	{"r2", "10.0.2.2", "fd00:2::2"},
	{"host", "10.0.4.2", "fd00:4::2"},
	{"other", "10.9.0.9", "fd09::9"},
	{"nat", "10.8.0.8", "fd08::8"},
}

func (f family) addr(name string) netip.Addr {
	for _, n := range names {
		switch {
		case n.name != name:
		case f == v4:
			return netip.MustParseAddr(n.v4)
		default:
			return netip.MustParseAddr(n.v6)
		}
	}
	panic("no party named " + name)
}

// end is a party and its port, as in other:8080; the port of a bare name is
// the subject's.
func (f family) end(s string) netip.AddrPort {
	name, port, ok := strings.Cut(s, ":")
	if !ok {
		return netip.AddrPortFrom(f.addr(s), subjectPort)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		panic(err)
	}
	return netip.AddrPortFrom(f.addr(name), uint16(n))
}

// code is an ICMP error by a word that both families have, or by numbers.
func (f family) code(s string) (typ, code int) {
	words := map[string][2]string{
		"refused":          {"3/13", "1/1"}, // administratively prohibited
		"host-unreachable": {"3/1", "1/3"},
		"net-unreachable":  {"3/0", "1/0"},
		"expired":          {"11/0", "3/0"},
		"too-big":          {"3/4", "2/0"},
	}
	if w, ok := words[s]; ok {
		if s = w[0]; f == v6 {
			s = w[1]
		}
	}
	if _, err := fmt.Sscanf(s, "%d/%d", &typ, &code); err != nil {
		panic(fmt.Sprintf("ICMP %q: %v", s, err))
	}
	return typ, code
}

const (
	lo   = 1
	eth0 = 2
	eth1 = 3
)

// observations plays a transcript in a family.
func (f family) observations(text string) *rawprobe.Observations {
	me, host := f.addr("me"), f.addr("host")
	o := &rawprobe.Observations{
		Target: netip.AddrPortFrom(host, subjectPort),
		Start:  start,
		End:    start.Add(4300 * time.Millisecond),
		Machine: rawprobe.Machine{
			Route:     rawprobe.Route{Source: me, Gateway: f.addr("gw"), Interface: eth0, MTU: 1500},
			Interface: rawprobe.Interface{Index: eth0, Name: "eth0", Up: true, Carrier: true, Resolves: true},
			Addresses: []netip.Addr{me},
		},
	}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		switch w := words[0]; {
		case w == "ask":
			asks(o, words[1:])
		case probeKinds[w] != "":
			f.sent(o, w, words[1:])
		case strings.HasPrefix(w, "+"):
			f.reply(o, w[1:], words[1:])
		default:
			f.fact(o, words)
		}
	}
	return o
}

// at is a time of a transcript, counted from the start of the run.
func at(s string) time.Time {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return start.Add(d)
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

// fact plays a line about the machine or the run.
func (f family) fact(o *rawprobe.Observations, words []string) {
	m := &o.Machine
	arg := words[len(words)-1]
	switch words[0] {
	case "route":
		f.route(m, arg)
	case "eth0":
		m.Interface.Up, m.Interface.Carrier = arg != "down", false
	case "covering":
		m.Down = append(m.Down, rawprobe.Interface{Index: eth1, Name: words[1], Up: arg != "down"})
	case "all":
		m.NoneUp = true
	case "neighbor":
		m.Neighbor = rawprobe.NeighborState(arg)
	case "conntrack":
		count, limit, _ := strings.Cut(arg, "/")
		m.Conntrack = rawprobe.Conntrack{Count: number(count), Max: number(limit)}
	case "rp_filter":
		m.ReversePathFilter = map[int]int{eth0: number(arg), eth1: number(arg)}
	case "drops":
		o.Tap.Drops = uint64(number(arg))
	case "unprovoked":
		o.Ignored.Unprovoked = number(arg)
	case "after":
		f.after(m, words[1:])
	case "interrupted":
		o.Interrupted = true
	case "end":
		o.End = at(arg)
	default:
		panic(fmt.Sprintf("transcript: %q", words))
	}
}

func (f family) after(m *rawprobe.Machine, words []string) {
	a := &rawprobe.After{Interface: m.Interface, Route: m.Route}
	switch arg := words[len(words)-1]; {
	case words[0] == "eth0" && arg == "gone":
		a.Interface = rawprobe.Interface{}
	case words[0] == "eth0":
		a.Interface.Up, a.Interface.Carrier = arg != "down", false
	case words[1] == "via":
		a.Route.Gateway = f.addr(arg)
	case words[1] == "on":
		a.Route.Interface = eth1
	default:
		a.Route.Outcome = rawprobe.RouteOutcome(arg)
	}
	m.After = a
}

func (f family) route(m *rawprobe.Machine, to string) {
	switch to {
	case "link":
		m.Route.Gateway = netip.Addr{}
	case "tunnel":
		m.Route.Gateway = netip.Addr{}
		m.Interface.Name, m.Interface.Resolves = "tun0", false
	case "local":
		host := f.addr("host")
		m.Route.Gateway, m.Route.Local, m.Route.Source = netip.Addr{}, true, host
		m.Addresses = append(m.Addresses, host)
		m.Route.Interface = lo
		m.Interface = rawprobe.Interface{Index: lo, Name: "lo", Up: true, Carrier: true, Loopback: true}
	case "by-port":
		m.Route.ByPort = true
	case string(rawprobe.RouteNoAddress):
		m.Route = rawprobe.Route{Outcome: rawprobe.RouteNoAddress, Interface: eth0}
		m.Addresses = nil
	default:
		m.Route = rawprobe.Route{Outcome: rawprobe.RouteOutcome(to)}
		m.Interface = rawprobe.Interface{}
	}
}

func asks(o *rawprobe.Observations, words []string) {
	for _, w := range words {
		if w == "answered" {
			last := &o.Asks[len(o.Asks)-1]
			last.Answered = last.Time.Add(time.Millisecond)
			continue
		}
		o.Asks = append(o.Asks, rawprobe.Ask{Time: at(w)})
	}
}

var probeKinds = map[string]rawprobe.ProbeKind{
	"syn": rawprobe.Subject, "echo": rawprobe.Echo, "flow": rawprobe.OtherFlow,
	"tcp-ack": rawprobe.ControlACK, "tcp-443": rawprobe.ControlSYN, "udp": rawprobe.ControlUDP,
}

func (f family) sent(o *rawprobe.Observations, kind string, words []string) {
	s := rawprobe.Sent{Kind: probeKinds[kind], TTL: rawprobe.DefaultTTL, Seq: 1000}
	s.Flow.Src, s.Flow.Dst = netip.AddrPortFrom(o.Machine.Route.Source, 40000), o.Target
	switch s.Kind {
	case rawprobe.Echo:
		s.Flow.Src = netip.AddrPortFrom(s.Flow.Src.Addr(), 0)
		s.Flow.Dst = netip.AddrPortFrom(s.Flow.Dst.Addr(), 0)
	case rawprobe.ControlSYN:
		s.Flow = rawprobe.Flow{
			Src: netip.AddrPortFrom(s.Flow.Src.Addr(), uint16(50001+len(o.Sent))),
			Dst: netip.AddrPortFrom(s.Flow.Dst.Addr(), 443),
		}
	case rawprobe.OtherFlow:
		s.Flow.Src = netip.AddrPortFrom(s.Flow.Src.Addr(), uint16(40001+len(o.Sent)))
	}
	out := s.Flow
	seen := true
	var times []time.Time
	for _, w := range words {
		switch key, value, _ := strings.Cut(w, "="); key {
		case "refused":
			s.Refused, seen = rawprobe.Refusal(value), false
		case "unseen":
			seen = false
		case "ttl":
			s.TTL = number(value)
		case "port":
			s.Flow.Src = netip.AddrPortFrom(s.Flow.Src.Addr(), uint16(number(value)))
			out.Src = s.Flow.Src
		case "to":
			out.Dst = f.end(value)
		case "from":
			out.Src = f.end(value)
		default:
			times = append(times, at(w))
		}
	}
	for _, t := range times {
		s.Try++
		s.Time = t
		if seen {
			s.Departed = &rawprobe.Departure{Time: t, Interface: o.Machine.Interface.Index, Flow: out}
		}
		o.Sent = append(o.Sent, s)
	}
}

var replyKinds = map[string]rawprobe.ReplyKind{
	"syn-ack": rawprobe.SynAck, "reset": rawprobe.Reset, "ack": rawprobe.OldAck,
	"echo-reply": rawprobe.EchoReply, "icmp": rawprobe.ICMPError,
}

func (f family) reply(o *rawprobe.Observations, after string, words []string) {
	r := rawprobe.Reply{Kind: replyKinds[words[0]], From: f.addr("host"), TTL: 62, Interface: eth0, Delivered: true}
	if r.Kind == "" {
		panic(fmt.Sprintf("transcript: %q", words))
	}
	if !o.Machine.Route.Gateway.IsValid() {
		r.TTL = 64
	}
	if o.Machine.Route.Local {
		r.Interface, r.Loopback = lo, true
	}
	if r.Kind == rawprobe.SynAck {
		r.Window, r.Options = 65160, 5
	}
	echo := r.Kind == rawprobe.EchoReply
	rest := words[1:]
	if r.Kind == rawprobe.ICMPError {
		r.Type, r.Code = f.code(rest[0])
		rest = rest[1:]
	}
	for _, w := range rest {
		switch key, value, _ := strings.Cut(w, "="); key {
		case "for":
		case "echo":
			echo = true
		case "swallowed":
			r.Delivered = false
		case "bare":
			r.Window, r.Options = 0, 0
		case "window":
			r.Window = number(value)
		case "options":
			r.Options = number(value)
		case "from":
			r.From = f.addr(value)
		case "ttl":
			r.TTL = number(value)
		case "on":
			r.Interface = map[string]int{"lo": lo, "eth0": eth0, "eth1": eth1}[value]
			r.Loopback = value == "lo"
		case "quotes":
			r.QuotedDst = f.end(value)
		default:
			panic(fmt.Sprintf("transcript: %q in %q", w, words))
		}
	}
	for i := len(o.Sent) - 1; ; i-- { // panics where nothing was sent
		if s := &o.Sent[i]; echo == (s.Kind == rawprobe.Echo) {
			r.Probe, r.Exact = i, true
			break
		}
	}
	s := &o.Sent[r.Probe]
	rtt := at(after).Sub(start)
	r.Time = s.Time.Add(rtt)
	if s.Departed != nil {
		r.RTT = rtt
	}
	if r.Kind == rawprobe.ICMPError && !r.QuotedDst.IsValid() {
		r.QuotedDst = s.Flow.Dst
		if s.Departed != nil {
			r.QuotedDst = s.Departed.Flow.Dst
		}
	}
	o.Replies = append(o.Replies, r)
}

// short gives a diagnosis as the cases write it:
//
//	syn-ack: open proxy likely        the deciding check, verdict, cause, certainty
//	at path ?:gw                      the fault: where, and hops as TTL:party
//	or listening@destination          the alternatives
//	why syn-ack echo-reply            the rules of the evidence
func (f family) short(by string, d Diagnosis) string {
	lines := []string{fmt.Sprintf("%s: %s %s %s", by, d.Verdict, d.Cause, d.Certainty)}
	if d.Fault != nil {
		at := "at " + string(d.Fault.Where)
		for _, h := range d.Fault.Hops {
			ttl := "?"
			if h.TTL != UnknownTTL {
				ttl = strconv.Itoa(h.TTL)
			}
			at += " " + ttl + ":" + f.name(h.Address)
		}
		lines = append(lines, at)
	}
	if len(d.Alternatives) > 0 {
		or := "or"
		for _, a := range d.Alternatives {
			or += fmt.Sprintf(" %s@%s", a.Cause, a.Fault.Where)
		}
		lines = append(lines, or)
	}
	why := "why"
	for _, e := range d.Evidence {
		why += " " + e.Rule
	}
	return strings.Join(append(lines, why), "\n")
}

func (f family) name(a netip.Addr) string {
	for _, n := range names {
		if f.addr(n.name) == a {
			return n.name
		}
	}
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}

// trim takes the indentation off an expectation.
func trim(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		if line = strings.Join(strings.Fields(line), " "); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// decider names the check that explains the observations.
func decider(o *rawprobe.Observations) string {
	v := look(o)
	for _, c := range checks {
		if c.find(v) != nil {
			return c.name
		}
	}
	return ""
}

func checkNamed(t *testing.T, name string) check {
	t.Helper()
	i := slices.IndexFunc(checks, func(c check) bool { return c.name == name })
	if i < 0 {
		t.Fatalf("there is no check named %q", name)
	}
	return checks[i]
}
