package rawprobe

import (
	"math"
	"net/netip"
	"time"
)

// The schedule of a run. All limits are plus round-trip times where there are
// any.
const (
	// defaultTries over at least 1.2 s make a silence, with a second of
	// listening after the last: less than routers and hosts need to get over
	// their limits of one ICMP message a second.
	defaultTries = 3
	tryInterval  = 600 * time.Millisecond
	listenAfter  = time.Second

	// Where echoes see loss, more tries follow until a silence by chance is
	// below maxChance. Eight are few enough not to look like an attack.
	lossInterval = 300 * time.Millisecond
	maxTries     = 8
	maxChance    = 1e-3

	// farPatience is how long nothing is concluded from silence: a router
	// that can't resolve the host says so after three solicitations a second
	// apart (net/core/neighbour.c, mcast_solicit and retrans_time). So does
	// one that forwards a port to a dead machine, while its own address
	// answers.
	farPatience = 3700 * time.Millisecond

	// Our own requests to the next hop: three in a second, and one more in
	// case some were lost.
	askInterval = 400 * time.Millisecond
	maxAsks     = 4
	askPatience = 1700 * time.Millisecond

	// refusedInterval parts the tries that this machine's own firewall
	// refuses: long enough for a full connection table to lose an entry.
	refusedInterval = 100 * time.Millisecond
	refusedTries    = 2

	// deliverPatience is how long after the tap a socket may get its copy.
	// Both come from one pass through the IP stack; only the scheduling of
	// this process lies between, or a verdict of a queue in user space.
	deliverPatience = 250 * time.Millisecond

	// After the subject's answer the echo's is awaited for a while, since
	// the two together say more.
	minGrace, maxGrace = 30 * time.Millisecond, 300 * time.Millisecond
	// Other source ports are tried where a device contradicts the host's echo:
	// first a few, and then, where none gets through, so many that of two ways
	// of equal weight they all take the broken one in less than one run in
	// 1,000.
	fewFlows, otherFlows = 2, 10
	minFlowGrace         = 100 * time.Millisecond

	// A router's "unreachable" weighs more or less by what the echo meets.
	unreachableGrace = 400 * time.Millisecond
)

// Direct is the plan that asks with full TTL only: the subject's SYN, an echo
// beside each, our own request to the next hop.
type Direct struct {
	// Brief says that nobody is left who may still report the host as
	// unreachable: the path shows that the host is there and no router
	// searches for it. Silence is then believed as soon as it may be.
	Brief bool

	r       *Run
	asks    int
	nextAsk time.Time
	tries   int
	nextTry time.Time
	first   time.Time // when the first subject left our hands
	last    time.Time

	flowsTried time.Time // when the other flows were sent
}

// NewDirect returns the plan for a run.
func NewDirect(r *Run) *Direct { return &Direct{r: r} }

// Step implements Plan.
func (d *Direct) Step(now time.Time) (time.Time, bool, error) {
	if d.first.IsZero() {
		d.first = now
	}
	wake, err := d.askNextHop(now)
	if err != nil {
		return wake, true, err
	}
	if d.needsNextHop() {
		until := d.first.Add(askPatience)
		return earliest(wake, until), !now.Before(until), nil
	}
	settled, until := d.settled(now)
	if settled {
		return until, true, nil
	}
	if a := d.r.conclusive(); a != nil && d.r.contradicted(a) && d.r.echoSettled() && d.wantsFlows(now) {
		n := fewFlows
		if len(d.r.others) > 0 {
			n = otherFlows - len(d.r.others)
		}
		d.flowsTried = now
		if err := d.r.tryOtherFlows(n); err != nil {
			return wake, true, err
		}
		_, until = d.settled(now)
	}
	if d.wantsTry(now) {
		if err := d.try(now); err != nil {
			return wake, true, err
		}
		if settled, until = d.settled(time.Now()); settled {
			return until, true, nil
		}
	}
	if d.mayTry(now) {
		wake = earliest(wake, d.nextTry)
	}
	return earliest(wake, until), false, nil
}

// askNextHop sends the next of our own requests where one is due.
func (d *Direct) askNextHop(now time.Time) (wake time.Time, err error) {
	r := d.r
	wake = now.Add(farPatience) // not for the next hop's sake
	if !r.obs.Machine.Interface.Resolves || r.obs.Machine.Route.Local || r.obs.NeighborAnswered() || d.asks == maxAsks {
		return wake, nil
	}
	if !now.Before(d.nextAsk) {
		d.asks++
		d.nextAsk = now.Add(askInterval)
		if err := r.ask(now); err != nil {
			return wake, err
		}
	}
	return earliest(wake, d.nextAsk), nil
}

