package diagnose

import (
	"fmt"
	"strings"
	"time"

	"synprobe/rawprobe"
)

// The checks about silence: what it can mean, and what it can't.

// The least that silence must have lasted before it is called one.
const (
	silentTries  = 3
	silentSpread = 1200 * time.Millisecond
	silentAfter  = time.Second
	// rareChance is the largest probability at which "all lost by chance" is
	// left aside.
	rareChance = 1e-3
	// rareBurst is the same for a claim that is to be certain where losses were
	// seen: they come in bursts, and little is known of them.
	rareBurst = 1e-5
)

// clockSlack is what scheduling may take off the intervals above.
const clockSlack = 20 * time.Millisecond

// patient reports whether the run waited long enough to speak of silence: for
// each of enough tries. One more that was just sent takes nothing from that.
func (v *view) patient() bool {
	n := 0
	var first, last time.Time
	for i := range v.o.Sent {
		s := &v.o.Sent[i]
		if s.Kind != rawprobe.Subject || s.Stepped() || s.Refused != rawprobe.NotRefused || v.o.End.Sub(s.Time) < silentAfter-clockSlack {
			continue
		}
		if n++; n == 1 {
			first = s.Time
		}
		last = s.Time
	}
	return n >= silentTries && last.Sub(first) >= silentSpread-clockSlack
}

// silence adds the fact itself.
func (v *view) silence(d *Diagnosis) {
	switch n, first, last := v.taken(); n {
	case 0:
		d.because("not-sent", "no SYN was sent")
	case 1:
		d.because("silent-subject", "1 SYN got no answer within %s", seconds(v.o.End.Sub(first)))
	default:
		d.because("silent-subject", "%s over %s got no answer within %s", plural(n, "SYN"), seconds(last.Sub(first)), seconds(v.o.End.Sub(first)))
	}
	if !v.patient() {
		d.weaken(Ambiguous)
	}
}

// taken counts the subject SYNs that the kernel took, and says when.
func (v *view) taken() (n int, first, last time.Time) {
	for i := range v.o.Sent {
		if s := &v.o.Sent[i]; s.Kind == rawprobe.Subject && !s.Stepped() && s.Refused == rawprobe.NotRefused {
			if n++; n == 1 {
				first = s.Time
			}
			last = s.Time
		}
	}
	return n, first, last
}

// deadNeighbor: the next hop does not answer our own ARP requests or neighbour
// solicitations, and nothing came back by it.
func deadNeighbor(v *view) *Diagnosis {
	asks := v.o.Asks
	switch {
	case len(asks) == 0 || len(v.subject) > 0 && !v.onlyOwnWord() || v.alive() || len(v.echoErr) > 0:
		return nil
	case v.m.Neighbor == "permanent" || v.m.Neighbor == "noarp":
		return nil // it is known without asking, and may not answer
	case v.out.Addr() != v.target:
		return nil // the SYN went another way than to this neighbour
	}
	if v.o.NeighborAnswered() {
		return nil
	}
	protocol, question := "ARP", "ARP request"
	if v.target.Is6() {
		protocol, question = "neighbour discovery", "neighbour solicitation"
	}
	hop := v.m.Route.NextHop(v.target).WithZone("")
	d := &Diagnosis{Verdict: HostDown, Cause: NeighborUnreachable, Certainty: Certain, Fault: ptr(v.destination())}
	d.Summary = fmt.Sprintf("The host is down: it is on this machine's own network and does not answer %s.", protocol)
	d.Next = fmt.Sprintf("Check that %s is up and connected to the same network as %s.", v.target, v.m.Interface.Name)
	if v.m.Route.Gateway.IsValid() {
		d.Verdict, d.Cause, d.Fault = NetworkDown, GatewayDown, ptr(v.local())
		d.Fault.Hops = append(d.Fault.Hops, Hop{TTL: 1, Address: hop})
		d.Summary = fmt.Sprintf("The gateway %s does not answer %s.", hop, protocol)
		d.Next = fmt.Sprintf("Check that the gateway %s is up and that %s is connected to it.", hop, v.m.Interface.Name)
	}
	span := v.o.End.Sub(asks[0].Time)
	if len(asks) == 1 {
		d.because("dead-neighbor", "1 %s for %s got no answer within %s", question, hop, seconds(span))
	} else {
		d.because("dead-neighbor", "%s for %s over %s got no answer", plural(len(asks), question), hop, seconds(span))
	}
	if v.m.Neighbor == "failed" || v.m.Neighbor == "incomplete" {
		d.because("neighbor-table", "the kernel's own neighbour entry for it is %s", v.m.Neighbor)
	}
	if len(asks) < silentTries || span < silentSpread || v.lost() > 0 {
		d.Certainty = Ambiguous
		d.Summary = strings.Replace(d.Summary, "The host is down", "The host seems to be down", 1)
		why := "the wait was too short to be sure"
		if v.lost() > 0 {
			why = "this machine's own capture lost packets, which may have been the answers"
		}
		d.or(Unknown, Fault{Where: Nowhere}, "%s", why)
	}
	return d
}

