package pcap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/net/bpf"
)

// testInterest has an ISN whose successor has carries, an id and a cookie whose bytes all differ, and ports that occur
// nowhere else.
var testInterest = Interest{
	ISN:        0x7fff_ffff,
	ACK:        0xffff_fffe,
	ACKs:       5,
	Port:       41234,
	PeerPort:   5432,
	EchoID:     0x1234,
	EchoCookie: 0xa1b2c3d4,
	UDPPorts:   []uint16{33434, 53},
	Neighbors:  true,
}

// wants is what Interest.Filter promises, in plain Go: the oracle for all tests of the filter.
func wants(i Interest, b []byte) bool {
	if len(b) < 1 {
		return false
	}
	u16 := func(at int) (uint16, bool) {
		if at+2 > len(b) {
			return 0, false
		}
		return binary.BigEndian.Uint16(b[at:]), true
	}
	u32 := func(at int) (uint32, bool) {
		if at+4 > len(b) {
			return 0, false
		}
		return binary.BigEndian.Uint32(b[at:]), true
	}
	var proto, at int
	version := b[0] >> 4
	switch version {
	case 4:
		if len(b) < 10 || i.Family == 6 {
			return false
		}
		if off, _ := u16(6); off&0x1fff != 0 {
			return false
		}
		proto, at = int(b[9]), int(b[0]&15)*4
		if at < 20 {
			return false
		}
	case 6:
		if len(b) < 7 || i.Family == 4 {
			return false
		}
		proto, at = int(b[6]), 40
	walk:
		for range 4 {
			switch proto {
			case 0, 43, 60:
				if at+2 > len(b) {
					return false
				}
				proto, at = int(b[at]), at+8*(int(b[at+1])+1)
			case 51:
				if at+2 > len(b) {
					return false
				}
				proto, at = int(b[at]), at+4*(int(b[at+1])+2)
			case 44:
				if off, ok := u16(at + 2); !ok || off>>3 != 0 {
					return false
				}
				proto, at = int(b[at]), at+8
			default:
				break walk
			}
		}
	default:
		if !i.Neighbors || len(b) < 8 || i.Family == 6 {
			return false
		}
		htype, _ := u16(0)
		ptype, _ := u16(2)
		op, _ := u16(6)
		return htype == 1 && ptype == 0x0800 && b[4] == 6 && b[5] == 4 && (op == 1 || op == 2)
	}

	port := func(ports []uint16) bool {
		if len(ports) > maxFilterPorts {
			return true
		}
		for _, p := range ports {
			if v, ok := u16(at); ok && v == p {
				return true
			}
			if v, ok := u16(at + 2); ok && v == p {
				return true
			}
		}
		return false
	}
	switch {
	case proto == 6:
		if src, _ := u16(at); i.Port != 0 && src == i.PeerPort {
			if dst, ok := u16(at + 2); ok && dst == i.Port {
				return true
			}
		}
		if v, ok := u32(at + 4); ok && (v == i.ISN || v == i.ISN+1 || uint64(v+^i.ACK+1) < uint64(i.ACKs)) {
			return true
		}
		v, ok := u32(at + 8)
		return ok && v == i.ISN+1
	case proto == 17:
		return port(i.UDPPorts)
	case proto == 1 && version == 4, proto == 58 && version == 6:
		if at >= len(b) {
			return false
		}
		echo := func() bool {
			id, ok := u16(at + 4)
			if ok && i.EchoID != 0 && id == i.EchoID {
				return true
			}
			cookie, ok := u32(at + 8)
			return ok && i.EchoCookie != 0 && cookie == i.EchoCookie
		}
		switch t := b[at]; {
		case version == 4 && (t == 3 || t == 11 || t == 12), version == 6 && t >= 1 && t <= 4:
			return true
		case version == 4 && (t == 0 || t == 8), version == 6 && (t == 128 || t == 129):
			return echo()
		case version == 6 && (t == 135 || t == 136):
			return i.Neighbors
		}
	}
	return false
}

// A sample is one packet and whether testInterest is interested in it.
type sample struct {
	name string
	data []byte
	want bool
}

