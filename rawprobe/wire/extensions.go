package wire

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strconv"
)

// Extensions are what a router adds to an ICMP error about itself (RFC 4884).
// The zero value is none.
type Extensions struct {
	// MPLS holds the label stack with which the packet arrived, the top first
	// (RFC 4950): at most 16 entries.
	MPLS []MPLSLabel

	// Interfaces holds what is said of interfaces and of the next hop
	// (RFC 5837), in the order of the message: at most 8.
	Interfaces []InterfaceInfo

	// Unknown counts the objects that were skipped: those of another class,
	// and those beyond the bounds above.
	Unknown int

	// Verified says that the sender computed a checksum and that it fits.
	// False means that there was none.
	Verified bool
}

// An MPLSLabel is one entry of a label stack (RFC 3032 section 2.1).
type MPLSLabel struct {
	Label  uint32 // 20 bits
	TC     uint8  // traffic class, 3 bits (RFC 5462)
	Bottom bool   // the last entry of the stack
	TTL    uint8
}

// An InterfaceRole says what an interface had to do with the packet (RFC 5837
// section 4.1).
type InterfaceRole uint8

// The roles. The zero value is the interface on which the packet arrived.
const (
	RoleIncoming    InterfaceRole = 0 // IP interface on which the packet arrived
	RoleSubIncoming InterfaceRole = 1 // sub-IP component of that interface
	RoleOutgoing    InterfaceRole = 2 // interface on which it would have been sent on
	RoleNextHop     InterfaceRole = 3 // the next hop to which it would have been sent
)

// String returns "incoming", "incoming sub-IP", "outgoing" or "next hop".
func (r InterfaceRole) String() string {
	switch r {
	case RoleIncoming:
		return "incoming"
	case RoleSubIncoming:
		return "incoming sub-IP"
	case RoleOutgoing:
		return "outgoing"
	case RoleNextHop:
		return "next hop"
	}
	return "role " + strconv.Itoa(int(r))
}

// An InterfaceInfo is one interface information object (RFC 5837 section 4).
type InterfaceInfo struct {
	Role     InterfaceRole
	HasIndex bool
	Index    uint32     // ifIndex on that device (RFC 2863); 0 without HasIndex
	Addr     netip.Addr // the zero Addr where there is none, or of another family than IP
	MTU      uint32     // bytes; 0 where not told

	// Name is as the device sent it, cut to 63 bytes and at the first NUL;
	// empty where there is none. It may hold anything, terminal escapes and
	// invalid UTF-8 included: print it with %q, never as it is.
	Name string
}

const (
	extHeaderLen = 4
	objHeaderLen = 4

	// RFC 4884 section 4: a quote that extensions follow has 128 bytes at
	// least, padded with zeros; section 5.5: those devices that know nothing
	// of the length field put them right there.
	compatQuoteLen = 128

	// Real messages hold one object of each class, a stack of at most three or
	// four labels. The bounds only keep a 64 KB message from being costly.
	maxObjects    = 32
	maxLabels     = 16
	maxInterfaces = 8
	maxNameLen    = 63 // RFC 5837 section 4.3
)

// Object classes that are read, with the C-Type where only one is.
const (
	classMPLS      = 1 // RFC 4950 section 4
	ctypeMPLS      = 1 // incoming label stack
	classInterface = 2 // RFC 5837 section 4.1
)

