package batch

import (
	"context"
	"net/netip"
	"time"

	"synprobe/rawprobe"
)

// A link carries the probes of an engine: the one seam to the operating system.
// All of its methods are called from one goroutine.
type link interface {
	// send hands over probes in order, and returns how many were taken. Where
	// that is not all, refused says why the next one was not.
	send(probes []probe) (n int, refused rawprobe.Refusal)
	// receive calls f for each answer that has come in, and returns when there
	// is none left. The answer is good until f returns.
	receive(f func(*answer))
	// wait returns when something may have come in, or after d.
	wait(d time.Duration)
	// counts returns how many packets passed the filter since the start, and
	// how many of them were lost since the buffer was full.
	counts() (received, drops uint64)
	// dead reports whether the next hop to an address answered no request.
	dead(to addr) bool
	// alive says that something came back from beyond that next hop.
	alive(to addr)
	// check returns why the run has to end, if it has.
	check() error
}

// refusedNoNeighbor is a link's own reason not to send: the next hop is known
// to be dead.
const refusedNoNeighbor rawprobe.Refusal = "no-neighbor"

// Other reasons of a link's own: the target can't be probed as it was asked for.
const (
	refusedBroadcast   rawprobe.Refusal = "broadcast"
	refusedLoopback    rawprobe.Refusal = "loopback"
	refusedNotLoopback rawprobe.Refusal = "not-loopback"
	refusedByPort      rawprobe.Refusal = "by-port"
)

// unfit is what these are in a result.
var unfit = map[rawprobe.Refusal]error{
	refusedBroadcast:   rawprobe.ErrBroadcast,
	refusedLoopback:    rawprobe.ErrLoopback,
	refusedNotLoopback: rawprobe.ErrNotLoopback,
	refusedByPort:      ErrByPort,
}

// A probe is one packet to be sent: a SYN, or an echo request where tag is
// echoTag.
type probe struct {
	to    addr
	tag   uint32 // the port, or echoTag
	seq   uint32 // the ISN, or the cookie of an echo
	label uint32 // the IPv6 flow label
	slot  uint32
}

// An answer is what came back, in the target's terms. The engine decides
// whether it is one of ours.
type answer struct {
	kind       rawprobe.ReplyKind
	to         addr   // where the probe went that it is about
	port       uint16 // likewise
	seq        uint32 // the ISN that it acknowledges or quotes, or an echo's cookie
	from       addr   // who sent it
	ttl        uint8
	typ, code  uint8 // of an ICMP error
	local      bool  // this machine itself made it
	receivedAt int64 // the kernel's stamp, in nanoseconds of the wall clock
}

const (
	// interval is the time between two SYNs to a target, or more. A second is
	// TCP's own (RFC 6298, section 2.1); three tries within 1.2 seconds let a
	// router's limit on ICMP refill once (field: icmp_ratelimit).
	interval = 600 * time.Millisecond
	// silence is how long a target's first SYN is waited for at least, unless
	// the caller says how long: a router that can't reach a host by ARP says so
	// after 3 seconds (net/ipv4/arp.c, three solicitations a second apart).
	silence = 3500 * time.Millisecond
	// hold is how long a silence is held back further while the run goes on and
	// there is room, since what has been told can't be taken back.
	hold = 5 * time.Second

	// burst is the most packets that are handed over at once.
	burst = 64
	// quantum is the time whose packets are sent at once where the rate is
	// limited: waking up costs as much as some packets.
	quantum = time.Millisecond
	// credit bounds what is made up for after the machine has stalled.
	credit = 10 * time.Millisecond

	// window is how many targets may be in flight or held back: at 600,000
	// packets a second three seconds' worth. Each takes five bytes.
	window = 1 << 21
	// maxEchoes is the largest number of addresses of which it is remembered
	// whether they answered an echo, a byte for each.
	maxEchoes = 1 << 24

	// silences is how many targets are passed between two looks at what came
	// in.
	silences = 1 << 10
	// respite is the first pause where the kernel is out of buffers, which
	// doubles with each further one: at full rate sixty packets' time.
	respite = 100 * time.Microsecond
	// starving is how long the kernel may be out of buffers for one packet. Where
	// that packet alone was not taken it is a filter behind the IP stack that
	// refuses (NF_DROP in egress, TC_ACT_SHOT): the next one like it gets half the
	// time, down to hasty, and not less than many times what a full queue took.
	starving = 10 * time.Second
	hasty    = 10 * time.Millisecond
	// reporting is the time between two calls of Config.Progress.
	reporting = 100 * time.Millisecond
)

