// Package traceroute finds out where packets stop. It repeats a run's subject,
// the SYN asked about, with rising TTLs, and controls beside it: where routers
// say that the subject expired and where controls get through tells between
// which two hops it is lost.
//
// It is a plan for a run of package rawprobe, and a reading of what the run
// observed. What the reading means is for package diagnose to say.
package traceroute

import (
	"context"
	"net/netip"
	"time"

	"synprobe/rawprobe"
)

// Mode says when the path is traced.
type Mode string

// The modes.
const (
	// Auto traces what is not a plain answer from the host. It is the meaning
	// of the zero value, too.
	Auto   Mode = "auto"
	Always Mode = "always"
	// Never sends no TTL-limited packet at all.
	Never Mode = "never"
)

// The bounds of MaxHops.
const (
	DefaultMaxHops = 30
	MaxHops        = 64
)

// Options shape a trace. The zero value asks for the defaults.
type Options struct {
	Mode Mode
	// MaxHops is the greatest TTL that is stepped to; 0 means DefaultMaxHops.
	MaxHops int
	// Flows is from how many source ports the port is tried beside the
	// subject's, answered or not; 0 means 2, and only where it is silent.
	Flows int

	askedFlows bool // Flows was not 0
	// ControlPorts are ports of the host to try beside the usual ones.
	ControlPorts []uint16
	// Prove waits 30 to 35 seconds for a proof that silent SYNs arrive, in IPv4.
	Prove bool
	// Waiting, where not nil, is told what the trace only waits for, and until
	// when at most.
	Waiting func(what string, until time.Time)
}

// Observe finds out what happens to a SYN from this machine to target and, where
// the host does not plainly answer, where it stops.
func Observe(ctx context.Context, link rawprobe.Link, target netip.AddrPort, opt rawprobe.Options, trace Options) (*rawprobe.Observations, error) {
	if trace.Mode == Never {
		return rawprobe.Observe(ctx, link, target, opt)
	}
	if trace.MaxHops == 0 {
		trace.MaxHops = DefaultMaxHops
	}
	// A probe with full TTL is the last step.
	trace.MaxHops = min(trace.MaxHops, rawprobe.DefaultTTL-1)
	trace.askedFlows = trace.Flows > 0
	if trace.Flows == 0 {
		trace.Flows = defaultFlows
	}
	return rawprobe.ObserveWith(ctx, link, target, opt, func(r *rawprobe.Run) rawprobe.Plan {
		return &tracer{r: r, o: r.Observations(), opt: trace, limit: opt.Timeout, direct: rawprobe.NewDirect(r)}
	})
}

// The pace of a trace.
const (
	// quiet is how long the subject must have been silent before its path is
	// traced, where the host's echo shows how fast answers can be.
	quiet = 100 * time.Millisecond
	// quietBlind is the same where nothing has answered yet.
	quietBlind = 250 * time.Millisecond

	// quietLongest leaves time to trace on a path of any length.
	quietLongest = 2 * time.Second

	// pace parts the tries for one TTL. Linux limits errors to a burst of 6
	// and one a second for each peer, IOS to one in 500 ms: with two kinds of
	// probe for each TTL and this pace no router has to be silent.
	pace     = 600 * time.Millisecond
	hopTries = 3
	// lossyPace and lossyTries serve where packets are seen to get lost.
	lossyPace  = 300 * time.Millisecond
	lossyTries = 6
	// claimTries is how often the subject is sent to a hop that answers others:
	// at a loss that a dozen answers would not have shown, five in a row are
	// lost in one run in 1,000.
	claimTries = 5
	// hopBudget is how many probes of all kinds one TTL gets.
	hopBudget = 12

	// hopPatience is how long a hop is waited for after its last try.
	hopPatience = 700 * time.Millisecond
	// stepPatience is the same where one probe at a time is in flight.
	stepPatience = 150 * time.Millisecond
	stepTries    = 2

	// gap is how many silent hops in a row are stepped over while the host's
	// depth is unknown.
	gap = 4

	// flowsListen is how long the last try of another flow is listened for.
	flowsListen = time.Second

	defaultFlows = 2
	flowsAfter   = 650 * time.Millisecond // after the second silent try
	// FlowsForCertain is how many other source ports must meet the subject's
	// fate before a single broken way is ruled out: of two ways of equal
	// weight they all take the broken one in less than one run in 1,000.
	FlowsForCertain = 10
	minFlowPause    = 40 * time.Millisecond
	// flowPatience is how long the last of those is waited for: they come late,
	// and the first two have had a round trip and hopPatience by then.
	flowPatience = 400 * time.Millisecond
	// confirmRounds keep the subject SYNs that reach the host at six: three
	// direct tries, these, and one stepped to the host's own hop.
	confirmRounds = 2

	// longest is the end of a trace, plus round trips where there are any: its
	// three rounds, and the last word.
	longest    = 4300 * time.Millisecond
	roundTrips = 4
)

