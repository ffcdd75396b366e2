package wire

import (
	"encoding/binary"
	"net/netip"
)

// ARP operations (RFC 826).
const (
	ARPRequest uint16 = 1
	ARPReply   uint16 = 2
)

// arpLen is the length of an ARP packet for Ethernet and IPv4, in bytes.
const arpLen = 28

// An ARP is an ARP packet for IPv4 on Ethernet (RFC 826).
type ARP struct {
	Op                 uint16     // ARPRequest, ARPReply or another
	SenderHW, TargetHW [6]byte    // TargetHW is zeros in most requests
	Sender, Target     netip.Addr // IPv4; Sender is 0.0.0.0 in an address probe (RFC 5227)
}

// ParseARP parses an ARP packet that starts at b[0], behind the Ethernet
// header. Padding after it is ignored. Errors are ErrTruncated, and
// ErrMalformed for any other hardware or protocol than Ethernet and IPv4.
func ParseARP(b []byte) (ARP, error) {
	if len(b) < 8 {
		return ARP{}, truncated("arp", "header", 0)
	}
	if binary.BigEndian.Uint16(b) != 1 || b[4] != 6 {
		return ARP{}, malformed("arp", "hardware type", 0)
	}
	if binary.BigEndian.Uint16(b[2:]) != 0x0800 || b[5] != 4 {
		return ARP{}, malformed("arp", "protocol type", 2)
	}
	if len(b) < arpLen {
		return ARP{}, truncated("arp", "addresses", 8)
	}
	return ARP{
		Op:       binary.BigEndian.Uint16(b[6:]),
		SenderHW: [6]byte(b[8:14]),
		Sender:   netip.AddrFrom4([4]byte(b[14:18])),
		TargetHW: [6]byte(b[18:24]),
		Target:   netip.AddrFrom4([4]byte(b[24:28])),
	}, nil
}

// AppendARPRequest appends to b a request that asks who has target, and returns
// the result. It is 28 bytes long and starts at the ARP header: a packet
// socket of type SOCK_DGRAM adds the Ethernet header, whose destination is
// broadcast. An address that is not IPv4 is written as 0.0.0.0, which as the
// sender asks without making itself known (RFC 5227 section 2.1.1).
func AppendARPRequest(b []byte, senderHW [6]byte, sender, target netip.Addr) []byte {
	b = append(b,
		0, 1, // Ethernet
		8, 0, // IPv4
		6, 4, // lengths of their addresses
		0, byte(ARPRequest))
	b = append(b, senderHW[:]...)
	s, t := as4(sender), as4(target)
	b = append(b, s[:]...)
	b = append(b, 0, 0, 0, 0, 0, 0) // what is asked for
	return append(b, t[:]...)
}

// as4 is Addr.As4 without its panic.
func as4(a netip.Addr) [4]byte {
	if a = a.Unmap(); a.Is4() {
		return a.As4()
	}
	return [4]byte{}
}

// NeighborHopLimit is the hop limit (IP.TTL) that every neighbour discovery
// packet has to arrive with: a lower one crossed a router and is forged (RFC
// 4861 sections 7.1.1 and 7.1.2).
const NeighborHopLimit = 255

// A Neighbor is a neighbour solicitation or advertisement (RFC 4861 sections
// 4.3 and 4.4).
type Neighbor struct {
	Solicitation bool       // false for an advertisement
	Target       netip.Addr // whose link-layer address is asked for or told; without a zone

	// Of an advertisement: the sender is a router; it answers a
	// solicitation; the link-layer address replaces a known one.
	Router, Solicited, Override bool

	// LinkAddr is the Ethernet address in the source (solicitation) or target
	// (advertisement) link-layer address option. HasLinkAddr is false where
	// there is none.
	HasLinkAddr bool
	LinkAddr    [6]byte
}

const (
	neighborLen  = 24 // ICMPv6 header and target
	optSourceLLA = 1  // RFC 4861 section 4.6.1
	optTargetLLA = 2
)

