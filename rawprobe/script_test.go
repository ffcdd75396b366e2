package rawprobe

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/net/bpf"

	"synprobe/pcap"
)

const ms = time.Millisecond

// A network is the addresses of one family that the scripts use, all from the
// ranges for documentation (RFC 5737, RFC 3849).
type network struct {
	name                       string
	us, host, gateway, router  netip.Addr
	translated, elsewhere      netip.Addr
	unreachable, expired       uint8 // ICMP types
	noRoute, noHost, admin, no uint8 // codes of unreachable
}

var (
	net4 = network{
		name: "ipv4", us: netip.MustParseAddr("192.0.2.1"), host: netip.MustParseAddr("198.51.100.9"),
		gateway: netip.MustParseAddr("192.0.2.254"), router: netip.MustParseAddr("203.0.113.7"),
		translated: netip.MustParseAddr("203.0.113.99"), elsewhere: netip.MustParseAddr("198.51.100.77"),
		unreachable: 3, expired: 11, noRoute: 0, noHost: 1, admin: 13, no: 3,
	}
	net6 = network{
		name: "ipv6", us: netip.MustParseAddr("2001:db8::1"), host: netip.MustParseAddr("2001:db8:9::9"),
		gateway: netip.MustParseAddr("2001:db8::fe"), router: netip.MustParseAddr("2001:db8:7::7"),
		translated: netip.MustParseAddr("2001:db8:99::99"), elsewhere: netip.MustParseAddr("2001:db8:77::77"),
		unreachable: 1, expired: 3, noRoute: 0, noHost: 3, admin: 1, no: 4,
	}
	networks = []network{net4, net6}
)

const (
	port    = 5432
	ethIdx  = 2 // the index of the outgoing interface
	loIdx   = 1
	heldSrc = 40001 // the first port that Hold gives out
)

var (
	ourHW     = [6]byte{2, 0, 0, 0, 0, 1}
	gatewayHW = [6]byte{2, 0, 0, 0, 0, 254}
)

// A script is a Link whose network a test has written down. It keeps a
// transcript of what the run did, and when, on the virtual clock of a synctest
// bubble. A hook that is nil is a network that does nothing.
type script struct {
	t     testing.TB
	net   network
	start time.Time

	machine Machine
	syn     func(p probe) []answer // the subject's SYN and those of other flows
	echo    func(p probe) []answer
	ask     func(n int) []answer // the n-th request to the next hop, from 1
	unasked bool                 // the kernel takes no request
	refuse  func(p probe) Refusal
	leaves  func(raw []byte) // local translation: changes what the tap sees leave
	fail    func(p probe) error
	deaf    bool // the tap shows no departures
	// unstamped is a tap whose kernel does not stamp yet what leaves.
	unstamped bool
	ctx       context.Context // of the run, where the test wants another

	mu       sync.Mutex // guards events against its end, and clock
	broken   bool
	clock    time.Duration // by which the stamps' clock has been set
	events   chan Event
	lines    []string
	setup    []string
	probes   []probe
	asked    []netip.Addr
	interest pcap.Interest
	port     uint16
	counts   map[string]int
	finals   int
}

// play runs one diagnosis in a bubble of its own and returns its record. Edit
// writes the script.
func play(t *testing.T, n network, opt Options, edit func(s *script)) (s *script, o *Observations) {
	t.Helper()
	o, s, err := tryPlay(t, n, opt, edit)
	if err != nil {
		t.Fatalf("Observe: %v\n%s", err, strings.Join(s.lines, "\n"))
	}
	return s, o
}

func tryPlay(t *testing.T, n network, opt Options, edit func(s *script)) (o *Observations, s *script, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s = newScript(t, n)
		edit(s)
		var packets []Seen
		opt.Watch = func(p Seen) {
			if p.Number > 0 {
				packets = append(packets, Seen{Event: p.Event, Number: p.Number})
			}
			s.sifted(p)
		}
		defer func() {
			if err == nil {
				replayed(t, o, packets)
			}
		}()
		o, err = Observe(s.ctx, s, netip.AddrPortFrom(n.host, port), opt)
		s.note("end")
		if err == nil && !o.End.Equal(time.Now()) {
			t.Errorf("the record ends %v before the run", time.Since(o.End))
		}
	})
	return o, s, err
}

