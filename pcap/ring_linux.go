package pcap

import (
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

type ring struct {
	fd     int
	memory []byte
	size   int // of a block
	blocks int
	next   int // the block to be read next
	packet RingPacket
	total  Stats
}

// A block begins with struct tpacket_block_desc: the version, the offset to private data, and then struct
// tpacket_hdr_v1, whose first fields these are (linux/if_packet.h).
const (
	blockStatus = 8
	blockCount  = 12
	blockFirst  = 16
	blockHeader = 48
)

// ringFrame is the frame size in the request. A TPACKET_V3 ring packs packets of any length; the kernel merely wants
// it to divide a block (packet_set_ring in net/packet/af_packet.c).
const ringFrame = 2048

func openRing(cfg RingConfig) (*ring, error) {
	r := &ring{fd: -1, size: cfg.BlockSize, blocks: cfg.Blocks}
	if r.size == 0 {
		r.size = DefaultRingBlockSize
	}
	if r.blocks == 0 {
		r.blocks = DefaultRingBlocks
	}
	retire := cfg.Retire
	if retire == 0 {
		retire = DefaultRetire
	}
	if r.size < 0 || r.size%os.Getpagesize() != 0 || r.blocks < 0 || r.size > maxBuffer/r.blocks || retire < time.Millisecond || cfg.Interface < 0 {
		return nil, &OpError{"check RingConfig", os.ErrInvalid}
	}
	// Protocol 0 registers no hook: the socket hears nothing until bind names a protocol.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, &OpError{"socket", err}
	}
	r.fd = fd
	if err := r.setup(cfg, retire); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *ring) setup(cfg RingConfig, retire time.Duration) error {
	if err := attachFilter(r.fd, cfg.Filter); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return &OpError{"setsockopt PACKET_VERSION", err}
	}
	req := &unix.TpacketReq3{
		Block_size: uint32(r.size), Block_nr: uint32(r.blocks),
		Frame_size: ringFrame, Frame_nr: uint32(r.size / ringFrame * r.blocks),
		Retire_blk_tov: uint32(retire / time.Millisecond),
	}
	if err := unix.SetsockoptTpacketReq3(r.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, req); err != nil {
		return &OpError{"setsockopt PACKET_RX_RING", err}
	}
	var err error
	if r.memory, err = unix.Mmap(r.fd, 0, r.size*r.blocks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return &OpError{"mmap", err}
	}
	protocol := cfg.EtherType
	if protocol == 0 {
		protocol = unix.ETH_P_ALL
	}
	if err := unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: htons(protocol), Ifindex: cfg.Interface}); err != nil {
		return &OpError{"bind", err}
	}
	if err := socketError(r.fd); err != nil {
		return &OpError{"bind", err}
	}
	return nil
}

// word returns a number in the ring. The kernel keeps all of them aligned (BLK_HDR_LEN, TPACKET_ALIGN).
func word(b []byte, at int) *uint32 { return (*uint32)(unsafe.Pointer(&b[at])) }

func (r *ring) read(f func(*RingPacket)) int {
	total := 0
	for range r.blocks { // whoever reads slower than they come must get to do something else
		block := r.memory[r.next*r.size:][:r.size:r.size]
		status := word(block, blockStatus)
		if atomic.LoadUint32(status)&unix.TP_STATUS_USER == 0 {
			return total
		}
		n := int(*word(block, blockCount))
		r.packets(block, int(*word(block, blockFirst)), n, f)
		total += n
		atomic.StoreUint32(status, unix.TP_STATUS_KERNEL)
		if r.next++; r.next == r.blocks {
			r.next = 0
		}
	}
	return total
}

// packets calls f for the n packets of a block.
func (r *ring) packets(block []byte, at, n int, f func(*RingPacket)) {
	p := &r.packet
	const header = int(unsafe.Sizeof(unix.Tpacket3Hdr{}))
	for range n {
		if at < blockHeader || at > len(block)-header-unix.SizeofSockaddrLinklayer {
			return // the kernel's own numbers: never
		}
		h := (*unix.Tpacket3Hdr)(unsafe.Pointer(&block[at]))
		from := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(&block[at+header]))
		if start, end := at+int(h.Net), at+int(h.Net)+int(h.Snaplen); end <= len(block) {
			p.Data = block[start:end:end]
			p.Time = int64(h.Sec)*int64(time.Second) + int64(h.Nsec)
			p.Interface = int(from.Ifindex)
			p.Direction = direction(from.Pkttype)
			f(p)
		}
		if h.Next_offset == 0 {
			return
		}
		at += int(h.Next_offset)
	}
}

func (r *ring) stats() (Stats, error) {
	if r.fd < 0 {
		return r.total, nil
	}
	s, err := unix.GetsockoptTpacketStatsV3(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return r.total, &OpError{"getsockopt PACKET_STATISTICS", err}
	}
	// Each reading begins anew. tp_packets includes tp_drops (packet_getsockopt).
	r.total.Packets += uint64(s.Packets)
	r.total.Drops += uint64(s.Drops)
	return r.total, nil
}

func (r *ring) close() error {
	if r.fd < 0 {
		return nil
	}
	r.stats()
	attachFilter(r.fd, Nothing) // until the kernel has taken it back
	var first error
	if r.memory != nil {
		if err := unix.Munmap(r.memory); err != nil {
			first = &OpError{"munmap", err}
		}
	}
	if err := abandon(r.fd, func() error { return unix.Close(r.fd) }); err != nil && first == nil {
		first = &OpError{"close", err}
	}
	r.fd, r.memory = -1, nil
	r.blocks = 0
	return first
}

func waitRings(d time.Duration, rings []*Ring) error {
	var fds [4]unix.PollFd
	if len(rings) > len(fds) {
		return &OpError{"ppoll", os.ErrInvalid}
	}
	for i, r := range rings {
		fds[i] = unix.PollFd{Fd: int32(r.r.fd), Events: unix.POLLIN}
	}
	ts := unix.NsecToTimespec(max(0, d.Nanoseconds()))
	var errno syscall.Errno
	if d <= briefWait {
		_, _, errno = unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds[0])), uintptr(len(rings)), uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	} else {
		_, _, errno = unix.Syscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds[0])), uintptr(len(rings)), uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	}
	if errno != 0 && errno != unix.EINTR {
		return &OpError{"ppoll", errno}
	}
	return nil
}

// briefWait is the longest wait of which the runtime is not told. Telling it costs
// some 40 microseconds of a CPU, in which it moves its own work to another thread and back: more than ten packets.
// Where it wants the thread meanwhile, its signal ends the wait (runtime.preemptM).
const briefWait = 5 * time.Millisecond
