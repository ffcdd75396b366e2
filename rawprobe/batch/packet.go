package batch

import (
	"encoding/binary"

	"golang.org/x/net/bpf"

	"synprobe/rawprobe"
	"synprobe/rawprobe/wire"
)

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
	synLen        = 40 // with its options
	echoLen       = 8 + 56
	// headroom is before the IP header of every packet: an Ethernet header, so
	// that the IP header is aligned.
	headroom    = 16
	ethernetLen = 14
	frameLen    = headroom + ipv6HeaderLen + echoLen
)

// A template is a packet to anybody: a SYN or an echo request without its
// destination. It is made once for each way.
type template struct {
	frame [frameLen]byte
	end   int // of the frame
	v6    bool
	echo  bool
	ipSum uint32 // of the IPv4 header without identification and destination
	sum   uint32 // of the transport header, its pseudo header included, without what patch fills in
}

// newTemplate makes the SYN of a current Linux client, as rawprobe sends it
// for one target, or ping's echo request.
func newTemplate(w *way, v6, echo bool, port uint16, from [6]byte) template {
	t := template{v6: v6, echo: echo}
	f := t.frame[:]
	copy(f[headroom-ethernetLen:], w.mac[:])
	copy(f[headroom-ethernetLen+6:], from[:])
	size := synLen
	if echo {
		size = echoLen
	}
	ip := f[headroom:]
	var upper []byte
	source := w.source.netip()
	switch {
	case !v6:
		binary.BigEndian.PutUint16(f[headroom-2:], 0x0800)
		ip[0], ip[6], ip[8], ip[9] = 0x45, 0x40, rawprobe.DefaultTTL, byte(wire.ProtoTCP)
		if echo {
			ip[9] = byte(wire.ProtoICMP)
		}
		binary.BigEndian.PutUint16(ip[2:], uint16(ipv4HeaderLen+size))
		binary.BigEndian.PutUint32(ip[12:], w.source.v4())
		t.ipSum = unfinished(ip[:ipv4HeaderLen], 0)
		upper = ip[ipv4HeaderLen:][:size]
	default:
		binary.BigEndian.PutUint16(f[headroom-2:], 0x86dd)
		ip[0], ip[6], ip[7] = 0x60, byte(wire.ProtoTCP), rawprobe.DefaultTTL
		if echo {
			ip[6] = byte(wire.ProtoICMPv6)
		}
		binary.BigEndian.PutUint16(ip[4:], uint16(size))
		copy(ip[8:24], source.AsSlice())
		upper = ip[ipv6HeaderLen:][:size]
	}
	t.end = headroom + len(ip) - len(ip[ipv4HeaderLen:]) + size
	if v6 {
		t.end = headroom + ipv6HeaderLen + size
	}
	if echo {
		upper[0] = wire.ICMPv4EchoRequest
		if v6 {
			upper[0] = wire.ICMPv6EchoRequest
		}
		binary.BigEndian.PutUint16(upper[4:], port) // as good an identifier as any
		binary.BigEndian.PutUint16(upper[6:], 1)
		for i := 12; i < size; i++ {
			upper[i] = byte(i - 8)
		}
	} else {
		mss := max(w.mtu-(t.end-headroom-synLen)-20, minMSS)
		binary.BigEndian.PutUint16(upper, port)
		upper[12], upper[13] = synLen/4<<4, byte(wire.SYN)
		binary.BigEndian.PutUint16(upper[14:], uint16(maxUnscaledWindow/min(mss, maxUnscaledWindow)*min(mss, maxUnscaledWindow)))
		// MSS, SACK permitted, timestamps, window scale, in the order of
		// net/ipv4/tcp_output.c, tcp_options_write.
		copy(upper[20:], []byte{2, 4, 0, 0, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, windowScale})
		binary.BigEndian.PutUint16(upper[22:], uint16(min(mss, 65535)))
	}
	t.sum = unfinished(upper, 0)
	if v6 || !echo { // ICMPv4 has no pseudo header
		proto := wire.ProtoTCP
		if echo {
			proto = wire.ProtoICMPv6
		}
		zero := addr{0, mapped4}
		if v6 {
			zero = addr{}
		}
		t.sum += wire.PseudoHeaderSum(source, zero.netip(), proto, size)
	}
	return t
}

// The sizes in a current Linux client's SYN; see rawprobe's probe.go.
const (
	maxUnscaledWindow = 65535
	windowScale       = 7
	minMSS            = 88
)