// sifted checks that the filter which the run asked for lets a packet pass that
// means something to it.
func (s *script) sifted(p Seen) {
	s.t.Helper()
	switch {
	case p.What == ProbeLeft, p.What == ProbeAgain, p.What == Answer, p.What == OwnReset:
	case p.What == AskAnswer && s.interest.Neighbors:
	default:
		return
	}
	vm, err := bpf.NewVM(s.interest.Filter())
	if err != nil {
		s.t.Fatal(err)
	}
	if n, err := vm.Run(p.Data); err != nil || n == 0 {
		s.t.Errorf("the filter hides %s: % x, %v", p.What, p.Data, err)
	}
}

func newScript(t testing.TB, n network) *script {
	return &script{
		t: t, net: n, start: time.Now(), ctx: context.Background(),
		machine: Machine{
			Route:     Route{Source: n.us, Gateway: n.gateway, Interface: ethIdx, MTU: 1500},
			Interface: Interface{Index: ethIdx, Name: "eth0", Up: true, Carrier: true, Resolves: true, Hardware: ourHW},
			Addresses: []netip.Addr{n.us},
		},
		ask:    func(int) []answer { return []answer{neighbourAnswer(n).after(1 * ms)} },
		events: make(chan Event, 1024), port: heldSrc, counts: make(map[string]int),
	}
}

// note adds a line to the transcript.
func (s *script) note(format string, args ...any) {
	s.lines = append(s.lines, fmt.Sprintf("%v %s", time.Since(s.start), fmt.Sprintf(format, args...)))
}

// want compares the transcript, of which the lines of want are all; blanks
// around them don't count.
func (s *script) want(t *testing.T, want string) {
	t.Helper()
	var lines []string
	for line := range strings.Lines(want) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	if got, want := strings.Join(s.lines, "\n"), strings.Join(lines, "\n"); got != want {
		t.Errorf("transcript:\n%s\nwant:\n%s", got, want)
	}
}

// ended is the time of the last line.
func (s *script) ended() string {
	at, _, _ := strings.Cut(s.lines[len(s.lines)-1], " ")
	return at
}

func (s *script) Survey(f Flow) (Machine, error) {
	s.setup = append(s.setup, fmt.Sprintf("survey %v", f))
	return s.machine, nil
}

func (s *script) Hold(src netip.AddrPort) (netip.AddrPort, error) {
	s.setup = append(s.setup, fmt.Sprintf("hold %v", src))
	if src.Port() != 0 {
		return src, nil
	}
	s.port++
	return netip.AddrPortFrom(src.Addr(), s.port-1), nil
}

func (s *script) Watch(i pcap.Interest) error {
	s.setup = append(s.setup, "watch")
	s.interest = i
	return nil
}

func (s *script) Events() <-chan Event { return s.events }
func (s *script) Err() error           { return errTapFailed }
func (s *script) Close() error         { return nil }

var errTapFailed = fmt.Errorf("the tap failed")

func (s *script) Final(m *Machine, _ netip.Addr) TapStats {
	s.finals++
	m.Neighbor = "reachable"
	return TapStats{Packets: 7}
}

func (s *script) Ask(m *Machine, target netip.Addr) error {
	if s.unasked {
		return &SendError{Reason: RefusedNoBuffer, Err: fmt.Errorf("refused")}
	}
	s.counts["ask"]++
	s.note("ask")
	s.asked = append(s.asked, m.Route.NextHop(target))
	if s.ask != nil {
		s.deliver(s.ask(s.counts["ask"]))
	}
	return nil
}

func (s *script) Send(packet []byte, m *Machine, via *[6]byte) error {
	p := readProbe(s.t, packet)
	if p.kind == "syn" && len(s.probes) > 0 && p.sport != s.subjectPort() {
		p.kind = "other"
	}
	s.counts[p.kind]++
	p.n, p.net = s.counts[p.kind], s.net
	s.probes = append(s.probes, p)
	line := p.kind
	if via != nil {
		line += fmt.Sprintf(" via %v", net.HardwareAddr(via[:]))
	}
	if s.refuse != nil {
		if why := s.refuse(p); why != NotRefused {
			s.note("%s refused", line)
			return &SendError{Reason: why, Err: fmt.Errorf("refused")}
		}
	}
	s.note("%s", line)
	if s.fail != nil {
		if err := s.fail(p); err != nil {
			return err
		}
	}
	if !s.deaf {
		raw := append([]byte(nil), packet...)
		if s.leaves != nil {
			s.leaves(raw)
			p = readProbe(s.t, raw)
			p.kind, p.n, p.net = s.probes[len(s.probes)-1].kind, s.counts[s.probes[len(s.probes)-1].kind], s.net
		}
		s.arrive(Event{Data: raw, Direction: pcap.Outgoing, Interface: m.Route.Interface, ChecksumPartial: true, Unstamped: s.unstamped})
	}
	respond := s.syn
	if p.kind == "echo" {
		respond = s.echo
	}
	if respond != nil {
		s.deliver(respond(p))
	}
	return nil
}

