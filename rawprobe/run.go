package rawprobe

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"synprobe/pcap"
	"synprobe/rawprobe/wire"
)

// Options shape a run. The zero value asks for the defaults.
type Options struct {
	// Source is the address to send from; the zero Addr leaves it to the
	// kernel.
	Source netip.Addr
	// SourcePort is the subject's source port; 0 takes a free one.
	SourcePort uint16
	// Tries is how often the subject is sent before silence is believed; 0
	// means 3. Where controls see loss, more are sent.
	Tries int
	// Timeout is how long a silent target is waited for; 0 means as long as
	// the facts ask for: 3.7 seconds and a round trip, or a second more than
	// all the tries take.
	Timeout time.Duration
	// Watch, where not nil, is told of every packet that the run sends and
	// sees, once the run has judged it, in the run's own goroutine: what it
	// takes of time is the run's. It may keep the packet's bytes.
	Watch func(Seen)
}

// A Run is one diagnosis in progress: it owns the record, sends the probes and
// takes in what the Link sees. All of it happens in one goroutine.
type Run struct {
	link    Link
	opt     Options
	obs     *Observations
	streams []*stream
	subject *stream
	echo    *stream
	others  []*stream // the subject's SYN from other source ports
	ack     *stream
	udp     *stream

	fragment *stream

	// keys holds the delivery key of each reply; early those deliveries that
	// were read before the tap's copy.
	keys  []deliveryKey
	early map[deliveryKey]int
	// copies counts the replies that are alike.
	copies map[copyKey]int

	packets int // how many packets were seen, and sent past the tap

	isn      uint32
	firstACK uint32 // what the first control ACK acknowledges
	id       uint16
	tsval    uint32
}

// Observe finds out what happens to a SYN from this machine to target, and
// records it. Where the context ends first, the record says so and holds what
// is known by then. Errors are failures of our own: what the network answers,
// or does not, is in the record.
func Observe(ctx context.Context, link Link, target netip.AddrPort, opt Options) (*Observations, error) {
	return ObserveWith(ctx, link, target, opt, func(r *Run) Plan { return NewDirect(r) })
}

// A Plan decides what a run sends next, and when enough is known. Step is
// called after every packet, and at the time that it asked to be woken; it
// returns that time, or done. An error ends the run.
type Plan interface {
	Step(now time.Time) (wake time.Time, done bool, err error)
}

// A Settler is a Plan that can say that its verdict stands, and that it only
// waits for a further proof. To be told to stop is then no interruption.
type Settler interface {
	Settled() bool
}

// ObserveWith is Observe by a plan of the caller's.
func ObserveWith(ctx context.Context, link Link, target netip.AddrPort, opt Options, plan func(*Run) Plan) (*Observations, error) {
	r := &Run{
		link:  link,
		opt:   opt,
		obs:   &Observations{Target: target, Start: time.Now()},
		early: make(map[deliveryKey]int),
	}
	defer func() { r.obs.End = time.Now() }()
	ready, err := r.prepare()
	if err != nil || !ready {
		return r.obs, err
	}
	err = r.loop(ctx, plan(r))
	if refused := (*SendError)(nil); errors.As(err, &refused) {
		err = nil // a lost source address: nothing more can be asked
	}
	r.obs.doubtTimes()
	r.obs.packets = r.packets
	r.obs.Tap = link.Final(&r.obs.Machine, target.Addr())
	return r.obs, err
}

// Observations is the record so far. It grows with every packet; it must not
// be changed.
func (r *Run) Observations() *Observations { return r.obs }

// prepare asks the kernel for the route, takes the source port and starts the
// tap. It reports false where this machine can't send at all.
func (r *Run) prepare() (bool, error) {
	target := r.obs.Target
	flow := Flow{Src: netip.AddrPortFrom(r.opt.Source, r.opt.SourcePort), Dst: target}
	m, err := r.link.Survey(flow)
	r.obs.Machine = m
	if err != nil || !sendable(&m) {
		return false, err
	}
	flow.Src, err = r.link.Hold(netip.AddrPortFrom(m.Route.Source, r.opt.SourcePort))
	if err != nil {
		return false, err
	}
	// Once more with the port, since policy rules may look at it.
	if m, err = r.link.Survey(flow); err != nil {
		return false, err
	}
	r.obs.Machine = m
	if !sendable(&m) {
		return false, nil
	}
	r.choose(flow)
	flow = Flow{Src: withoutZone(flow.Src), Dst: withoutZone(flow.Dst)}
	if err := r.open(flow); err != nil {
		return false, err
	}
	return true, r.link.Watch(pcap.Interest{
		Family: family(flow.Dst.Addr()), ISN: r.isn, ACK: r.firstACK, ACKs: maxHanded, Port: flow.Src.Port(), PeerPort: flow.Dst.Port(),
		UDPPorts: []uint16{flow.Src.Port()}, EchoID: r.echo.id, EchoCookie: r.echo.cookie, Neighbors: m.Interface.Resolves,
	})
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return 4
	}
	return 6
}

