package diagnose

import (
	"fmt"
	"net/netip"

	"synprobe/rawprobe"
	"synprobe/rawprobe/batch"
)

// The rules for many targets: what one answer, and one echo, can say where no
// path was traced. They follow those of Explain, and are never surer: nobody
// looked whether an answer passed this machine's own firewall, which options a
// SYN-ACK had, or which TTL provoked it.

// Here is what is known of this machine where many targets are probed. The
// zero value knows nothing.
type Here struct {
	// LinkLayer says that the probes went past this machine's IP stack, and
	// so past its firewall, address translation and policy routing.
	LinkLayer bool

	own      map[netip.Addr]bool
	networks []netip.Prefix
}

// NewHere returns what this machine's addresses say, each with the length of
// its network's prefix.
func NewHere(addresses []netip.Prefix) *Here {
	h := &Here{own: make(map[netip.Addr]bool)}
	for _, p := range addresses {
		h.own[p.Addr()] = true
		if !p.IsSingleIP() && !p.Addr().IsLoopback() {
			h.networks = append(h.networks, p)
		}
	}
	return h
}

func (h *Here) owns(a netip.Addr) bool { return a.IsLoopback() || h.own[a] }

func (h *Here) onLink(a netip.Addr) bool {
	for _, p := range h.networks {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// broadcast reports whether a is the broadcast address of one of this machine's
// own networks (RFC 919). Networks of two addresses have none (RFC 3021).
func (h *Here) broadcast(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	for _, p := range h.networks {
		if p.Addr().Is4() && p.Bits() < 31 && p.Contains(a) && !p.Contains(a.Next()) {
			return true
		}
	}
	return false
}

// Brief is a diagnosis in five words. It costs next to nothing, where Direct
// writes sentences.
type Brief struct {
	Verdict   Verdict
	Cause     Cause
	Certainty Certainty
	Where     Where      // of the fault; empty where there is none
	Device    netip.Addr // who answered in its own name on the way; else the zero Addr
}

// A direct is one thing that direct answers can mean.
type direct int

const (
	silent      direct = iota // nothing came back
	silentAlive               // but the host answers echoes
	silentHere                // of this machine itself

	opened      // a SYN-ACK, and nothing to compare it with
	openSame    // from as far away as the echo reply
	openNearer  // from nearer
	openFarther // from farther
	openHere    // by this machine itself

	closed // a reset, likewise
	closedSame
	closedNearer
	closedFarther
	closedHere

	refusedByHost     // an ICMP refusal from the target's address
	refusedByDevice   // from another
	refusedHere       // from this machine's own
	behindUnreachable // the target's address says that it can't reach something
	behindExpired
	hostUnreachable // a router says so
	netUnreachable
	expired
	unreachableAlive // though the host answers echoes
	expiredAlive

	oldAck
	noNeighbor // the target is on the link, and does not answer there
	noGateway

	noRouteHere
	forbiddenRoute // unreachable, prohibit or blackhole
	noAddressHere
	linkDownHere
	firewallDrops
	firewallRejects
	noBuffer
	notSent
	broadcastAddress
)

// directs are the words for each. What is certain here is this machine's own
// word about itself.
var directs = [...]Brief{
	silent:            {Drop, Unknown, Ambiguous, Nowhere, netip.Addr{}},
	silentAlive:       {Drop, Unknown, Ambiguous, Nowhere, netip.Addr{}},
	silentHere:        {Drop, LocalFirewall, Likely, Local, netip.Addr{}},
	opened:            {Open, Listening, Likely, "", netip.Addr{}},
	openSame:          {Open, Listening, Likely, "", netip.Addr{}},
	openNearer:        {Open, Proxy, Ambiguous, Path, netip.Addr{}},
	openFarther:       {Open, Listening, Likely, "", netip.Addr{}},
	openHere:          {Open, Listening, Likely, "", netip.Addr{}},
	closed:            {Reject, PortClosed, Likely, Destination, netip.Addr{}},
	closedSame:        {Reject, PortClosed, Likely, Destination, netip.Addr{}},
	closedNearer:      {Reject, NetworkFirewall, Ambiguous, Path, netip.Addr{}},
	closedFarther:     {Reject, PortClosed, Likely, Destination, netip.Addr{}},
	closedHere:        {Reject, PortClosed, Likely, Destination, netip.Addr{}},
	refusedByHost:     {Reject, HostFirewall, Likely, Destination, netip.Addr{}},
	refusedByDevice:   {Reject, NetworkFirewall, Likely, Path, netip.Addr{}},
	refusedHere:       {Reject, LocalFirewall, Likely, Local, netip.Addr{}},
	behindUnreachable: {HostDown, HostUnreachable, Likely, Destination, netip.Addr{}},
	behindExpired:     {NetworkDown, RoutingLoop, Likely, Path, netip.Addr{}},
	hostUnreachable:   {HostDown, HostUnreachable, Likely, Destination, netip.Addr{}},
	netUnreachable:    {NetworkDown, NetUnreachable, Likely, Path, netip.Addr{}},
	expired:           {NetworkDown, RoutingLoop, Likely, Path, netip.Addr{}},
	unreachableAlive:  {Reject, NetworkFirewall, Likely, Path, netip.Addr{}},
	expiredAlive:      {NetworkDown, RoutingLoop, Likely, Path, netip.Addr{}},
	oldAck:            {Drop, Unknown, Ambiguous, Nowhere, netip.Addr{}},
	noNeighbor:        {HostDown, NeighborUnreachable, Likely, Destination, netip.Addr{}},
	noGateway:         {NetworkDown, GatewayDown, Likely, Local, netip.Addr{}},
	noRouteHere:       {NetworkDown, NoRoute, Likely, Local, netip.Addr{}},
	forbiddenRoute:    {NetworkDown, NoRoute, Certain, Local, netip.Addr{}},
	noAddressHere:     {NetworkDown, NoAddress, Likely, Local, netip.Addr{}},
	linkDownHere:      {NetworkDown, LinkDown, Certain, Local, netip.Addr{}},
	firewallDrops:     {Drop, LocalFirewall, Likely, Local, netip.Addr{}},
	firewallRejects:   {Reject, LocalFirewall, Likely, Local, netip.Addr{}},
	noBuffer:          {Drop, LocalFirewall, Likely, Local, netip.Addr{}},
	notSent:           {Drop, Unknown, Ambiguous, Nowhere, netip.Addr{}},
	broadcastAddress:  {Drop, Unknown, Ambiguous, Nowhere, netip.Addr{}},
}

// read tells what a result means.
func (h *Here) read(r *batch.Result) direct {
	target := r.Target.Addr()
	if r.Refused != rawprobe.NotRefused {
		return h.refused(r)
	}
	// The distances compare as those of Explain do.
	c := noBaseline
	switch answer, echo := (&rawprobe.Reply{TTL: r.TTL}).Distance(), (&rawprobe.Reply{TTL: r.EchoTTL}).Distance(); {
	case !r.EchoAnswered && answer == 0 && h.onLink(target):
		c = same // no router is between
	case !r.EchoAnswered:
	case answer < echo:
		c = nearer
	case answer > echo:
		c = farther
	default:
		c = same
	}
	switch r.Kind {
	case rawprobe.SynAck:
		if h.owns(target) {
			return openHere
		}
		return [...]direct{noBaseline: opened, same: openSame, nearer: openNearer, farther: openFarther}[c]
	case rawprobe.Reset:
		if h.owns(target) {
			return closedHere
		}
		return [...]direct{noBaseline: closed, same: closedSame, nearer: closedNearer, farther: closedFarther}[c]
	case rawprobe.ICMPError:
		if d := h.icmp(r); d != silent {
			return d
		}
	case rawprobe.OldAck:
		return oldAck
	}
	switch {
	case r.EchoAnswered && !h.owns(target):
		return silentAlive
	case h.owns(target):
		return silentHere
	case r.NoNeighbor && h.onLink(target):
		return noNeighbor
	case r.NoNeighbor:
		return noGateway
	}
	return silent
}

// icmp reads an ICMP error; one that says nothing is as good as none.
func (h *Here) icmp(r *batch.Result) direct {
	target := r.Target.Addr()
	m := meaning(r)
	switch {
	case m == rawprobe.SaysNothing:
		return silent
	case h.owns(r.From) && m == rawprobe.SaysRefused:
		return refusedHere
	case h.owns(r.From) && h.owns(target):
		return silent
	case h.owns(r.From):
		// This machine's own word about its next hop (net/ipv4/arp.c,
		// arp_error_report).
		switch {
		case r.EchoAnswered:
			return silentAlive
		case h.onLink(target):
			return noNeighbor
		}
		return noGateway
	case r.From == target && m == rawprobe.SaysRefused:
		return refusedByHost
	case r.From == target && m == rawprobe.SaysExpired:
		return behindExpired
	case r.From == target:
		return behindUnreachable
	case m == rawprobe.SaysRefused:
		return refusedByDevice
	case m == rawprobe.SaysExpired && r.EchoAnswered:
		return expiredAlive
	case m == rawprobe.SaysExpired:
		return expired
	case r.EchoAnswered: // a host that answers is not down, nor is its network
		return unreachableAlive
	case m == rawprobe.SaysHostUnreachable:
		return hostUnreachable
	}
	return netUnreachable
}

func meaning(r *batch.Result) rawprobe.Meaning { return asReply(r).Meaning() }

// asReply is the answer as Explain knows it.
func asReply(r *batch.Result) *rawprobe.Reply {
	return &rawprobe.Reply{Kind: r.Kind, From: r.From, TTL: r.TTL, Type: r.Type, Code: r.Code}
}

// refused reads why the kernel would not send, as localRefusal and noRoute do.
func (h *Here) refused(r *batch.Result) direct {
	if r.Refused != rawprobe.RefusedByFirewall && h.broadcast(r.Target.Addr()) {
		return broadcastAddress // EACCES, without SO_BROADCAST: see ip(7)
	}
	switch r.Refused {
	case rawprobe.RefusedByFirewall:
		if r.Kind != "" { // only this machine can have answered
			return firewallRejects
		}
		return firewallDrops
	case rawprobe.RefusedNoRoute:
		return noRouteHere
	case rawprobe.RefusedUnreachable, rawprobe.RefusedProhibit, rawprobe.RefusedBlackhole:
		return forbiddenRoute
	case rawprobe.RefusedNoAddress:
		return noAddressHere
	case rawprobe.RefusedDown:
		return linkDownHere
	case rawprobe.RefusedNoBuffer:
		return noBuffer
	}
	return notSent
}

// Brief gives the diagnosis of one of many targets in few words.
func (h *Here) Brief(r *batch.Result) Brief {
	return h.brief(r, h.read(r))
}

func (h *Here) brief(r *batch.Result, what direct) Brief {
	b := directs[what]
	if b.Where == Path && what != openNearer && what != closedNearer {
		b.Device = r.From
	}
	if h.pastFirewall(r, b.Cause) && b.Certainty == Certain {
		b.Certainty = Likely
	}
	return b
}

// pastFirewall reports whether this machine's own firewall, which the probe
// did not meet, may have another word.
func (h *Here) pastFirewall(r *batch.Result, c Cause) bool {
	return h.LinkLayer && r.Refused == rawprobe.NotRefused && c != LocalFirewall && c != GatewayDown && c != NeighborUnreachable
}

// Direct gives the diagnosis of one of many targets, from its direct answer and
// its host's echo. It agrees with Brief. Its path has no hops, and its fault's
// TTLs are those that are known without tracing.
func (h *Here) Direct(r *batch.Result) Diagnosis {
	what := h.read(r)
	b := h.brief(r, what)
	d := &Diagnosis{Verdict: b.Verdict, Cause: b.Cause, Certainty: b.Certainty, RTT: r.RTT, Tries: r.Tries}
	if r.Kind != "" && what > silentHere {
		d.Answered = min(1, d.Tries)
	}
	switch b.Where {
	case Local:
		d.Fault = ptr(hereFault())
	case Destination:
		d.Fault = ptr(h.destination(r))
	case Path:
		d.Fault = &Fault{Where: Path}
		if b.Device.IsValid() {
			d.Fault = ptr(deviceAt(b.Device))
		}
	case Nowhere:
		d.Fault = &Fault{Where: Nowhere}
	}
	switch {
	case what <= silentHere:
		h.saySilent(d, r, what)
	case what <= openHere:
		h.sayOpen(d, r, what)
	case what <= closedHere:
		h.sayClosed(d, r, what)
	case what <= expiredAlive:
		h.sayICMP(d, r, what)
	default:
		h.sayHere(d, r, what)
	}
	if r.EchoAnswered {
		d.echoed(0)
	}
	if h.pastFirewall(r, b.Cause) {
		d.or(LocalFirewall, hereFault(), "the probe went past this machine's own firewall, which may stop a connection")
	}
	return *d
}

func hereFault() Fault { return Fault{Where: Local, Hops: []Hop{{TTL: 0}}} }

func deviceAt(a netip.Addr) Fault {
	return Fault{Where: Path, Hops: []Hop{{TTL: UnknownTTL, Address: a}}}
}

func (h *Here) destination(r *batch.Result) Fault {
	a, ttl := r.Target.Addr(), UnknownTTL
	switch {
	case h.owns(a):
		ttl = 0
	case h.onLink(a):
		ttl = 1
	}
	return Fault{Where: Destination, Hops: []Hop{{TTL: ttl, Address: a}}}
}

const traceIt = "Probe it alone, or with --explain, to see where it is lost."

func (h *Here) saySilent(d *Diagnosis, r *batch.Result, what direct) {
	target, port := r.Target.Addr(), r.Target.Port()
	d.RTT = 0
	d.because("silent-subject", "%s got no answer", plural(r.Tries, "SYN"))
	switch { // what says nothing about the SYN's fate
	case r.Kind != rawprobe.ICMPError:
	case r.From == target:
		d.because("icmp-from-target", "%s came from %s, quoting our SYN", describe(asReply(r)), r.From)
	default:
		d.because("icmp-from-router", "%s came from %s, quoting our SYN", describe(asReply(r)), r.From)
	}
	host := h.destination(r)
	d.Next = traceIt
	switch what {
	case silentHere:
		d.Summary = fmt.Sprintf("%s is this machine itself, and its own firewall seems to drop SYNs to port %d.", target, port)
		d.Next = "Look at this machine's own firewall (nft list ruleset, iptables -L INPUT)."
		d.or(NotAccepting, host, "a program with a full accept queue is silent too (ss -ltn)")
		return
	case silentAlive:
		d.Summary = fmt.Sprintf("The host is up, but SYNs to port %d are silently dropped, on the way or by the host.", port)
		d.or(NetworkFirewall, somewhere(), "a firewall on the way may drop the SYN")
		d.or(HostFirewall, host, "the host's own firewall may drop it")
		d.or(NotAccepting, host, "a program with a full accept queue is silent too")
	default:
		d.Summary = fmt.Sprintf("No answer from port %d, nor to an ICMP echo, and nobody says why.", port)
		d.because("silent-echo", "no ICMP echo was answered")
		d.or(NetworkFirewall, somewhere(), "a firewall on the way may drop everything for this host")
		d.or(HostFirewall, host, "the host's own firewall may drop everything")
		d.or(HostUnreachable, host, "a host that is down, and whose router does not say so, is silent too")
	}
	d.or(ReturnPath, somewhere(), "the SYN may arrive, and its answer be dropped on the way back")
}

// unseen is what a run with many targets did not look at.
const unseen = "a batch run does not look for what else gives a device away that answers in the host's name"

// distances adds how far away the answer was made.
func (d *Diagnosis) distances(r *batch.Result, isSame bool) {
	a, e := asReply(r), &rawprobe.Reply{TTL: r.EchoTTL}
	switch {
	case !r.EchoAnswered:
	case isSame:
		d.because("same-distance", "%s came from the same distance as the host's echo reply (%s)", describe(a), plural(a.Distance(), "router"))
	default:
		d.because("other-distance", "%s passed %s on its way back, the host's echo reply %s", describe(a), plural(a.Distance(), "router"), plural(e.Distance(), "router"))
	}
}

func (h *Here) sayOpen(d *Diagnosis, r *batch.Result, what direct) {
	port := r.Target.Port()
	d.Summary = fmt.Sprintf("Port %d is open.", port)
	d.because("syn-ack", "a SYN-ACK that acknowledges our SYN came from %s", r.From)
	if what == openHere {
		d.or(Proxy, hereFault(), "this machine's own rules may redirect the connection: a batch run does not look")
		return
	}
	d.distances(r, what == openSame)
	switch what {
	case opened:
		d.or(Proxy, somewhere(), "nothing else of the host's was seen to compare the SYN-ACK with: a transparent proxy answers so too")
	case openSame:
		d.or(Proxy, somewhere(), unseen)
	case openNearer:
		d.Summary = fmt.Sprintf("A device before the host seems to answer for port %d, which may be open or not behind it.", port)
		d.Next = "Ask for transparent proxies and load balancers on the way."
		d.or(Listening, h.destination(r), "the host's TCP may start from another TTL than its ICMP, or the two come back by different ways")
	case openFarther:
		d.Summary = fmt.Sprintf("Port %d is open, on a machine behind the one that answers echoes for this address.", port)
		d.or(Proxy, somewhere(), "the SYN-ACK and the echo reply come from different distances")
	}
}

func (h *Here) sayClosed(d *Diagnosis, r *batch.Result, what direct) {
	port := r.Target.Port()
	d.Summary = fmt.Sprintf("The host answers with a reset: nothing listens on port %d, or the host's own firewall resets.", port)
	d.Next = fmt.Sprintf("Check on the host that the service runs and listens on port %d (ss -ltn).", port)
	d.because("reset", "a TCP reset that acknowledges our SYN came from %s", r.From)
	if what == closedHere {
		d.Summary = fmt.Sprintf("Nothing listens on port %d of this machine, or its own firewall resets.", port)
		d.or(LocalFirewall, hereFault(), "this machine's own rules may redirect the connection to where nothing listens: a batch run does not look")
		return
	}
	d.distances(r, what == closedSame)
	switch what {
	case closed:
		d.or(NetworkFirewall, somewhere(), "nothing else of the host's was seen to compare the reset with: a firewall's reset in the host's name looks the same")
	case closedSame:
		d.or(NetworkFirewall, somewhere(), unseen)
	case closedNearer:
		d.Summary = fmt.Sprintf("A device before the host seems to reset connections to port %d in the host's name.", port)
		d.Next = fmt.Sprintf("Ask for firewalls on the way with a reject rule for tcp/%d.", port)
		d.or(PortClosed, h.destination(r), "the host's TCP may start from another TTL than its ICMP, or the two come back by different ways")
	case closedFarther:
		d.Summary = fmt.Sprintf("Port %d is closed, on a machine behind the one that answers echoes for this address, or the host's own firewall resets.", port)
		d.or(NetworkFirewall, somewhere(), "the reset and the echo reply come from different distances")
	}
}

func (h *Here) sayICMP(d *Diagnosis, r *batch.Result, what direct) {
	target, port, from := r.Target.Addr(), r.Target.Port(), r.From
	word := describe(asReply(r))
	switch {
	case what == refusedHere:
		d.because("local-reject", "%s came from this machine itself", word)
	case from == target:
		d.because("icmp-from-target", "%s came from %s, quoting our SYN", word, from)
	default:
		d.because("icmp-from-router", "%s came from %s, quoting our SYN", word, from)
	}
	const canSend = "a firewall can send the same message, and nothing else of the host's was seen"
	switch what {
	case refusedHere:
		d.Summary = fmt.Sprintf("This machine itself rejects connections to port %d.", port)
		d.Next = "Look at this machine's own firewall (nft list ruleset, iptables -L OUTPUT)."
		d.or(NetworkFirewall, somewhere(), "a tunnel or container network on this machine may have made it")
	case refusedByHost:
		d.Summary = fmt.Sprintf("The host itself refuses connections to port %d (%s).", port, word)
		d.Next = fmt.Sprintf("Look at the firewall of the host %s for rules about tcp/%d.", target, port)
		d.or(NetworkFirewall, somewhere(), "a device in front that owns the host's address (NAT, load balancer) answers so too")
	case refusedByDevice:
		d.Summary = fmt.Sprintf("A device on the way, %s, rejects connections to port %d (%s).", from, port, word)
		d.Next = fmt.Sprintf("Ask whoever runs %s about rules for tcp/%d.", from, port)
		d.or(HostFirewall, h.destination(r), "the host itself may have that address too: a batch run does not look for address translation")
	case behindUnreachable:
		d.Summary = "The target's own address says that it can't reach the machine behind it: a port forward or load balancer whose backend seems to be down."
		d.Next = fmt.Sprintf("Find out where %s forwards port %d to, and whether that machine is up.", target, port)
		d.or(HostFirewall, h.destination(r), "a firewall on %s can send the same message", target)
		d.or(NetworkFirewall, somewhere(), "a firewall in front can send it in the host's name")
	case behindExpired:
		d.Summary = "Behind the target's address the packet goes round until its TTL is used up."
		d.Next = fmt.Sprintf("Ask whoever runs %s where it forwards port %d to.", target, port)
		d.or(NetworkFirewall, deviceAt(from), "a device can send the same message on purpose")
	case hostUnreachable:
		d.Summary = fmt.Sprintf("The host seems to be down: the router %s can't reach it.", from)
		d.Next = fmt.Sprintf("Check that %s is up and connected to the network of %s.", target, from)
		if r.RTT >= searchTime {
			d.Summary = fmt.Sprintf("The host is down: the router %s can't reach it.", from)
			d.because("searched", "it came %s after the SYN: the router searched for the host", ms(r.RTT))
			d.or(Unknown, deviceAt(from), "the next router, and not the host, may be what it can't reach")
			break
		}
		d.or(NetworkFirewall, deviceAt(from), canSend)
	case netUnreachable:
		d.Summary = fmt.Sprintf("The router %s has no route to %s.", from, target)
		d.Next = fmt.Sprintf("Ask whoever runs %s about its route to %s.", from, target)
		d.or(NetworkFirewall, deviceAt(from), canSend)
	case expired:
		d.Summary = fmt.Sprintf("The packet goes round: its TTL was used up at %s.", from)
		d.Next = fmt.Sprintf("Ask whoever runs %s about its route to %s.", from, target)
		d.or(NetworkFirewall, deviceAt(from), "a device that lowers TTLs, or that sends the same message on purpose, looks the same")
	case expiredAlive:
		d.Summary = fmt.Sprintf("SYNs to port %d go round, though the host answers echoes: their TTL was used up at %s.", port, from)
		d.Next = fmt.Sprintf("Ask whoever runs %s about routes and rules for tcp/%d.", from, port)
		d.because("host-alive", "the host answers ICMP echo: other traffic gets there")
		d.or(NetworkFirewall, deviceAt(from), "a rule there can lower the TTL or send the same message on purpose")
	case unreachableAlive:
		d.Summary = fmt.Sprintf("A device on the way, %s, rejects connections to port %d (%s).", from, port, word)
		d.Next = fmt.Sprintf("Ask whoever runs %s about rules for tcp/%d.", from, port)
		d.because("host-alive", "the host answers ICMP echo: neither it nor its network is down")
		d.or(FlowDependent, deviceAt(from), "other source ports may go another way that works")
	}
}

// sayHere words what is about this machine or its link, and a bare ACK.
func (h *Here) sayHere(d *Diagnosis, r *batch.Result, what direct) {
	target, port := r.Target.Addr(), r.Target.Port()
	protocol, family := "ARP", "IPv4"
	if target.Is6() {
		protocol, family = "neighbour discovery", "IPv6"
	}
	const localNext = "Look at this machine's own firewall (nft list ruleset, iptables -L OUTPUT)."
	switch what {
	case oldAck:
		d.Summary = "The other side does not take the SYN for a new connection: it seems to hold an old one from the same source port."
		d.Next = "Try again from another source port."
		d.because("old-connection", "a bare ACK that does not acknowledge our SYN came from %s", r.From)
		d.or(NotAccepting, h.destination(r), "the host may hold the old connection")
		d.or(NetworkFirewall, somewhere(), "a stateful device on the way may hold it")
	case noNeighbor:
		d.Summary = fmt.Sprintf("The host is down: it is on this machine's own network and does not answer %s.", protocol)
		d.Next = fmt.Sprintf("Check that %s is up and connected to the same network as this machine.", target)
		d.because("dead-neighbor", "%s got no answer on the link", protocol)
		d.or(GatewayDown, hereFault(), "a route of this machine may lead over a gateway instead, which does not answer")
	case noGateway:
		d.Summary = fmt.Sprintf("The gateway to %s does not answer %s.", target, protocol)
		d.Next = fmt.Sprintf("Check that the gateway is up and connected to this machine (ip route get %s).", target)
		d.because("dead-neighbor", "%s got no answer from the next hop", protocol)
		d.or(NeighborUnreachable, h.destination(r), "the target itself may be the next hop, by a route that no address of this machine shows")
	case noRouteHere:
		d.Summary = fmt.Sprintf("This machine has no route to %s.", target)
		d.Next = fmt.Sprintf("Look at this machine's routes: ip route get %s", target)
		d.because("no-route", "no route to %s; the kernel refused to send", target)
		d.or(LinkDown, hereFault(), "an interface that is down takes its routes along: a batch run does not look")
	case forbiddenRoute:
		kind := map[rawprobe.Refusal]rawprobe.RouteOutcome{
			rawprobe.RefusedUnreachable: rawprobe.RouteUnreachable,
			rawprobe.RefusedProhibit:    rawprobe.RouteProhibit,
			rawprobe.RefusedBlackhole:   rawprobe.RouteBlackhole,
		}[r.Refused]
		article := "a"
		if kind == rawprobe.RouteUnreachable {
			article = "an"
		}
		d.Summary = fmt.Sprintf("This machine's own routing table has %s %s route for %s.", article, kind, target)
		d.Next = fmt.Sprintf("Look at this machine's routes: ip route get %s", target)
		d.because("no-route", "route type %s; the kernel refused to send", kind)
	case noAddressHere:
		d.Summary = fmt.Sprintf("This machine has no %s address to reach %s from.", family, target)
		d.Next = fmt.Sprintf("Give this machine an %s address, or use a target of the other family.", family)
		d.because("no-address", "no usable %s source address; the kernel refused to send", family)
		d.or(LinkDown, hereFault(), "an interface that is down takes its addresses along: a batch run does not look")
	case linkDownHere:
		d.Summary = "The interface of this machine that leads there is down."
		d.Next = "Bring it up (ip link) and try again."
		d.because("link-down", "the kernel refused to send: the interface is down")
	case firewallDrops:
		d.Summary = fmt.Sprintf("This machine's own firewall drops SYNs to port %d before they leave.", port)
		d.Next = localNext
		d.because("send-refused", "the kernel refused to send the SYN (EPERM)")
		d.or(Unknown, Fault{Where: Nowhere}, "a full table of connections, or a rule that rejects, refuses with the same error")
	case firewallRejects:
		d.Summary = fmt.Sprintf("This machine's own firewall rejects connections to port %d.", port)
		d.Next = localNext
		d.because("send-refused", "the kernel refused to send the SYN (EPERM)")
		d.because("local-reject", "%s came back", describe(asReply(r)))
		d.or(Unknown, Fault{Where: Nowhere}, "a batch run does not look where the answer came in")
	case noBuffer:
		d.Summary = "This machine drops the SYN just before it leaves: an egress filter or a full queue."
		d.Next = "Look at this machine's traffic control and egress rules (tc -s qdisc, nft list ruleset), or lower the rate."
		d.because("send-refused", "the kernel had no room to send (ENOBUFS)")
		d.or(LinkDown, hereFault(), "an interface that can't send fills its queue too")
	case broadcastAddress:
		d.Summary = fmt.Sprintf("No SYN was sent: %s is the broadcast address of this machine's own network, not a host.", target)
		d.Next = "Leave it out."
		d.because("not-sent", "no SYN was sent")
		d.or(NoRoute, hereFault(), "a route that forbids makes the kernel refuse with the same error")
	default:
		d.Summary = fmt.Sprintf("No SYN was sent: nothing is known about port %d.", port)
		d.Next = "Probe it alone to learn more."
		d.because("not-sent", "the kernel refused to send")
		d.or(NetworkFirewall, somewhere(), "a firewall on the way may drop the SYN")
		d.or(HostFirewall, h.destination(r), "the host's own firewall may drop it")
	}
}

// Beside adds to a diagnosis by Direct that the path was traced for another
// port of the same host that met the same verdict, and what came out. It is no
// word about this port: rules may differ.
func (d *Diagnosis) Beside(port uint16, other *Diagnosis) {
	where := ""
	if other.Fault != nil {
		for _, h := range other.Fault.Hops {
			if h.Address.IsValid() && h.TTL > 0 {
				where += fmt.Sprintf(", hop %d (%s)", h.TTL, h.Address)
			}
		}
	}
	d.because("traced-port", "port %d of this host met the same and was traced: %s %s%s", port, other.Verdict, other.Cause, where)
}
