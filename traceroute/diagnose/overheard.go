package diagnose

import (
	"fmt"

	"synprobe/rawprobe"
)

// overheard weakens what is concluded from another program's attempt, or from a
// run that was killed. The capture of it may have begun late, ended early or
// lost packets; little or nothing was sent to compare an answer with; and what a
// socket got is not known.
func (v *view) overheard(d *Diagnosis) {
	h := v.o.Overheard
	if h == nil {
		return
	}
	again := fmt.Sprintf("Run synprobe %s %d on that machine: it asks with other packets too, and where they stop.", v.target, v.port)
	if h.Ours {
		again = fmt.Sprintf("Run synprobe %s %d again.", v.target, v.port)
		d.because("capture", "read from the packets of a run that was not completed: what this machine knew is not known")
	} else {
		d.because("capture", "read from a capture of another program's attempt: no control was sent with it, and no TTL stepped")
	}
	switch {
	case d.Verdict == Drop && len(v.subject) == 0, d.Verdict == Partial: // a silence is part of it
		d.weaken(Ambiguous)
		d.Next = again
		d.or(Unknown, Fault{Where: Nowhere}, "the capture may lack an answer that came: it may have ended early, or been filtered")
	case d.Cause == LocalFirewall:
		d.weaken(Likely)
		d.Next = again
		d.or(Unknown, Fault{Where: Nowhere}, "the capture does not show what this machine's sockets got")
	case d.Certainty == Certain && v.reset():
		d.weaken(Likely)
		d.or(NetworkFirewall, somewhere(), "a firewall on the way may reset in the host's name, from the same distance")
	}
	switch {
	case h.Answered > 0 && d.Verdict != Open:
		d.weaken(Likely)
		d.because("other-attempts", "of %s at this port in the capture %d got a SYN-ACK", plural(h.Others, "other attempt"), h.Answered)
		d.or(FlowDependent, somewhere(), "others at the same port were answered: it may depend on the source port, or on the moment")
	case h.Others > 0:
		d.because("other-attempts", "%s at this port in the capture, %d of them with a SYN-ACK", plural(h.Others, "other attempt"), h.Answered)
	}
}

// reset reports whether the subject's first answer is a reset.
func (v *view) reset() bool {
	return len(v.subject) > 0 && v.subject[0].Kind == rawprobe.Reset
}
