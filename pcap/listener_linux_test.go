package pcap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// onlyUDP lets datagrams from or to the ports pass. Its ISN is one that no test's segments carry by design.
func onlyUDP(ports ...uint16) []bpf.Instruction {
	return Interest{ISN: 0xdeadbeef, UDPPorts: ports}.Filter()
}

// appendControl appends a control message as put_cmsg does.
func appendControl(b []byte, level, kind int32, data []byte) []byte {
	m := make([]byte, unix.CmsgSpace(len(data)))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&m[0]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(len(data)))
	copy(m[unix.CmsgLen(0):], data)
	return append(b, m...)
}

// bytesOf is the memory of a kernel structure.
func bytesOf[T any](v *T) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)) }

// A message as packet_recvmsg fills it, with its control messages in either order, cut short, or left out.
func TestMessage(t *testing.T) {
	stamps := unix.ScmTimestamping{Ts: [3]unix.Timespec{unix.NsecToTimespec(1_900_000_000_999_999_999), {}, unix.NsecToTimespec(7)}}
	stampMsg := appendControl(nil, unix.SOL_SOCKET, unix.SCM_TIMESTAMPING, bytesOf(&stamps))
	none := unix.ScmTimestamping{Ts: [3]unix.Timespec{2: unix.NsecToTimespec(7)}} // the hardware's alone
	noStamp := appendControl(nil, unix.SOL_SOCKET, unix.SCM_TIMESTAMPING, bytesOf(&none))
	aux := unix.TpacketAuxdata{Status: unix.TP_STATUS_USER | unix.TP_STATUS_CSUMNOTREADY, Len: 4000, Snaplen: 19}
	auxMsg := appendControl(nil, unix.SOL_PACKET, unix.PACKET_AUXDATA, bytesOf(&aux))
	other := appendControl(nil, unix.SOL_SOCKET, unix.SCM_TIMESTAMPNS, make([]byte, 16))

	data := []byte("not really a packet")
	for _, c := range []struct {
		name    string
		control []byte
		stamped bool
		length  int // and the checksum is partial where it is aux's
	}{
		{"usual", slices.Concat(stampMsg, auxMsg), true, 4000},
		{"auxiliary data first", slices.Concat(auxMsg, stampMsg), true, 4000},
		{"another in front", slices.Concat(other, stampMsg, auxMsg), true, 4000},
		{"no stamp", auxMsg, false, 4000},
		{"no software stamp", slices.Concat(noStamp, auxMsg), false, 4000},
		{"no auxiliary data", stampMsg, true, len(data)},
		{"nothing", nil, false, len(data)},
		{"cut in the stamp", stampMsg[:len(stampMsg)-1], false, len(data)},
		{"cut in the header", stampMsg[:5], false, len(data)},
		{"cut in the second", slices.Concat(stampMsg, auxMsg[:len(auxMsg)-5]), true, len(data)},
	} {
		var m message
		m.init(100)
		m.control = c.control
		m.hdr.SetControllen(len(c.control))
		m.from = unix.RawSockaddrLinklayer{Protocol: htons(EtherTypeIPv6), Ifindex: 42, Pkttype: unix.PACKET_OUTGOING,
			Halen: 6, Addr: [8]byte{2, 0, 0, 0, 0, 9, 0xff, 0xff}}
		m.n = copy(m.buf, data)
		m.at, m.stamped = stamp(m.control)
		p := Packet{Data: make([]byte, 3, 100), LinkAddr: [8]byte{7, 7, 7, 7, 7, 7, 7, 7}, ChecksumPartial: true}
		m.packet(&p)
		want := time.Time{}
		if c.stamped {
			want = time.Unix(1_900_000_000, 999_999_999)
		}
		if !bytes.Equal(p.Data, data) || p.Length != c.length || p.Interface != 42 || p.Direction != Outgoing ||
			p.EtherType != EtherTypeIPv6 || p.ChecksumPartial != (c.length == 4000) || p.LinkAddrLen != 6 ||
			p.LinkAddr != [8]byte{2, 0, 0, 0, 0, 9} || p.Stamped != c.stamped || c.stamped && !p.Time.Equal(want) {
			t.Errorf("%s: got %+v", c.name, p)
		}
		clear(m.buf)
		if !bytes.Equal(p.Data, data) {
			t.Errorf("%s: Data aliases the listener's buffer", c.name)
		}
		m.n, m.from.Halen = 101, 20 // larger than what is there
		if m.packet(&p); len(p.Data) != 100 || p.LinkAddrLen != 8 || p.Length < 101 {
			t.Errorf("%s: cut: got %+v", c.name, p)
		}
	}
}

func TestDirection(t *testing.T) {
	for in, want := range map[byte]string{0: "incoming", 1: "incoming", 2: "incoming", 3: "other-host", 4: "outgoing", 5: "unknown", 255: "unknown"} {
		if got := direction(in).String(); got != want {
			t.Errorf("packet type %d is %s, want %s", in, got, want)
		}
	}
	if Direction(0) != Unknown || Direction(9).String() != "unknown" {
		t.Error("the zero value is not unknown")
	}
}

