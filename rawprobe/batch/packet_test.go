package batch

import (
	"net/netip"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/bpf"

	"synprobe/rawprobe"
	"synprobe/rawprobe/wire"
)

const (
	testPort4 = 40004
	testPort6 = 40006
)

var testReader = reader{testPort4, testPort6}

// build makes the packet of a probe, from the IP header on.
func build(p probe, id uint16, tsval uint32) []byte {
	w := &way{mtu: 1500, source: fromNetip(netip.MustParseAddr("10.1.2.3"))}
	port := uint16(testPort4)
	if !p.to.is4() {
		w.source, port = fromNetip(netip.MustParseAddr("2001:db8::1:2:3")), testPort6
	}
	t := newTemplate(w, !p.to.is4(), p.tag == echoTag, port, [6]byte{1, 2, 3, 4, 5, 6})
	frame := t.frame
	t.patch(&frame, &p, id, tsval)
	return frame[headroom:t.end]
}

func TestPackets(t *testing.T) {
	for _, to := range []string{"10.77.200.3", "255.254.253.252", "2001:db8:ffff:fffe:fffd:fffc:fffb:fffa", "fd00::1"} {
		for _, tag := range []uint32{1, 443, 65535, echoTag} {
			for _, seq := range []uint32{0, 1, 0xffffffff, 0xffff0000, 0x12345678} {
				p := probe{to: fromNetip(netip.MustParseAddr(to)), tag: tag, seq: seq, label: 0xabcde}
				b := build(p, 0xfffe, seq+99)
				ip, err := wire.ParseIP(b)
				if err != nil || ip.TotalLen != len(b) || !ip.ChecksumOK || ip.Dst.String() != to || ip.TTL != 64 {
					t.Fatalf("%s, tag %d: %+v, %v", to, tag, ip, err)
				}
				if valid, checked := ip.VerifyPayload(); !valid || !checked {
					t.Errorf("%s, tag %d, seq %#x: the checksum is wrong", to, tag, seq)
				}
				if ip.Version == 4 && (ip.ID != 0xfffe || !ip.DontFragment) || ip.Version == 6 && ip.FlowLabel != 0xabcde {
					t.Errorf("%+v", ip)
				}
				if tag == echoTag {
					m, err := wire.ParseICMPv4(ip.Payload)
					if ip.Version == 6 {
						m, err = wire.ParseICMPv6(ip.Payload)
					}
					if err != nil || !m.IsEchoRequest() || len(m.Body) != 56 {
						t.Errorf("%+v, %v", m, err)
					}
					continue
				}
				got, err := wire.ParseTCP(ip.Payload)
				if err != nil || got.SrcPort != testPort4 && got.SrcPort != testPort6 || got.DstPort != uint16(tag) || got.Seq != seq || got.Flags != wire.SYN {
					t.Errorf("%+v, %v", got, err)
				}
				mss := uint16(1460)
				if ip.Version == 6 {
					mss = 1440
				}
				want := wire.TCPOptions{Count: 4, HasMSS: true, MSS: mss, SACKPermitted: true, HasWindowScale: true, WindowScale: 7, HasTimestamps: true, TSval: seq + 99}
				if diff := cmp.Diff(want, got.Options); diff != "" {
					t.Error(diff)
				}
			}
		}
	}
}

// reverse makes an answer's IP header before a payload.
func answerPacket(from, to netip.Addr, proto wire.Proto, payload []byte) []byte {
	if from.Is4() {
		b := make([]byte, ipv4HeaderLen, ipv4HeaderLen+len(payload))
		total := len(b) + len(payload)
		b[0], b[2], b[3], b[8], b[9] = 0x45, byte(total>>8), byte(total), 57, byte(proto)
		copy(b[12:], from.AsSlice())
		copy(b[16:], to.AsSlice())
		return append(b, payload...)
	}
	b := make([]byte, ipv6HeaderLen, ipv6HeaderLen+len(payload))
	b[0], b[4], b[5], b[6], b[7] = 0x60, byte(len(payload)>>8), byte(len(payload)), byte(proto), 57
	copy(b[8:], from.AsSlice())
	copy(b[24:], to.AsSlice())
	return append(b, payload...)
}

func tcpSegment(src, dst uint16, ack uint32, flags wire.TCPFlags) []byte {
	b := make([]byte, 20)
	b[0], b[1], b[2], b[3] = byte(src>>8), byte(src), byte(dst>>8), byte(dst)
	b[8], b[9], b[10], b[11] = byte(ack>>24), byte(ack>>16), byte(ack>>8), byte(ack)
	b[12], b[13] = 0x50, byte(flags)
	return b
}

