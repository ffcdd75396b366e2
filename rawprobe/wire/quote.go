package wire

import (
	"encoding/binary"
	"math/bits"
)

// A Quote is the beginning of a packet, as an ICMP error gives it back. What
// was sent and what is quoted may differ in any field that a NAT, a router or
// a careless device rewrote. A field whose Has field is false was not quoted,
// and is 0. The zero value is no quote: its IP.Version is 0.
type Quote struct {
	// IP is the quoted header. Its total length may be byte-swapped, too
	// small or too large (old BSD kernels did all that), the TTL is whatever
	// it was when the error was made, and the checksum need not fit. Payload is
	// what there is of the original one; it may end in padding.
	IP IP

	// Swapped says that the quote held total length and fragment field of an
	// IPv4 header in the wrong byte order, and that IP has them put right.
	// IP.ID is left as it was quoted, and may be swapped.
	Swapped bool

	HasPorts         bool
	SrcPort, DstPort uint16 // of TCP and UDP

	HasSeq bool
	Seq    uint32 // of TCP: the last of the 8 bytes that every error must quote

	// These are beyond the 8 bytes that RFC 792 asks for.
	HasAck   bool
	Ack      uint32
	HasFlags bool
	TCPFlags TCPFlags
	HasTSval bool
	TSval    uint32 // of TCP's timestamp option

	HasEcho         bool
	EchoID, EchoSeq uint16 // of an echo request; a quoted reply is none of our probes

	// Len is the number of bytes that are quoted from the start of the IP
	// header, without extensions. Padding is left out where the quoted total
	// length is plausible.
	Len int
}

// Quote returns the packet that m is about. At least the IP header must be
// there in full, for IPv6 the fixed one; of all that follows it takes what is
// there. Where RFC 4884 extensions come after the packet they are not taken
// for a part of it.
//
// Errors are ErrNoQuote for a message that is not among HasQuote,
// ErrTruncated for a header that is cut off, ErrMalformed for one that is
// wrong or of the other family.
func (m ICMP) Quote() (Quote, error) {
	if !m.HasQuote() {
		return Quote{}, &ParseError{Layer: "quote", Field: "icmp type", Err: ErrNoQuote}
	}
	b, _, _ := m.split()
	if len(b) == 0 {
		return Quote{}, truncated("quote", "header", 0)
	}
	if v := b[0] >> 4; m.V6 && v != 6 || !m.V6 && v != 4 {
		return Quote{}, malformed("quote", "version", 0)
	}
	ip, err := parseIP(b, true)
	if err != nil {
		return Quote{}, err
	}
	q := Quote{IP: ip, Len: len(b)}
	q.unswap()
	if q.IP.FragmentOffset == 0 {
		q.transport(q.IP.Payload)
	}
	q.cut()
	return q, nil
}

// unswap recognises a header that was quoted in the byte order of a little
// endian machine. The fragment field tells: "don't fragment" or "more
// fragments" alone turn into an offset of 512 or 256 bytes, and a fragment
// that really starts there does not also have a total length that gets
// smaller and still fits when it is swapped.
func (q *Quote) unswap() {
	if q.IP.Version != 4 || q.IP.DontFragment || q.IP.MoreFragments {
		return
	}
	if q.IP.FragmentOffset != 0x40*8 && q.IP.FragmentOffset != 0x20*8 {
		return
	}
	total := int(bits.ReverseBytes16(uint16(q.IP.TotalLen)))
	if total < q.IP.HeaderLen+8 || total >= q.IP.TotalLen {
		return
	}
	q.Swapped = true
	q.IP.DontFragment = q.IP.FragmentOffset == 0x40*8
	q.IP.MoreFragments = !q.IP.DontFragment
	q.IP.FragmentOffset = 0
	q.IP.TotalLen = total
	q.IP.Truncated = total > q.Len
}

// transport reads what there is of the transport header.
func (q *Quote) transport(b []byte) {
	switch q.IP.Proto {
	case ProtoTCP, ProtoUDP:
		if len(b) >= 4 {
			q.HasPorts = true
			q.SrcPort, q.DstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		}
	case ProtoICMP, ProtoICMPv6:
		v6 := q.IP.Proto == ProtoICMPv6
		request := ICMPv4EchoRequest
		if v6 {
			request = ICMPv6EchoRequest
		}
		if v6 == (q.IP.Version == 6) && len(b) >= 8 && b[0] == request && b[1] == 0 {
			q.HasEcho = true
			q.EchoID, q.EchoSeq = binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
		}
		return
	}
	if q.IP.Proto != ProtoTCP {
		return
	}
	if len(b) >= 8 {
		q.HasSeq, q.Seq = true, binary.BigEndian.Uint32(b[4:])
	}
	if len(b) >= 12 {
		q.HasAck, q.Ack = true, binary.BigEndian.Uint32(b[8:])
	}
	if len(b) >= 14 {
		q.HasFlags, q.TCPFlags = true, TCPFlags(b[13])
	}
	if len(b) > tcpMinHeaderLen {
		// The list may be cut; a data offset below the minimum has none.
		end := min(int(b[12]>>4)*4, len(b))
		o := parseTCPOptions(b[tcpMinHeaderLen:max(end, tcpMinHeaderLen)])
		q.HasTSval, q.TSval = o.HasTimestamps, o.TSval
	}
}

// cut takes padding off the payload, if the quoted total length can be
// believed: one that leaves no room for the transport header can't.
func (q *Quote) cut() {
	need := 8 // of UDP and ICMP, and the least for all others
	if b := q.IP.Payload; q.IP.Proto == ProtoTCP && q.IP.FragmentOffset == 0 && len(b) > 12 {
		need = max(int(b[12]>>4)*4, tcpMinHeaderLen)
	}
	n := q.IP.TotalLen - q.IP.HeaderLen
	if n >= need && n < len(q.IP.Payload) {
		q.IP.Payload = q.IP.Payload[:n]
		q.Len = q.IP.TotalLen
	}
}
