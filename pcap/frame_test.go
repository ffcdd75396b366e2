package pcap

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"
)

// frame builds a frame as tpacket_rcv does.
func frame(status, length, snap uint32, at uint16, data []byte) []byte {
	f := make([]byte, frameSize)
	n := binary.NativeEndian
	n.PutUint32(f[frameStatus:], status)
	n.PutUint32(f[frameLen:], length)
	n.PutUint32(f[frameSnap:], snap)
	n.PutUint16(f[frameNet:], at)
	n.PutUint32(f[frameSec:], 1_900_000_000)
	n.PutUint32(f[frameNsec:], 999_999_999)
	binary.BigEndian.PutUint16(f[frameProtocol:], EtherTypeIPv6)
	n.PutUint32(f[frameIfindex:], 42)
	f[framePkttype] = typeOutgoing
	f[frameHalen] = 6
	copy(f[frameAddr:], []byte{2, 0, 0, 0, 0, 9, 0xff, 0xff})
	copy(f[at:], data)
	return f
}

func TestParseFrame(t *testing.T) {
	data := []byte("not really a packet")
	const losing = 1 << 2
	f := frame(statusUser|statusChecksumPartial|losing, 4000, uint32(len(data)), frameData, data)
	p := Packet{Data: make([]byte, 3, 100), LinkAddr: [8]byte{7, 7, 7, 7, 7, 7, 7, 7}}
	if !parseFrame(f, DefaultSnapLen, &p) {
		t.Fatal("refused")
	}
	if !bytes.Equal(p.Data, data) || p.Length != 4000 || p.Interface != 42 || p.Direction != Outgoing ||
		p.EtherType != EtherTypeIPv6 || !p.ChecksumPartial || p.LinkAddrLen != 6 || p.LinkAddr != [8]byte{2, 0, 0, 0, 0, 9} ||
		!p.Time.Equal(time.Unix(1_900_000_000, 999_999_999)) {
		t.Errorf("got %+v", p)
	}
	clear(f)
	if !bytes.Equal(p.Data, data) {
		t.Error("Data aliases the ring")
	}
}

func TestParseFrameCuts(t *testing.T) {
	data := bytes.Repeat([]byte{1, 2}, 50)
	var p Packet
	if !parseFrame(frame(statusUser, 100, 100, frameData, data), 64, &p) || len(p.Data) != 64 || p.Length != 100 {
		t.Errorf("snap length: %d of %d bytes", len(p.Data), p.Length)
	}
	if !parseFrame(frame(statusUser, 9000, DefaultSnapLen, frameData, data), DefaultSnapLen, &p) || len(p.Data) != DefaultSnapLen || p.Length != 9000 {
		t.Errorf("ring frame: %d of %d bytes", len(p.Data), p.Length)
	}
	// What lies outside of the frame is refused, and leaves the packet alone.
	before := p
	for _, f := range [][]byte{
		nil, make([]byte, frameHeader-1),
		frame(statusUser, 100, DefaultSnapLen+1, frameData, nil),
		frame(statusUser, 100, 0xffff_ffff, frameData, nil),
		frame(statusUser, 100, 10, frameHeader-1, nil),
		frame(statusUser, 100, 10, frameData, nil)[:frameData+9],
	} {
		if parseFrame(f, DefaultSnapLen, &p) {
			t.Errorf("frame of %d bytes accepted", len(f))
		}
	}
	if &p.Data[0] != &before.Data[0] || p.Length != before.Length {
		t.Error("a refused frame changed the packet")
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

func TestRingGeometry(t *testing.T) {
	for _, page := range []int{4 << 10, 16 << 10, 64 << 10} {
		for _, snap := range []int{1, DefaultSnapLen, DefaultSnapLen + 1, 9000, MaxSnapLen} {
			for _, buffer := range []int{1, 4096, 4097, DefaultBuffer, 8 << 20} {
				g := ringGeometry(buffer, snap, page)
				// What packet_set_ring demands, and what we promise.
				if g.block%page != 0 || g.frame%frameAlign != 0 || g.block%g.frame != 0 || g.frames() < 1 ||
					g.frame < frameData+snap || g.size() < buffer || g.size() >= buffer+g.block {
					t.Errorf("page %d, snap %d, buffer %d: %+v", page, snap, buffer, g)
				}
			}
		}
	}
	if g := ringGeometry(DefaultBuffer, DefaultSnapLen, 4096); g.frames() != 256 {
		t.Errorf("%d frames by default", g.frames())
	}
}

func FuzzParseFrame(f *testing.F) {
	f.Add(frame(statusUser, 100, 100, frameData, bytes.Repeat([]byte{0x45}, 100)), 64)
	f.Add(make([]byte, frameHeader), 0)
	f.Fuzz(func(t *testing.T, b []byte, snap int) {
		if snap < 0 || snap > MaxSnapLen {
			return
		}
		p := Packet{Data: []byte("before")}
		if !parseFrame(b, snap, &p) {
			if string(p.Data) != "before" || p.Length != 0 {
				t.Fatal("a refused frame changed the packet")
			}
			return
		}
		if len(p.Data) > snap || len(p.Data) > len(b)-frameHeader || p.Length < len(p.Data) || p.LinkAddrLen > len(p.LinkAddr) || p.Direction > OtherHost {
			t.Fatalf("got %+v of %d bytes", p, len(b))
		}
	})
}
