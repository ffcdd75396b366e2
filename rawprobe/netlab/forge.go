package netlab

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// A Probe is a packet as somebody on the way reads it.
type Probe struct {
	// Raw is the packet, from its IP header on, or an ARP message.
	Raw      []byte
	Family   Family
	Src, Dst netip.Addr // of an ARP message: who asks, and for whom
	// Kind is "syn", "ack", "udp" or "echo" (a request), "arp" or "nd" (a
	// request or solicitation), and "" for anything else.
	Kind string
	// Neighbor is true for ARP and neighbour discovery, answers as well.
	Neighbor bool

	SrcPort, DstPort uint16           // of TCP and UDP
	Seq, Ack         uint32           // of TCP
	ID, EchoSeq      uint16           // of an echo
	Hardware         net.HardwareAddr // who asks, by ARP or neighbour discovery
	header           int
}

// IsARP reports whether a packet without its link-layer header is an ARP
// message: it starts with the hardware type, where IP has its version.
func IsARP(b []byte) bool { return len(b) >= 2 && b[0] == 0 && b[1] == 1 }

// ReadProbe reads a whole packet. It reports false for what is none.
func ReadProbe(b []byte) (*Probe, bool) {
	p := &Probe{Raw: b}
	if IsARP(b) {
		p.Neighbor = true
		if len(b) < 28 || b[7] != layers.ARPRequest {
			return p, len(b) >= 28
		}
		p.Kind, p.Family, p.Hardware = "arp", IPv4, b[8:14]
		p.Src, p.Dst = netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
		return p, true
	}
	first := layers.LayerTypeIPv4
	if len(b) > 0 && b[0]>>4 == 6 {
		first = layers.LayerTypeIPv6
	}
	g := gopacket.NewPacket(b, first, gopacket.NoCopy)
	for _, l := range g.Layers() {
		switch l := l.(type) {
		case *layers.IPv4:
			p.Family, p.header = IPv4, 4*int(l.IHL)
			p.Src, _ = netip.AddrFromSlice(l.SrcIP)
			p.Dst, _ = netip.AddrFromSlice(l.DstIP)
		case *layers.IPv6:
			p.Family, p.header = IPv6, 40
			p.Src, _ = netip.AddrFromSlice(l.SrcIP)
			p.Dst, _ = netip.AddrFromSlice(l.DstIP)
		case *layers.TCP:
			p.SrcPort, p.DstPort, p.Seq, p.Ack = uint16(l.SrcPort), uint16(l.DstPort), l.Seq, l.Ack
			switch {
			case l.SYN && !l.ACK:
				p.Kind = "syn"
			case l.ACK && !l.SYN && !l.RST:
				p.Kind = "ack"
			}
		case *layers.UDP:
			p.Kind, p.SrcPort, p.DstPort = "udp", uint16(l.SrcPort), uint16(l.DstPort)
		case *layers.ICMPv4:
			if l.TypeCode.Type() == layers.ICMPv4TypeEchoRequest {
				p.Kind = "echo"
			}
		case *layers.ICMPv6Echo:
			if b[p.header] == layers.ICMPv6TypeEchoRequest {
				p.Kind = "echo"
			}
		case *layers.ICMPv6NeighborAdvertisement:
			p.Neighbor = true
		case *layers.ICMPv6NeighborSolicitation:
			p.Kind, p.Neighbor = "nd", true
			p.Dst, _ = netip.AddrFromSlice(l.TargetAddress)
			for _, o := range l.Options {
				if o.Type == layers.ICMPv6OptSourceAddress {
					p.Hardware = o.Data
				}
			}
		}
	}
	return p, p.Family != 0
}

// A Forgery is a packet, or several, by which somebody on the way, or one who
// guesses, answers a probe, and of which something is wrong.
type Forgery struct {
	Name string
	// Only is the family that knows it; the zero Family means both.
	Only Family
	// Of is the Kind of the probes that it answers.
	Of string
	// Make returns the packets. They are the same for the same probe.
	Make func(p *Probe) [][]byte
}

// Answers reports whether the forgery answers that probe.
func (f *Forgery) Answers(p *Probe) bool {
	return f.Of == p.Kind && (f.Only == 0 || f.Only == p.Family)
}

// Forgeries are what a prober must not believe. Each has one thing wrong that
// no host, router or translator would get wrong in answer to the probe; what
// they quote or acknowledge is else the probe's own. Somebody who gets nothing
// wrong can't be told from whom he plays.
func Forgeries() []Forgery {
	var all []Forgery
	for _, group := range [][]Forgery{forgedSegments(), forgedErrors(), forgedEchoes(), forgedControls(), forgedNeighbors(), forgedHeaders()} {
		all = append(all, group...)
	}
	return all
}