// needsNextHop reports whether the subject has to wait for the link-layer
// address to which it must be sent past the IP stack. Without one it is not
// sent: the IP stack would take another way than the connection's.
func (d *Direct) needsNextHop() bool {
	m := &d.r.obs.Machine
	return d.tries == 0 && m.Route.ByPort && m.Interface.Resolves && !d.r.obs.NeighborAnswered()
}

// try sends the subject and an echo beside it. Their order alternates: a
// device that drops every n-th packet would otherwise always meet the same.
func (d *Direct) try(now time.Time) error {
	order := []*stream{d.r.subject, d.r.echo}
	if d.tries%2 == 1 {
		order[0], order[1] = order[1], order[0]
	}
	for _, st := range order {
		if err := d.r.send(st, DefaultTTL); err != nil {
			return err
		}
	}
	d.tries++
	// The waits are counted from when it was sent. That may be later than now,
	// on a busy machine, and a silence that is too short by a little is none.
	probes := d.r.subject.probes
	d.last = d.r.obs.Sent[probes[len(probes)-1]].Time
	switch {
	case d.r.refusedByFirewall():
		d.nextTry = d.last.Add(refusedInterval)
	case d.tries >= d.wanted():
		d.nextTry = d.last.Add(d.interval(lossInterval))
	default:
		d.nextTry = d.last.Add(d.interval(tryInterval))
	}
	return nil
}

// interval shortens the pauses where the caller does not want to wait.
func (d *Direct) interval(usual time.Duration) time.Duration {
	if t := d.r.opt.Timeout; t > 0 {
		return min(usual, t/time.Duration(d.wanted()+1))
	}
	return usual
}

// Wanted is how many subject SYNs of full TTL make a silence where no loss is
// seen.
func (d *Direct) Wanted() int { return d.wanted() }

func (d *Direct) wanted() int {
	if d.r.opt.Tries > 0 {
		return d.r.opt.Tries
	}
	return defaultTries
}

func (d *Direct) wantsTry(now time.Time) bool {
	return d.mayTry(now) && !now.Before(d.nextTry)
}

// mayTry reports whether another subject SYN would say more.
func (d *Direct) mayTry(now time.Time) bool {
	r := d.r
	switch a := r.conclusive(); {
	case d.tries == 0:
		return true
	case r.refusedByFirewall():
		return d.tries < refusedTries
	case a != nil && !a.Delivered:
		// An answer that no socket got is asked for again, to be sure.
		return d.tries < d.wanted() && !r.pending(now)
	case a != nil:
		// So is one that came from another distance than the echo's: a
		// difference that repeats is no accident of the way back.
		if d.tries < 2 && r.disputed(a) {
			d.nextTry = earliest(d.nextTry, a.seen.Add(minGrace))
			return true
		}
		return false
	case d.tries < d.wanted():
		return true
	}
	// Told how many tries to make, none is added.
	return r.opt.Tries == 0 && d.tries < maxTries && r.obs.SilenceByChance() > maxChance
}

// settled reports whether enough is known, else until when to wait for more.
func (d *Direct) settled(now time.Time) (bool, time.Time) {
	r := d.r
	var until time.Time
	switch a := r.conclusive(); {
	case d.tries == 0:
		return false, now
	case d.mayTry(now) && (a != nil || r.refusedByFirewall()):
		return false, d.nextTry
	case r.lastRefusal() != NotRefused && r.lastRefusal() != RefusedNoBuffer:
		until = d.last.Add(minGrace) // for what this machine answers on loopback
	case a == nil:
		until = d.silentUntil()
	case r.pending(now):
		until = a.seen.Add(deliverPatience)
		for i := range r.obs.Replies {
			until = latest(until, r.obs.Replies[i].seen.Add(deliverPatience))
		}
	case !a.Delivered, d.tries > 1 && r.disputed(a) && !r.answeredLast():
		// The answer to the last try is still to come.
		until = d.last.Add(deliverPatience + a.RTT)
	case !r.echoSettled():
		until = a.seen.Add(d.grace(a))
	case r.contradicted(a):
		if d.wantsFlows(now) {
			return false, now
		}
		if r.othersAnswered() {
			return true, now
		}
		until = d.flowsTried.Add(d.flowGrace())
	default:
		until = now
	}
	return !now.Before(until), until
}

// wantsFlows reports whether it is time to try other source ports.
func (d *Direct) wantsFlows(now time.Time) bool {
	r := d.r
	switch n := len(r.others); {
	case n == 0:
		return true
	case n >= otherFlows, r.othersPass():
		return false
	}
	return r.othersAnswered() || !now.Before(d.flowsTried.Add(d.flowGrace()))
}

// flowGrace is how long another flow's answer is waited for. Linux limits a
// router's errors, so that many get none.
func (d *Direct) flowGrace() time.Duration {
	return min(max(3*d.r.obs.MaxRTT(), minFlowGrace), listenAfter)
}

