package rawprobe

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"synprobe/pcap"
)

// The numbers of the fuzzed run, which the fuzzer can know.
const (
	fuzzISN    = 0x01020304
	fuzzID     = 0x0506
	fuzzEchoID = 0x0708
	fuzzCookie = 0x090a0b0c
	fuzzSeq    = 0x0d0e
)

// fuzzRun is a run that has sent each of its probes twice, and one question.
func fuzzRun(t testing.TB, n network) (*Run, *script) {
	t.Helper()
	s := newScript(t, n)
	s.ask = nil
	r := &Run{
		link: s, obs: &Observations{Target: netip.AddrPortFrom(n.host, port), Machine: s.machine},
		early: make(map[deliveryKey]int), isn: fuzzISN, id: fuzzID, tsval: 1,
	}
	if err := r.open(Flow{Src: netip.AddrPortFrom(n.us, heldSrc), Dst: r.obs.Target}); err != nil {
		t.Fatal(err)
	}
	e := r.echo
	e.id, e.outID, e.cookie, e.seq = fuzzEchoID, fuzzEchoID, fuzzCookie, fuzzSeq
	var err error
	if e.t, err = newEcho(e.flow, e.id, e.cookie); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, st := range r.streams {
			if err := r.send(st, DefaultTTL); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.ask(time.Now()); err != nil {
		t.Fatal(err)
	}
	for len(s.events) > 0 {
		r.handle(<-s.events, time.Now())
	}
	return r, s
}

// The low bits of an event's first byte.
const (
	fuzzDirection = 3
	fuzzDelivered = 1 << 2
	fuzzICMP      = 1 << 3
	fuzzARP       = 1 << 4
	fuzzPartial   = 1 << 5
	fuzzLoopback  = 1 << 6
)

// fuzzEvents writes events in the form that FuzzHandle reads: flags, two bytes
// of length, data.
func fuzzEvents(events ...Event) []byte {
	var b []byte
	for _, ev := range events {
		flags := byte(ev.Direction) & fuzzDirection
		for _, f := range []struct {
			on  bool
			bit byte
		}{{ev.Delivered, fuzzDelivered}, {ev.ICMP, fuzzICMP}, {ev.ARP, fuzzARP}, {ev.ChecksumPartial, fuzzPartial}, {ev.Loopback, fuzzLoopback}} {
			if f.on {
				flags |= f.bit
			}
		}
		b = binary.BigEndian.AppendUint16(append(b, flags), uint16(len(ev.Data)))
		b = append(b, ev.Data...)
	}
	return b
}

// Whatever reaches a run, it does not panic, keeps no more than it must, and
// believes nothing that lacks the numbers of its own packets.
func FuzzHandle(f *testing.F) {
	for i, n := range networks {
		_, s := fuzzRun(f, n)
		syn, echo := s.probes[0], s.probes[1]
		var all []Event
		for _, a := range []answer{
			syn.synAck().answer(), syn.reset().answer(), syn.ownReset(), echo.echoReply().answer(), neighbourAnswer(n),
			syn.icmp(n.router, n.unreachable, n.noHost).answer(), syn.icmp(n.router, n.expired, 0).cut(8).answer(),
			echo.icmp(n.router, n.unreachable, n.admin).cut(8).answer(), syn.icmp(n.router, 5, 1).answer(),
			syn.synAck().with(func(g *segment) { g.flags, g.ack = "A", 1 }).answer(),
		} {
			f.Add(i == 1, fuzzEvents(a.events...))
			all = append(all, a.events...)
		}
		f.Add(i == 1, fuzzEvents(all...))
	}
	f.Fuzz(func(t *testing.T, v6 bool, b []byte) {
		n := net4
		if v6 {
			n = net6
		}
		r, _ := fuzzRun(t, n)
		now := time.Now()
		for len(b) >= 3 {
			size := min(int(binary.BigEndian.Uint16(b[1:])), len(b)-3)
			ev := Event{
				Data: b[3 : 3+size], Time: now, From: n.host, Interface: ethIdx,
				Direction: pcap.Direction(b[0] & fuzzDirection), Delivered: b[0]&fuzzDelivered != 0, ICMP: b[0]&fuzzICMP != 0,
				ARP: b[0]&fuzzARP != 0, ChecksumPartial: b[0]&fuzzPartial != 0, Loopback: b[0]&fuzzLoopback != 0,
			}
			b = b[3+size:]
			before, asked := len(r.obs.Replies), r.obs.Asks[0].Answered
			r.handle(ev, now)
			now = now.Add(time.Millisecond)
			if asked.IsZero() && !r.obs.Asks[0].Answered.IsZero() && !bytes.Contains(ev.Data, n.gateway.AsSlice()) {
				t.Errorf("a neighbour's answer without its address: % x", ev.Data)
			}
			if got := len(r.obs.Replies) - before; got > 1 || got == 1 && (ev.Direction != pcap.Incoming || ev.Delivered || ev.ARP) {
				t.Fatalf("%d answers in %+v", got, ev)
			} else if got == 1 {
				checkOurs(t, r, &r.obs.Replies[before], ev.Data)
			}
			if len(r.early) > maxEarly || len(r.keys) != len(r.obs.Replies) || len(r.obs.Asks) != 1 || len(r.obs.Sent) != 4 {
				t.Fatalf("kept %d early deliveries, %d keys, %d replies", len(r.early), len(r.keys), len(r.obs.Replies))
			}
		}
	})
}

// checkOurs looks for the numbers that make an answer ours anywhere in its
// bytes, so that no parser is trusted.
func checkOurs(t *testing.T, r *Run, a *Reply, data []byte) {
	t.Helper()
	s := &r.obs.Sent[a.Probe]
	number := func(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
	var want [][]byte
	switch a.Kind {
	case SynAck, Reset:
		want = append(want, number(fuzzISN+1), number(uint32(port)<<16|uint32(r.subject.out.Src.Port())))
	case OldAck:
		want = append(want, number(uint32(port)<<16|uint32(r.subject.out.Src.Port())))
	case EchoReply:
		want = append(want, number(fuzzCookie))
	case ICMPError:
		if s.Kind == Echo {
			want = append(want, number(uint32(r.echo.outID)<<16|s.Seq))
			if bytes.Contains(data, number(uint32(r.echo.id)<<16|s.Seq)) {
				return
			}
		} else {
			want = append(want, number(fuzzISN))
		}
	}
	if a.Kind == OldAck || a.Kind == SynAck || a.Kind == Reset {
		// Translation on its way out may have changed the port; the socket's
		// own counts too.
		if sent := number(uint32(s.Flow.Dst.Port())<<16 | uint32(s.Flow.Src.Port())); bytes.Contains(data, sent) {
			want = want[:len(want)-1]
		} else {
			want[len(want)-1] = number(uint32(r.subject.out.Dst.Port())<<16 | uint32(r.subject.out.Src.Port()))
		}
	}
	for _, w := range want {
		if !bytes.Contains(data, w) {
			t.Errorf("%s for %s %d was believed without % x in\n% x", a.Kind, s.Kind, s.Try, w, data)
		}
	}
}
