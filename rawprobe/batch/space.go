package batch

import (
	"cmp"
	"errors"
	"math/bits"
	"net/netip"
	"slices"
	"sort"
)

// A Space is the targets of a run: every target of every block. It holds the
// blocks, not the targets.
type Space struct {
	spans []span   // sorted by first address, the larger before the smaller
	ends  []uint64 // ends[i] is how many targets spans[:i+1] have
	// roots are the spans that lie in no other. hosts[i] is how many addresses
	// roots[:i+1] have.
	roots []int32
	hosts []uint64
	// distinct says that every span is a root: then an address is in one.
	distinct bool
}

// A span is the targets of one prefix.
type span struct {
	first, last addr
	ports       []uint16 // sorted
	parent      int32    // the smallest span around this one, or -1
}

// ErrTooMany means that a Space would have 2^63 targets or more.
var ErrTooMany = errors.New("too many targets")

// NewSpace returns the space of all targets of the blocks, whatever their
// order. A prefix is taken from its first address on. Blocks of one prefix are
// taken together, and a port that they name twice counts once; otherwise a
// target that two blocks name is there twice, which [Run] can't take: see
// [Space.Twice]. The slices are kept and not changed.
func NewSpace(blocks []Block) (*Space, error) {
	order := make([]int32, 0, len(blocks))
	for i := range blocks {
		host := blocks[i].Prefix.Addr().BitLen() - blocks[i].Prefix.Bits()
		if host > 62 {
			return nil, ErrTooMany
		}
		if len(blocks[i].Ports) > 0 {
			order = append(order, int32(i))
		}
	}
	slices.SortStableFunc(order, func(i, j int32) int {
		a, b := blocks[i].Prefix, blocks[j].Prefix
		if c := fromNetip(a.Masked().Addr()).compare(fromNetip(b.Masked().Addr())); c != 0 {
			return c
		}
		return cmp.Compare(b.Addr().BitLen()-b.Bits(), a.Addr().BitLen()-a.Bits())
	})
	s := &Space{spans: make([]span, 0, len(order)), distinct: true}
	var total, hosts uint64
	sorted := make(map[*uint16][]uint16) // what many blocks share is copied once
	for k := 0; k < len(order); {
		b := &blocks[order[k]]
		prefix := b.Prefix.Masked()
		first := fromNetip(prefix.Addr())
		size := uint64(1) << (prefix.Addr().BitLen() - prefix.Bits())
		n := span{first: first, last: first.plus(size - 1), parent: -1, ports: b.Ports}
		next := k + 1
		for next < len(order) && blocks[order[next]].Prefix.Masked() == prefix {
			next++
		}
		if next > k+1 {
			n.ports = nil
			for _, i := range order[k:next] {
				n.ports = append(n.ports, blocks[i].Ports...)
			}
			n.ports = sortedPorts(n.ports)
		} else if !ascending(b.Ports) {
			same, ok := sorted[&b.Ports[0]]
			if !ok || len(same) != len(b.Ports) {
				same = sortedPorts(slices.Clone(b.Ports))
				sorted[&b.Ports[0]] = same
			}
			n.ports = same
		}
		k = next
		// The spans around this one are those around the last, or the last itself.
		for p := int32(len(s.spans) - 1); p >= 0; p = s.spans[p].parent {
			if s.spans[p].last.compare(n.last) >= 0 {
				n.parent = p
				break
			}
		}
		high, targets := bits.Mul64(size, uint64(len(n.ports)))
		if high != 0 || targets >= 1<<63 || total+targets >= 1<<63 {
			return nil, ErrTooMany
		}
		total += targets
		s.ends = append(s.ends, total)
		if n.parent < 0 {
			hosts += size
			s.roots = append(s.roots, int32(len(s.spans)))
			s.hosts = append(s.hosts, hosts)
		} else {
			s.distinct = false
		}
		s.spans = append(s.spans, n)
	}
	return s, nil
}

func ascending(ports []uint16) bool {
	for i := 1; i < len(ports); i++ {
		if ports[i-1] >= ports[i] {
			return false
		}
	}
	return true
}

func sortedPorts(ports []uint16) []uint16 {
	slices.Sort(ports)
	return slices.Compact(ports)
}