// A slot's state: how often its SYN was sent, and what else is known of it.
const (
	slotTries = 0x1f
	slotReset = 0x20 // this machine's own firewall refused it by a reset
	slotICMP  = 0x40 // or by an ICMP error
	slotDone  = 0x80 // it has its result
	maxTries  = slotTries
)

// An engine is one run. Positions are those of this shard's part of the order.
//
// Several cursors walk the same order: the first sends the first SYN of each
// target, the next the second where it is silent, and so on; the last tells
// which targets stay silent. What is between the first and the last is in the
// window.
type engine struct {
	link  link
	space *Space
	order order
	key   secret
	emit  func(*Result)
	note  func(Progress)

	tries        int
	wait         time.Duration
	shard, every uint64 // position p of this shard is number p*every+shard of the order

	end     uint64   // positions
	from    uint64   // where the run began
	cursors []uint64 // one for each try: the next position to send to
	final   uint64   // all before have their result

	mask  uint64
	state []uint8
	last  []uint32 // when its last SYN was sent, in microseconds of the engine's clock
	echo  []uint8  // by address: echoNone, echoAsked, or the TTL of the answer

	start    time.Time
	lastSent time.Time
	pending  []probe       // not taken yet
	tags     []uint8       // of pending: the try, or 0 for an echo
	stuck    time.Time     // since when nothing was taken; zero if the last packet was
	pause    time.Duration // the last one, of the first pending packet; 0 for none
	patient  time.Duration // how long that packet may wait

	rate      float64 // packets a second; 0 is no limit
	limit     float64 // a further limit after drops; 0 is none
	tooFast   float64 // the rate at which answers were lost
	tokens    float64
	refill    time.Time
	sent      uint64
	emitted   uint64
	drops     uint64
	unmatched uint64
	lastLog   struct {
		at   time.Time
		sent uint64
	}
	result Result
}

const (
	echoNone  = 0
	echoAsked = 1
)

func newEngine(s *Space, cfg Config, l link, emit func(*Result)) *engine {
	e := &engine{
		link: l, space: s, emit: emit, note: cfg.Progress,
		order: newOrder(s.Len(), cfg.Seed),
		tries: cfg.Tries, wait: cfg.Wait, rate: float64(max(cfg.Rate, 0)), every: 1,
		pending: make([]probe, 0, 2*burst), tags: make([]uint8, 0, 2*burst), patient: starving,
	}
	if e.tries <= 0 {
		e.tries = 3
	}
	e.tries = min(e.tries, maxTries)
	if e.wait <= 0 {
		e.wait = max(time.Second, silence-time.Duration(e.tries-1)*interval)
	}
	if cfg.Shards > 1 {
		e.shard, e.every = uint64(cfg.Shard-1), uint64(cfg.Shards)
	}
	e.end = s.Part(cfg.Shard, cfg.Shards)
	e.from = min(cfg.Position, e.end)
	e.final = e.from
	e.cursors = make([]uint64, e.tries)
	for i := range e.cursors {
		e.cursors[i] = e.from
	}
	size := uint64(burst)
	for size < window && size < e.end-e.from {
		size *= 2
	}
	e.mask = size - 1
	e.state, e.last = allocate(size), allocate32(size)
	if hosts := s.Hosts(); !cfg.NoEcho && hosts <= maxEchoes {
		e.echo = allocate(hosts)
	}
	return e
}

// free gives the memory back.
func (e *engine) free() {
	release(e.state)
	release32(e.last)
	release(e.echo)
	e.state, e.last, e.echo = nil, nil, nil
}

// share is how many of n numbers are shard modulo every.
func share(n, shard, every uint64) uint64 {
	if n <= shard {
		return 0
	}
	return (n-shard-1)/every + 1
}

// run goes on until every target has its result, or, once ctx has ended, every
// target that was asked.
func (e *engine) run(ctx context.Context) (Progress, error) {
	defer e.free()
	e.start = time.Now()
	e.lastSent, e.refill, e.lastLog.at = e.start, e.start, e.start
	var failed error
	for {
		now := time.Now()
		e.link.receive(e.answered)
		if ctx.Err() != nil {
			e.stop()
		}
		e.finish(now)
		if e.final == e.end {
			break
		}
		if now.Sub(e.lastLog.at) >= reporting {
			if err := e.link.check(); err != nil && failed == nil {
				failed = err
				e.stop()
			}
			e.adapt(now)
			if e.note != nil {
				e.note(e.progress())
			}
		}
		d := e.allowed(now)
		if d <= 0 {
			d = e.fill(now)
		}
		if d <= 0 {
			d = e.flush(now)
		}
		if d > 0 {
			e.link.wait(min(d, reporting))
		}
	}
	p := e.progress()
	if e.note != nil {
		e.note(p)
	}
	return p, failed
}

