package wire_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"synprobe/rawprobe/wire"
)

// How many random packets each oracle is asked about.
const rounds = 3000

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func serialize(t *testing.T, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(buf.Bytes())
}

// randomIP returns the layers of a random IP header for proto, and what wire is
// to make of them but for the total length. The checksum of the transport layer
// that follows is to be computed for the returned network layer.
func randomIP(r *rand.Rand, v6 bool, proto layers.IPProtocol) ([]gopacket.SerializableLayer, gopacket.NetworkLayer, wire.IP) {
	ttl, class := uint8(r.Uint32()), uint8(r.Uint32())
	if !v6 {
		ip := &layers.IPv4{
			Version: 4, TOS: class, Id: uint16(r.Uint32()), TTL: ttl, Protocol: proto,
			SrcIP: randomBytes(r, 4), DstIP: randomBytes(r, 4),
		}
		want := wire.IP{
			Version: 4, TrafficClass: class, ID: ip.Id, TTL: ttl, Proto: wire.Proto(proto),
			Src: netip.AddrFrom4([4]byte(ip.SrcIP)), Dst: netip.AddrFrom4([4]byte(ip.DstIP)),
			HeaderLen: 20, ChecksumOK: true,
		}
		if r.IntN(2) == 0 {
			ip.Flags, want.DontFragment = layers.IPv4DontFragment, true
		}
		if n := r.IntN(10); n > 0 && r.IntN(2) == 0 {
			// An option of a type that gopacket takes for one with a length.
			ip.Options = []layers.IPv4Option{{OptionType: 0x94, OptionLength: uint8(4 * n), OptionData: randomBytes(r, 4*n-2)}}
			want.HeaderLen += 4 * n
		}
		return []gopacket.SerializableLayer{ip}, ip, want
	}
	ip := &layers.IPv6{
		Version: 6, TrafficClass: class, FlowLabel: r.Uint32() & 0xfffff, HopLimit: ttl, NextHeader: proto,
		SrcIP: randomBytes(r, 16), DstIP: randomBytes(r, 16),
	}
	want := wire.IP{
		Version: 6, TrafficClass: class, FlowLabel: ip.FlowLabel, TTL: ttl, Proto: wire.Proto(proto),
		Src: netip.AddrFrom16([16]byte(ip.SrcIP)), Dst: netip.AddrFrom16([16]byte(ip.DstIP)),
		HeaderLen: 40, ChecksumOK: true,
	}
	ls := []gopacket.SerializableLayer{ip}
	if r.IntN(3) == 0 {
		// Options fill the header to a multiple of 8, so that gopacket need
		// not pad.
		n := 1 + r.IntN(4)
		d := &layers.IPv6Destination{Options: []*layers.IPv6DestinationOption{{OptionType: 0x1e, OptionData: randomBytes(r, 8*n-4)}}}
		d.NextHeader = proto
		ip.NextHeader = layers.IPProtocolIPv6Destination
		want.HeaderLen += 8 * n
		ls = append(ls, d)
	}
	return ls, ip, want
}

func randomTCP(r *rand.Rand) (*layers.TCP, wire.TCP) {
	flags := wire.TCPFlags(r.Uint32())
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(r.Uint32()), DstPort: layers.TCPPort(r.Uint32()), Seq: r.Uint32(), Ack: r.Uint32(),
		FIN: flags.Has(wire.FIN), SYN: flags.Has(wire.SYN), RST: flags.Has(wire.RST), PSH: flags.Has(wire.PSH),
		ACK: flags.Has(wire.ACK), URG: flags.Has(wire.URG), ECE: flags.Has(wire.ECE), CWR: flags.Has(wire.CWR),
		Window: uint16(r.Uint32()), Urgent: uint16(r.Uint32()),
	}
	want := wire.TCP{
		SrcPort: uint16(tcp.SrcPort), DstPort: uint16(tcp.DstPort), Seq: tcp.Seq, Ack: tcp.Ack,
		Flags: flags, Window: tcp.Window, HeaderLen: 20,
	}
	size := 0
	for _, kind := range r.Perm(7) {
		if r.IntN(2) == 0 {
			continue
		}
		var data []byte
		switch kind {
		case 0:
			data = randomBytes(r, 2)
			want.Options.HasMSS, want.Options.MSS = true, binary.BigEndian.Uint16(data)
			kind = layers.TCPOptionKindMSS
		case 1:
			data = randomBytes(r, 1)
			want.Options.HasWindowScale, want.Options.WindowScale = true, data[0]
			kind = layers.TCPOptionKindWindowScale
		case 2:
			want.Options.SACKPermitted = true
			kind = layers.TCPOptionKindSACKPermitted
		case 3:
			data = randomBytes(r, 8)
			want.Options.HasTimestamps = true
			want.Options.TSval, want.Options.TSecr = binary.BigEndian.Uint32(data), binary.BigEndian.Uint32(data[4:])
			kind = layers.TCPOptionKindTimestamps
		case 4:
			data = randomBytes(r, r.IntN(9))
			kind = 200 // nobody's
		default:
			tcp.Options = append(tcp.Options, layers.TCPOption{OptionType: layers.TCPOptionKindNop, OptionLength: 1})
			size++
			continue
		}
		tcp.Options = append(tcp.Options, layers.TCPOption{
			OptionType: layers.TCPOptionKind(kind), OptionLength: uint8(len(data) + 2), OptionData: data,
		})
		size += len(data) + 2
		want.Options.Count++
	}
	want.HeaderLen += (size + 3) &^ 3
	return tcp, want
}

