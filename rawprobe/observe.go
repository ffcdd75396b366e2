package rawprobe

import (
	"fmt"
	"net/netip"
	"time"

	"synprobe/rawprobe/wire"
)

// Observations is the record of one run: all that was sent, all that came
// back, and what this machine knew. It is the only input of the diagnosis, and
// holds no references into the run that made it.
type Observations struct {
	Target netip.AddrPort // the address and port asked about, with its zone
	Start  time.Time
	End    time.Time // so far, while the run goes on

	// Interrupted says that the run was told to stop before it had settled.
	// What it holds is true, but a silence in it proves nothing.
	Interrupted bool

	Machine Machine
	Asks    []Ask   // our own ARP requests or neighbour solicitations
	Sent    []Sent  // probes, in the order of sending
	Replies []Reply // answers that our probes provoked, in the order of arrival

	// OwnResets counts the resets that this machine's kernel was seen to send
	// for the subject's five-tuple. A kernel answers a SYN-ACK for which it
	// has no socket so (RFC 9293, section 3.10.7.1), which shows that the
	// SYN-ACK passed the local firewall.
	OwnResets int

	Ignored Ignored
	Tap     TapStats

	// Overheard is not nil where the packets of a capture are all that is
	// known: see [Overhearer].
	Overheard *Overheard

	// What a replay needs: see [NewRecord].
	echoID     uint16
	echoCookie uint32
	packets    int
	odd        []int // packets that don't look as if their checksum were partial, and it is, or the other way round
}

// NeighborAnswered reports whether the next hop has answered one of our own
// requests.
func (o *Observations) NeighborAnswered() bool {
	for i := range o.Asks {
		if !o.Asks[i].Answered.IsZero() {
			return true
		}
	}
	return false
}

// Machine is what this machine knew about reaching the target.
type Machine struct {
	Route     Route
	Interface Interface    // the outgoing interface; zero where there is no route
	Addresses []netip.Addr // this machine's own addresses of the target's family

	// Down lists interfaces that are down, or have no carrier, and hold the
	// prefix that covers the target. The kernel forgets their routes and
	// lets the traffic follow another one (field: net/ipv4/fib_frontend.c,
	// fib_disable_ip).
	Down []Interface

	// NoneUp says that every interface but loopback is down.
	NoneUp bool

	// Neighbor is the kernel's opinion of the next hop at the end of the run.
	Neighbor NeighborState

	Conntrack Conntrack

	// ReversePathFilter is the effective rp_filter of each interface that has
	// one, by its index: 1 strict, 2 loose
	// (Documentation/networking/ip-sysctl.rst).
	ReversePathFilter map[int]int

	// After is how it stood at the end of the run, where that is another way
	// than at the beginning; nil where nothing changed.
	After *After

	// Lapse is what went away while the run went on, and was back at its end,
	// so that After is nil. Where the kernel does not tell of changes it is not
	// noticed.
	Lapse Lapse `json:",omitempty"`
}

// Lapse says what of that by which a run's packets went was gone for a while.
// The zero value means that nothing was.
type Lapse string

// The lapses, by the message of the kernel that tells of them (rtnetlink(7)). Of
// several the first in this order counts.
const (
	NoLapse        Lapse = ""
	LapseRemoved   Lapse = "interface-removed" // RTM_DELLINK: the outgoing interface was another namespace's, or not there
	LapseDown      Lapse = "interface-down"    // RTM_NEWLINK without IFF_UP
	LapseNoCarrier Lapse = "no-carrier"        // RTM_NEWLINK without IFF_LOWER_UP
	LapseNoAddress Lapse = "no-address"        // RTM_DELADDR: the source address was not this machine's
	LapseNoRoute   Lapse = "no-route"          // RTM_DELROUTE of the route that the subject's flow takes
	// LapseOtherRoute is another next hop, or a route that forbids, for the
	// subject's flow: RTM_NEWROUTE of a route that wins over the one it takes.
	LapseOtherRoute Lapse = "other-route"
	// LapseUnknown means that the kernel had more to tell than is kept for us
	// (ENOBUFS, netlink(7)), or is too old to say which route the flow takes,
	// and told of some: any of the others may have been.
	LapseUnknown Lapse = "unknown"
)

// After is what became, while a run went on, of that by which its packets went.
type After struct {
	// Interface is the outgoing interface as it is now, the zero value where
	// there is none of its index any more.
	Interface Interface
	// Route is where the subject's flow would go now. Its Outcome is
	// RouteNoAddress where the address that the run sent from is not this
	// machine's any more.
	Route Route
}

// Own reports whether a is one of this machine's own addresses.
func (m *Machine) Own(a netip.Addr) bool {
	a = a.WithZone("")
	if a.IsLoopback() {
		return true
	}
	for _, own := range m.Addresses {
		if own == a {
			return true
		}
	}
	return false
}

