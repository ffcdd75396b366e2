package wire

import (
	"encoding/binary"
	"strings"
)

const tcpMinHeaderLen = 20

// TCPFlags are the eight control bits of a TCP header (RFC 9293 section 3.1).
// The zero value is none of them.
type TCPFlags uint8

// The control bits, from the lowest up.
const (
	FIN TCPFlags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE // RFC 3168
	CWR // RFC 3168
)

var tcpFlagNames = [8]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"}

// Has reports whether all bits of want are set in f, whatever else is.
func (f TCPFlags) Has(want TCPFlags) bool { return f&want == want }

// String joins the names of the bits, the lowest first: "SYN|ACK"; no bit is
// "none".
func (f TCPFlags) String() string {
	switch f {
	case 0:
		return "none"
	case SYN: // the four that a probe sees all day, without a Builder
		return "SYN"
	case SYN | ACK:
		return "SYN|ACK"
	case RST | ACK:
		return "RST|ACK"
	case ACK:
		return "ACK"
	}
	var s strings.Builder
	for i, name := range tcpFlagNames {
		if f&(1<<i) == 0 {
			continue
		}
		if s.Len() > 0 {
			s.WriteByte('|')
		}
		s.WriteString(name)
	}
	return s.String()
}

// A TCP is a TCP segment (RFC 9293 section 3.1).
type TCP struct {
	SrcPort, DstPort uint16
	Seq, Ack         uint32 // Ack means nothing without the ACK flag
	Flags            TCPFlags
	Window           uint16 // in bytes, not scaled
	Checksum         uint16 // as found; IP.VerifyPayload checks it
	HeaderLen        int    // bytes, options included: 20 to 60
	Options          TCPOptions
	Payload          []byte // aliases the parsed bytes; what was captured of it
}

// TCPOptions are the options of a SYN or SYN-ACK. A field is 0 where the option
// is missing, and its Has field tells that from an option with value 0.
type TCPOptions struct {
	Count int // options of any kind, known or not, but for padding (no-operation, end of list)

	HasMSS bool
	MSS    uint16 // bytes (RFC 9293 section 3.7.1)

	SACKPermitted bool // RFC 2018 section 2

	HasWindowScale bool
	WindowScale    uint8 // a shift count, as found: above 14 counts as 14 (RFC 7323 section 2.3)

	HasTimestamps bool
	TSval, TSecr  uint32 // RFC 7323 section 3.2; TSecr means nothing without the ACK flag

	// Malformed says that an option has a length that it can't have, or that
	// the list is cut off. The fields hold what was sound nevertheless.
	Malformed bool
}

// ParseTCP parses a TCP segment that starts at b[0]. Malformed options are not
// an error: TCPOptions.Malformed says so, and those that are sound are there.
//
// Errors are ErrTruncated where the header with its options is not all there,
// and ErrMalformed where its length is below 20 bytes.
func ParseTCP(b []byte) (TCP, error) {
	if len(b) < tcpMinHeaderLen {
		return TCP{}, truncated("tcp", "header", 0)
	}
	headerLen := int(b[12]>>4) * 4
	if headerLen < tcpMinHeaderLen {
		return TCP{}, malformed("tcp", "data offset", 12)
	}
	if headerLen > len(b) {
		return TCP{}, truncated("tcp", "options", tcpMinHeaderLen)
	}
	return TCP{
		SrcPort:   binary.BigEndian.Uint16(b),
		DstPort:   binary.BigEndian.Uint16(b[2:]),
		Seq:       binary.BigEndian.Uint32(b[4:]),
		Ack:       binary.BigEndian.Uint32(b[8:]),
		Flags:     TCPFlags(b[13]),
		Window:    binary.BigEndian.Uint16(b[14:]),
		Checksum:  binary.BigEndian.Uint16(b[16:]),
		HeaderLen: headerLen,
		Options:   parseTCPOptions(b[tcpMinHeaderLen:headerLen]),
		Payload:   b[headerLen:],
	}, nil
}

// TCP option kinds.
const (
	optEnd           = 0
	optNop           = 1
	optMSS           = 2
	optWindowScale   = 3
	optSACKPermitted = 4
	optTimestamps    = 8
)

func parseTCPOptions(b []byte) TCPOptions {
	var o TCPOptions
	for len(b) > 0 {
		switch b[0] {
		case optEnd:
			return o
		case optNop:
			b = b[1:]
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			// The next option can't be found any more.
			o.Malformed = true
			return o
		}
		kind, data := b[0], b[2:b[1]]
		b = b[b[1]:]
		o.Count++
		switch {
		case kind == optMSS && len(data) == 2:
			o.HasMSS, o.MSS = true, binary.BigEndian.Uint16(data)
		case kind == optWindowScale && len(data) == 1:
			o.HasWindowScale, o.WindowScale = true, data[0]
		case kind == optSACKPermitted && len(data) == 0:
			o.SACKPermitted = true
		case kind == optTimestamps && len(data) == 8:
			o.HasTimestamps = true
			o.TSval = binary.BigEndian.Uint32(data)
			o.TSecr = binary.BigEndian.Uint32(data[4:])
		case kind == optMSS, kind == optWindowScale, kind == optSACKPermitted, kind == optTimestamps:
			o.Malformed = true
		}
	}
	return o
}
