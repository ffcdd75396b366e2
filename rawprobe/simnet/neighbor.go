package simnet

import (
	"encoding/binary"
	"net/netip"
	"time"

	"synprobe/rawprobe"
	"synprobe/rawprobe/netlab"
	"synprobe/rawprobe/wire"
)

// The times of net/core/neighbour.c, by the defaults of net/ipv4/arp.c and
// net/ipv6/ndisc.c.
const (
	retransTime   = time.Second
	solicitations = 3
	reachableTime = 30 * time.Second
	delayProbe    = 5 * time.Second
	// neighborQueue is how many packets wait for an answer: about what fits
	// into unres_qlen_bytes.
	neighborQueue = 101
)

// The states of a neighbour; see linux/neighbour.h.
const (
	incomplete rawprobe.NeighborState = "incomplete"
	reachable  rawprobe.NeighborState = "reachable"
	stale      rawprobe.NeighborState = "stale"
	delayed    rawprobe.NeighborState = "delay"
	probing    rawprobe.NeighborState = "probe"
	failed     rawprobe.NeighborState = "failed"
)

// A hop is an address on one interface's link.
type hop struct {
	out  *iface
	addr netip.Addr
}

// A neighbor is an entry of the neighbour table.
type neighbor struct {
	hop
	state  rawprobe.NeighborState
	mac    [6]byte
	since  time.Time // of the last proof
	asked  int
	src    netip.Addr // whom a solicitation names as its sender
	queue  []*packet
	rounds uint64 // tells a timer that it is an old one
}

// resolve sends a packet to a next hop, whose link-layer address it may have to
// ask for first.
func (n *node) resolve(out *iface, to netip.Addr, p *packet) *refusal {
	if !out.resolves {
		return out.transmit(p, [6]byte{})
	}
	if to.IsMulticast() {
		_, mac := wire.SolicitedNode(p.dst())
		return out.transmit(p, mac)
	}
	e := n.neighbor(hop{out, to})
	if e.state == reachable && time.Since(e.since) > reachableTime {
		e.state = stale
	}
	switch e.state {
	case stale:
		e.state = delayed
		e.wait(delayProbe, func() {
			e.state, e.asked = probing, 0
			e.solicit()
		})
		fallthrough
	case reachable, delayed, probing:
		return out.transmit(p, e.mac)
	case incomplete:
		if len(e.queue) < neighborQueue {
			e.queue = append(e.queue, p)
		}
		return nil
	}
	e.state, e.asked, e.queue = incomplete, 0, []*packet{p}
	e.src = p.src()
	e.solicit()
	return nil
}

func (n *node) neighbor(h hop) *neighbor {
	e := n.neighbors[h]
	if e == nil {
		e = &neighbor{hop: h}
		n.neighbors[h] = e
	}
	return e
}

// wait calls do after d, unless the entry has changed by then.
func (e *neighbor) wait(d time.Duration, do func()) {
	e.rounds++
	round := e.rounds
	e.out.node.net.after(d, func() {
		if e.rounds == round {
			do()
		}
	})
}

// solicit asks for the link-layer address, or gives up.
func (e *neighbor) solicit() {
	n := e.out.node
	if e.asked == solicitations {
		queue := e.queue
		e.state, e.queue = failed, nil
		for _, p := range queue {
			n.hostUnreachable(p)
		}
		return
	}
	e.asked++
	to := broadcast
	if e.state == probing {
		to = e.mac
	}
	src := e.src
	if !src.IsValid() || !n.owns(src) || src.IsLoopback() {
		src = n.sourceOn(e.out, e.addr, e.addr)
	}
	if e.addr.Is4() {
		if src.IsValid() {
			e.out.sendARP(wire.AppendARPRequest(nil, e.out.mac, src, e.addr), to)
		}
	} else {
		if !e.out.has(src) {
			src = e.out.linkLocal
		}
		if p, ok := newPacket(wire.AppendNeighborSolicitation(nil, src, e.addr, e.out.mac)); ok {
			if e.state != probing {
				_, to = wire.SolicitedNode(e.addr)
			}
			n.discover(p, e.out, to)
		}
	}
	e.wait(retransTime, e.solicit)
}

func (i *iface) has(a netip.Addr) bool {
	if i.linkLocal == a {
		return true
	}
	for _, p := range i.addrs {
		if p.Addr() == a {
			return true
		}
	}
	return false
}

// discover sends a message of neighbour discovery: by the firewall, but to an
// address that needs no asking.
func (n *node) discover(p *packet, out *iface, to [6]byte) {
	if n.hook(netlab.Output, p, nil, out) && n.hook(netlab.Postrouting, p, nil, out) {
		_ = out.transmit(p, to)
	}
}

// learn takes in a link-layer address: one that was asked for proves the
// neighbour alive.
func (e *neighbor) learn(mac [6]byte, proof bool) {
	e.mac = mac
	e.rounds++
	if proof {
		e.state, e.since = reachable, time.Now()
	} else if e.state != reachable {
		e.state = stale
	}
	queue := e.queue
	e.queue = nil
	for _, p := range queue {
		_ = e.out.node.resolve(e.out, e.addr, p)
	}
}

// arp takes in an ARP message.
func (n *node) arp(i *iface, f frame) {
	a, err := wire.ParseARP(f.arp)
	if err != nil || !i.resolves {
		return
	}
	known := n.neighbors[hop{i, a.Sender}]
	switch {
	case a.Op == wire.ARPRequest && n.owns(a.Target) && !a.Target.IsLoopback():
		if a.Sender != netip.IPv4Unspecified() {
			n.neighbor(hop{i, a.Sender}).learn(a.SenderHW, false)
		}
		i.sendARP(arpReply(i.mac, a), a.SenderHW)
	case a.Op == wire.ARPReply && known != nil:
		known.learn(a.SenderHW, true)
	}
}

func arpReply(mac [6]byte, a wire.ARP) []byte {
	b := wire.AppendARPRequest(nil, mac, a.Target, a.Sender)
	binary.BigEndian.PutUint16(b[6:], wire.ARPReply)
	copy(b[18:], a.SenderHW[:])
	return b
}

// discovered takes in a message of neighbour discovery.
func (n *node) discovered(p *packet, m wire.ICMP) {
	nd, err := wire.ParseNeighbor(m)
	i := p.in
	if err != nil || p.ttl() != wire.NeighborHopLimit || !i.resolves {
		return
	}
	if !nd.Solicitation {
		if e := n.neighbors[hop{i, nd.Target}]; e != nil && nd.HasLinkAddr {
			e.learn(nd.LinkAddr, nd.Solicited)
		}
		return
	}
	if !i.has(nd.Target) {
		return
	}
	if nd.HasLinkAddr {
		n.neighbor(hop{i, p.src()}).learn(nd.LinkAddr, false)
	}
	u := make([]byte, 24, 32)
	u[0], u[4] = wire.ICMPv6NeighborAdvertisement, 0x60 // solicited, override
	if n.plan.Forward {
		u[4] |= 0x80
	}
	t := nd.Target.As16()
	copy(u[8:], t[:])
	u = append(append(u, 2, 1), i.mac[:]...)
	n.discover(build(nd.Target, p.src(), wire.ProtoICMPv6, wire.NeighborHopLimit, u), i, p.from)
}
