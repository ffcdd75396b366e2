package diagnose

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"synprobe/rawprobe"
	"synprobe/traceroute"
)

// The checks about where the subject is lost, by its path and the controls'.

// subjectName is the subject's name in a path.
const subjectName = string(rawprobe.Subject)

// traced reports whether the subject was stepped.
func (v *view) traced() bool { return slices.Contains(v.path.Names, subjectName) }

// next is the least TTL above last at which anybody answered a control, with
// that control's name, preferring one whose way is the subject's up to there.
// It is 0 where nobody did.
func (v *view) next(last int) (ttl int, control string, shared bool) {
	for t := last + 1; t <= len(v.path.Hops); t++ {
		for _, name := range v.path.Names {
			st := v.path.Hops[t-1].Of(name).Status
			if name == subjectName || st != traceroute.Passes && st != traceroute.Answers || st == traceroute.Passes && v.behind(t, name, last) {
				continue
			}
			if s := v.shares(name, last); ttl == 0 || s && !shared {
				ttl, control, shared = t, name, s
			}
		}
		if ttl != 0 {
			return ttl, control, shared
		}
	}
	return 0, "", false
}

// behind reports whether a control met no router at a TTL but such as the subject
// has passed: its way is longer, and that hop not beyond the subject's last.
func (v *view) behind(ttl int, control string, last int) bool {
	for _, a := range v.path.Hops[ttl-1].Of(control).Addrs {
		// A translator puts the target's own address into everybody's words.
		if v.byHost(a) || !slices.ContainsFunc(v.path.Hops[:last], func(h traceroute.Hop) bool { return slices.Contains(h.Of(subjectName).Addrs, a) }) {
			return false
		}
	}
	return true
}

// shares reports whether a control met no other router than the subject up to a
// TTL: routers that share traffic among several send each flow one way.
func (v *view) shares(control string, last int) bool {
	// Where the control was not seen with the subject it may be anywhere.
	return !v.strays(control) && !v.parts(control, last) && (last == 0 || len(v.path.Hops[last-1].Of(control).Addrs) > 0)
}

// strays reports whether the probes of a control take several ways: each is a
// flow of its own, and one seen here tells nothing of the next.
func (v *view) strays(control string) bool {
	return (strings.HasPrefix(control, string(rawprobe.ControlSYN)) || control == string(rawprobe.ControlUDP)) && (v.forks() || v.uneven())
}

// uneven reports whether the host's own TCP answers to controls came from
// different distances: ways of different length share them by port.
func (v *view) uneven() bool {
	var first *rawprobe.Reply
	for _, r := range v.controls {
		switch {
		case r.Kind == rawprobe.ICMPError: // it may start from another TTL
		case first == nil:
			first = r
		case r.Distance() != first.Distance():
			return true
		}
	}
	return false
}

// parts reports whether a control met another router than the subject at one of
// the hops up to a TTL.
func (v *view) parts(control string, last int) bool {
	for t := 1; t <= last; t++ {
		subject, other := v.path.Hops[t-1].Of(subjectName).Addrs, v.path.Hops[t-1].Of(control).Addrs
		if len(subject) == 0 || len(other) == 0 {
			continue
		}
		if !slices.ContainsFunc(subject, func(a netip.Addr) bool { return slices.Contains(other, a) }) {
			return true
		}
	}
	return false
}

// forks reports whether several routers answered at one hop.
func (v *view) forks() bool {
	return slices.ContainsFunc(v.path.Hops, func(h traceroute.Hop) bool { return !h.Host && len(h.Addrs) > 1 })
}

// chance is the probability that every subject SYN that was to expire beyond a
// hop, or the word of it, was lost by the loss that echoes saw; where none was
// sent, that every one for the host was.
func (v *view) chance(last int) float64 {
	loss := traceroute.Loss(v.o)
	if loss == 0 {
		return 0
	}
	stepped, full := 0, 0
	for i := range v.o.Sent {
		switch s := &v.o.Sent[i]; {
		case s.Kind != rawprobe.Subject || s.Refused != rawprobe.NotRefused || s.TTL <= last:
		case s.Stepped():
			stepped++
		default:
			full++
		}
	}
	if stepped > 0 {
		// What the host drops in any case is no further proof of where.
		return math.Pow(loss, float64(stepped))
	}
	return math.Pow(loss, float64(full))
}

// suspects are the hops from one TTL to another. TTL 0, this machine, is none:
// the SYN was seen to leave it.
func (v *view) suspects(from, to int) []Hop {
	var hops []Hop
	for ttl := max(from, 1); ttl <= to; ttl++ {
		h := v.hop(ttl)
		if v.passedBefore(h) {
			h.Address = netip.Addr{}
		}
		hops = append(hops, h)
	}
	return hops
}

