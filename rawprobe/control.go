package rawprobe

import "net/netip"

// The probes that a plan sends beside the subject's full-TTL tries. Each call
// sends one packet and records it. TTL DefaultTTL reaches the host; a smaller
// one asks the router at that distance to speak up.

// udpFirstPort is traceroute's customary first port, where nothing listens.
const udpFirstPort = 33434

// SendSubject sends the subject's SYN: same five-tuple, same initial sequence
// number, whatever the TTL.
func (r *Run) SendSubject(ttl int) error { return r.send(r.subject, ttl) }

// SendEcho sends an ICMP echo request.
func (r *Run) SendEcho(ttl int) error { return r.send(r.echo, ttl) }

// SendACK sends a bare ACK on the subject's five-tuple.
func (r *Run) SendACK(ttl int) error {
	if r.ack == nil {
		t, err := newACK(r.subject.flow, r.isn)
		if err != nil {
			return err
		}
		r.ack = &stream{kind: ControlACK, t: t, flow: r.subject.flow, out: r.subject.out, isn: r.isn, ack: r.firstACK}
		r.streams = append(r.streams, r.ack)
	}
	return r.send(r.ack, ttl)
}

// SendFragment sends the subject's SYN as a lone first fragment, in IPv4.
func (r *Run) SendFragment() error {
	if r.fragment == nil {
		t, err := newFragment(r.subject.flow, r.isn, r.obs.Machine.Route.MTU)
		if err != nil {
			return err
		}
		r.fragment = &stream{kind: Fragment, t: t, flow: r.subject.flow, out: r.subject.out, isn: r.isn}
		// Before the subject, whose quotes resemble this one's.
		r.streams = append([]*stream{r.fragment}, r.streams...)
	}
	return r.send(r.fragment, DefaultTTL)
}

// SendUDP sends a datagram to a port where nothing is expected to listen.
func (r *Run) SendUDP(ttl int) error {
	if r.udp == nil {
		flow := r.subject.flow
		flow.Dst = netip.AddrPortFrom(flow.Dst.Addr(), udpFirstPort)
		t, err := newUDP(flow)
		if err != nil {
			return err
		}
		r.udp = &stream{kind: ControlUDP, t: t, flow: flow, out: flow}
		r.streams = append(r.streams, r.udp)
	}
	return r.send(r.udp, ttl)
}

// SendSYN sends a SYN to another port of the host, from a source port of its
// own each time, since a bare reset can't be told from the next one's.
func (r *Run) SendSYN(port uint16, ttl int) error {
	src, err := r.link.Hold(netip.AddrPortFrom(r.obs.Machine.Route.Source, 0))
	if err != nil {
		return err
	}
	flow := Flow{Src: withoutZone(src), Dst: netip.AddrPortFrom(r.subject.flow.Dst.Addr(), port)}
	t, err := newSYN(ControlSYN, flow, r.isn, r.obs.Machine.Route.MTU)
	if err != nil {
		return err
	}
	st := &stream{kind: ControlSYN, t: t, flow: flow, isn: r.isn, out: flow}
	r.streams = append(r.streams, st)
	return r.send(st, ttl)
}

// OtherFlows is how many flows beside the subject's are open.
func (r *Run) OtherFlows() int { return len(r.others) }

// SendOther sends the subject's SYN on another flow, the i-th from 0; the one
// after the last opens a new source port.
func (r *Run) SendOther(i, ttl int) error {
	if i >= len(r.others) {
		if _, err := r.newFlow(); err != nil {
			return err
		}
		i = len(r.others) - 1
	}
	return r.send(r.others[i], ttl)
}

// Conclusive returns the answer to the subject that ends its tries, nil while
// there is none. That a stepped probe expired on the way is no such answer.
func (r *Run) Conclusive() *Reply { return r.conclusive() }