func TestAnswers(t *testing.T) {
	ends := map[bool][3]netip.Addr{
		true:  {netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("10.77.0.9"), netip.MustParseAddr("10.5.5.5")},
		false: {netip.MustParseAddr("2001:db8::1:2:3"), netip.MustParseAddr("2001:db8:77::9"), netip.MustParseAddr("2001:db8:5::5")},
	}
	for is4, e := range ends {
		us, target, router := e[0], e[1], e[2]
		port, icmp, unreachable, code := uint16(testPort4), wire.ProtoICMP, wire.ICMPv4DestinationUnreachable, uint8(13)
		if !is4 {
			port, icmp, unreachable, code = testPort6, wire.ProtoICMPv6, wire.ICMPv6DestinationUnreachable, 1
		}
		p := probe{to: fromNetip(target), tag: 443, seq: 0xfffffffe}
		q := build(p, 7, 8)
		header := len(q) - synLen
		tcp := func(flags wire.TCPFlags) []byte {
			return answerPacket(target, us, wire.ProtoTCP, tcpSegment(443, port, p.seq+1, flags))
		}
		quote := func(typ, code uint8, n int) []byte {
			return answerPacket(router, us, icmp, append([]byte{typ, code, 0, 0, 0, 0, 0, 0}, q[:n]...))
		}
		echo := build(probe{to: fromNetip(target), tag: echoTag, seq: 0xcafe}, 1, 0)[header:]
		echo[0] = wire.ICMPv4EchoReply
		if !is4 {
			echo[0] = wire.ICMPv6EchoReply
		}
		base := answer{to: fromNetip(target), port: 443, seq: p.seq, from: fromNetip(target), ttl: 57}
		with := func(kind rawprobe.ReplyKind, typ, code uint8) *answer {
			a := base
			a.kind, a.typ, a.code = kind, typ, code
			if kind == rawprobe.ICMPError {
				a.from = fromNetip(router)
			}
			if kind == rawprobe.EchoReply {
				a.port, a.seq = 0, 0xcafe
			}
			return &a
		}
		otherPort := tcp(wire.RST | wire.ACK)
		otherPort[header+3]++
		otherEcho := answerPacket(target, us, icmp, append([]byte(nil), echo...))
		otherEcho[header+5]++
		cases := map[string]struct {
			packet []byte
			want   *answer
		}{
			"syn-ack":           {tcp(wire.SYN | wire.ACK), with(rawprobe.SynAck, 0, 0)},
			"syn-ack with ECN":  {tcp(wire.SYN | wire.ACK | wire.ECE), with(rawprobe.SynAck, 0, 0)},
			"reset":             {tcp(wire.RST | wire.ACK), with(rawprobe.Reset, 0, 0)},
			"reset without ack": {tcp(wire.RST), nil},
			"bare ack":          {tcp(wire.ACK), nil},
			"syn":               {tcp(wire.SYN), nil},
			"another port":      {otherPort, nil},
			"short tcp":         {tcp(wire.RST | wire.ACK)[:header+19], nil},
			"refusal":           {quote(unreachable, code, len(q)), with(rawprobe.ICMPError, unreachable, code)},
			"eight bytes":       {quote(unreachable, code, header+8), with(rawprobe.ICMPError, unreachable, code)},
			"seven bytes":       {quote(unreachable, code, header+7), nil},
			"half a header":     {quote(unreachable, code, header-1), nil},
			"echo reply":        {answerPacket(target, us, icmp, echo), with(rawprobe.EchoReply, echo[0], 0)},
			"another's echo":    {otherEcho, nil},
			"our own echo":      {build(probe{to: fromNetip(target), tag: echoTag}, 1, 0), nil},
			"nothing":           {nil, nil},
		}
		if is4 {
			cases["expired"] = struct {
				packet []byte
				want   *answer
			}{quote(11, 0, 28), with(rawprobe.ICMPError, 11, 0)}
			cases["parameter problem"] = struct {
				packet []byte
				want   *answer
			}{quote(12, 0, 28), with(rawprobe.ICMPError, 12, 0)}
			for name, b := range map[string][]byte{"reassembly": quote(11, 1, 28), "too big": quote(3, 4, 28), "source quench": quote(4, 0, 28), "redirect": quote(5, 1, 28)} {
				cases[name] = struct {
					packet []byte
					want   *answer
				}{b, nil}
			}
			fragment := tcp(wire.RST | wire.ACK)
			fragment[7] = 1
			cases["fragment"] = struct {
				packet []byte
				want   *answer
			}{fragment, nil}
			options := append([]byte(nil), tcp(wire.RST | wire.ACK)[:20]...)
			options[0], options[3] = 0x46, options[3]+4
			options = append(append(options, 1, 1, 1, 1), tcpSegment(443, port, p.seq+1, wire.RST|wire.ACK)...)
			cases["IP options"] = struct {
				packet []byte
				want   *answer
			}{options, with(rawprobe.Reset, 0, 0)}
		} else {
			cases["expired"] = struct {
				packet []byte
				want   *answer
			}{quote(3, 0, 48), with(rawprobe.ICMPError, 3, 0)}
			cases["parameter problem"] = struct {
				packet []byte
				want   *answer
			}{quote(4, 1, 48), with(rawprobe.ICMPError, 4, 1)}
			for name, b := range map[string][]byte{"reassembly": quote(3, 1, 48), "too big": quote(2, 0, 48)} {
				cases[name] = struct {
					packet []byte
					want   *answer
				}{b, nil}
			}
			hop := answerPacket(target, us, 0, append([]byte{6, 0, 1, 4, 0, 0, 0, 0}, tcpSegment(443, port, p.seq+1, wire.RST|wire.ACK)...))
			cases["hop-by-hop"] = struct {
				packet []byte
				want   *answer
			}{hop, with(rawprobe.Reset, 0, 0)}
		}
		for name, c := range cases {
			var got answer
			ok := testReader.parse(c.packet, &got)
			if c.want != nil && !passes(t, c.packet) {
				t.Errorf("%s (IPv4 %v): the kernel's filter drops it", name, is4)
			}
			if ok != (c.want != nil) {
				t.Errorf("%s (IPv4 %v): an answer: %v", name, is4, ok)
			} else if ok && got != *c.want {
				t.Errorf("%s (IPv4 %v):\n got %+v\nwant %+v", name, is4, got, *c.want)
			}
		}
	}
}

