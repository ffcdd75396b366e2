package rawprobe

// Seen is one packet of a run, and what the run made of it.
type Seen struct {
	// Event is the packet. It is never one that was Delivered: that is a copy
	// of one that was seen before or will be.
	Event
	// Number counts the run's packets from 1, in the order in which they were
	// judged. It is 0 for a packet that was refused, which is on no wire.
	Number int
	What   What
	// Probe is the probe that left, did so again, was refused or is answered;
	// zero where the packet is none of these.
	Probe Sent
	// Reply is what an Answer says, zero for any other packet. That it was
	// Delivered may turn out later.
	Reply Reply
}

// What says what a packet was to a run.
type What string

// What packets are.
const (
	ProbeLeft    What = "probe"         // a probe, as it left this machine
	ProbeAgain   What = "probe-again"   // the same on another interface that it passed
	ProbeRefused What = "probe-refused" // a probe that the kernel did not send
	Asked        What = "ask"           // our own ARP request or neighbour solicitation
	AskAnswer    What = "ask-answer"    // the next hop's answer to it
	Answer       What = "answer"        // what a probe provoked
	OwnReset     What = "own-reset"     // this machine's kernel resets what the subject opened
	OwnReturn    What = "own-return"    // our own packet, on its way into this machine
	Stranger     What = "stranger"      // not the run's affair

	// These are not believed: see Ignored.
	Unprovoked What = "unprovoked"
	Malformed  What = "malformed"
	Duplicate  What = "duplicate"
	Excess     What = "excess"
)