func TestEtherType(t *testing.T) {
	for _, c := range []struct {
		protocol uint16
		data     []byte
		want     uint16
	}{
		{0x0800, []byte{0x60}, 0x0800}, {0x8100, []byte{0x45}, 0x0800}, {0x88a8, []byte{0x60}, 0x86dd},
		{0x8100, []byte{0}, 0x8100}, {0x8100, nil, 0x8100}, {0x88cc, []byte{0x45}, 0x88cc},
	} {
		if got := etherType(c.protocol, c.data); got != c.want {
			t.Errorf("%#x with %x is %#x, want %#x", c.protocol, c.data, got, c.want)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	enterNetns(t)
	for _, c := range []struct {
		name string
		cfg  Config
		op   string
		err  error
	}{
		{"negative snap length", Config{SnapLen: -1}, "check SnapLen", os.ErrInvalid},
		{"large snap length", Config{SnapLen: MaxSnapLen + 1}, "check SnapLen", os.ErrInvalid},
		{"negative buffer", Config{Buffer: -1}, "check Buffer", os.ErrInvalid},
		{"large buffer", Config{Buffer: maxBuffer + 1}, "check Buffer", os.ErrInvalid},
		{"negative interface", Config{Interface: -1}, "check Interface", os.ErrInvalid},
		{"missing interface", Config{Interface: 4711}, "bind", unix.ENODEV},
		{"filter without return", Config{Filter: []bpf.Instruction{bpf.TAX{}}}, "setsockopt SO_ATTACH_FILTER", unix.EINVAL},
		{"filter that can't be assembled", Config{Filter: []bpf.Instruction{bpf.LoadAbsolute{Size: 3}}}, "assemble filter", nil},
		{"filter too long", Config{Filter: make([]bpf.Instruction, 4097)}, "setsockopt SO_ATTACH_FILTER", unix.EINVAL},
	} {
		if c.name == "filter too long" {
			for i := range c.cfg.Filter {
				c.cfg.Filter[i] = bpf.RetConstant{Val: 1}
			}
		}
		l, err := Open(c.cfg)
		var op *OpError
		if l != nil || !errors.As(err, &op) || op.Op != c.op || c.err != nil && !errors.Is(err, c.err) {
			t.Errorf("%s: %v, %v", c.name, l, err)
		}
	}

	// An interface that exists and is down.
	f, index := newTun(t, "10.8.0.1/24")
	_ = f
	setDown(t, "tun0")
	_, err := Open(Config{Interface: index})
	var op *OpError
	if !errors.As(err, &op) || op.Op != "bind" || !errors.Is(err, unix.ENETDOWN) {
		t.Errorf("interface down: %v", err)
	}
}

// Without privilege the error says so, at the step at which it was missing.
func TestOpenUnprivileged(t *testing.T) {
	enterNetns(t)
	// Capabilities belong to the thread, and this one ends with the test.
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&hdr, &none[0]); err != nil {
		t.Fatal(err)
	}
	_, err := Open(Config{})
	var op *OpError
	if !errors.As(err, &op) || op.Op != "socket" || !errors.Is(err, unix.EPERM) || !errors.Is(err, os.ErrPermission) {
		t.Errorf("got %v", err)
	}
}

// CAP_NET_RAW alone is enough for everything; the receive buffer is then as large as the machine lets anybody's be.
func TestOpenNetRaw(t *testing.T) {
	enterNetns(t)
	size := func(l *Listener) (n int) {
		l.l.conn.Control(func(fd uintptr) { n, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF) })
		return n
	}
	cfg := Config{Filter: onlyUDP(4002), Buffer: 64 << 20}
	most := size(mustOpen(t, cfg))

	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var raw [2]unix.CapUserData
	raw[0].Effective, raw[0].Permitted = 1<<unix.CAP_NET_RAW, 1<<unix.CAP_NET_RAW
	if err := unix.Capset(&hdr, &raw[0]); err != nil {
		t.Fatal(err)
	}
	l := mustOpen(t, cfg)
	n := size(l)
	if n <= 0 || n > 128<<20 {
		t.Errorf("receive buffer of %d bytes", n)
	}
	t.Logf("of a buffer of %d bytes: %d with CAP_NET_ADMIN, %d without", cfg.Buffer, most, n)
	a := udp(t, "127.0.0.1:4001")
	udp(t, "127.0.0.1:4002")
	send(t, a, "127.0.0.1:4002", []byte("x"))
	for range 2 {
		if p := read(t, l); p.Length != 29 {
			t.Errorf("got %+v", p)
		}
	}
	if err := l.SetFilter(Nothing); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// A datagram on lo: seen on its way out and on its way in, with everything that belongs to it.
func TestLoopback(t *testing.T) {
	enterNetns(t)
	for _, c := range []struct {
		name, from, to string
		etherType      uint16
		header         int
	}{
		{"IPv4", "127.0.0.1:4001", "127.0.0.1:4002", EtherTypeIPv4, 28},
		{"IPv6", "[::1]:4001", "[::1]:4002", EtherTypeIPv6, 48},
	} {
		l := mustOpen(t, Config{Filter: onlyUDP(4002)})
		a := udp(t, c.from)
		udp(t, c.to)
		payload := []byte("hello, loopback")
		start := time.Now()
		send(t, a, c.to, payload)
		var last time.Time
		for _, want := range []Direction{Outgoing, Incoming} {
			p := read(t, l)
			end := time.Now()
			if p.Direction != want || p.Interface != loopback || p.EtherType != c.etherType || p.Length != c.header+len(payload) ||
				len(p.Data) != p.Length || !bytes.HasSuffix(p.Data, payload) || p.LinkAddrLen != 6 || p.LinkAddr != [8]byte{} {
				t.Errorf("%s: got %+v, want %v", c.name, p, want)
			}
			if !p.ChecksumPartial {
				t.Errorf("%s: checksum not partial, %v", c.name, p.Direction)
			}
			if p.Time.Before(start) || p.Time.After(end) || p.Time.Before(last) {
				t.Errorf("%s: stamped %v, sent %v, read %v, packet before %v", c.name, p.Time, start, end, last)
			}
			last = p.Time
		}
	}
}

// A TCP connection: the SYN, the SYN-ACK and the ACK, each both ways, found by the client's ISN alone.
func TestTCP(t *testing.T) {
	enterNetns(t)
	tap := mustOpen(t, Config{Interface: loopback})
	ln, err := net.Listen("tcp", "127.0.0.1:4003")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	connect := func() {
		c, err := net.Dial("tcp", "127.0.0.1:4003")
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	connect()
	flags := func(p Packet) (src, dst uint16, f byte) {
		return binary.BigEndian.Uint16(p.Data[20:]), binary.BigEndian.Uint16(p.Data[22:]), p.Data[33] & 0x17
	}
	const syn, rst, ack = 2, 4, 16
	p := read(t, tap)
	if _, dst, f := flags(p); dst != 4003 || f != syn || p.Direction != Outgoing {
		t.Fatalf("first packet: %+v", p)
	}
	isn := binary.BigEndian.Uint32(p.Data[24:])

	// Everything that the first connection left in the queue is sieved by the filter that a run with this ISN would have.
	vm, err := bpf.NewVM(Interest{ISN: isn}.Filter())
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for len(seen) < 3 {
		q := read(t, tap)
		if n, err := vm.Run(q.Data); err != nil {
			t.Fatal(err)
		} else if n == 0 || q.Direction != Incoming {
			continue
		}
		src, _, f := flags(q)
		switch {
		case f == syn && src != 4003:
			seen = append(seen, "SYN")
		case f == syn|ack && src == 4003:
			seen = append(seen, "SYN-ACK")
		case f == ack && src != 4003:
			seen = append(seen, "ACK")
		default:
			t.Fatalf("unexpected %+v", q)
		}
	}
	if got := strings.Join(seen, " "); got != "SYN SYN-ACK ACK" {
		t.Error(got)
	}
}

// Time stamps rise from packet to packet and lie between the send call and the read.
func TestTimestamps(t *testing.T) {
	enterNetns(t)
	awaitStamps(t)
	l := mustOpen(t, Config{Filter: onlyUDP(4002)})
	a := udp(t, "127.0.0.1:4001")
	udp(t, "127.0.0.1:4002")
	last := time.Now().Round(0)
	for range 200 {
		start := time.Now().Round(0)
		send(t, a, "127.0.0.1:4002", nil)
		out, in := read(t, l), read(t, l)
		end := time.Now().Round(0)
		if !out.Stamped || !in.Stamped {
			t.Fatalf("no stamp: %+v, %+v", out, in)
		}
		for _, s := range [][2]time.Time{{last, start}, {start, out.Time}, {out.Time, in.Time}, {in.Time, end}} {
			if s[1].Before(s[0]) {
				t.Fatalf("time runs backwards: %v, %v", s[0], s[1])
			}
		}
		last = in.Time
	}
}

// awaitStamps returns when the kernel stamps packets, both ways, and sees to it that it goes on until the test ends.
func awaitStamps(t testing.TB) {
	t.Helper()
	l := mustOpen(t, Config{Filter: onlyUDP(4700), Interface: loopback})
	a := udp(t, "127.0.0.1:4701")
	udp(t, "127.0.0.1:4700")
	for start := time.Now(); ; {
		send(t, a, "127.0.0.1:4700", nil)
		if out, in := read(t, l), read(t, l); out.Stamped && in.Stamped {
			break
		}
		if time.Since(start) > patience {
			t.Fatal("the kernel stamps nothing")
		}
	}
	if err := l.SetFilter(Nothing); err != nil {
		t.Fatal(err)
	}
}

// An onlooker sees everything on lo, with the stamps that the kernel takes for others: it does not ask for any itself
// (without SOF_TIMESTAMPING_RX_SOFTWARE sock_set_timestamp leaves netstamp_needed alone).
type onlooker struct {
	t  testing.TB
	fd int
	m  message
}

func newOnlooker(t testing.TB) *onlooker {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPING, unix.SOF_TIMESTAMPING_SOFTWARE); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: loopback}); err != nil {
		t.Fatal(err)
	}
	o := &onlooker{t: t, fd: fd}
	o.m.init(100)
	return o
}