// serialize builds a packet with gopacket, which knows nothing of the filter.
func serialize(t testing.TB, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return append([]byte(nil), buf.Bytes()...)
}

var (
	src4, dst4 = net.IP{192, 0, 2, 1}, net.IP{198, 51, 100, 7}
	src6, dst6 = net.ParseIP("2001:db8::1"), net.ParseIP("2001:db8:1::7")
	ourMAC     = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	theirMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 2}
)

func ip4(proto layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Id: 7, Protocol: proto, SrcIP: src4, DstIP: dst4}
}

func ip6(proto layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: src6, DstIP: dst6}
}

// samples returns every kind of packet that is accepted, with a near miss of each, in both families.
func samples(t testing.TB) []sample {
	isn := testInterest.ISN
	var all []sample
	add := func(want bool, name string, data []byte) { all = append(all, sample{name, data, want}) }
	cookie := binary.BigEndian.AppendUint32(nil, testInterest.EchoCookie)

	segments := []struct {
		name     string
		seq, ack uint32
		src, dst uint16
		want     bool
	}{
		{"our SYN", isn, 0, 50000, 443, true},
		{"first data, or our ACK control", isn + 1, 77, 50000, 443, true},
		{"SYN-ACK or RST", 123456, isn + 1, 443, 50000, true},
		{"RST with our kernel's number", isn + 1, 0, 443, 50000, true},
		{"RST that answers the first ACK", 0xffff_fffe, 0, 443, 50000, true},
		{"RST that answers the last ACK", 2, 0, 443, 50000, true},
		{"one less than an ACK's", 0xffff_fffd, 0, 443, 50000, false},
		{"one more than an ACK's", 3, 0, 443, 50000, false},
		{"RST with acknowledgement and sequence 0", 0, isn + 1, 443, 50000, true},
		{"sequence one less", isn - 1, 0, 50000, 443, false},
		{"sequence two more", isn + 2, 0, 50000, 443, false},
		{"sequence with bytes swapped", 0xffffff7f, 0, 50000, 443, false},
		{"acknowledges the ISN itself", 99, isn, 443, 50000, false},
		{"acknowledges two more", 99, isn + 2, 443, 50000, false},
		{"a stray segment", 99, 98, 40003, 443, false},
		{"numbers in the ports' place", 99, 98, 0x7fff, 0xffff, false},
		{"challenge ACK of an old connection", 99, 98, 5432, 41234, true},
		{"the other way round", 99, 98, 41234, 5432, false},
		{"to our port from another", 99, 98, 5433, 41234, false},
		{"from the port asked about to another", 99, 98, 5432, 41235, false},
		{"from the port asked about, bytes swapped", 99, 98, 0x3815, 41234, false},
		{"from our port to itself", 99, 98, 41234, 41234, false},
		{"the ports as a sequence number", 5432<<16 | 41234, 98, 80, 81, false},
	}
	for _, s := range segments {
		tcp := func(n gopacket.NetworkLayer) *layers.TCP {
			l := &layers.TCP{SrcPort: layers.TCPPort(s.src), DstPort: layers.TCPPort(s.dst), Seq: s.seq, Ack: s.ack, SYN: true, Window: 64240,
				Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}}}}
			l.SetNetworkLayerForChecksum(n)
			return l
		}
		n4, n6 := ip4(layers.IPProtocolTCP), ip6(layers.IPProtocolTCP)
		add(s.want, "IPv4 TCP: "+s.name, serialize(t, n4, tcp(n4)))
		add(s.want, "IPv6 TCP: "+s.name, serialize(t, n6, tcp(n6)))

		opt := ip4(layers.IPProtocolTCP)
		opt.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}} // router alert, RFC 2113
		add(s.want, "IPv4 with options TCP: "+s.name, serialize(t, opt, tcp(opt)))

		first := ip4(layers.IPProtocolTCP)
		first.Flags = layers.IPv4MoreFragments
		add(s.want, "IPv4 first fragment TCP: "+s.name, serialize(t, first, tcp(first)))
		later := ip4(layers.IPProtocolTCP)
		later.FragOffset = 1
		add(false, "IPv4 later fragment TCP: "+s.name, serialize(t, later, tcp(later)))

		other := ip4(layers.IPProtocolSCTP)
		add(false, "IPv4 not TCP: "+s.name, serialize(t, other, tcp(n4)))

		body := serialize(t, tcp(n6))
		for _, c := range []struct {
			name  string
			chain []ext
			want  bool
		}{
			{"hop-by-hop", []ext{{0, 0}}, true},
			{"long hop-by-hop", []ext{{0, 4}}, true},
			{"routing", []ext{{43, 2}}, true},
			{"first fragment", []ext{{44, 0}}, true},
			{"authentication", []ext{{51, 4}}, true},
			{"four of them", []ext{{0, 0}, {60, 1}, {43, 3}, {44, 0}}, true},
			{"four others", []ext{{60, 0}, {51, 4}, {44, 0}, {60, 2}}, true},
			{"five of them", []ext{{0, 0}, {60, 1}, {43, 3}, {44, 0}, {60, 0}}, false},
			{"later fragment", []ext{{0, 0}, {44, 8}}, false},
			{"ESP", []ext{{50, 0}}, false},
		} {
			add(s.want && c.want, "IPv6 "+c.name+" TCP: "+s.name, chain6(t, c.chain, 6, body))
		}
		add(false, "IPv6 in IPv4 TCP: "+s.name, serialize(t, ip4(layers.IPProtocolIPv6), gopacket.Payload(chain6(t, nil, 6, body))))
	}

	for _, s := range []struct {
		name     string
		src, dst uint16
		want     bool
	}{
		{"to our port", 9999, 33434, true}, {"from our port", 53, 9999, true}, {"other ports", 54, 33433, false},
		{"the TCP ports of ours", 5432, 41234, false},
	} {
		n4, n6 := ip4(layers.IPProtocolUDP), ip6(layers.IPProtocolUDP)
		u4 := &layers.UDP{SrcPort: layers.UDPPort(s.src), DstPort: layers.UDPPort(s.dst)}
		u4.SetNetworkLayerForChecksum(n4)
		u6 := &layers.UDP{SrcPort: layers.UDPPort(s.src), DstPort: layers.UDPPort(s.dst)}
		u6.SetNetworkLayerForChecksum(n6)
		add(s.want, "IPv4 UDP: "+s.name, serialize(t, n4, u4, gopacket.Payload("probe")))
		add(s.want, "IPv6 UDP: "+s.name, serialize(t, n6, u6, gopacket.Payload("probe")))
	}

	id := testInterest.EchoID
	for _, s := range []struct {
		name    string
		id      uint16
		payload []byte
		want    bool
	}{
		{"our id", id, nil, true}, {"our id and cookie", id, cookie, true}, {"id rewritten", 0x9999, cookie, true},
		{"other id", id + 1, nil, false}, {"other id, other cookie", id ^ 0x8000, []byte{0xa1, 0xb2, 0xc3, 0xd5}, false},
		{"other id, late cookie", 0x3412, append([]byte{0}, cookie...), false}, {"other id, short cookie", 0x3412, cookie[:3], false},
	} {
		for _, typ := range []uint8{0, 8} {
			add(s.want, fmt.Sprintf("ICMP %d: %s", typ, s.name), serialize(t, ip4(layers.IPProtocolICMPv4),
				&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, 0), Id: s.id, Seq: 3}, gopacket.Payload(s.payload)))
		}
		for _, typ := range []uint8{128, 129} {
			add(s.want, fmt.Sprintf("ICMPv6 %d: %s", typ, s.name), icmp6(t, typ, 0, append([]byte{byte(s.id >> 8), byte(s.id), 0, 3}, s.payload...)))
		}
		add(false, "ICMPv6 in IPv4: "+s.name, serialize(t, ip4(layers.IPProtocolICMPv6),
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(128, 0), Id: s.id}, gopacket.Payload(s.payload)))
	}
	for typ := range 256 {
		switch typ {
		case 0, 8, 128, 129:
			continue
		}
		quote := all[0].data[:28]
		want4 := typ == 3 || typ == 11 || typ == 12
		add(want4, fmt.Sprintf("ICMP %d with a quote", typ), serialize(t, ip4(layers.IPProtocolICMPv4),
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(uint8(typ), 1)}, gopacket.Payload(quote)))
		want6 := typ >= 1 && typ <= 4 || typ == 135 || typ == 136
		add(want6, fmt.Sprintf("ICMPv6 %d with a quote", typ), icmp6(t, uint8(typ), 1, append(make([]byte, 4), quote...)))
	}

	for op := range uint16(5) {
		add(op == 1 || op == 2, fmt.Sprintf("ARP operation %d", op), arp(t, 1, 0x0800, op))
	}
	add(false, "ARP on IEEE 802", arp(t, 6, 0x0800, 1))
	add(false, "ARP for another protocol", arp(t, 1, 0x86dd, 1))
	add(false, "version 5", append([]byte{0x50}, all[0].data[1:]...))
	short := append([]byte(nil), all[0].data...)
	short[0] = 0x44
	add(false, "IPv4 header length 16", short)
	return all
}