// one is the Make of a single packet.
func one(f func(*Probe) []byte) func(*Probe) [][]byte {
	return func(p *Probe) [][]byte { return [][]byte{f(p)} }
}

// A segment is what a forged TCP segment says.
type segment struct {
	src, dst netip.AddrPort
	tcp      layers.TCP
}

// answer is the segment by which the target would answer a SYN.
func (p *Probe) answer(flags string, edit func(*segment)) []byte {
	s := &segment{
		src: netip.AddrPortFrom(p.Dst, p.DstPort), dst: netip.AddrPortFrom(p.Src, p.SrcPort),
		tcp: layers.TCP{Seq: 0x1badd00d, Ack: p.Seq + 1, Window: 64240},
	}
	for _, c := range flags {
		switch c {
		case 'S':
			s.tcp.SYN = true
		case 'A':
			s.tcp.ACK = true
		case 'R':
			s.tcp.RST = true
		case 'F':
			s.tcp.FIN = true
		case 'P':
			s.tcp.PSH = true
		case 'U':
			s.tcp.URG = true
		}
	}
	if s.tcp.SYN {
		s.tcp.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}}}
	}
	if edit != nil {
		edit(s)
	}
	s.tcp.SrcPort, s.tcp.DstPort = layers.TCPPort(s.src.Port()), layers.TCPPort(s.dst.Port())
	return serialize(s.src.Addr(), s.dst.Addr(), layers.IPProtocolTCP, 64, &s.tcp)
}

// serialize makes a whole packet with its checksums.
func serialize(src, dst netip.Addr, proto layers.IPProtocol, ttl uint8, upper ...gopacket.SerializableLayer) []byte {
	var ip gopacket.SerializableLayer
	var of gopacket.NetworkLayer
	if src.Is4() {
		h := &layers.IPv4{Version: 4, TTL: ttl, Protocol: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		ip, of = h, h
	} else {
		h := &layers.IPv6{Version: 6, HopLimit: ttl, NextHeader: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		ip, of = h, h
	}
	for _, l := range upper {
		if sum, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := sum.SetNetworkLayerForChecksum(of); err != nil {
				panic(err)
			}
		}
	}
	buf := gopacket.NewSerializeBuffer()
	opt := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opt, append([]gopacket.SerializableLayer{ip}, upper...)...); err != nil {
		panic(fmt.Sprintf("netlab: forge: %v", err))
	}
	return buf.Bytes()
}

// stranger is an address that nobody in a lab has.
func (p *Probe) stranger() netip.Addr {
	if p.Family == IPv4 {
		return netip.MustParseAddr("10.255.0.7")
	}
	return netip.MustParseAddr("fd00:ffff::7")
}

// dice give the same numbers for the same probe.
func (p *Probe) dice() *rand.Rand {
	return rand.New(rand.NewPCG(uint64(p.Seq), uint64(p.SrcPort)))
}

