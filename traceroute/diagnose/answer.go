package diagnose

import (
	"fmt"
	"math"
	"time"

	"synprobe/rawprobe"
	"synprobe/rawprobe/wire"
)

// The checks about answers: who made them, and what they say.

// describe names an answer in a word that a ticket can carry.
func describe(r *rawprobe.Reply) string {
	switch r.Kind {
	case rawprobe.SynAck:
		return "a SYN-ACK"
	case rawprobe.Reset:
		return "a TCP reset"
	case rawprobe.OldAck:
		return "a bare ACK"
	case rawprobe.EchoReply:
		return "an echo reply"
	}
	m := wire.ICMP{V6: r.From.Is6(), Type: uint8(r.Type), Code: uint8(r.Code)}
	return fmt.Sprintf("ICMP %q", m.Describe())
}

// A comparison is how far away an answer was made, against the host's echo
// replies: the number of routers on the way back, by the TTL that is left.
type comparison int

const (
	noBaseline comparison = iota // the host answered no echo
	same
	nearer
	farther
	mixed // the answers differ among themselves
)

// compare holds answers in the host's name against its echo replies. Only
// answers that came the same way back compare; that is why a difference is
// never certain.
func (v *view) compare(rs []*rawprobe.Reply) comparison {
	if len(v.echoes) == 0 && v.onLink() && rs[0].Distance() == 0 {
		return same // no router is between
	}
	result := noBaseline
	for _, r := range rs {
		for _, e := range v.echoes {
			if e.From != r.From {
				continue // this machine sent the two to different machines
			}
			c := same
			switch {
			case r.Distance() < e.Distance():
				c = nearer
			case r.Distance() > e.Distance():
				c = farther
			}
			if result != noBaseline && result != c {
				return mixed
			}
			result = c
		}
	}
	return result
}

// distance words the comparison for the evidence.
func (v *view) distance(d *Diagnosis, rs []*rawprobe.Reply, c comparison) {
	switch r := rs[0]; c {
	case same:
		if len(v.echoes) > 0 && !v.here() {
			d.because("same-distance", "%s came from the same distance as the host's echo reply (%s)", describe(r), plural(r.Distance(), "router"))
		}
	case nearer, farther, mixed:
		for _, r := range rs {
			for _, e := range v.echoes {
				if e.From == r.From && e.Distance() != r.Distance() {
					d.because("other-distance", "%s passed %s on its way back, the host's echo reply %s", describe(r), plural(r.Distance(), "router"), plural(e.Distance(), "router"))
					return
				}
			}
		}
	}
}

// conflictingAnswers: one flow met both a SYN-ACK and a refusal.
func conflictingAnswers(v *view) *Diagnosis {
	var yes, no *rawprobe.Reply
	for _, r := range v.subject {
		switch {
		case !r.Delivered:
		case r.Kind == rawprobe.SynAck && yes == nil:
			yes = r
		case no != nil:
		case r.Kind == rawprobe.Reset, r.Kind == rawprobe.ICMPError && r.Meaning() == rawprobe.SaysRefused:
			no = r
		}
	}
	if yes == nil || no == nil {
		return nil
	}
	v = v.asSent()
	by := somewhere()
	if no.Kind == rawprobe.ICMPError && !v.byHost(no.From) {
		by = v.device(no.From)
	}
	first, second := yes, no
	d := &Diagnosis{
		Verdict: Open, Cause: Listening, Certainty: Ambiguous, RTT: yes.RTT,
		Summary: fmt.Sprintf("Port %d is open, but %s came as well: a device on the way interferes, or the port is just changing.", v.port, describe(no)),
		Next:    "Try again; if both come again, ask for devices on the way that inject resets.",
	}
	if !no.Time.After(yes.Time) {
		first, second = no, yes
		d.Verdict, d.Cause, d.RTT = Reject, NetworkFirewall, no.RTT
		d.Fault = ptr(by)
		d.Summary = fmt.Sprintf("%s refused the connection, but a SYN-ACK came as well: a device on the way interferes, or the port is just changing.", capital(describe(no)))
	}
	d.because("conflicting-answers", "%s came first, %s %s later", describe(first), describe(second), ms(second.Time.Sub(first.Time)))
	if d.Verdict == Open {
		return v.elsewhere(d.or(NetworkFirewall, by, "a device on the way may have sent %s", describe(no)))
	}
	return v.elsewhere(d.or(PortClosed, v.asked(), "the host may have opened the port in between"))
}

