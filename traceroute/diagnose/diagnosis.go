// Package diagnose explains what a run observed: observations in, diagnosis
// out. It is pure: no I/O, no clock, no randomness; the same observations give
// the same diagnosis.
//
// A diagnosis never claims more than the packets show. What else could have
// caused them stands in its alternatives.
package diagnose

import (
	"net/netip"
	"time"

	"synprobe/traceroute"
)

// Verdict is what happens to a connection attempt.
type Verdict string

// The verdicts.
const (
	Open        Verdict = "open"
	Reject      Verdict = "reject"
	Drop        Verdict = "drop"
	HostDown    Verdict = "host-down"
	NetworkDown Verdict = "network-down"
	Partial     Verdict = "partial"
)

// Cause is why it happens.
type Cause string

// The causes, below the verdict that each first belongs to. The firewalls'
// causes serve both Reject and Drop.
const (
	Listening Cause = "listening" // Open: a SYN-ACK from the host itself
	Proxy     Cause = "proxy"     // Open: a SYN-ACK made by a device before the host

	PortClosed      Cause = "port-closed"      // Reject: an RST from the host itself
	HostFirewall    Cause = "host-firewall"    // the host refused by ICMP, or eats what arrives
	NetworkFirewall Cause = "network-firewall" // a device on the way refuses or drops
	LocalFirewall   Cause = "local-firewall"   // this machine's own firewall refuses or drops

	NotAccepting Cause = "not-accepting" // Drop: the host answers all but SYNs to this port
	ReturnPath   Cause = "return-path"   // Drop: the SYN arrived and its answer is lost
	Unknown      Cause = "unknown"       // Drop: nothing says why

	NeighborUnreachable Cause = "neighbor-unreachable" // HostDown: no answer to ARP or NDP on the link
	HostUnreachable     Cause = "host-unreachable"     // HostDown: a router can't reach the host

	NoRoute        Cause = "no-route"
	NoAddress      Cause = "no-address"
	LinkDown       Cause = "link-down"
	GatewayDown    Cause = "gateway-down"
	NetUnreachable Cause = "net-unreachable"
	RoutingLoop    Cause = "routing-loop"

	FlowDependent Cause = "flow-dependent" // Partial
)

// Certainty is how much the packets leave open.
type Certainty string

// The certainties.
const (
	Certain   Certainty = "certain"   // no other explanation gives the same packets
	Likely    Certainty = "likely"    // others remain, but need a coincidence
	Ambiguous Certainty = "ambiguous" // others are as good
)

// Where is the part of the way that a fault lies in.
type Where string

// The parts of the way.
const (
	Local       Where = "local"
	Path        Where = "path"
	Destination Where = "destination"
	Nowhere     Where = "unknown" // it is not known which part
)

// UnknownTTL is the TTL of a hop whose distance was not measured.
const UnknownTTL = -1

// Hop is one suspect of a fault.
type Hop struct {
	TTL     int        // 0 is this machine; UnknownTTL where it was not measured
	Address netip.Addr // the zero Addr for a hop that answers nobody
}

// Fault is where the cause sits.
type Fault struct {
	Where Where
	// Hops are the suspects from near to far, as few as the facts allow and
	// never fewer.
	Hops []Hop
}

// Alternative is another explanation of the same packets.
type Alternative struct {
	Cause Cause
	Fault Fault
	Why   string // why it can't be excluded
}

// Evidence is one fact that the diagnosis rests on.
type Evidence struct {
	Rule string // the name of the check that found it
	Text string
}

// Diagnosis is the explanation of one run.
type Diagnosis struct {
	Verdict      Verdict
	Cause        Cause
	Certainty    Certainty
	Summary      string // one English sentence
	Next         string // what to do or whom to ask; empty where nothing is wrong
	Fault        *Fault // nil where there is none
	Alternatives []Alternative
	Evidence     []Evidence

	// Path is what TTL-limited probes showed; it has no hops where the path was
	// not traced.
	Path traceroute.Path

	RTT      time.Duration // of the answer; 0 where there was none
	Tries    int           // subject SYNs sent with full TTL
	Answered int           // of those, answered by anything that was believed
}
