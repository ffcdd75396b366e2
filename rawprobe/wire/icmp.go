package wire

import (
	"encoding/binary"
	"strconv"
)

// ICMP types (RFC 792).
const (
	ICMPv4EchoReply              uint8 = 0
	ICMPv4DestinationUnreachable uint8 = 3
	ICMPv4SourceQuench           uint8 = 4 // deprecated by RFC 6633
	ICMPv4Redirect               uint8 = 5
	ICMPv4EchoRequest            uint8 = 8
	ICMPv4TimeExceeded           uint8 = 11
	ICMPv4ParameterProblem       uint8 = 12
)

// Codes of ICMPv4DestinationUnreachable, as far as they are used here: 0 to 5
// from RFC 792, 13 from RFC 1812 section 5.2.7.1.
const (
	ICMPv4NetUnreachable         uint8 = 0
	ICMPv4HostUnreachable        uint8 = 1
	ICMPv4PortUnreachable        uint8 = 3
	ICMPv4FragmentationNeeded    uint8 = 4
	ICMPv4SourceRouteFailed      uint8 = 5
	ICMPv4AdminProhibited        uint8 = 13
	ICMPv4TTLExceededInTransit   uint8 = 0 // of ICMPv4TimeExceeded
	ICMPv4ReassemblyTimeExceeded uint8 = 1 // of ICMPv4TimeExceeded
)

// ICMPv6 types (RFC 4443, RFC 4861).
const (
	ICMPv6DestinationUnreachable uint8 = 1
	ICMPv6PacketTooBig           uint8 = 2
	ICMPv6TimeExceeded           uint8 = 3
	ICMPv6ParameterProblem       uint8 = 4
	ICMPv6EchoRequest            uint8 = 128
	ICMPv6EchoReply              uint8 = 129
	ICMPv6NeighborSolicitation   uint8 = 135
	ICMPv6NeighborAdvertisement  uint8 = 136
)

// Codes of ICMPv6DestinationUnreachable (RFC 4443 section 3.1) and of
// ICMPv6TimeExceeded (RFC 4443 section 3.3), as far as they are used here.
const (
	ICMPv6NoRoute            uint8 = 0
	ICMPv6AdminProhibited    uint8 = 1
	ICMPv6AddressUnreachable uint8 = 3
	ICMPv6PortUnreachable    uint8 = 4
	ICMPv6HopLimitExceeded   uint8 = 0 // of ICMPv6TimeExceeded
)

// icmpHeaderLen is that of every message this package has a use for: the four
// common bytes, and four whose meaning depends on the type.
const icmpHeaderLen = 8

// An ICMP is an ICMP (RFC 792) or ICMPv6 (RFC 4443) message. The zero value is
// an IPv4 echo reply and says nothing.
type ICMP struct {
	V6         bool
	Type, Code uint8
	Checksum   uint16 // as found; IP.VerifyPayload checks it

	// Rest holds bytes 4 to 7 as they are, in network byte order. The fields
	// below are read from it, where the type has them, and are 0 elsewhere.
	Rest uint32

	ID, Seq uint16 // of an echo request or reply
	MTU     uint32 // in bytes: IPv4 type 3 code 4 (RFC 1191), where 0 is "not told", and IPv6 type 2
	Pointer uint32 // of a parameter problem: the offset of the fault in the quoted packet, in bytes

	// Body is what follows the first 8 bytes: the data of an echo, or the
	// quoted packet with whatever comes after it. It aliases the parsed bytes.
	Body []byte
}

// ParseICMPv4 parses an ICMP message that starts at b[0]. The only error is
// ErrTruncated, for less than 8 bytes.
func ParseICMPv4(b []byte) (ICMP, error) {
	if len(b) < icmpHeaderLen {
		return ICMP{}, truncated("icmp", "header", 0)
	}
	m := parseICMP(b)
	switch m.Type {
	case ICMPv4EchoRequest, ICMPv4EchoReply:
		m.ID, m.Seq = uint16(m.Rest>>16), uint16(m.Rest)
	case ICMPv4DestinationUnreachable:
		if m.Code == ICMPv4FragmentationNeeded {
			m.MTU = m.Rest & 0xffff // RFC 1191 section 4: the low half
		}
	case ICMPv4ParameterProblem:
		m.Pointer = m.Rest >> 24
	}
	return m, nil
}

// ParseICMPv6 parses an ICMPv6 message that starts at b[0]. The only error is
// ErrTruncated, for less than 8 bytes.
func ParseICMPv6(b []byte) (ICMP, error) {
	if len(b) < icmpHeaderLen {
		return ICMP{}, truncated("icmpv6", "header", 0)
	}
	m := parseICMP(b)
	m.V6 = true
	switch m.Type {
	case ICMPv6EchoRequest, ICMPv6EchoReply:
		m.ID, m.Seq = uint16(m.Rest>>16), uint16(m.Rest)
	case ICMPv6PacketTooBig:
		m.MTU = m.Rest
	case ICMPv6ParameterProblem:
		m.Pointer = m.Rest
	}
	return m, nil
}

func parseICMP(b []byte) ICMP {
	return ICMP{
		Type:     b[0],
		Code:     b[1],
		Checksum: binary.BigEndian.Uint16(b[2:]),
		Rest:     binary.BigEndian.Uint32(b[4:]),
		Body:     b[icmpHeaderLen:],
	}
}

