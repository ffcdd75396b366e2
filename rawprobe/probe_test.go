package rawprobe

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// reserialise builds a packet again from what gopacket read in it, with
// lengths and checksums of gopacket's own.
func reserialise(t testing.TB, packet []byte) []byte {
	t.Helper()
	first := layers.LayerTypeIPv4
	if packet[0]>>4 == 6 {
		first = layers.LayerTypeIPv6
	}
	g := gopacket.NewPacket(packet, first, gopacket.Default)
	var all []gopacket.SerializableLayer
	for _, l := range g.Layers() {
		if l, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := l.SetNetworkLayerForChecksum(g.NetworkLayer()); err != nil {
				t.Fatal(err)
			}
		}
		switch l := l.(type) {
		case *layers.TCP:
			l.Padding = nil
			all = append(all, l)
		case *layers.ICMPv6:
			// gopacket loses the data of an ICMPv6 echo.
			all = append(all, l, gopacket.Payload(l.Payload))
		case gopacket.SerializableLayer:
			if len(all) < 2 || l.LayerType() == gopacket.LayerTypePayload && g.Layer(layers.LayerTypeICMPv6) == nil {
				all = append(all, l)
			}
		}
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Every probe of a long run is one that gopacket would have built.
func TestProbesAreWhole(t *testing.T) {
	eachFamily(t, func(t *testing.T, n network) {
		s, _ := play(t, n, Options{Tries: 20}, func(*script) {})
		if len(s.probes) != 40 {
			t.Fatalf("%d probes", len(s.probes))
		}
		for _, p := range s.probes {
			if want := reserialise(t, p.raw); !bytes.Equal(p.raw, want) {
				t.Fatalf("%s %d:\n% x\ngopacket's:\n% x", p.kind, p.n, p.raw, want)
			}
			if p.src != n.us || p.dst != n.host || p.ttl != DefaultTTL {
				t.Errorf("%s %d: from %v to %v, TTL %d", p.kind, p.n, p.src, p.dst, p.ttl)
			}
		}
	})
}

// Tries of a flow differ in their identity alone: the IP ID and the timestamp.
func TestIdentity(t *testing.T) {
	eachFamily(t, func(t *testing.T, n network) {
		s, o := play(t, n, Options{Tries: 20}, func(*script) {})
		ids := make(map[uint16]bool)
		labels := make(map[string]uint32)
		var last *probe
		for i := range s.probes {
			p := &s.probes[i]
			if n.us.Is4() {
				if p.id == 0 || ids[p.id] || p.id != o.Sent[i].ID {
					t.Errorf("%s %d: ID %d of %v, recorded %d", p.kind, p.n, p.id, ids, o.Sent[i].ID)
				}
				ids[p.id] = true
			} else {
				if was, ok := labels[p.kind]; p.label == 0 || ok && was != p.label {
					t.Errorf("%s %d: flow label %#x after %#x", p.kind, p.n, p.label, was)
				}
				labels[p.kind] = p.label
			}
			if p.kind != "syn" {
				if p.echoSeq != s.probes[1].echoSeq+uint16(p.n-1) || p.echoID != s.probes[1].echoID || uint16(o.Sent[i].Seq) != p.echoSeq {
					t.Errorf("echo %d has identifier %d, sequence %d", p.n, p.echoID, p.echoSeq)
				}
				continue
			}
			if last != nil && (int32(p.tsval-last.tsval) <= 0 || p.isn != last.isn || p.sport != last.sport || p.dport != last.dport) {
				t.Errorf("after %+v came %+v", last.tcp, p.tcp)
			}
			if p.tsval != o.Sent[i].TSval || p.isn != o.Sent[i].Seq {
				t.Errorf("%+v was recorded as %+v", p.tcp, o.Sent[i])
			}
			last = p
		}
	})
}

// The numbers never take a value that has a meaning of its own.
func TestNumbersWrap(t *testing.T) {
	r := &Run{id: 1<<14 - 2}
	if got := []uint16{r.nextID(), r.nextID(), r.nextID()}; !slices.Equal(got, []uint16{0xfffe, 0x0100, 0x0102}) {
		t.Errorf("IDs %#x", got)
	}
	// None is another one with its bytes swapped, or one more.
	ids := make(map[uint16]bool)
	for range 1 << 14 {
		ids[r.nextID()] = true
	}
	for id := range ids {
		if swapped := id<<8 | id>>8; ids[swapped] || ids[id+1] || ids[0] {
			t.Fatalf("ID %#x is also another's", id)
		}
	}
	at := time.UnixMilli(1<<40 | 1<<32 - 1) // the millisecond before the clock's low half wraps
	r.tsval = uint32(at.UnixMilli()) - 1
	if got := []uint32{r.nextTSval(at), r.nextTSval(at.Add(time.Second)), r.nextTSval(at)}; !slices.Equal(got, []uint32{1<<32 - 1, 999, 1000}) {
		t.Errorf("timestamps %d", got)
	}
}

// With a fixed source port the next run's ISN and timestamps are above the
// last one's, so that nobody takes its SYN for an old one; else the ISN is
// anybody's guess.
func TestNextRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, gap := range []time.Duration{10 * ms, time.Second, time.Hour} {
			fixed := Options{SourcePort: 1234}
			a, b := &Run{opt: fixed}, &Run{opt: fixed}
			a.choose(Flow{})
			time.Sleep(gap)
			b.choose(Flow{})
			if int32(b.isn-a.isn) <= 0 || int32(b.tsval-a.tsval) <= 0 {
				t.Errorf("%v later: ISN %d after %d, timestamp %d after %d", gap, b.isn, a.isn, b.tsval, a.tsval)
			}
		}
		isns := make(map[uint32]bool)
		for range 10 {
			r := &Run{}
			r.choose(Flow{})
			isns[r.isn] = true
		}
		if len(isns) < 9 { // two alike in ten: one in a hundred million
			t.Errorf("ten runs have the ISNs %v", isns)
		}
	})
}