// stop gives up what was not asked yet. What was gets the rest of its tries:
// one SYN's silence proves little.
func (e *engine) stop() { e.end = e.cursors[0] }

// clock is the engine's time in microseconds. It wraps after 71 minutes, and
// tells shorter times than that.
func (e *engine) clock(t time.Time) uint32 { return uint32(t.Sub(e.start) / time.Microsecond) }

// age is how long ago a slot's last SYN was.
func (e *engine) age(now uint32, slot uint64) time.Duration {
	return time.Duration(now-e.last[slot]) * time.Microsecond
}

// target returns the target at a position.
func (e *engine) target(p uint64) (addr, uint16) {
	return e.space.at(e.order.at(p*e.every + e.shard))
}

// allowed returns how long to wait until the rate allows the next packets, and
// 0 where it does now.
func (e *engine) allowed(now time.Time) time.Duration {
	rate := e.pace()
	if rate == 0 {
		e.tokens, e.refill = 0, now
		return 0
	}
	if now.After(e.refill) {
		e.tokens += rate * now.Sub(e.refill).Seconds()
		e.refill = now
	}
	want := wanted(rate)
	e.tokens = min(e.tokens, max(want, rate*credit.Seconds()))
	if e.tokens >= want {
		return 0
	}
	return max(time.Duration((want-e.tokens)/rate*float64(time.Second)), time.Microsecond)
}

// wanted is how many packets are worth a wake.
func wanted(rate float64) float64 { return min(max(1, rate*quantum.Seconds()), burst) }

// pace is the rate in force, 0 for no limit.
func (e *engine) pace() float64 {
	if e.limit > 0 && (e.rate == 0 || e.limit < e.rate) {
		return e.limit
	}
	return e.rate
}

// adapt slows down where answers were lost because they came faster than they
// were read, and becomes faster again as long as none are.
func (e *engine) adapt(now time.Time) {
	_, drops := e.link.counts()
	reached := float64(e.sent-e.lastLog.sent) / now.Sub(e.lastLog.at).Seconds()
	switch {
	case drops > e.drops:
		e.tooFast = max(reached, 1000)
		e.limit = e.tooFast / 2
	case e.limit > 0:
		if e.limit *= 1.05; e.limit > 2*e.tooFast {
			e.limit = 0
		}
	}
	e.drops = drops
	e.lastLog.at, e.lastLog.sent = now, e.sent
}

// fill chooses what to send next, the latest tries first: so targets leave the
// window as soon as they can. It returns how long there is nothing to send.
func (e *engine) fill(now time.Time) time.Duration {
	if len(e.pending) > 0 {
		return 0
	}
	room := burst
	if e.pace() > 0 {
		room = min(room, int(e.tokens))
	}
	clock := e.clock(now)
	idle := time.Duration(1<<63 - 1)
	for i := e.tries - 1; i > 0; i-- {
		for e.cursors[i] < e.cursors[i-1] && len(e.pending) < room {
			slot := e.cursors[i] & e.mask
			if e.state[slot]&slotDone == 0 {
				if due := interval - e.age(clock, slot); due > 0 {
					idle = min(idle, due)
					break
				}
				e.add(e.cursors[i], slot, i+1)
			}
			e.cursors[i]++
		}
	}
	for len(e.pending) < room && e.cursors[0] < e.end && e.cursors[0]-e.final <= e.mask {
		slot := e.cursors[0] & e.mask
		e.state[slot] = 0
		e.add(e.cursors[0], slot, 1)
		e.cursors[0]++
	}
	if len(e.pending) > 0 {
		return 0
	}
	// What was not sent since there was nothing to send is not made up for.
	e.tokens = min(e.tokens, wanted(e.pace()))
	return min(idle, e.untilSilent(now))
}

// add queues a target's SYN, and beside the second the host's echo: of hosts
// that answer the first, none is asked for.
func (e *engine) add(p, slot uint64, try int) {
	to, port := e.target(p)
	h := e.key.of(to, uint32(port))
	e.pending = append(e.pending, probe{to: to, tag: uint32(port), seq: uint32(h), label: flowLabel(h), slot: uint32(slot)})
	e.tags = append(e.tags, uint8(try))
	if e.echo == nil || try != min(2, e.tries) {
		return
	}
	if host, ok := e.space.host(to); ok && e.echo[host] == echoNone {
		e.echo[host] = echoAsked
		e.pending = append(e.pending, e.echoTo(to))
		e.tags = append(e.tags, 0)
	}
}