// commonPorts are the ports where hosts most often answer. Two of them that
// are not the subject's are tried, and one where nobody listens.
var commonPorts = []uint16{443, 80, 22}

const unlikelyPort = 40125

// tracer is the plan: the direct questions, and the path.
type tracer struct {
	r      *rawprobe.Run
	o      *rawprobe.Observations
	opt    Options
	direct *rawprobe.Direct

	limit time.Duration // what the caller wants to wait at most; 0 for no wish
	first time.Time     // when the run began
	begun time.Time     // when the trace began; zero while it has not
	now   time.Time

	sweeps map[string]*sweep

	answered  bool // the direct questions have their answer: the path only adds to it
	askedHost int  // how often the host was asked other things
	path      Path
	read      int // of how many packets the path was read
	flows     flows
	who       who
	proof     proof
}

// Step implements rawprobe.Plan.
func (t *tracer) Step(now time.Time) (time.Time, bool, error) {
	t.now = now
	if t.first.IsZero() {
		t.first = now
	}
	wake, done, err := t.direct.Step(now)
	if err != nil {
		return wake, true, err
	}
	if t.begun.IsZero() {
		begin, ever := t.beginAt(done)
		if !ever {
			return wake, done, nil
		}
		if begin.After(now) {
			return earlier(wake, begin), false, nil
		}
		t.begun = now
		t.sweeps = make(map[string]*sweep)
	}
	next, busy, err := t.trace()
	if err != nil {
		return wake, true, err
	}
	t.direct.Brief = t.brief()
	if !busy && done {
		return t.prove()
	}
	if !busy {
		// What the path has shown may end the wait.
		if wake, done, err = t.direct.Step(now); err != nil {
			return wake, true, err
		}
		if done {
			return t.prove()
		}
		return wake, false, nil
	}
	if end := t.end(); !now.Before(end) {
		return t.prove()
	}
	if done {
		return next, false, nil
	}
	return earlier(wake, next), false, nil
}

// beginAt is when the trace begins, and whether it may at all.
func (t *tracer) beginAt(done bool) (time.Time, bool) {
	m := &t.o.Machine
	if m.Route.Local || !t.sent() {
		return time.Time{}, false
	}
	if a := t.r.Conclusive(); a != nil {
		switch {
		case !a.Delivered || a.Loopback:
			// This machine's own doing.
			return time.Time{}, false
		case t.opt.Mode != Always && !t.opt.askedFlows && t.plain(a) && !t.wantsLook(a):
			return time.Time{}, false
		case !done:
			// The direct questions come to an end first.
			return t.now.Add(time.Hour), true
		}
		t.answered = true
		return t.now, true
	}
	if done || m.Interface.Resolves && !t.o.NeighborAnswered() && len(t.o.Replies) == 0 {
		return t.now.Add(time.Hour), !done
	}
	if e := t.echo(); e != nil {
		return t.first.Add(min(max(quiet, 4*e.RTT), quietLongest)), true
	}
	return t.first.Add(quietBlind), true
}

// end is when the trace ends, whatever is still to be found out.
func (t *tracer) end() time.Time {
	if t.limit > 0 {
		return t.first.Add(t.limit)
	}
	return t.first.Add(longest + roundTrips*t.o.MaxRTT())
}

// sent reports whether a subject SYN left this machine.
func (t *tracer) sent() bool {
	for i := range t.o.Sent {
		if s := &t.o.Sent[i]; s.Kind == rawprobe.Subject && s.Refused == rawprobe.NotRefused {
			return true
		}
	}
	return false
}

// plain reports whether an answer is one that needs no path: the host's own, as
// far as its echo can show.
func (t *tracer) plain(a *rawprobe.Reply) bool {
	// A tunnel has no gateway either, but routers behind it.
	onLink := !t.o.Machine.Route.Gateway.IsValid() && t.o.Machine.Interface.Resolves
	if a.Kind == rawprobe.ICMPError {
		return a.From == t.o.Target.Addr().WithZone("") && a.Meaning() == rawprobe.SaysRefused || onLink
	}
	if onLink && a.Distance() == 0 || t.own(a) {
		return true
	}
	e := t.echo()
	return e != nil && e.Distance() == a.Distance() && !(a.Kind == rawprobe.SynAck && a.Window == 0 && a.Options == 0)
}

// own reports whether this machine's own rules turned the subject to itself.
func (t *tracer) own(a *rawprobe.Reply) bool {
	flow, changed := t.o.Sent[a.Probe].Translated()
	return changed && t.o.Machine.Own(flow.Dst.Addr())
}

// echo is the host's answer to an echo of full TTL, nil while there is none.
func (t *tracer) echo() *rawprobe.Reply {
	for i := range t.o.Replies {
		r := &t.o.Replies[i]
		if s := &t.o.Sent[r.Probe]; r.Kind == rawprobe.EchoReply && !s.Stepped() {
			return r
		}
	}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
