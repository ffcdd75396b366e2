package diagnose

import (
	"fmt"
	"strings"

	"synprobe/rawprobe"
)

// The checks about this machine: what it knows before it sends, what its own
// firewall does.

// linkDown: the outgoing interface can't send.
func linkDown(v *view) *Diagnosis {
	m := v.m
	d := &Diagnosis{Verdict: NetworkDown, Cause: LinkDown, Certainty: Certain, Fault: ptr(v.local())}
	switch {
	case m.Interface.Index != 0 && (!m.Interface.Up || v.refused == rawprobe.RefusedDown):
		d.Summary = fmt.Sprintf("Interface %s of this machine is down.", m.Interface.Name)
		d.Next = fmt.Sprintf("Bring %s up (ip link set %s up) and try again.", m.Interface.Name, m.Interface.Name)
		return d.because("link-down", "interface %s is administratively down", m.Interface.Name)
	case m.Interface.Index != 0 && !m.Interface.Carrier:
		d.Summary = fmt.Sprintf("Interface %s of this machine has no carrier: nothing is connected, or its other end is down.", m.Interface.Name)
		d.Next = fmt.Sprintf("Check the cable, the switch port or the virtual network behind %s.", m.Interface.Name)
		return d.because("link-down", "interface %s is up but has no carrier", m.Interface.Name)
	case m.Route.Outcome == rawprobe.RouteNone && len(m.Down) > 0:
		return d.covering(m.Down[0]).because("no-route", "no other route leads to %s", v.target)
	case (m.Route.Outcome == rawprobe.RouteNone || m.Route.Outcome == rawprobe.RouteNoAddress) && m.NoneUp:
		d.Certainty = Likely
		d.Summary = "Every network interface of this machine is down."
		d.Next = "Bring up the interface that leads to the network (ip link)."
		return d.because("link-down", "no interface but loopback is up and has a carrier").
			or(NoRoute, v.local(), "this machine also has no route to %s, and may have none when its interfaces are up", v.target)
	}
	return nil
}

// covering words the diagnosis for an interface that is down and holds the
// target's prefix.
func (d *Diagnosis) covering(ifi rawprobe.Interface) *Diagnosis {
	state := "is down"
	d.Next = fmt.Sprintf("Bring %s up (ip link set %s up) and try again.", ifi.Name, ifi.Name)
	if ifi.Up {
		state = "has no carrier"
		d.Next = fmt.Sprintf("Check the cable, the switch port or the virtual network behind %s.", ifi.Name)
	}
	d.Summary = fmt.Sprintf("Interface %s of this machine, which is on the target's own network, %s.", ifi.Name, state)
	return d.because("covering-link-down", "interface %s holds the prefix of the target and %s", ifi.Name, state)
}

// coveringLinkDown: nothing answered on the route that took the place of a
// dead interface's.
func coveringLinkDown(v *view) *Diagnosis {
	// Where the SYN was sent elsewhere, the target's own network is not its way.
	if len(v.m.Down) == 0 || len(v.subject) > 0 || v.alive() || v.moved() {
		return nil
	}
	d := &Diagnosis{Verdict: NetworkDown, Cause: LinkDown, Certainty: Likely, Fault: ptr(v.local())}
	v.silence(d.covering(v.m.Down[0]))
	return d.or(Unknown, Fault{Where: Nowhere}, "traffic for the target now goes by way of %s, and may be lost there for another reason", v.m.Interface.Name)
}