func forgedSegments() []Forgery {
	var all []Forgery
	add := func(name, flags string, edit func(*Probe, *segment)) {
		all = append(all, Forgery{Name: name, Of: "syn", Make: one(func(p *Probe) []byte {
			return p.answer(flags, func(s *segment) { edit(p, s) })
		})})
	}
	for _, k := range []struct{ name, flags string }{{"syn-ack", "SA"}, {"reset", "RA"}} {
		add(k.name+" that acknowledges the ISN", k.flags, func(p *Probe, s *segment) { s.tcp.Ack = p.Seq })
		add(k.name+" that acknowledges the ISN+2", k.flags, func(p *Probe, s *segment) { s.tcp.Ack = p.Seq + 2 })
		add(k.name+" that acknowledges anything", k.flags, func(p *Probe, s *segment) { s.tcp.Ack = p.Seq ^ 0x5a5a5a5a })
		add(k.name+" that acknowledges 0", k.flags, func(_ *Probe, s *segment) { s.tcp.Ack = 0 })
		add(k.name+" from another port", k.flags, func(p *Probe, s *segment) { s.src = netip.AddrPortFrom(p.Dst, p.DstPort+1) })
		add(k.name+" to another port", k.flags, func(p *Probe, s *segment) { s.dst = netip.AddrPortFrom(p.Src, p.SrcPort+1) })
		add(k.name+" with its ports swapped", k.flags, func(p *Probe, s *segment) {
			s.src, s.dst = netip.AddrPortFrom(p.Dst, p.SrcPort), netip.AddrPortFrom(p.Src, p.DstPort)
		})
		add(k.name+" from another address", k.flags, func(p *Probe, s *segment) { s.src = netip.AddrPortFrom(p.stranger(), p.DstPort) })
		add(k.name+" to another address", k.flags, func(p *Probe, s *segment) { s.dst = netip.AddrPortFrom(p.stranger(), p.SrcPort) })
		all = append(all,
			Forgery{Name: k.name + " with a wrong checksum", Of: "syn", Make: one(func(p *Probe) []byte {
				b := p.answer(k.flags, nil)
				b[p.header+17] ^= 1
				return b
			})},
			Forgery{Name: k.name + " whose header ends in itself", Of: "syn", Make: one(func(p *Probe) []byte {
				b := p.answer(k.flags, nil)
				b[p.header+12] = 4 << 4
				return sum(b)
			})},
			Forgery{Name: k.name + " whose header ends behind it", Of: "syn", Make: one(func(p *Probe) []byte {
				b := p.answer(k.flags, nil)
				b[p.header+12] = 15 << 4
				return sum(b)
			})},
			Forgery{Name: k.name + " cut at each byte", Of: "syn", Make: func(p *Probe) [][]byte { return Truncations(p.answer(k.flags, nil)) }},
			Forgery{Name: k.name + " with each byte wrong", Of: "syn", Make: func(p *Probe) [][]byte { return Corruptions(p.answer(k.flags, nil)) }},
		)
	}
	add("reset without an acknowledgement", "R", func(_ *Probe, s *segment) { s.tcp.Seq = 0 })
	add("reset with our sequence", "R", func(p *Probe, s *segment) { s.tcp.Seq = p.Seq + 1 })
	add("reset with any sequence", "R", func(p *Probe, s *segment) { s.tcp.Seq = p.Seq ^ 0x5a5a5a5a })
	add("a SYN of the other side", "S", func(*Probe, *segment) {})
	add("a bare ACK of the SYN", "A", func(*Probe, *segment) {})
	add("data that acknowledges the SYN", "PA", func(*Probe, *segment) {})
	add("a FIN", "F", func(*Probe, *segment) {})
	add("no flags", "", func(*Probe, *segment) {})
	add("all flags", "SAFRPU", func(p *Probe, s *segment) { s.tcp.Ack = p.Seq })
	garbage := [][]byte{
		{2, 0, 0, 0}, {2, 1, 0, 0}, {8, 40, 0, 0}, {255, 255, 255, 255}, {0x1b, ']', '0', ';'},
		{2, 4, 0, 0, 8, 10, 0, 0}, {3, 2, 1, 3}, {1, 1, 1, 5}, {19, 18, 0, 0}, {30, 1, 2, 0},
	}
	all = append(all,
		Forgery{Name: "syn-acks with garbage for options", Of: "syn", Make: func(p *Probe) [][]byte {
			var bs [][]byte
			for _, g := range garbage {
				b := p.answer("SA", func(s *segment) {
					s.tcp.Ack = p.Seq
					s.tcp.Options = make([]layers.TCPOption, len(g))
					for i := range g {
						s.tcp.Options[i].OptionType = layers.TCPOptionKindNop
					}
				})
				copy(b[p.header+20:], g)
				bs = append(bs, sum(b))
			}
			return bs
		}},
		Forgery{Name: "segments of one who guesses", Of: "syn", Make: func(p *Probe) [][]byte {
			var bs [][]byte
			d := p.dice()
			for i := range 40 {
				bs = append(bs, p.answer([]string{"SA", "RA", "R"}[i%3], func(s *segment) {
					s.dst = netip.AddrPortFrom(p.Src, uint16(d.Uint32()))
					s.tcp.Ack, s.tcp.Seq = d.Uint32(), d.Uint32()
				}))
			}
			return bs
		}},
	)
	return all
}

// Challenge is the answer of a host that holds an old connection with the same
// ports (RFC 5961, section 4). It is none of the Forgeries: nothing is wrong with
// it.
func Challenge() Forgery {
	return Forgery{Name: "a challenge", Of: "syn", Make: one(func(p *Probe) []byte {
		return p.answer("A", func(s *segment) { s.tcp.Ack = p.Seq ^ 0x5a5a5a5a })
	})}
}

// unreachables are ICMP errors by type and code of each family.
var unreachables = []struct {
	name   string
	v4, v6 [2]uint8
}{
	{"prohibited", [2]uint8{3, 13}, [2]uint8{1, 1}},
	{"host unreachable", [2]uint8{3, 1}, [2]uint8{1, 3}},
	{"no route", [2]uint8{3, 0}, [2]uint8{1, 0}},
	{"port unreachable", [2]uint8{3, 3}, [2]uint8{1, 4}},
	{"time exceeded", [2]uint8{11, 0}, [2]uint8{3, 0}},
}

