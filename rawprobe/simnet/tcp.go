package simnet

import (
	"encoding/binary"
	"net/netip"
	"time"

	"synprobe/rawprobe/wire"
)

const (
	// synAckWindow is what Linux offers first on a link of 1500 bytes.
	synAckWindow = 65160
	// synAckRetries and synAckTimeout: net.ipv4.tcp_synack_retries and
	// TCP_TIMEOUT_INIT, which doubles.
	synAckRetries = 5
	synAckTimeout = time.Second
	// repeatLimit is net.ipv4.tcp_invalid_ratelimit.
	repeatLimit = 500 * time.Millisecond
)

// A request is a half-open connection.
type request struct {
	tuple   tuple
	seq     uint32 // the client's
	isn     uint32 // ours
	options wire.TCPOptions
	recent  uint32    // the client's timestamp that counts
	limited time.Time // when a repeated or wrong segment was last answered
}

// tcp takes in a segment for the node itself.
func (n *node) tcp(p *packet) {
	t, err := wire.ParseTCP(p.upper())
	if err != nil {
		return
	}
	id := tupleOf(p)
	service, listens := n.services[t.DstPort]
	req := n.requests[id]
	switch {
	case t.Flags.Has(wire.RST):
		if req != nil && t.Seq == req.seq+1 {
			delete(n.requests, id)
		}
	case req != nil && t.Flags&(wire.SYN|wire.ACK) == wire.SYN:
		n.again(req, &t)
	case listens && service.Full && t.Flags&(wire.SYN|wire.ACK) == wire.SYN:
		// No room in the accept queue (net/ipv4/tcp_input.c, tcp_conn_request).
	case listens && t.Flags&(wire.SYN|wire.ACK) == wire.SYN:
		req := &request{tuple: id, seq: t.Seq, isn: n.net.rand.Uint32(), options: t.Options, recent: t.Options.TSval}
		n.requests[id] = req
		n.synAck(req)
		n.retry(req, 1)
	case !n.habit.Stealth || t.Flags.Has(wire.ACK):
		if r := resetFor(p, n.initialTTL(false)); r != nil {
			_ = n.send(r)
		}
	}
}

// again answers a SYN for a half-open connection (net/ipv4/tcp_minisocks.c,
// tcp_check_req).
func (n *node) again(req *request, t *wire.TCP) {
	if !req.limited.IsZero() && time.Since(req.limited) < repeatLimit {
		return
	}
	req.limited = time.Now()
	old := t.Options.HasTimestamps && int32(t.Options.TSval-req.recent) < 0
	if t.Seq == req.seq && !old {
		n.synAck(req)
		return
	}
	_ = n.send(segmentOf(req.tuple.dst, req.tuple.src, n.initialTTL(false), req.isn+1, req.seq+1, wire.ACK, synAckWindow, nil))
}

func (n *node) synAck(req *request) {
	o := req.options
	_ = n.send(segmentOf(req.tuple.dst, req.tuple.src, n.initialTTL(false), req.isn, req.seq+1, wire.SYN|wire.ACK, synAckWindow,
		synAckOptions(o, req.recent)))
}

// synAckOptions are those of a SYN-ACK, each only where the SYN had it.
func synAckOptions(o wire.TCPOptions, echo uint32) []byte {
	b := []byte{2, 4, 0x05, 0xb4} // MSS 1460
	if o.SACKPermitted {
		b = append(b, 4, 2)
	} else {
		b = append(b, 1, 1)
	}
	if o.HasTimestamps {
		b = append(b, 8, 10)
		b = binary.BigEndian.AppendUint32(b, uint32(time.Now().UnixMilli()))
		b = binary.BigEndian.AppendUint32(b, echo)
	} else {
		b = append(b, 1, 1)
	}
	if o.HasWindowScale {
		b = append(b, 1, 3, 3, 7)
	}
	return b
}

// retry sends the SYN-ACK again while nothing has come of it.
func (n *node) retry(req *request, k int) {
	n.net.after(synAckTimeout<<(k-1), func() {
		switch {
		case n.requests[req.tuple] != req:
		case k > synAckRetries:
			delete(n.requests, req.tuple)
		default:
			n.synAck(req)
			n.retry(req, k+1)
		}
	})
}

// A tuple is the two ends of a connection in one direction. An echo has its
// identifier for ports.
type tuple struct {
	proto    wire.Proto
	src, dst netip.AddrPort
}

func (t tuple) invert() tuple { return tuple{t.proto, t.dst, t.src} }

func tupleOf(p *packet) tuple {
	sport, dport := p.ports()
	if m, ok := p.icmp(); ok {
		sport, dport = m.ID, m.ID
	}
	return tuple{p.proto(), netip.AddrPortFrom(p.src(), sport), netip.AddrPortFrom(p.dst(), dport)}
}