func TestOracleTCP(t *testing.T) {
	r := random(t)
	for range rounds {
		ls, network, wantIP := randomIP(r, r.IntN(2) == 0, layers.IPProtocolTCP)
		tcp, wantTCP := randomTCP(r)
		tcp.SetNetworkLayerForChecksum(network)
		payload := randomBytes(r, r.IntN(20))
		wantTCP.Payload = payload
		b := serialize(t, append(ls, tcp, gopacket.Payload(payload))...)
		wantIP.TotalLen = len(b)

		ip, err := wire.ParseIP(append(b, randomBytes(r, r.IntN(10))...))
		if err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		if diff := cmp.Diff(wantIP, ip, equateAddr, cmpopts.IgnoreFields(wire.IP{}, "Payload")); diff != "" {
			t.Fatalf("%x: (-want +got)\n%s", b, diff)
		}
		if valid, checked := ip.VerifyPayload(); !valid || !checked {
			t.Fatalf("%x: checksum valid %t, checked %t", b, valid, checked)
		}
		got, err := wire.ParseTCP(ip.Payload)
		if err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		wantTCP.Checksum = tcp.Checksum
		if diff := cmp.Diff(wantTCP, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%x: (-want +got)\n%s", b, diff)
		}

		// One bit off has to show in the one checksum or the other.
		b[r.IntN(ip.TotalLen-20)+20] ^= 1 << r.IntN(8)
		if ip, err = wire.ParseIP(b); err == nil && ip.Version == 4 && ip.ChecksumOK {
			if valid, checked := ip.VerifyPayload(); valid && checked {
				t.Fatalf("%x: a changed bit does not show", b)
			}
		}
	}
}

func TestOracleUDPAndEcho(t *testing.T) {
	r := random(t)
	for range rounds {
		payload := gopacket.Payload(randomBytes(r, r.IntN(20)))
		v6 := r.IntN(2) == 0

		ls, network, _ := randomIP(r, v6, layers.IPProtocolUDP)
		udp := &layers.UDP{SrcPort: layers.UDPPort(r.Uint32()), DstPort: layers.UDPPort(r.Uint32())}
		udp.SetNetworkLayerForChecksum(network)
		b := serialize(t, append(ls, udp, payload)...)
		ip, err := wire.ParseIP(b)
		if err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		// gopacket sends a sum of 0 as it is, one in 65,536.
		if valid, checked := ip.VerifyPayload(); !valid && udp.Checksum != 0 || !checked && udp.Checksum != 0 {
			t.Fatalf("%x: checksum valid %t, checked %t", b, valid, checked)
		}
		got, err := wire.ParseUDP(ip.Payload)
		want := wire.UDP{
			SrcPort: uint16(udp.SrcPort), DstPort: uint16(udp.DstPort), Length: 8 + len(payload),
			Checksum: udp.Checksum, Payload: payload,
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" || err != nil {
			t.Fatalf("%x: %v (-want +got)\n%s", b, err, diff)
		}

		id, seq := uint16(r.Uint32()), uint16(r.Uint32())
		echo := []gopacket.SerializableLayer{
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoReply, 0), Id: id, Seq: seq}, payload}
		proto, parse := layers.IPProtocolICMPv4, wire.ParseICMPv4
		if v6 {
			proto, parse = layers.IPProtocolICMPv6, wire.ParseICMPv6
		}
		ls, network, _ = randomIP(r, v6, proto)
		if v6 {
			h := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoReply, 0)}
			h.SetNetworkLayerForChecksum(network)
			echo = []gopacket.SerializableLayer{h, &layers.ICMPv6Echo{Identifier: id, SeqNumber: seq}, payload}
		}
		b = serialize(t, append(ls, echo...)...)
		if ip, err = wire.ParseIP(b); err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		if valid, checked := ip.VerifyPayload(); !valid || !checked {
			t.Fatalf("%x: checksum valid %t, checked %t", b, valid, checked)
		}
		m, err := parse(ip.Payload)
		if err != nil || !m.IsEchoReply() || m.ID != id || m.Seq != seq || !bytes.Equal(m.Body, payload) {
			t.Fatalf("%x: %+v, %v", b, m, err)
		}
	}
}

