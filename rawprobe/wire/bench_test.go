package wire_test

import (
	"strings"
	"testing"

	"synprobe/rawprobe/wire"
)

// What comes back from almost every probe: a SYN-ACK of 60 bytes, and a time
// exceeded that quotes the whole SYN.
func commonPackets(t testing.TB) (synAck, exceeded4, exceeded6 []byte) {
	synAck = unhex(t, `4500003c 00004000 3f060000 0a000402 0a000101
		1538 c350 aabbccdd 11223345 a0 12 fe88 0000 0000 020405b4 0402 080a 00000200 00000100 01 030307`)
	exceeded4 = unhex(t, `450000a8 00000000 ff010000 0a000102 0a000101 0b00 0000 00200000`+
		ip4+ports+seq+rest+strings.Repeat("00", 68))
	exceeded6 = unhex(t, `60000000 0058 3a ff`+src6+dst6+`0300 0000 00000000`+ip6+ports+seq+rest)
	return synAck, exceeded4, exceeded6
}

func readSynAck(t testing.TB, b []byte) {
	ip, err := wire.ParseIP(b)
	if err != nil {
		t.Fatal(err)
	}
	s, err := wire.ParseTCP(ip.Payload)
	if err != nil || !s.Flags.Has(wire.SYN|wire.ACK) || s.Options.TSecr != 0x100 {
		t.Fatal("not the SYN-ACK")
	}
}

func readExceeded(t testing.TB, b []byte) {
	ip, err := wire.ParseIP(b)
	if err != nil {
		t.Fatal(err)
	}
	parse := wire.ParseICMPv4
	if ip.Version == 6 {
		parse = wire.ParseICMPv6
	}
	m, err := parse(ip.Payload)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := m.Extensions(); err != nil || e.MPLS != nil {
		t.Fatal("extensions where there are none")
	}
	if q, err := m.Quote(); err != nil || q.Seq != 0x11223344 || q.TSval != 0x100 {
		t.Fatal("not the quote")
	}
}

func TestAllocs(t *testing.T) {
	synAck, exceeded4, exceeded6 := commonPackets(t)
	reply := unhex(t, `0001 0800 06 04 0002  020000000001 0a000001  020000000002 0a000002`)
	buf := make([]byte, 0, 128)
	src, dst := addr("fe80::1"), addr("fe80::2")
	for _, test := range []struct {
		name string
		f    func()
	}{
		{"SYN-ACK", func() { readSynAck(t, synAck) }},
		{"time exceeded, IPv4", func() { readExceeded(t, exceeded4) }},
		{"time exceeded, IPv6", func() { readExceeded(t, exceeded6) }},
		{"checksum", func() { ip, _ := wire.ParseIP(synAck); ip.VerifyPayload() }},
		{"words", func() { _ = wire.ICMP{Type: 3, Code: 13}.Describe() }},
		{"ARP reply", func() { wire.ParseARP(reply) }},
		{"ARP request", func() { wire.AppendARPRequest(buf, hw1, src, dst) }},
		{"neighbour solicitation", func() { wire.AppendNeighborSolicitation(buf, src, dst, hw1) }},
	} {
		if n := testing.AllocsPerRun(100, test.f); n != 0 {
			t.Errorf("%s: %v allocations", test.name, n)
		}
	}
}

func BenchmarkSynAck(b *testing.B) {
	synAck, _, _ := commonPackets(b)
	b.ReportAllocs()
	for b.Loop() {
		readSynAck(b, synAck)
	}
}

func BenchmarkTimeExceeded(b *testing.B) {
	_, exceeded4, exceeded6 := commonPackets(b)
	for name, packet := range map[string][]byte{"ipv4": exceeded4, "ipv6": exceeded6} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				readExceeded(b, packet)
			}
		})
	}
}