// next returns the stamp of the next packet, the zero time if it has none.
func (o *onlooker) next() (time.Time, error) {
	for start := time.Now(); ; runtime.Gosched() {
		switch errno := o.m.receive(o.fd); {
		case errno == 0 && o.m.stamped:
			return o.m.at, nil
		case errno == 0:
			return time.Time{}, nil
		case errno != unix.EAGAIN && errno != unix.EINTR, time.Since(start) > patience:
			return time.Time{}, errno
		}
	}
}

// Before the kernel's switch is thrown packets have no stamp, and say so; afterwards all have, both ways. How long it
// takes is the machine's affair: it is logged.
func TestStampsBegin(t *testing.T) {
	enterNetns(t)
	o := newOnlooker(t)
	a := udp(t, "127.0.0.1:4001")
	udp(t, "127.0.0.1:4002")
	to := netip.MustParseAddrPort("127.0.0.1:4002")
	// trip sends a packet and returns its stamp on the way in, the zero time if it had none on one way.
	trip := func() (time.Time, error) {
		if _, err := a.WriteToUDPAddrPort(nil, to); err != nil {
			return time.Time{}, err
		}
		out, err := o.next()
		if err != nil {
			return out, err
		}
		in, err := o.next()
		if out.IsZero() {
			in = out
		}
		return in, err
	}
	rounds := 20
	if testing.Short() {
		rounds = 3
	}
	var took, opened []time.Duration
	stamped, unstamped := 0, 0
	begin := time.Now()
	for range rounds {
		// The listeners of other tests keep it on until the kernel has let them go, and so may other programs.
		busy := false
		for ; ; time.Sleep(time.Millisecond) {
			at, err := trip()
			if err != nil {
				t.Fatal(err)
			}
			if at.IsZero() {
				break
			}
			if busy = time.Since(begin) > patience/2; busy {
				break
			}
		}
		if busy {
			t.Log("other programs on this machine ask for stamps")
			break
		}
		// One packet after the other, before Open, during it, and until some have had stamps.
		began := make(chan struct{})
		var once sync.Once
		first := make(chan time.Time, 1)
		var wg sync.WaitGroup
		wg.Go(func() {
			defer close(first)
			start := time.Now()
			for n := 0; n < 20; {
				at, err := trip()
				if err != nil || time.Since(start) > patience {
					t.Errorf("no stamps: %v", err)
					break
				}
				if n == 0 && !at.IsZero() {
					first <- at
				}
				if !at.IsZero() {
					n++
				}
				once.Do(func() { close(began) })
			}
		})
		<-began
		start := time.Now()
		l := mustOpen(t, Config{Filter: onlyUDP(4002), Interface: loopback})
		opened = append(opened, time.Since(start))
		if at, ok := <-first; ok {
			took = append(took, at.Sub(start.Round(0)))
		}
		wg.Wait()
		s, err := l.Stats()
		if err != nil {
			t.Fatal(err)
		}
		var last time.Time
		both := 0
		for range s.Packets - s.Drops {
			p := read(t, l)
			switch {
			case p.Time.Before(start.Round(0)) || p.Time.After(time.Now().Round(0)):
				t.Fatalf("opened %v, %+v", start, p)
			case p.Stamped:
				stamped++
				if both++; p.Time.Before(last) {
					t.Fatalf("stamped before the last packet, of %v: %+v", last, p)
				}
				last = p.Time
			case both > 1:
				t.Fatal("a packet without a stamp after both ways had one")
			default:
				unstamped++
			}
		}
		l.Close()
	}
	if t.Failed() || len(took) == 0 {
		return
	}
	if stamped == 0 {
		t.Error("nothing had a stamp")
	}
	slices.Sort(took)
	slices.Sort(opened)
	t.Logf("%d rounds: stamps begin after Open was called: median %v, from %v to %v; Open takes %v; %d packets without, %d with",
		len(took), took[len(took)/2], took[0], took[len(took)-1], opened[len(opened)/2], unstamped, stamped)
}

// A packet without a stamp came between two times that are known. After the deadline it is delivered where it may have come
// before, and a cancelled Read does not wait for it.
func TestDeadlineWithoutStamp(t *testing.T) {
	enterNetns(t)
	l := mustOpen(t, Config{Filter: Nothing})
	now := time.Now().Round(0)
	l.l.held, l.l.msg.stamped, l.l.msg.at, l.l.msg.after = true, false, now, now.Add(-time.Second)
	var p Packet
	for _, deadline := range []time.Time{time.Unix(1, 0), now.Add(-2 * time.Second)} {
		l.SetReadDeadline(deadline)
		if err := l.Read(&p); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("deadline %v before: %v, %+v", now.Sub(deadline), err, p)
		}
	}
	l.SetReadDeadline(now.Add(-time.Second / 2))
	if err := l.Read(&p); err != nil || p.Stamped || !p.Time.Equal(now) {
		t.Errorf("it may have come before the deadline: %v, %+v", err, p)
	}
	if err := l.Read(&p); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nothing left: %v", err)
	}
	if l.l.empty.Before(now) {
		t.Error("the queue was empty, and nobody noticed")
	}
}

