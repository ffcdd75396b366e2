package batch

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// An addr is an address as a number, an IPv4 address as the IPv6 address to
// which it is mapped (RFC 4291, section 2.5.5.2). Numbers are what a million
// targets in a second are reckoned with.
type addr struct{ hi, lo uint64 }

const mapped4 = 0xffff << 32

func fromNetip(a netip.Addr) addr {
	b := a.As16()
	return addr{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func addr4(b []byte) addr { return addr{0, mapped4 | uint64(binary.BigEndian.Uint32(b))} }

func addr6(b []byte) addr {
	return addr{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

func (a addr) is4() bool { return a.hi == 0 && a.lo>>32 == 0xffff }

func (a addr) v4() uint32 { return uint32(a.lo) }

func (a addr) netip() netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], a.hi)
	binary.BigEndian.PutUint64(b[8:], a.lo)
	return netip.AddrFrom16(b).Unmap()
}

func (a addr) compare(b addr) int {
	switch {
	case a.hi < b.hi || a.hi == b.hi && a.lo < b.lo:
		return -1
	case a == b:
		return 0
	}
	return 1
}

// plus returns the n-th address after a.
func (a addr) plus(n uint64) addr {
	lo, carry := bits.Add64(a.lo, n, 0)
	return addr{a.hi + carry, lo}
}

// minus returns how many addresses a is after b, for a not before b; all ones
// where they are more than 64 bits hold.
func (a addr) minus(b addr) uint64 {
	lo, borrow := bits.Sub64(a.lo, b.lo, 0)
	if a.hi-b.hi-borrow != 0 {
		return ^uint64(0)
	}
	return lo
}