// Route is the kernel's own decision about the subject's flow.
type Route struct {
	Outcome RouteOutcome
	Local   bool       // the target is this machine itself
	Source  netip.Addr // the source address that the kernel picks
	Gateway netip.Addr // the next hop; the zero Addr where the target is on the link
	// Interface is the index of the outgoing interface.
	Interface int
	// MTU is the largest packet in bytes that the route takes.
	MTU int
	// ByPort says that the route depends on the protocol, the ports or the
	// user, and that a raw packet would have taken another one. Such a
	// packet is handed to the right next hop on the link layer
	// (net/ipv4/raw.c looks a raw packet up with ports 0).
	ByPort bool
}

// NextHop is the address on the link that target's packets are handed to.
func (r Route) NextHop(target netip.Addr) netip.Addr {
	if r.Gateway.IsValid() {
		return r.Gateway
	}
	return target
}

// RouteOutcome is what a route lookup said. The zero value is a usable route.
type RouteOutcome string

// The outcomes of a route lookup, by the error that a lookup or a send gives.
const (
	RouteFound       RouteOutcome = ""
	RouteNone        RouteOutcome = "none"        // ENETUNREACH
	RouteUnreachable RouteOutcome = "unreachable" // EHOSTUNREACH: an unreachable route
	RouteProhibit    RouteOutcome = "prohibit"    // EACCES: a prohibit route
	RouteBlackhole   RouteOutcome = "blackhole"   // EINVAL: a blackhole route
	RouteNoAddress   RouteOutcome = "no-address"  // a route, but no source address of the family
)

// Interface is one network interface of this machine.
type Interface struct {
	Index    int
	Name     string
	Up       bool // administratively up (IFF_UP)
	Carrier  bool // the link below is up (IFF_LOWER_UP)
	Loopback bool
	// Resolves says that next hops are found by ARP or neighbour discovery.
	Resolves bool
	Hardware [6]byte // the link-layer address where Resolves
}

// NeighborState is a state of the kernel's neighbour table
// (include/uapi/linux/neighbour.h, NUD_*), in lower case. The zero value means
// that there is no entry.
type NeighborState string

// Conntrack is how full this machine's connection table is. Both are zero
// where connections are not tracked.
type Conntrack struct {
	Count, Max int
}

// Full reports whether a new connection finds no room in the table.
func (c Conntrack) Full() bool { return c.Max > 0 && c.Count >= c.Max }

// Ask is one ARP request (RFC 826) or neighbour solicitation (RFC 4861) of our
// own to the next hop. Entries of the kernel's table from before the run prove
// nothing: it trusts a dead neighbour for 8 seconds and more.
type Ask struct {
	Time     time.Time
	Answered time.Time // zero where no answer came
	Hardware [6]byte   // who answered

	number int // of the packet, among those of the run
}

// Flow is the two ends of a probe, as this machine names them. An ICMP echo
// has no ports: there both are 0.
type Flow struct {
	Src, Dst netip.AddrPort
}

// Reverse is the flow of an answer.
func (f Flow) Reverse() Flow { return Flow{Src: f.Dst, Dst: f.Src} }

// ProbeKind says what a probe is for.
type ProbeKind string

// The kinds of probe.
const (
	// Subject is the SYN asked about: same five-tuple and initial sequence
	// number at every try and TTL, so that it is one flow for every router
	// and a retransmission for every stateful firewall.
	Subject ProbeKind = "subject"
	// Echo is an ICMP echo request to the target: the first control, and the
	// baseline for distance and round-trip time.
	Echo ProbeKind = "icmp-echo"
	// OtherFlow is the subject's SYN from another source port. It goes another
	// way where routers share traffic among several (ECMP).
	OtherFlow ProbeKind = "other-flow"
	// ControlACK is a bare ACK on the subject's own five-tuple: the same way
	// through the network, and no SYN. A host answers it with a reset, unless
	// something stateful on the way drops it as part of no connection.
	ControlACK ProbeKind = "tcp-ack"
	// ControlSYN is a SYN to another port of the host.
	ControlSYN ProbeKind = "tcp-syn"
	// ControlUDP is a datagram to a high port, where a host answers that the
	// port is unreachable.
	ControlUDP ProbeKind = "udp"
	// Fragment is the subject's SYN as the first of two IPv4 fragments, of
	// which the second never comes. A host that got it says so after 30
	// seconds (RFC 1122, section 3.3.2), before its firewall looks at ports.
	Fragment ProbeKind = "first-fragment"
)

// Sent is one probe.
type Sent struct {
	Kind  ProbeKind
	Try   int // counts from 1 within its kind
	TTL   int // as sent
	Flow  Flow
	Seq   uint32 // TCP initial sequence number, or ICMP echo sequence number
	ID    uint16 // IPv4 identification: names this very packet in a quote
	TSval uint32 // TCP timestamp: names this very packet, in IPv6 above all (RFC 7323)
	Ack   uint32 // of a ControlACK: the sequence number of the reset that it draws

	Time    time.Time // when it was handed to the kernel
	Refused Refusal   // why the kernel did not take it
	// Departed is the proof that the packet left: the tap's copy, taken after
	// the local firewall and the queue. Nil where none was seen.
	Departed *Departure

	after int // how many packets the run had seen by then
}

// Stepped reports whether the probe was meant to expire on the way.
func (s *Sent) Stepped() bool { return s.TTL != DefaultTTL }