// silentUntil is when silence is believed.
func (d *Direct) silentUntil() time.Time {
	r := d.r
	if t := r.opt.Timeout; t > 0 {
		return d.first.Add(t)
	}
	rtt := r.obs.MaxRTT()
	end := d.last.Add(max(listenAfter, 3*rtt))
	switch {
	case len(r.obs.Asks) > 0 && !r.obs.Machine.Route.Local && !r.obs.NeighborAnswered() && len(r.obs.Replies) == 0:
		// The next hop is dead: nobody is left to wait for.
		return d.first.Add(askPatience)
	case !r.obs.Machine.Route.Local && !d.Brief:
		end = latest(end, d.first.Add(farPatience+rtt))
	}
	return end
}

// grace is how long the echo's answer is waited for after the subject's.
func (d *Direct) grace(a *Reply) time.Duration {
	g := min(max(2*a.RTT, minGrace), maxGrace)
	if a.Kind == ICMPError && a.unreachable() {
		g = max(g, unreachableGrace)
	}
	return g
}

// unreachable reports whether an error says that there is no way to the host,
// rather than that somebody does not want the packet.
func (r *Reply) unreachable() bool {
	m := r.Meaning()
	return m == SaysHostUnreachable || m == SaysNetworkUnreachable
}

// conclusive returns the first answer to the subject that ends the run: one
// that a socket got, else the first at all. An answer that this machine itself
// made about its own dead neighbour is not one: our own requests settle that.
func (r *Run) conclusive() *Reply {
	var first *Reply
	for i := range r.obs.Replies {
		a := &r.obs.Replies[i]
		if r.obs.Sent[a.Probe].Kind != Subject || a.Kind == OldAck || a.Kind == ICMPError && a.Meaning() == SaysNothing || r.aboutNeighbor(a) || r.expected(a) {
			continue
		}
		if a.Delivered {
			return a
		}
		if first == nil {
			first = a
		}
	}
	return first
}

// expected reports whether a probe that was meant to expire on the way did.
func (r *Run) expected(a *Reply) bool {
	return a.Kind == ICMPError && a.Meaning() == SaysExpired && r.obs.Sent[a.Probe].Stepped()
}

func (r *Run) aboutNeighbor(a *Reply) bool {
	return a.Kind == ICMPError && a.Loopback && a.unreachable() && !r.obs.Machine.Route.Local
}

// pending reports whether an answer of the subject's that only the tap has seen
// may still reach a socket. A bare ACK is no such answer: its delivery is not
// looked for.
func (r *Run) pending(now time.Time) bool {
	for i := range r.obs.Replies {
		a := &r.obs.Replies[i]
		if r.obs.Sent[a.Probe].Kind == Subject && a.Kind != OldAck && !a.Delivered && !r.expected(a) && now.Sub(a.seen) < deliverPatience {
			return true
		}
	}
	return false
}

// answeredLast reports whether the last full-TTL try has an answer of its own.
func (r *Run) answeredLast() bool {
	last := -1
	for _, i := range r.subject.probes {
		if !r.obs.Sent[i].Stepped() {
			last = i
		}
	}
	for i := range r.obs.Replies {
		if r.obs.Replies[i].Probe == last {
			return true
		}
	}
	return false
}

// disputed reports whether an answer in the host's name came from another
// distance than the host's echo reply, or much faster.
func (r *Run) disputed(a *Reply) bool {
	if a.Kind == ICMPError || r.obs.Machine.Route.Local {
		return false
	}
	for i := range r.obs.Replies {
		e := &r.obs.Replies[i]
		if e.Kind != EchoReply || r.obs.Sent[e.Probe].Stepped() {
			continue
		}
		if e.Distance() != a.Distance() || a.RTT > 0 && MuchFaster(a.RTT, e.RTT) {
			return true
		}
	}
	return false
}

// fasterBy is more than a host takes longer for an echo than for a segment.
const fasterBy = 10 * time.Millisecond

// MuchFaster reports whether an answer came so much sooner than the host's echo
// reply that the host can hardly have made it.
func MuchFaster(rtt, echo time.Duration) bool { return rtt < echo/4 && echo-rtt > fasterBy }

// contradicted reports whether a device on the way says that there is no way to
// a host that answers echoes: the device may be one of several that share the
// traffic by flow, and only one of them may have lost its route.
func (r *Run) contradicted(a *Reply) bool {
	if !a.unreachable() || a.From == r.subject.out.Dst.Addr() || a.From == r.subject.flow.Dst.Addr() {
		return false
	}
	for i := range r.obs.Replies {
		if r.obs.Replies[i].Kind == EchoReply {
			return true
		}
	}
	return false
}

