package wire_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"synprobe/rawprobe/wire"
)

func TestParseICMP(t *testing.T) {
	for _, test := range []struct {
		name   string
		v6     bool
		packet string
		want   wire.ICMP
		words  string
	}{
		{"echo request", false, `08 00 1234 abcd 0007 ff`,
			wire.ICMP{Type: 8, Checksum: 0x1234, Rest: 0xabcd0007, ID: 0xabcd, Seq: 7, Body: []byte{0xff}},
			"echo request"},
		{"echo reply", false, `00 00 0000 abcd 0007`,
			wire.ICMP{Rest: 0xabcd0007, ID: 0xabcd, Seq: 7, Body: []byte{}},
			"echo reply"},
		{"fragmentation needed, with a length", false, `03 04 0000 0020 0578`,
			wire.ICMP{Type: 3, Code: 4, Rest: 0x00200578, MTU: 1400, Body: []byte{}},
			"fragmentation needed and DF set"},
		{"no MTU in any other code", false, `03 0d 0000 0000 0578`,
			wire.ICMP{Type: 3, Code: 13, Rest: 0x578, Body: []byte{}},
			"communication administratively prohibited"},
		{"parameter problem", false, `0c 00 0000 14 000000`,
			wire.ICMP{Type: 12, Rest: 0x14000000, Pointer: 20, Body: []byte{}},
			"pointer indicates the error"},
		{"echo request", true, `80 00 0000 abcd 0007`,
			wire.ICMP{V6: true, Type: 128, Rest: 0xabcd0007, ID: 0xabcd, Seq: 7, Body: []byte{}},
			"echo request"},
		{"echo reply", true, `81 00 0000 abcd 0007`,
			wire.ICMP{V6: true, Type: 129, Rest: 0xabcd0007, ID: 0xabcd, Seq: 7, Body: []byte{}},
			"echo reply"},
		{"packet too big", true, `02 00 0000 00000500`,
			wire.ICMP{V6: true, Type: 2, Rest: 1280, MTU: 1280, Body: []byte{}},
			"packet too big"},
		{"parameter problem", true, `04 01 0000 00000028`,
			wire.ICMP{V6: true, Type: 4, Code: 1, Rest: 40, Pointer: 40, Body: []byte{}},
			"unrecognized next header type encountered"},
	} {
		t.Run(test.name, func(t *testing.T) {
			parse := wire.ParseICMPv4
			if test.v6 {
				parse = wire.ParseICMPv6
			}
			got, err := parse(unhex(t, test.packet))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if words := got.Describe(); words != test.words {
				t.Errorf("says %q, want %q", words, test.words)
			}
			if echo := test.name == "echo request"; got.IsEchoRequest() != echo {
				t.Errorf("IsEchoRequest is %t", !echo)
			}
			if reply := test.name == "echo reply"; got.IsEchoReply() != reply {
				t.Errorf("IsEchoReply is %t", !reply)
			}
			_, err = parse(unhex(t, test.packet)[:7])
			wantError(t, err, wire.ErrTruncated)
		})
	}
}

func TestICMPDescribe(t *testing.T) {
	for _, test := range []struct {
		m    wire.ICMP
		want string
	}{
		{wire.ICMP{Type: 3, Code: 0}, "network unreachable"},
		{wire.ICMP{Type: 3, Code: 1}, "host unreachable"},
		{wire.ICMP{Type: 3, Code: 3}, "port unreachable"},
		{wire.ICMP{Type: 3, Code: 9}, "communication with destination network administratively prohibited"},
		{wire.ICMP{Type: 3, Code: 10}, "communication with destination host administratively prohibited"},
		{wire.ICMP{Type: 3, Code: 13}, "communication administratively prohibited"},
		{wire.ICMP{Type: 3, Code: 15}, "precedence cutoff in effect"},
		{wire.ICMP{Type: 3, Code: 42}, "destination unreachable, code 42"},
		{wire.ICMP{Type: 4}, "source quench"},
		{wire.ICMP{Type: 5, Code: 1}, "redirect for the host"},
		{wire.ICMP{Type: 11, Code: 0}, "time to live exceeded in transit"},
		{wire.ICMP{Type: 11, Code: 1}, "fragment reassembly time exceeded"},
		{wire.ICMP{Type: 8, Code: 3}, "echo request, code 3"},
		{wire.ICMP{Type: 77}, "type 77, code 0"},
		{wire.ICMP{V6: true, Type: 1, Code: 0}, "no route to destination"},
		{wire.ICMP{V6: true, Type: 1, Code: 1}, "communication with destination administratively prohibited"},
		{wire.ICMP{V6: true, Type: 1, Code: 2}, "beyond scope of source address"},
		{wire.ICMP{V6: true, Type: 1, Code: 3}, "address unreachable"},
		{wire.ICMP{V6: true, Type: 1, Code: 4}, "port unreachable"},
		{wire.ICMP{V6: true, Type: 1, Code: 5}, "source address failed ingress/egress policy"},
		{wire.ICMP{V6: true, Type: 1, Code: 6}, "reject route to destination"},
		{wire.ICMP{V6: true, Type: 1, Code: 8}, "headers too long"},
		{wire.ICMP{V6: true, Type: 3, Code: 0}, "hop limit exceeded in transit"},
		{wire.ICMP{V6: true, Type: 3, Code: 1}, "fragment reassembly time exceeded"},
		{wire.ICMP{V6: true, Type: 135}, "neighbor solicitation"},
		{wire.ICMP{V6: true, Type: 8}, "type 8, code 0"},
	} {
		if got := test.m.Describe(); got != test.want {
			t.Errorf("%d/%d (IPv6 %t) says %q, want %q", test.m.Type, test.m.Code, test.m.V6, got, test.want)
		}
	}
}

func TestICMPKinds(t *testing.T) {
	for i := range 512 {
		m := wire.ICMP{V6: i >= 256, Type: uint8(i)}
		var isError, hasQuote bool
		if m.V6 {
			isError = m.Type >= 1 && m.Type <= 4
			hasQuote = isError
		} else {
			isError = m.Type == 3 || m.Type == 11 || m.Type == 12
			hasQuote = isError || m.Type == 4 || m.Type == 5
		}
		if m.IsError() != isError || m.HasQuote() != hasQuote {
			t.Errorf("%v: IsError %t, HasQuote %t", m, m.IsError(), m.HasQuote())
		}
		if _, err := m.Quote(); hasQuote {
			wantError(t, err, wire.ErrTruncated)
		} else {
			wantError(t, err, wire.ErrNoQuote)
		}
	}
}
