package wire_test

import (
	"bytes"
	"errors"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"synprobe/rawprobe/wire"
)

// inside reports whether part is a slice of whole, or empty.
func inside(part, whole []byte) bool {
	if len(part) == 0 {
		return true
	}
	if len(whole) == 0 {
		return false
	}
	p, w := uintptr(unsafe.Pointer(&part[0])), uintptr(unsafe.Pointer(&whole[0]))
	return p >= w && p+uintptr(len(part)) <= w+uintptr(len(whole))
}

// fuzzError checks what holds for every error: it is a ParseError of this
// package, and the result beside it is the zero value.
func fuzzError[T any](t *testing.T, got T, err error) {
	t.Helper()
	if e, ok := errors.AsType[*wire.ParseError](err); !ok || e.Err == nil || e.Offset < 0 || e.Error() == "" {
		t.Fatalf("error %#v", err)
	}
	var zero T
	if diff := cmp.Diff(zero, got, equateAddr); diff != "" {
		t.Fatalf("a result beside the error %v: %s", err, diff)
	}
}

// same checks that parsing a copy, in a buffer of exactly its size, gives the
// same: nothing is read beyond the length, and nothing is kept between calls.
func same[T any](t *testing.T, b []byte, got T, parse func([]byte) (T, error)) {
	t.Helper()
	again, err := parse(bytes.Clone(b)[:len(b):len(b)])
	if diff := cmp.Diff(got, again, equateAddr); diff != "" || err != nil {
		t.Fatalf("not the same again: %v\n%s", err, diff)
	}
}

func addAll(f *testing.F, packets ...string) {
	for _, p := range packets {
		f.Add(unhex(f, p))
	}
}

func FuzzIP(f *testing.F) {
	addAll(f, ``, ip4+ports+seq+rest, ip6+ports+seq+rest,
		`46b8001912342003010600000a0000010a00000294040000ff000000`,
		`60000000 0060 00 40`+src6+dst6+`3c00050200000100 2b00010400000000
			2c04040101000000 20010db8000000000000000000000001 20010db8000000000000000000000002
			3300000000000001 3c04000000000001 00000002 000000000000000000000000 0600010400000000`,
		`60000000 0010 2c 40`+src6+dst6+`3c0005a900000007 06ff000000000000`,
		`4500001c 00000000 4011 0000 0a000001 0a000002  0001 0002 0008 ebd8`)
	f.Fuzz(func(t *testing.T, b []byte) {
		ip, err := wire.ParseIP(b)
		if err != nil {
			fuzzError(t, ip, err)
			return
		}
		same(t, b, ip, wire.ParseIP)
		end := ip.HeaderLen + len(ip.Payload)
		switch {
		case !inside(ip.Payload, b), end > len(b):
			t.Fatal("payload outside of the packet")
		case ip.Truncated != (ip.TotalLen > len(b)), !ip.Truncated && end != ip.TotalLen, ip.Truncated && end != len(b):
			t.Fatalf("ends at %d of %d: %+v", end, len(b), ip)
		case ip.Version == 4 && (!ip.Src.Is4() || !ip.Dst.Is4() || ip.HeaderLen < 20 || ip.HeaderLen > 60):
			t.Fatalf("%+v", ip)
		case ip.Version == 6 && (!ip.Src.Is6() || !ip.Dst.Is6() || ip.HeaderLen < 40 || ip.HeaderLen%4 != 0 || ip.Src.Zone() != ""):
			t.Fatalf("%+v", ip)
		case ip.FragmentOffset%8 != 0 || ip.FlowLabel > 0xfffff:
			t.Fatalf("%+v", ip)
		}
		if valid, checked := ip.VerifyPayload(); valid && !checked {
			t.Fatal("valid without a check")
		}
		if u, err := wire.ParseUDP(ip.Payload); err != nil {
			fuzzError(t, u, err)
		} else if !inside(u.Payload, ip.Payload) || len(u.Payload) > u.Length-8 {
			t.Fatalf("%+v", u)
		}
	})
}

