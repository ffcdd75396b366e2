package wire_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"synprobe/rawprobe/wire"
)

var (
	hw1 = [6]byte{0x02, 0, 0, 0, 0, 0x01}
	hw2 = [6]byte{0x02, 0, 0, 0, 0, 0x02}
)

func TestARP(t *testing.T) {
	reply := `0001 0800 06 04 0002  020000000001 0a000001  020000000002 0a000002`
	want := wire.ARP{Op: wire.ARPReply, SenderHW: hw1, Sender: addr("10.0.0.1"), TargetHW: hw2, Target: addr("10.0.0.2")}
	for _, padding := range []string{``, `0000 0000 0000 0000 0000 0000 0000 0000 0000`} {
		got, err := wire.ParseARP(unhex(t, reply+padding))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, equateAddr); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}

	for _, test := range []struct {
		name   string
		packet string
		want   error
	}{
		{"nothing", ``, wire.ErrTruncated},
		{"cut", reply[:len(reply)-2], wire.ErrTruncated},
		{"type cut", `0001 0800 06 04 00`, wire.ErrTruncated},
		{"of another type, and no more than that", `0006 0800 06 04 0002`, wire.ErrMalformed},
		{"token ring", `0006 0800 06 04 0002  020000000001 0a000001  020000000002 0a000002`, wire.ErrMalformed},
		{"hardware addresses of 8 bytes", `0001 0800 08 04 0002  020000000001 0a000001  020000000002 0a000002`, wire.ErrMalformed},
		{"protocol addresses of 16 bytes", `0001 0800 06 10 0002  020000000001 0a000001  020000000002 0a000002`, wire.ErrMalformed},
		{"another protocol", `0001 86dd 06 04 0002  020000000001 0a000001  020000000002 0a000002`, wire.ErrMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := wire.ParseARP(unhex(t, test.packet))
			wantError(t, err, test.want)
		})
	}
}

