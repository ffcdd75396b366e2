package traceroute

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"synprobe/pcap"
	"synprobe/rawprobe"
)

// A chain is a Link whose network is a row of routers with a host at its end,
// written down by a test, on the virtual clock of a synctest bubble. Each link
// takes a millisecond, so that router k answers after 2k ms. It keeps a
// transcript of what the run did, and when.
type chain struct {
	family
	t       testing.TB
	start   time.Time
	machine rawprobe.Machine
	routers []*router // the first is at TTL 1
	at      host
	loss    float64 // of each packet, on its way there and on its way back
	random  *rand.Rand
	detour  int  // how many routers more there are on the way back from everywhere
	nextHop bool // answers our own requests
	rewrite int  // from this TTL on the subject is on its way to another machine; 0 nowhere
	// late is how much longer the answer from a TTL to a probe takes, stall how
	// long the run is kept from going on after it has sent one. Nil is never.
	late  func(p *probe, ttl int) time.Duration
	stall func() time.Duration
	// fate, where not nil, gives each probe the chance of its own: what else is
	// sent in the same instant, in whatever order, then changes nothing for it.
	fate func(p *probe) *rand.Rand

	events chan rawprobe.Event
	port   uint16 // the next that Hold gives out
	probes []*probe
	lines  []string
	ended  time.Duration
	waits  []string // what Options.Waiting was told
}

// An action is what a router or a host does with a packet.
type action string

const (
	pass    action = ""
	drop    action = "drop"
	reset   action = "reset"    // a reset in the host's name
	synAck  action = "syn-ack"  // a SYN-ACK in the host's name
	admin   action = "admin"    // administratively prohibited
	noHost  action = "no-host"  // host unreachable, after three seconds of asking for it
	noRoute action = "no-route" // network unreachable
	onward  action = "onward"   // the host only passes it on to a machine that is dead
)

// A router answers what expires there, at most six times at once and one a
// second from then on, as Linux does.
type router struct {
	addr    netip.Addr
	in, fwd func(*probe) action // on the way in, and after the TTL was checked; nil passes
	mute    func(*probe) bool   // whether it says nothing when that probe expires; nil says it
	asked   []time.Duration     // when it was asked for an answer
	silent  int                 // how often its limit kept it from one
	tokens  float64
	filled  time.Time
}

// A host answers nothing unless a hook is there.
type host struct {
	subject, other, syn, ack, echo, udp, fragment func(*probe) action
	got                                           []*probe
}

// A probe is one packet that a run sent.
type probe struct {
	kind     string // subject, other (another flow of its), syn, ack, echo, udp, fragment
	at       time.Duration
	ttl      int
	src, dst netip.AddrPort
	raw      []byte
	answered time.Duration // when the first answer arrived; 0 while none has
}

func always(a action) func(*probe) action { return func(*probe) action { return a } }

// only does something to the kinds named, and nothing to the rest.
func only(a action, kinds ...string) func(*probe) action {
	return func(p *probe) action {
		if slices.Contains(kinds, p.kind) {
			return a
		}
		return pass
	}
}

func mute(*probe) bool { return true }

// answers is a host that is up: it answers echoes, resets the unexpected and
// does that to the subject's port.
func answers(subject action) host {
	return host{
		subject: always(subject), other: always(subject), syn: always(reset), ack: always(reset), echo: always(pass), udp: always(pass),
	}
}

const (
	ours   = 2    // the index of the outgoing interface
	heldBy = 4000 // the first port that Hold gives out
)

// newChain is a row of n routers that are well, and a host whose port drops.
func newChain(f family, n int, edit func(*chain)) *chain {
	c := &chain{
		family: f, at: answers(drop), random: rand.New(rand.NewPCG(1, 2)), nextHop: true, port: heldBy,
		machine: rawprobe.Machine{
			Route:     rawprobe.Route{Source: f.us, Gateway: f.router(1), Interface: ours, MTU: 1500},
			Interface: rawprobe.Interface{Index: ours, Name: "eth0", Up: true, Carrier: true},
			Addresses: []netip.Addr{f.us},
		},
	}
	for k := range n {
		c.routers = append(c.routers, &router{addr: f.router(k + 1), tokens: 6})
	}
	if edit != nil {
		edit(c)
	}
	return c
}

// r is router k.
func (c *chain) r(k int) *router { return c.routers[k-1] }

