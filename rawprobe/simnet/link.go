package simnet

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/bpf"

	"synprobe/pcap"
	"synprobe/rawprobe"
	"synprobe/rawprobe/netlab"
	"synprobe/rawprobe/wire"
)

// ring is how many events wait for the run, more of which are lost and counted.
const ring = 4096

// link is a node's network as a run on that node sees it. The node's mutex is
// the network's.
type link struct {
	n       *node
	cfg     rawprobe.LinkConfig
	bound   *iface
	held    []netip.AddrPort
	isn     uint32
	filter  *bpf.VM // nil while it does not watch
	events  chan rawprobe.Event
	packets uint64
	drops   uint64
	closed  bool
}

func openLink(n *node, cfg rawprobe.LinkConfig) (*link, error) {
	l := &link{n: n, cfg: cfg, events: make(chan rawprobe.Event, ring)}
	if cfg.Interface != "" {
		if l.bound = n.iface(cfg.Interface); l.bound == nil {
			return nil, fmt.Errorf("interface %q: %w", cfg.Interface, rawprobe.ErrNoInterface)
		}
	}
	return l, nil
}

// lock takes the network's mutex and returns what gives it back.
func (l *link) lock() func() {
	l.n.net.mu.Lock()
	return l.n.net.mu.Unlock
}

// Survey implements rawprobe.Link.
func (l *link) Survey(f rawprobe.Flow) (rawprobe.Machine, error) {
	defer l.lock()()
	n := l.n
	m := rawprobe.Machine{NoneUp: true}
	dst := f.Dst.Addr()
	for _, i := range n.ifaces {
		if i.up && i.carrier() && !i.loopback {
			m.NoneUp = false
		}
		for _, p := range i.addrs {
			l.has(&m, i, p, dst)
		}
		if i.linkLocal.IsValid() {
			l.has(&m, i, netip.PrefixFrom(i.linkLocal, 64), dst)
		}
		if i.loopback {
			for _, p := range n.plan.Addrs {
				if p.IsSingleIP() {
					l.has(&m, i, p, dst)
				}
			}
		}
	}
	src := f.Src.Addr()
	if src.IsValid() && !m.Own(src) {
		return m, fmt.Errorf("source %s: %w", src, rawprobe.ErrNotOurs)
	}
	bound := l.bound
	if bound == nil && dst.Zone() != "" {
		if bound = n.iface(dst.Zone()); bound == nil {
			return m, fmt.Errorf("zone %q: %w", dst.Zone(), rawprobe.ErrNoInterface)
		}
	}
	ask := flow{src: src.WithZone(""), dst: dst.WithZone(""), proto: wire.ProtoTCP, sport: f.Src.Port(), dport: f.Dst.Port(), out: bound}
	r := n.lookup(ask)
	if bound != nil {
		m.Interface, m.Route.Interface = describe(bound), bound.index
	}
	m.Route.Outcome, m.Route.Local, m.Route.Gateway = r.outcome, r.local, r.gateway
	if r.outcome != rawprobe.RouteFound {
		blame(&m)
		return m, nil
	}
	m.Interface, m.Route.Interface = describe(r.out), r.out.index
	m.Route.MTU, m.Route.Source = min(r.out.mtu, 65535), r.src
	if src.IsValid() {
		m.Route.Source = src.WithZone("")
	}
	switch own := m.Route.Source; {
	case !own.IsValid():
		m.Route.Outcome = rawprobe.RouteNoAddress
	case own.Is6() && own.IsLinkLocalUnicast() && !dst.IsLinkLocalUnicast() && r.gateway.IsValid():
		m.Route.Outcome = rawprobe.RouteNoAddress
	case own.Is6() && own.IsLinkLocalUnicast():
		m.Route.Source = own.WithZone(r.out.name)
	}
	raw := n.lookup(flow{src: src.WithZone(""), dst: dst.WithZone(""), out: bound})
	m.Route.ByPort = !r.local && (raw.outcome != m.Route.Outcome || raw.gateway != r.gateway || raw.out != r.out)
	m.Conntrack = n.track.count()
	return m, nil
}

