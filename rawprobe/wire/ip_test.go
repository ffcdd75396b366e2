package wire_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"synprobe/rawprobe/wire"
)

// equateAddr compares netip.Addr by ==.
var equateAddr = cmpopts.EquateComparable(netip.Addr{})

const (
	src6 = `20010db8 00000000 00000000 00000001`
	dst6 = `20010db8 00000000 00000000 00000002`
)

func TestParseIP(t *testing.T) {
	a, b := addr("2001:db8::1"), addr("2001:db8::2")
	for _, test := range []struct {
		name   string
		packet string
		want   wire.IP
	}{{
		name: "ipv4, the checksum example of many textbooks, cut after the header",
		packet: `45 00 0073  0000 4000  40 11 b861
			c0a80001 c0a800c7`,
		want: wire.IP{
			Version: 4, Src: addr("192.168.0.1"), Dst: addr("192.168.0.199"),
			TTL: 64, Proto: wire.ProtoUDP, DontFragment: true,
			TotalLen: 115, HeaderLen: 20, Truncated: true, ChecksumOK: true, Payload: []byte{},
		},
	}, {
		name: "ipv4 with options and Ethernet padding",
		packet: `46 b8 0019  1234 2003  01 06 0000 # more fragments, offset 3
			0a000001 0a000002
			94040000 # router alert
			ff
			000000`,
		want: wire.IP{
			Version: 4, Src: addr("10.0.0.1"), Dst: addr("10.0.0.2"),
			TTL: 1, Proto: wire.ProtoTCP, ID: 0x1234, TrafficClass: 0xb8,
			MoreFragments: true, FragmentOffset: 24,
			TotalLen: 25, HeaderLen: 24, Payload: []byte{0xff},
		},
	}, {
		name: "ipv6, plain, with padding",
		packet: `6b8 abcde 0002 3a ff` + src6 + dst6 + `
			0102
			0000`,
		want: wire.IP{
			Version: 6, Src: a, Dst: b, TTL: 255, Proto: wire.ProtoICMPv6,
			TrafficClass: 0xb8, FlowLabel: 0xabcde,
			TotalLen: 42, HeaderLen: 40, ChecksumOK: true, Payload: []byte{1, 2},
		},
	}, {
		name: "ipv6, every kind of extension header",
		packet: `60000000 0060 00 40` + src6 + dst6 + `
			3c 00 0502 0000 0100 # hop-by-hop: router alert, padding
			2b 00 0104 00000000  # destination options: padding
			2c 04 04 01 01 00 0000 # segment routing, one segment left of two
			   20010db8 00000000 00000000 000000ff # segment 0, the last
			   20010db8 00000000 00000000 00000002 # segment 1
			33 00 0000 cafebabe  # atomic fragment
			3c 04 0000 00000001 00000002 # authentication
			   aaaaaaaa aaaaaaaa aaaaaaaa
			06 00 0104 00000000  # destination options again
			07`,
		want: wire.IP{
			Version: 6, Src: a, Dst: b, FinalDst: addr("2001:db8::ff"),
			TTL: 64, Proto: wire.ProtoTCP, HasFragmentHeader: true,
			TotalLen: 136, HeaderLen: 136, Truncated: false, ChecksumOK: true, Payload: []byte{},
		},
	}, {
		name: "ipv6, later fragment of a packet: what follows is no header",
		packet: `60000000 0010 2c 40` + src6 + dst6 + `
			3c 00 05a9 00000007 # offset 181 units, more to come
			06ff0000 00000000   # looks like too long a header`,
		want: wire.IP{
			Version: 6, Src: a, Dst: b, TTL: 64, Proto: 60,
			HasFragmentHeader: true, FragmentOffset: 1448, MoreFragments: true,
			TotalLen: 56, HeaderLen: 48, ChecksumOK: true,
			Payload: []byte{6, 0xff, 0, 0, 0, 0, 0, 0},
		},
	}, {
		name: "ipv6, routing header of type 2, and nothing next",
		packet: `60000000 0018 2b 40` + src6 + dst6 + `
			3b 02 02 01 00000000  fe800000 00000000 00000000 00000009`,
		want: wire.IP{
			Version: 6, Src: a, Dst: b, FinalDst: addr("fe80::9"), TTL: 64, Proto: 59,
			TotalLen: 64, HeaderLen: 64, ChecksumOK: true, Payload: []byte{},
		},
	}, {
		name: "ipv6, segment routing at its end",
		packet: `60000000 0018 2b 40` + src6 + dst6 + `
			06 02 04 00 00 00 0000  20010db8 00000000 00000000 00000002`,
		want: wire.IP{
			Version: 6, Src: a, Dst: b, TTL: 64, Proto: wire.ProtoTCP,
			TotalLen: 64, HeaderLen: 64, ChecksumOK: true, Payload: []byte{},
		},
	}, {
		name: "ipv6, eight extension headers, and a routing header of a type without addresses that we know",
		packet: `60000000 0058 2b 40` + src6 + dst6 + `
			3c 02 03 01 00000000  20010db8 00000000 00000000 00000003` + strings.Repeat(`3c00010400000000`, 6) + `0600010400000000`,
		want: wire.IP{
			Version: 6, Src: a, Dst: b, TTL: 64, Proto: wire.ProtoTCP,
			TotalLen: 128, HeaderLen: 120, Payload: make([]byte, 0), ChecksumOK: true,
			Truncated: true,
		},
	}} {
		t.Run(test.name, func(t *testing.T) {
			got, err := wire.ParseIP(unhex(t, test.packet))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, equateAddr); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestParseIPErrors(t *testing.T) {
	for _, test := range []struct {
		name   string
		packet string
		want   error
	}{
		{"nothing", ``, wire.ErrTruncated},
		{"version 5", `55000000`, wire.ErrMalformed},
		{"ipv4 cut", `45000028 00000000 4006 0000 0a000001 0a0000`, wire.ErrTruncated},
		{"ipv4 header of 16 bytes", `44000028 00000000 4006 0000 0a000001 0a000002`, wire.ErrMalformed},
		{"ipv4 options cut", `46000028 00000000 4006 0000 0a000001 0a000002 0000`, wire.ErrTruncated},
		{"ipv4 total length below the header", `45000013 00000000 4006 0000 0a000001 0a000002`, wire.ErrMalformed},
		{"ipv6 cut", `60000000 0000 06 40` + src6 + `0000`, wire.ErrTruncated},
		{"ipv6 hop-by-hop cut", `60000000 0008 00 40` + src6 + dst6 + `06`, wire.ErrTruncated},
		{"ipv6 destination options run over the end", `60000000 0008 3c 40` + src6 + dst6 + `0601 0104 00000000`, wire.ErrTruncated},
		{"ipv6 authentication header cut", `60000000 0008 33 40` + src6 + dst6 + `06`, wire.ErrTruncated},
		{"ipv6 fragment header cut", `60000000 0008 2c 40` + src6 + dst6 + `0600 0000 000000`, wire.ErrTruncated},
		{"ipv6 header behind the total length", `60000000 0000 3c 40` + src6 + dst6 + `0600 0104 00000000`, wire.ErrTruncated},
		{"ipv6 nine headers", `60000000 0050 3c 40` + src6 + dst6 + strings.Repeat(`3c00010400000000`, 8) + `0600 0104 00000000 00`, wire.ErrMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := wire.ParseIP(unhex(t, test.packet))
			wantError(t, err, test.want)
		})
	}
}

func TestProtoString(t *testing.T) {
	for p, want := range map[wire.Proto]string{
		wire.ProtoICMP: "icmp", wire.ProtoTCP: "tcp", wire.ProtoUDP: "udp", wire.ProtoICMPv6: "icmpv6", 47: "protocol 47",
	} {
		if got := p.String(); got != want {
			t.Errorf("Proto(%d) is %q, want %q", uint8(p), got, want)
		}
	}
}

func TestChecksum(t *testing.T) {
	for _, test := range []struct {
		name    string
		bytes   string
		initial uint32
		want    uint16
	}{
		{"RFC 1071 section 3", `0001 f203 f4f5 f6f7`, 0, ^uint16(0xddf2)},
		{"nothing", ``, 0, 0xffff},
		{"odd", `0102 03`, 0, ^uint16(0x0402)},
		{"carry comes back", `ffff 0001`, 0, 0xfffe},
		{"initial", `0001`, 0x1ffff, 0xfffd},
	} {
		if got := wire.Checksum(unhex(t, test.bytes), test.initial); got != test.want {
			t.Errorf("%s: %#04x, want %#04x", test.name, got, test.want)
		}
	}
	// 0a00+0001 + 0a00+0002 + 0006 + 0014
	if got := wire.PseudoHeaderSum(addr("10.0.0.1"), addr("10.0.0.2"), wire.ProtoTCP, 20); got != 0x141d {
		t.Errorf("pseudo header of IPv4 sums to %#x, want 0x141d", got)
	}
	// 2*(2001+0db8) + 1+2 + 3a + 1_0000 folded
	if got := wire.PseudoHeaderSum(addr("2001:db8::1"), addr("2001:db8::2"), wire.ProtoICMPv6, 1<<16); got != 0x5bb0 {
		t.Errorf("pseudo header of IPv6 sums to %#x, want 0x5bb0", got)
	}
}

func TestVerifyPayload(t *testing.T) {
	for _, test := range []struct {
		name           string
		packet         string
		valid, checked bool
	}{
		// Sum of the words of type, ID and sequence: 0800 + 0001 + 0002.
		{"icmp", `4500001c 00000000 4001 0000 0a000001 0a000002  0800 f7fc 0001 0002`, true, true},
		{"icmp, wrong", `4500001c 00000000 4001 0000 0a000001 0a000002  0800 f7fd 0001 0002`, false, true},
		// Pseudo header 0a00+0001+0a00+0002+0011+0008 = 141c, UDP 0001+0002+0008: 1427.
		{"udp", `4500001c 00000000 4011 0000 0a000001 0a000002  0001 0002 0008 ebd8`, true, true},
		{"udp with surplus bytes", `4500001e 00000000 4011 0000 0a000001 0a000002  0001 0002 0008 ebd8 ffaa`, true, true},
		{"icmpv6 of 3 bytes", `60000000 0003 3a ff` + src6 + dst6 + `800000`, false, false},
		{"icmp of 3 bytes", `45000017 00000000 4001 0000 0a000001 0a000002  080000`, false, false},
		{"udp of 4 bytes", `45000018 00000000 4011 0000 0a000001 0a000002  00010002`, false, false},
		{"udp without", `4500001c 00000000 4011 0000 0a000001 0a000002  0001 0002 0008 0000`, false, false},
		// 5b72 + 0001 + 0002 + 0011 + 0008 twice + 0001 + 0002
		{"udp over segment routing goes by the last segment", `60000000 0020 2b 40` + src6 + `ff` + dst6[2:] + `
			11 02 04 01 00 00 0000` + dst6 + `
			0001 0002 0008 a466`, true, true},
		{"fragment", `4500001c 00002000 4001 0000 0a000001 0a000002  0800 f7fc 0001 0002`, false, false},
		{"cut", `4500001d 00000000 4001 0000 0a000001 0a000002  0800 f7fc 0001 0002`, false, false},
		{"gre", `4500001c 00000000 402f 0000 0a000001 0a000002  0800 f7fc 0001 0002`, false, false},
		{"tcp without a header", `45000018 00000000 4006 0000 0a000001 0a000002  0800 f7fc`, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := wire.ParseIP(unhex(t, test.packet))
			if err != nil {
				t.Fatal(err)
			}
			if valid, checked := p.VerifyPayload(); valid != test.valid || checked != test.checked {
				t.Errorf("valid %t, checked %t; want %t, %t", valid, checked, test.valid, test.checked)
			}
		})
	}
}
