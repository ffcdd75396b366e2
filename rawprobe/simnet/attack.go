package simnet

import (
	"slices"
	"time"

	"synprobe/rawprobe/netlab"
	"synprobe/rawprobe/wire"
)

// An Attacker sits at a node and is shown each packet that comes in there from
// a link, before the node gets it: an IP packet from its IP header on, or an
// ARP message. It says what becomes of it. It must keep nothing of the packet,
// change nothing in it, and call no method of the network.
type Attacker func(packet []byte) Attack

// An Attack is what an Attacker does about one packet. The zero Attack lets it
// pass.
type Attack struct {
	// Swallow keeps the packet from the node.
	Swallow bool
	// Again are the times after which the node gets a copy of it: to delay a
	// packet is to swallow it, and to hand it on later.
	Again []time.Duration
	// Back are packets that go to where this one came from, In those that the
	// node gets as if they had come from there. Nothing about them has to be
	// right: they go as they are, past the firewall of the attacker's node, and
	// it is for the receiver to bear them.
	Back, In []Forged
}

// A Forged is a packet of the attacker's own, and how long it waits with it.
type Forged struct {
	Packet []byte
	After  time.Duration
}

// Attack puts an attacker on a node, nil for none.
func (s *Net) Attack(on string, a Attacker) error {
	return s.with(on, func(n *node) error { n.attacker = a; return nil })
}

// attack asks the node's attacker about a frame that came in. It reports
// whether the node gets it.
func (n *node) attack(i *iface, f frame) bool {
	if n.attacker == nil || i.loopback {
		return true
	}
	b := f.arp
	if f.packet != nil {
		b = f.packet.b
	}
	a := n.attacker(b)
	for _, d := range a.Again {
		got := f
		if f.packet != nil {
			got.packet = f.packet.clone()
		}
		n.net.after(d, func() { i.take(got) })
	}
	for _, p := range a.Back {
		n.net.after(p.After, func() { i.inject(p.Packet, f.from) })
	}
	for _, p := range a.In {
		n.net.after(p.After, func() { i.take(raw(p.Packet, f.from, f.to)) })
	}
	return !a.Swallow
}

// inject sends what need not be a packet.
func (i *iface) inject(b []byte, to [6]byte) {
	if i.carrier() {
		i.seg.send(i, raw(b, i.mac, to))
	}
}

// raw is a frame of what need not be a packet.
func raw(b []byte, from, to [6]byte) frame {
	f := frame{from: from, to: to}
	if netlab.IsARP(b) {
		f.arp = slices.Clone(b)
	} else {
		f.packet = &packet{b: slices.Clone(b), v6: len(b) > 0 && b[0]>>4 == 6, from: from}
	}
	return f
}

// sound does what the kernel does first with a packet that came in
// (net/ipv4/ip_input.c, ip_rcv_core; net/ipv6/ip6_input.c, ip6_rcv_core): it
// reports false where the packet is no packet, and takes off what is behind its
// end.
func (p *packet) sound() bool {
	ip, err := wire.ParseIP(p.b)
	if err != nil && len(p.b) >= 40 && p.b[0]>>4 == 6 {
		// The extension headers are looked at later.
		ip.Version, ip.TotalLen, ip.ChecksumOK = 6, 40+int(p.b[4])<<8+int(p.b[5]), true
	} else if err != nil {
		return false
	}
	if ip.TotalLen > len(p.b) || !ip.ChecksumOK {
		return false
	}
	p.v6, p.header = ip.Version == 6, 40
	if !p.v6 {
		p.header = ip.HeaderLen
	}
	p.b = p.b[:ip.TotalLen]
	return true
}

// damaged reports whether the transport checksum of a packet is wrong.
func (p *packet) damaged() bool {
	ip, err := wire.ParseIP(p.b)
	if err != nil {
		return true
	}
	valid, checked := ip.VerifyPayload()
	return checked && !valid
}