// TestOracleDecode gives both the same bytes, a few of them broken. They may
// differ in what they accept, but not in what they read.
func TestOracleDecode(t *testing.T) {
	r := random(t)
	var both int
	for range rounds {
		ls, network, _ := randomIP(r, false, layers.IPProtocolTCP)
		tcp, _ := randomTCP(r)
		tcp.SetNetworkLayerForChecksum(network)
		b := serialize(t, append(ls, tcp, gopacket.Payload(randomBytes(r, r.IntN(20))))...)
		for range r.IntN(4) {
			b[r.IntN(len(b))] = byte(r.Uint32())
		}

		var ip4 layers.IPv4
		err4 := ip4.DecodeFromBytes(b, gopacket.NilDecodeFeedback)
		ip, err := wire.ParseIP(b)
		if err != nil || err4 != nil || ip.Version != 4 {
			continue
		}
		if ip.HeaderLen != int(ip4.IHL)*4 || ip.TotalLen != int(ip4.Length) || ip.TTL != ip4.TTL || ip.Proto != wire.Proto(ip4.Protocol) ||
			ip.ID != ip4.Id || ip.FragmentOffset != int(ip4.FragOffset)*8 || ip.TrafficClass != ip4.TOS ||
			ip.DontFragment != (ip4.Flags&layers.IPv4DontFragment != 0) || ip.MoreFragments != (ip4.Flags&layers.IPv4MoreFragments != 0) ||
			!bytes.Equal(ip.Payload, ip4.Payload) {
			t.Fatalf("%x:\n%+v\n%+v", b, ip, ip4)
		}
		var tcp4 layers.TCP
		err4 = tcp4.DecodeFromBytes(ip.Payload, gopacket.NilDecodeFeedback)
		got, err := wire.ParseTCP(ip.Payload)
		if err != nil || err4 != nil {
			continue
		}
		if got.SrcPort != uint16(tcp4.SrcPort) || got.DstPort != uint16(tcp4.DstPort) || got.Seq != tcp4.Seq || got.Ack != tcp4.Ack ||
			got.Window != tcp4.Window || got.HeaderLen != int(tcp4.DataOffset)*4 || !bytes.Equal(got.Payload, tcp4.Payload) {
			t.Fatalf("%x:\n%+v\n%+v", b, got, tcp4)
		}
		both++
	}
	if both < rounds/4 {
		t.Errorf("only %d of %d packets were compared", both, rounds)
	}
}

// randomExtensions returns extensions for x/net/icmp to write, and what wire
// is to read.
func randomExtensions(r *rand.Rand, v6 bool) (exts []icmp.Extension, want wire.Extensions) {
	if r.IntN(2) == 0 {
		stack := &icmp.MPLSLabelStack{Class: 1, Type: 1}
		for range 1 + r.IntN(5) {
			l := wire.MPLSLabel{Label: r.Uint32() >> 12, TC: uint8(r.IntN(8)), Bottom: r.IntN(2) == 0, TTL: uint8(r.Uint32())}
			stack.Labels = append(stack.Labels, icmp.MPLSLabel{Label: int(l.Label), TC: int(l.TC), S: l.Bottom, TTL: int(l.TTL)})
			want.MPLS = append(want.MPLS, l)
		}
		exts = append(exts, stack)
	}
	for range r.IntN(3) {
		info := wire.InterfaceInfo{Role: wire.InterfaceRole(r.IntN(4))}
		ctype := int(info.Role) << 6
		ifi := &icmp.InterfaceInfo{Class: 2}
		if r.IntN(3) > 0 {
			info.HasIndex, info.Index = true, 1+r.Uint32()>>1
			ctype |= 0x08
			ifi.Interface = &net.Interface{Index: int(info.Index)}
			if r.IntN(2) == 0 {
				info.Name = "eth0/123456789 longer than most of them are, even in a data centre"[:1+r.IntN(63)]
				ifi.Interface.Name = info.Name
				ctype |= 0x02
			}
			if r.IntN(2) == 0 {
				info.MTU = 1 + uint32(r.IntN(65535))
				ifi.Interface.MTU = int(info.MTU)
				ctype |= 0x01
			}
		}
		if r.IntN(2) == 0 {
			n := 4
			if v6 {
				n = 16
			}
			a := randomBytes(r, n)
			ifi.Addr = &net.IPAddr{IP: a}
			info.Addr, _ = netip.AddrFromSlice(a)
			ctype |= 0x04
		}
		ifi.Type = ctype
		exts = append(exts, ifi)
		want.Interfaces = append(want.Interfaces, info)
	}
	if len(exts) > 0 && r.IntN(3) == 0 {
		exts = append(exts, &icmp.RawExtension{Data: []byte{0, 8, 0xf7, 1, 1, 2, 3, 4}})
		want.Unknown++
	}
	return exts, want
}

