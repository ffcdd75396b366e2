package wire

import "encoding/binary"

const udpHeaderLen = 8

// A UDP is a UDP datagram (RFC 768).
type UDP struct {
	SrcPort, DstPort uint16
	Length           int    // bytes, header included, as the header says
	Checksum         uint16 // as found; IP.VerifyPayload checks it; 0 is "none" in IPv4

	// Payload aliases the parsed bytes. It ends where Length says, or where
	// the capture does.
	Payload []byte
}

// ParseUDP parses a UDP datagram that starts at b[0]. Errors are ErrTruncated
// for less than 8 bytes, and ErrMalformed for a length below 8; a length above
// what is there is none.
func ParseUDP(b []byte) (UDP, error) {
	if len(b) < udpHeaderLen {
		return UDP{}, truncated("udp", "header", 0)
	}
	u := UDP{
		SrcPort:  binary.BigEndian.Uint16(b),
		DstPort:  binary.BigEndian.Uint16(b[2:]),
		Length:   int(binary.BigEndian.Uint16(b[4:])),
		Checksum: binary.BigEndian.Uint16(b[6:]),
	}
	if u.Length < udpHeaderLen {
		return UDP{}, malformed("udp", "length", 4)
	}
	u.Payload = b[udpHeaderLen:min(u.Length, len(b))]
	return u, nil
}
