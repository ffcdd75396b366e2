package batch

import (
	"errors"
	"net/netip"
	"testing"
)

func TestOrderIsBijection(t *testing.T) {
	for _, n := range []uint64{1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 1000, 4096, 4097, 65535, 100003} {
		for seed := range uint64(3) {
			o := newOrder(n, seed)
			seen := make([]bool, n)
			for p := range n {
				x := o.at(p)
				if x >= n || seen[x] {
					t.Fatalf("n %d, seed %d: position %d has %d, again or out of range", n, seed, p, x)
				}
				seen[x] = true
				if back := o.position(x); back != p {
					t.Fatalf("n %d, seed %d: %d is at %d, and said to be at %d", n, seed, x, p, back)
				}
			}
		}
	}
	for _, n := range []uint64{1<<62 + 12345, 1<<63 - 1, 1 << 40} {
		o := newOrder(n, 1)
		for _, p := range []uint64{0, 1, n / 2, n - 1} {
			if x := o.at(p); x >= n || o.position(x) != p {
				t.Errorf("n %d: position %d has %d, which is at %d", n, p, x, o.position(x))
			}
		}
	}
}

// Neighbours in the order are no neighbours in the network, and another seed is
// another order.
func TestOrderScatters(t *testing.T) {
	const n = 1 << 16
	o, other := newOrder(n, 1), newOrder(n, 2)
	near, same := 0, 0
	for p := uint64(1); p < n; p++ {
		if o.at(p)>>8 == o.at(p-1)>>8 { // in one /24
			near++
		}
		if o.at(p) == other.at(p) {
			same++
		}
	}
	// By chance 256 and 1 are expected.
	if near > 2*256 || same > 20 {
		t.Errorf("%d neighbours follow each other, %d targets are at the same place with another seed", near, same)
	}
	// The first hundredth is spread over all /24.
	nets := make(map[uint64]int)
	for p := range uint64(n / 100) {
		nets[o.at(p)>>8]++
	}
	for net, k := range nets {
		if k > 14 { // 2.56 expected
			t.Errorf("%d of the first %d are in network %d", k, n/100, net)
		}
	}
}

func TestSpace(t *testing.T) {
	shuffled := []uint16{443, 22, 80}
	many := make([]uint16, 1000)
	for i := range many {
		many[i] = uint16(3 * i)
	}
	spaces := map[string][]Block{
		"one":     {prefix("10.0.0.0/24", 22)},
		"host":    {prefix("10.0.0.7/32", 22, 80)},
		"lists":   {prefix("10.0.0.0/28", shuffled...), prefix("10.9.0.0/30", many...)},
		"nested":  {prefix("10.0.0.0/24", 22), prefix("10.0.0.16/28", 80, 81), prefix("10.0.0.17/32", 443), prefix("10.0.0.0/24", 23), prefix("10.0.1.0/24", 22)},
		"v6":      {prefix("2001:db8::/120", 22, 80), prefix("2001:db8::ff00/121", 22)},
		"both":    {prefix("2001:db8::/120", 22), prefix("10.0.0.0/24", 22), prefix("0.0.0.0/32", 1), prefix("255.255.255.255/32", 65535)},
		"masked":  {prefix("10.0.0.77/24", 22)},
		"none":    {},
		"noports": {prefix("10.0.0.0/24")},
		"twice":   {prefix("10.0.0.0/30", 22), prefix("10.0.0.0/30", 22, 23)},
	}
	for name, blocks := range spaces {
		s := mustSpace(t, blocks...)
		want := make(map[netip.AddrPort]bool)
		hosts := make(map[netip.Addr]bool)
		for _, b := range blocks {
			for a := b.Prefix.Masked().Addr(); b.Prefix.Contains(a); a = a.Next() {
				for _, p := range b.Ports {
					want[netip.AddrPortFrom(a, p)] = true
					hosts[a] = true
				}
			}
		}
		if s.Len() != uint64(len(want)) || s.Hosts() != uint64(len(hosts)) {
			t.Errorf("%s: %d targets on %d hosts, want %d and %d", name, s.Len(), s.Hosts(), len(want), len(hosts))
			continue
		}
		byHost := make(map[uint64]netip.Addr)
		for i := range s.Len() {
			target := s.At(i)
			if !want[target] {
				t.Fatalf("%s: %d is %s, again or wrongly", name, i, target)
			}
			delete(want, target)
			if back, ok := s.IndexOf(target); !ok || back != i {
				t.Fatalf("%s: %s is %d, and said to be %d, %v", name, target, i, back, ok)
			}
			h, ok := s.host(fromNetip(target.Addr()))
			if a, known := byHost[h]; !ok || h >= s.Hosts() || known && a != target.Addr() {
				t.Fatalf("%s: %s is host %d, as %s", name, target, h, a)
			}
			byHost[h] = target.Addr()
		}
		for _, other := range []string{"10.0.0.8:99", "9.255.255.255:22", "11.0.0.0:22", "[2001:db7::1]:22", "[ffff::]:22", "[::1]:22", "10.0.0.16:2"} {
			target := netip.MustParseAddrPort(other)
			in := false
			for _, b := range blocks {
				for _, p := range b.Ports {
					in = in || b.Prefix.Contains(target.Addr()) && p == target.Port()
				}
			}
			if _, ok := s.IndexOf(target); ok != in {
				t.Errorf("%s: %s is in it: %v", name, other, ok)
			}
			if _, ok := s.host(fromNetip(target.Addr())); ok != hosts[target.Addr()] {
				t.Errorf("%s: %s is a host of it: %v", name, other, ok)
			}
		}
	}
	if got := shuffled[0]; got != 443 {
		t.Error("the caller's ports were changed")
	}
}