// TestOracleQuote has gopacket build a packet, cuts it anywhere, has x/net/icmp
// put it into an error, and reads it.
func TestOracleQuote(t *testing.T) {
	r := random(t)
	for range rounds {
		v6 := r.IntN(2) == 0
		ls, network, wantIP := randomIP(r, v6, layers.IPProtocolTCP)
		tcp, wantTCP := randomTCP(r)
		tcp.SetNetworkLayerForChecksum(network)
		quoted := serialize(t, append(ls, tcp, gopacket.Payload(randomBytes(r, r.IntN(100))))...)
		wantIP.TotalLen = len(quoted)
		quoted = quoted[:wantIP.HeaderLen+8+r.IntN(len(quoted)-wantIP.HeaderLen-7)]

		exts, wantExt := randomExtensions(r, v6)
		msg := icmp.Message{Code: r.IntN(2)}
		proto, parse := 1, wire.ParseICMPv4
		switch kind := r.IntN(3); {
		case v6 && kind == 0:
			msg.Type, msg.Body = ipv6.ICMPTypeTimeExceeded, &icmp.TimeExceeded{Data: quoted, Extensions: exts}
		case v6:
			msg.Type, msg.Body = ipv6.ICMPTypeDestinationUnreachable, &icmp.DstUnreach{Data: quoted, Extensions: exts}
		case kind == 0:
			msg.Type, msg.Body = ipv4.ICMPTypeTimeExceeded, &icmp.TimeExceeded{Data: quoted, Extensions: exts}
		case kind == 1:
			msg.Type, msg.Body = ipv4.ICMPTypeParameterProblem, &icmp.ParamProb{Pointer: 20, Data: quoted, Extensions: exts}
		default:
			msg.Type, msg.Body = ipv4.ICMPTypeDestinationUnreachable, &icmp.DstUnreach{Data: quoted, Extensions: exts}
		}
		if v6 {
			proto, parse = 58, wire.ParseICMPv6
		}
		b, err := msg.Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(exts) > 0 {
			// One sum in 65,536 is 0, and then it counts as none.
			at := 8 + max(128, (len(quoted)+7)&^7)
			if !v6 {
				at = 8 + max(128, (len(quoted)+3)&^3)
			}
			wantExt.Verified = b[at+2] != 0 || b[at+3] != 0
			if len(quoted) <= 128 && r.IntN(4) == 0 { // as devices did before there was a length
				b[4], b[5] = 0, 0
			}
		}
		if again, err := icmp.ParseMessage(proto, b); err != nil || extensionsOf(again) != len(exts) {
			t.Fatalf("%x: the oracle does not read what it wrote: %v", b, err)
		}

		m, err := parse(b)
		if err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		gotExt, err := m.Extensions()
		if diff := cmp.Diff(wantExt, gotExt, equateAddr); diff != "" || err != nil {
			t.Fatalf("%x: %v (-want +got)\n%s", b, err, diff)
		}
		q, err := m.Quote()
		if err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		ignore := cmpopts.IgnoreFields(wire.IP{}, "Payload", "Truncated")
		if diff := cmp.Diff(wantIP, q.IP, equateAddr, ignore); diff != "" {
			t.Fatalf("%x: (-want +got)\n%s", b, diff)
		}
		if !q.HasPorts || !q.HasSeq || q.SrcPort != wantTCP.SrcPort || q.DstPort != wantTCP.DstPort || q.Seq != wantTCP.Seq {
			t.Fatalf("%x: %+v, want %+v", b, q, wantTCP)
		}
		if n := len(quoted) - wantIP.HeaderLen; n >= wantTCP.HeaderLen {
			if q.Ack != wantTCP.Ack || q.TCPFlags != wantTCP.Flags ||
				q.HasTSval != wantTCP.Options.HasTimestamps || q.TSval != wantTCP.Options.TSval {
				t.Fatalf("%x: %+v, want %+v", b, q, wantTCP)
			}
		}
		if !bytes.HasPrefix(q.IP.Payload, quoted[wantIP.HeaderLen:]) {
			t.Fatalf("%x: payload %x", b, q.IP.Payload)
		}
		if len(exts) == 0 && q.Len != len(quoted) {
			t.Fatalf("%x: %d bytes quoted, want %d", b, q.Len, len(quoted))
		}
	}
}

