package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"synprobe/rawprobe"
	"synprobe/traceroute"
)

// A check looks at the observations for one kind of explanation. It returns
// nil where it does not apply.
type check struct {
	name string
	find func(*view) *Diagnosis
}

// checks in the order in which one rules out the next: what this machine knows
// by itself, what answered, what a silence means.
var checks = []check{
	{"way-lost", wayLost},
	{"link-down", linkDown},
	{"no-route", noRoute},
	{"local-refusal", localRefusal},
	{"swallowed-answer", swallowedAnswer},
	{"conflicting-answers", conflictingAnswers},
	{"mixed-flows", mixedFlows},
	{"syn-ack", synAck},
	{"reset", reset},
	{"icmp-from-target", icmpFromTarget},
	{"icmp-from-router", icmpFromRouter},
	{"old-connection", oldConnection},
	{"covering-link-down", coveringLinkDown},
	{"dead-neighbor", deadNeighbor},
	{"never-departed", neverDeparted},
	{"silent-local", silentLocal},
	{"other-flows", otherFlows},
	{"loop", loop},
	{"echo-refused", echoRefused},
	{"bracket", bracket},
	{"silent-subject", silentSubject},
}

// Explain gives the explanation of what a run observed. It always gives one:
// where nothing is known it is a Drop for an Unknown cause.
func Explain(o *rawprobe.Observations) Diagnosis {
	v := look(o)
	for _, c := range checks {
		d := c.find(v)
		if d == nil {
			continue
		}
		v.pastFirewall(d)
		v.gaps(d)
		v.doubtChanged(d, c.name)
		v.overheard(d)
		d.Evidence = append(d.Evidence, v.context()...)
		if v.path.Traced() {
			d.Path = v.path
		}
		d.Tries, d.Answered = v.tries, v.answered
		if o.Interrupted && len(v.subject) == 0 && len(d.Alternatives) > 0 { // else no silence is part of it
			d.weaken(Ambiguous)
		}
		return *d
	}
	panic("diagnose: the last check must always find something")
}

// pastFirewall weakens what was learnt by packets that went out on the link
// layer: this machine's own firewall and translation did not see them, and may
// have another word for a connection.
func (v *view) pastFirewall(d *Diagnosis) {
	if !v.m.Route.ByPort || v.tries == 0 || d.Cause == LocalFirewall {
		return
	}
	d.weaken(Likely)
	d.or(LocalFirewall, v.local(), "the probe went past this machine's own firewall, which may stop a connection")
}

// lost is how many packets that passed the tap's filter are not in the record.
func (v *view) lost() uint64 { return v.o.Tap.Drops + uint64(v.o.Ignored.Excess) }

// gaps weakens what rests on a silence, where the record has gaps.
func (v *view) gaps(d *Diagnosis) {
	silent := slices.ContainsFunc(d.Evidence, func(e Evidence) bool { return e.Rule == "silent-subject" })
	if v.lost() == 0 || !silent || d.Certainty != Certain || d.Cause == RoutingLoop { // which routers' words prove
		return
	}
	d.weaken(Likely)
	d.or(Unknown, Fault{Where: Nowhere}, "this machine's own capture lost packets, which may have been answers")
}

// weaken lowers the certainty to at most c.
func (d *Diagnosis) weaken(c Certainty) {
	if rank(c) < rank(d.Certainty) {
		d.Certainty = c
	}
}

func rank(c Certainty) int {
	switch c {
	case Certain:
		return 2
	case Likely:
		return 1
	}
	return 0
}

// because adds a fact that the diagnosis rests on.
func (d *Diagnosis) because(rule, format string, args ...any) *Diagnosis {
	d.Evidence = append(d.Evidence, Evidence{Rule: rule, Text: fmt.Sprintf(format, args...)})
	return d
}

// or adds what else could give the same packets.
func (d *Diagnosis) or(cause Cause, fault Fault, format string, args ...any) *Diagnosis {
	d.Alternatives = append(d.Alternatives, Alternative{Cause: cause, Fault: fault, Why: fmt.Sprintf(format, args...)})
	return d
}