// othersPass reports whether the host answered on another flow.
func (r *Run) othersPass() bool {
	for i := range r.obs.Replies {
		a := &r.obs.Replies[i]
		if r.obs.Sent[a.Probe].Kind == OtherFlow && (a.Kind == SynAck || a.Kind == Reset) {
			return true
		}
	}
	return false
}

// tryOtherFlows sends the subject's SYN from n more source ports.
func (r *Run) tryOtherFlows(n int) error {
	for range n {
		st, err := r.newFlow()
		if err != nil {
			return err
		}
		if err := r.send(st, DefaultTTL); err != nil {
			return err
		}
	}
	return nil
}

// newFlow opens another flow for the subject's SYN, from a source port of its
// own.
func (r *Run) newFlow() (*stream, error) {
	src, err := r.link.Hold(netip.AddrPortFrom(r.obs.Machine.Route.Source, 0))
	if err != nil {
		return nil, err
	}
	flow := Flow{Src: withoutZone(src), Dst: r.subject.flow.Dst}
	t, err := newSYN(OtherFlow, flow, r.isn, r.obs.Machine.Route.MTU)
	if err != nil {
		return nil, err
	}
	st := &stream{kind: OtherFlow, t: t, flow: flow, isn: r.isn, out: flow}
	r.streams = append(r.streams, st)
	r.others = append(r.others, st)
	return st, nil
}

// othersAnswered reports whether every other flow has met its fate.
func (r *Run) othersAnswered() bool {
	answered := make(map[netip.AddrPort]bool)
	for i := range r.obs.Replies {
		if s := &r.obs.Sent[r.obs.Replies[i].Probe]; s.Kind == OtherFlow {
			answered[s.Flow.Src] = true
		}
	}
	return len(answered) == len(r.others)
}

func (r *Run) refusedByFirewall() bool { return r.lastRefusal() == RefusedByFirewall }

// lastRefusal is what the kernel said to the last subject SYN of full TTL.
func (r *Run) lastRefusal() Refusal {
	why := NotRefused
	for _, i := range r.subject.probes {
		if !r.obs.Sent[i].Stepped() {
			why = r.obs.Sent[i].Refused
		}
	}
	return why
}

// echoSettled reports whether an echo of full TTL has met its fate.
func (r *Run) echoSettled() bool {
	for i := range r.obs.Replies {
		if s := &r.obs.Sent[r.obs.Replies[i].Probe]; s.Kind == Echo && !s.Stepped() {
			return true
		}
	}
	return false
}

// SilenceByChance is the probability that every subject SYN, or its answer,
// was lost by the loss that the echoes saw. Without an echo that was answered
// it is 0: then nothing is known about loss.
func (o *Observations) SilenceByChance() float64 {
	var subjects int
	answered := make(map[int]bool)
	for i := range o.Replies {
		r := &o.Replies[i]
		if r.Kind == EchoReply && r.Probe >= 0 && r.Probe < len(o.Sent) && !o.Sent[r.Probe].Stepped() {
			answered[r.Probe] = true
		}
	}
	if len(answered) == 0 {
		return 0
	}
	patience := max(3*o.MaxRTT(), minGrace)
	echoes := 0
	for i := range o.Sent {
		switch s := &o.Sent[i]; {
		case s.Refused != NotRefused, s.Stepped():
		case s.Kind == Subject:
			subjects++
		case s.Kind == Echo && (answered[i] || o.End.Sub(s.Time) > patience):
			echoes++ // one that was sent just now may still be answered
		}
	}
	if subjects == 0 || echoes == 0 {
		return 0
	}
	loss := max(0, 1-float64(len(answered))/float64(echoes))
	return math.Pow(loss, float64(subjects))
}

// longestRTT is what a round trip takes at most: five times that by way of a
// satellite and back, with a line full of queues. Somebody who holds answers
// back must not make us wait for ever.
const longestRTT = 10 * time.Second

// MaxRTT is the longest round trip seen, and 10 seconds at most. What a router
// says after it has searched for the host, or the host after it has waited for a
// fragment, took its time elsewhere; and a SYN-ACK may be the host's second, a
// second after one that was lost, so that it counts only where nothing else does.
func (o *Observations) MaxRTT() time.Duration {
	var rtt, synAck time.Duration
	for i := range o.Replies {
		switch r := &o.Replies[i]; {
		case r.Probe < 0 || r.Probe >= len(o.Sent): // a record from elsewhere
		case r.Kind == SynAck:
			synAck = max(synAck, r.RTT)
		case r.Meaning() == SaysExpired && !o.Sent[r.Probe].Stepped(): // it went round
		case r.Meaning() != SaysHostUnreachable && o.Sent[r.Probe].Kind != Fragment:
			rtt = max(rtt, r.RTT)
		}
	}
	if rtt == 0 {
		rtt = synAck
	}
	return min(rtt, longestRTT)
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
