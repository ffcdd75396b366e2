package pcap

import (
	"encoding/binary"
	"net/netip"
)

// Link types, by their numbers in capture files (https://www.tcpdump.org/linktypes.html).
const (
	linkNull      = 0
	linkEthernet  = 1
	linkRawBSD    = 12 // what some systems write for linkRaw
	linkRawOther  = 14
	linkRaw       = 101
	linkLoop      = 108
	linkLinuxSLL  = 113
	linkIPv4      = 228
	linkIPv6      = 229
	linkLinuxSLL2 = 276
)

// Types of Linux's interfaces (linux/if_arp.h).
const (
	hardwareEthernet = 1
	hardwareLoopback = 772
	hardwareNone     = 0xfffe
)

// Tags of VLANs: IEEE 802.1Q, 802.1ad, and what was used before that.
const (
	etherTypeVLAN     = 0x8100
	etherTypeProvider = 0x88a8
	etherTypeOldQinQ  = 0x9100
	maxTags           = 4
)

// sllLen is the length of the header of LINKTYPE_LINUX_SLL: packet type, ARPHRD type, length of the address, address (8
// bytes), protocol.
const sllLen = 16

// The packet types of both of Linux's headers are those of packet(7).
var sllDirections = []Direction{Incoming, Incoming, Incoming, OtherHost, Outgoing}

// appendSLL adds the header of LINKTYPE_LINUX_SLL.
func appendSLL(b []byte, p *Captured) []byte {
	typ := uint16(7) // PACKET_KERNEL: no way that a packet goes
	switch p.Direction {
	case Incoming:
		typ = 0
	case OtherHost:
		typ = 3
	case Outgoing:
		typ = 4
	}
	hardware := uint16(hardwareNone)
	switch {
	case p.Loopback:
		hardware = hardwareLoopback
	case p.LinkAddrLen == 6 || p.EtherType == EtherTypeARP:
		hardware = hardwareEthernet
	}
	b = binary.BigEndian.AppendUint16(b, typ)
	b = binary.BigEndian.AppendUint16(b, hardware)
	b = binary.BigEndian.AppendUint16(b, uint16(p.LinkAddrLen))
	b = append(b, p.LinkAddr[:]...)
	return binary.BigEndian.AppendUint16(b, p.EtherType)
}

// unwrap takes the link-layer header off p.Data and notes what it says. Where it is not understood, p.Data stays
// whole and p.EtherType 0. A direction that is known already is kept.
func (p *Captured) unwrap(link uint16) {
	frame, at := p.Data, 0
	var typ uint16
	switch link {
	case linkEthernet:
		if len(frame) < 14 {
			return
		}
		p.address(frame[6:12], 6)
		typ, at = binary.BigEndian.Uint16(frame[12:]), 14
	case linkLinuxSLL:
		if len(frame) < sllLen {
			return
		}
		p.linux(binary.BigEndian.Uint16(frame), binary.BigEndian.Uint16(frame[2:]))
		p.address(frame[6:14], int(binary.BigEndian.Uint16(frame[4:])))
		typ, at = binary.BigEndian.Uint16(frame[14:]), sllLen
	case linkLinuxSLL2: // protocol, reserved, interface, ARPHRD type, packet type, length of the address, address
		if len(frame) < 20 {
			return
		}
		p.linux(uint16(frame[10]), binary.BigEndian.Uint16(frame[8:]))
		p.address(frame[12:20], int(frame[11]))
		typ, at = binary.BigEndian.Uint16(frame), 20
	case linkNull, linkLoop:
		// The address family before the packet differs from system to system, and so may its byte order: the packet
		// says itself what it is. Tunnels of BSD and macOS have this header too.
		at = 4
		typ = version(frame, at)
		p.Loopback = toItself(frame[min(at, len(frame)):], typ)
	case linkRaw, linkRawBSD, linkRawOther, linkIPv4, linkIPv6:
		typ = version(frame, at)
	}
	for range maxTags {
		if typ != etherTypeVLAN && typ != etherTypeProvider && typ != etherTypeOldQinQ || len(frame) < at+4 {
			break
		}
		typ, at = binary.BigEndian.Uint16(frame[at+2:]), at+4
	}
	if typ < 0x0600 { // a length (IEEE 802.3), or nothing
		return
	}
	p.EtherType = typ
	p.Data = frame[at:]
	p.Length = max(p.Length-at, len(p.Data))
}

// version is the EtherType of an IP packet, by its first bits.
func version(frame []byte, at int) uint16 {
	if len(frame) <= at {
		return 0
	}
	switch frame[at] >> 4 {
	case 4:
		return EtherTypeIPv4
	case 6:
		return EtherTypeIPv6
	}
	return 0
}

// toItself reports whether an IP packet stays on the machine that sends it, by its addresses.
func toItself(packet []byte, typ uint16) bool {
	at, size := 12, 4
	if typ == EtherTypeIPv6 {
		at, size = 8, 16
	}
	if typ == 0 || len(packet) < at+2*size {
		return false
	}
	src, _ := netip.AddrFromSlice(packet[at : at+size])
	dst, _ := netip.AddrFromSlice(packet[at+size : at+2*size])
	return src == dst || src.IsLoopback() || dst.IsLoopback()
}

func (p *Captured) linux(typ, hardware uint16) {
	if p.Direction == Unknown && int(typ) < len(sllDirections) {
		p.Direction = sllDirections[typ]
	}
	p.Loopback = hardware == hardwareLoopback
}

func (p *Captured) address(b []byte, n int) {
	p.LinkAddrLen = copy(p.LinkAddr[:], b[:min(n, len(b))])
}
