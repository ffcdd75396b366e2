package pcap

import "golang.org/x/net/bpf"

// An Interest says which packets one run wants to see. Its [Interest.Filter] is a sieve, not a judge: it may let a
// stranger's packet pass, and what reads the packets decides what to believe; but what one of the run's own
// probes provoked must never be lost.
//
// No addresses occur in it: where this machine translates (DNAT or masquerade in OUTPUT and POSTROUTING), the
// listener is shown other addresses and ports than were sent, while ISN, acknowledgement and echo payload stay.
type Interest struct {
	// Family is 4 or 6 where all of the run's packets are of that version of IP: the program is then about half as long,
	// and the other version's packets do not pass (nor does ARP with 6). Zero means both. A machine that
	// translates between the two (the CLAT of 464XLAT) shows the other version's only on its way out.
	Family uint8
	// ISN is the initial sequence number of the SYNs. TCP segments pass whose sequence number is ISN or ISN+1 or
	// whose acknowledgement number is ISN+1, modulo 2³², whatever their flags, ports and addresses: our
	// SYNs, the SYN-ACKs and RSTs that answer them, our kernel's RST after a SYN-ACK. Every number is an ISN, zero too.
	ISN uint32
	// ACK is the acknowledgement number of the first ACK that is sent as a control, and ACKs is how many there may be, each
	// with one more: segments pass whose sequence number is one of these, modulo 2³². Such an ACK draws an RST that
	// acknowledges nothing, and has the ACK's acknowledgement number for its sequence number (RFC 9293, section 3.10.7.1).
	// ACKs of zero means none.
	ACK, ACKs uint32
	// EchoID is the identifier of our ICMP echos: requests and replies that carry it pass. Zero means none.
	EchoID uint16
	// EchoCookie is the first four bytes of our echos' payload, in network order: requests and replies that carry
	// it pass whatever their identifier, which the connection tracking of a masquerade may rewrite
	// (icmp_unique_tuple in net/netfilter/nf_nat_core.c). Zero means none.
	EchoCookie uint32
	// Port and PeerPort are our own port and the one asked about: every segment from PeerPort to Port passes,
	// whatever it acknowledges and whoever sends it. So the bare ACK is seen with which a host answers that still has an old
	// connection with these ports (RFC 5961, section 4.2), and it is not taken for silence. A Port of zero means none.
	Port, PeerPort uint16
	// UDPPorts are the ports of UDP controls: datagrams from or to them pass. Empty means none.
	UDPPorts []uint16
	// Neighbors lets ARP requests and replies pass (for IPv4 on Ethernet), and IPv6 neighbour solicitations and
	// advertisements.
	Neighbors bool
}

const (
	// filterAccept is the filter's answer for a packet that passes: all of it, as the length of an IP packet has 16 bits.
	filterAccept = 65535

	// maxFilterPorts is the longest list of ports that is written out. A longer one lets every segment or datagram pass:
	// the sieve may be coarse, but the kernel takes no more than 4096 instructions (BPF_MAXINSNS).
	maxFilterPorts = 128

	// maxExtensions is how many IPv6 extension headers are stepped over. Classic BPF has no backward jump, so each step is
	// written out; RFC 8200 section 4.1 recommends an order in which six could occur, and real packets have one or two.
	maxExtensions = 4
)

// Protocol numbers (IANA) and ICMP types (RFC 792, RFC 4443, RFC 4861).
const (
	protoHopByHop = 0
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoRouting  = 43
	protoFragment = 44
	protoAuth     = 51
	protoICMPv6   = 58
	protoDestOpts = 60

	icmpEchoReply    = 0
	icmpUnreachable  = 3
	icmpEcho         = 8
	icmpTimeExceeded = 11
	icmpParameter    = 12

	icmp6Unreachable  = 1
	icmp6TooBig       = 2
	icmp6TimeExceeded = 3
	icmp6Parameter    = 4
	icmp6Echo         = 128
	icmp6EchoReply    = 129
	icmp6Solicitation = 135
	icmp6Advertise    = 136
)

// Nothing is a filter that lets nothing pass: for a [Listener] that is opened before its owner knows what to ask for.
var Nothing = []bpf.Instruction{bpf.RetConstant{Val: 0}}