// subjectPort is the source port of the first SYN.
func (s *script) subjectPort() uint16 {
	for _, p := range s.probes {
		if p.kind == "syn" {
			return p.sport
		}
	}
	return heldSrc
}

// deliver hands answers to the run when they are due: in the order of their
// events, the socket's copies that much later which lag.
func (s *script) deliver(answers []answer) {
	for _, a := range answers {
		var late []Event
		time.AfterFunc(a.wait, func() {
			for _, ev := range a.events {
				if ev.Delivered && a.lag > 0 {
					late = append(late, ev)
					continue
				}
				s.arrive(ev)
			}
			if late != nil {
				time.AfterFunc(a.lag, func() {
					for _, ev := range late {
						s.arrive(ev)
					}
				})
			}
		})
	}
}

func (s *script) arrive(ev Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.broken {
		ev.Time = time.Now().Add(s.clock)
		s.events <- ev
	}
}

// setClock sets the clock of the stamps forward.
func (s *script) setClock(by time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock = by
}

// breakTap ends the stream of events.
func (s *script) breakTap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = true
	close(s.events)
}

// A probe is one packet that a run sent, read by gopacket alone.
type probe struct {
	net          network
	kind         string // syn, other (another flow's) or echo
	n            int    // counts from 1 within the kind
	raw          []byte
	src, dst     netip.Addr
	ttl          uint8
	id           uint16
	label        uint32
	tcp          *layers.TCP
	sport, dport uint16
	isn          uint32
	tsval        uint32
	echoID       uint16
	echoSeq      uint16
	data         []byte // of an echo
}

// readProbe decodes a packet, and fails the test where gopacket can't.
func readProbe(t testing.TB, packet []byte) probe {
	t.Helper()
	p := probe{raw: append([]byte(nil), packet...)}
	first := layers.LayerTypeIPv4
	if p.raw[0]>>4 == 6 {
		first = layers.LayerTypeIPv6
	}
	g := gopacket.NewPacket(p.raw, first, gopacket.Default)
	if e := g.ErrorLayer(); e != nil {
		t.Fatalf("a probe that gopacket can't read: %v\n% x", e.Error(), packet)
	}
	for _, l := range g.Layers() {
		switch l := l.(type) {
		case *layers.IPv4:
			p.src, _ = netip.AddrFromSlice(l.SrcIP)
			p.dst, _ = netip.AddrFromSlice(l.DstIP)
			p.ttl, p.id = l.TTL, l.Id
		case *layers.IPv6:
			p.src, _ = netip.AddrFromSlice(l.SrcIP)
			p.dst, _ = netip.AddrFromSlice(l.DstIP)
			p.ttl, p.label = l.HopLimit, l.FlowLabel
		case *layers.TCP:
			p.kind, p.tcp = "syn", l
			p.sport, p.dport, p.isn = uint16(l.SrcPort), uint16(l.DstPort), l.Seq
			for _, o := range l.Options {
				if o.OptionType == layers.TCPOptionKindTimestamps {
					p.tsval = binary.BigEndian.Uint32(o.OptionData)
				}
			}
		case *layers.ICMPv4:
			p.kind, p.echoID, p.echoSeq, p.data = "echo", l.Id, l.Seq, l.Payload
		case *layers.ICMPv6Echo:
			// gopacket leaves the data out.
			p.kind, p.echoID, p.echoSeq, p.data = "echo", l.Identifier, l.SeqNumber, p.raw[40+8:]
		}
	}
	return p
}

// An answer is what one packet that comes back is to the run: the tap's event
// and, where it is delivered, the socket's.
type answer struct {
	wait, lag time.Duration
	events    []Event
}

func (a answer) after(d time.Duration) answer { a.wait = d; return a }

// edit changes the tap's event.
func (a answer) edit(f func(*Event)) answer {
	a.events = append([]Event(nil), a.events...)
	f(&a.events[0])
	return a
}

// eaten is an answer that passes the tap and reaches no socket.
func (a answer) eaten() answer {
	a.events = a.events[:1:1]
	return a
}

// late is an answer whose copy for the socket comes that much after the tap's.
func (a answer) late(d time.Duration) answer { a.lag = d; return a }

// early turns the order of the two copies round.
func (a answer) early() answer {
	a.events = []Event{a.events[1], a.events[0]}
	return a
}

