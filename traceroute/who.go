package traceroute

import (
	"time"

	"synprobe/rawprobe"
)

// who finds the least TTL that provokes an answer in the host's name. A reset
// names no probe, so one probe is in flight at a time.
type who struct {
	ttl     int // being asked; 0 before the first
	sent    time.Time
	tries   int
	replies int // how many replies there were when it was sent
	resets  int // how many resets our kernel had sent by then
	lowest  int // the least TTL that provoked the answer, 0 while none
	below   int // the greatest TTL that did not, 0 while none
	answers int // how many stepped SYNs were answered so
	done    bool
	doubted bool // the look at the last hops spoke against the host
}

// maxProvoked is how many answers in the host's name the search may provoke:
// with the two tries before it no more than six SYNs reach the host.
const maxProvoked = 4

// whoAnswered takes the search one step further.
func (t *tracer) whoAnswered(a *rawprobe.Reply) (wake time.Time, busy bool, err error) {
	w := &t.who
	if t.plain(a) && !w.doubted {
		// Nobody doubts it: only the way there is wanted, as far as it is known
		// to go by now. The way back may be shorter.
		depth, _ := t.depth()
		return t.subject(min(max(depth-1, a.Distance()), t.opt.MaxHops))
	}
	if w.done {
		return wake, false, nil
	}
	if w.ttl == 0 {
		// One hop before where the answer seems to come from, which is no
		// farther away than the host, whose echo tells where that is.
		w.ttl = a.Distance()
		if e := t.echo(); e != nil {
			w.ttl = min(w.ttl, e.Distance())
		}
		w.ttl = min(max(w.ttl, 1), t.opt.MaxHops)
		return t.askWho()
	}
	switch got := t.whoGot(); {
	case got == Answers:
		w.lowest = w.ttl
		if w.answers++; w.answers == maxProvoked {
			w.done = true
			return wake, false, nil
		}
		w.ttl = (w.below + w.lowest) / 2
		if w.answers == 1 {
			w.ttl = w.lowest - 1 // most often it is right below
		}
	case got == Passes:
		w.below = w.ttl
		if w.lowest > 0 {
			w.ttl = (w.below + w.lowest) / 2
		} else {
			w.ttl++
		}
	case t.now.Before(w.sent.Add(max(stepPatience, 3*t.o.MaxRTT()))):
		return w.sent.Add(max(stepPatience, 3*t.o.MaxRTT())), true, nil
	case w.tries < stepTries:
		return t.askWho()
	default: // a silent hop: nothing answers there in the host's name
		w.below = w.ttl
		if w.lowest > 0 {
			w.ttl = (w.below + w.lowest) / 2
		} else {
			w.ttl++
		}
	}
	w.tries = 0
	if w.ttl <= w.below || w.ttl > t.opt.MaxHops {
		w.done = true
		return wake, false, nil
	}
	return t.askWho()
}

func (t *tracer) askWho() (wake time.Time, busy bool, err error) {
	w := &t.who
	if w.ttl > t.routers() && !t.mayReach(1) {
		w.done = true
		return wake, false, nil
	}
	if w.lowest > 0 && t.synAckPending() {
		// Our kernel has not closed what the last answer opened. If it never
		// does, the host would take another SYN for a retransmission.
		end := w.sent.Add(2 * stepPatience)
		w.done = !t.now.Before(end)
		return end, !w.done, nil
	}
	w.tries++
	w.sent, w.replies, w.resets = t.now, len(t.o.Replies), t.o.OwnResets
	if err := t.r.SendSubject(w.ttl); err != nil {
		return wake, false, err
	}
	return w.sent.Add(stepPatience), true, nil
}

// synAckPending reports whether a SYN-ACK came that our kernel has not reset.
func (t *tracer) synAckPending() bool {
	for i := t.who.replies; i < len(t.o.Replies); i++ {
		if t.o.Replies[i].Kind == rawprobe.SynAck && t.o.OwnResets == t.who.resets {
			return true
		}
	}
	return false
}

// whoGot is what the probe in flight has met.
func (t *tracer) whoGot() Status {
	for i := t.who.replies; i < len(t.o.Replies); i++ {
		r := &t.o.Replies[i]
		s := &t.o.Sent[r.Probe]
		switch {
		case s.Kind != rawprobe.Subject:
		case r.Kind == rawprobe.SynAck, r.Kind == rawprobe.Reset:
			return Answers
		case r.Meaning() == rawprobe.SaysExpired && s.TTL == t.who.ttl:
			return Passes
		}
	}
	return Silent
}