// unfinished is the sum of b without the complement.
func unfinished(b []byte, initial uint32) uint32 { return uint32(^wire.Checksum(b, initial)) }

// fold finishes a sum.
func fold(sum uint32) uint16 {
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum>>16 + sum)
}

// halves is the sum of a number's 16-bit words.
func halves(v uint32) uint32 { return v>>16 + v&0xffff }

// patch fills a probe into a copy of the template.
func (t *template) patch(frame *[frameLen]byte, p *probe, id uint16, tsval uint32) {
	sum := t.sum
	var upper []byte
	if !t.v6 {
		ip := frame[headroom : headroom+ipv4HeaderLen+synLen]
		dst := p.to.v4()
		binary.BigEndian.PutUint16(ip[4:], id)
		binary.BigEndian.PutUint32(ip[16:], dst)
		binary.BigEndian.PutUint16(ip[10:], fold(t.ipSum+uint32(id)+halves(dst)))
		if !t.echo {
			sum += halves(dst)
		}
		upper = ip[ipv4HeaderLen:]
	} else {
		ip := frame[headroom : headroom+ipv6HeaderLen+synLen]
		binary.BigEndian.PutUint32(ip, 0x60000000|p.label)
		binary.BigEndian.PutUint64(ip[24:], p.to.hi)
		binary.BigEndian.PutUint64(ip[32:], p.to.lo)
		sum += halves(uint32(p.to.hi>>32)) + halves(uint32(p.to.hi)) + halves(uint32(p.to.lo>>32)) + halves(uint32(p.to.lo))
		upper = ip[ipv6HeaderLen:]
	}
	if t.echo {
		binary.BigEndian.PutUint32(upper[8:], p.seq)
		binary.BigEndian.PutUint16(upper[2:], fold(sum+halves(p.seq)))
		return
	}
	binary.BigEndian.PutUint16(upper[2:], uint16(p.tag))
	binary.BigEndian.PutUint32(upper[4:], p.seq)
	binary.BigEndian.PutUint32(upper[28:], tsval)
	binary.BigEndian.PutUint16(upper[16:], fold(sum+p.tag+halves(p.seq)+halves(tsval)))
}

// snap is enough of an answer: all headers, and of an ICMP error the quote's
// own with every option and extension header that occurs.
const snap = 256

// filter4 passes the TCP segments with an acknowledgement that go to a port,
// and the ICMP messages that can be answers. Offset 0 is the IP header.
func filter4(port uint16) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 14}, // a fragment
		bpf.LoadMemShift{Off: 0},
		bpf.LoadAbsolute{Off: 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(wire.ProtoTCP), SkipFalse: 5},
		bpf.LoadIndirect{Off: 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port), SkipFalse: 9},
		bpf.LoadIndirect{Off: 13, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: uint32(wire.ACK), SkipFalse: 7},
		bpf.RetConstant{Val: snap},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(wire.ProtoICMP), SkipFalse: 5},
		bpf.LoadIndirect{Off: 0, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(wire.ICMPv4DestinationUnreachable), SkipTrue: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(wire.ICMPv4TimeExceeded), SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(wire.ICMPv4ParameterProblem), SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(wire.ICMPv4EchoReply), SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: snap},
	}
}

// filter6 is filter4 for IPv6. What has extension headers passes unseen: it is
// rare, and the reader walks through them.
func filter6(port uint16) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(wire.ProtoTCP), SkipFalse: 5},
		bpf.LoadAbsolute{Off: 42, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port), SkipFalse: 14},
		bpf.LoadAbsolute{Off: 53, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: uint32(wire.ACK), SkipFalse: 12},
		bpf.RetConstant{Val: snap},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(wire.ProtoICMPv6), SkipFalse: 5},
		bpf.LoadAbsolute{Off: 40, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(wire.ICMPv6DestinationUnreachable), SkipTrue: 9},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(wire.ICMPv6TimeExceeded), SkipTrue: 8},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(wire.ICMPv6ParameterProblem), SkipTrue: 7},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(wire.ICMPv6EchoReply), SkipTrue: 6, SkipFalse: 5},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 5},  // hop-by-hop options
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 43, SkipTrue: 4}, // routing
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 44, SkipTrue: 3}, // fragment
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 51, SkipTrue: 2}, // authentication
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 60, SkipTrue: 1}, // destination options
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: snap},
	}
}