// looped is an answer that this machine makes itself, seen on lo.
func (a answer) looped() answer {
	return a.edit(func(ev *Event) { ev.Interface, ev.Loopback = loIdx, true })
}

// packetAnswer is an answer that arrives as packet, and that a socket gets too
// where its kind is delivered (see Reply.Delivered).
func packetAnswer(packet []byte, from netip.Addr, delivered, icmp bool) answer {
	a := answer{events: []Event{{Data: packet, Direction: pcap.Incoming, Interface: ethIdx}}}
	if delivered {
		header := 40
		if packet[0]>>4 == 4 {
			header = int(packet[0]&15) * 4
		}
		a.events = append(a.events, Event{Data: packet[header:], Delivered: true, From: from, ICMP: icmp})
	}
	return a
}

// A segment is a TCP segment that comes back.
type segment struct {
	src, dst     netip.Addr
	ttl          uint8
	sport, dport uint16
	seq, ack     uint32
	flags        string // of S, A, R, F, P
	window       uint16
	options      bool
	tsval, tsecr uint32
}

// synAck is the right answer of a host that listens.
func (p probe) synAck() segment {
	return segment{
		src: p.dst, dst: p.src, ttl: 61, sport: p.dport, dport: p.sport, seq: 0x5eed, ack: p.isn + 1,
		flags: "SA", window: 65160, options: true, tsval: 99, tsecr: p.tsval,
	}
}

// reset is the right answer of a host on which nothing listens.
func (p probe) reset() segment {
	return segment{src: p.dst, dst: p.src, ttl: 61, sport: p.dport, dport: p.sport, ack: p.isn + 1, flags: "RA"}
}

// ownReset is what our kernel sends when it gets a SYN-ACK.
func (p probe) ownReset() answer {
	a := segment{src: p.src, dst: p.dst, ttl: 64, sport: p.sport, dport: p.dport, seq: p.isn + 1, flags: "R"}.answer()
	return a.eaten().edit(func(ev *Event) { ev.Direction = pcap.Outgoing })
}

func (g segment) with(edit func(*segment)) segment { edit(&g); return g }

func (g segment) after(d time.Duration) answer { return g.answer().after(d) }

func (g segment) answer() answer { return packetAnswer(g.packet(), g.src, true, false) }

func (g segment) packet() []byte {
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(g.sport), DstPort: layers.TCPPort(g.dport), Seq: g.seq, Ack: g.ack, Window: g.window,
		SYN: strings.Contains(g.flags, "S"), ACK: strings.Contains(g.flags, "A"), RST: strings.Contains(g.flags, "R"),
		FIN: strings.Contains(g.flags, "F"), PSH: strings.Contains(g.flags, "P"),
	}
	if g.options {
		ts := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, g.tsval), g.tsecr)
		tcp.Options = []layers.TCPOption{
			{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}},
			{OptionType: layers.TCPOptionKindSACKPermitted, OptionLength: 2},
			{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: ts},
			{OptionType: layers.TCPOptionKindNop},
			{OptionType: layers.TCPOptionKindWindowScale, OptionLength: 3, OptionData: []byte{7}},
		}
	}
	return serialize(g.src, g.dst, g.ttl, layers.IPProtocolTCP, tcp)
}

// serialize builds an IP packet with gopacket, checksums included.
func serialize(src, dst netip.Addr, ttl uint8, proto layers.IPProtocol, upper ...gopacket.SerializableLayer) []byte {
	var ip gopacket.SerializableLayer
	var network gopacket.NetworkLayer
	if dst.Is4() {
		l := &layers.IPv4{Version: 4, TTL: ttl, Protocol: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		ip, network = l, l
	} else {
		l := &layers.IPv6{Version: 6, HopLimit: ttl, NextHeader: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		ip, network = l, l
	}
	for _, l := range upper {
		if l, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := l.SetNetworkLayerForChecksum(network); err != nil {
				panic(err)
			}
		}
	}
	buf := gopacket.NewSerializeBuffer()
	all := append([]gopacket.SerializableLayer{ip}, upper...)
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		panic(err)
	}
	return append([]byte(nil), buf.Bytes()...)
}

// An icmpError is an ICMP error that comes back.
type icmpError struct {
	from, to  netip.Addr
	ttl       uint8
	typ, code uint8
	quote     []byte
}

// icmp is an error of the network's family that quotes the whole probe, as its
// sender got it: with a TTL of 1.
func (p probe) icmp(from netip.Addr, typ, code uint8) icmpError {
	quote := append([]byte(nil), p.raw...)
	if p.dst.Is4() {
		quote[8] = 1
	} else {
		quote[7] = 1
	}
	return icmpError{from: from, to: p.src, ttl: 62, typ: typ, code: code, quote: quote}
}

