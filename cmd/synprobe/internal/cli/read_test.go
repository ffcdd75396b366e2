package cli

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"synprobe/traceroute/diagnose"
)

// Another program's captures, written by gopacket alone.

var (
	clientAddr = netip.MustParseAddr("192.0.2.100")
	serverAddr = netip.MustParseAddr("198.51.100.9")
	routerAddr = netip.MustParseAddr("203.0.113.7")
	begun      = time.Unix(1795000000, 0)
)

const clientISN = 1000

// frame is one packet of a capture.
type frame struct {
	at  time.Duration
	b   []byte
	out bool
}

func serialize(t testing.TB, src, dst netip.Addr, ttl uint8, id uint16, proto layers.IPProtocol, upper ...gopacket.SerializableLayer) []byte {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: ttl, Id: id, Protocol: proto, SrcIP: net.IP(src.AsSlice()), DstIP: net.IP(dst.AsSlice())}
	for _, l := range upper {
		if tcp, ok := l.(*layers.TCP); ok {
			if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
				t.Fatal(err)
			}
		}
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append([]gopacket.SerializableLayer{ip}, upper...)...); err != nil {
		t.Fatal(err)
	}
	return slices.Clone(buf.Bytes())
}

// client is a Linux client's side of an attempt from a port.
type client struct {
	t    testing.TB
	port uint16
	dst  uint16
}

func (c client) syn(at time.Duration, id uint16) frame {
	return frame{at: at, out: true, b: serialize(c.t, clientAddr, serverAddr, 64, id, layers.IPProtocolTCP, &layers.TCP{
		SrcPort: layers.TCPPort(c.port), DstPort: layers.TCPPort(c.dst), Seq: clientISN, SYN: true, Window: 64240,
		Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 0xb4}}},
	})}
}

func (c client) ack(at time.Duration) frame {
	return frame{at: at, out: true, b: serialize(c.t, clientAddr, serverAddr, 64, 9, layers.IPProtocolTCP, &layers.TCP{
		SrcPort: layers.TCPPort(c.port), DstPort: layers.TCPPort(c.dst), Seq: clientISN + 1, Ack: 5001, ACK: true, Window: 64240,
	})}
}

// answer is a segment of the server's that acknowledges the SYN.
func (c client) answer(at time.Duration, flags string) frame {
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(c.dst), DstPort: layers.TCPPort(c.port), Seq: 5000, Ack: clientISN + 1,
		ACK: true, SYN: strings.Contains(flags, "S"), RST: strings.Contains(flags, "R"), Window: 64240,
		Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 0xb4}}},
	}
	return frame{at: at, b: serialize(c.t, serverAddr, clientAddr, 61, 1, layers.IPProtocolTCP, tcp)}
}

// data is a segment of the server's that acknowledges what the client said.
func (c client) data(at time.Duration) frame {
	f := c.answer(at, "")
	binary.BigEndian.PutUint32(f.b[28:], clientISN+500)
	return frame{at: at, b: serializeAgain(c.t, f.b)}
}

// icmp is an error from the router that quotes a packet.
func (c client) icmp(at time.Duration, typ, code uint8, quoted frame) frame {
	return frame{at: at, b: serialize(c.t, routerAddr, clientAddr, 63, 1, layers.IPProtocolICMPv4,
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, code)}, gopacket.Payload(quoted.b[:28]))}
}

func (c client) ping(at time.Duration, reply bool) frame {
	src, dst, ttl, typ := clientAddr, serverAddr, uint8(64), uint8(8)
	if reply {
		src, dst, ttl, typ = serverAddr, clientAddr, 61, 0
	}
	return frame{at: at, out: !reply, b: serialize(c.t, src, dst, ttl, 1, layers.IPProtocolICMPv4,
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, 0), Id: 77, Seq: 1}, gopacket.Payload("12345678abcdefgh"))}
}

// noise is a packet that has nothing to do with anything.
func noise(t testing.TB, at time.Duration) frame {
	return frame{at: at, b: serialize(t, routerAddr, clientAddr, 60, 3, layers.IPProtocolUDP, gopacket.Payload("12345678"))}
}

// A format writes frames as a program would.
type format func(t testing.TB, frames []frame) []byte