// synAck: the port is open.
func synAck(v *view) *Diagnosis {
	rs := v.ofKind(rawprobe.SynAck)
	if len(rs) == 0 {
		return nil
	}
	r := rs[0]
	v = v.asSent()
	d := &Diagnosis{Verdict: Open, Cause: Listening, Certainty: Certain, RTT: r.RTT}
	d.Summary = fmt.Sprintf("Port %d is open.", v.port)
	d.because("syn-ack", "a SYN-ACK that acknowledges our SYN came from %s", r.From)
	if v.ownTarget() {
		d.Cause, d.Fault = Proxy, ptr(v.local())
		d.Summary = fmt.Sprintf("This machine itself answers for %s: its own rules redirect the connection to %s.", v.target, v.out)
		d.Next = "Look at this machine's redirect rules (nft list ruleset): a local proxy or service mesh."
		return d
	}
	switch {
	case v.here():
		return v.elsewhere(d)
	case v.moved():
		d.or(Proxy, somewhere(), "nothing else of that machine's was seen to compare the SYN-ACK with: a transparent proxy answers so too")
		return v.elsewhere(d)
	}
	at := v.origin(rs)
	at.tell(v, d, rs)
	switch {
	case r.Window == 0 && r.Options == 0 && !at.proven:
		d.Cause, d.Certainty, d.Fault = Proxy, Likely, ptr(at.fault())
		d.Summary = fmt.Sprintf("A device before the host answers for port %d; whether the port is open behind it is not known.", v.port)
		d.because("bare-syn-ack", "the SYN-ACK has no options and window 0, as SYN proxies send it")
		d.or(Listening, v.destination(), "a very simple host sends such SYN-ACKs too")
	case at.c == nearer:
		d.Cause, d.Fault = Proxy, ptr(at.fault())
		d.Certainty = at.certainty(len(rs))
		verb := "seems to answer"
		if at.proven {
			verb = "answers"
		}
		d.Summary = fmt.Sprintf("A device before the host%s %s for port %d; whether the port is open behind it is not known.", at.name(), verb, v.port)
		d.Next = "Ask for transparent proxies and load balancers on the way."
		if at.named() {
			d.Next = fmt.Sprintf("Ask whoever runs %s about a transparent proxy or a load balancer there.", at.hops[0].Address)
		}
		if !at.proven {
			d.or(Listening, v.destination(), "the host's TCP may start from another TTL than its ICMP, or the two come back by different ways")
		}
		at.weigh(d)
	case at.c == farther, at.c == mixed:
		d.Certainty = Likely
		d.Summary = fmt.Sprintf("Port %d is open, on a machine behind the one that answers echoes for this address.", v.port)
		d.or(Proxy, somewhere(), "the SYN-ACK and the echo reply come from different distances")
	case v.tooFast(rs):
		d.Certainty = Likely
		d.because("too-fast", "the SYN-ACK took %s, the host's echo reply %s or more", ms(r.RTT), ms(v.echoes[0].RTT))
		d.or(Proxy, somewhere(), "a device nearer than the host may answer in its name")
	case at.c == noBaseline:
		d.Certainty = Likely
		d.or(Proxy, somewhere(), "nothing else of the host's was seen to compare the SYN-ACK with: a transparent proxy answers so too")
	}
	at.question(d, Proxy)
	return v.elsewhere(d)
}

