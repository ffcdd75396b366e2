package wire

import (
	"encoding/binary"
	"net/netip"
	"strconv"
)

// A Proto is an IP protocol number: what the payload of an IP packet is. The
// zero value is a number too, IPv6's hop-by-hop header; nothing that a probe
// sends or waits for has it.
type Proto uint8

// The protocols that a SYN probe sends and receives. Any other number may be
// found in a packet too.
const (
	ProtoICMP   Proto = 1
	ProtoTCP    Proto = 6
	ProtoUDP    Proto = 17
	ProtoICMPv6 Proto = 58
)

// String returns the name in lower case, or "protocol N".
func (p Proto) String() string {
	switch p {
	case ProtoICMP:
		return "icmp"
	case ProtoTCP:
		return "tcp"
	case ProtoUDP:
		return "udp"
	case ProtoICMPv6:
		return "icmpv6"
	}
	return "protocol " + strconv.Itoa(int(p))
}

// The IPv6 extension headers that are walked through (RFC 8200 section 4,
// RFC 4302). All others, ESP and "no next header" among them, end the walk:
// nothing behind them can be read.
const (
	protoHopByHop    Proto = 0
	protoRouting     Proto = 43
	protoFragment    Proto = 44
	protoAH          Proto = 51
	protoDestination Proto = 60
)

const (
	ipv4MinHeaderLen = 20
	ipv6HeaderLen    = 40

	// RFC 8200 section 4.1 puts at most six extension headers into one packet
	// (destination options come twice, ESP is not walked). Two more are
	// for senders who cannot count; beyond that somebody plays games.
	maxExtensionHeaders = 8
)

// An IP is the header of an IPv4 (RFC 791) or IPv6 (RFC 8200) packet, with
// IPv6's extension headers folded in. The zero value is no packet: its
// Version is 0.
type IP struct {
	Version  int        // 4 or 6
	Src, Dst netip.Addr // as in the fixed header; IPv6 addresses without a zone

	// FinalDst is the last address of an IPv6 routing header (type 0, 2 or
	// 4, segment routing) that still has segments left: Dst is only the
	// next segment then, while transport checksums and connections go by
	// this. It is the zero Addr in all other packets.
	FinalDst netip.Addr

	TTL          uint8  // the hop limit, in IPv6: routers still allowed, 0 to 255
	Proto        Proto  // what Payload is, behind all extension headers
	ID           uint16 // the IPv4 identification; 0 in IPv6
	FlowLabel    uint32 // IPv6, 20 bits; 0 in IPv4
	TrafficClass uint8  // DSCP and ECN; the former TOS byte in IPv4

	// Fragments (RFC 791 section 3.2, RFC 8200 section 4.5). Where
	// FragmentOffset is not 0, the payload starts in the middle of the
	// original one and holds no transport header. HasFragmentHeader says that
	// there is an IPv6 fragment header.
	DontFragment      bool
	MoreFragments     bool
	FragmentOffset    int // in bytes
	HasFragmentHeader bool

	TotalLen  int  // of the packet, header included, in bytes, as the header says
	HeaderLen int  // bytes before Payload, with IPv4 options or IPv6 extension headers
	Truncated bool // TotalLen is more than was captured: Payload lacks its end

	// ChecksumOK says that the IPv4 header checksum fits. IPv6 has none,
	// and it is true there.
	ChecksumOK bool

	// Payload is what follows the headers. It aliases the parsed bytes and
	// ends where TotalLen says, before any padding of the link layer.
	Payload []byte
}

// ParseIP parses an IPv4 or IPv6 packet that starts at b[0]; the version field
// decides which. IPv4 options and IPv6 extension headers (hop-by-hop, routing,
// destination options, fragment, authentication) are skipped, at most eight of
// the latter. Behind the fragment header of any fragment but the first the
// walk stops, and Proto is whatever that header says comes next.
//
// A packet of which only the beginning was captured is no error as long as
// all headers are there. Errors are ErrTruncated for less than that,
// ErrMalformed for a wrong version, header length or total length.
func ParseIP(b []byte) (IP, error) {
	return parseIP(b, false)
}