// A view is the observations, sorted for the checks.
type view struct {
	o      *rawprobe.Observations
	m      *rawprobe.Machine
	target netip.Addr // without a zone
	port   uint16

	subject []*rawprobe.Reply // answers to the subject, in order
	others  []*rawprobe.Reply // answers to the subject's SYN on other flows
	echoes  []*rawprobe.Reply // echo replies
	echoErr []*rawprobe.Reply // ICMP errors for an echo

	controls []*rawprobe.Reply // the host's answers to other controls of full TTL
	arrived  *rawprobe.Reply   // the host's word that a fragment of the SYN arrived
	path     traceroute.Path

	tries    int              // subject SYNs of full TTL, taken by the kernel or not
	refusals int              // of those, not taken
	refused  rawprobe.Refusal // why the last was not, where nothing outside answered any
	answered int
	departed bool
	echoed   bool           // the kernel took an echo
	out      netip.AddrPort // where the subject went after this machine's own translation
}

func look(o *rawprobe.Observations) *view {
	// A reply to a probe that is not in the record answers nothing of it.
	stray := func(r rawprobe.Reply) bool { return r.Probe < 0 || r.Probe >= len(o.Sent) }
	if slices.ContainsFunc(o.Replies, stray) {
		rest := *o
		rest.Replies = slices.DeleteFunc(slices.Clone(o.Replies), stray)
		o = &rest
	}
	m := o.Machine
	m.Interface.Name = printable(m.Interface.Name)
	m.Down = slices.Clone(m.Down)
	for i := range m.Down {
		m.Down[i].Name = printable(m.Down[i].Name)
	}
	v := &view{o: o, m: &m, target: o.Target.Addr().WithZone(""), port: o.Target.Port()}
	v.out = netip.AddrPortFrom(v.target, v.port)
	v.path = traceroute.Read(o)
	for i := range o.Sent {
		s := &o.Sent[i]
		if s.Kind == rawprobe.Echo && s.Refused == rawprobe.NotRefused {
			v.echoed = true
		}
		if s.Kind != rawprobe.Subject || s.Stepped() {
			continue
		}
		v.tries++
		v.refused = s.Refused
		if s.Refused != rawprobe.NotRefused {
			v.refusals++
		}
		if s.Departed != nil {
			v.departed = true
			v.out = s.Departed.Flow.Dst
		}
	}
	seen := make(map[int]bool)
	for i := range o.Replies {
		r := &o.Replies[i]
		s := &o.Sent[r.Probe]
		switch {
		case s.Stepped() && r.Meaning() == rawprobe.SaysExpired:
			// That is what it was sent for: see path.
		case s.Kind == rawprobe.Subject:
			v.subject = append(v.subject, r)
			if r.Delivered && !r.Loopback {
				v.refused = rawprobe.NotRefused
			}
			if !s.Stepped() && !seen[r.Probe] {
				seen[r.Probe] = true
				v.answered++
			}
		case s.Kind == rawprobe.Fragment:
			// Only the end of a path puts fragments together.
			if r.Kind == rawprobe.ICMPError && v.byHost(r.From) && r.Type == 11 && r.Code == 1 {
				v.arrived = r
			}
		case s.Kind == rawprobe.OtherFlow:
			v.others = append(v.others, r)
		case r.Kind == rawprobe.EchoReply:
			v.echoes = append(v.echoes, r)
		case s.Kind == rawprobe.Echo:
			if r.Kind == rawprobe.ICMPError && !v.ownDeadNeighbor(r) {
				v.echoErr = append(v.echoErr, r)
			}
		case v.byHost(r.From) && (r.Kind != rawprobe.ICMPError || s.Kind == rawprobe.ControlUDP && r.Meaning() == rawprobe.SaysRefused):
			v.controls = append(v.controls, r)
		}
	}
	v.controls = slices.DeleteFunc(v.controls, func(r *rawprobe.Reply) bool { return traceroute.Forged(o, r) })
	return v
}

// alive reports whether the host answered anything but the subject.
func (v *view) alive() bool { return len(v.echoes) > 0 || len(v.controls) > 0 }