// sendable reports whether a packet would leave by m's route.
func sendable(m *Machine) bool {
	return m.Route.Outcome == RouteFound && m.Interface.Up && m.Interface.Carrier
}

// isnClock is the period of RFC 9293's clock for initial sequence numbers
// (section 3.4.1): 4 microseconds.
const isnClock = 4 * time.Microsecond

// choose picks the numbers by which answers are known to be ours.
func (r *Run) choose(flow Flow) {
	r.isn = rand.Uint32()
	if r.opt.SourcePort != 0 {
		// The same five-tuple comes again with the next run. Its ISN must
		// have risen by then, or a stateful firewall, and a host that still
		// holds the old connection, take the SYN for an old one (RFC 6528).
		// The random part is shorter than it takes to start a process twice.
		r.isn = uint32(time.Now().UnixNano()/int64(isnClock)) + rand.Uint32N(1<<10)
	}
	r.firstACK = rand.Uint32()
	r.id = uint16(rand.Uint32())
	// A timestamp clock of 1 ms, as Linux's. It rises from run to run too.
	r.tsval = uint32(time.Now().UnixMilli())
}

// open makes the subject's flow and that of its echo.
func (r *Run) open(flow Flow) error {
	t, err := newSYN(Subject, flow, r.isn, r.obs.Machine.Route.MTU)
	if err != nil {
		return err
	}
	r.subject = &stream{kind: Subject, t: t, flow: flow, isn: r.isn, out: flow}
	ends := Flow{Src: netip.AddrPortFrom(flow.Src.Addr(), 0), Dst: netip.AddrPortFrom(flow.Dst.Addr(), 0)}
	e := &stream{
		kind: Echo, flow: ends, out: ends,
		id: uint16(rand.Uint32()), cookie: rand.Uint32(), seq: uint16(rand.Uint32()),
	}
	e.outID = e.id
	if e.t, err = newEcho(ends, e.id, e.cookie); err != nil {
		return err
	}
	r.echo = e
	r.obs.echoID, r.obs.echoCookie = e.id, e.cookie
	r.streams = []*stream{r.subject, r.echo}
	return nil
}

// maxDrain bounds how many packets are taken in between two decisions.
const maxDrain = 2 * eventQueue

// eventQueue bounds what waits for a run between the readers and it. The tap's
// own buffer holds more, and counts what it loses.
const eventQueue = 256