// parseIP is ParseIP; for a quoted packet it takes the total length for a mere
// rumour and leaves the payload uncut, and an IPv6 extension header that the
// quote cuts off ends the walk without an error and with no payload.
func parseIP(b []byte, quoted bool) (IP, error) {
	if len(b) == 0 {
		return IP{}, truncated("ip", "version", 0)
	}
	switch b[0] >> 4 {
	case 4:
		return parseIPv4(b, quoted)
	case 6:
		return parseIPv6(b, quoted)
	}
	return IP{}, malformed("ip", "version", 0)
}

func parseIPv4(b []byte, quoted bool) (IP, error) {
	if len(b) < ipv4MinHeaderLen {
		return IP{}, truncated("ipv4", "header", 0)
	}
	headerLen := int(b[0]&0x0f) * 4
	if headerLen < ipv4MinHeaderLen {
		return IP{}, malformed("ipv4", "header length", 0)
	}
	if headerLen > len(b) {
		return IP{}, truncated("ipv4", "options", ipv4MinHeaderLen)
	}
	totalLen := int(binary.BigEndian.Uint16(b[2:]))
	if totalLen < headerLen && !quoted {
		return IP{}, malformed("ipv4", "total length", 2)
	}
	fragment := binary.BigEndian.Uint16(b[6:])
	ip := IP{
		Version:        4,
		TrafficClass:   b[1],
		TotalLen:       totalLen,
		ID:             binary.BigEndian.Uint16(b[4:]),
		DontFragment:   fragment&0x4000 != 0,
		MoreFragments:  fragment&0x2000 != 0,
		FragmentOffset: int(fragment&0x1fff) * 8,
		TTL:            b[8],
		Proto:          Proto(b[9]),
		Src:            netip.AddrFrom4([4]byte(b[12:16])),
		Dst:            netip.AddrFrom4([4]byte(b[16:20])),
		HeaderLen:      headerLen,
		ChecksumOK:     Checksum(b[:headerLen], 0) == 0,
		Truncated:      totalLen > len(b),
	}
	if !quoted && totalLen < len(b) {
		b = b[:totalLen]
	}
	ip.Payload = b[headerLen:]
	return ip, nil
}

func parseIPv6(b []byte, quoted bool) (IP, error) {
	if len(b) < ipv6HeaderLen {
		return IP{}, truncated("ipv6", "header", 0)
	}
	first := binary.BigEndian.Uint32(b)
	ip := IP{
		Version:      6,
		TrafficClass: uint8(first >> 20),
		FlowLabel:    first & 0xfffff,
		TotalLen:     ipv6HeaderLen + int(binary.BigEndian.Uint16(b[4:])),
		Proto:        Proto(b[6]),
		TTL:          b[7],
		Src:          netip.AddrFrom16([16]byte(b[8:24])),
		Dst:          netip.AddrFrom16([16]byte(b[24:40])),
		ChecksumOK:   true,
	}
	ip.Truncated = ip.TotalLen > len(b)
	if !quoted && ip.TotalLen < len(b) {
		b = b[:ip.TotalLen]
	}
	at := ipv6HeaderLen
	for n := 0; ; n++ {
		size, more := ip.extensionHeader(b[at:])
		if !more {
			break
		}
		if n == maxExtensionHeaders {
			if !quoted {
				return IP{}, malformed("ipv6", "number of extension headers", at)
			}
			b = b[:at]
			break
		}
		if size == 0 || size > len(b)-at {
			if !quoted {
				return IP{}, truncated("ipv6", "extension header", at)
			}
			b = b[:at]
			break
		}
		ip.enter(b[at : at+size])
		at += size
		if ip.FragmentOffset != 0 {
			break
		}
	}
	ip.HeaderLen = at
	ip.Payload = b[at:]
	return ip, nil
}

