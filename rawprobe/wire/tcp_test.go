package wire_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"synprobe/rawprobe/wire"
)

func TestParseTCP(t *testing.T) {
	for _, test := range []struct {
		name   string
		packet string
		want   wire.TCP
	}{{
		name: "SYN-ACK of a Linux host",
		packet: `1538 c350 11223344 55667788 a0 12 fe88 abcd 0000
			0204 05b4            # MSS 1460
			0402                 # SACK permitted
			080a 00000100 00000200 # timestamps
			01 030307            # window scale 7`,
		want: wire.TCP{
			SrcPort: 5432, DstPort: 50000, Seq: 0x11223344, Ack: 0x55667788,
			Flags: wire.SYN | wire.ACK, Window: 65160, Checksum: 0xabcd, HeaderLen: 40, Payload: []byte{},
			Options: wire.TCPOptions{
				Count: 4, HasMSS: true, MSS: 1460, SACKPermitted: true, HasWindowScale: true, WindowScale: 7,
				HasTimestamps: true, TSval: 0x100, TSecr: 0x200,
			},
		},
	}, {
		name:   "bare RST with data",
		packet: `0016 c350 00000000 55667789 50 14 0000 0000 0000  6e6f`,
		want: wire.TCP{
			SrcPort: 22, DstPort: 50000, Ack: 0x55667789, Flags: wire.RST | wire.ACK,
			HeaderLen: 20, Payload: []byte("no"),
		},
	}, {
		name: "nothing counts behind the end of the list",
		packet: `0000 0000 00000000 00000000 70 02 0000 0000 0000
			00 0204 05b4 ff0000`,
		want: wire.TCP{Flags: wire.SYN, HeaderLen: 28, Payload: []byte{}},
	}, {
		name: "an option with the wrong size, one unknown, one sound",
		packet: `0000 0000 00000000 00000000 80 02 0000 0000 0000
			0203 05 fd04 1234 0204 05dc 00`,
		want: wire.TCP{
			Flags: wire.SYN, HeaderLen: 32, Payload: []byte{},
			Options: wire.TCPOptions{Count: 3, HasMSS: true, MSS: 1500, Malformed: true},
		},
	}, {
		name: "an option that runs over the header",
		packet: `0000 0000 00000000 00000000 70 02 0000 0000 0000
			0402 0101 080a 0000  0000 0000 0000`,
		want: wire.TCP{
			Flags: wire.SYN, HeaderLen: 28, Payload: make([]byte, 6),
			Options: wire.TCPOptions{Count: 1, SACKPermitted: true, Malformed: true},
		},
	}, {
		name: "an option of length 1 must not hold the parser up",
		packet: `0000 0000 00000000 00000000 60 02 0000 0000 0000
			0201 0101`,
		want: wire.TCP{
			Flags: wire.SYN, HeaderLen: 24, Payload: []byte{},
			Options: wire.TCPOptions{Malformed: true},
		},
	}} {
		t.Run(test.name, func(t *testing.T) {
			got, err := wire.ParseTCP(unhex(t, test.packet))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestParseTCPErrors(t *testing.T) {
	for _, test := range []struct {
		name   string
		packet string
		want   error
	}{
		{"nothing", ``, wire.ErrTruncated},
		{"cut", `0000 0000 00000000 00000000 50 02 0000 0000 00`, wire.ErrTruncated},
		{"header of 16 bytes", `0000 0000 00000000 00000000 40 02 0000 0000 0000`, wire.ErrMalformed},
		{"options cut", `0000 0000 00000000 00000000 60 02 0000 0000 0000 0204`, wire.ErrTruncated},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := wire.ParseTCP(unhex(t, test.packet))
			wantError(t, err, test.want)
		})
	}
}

func TestTCPFlags(t *testing.T) {
	for f, want := range map[wire.TCPFlags]string{
		0: "none", wire.SYN: "SYN", wire.SYN | wire.ACK: "SYN|ACK", wire.RST | wire.ACK: "RST|ACK",
		wire.ACK: "ACK", wire.RST: "RST", 0xff: "FIN|SYN|RST|PSH|ACK|URG|ECE|CWR",
	} {
		if got := f.String(); got != want {
			t.Errorf("TCPFlags(%#x) is %q, want %q", uint8(f), got, want)
		}
	}
	if f := wire.SYN | wire.ACK | wire.ECE; !f.Has(wire.SYN|wire.ACK) || f.Has(wire.SYN|wire.RST) || !f.Has(0) {
		t.Error("Has does not ask for all of the bits")
	}
}

func TestParseUDP(t *testing.T) {
	for _, test := range []struct {
		name   string
		packet string
		want   wire.UDP
		err    error
	}{
		{name: "with padding", packet: `0035 829a 000a 1234 6869 0000`,
			want: wire.UDP{SrcPort: 53, DstPort: 33434, Length: 10, Checksum: 0x1234, Payload: []byte("hi")}},
		{name: "cut", packet: `0035 829a 0014 0000 6869`,
			want: wire.UDP{SrcPort: 53, DstPort: 33434, Length: 20, Payload: []byte("hi")}},
		{name: "header cut", packet: `0035 829a 0014 00`, err: wire.ErrTruncated},
		{name: "length below the header", packet: `0035 829a 0007 0000`, err: wire.ErrMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := wire.ParseUDP(unhex(t, test.packet))
			wantError(t, err, test.err)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