func FuzzTCP(f *testing.F) {
	addAll(f, ``, ports+seq+rest,
		`0016 c350 00000000 55667789 50 14 0000 0000 0000 6e6f`,
		`0000 0000 00000000 00000000 80 02 0000 0000 0000 0203 05 fd04 1234 0204 05dc 00`,
		`0000 0000 00000000 00000000 60 02 0000 0000 0000 0201 0101`,
		`0000 0000 00000000 00000000 f0 ff 0000 0000 0000 `+string(bytes.Repeat([]byte("0402"), 20)))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := wire.ParseTCP(b)
		if err != nil {
			fuzzError(t, s, err)
			return
		}
		same(t, b, s, wire.ParseTCP)
		o := s.Options
		switch {
		case !inside(s.Payload, b) || s.HeaderLen+len(s.Payload) != len(b) || s.HeaderLen < 20 || s.HeaderLen > 60:
			t.Fatalf("%+v", s)
		case o.Count < 0 || o.Count > (s.HeaderLen-20)/2:
			t.Fatalf("%d options in %d bytes", o.Count, s.HeaderLen-20)
		case !o.HasMSS && o.MSS != 0 || !o.HasWindowScale && o.WindowScale != 0 || !o.HasTimestamps && (o.TSval != 0 || o.TSecr != 0):
			t.Fatalf("a value without its option: %+v", o)
		}
		_ = s.Flags.String()
	})
}

func FuzzICMP(f *testing.F) {
	pad := string(bytes.Repeat([]byte("00"), 68))
	for _, p := range []string{
		``, `0800 1234 abcd 0007 ff`,
		`0b00 0000 00000000` + ip4 + ports + seq,
		`0b00 0000 00200000` + ip4 + ports + seq + rest + pad + mplsVerified,
		`0b00 0000 00000000` + ip4 + ports + seq + rest + pad + mplsVerified,
		`0b00 0000 00000000` + ip4 + ports + seq + mplsVerified,
		`0b00 0000 00200000` + ip4 + ports + seq + rest + pad + `2000 0000 0020020f 00000007 00010000 c0000201 0c6574682d302f302f310000 000005dc`,
		`0300 0000 00000000 45003c00 bc0a0040 01060000 0a000101 0a000402` + ports + seq + rest,
	} {
		f.Add(false, unhex(f, p))
	}
	for _, p := range []string{
		`0300 0000 00000000` + ip6 + ports + seq + rest,
		`0300 0000 10000000` + ip6 + ports + seq + rest + pad[:96] + mplsVerified,
		`0100 0000 00000000 60012345 000a 3c 01` + src6 + dst6 + `0609010400000000000000000000`,
	} {
		f.Add(true, unhex(f, p))
	}
	f.Fuzz(func(t *testing.T, v6 bool, b []byte) {
		parse := wire.ParseICMPv4
		if v6 {
			parse = wire.ParseICMPv6
		}
		m, err := parse(b)
		if err != nil {
			fuzzError(t, m, err)
			return
		}
		same(t, b, m, parse)
		if m.V6 != v6 || !inside(m.Body, b) || len(m.Body) != len(b)-8 || m.IsError() && !m.HasQuote() || m.Describe() == "" {
			t.Fatalf("%+v", m)
		}

		e, err := m.Extensions()
		if err != nil {
			if _, ok := errors.AsType[*wire.ParseError](err); !ok {
				t.Fatalf("error %#v", err)
			}
		}
		if len(e.MPLS) > 16 || len(e.Interfaces) > 8 || e.Unknown > 32 {
			t.Fatalf("unbounded: %+v", e)
		}
		for _, i := range e.Interfaces {
			if len(i.Name) > 63 || i.Role > 3 {
				t.Fatalf("%+v", i)
			}
		}
		for _, l := range e.MPLS {
			if l.Label > 0xfffff || l.TC > 7 {
				t.Fatalf("%+v", l)
			}
		}

		q, err := m.Quote()
		if err != nil {
			fuzzError(t, q, err)
			return
		}
		same(t, b, q, func(b []byte) (wire.Quote, error) {
			m, err := parse(b)
			if err != nil {
				return wire.Quote{}, err
			}
			return m.Quote()
		})
		switch {
		case !inside(q.IP.Payload, m.Body), q.Len > len(m.Body), q.IP.HeaderLen+len(q.IP.Payload) > q.Len:
			t.Fatalf("outside of the message: %+v", q)
		case (q.IP.Version == 6) != v6:
			t.Fatalf("version %d", q.IP.Version)
		case q.HasSeq && !q.HasPorts, q.HasAck && !q.HasSeq, q.HasFlags && !q.HasAck, q.HasTSval && !q.HasFlags, q.HasEcho && q.HasPorts:
			t.Fatalf("a later field without an earlier one: %+v", q)
		case q.HasPorts && q.IP.FragmentOffset != 0:
			t.Fatalf("ports from the middle of a packet: %+v", q)
		}
	})
}