// passedBefore reports whether the subject met at an earlier hop, and not here,
// who is named here: controls got there by a longer way.
func (v *view) passedBefore(h Hop) bool {
	here := v.path.Hop(h.TTL)
	if here == nil || here.Of(subjectName).Status == traceroute.Passes || v.byHost(h.Address) {
		return false
	}
	return slices.ContainsFunc(v.path.Hops[:h.TTL-1], func(o traceroute.Hop) bool {
		p := o.Of(subjectName)
		return p.Status == traceroute.Passes && slices.Contains(p.Addrs, h.Address)
	})
}

// span names suspects in a sentence.
func span(hops []Hop) string {
	word := func(h Hop) string {
		if h.Address.IsValid() {
			return fmt.Sprintf("hop %d (%s)", h.TTL, h.Address)
		}
		return fmt.Sprintf("hop %d", h.TTL)
	}
	if len(hops) == 1 {
		return "at " + word(hops[0])
	}
	return "between " + word(hops[0]) + " and " + word(hops[len(hops)-1])
}

// bracket: the subject's path ends, and a control's goes on.
func bracket(v *view) *Diagnosis {
	if !v.patient() || len(v.subject) > 0 || v.moved() {
		return nil
	}
	v = v.asSent()
	if v.onLink() && (len(v.controls) > 0 || v.arrived != nil) {
		d := &Diagnosis{Verdict: Drop}
		v.silence(d)
		v.lastStep(d)
		v.byChance(d, 0)
		return v.elsewhere(d)
	}
	if v.onLink() || !v.traced() {
		return nil
	}
	last := v.path.Last(subjectName)
	depth := v.path.Depth
	d := &Diagnosis{Verdict: Drop, Certainty: Certain}
	v.silence(d)
	v.reached(d, last)
	ttl, control, shared := v.next(last)
	switch {
	case v.path.Unplaced > 0 && v.arrived == nil:
		v.blurred(d, last)
	case depth > 0 && last >= depth:
		v.behindAddress(d, last)
	case v.arrived != nil && !v.translated(): // else it may be the translator's word
		v.lastStep(d)
	case ttl == 0 && !v.alive():
		v.blackHole(d, last)
	case ttl == 0:
		v.unmeasured(d, last)
	case depth > 0 && ttl >= depth && last == depth-1:
		v.lastStep(d)
	case depth > 0 && ttl >= depth:
		v.silentRouters(d, last)
	default:
		v.onTheWay(d, last, ttl, control, shared)
	}
	v.refusedACK(d)
	v.byChance(d, last)
	if v.o.Interrupted && len(d.Alternatives) == 0 {
		d.Certainty = Ambiguous
		d.or(Unknown, Fault{Where: Nowhere}, "the run was interrupted: answers may have been on their way")
	}
	return v.elsewhere(d)
}

// refusedACK weakens a silence in which a device did refuse an ACK of the same
// ports: its refusals of the SYN may have fallen victim to its limit for ICMP,
// which it shares among all who ask.
func (v *view) refusedACK(d *Diagnosis) {
	for i := range v.o.Replies {
		r := &v.o.Replies[i]
		if v.o.Sent[r.Probe].Kind != rawprobe.ControlACK || r.Kind != rawprobe.ICMPError || r.Meaning() != rawprobe.SaysRefused || r.Loopback {
			continue
		}
		d.because("refused-ack", "%s came from %s, quoting an ACK for the same port", describe(r), r.From)
		d.weaken(Likely)
		cause, by := NetworkFirewall, v.device(r.From)
		if v.byHost(r.From) {
			cause, by = HostFirewall, v.destination()
		}
		switch same := d.Cause == cause && d.Fault.Where == by.Where && slices.Equal(d.Fault.Hops, by.Hops); {
		case !same:
			d.or(cause, by, "%s, which refused an ACK, may refuse the SYN too, and not be let to say so each time", r.From)
		case len(d.Alternatives) == 0:
			d.or(Unknown, Fault{Where: Nowhere}, "%s, which refused an ACK, may refuse the SYN rather than drop it, and not be let to say so each time", r.From)
		}
		return
	}
}

// byChance weakens what loss alone could have caused.
func (v *view) byChance(d *Diagnosis, last int) {
	p := v.chance(last)
	if p <= rareChance {
		return
	}
	d.because("loss", "packets get lost on the way; by chance alone this would be seen in %.1f %% of runs", 100*p)
	d.Certainty = Ambiguous
	if len(d.Alternatives) == 0 {
		d.or(Unknown, Fault{Where: Nowhere}, "packets get lost on the way, and these may have been lost by chance")
	}
}