// A reader knows by which numbers an answer can be one to this run.
type reader struct {
	port4, port6 uint16 // our own, of either family
}

// parse reads one packet that begins at the IP header, and reports whether it
// may be an answer.
func (r *reader) parse(b []byte, a *answer) bool {
	if len(b) < ipv4HeaderLen {
		return false
	}
	switch {
	case b[0] == 0x45 && b[9] == byte(wire.ProtoTCP) && binary.BigEndian.Uint16(b[6:])&0x3fff == 0:
		a.from, a.ttl = addr4(b[12:]), b[8]
		return r.segment(b[ipv4HeaderLen:], r.port4, a)
	case b[0]>>4 == 6 && len(b) >= ipv6HeaderLen && b[6] == byte(wire.ProtoTCP):
		a.from, a.ttl = addr6(b[8:]), b[7]
		return r.segment(b[ipv6HeaderLen:], r.port6, a)
	}
	ip, err := wire.ParseIP(b)
	if err != nil || ip.FragmentOffset != 0 || ip.MoreFragments {
		return false
	}
	a.from, a.ttl = fromNetip(ip.Src), ip.TTL
	var m wire.ICMP
	port := r.port4
	switch {
	case ip.Proto == wire.ProtoTCP && ip.Version == 4:
		return r.segment(ip.Payload, r.port4, a)
	case ip.Proto == wire.ProtoTCP:
		return r.segment(ip.Payload, r.port6, a)
	case ip.Proto == wire.ProtoICMP && ip.Version == 4:
		m, err = wire.ParseICMPv4(ip.Payload)
	case ip.Proto == wire.ProtoICMPv6 && ip.Version == 6:
		m, err = wire.ParseICMPv6(ip.Payload)
		port = r.port6
	default:
		return false
	}
	if err != nil {
		return false
	}
	if m.IsEchoReply() {
		if m.ID != port || len(m.Body) < 4 {
			return false
		}
		a.kind, a.to, a.port, a.seq = rawprobe.EchoReply, a.from, 0, binary.BigEndian.Uint32(m.Body)
		a.typ, a.code = m.Type, m.Code
		return true
	}
	return r.refusal(m, port, a)
}

// segment reads a TCP segment. Only one that acknowledges our SYN says
// anything: a SYN-ACK, or a reset (RFC 9293, section 3.10.7.1).
func (r *reader) segment(b []byte, port uint16, a *answer) bool {
	if len(b) < 20 || binary.BigEndian.Uint16(b[2:]) != port {
		return false
	}
	switch flags := wire.TCPFlags(b[13]); {
	case flags.Has(wire.RST | wire.ACK):
		a.kind = rawprobe.Reset
	case flags.Has(wire.SYN|wire.ACK) && !flags.Has(wire.FIN):
		a.kind = rawprobe.SynAck
	default:
		return false
	}
	a.to, a.port = a.from, binary.BigEndian.Uint16(b)
	a.seq = binary.BigEndian.Uint32(b[8:]) - 1
	a.typ, a.code = 0, 0
	return true
}

// refusal reads an ICMP error that says that our SYN came to its end. "Packet
// too big" does not, and neither do a failed reassembly or a source route:
// a SYN of ours is no fragment and has no such route.
func (r *reader) refusal(m wire.ICMP, port uint16, a *answer) bool {
	if !m.IsError() {
		return false
	}
	switch {
	case m.V6 && m.Type == wire.ICMPv6PacketTooBig,
		m.V6 && m.Type == wire.ICMPv6TimeExceeded && m.Code != wire.ICMPv6HopLimitExceeded,
		!m.V6 && m.Type == wire.ICMPv4TimeExceeded && m.Code != wire.ICMPv4TTLExceededInTransit,
		!m.V6 && m.Type == wire.ICMPv4DestinationUnreachable && (m.Code == wire.ICMPv4FragmentationNeeded || m.Code == wire.ICMPv4SourceRouteFailed):
		return false
	}
	q, err := m.Quote()
	if err != nil || q.IP.Proto != wire.ProtoTCP || !q.HasPorts || !q.HasSeq || q.SrcPort != port {
		return false
	}
	a.kind, a.typ, a.code = rawprobe.ICMPError, m.Type, m.Code
	a.to, a.port, a.seq = fromNetip(q.IP.Dst), q.DstPort, q.Seq
	return true
}