// icmp is an ICMP message for the sender of the probe; what stands behind its
// first four bytes is rest.
func (p *Probe) icmp(from netip.Addr, v4, v6 [2]uint8, rest []byte) []byte {
	if p.Family == IPv4 {
		// Its layer holds the second four bytes as numbers.
		return serialize(from, p.Src, layers.IPProtocolICMPv4, 64, &layers.ICMPv4{
			TypeCode: layers.CreateICMPv4TypeCode(v4[0], v4[1]),
			Id:       binary.BigEndian.Uint16(rest), Seq: binary.BigEndian.Uint16(rest[2:]),
		}, gopacket.Payload(rest[4:]))
	}
	return serialize(from, p.Src, layers.IPProtocolICMPv6, 64,
		&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(v6[0], v6[1])}, gopacket.Payload(rest))
}

// refusal is an ICMP error that quotes the probe as edit has it.
func (p *Probe) refusal(from netip.Addr, v4, v6 [2]uint8, edit func(q []byte) []byte) []byte {
	return p.icmp(from, v4, v6, append(make([]byte, 4), edit(append([]byte(nil), p.Raw...))...))
}

// refusals are ICMP errors of all meanings that quote the probe as edit has it,
// from a router and in the target's name.
func (p *Probe) refusals(edit func(q []byte) []byte) [][]byte {
	var bs [][]byte
	for _, u := range unreachables {
		bs = append(bs, p.refusal(p.stranger(), u.v4, u.v6, edit), p.refusal(p.Dst, u.v4, u.v6, edit))
	}
	return bs
}