// Extensions returns the extension objects that follow the quoted packet.
// Messages without any, and types that can't have any, give the zero value and
// no error. Objects of unknown classes are skipped and counted.
//
// Errors are ErrChecksum and ErrMalformed where the message announces
// extensions, by its length field, that do not hold; and ErrMalformed where an
// object does not. In the latter case the objects before it are returned too.
func (m ICMP) Extensions() (Extensions, error) {
	_, b, announced := m.split()
	switch {
	case announced == extNotOne:
		return Extensions{}, malformed("extensions", "version", 0)
	case announced == extWrongSum:
		return Extensions{}, &ParseError{Layer: "extensions", Field: "checksum", Offset: 2, Err: ErrChecksum}
	case b == nil:
		return Extensions{}, nil
	}
	e := Extensions{Verified: announced == extVerified}
	for at, n := extHeaderLen, 0; at < len(b) && n < maxObjects; n++ {
		if len(b)-at < objHeaderLen {
			return e, malformed("extensions", "object header", at)
		}
		size := int(binary.BigEndian.Uint16(b[at:])) // RFC 4884 section 7.1: header included
		if size < objHeaderLen || size > len(b)-at {
			return e, malformed("extensions", "object length", at)
		}
		class, ctype, data := b[at+2], b[at+3], b[at+objHeaderLen:at+size]
		ok := true
		switch {
		case class == classMPLS && ctype == ctypeMPLS:
			ok = e.addLabels(data)
		case class == classInterface && len(e.Interfaces) < maxInterfaces:
			var info InterfaceInfo
			if info, ok = parseInterface(ctype, data); ok {
				e.Interfaces = append(e.Interfaces, info)
			}
		default:
			e.Unknown++
		}
		if !ok {
			return e, malformed("extensions", "object", at)
		}
		at += size
	}
	return e, nil
}

func (e *Extensions) addLabels(b []byte) (ok bool) {
	for ; len(b) >= 4 && len(e.MPLS) < maxLabels; b = b[4:] {
		v := binary.BigEndian.Uint32(b)
		e.MPLS = append(e.MPLS, MPLSLabel{
			Label:  v >> 12,
			TC:     uint8(v >> 9 & 7),
			Bottom: v&0x100 != 0,
			TTL:    uint8(v),
		})
	}
	return len(b)%4 == 0
}

// parseInterface reads an interface information object. The C-Type says who
// it is about and which parts follow, always in this order (RFC 5837 section
// 4.1).
func parseInterface(ctype uint8, b []byte) (info InterfaceInfo, ok bool) {
	info.Role = InterfaceRole(ctype >> 6)
	if ctype&0x08 != 0 {
		if len(b) < 4 {
			return info, false
		}
		info.HasIndex, info.Index = true, binary.BigEndian.Uint32(b)
		b = b[4:]
	}
	if ctype&0x04 != 0 {
		if len(b) < 4 {
			return info, false
		}
		family := binary.BigEndian.Uint16(b)
		b = b[4:]
		switch {
		case family == 1 && len(b) >= 4:
			info.Addr = netip.AddrFrom4([4]byte(b))
			b = b[4:]
		case family == 2 && len(b) >= 16:
			info.Addr = netip.AddrFrom16([16]byte(b))
			b = b[16:]
		default:
			return info, false // its size is unknown, and so is where the rest starts
		}
	}
	if ctype&0x02 != 0 {
		// The length counts itself (RFC 5837 section 4.3).
		if len(b) == 0 || b[0] == 0 || int(b[0]) > len(b) {
			return info, false
		}
		name := b[1:b[0]]
		b = b[b[0]:]
		if i := bytes.IndexByte(name, 0); i >= 0 {
			name = name[:i]
		}
		info.Name = string(name[:min(len(name), maxNameLen)])
	}
	if ctype&0x01 != 0 {
		if len(b) < 4 {
			return info, false
		}
		info.MTU = binary.BigEndian.Uint32(b)
	}
	return info, true
}

// An extState is what is known of the place where extensions may start.
type extState uint8

const (
	extNone      extState = iota // nothing says that there are any
	extNotOne                    // no extension header of version 2
	extWrongSum                  // one whose checksum does not fit
	extUnchecked                 // one without a checksum
	extVerified                  // one whose checksum fits
)

