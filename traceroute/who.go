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
	done    bool
}

// whoAnswered takes the search one step further.
func (t *tracer) whoAnswered(a *rawprobe.Reply) (wake time.Time, busy bool, err error) {
	w := &t.who
	if w.done {
		return wake, false, nil
	}
	if w.ttl == 0 {
		if t.opt.Mode == Always && t.plain(a) {
			// Nobody doubts it: only the way there is wanted.
			w.done = true
			depth, _ := t.depth()
			return t.subject(max(depth-1, a.Distance()))
		}
		// One hop before where the answer seems to come from.
		w.ttl = max(a.Distance(), 1)
		return t.askWho()
	}
	switch got := t.whoGot(); {
	case got == Answers:
		w.lowest = w.ttl
		w.ttl--
	case got == Passes:
		if w.lowest > 0 {
			w.done = true
			return wake, false, nil
		}
		w.ttl++
	case t.now.Before(w.sent.Add(max(stepPatience, 3*t.o.MaxRTT()))):
		return w.sent.Add(max(stepPatience, 3*t.o.MaxRTT())), true, nil
	case w.tries < stepTries:
		return t.askWho()
	case w.lowest > 0: // a silent hop below
		w.done = true
		return wake, false, nil
	default:
		w.ttl++
	}
	w.tries = 0
	if w.ttl < 1 || w.ttl > t.opt.MaxHops {
		w.done = true
		return wake, false, nil
	}
	return t.askWho()
}

func (t *tracer) askWho() (wake time.Time, busy bool, err error) {
	w := &t.who
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
