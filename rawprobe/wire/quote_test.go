package wire_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"synprobe/rawprobe/wire"
)

// The SYN that most quotes below are of, sent from 10.0.1.1 port 50000 to
// 10.0.4.2 port 5432 with a total length of 60.
const (
	ip4   = `45 00 003c 0abc 4000 01 06 0000 0a000101 0a000402 `
	ports = `c350 1538 `
	seq   = `11223344 `
	rest  = `00000000 a0 02 fe88 0000 0000
		0204 05b4 0402 080a 00000100 00000000 01 030307 `

	// The same over IPv6, with a payload length of 40.
	ip6 = `60012345 0028 06 01 20010db8 00000000 00000000 00000101 20010db8 00000000 00000000 00000402 `
)

func TestQuote(t *testing.T) {
	identity := wire.Quote{
		HasPorts: true, SrcPort: 50000, DstPort: 5432, HasSeq: true, Seq: 0x11223344,
	}
	full := identity
	full.HasAck, full.HasFlags, full.TCPFlags, full.HasTSval, full.TSval = true, true, wire.SYN, true, 0x100
	with := func(q wire.Quote, change func(*wire.Quote)) wire.Quote { change(&q); return q }
	zeros := func(n int) string { return strings.Repeat("00", n) }

	for _, test := range []struct {
		name   string
		v6     bool
		packet string
		want   wire.Quote // IP is checked below
		length int
	}{
		{"8 bytes", false, `0b00 0000 00000000` + ip4 + ports + seq, identity, 28},
		{"the whole SYN", false, `0b00 0000 00000000` + ip4 + ports + seq + rest, full, 60},
		{"IP header alone", false, `0b00 0000 00000000` + ip4, wire.Quote{}, 20},
		{"ports alone", false, `0b00 0000 00000000` + ip4 + ports,
			wire.Quote{HasPorts: true, SrcPort: 50000, DstPort: 5432}, 24},
		{"half a sequence number", false, `0b00 0000 00000000` + ip4 + ports + `1122`,
			wire.Quote{HasPorts: true, SrcPort: 50000, DstPort: 5432}, 26},
		{"up to the acknowledgement", false, `0b00 0000 00000000` + ip4 + ports + seq + `0000002a`,
			with(identity, func(q *wire.Quote) { q.HasAck, q.Ack = true, 42 }), 32},
		{"options cut inside the timestamp", false, `0b00 0000 00000000` + ip4 + ports + seq + `00000000 a0 02 fe88 0000 0000
			0204 05b4 0402 080a 000001`,
			with(full, func(q *wire.Quote) { q.HasTSval, q.TSval = false, 0 }), 51},
		{"data offset of 0", false, `0b00 0000 00000000` + ip4 + ports + seq + `00000000 00 02 fe88 0000 0000 080a 00000100 00000000`,
			with(full, func(q *wire.Quote) { q.HasTSval, q.TSval = false, 0 }), 50},
		{"padded to 128, no length", false, `0b00 0000 00000000` + ip4 + ports + seq + rest + zeros(68), full, 60},
		{"padded to 128, length 32", false, `0b00 0000 00200000` + ip4 + ports + seq + rest + zeros(68), full, 60},
		{"length shorter than the message", false, `0b00 0000 000f0000` + ip4 + ports + seq + rest + zeros(68), full, 60},
		{"length of nonsense, too long", false, `0b00 0000 00ff0000` + ip4 + ports + seq, identity, 28},
		{"length of nonsense, too short", false, `0b00 0000 00010000` + ip4 + ports + seq, identity, 28},
		{"IPv4 options in the quoted header", false, `0300 0000 00000000 46000040 0abc0000 01060000 0a000101 0a000402 94040000` + ports + seq,
			identity, 32},
		{"length without the header, as old BSD kernels had it", false,
			`0300 0000 00000000 450000280abc4000 01060000 0a000101 0a000402` + ports + seq + rest, full, 60},
		{"length zero", false, `0300 0000 00000000 450000000abc4000 01060000 0a000101 0a000402` + ports + seq + rest, full, 60},
		{"length and fragment field swapped", false,
			`0300 0000 00000000 45003c00 bc0a0040 01060000 0a000101 0a000402` + ports + seq + rest,
			with(full, func(q *wire.Quote) { q.Swapped = true }), 60},
		{"lone first fragment, swapped, 8 bytes", false,
			`0b01 0000 00000000 45001c00 bc0a0020 01060000 0a000101 0a000402` + ports + seq,
			with(identity, func(q *wire.Quote) { q.Swapped = true }), 28},
		{"a fragment that really starts at 512", false,
			`0300 0000 00000000 45000220 0abc0040 01060000 0a000101 0a000402` + ports + seq + rest, wire.Quote{}, 60},
		{"a fragment at 512 with a flag in its place is not swapped", false,
			`0300 0000 00000000 45003c00 bc0a4040 01060000 0a000101 0a000402` + ports + seq + rest, wire.Quote{}, 60},
		{"a later fragment has no ports", false,
			`0300 0000 00000000 4500003c 0abc00b9 01060000 0a000101 0a000402` + ports + seq + rest, wire.Quote{}, 60},
		{"UDP", false, `0303 0000 00000000 45000020 0abc0000 01110000 0a000101 0a000402` + ports + `000c 0000`,
			wire.Quote{HasPorts: true, SrcPort: 50000, DstPort: 5432}, 28},
		{"echo request", false, `0b00 0000 00000000 4500001c 0abc0000 01010000 0a000101 0a000402 0800 f7ff beef 0007`,
			wire.Quote{HasEcho: true, EchoID: 0xbeef, EchoSeq: 7}, 28},
		{"echo reply is not ours", false, `0b00 0000 00000000 4500001c 0abc0000 01010000 0a000101 0a000402 0000 f7ff beef 0007`,
			wire.Quote{}, 28},
		{"ICMPv6 in IPv4 is nothing", false, `0b00 0000 00000000 4500001c 0abc0000 013a0000 0a000101 0a000402 8000 f7ff beef 0007`,
			wire.Quote{}, 28},
		{"redirect", false, `0501 0000 0a000109` + ip4 + ports + seq, identity, 28},
		{"source quench", false, `0400 0000 00000000` + ip4 + ports + seq, identity, 28},

		{"the whole SYN", true, `0300 0000 00000000` + ip6 + ports + seq + rest, full, 80},
		{"fixed header alone", true, `0300 0000 00000000` + ip6, wire.Quote{}, 40},
		{"length of 16 and nothing behind", true, `0300 0000 10000000` + ip6 + ports + seq + rest + zeros(48), full, 80},
		{"too big", true, `0200 0000 00000500` + ip6 + ports + seq + rest, full, 80},
		{"echo request", true, `0100 0000 00000000` + strings.Replace(ip6, "0028 06", "0008 3a", 1) + `8000 f7ff beef 0007`,
			wire.Quote{HasEcho: true, EchoID: 0xbeef, EchoSeq: 7}, 48},
		{"behind destination options and a fragment header", true,
			`0100 0000 00000000` + strings.Replace(ip6, "0028 06", "0038 3c", 1) + `2c00 0104 00000000 0600 0001 00000007` + ports + seq + rest,
			full, 96},
		{"cut inside an extension header", true,
			`0100 0000 00000000` + strings.Replace(ip6, "0028 06", "0038 3c", 1) + `0601 0104 00000000 0000`, wire.Quote{}, 50},
		{"extension header over the end, total length within", true,
			`0100 0000 00000000` + strings.Replace(ip6, "0028 06", "000a 3c", 1) + `0609 0104 00000000 0000 0000 0000`, wire.Quote{}, 54},
	} {
		name := "ipv4/" + test.name
		if test.v6 {
			name = "ipv6/" + test.name
		}
		t.Run(name, func(t *testing.T) {
			src, dst, parse := addr("10.0.1.1"), addr("10.0.4.2"), wire.ParseICMPv4
			if test.v6 {
				src, dst, parse = addr("2001:db8::101"), addr("2001:db8::402"), wire.ParseICMPv6
			}
			m, err := parse(unhex(t, test.packet))
			if err != nil {
				t.Fatal(err)
			}
			got, err := m.Quote()
			if err != nil {
				t.Fatal(err)
			}
			if got.IP.Src != src || got.IP.Dst != dst || got.IP.TTL != 1 {
				t.Errorf("from %v to %v with TTL %d", got.IP.Src, got.IP.Dst, got.IP.TTL)
			}
			test.want.Len = test.length
			if diff := cmp.Diff(test.want, got, cmpopts.IgnoreFields(wire.Quote{}, "IP")); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			lone := strings.HasPrefix(test.name, "lone first fragment")
			if test.want.Swapped && (got.IP.TotalLen != test.length || got.IP.FragmentOffset != 0 ||
				got.IP.DontFragment == lone || got.IP.MoreFragments != lone || got.IP.Truncated) {
				t.Errorf("not put right: %+v", got.IP)
			}
		})
	}
}