func forgedErrors() []Forgery {
	var all []Forgery
	add := func(name string, only Family, edit func(p *Probe, q []byte) []byte) {
		all = append(all, Forgery{Name: "icmp error, " + name, Only: only, Of: "syn", Make: func(p *Probe) [][]byte {
			return p.refusals(func(q []byte) []byte { return edit(p, q) })
		}})
	}
	add("another sequence", 0, func(p *Probe, q []byte) []byte { q[p.header+7]++; return q })
	add("another sequence, in 8 bytes", 0, func(p *Probe, q []byte) []byte { q[p.header+4] ^= 0x80; return q[:p.header+8] })
	add("both ports another's", 0, func(p *Probe, q []byte) []byte { q[p.header+1] ^= 1; q[p.header+3] ^= 1; return q })
	add("another source port and destination", 0, func(p *Probe, q []byte) []byte {
		q[p.header] ^= 1
		copy(q[p.header-len(p.Dst.AsSlice()):], p.stranger().AsSlice())
		return q
	})
	add("a quote of the answer", 0, func(p *Probe, q []byte) []byte {
		n := len(p.Dst.AsSlice())
		copy(q[p.header-2*n:], p.Dst.AsSlice())
		copy(q[p.header-n:], p.Src.AsSlice())
		binary.BigEndian.PutUint16(q[p.header:], p.DstPort)
		binary.BigEndian.PutUint16(q[p.header+2:], p.SrcPort)
		return q
	})
	for _, proto := range []byte{0, 1, 4, 17, 43, 44, 51, 58, 60, 132, 255} {
		add(fmt.Sprintf("a quote of protocol %d", proto), 0, func(p *Probe, q []byte) []byte {
			if p.Family == IPv4 {
				q[9] = proto
			} else {
				q[6] = proto
			}
			return q
		})
	}
	add("a quote of another version", 0, func(_ *Probe, q []byte) []byte { q[0] ^= 0x20; return q })
	add("total length and sequence wrong", 0, func(p *Probe, q []byte) []byte {
		at := 2
		if p.Family == IPv6 {
			at = 4
		}
		q[at], q[at+1] = 0xff, 0xff
		q[p.header+5]++
		return q
	})
	add("a later fragment", IPv4, func(_ *Probe, q []byte) []byte { q[6], q[7] = 0, 185; return q })
	return append(all,
		Forgery{Name: "icmp error, wrong checksum", Of: "syn", Make: func(p *Probe) [][]byte {
			bs := p.refusals(func(q []byte) []byte { return q })
			for _, b := range bs {
				b[p.header+2] ^= 0x55
			}
			return bs
		}},
		Forgery{Name: "icmp error, a header length that is none", Only: IPv4, Of: "syn", Make: func(p *Probe) [][]byte {
			var bs [][]byte
			for ihl := range byte(16) {
				if ihl != 5 {
					bs = append(bs, p.refusals(func(q []byte) []byte { q[0] = 0x40 | ihl; return q })...)
				}
			}
			return bs
		}},
		Forgery{Name: "icmp error, cut before the sequence's end", Of: "syn", Make: func(p *Probe) [][]byte {
			var bs [][]byte
			for n := range p.header + 8 {
				bs = append(bs, p.refusals(func(q []byte) []byte { return q[:n] })...)
			}
			return bs
		}},
		Forgery{Name: "icmp error, without a quote", Of: "syn", Make: func(p *Probe) [][]byte {
			bs := p.refusals(func([]byte) []byte { return nil })
			return append(Truncations(bs[0]), bs...)
		}},
		Forgery{Name: "icmp error, lengths of RFC 4884 that are none", Of: "syn", Make: func(p *Probe) [][]byte {
			var bs [][]byte
			for _, n := range []byte{1, 5, 32, 127, 255} {
				for _, u := range unreachables {
					// Where the quote is said to end, and where no extension is.
					rest := append([]byte{n, n, 0, 0}, p.Raw...)
					rest[4+p.header+6]++
					bs = append(bs, p.icmp(p.Dst, u.v4, u.v6, append(rest, 0x20, 0, 0xff, 0xff, 0xff, 0xff, 1, 1)))
				}
			}
			return bs
		}},
		Forgery{Name: "a redirect", Of: "syn", Make: one(func(p *Probe) []byte {
			return p.icmp(p.Dst, [2]uint8{5, 1}, [2]uint8{137, 0}, append(p.stranger().AsSlice(), p.Raw...))
		})},
		Forgery{Name: "a source quench", Only: IPv4, Of: "syn", Make: one(func(p *Probe) []byte {
			return p.refusal(p.Dst, [2]uint8{4, 0}, [2]uint8{}, func(q []byte) []byte { return q })
		})},
		Forgery{Name: "ICMP of every type", Of: "syn", Make: func(p *Probe) [][]byte {
			var bs [][]byte
			for typ := range 256 {
				bs = append(bs, p.refusal(p.Dst, [2]uint8{uint8(typ), 0}, [2]uint8{uint8(typ), 0}, func(q []byte) []byte {
					q[p.header+7]++
					return q
				}))
			}
			return bs
		}},
		Forgery{Name: "ICMP errors of one who guesses", Of: "syn", Make: func(p *Probe) [][]byte {
			var bs [][]byte
			d := p.dice()
			for i := range 40 {
				u := unreachables[i%len(unreachables)]
				bs = append(bs, p.refusal(p.Dst, u.v4, u.v6, func(q []byte) []byte {
					binary.BigEndian.PutUint16(q[p.header:], uint16(d.Uint32()))
					binary.BigEndian.PutUint32(q[p.header+4:], d.Uint32())
					return q
				}))
			}
			return bs
		}},
	)
}

// echoReply is the answer to an echo.
func (p *Probe) echoReply(from netip.Addr, edit func(rest []byte)) []byte {
	rest := append([]byte(nil), p.Raw[p.header+4:]...)
	if edit != nil {
		edit(rest)
	}
	return p.icmp(from, [2]uint8{0, 0}, [2]uint8{129, 0}, rest)
}

// EchoReply is the target's answer to an echo, with nothing wrong, as it comes in
// with that TTL.
func (p *Probe) EchoReply(ttl uint8) []byte {
	b := p.echoReply(p.Dst, nil)
	if p.Family == IPv4 {
		b[8] = ttl
	} else {
		b[7] = ttl
	}
	return sum(b)
}

func forgedEchoes() []Forgery {
	var all []Forgery
	add := func(name string, edit func(rest []byte)) {
		all = append(all, Forgery{Name: "echo reply, " + name, Of: "echo", Make: one(func(p *Probe) []byte { return p.echoReply(p.Dst, edit) })})
	}
	add("another id", func(r []byte) { r[0] ^= 0x80 })
	add("another sequence", func(r []byte) { r[2] ^= 0x55 })
	add("another cookie", func(r []byte) { r[5] ^= 1 })
	all = append(all, Forgery{Name: "echo reply, from another address", Of: "echo", Make: one(func(p *Probe) []byte {
		return p.echoReply(p.stranger(), nil)
	})}, Forgery{Name: "echo reply, without its data", Of: "echo", Make: one(func(p *Probe) []byte {
		return p.icmp(p.Dst, [2]uint8{0, 0}, [2]uint8{129, 0}, p.Raw[p.header+4:p.header+8+3])
	})}, Forgery{Name: "echo reply, cut at each byte", Of: "echo", Make: func(p *Probe) [][]byte {
		return Truncations(p.echoReply(p.Dst, nil))
	}}, Forgery{Name: "echo reply, with each byte wrong", Of: "echo", Make: func(p *Probe) [][]byte {
		return Corruptions(p.echoReply(p.Dst, nil))
	}})
	for _, c := range []struct {
		name string
		at   int // behind the IP header
	}{{"id", 4}, {"sequence", 6}, {"type", 0}, {"code", 1}} {
		all = append(all, Forgery{Name: "icmp error of an echo, another " + c.name, Of: "echo", Make: func(p *Probe) [][]byte {
			return p.refusals(func(q []byte) []byte { q[p.header+c.at] ^= 0x55; return q })
		}})
	}
	return all
}