func TestSpaceTwice(t *testing.T) {
	for _, c := range []struct {
		blocks []Block
		want   string
	}{
		{[]Block{prefix("10.0.0.0/24", 22, 80), prefix("10.0.0.0/16", 80, 90)}, "10.0.0.0:80"},
		{[]Block{prefix("10.0.0.0/8", 443), prefix("10.0.0.0/16", 80), prefix("10.0.5.1/32", 443)}, "10.0.5.1:443"},
		{[]Block{prefix("10.0.0.0/24", 22), prefix("10.0.0.0/16", 80)}, ""},
		{[]Block{prefix("10.0.0.0/24", 22), prefix("10.0.1.0/24", 22)}, ""},
	} {
		got, ok := mustSpace(t, c.blocks...).Twice()
		if ok != (c.want != "") || ok && got.String() != c.want {
			t.Errorf("%v: %v, %v; want %q", c.blocks, got, ok, c.want)
		}
	}
}

func TestSpaceTooMany(t *testing.T) {
	ports := make([]uint16, 65535)
	for i := range ports {
		ports[i] = uint16(i)
	}
	for _, blocks := range [][]Block{
		{prefix("2001:db8::/32", 22)},
		{{netip.MustParsePrefix("2001:db8::/66"), ports}},
		{prefix("2001:db8::/66", 22), prefix("2001:db9::/66", 22)},
	} {
		if _, err := NewSpace(blocks); !errors.Is(err, ErrTooMany) {
			t.Errorf("%v: %v", blocks[0].Prefix, err)
		}
	}
	s := mustSpace(t, prefix("2001:db8::/66", 22))
	for _, i := range []uint64{0, 1, 1<<62 - 1} {
		if back, ok := s.IndexOf(s.At(i)); !ok || back != i {
			t.Errorf("%d is %s, which is %d", i, s.At(i), back)
		}
	}
}

func TestShare(t *testing.T) {
	for n := range uint64(30) {
		for every := uint64(1); every < 8; every++ {
			sum := uint64(0)
			for k := range every {
				sum += share(n, k, every)
			}
			if sum != n {
				t.Errorf("%d shards of %d have %d", every, n, sum)
			}
		}
	}
}

// Each part of the space is asked for once, at an address that no smaller
// route covers.
func TestWays(t *testing.T) {
	s := mustSpace(t, prefix("10.0.0.0/16", 22), prefix("10.2.0.0/24", 22), prefix("2001:db8::/112", 22))
	part := func(p string) rng {
		x := netip.MustParsePrefix(p)
		first := fromNetip(x.Addr())
		return rng{first: first, last: first.plus(1<<(x.Addr().BitLen()-x.Bits()) - 1)}
	}
	routes := []rng{
		part("10.0.0.0/24"), part("10.0.0.255/32"), part("10.0.128.0/17"), part("10.0.128.0/24"), part("10.0.255.255/32"),
		part("10.0.0.0/8"), part("192.168.0.0/16"), part("10.0.0.0/24"), part("2001:db8::8000/113"),
	}
	// What the kernel would say: the longest match.
	match := func(a addr) int {
		best := 1000
		for i, r := range routes {
			if r.first.compare(a) <= 0 && r.last.compare(a) >= 0 && (best == 1000 || r.last.minus(r.first) < routes[best].last.minus(routes[best].first)) {
				best = i
			}
		}
		return best
	}
	asked := 0
	w, err := findWays(s, routes, func(a addr) (way, error) {
		asked++
		return way{index: match(a)}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range s.Len() {
		a, _ := s.at(i)
		k := w.of(a)
		if k < 0 || w.all[k].index != match(a) {
			t.Fatalf("%s goes by %d, want %d", a.netip(), k, match(a))
		}
	}
	if asked > 12 {
		t.Errorf("the kernel was asked %d times", asked)
	}
	failure := errors.New("no")
	if _, err := findWays(s, routes, func(addr) (way, error) { return way{}, failure }); !errors.Is(err, failure) {
		t.Errorf("error %v", err)
	}
}
