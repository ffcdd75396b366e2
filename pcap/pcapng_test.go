package pcap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// fileTime has nanoseconds that are lost in any coarser unit.
var fileTime = time.Unix(1795000000, 123456789)

// echoRequest is an IPv4 packet that a dissector has nothing to say against.
func echoRequest(t testing.TB) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: []byte{10, 0, 0, 1}, DstIP: []byte{10, 0, 0, 2}},
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 7, Seq: 1}, gopacket.Payload("12345678"))
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func arpRequest() []byte {
	return append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, make([]byte, 20)...)
}

// written is a file with one of everything, and what it holds.
func written(t testing.TB) (file []byte, section Section, packets []Captured, end Statistics) {
	t.Helper()
	section = Section{Hardware: "amd64", OS: "linux 6.1", Application: "synprobe devel", Comment: "synprobe -w x 10.0.0.2 80"}
	packets = []Captured{
		{Packet: Packet{Data: echoRequest(t), Time: fileTime, Stamped: true, Direction: Outgoing, EtherType: EtherTypeIPv4}, ID: 1<<32 | 1, Comment: "icmp-echo, try 1"},
		{Packet: Packet{Data: arpRequest(), Time: fileTime.Add(1), Stamped: true, Direction: Incoming, EtherType: EtherTypeARP, LinkAddr: [8]byte{2, 0, 0, 0, 0, 9}, LinkAddrLen: 6}, Comment: "größer als ASCII"},
		{Packet: Packet{Data: echoRequest(t), Time: fileTime.Add(2), Stamped: true, Interface: 1, Direction: OtherHost, EtherType: EtherTypeIPv4}, ID: 3},
		{Packet: Packet{Data: echoRequest(t)[:21], Length: 1400, Time: fileTime.Add(3), Stamped: true, Interface: 1, EtherType: EtherTypeIPv4}, Loopback: true},
	}
	end = Statistics{Interface: 1, Time: fileTime.Add(9), Start: fileTime, End: fileTime.Add(9), Received: 4, Dropped: 1, Comment: `{"verdict":"open"}` + strings.Repeat("é", 70000)}
	var b bytes.Buffer
	w, err := NewWriter(&b, section)
	if err != nil {
		t.Fatal(err)
	}
	for want, i := range []FileInterface{{Name: "eth0"}, {Name: "lo", Description: "the second"}} {
		if got, err := w.AddInterface(i); got != want || err != nil {
			t.Fatalf("interface %d: %d, %v", want, got, err)
		}
	}
	for i := range packets {
		if err := w.WritePacket(&packets[i]); err != nil {
			t.Fatal(err)
		}
		packets[i].Length = max(packets[i].Length, len(packets[i].Data))
	}
	if err := w.WriteStatistics(end); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), section, packets, end
}

// readAll reads a file to its end.
func readAll(file []byte) (packets []Captured, f *Reader, err error) {
	f, err = NewReader(bytes.NewReader(file))
	if err != nil {
		return nil, f, err
	}
	for {
		var p Captured
		switch err := f.Read(&p); {
		case errors.Is(err, io.EOF):
			return packets, f, nil
		case err != nil:
			return packets, f, err
		}
		packets = append(packets, p)
	}
}

func TestFileRoundTrip(t *testing.T) {
	file, _, packets, end := written(t)
	got, f, err := readAll(file)
	if err != nil || f.Cut() {
		t.Fatalf("%v, cut %v", err, f.Cut())
	}
	if d := cmp.Diff(packets, got); d != "" {
		t.Errorf("packets: %s", d)
	}
	if d := cmp.Diff([]Statistics{end}, f.Statistics()); d != "" {
		t.Errorf("statistics: %s", d)
	}
	if a, b := f.Interface(0), f.Interface(1); a.Name != "eth0" || b.Name != "lo" || b.Description != "the second" {
		t.Errorf("interfaces %+v, %+v", a, b)
	}
}

// TestFileCut reads a file cut off at each byte: what stands before the cut is there, and nothing of what comes behind.
func TestFileCut(t *testing.T) {
	file, _, packets, end := written(t)
	whole := len(file) - len(end.Comment) // cuts within the long comment are all alike
	seen := 0
	for n := 4; n < whole; n++ {
		got, f, err := readAll(file[:n])
		if err != nil && !(errors.Is(err, ErrNoCapture) && seen == 0) {
			t.Fatalf("cut at %d: %v", n, err)
		}
		if err != nil {
			continue
		}
		if len(got) < seen || len(got) > len(packets) {
			t.Fatalf("cut at %d: %d packets", n, len(got))
		}
		seen = len(got)
		if d := cmp.Diff(packets[:seen], got[:seen:seen]); seen > 0 && d != "" {
			t.Fatalf("cut at %d: %s", n, d)
		}
		if len(f.Statistics()) > 0 {
			t.Fatalf("cut at %d: statistics", n)
		}
	}
	if seen != len(packets) {
		t.Errorf("saw %d of %d packets", seen, len(packets))
	}
}