// reset: the port is closed, or a device says so in the host's name.
func reset(v *view) *Diagnosis {
	rs := v.ofKind(rawprobe.Reset)
	if len(rs) == 0 {
		return nil
	}
	r := rs[0]
	v = v.asSent()
	d := &Diagnosis{Verdict: Reject, Cause: PortClosed, Certainty: Certain, RTT: r.RTT, Fault: ptr(v.asked())}
	d.Summary = fmt.Sprintf("The host answers with a reset: nothing listens on port %d, or the host's own firewall resets.", v.port)
	d.Next = fmt.Sprintf("Check on the host that the service runs and listens on port %d (ss -ltn).", v.port)
	d.because("reset", "a TCP reset that acknowledges our SYN came from %s", r.From)
	switch {
	case v.ownTarget():
		d.Cause, d.Fault = LocalFirewall, ptr(v.local())
		d.Summary = fmt.Sprintf("This machine itself refuses: its own rules redirect the connection to %s, where nothing listens.", v.out)
		d.Next = "Look at this machine's redirect rules (nft list ruleset), and whether its local proxy runs."
		return d
	case v.here():
		d.Summary = fmt.Sprintf("Nothing listens on port %d of this machine, or its own firewall resets.", v.port)
		d.Next = fmt.Sprintf("Check that the service runs and listens on %s (ss -ltn).", v.out.Addr())
		return v.elsewhere(d)
	case v.moved():
		d.Summary = "A reset comes from there: nothing listens, or a firewall resets."
		d.Next = fmt.Sprintf("To learn more, probe %s port %d itself.", v.out.Addr(), v.port)
		d.or(NetworkFirewall, somewhere(), "nothing else of that machine's was seen to compare the reset with: a firewall's reset in its name looks the same")
		return v.elsewhere(d)
	}
	at := v.origin(rs)
	at.tell(v, d, rs)
	switch at.c {
	case nearer:
		d.Cause, d.Fault = NetworkFirewall, ptr(at.fault())
		d.Certainty = at.certainty(len(rs))
		verb := "resets"
		if d.Certainty == Ambiguous {
			verb = "seems to reset"
		}
		d.Summary = fmt.Sprintf("A device before the host%s %s connections to port %d in the host's name.", at.name(), verb, v.port)
		d.Next = fmt.Sprintf("Ask for firewalls on the way with a reject rule for tcp/%d.", v.port)
		if at.named() {
			d.Next = fmt.Sprintf("Ask whoever runs %s about a reject rule for tcp/%d.", at.hops[0].Address, v.port)
		}
		if !at.proven {
			d.or(PortClosed, v.destination(), "the host's TCP may start from another TTL than its ICMP, or the two come back by different ways")
		}
		at.weigh(d)
	case farther, mixed:
		d.Certainty = Likely
		d.Summary = fmt.Sprintf("Port %d is closed, on a machine behind the one that answers echoes for this address, or the host's own firewall resets.", v.port)
		d.or(NetworkFirewall, somewhere(), "the reset and the echo reply come from different distances")
	case same:
		if v.tooFast(rs) {
			d.Certainty = Likely
			d.because("too-fast", "the reset took %s, the host's echo reply %s or more", ms(r.RTT), ms(v.echoes[0].RTT))
			d.or(NetworkFirewall, somewhere(), "a device nearer than the host may answer in its name")
		}
	case noBaseline:
		d.Certainty = Likely
		d.or(NetworkFirewall, somewhere(), "nothing else of the host's was seen to compare the reset with: a firewall's reset in the host's name looks the same")
	}
	at.question(d, NetworkFirewall)
	return v.elsewhere(d)
}

