package traceroute

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"synprobe/rawprobe"
)

// A sweep is one kind of probe at rising TTLs.
type sweep struct {
	name string
	send func(ttl int) error
	hops map[int]*asked
}

// asked is what was sent to one TTL.
type asked struct {
	tries       int
	first, last time.Time
}

// sweep returns the sweep of a name, which it makes where it is new.
func (t *tracer) sweep(name string, send func(ttl int) error) *sweep {
	s := t.sweeps[name]
	if s == nil {
		s = &sweep{name: name, send: send, hops: make(map[int]*asked)}
		t.sweeps[name] = s
	}
	return s
}

// ask sends a probe to a TTL where one is due: the first at once, another after
// the pace while nothing came back. It reports when the hop has to be looked at
// again, and false when nothing more is to be expected of it.
func (t *tracer) ask(s *sweep, ttl, tries int, pace time.Duration) (wake time.Time, busy bool, err error) {
	if st := t.path.status(ttl, s.name); st != Silent && st != NotSent {
		return time.Time{}, false, nil
	}
	h := s.hops[ttl]
	if h == nil {
		h = new(asked)
		s.hops[ttl] = h
	}
	due := h.last.Add(pace)
	switch {
	case h.tries < tries && t.spent(ttl) < hopBudget && !t.now.Before(due):
		if err := s.send(ttl); err != nil {
			return wake, false, err
		}
		if h.tries++; h.tries == 1 {
			h.first = t.now
		}
		h.last = t.now
	case h.tries < tries && t.spent(ttl) < hopBudget:
		return due, true, nil
	}
	wait := hopPatience
	if t.r.Conclusive() != nil {
		wait = stepPatience // the answer is there, the path only adds to it
	}
	end := h.last.Add(max(wait, 3*t.o.MaxRTT()))
	if h.tries < tries && t.spent(ttl) < hopBudget {
		end = earlier(end, h.last.Add(pace))
	}
	return end, t.now.Before(end), nil
}

// spent is how many probes of all kinds went to a TTL.
func (t *tracer) spent(ttl int) int {
	n := 0
	for _, s := range t.sweeps {
		if h := s.hops[ttl]; h != nil {
			n += h.tries
		}
	}
	return n
}

func (p *Path) status(ttl int, name string) Status {
	if h := p.Hop(ttl); h != nil {
		return h.Of(name).Status
	}
	return NotSent
}

// trace takes the path one step further. It reports when to go on, and false
// when nothing is left to find out.
func (t *tracer) trace() (wake time.Time, busy bool, err error) {
	if t.read != len(t.o.Replies)+len(t.o.Sent) {
		t.path, t.read = Read(t.o), len(t.o.Replies)+len(t.o.Sent)
	}
	p := pending{wake: t.end()}
	a := t.r.Conclusive()
	switch {
	case a != nil && a.Kind != rawprobe.ICMPError:
		if t.opt.askedFlows {
			p.add(t.askedFlows())
		}
		switch {
		case t.opt.Mode == Always, !t.plain(a), len(t.silentFlows()) > 0, t.who.doubted:
			p.add(t.whoAnswered(a))
			p.add(t.echoes())
			p.add(t.lookAround())
			p.add(t.lookAlways(a, p.busy))
		case t.wantsLook(a):
			p.add(t.look(a))
		}
	case a != nil && t.opt.Mode != Always && t.plain(a) && t.wantsLook(a) && !t.who.doubted:
		p.add(t.look(a))
	case a != nil:
		p.add(t.subject(t.refusedWithin(a)))
		if a.Meaning() != rawprobe.SaysExpired { // in a loop they would go round as well
			p.add(t.echoes())
		}
		if t.plain(a) {
			p.add(t.lookAlways(a, p.busy))
		}
	case t.repeats() > 0:
		// It goes round: more probes would only meet the same routers again.
		p.add(t.subject(min(t.repeats()+1, t.opt.MaxHops)))
	default:
		p.add(t.fullControls())
		p.add(t.subject(t.frontier()))
		p.add(t.echoes())
		p.add(t.substitute())
		p.add(t.tcpControls())
		p.add(t.otherFlows())
	}
	return p.wake, p.busy, p.err
}