// trace runs one diagnosis in a bubble of its own.
func (c *chain) trace(t *testing.T, opt Options, stop ...time.Duration) (o *rawprobe.Observations) {
	t.Helper()
	c.t = t
	synctest.Test(t, func(t *testing.T) {
		c.start = time.Now()
		c.events = make(chan rawprobe.Event, 4096) // of this bubble
		for _, r := range c.routers {
			r.filled = c.start
		}
		ctx := context.Background()
		for _, d := range stop {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, d)
			defer cancel()
		}
		if opt.Waiting == nil {
			opt.Waiting = func(what string, until time.Time) {
				c.waits = append(c.waits, fmt.Sprintf("%v until %v: %s", time.Since(c.start), until.Sub(c.start), what))
			}
		}
		var err error
		o, err = Observe(ctx, c, netip.AddrPortFrom(c.family.host, subjectPort), rawprobe.Options{}, opt)
		c.ended = time.Since(c.start)
		c.lines = append(c.lines, fmt.Sprintf("%v end", c.ended))
		if err != nil {
			t.Errorf("Observe: %v", err)
		}
	})
	if t.Failed() {
		t.Log(c.transcript())
	}
	return o
}

func (c *chain) transcript() string { return strings.Join(c.lines, "\n") }

// want compares the transcript; blanks around its lines don't count.
func (c *chain) want(t *testing.T, want string) {
	t.Helper()
	if got := c.transcript() + "\n"; got != lines(want) {
		t.Errorf("transcript:\n%swant:\n%s", got, lines(want))
	}
}

func (c *chain) Survey(rawprobe.Flow) (rawprobe.Machine, error) { return c.machine, nil }
func (c *chain) Watch(pcap.Interest) error                      { return nil }
func (c *chain) Events() <-chan rawprobe.Event                  { return c.events }
func (c *chain) Err() error                                     { return nil }
func (c *chain) Close() error                                   { return nil }

func (c *chain) Final(*rawprobe.Machine, netip.Addr) rawprobe.TapStats { return rawprobe.TapStats{} }

func (c *chain) Hold(src netip.AddrPort) (netip.AddrPort, error) {
	c.port++
	return netip.AddrPortFrom(src.Addr(), c.port-1), nil
}

// Ask is answered by the gateway, in IPv4.
func (c *chain) Ask(m *rawprobe.Machine, target netip.Addr) error {
	if !c.nextHop {
		return nil
	}
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{}, &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPReply,
		SourceHwAddress: make([]byte, 6), SourceProtAddress: m.Route.NextHop(target).AsSlice(),
		DstHwAddress: m.Interface.Hardware[:], DstProtAddress: c.us.AsSlice(),
	})
	c.arrive(ms, rawprobe.Event{Data: slices.Clone(buf.Bytes()), Direction: pcap.Incoming, Interface: ours, ARP: true})
	return err
}

func (c *chain) arrive(wait time.Duration, events ...rawprobe.Event) {
	time.AfterFunc(wait, func() {
		for _, ev := range events {
			ev.Time = time.Now()
			c.events <- ev
		}
	})
}

func (c *chain) Send(raw []byte, _ *rawprobe.Machine, _ *[6]byte) error {
	p := c.read(slices.Clone(raw))
	if len(c.probes) > 2000 {
		c.t.Fatal("the run sends without end")
	}
	c.probes = append(c.probes, p)
	line := fmt.Sprintf("%v %s", p.at, p.kind)
	if p.kind == "syn" {
		line += fmt.Sprintf(":%d", p.dst.Port())
	}
	if p.ttl != full {
		line += fmt.Sprintf(" ttl %d", p.ttl)
	}
	c.lines = append(c.lines, line)
	c.events <- rawprobe.Event{Data: p.raw, Time: time.Now(), Direction: pcap.Outgoing, Interface: ours, ChecksumPartial: true}
	if c.fate != nil {
		c.random = c.fate(p)
	}
	if c.random.Float64() >= c.loss {
		c.carry(p)
	}
	if c.stall != nil {
		time.Sleep(c.stall())
	}
	return nil
}

// read takes a probe apart. Our own packets have no options and no extension
// headers.
func (c *chain) read(raw []byte) *probe {
	p := &probe{raw: raw, at: time.Since(c.start)}
	var proto byte
	var src, dst netip.Addr
	if raw[0]>>4 == 4 {
		src, _ = netip.AddrFromSlice(raw[12:16])
		dst, _ = netip.AddrFromSlice(raw[16:20])
		proto, p.ttl = raw[9], int(raw[8])
	} else {
		src, _ = netip.AddrFromSlice(raw[8:24])
		dst, _ = netip.AddrFromSlice(raw[24:40])
		proto, p.ttl = raw[6], int(raw[7])
	}
	up := p.upper()
	p.src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(up))
	p.dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(up[2:]))
	switch {
	case proto == 17:
		p.kind = "udp"
	case proto != 6:
		p.kind = "echo"
	case raw[0]>>4 == 4 && raw[6]&0x20 != 0:
		p.kind = "fragment"
	case up[13] == 0x10:
		p.kind = "ack"
	case p.dst.Port() != subjectPort:
		p.kind = "syn"
	case p.src.Port() == heldBy:
		p.kind = "subject"
	default:
		p.kind = "other"
	}
	return p
}