// A packet is cut by the snap length and by the filter; its length is told all the same.
func TestSnapLen(t *testing.T) {
	enterNetns(t)
	a := udp(t, "127.0.0.1:4001")
	udp(t, "127.0.0.1:4002")
	for _, c := range []struct {
		name     string
		cfg      Config
		payload  int
		captured int
	}{
		{"whole", Config{}, 1472, 1500},
		{"by the default", Config{}, 9000, DefaultSnapLen},
		{"by SnapLen", Config{SnapLen: 28}, 500, 28},
		{"by the filter", Config{Filter: []bpf.Instruction{bpf.RetConstant{Val: 77}}}, 500, 77},
		{"whole, and large", Config{SnapLen: MaxSnapLen}, 60000, 60028},
		{"whole at the largest", Config{SnapLen: MaxSnapLen}, 65507, 65535},
		{"by SnapLen, and large", Config{SnapLen: 5000}, 60000, 5000},
	} {
		l := mustOpen(t, c.cfg)
		payload := make([]byte, c.payload)
		for i := range payload {
			payload[i] = byte(i % 251)
		}
		send(t, a, "127.0.0.1:4002", payload)
		for range 2 {
			if p := read(t, l); p.Length != c.payload+28 || len(p.Data) != c.captured || !bytes.Equal(p.Data[28:], payload[:c.captured-28]) {
				t.Errorf("%s: %d of %d bytes, want %d of %d", c.name, len(p.Data), p.Length, c.captured, c.payload+28)
			}
		}
		l.Close()
	}
}

// Packets come in order, each exactly once, and the counts are right.
func TestOrder(t *testing.T) {
	enterNetns(t)
	l := mustOpen(t, Config{Filter: onlyUDP(4002)})
	a := udp(t, "127.0.0.1:4001")
	udp(t, "127.0.0.1:4002")
	const total = 500
	var p Packet
	for i := range uint32(total) {
		send(t, a, "127.0.0.1:4002", binary.BigEndian.AppendUint32(nil, i))
		for range 2 {
			if err := l.Read(&p); err != nil {
				t.Fatal(err)
			}
			if got := binary.BigEndian.Uint32(p.Data[28:]); got != i {
				t.Fatalf("read number %d, want %d", got, i)
			}
		}
		if i%100 == 0 { // reading the kernel's counters clears them: ours must go on
			if s, err := l.Stats(); err != nil || s != (Stats{Packets: 2 * uint64(i+1)}) {
				t.Fatalf("after %d: %+v, %v", i, s, err)
			}
		}
	}
	l.Close()
	if s, err := l.Stats(); err != nil || s != (Stats{Packets: 2 * total}) {
		t.Errorf("after Close: %+v, %v", s, err)
	}
}

// A flood that nobody reads is dropped and counted, and then the listener works again.
func TestDrops(t *testing.T) {
	enterNetns(t)
	l := mustOpen(t, Config{Filter: onlyUDP(4002), Buffer: 16 << 10})
	a := udp(t, "127.0.0.1:4001")
	udp(t, "127.0.0.1:4002")
	const total = 300
	for range 2 {
		before, err := l.Stats()
		if err != nil {
			t.Fatal(err)
		}
		for range total {
			send(t, a, "127.0.0.1:4002", nil)
		}
		// lo delivers in a softirq, which may run after the last send has returned.
		var s Stats
		for start := time.Now(); ; runtime.Gosched() {
			if s, err = l.Stats(); err != nil {
				t.Fatal(err)
			}
			if s.Packets-before.Packets == 2*total {
				break
			}
			if time.Since(start) > patience {
				t.Fatalf("counted %+v of %d packets", s, 2*total)
			}
		}
		drops := s.Drops - before.Drops
		if drops == 0 || drops == 2*total {
			t.Errorf("%d drops of %d packets", drops, 2*total)
		}
		for range 2*total - drops {
			if p := read(t, l); len(p.Data) != 28 {
				t.Errorf("within the flood: %+v", p)
			}
		}
		send(t, a, "127.0.0.1:4002", []byte("after"))
		for range 2 {
			if p := read(t, l); !bytes.HasSuffix(p.Data, []byte("after")) {
				t.Errorf("after the flood: %+v", p)
			}
		}
	}
}

// The filter stands before the socket hears anything: with a flood of others' packets all the time, the first
// packet ever read is one that the filter accepts.
func TestFilterBeforeBind(t *testing.T) {
	enterNetns(t)
	flood := udp(t, "127.0.0.1:4001")
	ours := udp(t, "127.0.0.1:4003")
	udp(t, "127.0.0.1:4002")
	udp(t, "127.0.0.1:4004")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	flooded := 0
	started := make(chan struct{})
	wg.Go(func() {
		to := netip.MustParseAddrPort("127.0.0.1:4002")
		for {
			if flooded++; flooded == 100 {
				close(started)
			}
			flood.WriteToUDPAddrPort([]byte("flood"), to)
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	<-started
	for range 50 {
		l := mustOpen(t, Config{Filter: onlyUDP(4004)})
		send(t, ours, "127.0.0.1:4004", []byte("ours"))
		for range 2 {
			if p := read(t, l); !bytes.HasSuffix(p.Data, []byte("ours")) {
				t.Fatalf("unfiltered: %+v", p)
			}
		}
		if s, err := l.Stats(); err != nil || s != (Stats{Packets: 2}) {
			t.Fatalf("%+v, %v", s, err)
		}
		l.Close()
	}
	close(stop)
	wg.Wait()
	t.Logf("none of %d packets of a flood", flooded)
}

func TestSetFilter(t *testing.T) {
	enterNetns(t)
	l := mustOpen(t, Config{Filter: onlyUDP(4002)})
	a := udp(t, "127.0.0.1:4001")
	udp(t, "127.0.0.1:4002")
	udp(t, "127.0.0.1:4004")
	both := func() {
		send(t, a, "127.0.0.1:4002", []byte("A"))
		send(t, a, "127.0.0.1:4004", []byte("B"))
	}
	expect := func(want string) {
		t.Helper()
		for _, w := range []byte(want) {
			for range 2 {
				if p := read(t, l); p.Data[len(p.Data)-1] != w {
					t.Fatalf("read %q, want %q", p.Data[28:], w)
				}
			}
		}
	}
	both()
	expect("A")
	if err := l.SetFilter(onlyUDP(4004)); err != nil {
		t.Fatal(err)
	}
	both()
	expect("B")
	if err := l.SetFilter(nil); err != nil {
		t.Fatal(err)
	}
	both()
	expect("AB")
	if err := l.SetFilter(nil); err != nil {
		t.Fatalf("no filter, twice: %v", err)
	}
	if err := l.SetFilter([]bpf.Instruction{bpf.TAX{}}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("bad filter: %v", err)
	}
}

// From Nothing to a filter, and from one to the next, there is no gap: what comes after the first SetFilter has returned is
// read, each packet of it.
func TestSetFilterNoGap(t *testing.T) {
	enterNetns(t)
	l := mustOpen(t, Config{Filter: Nothing, Interface: loopback})
	a := udp(t, "127.0.0.1:4001")
	udp(t, "127.0.0.1:4002")
	to := netip.MustParseAddrPort("127.0.0.1:4002")
	for range 50 {
		send(t, a, "127.0.0.1:4002", []byte("before"))
	}
	if err := l.SetFilter(onlyUDP(4002)); err != nil {
		t.Fatal(err)
	}
	const total = 3000
	var wg sync.WaitGroup
	done := make(chan struct{})
	swaps := 0
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			swaps++
			if err := l.SetFilter(onlyUDP(4002, uint16(5000+swaps%100))); err != nil {
				t.Error(err)
				return
			}
		}
	})
	var p Packet
	for i := range uint32(total) {
		if _, err := a.WriteToUDPAddrPort(binary.BigEndian.AppendUint32(nil, i), to); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := l.Read(&p); err != nil {
				t.Fatal(err)
			}
			if len(p.Data) != 32 || binary.BigEndian.Uint32(p.Data[28:]) != i {
				t.Fatalf("read %q, want number %d", p.Data[28:], i)
			}
		}
	}
	close(done)
	wg.Wait()
	t.Logf("%d packets, %d changes of the filter", total, swaps)
}