func FuzzARP(f *testing.F) {
	addAll(f, ``, `0001 0800 06 04 0002  020000000001 0a000001  020000000002 0a000002 0000`,
		`0001 0800 06 04 0001  020000000001 0a000001  000000000000 0a000002`,
		`0006 0800 06 04 0002`)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := wire.ParseARP(b)
		if err != nil {
			fuzzError(t, a, err)
			return
		}
		same(t, b, a, wire.ParseARP)
		if !a.Sender.Is4() || !a.Target.Is4() {
			t.Fatalf("%+v", a)
		}
		if a.Op == wire.ARPRequest && a.TargetHW == [6]byte{} {
			if again := wire.AppendARPRequest(nil, a.SenderHW, a.Sender, a.Target); !bytes.Equal(again, b[:28]) {
				t.Fatalf("%x becomes %x", b[:28], again)
			}
		}
	})
}

func FuzzNeighbor(f *testing.F) {
	const target = `fe800000 00000000 00000000 00000002 `
	addAll(f, ``, `87 00 0000 00000000`+target+`01 01 020000000001`,
		`88 00 0000 e0000000`+target+`01 01 020000000001 02 01 020000000002`,
		`88 00 0000 20000000`+target+`02 02 02000000000200000000000000 00`,
		`88 00 0000 00000000`+target+`02 00 020000000002`)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := wire.ParseICMPv6(b)
		if err != nil {
			return
		}
		n, err := wire.ParseNeighbor(m)
		if err != nil {
			fuzzError(t, n, err)
			return
		}
		if n.Target.IsMulticast() || n.Target.Zone() != "" || !n.HasLinkAddr && n.LinkAddr != [6]byte{} ||
			n.Solicitation && (n.Router || n.Solicited || n.Override) {
			t.Fatalf("%+v", n)
		}

		// What we would ask for it can be read again.
		ip, err := wire.ParseIP(wire.AppendNeighborSolicitation(nil, addr("fe80::1"), n.Target, n.LinkAddr))
		if err != nil {
			t.Fatal(err)
		}
		if valid, _ := ip.VerifyPayload(); !valid || ip.TTL != wire.NeighborHopLimit {
			t.Fatalf("%+v", ip)
		}
		if m, err = wire.ParseICMPv6(ip.Payload); err != nil {
			t.Fatal(err)
		}
		again, err := wire.ParseNeighbor(m)
		want := wire.Neighbor{Solicitation: true, Target: n.Target, HasLinkAddr: true, LinkAddr: n.LinkAddr}
		if err != nil || again != want {
			t.Fatalf("%+v, want %+v: %v", again, want, err)
		}
	})
}