// upper is the probe's transport header and what follows it.
func (p *probe) upper() []byte {
	if p.raw[0]>>4 == 4 {
		return p.raw[20:]
	}
	return p.raw[40:]
}

// carry takes a probe from router to router.
func (c *chain) carry(p *probe) {
	for i, r := range c.routers {
		k := i + 1
		if r.in != nil && c.act(r.in(p), p, k, r.addr) {
			return
		}
		if p.ttl == k {
			r.asked = append(r.asked, p.at)
			switch {
			case r.mute != nil && r.mute(p):
			case !r.token():
				r.silent++
			default:
				c.error(p, k, r.addr, c.expired, 0)
			}
			return
		}
		if r.fwd != nil && c.act(r.fwd(p), p, k, r.addr) {
			return
		}
	}
	h := &c.at
	h.got = append(h.got, p)
	hook := map[string]func(*probe) action{
		"subject": h.subject, "other": h.other, "syn": h.syn, "ack": h.ack, "echo": h.echo, "udp": h.udp, "fragment": h.fragment,
	}[p.kind]
	if hook == nil {
		return
	}
	k := len(c.routers) + 1
	switch a := hook(p); {
	case a == onward && p.ttl == k:
		c.error(p, k, c.family.host, c.expired, 0)
	case a == onward, c.act(a, p, k, c.family.host):
	case p.kind == "echo":
		c.back(p, k, 0, c.echoReply(p))
	case p.kind == "udp":
		c.error(p, k, c.family.host, c.refused, 0)
	case p.kind == "fragment":
		// RFC 1122, section 3.3.2: "an ICMP Time Exceeded message [...] code 1".
		c.error(p, k, c.family.host, icmp{c.expired.typ, 1}, 30*time.Second)
	}
}

// token takes one from a router's limit, where there is one.
func (r *router) token() bool {
	r.tokens = min(6, r.tokens+time.Since(r.filled).Seconds())
	r.filled = time.Now()
	if r.tokens < 1 {
		return false
	}
	r.tokens--
	return true
}

// act does what a device at TTL k wants with a probe. It reports whether that is
// the end of it.
func (c *chain) act(a action, p *probe, k int, from netip.Addr) bool {
	switch a {
	case pass:
		return false
	case reset, synAck:
		c.back(p, k, 0, c.segment(p, a))
	case admin:
		c.error(p, k, from, c.admin, 0)
	case noRoute:
		c.error(p, k, from, c.noRoute, 0)
	case noHost:
		c.error(p, k, from, c.noHost, 3*time.Second)
	}
	return true
}

// An answer is what comes back: its TTL when it was sent, and who gets a copy.
type answer struct {
	from    netip.Addr
	ttl     int
	proto   layers.IPProtocol
	upper   gopacket.SerializableLayer
	payload []byte
	icmp    bool
	unbound bool // no socket gets a copy
	closed  bool // our kernel resets it
}

// back sends an answer from TTL k to us.
func (c *chain) back(p *probe, k int, wait time.Duration, a answer) {
	if c.random.Float64() < c.loss {
		return
	}
	if c.late != nil {
		wait += c.late(p, k)
	}
	rtt := time.Duration(2*k) * ms
	if p.answered == 0 {
		p.answered = p.at + wait + rtt
	}
	raw := c.serialize(a.from, c.us, a.ttl-(k-1)-c.detour, a.proto, a.upper, gopacket.Payload(a.payload))
	events := []rawprobe.Event{{Data: raw, Direction: pcap.Incoming, Interface: ours}}
	if !a.unbound {
		up := (&probe{raw: raw}).upper()
		events = append(events, rawprobe.Event{Data: up, Delivered: true, From: a.from, ICMP: a.icmp})
	}
	if a.closed {
		isn := binary.BigEndian.Uint32(p.upper()[4:])
		rst := c.serialize(p.src.Addr(), p.dst.Addr(), full, layers.IPProtocolTCP,
			&layers.TCP{SrcPort: layers.TCPPort(p.src.Port()), DstPort: layers.TCPPort(p.dst.Port()), Seq: isn + 1, RST: true})
		events = append(events, rawprobe.Event{Data: rst, Direction: pcap.Outgoing, Interface: ours})
	}
	c.arrive(wait+rtt, events...)
}

