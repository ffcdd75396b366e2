package diagnose

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"synprobe/rawprobe"
)

// table is the design's table of verdicts: which causes a verdict may have,
// and where their faults may lie. The empty Where is no fault at all.
var table = map[Verdict]map[Cause][]Where{
	Open: {
		Listening: {""},
		Proxy:     {Path, Local},
	},
	Reject: {
		PortClosed:      {Destination},
		HostFirewall:    {Destination},
		NetworkFirewall: {Path},
		LocalFirewall:   {Local},
	},
	Drop: {
		NetworkFirewall: {Path},
		HostFirewall:    {Destination},
		NotAccepting:    {Destination},
		ReturnPath:      {Path},
		LocalFirewall:   {Local},
		Unknown:         {Path, Nowhere},
	},
	HostDown: {
		NeighborUnreachable: {Destination},
		HostUnreachable:     {Destination},
	},
	NetworkDown: {
		NoRoute:        {Local},
		NoAddress:      {Local},
		LinkDown:       {Local},
		GatewayDown:    {Local},
		NetUnreachable: {Path},
		RoutingLoop:    {Path},
	},
	Partial: {
		FlowDependent: {Path},
	},
}

// mayBe reports whether an alternative's cause may lie there, under any
// verdict. An open port has no fault; as an alternative it names the host.
func mayBe(c Cause, w Where) bool {
	for _, causes := range table {
		if slices.Contains(causes[c], w) {
			return true
		}
	}
	return c == Listening && w == Destination
}

// violations lists what must never be said of the observations, whatever they
// are.
func violations(o *rawprobe.Observations, d *Diagnosis) (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }

	var where Where
	if d.Fault != nil {
		where = d.Fault.Where
		if where == "" {
			bad("a fault that is nowhere")
		}
	}
	allowed, ok := table[d.Verdict][d.Cause]
	if !ok {
		bad("%s can't have the cause %s", d.Verdict, d.Cause)
	} else if !slices.Contains(allowed, where) {
		bad("the fault of %s %s is at %q, not at one of %q", d.Verdict, d.Cause, where, allowed)
	}
	switch d.Certainty {
	case Certain:
		if len(d.Alternatives) != 0 {
			bad("certain with alternatives: %v", d.Alternatives)
		}
	case Likely, Ambiguous:
		if len(d.Alternatives) == 0 {
			bad("%s without an alternative", d.Certainty)
		}
	default:
		bad("certainty %q", d.Certainty)
	}
	for i, a := range d.Alternatives {
		if !mayBe(a.Cause, a.Fault.Where) {
			bad("no table has the alternative %s at %q", a.Cause, a.Fault.Where)
		}
		if reflect.DeepEqual(&a.Fault, d.Fault) && a.Cause == d.Cause {
			bad("the alternative %s is the diagnosis itself", a.Cause)
		}
		for _, b := range d.Alternatives[:i] {
			if reflect.DeepEqual(a, b) {
				bad("the alternative %s twice", a.Cause)
			}
		}
	}

	// Sentences.
	if !strings.HasSuffix(d.Summary, ".") || strings.Count(d.Summary, ". ") != 0 {
		bad("not one sentence: %q", d.Summary)
	}
	if d.Next == "" && d.Verdict != Open {
		bad("no next step")
	}
	if len(d.Evidence) == 0 {
		bad("no evidence")
	}
	texts := []string{d.Summary, d.Next}
	for _, a := range d.Alternatives {
		texts = append(texts, a.Why)
	}
	for _, e := range d.Evidence {
		texts = append(texts, e.Text)
		if e.Rule == "" || e.Text == "" {
			bad("empty evidence %+v", e)
		}
	}
	for _, s := range texts {
		if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
			bad("control characters in %q", s)
		}
		if strings.Contains(s, "%!") || strings.Contains(s, "  ") {
			bad("badly worded: %q", s)
		}
		if clumsy.MatchString(s) {
			bad("one is called several: %q", s)
		}
	}

	// What needs which packets.
	var synAck, refusal, host, otherAnswered, passed bool
	subjects := 0
	for i := range o.Replies {
		r := &o.Replies[i]
		if r.Probe < 0 || r.Probe >= len(o.Sent) {
			continue
		}
		s := &o.Sent[r.Probe]
		passed = passed || s.Stepped() && s.Kind != rawprobe.Subject
		switch s.Kind {
		case rawprobe.Subject:
			subjects++
			synAck = synAck || r.Kind == rawprobe.SynAck && r.Delivered
			refusal = refusal || r.Kind == rawprobe.Reset || r.Kind == rawprobe.ICMPError && r.Meaning() != rawprobe.SaysNothing
		case rawprobe.Echo:
			host = host || r.Kind == rawprobe.EchoReply
		case rawprobe.ControlSYN, rawprobe.ControlACK, rawprobe.ControlUDP:
			host = host || r.From == o.Target.Addr() || r.From == departedTo(o)
		case rawprobe.OtherFlow:
			otherAnswered = otherAnswered || r.Kind == rawprobe.SynAck || r.Kind == rawprobe.Reset
		}
	}
	m := &o.Machine
	near := m.Route.Local || !m.Route.Gateway.IsValid() && m.Interface.Resolves
	if d.Verdict == Open && !synAck {
		bad("open without a SYN-ACK that a socket got")
	}
	if d.Verdict == Reject && !refusal {
		bad("reject without a refusal")
	}
	if d.Verdict == Partial && !otherAnswered && !synAck && !refusal {
		bad("partial, and no other flow got through")
	}
	if d.Cause == PortClosed && d.Certainty == Certain && !host && !near {
		bad("certain of a reset that nothing of the host's compares with")
	}
	if d.Verdict == Drop && d.Certainty == Certain && d.Cause != LocalFirewall && (d.Cause != NetworkFirewall || !passed) {
		bad("certain of a drop by %s from silence alone", d.Cause)
	}
	if o.Interrupted && subjects == 0 && d.Certainty == Certain &&
		!slices.Contains([]Cause{NoRoute, NoAddress, LinkDown, LocalFirewall, GatewayDown, NeighborUnreachable}, d.Cause) {
		bad("certain of %s though interrupted", d.Cause)
	}
	if d.Answered > d.Tries || d.Tries > len(o.Sent) {
		bad("%d of %d tries answered", d.Answered, d.Tries)
	}
	return wrong
}

