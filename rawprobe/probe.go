package rawprobe

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"synprobe/rawprobe/wire"
)

// The header lengths of our own packets: no IPv4 options and no IPv6 extension
// headers, which many routers treat as suspicious.
const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
)

// DefaultTTL is the initial TTL of Linux (net.ipv4.ip_default_ttl,
// net.ipv6.conf.*.hop_limit), and the one of full-TTL probes.
const DefaultTTL = 64

// Sizes of a current Linux client's SYN. The window is the largest multiple of
// the segment size below 64 KiB (net/ipv4/tcp_output.c,
// tcp_select_initial_window); the scale covers the default receive buffer.
const (
	maxUnscaledWindow = 65535
	windowScale       = 7
	minMSS            = 88 // TCP_MIN_MSS, include/net/tcp.h
)

// The offset of the timestamp value in a SYN built by newSYN: TCP header, MSS
// (4), SACK permitted (2), kind and length of the timestamp option (2).
const synTSvalOffset = 20 + 4 + 2 + 2

// A template is a packet of which only the identity changes from one sending
// to the next. It is built by gopacket's layers once and patched in place.
type template struct {
	kind   ProbeKind
	flow   Flow
	proto  wire.Proto
	packet []byte
	header int // length of the IP header
}

// newSYN makes the template of a SYN shaped like a current Linux client's. A
// SYN without options is dropped by some devices, and one of another shape is
// not the traffic that the user asks about.
func newSYN(kind ProbeKind, flow Flow, isn uint32, mtu int) (*template, error) {
	t := &template{kind: kind, flow: flow, proto: wire.ProtoTCP}
	t.header = headerLen(flow)
	mss := max(mtu-t.header-20, minMSS)
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(flow.Src.Port()),
		DstPort: layers.TCPPort(flow.Dst.Port()),
		Seq:     isn,
		SYN:     true,
		Window:  uint16(maxUnscaledWindow / min(mss, maxUnscaledWindow) * min(mss, maxUnscaledWindow)),
		// The order of net/ipv4/tcp_output.c, tcp_options_write.
		Options: []layers.TCPOption{
			{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: binary.BigEndian.AppendUint16(nil, uint16(min(mss, 65535)))},
			{OptionType: layers.TCPOptionKindSACKPermitted, OptionLength: 2},
			{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)},
			{OptionType: layers.TCPOptionKindNop},
			{OptionType: layers.TCPOptionKindWindowScale, OptionLength: 3, OptionData: []byte{windowScale}},
		},
	}
	return t, t.build(layers.IPProtocolTCP, tcp)
}

// The flags of an IPv4 header's seventh byte (RFC 791, section 3.1).
const (
	ipv4DontFragment  = 0x40
	ipv4MoreFragments = 0x20
)

// newFragment makes the template of a lone first fragment that holds all of a
// SYN. Its 40 bytes are a whole number of the 8-byte units of fragments.
func newFragment(flow Flow, isn uint32, mtu int) (*template, error) {
	t, err := newSYN(Fragment, flow, isn, mtu)
	if err == nil {
		t.packet[6] = t.packet[6]&^ipv4DontFragment | ipv4MoreFragments
	}
	return t, err
}

// newACK makes the template of a bare ACK for a connection that does not exist:
// a host resets it (RFC 9293, section 3.10.7.1).
func newACK(flow Flow, isn uint32) (*template, error) {
	t := &template{kind: ControlACK, flow: flow, proto: wire.ProtoTCP, header: headerLen(flow)}
	return t, t.build(layers.IPProtocolTCP, &layers.TCP{
		SrcPort: layers.TCPPort(flow.Src.Port()), DstPort: layers.TCPPort(flow.Dst.Port()),
		Seq: isn + 1, ACK: true, Window: 502,
	})
}

// newUDP makes the template of a datagram. Its destination port counts up, as
// traceroute's does, and names the probe.
func newUDP(flow Flow) (*template, error) {
	t := &template{kind: ControlUDP, flow: flow, proto: wire.ProtoUDP, header: headerLen(flow)}
	return t, t.build(layers.IPProtocolUDP, &layers.UDP{
		SrcPort: layers.UDPPort(flow.Src.Port()), DstPort: layers.UDPPort(flow.Dst.Port()),
	}, make(gopacket.Payload, 32))
}