// error sends an ICMP error from TTL k that quotes the probe as it got there.
func (c *chain) error(p *probe, k int, from netip.Addr, what icmp, wait time.Duration) {
	quote := slices.Clone(p.raw)
	a := answer{from: from, ttl: 255, icmp: true, payload: quote}
	if c.rewrite > 0 && k >= c.rewrite && p.kind == "subject" {
		to := c.router(77).AsSlice()
		at := map[bool]int{true: 16, false: 24}[c.us.Is4()]
		copy(quote[at:], to)
	}
	if c.us.Is4() {
		quote[8] = 1
		a.proto, a.upper = layers.IPProtocolICMPv4, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(uint8(what.typ), uint8(what.code))}
	} else {
		quote[7] = 1
		a.payload = append(make([]byte, 4), quote...)
		a.proto, a.upper = layers.IPProtocolICMPv6, &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(uint8(what.typ), uint8(what.code))}
	}
	c.back(p, k, wait, a)
}

// segment is a reset or a SYN-ACK in the host's name: a right answer.
func (c *chain) segment(p *probe, what action) answer {
	up := p.upper()
	isn, ack := binary.BigEndian.Uint32(up[4:]), binary.BigEndian.Uint32(up[8:])
	tcp := &layers.TCP{SrcPort: layers.TCPPort(p.dst.Port()), DstPort: layers.TCPPort(p.src.Port()), Ack: isn + 1, ACK: true}
	switch {
	case p.kind == "ack":
		*tcp = layers.TCP{SrcPort: tcp.SrcPort, DstPort: tcp.DstPort, Seq: ack, RST: true}
	case what == reset:
		tcp.RST = true
	default:
		tcp.SYN, tcp.Seq, tcp.Window = true, 0x5eed, 65160
		ts := append(binary.BigEndian.AppendUint32(nil, 99), up[28:32]...)
		tcp.Options = []layers.TCPOption{
			{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}},
			{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: ts},
		}
	}
	return answer{from: p.dst.Addr(), ttl: 64, proto: layers.IPProtocolTCP, upper: tcp, closed: tcp.SYN}
}

func (c *chain) echoReply(p *probe) answer {
	up := p.upper()
	a := answer{from: p.dst.Addr(), ttl: 64, unbound: true}
	if c.us.Is4() {
		a.proto, a.payload = layers.IPProtocolICMPv4, up[8:]
		a.upper = &layers.ICMPv4{
			TypeCode: layers.CreateICMPv4TypeCode(0, 0), Id: binary.BigEndian.Uint16(up[4:]), Seq: binary.BigEndian.Uint16(up[6:]),
		}
	} else {
		a.proto, a.payload = layers.IPProtocolICMPv6, up[4:]
		a.upper = &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(129, 0)}
	}
	return a
}

// serialize builds an IP packet with gopacket, checksums included.
func (c *chain) serialize(src, dst netip.Addr, ttl int, proto layers.IPProtocol, upper ...gopacket.SerializableLayer) []byte {
	var ip gopacket.SerializableLayer
	var network gopacket.NetworkLayer
	if dst.Is4() {
		l := &layers.IPv4{Version: 4, TTL: uint8(ttl), Protocol: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		ip, network = l, l
	} else {
		l := &layers.IPv6{Version: 6, HopLimit: uint8(ttl), NextHeader: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
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
	return slices.Clone(buf.Bytes())
}

// of lists the probes of a kind that were stepped; all of them where ttl is 0,
// else those of that TTL, and of full TTL too.
func (c *chain) of(kind string, ttl int) []*probe {
	var list []*probe
	for _, p := range c.probes {
		if p.kind == kind && (ttl == 0 && p.ttl != full || p.ttl == ttl) {
			list = append(list, p)
		}
	}
	return list
}

// deepest is the greatest TTL that a kind of probe was stepped to.
func (c *chain) deepest(kind string) int {
	n := 0
	for _, p := range c.of(kind, 0) {
		n = max(n, p.ttl)
	}
	return n
}

// reached counts the probes of a kind that got past the last router.
func (c *chain) reached(kind string) int {
	n := 0
	for _, p := range c.at.got {
		if p.kind == kind {
			n++
		}
	}
	return n
}

// begun is when the first probe was stepped; false where none was.
func (c *chain) begun() (time.Duration, bool) {
	for _, p := range c.probes {
		if p.ttl != full {
			return p.at, true
		}
	}
	return 0, false
}
