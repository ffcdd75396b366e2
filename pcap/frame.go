package pcap

import (
	"encoding/binary"
	"time"
)

// The layout of one frame of a TPACKET_V2 ring on a SOCK_DGRAM socket (linux/if_packet.h; filled by tpacket_rcv
// in net/packet/af_packet.c), in the machine's own byte order but for the protocol:
//
//	 0  struct tpacket2_hdr   status, length, snapped length, mac and net offset, seconds, nanoseconds, VLAN
//	32  struct sockaddr_ll    family, protocol, interface, hardware type, packet type, address length, address
//	80  the packet            TPACKET_ALIGN(32 + 20) and 16 bytes that the kernel keeps before a cooked packet
//
// The offsets are written out here, not taken from golang.org/x/sys/unix, so that the parser builds and is fuzzed
// everywhere; a test on Linux compares them.
const (
	frameStatus   = 0
	frameLen      = 4
	frameSnap     = 8
	frameNet      = 14
	frameSec      = 16
	frameNsec     = 20
	frameProtocol = 34
	frameIfindex  = 36
	framePkttype  = 42
	frameHalen    = 43
	frameAddr     = 44
	frameHeader   = 52
	frameData     = 80

	// frameSize is the size of a frame unless the snap length asks for more.
	frameSize = 2048
	// frameAlign is TPACKET_ALIGNMENT.
	frameAlign = 16
)

// Bits of a frame's status (linux/if_packet.h). TP_STATUS_LOSING may be set beside them, on every frame after a drop
// until the statistics are read; Stats says it better, so it is not looked at.
const (
	statusKernel          = 0
	statusUser            = 1 << 0
	statusChecksumPartial = 1 << 3
)

// Packet types (linux/if_packet.h).
const (
	typeHost      = 0
	typeBroadcast = 1
	typeMulticast = 2
	typeOtherHost = 3
	typeOutgoing  = 4
)

// frameTime returns the time stamp of a frame. The seconds are unsigned: good until the year 2106.
func frameTime(f []byte) time.Time {
	return time.Unix(int64(binary.NativeEndian.Uint32(f[frameSec:])), int64(binary.NativeEndian.Uint32(f[frameNsec:])))
}

// parseFrame fills p from a frame that the kernel has handed over, and keeps at most snap bytes of its packet. It reports
// false, and leaves p alone, where the frame is too short for its own headers or its packet would lie outside of it:
// no kernel writes that, but the memory is shared, and a read beyond it would be a fault.
func parseFrame(f []byte, snap int, p *Packet) bool {
	if len(f) < frameHeader {
		return false
	}
	at := int(binary.NativeEndian.Uint16(f[frameNet:]))
	n := binary.NativeEndian.Uint32(f[frameSnap:])
	if at < frameHeader || at > len(f) || uint64(n) > uint64(len(f)-at) {
		return false
	}
	data := f[at : at+min(int(n), snap)]

	p.Data = append(p.Data[:0], data...)
	p.Length = max(int(binary.NativeEndian.Uint32(f[frameLen:])), int(n))
	p.Time = frameTime(f)
	p.Interface = int(int32(binary.NativeEndian.Uint32(f[frameIfindex:])))
	p.Direction = direction(f[framePkttype])
	p.EtherType = etherType(binary.BigEndian.Uint16(f[frameProtocol:]), data)
	p.LinkAddr = [8]byte{}
	p.LinkAddrLen = copy(p.LinkAddr[:], f[frameAddr:frameAddr+min(int(f[frameHalen]), len(p.LinkAddr))])
	p.ChecksumPartial = binary.NativeEndian.Uint32(f[frameStatus:])&statusChecksumPartial != 0
	return true
}

// direction translates the packet type of sockaddr_ll.
func direction(pkttype byte) Direction {
	switch pkttype {
	case typeHost, typeBroadcast, typeMulticast:
		return Incoming
	case typeOtherHost:
		return OtherHost
	case typeOutgoing:
		return Outgoing
	}
	return Unknown
}

// etherType returns what data holds. Before Linux 6.10 a packet that leaves through a VLAN device in software was seen
// on the parent with the tag's own type, though its data begins after the tag (vlan_get_protocol_dgram in
// net/packet/af_packet.c was added then): there the version of the IP header tells.
func etherType(protocol uint16, data []byte) uint16 {
	if (protocol == 0x8100 || protocol == 0x88a8) && len(data) > 0 {
		switch data[0] >> 4 {
		case 4:
			return EtherTypeIPv4
		case 6:
			return EtherTypeIPv6
		}
	}
	return protocol
}

// A geometry is how a ring is cut up: frames lie in blocks, one after the other, and none crosses the end of a block
// (packet_set_ring in net/packet/af_packet.c).
type geometry struct {
	frame  int // bytes
	block  int // bytes, whole pages
	blocks int
}

// ringGeometry returns a ring of at least buffer bytes whose frames hold snap bytes of packet. Frames and blocks are
// powers of two, so that the blocks are filled to the end.
func ringGeometry(buffer, snap, page int) geometry {
	g := geometry{frame: frameSize, block: page}
	for g.frame < frameData+snap {
		g.frame *= 2
	}
	g.block = max(g.block, g.frame)
	g.blocks = max(1, (buffer+g.block-1)/g.block)
	return g
}

func (g geometry) frames() int { return g.block / g.frame * g.blocks }
func (g geometry) size() int   { return g.block * g.blocks }
