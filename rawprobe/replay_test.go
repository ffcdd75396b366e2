package rawprobe

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"synprobe/pcap"
)

// replayed makes a run's observations again, of its record, written and read,
// and its packets as a capture has them. Every script of this package is
// replayed so.
func replayed(t *testing.T, o *Observations, packets []Seen) {
	t.Helper()
	text, err := json.Marshal(NewRecord(o))
	if err != nil {
		t.Fatalf("write the record: %v", err)
	}
	var c Record
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatalf("read the record: %v", err)
	}
	for i := range packets {
		// A capture does not have these.
		packets[i].Unstamped, packets[i].ChecksumPartial = false, false
	}
	again, err := c.Replay(packets)
	if err != nil {
		t.Fatalf("replay: %v", err)
	}
	want, _ := json.Marshal(o)
	got, _ := json.Marshal(again)
	if string(got) != string(want) {
		t.Errorf("replayed:\n%s\nwas:\n%s", got, want)
	}
}

func TestReplayRefuses(t *testing.T) {
	if _, err := (&Record{Packets: 2}).Replay(make([]Seen, 1)); !errors.Is(err, ErrMissing) {
		t.Errorf("a packet is missing: %v", err)
	}
	if _, err := (&Record{Handed: make([]Handed, maxHanded+1)}).Replay(nil); !errors.Is(err, ErrTooMuch) {
		t.Errorf("a record that no run makes: %v", err)
	}
}

// TestPartialChecksum: what the kernel leaves to hardware is told from damage.
func TestPartialChecksum(t *testing.T) {
	for _, n := range networks {
		whole := serialize(n.host, n.us, 60, layers.IPProtocolTCP, &layers.TCP{SrcPort: 80, DstPort: 4000, Seq: 9, SYN: true, ACK: true})
		at := len(whole) - 20 + 16
		// As __tcp_v4_send_check has it: the sum of the pseudo header, not complemented.
		sum := uint32(6 + 20)
		src, dst := n.host.AsSlice(), n.us.AsSlice()
		for i := 0; i < len(src); i += 2 {
			sum += uint32(src[i])<<8 + uint32(src[i+1]) + uint32(dst[i])<<8 + uint32(dst[i+1])
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		partial := append([]byte(nil), whole...)
		partial[at], partial[at+1] = byte(sum>>8), byte(sum)
		damaged := append([]byte(nil), whole...)
		damaged[at+2]++
		for name, c := range map[string]struct {
			b    []byte
			want bool
		}{"whole": {whole, false}, "partial": {partial, true}, "damaged": {damaged, false}, "cut": {partial[:at+1], false}, "nothing": {nil, false}} {
			if got := partialChecksum(c.b); got != c.want {
				t.Errorf("%s, %s: %v", n.name, name, got)
			}
		}
	}
}

// TestOverhearBounds: what a long capture holds of established connections costs
// nothing, and a scan ends in an error.
func TestOverhearBounds(t *testing.T) {
	n := net4
	segment := func(src, dst netip.Addr, tcp layers.TCP) Event {
		return Event{Data: serialize(src, dst, 64, layers.IPProtocolTCP, &tcp), Time: time.Unix(1, 0), Direction: pcap.Outgoing}
	}
	var c Overhearer
	take := func(ev Event) {
		t.Helper()
		if err := c.Take(ev); err != nil {
			t.Fatal(err)
		}
	}
	take(segment(n.us, n.host, layers.TCP{SrcPort: 4000, DstPort: 80, Seq: 7, SYN: true}))
	take(segment(n.host, n.us, layers.TCP{SrcPort: 80, DstPort: 4000, Seq: 70, Ack: 8, SYN: true, ACK: true}))
	take(segment(n.us, n.host, layers.TCP{SrcPort: 4000, DstPort: 80, Seq: 8, Ack: 71, ACK: true}))
	data := segment(n.host, n.us, layers.TCP{SrcPort: 80, DstPort: 4000, Seq: 71, Ack: 500, ACK: true})
	ack := segment(n.us, n.host, layers.TCP{SrcPort: 4000, DstPort: 80, Seq: 500, Ack: 99, ACK: true})
	for range maxOverheard {
		take(data)
		take(ack)
	}
	if all := c.Attempts(); len(all) != 1 || !all[0].Established || len(c.events) != 3 {
		t.Errorf("%+v, %d packets kept", all, len(c.events))
	}
	var err error
	for i := 0; err == nil && i < 1<<20; i++ {
		err = c.Take(segment(n.us, n.host, layers.TCP{SrcPort: layers.TCPPort(i), DstPort: 80, Seq: uint32(i), SYN: true}))
	}
	if !errors.Is(err, ErrTooMuch) {
		t.Errorf("a scan: %v", err)
	}
}

// TestOverhearIdentification: a quote that ends before the timestamp names a SYN by
// its identification, unless several have the same.
func TestOverhearIdentification(t *testing.T) {
	n, start := net4, time.Unix(1000, 0)
	for _, c := range []struct {
		name   string
		ids    []uint16
		quoted uint16
		want   int // the SYN that it is booked under
		exact  bool
		rtt    time.Duration
	}{
		{"its own", []uint16{7, 8, 9}, 8, 1, true, 1050 * ms},
		{"swapped", []uint16{7, 8, 9}, 0x900, 2, true, 50 * ms},
		{"all 0", []uint16{0, 0, 0}, 0, 2, false, 0},
		{"all 0, and one more", []uint16{0, 0, 0}, 1, 2, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var over Overhearer
			take := func(d time.Duration, dir pcap.Direction, b []byte) {
				if err := over.Take(Event{Data: b, Time: start.Add(d), Direction: dir, Interface: ethIdx}); err != nil {
					t.Fatal(err)
				}
			}
			var quote []byte
			for i, id := range c.ids {
				syn := serialize(n.us, n.host, 64, layers.IPProtocolTCP, &layers.TCP{SrcPort: 4000, DstPort: 80, Seq: 7, SYN: true})
				binary.BigEndian.PutUint16(syn[4:], id)
				quote = append([]byte(nil), syn[:28]...)
				take(time.Duration(i)*time.Second, pcap.Outgoing, syn)
			}
			binary.BigEndian.PutUint16(quote[4:], c.quoted)
			take(2050*ms, pcap.Incoming, icmpPacket(n.router, n.us, 60, n.unreachable, n.admin, append(make([]byte, 4), quote...)))
			o := over.Observe(0)
			if len(o.Replies) != 1 {
				t.Fatalf("%+v", o.Replies)
			}
			if a := o.Replies[0]; a.Probe != c.want || a.Exact != c.exact || a.RTT != c.rtt {
				t.Errorf("booked under %d, exactly: %v, after %v", a.Probe, a.Exact, a.RTT)
			}
		})
	}
}