// clumsy finds one of what the noun or verb says are several, and the reverse.
var clumsy = regexp.MustCompile(`\b1 (other )?(ARP |neighbour |source |control |lone )?(requests|solicitations|packets|SYNs|flows|probes|routers|datagrams|attempts|tries)\b` +
	`|\b1 of \d+ flows pass\b|\b1 other source ports it got\b|\b1 packet .* were\b|\b1 answer of routers\b|\b1 SYN .* none\b|[02-9] SYNs was\b|TTL 1 to 1\b|up to once\b`)

// departedTo is where the subject went after this machine's own translation.
func departedTo(o *rawprobe.Observations) netip.Addr {
	var a netip.Addr
	for i := range o.Sent {
		if s := &o.Sent[i]; s.Kind == rawprobe.Subject && s.Departed != nil {
			a = s.Departed.Flow.Dst.Addr()
		}
	}
	return a
}

// dice turns bytes into choices; when they run out all is 0.
type dice []byte

func (d *dice) n(n int) int {
	if len(*d) == 0 {
		return 0
	}
	b := (*d)[0]
	*d = (*d)[1:]
	return int(b) % n
}

func (d *dice) rarely() bool { return d.n(16) == 15 }
func (d *dice) often() bool  { return d.n(4) != 3 }

func pick[T any](d *dice, from ...T) T { return from[d.n(len(from))] }

// hostileName is an interface name that the kernel allows.
const hostileName = "\x1b[31meth"