func extensionsOf(m *icmp.Message) int {
	switch body := m.Body.(type) {
	case *icmp.TimeExceeded:
		return len(body.Extensions)
	case *icmp.DstUnreach:
		return len(body.Extensions)
	case *icmp.ParamProb:
		return len(body.Extensions)
	}
	return 0
}

func TestOracleARP(t *testing.T) {
	r := random(t)
	for range rounds {
		g := &layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: uint16(r.Uint32()), SourceHwAddress: randomBytes(r, 6), SourceProtAddress: randomBytes(r, 4),
			DstHwAddress: randomBytes(r, 6), DstProtAddress: randomBytes(r, 4),
		}
		want := wire.ARP{
			Op: g.Operation, SenderHW: [6]byte(g.SourceHwAddress), Sender: netip.AddrFrom4([4]byte(g.SourceProtAddress)),
			TargetHW: [6]byte(g.DstHwAddress), Target: netip.AddrFrom4([4]byte(g.DstProtAddress)),
		}
		if got, err := wire.ParseARP(serialize(t, g)); err != nil || got != want {
			t.Fatalf("%+v, want %+v: %v", got, want, err)
		}

		g.Operation, g.DstHwAddress = layers.ARPRequest, make([]byte, 6)
		if got, want := wire.AppendARPRequest(nil, want.SenderHW, want.Sender, want.Target), serialize(t, g); !bytes.Equal(got, want) {
			t.Fatalf("%x, want %x", got, want)
		}
	}
}

func TestOracleNeighbor(t *testing.T) {
	r := random(t)
	for range rounds {
		src, target := randomBytes(r, 16), randomBytes(r, 16)
		src[0], target[0] = 0xfe, 0x20 // no multicast
		hw := [6]byte(randomBytes(r, 6))
		option := layers.ICMPv6Option{Type: layers.ICMPv6OptSourceAddress, Data: hw[:]}

		// A solicitation, byte for byte.
		node, _ := wire.SolicitedNode(netip.AddrFrom16([16]byte(target)))
		ip := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: src, DstIP: node.AsSlice()}
		h := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)}
		h.SetNetworkLayerForChecksum(ip)
		want := serialize(t, ip, h, &layers.ICMPv6NeighborSolicitation{TargetAddress: target, Options: layers.ICMPv6Options{option}})
		got := wire.AppendNeighborSolicitation(nil, netip.AddrFrom16([16]byte(src)), netip.AddrFrom16([16]byte(target)), hw)
		if !bytes.Equal(got, want) {
			t.Fatalf("%x, want %x", got, want)
		}

		// An advertisement.
		flags := uint8(r.IntN(8)) << 5
		option.Type = layers.ICMPv6OptTargetAddress
		h = &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborAdvertisement, 0)}
		h.SetNetworkLayerForChecksum(ip)
		b := serialize(t, ip, h, &layers.ICMPv6NeighborAdvertisement{Flags: flags, TargetAddress: target, Options: layers.ICMPv6Options{option}})
		p, err := wire.ParseIP(b)
		if err != nil {
			t.Fatal(err)
		}
		m, err := wire.ParseICMPv6(p.Payload)
		if err != nil {
			t.Fatal(err)
		}
		n, err := wire.ParseNeighbor(m)
		wantN := wire.Neighbor{
			Target: netip.AddrFrom16([16]byte(target)), HasLinkAddr: true, LinkAddr: hw,
			Router: flags&0x80 != 0, Solicited: flags&0x40 != 0, Override: flags&0x20 != 0,
		}
		if err != nil || n != wantN {
			t.Fatalf("%x: %+v, want %+v: %v", b, n, wantN, err)
		}
	}
}