// has adds one of the node's addresses to what the survey knows.
func (l *link) has(m *rawprobe.Machine, i *iface, p netip.Prefix, dst netip.Addr) {
	if p.Addr().Is4() != dst.Is4() {
		return
	}
	m.Addresses = append(m.Addresses, p.Addr())
	if p.Masked().Contains(dst.WithZone("")) && (!i.up || !i.carrier()) && !dst.IsLinkLocalUnicast() {
		m.Down = append(m.Down, describe(i))
	}
}

// blame is the live Link's: no address of the family explains a missing route.
func blame(m *rawprobe.Machine) {
	if m.Route.Outcome != rawprobe.RouteNone || len(m.Down) > 0 || m.NoneUp {
		return
	}
	if !slices.ContainsFunc(m.Addresses, func(a netip.Addr) bool { return !a.IsLoopback() && !(a.Is6() && a.IsLinkLocalUnicast()) }) {
		m.Route.Outcome = rawprobe.RouteNoAddress
	}
}

func describe(i *iface) rawprobe.Interface {
	d := rawprobe.Interface{
		Index: i.index, Name: i.name, Up: i.up, Carrier: i.carrier(), Loopback: i.loopback, Resolves: i.resolves,
	}
	if i.resolves {
		d.Hardware = i.mac
	}
	return d
}

// contrackRoom is nf_conntrack_max where a table was not filled.
const conntrackRoom = 262144

func (t *tracker) count() rawprobe.Conntrack {
	switch {
	case !t.active:
		return rawprobe.Conntrack{}
	case t.full:
		return rawprobe.Conntrack{Count: conntrackRoom, Max: conntrackRoom}
	}
	return rawprobe.Conntrack{Count: len(t.conns) / 2, Max: conntrackRoom}
}

// Hold implements rawprobe.Link.
func (l *link) Hold(src netip.AddrPort) (netip.AddrPort, error) {
	defer l.lock()()
	if src.Port() != 0 {
		if l.n.taken(src.Port()) {
			return src, fmt.Errorf("source port %d: %w", src.Port(), rawprobe.ErrPortInUse)
		}
	} else {
		port := uint16(0)
		for port == 0 || l.n.taken(port) {
			port = uint16(32768 + l.n.net.rand.IntN(60999-32768+1)) // ip_local_port_range
		}
		src = netip.AddrPortFrom(src.Addr(), port)
	}
	l.held = append(l.held, src)
	return src, nil
}

func (n *node) taken(port uint16) bool {
	if _, ok := n.services[port]; ok {
		return true
	}
	for _, l := range n.links {
		for _, h := range l.held {
			if h.Port() == port {
				return true
			}
		}
	}
	return false
}

// Watch implements rawprobe.Link.
func (l *link) Watch(interest pcap.Interest) error {
	defer l.lock()()
	vm, err := bpf.NewVM(interest.Filter())
	if err != nil {
		return fmt.Errorf("assemble filter: %w", err)
	}
	l.filter, l.isn = vm, interest.ISN
	l.n.links = append(l.n.links, l)
	return nil
}

// passes reports whether the run's filter lets a packet through.
func (l *link) passes(b []byte) bool {
	size, err := l.filter.Run(b)
	return err == nil && size > 0
}

func (l *link) emit(ev rawprobe.Event) {
	ev.Time = time.Now()
	l.packets++
	select {
	case l.events <- ev:
	default:
		l.drops++
	}
}

// tap shows a packet to everybody who watches on the node.
func (n *node) tap(i *iface, d pcap.Direction, b []byte, arp bool) {
	for _, l := range n.links {
		if !l.passes(b) {
			continue
		}
		ev := rawprobe.Event{Data: slices.Clone(b), Direction: d, Interface: i.index, Loopback: i.loopback, ARP: arp, ChecksumPartial: i.loopback}
		if i.lower != 0 && d == pcap.Incoming {
			l.emit(rawprobe.Event{Data: ev.Data, Direction: pcap.OtherHost, Interface: i.lower, ARP: arp})
		}
		l.emit(ev)
		if i.lower != 0 && d == pcap.Outgoing {
			l.emit(rawprobe.Event{Data: ev.Data, Direction: d, Interface: i.lower, ARP: arp})
		}
	}
}