// noRoute: this machine has no usable route or no source address, known before
// sending or told by the send itself.
func noRoute(v *view) *Diagnosis {
	d := &Diagnosis{Verdict: NetworkDown, Cause: NoRoute, Certainty: Certain, Fault: ptr(v.local())}
	outcome, by := v.m.Route.Outcome, "the kernel's route lookup says so"
	if outcome == rawprobe.RouteFound {
		by = "the kernel refused to send"
		switch v.refused {
		case rawprobe.RefusedNoRoute:
			outcome = rawprobe.RouteNone
		case rawprobe.RefusedUnreachable:
			outcome = rawprobe.RouteUnreachable
		case rawprobe.RefusedProhibit:
			outcome = rawprobe.RouteProhibit
		case rawprobe.RefusedBlackhole:
			outcome = rawprobe.RouteBlackhole
		case rawprobe.RefusedNoAddress:
			outcome = rawprobe.RouteNoAddress
		default:
			return nil
		}
	}
	d.Next = fmt.Sprintf("Look at this machine's routes: ip route get %s", v.target)
	switch outcome {
	case rawprobe.RouteNone:
		d.Summary = fmt.Sprintf("This machine has no route to %s.", v.target)
	case rawprobe.RouteNoAddress:
		d.Cause = NoAddress
		family, other := "IPv4", "IPv6"
		if v.target.Is6() {
			family, other = other, family
		}
		d.Summary = fmt.Sprintf("This machine has no %s address to reach %s from.", family, v.target)
		d.Next = fmt.Sprintf("Give this machine an %s address, or use an %s address of the target.", family, other)
		return d.because("no-address", "no usable %s source address; %s", family, by)
	default:
		article := "a"
		if outcome == rawprobe.RouteUnreachable {
			article = "an"
		}
		d.Summary = fmt.Sprintf("This machine's own routing table has %s %s route for %s.", article, outcome, v.target)
		return d.because("no-route", "route type %s; %s", outcome, by)
	}
	return d.because("no-route", "no route to %s; %s", v.target, by)
}

// localRefusal: this machine's own firewall stopped the SYN on its way out.
func localRefusal(v *view) *Diagnosis {
	d := &Diagnosis{Certainty: Certain, Cause: LocalFirewall, Fault: ptr(v.local())}
	d.Next = "Look at this machine's own firewall (nft list ruleset, iptables -L OUTPUT)."
	word := localWord(v)
	switch {
	case v.refused == rawprobe.RefusedByFirewall && v.m.Conntrack.Full():
		d.Verdict = Drop
		d.Summary = "This machine's connection tracking table is full: its own firewall drops new connections."
		d.Next = "Raise net.netfilter.nf_conntrack_max, or find what fills the table (conntrack -L)."
		return d.because("conntrack-full", "the kernel refused to send (EPERM) with %d of %d connections tracked", v.m.Conntrack.Count, v.m.Conntrack.Max)
	case v.refused == rawprobe.RefusedByFirewall && word != nil:
		d.Verdict, d.RTT = Reject, word.RTT
		d.Summary = fmt.Sprintf("This machine's own firewall rejects connections to port %d.", v.port)
		return d.because("send-refused", "the kernel refused to send the SYN (EPERM)").
			because("local-reject", "%s came back on the loopback interface", describe(word))
	case v.refused == rawprobe.RefusedByFirewall:
		d.Verdict = Drop
		d.Summary = fmt.Sprintf("This machine's own firewall drops SYNs to port %d before they leave.", v.port)
		d.because("send-refused", "the kernel refused to send the SYN (EPERM) %s", times(v.refusals))
		if n := v.tries - v.refusals; n > 0 {
			d.Certainty = Likely
			d.or(Unknown, Fault{Where: Nowhere}, "%s did leave and got no answer", plural(n, "SYN"))
		}
		return d
	case v.refused == rawprobe.RefusedNoBuffer && !v.departed && len(v.subject) == 0:
		d.Verdict, d.Certainty = Drop, Likely
		d.Summary = "This machine drops the SYN just before it leaves: an egress filter or a full queue."
		d.Next = "Look at this machine's traffic control and egress rules (tc -s qdisc, nft list ruleset)."
		return d.because("send-refused", "the kernel had no room to send (ENOBUFS) %s", times(v.refusals)).
			or(LinkDown, v.local(), "an interface that can't send fills its queue too")
	case word != nil && !v.here() && !v.ownTarget():
		// Refused behind OUTPUT, where a send does not learn of it.
		d.Verdict, d.Certainty, d.RTT = Reject, Likely, word.RTT
		d.Summary = fmt.Sprintf("This machine itself rejects connections to port %d.", v.port)
		d.because("local-reject", "%s came back on the loopback interface", describe(word))
		return d.or(NetworkFirewall, somewhere(), "a tunnel or container network on this machine may have made it")
	case word != nil && (v.here() || v.ownTarget()) && word.Kind == rawprobe.ICMPError && word.Meaning() == rawprobe.SaysRefused:
		v = v.asSent()
		d.Verdict, d.RTT = Reject, word.RTT
		d.Summary = fmt.Sprintf("This machine's own firewall rejects connections to its port %d.", v.port)
		d.Next = "Look at this machine's own firewall (nft list ruleset, iptables -L INPUT)."
		return v.elsewhere(d.because("local-reject", "%s came back on the loopback interface", describe(word)))
	}
	return nil
}