// Len returns the number of targets.
func (s *Space) Len() uint64 {
	if len(s.ends) == 0 {
		return 0
	}
	return s.ends[len(s.ends)-1]
}

// Part returns how many targets a shard has, of so many shards, by the numbers of
// [Config]: all where both are 0.
func (s *Space) Part(shard, shards int) uint64 {
	if shards == 0 {
		return s.Len()
	}
	return share(s.Len(), uint64(shard-1), uint64(shards))
}

// Hosts returns the number of addresses.
func (s *Space) Hosts() uint64 {
	if len(s.hosts) == 0 {
		return 0
	}
	return s.hosts[len(s.hosts)-1]
}

// At returns target i, from 0 to Len()-1: by rising address, the ports of one
// address together, where no block lies in another.
func (s *Space) At(i uint64) netip.AddrPort {
	a, port := s.at(i)
	return netip.AddrPortFrom(a.netip(), port)
}

func (s *Space) at(i uint64) (addr, uint16) {
	k := 0
	if len(s.ends) > 1 {
		k = sort.Search(len(s.ends), func(k int) bool { return s.ends[k] > i })
	}
	if k > 0 {
		i -= s.ends[k-1]
	}
	b := &s.spans[k]
	if len(b.ports) == 1 {
		return b.first.plus(i), b.ports[0]
	}
	ports := uint64(len(b.ports))
	return b.first.plus(i / ports), b.ports[i%ports]
}

// IndexOf returns the i for which At(i) is t, and whether there is one.
func (s *Space) IndexOf(t netip.AddrPort) (i uint64, ok bool) {
	if !t.IsValid() || t.Addr().Zone() != "" {
		return 0, false
	}
	return s.index(fromNetip(t.Addr()), t.Port())
}

func (s *Space) index(a addr, port uint16) (uint64, bool) {
	for k := s.around(a); k >= 0; k = s.spans[k].parent {
		b := &s.spans[k]
		if b.last.compare(a) < 0 {
			continue
		}
		at, ok := 0, b.ports[0] == port
		if len(b.ports) > 1 {
			at, ok = slices.BinarySearch(b.ports, port)
		}
		if ok {
			i := a.minus(b.first)*uint64(len(b.ports)) + uint64(at)
			if k > 0 {
				i += s.ends[k-1]
			}
			return i, true
		}
	}
	return 0, false
}

// around returns the last span that begins at a or before it, or -1. Every
// span that a is in is this one or around it.
func (s *Space) around(a addr) int32 {
	k := 1
	if len(s.spans) != 1 {
		k = sort.Search(len(s.spans), func(k int) bool { return s.spans[k].first.compare(a) > 0 })
	} else if s.spans[0].first.compare(a) > 0 {
		k = 0
	}
	return int32(k - 1)
}

// host returns the number of an address among all addresses of the space, from
// 0 to Hosts()-1, and whether it is one of them.
func (s *Space) host(a addr) (uint64, bool) {
	k := 1
	if len(s.roots) != 1 {
		k = sort.Search(len(s.roots), func(k int) bool { return s.spans[s.roots[k]].first.compare(a) > 0 })
	}
	if k == 0 {
		return 0, false
	}
	b := &s.spans[s.roots[k-1]]
	if b.first.compare(a) > 0 || b.last.compare(a) < 0 {
		return 0, false
	}
	n := a.minus(b.first)
	if k > 1 {
		n += s.hosts[k-2]
	}
	return n, true
}

// Twice returns a target that is in the space twice, and whether there is one:
// one in a prefix of one block and in a smaller prefix of another.
func (s *Space) Twice() (netip.AddrPort, bool) {
	if s.distinct {
		return netip.AddrPort{}, false
	}
	for i := range s.spans {
		b := &s.spans[i]
		for k := b.parent; k >= 0; k = s.spans[k].parent {
			if port, ok := shared(b.ports, s.spans[k].ports); ok {
				return netip.AddrPortFrom(b.first.netip(), port), true
			}
		}
	}
	return netip.AddrPort{}, false
}

// shared returns a number that is in both sorted lists.
func shared(a, b []uint16) (uint16, bool) {
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0] == b[0]:
			return a[0], true
		case a[0] < b[0]:
			a = a[1:]
		default:
			b = b[1:]
		}
	}
	return 0, false
}