// Other flows have labels of their own, as a rule, and none has none.
func TestFlowLabel(t *testing.T) {
	seen := make(map[uint32]bool)
	for i := range 2 << 20 { // twice as many flows as labels
		p := uint16(i)
		l := flowLabel(Flow{Src: netip.AddrPortFrom(net6.us, p), Dst: netip.AddrPortFrom(net6.host, uint16(port+i>>16))})
		if l == 0 || l > 0xfffff {
			t.Fatalf("flow %d has label %#x", i, l)
		}
		if i < 1000 {
			seen[l] = true
		}
	}
	if len(seen) < 950 {
		t.Errorf("1000 flows share %d labels", len(seen))
	}
	zoned := Flow{Src: netip.MustParseAddrPort("[fe80::1%eth0]:1"), Dst: netip.MustParseAddrPort("[fe80::2%eth0]:2")}
	bare := Flow{Src: withoutZone(zoned.Src), Dst: withoutZone(zoned.Dst)}
	if flowLabel(zoned) != flowLabel(bare) {
		t.Error("the zone, which no router knows, changes the label")
	}
}

// Stamp writes whatever identity it is given into a sound packet.
func FuzzStamp(f *testing.F) {
	f.Add(uint16(1), uint32(2), uint32(3), uint16(4), uint16(5), uint8(64), uint16(1500), false, false)
	f.Add(uint16(65535), uint32(1<<32-1), uint32(0), uint16(0), uint16(0), uint8(1), uint16(0), true, false)
	f.Add(uint16(7), uint32(0), uint32(9), uint16(65535), uint16(80), uint8(255), uint16(65535), true, true)
	f.Fuzz(func(t *testing.T, id uint16, isn, tsval uint32, sport, seq uint16, ttl uint8, mtu uint16, v6, echo bool) {
		n := net4
		if v6 {
			n = net6
		}
		flow := Flow{Src: netip.AddrPortFrom(n.us, sport), Dst: netip.AddrPortFrom(n.host, port)}
		tmpl, err := newSYN(Subject, flow, isn, int(mtu))
		if echo {
			tmpl, err = newEcho(flow, sport, isn)
		}
		if err != nil {
			t.Fatal(err)
		}
		// Stamped twice, so that nothing of the first can be left.
		tmpl.stamp(&Sent{TTL: 99, ID: ^id, TSval: ^tsval, Seq: uint32(^seq)})
		b := tmpl.stamp(&Sent{TTL: int(ttl), ID: id, TSval: tsval, Seq: uint32(seq)})
		if want := reserialise(t, b); !bytes.Equal(b, want) {
			t.Fatalf("stamped:\n% x\ngopacket's:\n% x", b, want)
		}
		p := readProbe(t, b)
		if p.ttl != ttl || !v6 && p.id != id {
			t.Errorf("TTL %d, ID %d became %d, %d", ttl, id, p.ttl, p.id)
		}
		if echo && (p.echoID != sport || p.echoSeq != seq || !hasCookie(p.data, isn)) {
			t.Errorf("echo %d, %d became %d, %d", sport, seq, p.echoID, p.echoSeq)
		}
		if !echo && (p.tsval != tsval || p.isn != isn || p.sport != sport || p.dport != port) {
			t.Errorf("SYN %d, %d became %+v", isn, tsval, p.tcp)
		}
	})
}