// TestFileUnreadable reads a file that can't be read any further from some byte on: that is no end of it, wherever it is.
func TestFileUnreadable(t *testing.T) {
	file, _, _, end := written(t)
	broken := errors.New("input/output error")
	for n := range len(file) - len(end.Comment) {
		f, err := NewReader(io.MultiReader(bytes.NewReader(file[:n]), iotest.ErrReader(broken)))
		for err == nil {
			err = f.Read(new(Captured))
		}
		if !errors.Is(err, broken) || f != nil && f.Cut() {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
}

// TestFileOracle reads what is written with gopacket's reader, which shares no code with the writer.
func TestFileOracle(t *testing.T) {
	file, section, packets, end := written(t)
	r, err := pcapgo.NewNgReader(bytes.NewReader(file), pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	if s := r.SectionInfo(); s.Hardware != section.Hardware || s.OS != section.OS || s.Application != section.Application || s.Comment != section.Comment {
		t.Errorf("section %+v", s)
	}
	for i := range packets {
		data, ci, err := r.ReadPacketData()
		if err != nil {
			t.Fatal(err)
		}
		want := &packets[i]
		if !ci.Timestamp.Equal(want.Time) || ci.InterfaceIndex != want.Interface || ci.Length != want.Length+sllLen || ci.AncillaryData[0] != layers.LinkTypeLinuxSLL {
			t.Errorf("packet %d: %+v", i, ci)
		}
		p := gopacket.NewPacket(data, layers.LayerTypeLinuxSLL, gopacket.NoCopy)
		sll, ok := p.LinkLayer().(*layers.LinuxSLL)
		if !ok || uint16(sll.EthernetType) != want.EtherType || !bytes.Equal(sll.Payload, want.Data) {
			t.Errorf("packet %d: %v", i, p)
		}
	}
	if _, _, err := r.ReadPacketData(); !errors.Is(err, io.EOF) {
		t.Errorf("then %v", err)
	}
	last, err := r.Interface(1)
	if err != nil {
		t.Fatal(err)
	}
	// Of several comments it keeps the last.
	if s := last.Statistics; s.PacketsReceived != end.Received || s.PacketsDropped != end.Dropped || !s.EndTime.Equal(end.End) || !strings.HasSuffix(end.Comment, s.Comment) || s.Comment == "" {
		t.Errorf("statistics: %d received, %d dropped, end %v", s.PacketsReceived, s.PacketsDropped, s.EndTime)
	}
}

// TestFileTools lets tshark and tcpdump read what is written.
func TestFileTools(t *testing.T) {
	file, _, packets, _ := written(t)
	path := filepath.Join(t.TempDir(), "x.pcapng")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		argv []string
		want []string // in the output
	}{
		{[]string{"tshark", "-n", "-r", path, "-T", "fields", "-e", "frame.interface_name", "-e", "frame.packet_flags_direction", "-e", "frame.comment", "-e", "_ws.malformed"},
			[]string{"eth0\t0x00000002\ticmp-echo, try 1\t\n", "eth0\t0x00000001\tgrößer als ASCII\t\n"}},
		{[]string{"tcpdump", "-n", "-r", path, "icmp"}, []string{"10.0.0.1 > 10.0.0.2: ICMP echo request, id 7, seq 1"}},
	} {
		t.Run(c.argv[0], func(t *testing.T) {
			if _, err := exec.LookPath(c.argv[0]); err != nil {
				t.Skipf("NOT TESTED: %s is not installed", c.argv[0])
			}
			var out, errs bytes.Buffer
			cmd := exec.Command(c.argv[0], c.argv[1:]...)
			cmd.Stdout, cmd.Stderr = &out, &errs
			cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v: %s", err, &errs)
			}
			for line := range strings.Lines(errs.String()) {
				if !strings.HasPrefix(line, "Running as user") && !strings.HasPrefix(line, "reading from file") && !strings.HasPrefix(line, "Warning: interface names might be incorrect") {
					t.Errorf("it complains: %s", line)
				}
			}
			for _, w := range c.want {
				if !strings.Contains(out.String(), w) {
					t.Errorf("no %q in:\n%s", w, &out)
				}
			}
			if c.argv[0] == "tshark" && strings.Count(out.String(), "\n") != len(packets) {
				t.Errorf("%d lines", strings.Count(out.String(), "\n"))
			}
		})
	}
}

// TestForeignLinks reads files that gopacket wrote, with each link type that is understood.
func TestForeignLinks(t *testing.T) {
	ip := echoRequest(t)
	mac := []byte{2, 0, 0, 0, 0, 1}
	ether := func(types ...byte) []byte {
		return append(append(append(append([]byte{}, 2, 0, 0, 0, 0, 2), mac...), types...), ip...)
	}
	for _, c := range []struct {
		name  string
		link  uint16
		frame []byte
		want  Direction
		loop  bool
		none  bool // not understood
	}{
		{name: "Ethernet", link: 1, frame: ether(8, 0)},
		{name: "VLAN", link: 1, frame: ether(0x81, 0, 0, 5, 8, 0)},
		{name: "QinQ", link: 1, frame: ether(0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 8, 0)},
		{name: "802.3", link: 1, frame: ether(0, 60), none: true},
		{name: "short", link: 1, frame: ether()[:13], none: true},
		{name: "SLL out", link: 113, frame: append([]byte{0, 4, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 8, 0}, ip...), want: Outgoing},
		{name: "SLL in on lo", link: 113, frame: append([]byte{0, 0, 3, 4, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0}, ip...), want: Incoming, loop: true},
		{name: "SLL other", link: 113, frame: append([]byte{0, 3, 0, 1, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0}, ip...), want: OtherHost},
		{name: "SLL2", link: 276, frame: append([]byte{8, 0, 0, 0, 0, 0, 0, 7, 0, 1, 4, 6, 2, 0, 0, 0, 0, 1, 0, 0}, ip...), want: Outgoing},
		{name: "RAW", link: 101, frame: ip},
		{name: "BSD's RAW", link: 12, frame: ip},
		{name: "IPV4", link: 228, frame: ip},
		{name: "NULL of a tunnel", link: 0, frame: append([]byte{2, 0, 0, 0}, ip...)},
		{name: "LOOP of a tunnel", link: 108, frame: append([]byte{0, 0, 0, 2}, ip...)},
		{name: "NULL, cut", link: 0, frame: []byte{2, 0, 0, 0}, none: true},
		{name: "unknown", link: 147, frame: ip, none: true},
	} {
		for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
			for magic, unit := range map[uint32]time.Duration{magicMicro: time.Microsecond, magicNano: time.Nanosecond} {
				head := order.AppendUint32(nil, magic)
				head = order.AppendUint32(head, 2|4<<16)
				head = append(head, make([]byte, 8)...)
				head = order.AppendUint32(head, 65535)
				head = order.AppendUint32(head, uint32(c.link))
				head = order.AppendUint32(head, uint32(fileTime.Unix()))
				head = order.AppendUint32(head, uint32(fileTime.Nanosecond()/int(unit)))
				head = order.AppendUint32(head, uint32(len(c.frame)))
				head = order.AppendUint32(head, uint32(len(c.frame)+100))
				got, _, err := readAll(append(head, c.frame...))
				if err != nil || len(got) != 1 {
					t.Fatalf("%s: %d packets, %v", c.name, len(got), err)
				}
				p := got[0]
				wantData, wantType := ip, uint16(EtherTypeIPv4)
				if c.none {
					wantData, wantType = c.frame, 0
				}
				if p.EtherType != wantType || !bytes.Equal(p.Data, wantData) || p.Direction != c.want || p.Loopback != c.loop || p.Length != len(wantData)+100 {
					t.Errorf("%s: %+v", c.name, p)
				}
				if !p.Time.Equal(fileTime.Truncate(unit)) || !p.Stamped {
					t.Errorf("%s: time %v", c.name, p.Time)
				}
			}
		}
	}
}

