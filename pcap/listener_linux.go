package pcap

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// maxBuffer bounds the ring: the kernel counts its bytes in 32 bits.
const maxBuffer = 1 << 30

type listener struct {
	file *os.File // non-blocking, so that the runtime's poller waits for it
	conn syscall.RawConn
	mem  []byte // the ring, shared with the kernel
	ring geometry
	snap int

	// reading is held for the whole of a Read, so that packets are taken one after the other. What follows belongs to
	// that Read; its callbacks are made once, lest each Read allocate them.
	reading  sync.Mutex
	next     int // the frame that the kernel fills next, or has filled
	into     *Packet
	limit    time.Time // take no frame that was stamped later; zero: take any
	taken    bool
	err      error
	take     func(uintptr) bool
	takeLate func(uintptr)

	deadlineMu sync.Mutex
	deadline   time.Time

	statsMu sync.Mutex
	total   Stats

	closed    atomic.Bool
	closeOnce sync.Once
	closeErr  error
}

func open(cfg Config) (*listener, error) {
	snap := cfg.SnapLen
	if snap == 0 {
		snap = DefaultSnapLen
	}
	buffer := cfg.Buffer
	if buffer == 0 {
		buffer = DefaultBuffer
	}
	switch {
	case snap < 0 || snap > MaxSnapLen:
		return nil, &OpError{"check SnapLen", os.ErrInvalid}
	case buffer < 0 || buffer > maxBuffer:
		return nil, &OpError{"check Buffer", os.ErrInvalid}
	case cfg.Interface < 0:
		return nil, &OpError{"check Interface", os.ErrInvalid}
	}

	// Protocol 0 registers no hook (packet_create): the socket hears nothing until bind names a protocol.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, &OpError{"socket", err}
	}
	l := &listener{snap: snap}
	if err := l.setup(fd, cfg, buffer); err != nil {
		if l.mem != nil {
			unix.Munmap(l.mem)
		}
		unix.Close(fd)
		return nil, err
	}

	l.take = func(fd uintptr) bool {
		if l.shift() {
			return true
		}
		// A pending error (the interface went down: packet_notifier) is told once, by an edge that may come together
		// with a packet's; so it is asked for before each wait.
		l.err = socketError(int(fd))
		return l.err != nil
	}
	l.takeLate = func(uintptr) { l.shift() }
	l.file = os.NewFile(uintptr(fd), "packet")
	if l.conn, err = l.file.SyscallConn(); err != nil {
		l.file.Close()
		unix.Munmap(l.mem)
		return nil, &OpError{"poll", err}
	}
	return l, nil
}

// setup turns a deaf socket into a listening one. Its last step is bind.
func (l *listener) setup(fd int, cfg Config, buffer int) error {
	if err := attachFilter(fd, cfg.Filter); err != nil {
		return err
	}
	// The stamp is taken once for all taps, in the softirq (net_timestamp_set, net_timestamp_check in net/core/dev.c),
	// but only while somebody asks for it. The switch is thrown by a kernel worker a little later; until then
	// tpacket_rcv stamps the frame itself, a microsecond after, whereas recvmsg would stamp it when it is read.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return &OpError{"setsockopt SO_TIMESTAMPNS", err}
	}
	// Version 2 hands over each packet at once; version 3 would gather a block of them, or wait for a timer.
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		return &OpError{"setsockopt PACKET_VERSION", err}
	}
	var err error
	l.ring, err = allocate(ringGeometry(buffer, l.snap, os.Getpagesize()), func(g geometry) error {
		return unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &unix.TpacketReq{
			Block_size: uint32(g.block),
			Block_nr:   uint32(g.blocks),
			Frame_size: uint32(g.frame),
			Frame_nr:   uint32(g.frames()),
		})
	})
	if err != nil {
		return &OpError{"setsockopt PACKET_RX_RING", err}
	}
	l.mem, err = unix.Mmap(fd, 0, l.ring.size(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return &OpError{"mmap", err}
	}
	// Only ETH_P_ALL is shown what goes out (dev_queue_xmit_nit walks the ptype_all lists alone).
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: cfg.Interface}); err != nil {
		return &OpError{"bind", err}
	}
	// packet_do_bind succeeds on an interface that is down, and leaves ENETDOWN for whoever asks.
	if err := socketError(fd); err != nil {
		return &OpError{"bind", err}
	}
	return nil
}

// allocate asks for a ring, and for half of it where the kernel has not the memory (alloc_pg_vec), down to one block.
func allocate(g geometry, ask func(geometry) error) (geometry, error) {
	for {
		err := ask(g)
		if (err == unix.ENOMEM || err == unix.ENOBUFS) && g.blocks > 1 {
			g.blocks /= 2
			continue
		}
		return g, err
	}
}