// pending sums up what several parts of a trace still wait for.
type pending struct {
	wake time.Time
	busy bool
	err  error
}

func (p *pending) add(wake time.Time, busy bool, err error) {
	if p.err == nil {
		p.err = err
	}
	if busy {
		p.busy = true
		p.wake = earlier(p.wake, wake)
	}
}

// depth is the host's distance in hops: measured by a control, else as its
// answers' remaining TTL suggests; 0 where neither is known.
func (t *tracer) depth() (depth int, measured bool) {
	if t.path.Depth > 0 {
		return t.path.Depth, true
	}
	for i := range t.o.Replies {
		r := &t.o.Replies[i]
		if s := &t.o.Sent[r.Probe]; s.Kind != rawprobe.Subject && !s.Stepped() && r.Kind != rawprobe.ICMPError {
			return min(r.Distance()+1, t.opt.MaxHops), false
		}
	}
	return 0, false
}

// routers is the greatest TTL at which a router has answered anything.
func (t *tracer) routers() int {
	n := 0
	for _, name := range t.path.Names {
		n = max(n, t.path.Last(name))
	}
	return n
}

// frontier is the greatest TTL for the subject: little further than the routers,
// since what reaches the host may trip its defences. Beyond the last router
// known one step is allowed, in case there is another that answers the subject
// alone: where that is the host's own distance, its address only passes the port
// on to a machine behind it.
func (t *tracer) frontier() int {
	last := t.routers()
	d, measured := t.depth()
	switch passed := t.path.Last(string(rawprobe.Subject)); {
	case measured && passed < d-1:
		last = d - 1
	case measured:
		last = passed + 1
	default:
		last = max(last+1, d-1)
	}
	return min(last, t.opt.MaxHops)
}

// maxSubject is how many SYNs for the subject's port may reach the host, which
// may take more of them for a scan (field notes 34, 43).
const maxSubject = 6

// mayReach reports whether n more SYNs for the subject's port may reach the
// host, those set aside that the direct questions and the other flows still
// need: whatever comes first must not take the place of what is certain to
// follow.
func (t *tracer) mayReach(n int) bool {
	last, direct, others := t.routers(), 0, 0
	for i := range t.o.Sent {
		switch s := &t.o.Sent[i]; {
		case s.Kind != rawprobe.Subject && s.Kind != rawprobe.OtherFlow:
		case s.Stepped() && s.TTL > last:
			n++
		case s.Stepped():
		case s.Kind == rawprobe.Subject:
			direct++
		default:
			others++
		}
	}
	// Tries and flows that were asked for come on top; one SYN more is needed.
	usual := min(t.opt.Flows, defaultFlows)
	most := max(maxSubject, t.direct.Wanted()+usual+1)
	if t.r.Conclusive() == nil {
		// Flows beyond the usual do not get to the host: see stops.
		direct, others = max(direct, t.direct.Wanted()), usual
	} else if t.opt.askedFlows {
		others = min(others, usual)
	}
	return n+direct+others <= most
}

// stops reports whether the subject is known to stop before the last router, so
// that SYNs for its port do not reach the host. A router that answers an echo
// alone does not show it: it may say nothing about TCP. It has to say so of
// another TCP packet, and to have been asked for the subject until its silence
// is hardly by chance. Where it may come to that, stops returns when.
func (t *tracer) stops() (now bool, wake time.Time) {
	lost, answered, doubt := Losses(t.o)
	wait := max(stepPatience, 2*t.o.MaxRTT())
	for ttl := t.path.Last(string(rawprobe.Subject)) + 1; ttl <= t.routers(); ttl++ {
		if !slices.ContainsFunc(t.path.passedAt(ttl), isTCP) {
			continue
		}
		n := 0
		for i := range t.o.Sent {
			s := &t.o.Sent[i]
			if s.Kind != rawprobe.Subject || s.TTL != ttl {
				continue
			}
			if due := s.Time.Add(wait); t.now.Before(due) {
				wake = due
			} else {
				n++
			}
		}
		if n >= hopTries && Chance(lost+doubt, answered, n) <= maxChance {
			return true, wake
		}
	}
	return false, wake
}