// TestLoopbackByAddress: the link types of BSD's loopback are those of its tunnels too, and the addresses tell.
func TestLoopbackByAddress(t *testing.T) {
	v4 := func(src, dst byte, net byte) []byte {
		b := make([]byte, 20)
		b[0], b[12], b[15], b[16], b[19] = 0x45, net, src, net, dst
		return b
	}
	v6 := func(src, dst byte, net byte) []byte {
		b := make([]byte, 40)
		b[0], b[8], b[23], b[24], b[39] = 0x60, net, src, net, dst
		return b
	}
	for _, c := range []struct {
		name string
		ip   []byte
		want bool
	}{
		{"a tunnel", v4(1, 2, 10), false},
		{"127/8", v4(1, 2, 127), true},
		{"an address to itself", v4(1, 1, 10), true},
		{"a tunnel, IPv6", v6(1, 2, 0xfd), false},
		{"::1", v6(1, 1, 0), true},
		{"an address to itself, IPv6", v6(1, 1, 0xfd), true},
		{"cut before the addresses end", v4(1, 1, 127)[:19], false},
		{"cut before the addresses end, IPv6", v6(1, 1, 0)[:39], false},
	} {
		for _, link := range []uint16{linkNull, linkLoop} {
			p := Captured{Packet: Packet{Data: append([]byte{0, 0, 0, 2}, c.ip...)}}
			if p.unwrap(link); p.Loopback != c.want {
				t.Errorf("%s, link type %d: %v", c.name, link, p.Loopback)
			}
		}
	}
}

