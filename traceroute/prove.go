package traceroute

import (
	"time"

	"synprobe/rawprobe"
)

// proof is the wait for the host's word that a silent SYN arrives: the SYN is
// sent as a lone first fragment, which no firewall of the host's sees before it
// is whole. The host gives up on it after 30 seconds and says so.
type proof struct {
	sent    []time.Time
	waiting bool
	settled bool
}

const (
	// reassembly is how long a host waits for the missing fragment: 30 s in
	// Linux (net.ipv4.ipfrag_time), and in most others up to 60; the longer
	// wait is not worth anybody's while.
	reassembly = 30 * time.Second
	// proofSlack is for the way, and the host's timer: Linux rounds one of 30 s
	// up by as much as an eighth (kernel/time/timer.c).
	proofSlack = 4500 * time.Millisecond
	// fragments are sent this often, apart, lest one gets lost.
	proofTries = 2
	proofPace  = 300 * time.Millisecond
)

// prove sends the fragments and waits for the answer, where that was asked for
// and can prove anything. Everything else has settled by now.
func (t *tracer) prove() (wake time.Time, done bool, err error) {
	p := &t.proof
	if !t.opt.Prove || !t.o.Target.Addr().Is4() || t.r.Conclusive() != nil || t.proven() {
		return t.now, true, nil
	}
	p.settled = true
	if len(p.sent) < proofTries {
		if n := len(p.sent); n > 0 && t.now.Before(p.sent[n-1].Add(proofPace)) {
			return p.sent[n-1].Add(proofPace), false, nil
		}
		if err := t.r.SendFragment(); err != nil {
			return t.now, true, err
		}
		p.sent = append(p.sent, t.now)
	}
	end := p.sent[len(p.sent)-1].Add(reassembly + proofSlack)
	if !p.waiting && t.fragmentLeft() {
		p.waiting = true
		if t.opt.Waiting != nil {
			t.opt.Waiting("the host's word that the SYN arrives", end)
		}
	}
	switch {
	case len(p.sent) < proofTries:
		end = t.now.Add(proofPace)
	case !t.fragmentLeft():
		return t.now, true, nil // nobody has got anything to give up on
	}
	return end, !t.now.Before(end), nil
}

// fragmentLeft reports whether the kernel took a fragment.
func (t *tracer) fragmentLeft() bool {
	for i := range t.o.Sent {
		if s := &t.o.Sent[i]; s.Kind == rawprobe.Fragment && s.Refused == rawprobe.NotRefused {
			return true
		}
	}
	return false
}

// proven reports whether the host's word has come.
func (t *tracer) proven() bool {
	for i := range t.o.Replies {
		if t.o.Sent[t.o.Replies[i].Probe].Kind == rawprobe.Fragment {
			return true
		}
	}
	return false
}

// Settled implements rawprobe.Settler: once the subject is answered, or only the
// proof is missing, there is a verdict without what is still awaited.
func (t *tracer) Settled() bool { return t.proof.settled || t.answered }