// isTCP reports whether a kind of probe, by its name, is another TCP packet than
// the subject.
func isTCP(name string) bool {
	return name == string(rawprobe.ControlACK) || strings.HasPrefix(name, string(rawprobe.ControlSYN))
}

// refusedWithin is the greatest TTL that the subject needs to find the device
// that refuses it: one beyond where its answer says that it sits, or all of
// a loop's hops.
func (t *tracer) refusedWithin(a *rawprobe.Reply) int {
	if a.Meaning() == rawprobe.SaysExpired {
		if again := t.repeats(); again > 0 {
			return min(max(loopHops, again+1), t.opt.MaxHops)
		}
		return min(max(loopHops, t.path.Last(string(rawprobe.Subject))+gap), t.opt.MaxHops)
	}
	if ttl := t.path.Find(a.From); ttl > 0 {
		return ttl
	}
	return min(a.Distance()+2, t.opt.MaxHops)
}

// loopHops is how many hops of a loop are shown at least: enough to see the
// period of one that is near.
const loopHops = 8

// repeats is the first TTL at which the subject met a router again that it had
// left, 0 where it did not.
func (t *tracer) repeats() int {
	seen := make(map[netip.Addr]int)
	for i := range t.path.Hops {
		if q := t.path.Hops[i].Of(string(rawprobe.Subject)); q.Status == Passes {
			if first, ok := seen[q.Addrs[0]]; ok && i-first > 1 {
				return i + 1
			}
			seen[q.Addrs[0]] = i
		}
	}
	return 0
}

// subject sweeps the subject up to a TTL.
func (t *tracer) subject(upTo int) (wake time.Time, busy bool, err error) {
	s := t.sweep(string(rawprobe.Subject), t.r.SendSubject)
	p := pending{wake: t.end()}
	answered := t.r.Conclusive() != nil
	last := t.path.Last(s.name)
	for ttl := 1; ttl <= upTo; ttl++ {
		tries, pace := t.tries()
		switch {
		case answered:
			tries = 1 // the answer is there; the path is for the picture
		case ttl == t.beyond(last) && ttl != t.path.Depth:
			// A router that answers others: the claim rests on its silence.
			tries, pace = max(tries, claimTries), lossyPace
		case ttl < last:
			tries = 1 // it got further than that
		}
		if h := s.hops[ttl]; ttl > t.routers() && !t.mayReach(1) {
			if h == nil {
				continue
			}
			tries = h.tries // none is left to send, but one may be on its way
		} else if h != nil && h.first.After(t.begun.Add(pace)) {
			pace = lossyPace // a router that was found late must not make us late
		}
		p.add(t.ask(s, ttl, tries, pace))
	}
	return p.wake, p.busy, p.err
}

// tries is how often a hop is asked, and how fast: more where controls see
// packets get lost, until a silence by chance is rare.
func (t *tracer) tries() (int, time.Duration) {
	loss := Loss(t.o)
	if loss == 0 {
		return hopTries, pace
	}
	need := int(math.Ceil(math.Log(maxChance) / math.Log(loss)))
	return min(max(hopTries, need), lossyTries), lossyPace
}

// maxChance is how often a silence may be by chance.
const maxChance = 1e-3

// Loss is the share of probes that went unanswered among those that were sent
// where the same kind of probe was answered at least once. The subject's do not
// count.
func Loss(o *rawprobe.Observations) float64 {
	type place struct {
		name string
		ttl  int
	}
	sent, got := make(map[place]int), make(map[place]int)
	answered := make(map[int]bool)
	for i := range o.Replies {
		answered[o.Replies[i].Probe] = true
	}
	rtt := o.MaxRTT()
	for i := range o.Sent {
		s := &o.Sent[i]
		if s.Kind != rawprobe.Echo || s.Refused != rawprobe.NotRefused || !answered[i] && o.End.Sub(s.Time) < max(3*rtt, stepPatience) {
			continue
		}
		at := place{s.Name(), s.TTL}
		sent[at]++
		if answered[i] {
			got[at]++
		}
	}
	n, k := 0, 0
	for at, g := range got {
		n += sent[at]
		k += g
	}
	if n == 0 {
		return 0
	}
	return 1 - float64(k)/float64(n)
}

