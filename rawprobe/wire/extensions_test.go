package wire_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"synprobe/rawprobe/wire"
)

// One MPLS label stack of two entries: 24001 with TTL 1, and 16 with traffic
// class 5, bottom, TTL 254. Its words sum up to
// 2000 + 000c + 0101 + 05dc + 1001 + 0001 + 0bfe = 42e9.
const (
	mplsObject   = `000c 01 01 05dc1001 00010bfe`
	mplsVerified = `2000 bd16 ` + mplsObject
	mplsNoSum    = `2000 0000 ` + mplsObject
	mplsWrong    = `2000 bd17 ` + mplsObject
)

var labels = []wire.MPLSLabel{{Label: 24001, TTL: 1}, {Label: 16, TC: 5, Bottom: true, TTL: 254}}

func TestExtensions(t *testing.T) {
	syn4 := ip4 + ports + seq + rest // 60 bytes
	syn6 := ip6 + ports + seq + rest // 80 bytes
	pad := func(n int) string { return strings.Repeat("00", n) }
	verified := wire.Extensions{MPLS: labels, Verified: true}
	unverified := wire.Extensions{MPLS: labels}

	for _, test := range []struct {
		name   string
		v6     bool
		packet string
		want   wire.Extensions
		err    error
		quoted int // Quote.Len; the total length of the SYN unless told
	}{
		{name: "as RFC 4884 wants it", packet: `0b00 0000 00 20 0000` + syn4 + pad(68) + mplsVerified, want: verified},
		{name: "without a checksum", packet: `0b00 0000 00 20 0000` + syn4 + pad(68) + mplsNoSum, want: unverified},
		{name: "checksum wrong", packet: `0b00 0000 00 20 0000` + syn4 + pad(68) + mplsWrong, err: wire.ErrChecksum},
		{name: "version 1", packet: `0b00 0000 00 20 0000` + syn4 + pad(68) + `1000 0000 ` + mplsObject, err: wire.ErrMalformed},
		{name: "unreachable", packet: `030d 0000 00 20 0000` + syn4 + pad(68) + mplsVerified, want: verified},
		{name: "parameter problem", packet: `0c00 0000 14 20 0000` + syn4 + pad(68) + mplsVerified, want: verified},
		{name: "a redirect has none", packet: `0501 0000 00 20 0000` + syn4 + pad(68) + mplsVerified},
		{name: "none", packet: `0b00 0000 00 00 0000` + syn4},
		{name: "none, though there is a length", packet: `0b00 0000 00 20 0000` + syn4 + pad(68)},

		{name: "old device, no length", packet: `0b00 0000 00 00 0000` + syn4 + pad(68) + mplsVerified, want: verified},
		{name: "old device, no length, no checksum", packet: `0b00 0000 00 00 0000` + syn4 + pad(68) + mplsNoSum, want: unverified},
		{name: "old device, checksum wrong: data, then", packet: `0b00 0000 00 00 0000` + syn4 + pad(68) + mplsWrong},
		{name: "old device, 2 where a version might be", packet: `0b00 0000 00 00 0000` + syn4 + pad(68) + `2000 0000 0003`},
		{name: "length in bytes", packet: `0b00 0000 00 80 0000` + syn4 + pad(68) + mplsVerified, want: verified},
		{name: "length in bytes, padded to 144", packet: `0b00 0000 00 90 0000` + syn4 + pad(84) + mplsVerified, want: verified},
		{name: "length in 64-bit words, padded to 144", packet: `0b00 0000 00 12 0000` + syn4 + pad(84) + mplsVerified, want: verified},
		{name: "no length, 28 bytes padded to 32", packet: `0b00 0000 00 00 0000` + ip4 + ports + seq + pad(4) + mplsVerified, want: verified, quoted: 32},
		{name: "length right, 28 bytes, and what follows is nothing", packet: `0b00 0000 00 07 0000` + ip4 + ports + seq + `ffffffff ffffffff`,
			err: wire.ErrMalformed, quoted: 28},
		{name: "old device, object over the end: data, then", packet: `0b00 0000 00 00 0000` + syn4 + pad(68) + `2000 0000 0040 01 01 05dc1001`},
		{name: "old device, object of 3 bytes: data, then", packet: `0b00 0000 00 00 0000` + syn4 + pad(68) + `2000 0000 0003 01 01 05dc1001`},
		{name: "old device, no object: data, then", packet: `0b00 0000 00 00 0000` + syn4 + pad(68) + `2000 0000`},
		{name: "length in 64-bit words", packet: `0b00 0000 00 10 0000` + syn4 + pad(68) + mplsVerified, want: verified},
		{name: "length right, quote not padded to 128", packet: `0b00 0000 00 0f 0000` + syn4 + mplsVerified, want: verified},
		{name: "length right, not padded, no checksum: not believed", packet: `0b00 0000 00 0f 0000` + syn4 + mplsNoSum},
		{name: "no length, not padded", packet: `0b00 0000 00 00 0000` + syn4 + mplsVerified, want: verified},
		{name: "no length, 28 bytes quoted", packet: `0b00 0000 00 00 0000` + ip4 + ports + seq + mplsVerified, want: verified, quoted: 28},
		{name: "length says 128, 28 bytes quoted", packet: `0b00 0000 00 20 0000` + ip4 + ports + seq + mplsVerified, want: verified, quoted: 28},
		{name: "length says 128, padded to 32", packet: `0b00 0000 00 20 0000` + ip4 + ports + seq + pad(4) + mplsVerified, want: verified, quoted: 32},

		{name: "unknown class, then ours", packet: `0b00 0000 00 20 0000` + syn4 + pad(68) + `2000 0000 0008 f7 01 deadbeef` + mplsObject,
			want: wire.Extensions{MPLS: labels, Unknown: 1}},
		{name: "outgoing label stack is not the one it came with", packet: `0b00 0000 00 20 0000` + syn4 + pad(68) + `2000 0000 0008 01 02 00010bfe`,
			want: wire.Extensions{Unknown: 1}},
		{name: "object shorter than its header", packet: `0b00 0000 00 20 0000` + syn4 + pad(68) + `2000 0000 ` + mplsObject + `0003 0101`,
			want: unverified, err: wire.ErrMalformed},
		{name: "object over the end", packet: `0b00 0000 00 20 0000` + syn4 + pad(68) + `2000 0000 ` + mplsObject + `0008 0101`,
			want: unverified, err: wire.ErrMalformed},
		{name: "rest too short for an object", packet: `0b00 0000 00 20 0000` + syn4 + pad(68) + `2000 0000 ` + mplsObject + `0004`,
			want: unverified, err: wire.ErrMalformed},
		{name: "seventeen labels and forty objects", packet: `0b00 0000 00 20 0000` + syn4 + pad(68) + `2000 0000 ` +
			`0048 01 01` + strings.Repeat(`00010bfe`, 17) + strings.Repeat(`0008 02 08 00000001`, 40),
			want: wire.Extensions{
				MPLS: func() (m []wire.MPLSLabel) {
					for range 16 {
						m = append(m, labels[1])
					}
					return m
				}(),
				Interfaces: func() (m []wire.InterfaceInfo) {
					for range 8 {
						m = append(m, wire.InterfaceInfo{HasIndex: true, Index: 1})
					}
					return m
				}(),
				Unknown: 32 - 1 - 8,
			}},

		{name: "interfaces", packet: `0b00 0000 00 20 0000` + syn4 + pad(68) + `2000 0000
			0020 02 0f  00000007  0001 0000 c0000201  0c 6574682d302f302f3100 00  000005dc # eth-0/0/1
			0018 02 84  0002 0000 20010db8000000000000000000000001
			000c 02 c2  08 1b5b324a 000000 # an escape sequence, as it came
			0008 02 48  ffffffff`,
			want: wire.Extensions{Interfaces: []wire.InterfaceInfo{
				{Role: wire.RoleIncoming, HasIndex: true, Index: 7, Addr: addr("192.0.2.1"), Name: "eth-0/0/1", MTU: 1500},
				{Role: wire.RoleOutgoing, Addr: addr("2001:db8::1")},
				{Role: wire.RoleNextHop, Name: "\x1b[2J"},
				{Role: wire.RoleSubIncoming, HasIndex: true, Index: 0xffffffff},
			}}},
		{name: "name of 79 bytes is cut", packet: `0b00 0000 00 20 0000` + syn4 + pad(68) + `2000 0000
			0058 02 03  50` + strings.Repeat("61", 79) + `000005dc`,
			want: wire.Extensions{Interfaces: []wire.InterfaceInfo{{Name: strings.Repeat("a", 63), MTU: 1500}}}},
		{name: "name over the end", packet: `0b00 0000 00 20 0000` + syn4 + pad(68) + `2000 0000 0008 02 02 08 616263`, err: wire.ErrMalformed},
		{name: "name without a length", packet: `0b00 0000 00 20 0000` + syn4 + pad(68) + `2000 0000 0008 02 02 00 616263`, err: wire.ErrMalformed},
		{name: "address of Ethernet", packet: `0b00 0000 00 20 0000` + syn4 + pad(68) + `2000 0000 0018 02 04 4003 0000` + pad(16), err: wire.ErrMalformed},
		{name: "no room for an index", packet: `0b00 0000 00 20 0000` + syn4 + pad(68) + `2000 0000 0006 02 08 0000`, err: wire.ErrMalformed},
		{name: "no room for an MTU", packet: `0b00 0000 00 20 0000` + syn4 + pad(68) + `2000 0000 0004 02 01`, err: wire.ErrMalformed},
		{name: "no room for an address", packet: `0b00 0000 00 20 0000` + syn4 + pad(68) + `2000 0000 0004 02 04`, err: wire.ErrMalformed},

		{name: "as RFC 4884 wants it", v6: true, packet: `0300 0000 10 000000` + syn6 + pad(48) + mplsVerified, want: verified},
		{name: "unreachable", v6: true, packet: `0101 0000 10 000000` + syn6 + pad(48) + mplsVerified, want: verified},
		{name: "old device, no length", v6: true, packet: `0300 0000 00 000000` + syn6 + pad(48) + mplsVerified, want: verified},
		{name: "no length, not padded", v6: true, packet: `0300 0000 00 000000` + syn6 + mplsVerified, want: verified},
		{name: "length in 32-bit words", v6: true, packet: `0300 0000 14 000000` + syn6 + mplsVerified, want: verified},
		{name: "a packet too big has none, its MTU is no length", v6: true, packet: `0200 0000 10000500` + syn6 + pad(48) + mplsVerified},
	} {
		name := "ipv4/" + test.name
		if test.v6 {
			name = "ipv6/" + test.name
		}
		t.Run(name, func(t *testing.T) {
			parse, whole := wire.ParseICMPv4, 60
			if test.v6 {
				parse, whole = wire.ParseICMPv6, 80
			}
			m, err := parse(unhex(t, test.packet))
			if err != nil {
				t.Fatal(err)
			}
			got, err := m.Extensions()
			wantError(t, err, test.err)
			if diff := cmp.Diff(test.want, got, equateAddr); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			// The quote is good whatever became of the extensions.
			q, err := m.Quote()
			if err != nil {
				t.Fatal(err)
			}
			if test.quoted == 0 {
				test.quoted = whole
			}
			if q.Len != test.quoted || q.Seq != 0x11223344 || q.HasTSval != (q.Len == whole) {
				t.Errorf("quotes %d bytes, sequence %#x, TSval %t; want %d bytes", q.Len, q.Seq, q.HasTSval, test.quoted)
			}
		})
	}
}

func TestInterfaceRoleString(t *testing.T) {
	for r, want := range map[wire.InterfaceRole]string{
		wire.RoleIncoming: "incoming", wire.RoleSubIncoming: "incoming sub-IP",
		wire.RoleOutgoing: "outgoing", wire.RoleNextHop: "next hop", 9: "role 9",
	} {
		if got := r.String(); got != want {
			t.Errorf("role %d is %q, want %q", uint8(r), got, want)
		}
	}
}