func (e *engine) echoTo(to addr) probe {
	h := e.key.of(to, echoTag)
	return probe{to: to, tag: echoTag, seq: uint32(h), label: flowLabel(h)}
}

// flowLabel is a flow's own label, never 0, which means none (RFC 6437).
func flowLabel(hash uint64) uint32 { return uint32(hash>>32)&0xfffff | 1 }

// flush hands over what is pending. It returns how long to wait before the
// rest is tried again.
func (e *engine) flush(now time.Time) time.Duration {
	for len(e.pending) > 0 {
		before := time.Now()
		n, refused := e.link.send(e.pending)
		if n > 0 {
			if e.pause > 0 {
				// The queue was full, and is no more.
				e.patient = min(starving, max(e.patient, 16*now.Sub(e.stuck)))
			}
			e.stuck, e.pause = time.Time{}, 0
			e.taken(n, before)
		}
		switch {
		case len(e.pending) == 0 || refused == rawprobe.NotRefused:
			continue
		case refused == rawprobe.RefusedNoBuffer && e.stuck.IsZero():
			e.stuck, e.pause = now, respite
			return e.pause
		case refused == rawprobe.RefusedNoBuffer && now.Sub(e.stuck) < e.patient:
			e.pause = min(2*e.pause, 50*time.Millisecond)
			return e.pause
		case refused == rawprobe.RefusedNoBuffer && e.pause > 0:
			e.patient, e.pause = max(e.patient/2, hasty), 0
		}
		e.refused(refused, before)
	}
	return 0
}

// taken records that the first n pending packets have left, no earlier than
// at a time.
func (e *engine) taken(n int, at time.Time) {
	clock := e.clock(at)
	for k := range n {
		if try := e.tags[k]; try > 0 {
			slot := e.pending[k].slot
			e.last[slot] = clock
			e.state[slot]++
		}
	}
	e.sent += uint64(n)
	e.tokens -= float64(n)
	e.lastSent = at
	e.drop(n)
}

// drop removes the first n pending packets.
func (e *engine) drop(n int) {
	e.pending = e.pending[:copy(e.pending, e.pending[n:])]
	e.tags = e.tags[:copy(e.tags, e.tags[n:])]
}

// refused deals with the first pending packet, which can't be sent.
func (e *engine) refused(why rawprobe.Refusal, now time.Time) {
	p, try := e.pending[0], int(e.tags[0])
	e.drop(1)
	e.tokens--
	if try == 0 {
		return
	}
	s := &e.state[p.slot]
	e.last[p.slot] = e.clock(now)
	e.lastSent = now
	switch {
	case *s&slotTries > 0:
		return // it was asked before, and may yet answer
	case why == rawprobe.RefusedByFirewall:
		// The rule may have a limit, so the other tries come too; and whether it
		// rejects or drops is still to be seen.
		return
	}
	*s |= slotDone
	e.tell(p.to, uint16(p.tag), 0)
	switch err := unfit[why]; {
	case err != nil:
		e.result.Err = err
	case why == refusedNoNeighbor:
		e.result.NoNeighbor = true
	default:
		e.result.Refused = why
	}
	e.emitResult()
}