// newEcho makes the template of an ICMP echo request. The first four bytes of
// its payload are the cookie, which translation of the identifier leaves
// alone.
func newEcho(flow Flow, id uint16, cookie uint32) (*template, error) {
	t := &template{kind: Echo, flow: flow}
	t.header = headerLen(flow)
	// As long as ping's, so that a device which limits sizes treats it alike.
	payload := make(gopacket.Payload, 56)
	binary.BigEndian.PutUint32(payload, cookie)
	for i := 4; i < len(payload); i++ {
		payload[i] = byte(i)
	}
	if flow.Dst.Addr().Is4() {
		t.proto = wire.ProtoICMP
		return t, t.build(layers.IPProtocolICMPv4,
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: id}, payload)
	}
	t.proto = wire.ProtoICMPv6
	return t, t.build(layers.IPProtocolICMPv6,
		&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoRequest, 0)},
		&layers.ICMPv6Echo{Identifier: id}, payload)
}

func headerLen(flow Flow) int {
	if flow.Dst.Addr().Is4() {
		return ipv4HeaderLen
	}
	return ipv6HeaderLen
}

// build serialises the packet. Checksums are left to stamp.
func (t *template) build(proto layers.IPProtocol, upper ...gopacket.SerializableLayer) error {
	src, dst := t.flow.Src.Addr(), t.flow.Dst.Addr()
	var ip gopacket.SerializableLayer
	if dst.Is4() {
		ip = &layers.IPv4{
			Version: 4, TTL: DefaultTTL, Protocol: proto, Flags: layers.IPv4DontFragment,
			SrcIP: net.IP(src.AsSlice()), DstIP: net.IP(dst.AsSlice()),
		}
	} else {
		ip = &layers.IPv6{
			Version: 6, HopLimit: DefaultTTL, NextHeader: proto, FlowLabel: flowLabel(t.flow),
			SrcIP: net.IP(src.AsSlice()), DstIP: net.IP(dst.AsSlice()),
		}
	}
	buf := gopacket.NewSerializeBuffer()
	all := append([]gopacket.SerializableLayer{ip}, upper...)
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true}, all...); err != nil {
		return fmt.Errorf("build %s probe: %w", t.kind, err)
	}
	t.packet = append([]byte(nil), buf.Bytes()...)
	return nil
}

// flowLabel gives every packet of a flow the same label, which IPv6 routers
// hash for ECMP (RFC 6437, section 3), as Linux does by default
// (net.ipv6.auto_flowlabels). It is never 0, which means none.
func flowLabel(f Flow) uint32 {
	h := uint32(2166136261) // FNV-1a, RFC 9923
	for _, p := range []netip.AddrPort{f.Src, f.Dst} {
		b, _ := p.Addr().WithZone("").MarshalBinary()
		for _, c := range append(b, byte(p.Port()>>8), byte(p.Port())) {
			h = (h ^ uint32(c)) * 16777619
		}
	}
	return h>>12&0xfffff | 1
}

// stamp patches a probe's identity into the template, completes the checksums
// and returns the packet, which is valid until the next call.
func (t *template) stamp(s *Sent) []byte {
	p := t.packet
	upper := p[t.header:]
	if t.header == ipv4HeaderLen {
		p[8] = byte(s.TTL)
		binary.BigEndian.PutUint16(p[4:], s.ID)
		binary.BigEndian.PutUint16(p[10:], 0)
		binary.BigEndian.PutUint16(p[10:], wire.Checksum(p[:t.header], 0))
	} else {
		p[7] = byte(s.TTL)
	}
	at := 2 // of the checksum in ICMP
	switch t.proto {
	case wire.ProtoTCP:
		at = 16
		if t.kind == ControlACK {
			binary.BigEndian.PutUint32(upper[8:], s.Ack)
		} else {
			binary.BigEndian.PutUint32(upper[synTSvalOffset:], s.TSval)
		}
	case wire.ProtoUDP:
		at = 6
		binary.BigEndian.PutUint16(upper[2:], s.Flow.Dst.Port())
	default:
		binary.BigEndian.PutUint16(upper[6:], uint16(s.Seq))
	}
	binary.BigEndian.PutUint16(upper[at:], 0)
	var sum uint32
	if t.proto != wire.ProtoICMP { // ICMPv4 has no pseudo header
		sum = wire.PseudoHeaderSum(t.flow.Src.Addr(), t.flow.Dst.Addr(), t.proto, len(upper))
	}
	sum16 := wire.Checksum(upper, sum)
	if t.proto == wire.ProtoUDP && sum16 == 0 {
		sum16 = 0xffff // 0 means that there is none (RFC 768)
	}
	binary.BigEndian.PutUint16(upper[at:], sum16)
	return p
}