// What a filter costs, and one for a single family less.
func BenchmarkSetFilter(b *testing.B) {
	enterNetns(b)
	l := mustOpen(b, Config{Filter: Nothing})
	run := Interest{ISN: 0x12345678, Port: 40000, PeerPort: 443, EchoID: 7, EchoCookie: 0xa1b2c3d4, Neighbors: true}
	for _, c := range []struct {
		name   string
		family uint8
	}{{"both", 0}, {"IPv4", 4}, {"IPv6", 6}} {
		i := run
		i.Family = c.family
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if err := l.SetFilter(i.Filter()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(i.Filter())), "instructions")
		})
	}
}

// Close ends a Read, whether it waits already or is about to, while packets come in all the time.
func TestCloseEndsRead(t *testing.T) {
	enterNetns(t)
	a := udp(t, "127.0.0.1:4001")
	udp(t, "127.0.0.1:4002")
	to := netip.MustParseAddrPort("127.0.0.1:4002")
	stop := make(chan struct{})
	var flood sync.WaitGroup
	flood.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				a.WriteToUDPAddrPort([]byte("x"), to)
			}
		}
	})
	defer func() { close(stop); flood.Wait() }()

	var took []time.Duration
	for i := range 60 {
		cfg := Config{Filter: onlyUDP(4002)}
		if i%2 == 0 {
			cfg.Filter = onlyUDP(4999) // hears nothing: the Read is waiting
		}
		l := mustOpen(t, cfg)
		var wg sync.WaitGroup
		reading := make(chan struct{}, 2)
		ended := make([]time.Time, 2)
		for r := range ended {
			wg.Go(func() {
				var p Packet
				for first := true; ; first = false {
					if first {
						reading <- struct{}{}
					}
					if err := l.Read(&p); err != nil {
						ended[r] = time.Now()
						if !errors.Is(err, net.ErrClosed) {
							t.Errorf("Read: %v", err)
						}
						return
					}
				}
			})
		}
		<-reading
		<-reading
		for range i {
			runtime.Gosched()
		}
		start := time.Now()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		took = append(took, ended[0].Sub(start), ended[1].Sub(start))
	}
	slices.Sort(took)
	t.Logf("Read ended after Close: median %v, longest %v", took[len(took)/2], took[len(took)-1])
}

func TestAfterClose(t *testing.T) {
	enterNetns(t)
	l := mustOpen(t, Config{})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	p := Packet{Length: 1}
	for name, err := range map[string]error{
		"Read": l.Read(&p), "SetReadDeadline": l.SetReadDeadline(time.Now()), "SetFilter": l.SetFilter(onlyUDP(1)),
	} {
		var op *OpError
		if !errors.Is(err, net.ErrClosed) || !errors.As(err, &op) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p.Length != 1 {
		t.Error("a Read that failed changed the packet")
	}
	if _, err := l.Stats(); err != nil {
		t.Errorf("Stats: %v", err)
	}
}

func TestDeadline(t *testing.T) {
	enterNetns(t)
	l := mustOpen(t, Config{Filter: onlyUDP(4002)})
	a := udp(t, "127.0.0.1:4001")
	udp(t, "127.0.0.1:4002")
	var p Packet
	timeout := func(what string) {
		t.Helper()
		err := l.Read(&p)
		var timeout interface{ Timeout() bool }
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%s: %v", what, err)
		}
	}

	start := time.Now()
	l.SetReadDeadline(start.Add(20 * time.Millisecond))
	timeout("while it waits")
	if d := time.Since(start); d < 20*time.Millisecond {
		t.Errorf("ended after %v", d)
	}
	timeout("a second time")
	awaitStamps(t)

	// From another goroutine, as a cancelled context does.
	l.SetReadDeadline(time.Time{})
	done := make(chan error)
	go func() {
		var p Packet
		done <- l.Read(&p)
	}()
	l.SetReadDeadline(time.Unix(1, 0))
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("cancelled: %v", err)
	}

	// What was stamped before the deadline is delivered after it; what was stamped later is not.
	l.SetReadDeadline(time.Now().Add(patience))
	send(t, a, "127.0.0.1:4002", []byte("1"))
	send(t, a, "127.0.0.1:4002", []byte("2"))
	first := read(t, l) // all four are in the queue when the last has been: lo is in order
	for s, _ := l.Stats(); s.Packets < 4; s, _ = l.Stats() {
		runtime.Gosched()
	}
	l.SetReadDeadline(first.Time.Add(-time.Nanosecond))
	timeout("stamped after the deadline")
	l.SetReadDeadline(time.Now())
	for _, want := range []string{"1", "2", "2"} {
		if p := read(t, l); !bytes.HasSuffix(p.Data, []byte(want)) {
			t.Errorf("late: %q, want %q", p.Data, want)
		}
	}
	timeout("nothing left")
	l.SetReadDeadline(time.Time{})
	send(t, a, "127.0.0.1:4002", []byte("3"))
	if p := read(t, l); !bytes.HasSuffix(p.Data, []byte("3")) {
		t.Errorf("without a deadline: %q", p.Data)
	}
}

// The one interface that a listener is bound to goes down, and away: told at once, not waited for.
func TestInterfaceGoes(t *testing.T) {
	enterNetns(t)
	f, index := newTun(t, "10.8.0.1/24")
	l := mustOpen(t, Config{Interface: index, Filter: onlyUDP(4002)})
	done := make(chan error)
	go func() {
		var p Packet
		done <- l.Read(&p)
	}()
	setDown(t, "tun0")
	if err := <-done; !errors.Is(err, unix.ENETDOWN) {
		t.Errorf("waiting: %v", err)
	}

	// With a packet unread: first the packet, then the error, though the kernel tells them the other way round.
	configure(t, "tun0")
	l = mustOpen(t, Config{Interface: index, Filter: onlyUDP(4002)})
	send(t, udp(t, "10.8.0.1:4001"), "10.8.0.2:4002", nil)
	for s, _ := l.Stats(); s.Packets == 0; s, _ = l.Stats() {
		runtime.Gosched()
	}
	f.Close() // removes the device
	if p := read(t, l); p.Direction != Outgoing {
		t.Errorf("got %+v", p)
	}
	var p Packet
	for range 3 { // and it stays so
		if err := l.Read(&p); !errors.Is(err, unix.ENETDOWN) {
			t.Errorf("device gone: %v", err)
		}
	}
}