// An ext is an IPv6 extension header: its number, and its length field; of a fragment header its offset and flags.
type ext struct{ number, arg uint8 }

// chain6 builds an IPv6 packet with extension headers by hand, because gopacket can't (field notes, design page).
func chain6(t testing.TB, chain []ext, last uint8, body []byte) []byte {
	var b []byte
	first := last
	for i := len(chain) - 1; i >= 0; i-- {
		e := chain[i]
		var h []byte
		switch e.number {
		case 44:
			h = []byte{first, 0, 0, e.arg | 1, 0, 0, 0, 9}
		case 51:
			h = make([]byte, 4*(int(e.arg)+2))
			h[0], h[1] = first, e.arg
		default:
			h = make([]byte, 8*(int(e.arg)+1))
			h[0], h[1] = first, e.arg
		}
		b = append(h, b...)
		first = e.number
	}
	return serialize(t, ip6(layers.IPProtocol(first)), gopacket.Payload(append(b, body...)))
}

func icmp6(t testing.TB, typ, code uint8, body []byte) []byte {
	n := ip6(layers.IPProtocolICMPv6)
	l := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, code)}
	l.SetNetworkLayerForChecksum(n)
	return serialize(t, n, l, gopacket.Payload(body))
}

func arp(t testing.TB, htype uint16, ptype uint16, op uint16) []byte {
	return serialize(t, &layers.ARP{AddrType: layers.LinkType(htype), Protocol: layers.EthernetType(ptype), HwAddressSize: 6,
		ProtAddressSize: 4, Operation: op, SourceHwAddress: ourMAC, SourceProtAddress: src4, DstHwAddress: theirMAC, DstProtAddress: dst4})
}