// decode makes observations of any bytes: those of a run where most bytes are
// small, and nonsense too.
func decode(b []byte) *rawprobe.Observations {
	d := (*dice)(&b)
	f := pick(d, v4, v6)
	addr := func() netip.Addr {
		if d.rarely() {
			return netip.Addr{}
		}
		return f.addr(pick(d, "host", "host", "gw", "r2", "me", "other"))
	}
	var lines string
	lines += pick(d, "", "", "", "", "route link\n", "route tunnel\n", "route local\n", "route by-port\n",
		"route none\n", "route unreachable\n", "route prohibit\n", "route blackhole\n", "route no-address\n")
	if d.rarely() {
		lines += pick(d, "eth0 down\n", "eth0 no-carrier\n", "all down\n", "covering eth1 down\n", "covering eth1 no-carrier\n", "covering eth1 down\n route none\n")
	}
	o := f.observations(lines)
	o.Interrupted = d.rarely()
	o.End = start.Add(time.Duration(d.n(50)) * 100 * time.Millisecond)
	if d.rarely() {
		o.Machine.Interface.Name = hostileName
		for i := range o.Machine.Down {
			o.Machine.Down[i].Name = hostileName
		}
	}
	o.Machine.Neighbor = pick[rawprobe.NeighborState](d, "", "failed", "reachable", "incomplete")
	o.Machine.Conntrack = rawprobe.Conntrack{Count: d.n(3), Max: d.n(3)}
	o.Machine.ReversePathFilter = map[int]int{d.n(4): d.n(3)}
	if d.rarely() {
		o.Tap.Drops = uint64(d.n(9))
	}
	if d.rarely() {
		o.Ignored.Unprovoked = d.n(9)
	}
	if !d.often() {
		for i := range 1 + d.n(5) {
			a := rawprobe.Ask{Time: start.Add(time.Duration(i) * 400 * time.Millisecond)}
			if d.rarely() {
				a.Answered = a.Time.Add(time.Millisecond)
			}
			o.Asks = append(o.Asks, a)
		}
	}
	silent := d.n(3) == 0 // start with one that waited
	if silent {
		f.sent(o, "syn", []string{"0s", "0.6s", "1.2s"})
		o.End = start.Add(4300 * time.Millisecond)
	}
	if d.n(6) == 0 { // another flow, asked as often as it takes
		f.sent(o, "flow", []string{"0.1s", "0.7s", "1.3s", "port=41002"})
	}
	steps := pick(d, 0, 0, 2, 3, 4)
	for i := range d.n(9) {
		f.sent(o, pick(d, "syn", "syn", "echo", "flow"), []string{"0s"})
		s := &o.Sent[len(o.Sent)-1]
		s.Time = start.Add(time.Duration(i*d.n(4)) * 300 * time.Millisecond)
		if s.Kind = pick(d, s.Kind, s.Kind, s.Kind, rawprobe.ControlSYN, rawprobe.ControlACK, rawprobe.ControlUDP); s.Kind != rawprobe.Subject && s.Kind != rawprobe.Echo && s.Kind != rawprobe.OtherFlow {
			s.Flow.Dst = netip.AddrPortFrom(s.Flow.Dst.Addr(), uint16(1+d.n(255)))
		}
		if steps > 0 {
			s.TTL = 1 + i%steps
		}
		switch {
		case !d.often():
			s.Refused = pick(d, rawprobe.RefusedByFirewall, rawprobe.RefusedNoBuffer, rawprobe.RefusedOther, rawprobe.RefusedDown,
				rawprobe.RefusedNoRoute, rawprobe.RefusedUnreachable, rawprobe.RefusedProhibit, rawprobe.RefusedBlackhole, rawprobe.RefusedNoAddress)
			s.Departed = nil
		case !d.often():
			s.Departed = nil
		case d.rarely():
			s.Departed.Flow.Dst = netip.AddrPortFrom(addr(), uint16(d.n(256)))
		}
	}
	for range d.n(7) {
		r := rawprobe.Reply{
			Kind:  pick(d, rawprobe.SynAck, rawprobe.Reset, rawprobe.ICMPError, rawprobe.ICMPError, rawprobe.EchoReply, rawprobe.EchoReply, rawprobe.OldAck),
			Probe: d.n(len(o.Sent) + 1), // one past the end at times
			From:  addr(),
			TTL:   pick(d, 62, 62, 63, 64, 61, 255, 0, 300, -1),
			Time:  start.Add(time.Duration(d.n(40)) * 100 * time.Millisecond),
			RTT:   time.Duration(d.n(40)) * 100 * time.Millisecond,
		}
		if d.rarely() {
			r.Probe -= 5
		}
		if r.Probe >= 0 && r.Probe < len(o.Sent) {
			believable(&r, &o.Sent[r.Probe])
		}
		r.Interface = pick(d, eth0, eth0, eth1, lo)
		r.Loopback = r.Interface == lo
		r.Delivered, r.Exact = d.often(), d.often()
		r.Window, r.Options = d.n(2), d.n(2)
		if r.Kind == rawprobe.ICMPError {
			r.Type, r.Code = f.code(pick(d, "refused", "host-unreachable", "net-unreachable", "expired", "too-big"))
			if d.rarely() {
				r.Type, r.Code = d.n(256), d.n(256)
			}
			r.QuotedDst = netip.AddrPortFrom(addr(), uint16(d.n(256)))
		}
		o.Replies = append(o.Replies, r)
	}
	if d.rarely() { // round and round
		for ttl := range 5 {
			f.sent(o, "syn", []string{"2s", fmt.Sprintf("ttl=%d", ttl+1)})
			f.reply(o, "1ms", []string{"icmp", "expired", "from=" + []string{"gw", "r2"}[ttl%2]})
		}
	}
	if d.rarely() {
		f.after(&o.Machine, strings.Fields(pick(d, "eth0 down", "eth0 no-carrier", "eth0 gone", "route none",
			"route prohibit", "route no-address", "route via other", "route on eth1")))
	}
	return o
}