func (r *Run) loop(ctx context.Context, p Plan) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	events := r.link.Events()
	for {
		// What has arrived by now comes before any decision about now; a flood
		// must not keep the decision from being made.
		for more := maxDrain; more > 0; more-- {
			select {
			case ev, ok := <-events:
				if !ok {
					return r.link.Err()
				}
				r.handle(ev, time.Now())
			default:
				more = 0
			}
		}
		if ctx.Err() != nil {
			s, ok := p.(Settler)
			r.obs.Interrupted = !ok || !s.Settled()
			return nil
		}
		r.obs.End = time.Now()
		wake, done, err := p.Step(r.obs.End)
		if err != nil || done {
			return err
		}
		timer.Reset(time.Until(wake))
		select {
		case ev, ok := <-events:
			if !ok {
				return r.link.Err()
			}
			r.handle(ev, time.Now())
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// send sends one probe of a flow and records it. It is recorded before it is
// sent, since its answer can come within the call.
func (r *Run) send(st *stream, ttl int) error {
	n := len(st.probes)
	s := Sent{Kind: st.kind, Try: r.try(st, ttl), TTL: ttl, Flow: st.flow, Seq: st.isn, ID: r.nextID(), Time: time.Now(), after: r.packets}
	switch st.kind {
	case Echo:
		s.Seq = uint32(st.seq + uint16(n))
	case ControlACK:
		// Its reset carries our own acknowledgement, which so names it.
		s.Seq, s.Ack = st.isn+1, st.ack+uint32(n)
	case ControlUDP:
		s.Flow.Dst = netip.AddrPortFrom(s.Flow.Dst.Addr(), s.Flow.Dst.Port()+uint16(n))
	default:
		s.TSval = r.nextTSval(s.Time)
	}
	packet := st.t.stamp(&s)
	i := len(r.obs.Sent)
	r.obs.Sent = append(r.obs.Sent, s)
	st.probes = append(st.probes, i)
	err := r.link.Send(packet, &r.obs.Machine, r.via())
	var refused *SendError
	if errors.As(err, &refused) {
		r.obs.Sent[i].Refused = refused.Reason
		r.tell(Seen{Event: Event{Data: append([]byte(nil), packet...), Time: s.Time, Direction: pcap.Outgoing}, What: ProbeRefused, Probe: r.obs.Sent[i]})
		return nil
	}
	if err != nil {
		return fmt.Errorf("send %s probe: %w", st.kind, err)
	}
	return nil
}

// try counts the probes of a flow with one TTL.
func (r *Run) try(st *stream, ttl int) int {
	n := 1
	for _, i := range st.probes {
		if r.obs.Sent[i].TTL == ttl {
			n++
		}
	}
	return n
}

// via is the link-layer address to send to where the IP stack would take
// another route for a raw packet than for the subject's connection, else nil.
func (r *Run) via() *[6]byte {
	if !r.obs.Machine.Route.ByPort {
		return nil
	}
	if !r.obs.Machine.Interface.Resolves {
		return new([6]byte) // a link without addresses
	}
	for i := range r.obs.Asks {
		if !r.obs.Asks[i].Answered.IsZero() {
			return &r.obs.Asks[i].Hardware
		}
	}
	return nil
}

// nextID gives each IPv4 packet another identification. Never 0: the kernel
// would fill in its own (net/ipv4/raw.c, raw_send_hdrinc). The high byte is odd
// and the low one even, so that none is another with its bytes swapped, or one
// more, as some routers quote them.
func (r *Run) nextID() uint16 {
	r.id++
	return r.id>>7<<9 | 1<<8 | r.id&0x7f<<1
}

// nextTSval gives each SYN another timestamp, never an older one: a receiver
// takes a segment whose timestamp fell for an old duplicate (RFC 7323, section
// 5.3).
func (r *Run) nextTSval(now time.Time) uint32 {
	if ms := uint32(now.UnixMilli()); int32(ms-r.tsval) > 0 {
		r.tsval = ms
	} else {
		r.tsval++
	}
	return r.tsval
}

// ask asks the next hop for its link-layer address.
func (r *Run) ask(now time.Time) error {
	err := r.link.Ask(&r.obs.Machine, r.obs.Target.Addr())
	var refused *SendError
	if errors.As(err, &refused) {
		return nil // it was not asked: no silence follows from it
	}
	if err != nil {
		return err
	}
	r.obs.Asks = append(r.obs.Asks, Ask{Time: now})
	r.asked()
	return nil
}

// asked shows our own request to who watches. It went past the tap, which is
// not shown what its own socket sends (Link.Ask, pcap.Listener.Send).
func (r *Run) asked() {
	m, a := &r.obs.Machine, &r.obs.Asks[len(r.obs.Asks)-1]
	r.packets++
	a.number = r.packets
	src, hop := m.Route.Source.WithZone(""), r.nextHop().WithZone("")
	ev := Event{Time: a.Time, Direction: pcap.Outgoing, Interface: m.Route.Interface, Hardware: m.Interface.Hardware}
	if ev.ARP = hop.Is4(); ev.ARP {
		ev.Data = wire.AppendARPRequest(nil, m.Interface.Hardware, src, hop)
	} else {
		ev.Data = wire.AppendNeighborSolicitation(nil, src, hop, m.Interface.Hardware)
	}
	r.tell(Seen{Event: ev, Number: r.packets, What: Asked})
}

func (r *Run) nextHop() netip.Addr {
	return r.obs.Machine.Route.NextHop(r.obs.Target.Addr())
}

func withoutZone(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().WithZone(""), a.Port())
}