// icmpFromTarget: the target's own address sent an ICMP error.
func icmpFromTarget(v *view) *Diagnosis {
	r := v.refusal()
	behind := r != nil && r.From == r.QuotedDst.Addr() // of a translator
	if r == nil || !behind && (!v.byHost(r.From) || v.moved() && r.From == v.target) {
		return nil
	}
	v = v.asSent()
	d := &Diagnosis{Certainty: Certain, RTT: r.RTT, Fault: ptr(v.asked())}
	d.because("icmp-from-target", "%s came from %s, quoting our SYN", describe(r), r.From)
	switch r.Meaning() {
	case rawprobe.SaysRefused:
		d.Verdict, d.Cause = Reject, HostFirewall
		d.Summary = fmt.Sprintf("The host itself refuses connections to port %d (%s).", v.port, describe(r))
		d.Next = fmt.Sprintf("Look at the firewall of the host %s for rules about tcp/%d.", v.out.Addr(), v.port)
		rs := []*rawprobe.Reply{r}
		c := v.compare(rs)
		v.distance(d, rs, c)
		if c != same {
			d.Certainty = Likely
			why := "no echo reply of the host's was seen to compare it with"
			if c != noBaseline {
				why = "it came from another distance than the host's echo reply"
			}
			d.or(NetworkFirewall, somewhere(), "%s: a device in front that owns the host's address (NAT, load balancer) answers so too", why)
		} else if !v.onLink() {
			at := origin{c: c}
			at.doubt, at.hops = v.asFar(r, v.refusedAt())
			at.question(d, NetworkFirewall)
			if at.doubt == "" {
				v.tellStraight(d, r)
			}
		}
	case rawprobe.SaysHostUnreachable, rawprobe.SaysNetworkUnreachable:
		d.Verdict, d.Cause = HostDown, HostUnreachable
		d.Summary = "The target's own address says that it can't reach the machine behind it: a port forward or load balancer whose backend seems to be down."
		d.Next = fmt.Sprintf("Find out where %s forwards port %d to, and whether that machine is up.", v.out.Addr(), v.port)
		d.Certainty = Likely
		d.or(HostFirewall, v.asked(), "a firewall on %s can send the same message", v.out.Addr())
		d.or(NetworkFirewall, somewhere(), "a firewall in front can send it in the host's name")
	case rawprobe.SaysExpired:
		d.Verdict, d.Cause, d.Certainty = NetworkDown, RoutingLoop, Likely
		d.Fault = ptr(v.device(r.From))
		d.Summary = "Behind the target's address the packet goes round until its TTL is used up."
		d.Next = fmt.Sprintf("Ask whoever runs %s where it forwards port %d to.", v.out.Addr(), v.port)
		d.or(NetworkFirewall, v.device(r.From), "a device can send the same message on purpose")
	}
	return v.elsewhere(d)
}

// icmpFromRouter: a device on the way sent an ICMP error. What it means depends
// on whether the host answers anything else.
func icmpFromRouter(v *view) *Diagnosis {
	r := v.refusal()
	if r == nil {
		return nil
	}
	echo := firstError(v.echoErr)
	alive := v.alive() && !v.moved()
	v = v.asSent()
	d := &Diagnosis{Verdict: Reject, Cause: NetworkFirewall, Certainty: Certain, RTT: r.RTT, Fault: ptr(v.device(r.From))}
	d.because("icmp-from-router", "%s came from %s, quoting our SYN", describe(r), r.From)
	d.Summary = fmt.Sprintf("A device on the way, %s, rejects connections to port %d (%s).", r.From, v.port, describe(r))
	d.Next = fmt.Sprintf("Ask whoever runs %s about rules for tcp/%d.", r.From, v.port)
	m := r.Meaning()
	switch {
	case m == rawprobe.SaysRefused:
		return v.elsewhere(d)
	case alive && m == rawprobe.SaysExpired:
		d.Verdict, d.Cause, d.Certainty = NetworkDown, RoutingLoop, Likely
		d.Summary = fmt.Sprintf("SYNs to port %d go round, though the host answers echoes: their TTL was used up at %s.", v.port, r.From)
		d.Next = fmt.Sprintf("Ask whoever runs %s about routes and rules for tcp/%d.", r.From, v.port)
		d.because("host-alive", "the host answers ICMP echo: other traffic gets there")
		d.or(NetworkFirewall, v.device(r.From), "a rule there can lower the TTL or send the same message on purpose")
		return v.elsewhere(d)
	case alive:
		// A host that answers is not down, nor is its network.
		v.weighFlows(d)
		return v.elsewhere(d)
	}
	agreed := echo != nil && echo.Meaning() == m && !v.moved()
	if agreed {
		d.because("echo-refused", "ICMP echo met the same: %s from %s", describe(echo), echo.From)
	}
	sure, why := false, "a firewall can send the same message, and nothing else of the host's was seen"
	if agreed {
		why = "a firewall that refuses everything for this host can send the same message"
	}
	switch m {
	case rawprobe.SaysHostUnreachable:
		d.Verdict, d.Cause, d.Fault = HostDown, HostUnreachable, ptr(v.asked())
		searched := r.RTT >= searchTime
		d.Summary = fmt.Sprintf("The host seems to be down: the router %s says that it can't reach it.", r.From)
		d.Next = fmt.Sprintf("Check that %s is up and connected to the network of %s.", v.out.Addr(), r.From)
		if searched {
			// It says the same where the router after it does not answer.
			sure, d.Certainty = true, Likely
			next := v.device(r.From)
			if ttl := next.Hops[0].TTL; ttl != UnknownTTL {
				next.Hops = append(next.Hops, Hop{TTL: ttl + 1})
			}
			d.or(Unknown, next, "the next router, and not the host, may be what it can't reach")
			d.because("searched", "it came %s after the SYN: the router searched for the host", ms(r.RTT))
		}
	case rawprobe.SaysNetworkUnreachable:
		d.Verdict, d.Cause = NetworkDown, NetUnreachable
		d.Summary = fmt.Sprintf("The router %s says that it has no route to %s.", r.From, v.out.Addr())
		d.Next = fmt.Sprintf("Ask whoever runs %s about its route to %s.", r.From, v.out.Addr())
	case rawprobe.SaysExpired:
		d.Verdict, d.Cause = NetworkDown, RoutingLoop
		if hops := v.period(); hops != nil {
			sure = true
			d.Fault.Hops = hops
			d.because("loop", "the same routers answer again and again from TTL %d on", hops[0].TTL)
		}
		why = "a device that lowers TTLs, or that sends the same message on purpose, looks the same"
		d.Summary = fmt.Sprintf("The packet goes round: its TTL was used up at %s.", r.From)
		d.Next = fmt.Sprintf("Ask whoever runs %s about its route to %s.", r.From, v.out.Addr())
	}
	if !sure {
		d.Certainty = Likely
		d.or(NetworkFirewall, v.device(r.From), "%s", why)
	}
	return v.elsewhere(d)
}