// forgedControls answer the other probes.
func forgedControls() []Forgery {
	port4, port6 := [2]uint8{3, 3}, [2]uint8{1, 4}
	refuse := func(name, of string, edit func(p *Probe, q []byte)) Forgery {
		return Forgery{Name: of + " refused, " + name, Of: of, Make: one(func(p *Probe) []byte {
			return p.refusal(p.Dst, port4, port6, func(q []byte) []byte { edit(p, q); return q })
		})}
	}
	elsewhere := func(p *Probe, q []byte) {
		copy(q[p.header-len(p.Dst.AsSlice()):], p.stranger().AsSlice())
		if p.Family == IPv4 {
			q[4] ^= 0x55 // of another packet
		}
	}
	return []Forgery{
		refuse("another source port", "udp", func(p *Probe, q []byte) { q[p.header] ^= 1 }),
		refuse("another destination port", "udp", func(p *Probe, q []byte) { q[p.header+2] ^= 0x40 }),
		refuse("another destination", "udp", elsewhere),
		refuse("another sequence", "ack", func(p *Probe, q []byte) { q[p.header+4] ^= 1 }),
		refuse("both ports another's", "ack", func(p *Probe, q []byte) { q[p.header] ^= 1; q[p.header+2] ^= 1 }),
		refuse("another source port and destination", "ack", func(p *Probe, q []byte) { q[p.header] ^= 1; elsewhere(p, q) }),
		refuse("another source port and sequence", "ack", func(p *Probe, q []byte) { q[p.header] ^= 1; q[p.header+4] ^= 1 }),
		{Name: "ack reset, another sequence", Of: "ack", Make: func(p *Probe) [][]byte {
			var bs [][]byte
			for _, seq := range []uint32{p.Ack ^ 0x10000, p.Ack ^ 0x5a5a5a5a, 0, p.Seq} {
				bs = append(bs, p.answer("R", func(s *segment) { s.tcp.Seq, s.tcp.Ack = seq, 0 }))
			}
			return bs
		}},
		{Name: "ack reset, from another port", Of: "ack", Make: one(func(p *Probe) []byte {
			return p.answer("R", func(s *segment) {
				s.src = netip.AddrPortFrom(p.Dst, p.DstPort^1)
				s.tcp.Seq, s.tcp.Ack = p.Ack, 0
			})
		})},
	}
}