// echoes sweeps ICMP echo: one to each hop, more where neither it nor the
// subject has found anybody and the fault may lie, and right before the host:
// there one that got lost would put the host a hop too far away.
func (t *tracer) echoes() (wake time.Time, busy bool, err error) {
	s := t.sweep(string(rawprobe.Echo), t.r.SendEcho)
	p := pending{wake: t.end()}
	depth, measured := t.depth()
	upTo := min(t.routers()+gap, t.opt.MaxHops)
	if depth > 0 {
		upTo = depth
		if !measured { // the way there may be longer than back
			upTo = min(max(depth+1, t.routers()+2), t.opt.MaxHops)
		}
	}
	last := t.path.Last(string(rawprobe.Subject))
	tries, pace := t.tries()
	beyond := t.beyond(last)
	answered := t.r.Conclusive() != nil
	if answered {
		tries, pace = stepTries, stepPatience
	}
	for ttl := 1; ttl <= upTo; ttl++ {
		n := 1
		switch {
		case !answered && ttl > last && (beyond == 0 || ttl < beyond):
			n = tries
		case measured && ttl == depth-1:
			n = tries // the host may be that near, and its answer lost
		}
		p.add(t.ask(s, ttl, n, pace))
	}
	return p.wake, p.busy, p.err
}

// beyond is the least TTL above last at which anybody answered a control, 0
// where nobody did.
func (t *tracer) beyond(last int) int {
	for ttl := last + 1; ttl <= len(t.path.Hops); ttl++ {
		for _, name := range t.path.Names {
			if st := t.path.status(ttl, name); name != string(rawprobe.Subject) && (st == Passes || st == Answers) {
				return ttl
			}
		}
	}
	return 0
}

// fullControls asks the host other things, and once more where no answer to a
// SYN came: it may have got lost.
func (t *tracer) fullControls() (wake time.Time, busy bool, err error) {
	switch again := t.begun.Add(pace); {
	case t.askedHost == 0:
	case t.askedHost > 1 || t.alive(rawprobe.ControlSYN):
		return wake, false, nil
	case t.now.Before(again):
		return again, true, nil
	}
	t.askedHost++
	return wake, false, t.askHost()
}

// askHost sends SYNs to other ports, an ACK on the subject's own five-tuple and
// a datagram.
func (t *tracer) askHost() error {
	for _, port := range t.controlPorts() {
		if err := t.r.SendSYN(port, rawprobe.DefaultTTL); err != nil {
			return err
		}
	}
	if err := t.r.SendACK(rawprobe.DefaultTTL); err != nil {
		return err
	}
	return t.r.SendUDP(rawprobe.DefaultTTL)
}

// controlPorts are the ports of the host that are asked beside the subject's.
func (t *tracer) controlPorts() []uint16 {
	subject := t.o.Target.Port()
	var ports []uint16
	add := func(p uint16) {
		for _, q := range ports {
			if p == q {
				return
			}
		}
		if p != subject {
			ports = append(ports, p)
		}
	}
	for _, p := range t.opt.ControlPorts {
		add(p)
	}
	n := len(ports) + 2
	for _, p := range commonPorts {
		if len(ports) < n {
			add(p)
		}
	}
	add(unlikelyPort)
	return ports
}

// alive reports whether the host answered a control of that kind with full TTL.
func (t *tracer) alive(kind rawprobe.ProbeKind) bool { return t.answer(kind) != nil }