func TestAppendARPRequest(t *testing.T) {
	request := unhex(t, `ff 0001 0800 06 04 0001  020000000001 0a000001  000000000000 0a000002`)
	if got := wire.AppendARPRequest([]byte{0xff}, hw1, addr("10.0.0.1"), addr("10.0.0.2")); !bytes.Equal(got, request) {
		t.Errorf("wrote\n%x, want\n%x", got, request)
	}
	// Not IPv4 at all: no panic, and an address probe.
	got, err := wire.ParseARP(wire.AppendARPRequest(nil, hw1, netip.Addr{}, addr("::ffff:10.0.0.2")))
	if err != nil || got.Sender != addr("0.0.0.0") || got.Target != addr("10.0.0.2") {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestParseNeighbor(t *testing.T) {
	const target = `fe800000 00000000 00000000 00000002 `
	for _, test := range []struct {
		name   string
		packet string
		want   wire.Neighbor
		err    error
	}{
		{name: "solicitation", packet: `87 00 0000 00000000` + target + `01 01 020000000001`,
			want: wire.Neighbor{Solicitation: true, Target: addr("fe80::2"), HasLinkAddr: true, LinkAddr: hw1}},
		{name: "solicitation for duplicate address detection, with a nonce", packet: `87 00 0000 ffffffff` + target + `0e 01 112233445566`,
			want: wire.Neighbor{Solicitation: true, Target: addr("fe80::2")}},
		{name: "advertisement of a router", packet: `88 00 0000 e0000000` + target + `01 01 020000000001 02 01 020000000002`,
			want: wire.Neighbor{Target: addr("fe80::2"), Router: true, Solicited: true, Override: true, HasLinkAddr: true, LinkAddr: hw2}},
		{name: "advertisement without an address", packet: `88 00 0000 40000000` + target,
			want: wire.Neighbor{Target: addr("fe80::2"), Solicited: true}},
		{name: "an address longer than Ethernet's", packet: `88 00 0000 20000000` + target + `02 02 02000000000200000000000000 00`,
			want: wire.Neighbor{Target: addr("fe80::2"), Override: true}},
		{name: "target cut", packet: `88 00 0000 00000000 fe80`, err: wire.ErrTruncated},
		{name: "code", packet: `88 01 0000 00000000` + target, err: wire.ErrMalformed},
		{name: "multicast target", packet: `88 00 0000 00000000 ff020000 00000000 00000000 00000001`, err: wire.ErrMalformed},
		{name: "option of length 0", packet: `88 00 0000 00000000` + target + `02 00 020000000002`, err: wire.ErrMalformed},
		{name: "option over the end", packet: `88 00 0000 00000000` + target + `02 02 020000000002`, err: wire.ErrMalformed},
		{name: "option one byte over the end", packet: `88 00 0000 00000000` + target + `0e 02 0102030405060708090a0b0c0d`, err: wire.ErrMalformed},
		{name: "half an option", packet: `88 00 0000 00000000` + target + `02`, err: wire.ErrMalformed},
		{name: "echo", packet: `80 00 0000 00000000` + target, err: wire.ErrMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, err := wire.ParseICMPv6(unhex(t, test.packet))
			if err != nil {
				t.Fatal(err)
			}
			got, err := wire.ParseNeighbor(m)
			wantError(t, err, test.err)
			if diff := cmp.Diff(test.want, got, equateAddr); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			m.V6 = false
			_, err = wire.ParseNeighbor(m)
			wantError(t, err, wire.ErrMalformed)
		})
	}
}

func TestSolicitedNode(t *testing.T) {
	// The example of RFC 4291 section 2.7.1.
	a, hw := wire.SolicitedNode(addr("4037::01:800:200e:8c6c"))
	if a != addr("ff02::1:ff0e:8c6c") || hw != [6]byte{0x33, 0x33, 0xff, 0x0e, 0x8c, 0x6c} {
		t.Errorf("%v, %x", a, hw)
	}
}

func TestAppendNeighborSolicitation(t *testing.T) {
	// The words of the pseudo header sum up to fe80+0001 + ff02+0001+ff00+0002
	// + 0020+003a = 2fce0, those of the message to 8700 + fe80+0002 + 0101 +
	// 0200+0001 = 18884: 48564, 8568 with the carry.
	want := unhex(t, `
		6 00 00000 0020 3a ff
		fe800000 00000000 00000000 00000001
		ff020000 00000000 00000001 ff000002
		87 00 7a97 00000000
		fe800000 00000000 00000000 00000002
		01 01 020000000001`)
	got := wire.AppendNeighborSolicitation(nil, addr("fe80::1%eth0"), addr("fe80::2%eth0"), hw1)
	if !bytes.Equal(got, want) {
		t.Errorf("wrote\n%x, want\n%x", got, want)
	}

	// RFC 4861 section 4.3: no source link-layer address from ::.
	got = wire.AppendNeighborSolicitation([]byte("before"), netip.IPv6Unspecified(), addr("fe80::2"), hw1)
	got, found := bytes.CutPrefix(got, []byte("before"))
	ip, err := wire.ParseIP(got)
	if !found || err != nil || ip.TotalLen != 64 || ip.TTL != wire.NeighborHopLimit {
		t.Fatalf("%+v, %v", ip, err)
	}
	if valid, checked := ip.VerifyPayload(); !valid || !checked {
		t.Error("checksum does not fit")
	}
	m, err := wire.ParseICMPv6(ip.Payload)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := wire.ParseNeighbor(m); err != nil || n != (wire.Neighbor{Solicitation: true, Target: addr("fe80::2")}) {
		t.Errorf("%+v, %v", n, err)
	}

	// What is no IPv6 address makes a useless packet, but no panic.
	wire.AppendNeighborSolicitation(nil, netip.Addr{}, netip.Addr{}, hw1)
	wire.AppendNeighborSolicitation(nil, addr("10.0.0.1"), addr("10.0.0.2"), hw1)
}