// TestOverhearCut reads captures of which each packet was cut: the first 20 bytes of
// a TCP header are enough for an attempt and its answer.
func TestOverhearCut(t *testing.T) {
	for _, n := range networks {
		header := map[bool]int{true: ipv4HeaderLen, false: ipv6HeaderLen}[n.us.Is4()]
		p := probe{src: n.us, dst: n.host, sport: 4000, dport: 80, isn: 7, tsval: 5}
		syn := p.synAck().with(func(g *segment) {
			g.src, g.dst, g.sport, g.dport, g.seq, g.ack, g.flags = p.src, p.dst, p.sport, p.dport, p.isn, 0, "S"
		}).packet()
		synAck := p.synAck().packet()
		for kept := header + 19; kept <= len(syn); kept++ {
			var over Overhearer
			for i, b := range [][]byte{syn, synAck} {
				ev := Event{Data: b[:kept], Time: time.Unix(1000, int64(i)*int64(20*ms)), Cut: kept < len(b), Interface: ethIdx, Direction: pcap.Outgoing}
				if i > 0 {
					ev.Direction = pcap.Incoming
				}
				if err := over.Take(ev); err != nil {
					t.Fatal(err)
				}
			}
			all := over.Attempts()
			if kept < header+20 {
				if len(all) != 0 {
					t.Errorf("%s, %d bytes: %+v", n.name, kept, all)
				}
				continue
			}
			if len(all) != 1 || !all[0].Answered {
				t.Fatalf("%s, %d bytes: %+v", n.name, kept, all)
			}
			o := over.Observe(0)
			if told(o) != "syn-ack(subject 1)" || o.Replies[0].Options < 1 || o.Replies[0].RTT != 20*ms {
				t.Errorf("%s, %d bytes: %s, %+v", n.name, kept, told(o), o.Replies)
			}
		}
	}
}

// TestReplayUnstamped: which packets have no stamp of the kernel's is known
// again. play replays the run.
func TestReplayUnstamped(t *testing.T) {
	unstamped := func(ev *Event) { ev.Unstamped = true }
	for _, n := range networks {
		_, o := play(t, n, short, func(s *script) {
			s.syn = func(p probe) []answer { return []answer{p.synAck().after(20 * ms).edit(unstamped)} }
			s.echo = func(p probe) []answer { return []answer{p.echoReply().after(30 * ms)} }
			s.unstamped = true
		})
		if len(o.Replies) != 2 || o.Replies[0].RTT != 0 || o.Replies[1].RTT != 30*ms {
			t.Errorf("%s: %+v", n.name, o.Replies)
		}
	}
}