// onlyOwnWord reports whether all answers are this machine's own word about
// its next hop.
func (v *view) onlyOwnWord() bool {
	for _, r := range v.subject {
		if !v.ownDeadNeighbor(r) {
			return false
		}
	}
	return true
}

// echoRefused: the SYN is silent, but a router said why no echo gets there.
func echoRefused(v *view) *Diagnosis {
	r := firstError(v.echoErr)
	if r == nil || v.alive() || v.byHost(r.From) || v.moved() {
		return nil
	}
	d := &Diagnosis{Certainty: Likely, Fault: ptr(v.device(r.From))}
	switch r.Meaning() {
	case rawprobe.SaysHostUnreachable:
		d.Verdict, d.Cause, d.Fault = HostDown, HostUnreachable, ptr(v.destination())
		d.Summary = fmt.Sprintf("The host seems to be down: the router %s says that it can't reach it.", r.From)
		d.Next = fmt.Sprintf("Check that %s is up and connected to the network of %s.", v.target, r.From)
	case rawprobe.SaysNetworkUnreachable:
		d.Verdict, d.Cause = NetworkDown, NetUnreachable
		d.Summary = fmt.Sprintf("The router %s seems to have no route to %s.", r.From, v.target)
		d.Next = fmt.Sprintf("Ask whoever runs %s about its route to %s.", r.From, v.target)
	case rawprobe.SaysExpired:
		d.Verdict, d.Cause = NetworkDown, RoutingLoop
		d.Summary = fmt.Sprintf("Packets to the host seem to go round: the TTL of an echo was used up at %s.", r.From)
		d.Next = fmt.Sprintf("Ask whoever runs %s about its route to %s.", r.From, v.target)
	default:
		return nil
	}
	v.silence(d)
	d.because("echo-refused", "%s came from %s, quoting our ICMP echo", describe(r), r.From)
	return d.or(NetworkFirewall, v.device(r.From), "a firewall there may refuse echoes and drop SYNs")
}

// silentSubject: nothing came back, and nothing says where it was lost. What
// can be said depends on whether the host answers anything at all.
func silentSubject(v *view) *Diagnosis {
	d := &Diagnosis{Verdict: Drop, Cause: Unknown, Certainty: Ambiguous, Fault: ptr(Fault{Where: Nowhere})}
	v = v.asSent()
	v.silence(d)
	host := v.asked()
	d.Next = fmt.Sprintf("Ask whoever runs the firewalls in front of and on %s about rules for tcp/%d.", v.out.Addr(), v.port)
	chance := v.o.SilenceByChance()
	// An address that refuses echoes is alive too.
	echo := firstError(v.echoErr)
	alive := len(v.echoes) > 0 || echo != nil && v.byHost(echo.From)
	if echo != nil && len(v.echoes) == 0 {
		d.because("echo-refused", "%s came from %s, quoting our ICMP echo", describe(echo), echo.From)
	}
	switch {
	case !v.patient():
		d.Summary = fmt.Sprintf("No answer from port %d so far; the wait was too short to be sure.", v.port)
		if n, _, _ := v.taken(); n == 0 {
			d.Summary = fmt.Sprintf("No SYN was sent: nothing is known about port %d.", v.port)
		}
		d.Next = "Try again and give it more time (a longer --timeout, more --tries)."
		d.or(NetworkFirewall, somewhere(), "it may drop the SYN")
		d.or(HostFirewall, host, "it may drop the SYN")
	case v.moved():
		d.Summary = "Nothing comes back from there."
		d.Next = fmt.Sprintf("To learn more, probe %s port %d itself.", v.out.Addr(), v.port)
		if v.traced() {
			v.reached(d, v.path.Last(subjectName))
		}
		d.or(NetworkFirewall, somewhere(), "it may drop the SYN")
		d.or(HostFirewall, host, "it may drop the SYN")
		d.or(NotAccepting, host, "a program with a full accept queue is silent too")
		d.or(HostUnreachable, host, "that machine may be down")
		d.or(ReturnPath, somewhere(), "the SYN may arrive, and its answer be lost")
	case alive && chance > rareChance:
		d.Summary = fmt.Sprintf("No answer from port %d, but packets get lost on the way: this may be chance.", v.port)
		d.Next = "Try again, and find out where packets get lost."
		d.because("loss", "echoes get lost too; by chance alone all SYNs would be lost in %.1f %% of runs", 100*chance)
		d.or(NetworkFirewall, somewhere(), "it may drop the SYN")
		d.or(HostFirewall, host, "it may drop the SYN")
	case alive && v.onLink():
		d.Cause, d.Fault = HostFirewall, &host
		d.Summary = fmt.Sprintf("The host is up and silently drops SYNs to port %d: its own firewall, as far as can be seen.", v.port)
		d.Next = fmt.Sprintf("Look at the firewall of the host %s for rules about tcp/%d.", v.target, v.port)
		d.or(NotAccepting, host, "a program with a full accept queue is silent too")
		d.or(NetworkFirewall, somewhere(), "a filter directly in front of the host looks the same: a security group, a hypervisor, a bridge")
	case alive:
		d.Summary = fmt.Sprintf("The host is up, but SYNs to port %d are silently dropped, on the way or by the host.", v.port)
		d.or(NetworkFirewall, somewhere(), "it may drop the SYN")
		d.or(HostFirewall, host, "it may drop the SYN")
		d.or(NotAccepting, host, "a program with a full accept queue is silent too")
		d.or(ReturnPath, somewhere(), "the SYN may arrive, and its answer be lost")
	default:
		v.nothingAlive(d)
	}
	return v.elsewhere(d)
}