// quoted changes the quote.
func (e icmpError) quoted(edit func(q []byte)) icmpError {
	e.quote = append([]byte(nil), e.quote...)
	edit(e.quote)
	return e
}

// cut leaves that many bytes of the quoted transport header.
func (e icmpError) cut(n int) icmpError {
	e.quote = e.quote[:e.header()+n]
	return e
}

// header is the length of the quoted IP header.
func (e icmpError) header() int {
	if e.to.Is4() {
		return 20
	}
	return 40
}

func (e icmpError) after(d time.Duration) answer { return e.answer().after(d) }

func (e icmpError) answer() answer {
	return packetAnswer(icmpPacket(e.from, e.to, e.ttl, e.typ, e.code, append(make([]byte, 4), e.quote...)), e.from, true, true)
}

// icmpPacket builds an ICMP message; body starts at its fifth byte.
func icmpPacket(from, to netip.Addr, ttl, typ, code uint8, body []byte) []byte {
	if to.Is4() {
		return serialize(from, to, ttl, layers.IPProtocolICMPv4, &layers.ICMPv4{
			TypeCode: layers.CreateICMPv4TypeCode(typ, code),
			Id:       binary.BigEndian.Uint16(body), Seq: binary.BigEndian.Uint16(body[2:]),
		}, gopacket.Payload(body[4:]))
	}
	return serialize(from, to, ttl, layers.IPProtocolICMPv6, &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, code)}, gopacket.Payload(body))
}

// An echoReply is an ICMP echo reply that comes back.
type echoReply struct {
	from, to netip.Addr
	ttl      uint8
	id, seq  uint16
	data     []byte
}

func (p probe) echoReply() echoReply {
	return echoReply{from: p.dst, to: p.src, ttl: 61, id: p.echoID, seq: p.echoSeq, data: p.data}
}

func (e echoReply) with(edit func(*echoReply)) echoReply { edit(&e); return e }

func (e echoReply) after(d time.Duration) answer { return e.answer().after(d) }

func (e echoReply) answer() answer {
	body := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, e.id), e.seq)
	typ := uint8(0)
	if e.to.Is6() {
		typ = 129
	}
	return packetAnswer(icmpPacket(e.from, e.to, e.ttl, typ, 0, append(body, e.data...)), e.from, false, true)
}

// neighbourAnswer is the gateway's answer to our own request.
func neighbourAnswer(n network) answer {
	if n.us.Is4() {
		return arpReply{sender: n.gateway, hw: gatewayHW, target: n.us, targetHW: ourHW, op: layers.ARPReply}.answer()
	}
	return advertisement{from: n.gateway, to: n.us, ttl: 255, flags: 0x60, target: n.gateway, hw: gatewayHW}.answer()
}

// An arpReply is an ARP message that comes in.
type arpReply struct {
	sender, target netip.Addr
	hw, targetHW   [6]byte
	op             uint16
}

func (r arpReply) answer() answer {
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{}, &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: r.op,
		SourceHwAddress: r.hw[:], SourceProtAddress: r.sender.AsSlice(), DstHwAddress: r.targetHW[:], DstProtAddress: r.target.AsSlice(),
	})
	if err != nil {
		panic(err)
	}
	return answer{events: []Event{{Data: append([]byte(nil), buf.Bytes()...), Direction: pcap.Incoming, Interface: ethIdx, ARP: true}}}
}

// An advertisement is a neighbour advertisement that comes in.
type advertisement struct {
	from, to netip.Addr
	ttl      uint8
	flags    uint8 // router 0x80, solicited 0x40, override 0x20
	target   netip.Addr
	hw       [6]byte
	noOption bool
	typ      uint8 // 0 is 136
}

func (a advertisement) answer() answer {
	if a.typ == 0 {
		a.typ = 136
	}
	body := append([]byte{a.flags, 0, 0, 0}, a.target.AsSlice()...)
	if !a.noOption {
		body = append(append(body, 2, 1), a.hw[:]...)
	}
	return packetAnswer(icmpPacket(a.from, a.to, a.ttl, a.typ, 0, body), a.from, false, true)
}

// answers is a host whose SYN-ACK, or whatever else f makes, comes after d.
func answers[T interface{ after(time.Duration) answer }](d time.Duration, f func(probe) T) func(probe) []answer {
	return func(p probe) []answer { return []answer{f(p).after(d)} }
}