// copies hands a packet that passed the local firewall to the raw sockets.
func (n *node) copies(p *packet) {
	for _, l := range n.links {
		if l.cfg.IPv6 != p.v6 || p.proto() != wire.ProtoTCP && !p.isICMP() {
			continue
		}
		u := p.upper()
		switch {
		case !p.v6 && !l.passes(p.b):
			continue
		case p.v6 && p.isICMP() && (len(u) == 0 || u[0] >= 0x80):
			continue // the live Link's socket takes errors only
		case p.v6 && !p.isICMP():
			if t, err := wire.ParseTCP(u); err != nil || t.Ack != l.isn+1 {
				continue
			}
		}
		l.emit(rawprobe.Event{Data: slices.Clone(u), Delivered: true, From: p.src(), ICMP: p.isICMP()})
	}
}

// Events implements rawprobe.Link.
func (l *link) Events() <-chan rawprobe.Event { return l.events }

// Err implements rawprobe.Link.
func (l *link) Err() error { return nil }

// Send implements rawprobe.Link.
func (l *link) Send(b []byte, m *rawprobe.Machine, via *[6]byte) error {
	defer l.lock()()
	p, ok := newPacket(slices.Clone(b))
	if !ok {
		return fmt.Errorf("send: no IP packet")
	}
	p.sumHeader()
	if via != nil {
		return l.refused(l.byIndex(m.Interface.Index).transmit(p, *via))
	}
	// A raw packet is routed without its ports (net/ipv4/raw.c).
	f := flow{src: p.src(), dst: p.dst(), out: l.bound}
	if f.dst.Is6() && f.dst.IsLinkLocalUnicast() {
		f.out = l.byIndex(m.Interface.Index)
	}
	return l.refused(l.n.sendBy(p, l.n.lookup(f)))
}

func (l *link) byIndex(index int) *iface {
	for _, i := range l.n.ifaces {
		if i.index == index {
			return i
		}
	}
	return l.n.lo()
}

func (l *link) refused(r *refusal) error {
	if r == nil {
		return nil
	}
	return &rawprobe.SendError{Reason: r.reason, Err: r}
}

// Ask implements rawprobe.Link.
func (l *link) Ask(m *rawprobe.Machine, target netip.Addr) error {
	defer l.lock()()
	hop := m.Route.NextHop(target).WithZone("")
	src := m.Route.Source.WithZone("")
	i := l.byIndex(m.Interface.Index)
	if hop.Is4() {
		i.sendARP(wire.AppendARPRequest(nil, i.mac, src, hop), broadcast)
		return nil
	}
	p, ok := newPacket(wire.AppendNeighborSolicitation(nil, src, hop, i.mac))
	if !ok {
		return fmt.Errorf("ask: no IP packet")
	}
	_, to := wire.SolicitedNode(hop)
	return l.refused(i.transmit(p, to))
}

// Final implements rawprobe.Link.
func (l *link) Final(m *rawprobe.Machine, target netip.Addr) rawprobe.TapStats {
	defer l.lock()()
	m.Conntrack = l.n.track.count()
	if target.Is4() && l.n.reverse > 0 {
		m.ReversePathFilter = make(map[int]int)
		for _, i := range l.n.ifaces {
			m.ReversePathFilter[i.index] = l.n.reverse
		}
	}
	if e := l.n.neighbors[hop{l.byIndex(m.Interface.Index), m.Route.NextHop(target).WithZone("")}]; e != nil {
		m.Neighbor = e.state
	}
	return rawprobe.TapStats{Packets: l.packets, Drops: l.drops}
}

// Close implements rawprobe.Link.
func (l *link) Close() error {
	defer l.lock()()
	if !l.closed {
		l.closed = true
		l.n.links = slices.DeleteFunc(l.n.links, func(o *link) bool { return o == l })
		close(l.events)
	}
	return nil
}

var _ netlab.Driver = (*Net)(nil)
