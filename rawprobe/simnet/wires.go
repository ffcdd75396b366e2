package simnet

import (
	"net/netip"
	"time"

	"synprobe/pcap"
	"synprobe/rawprobe/netlab"
)

// A segment is what joins interfaces: a cable, a tunnel, a switch.
type segment struct {
	net   *Net
	link  *netlab.Link
	ends  []*iface
	lanes []*netlab.Lane // by the end that sends; nil on a perfect line
}

func newSegment(s *Net, l *netlab.Link) *segment {
	g := &segment{net: s, link: l, ends: make([]*iface, len(l.Ends))}
	if l.Wire != nil {
		for e := range l.Ends {
			g.lanes = append(g.lanes, l.Wire.Lane(e))
		}
	}
	return g
}

// A frame is what a link carries: an IP packet or an ARP message.
type frame struct {
	from, to [6]byte // zero on links without addresses
	packet   *packet
	arp      []byte
}

var broadcast = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// send carries a frame to the other ends that it is for.
func (g *segment) send(from *iface, f frame) {
	now := time.Now()
	arrivals := []time.Time{now.Add(g.net.opt.Delay)}
	if g.lanes != nil {
		// Never at once: an RTT of 0 is one that was not measured.
		arrivals = g.lanes[from.end].Next(now.Add(g.net.opt.Delay))
	}
	for _, to := range g.ends {
		if to == from || !to.hears(f.to) {
			continue
		}
		for _, at := range arrivals {
			got := f
			if f.packet != nil {
				got.packet = f.packet.clone()
				got.packet.from = f.from
			}
			g.net.at(at, func() { to.receive(got) })
		}
	}
}

// hears reports whether a link-layer address is the interface's, or a group's.
func (i *iface) hears(to [6]byte) bool { return !i.ethernet || to[0]&1 != 0 || to == i.mac }

// An iface is one interface of a node.
type iface struct {
	node     *node
	index    int
	name     string
	loopback bool
	up       bool
	pulled   bool // its cable is
	seg      *segment
	end      int
	mac      [6]byte
	ethernet bool // the link has link-layer addresses
	resolves bool // next hops are asked for theirs
	mtu      int
	// lower is the index of the device below a macvlan, on which a tap sees
	// each packet once more; 0 for none.
	lower int

	addrs     []netip.Prefix
	linkLocal netip.Addr // the zero Addr where it has none
}

// carrier reports whether the link below is up: IFF_LOWER_UP.
func (i *iface) carrier() bool {
	switch {
	case !i.up || i.pulled:
		return false
	case i.loopback:
		return true
	}
	switch i.seg.link.Kind {
	case netlab.Veth, netlab.Macvlan:
		other := i.seg.ends[1-i.end]
		return other.up && !other.pulled
	}
	return true
}

// transmit sends a packet to a link-layer address. It reports what Linux calls
// NET_XMIT_DROP as a refusal.
func (i *iface) transmit(p *packet, to [6]byte) *refusal {
	n := i.node
	if !i.up {
		return refuseDown
	}
	if !n.hook(netlab.Egress, p, p.in, i) {
		return refuseNoBuffer
	}
	if i.loopback {
		n.tap(i, pcap.Outgoing, p.b, false)
		back := &packet{b: p.b, v6: p.v6, header: p.header, conn: p.conn, reply: p.reply, state: p.state}
		n.net.after(0, func() { i.receive(frame{packet: back}) })
		return nil
	}
	if n.dead {
		return nil
	}
	n.tap(i, pcap.Outgoing, p.b, false)
	if i.carrier() {
		i.seg.send(i, frame{from: i.mac, to: to, packet: p})
	}
	return nil
}

// sendARP sends an ARP message.
func (i *iface) sendARP(b []byte, to [6]byte) {
	if !i.up || i.node.dead {
		return
	}
	i.node.tap(i, pcap.Outgoing, b, true)
	if i.carrier() {
		i.seg.send(i, frame{from: i.mac, to: to, arp: b})
	}
}

// receive takes in what has arrived, unless somebody keeps it from the node.
func (i *iface) receive(f frame) {
	if i.carrier() && i.node.attack(i, f) {
		i.take(f)
	}
}

func (i *iface) take(f frame) {
	n := i.node
	if f.arp != nil {
		n.tap(i, pcap.Incoming, f.arp, true)
		if !n.dead {
			n.arp(i, f)
		}
		return
	}
	p := f.packet
	p.in = i
	n.tap(i, pcap.Incoming, p.b, false)
	if n.dead && !i.loopback || !p.sound() || !n.hook(netlab.Ingress, p, i, nil) {
		return
	}
	n.receive(p)
}