// believable makes of a reply one that the matcher would take for the probe's.
func believable(r *rawprobe.Reply, s *rawprobe.Sent) {
	switch {
	case r.Kind == rawprobe.ICMPError:
		return
	case s.Kind == rawprobe.ControlUDP:
		r.Kind = rawprobe.ICMPError
		return
	case s.Kind == rawprobe.Echo:
		r.Kind = rawprobe.EchoReply
	case r.Kind == rawprobe.EchoReply:
		r.Kind = rawprobe.SynAck
	}
	if r.From = s.Flow.Dst.Addr(); s.Departed != nil {
		r.From = s.Departed.Flow.Dst.Addr()
	}
}

// hold checks all that holds for any observations.
func hold(t *testing.T, b []byte) (by string) {
	t.Helper()
	o, same := decode(slices.Clone(b)), decode(slices.Clone(b))
	d := Explain(o)
	if !reflect.DeepEqual(o, same) {
		t.Errorf("Explain changed its input %v", b)
	}
	if again := Explain(o); !reflect.DeepEqual(d, again) {
		t.Errorf("the second time another diagnosis of %v: %+v, then %+v", b, d, again)
	}
	if wrong := violations(o, &d); len(wrong) > 0 {
		t.Errorf("%v\n%s: %s\n%s\n%+v", b, decider(o), sentences(d), strings.Join(wrong, "\n"), o)
	}
	return decider(o)
}

func FuzzExplain(f *testing.F) {
	f.Add([]byte{})
	r := rand.New(rand.NewPCG(1, 2))
	for range 64 {
		f.Add(randomBytes(r))
	}
	f.Fuzz(func(t *testing.T, b []byte) { hold(t, b) })
}

func randomBytes(r *rand.Rand) []byte {
	b := make([]byte, r.IntN(200))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

var seed = flag.Uint64("seed", 0, "seed of TestExplainRandom; 0 takes a new one")

func TestExplainRandom(t *testing.T) {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("-seed=%d", s)
	r := rand.New(rand.NewPCG(s, 0))
	seen := make(map[string]int)
	runs := 30_000
	if testing.Short() {
		runs = 5_000
	}
	for range runs {
		seen[hold(t, randomBytes(r))]++
		if t.Failed() {
			return
		}
	}
	for _, c := range checks {
		if seen[c.name] < 5 && !testing.Short() {
			t.Errorf("%s decided %d of %d random observations: the generator has a gap", c.name, seen[c.name], runs)
		}
	}
}