// ParseNeighbor reads m as a neighbour solicitation or advertisement. Before
// believing it the caller has to check what is not in m: that the packet
// arrived with a hop limit of [NeighborHopLimit], that it was no fragment (RFC
// 6980), and that its checksum fits.
//
// Errors are ErrTruncated, and ErrMalformed for any other type of message and
// for whatever RFC 4861 sections 7.1.1 and 7.1.2 tell a node to discard: a
// code other than 0, a multicast target, an option without a length or longer
// than the packet.
func ParseNeighbor(m ICMP) (Neighbor, error) {
	var n Neighbor
	want := uint8(optTargetLLA)
	switch {
	case !m.V6:
		return Neighbor{}, malformed("neighbor", "icmp type", 0)
	case m.Type == ICMPv6NeighborSolicitation:
		n.Solicitation = true
		want = optSourceLLA
	case m.Type == ICMPv6NeighborAdvertisement:
		n.Router = m.Rest&(1<<31) != 0
		n.Solicited = m.Rest&(1<<30) != 0
		n.Override = m.Rest&(1<<29) != 0
	default:
		return Neighbor{}, malformed("neighbor", "icmp type", 0)
	}
	if m.Code != 0 {
		return Neighbor{}, malformed("neighbor", "icmp code", 1)
	}
	if len(m.Body) < 16 {
		return Neighbor{}, truncated("neighbor", "target", icmpHeaderLen)
	}
	n.Target = netip.AddrFrom16([16]byte(m.Body[:16]))
	if n.Target.IsMulticast() {
		return Neighbor{}, malformed("neighbor", "target", icmpHeaderLen)
	}
	for at := 16; at < len(m.Body); {
		b := m.Body[at:]
		if len(b) < 2 || b[1] == 0 || int(b[1])*8 > len(b) {
			return Neighbor{}, malformed("neighbor", "option length", icmpHeaderLen+at)
		}
		// RFC 2464 section 6: one unit of 8 bytes holds an Ethernet address.
		// Other links have longer ones, and are not spoken here.
		if b[0] == want && b[1] == 1 && !n.HasLinkAddr {
			n.HasLinkAddr, n.LinkAddr = true, [6]byte(b[2:8])
		}
		at += int(b[1]) * 8
	}
	return n, nil
}

// SolicitedNode returns the multicast address at which the owner of target
// listens for solicitations (RFC 4291 section 2.7.1), and the Ethernet address
// that it maps to (RFC 2464 section 7). Target has to be an IPv6 address.
func SolicitedNode(target netip.Addr) (netip.Addr, [6]byte) {
	t := target.As16()
	a := netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]})
	return a, [6]byte{0x33, 0x33, 0xff, t[13], t[14], t[15]}
}

// AppendNeighborSolicitation appends to b an IPv6 packet that asks who has
// target, and returns the result. It goes to target's [SolicitedNode] address
// with a hop limit of 255 and tells hw as the source's Ethernet address, so
// that the answer needs no question of its own. A source of :: leaves that
// out, as RFC 4861 section 4.3 demands. Zones are ignored; src and target have
// to be IPv6 addresses.
func AppendNeighborSolicitation(b []byte, src, target netip.Addr, hw [6]byte) []byte {
	dst, _ := SolicitedNode(target)
	s, d, t := src.As16(), dst.As16(), target.As16()
	known := s != [16]byte{}
	size := neighborLen
	if known {
		size += 8
	}
	b = append(b, 0x60, 0, 0, 0, 0, byte(size), byte(ProtoICMPv6), NeighborHopLimit)
	b = append(b, s[:]...)
	b = append(b, d[:]...)
	start := len(b)
	b = append(b, ICMPv6NeighborSolicitation, 0, 0, 0, 0, 0, 0, 0)
	b = append(b, t[:]...)
	if known {
		b = append(b, optSourceLLA, 1)
		b = append(b, hw[:]...)
	}
	sum := PseudoHeaderSum(netip.AddrFrom16(s), dst, ProtoICMPv6, size)
	binary.BigEndian.PutUint16(b[start+2:], Checksum(b[start:], sum))
	return b
}