// searchTime is less than a router takes to search for a host, three requests a
// second apart, and more than any takes to refuse a packet.
const searchTime = 2500 * time.Millisecond

// oldConnection: a bare ACK is all that came back. It is how a host, or a
// stateful device, answers a SYN within a connection that it still holds (RFC
// 5961, section 4).
func oldConnection(v *view) *Diagnosis {
	for _, r := range v.subject {
		if r.Kind != rawprobe.OldAck {
			continue
		}
		d := &Diagnosis{Verdict: Drop, Cause: Unknown, Certainty: Ambiguous, RTT: r.RTT, Fault: ptr(Fault{Where: Nowhere})}
		d.Summary = "The other side does not take the SYN for a new connection: it seems to hold an old one from the same source port."
		d.Next = "Try again from another source port."
		d.because("old-connection", "a bare ACK that does not acknowledge our SYN came from %s", r.From)
		d.or(NotAccepting, v.asked(), "the host may hold the old connection")
		return v.elsewhere(d.or(NetworkFirewall, somewhere(), "a stateful device on the way may hold it"))
	}
	return nil
}

// weighFlows weighs a router's "unreachable" by what the same SYN met from
// other source ports: routers that share traffic among several ways send each
// flow one way, and one of those may have no route.
func (v *view) weighFlows(d *Diagnosis) {
	d.because("host-alive", "the host answers %s: neither it nor its network is down", v.aliveBy())
	refused, through := 0, 0
	n := v.flows()
	chance := math.Pow(0.5, float64(n))
	for _, r := range v.others {
		switch r.Kind {
		case rawprobe.SynAck, rawprobe.Reset:
			through++
		case rawprobe.ICMPError:
			refused++
		}
	}
	switch {
	case through > 0:
		d.Verdict, d.Cause, d.Certainty = Partial, FlowDependent, Likely
		d.Summary = fmt.Sprintf("Some connections get through and others do not, by their source port: one of several ways is broken at %s.", d.Fault.Hops[0].Address)
		d.Next = fmt.Sprintf("Ask whoever runs %s about its routes; retrying from other source ports helps for now.", d.Fault.Hops[0].Address)
		d.because("other-flows", "%d of %d other source ports got an answer from the host", through, through+refused)
		d.or(NetworkFirewall, *d.Fault, "a firewall that limits the rate of new connections can do the same")
	case refused > 0 && chance <= rareChance:
		d.because("other-flows", "the same SYN from %d other source ports met the same, or nothing where the router limits its errors", n)
	default:
		d.Certainty = Likely
		d.or(FlowDependent, *d.Fault, "other source ports may go another way that works")
	}
}

func capital(s string) string {
	if s == "" || s[0] < 'a' || s[0] > 'z' {
		return s
	}
	return string(s[0]-'a'+'A') + s[1:]
}