func forgedNeighbors() []Forgery {
	other := net.HardwareAddr{2, 0xbd, 0xbd, 0, 0, 1}
	var all []Forgery
	arp := func(name string, edit func(p *Probe, b []byte) []byte) {
		all = append(all, Forgery{Name: "arp, " + name, Only: IPv4, Of: "arp", Make: one(func(p *Probe) []byte {
			b := append([]byte{0, 1, 8, 0, 6, 4, 0, 2}, other...)
			b = append(b, p.Dst.AsSlice()...)
			b = append(append(b, p.Hardware...), p.Src.AsSlice()...)
			return edit(p, b)
		})})
	}
	arp("for another sender", func(p *Probe, b []byte) []byte { copy(b[14:], p.stranger().AsSlice()); return b })
	arp("to another target", func(p *Probe, b []byte) []byte { copy(b[24:], p.stranger().AsSlice()); return b })
	arp("to another machine", func(_ *Probe, b []byte) []byte { b[23] ^= 0xff; return b })
	arp("unasked, as a request", func(_ *Probe, b []byte) []byte { b[7] = 1; copy(b[24:], b[14:18]); return b })
	arp("a RARP reply", func(_ *Probe, b []byte) []byte { b[7] = 4; return b })
	arp("for another protocol", func(_ *Probe, b []byte) []byte { b[2] = 0x86; return b })
	arp("of short addresses", func(_ *Probe, b []byte) []byte { b[4] = 2; return b })
	arp("cut", func(_ *Probe, b []byte) []byte { return b[:27] })
	nd := func(name string, ttl uint8, edit func(p *Probe, b []byte) []byte) {
		all = append(all, Forgery{Name: "neighbour advertisement, " + name, Only: IPv6, Of: "nd", Make: one(func(p *Probe) []byte {
			b := append([]byte{0x60, 0, 0, 0}, p.Dst.AsSlice()...) // flags: solicited, override
			b = append(append(b, 2, 1), other...)
			b = serialize(p.Dst, p.Src, layers.IPProtocolICMPv6, ttl,
				&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(136, 0)}, gopacket.Payload(edit(p, b)))
			if name == "with a code" {
				b[41] = 1
				return sum(b)
			}
			return b
		})})
	}
	as := func(_ *Probe, b []byte) []byte { return b }
	nd("from behind a router", 254, as)
	nd("with a code", 255, as)
	nd("unsolicited", 255, func(_ *Probe, b []byte) []byte { b[0] = 0x20; return b })
	nd("of another target", 255, func(p *Probe, b []byte) []byte { copy(b[4:], p.stranger().AsSlice()); return b })
	nd("without an address", 255, func(_ *Probe, b []byte) []byte { return b[:20] })
	nd("with an option of length 0", 255, func(_ *Probe, b []byte) []byte { b[21] = 0; return b })
	nd("with an option that is cut", 255, func(_ *Probe, b []byte) []byte { return b[:24] })
	nd("cut", 255, func(_ *Probe, b []byte) []byte { return b[:12] })
	return all
}

// forgedHeaders are wrong in their IP headers.
func forgedHeaders() []Forgery {
	v4 := func(name string, edit func(p *Probe, b []byte) []byte) Forgery {
		return Forgery{Name: "ipv4, " + name, Only: IPv4, Of: "syn", Make: one(func(p *Probe) []byte {
			return edit(p, p.answer("SA", nil))
		})}
	}
	// behind puts extension headers before a SYN-ACK.
	behind := func(p *Probe, ack uint32, next byte, headers []byte) []byte {
		b := p.answer("SA", func(s *segment) { s.tcp.Ack = ack })
		b = append(b[:40:40], append(headers, b[40:]...)...)
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		b[6] = next
		return b
	}
	v6 := func(name string, f func(p *Probe) []byte) Forgery {
		return Forgery{Name: "ipv6, " + name, Only: IPv6, Of: "syn", Make: one(f)}
	}
	chain := func(kind, last byte, n, size int) []byte {
		var b []byte
		for i := range n {
			h := make([]byte, size)
			h[0], h[1], h[2], h[3] = kind, byte(size/8-1), 1, byte(size-4) // PadN
			if i == n-1 {
				h[0] = last
			}
			b = append(b, h...)
		}
		return b
	}
	const hopByHop, routing, fragment, auth, options, tcp = 0, 43, 44, 51, 60, 6
	return []Forgery{
		v4("the first of two fragments", func(_ *Probe, b []byte) []byte { b[6] |= 0x20; return sum(b) }),
		v4("the second of two fragments", func(_ *Probe, b []byte) []byte { b[7] = 3; return sum(b) }),
		v4("wrong header checksum", func(_ *Probe, b []byte) []byte { b[11] ^= 1; return b }),
		v4("longer than it is", func(_ *Probe, b []byte) []byte { b[3] += 4; return sum(b) }),
		v4("shorter than its header", func(_ *Probe, b []byte) []byte { b[3] = 19; return sum(b) }),
		v4("shorter than its segment", func(_ *Probe, b []byte) []byte { b[3] = 30; return sum(b) }),
		v4("header as long as all", func(_ *Probe, b []byte) []byte { b[0] = 0x4f; return sum(b) }),
		v4("header shorter than it can be", func(_ *Probe, b []byte) []byte { b[0] = 0x44; return sum(b) }),
		v4("options that are none", func(p *Probe, _ []byte) []byte {
			b := p.answer("SA", func(s *segment) { s.tcp.Ack = p.Seq })
			b = append(b[:20:20], append([]byte{7, 255, 0, 131, 1, 0, 255, 255}, b[20:]...)...)
			b[0], b[3] = 0x47, byte(len(b))
			return sum(b)
		}),
		v6("twenty headers of options", func(p *Probe) []byte { return behind(p, p.Seq, options, chain(options, tcp, 20, 8)) }),
		v6("headers of options without end", func(p *Probe) []byte { return behind(p, p.Seq+1, options, chain(options, options, 60, 8)) }),
		v6("hop-by-hop options again and again", func(p *Probe) []byte { return behind(p, p.Seq, hopByHop, chain(hopByHop, tcp, 8, 8)) }),
		v6("1400 bytes of hop-by-hop options", func(p *Probe) []byte { return behind(p, p.Seq, hopByHop, chain(hopByHop, tcp, 1, 1400)) }),
		v6("hop-by-hop options that end behind it", func(p *Probe) []byte {
			return behind(p, p.Seq+1, hopByHop, []byte{tcp, 255, 1, 4, 0, 0, 0, 0})
		}),
		v6("an extension header that is cut", func(p *Probe) []byte {
			b := behind(p, p.Seq+1, options, []byte{tcp})[:41]
			b[5] = 1
			return b
		}),
		v6("a routing header with segments left", func(p *Probe) []byte {
			h := append([]byte{tcp, 2, 0, 1, 0, 0, 0, 0}, p.stranger().AsSlice()...)
			return behind(p, p.Seq, routing, h)
		}),
		v6("an authentication header", func(p *Probe) []byte { return behind(p, p.Seq, auth, append([]byte{tcp, 4}, make([]byte, 22)...)) }),
		v6("the first of two fragments", func(p *Probe) []byte { return behind(p, p.Seq+1, fragment, []byte{tcp, 0, 0, 1, 1, 2, 3, 4}) }),
		v6("the second of two fragments", func(p *Probe) []byte { return behind(p, p.Seq+1, fragment, []byte{tcp, 0, 0, 8, 1, 2, 3, 4}) }),
		v6("a fragment of no length", func(p *Probe) []byte {
			b := behind(p, p.Seq+1, fragment, []byte{tcp, 0, 0xff, 0xf9, 1, 2, 3, 4})[:48]
			b[5] = 8
			return b
		}),
		v6("longer than it is", func(p *Probe) []byte { b := p.answer("SA", nil); b[5] += 4; return b }),
		v6("of no length", func(p *Probe) []byte { b := p.answer("SA", nil); b[4], b[5] = 0, 0; return b }),
		{Name: "no packet", Of: "syn", Make: func(p *Probe) [][]byte {
			bs := [][]byte{{0x45}, {0x60}, {0xff}, make([]byte, 20), make([]byte, 60)}
			d := p.dice()
			for range 40 {
				b := make([]byte, 1+d.IntN(100))
				for i := range b {
					b[i] = byte(d.Uint32())
				}
				b[0] = p.Raw[0] // as if it were one
				bs = append(bs, b)
			}
			return bs
		}},
	}
}