// answer is the host's answer to a control of full TTL.
func (t *tracer) answer(kind rawprobe.ProbeKind) *rawprobe.Reply {
	for i := range t.o.Replies {
		r := &t.o.Replies[i]
		if s := &t.o.Sent[r.Probe]; s.Kind == kind && !s.Stepped() && byHost(t.o, s, r) && !Forged(t.o, r) {
			return r
		}
	}
	return nil
}

// substitute steps another control where echoes do not get to the host but the
// other does.
func (t *tracer) substitute() (wake time.Time, busy bool, err error) {
	if t.echo() != nil || t.path.Depth > 0 && t.sweeps["substitute"] == nil {
		return wake, false, nil
	}
	if t.now.Before(t.begun.Add(pace)) && t.o.Machine.Route.Gateway.IsValid() {
		return t.begun.Add(pace), true, nil // the echo has its chance first
	}
	s := t.sweeps["substitute"]
	if s == nil {
		switch {
		case t.alive(rawprobe.ControlSYN):
			port := t.o.Sent[t.answer(rawprobe.ControlSYN).Probe].Flow.Dst.Port()
			s = t.sweep("substitute", func(ttl int) error { return t.r.SendSYN(port, ttl) })
			s.name = t.o.Sent[t.answer(rawprobe.ControlSYN).Probe].Name()
		case t.alive(rawprobe.ControlACK):
			s = t.sweep("substitute", t.r.SendACK)
			s.name = string(rawprobe.ControlACK)
		case t.alive(rawprobe.ControlUDP):
			s = t.sweep("substitute", t.r.SendUDP)
			s.name = string(rawprobe.ControlUDP)
		default:
			return wake, false, nil
		}
	}
	p := pending{wake: t.end()}
	depth, measured := t.depth()
	if !measured {
		depth = min(depth+1, t.opt.MaxHops)
	}
	tries, pace := t.tries()
	// From the subject's last hop on, where the two must meet the same router.
	for ttl := max(t.path.Last(string(rawprobe.Subject)), 1); ttl <= depth; ttl++ {
		p.add(t.ask(s, ttl, min(tries, 2), pace))
	}
	return p.wake, p.busy, p.err
}

// tcpControls steps an ACK of the subject's own five-tuple, and a SYN to another
// port, to the first router that the subject does not reach and an echo does:
// somebody on the way may drop the errors about TCP, and not the SYN.
func (t *tracer) tcpControls() (wake time.Time, busy bool, err error) {
	ttl := t.beyond(t.path.Last(string(rawprobe.Subject)))
	if ttl == 0 || ttl == t.path.Depth || t.now.Before(t.begun.Add(stepPatience)) {
		return t.begun.Add(stepPatience), ttl != 0 && t.now.Before(t.begun.Add(stepPatience)), nil
	}
	port := t.answeredPort()
	tries, pace := t.tries()
	p := pending{wake: t.end()}
	p.add(t.ask(t.sweep(string(rawprobe.ControlACK), t.r.SendACK), ttl, min(tries, stepTries), pace))
	name := fmt.Sprintf("%s:%d", rawprobe.ControlSYN, port)
	p.add(t.ask(t.sweep(name, func(ttl int) error { return t.r.SendSYN(port, ttl) }), ttl, tries, pace))
	return p.wake, p.busy, p.err
}

// answeredPort is the first of the control ports that the host answered, the
// first of all where it answered none.
func (t *tracer) answeredPort() uint16 {
	ports := t.controlPorts()
	for _, port := range ports {
		for i := range t.o.Replies {
			r := &t.o.Replies[i]
			s := &t.o.Sent[r.Probe]
			if s.Kind == rawprobe.ControlSYN && !s.Stepped() && s.Flow.Dst.Port() == port && byHost(t.o, s, r) && !Forged(t.o, r) {
				return port
			}
		}
	}
	return ports[0]
}