// answered takes in one answer. It is believed if it carries the number that
// only whoever saw our SYN can know, and if the target was asked.
func (e *engine) answered(a *answer) {
	if a.kind == rawprobe.EchoReply {
		if e.echo == nil || a.seq != uint32(e.key.of(a.to, echoTag)) {
			return
		}
		if host, ok := e.space.host(a.to); ok && e.echo[host] == echoAsked {
			e.echo[host] = max(a.ttl, echoAsked+1)
			e.link.alive(a.to)
		}
		return
	}
	i, ok := e.space.index(a.to, a.port)
	if !ok || a.seq != uint32(e.key.of(a.to, uint32(a.port))) {
		e.unmatched++
		return
	}
	p := e.order.position(i)
	if p%e.every != e.shard {
		return
	}
	p /= e.every
	if p < e.final || p >= e.cursors[0] {
		return
	}
	slot := p & e.mask
	s := e.state[slot]
	switch {
	case s&slotDone != 0:
		return // told already
	case s&slotTries > 0:
	case a.kind == rawprobe.Reset:
		e.state[slot] |= slotReset
		return // nothing has left: it is this machine's own firewall that speaks
	case a.kind == rawprobe.ICMPError:
		e.state[slot] |= slotICMP
		return
	default:
		return
	}
	e.state[slot] |= slotDone
	if !a.local {
		e.link.alive(a.to)
	}
	e.tell(a.to, a.port, int(s&slotTries))
	r := &e.result
	r.Kind, r.From, r.TTL, r.Type, r.Code = a.kind, a.from.netip(), int(a.ttl), int(a.typ), int(a.code)
	// "host unreachable" of this machine's own says that ARP, or neighbour
	// discovery, got no answer on the link (net/ipv4/arp.c, arp_error_report;
	// net/ipv6/ndisc.c, ndisc_error_report).
	r.NoNeighbor = a.local && a.kind == rawprobe.ICMPError && (a.to.is4() && a.typ == 3 && a.code == 1 || !a.to.is4() && a.typ == 1 && a.code == 3)
	if r.Tries == 1 {
		// With two SYNs out, the answer does not say which it is for.
		since := a.receivedAt - e.start.UnixNano()
		rtt := int32(uint32(since/int64(time.Microsecond)) - e.last[slot])
		r.RTT = max(0, time.Duration(rtt)*time.Microsecond+time.Duration(since)%time.Microsecond)
	}
	e.emitResult()
}

// tell begins the result of a target.
func (e *engine) tell(to addr, port uint16, tries int) {
	e.result = Result{Target: netip.AddrPortFrom(to.netip(), port), Tries: tries}
	if e.echo == nil {
		return
	}
	if host, ok := e.space.host(to); ok && e.echo[host] > echoAsked {
		e.result.EchoAnswered, e.result.EchoTTL = true, int(e.echo[host])
	}
}

func (e *engine) emitResult() {
	e.emitted++
	e.emit(&e.result)
}

// settled reports whether nothing more will be sent and the time to answer is
// over.
func (e *engine) settled(now time.Time) bool {
	return len(e.pending) == 0 && e.cursors[e.tries-1] == e.end && now.Sub(e.lastSent) >= e.wait
}

// patience is how long a silence is waited for after the last SYN: longer than
// it must be where there is room to hold it back, for a late answer to correct
// it.
func (e *engine) patience() time.Duration {
	if e.cursors[0]-e.final > e.mask-e.mask/8 {
		return e.wait
	}
	return e.wait + hold
}

// finish moves the last cursor on, and tells which targets are silent: some of
// them, since answers may come in meanwhile, and whoever is told may be slow.
func (e *engine) finish(now time.Time) {
	all := e.settled(now)
	// What is pending was counted as asked.
	limit := e.cursors[e.tries-1]
	if len(e.pending) > 0 {
		return
	}
	clock := e.clock(now)
	for n := 0; e.final < limit && n < silences; n++ {
		slot := e.final & e.mask
		if s := e.state[slot]; s&slotDone == 0 {
			if !all && e.age(clock, slot) < e.patience() {
				return
			}
			e.state[slot] |= slotDone
			to, port := e.target(e.final)
			e.tell(to, port, int(s&slotTries))
			switch {
			case s&slotTries > 0:
				e.result.NoNeighbor = e.link.dead(to)
			case s&slotReset != 0:
				e.result.Refused, e.result.Kind = rawprobe.RefusedByFirewall, rawprobe.Reset
			case s&slotICMP != 0:
				e.result.Refused, e.result.Kind = rawprobe.RefusedByFirewall, rawprobe.ICMPError
			default:
				e.result.Refused = rawprobe.RefusedByFirewall
			}
			e.emitResult()
		}
		e.final++
	}
}

// untilSilent is how long it takes until finish has something to do; it may be
// over.
func (e *engine) untilSilent(now time.Time) time.Duration {
	switch e.cursors[e.tries-1] {
	case e.end:
		return e.wait - now.Sub(e.lastSent)
	case e.final:
		return reporting // others are before it
	}
	return e.patience() - e.age(e.clock(now), e.final&e.mask)
}

// progress is how far the run is.
func (e *engine) progress() Progress {
	received, drops := e.link.counts()
	targets := share(e.space.Len(), e.shard, e.every)
	return Progress{
		Targets: targets, Done: e.from + e.emitted, Position: e.final,
		Sent: e.sent, Received: received, Drops: drops, Unmatched: e.unmatched,
		Elapsed: time.Since(e.start), Finished: e.final == targets,
	}
}
