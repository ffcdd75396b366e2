package batch

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
)

// An order is a permutation of the numbers below n: the order in which targets
// are taken, so that no router and no host gets all of its SYNs at once. It
// holds no list. It is a Feistel network on the least number of bits that holds
// n, walked until it comes out below n (Black and Rogaway, "Ciphers with
// Arbitrary Finite Domains", 2002): two steps at most on average.
type order struct {
	n           uint64
	shift       uint // the bits of the right half
	left, right uint64
	keys        [rounds]uint64
}

// rounds is more than the three that a pseudo-random permutation needs (Luby
// and Rackoff): the halves may be a bit or two wide.
const rounds = 6

func newOrder(n, seed uint64) order {
	o := order{n: n}
	width := uint(0)
	if n > 0 {
		width = uint(bits.Len64(n - 1))
	}
	o.shift = width - width/2
	o.left, o.right = 1<<(width/2)-1, 1<<o.shift-1
	for i := range o.keys {
		o.keys[i] = splitmix(&seed)
	}
	return o
}

// at returns the number at position p, for p below n.
func (o *order) at(p uint64) uint64 {
	for {
		l, r := p>>o.shift, p&o.right
		for i := 0; i < rounds; i += 2 {
			l ^= stir(r, o.keys[i]) & o.left
			r ^= stir(l, o.keys[i+1]) & o.right
		}
		if p = l<<o.shift | r; p < o.n {
			return p
		}
	}
}

// position returns where x is, for x below n: at's inverse.
func (o *order) position(x uint64) uint64 {
	for {
		l, r := x>>o.shift, x&o.right
		for i := rounds - 2; i >= 0; i -= 2 {
			r ^= stir(l, o.keys[i+1]) & o.right
			l ^= stir(r, o.keys[i]) & o.left
		}
		if x = l<<o.shift | r; x < o.n {
			return x
		}
	}
}

// stir is the round function. A half has 32 bits at most, since n is below
// 2^63.
func stir(x, key uint64) uint64 {
	x = (x ^ key) * 0x9e3779b97f4a7c15
	x ^= x >> 29
	return x * 0xbf58476d1ce4e5b9 >> 32
}

// splitmix returns the next number of Steele, Lea and Flood's SplitMix64
// generator.
func splitmix(state *uint64) uint64 {
	*state += 0x9e3779b97f4a7c15
	z := *state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// A secret tells our own answers from others: what only the receiver of a
// probe can know of it is a keyed hash of where the probe went.
type secret struct{ k0, k1 uint64 }

// randomSecret is nobody's to guess, whoever knows the targets and the order.
func randomSecret() secret {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails: see crypto/rand
	return secret{binary.NativeEndian.Uint64(b[:8]), binary.NativeEndian.Uint64(b[8:])}
}

// Whatever is hashed beside an address: a TCP port, or an echo, which has none.
const echoTag = 1 << 16

// of returns the hash of an address and a port, or echoTag. It is SipHash-1-3
// (Aumasson and Bernstein) of two or three words.
func (s *secret) of(a addr, port uint32) uint64 {
	v0, v1 := s.k0^0x736f6d6570736575, s.k1^0x646f72616e646f6d
	v2, v3 := s.k0^0x6c7967656e657261, s.k1^0x7465646279746573
	words := [3]uint64{a.hi, a.lo, uint64(port)}
	for _, m := range words {
		v3 ^= m
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0 ^= m
	}
	v2 ^= 0xff
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	return v0 ^ v1 ^ v2 ^ v3
}

func sipRound(v0, v1, v2, v3 uint64) (uint64, uint64, uint64, uint64) {
	v0 += v1
	v2 += v3
	v1 = bits.RotateLeft64(v1, 13) ^ v0
	v3 = bits.RotateLeft64(v3, 16) ^ v2
	v0 = bits.RotateLeft64(v0, 32)
	v2 += v1
	v0 += v3
	v1 = bits.RotateLeft64(v1, 17) ^ v2
	v3 = bits.RotateLeft64(v3, 21) ^ v0
	v2 = bits.RotateLeft64(v2, 32)
	return v0, v1, v2, v3
}