func ethernet(tag ...byte) format {
	return func(t testing.TB, frames []frame) []byte {
		return classic(t, layers.LinkTypeEthernet, frames, func(f frame) []byte {
			macs := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
			return append(append(macs, append(slices.Clone(tag), 8, 0)...), f.b...)
		})
	}
}

func classic(t testing.TB, link layers.LinkType, frames []frame, wrap func(frame) []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := pcapgo.NewWriterNanos(&b)
	if err := w.WriteFileHeader(262144, link); err != nil {
		t.Fatal(err)
	}
	for _, f := range frames {
		data := wrap(f)
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: begun.Add(f.at), CaptureLength: len(data), Length: len(data)}, data); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func sll(t testing.TB, frames []frame) []byte {
	return classic(t, layers.LinkTypeLinuxSLL, frames, func(f frame) []byte {
		head := []byte{0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 8, 0}
		if f.out {
			head[1] = 4
		}
		return append(head, f.b...)
	})
}

// sll2 has a link type that does not fit gopacket's.
func sll2(t testing.TB, frames []frame) []byte {
	b := classic(t, layers.LinkTypeNull, frames, func(f frame) []byte {
		head := []byte{8, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0}
		if f.out {
			head[10] = 4
		}
		return append(head, f.b...)
	})
	binary.LittleEndian.PutUint32(b[20:], 276)
	return b
}

func pcapng(t testing.TB, frames []frame) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriter(&b, layers.LinkTypeRaw)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range frames {
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: begun.Add(f.at), CaptureLength: len(f.b), Length: len(f.b)}, f.b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func null(t testing.TB, frames []frame) []byte {
	return classic(t, layers.LinkTypeNull, frames, func(f frame) []byte { return append([]byte{2, 0, 0, 0}, f.b...) })
}

var formats = map[string]format{
	"Ethernet": ethernet(), "VLAN": ethernet(0x81, 0, 0, 7), "SLL": sll, "SLL2": sll2, "pcapng of RAW": pcapng,
}

// explanation is what a JSON answer says, as far as the tests look.
type explanation struct {
	Verdict, Cause, Certainty, Summary string
	Alternatives                       []struct{ Cause string }
	Evidence                           []struct{ Rule, Text string }
	RTT                                *float64 `json:"rtt_ms"`
	Tries, Answered                    int
	Target                             struct{ Address string }
	Error                              *struct{ Kind, Message string }
}

func (e explanation) has(rule string) bool {
	return slices.ContainsFunc(e.Evidence, func(v struct{ Rule, Text string }) bool { return v.Rule == rule })
}

// explain runs -r on standard input.
func explain(t testing.TB, file []byte, args ...string) (explanation, int) {
	t.Helper()
	w := newWorld()
	w.Stdin, w.Explain = bytes.NewReader(file), diagnose.Explain
	w.Probe, w.Usable, w.Owns, w.Interfaces, w.Lookup = nil, nil, nil, nil, nil // -r has no use for them
	code := w.run(append([]string{"--json", "-r", "-"}, args...)...)
	var e explanation
	if err := json.Unmarshal(w.out.Bytes(), &e); err != nil {
		t.Fatalf("exit %d: %v\n%s%s", code, err, &w.out, &w.err)
	}
	return e, code
}