// split finds the end of the quoted packet in the body and the extension
// structure behind it, and says how well that is founded. Without extensions
// ext is nil, and the state is extNone, or, where the length field announced
// some that do not hold, what is wrong with them; the quote is good
// nevertheless.
//
// The length field alone can't be trusted: the byte was unused before RFC 4884
// and not always 0, and devices count in the wrong unit or pad to another
// length than they say. So every place has to be confirmed by what is found
// there, and the less it is where the RFC wants it, the more.
func (m ICMP) split() (quote, ext []byte, state extState) {
	body := m.Body
	var unit, field int
	switch {
	case !m.V6 && (m.Type == ICMPv4DestinationUnreachable || m.Type == ICMPv4TimeExceeded || m.Type == ICMPv4ParameterProblem):
		unit, field = 4, int(m.Rest>>16&0xff) // RFC 4884 sections 4.1 to 4.3: byte 5, in 32-bit words
	case m.V6 && (m.Type == ICMPv6DestinationUnreachable || m.Type == ICMPv6TimeExceeded):
		unit, field = 8, int(m.Rest>>24) // RFC 4884 sections 4.4 and 4.5: byte 4, in 64-bit words
	default:
		return body, nil, extNone
	}
	announced := extNone
	stated := field * unit
	if stated >= len(body) {
		stated = 0 // no room for anything behind it
	}
	if stated > 0 {
		announced = extensionAt(body[stated:])
		if announced == extVerified || announced == extUnchecked && stated >= compatQuoteLen {
			return body[:stated], body[stated:], announced
		}
	}
	if at := compatQuoteLen; at < len(body) {
		if state := extensionAt(body[at:]); state >= extUnchecked && wholeObjects(body[at:]) {
			return body[:at], body[at:], state
		}
	}
	header := quotedHeaderLen(body)
	for _, at := range [...]int{
		field,                    // counted in bytes
		field * 4,                // IPv6 counted in 32-bit words
		field * 8,                // IPv4 counted in 64-bit words
		quotedTotalLen(body),     // not padded at all
		header + 8,               // nor quoted beyond the minimum
		(header + 8 + 7) / 8 * 8, // padded to a 64-bit word
	} {
		if at < header+8 || at >= len(body) {
			continue
		}
		if extensionAt(body[at:]) == extVerified && wholeObjects(body[at:]) {
			return body[:at], body[at:], extVerified
		}
	}
	if announced == extUnchecked {
		announced = extNone // too short to be meant, and nothing to prove it
	}
	if stated >= header+8 {
		return body[:stated], nil, announced
	}
	return body, nil, announced
}

// extensionAt says whether an extension structure of RFC 4884 section 7 can
// start at b[0]. It is never extNone.
func extensionAt(b []byte) extState {
	switch {
	case len(b) < extHeaderLen || b[0]>>4 != 2:
		return extNotOne
	case b[2] == 0 && b[3] == 0:
		return extUnchecked // RFC 4884 section 7: zero is "not transmitted"
	case Checksum(b, 0) != 0: // of all bytes up to the end of the message
		return extWrongSum
	}
	return extVerified
}

// wholeObjects reports whether objects, one at least, fill the extension
// structure b to its end.
func wholeObjects(b []byte) bool {
	at := extHeaderLen
	for n := 0; len(b)-at >= objHeaderLen && n < maxObjects; n++ {
		size := int(binary.BigEndian.Uint16(b[at:]))
		if size < objHeaderLen || size > len(b)-at {
			return false
		}
		at += size
	}
	return at == len(b) && at > extHeaderLen
}

// quotedHeaderLen returns the length of the fixed header, with IPv4 options,
// of the packet that starts at b[0], in bytes.
func quotedHeaderLen(b []byte) int {
	if len(b) > 0 && b[0]>>4 == 6 {
		return ipv6HeaderLen
	}
	if len(b) > 0 {
		return max(int(b[0]&0x0f)*4, ipv4MinHeaderLen)
	}
	return ipv4MinHeaderLen
}

// quotedTotalLen returns the total length that the packet at b[0] claims, in
// bytes, or 0 where that is cut off.
func quotedTotalLen(b []byte) int {
	switch {
	case len(b) >= 6 && b[0]>>4 == 6:
		return ipv6HeaderLen + int(binary.BigEndian.Uint16(b[4:]))
	case len(b) >= 4:
		return int(binary.BigEndian.Uint16(b[2:]))
	}
	return 0
}