// IsEchoRequest reports whether m is an echo request of its family.
func (m ICMP) IsEchoRequest() bool {
	if m.V6 {
		return m.Type == ICMPv6EchoRequest
	}
	return m.Type == ICMPv4EchoRequest
}

// IsEchoReply reports whether m is an echo reply of its family.
func (m ICMP) IsEchoReply() bool {
	if m.V6 {
		return m.Type == ICMPv6EchoReply
	}
	return m.Type == ICMPv4EchoReply
}

// IsError reports whether m says that the quoted packet came to an end on its
// way: destination unreachable, packet too big, time exceeded and parameter
// problem. A source quench and a redirect carry a quote without saying that;
// see HasQuote.
func (m ICMP) IsError() bool {
	if m.V6 {
		switch m.Type {
		case ICMPv6DestinationUnreachable, ICMPv6PacketTooBig, ICMPv6TimeExceeded, ICMPv6ParameterProblem:
			return true
		}
		return false
	}
	switch m.Type {
	case ICMPv4DestinationUnreachable, ICMPv4TimeExceeded, ICMPv4ParameterProblem:
		return true
	}
	return false
}

// HasQuote reports whether the body of m starts with the packet that m is
// about: all errors, and in IPv4 source quench and redirect as well. The
// ICMPv6 redirect keeps its quote in an option and is not among them.
func (m ICMP) HasQuote() bool {
	return m.IsError() || !m.V6 && (m.Type == ICMPv4SourceQuench || m.Type == ICMPv4Redirect)
}

// Describe returns what m says in the plain words of the RFC that defines its
// type and code. An unknown code is "destination unreachable, code 42", an
// unknown type "type 77, code 0".
func (m ICMP) Describe() string {
	name, codes := m.words()
	if int(m.Code) < len(codes) {
		return codes[m.Code]
	}
	if name == "" {
		name = "type " + strconv.Itoa(int(m.Type))
	} else if codes == nil && m.Code == 0 {
		return name
	}
	return name + ", code " + strconv.Itoa(int(m.Code))
}

// words returns the name of the type, empty if unknown, and those of its
// codes, nil if the type has only code 0.
func (m ICMP) words() (name string, codes []string) {
	if m.V6 {
		switch m.Type {
		case ICMPv6DestinationUnreachable:
			return "destination unreachable", unreachableWords6
		case ICMPv6PacketTooBig:
			return "packet too big", nil
		case ICMPv6TimeExceeded:
			return "time exceeded", timeExceededWords6
		case ICMPv6ParameterProblem:
			return "parameter problem", parameterWords6
		case ICMPv6EchoRequest:
			return "echo request", nil
		case ICMPv6EchoReply:
			return "echo reply", nil
		case ICMPv6NeighborSolicitation:
			return "neighbor solicitation", nil
		case ICMPv6NeighborAdvertisement:
			return "neighbor advertisement", nil
		}
		return "", nil
	}
	switch m.Type {
	case ICMPv4EchoReply:
		return "echo reply", nil
	case ICMPv4DestinationUnreachable:
		return "destination unreachable", unreachableWords4
	case ICMPv4SourceQuench:
		return "source quench", nil
	case ICMPv4Redirect:
		return "redirect", redirectWords4
	case ICMPv4EchoRequest:
		return "echo request", nil
	case ICMPv4TimeExceeded:
		return "time exceeded", timeExceededWords4
	case ICMPv4ParameterProblem:
		return "parameter problem", parameterWords4
	}
	return "", nil
}

// The words of each code, at its index.
var (
	unreachableWords4 = []string{ // RFC 792
		"network unreachable",
		"host unreachable",
		"protocol unreachable",
		"port unreachable",
		"fragmentation needed and DF set",
		"source route failed",
		"destination network unknown", // RFC 1122 section 3.2.2.1, as are those below
		"destination host unknown",
		"source host isolated",
		"communication with destination network administratively prohibited",
		"communication with destination host administratively prohibited",
		"network unreachable for type of service",
		"host unreachable for type of service",
		"communication administratively prohibited", // RFC 1812 section 5.2.7.1, as are those below
		"host precedence violation",
		"precedence cutoff in effect",
	}
	redirectWords4 = []string{
		"redirect for the network",
		"redirect for the host",
		"redirect for the type of service and network",
		"redirect for the type of service and host",
	}
	timeExceededWords4 = []string{
		"time to live exceeded in transit",
		"fragment reassembly time exceeded",
	}
	parameterWords4 = []string{
		"pointer indicates the error",
		"missing a required option", // RFC 1108
		"bad length",
	}
	unreachableWords6 = []string{ // RFC 4443
		"no route to destination",
		"communication with destination administratively prohibited",
		"beyond scope of source address",
		"address unreachable",
		"port unreachable",
		"source address failed ingress/egress policy",
		"reject route to destination",
		"error in source routing header", // RFC 6550
		"headers too long",               // RFC 8883
	}
	timeExceededWords6 = []string{
		"hop limit exceeded in transit",
		"fragment reassembly time exceeded",
	}
	parameterWords6 = []string{
		"erroneous header field encountered",
		"unrecognized next header type encountered",
		"unrecognized IPv6 option encountered",
		"IPv6 first fragment has incomplete IPv6 header chain",  // RFC 7112
		"SR upper-layer header error",                           // RFC 8986
		"unrecognized next header type encountered by a router", // RFC 8883, as are those below
		"extension header too big",
		"extension header chain too long",
		"too many extension headers",
		"too many options in extension header",
		"option too big",
	}
)