func TestReadForeign(t *testing.T) {
	c := client{t, 40000, 5432}
	other := client{t, 40001, 5432}
	s := time.Second
	ms := time.Millisecond
	silent := []frame{c.syn(0, 1), c.syn(1*s, 2), c.syn(3*s, 3), c.syn(7*s, 4)}
	for _, test := range []struct {
		name   string
		frames []frame
		want   string // verdict, cause, certainty
		exit   int
		tries  int
		check  func(explanation) string
	}{
		{"open", []frame{c.syn(0, 1), c.answer(20*ms, "S"), c.ack(21 * ms)}, "open listening likely", 0, 1, func(e explanation) string {
			if e.RTT == nil || *e.RTT != 20 {
				return "the round trip was 20 ms"
			}
			return ""
		}},
		{"open, with a ping from the same distance", []frame{c.ping(-1*s, false), c.ping(-980*ms, true), c.syn(0, 1), c.answer(20*ms, "S"), c.ack(21 * ms)}, "open listening likely", 0, 1, nil},
		{"reset", []frame{c.syn(0, 1), c.answer(20*ms, "R")}, "reject port-closed likely", 1, 1, nil},
		{"reset, with a ping from the same distance", []frame{c.ping(-1*s, false), c.ping(-980*ms, true), c.syn(0, 1), c.answer(20*ms, "R")}, "reject port-closed likely", 1, 1, nil},
		{"reset, after two SYNs", []frame{c.syn(0, 1), c.syn(1*s, 2), c.answer(1020*ms, "R")}, "reject port-closed likely", 1, 2, func(e explanation) string {
			if e.RTT != nil {
				return "it may answer the first SYN or the second"
			}
			return ""
		}},
		{"refused by a router", []frame{c.syn(0, 1), c.icmp(5*ms, 3, 13, c.syn(0, 1))}, "reject network-firewall certain", 1, 1, nil},
		{"a router can't reach the host, and says so for the first SYN", []frame{c.syn(0, 1), c.syn(1*s, 2), c.syn(3*s, 3), c.icmp(3100*ms, 3, 1, c.syn(0, 1))}, "host-down host-unreachable likely", 4, 3, func(e explanation) string {
			if e.RTT == nil || *e.RTT != 3100 {
				return "it took 3.1 s from the SYN that it quotes"
			}
			return ""
		}},
		{"a router says so at once for the second SYN", []frame{c.syn(0, 1), c.syn(3*s, 2), c.icmp(3005*ms, 3, 1, c.syn(0, 2))}, "host-down host-unreachable likely", 4, 2, func(e explanation) string {
			if e.RTT == nil || *e.RTT != 5 || e.has("searched") {
				return "it took 5 ms from the SYN that it quotes: nobody searched"
			}
			return ""
		}},
		{"silent", append(silent, noise(t, 9*s)), "drop unknown ambiguous", 3, 4, nil},
		{"silent, and the host answers pings", append(slices.Clone(silent), c.ping(4*s, false), c.ping(4020*ms, true), noise(t, 9*s)), "drop unknown ambiguous", 3, 4, func(e explanation) string {
			if !e.has("echo-reply") {
				return "the ping is evidence"
			}
			return ""
		}},
		{"a ping of another hour says nothing", append(slices.Clone(silent), noise(t, 9*s), c.ping(3600*s, false), c.ping(3601*s, true)), "drop unknown ambiguous", 3, 4, func(e explanation) string {
			if e.has("echo-reply") {
				return "the host may have been up then, and down now"
			}
			return ""
		}},
		{"the capture ends early", silent[:1], "drop unknown ambiguous", 3, 1, func(e explanation) string {
			if !strings.Contains(e.Summary, "too short") {
				return "the wait was too short"
			}
			return ""
		}},
		// The client asks again: it did not get the SYN-ACK.
		{"eaten by the client's firewall", []frame{c.syn(0, 1), c.answer(20*ms, "S"), c.syn(1*s, 2), c.answer(1020*ms, "S"), c.syn(3*s, 3), c.answer(3020*ms, "S"), c.syn(7*s, 4)}, "drop local-firewall likely", 3, 4, nil},
		{"data follows", []frame{c.syn(0, 1), c.answer(20*ms, "S"), c.ack(21 * ms), c.data(30 * ms), c.data(40 * ms)}, "open listening likely", 0, 1, func(e explanation) string {
			if e.has("old-connection") || e.has("ignored") {
				return "data of the connection is nothing to remark on"
			}
			return ""
		}},
		{"another attempt was answered", append(slices.Clone(silent), other.syn(8*s, 9), other.answer(8020*ms, "S"), other.ack(8021*ms), noise(t, 10*s)), "drop unknown ambiguous", 3, 4, func(e explanation) string {
			if !e.has("other-attempts") || !slices.ContainsFunc(e.Alternatives, func(a struct{ Cause string }) bool { return a.Cause == "flow-dependent" }) {
				return "it may depend on the port"
			}
			return ""
		}},
		{"a forged reset is not believed", append(slices.Clone(silent), func() frame {
			f := client{t, 40000, 5432}.answer(9*s, "R")
			binary.BigEndian.PutUint32(f.b[28:], 77) // acknowledges nothing of ours
			binary.BigEndian.PutUint16(f.b[36:], 0)  // its checksum
			f.b = serializeAgain(t, f.b)
			return f
		}()), "drop unknown ambiguous", 3, 4, func(e explanation) string {
			if !e.has("ignored") {
				return "it is remarked on"
			}
			return ""
		}},
	} {
		for name, write := range formats {
			t.Run(test.name+"/"+name, func(t *testing.T) {
				e, code := explain(t, write(t, test.frames), "198.51.100.9", "5432")
				if got := e.Verdict + " " + e.Cause + " " + e.Certainty; got != test.want || code != test.exit || e.Tries != test.tries || e.Target.Address != "198.51.100.9" {
					t.Errorf("%s, exit %d, %d tries, want %s, %d, %d: %+v", got, code, e.Tries, test.want, test.exit, test.tries, e)
				}
				if (e.Certainty == "certain") != (len(e.Alternatives) == 0) || !e.has("capture") {
					t.Errorf("%+v", e)
				}
				if test.check != nil {
					if why := test.check(e); why != "" {
						t.Errorf("%s: %+v", why, e)
					}
				}
			})
		}
	}
}