// reached adds how far the subject came.
func (v *view) reached(d *Diagnosis, last int) {
	beyond, tries := 0, 0
	for t := last + 1; t <= len(v.path.Hops); t++ {
		if p := v.path.Hops[t-1].Of(subjectName); p.Tries > 0 {
			beyond, tries = t, max(tries, p.Tries)
		}
	}
	where := "no hop"
	if last > 0 {
		where = fmt.Sprintf("hop %d", last)
	}
	switch {
	case last == 0 && beyond > 0:
		d.because("subject-path", "no hop answered for the same SYN (%s)", stepsTo(1, beyond, tries))
	case beyond > last:
		d.because("subject-path", "the same SYN reached %s, and nobody beyond answered (%s)", where, stepsTo(last+1, beyond, tries))
	default:
		d.because("subject-path", "the same SYN reached %s", where)
	}
}

// stepsTo says to which TTLs a SYN was sent, and how often to each at most.
func stepsTo(from, to, tries int) string {
	switch {
	case from == to:
		return fmt.Sprintf("TTL %d, %s", to, times(tries))
	case tries == 1:
		return fmt.Sprintf("TTL %d to %d, once each", from, to)
	}
	return fmt.Sprintf("TTL %d to %d, up to %s each", from, to, times(tries))
}

// onTheWay: a control was answered by a router beyond the last one that
// answered for the subject.
func (v *view) onTheWay(d *Diagnosis, last, ttl int, control string, shared bool) {
	hops := v.suspects(last, ttl)
	d.Cause, d.Fault = NetworkFirewall, &Fault{Where: Path, Hops: hops}
	d.Summary = fmt.Sprintf("%s a firewall silently drops SYNs to port %d; other traffic passes there.", capital(span(hops)), v.port)
	d.because("control-passes", "%s passed hop %d", words(control), ttl)
	v.aliveEvidence(d)
	v.ask(d, hops)
	sameFlow, tcp := v.passesTCP(ttl)
	if n := v.triesAt(last+1, ttl); n < silentTries {
		d.Certainty = Likely
		d.because("few-tries", "but one of the hops there was sent no more than %s", plural(n, "SYN"))
		d.or(HostFirewall, v.destination(), "the SYN may have got further, and a router's word of it been lost")
	} else if !tcp {
		d.Certainty = Likely
		d.or(HostFirewall, v.destination(), "somebody may drop the routers' word about TCP alone, and the SYN have got further")
	} else if got, tries := v.answersAt(ttl); got < tries {
		d.Certainty = Likely
		d.because("few-answers", "but hop %d answered %d of %s only", ttl, got, plural(tries, "control probe"))
		v.further(d)
	}
	if d.Certainty == Certain {
		v.byBadLuck(d, last)
	}
	if sameFlow {
		return // the ACK went the SYN's own way
	}
	if !shared {
		d.Certainty = Likely
		switch {
		case v.parts(control, last):
			d.because("other-way", "but %s took another way than the SYN before that", words(control))
		case v.strays(control):
			d.because("other-way", "but there are several ways, and %s may have taken another than the SYN", words(control))
		default: // a silence proves no other way
			d.because("few-answers", "but no answer shows by which way %s got past hop %d", words(control), last)
		}
		d.or(FlowDependent, *d.Fault, "the SYN and the control may take different ways, of which one may be broken for all traffic")
		v.further(d)
		return
	}
	n, chance := v.oneLeg()
	if n > 0 {
		d.because("other-flows", "the same SYN from %s got no answer either", plural(n, "other source port"))
	}
	if chance > rareChance {
		d.Certainty = Likely
		leg := Fault{Where: Path, Hops: append(v.suspects(last, last), Hop{TTL: last + 1})}
		took := "the SYN took a broken one"
		if n > 0 {
			took = fmt.Sprintf("all %s took a broken one", plural(n+1, "SYN flow"))
		}
		d.or(FlowDependent, leg, "routers may share traffic among several ways, of which %s", took)
	}
}

// silentAt is how often the subject was sent to a hop beyond the last that it
// reached, where a router answers others.
func (v *view) silentAt(last int) int {
	n := 0
	for _, h := range v.path.Hops[last:] {
		if len(h.Addrs) > 0 && !h.Host {
			n += h.Of(subjectName).Tries
		}
	}
	return n
}

// byBadLuck weakens a claim about a hop where packets are seen to get lost: so
// may the few SYNs have been on which it rests.
func (v *view) byBadLuck(d *Diagnosis, last int) {
	lost, answered, doubt := traceroute.Losses(v.o)
	n := v.silentAt(last)
	if (lost == 0 || traceroute.Chance(lost, answered, n) <= rareBurst) && (doubt == 0 || traceroute.Chance(lost+doubt, answered, n) <= rareChance) {
		return
	}
	d.Certainty = Likely
	lost += doubt
	d.because("loss", "but packets get lost on the way: %d of %s that had to be answered got lost", lost, plural(lost+answered, "probe"))
	d.or(HostFirewall, v.destination(), "the SYN may have got further, and the routers' word of it been lost")
	d.or(ReturnPath, somewhere(), "the SYN may have arrived, and its answer been lost")
	d.or(NetworkFirewall, somewhere(), "the SYN may have got further, and be dropped there")
}