// Truncations are the beginnings of a packet, of every length but 0 and the
// whole. Its own length fields stay.
func Truncations(b []byte) [][]byte {
	var bs [][]byte
	for n := 1; n < len(b); n++ {
		bs = append(bs, b[:n:n])
	}
	return bs
}

// Corruptions are a packet with one bit wrong, in each of its bytes that a
// checksum guards, another bit in each. In IPv6 nothing guards traffic class,
// flow label and hop limit.
func Corruptions(b []byte) [][]byte {
	var bs [][]byte
	for i := range b {
		bit := byte(1) << (i % 8)
		if b[0]>>4 == 6 && (i == 0 && bit < 0x10 || i >= 1 && i <= 3 || i == 7) {
			continue
		}
		c := append([]byte(nil), b...)
		c[i] ^= bit
		bs = append(bs, c)
	}
	return bs
}

// sum puts the checksums of a packet right, as far as it has any: the IPv4
// header's, and that of TCP and ICMPv6 behind headers without options.
func sum(b []byte) []byte {
	add := func(b []byte, s uint32) uint16 {
		for ; len(b) >= 2; b = b[2:] {
			s += uint32(b[0])<<8 | uint32(b[1])
		}
		if len(b) == 1 {
			s += uint32(b[0]) << 8
		}
		for s > 0xffff {
			s = s>>16 + s&0xffff
		}
		return ^uint16(s)
	}
	header, addrs, proto := 40, b[8:], uint32(b[6])
	if b[0]>>4 == 4 {
		header, addrs, proto = min(max(int(b[0]&15)*4, 20), len(b)), b[12:20], uint32(b[9])
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], add(b[:header], 0))
	} else {
		addrs = addrs[:32]
	}
	at := map[uint32]int{6: 16, 58: 2}[proto]
	u := b[header:]
	if at == 0 || len(u) < at+2 {
		return b
	}
	u[at], u[at+1] = 0, 0
	pseudo := uint32(len(u)) + proto
	pseudo += uint32(^add(addrs, 0))
	binary.BigEndian.PutUint16(u[at:], add(u, pseudo))
	return b
}