func setDown(t testing.TB, name string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		t.Fatal(err)
	}
}

// A device without link-layer headers looks the same, both ways and in both families.
func TestTun(t *testing.T) {
	enterNetns(t)
	f, index := newTun(t, "10.8.0.1/24", "fd08::1/64")
	for _, c := range []struct {
		name, from, to string
		etherType      uint16
	}{
		{"IPv4", "10.8.0.1:4001", "10.8.0.2:4002", EtherTypeIPv4},
		{"IPv6", "[fd08::1]:4001", "[fd08::2]:4002", EtherTypeIPv6},
	} {
		l := mustOpen(t, Config{Filter: onlyUDP(4002)})
		send(t, udp(t, c.from), c.to, []byte("over the tunnel"))
		out := read(t, l)
		if out.Direction != Outgoing || out.Interface != index || out.EtherType != c.etherType || out.LinkAddrLen != 0 || len(out.Data) != out.Length {
			t.Errorf("%s: %+v", c.name, out)
		}
		// What the other end of the tunnel gets is what the tap saw; it also gets what the kernel says by itself (router
		// solicitations, multicast reports). It answers with the same datagram, turned round.
		buf := make([]byte, 2048)
		f.SetReadDeadline(time.Now().Add(patience))
		for {
			n, err := f.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(buf[:n], out.Data) {
				break
			}
		}
		answer := append([]byte(nil), out.Data...)
		addr, size := 12, 4
		if c.etherType == EtherTypeIPv6 {
			addr, size = 8, 16
		}
		copy(answer[addr:], out.Data[addr+size:addr+2*size])
		copy(answer[addr+size:], out.Data[addr:addr+size])
		if _, err := f.Write(answer); err != nil {
			t.Fatal(err)
		}
		in := read(t, l)
		if in.Direction != Incoming || in.Interface != index || in.EtherType != c.etherType || in.LinkAddrLen != 0 ||
			!bytes.Equal(in.Data, answer) || in.Length != len(answer) || in.ChecksumPartial || in.Time.Before(out.Time) {
			t.Errorf("%s: %+v", c.name, in)
		}
	}
}

// veth, an Ethernet: ARP and neighbour discovery, the peer's link-layer address, and one interface of several.
func TestVeth(t *testing.T) {
	index := twoNetns(t)
	awaitStamps(t)
	all := mustOpen(t, Config{Filter: Interest{EchoID: 0x77, ISN: 1 << 31, Neighbors: true}.Filter()})
	one := mustOpen(t, Config{Filter: Interest{EchoID: 0x77, ISN: 1 << 31, Neighbors: true}.Filter(), Interface: index})
	va, err := net.InterfaceByIndex(index)
	if err != nil {
		t.Fatal(err)
	}
	newPinger(t, "127.0.0.1").ping(0x77, 9) // lo: only one of them sees it
	newPinger(t, "10.9.0.2").ping(0x77, 1)
	newPinger(t, "fd09::2").ping(0x77, 2)

	for range 4 { // request and reply, each twice
		if p := read(t, all); p.Interface != loopback {
			t.Errorf("before veth: %+v", p)
		}
	}
	var peer [8]byte
	last := ""
	for _, want := range []struct {
		etherType uint16
		what      string
		d         Direction
	}{
		{EtherTypeARP, "request", Outgoing}, {EtherTypeARP, "reply", Incoming}, {EtherTypeIPv4, "echo 1", Outgoing}, {EtherTypeIPv4, "reply 1", Incoming},
		{EtherTypeIPv6, "solicitation", Outgoing}, {EtherTypeIPv6, "advertisement", Incoming}, {EtherTypeIPv6, "echo 2", Outgoing}, {EtherTypeIPv6, "reply 2", Incoming},
	} {
		var p, q Packet
		for { // the peers' kernels may also ask each other, for their own link-local addresses
			p, q = read(t, one), read(t, all)
			// A question is put again where the peer's carrier was not yet there for its answer (net/core/link_watch.c).
			if k := kind(p); k != "" && !(k == last && (k == "request" || k == "solicitation")) {
				last = k
				break
			}
		}
		if !bytes.Equal(p.Data, q.Data) || !p.Time.Equal(q.Time) {
			t.Errorf("two listeners differ: %+v, %+v", p, q)
		}
		if kind(p) != want.what || p.Direction != want.d || p.EtherType != want.etherType || p.Interface != index || p.LinkAddrLen != 6 {
			t.Errorf("got %s %+v, want %+v", kind(p), p, want)
		}
		switch p.Direction {
		case Outgoing:
			if !bytes.Equal(p.LinkAddr[:6], va.HardwareAddr) {
				t.Errorf("%s from % x, not ours", kind(p), p.LinkAddr)
			}
		case Incoming:
			if peer == [8]byte{} {
				peer = p.LinkAddr
				if !bytes.Equal(peer[:6], p.Data[8:14]) {
					t.Errorf("ARP reply from % x says % x", peer, p.Data[8:14])
				}
			}
			if p.LinkAddr != peer {
				t.Errorf("%s from % x, not the peer", kind(p), p.LinkAddr)
			}
		}
	}
}

// kind names a packet of TestVeth, or "" for one that the test did not provoke.
func kind(p Packet) string {
	switch p.EtherType {
	case EtherTypeARP:
		return map[byte]string{1: "request", 2: "reply"}[p.Data[7]]
	case EtherTypeIPv4:
		return map[byte]string{8: "echo ", 0: "reply "}[p.Data[20]] + fmt.Sprint(p.Data[27])
	}
	target := func() bool { return bytes.Equal(p.Data[48:64], netip.MustParseAddr("fd09::2").AsSlice()) }
	switch p.Data[40] {
	case 135:
		if target() {
			return "solicitation"
		}
	case 136:
		if target() {
			return "advertisement"
		}
	case 128, 129:
		return map[byte]string{128: "echo ", 129: "reply "}[p.Data[40]] + fmt.Sprint(p.Data[47])
	}
	return ""
}

// A pinger sends ICMP echos on a raw socket and waits for the replies.
type pinger struct {
	t  testing.TB
	fd int
	to unix.Sockaddr
	v6 bool
}