// passesTCP reports whether a TCP control passed a hop, and whether one of the
// subject's own five-tuple did: routers send that the same way.
func (v *view) passesTCP(ttl int) (sameFlow, tcp bool) {
	for _, name := range v.path.Names {
		if name == subjectName || v.path.Hop(ttl).Of(name).Status != traceroute.Passes {
			continue
		}
		sameFlow = sameFlow || name == string(rawprobe.ControlACK)
		tcp = tcp || strings.HasPrefix(name, "tcp-")
	}
	return sameFlow, tcp
}

// answersAt counts the probes sent to a hop of the controls that passed it, and
// how many of them it answered. A router at its limit for ICMP, which it shares
// among all who ask, leaves some without an answer.
func (v *view) answersAt(ttl int) (got, tries int) {
	for _, name := range v.path.Names {
		if p := v.path.Hop(ttl).Of(name); name != subjectName && p.Status == traceroute.Passes {
			got, tries = got+p.Got, tries+p.Tries
		}
	}
	return got, tries
}

// further adds who else it may be where the hops beyond the subject's last one
// are not known to be on its way.
func (v *view) further(d *Diagnosis) {
	if slices.ContainsFunc(d.Alternatives, func(a Alternative) bool { return a.Cause == ReturnPath }) {
		return // they were added for another reason
	}
	d.or(NetworkFirewall, somewhere(), "the SYN's own way may go on in silence, and the SYN be lost further on")
	d.or(HostFirewall, v.destination(), "it may drop the SYN, whose way there may be silent")
	d.or(ReturnPath, somewhere(), "the SYN may arrive, and its answer be lost")
}

// blurred: routers said that the SYN expired, in words that do not tell where.
func (v *view) blurred(d *Diagnosis, last int) {
	d.Cause, d.Certainty, d.Fault = Unknown, Ambiguous, &Fault{Where: Nowhere}
	d.Summary = fmt.Sprintf("SYNs to port %d are silently dropped, and the routers' words do not tell how far they get.", v.port)
	d.Next = fmt.Sprintf("Ask whoever runs the firewalls in front of and on %s about rules for tcp/%d.", v.target, v.port)
	d.because("unplaced", "%s quoted too little to name the probe that expired", plural(v.path.Unplaced, "answer"))
	v.aliveEvidence(d)
	v.further(d)
	if !v.alive() {
		d.or(HostUnreachable, v.destination(), "the host may be down")
	}
}

// triesAt is how often the subject was sent to each of a range of TTLs, the
// least of them.
func (v *view) triesAt(from, to int) int {
	least := v.path.Hops[from-1].Of(subjectName).Tries
	for ttl := from + 1; ttl <= to; ttl++ {
		least = min(least, v.path.Hops[ttl-1].Of(subjectName).Tries)
	}
	return least
}

// oneLeg returns from how many other source ports the SYN was silent, and how
// probable that is where it has two ways of equal weight and the subject's is
// the broken one.
func (v *view) oneLeg() (n int, chance float64) {
	silent := make(map[uint16]bool)
	for i := range v.o.Sent {
		if s := &v.o.Sent[i]; s.Kind == rawprobe.OtherFlow && !s.Stepped() && s.Refused == rawprobe.NotRefused && v.o.End.Sub(s.Time) >= flowPatience {
			silent[s.Flow.Src.Port()] = true
		}
	}
	for _, r := range v.others {
		delete(silent, v.o.Sent[r.Probe].Flow.Src.Port())
	}
	return len(silent), math.Pow((1+traceroute.Loss(v.o))/2, float64(len(silent)))
}

// flows is how many other source ports the SYN was sent from with full TTL.
func (v *view) flows() int {
	ports := make(map[uint16]bool)
	for i := range v.o.Sent {
		if s := &v.o.Sent[i]; s.Kind == rawprobe.OtherFlow && !s.Stepped() && s.Refused == rawprobe.NotRefused {
			ports[s.Flow.Src.Port()] = true
		}
	}
	return len(ports)
}

// flowPatience is how long another flow must have been silent to count so.
const flowPatience = 300 * time.Millisecond