// Name is what tables and reports call the probe: its kind, and the port where
// there are several of a kind.
func (s *Sent) Name() string {
	if s.Kind == ControlSYN {
		return fmt.Sprintf("%s:%d", s.Kind, s.Flow.Dst.Port())
	}
	return string(s.Kind)
}

// Translated returns the flow under which the probe left this machine, and
// whether that is another than the one sent: address translation in OUTPUT or
// POSTROUTING.
func (s *Sent) Translated() (Flow, bool) {
	if s.Departed == nil {
		return s.Flow, false
	}
	f := s.Departed.Flow
	if s.Flow.Src.Port() == 0 { // an echo: its id may change, its ends count
		return f, f.Src.Addr() != s.Flow.Src.Addr() || f.Dst.Addr() != s.Flow.Dst.Addr()
	}
	return f, f != s.Flow
}

// Departure is a probe as the tap saw it leave.
type Departure struct {
	Time time.Time // the kernel's stamp
	// Unstamped says that the kernel did not stamp it yet: Time is when it was
	// read, which is good for a long round trip only.
	Unstamped bool
	Interface int
	Flow      Flow   // after this machine's own translation
	EchoID    uint16 // the identifier of an echo, which translation may change

	number int // of the packet, among those of the run
}

// Refusal is the reason why the kernel would not send a packet. The zero value
// means that it took it.
type Refusal string

// The refusals, by error number. See net/ipv4/raw.c and net/ipv4/route.c.
const (
	NotRefused         Refusal = ""
	RefusedByFirewall  Refusal = "not-permitted" // EPERM: OUTPUT or POSTROUTING dropped it, or connection tracking found no room
	RefusedNoRoute     Refusal = "no-route"      // ENETUNREACH
	RefusedUnreachable Refusal = "unreachable"   // EHOSTUNREACH
	RefusedProhibit    Refusal = "prohibit"      // EACCES
	RefusedBlackhole   Refusal = "blackhole"     // EINVAL
	RefusedDown        Refusal = "link-down"     // ENETDOWN, ENXIO, ENODEV
	RefusedNoAddress   Refusal = "no-address"    // EADDRNOTAVAIL
	RefusedNoBuffer    Refusal = "no-buffer"     // ENOBUFS: a full queue, or a filter behind the IP stack
	RefusedOther       Refusal = "other"
)

// ReplyKind says what an answer is.
type ReplyKind string

// The kinds of answer.
const (
	SynAck    ReplyKind = "syn-ack"
	Reset     ReplyKind = "reset"
	OldAck    ReplyKind = "challenge-ack" // a bare ACK: the other side holds an old connection with this five-tuple (RFC 5961, section 4)
	EchoReply ReplyKind = "echo-reply"
	ICMPError ReplyKind = "icmp-error"
)

// Reply is one packet that a probe of ours provoked.
type Reply struct {
	Kind ReplyKind
	// Probe is the index in Sent of the probe that it answers. Exact says
	// that the answer itself names that probe, or that it can be no other's;
	// else it is the last one of full TTL.
	Probe int
	Exact bool

	Time time.Time     // the kernel's stamp
	RTT  time.Duration // from the probe's departure by the kernel's stamps; 0 where one is missing
	From netip.Addr
	TTL  int // as it arrived

	Interface int
	// Loopback says that it arrived on the loopback interface: this machine
	// made it itself.
	Loopback bool
	// Delivered says that the IP stack also handed it to a socket: it passed
	// this machine's own firewall and reverse-path filter. The tap sees
	// packets before those. Not recorded for echo replies.
	Delivered bool

	Window  int // TCP
	Options int // TCP: how many options it carries

	Type, Code int // ICMP, of the target's family
	// QuotedDst is where the quoted probe was going when the sender of the
	// error got it. It differs from the flow's where a device on the way
	// translates the destination.
	QuotedDst netip.AddrPort
	QuotedTTL int
	// Extensions are what the sender of the error says of itself (RFC 4884), zero
	// where that is nothing. Nothing vouches for it.
	Extensions wire.Extensions

	seen      time.Time // on the run's own clock
	number    int       // of the packet, among those of the run
	unstamped bool      // Time tells no round trip
}

// Distance is the number of routers that the answer passed on its way back,
// judged by the usual initial TTLs 64, 128 and 255: the least of them that
// explains the TTL seen.
func (r *Reply) Distance() int {
	for _, initial := range []int{64, 128} {
		if r.TTL <= initial {
			return initial - r.TTL
		}
	}
	return 255 - r.TTL
}

// Ignored counts the packets that reached the run and were not believed.
type Ignored struct {
	// Unprovoked packets resemble answers but acknowledge or quote nothing
	// that we sent.
	Unprovoked int
	Malformed  int
	// Duplicates are copies of one packet: seen on two interfaces, or sent
	// twice by the network.
	Duplicates int
	// Excess answers are those beyond what a record holds.
	Excess int
}

// TapStats are the tap's own counters.
type TapStats struct {
	Packets uint64 // packets that passed the filter
	Drops   uint64 // of those, packets lost because the buffer was full
}