// brief reports whether nobody is left who may still say that the host is
// unreachable: the host is there, the subject's way to it shows no translator,
// and so no router is searching for a machine.
func (t *tracer) brief() bool {
	if t.echo() == nil && !t.alive(rawprobe.ControlSYN) && !t.alive(rawprobe.ControlACK) {
		return false
	}
	last := t.path.Last(string(rawprobe.Subject))
	if t.path.Depth > 0 && last >= t.path.Depth {
		return false // the subject went on behind the address
	}
	for i := range t.o.Replies {
		r := &t.o.Replies[i]
		s := &t.o.Sent[r.Probe]
		if s.Kind != rawprobe.Subject || r.Kind != rawprobe.ICMPError {
			continue
		}
		flow, _ := s.Translated()
		if r.From == s.Flow.Dst.Addr() || r.QuotedDst.IsValid() && r.QuotedDst != flow.Dst && r.QuotedDst != s.Flow.Dst {
			return false
		}
	}
	return true
}

// flows are the trials of the subject from other source ports.
type flows struct {
	n       int       // how many source ports were tried
	last    time.Time // when the last were
	again   bool      // they were tried once more
	stepped *sweep

	repeats   int       // how often the silent ones of an open port were asked again
	rounds    int       // of confirmation
	confirmed time.Time // when the last was sent
}

// otherFlows tries the subject from other source ports once it has been silent
// twice, and steps one that gets through. A few are tried whatever the others
// meet; more, until one gets through, where a device on the way is about to be
// blamed and the SYNs do not reach the host.
func (t *tracer) otherFlows() (wake time.Time, busy bool, err error) {
	f := &t.flows
	begin := t.first.Add(flowsAfter)
	if t.now.Before(begin) {
		return begin, true, nil
	}
	if f.n < t.opt.Flows {
		// All at once: they are few, or asked for.
		return t.sendFlows(t.opt.Flows - f.n)
	}
	settled := f.last.Add(max(minFlowPause, 2*t.o.MaxRTT()))
	port := t.passingFlow()
	stops, known := t.stops()
	switch {
	case port >= 0:
	case stops && f.n < FlowsForCertain && t.now.Before(settled):
		return settled, true, nil
	case stops && f.n < FlowsForCertain:
		return t.sendFlows(min(2, FlowsForCertain-f.n))
	case !stops && f.n < FlowsForCertain && t.now.Before(known):
		return known, true, nil
	case f.again || !stops || Loss(t.o) == 0:
	case t.now.Before(f.last.Add(pace)):
		return f.last.Add(pace), true, nil
	default:
		f.again = true
		for i := range f.n {
			if err := t.r.SendOther(i, rawprobe.DefaultTTL); err != nil {
				return wake, false, err
			}
		}
		f.last = t.now
		return settled, true, nil
	}
	if port < 0 {
		wait := hopPatience
		if f.n > t.opt.Flows {
			wait = flowPatience
		}
		end := f.last.Add(max(wait, 3*t.o.MaxRTT()))
		return end, t.now.Before(end), nil
	}
	if wake, busy, err := t.confirm(port); busy || err != nil {
		return wake, busy, err
	}
	return t.stepFlow(port)
}

// stepFlow sweeps one other flow up to the host.
func (t *tracer) stepFlow(i int) (wake time.Time, busy bool, err error) {
	f := &t.flows
	if f.stepped == nil {
		f.stepped = t.sweep("flow", func(ttl int) error { return t.r.SendOther(i, ttl) })
	}
	p := pending{wake: t.end()}
	depth, _ := t.depth()
	depth = min(depth, t.routers()+1) // the host may be nearer than it seems
	path := ReadFlow(t.o, t.flowPort(i))
	for ttl := 1; ttl < depth; ttl++ {
		if st := path.status(ttl, string(rawprobe.Subject)); st != Silent && st != NotSent {
			continue
		}
		wait := max(stepPatience, 3*t.o.MaxRTT())
		h := f.stepped.hops[ttl]
		switch {
		case h == nil:
			f.stepped.hops[ttl] = &asked{tries: 1, last: t.now}
			if err := f.stepped.send(ttl); err != nil {
				return t.now, false, err
			}
			p.add(t.now.Add(wait), true, nil)
		case t.now.Before(h.last.Add(wait)):
			p.add(h.last.Add(wait), true, nil)
		}
	}
	return p.wake, p.busy, p.err
}