// control returns the host's first answer to a kind of control, nil where there
// is none.
func (v *view) control(kind rawprobe.ProbeKind) *rawprobe.Reply {
	for _, r := range v.controls {
		if v.o.Sent[r.Probe].Kind == kind {
			return r
		}
	}
	return nil
}

// ownDeadNeighbor reports whether an ICMP error is this machine's own word
// that its next hop does not answer (net/ipv4/arp.c, arp_error_report).
func (v *view) ownDeadNeighbor(r *rawprobe.Reply) bool {
	return r.Kind == rawprobe.ICMPError && r.Loopback && !v.here() && r.Meaning() != rawprobe.SaysRefused
}

// byHost reports whether an address is the target's, as the subject's packets
// named it when they left.
func (v *view) byHost(a netip.Addr) bool { return a == v.target || a == v.out.Addr() }

// here reports whether the target is this machine itself, and its own rules do
// not pass the SYN on to another one.
func (v *view) here() bool {
	return v.m.Route.Local && (v.out.Addr() == v.target || v.m.Own(v.out.Addr()))
}

// onLink reports whether no router lies between this machine and the target.
// Behind a tunnel or another link without addresses there may be many.
func (v *view) onLink() bool {
	return v.here() || !v.m.Route.Gateway.IsValid() && v.m.Interface.Resolves
}

// ofKind returns the subject's answers of one kind that reached a socket.
func (v *view) ofKind(k rawprobe.ReplyKind) []*rawprobe.Reply {
	var rs []*rawprobe.Reply
	for _, r := range v.subject {
		if r.Kind == k && r.Delivered {
			rs = append(rs, r)
		}
	}
	return rs
}

// destination is the fault of the host itself.
func (v *view) destination() Fault {
	ttl := UnknownTTL
	switch {
	case v.here():
		ttl = 0
	case v.onLink():
		ttl = 1
	case v.path.Depth > 0:
		ttl = v.path.Depth
	}
	return Fault{Where: Destination, Hops: []Hop{{TTL: ttl, Address: v.target}}}
}

// local is the fault of this machine, named by the address it sends from, or
// would if it could.
func (v *view) local() Fault {
	own := v.m.Route.Source.WithZone("")
	for _, a := range v.m.Addresses {
		if !own.IsValid() && !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			own = a
		}
	}
	return Fault{Where: Local, Hops: []Hop{{TTL: 0, Address: own}}}
}

// device is the fault of a device on the way that gave its address. Its TTL is
// where it let a probe expire, else where its refusal first appeared.
func (v *view) device(a netip.Addr) Fault {
	ttl := v.path.Find(a)
	for i := 0; ttl == 0 && i < len(v.path.Hops); i++ {
		if slices.Contains(v.path.Hops[i].Addrs, a) {
			ttl = i + 1
		}
	}
	switch {
	case ttl > 0:
	case a == v.m.Route.Gateway:
		ttl = 1
	default:
		ttl = UnknownTTL
	}
	return Fault{Where: Path, Hops: []Hop{{TTL: ttl, Address: a}}}
}

// somewhere is the fault of a device on the way that did not.
func somewhere() Fault { return Fault{Where: Path} }

// refusal returns the first ICMP error for the subject that means something,
// this machine's own words about its next hop aside.
func (v *view) refusal() *rawprobe.Reply {
	return firstError(slices.DeleteFunc(slices.Clone(v.subject), v.ownDeadNeighbor))
}

// firstError returns the first ICMP error among rs that means something.
func firstError(rs []*rawprobe.Reply) *rawprobe.Reply {
	for _, r := range rs {
		if r.Kind == rawprobe.ICMPError && r.Meaning() != rawprobe.SaysNothing {
			return r
		}
	}
	return nil
}

// printable quotes a name that could do something to a terminal. The kernel
// forbids only slashes, colons and spaces in an interface's name
// (net/core/dev.c, dev_valid_name).
func printable(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(name)
	}
	return name
}

// plural gives "1 SYN", "3 SYNs".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// ms gives a time in milliseconds, as ping does, from a second on in seconds.
func ms(d time.Duration) string {
	switch {
	case d >= time.Second:
		return seconds(d)
	case d >= 100*time.Millisecond:
		return fmt.Sprintf("%.0f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.2f ms", float64(d)/1e6)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