func TestQuoteErrors(t *testing.T) {
	for _, test := range []struct {
		name   string
		v6     bool
		packet string
		want   error
	}{
		{"nothing quoted", false, `0b00 0000 00000000`, wire.ErrTruncated},
		{"header cut", false, `0b00 0000 00000000` + strings.TrimSuffix(ip4, "02 "), wire.ErrTruncated},
		{"header length of 4", false, `0b00 0000 00000000 41` + ip4[2:] + ports, wire.ErrMalformed},
		{"IPv6 in IPv4", false, `0b00 0000 00000000` + ip6 + ports, wire.ErrMalformed},
		{"IPv4 in IPv6", true, `0300 0000 00000000` + ip4 + ports, wire.ErrMalformed},
		{"header cut", true, `0300 0000 00000000` + strings.TrimSuffix(ip6, "0402 "), wire.ErrTruncated},
		{"echo reply", true, `8100 0000 00000000` + ip6, wire.ErrNoQuote},
	} {
		t.Run(test.name, func(t *testing.T) {
			parse := wire.ParseICMPv4
			if test.v6 {
				parse = wire.ParseICMPv6
			}
			m, err := parse(unhex(t, test.packet))
			if err != nil {
				t.Fatal(err)
			}
			_, err = m.Quote()
			wantError(t, err, test.want)
		})
	}
}