// lastStep: every router answered for the subject, and the host does not.
func (v *view) lastStep(d *Diagnosis) {
	host := v.destination()
	d.Cause, d.Fault, d.Certainty = HostFirewall, &host, Ambiguous
	switch {
	case v.arrived != nil:
		d.because("arrival", "the host reported after %s that a lone fragment of the SYN had arrived: SYNs to this port get to it", seconds(v.arrived.RTT))
	case v.onLink():
		d.because("last-step", "no router is on the way")
	default:
		if v.everyRouter() {
			d.because("last-step", "every router on the way answered for the SYN")
		} else {
			d.because("last-step", "the last router on the way answered for the SYN")
		}
	}
	v.aliveEvidence(d)
	other, ack := v.control(rawprobe.ControlSYN), v.control(rawprobe.ControlACK)
	if other != nil && v.ownDistance(other) || v.arrived != nil {
		d.Certainty = Likely
	}
	d.Summary = fmt.Sprintf("%s is up, and SYNs to port %d are lost at the last step: its own firewall drops them, as far as can be seen.", v.target, v.port)
	if v.arrived != nil {
		d.Summary = fmt.Sprintf("SYNs to port %d arrive at %s and are not answered: its own firewall drops them, as far as can be seen.", v.port, v.target)
	}
	d.Next = fmt.Sprintf("Look at the firewall of %s for rules about tcp/%d; then at filters directly in front of it.", v.target, v.port)
	if other != nil && ack != nil && v.ownDistance(ack) {
		d.Cause = NotAccepting
		d.Summary = fmt.Sprintf("%s is up and takes no new connections on port %d: its program does not accept them, or a filter matches SYNs alone.", v.target, v.port)
		d.Next = fmt.Sprintf("Look on %s at the accept queue of the program on port %d (ss -ltn), then at its firewall.", v.target, v.port)
		d.or(HostFirewall, host, "a rule that matches SYNs alone looks the same")
	} else {
		d.or(NotAccepting, host, "a full accept queue is silent too")
	}
	switch {
	case v.arrived != nil:
		// No device before the host drops what arrives.
	case v.onLink():
		d.or(NetworkFirewall, somewhere(), "a filter directly in front of the host looks the same (security group, hypervisor, bridge)")
	default:
		router := Fault{Where: Path, Hops: v.suspects(v.path.Depth-1, v.path.Depth-1)}
		d.or(NetworkFirewall, router, "it may drop the SYN as it forwards it; so may a filter directly in front of the host (security group, hypervisor, bridge)")
	}
	if v.arrived == nil && v.onLink() {
		return
	}
	d.or(ReturnPath, somewhere(), "only the answer to the SYN need get lost for that")
}

// everyRouter reports whether each hop before the host answered for the subject.
func (v *view) everyRouter() bool {
	for ttl := 1; ttl < v.path.Depth; ttl++ {
		if v.path.Hop(ttl).Of(subjectName).Status != traceroute.Passes {
			return false
		}
	}
	return true
}

// ownDistance reports whether an answer came from the host's own distance, as
// far as its echo replies show.
func (v *view) ownDistance(r *rawprobe.Reply) bool {
	for _, e := range v.echoes {
		if e.Distance() != r.Distance() {
			return false
		}
	}
	return len(v.echoes) > 0
}

// silentRouters: between the last router that answered for the subject and the
// host there are only routers that answer nobody.
func (v *view) silentRouters(d *Diagnosis, last int) {
	host := v.destination()
	hops := v.suspects(last, v.path.Depth)
	d.Cause, d.Certainty, d.Fault = Unknown, Ambiguous, &Fault{Where: Nowhere, Hops: hops}
	d.Summary = fmt.Sprintf("%s is up, and SYNs to port %d are silently dropped %s, where the routers answer nobody.", v.target, v.port, span(hops))
	v.aliveEvidence(d)
	d.Next = fmt.Sprintf("Ask whoever runs the firewalls %s, or the host's, about rules for tcp/%d.", span(hops), v.port)
	d.or(NetworkFirewall, Fault{Where: Path, Hops: v.suspects(last, v.path.Depth-1)}, "these routers answer nobody, so nothing shows where among them it stops")
	d.or(HostFirewall, host, "the SYN may get past them")
	d.or(NotAccepting, host, "a full accept queue is silent too")
	d.or(ReturnPath, somewhere(), "only the answer to the SYN need get lost for that")
}

// unmeasured: the host is alive, and no stepped control shows where.
func (v *view) unmeasured(d *Diagnosis, last int) {
	host := v.destination()
	d.Cause, d.Certainty, d.Fault = Unknown, Ambiguous, &Fault{Where: Nowhere, Hops: append(v.suspects(last, last+1), host.Hops...)}
	d.Summary = fmt.Sprintf("%s is up, and SYNs to port %d are silently dropped behind hop %d.", v.target, v.port, last)
	v.aliveEvidence(d)
	d.Next = fmt.Sprintf("Ask whoever runs the firewalls behind hop %d, or the host's, about rules for tcp/%d.", last, v.port)
	d.or(NetworkFirewall, Fault{Where: Path, Hops: v.suspects(last, last+1)}, "nothing answers from behind it but the host")
	d.or(HostFirewall, host, "the SYN may get through to it")
	d.or(NotAccepting, host, "a full accept queue is silent too")
	d.or(ReturnPath, somewhere(), "only the answer to the SYN need get lost for that")
}