func mustVM(t testing.TB, i Interest) *bpf.VM {
	t.Helper()
	vm, err := bpf.NewVM(i.Filter())
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

func run(t testing.TB, vm *bpf.VM, b []byte) bool {
	t.Helper()
	n, err := vm.Run(b)
	if err != nil {
		t.Fatalf("filter failed: %v\n% x", err, b)
	}
	if n != 0 && n != filterAccept {
		t.Fatalf("filter returned %d\n% x", n, b)
	}
	return n != 0
}

func TestFilterSamples(t *testing.T) {
	vm := mustVM(t, testInterest)
	accepted := 0
	for _, s := range samples(t) {
		if got := run(t, vm, s.data); got != s.want {
			t.Errorf("%s: passes %t, want %t\n% x", s.name, got, s.want, s.data)
		}
		if wants(testInterest, s.data) != s.want {
			t.Errorf("%s: the oracle disagrees with the table", s.name)
		}
		if s.want {
			accepted++
		}
		// Cut anywhere, it must come to the same answer as the oracle.
		for n := 0; n <= min(60, len(s.data)); n++ {
			if got, want := run(t, vm, s.data[:n]), wants(testInterest, s.data[:n]); got != want {
				t.Errorf("%s, cut to %d bytes: passes %t, want %t", s.name, n, got, want)
			}
		}
	}
	t.Logf("%d samples, %d of them accepted, %d instructions", len(samples(t)), accepted, len(testInterest.Filter()))
}

// The identity of a run at the ends of the number space, where ISN+1 wraps to zero.
func TestFilterWraps(t *testing.T) {
	for _, isn := range []uint32{0, 1, 0xffff_fffe, 0xffff_ffff} {
		i := Interest{ISN: isn}
		vm := mustVM(t, i)
		for _, c := range []struct {
			seq, ack uint32
			want     bool
		}{{isn, isn - 7, true}, {isn + 1, isn - 7, true}, {isn - 9, isn + 1, true}, {isn + 2, isn + 2, false}, {isn - 1, isn, false}} {
			n := ip4(layers.IPProtocolTCP)
			l := &layers.TCP{Seq: c.seq, Ack: c.ack}
			l.SetNetworkLayerForChecksum(n)
			if got := run(t, vm, serialize(t, n, l)); got != c.want {
				t.Errorf("ISN %#x: seq %#x ack %#x passes %t, want %t", isn, c.seq, c.ack, got, c.want)
			}
		}
	}
}

// Fields that are not set must let nothing pass: an id of zero is no id.
func TestFilterZeroFields(t *testing.T) {
	i := Interest{ISN: 0x0badcafe}
	vm := mustVM(t, i)
	for name, b := range map[string][]byte{
		"echo":         serialize(t, ip4(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0)}, gopacket.Payload(make([]byte, 56))),
		"echo, IPv6":   icmp6(t, 128, 0, make([]byte, 60)),
		"ARP":          arp(t, 1, 0x0800, 1),
		"solicitation": icmp6(t, 135, 0, make([]byte, 20)),
		"UDP":          serialize(t, ip4(layers.IPProtocolUDP), gopacket.Payload(make([]byte, 8))),
	} {
		if run(t, vm, b) {
			t.Errorf("%s passes a filter that did not ask for it", name)
		}
	}
}

