package traceroute

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"synprobe/rawprobe"
)

var (
	fuzzKinds = []rawprobe.ProbeKind{
		rawprobe.Subject, rawprobe.Echo, rawprobe.OtherFlow, rawprobe.ControlACK, rawprobe.ControlSYN, rawprobe.ControlUDP, rawprobe.Fragment,
	}
	fuzzReplies  = []rawprobe.ReplyKind{rawprobe.SynAck, rawprobe.Reset, rawprobe.OldAck, rawprobe.EchoReply, rawprobe.ICMPError}
	fuzzRefusals = []rawprobe.Refusal{rawprobe.NotRefused, rawprobe.NotRefused, rawprobe.NotRefused, rawprobe.RefusedByFirewall}
)

// The flags of a fuzzed packet's fourth byte.
const (
	fuzzReply = 1 << iota
	fuzzExact
	fuzzTranslated
	fuzzLate
	fuzzV6
)

// fuzzPacket is one packet of a fuzzed record: what it is, its TTL or the
// probe that it answers, who sent it, flags.
func fuzzPacket(what, at, who, flags byte) []byte { return []byte{what, at, who, flags} }

// fuzzRecord makes observations of four bytes a packet.
func fuzzRecord(data []byte) *rawprobe.Observations {
	f := ipv4
	if len(data) > 0 && data[0]&1 == 1 {
		f = ipv6
	}
	r := newRecord(f)
	r.o.End = start.Add(time.Second)
	for data = data[min(1, len(data)):]; len(data) >= 4; data = data[4:] {
		what, at, who, flags := int(data[0]), int(data[1]), int(data[2]), data[3]
		addr := f.host
		switch {
		case flags&fuzzV6 != 0:
			addr = netip.MustParseAddr("2001:db8::99") // of either family
		case who > 0:
			addr = f.router(who % 100)
		}
		if flags&fuzzReply == 0 {
			r.sent(fuzzKinds[what%len(fuzzKinds)], at-4, func(s *rawprobe.Sent) {
				s.Refused = fuzzRefusals[who>>4%len(fuzzRefusals)]
				s.Flow.Src = netip.AddrPortFrom(f.us, ourPort+uint16(who&3))
				s.Flow.Dst = netip.AddrPortFrom(f.host, uint16(who&7))
				if flags&fuzzTranslated != 0 {
					s.Departed = &rawprobe.Departure{Flow: rawprobe.Flow{Src: s.Flow.Src, Dst: netip.AddrPortFrom(addr, 1)}}
				}
				if flags&fuzzLate != 0 {
					s.Time = r.o.End.Add(time.Duration(who) * ms)
				}
			})
			continue
		}
		// Some probes that there are not, at either end.
		r.reply(at-2, fuzzReplies[what&7%len(fuzzReplies)], addr, func(a *rawprobe.Reply) {
			a.Exact = flags&fuzzExact != 0
			a.Type, a.Code, a.TTL, a.RTT = what>>3&15, who&15, who, time.Duration(what-1)*ms
			if a.Kind == rawprobe.ICMPError && flags&fuzzTranslated != 0 {
				a.Type, a.Code = f.expired.typ, f.expired.code
			}
		})
	}
	return r.o
}

// FuzzRead reads whatever a record can hold. No record makes it panic, and no
// path contradicts itself.
func FuzzRead(f *testing.F) {
	// A drop behind hop 2 of a host at 3, and a reset in its name there.
	drop := []byte{0}
	for _, p := range [][]byte{
		fuzzPacket(0, 68, 0, 0), fuzzPacket(0, 5, 0, 0), fuzzPacket(0, 6, 0, 0), fuzzPacket(1, 5, 0, 0), fuzzPacket(1, 7, 0, 0),
		fuzzPacket(4, 3, 1, fuzzReply|fuzzExact|fuzzTranslated), fuzzPacket(4, 5, 1, fuzzReply|fuzzExact|fuzzTranslated), fuzzPacket(3, 6, 0, fuzzReply|fuzzExact),
	} {
		drop = append(drop, p...)
	}
	f.Add(drop)
	f.Add(append(append([]byte{1}, drop[1:]...), fuzzPacket(1, 4, 0, fuzzReply|fuzzExact)...))
	f.Add(append(slices.Clone(drop), fuzzPacket(0, 2, 0, fuzzReply)...)) // the full TTL is answered
	f.Fuzz(func(t *testing.T, data []byte) {
		o := fuzzRecord(data)
		sound(t, Read(o))
		for port := range uint16(4) {
			sound(t, ReadFlow(o, ourPort+port))
		}
		if l := Loss(o); !(l >= 0 && l < 1) { // of something that was answered at least once
			t.Errorf("loss %v", l)
		}
	})
}

// sound checks what is true of every path.
func sound(t *testing.T, p Path) {
	t.Helper()
	if len(p.Hops) > MaxHops {
		t.Errorf("%d hops", len(p.Hops))
	}
	if p.Depth < 0 || p.Depth > len(p.Hops) {
		t.Errorf("depth %d of %d hops", p.Depth, len(p.Hops))
	}
	if i := slices.Index(p.Names, "subject"); i > 0 {
		t.Errorf("the subject comes after %q", p.Names[:i])
	}
	for i := range p.Hops {
		h := &p.Hops[i]
		if h.TTL != i+1 || h.Host != (h.TTL == p.Depth) || p.Hop(h.TTL) != h || h.RTT < 0 {
			t.Errorf("hop %d: %+v", i+1, h)
		}
		for k, a := range h.Addrs {
			if slices.Contains(h.Addrs[:k], a) {
				t.Errorf("hop %d has %v twice", h.TTL, a)
			}
		}
		for name, q := range h.Probes {
			ok := q.Got <= q.Tries
			switch q.Status {
			case NotSent:
				ok = ok && q.Tries == 0
			case Silent:
				ok = ok && q.Tries > 0 && q.Got == 0 && len(q.Addrs) == 0 && !q.InName
			case Passes, Answers, Rejects:
				ok = ok && q.Got > 0
			default:
				ok = false
			}
			if !ok || q.RTT < 0 {
				t.Errorf("hop %d, %s: %+v", h.TTL, name, q)
			}
			if q.Status == Passes && p.Last(name) < h.TTL {
				t.Errorf("%s passed hop %d, and %d is the last", name, h.TTL, p.Last(name))
			}
			if q.Status == Passes {
				for _, a := range q.Addrs {
					if ttl := p.Find(a); ttl == 0 {
						t.Errorf("%v of hop %d is found nowhere", a, h.TTL)
					}
				}
			}
		}
	}
}