// blackHole: nothing at all passes some point.
func (v *view) blackHole(d *Diagnosis, last int) {
	host := v.destination()
	hops := v.suspects(last, last+1)
	d.Cause, d.Certainty, d.Fault = Unknown, Ambiguous, &Fault{Where: Path, Hops: hops}
	d.Summary = fmt.Sprintf("Nothing comes back from beyond hop %d%s, and nobody says why.", last, parens(v.path.Addr(last)))
	switch {
	case last == 0:
		d.Summary = "Nothing at all comes back, not even from the first router, and nobody says why."
	case !v.steppedTo(last + 1):
		d.Summary = fmt.Sprintf("Nothing comes back from port %d or its host, and the path was followed to hop %d only.", v.port, last)
	}
	d.because("silent-controls", "neither ICMP echo nor any other probe drew an answer from beyond")
	v.ask(d, hops)
	d.Next = fmt.Sprintf("Find out first whether %s is up. %s", v.target, d.Next)
	if last > 0 && !v.steppedTo(last+1) {
		d.Next = "Follow the path further (a greater --max-hops)."
	}
	d.or(NetworkFirewall, Fault{Where: Path, Hops: hops}, "it may drop everything for this host")
	d.or(HostFirewall, host, "the next hop may be the host itself, and answer nothing")
	d.or(HostUnreachable, host, "it may have died less than 10 s ago, and its router not have noticed")
	d.or(ReturnPath, somewhere(), "everything may arrive, and no answer come back")
}

// steppedTo reports whether the subject was stepped to a TTL, or beyond.
func (v *view) steppedTo(ttl int) bool {
	return slices.ContainsFunc(v.o.Sent, func(s rawprobe.Sent) bool {
		return s.Kind == rawprobe.Subject && s.Stepped() && s.TTL >= ttl
	})
}

// behindAddress: the subject goes on behind the address that answers echoes: a
// port forward or a load balancer.
func (v *view) behindAddress(d *Diagnosis, last int) {
	host := v.destination()
	d.Cause, d.Certainty, d.Fault = Unknown, Ambiguous, &Fault{Where: Nowhere, Hops: v.suspects(last, last+1)}
	d.Fault.Hops[0].Address = v.path.Addr(last)
	d.Summary = fmt.Sprintf("%s passes port %d on to another machine, and SYNs are silently dropped behind it.", v.target, v.port)
	d.Next = fmt.Sprintf("Find out where %s forwards port %d to, and look there.", v.target, v.port)
	d.because("behind-address", "the SYN went on behind hop %d, where %s answers echoes", v.path.Depth, v.target)
	d.or(HostFirewall, host, "that of the machine behind looks the same")
	d.or(NetworkFirewall, Fault{Where: Path, Hops: d.Fault.Hops}, "one before that machine looks the same")
	d.or(HostUnreachable, host, "that machine may be down")
	d.or(ReturnPath, somewhere(), "the answer to the SYN may be dropped on the way back")
}

// ask words whom to ask about suspects.
func (v *view) ask(d *Diagnosis, hops []Hop) {
	var named []Hop
	for _, h := range hops {
		if h.Address.IsValid() {
			named = append(named, h)
		}
	}
	switch len(named) {
	case 0:
		d.Next = fmt.Sprintf("Ask whoever runs the network %s about rules for tcp/%d.", span(hops), v.port)
	case 1:
		d.Next = fmt.Sprintf("Ask whoever runs %s about rules for tcp/%d.", named[0].Address, v.port)
	default:
		d.Next = fmt.Sprintf("Ask whoever runs %s (outbound) or %s (inbound) about rules for tcp/%d.", named[0].Address, named[len(named)-1].Address, v.port)
	}
}

// aliveEvidence adds what shows that the host is up.
func (v *view) aliveEvidence(d *Diagnosis) {
	if !v.alive() {
		return
	}
	at := ""
	if v.path.Depth > 0 {
		at = fmt.Sprintf(" at hop %d", v.path.Depth)
	}
	d.because("host-alive", "the host%s answers %s: it is up", at, v.aliveBy())
}

// aliveBy names the controls that the host answered.
func (v *view) aliveBy() string {
	var by []string
	if len(v.echoes) > 0 {
		by = append(by, words(string(rawprobe.Echo)))
	}
	for _, r := range v.controls {
		if w := words(v.o.Sent[r.Probe].Name()); !slices.Contains(by, w) && len(by) < 3 {
			by = append(by, w)
		}
	}
	switch len(by) {
	case 1:
		return by[0]
	case 2:
		return by[0] + " and " + by[1]
	case 3:
		return by[0] + ", " + by[1] + " and " + by[2]
	}
	return "nothing"
}