// localWord is the answer to the subject that this machine itself made. What
// it says after the SYN was refused is its firewall's word; else an
// "unreachable" is about its next hop.
func localWord(v *view) *rawprobe.Reply {
	for _, r := range v.subject {
		if r.Loopback && (v.refused == rawprobe.RefusedByFirewall || !v.ownDeadNeighbor(r)) && (r.Kind == rawprobe.Reset || r.Meaning() != rawprobe.SaysNothing) {
			return r
		}
	}
	return nil
}

// ownTarget reports whether this machine's own translation turned the subject
// to one of its own addresses.
func (v *view) ownTarget() bool { return v.m.Own(v.out.Addr()) && !v.m.Own(v.target) }

// moved reports whether this machine's own translation turned the subject to
// another machine than the target, itself included. What the target and the
// routers before it said of other probes is then no word about the subject's way.
func (v *view) moved() bool { return v.out.Addr() != v.target && !v.here() }

// asSent is the view for what is said of those outside this machine: the port
// is the one that they saw.
func (v *view) asSent() *view {
	w := *v
	w.port = v.out.Port()
	return &w
}

// asked is the fault of the machine that the subject was sent to.
func (v *view) asked() Fault {
	switch {
	case !v.moved():
		return v.destination()
	case v.ownTarget():
		return Fault{Where: Destination, Hops: []Hop{{TTL: 0, Address: v.out.Addr()}}}
	}
	return Fault{Where: Destination, Hops: v.device(v.out.Addr()).Hops}
}

// elsewhere says of a diagnosis that this machine's own rules sent the subject to
// another port or machine than was asked for, where they did. A connection meets
// the same, but the port that was asked for is not what was seen.
func (v *view) elsewhere(d *Diagnosis) *Diagnosis {
	if v.out.Addr() == v.target && v.out.Port() == v.o.Target.Port() {
		return d
	}
	then := uncapital(d.Summary)
	if v.moved() {
		then = strings.NewReplacer("the host", "that machine", "the target", "that machine").Replace(then)
	}
	d.Summary = fmt.Sprintf("This machine's own rules send the connection to %s instead; %s", v.out, then)
	d.Next = strings.TrimSpace("Look at this machine's redirect rules (nft list ruleset). " + d.Next)
	cause := LocalFirewall
	switch {
	case d.Cause == LocalFirewall:
		return d // it is this machine's in any case
	case d.Verdict == Open:
		cause = Proxy
	}
	d.weaken(Likely)
	return d.or(cause, v.local(), "this machine's own rules chose whom to ask, and port %d of %s was not asked", v.o.Target.Port(), v.target)
}