// TestForeignPcapng reads what gopacket's own writer makes of it: other units, another link type.
func TestForeignPcapng(t *testing.T) {
	ip := echoRequest(t)
	frame := append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0}, ip...)
	var b bytes.Buffer
	for range 2 { // two files, one behind the other: the second one's interfaces count from 0 again
		w, err := pcapgo.NewNgWriterInterface(&b, pcapgo.NgInterface{Name: "en0", LinkType: layers.LinkTypeEthernet, TimestampResolution: 6, SnapLength: 262144}, pcapgo.DefaultNgWriterOptions)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: fileTime, CaptureLength: len(frame), Length: len(frame)}, frame); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	got, f, err := readAll(b.Bytes())
	if err != nil || len(got) != 2 {
		t.Fatalf("%d packets, %v", len(got), err)
	}
	for i, p := range got {
		// gopacket's writer writes nanoseconds, and says so.
		if p.Interface != i || f.Interface(i).Name != "en0" || !p.Time.Equal(fileTime) || !bytes.Equal(p.Data, ip) || p.LinkAddr != [8]byte{2, 0, 0, 0, 0, 1} {
			t.Errorf("%+v", p)
		}
	}
}

func TestResolution(t *testing.T) {
	for _, c := range []struct {
		code   byte
		units  uint64
		offset int64
		want   time.Time
	}{
		{6, 1795000000_123456, 0, time.Unix(1795000000, 123456000)},
		{0, 1795000000, 0, time.Unix(1795000000, 0)},
		{9, 5, 1795000000, time.Unix(1795000000, 5)},
		{12, 7_000_000_002_000, 0, time.Unix(7, 2)},
		{0x80 | 20, 7<<20 | 1<<19, 0, time.Unix(7, 5e8)},
		{0x80 | 63, 1<<63 | 1<<62, 0, time.Unix(1, 5e8)},
		{19, 10_000_000_000_000_000_000, 0, time.Unix(1, 0)},
	} {
		r := resolution{offset: c.offset}
		if !r.set(c.code) {
			t.Errorf("%#x: refused", c.code)
		} else if got, ok := r.time(c.units); !ok || !got.Equal(c.want) {
			t.Errorf("%#x: %v, want %v", c.code, got, c.want)
		}
	}
	for _, code := range []byte{20, 127, 0x80 | 64, 0xff} {
		if new(resolution).set(code) {
			t.Errorf("%#x: taken", code)
		}
	}
}

// TestHostileLengths: no memory is taken for what is only claimed.
func TestHostileLengths(t *testing.T) {
	file, _, _, _ := written(t)
	rng := rand.New(rand.NewPCG(1, 2))
	whole := len(file) - 140000
	allocated := func(run func()) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		run()
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	for range 2000 {
		bad := bytes.Clone(file[:whole])
		at := rng.IntN(whole-4) &^ 3
		binary.LittleEndian.PutUint32(bad[at:], rng.Uint32()>>rng.IntN(32))
		if n := allocated(func() { _, _, _ = readAll(bad) }); n > 1<<20 {
			t.Fatalf("%d bytes for %x", n, bad)
		}
	}
	// A block that claims the most that is allowed, and is not there.
	claim := binary.LittleEndian.AppendUint32(bytes.Clone(file[:whole]), 9)
	claim = binary.LittleEndian.AppendUint32(claim, maxBlock)
	if n := allocated(func() { _, _, _ = readAll(claim) }); n > 1<<20 {
		t.Errorf("%d bytes for a claim of %d", n, maxBlock)
	}
}

func FuzzReader(f *testing.F) {
	file, _, _, end := written(f)
	f.Add(file[:len(file)-len(end.Comment)])
	head := binary.LittleEndian.AppendUint32(nil, magicNano)
	f.Add(append(head, make([]byte, 60)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		packets, r, err := readAll(b)
		if err != nil && r == nil {
			return
		}
		kept := 0
		for _, p := range packets {
			kept += len(p.Data)
			if p.Length < len(p.Data) {
				t.Errorf("%d bytes of %d", len(p.Data), p.Length)
			}
		}
		if kept > len(b) {
			t.Errorf("%d bytes of packets in a file of %d", kept, len(b))
		}
	})
}