// nothingAlive words a silence in which nothing shows that the host is there.
func (v *view) nothingAlive(d *Diagnosis) {
	host := v.destination()
	d.Summary = "Nothing at all came back: neither the port nor the host answers, and nobody says why."
	if !v.echoed {
		d.Summary = fmt.Sprintf("No answer from port %d, and nothing else of the host was asked.", v.port)
	}
	if r := firstError(v.echoErr); r != nil {
		d.Summary = fmt.Sprintf("No answer from port %d, and a device on the way, %s, refuses echoes: whether the host is up is not known.", v.port, r.From)
	} else if v.echoed {
		d.because("silent-echo", "ICMP echo got no answer either")
	} else {
		d.because("not-sent", "no ICMP echo was sent")
	}
	if v.onLink() && v.o.NeighborAnswered() {
		d.Cause, d.Fault = HostFirewall, &host
		d.Summary = "The host is there and answers nothing but address resolution: its own firewall drops everything, as far as can be seen."
		d.Next = fmt.Sprintf("Look at the firewall of the host %s.", v.target)
		d.or(HostUnreachable, host, "another machine may answer address resolution for a host that is down (proxy ARP, cloud networks)")
		d.or(NetworkFirewall, somewhere(), "a filter directly in front of the host looks the same: a security group, a hypervisor, a bridge")
		return
	}
	d.or(NetworkFirewall, somewhere(), "it may drop everything for this host")
	d.or(HostFirewall, host, "it may drop everything")
	d.or(HostUnreachable, host, "a host that died less than 10 s ago is silent until its router notices")
	d.or(ReturnPath, somewhere(), "everything may arrive, and no answer come back")
}

// echoed adds that the host answers echoes, and how fast where that is known.
func (d *Diagnosis) echoed(rtt time.Duration) {
	if rtt == 0 {
		d.because("echo-reply", "ICMP echo was answered")
		return
	}
	d.because("echo-reply", "ICMP echo was answered in %s", ms(rtt))
}

// context gives the facts that help to read any diagnosis.
func (v *view) context() []Evidence {
	var d Diagnosis
	if len(v.echoes) > 0 && !v.here() {
		d.echoed(v.echoes[0].RTT)
	}
	v.translation(&d)
	for _, r := range v.subject {
		if q := r.QuotedDst; r.Kind == rawprobe.ICMPError && q.Addr().IsValid() && q != v.out && q.Addr() != v.target && !r.Loopback {
			d.because("remote-nat", "the error quotes our SYN on its way to %s: a device on the way translates the destination", q)
			break
		}
	}
	if v.m.Route.ByPort {
		d.because("policy-route", "this machine routes by port or protocol: the probe was handed to the next hop that the kernel names for it")
	}
	if n := v.o.Ignored.Unprovoked; n > 0 {
		d.because("ignored", "%s that no probe of ours provoked: not believed", plural(n, "packet"))
	}
	if n := v.lost(); n > 0 {
		d.because("tap-drops", "%s lost by this machine's own capture: what is missing may have come", plural(int(n), "packet"))
	}
	return d.Evidence
}

// translation reports what this machine's own rules made of the SYN.
func (v *view) translation(d *Diagnosis) {
	for i := range v.o.Sent {
		s := &v.o.Sent[i]
		flow, changed := s.Translated()
		if s.Kind != rawprobe.Subject || !changed {
			continue
		}
		if flow.Dst != s.Flow.Dst {
			d.because("local-dnat", "this machine's own rules sent the SYN to %s instead", flow.Dst)
		}
		if flow.Src != s.Flow.Src {
			d.because("local-snat", "this machine's own rules sent the SYN from %s instead of %s", flow.Src, s.Flow.Src)
		}
		return
	}
}