func (l *listener) read(p *Packet) error {
	l.reading.Lock()
	defer l.reading.Unlock()
	l.into, l.limit, l.taken, l.err = p, time.Time{}, false, nil
	defer func() { l.into = nil }()

	// Everything that touches the ring runs inside of conn.Read or conn.Control: these hold the file open, and close
	// waits for them before it unmaps.
	err := l.conn.Read(l.take)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// The poller looks at the clock before it looks at the ring.
		if l.limit = l.readDeadline(); !l.limit.IsZero() {
			l.conn.Control(l.takeLate)
		}
	}
	switch {
	case l.taken:
		return nil
	case l.closed.Load():
		return &OpError{"read", net.ErrClosed}
	case l.err != nil:
		return &OpError{"read", l.err}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &OpError{"read", os.ErrDeadlineExceeded}
	}
	// An error that comes alone is reported by the poller, as ErrNotPollable. What it was, the socket knows.
	l.conn.Control(func(fd uintptr) { l.err = socketError(int(fd)) })
	if l.err != nil {
		err = l.err
	}
	return &OpError{"read", err}
}

// shift takes the next frame from the ring, if the kernel has filled it, and gives it back. It sets l.taken.
func (l *listener) shift() bool {
	for {
		perBlock := l.ring.block / l.ring.frame
		at := l.next/perBlock*l.ring.block + l.next%perBlock*l.ring.frame
		frame := l.mem[at : at+l.ring.frame]
		// The kernel writes the frame, then its status (smp_wmb in __packet_set_status): the atomic load makes the
		// frame visible. Frames are filled by several CPUs at once, and finished out of order; they are taken in order.
		status := (*uint32)(unsafe.Pointer(&frame[frameStatus]))
		if atomic.LoadUint32(status)&statusUser == 0 {
			return false
		}
		if !l.limit.IsZero() && frameTime(frame).After(l.limit) {
			return false
		}
		l.taken = parseFrame(frame, l.snap, l.into)
		atomic.StoreUint32(status, statusKernel)
		l.next = (l.next + 1) % l.ring.frames()
		if l.taken {
			return true
		}
	}
}

func (l *listener) readDeadline() time.Time {
	l.deadlineMu.Lock()
	defer l.deadlineMu.Unlock()
	return l.deadline
}

func (l *listener) setReadDeadline(t time.Time) error {
	l.deadlineMu.Lock()
	defer l.deadlineMu.Unlock()
	if err := l.file.SetReadDeadline(t); err != nil {
		return l.opError("set deadline", err)
	}
	// Frames carry the wall clock alone. Round strips a monotonic reading, against which none could be compared.
	l.deadline = t.Round(0)
	return nil
}

func (l *listener) setFilter(filter []bpf.Instruction) error {
	var err error
	if cerr := l.conn.Control(func(fd uintptr) { err = attachFilter(int(fd), filter) }); cerr != nil {
		return l.opError("set filter", cerr)
	}
	return err
}

func (l *listener) stats() (Stats, error) {
	l.statsMu.Lock()
	defer l.statsMu.Unlock()
	var err error
	cerr := l.conn.Control(func(fd uintptr) {
		var s *unix.TpacketStats
		if s, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err != nil {
			return
		}
		// tp_packets includes tp_drops (packet_getsockopt).
		l.total.Packets += uint64(s.Packets)
		l.total.Drops += uint64(s.Drops)
	})
	if err == nil && !l.closed.Load() {
		err = cerr
	}
	if err != nil {
		return Stats{}, &OpError{"getsockopt PACKET_STATISTICS", err}
	}
	return l.total, nil
}

func (l *listener) close() error {
	l.closeOnce.Do(func() {
		l.stats() // the last counts, for Stats after Close
		l.closed.Store(true)
		// os.File.Close wakes whoever waits in conn.Read and returns when the last user of the descriptor has left
		// (internal/poll.FD.Close, as long as the descriptor is non-blocking): from here on nobody sees the ring.
		if err := l.file.Close(); err != nil {
			l.closeErr = &OpError{"close", err}
		}
		// The mapping holds the socket open: the kernel stops listening only now.
		if err := unix.Munmap(l.mem); err != nil {
			l.closeErr = &OpError{"munmap", err}
		}
	})
	return l.closeErr
}

// opError gives the poller's "file already closed", which has no exported name, the one that is documented.
func (l *listener) opError(op string, err error) error {
	if l.closed.Load() {
		err = net.ErrClosed
	}
	return &OpError{op, err}
}

func attachFilter(fd int, filter []bpf.Instruction) error {
	if len(filter) == 0 {
		// ENOENT: there was none.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0); err != nil && err != unix.ENOENT {
			return &OpError{"setsockopt SO_DETACH_FILTER", err}
		}
		return nil
	}
	raw, err := bpf.Assemble(filter)
	if err != nil {
		return &OpError{"assemble filter", err}
	}
	if len(raw) > unix.BPF_MAXINSNS {
		return &OpError{"setsockopt SO_ATTACH_FILTER", unix.EINVAL}
	}
	prog := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{
		Len:    uint16(len(prog)),
		Filter: &prog[0],
	})
	if err != nil {
		return &OpError{"setsockopt SO_ATTACH_FILTER", err}
	}
	return nil
}

// socketError returns and clears the error that the kernel keeps for the socket, nil if there is none.
func socketError(fd int) error {
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}

func htons(v uint16) uint16 {
	b := [2]byte{byte(v >> 8), byte(v)}
	return *(*uint16)(unsafe.Pointer(&b))
}