// What one family's filter lets pass is what the filter for both lets pass of it, and its program is shorter.
func TestFilterFamily(t *testing.T) {
	corpus := samples(t)
	both := len(testInterest.Filter())
	for _, c := range []struct {
		family  uint8
		version []byte
	}{{4, []byte{0, 4}}, {6, []byte{6}}} {
		i := testInterest
		i.Family = c.family
		vm := mustVM(t, i)
		for _, s := range corpus {
			want := s.want && bytes.IndexByte(c.version, s.data[0]>>4) >= 0 // ARP begins with 0
			if got := run(t, vm, s.data); got != want {
				t.Errorf("family %d: %s: passes %t, want %t", c.family, s.name, got, want)
			}
			if wants(i, s.data) != want {
				t.Errorf("family %d: %s: the oracle disagrees", c.family, s.name)
			}
			for n := range min(61, len(s.data)) {
				if got, want := run(t, vm, s.data[:n]), wants(i, s.data[:n]); got != want {
					t.Errorf("family %d: %s, cut to %d bytes: passes %t, want %t", c.family, s.name, n, got, want)
				}
			}
		}
		if n := len(i.Filter()); n >= both {
			t.Errorf("family %d: %d instructions, both %d", c.family, n, both)
		} else {
			t.Logf("family %d: %d instructions, both %d", c.family, n, both)
		}
	}
}

// A Port of zero is no port, whatever the peer's is.
func TestFilterNoPort(t *testing.T) {
	vm := mustVM(t, Interest{ISN: 0x0badcafe, PeerPort: 5432})
	n := ip4(layers.IPProtocolTCP)
	for _, dst := range []layers.TCPPort{0, 40000} {
		l := &layers.TCP{SrcPort: 5432, DstPort: dst, Seq: 1, Ack: 2}
		l.SetNetworkLayerForChecksum(n)
		if run(t, vm, serialize(t, n, l)) {
			t.Errorf("a segment to port %d passes", dst)
		}
	}
	all, err := bpf.NewVM(Nothing)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range samples(t) {
		if run(t, all, s.data) {
			t.Fatalf("%s passes Nothing", s.name)
		}
	}
}

