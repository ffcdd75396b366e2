package wire

import (
	"encoding/binary"
	"net/netip"
)

// Checksum returns the Internet checksum (RFC 1071) of b, with initial added
// to the sum: 0, or the [PseudoHeaderSum] of a transport header. An odd last
// byte counts as the high half of a word, as if a zero followed.
//
// To fill in a checksum, set its field to zero first and store the result in
// network byte order. To verify one, leave the field as it is: the result is
// 0 if and only if it fits. A UDP checksum that comes out as 0 has to be
// sent as 0xffff (RFC 768); that is left to the caller.
func Checksum(b []byte, initial uint32) uint16 {
	// 64 bits hold the carries of more words than any slice has.
	sum := uint64(initial)
	for ; len(b) >= 4; b = b[4:] {
		// Two words at once: 2^16 is congruent to 1, so the high half
		// folds onto the low one at the end.
		sum += uint64(binary.BigEndian.Uint32(b))
	}
	if len(b) >= 2 {
		sum += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// PseudoHeaderSum returns the unfinished sum of the pseudo header that TCP,
// UDP and ICMPv6 checksums cover besides their own bytes: RFC 9293 section
// 3.1 for IPv4, RFC 8200 section 8.1 for IPv6. The length is that of the
// transport header and its payload, in bytes. The result is meant for
// [Checksum].
//
// For a packet with a routing header dst is the final destination, not the
// one in the IPv6 header. ICMP for IPv4 has no pseudo header. An invalid
// address counts as zeros.
func PseudoHeaderSum(src, dst netip.Addr, proto Proto, length int) uint32 {
	// The upper half of the 32-bit length is zero but for jumbograms, and
	// the sum of at most 19 words leaves room for it.
	sum := uint32(proto) + uint32(length)>>16 + uint32(length)&0xffff
	if src.Is4() && dst.Is4() {
		return sum + sum4(src.As4()) + sum4(dst.As4())
	}
	return sum + sum16(src.As16()) + sum16(dst.As16())
}

func sum4(a [4]byte) uint32 {
	return uint32(a[0])<<8 + uint32(a[1]) + uint32(a[2])<<8 + uint32(a[3])
}

func sum16(a [16]byte) uint32 {
	var sum uint32
	for i := 0; i < len(a); i += 2 {
		sum += uint32(a[i])<<8 + uint32(a[i+1])
	}
	return sum
}