// askedFlows repeats the probe of a port that answers from as many source ports
// as the caller asked for, those that are silent as often as it takes to call
// them so, and steps one of them: some ways there may be broken.
func (t *tracer) askedFlows() (wake time.Time, busy bool, err error) {
	f := &t.flows
	if f.n < t.opt.Flows {
		return t.sendFlows(t.opt.Flows - f.n)
	}
	silent := t.silentFlows()
	if len(silent) == 0 {
		return t.now, false, nil
	}
	if due := f.last.Add(pace); f.repeats < hopTries-1 {
		if t.now.Before(due) {
			return due, true, nil
		}
		for _, i := range silent {
			if err := t.r.SendOther(i, rawprobe.DefaultTTL); err != nil {
				return due, false, err
			}
		}
		f.repeats++
		f.last = t.now
	}
	if end := f.last.Add(max(flowsListen, 3*t.o.MaxRTT())); t.now.Before(end) {
		return end, true, nil
	}
	return t.stepFlow(silent[0])
}

// silentFlows are the other flows that nothing has come back for.
func (t *tracer) silentFlows() []int {
	answered := make(map[uint16]bool)
	for i := range t.o.Replies {
		r := &t.o.Replies[i]
		if s := &t.o.Sent[r.Probe]; s.Kind == rawprobe.OtherFlow && !s.Stepped() {
			answered[s.Flow.Src.Port()] = true
		}
	}
	var silent []int
	for i := range t.flows.n {
		if !answered[t.flowPort(i)] {
			silent = append(silent, i)
		}
	}
	return silent
}

// sendFlows tries n more source ports.
func (t *tracer) sendFlows(n int) (wake time.Time, busy bool, err error) {
	f := &t.flows
	for range n {
		if err := t.r.SendOther(f.n, rawprobe.DefaultTTL); err != nil {
			return wake, false, err
		}
		f.n++
	}
	f.last = t.now
	return t.now.Add(minFlowPause), true, nil
}

// confirm asks the subject and a flow that gets through again, in turns whose
// order alternates: a loss that follows a pattern must not look like a way that
// is broken.
func (t *tracer) confirm(flow int) (wake time.Time, busy bool, err error) {
	f := &t.flows
	due := f.confirmed.Add(max(stepPatience, 3*t.o.MaxRTT()))
	if t.now.Before(due) {
		return due, true, nil
	}
	if f.rounds == confirmRounds {
		return due, false, nil
	}
	ask := []func() error{
		func() error { return t.r.SendSubject(rawprobe.DefaultTTL) },
		func() error { return t.r.SendOther(flow, rawprobe.DefaultTTL) },
	}
	if f.rounds%2 == 1 {
		ask[0], ask[1] = ask[1], ask[0]
	}
	for _, send := range ask {
		if err := send(); err != nil {
			return wake, false, err
		}
	}
	f.rounds++
	f.confirmed = t.now
	return t.now.Add(stepPatience), true, nil
}

// passingFlow is the first other flow that the host answered, -1 while none is.
func (t *tracer) passingFlow() int {
	for i := range t.o.Replies {
		r := &t.o.Replies[i]
		s := &t.o.Sent[r.Probe]
		if s.Kind != rawprobe.OtherFlow || s.Stepped() || !byHost(t.o, s, r) {
			continue
		}
		for k := range t.r.OtherFlows() {
			if t.flowPort(k) == s.Flow.Src.Port() {
				return k
			}
		}
	}
	return -1
}

// flowPort is the source port of the i-th other flow.
func (t *tracer) flowPort(i int) uint16 {
	var ports []uint16
	for k := range t.o.Sent {
		s := &t.o.Sent[k]
		if s.Kind != rawprobe.OtherFlow {
			continue
		}
		port := s.Flow.Src.Port()
		known := false
		for _, p := range ports {
			known = known || p == port
		}
		if !known {
			ports = append(ports, port)
		}
	}
	if i < len(ports) {
		return ports[i]
	}
	return 0
}