// Lists of ports that are too long make the filter coarse, never too large for the kernel.
func TestFilterSize(t *testing.T) {
	const kernelLimit = 4096 // BPF_MAXINSNS
	for _, n := range []int{0, 1, maxFilterPorts, maxFilterPorts + 1, 65535} {
		i := testInterest
		i.UDPPorts = nil
		for p := range n {
			i.UDPPorts = append(i.UDPPorts, uint16(p+1))
		}
		f := i.Filter()
		if len(f) > kernelLimit {
			t.Errorf("%d ports: %d instructions", n, len(f))
		}
		if _, err := bpf.Assemble(f); err != nil {
			t.Errorf("%d ports: %v", n, err)
		}
		vm := mustVM(t, i)
		for _, s := range samples(t) {
			if got, want := run(t, vm, s.data), wants(i, s.data); got != want {
				t.Errorf("%d ports: %s passes %t, want %t", n, s.name, got, want)
			}
		}
	}
}

// mutate returns a sample with a few of its bytes changed, most of them where the filter looks, or cut.
func mutate(r *rand.Rand, b []byte) []byte {
	b = append([]byte(nil), b...)
	for range r.IntN(4) {
		if len(b) > 0 {
			at := r.IntN(len(b))
			if r.IntN(2) == 0 {
				at = r.IntN(min(len(b), 12))
			}
			switch r.IntN(3) {
			case 0:
				b[at] = byte(r.Uint32())
			case 1:
				b[at] ^= 1 << r.IntN(8)
			case 2:
				b[at] = []byte{0, 1, 6, 17, 43, 44, 51, 58, 60}[r.IntN(9)]
			}
		}
	}
	if r.IntN(3) == 0 {
		b = b[:r.IntN(len(b)+1)]
	}
	return b
}

func TestFilterRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	corpus := samples(t)
	accepted, total := 0, 200_000
	if testing.Short() {
		total = 20_000
	}
	vm := mustVM(t, testInterest)
	for range total {
		var b []byte
		if r.IntN(4) == 0 {
			b = make([]byte, r.IntN(96))
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			if len(b) > 0 && r.IntN(2) == 0 {
				b[0] = []byte{0x45, 0x46, 0x60}[r.IntN(3)]
			}
		} else {
			b = mutate(r, corpus[r.IntN(len(corpus))].data)
		}
		got, want := run(t, vm, b), wants(testInterest, b)
		if got != want {
			t.Fatalf("passes %t, want %t (seed %d)\n% x", got, want, seed, b)
		}
		if got {
			accepted++
		}
	}
	if accepted == 0 || accepted == total {
		t.Errorf("%d of %d random packets pass: the test tells nothing", accepted, total)
	}
}

func FuzzFilter(f *testing.F) {
	for i, s := range samples(f) {
		if i%7 == 0 {
			f.Add(s.data, testInterest.ISN, testInterest.EchoID, testInterest.EchoCookie, uint16(40001), uint16(53), true)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, isn uint32, id uint16, cookie uint32, tcp, udp uint16, neighbors bool) {
		i := Interest{ISN: isn, Port: tcp, PeerPort: udp, EchoID: id, EchoCookie: cookie, UDPPorts: []uint16{udp}, Neighbors: neighbors}
		i.Family = [...]uint8{0, 4, 6}[isn%3]
		i.ACK, i.ACKs = ^isn, uint32(id)
		if got, want := run(t, mustVM(t, i), b), wants(i, b); got != want {
			t.Fatalf("passes %t, want %t", got, want)
		}
	})
}

func ExampleInterest_Filter() {
	// What a run sees that probes with ISN 1000 and sends ICMP echos with the identifier 7.
	vm, err := bpf.NewVM(Interest{ISN: 1000, EchoID: 7}.Filter())
	if err != nil {
		fmt.Println(err)
		return
	}
	echo := []byte{0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 8, 0, 0, 0, 0, 7, 0, 1}
	n, err := vm.Run(echo)
	fmt.Println(n > 0, err)
	echo[25] = 8
	n, err = vm.Run(echo)
	fmt.Println(n > 0, err)
	// Output:
	// true <nil>
	// false <nil>
}