// extensionHeader says whether ip.Proto is an extension header that can be
// walked through, and how many bytes it takes at the start of b: 0 where b is
// too short to tell.
func (ip *IP) extensionHeader(b []byte) (size int, ok bool) {
	switch ip.Proto {
	case protoHopByHop, protoRouting, protoDestination:
		if len(b) < 2 {
			return 0, true
		}
		return (int(b[1]) + 1) * 8, true // RFC 8200 section 4.3: 8 bytes not counted
	case protoFragment:
		return 8, true
	case protoAH:
		if len(b) < 2 {
			return 0, true
		}
		return (int(b[1]) + 2) * 4, true // RFC 4302 section 2.2: words, less 2
	}
	return 0, false
}

// enter takes what matters from the whole extension header h, and moves on to
// the next. Every header that is walked is 8 bytes or longer.
func (ip *IP) enter(h []byte) {
	switch ip.Proto {
	case protoRouting:
		ip.FinalDst = finalSegment(h)
	case protoFragment:
		field := binary.BigEndian.Uint16(h[2:])
		ip.HasFragmentHeader = true
		ip.FragmentOffset = int(field &^ 7) // already in units of 8 bytes
		ip.MoreFragments = field&1 != 0
	}
	ip.Proto = Proto(h[0])
}

// finalSegment returns the last address that a routing header leads to, or the
// zero Addr where that is Dst already, or the type of header is not known.
func finalSegment(h []byte) netip.Addr {
	addrs, segmentsLeft := h[8:], h[3]
	if segmentsLeft == 0 || len(addrs) < 16 {
		return netip.Addr{}
	}
	switch h[2] {
	case 4:
		// RFC 8754 section 2: the segment list is backwards.
		return netip.AddrFrom16([16]byte(addrs[:16]))
	case 0, 2:
		last := len(addrs)/16*16 - 16
		return netip.AddrFrom16([16]byte(addrs[last : last+16]))
	}
	return netip.Addr{}
}

// VerifyPayload computes the checksum of the transport header and its payload.
// Checked is false where that can't be done: a fragment, a truncated packet, a
// protocol other than TCP, UDP, ICMP and ICMPv6, or UDP over IPv4 without a
// checksum. Valid is true only if checked is, too.
//
// Invalid is normal on loopback and veth, and for this machine's own outgoing
// packets: the checksum is left to hardware that may never see the packet
// (TP_STATUS_CSUMNOTREADY in packet(7)).
func (ip IP) VerifyPayload() (valid, checked bool) {
	b := ip.Payload
	if ip.Truncated || ip.MoreFragments || ip.FragmentOffset != 0 {
		return false, false
	}
	switch ip.Proto {
	case ProtoICMP:
		if len(b) < 4 {
			return false, false
		}
		return Checksum(b, 0) == 0, true
	case ProtoTCP:
		if len(b) < tcpMinHeaderLen {
			return false, false
		}
	case ProtoUDP:
		if len(b) < udpHeaderLen {
			return false, false
		}
		if ip.Version == 4 && b[6] == 0 && b[7] == 0 {
			return false, false
		}
		// Bytes beyond UDP's own length belong to nobody's sum but that of
		// the options in them (RFC 9868 section 8).
		if n := int(binary.BigEndian.Uint16(b[4:])); n >= udpHeaderLen && n < len(b) {
			b = b[:n]
		}
	case ProtoICMPv6:
		if len(b) < 4 {
			return false, false
		}
	default:
		return false, false
	}
	dst := ip.Dst
	if ip.FinalDst.IsValid() {
		dst = ip.FinalDst
	}
	sum := PseudoHeaderSum(ip.Src, dst, ip.Proto, len(b))
	return Checksum(b, sum) == 0, true
}