// serializeAgain completes the checksum of a TCP packet that was changed.
func serializeAgain(t testing.TB, b []byte) []byte {
	t.Helper()
	p := gopacket.NewPacket(b, layers.LayerTypeIPv4, gopacket.Default)
	ip, tcp := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4), p.Layer(layers.LayerTypeTCP).(*layers.TCP)
	src, _ := netip.AddrFromSlice(ip.SrcIP)
	dst, _ := netip.AddrFromSlice(ip.DstIP)
	return serialize(t, src, dst, ip.TTL, ip.Id, layers.IPProtocolTCP, &layers.TCP{
		SrcPort: tcp.SrcPort, DstPort: tcp.DstPort, Seq: tcp.Seq, Ack: tcp.Ack, ACK: tcp.ACK, RST: tcp.RST, Window: tcp.Window,
	})
}

// TestReadTwice: a packet that is seen on two interfaces is one.
func TestReadTwice(t *testing.T) {
	c := client{t, 40000, 80}
	s := time.Second
	var twice []frame
	for _, f := range []frame{c.syn(0, 1), c.syn(1*s, 2), c.syn(3*s, 3), noise(t, 5*s)} {
		twice = append(twice, f, f)
	}
	if e, _ := explain(t, sll(t, twice)); e.Tries != 3 {
		t.Errorf("%d tries", e.Tries)
	}
}

// TestReadWindows: another initial TTL is no step of a trace.
func TestReadWindows(t *testing.T) {
	c := client{t, 40000, 80}
	f := c.syn(0, 1)
	f.b[8] = 128
	if e, _ := explain(t, ethernet()(t, []frame{f, c.answer(time.Millisecond, "R")})); e.Verdict != "reject" || e.Tries != 1 {
		t.Errorf("%+v", e)
	}
}

func TestReadLoopback(t *testing.T) {
	b := func(src, dst uint16, seq, ack uint32, flags layers.TCP) []byte {
		flags.SrcPort, flags.DstPort, flags.Seq, flags.Ack = layers.TCPPort(src), layers.TCPPort(dst), seq, ack
		lo := netip.MustParseAddr("127.0.0.1")
		return serialize(t, lo, lo, 64, 0, layers.IPProtocolTCP, &flags)
	}
	frames := []frame{
		{0, b(40000, 81, clientISN, 0, layers.TCP{SYN: true}), true},
		{time.Millisecond, b(81, 40000, 0, clientISN+1, layers.TCP{RST: true, ACK: true}), true},
	}
	e, code := explain(t, null(t, frames))
	if e.Verdict != "reject" || e.Cause != "port-closed" || e.Certainty == "certain" || code != 1 {
		t.Errorf("%+v", e)
	}
}