func newPinger(t testing.TB, to string) *pinger {
	t.Helper()
	addr := netip.MustParseAddr(to)
	p := &pinger{t: t, v6: addr.Is6()}
	domain, proto := unix.AF_INET, unix.IPPROTO_ICMP
	if p.v6 {
		domain, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
		p.to = &unix.SockaddrInet6{Addr: addr.As16()}
	} else {
		p.to = &unix.SockaddrInet4{Addr: addr.As4()}
	}
	var err error
	if p.fd, err = unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p.fd) })
	tv := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pinger) ping(id, seq uint16) {
	p.t.Helper()
	request, reply, skip := byte(8), byte(0), 20
	if p.v6 {
		request, reply, skip = 128, 129, 0 // a raw IPv6 socket gives no header, and computes the checksum
	}
	b := []byte{request, 0, 0, 0, byte(id >> 8), byte(id), byte(seq >> 8), byte(seq)}
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	sum = ^(sum + sum>>16)
	b[2], b[3] = byte(sum>>8), byte(sum)
	if err := unix.Sendto(p.fd, b, 0, p.to); err != nil {
		p.t.Fatal(err)
	}
	buf := make([]byte, 256)
	for {
		n, _, err := unix.Recvfrom(p.fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			p.t.Fatalf("no reply: %v", err)
		}
		if n >= skip+8 && buf[skip] == reply && bytes.Equal(buf[skip+4:skip+8], b[4:8]) {
			return
		}
	}
}

// The contract: round-trip times from our stamps agree with those of an independent capture on the same
// interface, within 2 µs in the median.
func TestRTTAgainstCapture(t *testing.T) {
	const total, id = 100, 0x5a5a
	index := twoNetns(t)
	awaitStamps(t)
	l := mustOpen(t, Config{Filter: Interest{EchoID: id}.Filter(), Interface: index})
	other, err := pcapgo.NewEthernetHandle("va")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()

	type trip struct{ out, in time.Time }
	add := func(trips map[uint16]trip, icmp []byte, at time.Time) bool {
		if binary.BigEndian.Uint16(icmp[4:]) != id {
			return false
		}
		seq := binary.BigEndian.Uint16(icmp[6:])
		tr := trips[seq]
		switch {
		case icmp[0] == 8 && tr.out.IsZero():
			tr.out = at
		case icmp[0] == 0 && tr.in.IsZero():
			tr.in = at
		default:
			t.Errorf("type %d number %d twice", icmp[0], seq)
		}
		trips[seq] = tr
		return true
	}

	theirs := make(map[uint16]trip)
	captured := make(chan error, 1)
	go func() {
		for n := 0; n < 2*total; {
			b, ci, err := other.ReadPacketData()
			if err != nil {
				captured <- err
				return
			}
			if len(b) >= 42 && b[12] == 8 && b[13] == 0 && b[23] == 1 && add(theirs, b[34:], ci.Timestamp) {
				n++
			}
		}
		captured <- nil
	}()

	pinger := newPinger(t, "10.9.0.2")
	ours := make(map[uint16]trip)
	var user []time.Duration
	for seq := range uint16(total) {
		start := time.Now()
		pinger.ping(id, seq)
		user = append(user, time.Since(start))
		for range 2 {
			p := read(t, l)
			if !p.Stamped || !add(ours, p.Data[20:], p.Time) {
				t.Fatalf("not ours: %+v", p)
			}
		}
	}
	select {
	case err := <-captured:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("the other capture misses packets")
	}

	if len(ours) != total || len(theirs) != total {
		t.Fatalf("%d and %d trips", len(ours), len(theirs))
	}
	var diff, rtt []time.Duration
	same := 0
	for seq, o := range ours {
		c := theirs[seq]
		for _, tr := range []trip{o, c} {
			if tr.out.IsZero() || tr.in.IsZero() || tr.in.Before(tr.out) {
				t.Fatalf("number %d: out %v, in %v", seq, tr.out, tr.in)
			}
		}
		if o.out.Equal(c.out) && o.in.Equal(c.in) {
			same++
		}
		rtt = append(rtt, o.in.Sub(o.out))
		diff = append(diff, (o.in.Sub(o.out) - c.in.Sub(c.out)).Abs())
	}
	slices.Sort(diff)
	slices.Sort(rtt)
	slices.Sort(user)
	t.Logf("difference of %d round trips to the capture's: median %v, 95 %% below %v, largest %v; both stamps identical in %d",
		total, diff[total/2], diff[total*95/100], diff[total-1], same)
	t.Logf("round trip: median %v by our stamps, %v by the user's clock", rtt[total/2], user[total/2])
	if diff[total/2] > 2*time.Microsecond {
		t.Errorf("median difference %v, more than 2 µs", diff[total/2])
	}
}

// The same filter, run by the kernel: on a tun device every sample, as it is, comes in from the wire.
func TestFilterInKernel(t *testing.T) {
	enterNetns(t)
	f, index := newTun(t, "10.8.0.1/24")
	l := mustOpen(t, Config{Filter: testInterest.Filter(), Interface: index})
	sent, passed := 0, 0
	last := serialize(t, ip4(layers.IPProtocolTCP), gopacket.Payload(make([]byte, 20)))
	binary.BigEndian.PutUint32(last[24:], testInterest.ISN)
	for _, s := range samples(t) {
		if s.data[0]>>4 != 4 && s.data[0]>>4 != 6 {
			continue // tun tells IPv4 and IPv6 by the version, and takes nothing else (tun_get_user in drivers/net/tun.c)
		}
		// A packet that is refused is never seen: so each is followed by one that is accepted.
		last[4]++
		for _, b := range [][]byte{s.data, last} {
			if _, err := f.Write(b); err != nil {
				t.Fatalf("%s: %v", s.name, err)
			}
		}
		sent++
		p := read(t, l)
		for p.Direction == Outgoing { // the kernel's own answer to a sample: an RST, or an ICMP error, quotes it
			p = read(t, l)
		}
		got := !bytes.Equal(p.Data, last)
		if got && !bytes.Equal(p.Data, s.data) {
			t.Fatalf("%s: read something else: % x", s.name, p.Data)
		}
		if got != s.want {
			t.Errorf("%s: passes %t, want %t", s.name, got, s.want)
		}
		if got {
			passed++
			for p = read(t, l); !bytes.Equal(p.Data, last); p = read(t, l) {
				if p.Direction != Outgoing {
					t.Fatalf("%s: twice", s.name)
				}
			}
		}
	}
	t.Logf("%d packets, %d passed", sent, passed)
}