// uncapital lets a sentence go on: a name, such as ICMP, stays as it is.
func uncapital(s string) string {
	if len(s) < 2 || s[0] < 'A' || s[0] > 'Z' || s[1] >= 'A' && s[1] <= 'Z' {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

// swallowedAnswer: an answer is on the tap, and no socket gets it. The tap is
// before netfilter and the reverse-path filter, the socket behind them.
func swallowedAnswer(v *view) *Diagnosis {
	var first *rawprobe.Reply
	n := 0
	for _, r := range v.subject {
		if r.Kind == rawprobe.OldAck || r.Kind == rawprobe.ICMPError && r.Meaning() == rawprobe.SaysNothing || v.ownDeadNeighbor(r) {
			continue
		}
		if r.Delivered {
			return nil
		}
		if first == nil {
			first = r
		}
		n++
	}
	if first == nil {
		return nil
	}
	d := &Diagnosis{
		Verdict: Drop, Cause: LocalFirewall, Certainty: Certain, Fault: ptr(v.local()), RTT: first.RTT,
		Summary: fmt.Sprintf("This machine's own firewall drops the answer that came back: %s.", describe(first)),
		Next:    "Look at this machine's own firewall (nft list ruleset, iptables -L INPUT).",
	}
	d.because("swallowed-answer", "%s arrived at this machine %s, and no socket got it", describe(first), times(n))
	// A loose filter (2) lets through whatever a route leads back to.
	if filter := v.m.ReversePathFilter[first.Interface]; filter == 1 && first.Interface != v.m.Interface.Index && !first.Loopback {
		d.Summary = fmt.Sprintf("This machine's reverse-path filter drops the answer that came back: %s.", describe(first))
		d.Next = "Make the routing symmetric, or set net.ipv4.conf.*.rp_filter to 2."
		d.because("reverse-path", "it came in on another interface than %s, whose rp_filter is %d", v.m.Interface.Name, filter)
	}
	if n < 2 {
		d.Certainty = Likely
		d.or(Unknown, Fault{Where: Nowhere}, "only one answer was seen, and this machine may have lost it by accident")
	}
	return d
}

func times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}

// neverDeparted: the kernel took the SYN, the next hop answers, and the packet
// was not seen to leave.
func neverDeparted(v *view) *Diagnosis {
	if v.departed || v.tries == 0 || v.lost() > 0 || len(v.subject) > 0 || v.path.Last(subjectName) > 0 {
		return nil
	}
	for i := range v.o.Replies {
		if r := &v.o.Replies[i]; r.Probe >= 0 && r.Probe < len(v.o.Sent) && v.o.Sent[r.Probe].Departed == nil && !r.Loopback {
			return nil // what leaves is not seen here (IPsec): that proves nothing
		}
	}
	d := &Diagnosis{
		Verdict: Drop, Cause: LocalFirewall, Certainty: Likely, Fault: ptr(v.local()),
		Summary: "The SYN never left this machine: a rule or queue that it meets on its way out seems to drop it.",
		Next:    "Look at this machine's egress rules and traffic control (nft list ruleset, tc -s qdisc), and at IPsec policies.",
	}
	d.because("never-departed", "%s handed to the kernel and not seen to leave", plural(v.tries, "SYN"))
	return d.or(LinkDown, v.local(), "the interface may have stopped sending")
}

// silentLocal: the SYN was for this machine, and it does not answer itself.
func silentLocal(v *view) *Diagnosis {
	if !v.here() && !v.ownTarget() || len(v.subject) > 0 {
		return nil
	}
	v = v.asSent()
	d := &Diagnosis{
		Verdict: Drop, Cause: LocalFirewall, Certainty: Likely, Fault: ptr(v.local()),
		Summary: fmt.Sprintf("%s is this machine itself, and its own firewall seems to drop SYNs to port %d.", v.out.Addr(), v.port),
		Next:    "Look at this machine's own firewall (nft list ruleset, iptables -L INPUT).",
	}
	v.silence(d)
	return v.elsewhere(d.or(NotAccepting, v.asked(), "a program with a full accept queue is silent too (ss -ltn)"))
}

func ptr[T any](v T) *T { return &v }