// words names a control in a sentence.
func words(name string) string {
	switch rawprobe.ProbeKind(name) {
	case rawprobe.Echo:
		return "ICMP echo"
	case rawprobe.ControlACK:
		return "a bare ACK to the same port"
	case rawprobe.ControlUDP:
		return "UDP"
	}
	if rest, ok := strings.CutPrefix(name, string(rawprobe.ControlSYN)+":"); ok {
		return "a SYN to port " + rest
	}
	return name
}

func parens(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return fmt.Sprintf(" (%s)", a)
}

// flowRepeats is how often a flow must have passed, each time, before the
// difference is called repeatable.
const flowRepeats = 3

// otherFlows: the subject is silent, and the same SYN from other source ports
// gets through.
func otherFlows(v *view) *Diagnosis {
	if len(v.subject) > 0 || !v.patient() {
		return nil
	}
	through, tried := make(map[uint16]int), make(map[uint16]int)
	for i := range v.o.Sent {
		if s := &v.o.Sent[i]; s.Kind == rawprobe.OtherFlow && !s.Stepped() {
			tried[s.Flow.Src.Port()]++
		}
	}
	for _, r := range v.others {
		s := &v.o.Sent[r.Probe]
		if !s.Stepped() && v.byHost(r.From) && (r.Kind == rawprobe.SynAck || r.Kind == rawprobe.Reset) {
			through[s.Flow.Src.Port()]++
		}
	}
	last := v.path.Last(subjectName)
	if len(through) == 0 || v.chance(last) > rareChance || v.o.SilenceByChance() > rareChance {
		return nil
	}
	d := &Diagnosis{Verdict: Partial, Cause: FlowDependent, Certainty: Certain, Fault: &Fault{Where: Path}}
	if !v.part(through) {
		d.Certainty = Likely
		d.or(NetworkFirewall, Fault{Where: Path}, "a rule that looks at source ports does the same")
		d.or(HostFirewall, v.asked(), "a rule of the host's that looks at source ports does the same, and so does what it remembers of an old connection")
	}
	v.silence(d)
	d.because("other-flows", "the same SYN from other source ports got an answer: %d of %d flows got through", len(through), len(tried)+1)
	d.Summary = "Some connections get through and others do not, by their source port: one of several ways is broken."
	if v.traced() && !v.onLink() && v.path.Unplaced == 0 {
		v.reached(d, last)
		d.Fault.Hops = v.leg(last, through)
		d.Summary = fmt.Sprintf("Some connections get through and others do not, by their source port: one of several ways is broken %s.", span(d.Fault.Hops))
	}
	d.Next = "Ask whoever runs the routers there; retrying from other source ports helps for now."
	repeatable := false
	for port, n := range through {
		repeatable = repeatable || n >= flowRepeats && n == tried[port]
	}
	if traceroute.Loss(v.o) > 0 || !repeatable {
		d.Certainty = Likely
		d.or(Unknown, Fault{Where: Nowhere}, "packets get lost on the way, and these may have been lost by chance")
	}
	return v.elsewhere(d)
}

// mixedFlows: the host answers the subject, and nothing comes back for the same
// SYN from other source ports.
func mixedFlows(v *view) *Diagnosis {
	if len(v.ofKind(rawprobe.SynAck)) == 0 && len(v.ofKind(rawprobe.Reset)) == 0 {
		return nil
	}
	tries, answered, last := make(map[uint16]int), make(map[uint16]bool), make(map[uint16]time.Time)
	for i := range v.o.Sent {
		if s := &v.o.Sent[i]; s.Kind == rawprobe.OtherFlow && !s.Stepped() && s.Refused == rawprobe.NotRefused {
			tries[s.Flow.Src.Port()]++
			last[s.Flow.Src.Port()] = s.Time
		}
	}
	for _, r := range v.others {
		answered[v.o.Sent[r.Probe].Flow.Src.Port()] = true
	}
	var silent []uint16
	for port, n := range tries {
		loss := math.Pow(traceroute.Loss(v.o), float64(n))
		if !answered[port] && n >= silentTries && v.o.End.Sub(last[port]) >= silentAfter-clockSlack && loss <= rareChance {
			silent = append(silent, port)
		}
	}
	if len(silent) == 0 {
		return nil
	}
	slices.Sort(silent)
	d := &Diagnosis{Verdict: Partial, Cause: FlowDependent, Certainty: Likely, Fault: &Fault{Where: Path}, RTT: v.subject[0].RTT}
	at := ""
	for _, port := range silent {
		p := traceroute.ReadFlow(v.o, port)
		if n := p.Last(subjectName); len(p.Hops) > 0 && len(d.Fault.Hops) == 0 {
			if n > 0 {
				d.Fault.Hops = append(d.Fault.Hops, Hop{TTL: n, Address: p.Addr(n)})
			}
			next := Hop{TTL: n + 1}
			if next.TTL == v.path.Depth && !v.moved() {
				next.Address = v.target
			}
			d.Fault.Hops = append(d.Fault.Hops, next)
			at = " " + span(d.Fault.Hops)
		}
	}
	d.Summary = fmt.Sprintf("Some connections get through and others do not, by their source port: one of several ways seems to be broken%s.", at)
	d.Next = "Ask whoever runs the routers there; retrying from other source ports helps for now."
	d.because("mixed-flows", "the SYN was answered, and from %d of %s it got no answer in %d tries", len(silent), plural(len(tries), "other source port"), tries[silent[0]])
	d.or(NetworkFirewall, Fault{Where: Path}, "a rule that looks at source ports, or limits new connections, does the same")
	d.or(HostFirewall, v.asked(), "a rule of the host's that looks at source ports, or limits new connections, does the same")
	return v.elsewhere(d)
}