// The kernel and bpf.VM come to the same answer for anything: the filter of a Unix socket sees just the bytes that were sent
// (unix_dgram_sendmsg calls sk_filter).
func TestFilterKernelAgainstVM(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	if err := attachFilter(pair[1], testInterest.Filter()); err != nil {
		t.Fatal(err)
	}
	vm := mustVM(t, testInterest)
	check := func(b []byte) bool {
		if len(b) == 0 {
			return false // an empty datagram is no packet
		}
		n, err := vm.Run(b)
		if err != nil {
			t.Fatal(err)
		}
		// A datagram that the filter refuses is EPERM from __sk_filter, which unix_dgram_sendmsg drops in silence.
		if err := unix.Send(pair[0], b, 0); err != nil && err != unix.EPERM {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		got, err := unix.Read(pair[1], buf)
		if err != nil && err != unix.EAGAIN {
			t.Fatal(err)
		}
		passes := err == nil
		if passes != (n > 0) || passes && !bytes.Equal(buf[:got], b) {
			t.Fatalf("kernel passes %t, VM returns %d (seed %d)\n% x", passes, n, seed, b)
		}
		return passes
	}
	corpus := samples(t)
	for _, s := range corpus {
		if check(s.data) != s.want {
			t.Errorf("%s: passes %t", s.name, !s.want)
		}
		for n := range min(61, len(s.data)) {
			check(s.data[:n])
		}
	}
	for range 50_000 {
		check(mutate(r, corpus[r.IntN(len(corpus))].data))
	}
}

// packetSockets counts the packet sockets of the thread's network namespace.
func packetSockets(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile("/proc/thread-self/net/packet")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(b, []byte("\n")) - 1 // a heading
}

func descriptors(t testing.TB) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

// await waits until count comes down to want, and fails the test if it does not.
func await(t testing.TB, what string, want int, count func() int) {
	t.Helper()
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		n := count()
		if n == want {
			return
		}
		if time.Since(start) > 6*patience { // the kernel's worker waits for one grace period after the other
			t.Fatalf("%s: %d, want %d", what, n, want)
		}
	}
}

// Nothing is left behind, whether Open succeeds or fails half-way, and whether somebody reads: no descriptor and no goroutine
// when Close returns, and soon no socket.
func TestNoLeak(t *testing.T) {
	enterNetns(t)
	mustOpen(t, Config{}).Close() // the poller's own descriptors
	sockets := func() int { return packetSockets(t) }
	await(t, "packet sockets at first", 0, sockets)
	fds, goroutines := descriptors(t), runtime.NumGoroutine()
	l := mustOpen(t, Config{})
	if f, s := descriptors(t), packetSockets(t); f != fds+1 || s != 1 {
		t.Errorf("one open listener: %d descriptors and %d sockets more", f-fds, s)
	}
	l.Close()
	rounds := 200
	if testing.Short() {
		rounds = 20
	}
	opening, closing := make([]time.Duration, rounds), make([]time.Duration, rounds)
	failed := 0
	begin := time.Now()
	for i := range rounds {
		start := time.Now()
		l, err := Open(Config{Filter: onlyUDP(4002)})
		if err != nil {
			t.Fatal(err)
		}
		opening[i] = time.Since(start)
		var reader chan error
		if i%3 == 0 {
			reader = make(chan error)
			go func() { reader <- l.Read(new(Packet)) }()
		}
		start = time.Now()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		closing[i] = time.Since(start)
		if reader != nil {
			if err := <-reader; !errors.Is(err, net.ErrClosed) {
				t.Fatal(err)
			}
		}
		if i%10 == 0 { // half-way: bind fails
			failed++
			if _, err := Open(Config{Interface: 4711}); err == nil {
				t.Fatal("opened an interface that does not exist")
			}
		}
	}
	total := time.Since(begin)
	if f := descriptors(t); f != fds {
		t.Errorf("%d descriptors more than before", f-fds)
	}
	left := packetSockets(t)
	await(t, "packet sockets", 0, sockets)
	await(t, "goroutines", goroutines, runtime.NumGoroutine)
	slices.Sort(opening)
	slices.Sort(closing)
	t.Logf("Open takes %v, Close %v (medians of %d; largest %v and %v), %v in all with %d failures; then %d sockets were left, all gone %v later",
		opening[rounds/2], closing[rounds/2], rounds, opening[rounds-1], closing[rounds-1], total, failed, left, time.Since(begin)-total)
}

// Where the descriptor can't be put in flight, Close is slower and just as good: the socket is gone when it returns.
func TestCloseFallsBack(t *testing.T) {
	enterNetns(t)
	mustOpen(t, Config{}).Close()
	await(t, "packet sockets at first", 0, func() int { return packetSockets(t) })
	fds := descriptors(t)
	check := func(name string, closing func(l *Listener) error) {
		t.Helper()
		l := mustOpen(t, Config{})
		reader := make(chan error)
		go func() { reader <- l.Read(new(Packet)) }()
		if err := closing(l); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := <-reader; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: Read: %v", name, err)
		}
		if f, s := descriptors(t)-fds, packetSockets(t); f != 0 || s != 0 {
			t.Errorf("%s: %d descriptors and %d sockets are left", name, f, s)
		}
	}

	check("too many in flight", func(l *Listener) error {
		inFlight = func(int) ([2]int, error) { return [2]int{}, unix.ETOOMANYREFS }
		defer func() { inFlight = putInFlight }()
		return l.Close()
	})

	// For real: room for one more descriptor, and for none.
	for room := range 2 {
		check(fmt.Sprintf("room for %d descriptors", room), func(l *Listener) error {
			var before unix.Rlimit
			if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
				t.Fatal(err)
			}
			// Descriptors are given out from below: the limit is put behind the first free ones.
			var free []int
			for len(free) <= room {
				fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				free = append(free, fd)
			}
			for _, fd := range free {
				unix.Close(fd)
			}
			low := before
			low.Cur = uint64(free[room])
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
				t.Fatal(err)
			}
			defer unix.Setrlimit(unix.RLIMIT_NOFILE, &before)
			if ends, err := putInFlight(0); err != unix.EMFILE {
				t.Fatalf("%v, %v", ends, err)
			}
			return l.Close()
		})
	}
}

// What one listener costs, from nothing to nothing.
func BenchmarkOpenClose(b *testing.B) {
	enterNetns(b)
	filter := Interest{Family: 4, ISN: 0x12345678, Port: 40000, PeerPort: 443, EchoID: 7}.Filter()
	for b.Loop() {
		l, err := Open(Config{Filter: filter})
		if err != nil {
			b.Fatal(err)
		}
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// Reading allocates nothing once the packet has its array.
func TestReadAllocs(t *testing.T) {
	enterNetns(t)
	l := mustOpen(t, Config{Filter: onlyUDP(4002)})
	a := udp(t, "127.0.0.1:4001")
	sink := udp(t, "127.0.0.1:4002")
	go io.Copy(io.Discard, sink)
	var p Packet
	to := netip.MustParseAddrPort("127.0.0.1:4002")
	n := testing.AllocsPerRun(200, func() {
		a.WriteToUDPAddrPort(nil, to)
		for range 2 {
			if err := l.Read(&p); err != nil {
				t.Fatal(err)
			}
		}
	})
	if n > 0 {
		t.Errorf("%v allocations for two packets", n)
	}
}
