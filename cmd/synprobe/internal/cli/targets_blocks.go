package cli

import (
	"cmp"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	"synprobe/rawprobe/batch"
)

// maxTargets bounds one run: every IPv4 address once. What is more is a typing
// error, or work for several runs; at the default rate this much takes 50 days.
const maxTargets = 1 << 32

// maxPortLists bounds the memory of all different lists of ports together, in
// ports.
const maxPortLists = 1 << 24

var (
	errTooManyTargets = errors.New("more than 4294967296 targets in all")
	errTooManyLists   = errors.New("too many different lists of ports")
)

// A targetSet collects networks by ports, in any order, and makes disjoint
// blocks of them. It takes 24 bytes for each network or address, and nothing
// for what is in them.
type targetSet struct {
	entries []entry
	ports   portLists
}

// An entry is the addresses of one prefix by one list of ports. Prefixes nest
// or are disjoint, which the sweep of blocks lives by.
type entry struct {
	hi, lo uint64 // the address; of IPv4 the mapped one (RFC 4291, section 2.5.5.2)
	list   uint32 // in portLists
	bits   uint8  // of the mapped prefix
}

func entryOf(p netip.Prefix, list uint32) entry {
	a, bits := p.Addr().As16(), p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return entry{hi: binary.BigEndian.Uint64(a[:8]), lo: binary.BigEndian.Uint64(a[8:]), list: list, bits: uint8(bits)}
}

func (e entry) prefix() netip.Prefix {
	a, bits := addrOf(e.hi, e.lo), int(e.bits)
	if a.Is4() {
		bits -= 96
	}
	return netip.PrefixFrom(a, bits)
}

func addrOf(hi, lo uint64) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	return netip.AddrFrom16(b).Unmap()
}

// addresses is how many the prefix has. No prefix has more than 2^32.
func (e entry) addresses() uint64 { return 1 << (128 - e.bits) }

// holds reports whether o's prefix lies in e's, which does not start behind it.
func (e entry) holds(o entry) bool {
	return o.bits >= e.bits && o.hi == e.hi && (o.lo^e.lo)>>(128-e.bits) == 0
}

func compareEntries(a, b entry) int {
	return cmp.Or(cmp.Compare(a.hi, b.hi), cmp.Compare(a.lo, b.lo), cmp.Compare(a.bits, b.bits), cmp.Compare(a.list, b.list))
}

// add takes a network of at most 2^32 targets.
func (s *targetSet) add(p netip.Prefix, list uint32) {
	s.entries = append(s.entries, entryOf(p, list))
}

// blocks returns the targets as disjoint blocks, in an order that does not
// depend on theirs, and how many targets were named more than once. It uses the
// set up.
func (s *targetSet) blocks() (blocks []batch.Block, total, duplicates uint64, err error) {
	named := uint64(0)
	for _, e := range s.entries {
		named += e.addresses() * uint64(len(s.ports.lists[e.list]))
	}
	slices.SortFunc(s.entries, compareEntries)
	if total, err = s.disjoin(); err != nil {
		return nil, 0, 0, err
	}
	s.join()
	slices.SortFunc(s.entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.hi, b.hi), cmp.Compare(a.lo, b.lo), cmp.Compare(a.bits, b.bits), slices.Compare(s.ports.lists[a.list], s.ports.lists[b.list]))
	})
	blocks = make([]batch.Block, 0, len(s.entries))
	for _, e := range s.entries {
		blocks = append(blocks, batch.Block{Prefix: e.prefix(), Ports: s.ports.lists[e.list]})
	}
	s.entries = nil
	return blocks, total, named - total, nil
}

// disjoin takes from each entry the ports that its own prefix, or one around
// it, has already. The entries are sorted, so that what is around comes first.
func (s *targetSet) disjoin() (total uint64, err error) {
	var around []entry // each in the one before
	var taken [1 << 16]bool
	mark := func(list uint32, v bool) {
		for _, p := range s.ports.lists[list] {
			taken[p] = v
		}
	}
	var fresh []uint16
	out := s.entries[:0]
	for i := 0; i < len(s.entries); {
		e := s.entries[i]
		for len(around) > 0 && !around[len(around)-1].holds(e) {
			mark(around[len(around)-1].list, false)
			around = around[:len(around)-1]
		}
		fresh = fresh[:0]
		n, last := 0, uint32(0)
		for ; i < len(s.entries) && s.entries[i].hi == e.hi && s.entries[i].lo == e.lo && s.entries[i].bits == e.bits; i++ {
			list := s.entries[i].list
			if n > 0 && list == last {
				continue
			}
			n, last = n+1, list
			for _, p := range s.ports.lists[list] {
				if !taken[p] {
					taken[p] = true
					fresh = append(fresh, p)
				}
			}
		}
		if len(fresh) == 0 {
			continue
		}
		if n > 1 || len(fresh) < len(s.ports.lists[e.list]) {
			slices.Sort(fresh)
			if e.list, err = s.ports.intern(fresh); err != nil {
				return 0, err
			}
		}
		if total += e.addresses() * uint64(len(fresh)); total > maxTargets {
			return 0, errTooManyTargets
		}
		out = append(out, e) // behind i by at least one: nothing unread is lost
		around = append(around, e)
	}
	s.entries = out
	return total, nil
}

// join makes one prefix of two halves with the same ports, as often as it can:
// a list of all addresses of a network becomes the network.
func (s *targetSet) join() {
	slices.SortFunc(s.entries, func(a, b entry) int { return cmp.Or(cmp.Compare(a.list, b.list), compareEntries(a, b)) })
	out := s.entries[:0]
	for _, e := range s.entries {
		for len(out) > 0 {
			// The larger half of two has the lowest bit of the prefix set. A
			// join stays within 2^32 addresses, so within lo.
			o, half := out[len(out)-1], uint64(1)<<(128-e.bits)
			if o.list != e.list || o.bits != e.bits || o.hi != e.hi || e.bits <= 96 || o.lo|half != e.lo || o.lo == e.lo {
				break
			}
			out = out[:len(out)-1]
			e = o
			e.bits--
		}
		out = append(out, e)
	}
	s.entries = out
}

// portLists keeps each list of ports once, sorted, under a number.
type portLists struct {
	lists  [][]uint16
	number map[string]uint32 // by the ports, two bytes each
	total  int
	key    []byte
}

// intern returns the number of a list, which is sorted and has no port twice.
func (l *portLists) intern(ports []uint16) (uint32, error) {
	l.key = l.key[:0]
	for _, p := range ports {
		l.key = append(l.key, byte(p>>8), byte(p))
	}
	if n, ok := l.number[string(l.key)]; ok {
		return n, nil
	}
	if l.total += len(ports); l.total > maxPortLists {
		return 0, errTooManyLists
	}
	if l.number == nil {
		l.number = make(map[string]uint32)
	}
	n := uint32(len(l.lists))
	l.number[string(l.key)] = n
	l.lists = append(l.lists, slices.Clone(ports))
	return n, nil
}