// part reports whether a flow that passes was seen to take another way than the
// subject.
func (v *view) part(through map[uint16]int) bool {
	for port := range through {
		p := traceroute.ReadFlow(v.o, port)
		for i := range min(len(p.Hops), len(v.path.Hops)) {
			a, b := p.Hops[i].Of(subjectName), v.path.Hops[i].Of(subjectName)
			if a.Status == traceroute.Passes && b.Status == traceroute.Passes &&
				!slices.ContainsFunc(a.Addrs, func(x netip.Addr) bool { return slices.Contains(b.Addrs, x) }) {
				return true
			}
		}
	}
	return false
}

// translated reports whether a device on the way sent the subject on to another
// machine: it said in the target's name that the subject expired.
func (v *view) translated() bool {
	for ttl := 1; ttl <= len(v.path.Hops); ttl++ {
		if v.translates(ttl) {
			return true
		}
	}
	return false
}

// leg names the suspects of the way that is broken: where the subject was last
// seen, and the hop after it, unless a flow that passes was seen there.
func (v *view) leg(last int, through map[uint16]int) []Hop {
	hops := v.suspects(last, last+1)
	after := &hops[len(hops)-1]
	if after.TTL == v.path.Depth || v.moved() {
		return hops
	}
	var passing []netip.Addr
	for port := range through {
		p := traceroute.ReadFlow(v.o, port)
		if h := p.Hop(after.TTL); h != nil {
			passing = append(passing, h.Addrs...)
		}
	}
	after.Address = netip.Addr{}
	if h := v.path.Hop(after.TTL); h != nil {
		for _, a := range h.Addrs {
			if !slices.Contains(passing, a) {
				after.Address = a
			}
		}
	}
	// Where the subject's last hop is on the broken way alone, and the next is
	// on both, both stay suspects.
	if !after.Address.IsValid() && len(passing) > 0 && v.meet(after.TTL, passing) {
		after.Address = passing[0]
	}
	return hops
}

// meet reports whether every probe that answered at a TTL met the same router:
// the ways have come together.
func (v *view) meet(ttl int, passing []netip.Addr) bool {
	h := v.path.Hop(ttl)
	return h != nil && len(h.Addrs) == 1 && slices.Contains(passing, h.Addrs[0])
}

// period returns the hops of a loop, nil where the subject's path shows none:
// the same address at TTLs that are not adjacent, more than once.
func (v *view) period() []Hop {
	var addrs []netip.Addr
	for i := range v.path.Hops {
		a := netip.Addr{}
		if q := v.path.Hops[i].Of(subjectName); q.Status == traceroute.Passes {
			a = q.Addrs[0]
		}
		addrs = append(addrs, a)
	}
	for i, a := range addrs {
		if !a.IsValid() {
			continue
		}
		for k := i + 2; k+1 < len(addrs); k++ {
			// The first repetition, and the one after it.
			if addrs[k] == a && addrs[i+1].IsValid() && addrs[i+1] == addrs[k+1] && addrs[i+1] != a {
				return v.suspects(i+1, k)
			}
		}
	}
	return nil
}

// loop: nothing came back, and the path shows the same routers again and again.
func loop(v *view) *Diagnosis {
	hops := v.period()
	if hops == nil || len(v.subject) > 0 {
		return nil
	}
	d := &Diagnosis{Verdict: NetworkDown, Cause: RoutingLoop, Fault: &Fault{Where: Path, Hops: hops}}
	v.silence(d)
	d.Certainty = Certain // by the routers' own words, however short the silence
	d.because("loop", "the same routers answer again and again from TTL %d on", hops[0].TTL)
	d.Summary = fmt.Sprintf("The packet goes round %s.", span(hops))
	d.Next = fmt.Sprintf("Ask whoever runs the routers there about their routes to %s.", v.out.Addr())
	return v.elsewhere(d)
}