func TestReadChooses(t *testing.T) {
	a, b, c := client{t, 40000, 80}, client{t, 40001, 81}, client{t, 40002, 82}
	ms := time.Millisecond
	open := []frame{a.syn(0, 1), a.answer(1*ms, "S"), a.ack(2 * ms)}
	closed := []frame{b.syn(10*ms, 1), b.answer(11*ms, "R")}
	silent := []frame{c.syn(20*ms, 1)}
	elsewhere := slices.Clone(silent)
	elsewhere[0].out = false
	for _, test := range []struct {
		name   string
		frames []frame
		args   []string
		exit   int
		want   string // the verdict, or a part of the error
	}{
		{"only one failed", append(slices.Clone(open), closed...), nil, 1, "reject"},
		{"only one at all", open, nil, 0, "open"},
		{"two failed", append(slices.Clone(closed), silent...), nil, 64, "it has SYNs to 2 ports"},
		{"two failed, one is chosen", append(slices.Clone(closed), silent...), []string{"198.51.100.9:82"}, 3, "drop"},
		{"chosen although it worked", append(slices.Clone(open), closed...), []string{"198.51.100.9", "80"}, 0, "open"},
		{"another port", open, []string{"198.51.100.9", "99"}, 64, "there is no SYN to 198.51.100.9:99"},
		{"another host", open, []string{"198.51.100.8", "80"}, 64, "there is no SYN to 198.51.100.8:80"},
		{"a name", open, []string{"db.example.com", "80"}, 64, "names are not looked up"},
		{"no SYN", []frame{a.ack(0), noise(t, ms)}, nil, 64, "there is no SYN in it"},
		{"nothing", nil, nil, 64, "there is no SYN in it"},
		{"captured at the server", elsewhere, nil, 64, "not captured where the connection starts"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e, code := explain(t, sll(t, test.frames), test.args...)
			got := e.Verdict
			if e.Error != nil {
				got = e.Error.Message
			}
			if code != test.exit || !strings.Contains(got, test.want) {
				t.Errorf("exit %d, %s", code, got)
			}
		})
	}
	forwarded := c.syn(0, 1)
	forwarded.b[8] = 61
	if e, code := explain(t, ethernet()(t, []frame{forwarded})); code != 64 || e.Error == nil {
		t.Errorf("a SYN that crossed routers: exit %d, %+v", code, e)
	}
}

func TestReadUnknownLink(t *testing.T) {
	b := sll(t, []frame{noise(t, 0)})
	binary.LittleEndian.PutUint32(b[20:], 147)
	if e, code := explain(t, b); code != exitIO || e.Error == nil || !strings.Contains(e.Error.Message, "link type 147") {
		t.Errorf("exit %d, %+v", code, e)
	}
}

// TestReadEnd: dumpcap says until when it listened, packets or not.
func TestReadEnd(t *testing.T) {
	c := client{t, 40000, 80}
	s := time.Second
	for end, short := range map[time.Duration]bool{3 * s: true, 5 * s: false} {
		var b bytes.Buffer
		w, err := pcapgo.NewNgWriter(&b, layers.LinkTypeRaw)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []frame{c.syn(0, 1), c.syn(1*s, 2), c.syn(3*s, 3)} {
			if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: begun.Add(f.at), CaptureLength: len(f.b), Length: len(f.b)}, f.b); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.WriteInterfaceStats(0, pcapgo.NgInterfaceStatistics{LastUpdate: begun.Add(end), EndTime: begun.Add(end)}); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if e, _ := explain(t, b.Bytes()); strings.Contains(e.Summary, "too short") != short {
			t.Errorf("ended after %v: %s", end, e.Summary)
		}
	}
}

// TestReadCut explains what there is, and says that it is not all.
func TestReadCut(t *testing.T) {
	c := client{t, 40000, 81}
	b := sll(t, []frame{c.syn(0, 1), c.answer(time.Millisecond, "R"), noise(t, time.Second)})
	path := filepath.Join(t.TempDir(), "cut.pcap")
	if err := os.WriteFile(path, b[:len(b)-5], 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld()
	w.Explain = diagnose.Explain
	if code := w.run("-q", "-r", path); code != 1 || w.out.String() != "reject port-closed 198.51.100.9:81\n" || w.err.String() != "synprobe: "+path+": it ends in the middle of a packet\n" {
		t.Errorf("exit %d: %s%s", code, &w.out, &w.err)
	}
}
