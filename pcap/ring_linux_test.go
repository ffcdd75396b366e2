package pcap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// toPort passes the UDP datagrams to a port of 127.0.0.1, cut behind 40 bytes.
func toPort(port int) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoUDP, SkipFalse: 3},
		bpf.LoadAbsolute{Off: 22, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port), SkipFalse: 1},
		bpf.RetConstant{Val: 40},
		bpf.RetConstant{Val: 0},
	}
}

// ringHere opens a ring in a namespace of its own, with a socket to send to
// itself by.
func ringHere(t *testing.T, cfg RingConfig) (*Ring, *net.UDPConn) {
	t.Helper()
	enterNetns(t)
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	cfg.Filter = toPort(c.LocalAddr().(*net.UDPAddr).Port)
	cfg.EtherType = EtherTypeIPv4
	r, err := OpenRing(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, c
}

func numbered(n int) []byte {
	return binary.BigEndian.AppendUint32(make([]byte, 0, 100), uint32(n))[:100]
}

// Packets come whole, in order, with stamps, over several blocks and around
// the end of the ring.
func TestRing(t *testing.T) {
	// Blocks are full before they are retired, however slow the machine is.
	r, c := ringHere(t, RingConfig{Blocks: 16, BlockSize: 1 << 14, Retire: 500 * time.Millisecond})
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	const total = 5000 // of 144 bytes and more: the ring has 256 KiB
	next, last := 0, time.Now().Add(-time.Second).UnixNano()
	take := func(p *RingPacket) {
		if len(p.Data) != 40 || p.Interface != lo.Index || p.Direction != Incoming {
			t.Fatalf("packet %d: %d bytes, interface %d, %v", next, len(p.Data), p.Interface, p.Direction)
		}
		if n := int(binary.BigEndian.Uint32(p.Data[28:])); n != next {
			t.Fatalf("packet %d after %d", n, next-1)
		}
		if p.Time < last || p.Time > time.Now().UnixNano() {
			t.Fatalf("packet %d: stamp %d after %d", next, p.Time, last)
		}
		last = p.Time
		next++
	}
	read := 0
	for n := range total {
		if _, err := c.WriteTo(numbered(n), c.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		if n%500 == 0 {
			read += r.Read(take)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); next < total && time.Now().Before(deadline); {
		if err := WaitRings(50*time.Millisecond, r); err != nil {
			t.Fatal(err)
		}
		read += r.Read(take)
	}
	s, err := r.Stats()
	if err != nil || next != total || read != total || s.Packets != total || s.Drops != 0 {
		t.Errorf("%d packets read, %d told, %+v, %v; want %d", next, read, s, err, total)
	}
}

// What does not fit is dropped and counted, also over several readings of the
// counts, and what fits is whole.
func TestRingFull(t *testing.T) {
	r, c := ringHere(t, RingConfig{Blocks: 2, BlockSize: os.Getpagesize()})
	const total = 1000
	for n := range total {
		if _, err := c.WriteTo(numbered(n), c.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		if n == total/2 {
			if s, err := r.Stats(); err != nil || s.Drops == 0 {
				t.Errorf("%+v, %v: nothing dropped yet", s, err)
			}
		}
	}
	got := 0
	for range 3 { // what is in a block that is not full comes with time
		if err := WaitRings(20*time.Millisecond, r); err != nil {
			t.Fatal(err)
		}
		got += r.Read(func(*RingPacket) {})
	}
	s, err := r.Stats()
	if err != nil || s.Packets != total || s.Drops == 0 || uint64(got) != s.Packets-s.Drops {
		t.Errorf("%d packets read, %+v, %v; want %d in all", got, s, err, total)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if after, err := r.Stats(); err != nil || after != s {
		t.Errorf("after Close: %+v, %v", after, err)
	}
	if n := r.Read(func(*RingPacket) {}); n != 0 {
		t.Errorf("%d packets after Close", n)
	}
	if err := r.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

// A wait without packets takes its time, and not much more; with packets it
// ends.
func TestWaitRings(t *testing.T) {
	r, c := ringHere(t, RingConfig{})
	for _, d := range []time.Duration{0, time.Millisecond, 20 * time.Millisecond} {
		begin := time.Now()
		if err := WaitRings(d, r); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took < d*9/10 && d > briefWait {
			t.Errorf("a wait for %v took %v", d, took)
		}
	}
	if _, err := c.WriteTo(numbered(1), c.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := WaitRings(time.Minute, r); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("a wait with a packet took %v", took)
	}
	if n := r.Read(func(*RingPacket) {}); n != 1 {
		t.Errorf("%d packets, want 1", n)
	}
	if err := WaitRings(0, r, r, r, r, r); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("too many rings: %v", err)
	}
	if err := WaitRings(0); err != nil {
		t.Errorf("no rings: %v", err)
	}
}

func TestRingConfig(t *testing.T) {
	enterNetns(t)
	for _, c := range []struct {
		cfg  RingConfig
		want error
	}{
		{RingConfig{BlockSize: 1000}, os.ErrInvalid},
		{RingConfig{Blocks: -1}, os.ErrInvalid},
		{RingConfig{Blocks: 1 << 20}, os.ErrInvalid},
		{RingConfig{Retire: time.Microsecond}, os.ErrInvalid},
		{RingConfig{Interface: 12345}, unix.ENODEV},
		{RingConfig{Filter: []bpf.Instruction{bpf.Jump{Skip: 5}}}, unix.EINVAL},
	} {
		r, err := OpenRing(c.cfg)
		var step *OpError
		if !errors.Is(err, c.want) || !errors.As(err, &step) {
			t.Errorf("%+v: %v, want %v", c.cfg, err, c.want)
		}
		if err == nil {
			r.Close()
		}
	}
}

// Nothing is allocated for a packet, nor for a wait.
func TestRingAllocates(t *testing.T) {
	r, c := ringHere(t, RingConfig{})
	to := c.LocalAddr().(*net.UDPAddr).AddrPort()
	b := numbered(1)
	take := func(*RingPacket) {}
	if n := testing.AllocsPerRun(200, func() {
		if _, err := c.WriteToUDPAddrPort(b, to); err != nil {
			panic(fmt.Sprint(err))
		}
		WaitRings(time.Millisecond, r)
		r.Read(take)
	}); n > 0 {
		t.Errorf("%v allocations a packet", n)
	}
}