var (
	vm4 = sync.OnceValue(func() *bpf.VM { return newVM(filter4(testPort4)) })
	vm6 = sync.OnceValue(func() *bpf.VM { return newVM(filter6(testPort6)) })
)

func newVM(filter []bpf.Instruction) *bpf.VM {
	vm, err := bpf.NewVM(filter)
	if err != nil {
		panic(err)
	}
	return vm
}

// passes reports whether the kernel would show us a packet.
func passes(t *testing.T, b []byte) bool {
	vm := vm4()
	if len(b) > 0 && b[0]>>4 == 6 {
		vm = vm6()
	}
	n, err := vm.Run(b)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

// What the parser takes for an answer passes the filter, and the careful packet
// codec takes it for one too.
func FuzzAnswer(f *testing.F) {
	for _, to := range []string{"10.77.0.9", "2001:db8:77::9"} {
		target := netip.MustParseAddr(to)
		p := probe{to: fromNetip(target), tag: 443, seq: 5}
		f.Add(build(p, 1, 2))
		q := build(p, 1, 2)
		f.Add(answerPacket(target, target, wire.ProtoTCP, tcpSegment(443, testPort4, 6, wire.RST|wire.ACK)))
		f.Add(answerPacket(target, target, wire.ProtoTCP, tcpSegment(443, testPort6, 6, wire.SYN|wire.ACK)))
		f.Add(answerPacket(target, target, wire.ProtoICMP, append([]byte{3, 13, 0, 0, 0, 0, 0, 0}, q...)))
		f.Add(answerPacket(target, target, wire.ProtoICMPv6, append([]byte{1, 1, 0, 0, 0, 0, 0, 0}, q...)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var a answer
		if !testReader.parse(b, &a) {
			return
		}
		if !passes(t, b) {
			t.Fatalf("the filter drops %+v", a)
		}
		ip, err := wire.ParseIP(b)
		if err != nil {
			// The quick way takes what was cut off, or says too short a length.
			if len(b) < ipv4HeaderLen+20 {
				t.Fatalf("%+v of %d bytes", a, len(b))
			}
			return
		}
		if a.from != fromNetip(ip.Src) || a.ttl != ip.TTL {
			t.Errorf("%+v is not from %s with TTL %d", a, ip.Src, ip.TTL)
		}
		switch a.kind {
		case rawprobe.SynAck, rawprobe.Reset:
			tcp, err := wire.ParseTCP(b[ip.HeaderLen:])
			if err == nil && (tcp.SrcPort != a.port || tcp.Ack != a.seq+1 || tcp.DstPort != testPort4 && tcp.DstPort != testPort6) {
				t.Errorf("%+v of %+v", a, tcp)
			}
		case rawprobe.ICMPError, rawprobe.EchoReply:
			if ip.Proto != wire.ProtoICMP && ip.Proto != wire.ProtoICMPv6 {
				t.Errorf("%+v of protocol %d", a, ip.Proto)
			}
		default:
			t.Errorf("kind %q", a.kind)
		}
	})
}

func BenchmarkBuild(b *testing.B) {
	w := &way{mtu: 1500, source: fromNetip(netip.MustParseAddr("10.1.2.3"))}
	t := newTemplate(w, false, false, testPort4, [6]byte{})
	frame := t.frame
	s := mustSpace(b, prefix("10.0.0.0/12", 80))
	o, key := newOrder(s.Len(), 1), secret{1, 2}
	i := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		i++
		to, port := s.at(o.at(i % s.Len()))
		h := key.of(to, uint32(port))
		t.patch(&frame, &probe{to: to, tag: uint32(port), seq: uint32(h)}, uint16(i)|1, 7)
	}
}

func BenchmarkParse(b *testing.B) {
	target := netip.MustParseAddr("10.77.0.9")
	packet := answerPacket(target, target, wire.ProtoTCP, tcpSegment(443, testPort4, 6, wire.RST|wire.ACK))
	var a answer
	b.ReportAllocs()
	for b.Loop() {
		testReader.parse(packet, &a)
	}
}
