package pcap

import (
	"time"

	"golang.org/x/net/bpf"
)

// RingConfig says what a [Ring] is to see. The zero value sees every IPv4 and IPv6 packet that comes in, on all
// interfaces.
type RingConfig struct {
	// Filter is a classic BPF program; offset 0 is the network header. It is as in [Config].
	Filter []bpf.Instruction
	// EtherType is what to receive: EtherTypeIPv4 or EtherTypeIPv6. Zero means all, outgoing packets included, which then
	// cost time for each packet sent (dev_queue_xmit_nit in net/core/dev.c).
	EtherType uint16
	// Interface is the index of the one interface to listen on. Zero means all.
	Interface int
	// Blocks and BlockSize, in bytes, are the size of the ring. Zero means DefaultRingBlocks of DefaultRingBlockSize. A
	// block is a whole number of memory pages. The kernel hands over a block at a time, when it is full or Retire has
	// passed.
	Blocks, BlockSize int
	// Retire is how long the kernel keeps packets in a block that is not full; it counts whole milliseconds. Zero means
	// DefaultRetire.
	Retire time.Duration
}

// The sizes of a ring by default: some 28,000 answers to SYNs. Where few come, each takes a block to itself: then there is
// room for as many times Retire as there are blocks, a second and more in which nobody reads.
const (
	DefaultRingBlocks    = 128
	DefaultRingBlockSize = 32 << 10
	DefaultRetire        = 10 * time.Millisecond
)

// A RingPacket is one packet in a ring.
type RingPacket struct {
	// Data begins at the network header. It is memory that the kernel writes to: it is good until the callback returns.
	Data []byte
	// Time is the kernel's stamp in nanoseconds of the wall clock (CLOCK_REALTIME) since 1970.
	Time int64
	// Interface is the index of the interface on which the packet was seen.
	Interface int
	// Direction is the packet's way, seen from this machine.
	Direction Direction
}

// A Ring receives packets at a high rate, in memory that it shares with the kernel (TPACKET_V3,
// Documentation/networking/packet_mmap.rst): no system call for a packet, and no copy. Where the ring is full the kernel
// drops what comes, and counts it. Its methods belong to one goroutine.
//
// A [Listener] is quicker to open and to close, and tells more about each packet.
type Ring struct {
	r *ring
}

// OpenRing starts to receive, in the network namespace of the calling thread. Errors are those of [Open], and ENOMEM at
// "setsockopt PACKET_RX_RING" where there is no memory for it.
func OpenRing(cfg RingConfig) (*Ring, error) {
	r, err := openRing(cfg)
	if err != nil {
		return nil, err
	}
	return &Ring{r}, nil
}

// Read calls f for every packet that the kernel has handed over, at most once around the ring, and returns how many
// those were. It does not wait. The RingPacket is good until f returns.
func (r *Ring) Read(f func(*RingPacket)) int { return r.r.read(f) }

// Stats returns the counts since OpenRing.
func (r *Ring) Stats() (Stats, error) { return r.r.stats() }

// Close gives the ring back, as [Listener.Close] does: the kernel takes it a little later.
func (r *Ring) Close() error { return r.r.close() }

// WaitRings returns when the kernel has handed over packets in one of the rings, or when d has passed. It is the
// thread that waits, without the runtime's poller: the kernel's timer is finer. A signal may end it early.
func WaitRings(d time.Duration, rings ...*Ring) error { return waitRings(d, rings) }
