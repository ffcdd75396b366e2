package batch

import (
	"errors"
	"math/bits"
	"net/netip"
	"sort"
)

// A Space is the targets of a run: every target of every block. It holds the
// blocks, not the targets.
type Space struct {
	blocks []Block
	ends   []uint64 // ends[i] is how many targets blocks[:i+1] have
}

// ErrTooMany means that a Space would have 2^63 targets or more.
var ErrTooMany = errors.New("too many targets")

// NewSpace returns the space of all targets of the blocks. A target that two
// blocks name is there twice. A prefix is taken from its first address on. The
// slices are kept.
func NewSpace(blocks []Block) (*Space, error) {
	s := &Space{blocks: blocks}
	total := uint64(0)
	for _, b := range blocks {
		host := b.Prefix.Addr().BitLen() - b.Prefix.Bits()
		if host > 62 {
			return nil, ErrTooMany
		}
		high, n := bits.Mul64(1<<host, uint64(len(b.Ports)))
		if high != 0 || n >= 1<<63 || total+n >= 1<<63 {
			return nil, ErrTooMany
		}
		total += n
		s.ends = append(s.ends, total)
	}
	return s, nil
}

// Len returns the number of targets.
func (s *Space) Len() uint64 {
	if len(s.ends) == 0 {
		return 0
	}
	return s.ends[len(s.ends)-1]
}

// At returns target i, from 0 to Len()-1: block by block, address by address,
// the ports of one address together.
func (s *Space) At(i uint64) netip.AddrPort {
	k := 0
	if len(s.ends) > 1 {
		k = sort.Search(len(s.ends), func(k int) bool { return s.ends[k] > i })
	}
	if k > 0 {
		i -= s.ends[k-1]
	}
	b := &s.blocks[k]
	ports := uint64(len(b.Ports))
	return netip.AddrPortFrom(offset(b.Prefix.Addr(), i/ports), b.Ports[i%ports])
}

// offset returns the n-th address after a.
func offset(a netip.Addr, n uint64) netip.Addr {
	if a.Is4() {
		b := a.As4()
		v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		v += uint32(n)
		return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
	}
	b := a.As16()
	for i := 15; i >= 0 && n > 0; i-- {
		n += uint64(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	return netip.AddrFrom16(b)
}
