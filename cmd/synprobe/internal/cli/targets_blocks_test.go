package cli

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"synprobe/rawprobe/batch"
)

func setOf(t testing.TB, text string) *targetSet {
	t.Helper()
	s := &targetSet{}
	for _, f := range strings.Fields(text) {
		p, list, _ := strings.Cut(f, "=")
		prefix, err := netip.ParsePrefix(p)
		if err != nil {
			t.Fatal(err)
		}
		var ports []uint16
		for _, n := range strings.Split(list, ",") {
			var port uint16
			if _, err := fmt.Sscan(n, &port); err != nil {
				t.Fatal(err)
			}
			ports = append(ports, port)
		}
		number, err := s.ports.intern(ports)
		if err != nil {
			t.Fatal(err)
		}
		s.add(prefix, number)
	}
	return s
}

func blockText(blocks []batch.Block) string {
	var all []string
	for _, b := range blocks {
		all = append(all, fmt.Sprintf("%v=%s", b.Prefix, strings.Trim(strings.ReplaceAll(fmt.Sprint(b.Ports), " ", ","), "[]")))
	}
	return strings.Join(all, " ")
}

func TestBlocks(t *testing.T) {
	for _, c := range []struct {
		in, want   string
		duplicates uint64
	}{
		{"10.0.0.0/24=22", "10.0.0.0/24=22", 0},
		{"10.0.0.0/24=22 10.0.0.0/24=22", "10.0.0.0/24=22", 256},
		{"10.0.0.0/24=80 10.0.0.0/24=22", "10.0.0.0/24=22,80", 0},
		{"10.0.0.0/24=22,80 10.0.0.0/24=80,443", "10.0.0.0/24=22,80,443", 256},
		{"10.0.0.7/32=22 10.0.0.0/24=22", "10.0.0.0/24=22", 1},
		{"10.0.0.7/32=22,80 10.0.0.0/24=22", "10.0.0.0/24=22 10.0.0.7/32=80", 1},
		// Nested twice, and a neighbour behind that is in neither.
		{"10.0.0.0/16=22 10.0.1.0/24=80 10.0.1.7/32=22,80,443 10.1.0.7/32=22", "10.0.0.0/16=22 10.0.1.0/24=80 10.0.1.7/32=443 10.1.0.7/32=22", 2},
		// Halves become wholes, as far as they go.
		{"10.0.0.3/32=22 10.0.0.0/32=22 10.0.0.2/32=22 10.0.0.1/32=22 10.0.0.4/32=22", "10.0.0.0/30=22 10.0.0.4/32=22", 0},
		{"10.0.0.1/32=22 10.0.0.2/32=22", "10.0.0.1/32=22 10.0.0.2/32=22", 0},
		{"10.0.0.0/32=22 10.0.0.1/32=80", "10.0.0.0/32=22 10.0.0.1/32=80", 0},
		{"0.0.0.0/1=22 128.0.0.0/1=22", "0.0.0.0/0=22", 0},
		{"2001:db8::/97=22 2001:db8::8000:0/97=22", "2001:db8::/96=22", 0},
		{"2001:db8::1/128=22 10.0.0.1/32=22 2001:db8::/127=22", "10.0.0.1/32=22 2001:db8::/127=22", 1},
		{"255.255.255.255/32=22 ::/128=22 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128=22 0.0.0.0/32=22",
			"::/128=22 0.0.0.0/32=22 255.255.255.255/32=22 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128=22", 0},
	} {
		blocks, total, duplicates, err := setOf(t, c.in).blocks()
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
		}
		if got := blockText(blocks); got != c.want || duplicates != c.duplicates {
			t.Errorf("%s:\ngot  %s, %d duplicates\nwant %s, %d", c.in, got, duplicates, c.want, c.duplicates)
		}
		space, err := batch.NewSpace(blocks)
		if err != nil || space.Len() != total {
			t.Errorf("%s: the space has %d targets, want %d; %v", c.in, space.Len(), total, err)
		}
	}
}

// TestBlocksAgainstList compares with a plain list of all targets, for random
// small networks that overlap in all ways.
func TestBlocksAgainstList(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var in []string
		want := map[netip.AddrPort]bool{}
		named := 0
		for range 1 + rnd.IntN(12) {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(rnd.IntN(32))})
			if seed%2 == 1 {
				a = netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 15: a.As4()[3]})
			}
			p := netip.PrefixFrom(a, a.BitLen()-rnd.IntN(5)).Masked()
			ports := []uint16{22, 80, 443, 8080}[rnd.IntN(3):]
			in = append(in, fmt.Sprintf("%v=%s", p, strings.Trim(strings.ReplaceAll(fmt.Sprint(ports), " ", ","), "[]")))
			for a := p.Addr(); p.Contains(a); a = a.Next() {
				for _, port := range ports {
					want[netip.AddrPortFrom(a, port)] = true
					named++
				}
			}
		}
		text := strings.Join(in, " ")
		blocks, total, duplicates, err := setOf(t, text).blocks()
		if err != nil {
			t.Fatal(err)
		}
		space, err := batch.NewSpace(blocks)
		if err != nil {
			t.Fatal(err)
		}
		got := map[netip.AddrPort]bool{}
		for i := range space.Len() {
			got[space.At(i)] = true
		}
		if total != uint64(len(want)) || space.Len() != total || len(got) != len(want) || duplicates != uint64(named)-total {
			t.Fatalf("%s: %s has %d targets, %d different; want %d; %d duplicates", text, blockText(blocks), total, len(got), len(want), duplicates)
		}
		for a := range want {
			if !got[a] {
				t.Fatalf("%s: %s lacks %v", text, blockText(blocks), a)
			}
		}
		rnd.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
		again, _, _, _ := setOf(t, strings.Join(in, " ")).blocks()
		if blockText(again) != blockText(blocks) {
			t.Fatalf("in another order: %s, before %s", blockText(again), blockText(blocks))
		}
	}
}

func TestTooManyTargets(t *testing.T) {
	if _, _, _, err := setOf(t, "0.0.0.0/0=22 2001:db8::1/128=22").blocks(); !errors.Is(err, errTooManyTargets) {
		t.Errorf("error %v", err)
	}
	if _, total, _, err := setOf(t, "0.0.0.0/0=22 10.0.0.0/8=22").blocks(); err != nil || total != maxTargets {
		t.Errorf("%d targets, error %v", total, err)
	}
	s := &targetSet{}
	var err error
	for first := uint16(1); err == nil && first < 1000; first++ {
		ports := make([]uint16, 0, 65535)
		for p := first; p != 0; p++ {
			ports = append(ports, p)
		}
		_, err = s.ports.intern(ports)
	}
	if !errors.Is(err, errTooManyLists) {
		t.Errorf("error %v", err)
	}
}

func TestPortListsAreShared(t *testing.T) {
	var l portLists
	a, _ := l.intern([]uint16{22, 80})
	b, _ := l.intern([]uint16{22})
	c, _ := l.intern([]uint16{22, 80})
	if a != c || a == b || !slices.Equal(l.lists[a], []uint16{22, 80}) || l.total != 3 {
		t.Errorf("%d %d %d %v", a, b, c, l)
	}
}