// Filter returns the program for [Config.Filter]; offset 0 is the network header. Besides what the fields describe it
// lets all ICMP errors pass (IPv4 types 3, 11 and 12; IPv6 types 1 to 4), since their quotes may be cut or
// translated. Of a fragmented packet only the first fragment can pass. IPv6 is followed through four extension
// headers: hop-by-hop, routing, fragment, destination options, authentication.
//
// It returns 65535 for a packet that passes and 0 for any other, one that ends before what must be compared included.
// It uses no extension of Linux's, so that bpf.VM runs it too: the packet's own first bytes tell what it is.
func (i Interest) Filter() []bpf.Instruction {
	// Both versions of IP lead to the one transport at the end, with the protocol in A and the offset in X.
	transport := i.transport()
	var v4, v6, other []bpf.Instruction
	if i.Family != 6 {
		other = i.arp()
	}
	other = join(other, reject())
	if i.Family != 6 {
		v4 = when(bpf.JumpEqual, 4, join(i.ipv4(), over(other)))
	}
	if i.Family != 4 {
		v6 = when(bpf.JumpEqual, 6, join(i.ipv6(), over(v4, other)))
	}
	return join(
		load(0, 1),
		do(bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4}),
		v6, v4, other, transport,
	)
}

// ipv4 decides about ICMP, and leaves everything else to transport.
func (i Interest) ipv4() []bpf.Instruction {
	return join(
		load(6, 2),
		when(bpf.JumpBitsSet, 0x1fff, reject()), // not the first fragment: what follows is no transport header
		do(bpf.LoadMemShift{Off: 0}),            // X = length of the header
		do(bpf.TXA{}),
		when(bpf.JumpLessThan, 20, reject()),
		load(9, 1),
		when(bpf.JumpEqual, protoICMP, join(
			loadX(0, 1),
			acceptAny(icmpUnreachable, icmpTimeExceeded, icmpParameter),
			i.echo(icmpEcho, icmpEchoReply),
		)),
	)
}

// ipv6 steps over the extension headers, decides about ICMPv6, and leaves everything else to transport.
func (i Interest) ipv6() []bpf.Instruction {
	var steps []bpf.Instruction
	for range maxExtensions {
		steps = join(extension(len(steps)), steps)
	}
	var neighbors []bpf.Instruction
	if i.Neighbors {
		neighbors = acceptAny(icmp6Solicitation, icmp6Advertise)
	}
	return join(
		load(6, 1),
		do(bpf.LoadConstant{Dst: bpf.RegX, Val: 40}),
		steps,
		when(bpf.JumpEqual, protoICMPv6, join(
			loadX(0, 1),
			acceptAny(icmp6Unreachable, icmp6TooBig, icmp6TimeExceeded, icmp6Parameter),
			neighbors,
			i.echo(icmp6Echo, icmp6EchoReply),
		)),
	)
}

// extension steps over one extension header: A is its number and X its offset, and both are the next header's
// afterwards. A transport header is left as it is, and the rest of the steps, so many instructions, is skipped.
func extension(rest int) []bpf.Instruction {
	const scratch = 0 // the next header's number
	next := join(
		loadX(0, 1),
		do(bpf.StoreScratch{Src: bpf.RegA, N: scratch}),
	)
	// Each kind comes to its length in bytes, in A.
	//
	// RFC 8200, section 4.5: 8 octets; the offset is the upper 13 bits of the third and fourth.
	fragment := join(
		loadX(2, 2),
		when(bpf.JumpBitsSet, 0xfff8, reject()),
		next,
		do(bpf.LoadConstant{Dst: bpf.RegA, Val: 8}),
	)
	// RFC 4302, section 2.2: in units of 4 octets, minus 2.
	auth := join(next,
		loadX(1, 1),
		do(bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: 2}),
		do(bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 2}),
		over(fragment),
	)
	// RFC 8200, section 4.3: the length is in units of 8 octets, "not including the first 8 octets".
	options := join(next,
		loadX(1, 1),
		do(bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: 1}),
		do(bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 3}),
		over(auth, fragment),
	)
	step := join(
		do(bpf.ALUOpX{Op: bpf.ALUOpAdd}),
		do(bpf.TAX{}),
		do(bpf.LoadScratch{Dst: bpf.RegA, N: scratch}),
	)
	o, a, f, s := len(options), len(auth), len(fragment), len(step)
	return join(
		do(bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoHopByHop, SkipTrue: 5}),
		do(bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoRouting, SkipTrue: 4}),
		do(bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoDestOpts, SkipTrue: 3}),
		do(bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoAuth, SkipTrue: uint8(2 + o)}),
		do(bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoFragment, SkipTrue: uint8(1 + o + a)}),
		do(bpf.Jump{Skip: uint32(o + a + f + s + rest)}),
		options, auth, fragment, step,
	)
}

// transport decides about the packet whose header of protocol A is at X.
func (i Interest) transport() []bpf.Instruction {
	var udp []bpf.Instruction
	if len(i.UDPPorts) > 0 {
		udp = when(bpf.JumpEqual, protoUDP, join(i.ports(i.UDPPorts), reject()))
	}
	return join(
		udp,
		when(bpf.JumpNotEqual, protoTCP, reject()),
		i.tcp(),
	)
}

// tcp decides about the TCP segment at X. The ports come first, and the acknowledgement last: the kernel rejects a
// packet as soon as it is too short for a load, and a fragment may end after the sequence number.
func (i Interest) tcp() []bpf.Instruction {
	var pair []bpf.Instruction
	if i.Port != 0 {
		pair = join(loadX(0, 4), acceptAny(uint32(i.PeerPort)<<16|uint32(i.Port)))
	}
	var drawn []bpf.Instruction
	if i.ACKs != 0 {
		drawn = join(
			do(bpf.ALUOpConstant{Op: bpf.ALUOpSub, Val: i.ACK}), // wraps, as the numbers do
			when(bpf.JumpLessThan, i.ACKs, accept()),
		)
	}
	return join(
		pair,
		loadX(4, 4),
		acceptAny(i.ISN, i.ISN+1),
		drawn,
		loadX(8, 4),
		acceptAny(i.ISN+1),
		reject(),
	)
}

// ports accepts a segment or datagram at X from or to one of the ports.
func (i Interest) ports(ports []uint16) []bpf.Instruction {
	switch {
	case len(ports) == 0:
		return nil
	case len(ports) > maxFilterPorts:
		return accept()
	}
	var any []uint32
	for _, p := range ports {
		any = append(any, uint32(p))
	}
	return join(loadX(0, 2), acceptAny(any...), loadX(2, 2), acceptAny(any...))
}

// echo decides about the ICMP message at X, whose type is in A: only a request or reply of ours passes. The layout is
// the same in both families (RFC 792, RFC 4443).
func (i Interest) echo(request, reply uint32) []bpf.Instruction {
	var p []bpf.Instruction
	if i.EchoID != 0 {
		p = join(loadX(4, 2), acceptAny(uint32(i.EchoID)))
	}
	if i.EchoCookie != 0 {
		p = join(p, loadX(8, 4), acceptAny(i.EchoCookie))
	}
	if p == nil {
		return reject()
	}
	return join(
		do(bpf.JumpIf{Cond: bpf.JumpEqual, Val: request, SkipTrue: 1}),
		when(bpf.JumpEqual, reply, p),
		reject(),
	)
}

// arp decides about what is neither IPv4 nor IPv6: ARP between Ethernet and IPv4 (RFC 826), or nothing of ours.
func (i Interest) arp() []bpf.Instruction {
	if !i.Neighbors {
		return nil
	}
	return join(
		load(0, 4),
		when(bpf.JumpNotEqual, 0x0001_0800, reject()), // hardware Ethernet, protocol IPv4
		load(4, 4),
		acceptAny(0x0604_0001, 0x0604_0002), // addresses of 6 and 4 bytes; request, reply
	)
}

// The rest is a small assembler of blocks. A block is entered at its first instruction and left after its last, or by a
// return.

func join(blocks ...[]bpf.Instruction) []bpf.Instruction {
	var p []bpf.Instruction
	for _, b := range blocks {
		p = append(p, b...)
	}
	return p
}

func do(ins bpf.Instruction) []bpf.Instruction { return []bpf.Instruction{ins} }

// load sets A to size bytes at off, in network order.
func load(off uint32, size int) []bpf.Instruction { return do(bpf.LoadAbsolute{Off: off, Size: size}) }

// loadX sets A to size bytes at X+off.
func loadX(off uint32, size int) []bpf.Instruction { return do(bpf.LoadIndirect{Off: off, Size: size}) }

func accept() []bpf.Instruction { return do(bpf.RetConstant{Val: filterAccept}) }
func reject() []bpf.Instruction { return do(bpf.RetConstant{Val: 0}) }

// acceptAny accepts the packet if A is one of vals, of which there are no more than maxFilterPorts: each comparison jumps to
// the one return that they share.
func acceptAny(vals ...uint32) []bpf.Instruction {
	var p []bpf.Instruction
	for n, v := range vals[:len(vals)-1] {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipTrue: uint8(len(vals) - 1 - n)})
	}
	return join(p, when(bpf.JumpEqual, vals[len(vals)-1], accept()))
}

// over jumps over blocks.
func over(blocks ...[]bpf.Instruction) []bpf.Instruction {
	return do(bpf.Jump{Skip: uint32(len(join(blocks...)))})
}

// when enters a block only if A compares to val, else goes on behind it. A conditional jump reaches 255 instructions, an
// unconditional one everything.
func when(cond bpf.JumpTest, val uint32, block []bpf.Instruction) []bpf.Instruction {
	if len(block) <= 255 {
		return join(do(bpf.JumpIf{Cond: cond, Val: val, SkipFalse: uint8(len(block))}), block)
	}
	return join(
		do(bpf.JumpIf{Cond: cond, Val: val, SkipTrue: 1}),
		do(bpf.Jump{Skip: uint32(len(block))}),
		block,
	)
}
