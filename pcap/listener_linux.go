package pcap

import (
	"encoding/binary"
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

// maxBuffer bounds the receive buffer: the kernel doubles the number, and keeps it in a signed int (__sock_set_rcvbuf in
// net/core/sock.c).
const maxBuffer = 1 << 30

// There is no ring. A ring costs an RCU grace period (4 to 16 ms here) to set up and another to take back (packet_set_ring
// in net/packet/af_packet.c calls synchronize_net), more than a whole probe of an open port takes; and a
// run reads some dozens of packets, whose system calls cost a microsecond each.

type listener struct {
	file *os.File // non-blocking, so that the runtime's poller waits for it
	conn syscall.RawConn

	// reading is held for the whole of a Read, so that packets are taken one after the other. What follows belongs to
	// that Read; its callbacks are made once, lest each Read allocate them.
	reading  sync.Mutex
	msg      message
	held     bool      // msg has a packet that has not been delivered: it came after the deadline of the Read that met it
	empty    time.Time // the queue was empty then, or the socket deaf: what is in it now came later
	failed   error     // the socket's last error, which holds until a packet comes after it
	told     bool      // failed has been told: the packets that came before it have been read
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
	l := &listener{empty: time.Now().Round(0)}
	l.msg.init(snap)
	if err := setup(fd, cfg, buffer); err != nil {
		abandon(fd, func() error { return unix.Close(fd) })
		return nil, err
	}

	l.take = func(fd uintptr) bool { return l.shift(int(fd)) }
	l.takeLate = func(fd uintptr) { l.shift(int(fd)) }
	l.file = os.NewFile(uintptr(fd), "packet")
	if l.conn, err = l.file.SyscallConn(); err != nil {
		abandon(fd, l.file.Close)
		return nil, &OpError{"poll", err}
	}
	return l, nil
}

// setup turns a deaf socket into a listening one. Its last step is bind.
func setup(fd int, cfg Config, buffer int) error {
	// The stamp is taken once for all taps, in the softirq or just before the driver (net_timestamp_check and
	// net_timestamp_set in net/core/dev.c), but only while somebody asks for it, and a kernel worker throws the switch
	// some time after the first has asked (net_enable_timestamp): so this comes first. Until then packets have no stamp.
	// SO_TIMESTAMPNS would invent one when the packet is read, and not say so; this option leaves the control
	// message out (both in __sock_recv_timestamp, net/socket.c).
	const stamps = unix.SOF_TIMESTAMPING_RX_SOFTWARE | unix.SOF_TIMESTAMPING_SOFTWARE
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPING, stamps); err != nil {
		return &OpError{"setsockopt SO_TIMESTAMPING", err}
	}
	if err := attachFilter(fd, cfg.Filter); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		return &OpError{"setsockopt PACKET_AUXDATA", err}
	}
	// SO_RCVBUFFORCE needs CAP_NET_ADMIN; SO_RCVBUF stays below net.core.rmem_max, and says nothing.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer); err != nil {
			return &OpError{"setsockopt SO_RCVBUF", err}
		}
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

func (l *listener) read(p *Packet) error {
	l.reading.Lock()
	defer l.reading.Unlock()

	// Everything that touches the socket runs inside of conn.Read or conn.Control, which hold the file open.
	err := l.conn.Read(l.take)
	switch {
	case err == nil:
	case l.closed.Load():
		return &OpError{"read", net.ErrClosed}
	case errors.Is(err, os.ErrDeadlineExceeded):
		// The poller looks at the clock before it looks at the socket.
		limit := l.readDeadline()
		if limit.IsZero() {
			return &OpError{"read", os.ErrDeadlineExceeded}
		}
		l.conn.Control(l.takeLate)
		// Of a packet without a stamp it is known that it came between two times. It is delivered if it may have been
		// before the deadline: a timeout claims that nothing was.
		if l.held && (l.msg.stamped && l.msg.at.After(limit) || !l.msg.stamped && l.msg.after.After(limit)) ||
			!l.held && l.failed == nil {
			return &OpError{"read", os.ErrDeadlineExceeded}
		}
	default:
		// An error that comes alone is reported by the poller, as ErrNotPollable, until something else happens. What it
		// was, the socket knows.
		l.conn.Control(l.takeLate)
		if !l.held && l.failed == nil {
			return &OpError{"read", err}
		}
	}
	if l.held {
		l.held = false
		l.msg.packet(p)
		return nil
	}
	l.told = true
	return &OpError{"read", l.failed}
}

// shift takes the next packet from the socket, unless one is held already, and reports whether there is something to
// tell: that packet, or the error that failed has. An error overtakes the packets that came before it
// (__skb_try_recv_datagram in net/core/datagram.c looks at it first), and is put behind them again.
func (l *listener) shift(fd int) bool {
	again := false
	for !l.held {
		now := time.Now().Round(0) // the wall clock, as in the stamps
		switch errno := l.msg.receive(fd); errno {
		case 0:
			l.msg.after = l.empty
			l.held = true
			if l.told {
				l.failed, l.told = nil, false
			}
		case unix.EINTR:
		case unix.EAGAIN:
			l.empty = now
			return l.failed != nil
		default:
			l.failed, l.told = errno, false
			if again { // the kernel's own error is cleared by being told; this one is another
				return true
			}
			again = true
		}
	}
	return true
}

// A message is what one recvmsg writes to. It is set up once: a Read allocates nothing.
type message struct {
	hdr     unix.Msghdr
	iov     unix.Iovec
	from    unix.RawSockaddrLinklayer
	control []byte
	buf     []byte
	n       int // the size of the packet in the queue: larger than buf where the snap length cuts it

	stamped bool
	at      time.Time // the stamp, or the time of the recvmsg
	after   time.Time // without a stamp: it came after this
}

func (m *message) init(snap int) {
	m.buf = make([]byte, snap)
	m.control = make([]byte, unix.CmsgSpace(int(unsafe.Sizeof(unix.TpacketAuxdata{})))+
		unix.CmsgSpace(int(unsafe.Sizeof(unix.ScmTimestamping{}))))
	m.iov.Base = &m.buf[0]
	m.iov.SetLen(snap)
	m.hdr.Iov = &m.iov
	m.hdr.SetIovlen(1)
	m.hdr.Name = (*byte)(unsafe.Pointer(&m.from))
	m.hdr.Control = &m.control[0]
}

// receive takes one packet. unix.Recvmsg would allocate an address each time; and it can't be given MSG_TRUNC as a flag,
// which has the packet's size returned, not the part that was copied (packet_recvmsg).
func (m *message) receive(fd int) syscall.Errno {
	m.hdr.Namelen = uint32(unsafe.Sizeof(m.from))
	m.hdr.SetControllen(len(m.control))
	n, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&m.hdr)), unix.MSG_DONTWAIT|unix.MSG_TRUNC)
	if errno != 0 {
		return errno
	}
	m.n = int(n)
	if m.at, m.stamped = stamp(m.control[:m.hdr.Controllen]); !m.stamped {
		m.at = time.Now().Round(0)
	}
	return 0
}

// packet fills p.
func (m *message) packet(p *Packet) {
	p.Data = append(p.Data[:0], m.buf[:min(m.n, len(m.buf))]...)
	p.Length = m.n
	p.ChecksumPartial = false
	if aux := controlMessage(m.control[:m.hdr.Controllen], unix.SOL_PACKET, unix.PACKET_AUXDATA); len(aux) >= int(unsafe.Sizeof(unix.TpacketAuxdata{})) {
		a := (*unix.TpacketAuxdata)(unsafe.Pointer(&aux[0]))
		p.Length = max(p.Length, int(a.Len)) // the filter may have cut it before the queue
		p.ChecksumPartial = a.Status&unix.TP_STATUS_CSUMNOTREADY != 0
	}
	p.Time, p.Stamped = m.at, m.stamped
	p.Interface = int(m.from.Ifindex)
	p.Direction = direction(m.from.Pkttype)
	p.EtherType = etherType(htons(m.from.Protocol), p.Data)
	p.LinkAddr = [8]byte{}
	p.LinkAddrLen = copy(p.LinkAddr[:], m.from.Addr[:min(int(m.from.Halen), len(m.from.Addr))])
}

// stamp returns the kernel's software time stamp, if there is one among the control messages.
func stamp(control []byte) (time.Time, bool) {
	b := controlMessage(control, unix.SOL_SOCKET, unix.SCM_TIMESTAMPING)
	if len(b) < int(unsafe.Sizeof(unix.ScmTimestamping{})) {
		return time.Time{}, false
	}
	// The first of three is the software's; the others are zero, or the hardware's (Documentation/networking/timestamping.rst).
	ts := (*unix.ScmTimestamping)(unsafe.Pointer(&b[0])).Ts[0]
	sec, nsec := ts.Unix()
	return time.Unix(sec, nsec), sec != 0 || nsec != 0
}

// controlMessage returns the contents of the first control message of a kind, nil where there is none.
func controlMessage(b []byte, level, kind int32) []byte {
	for len(b) >= unix.SizeofCmsghdr {
		hdr, data, rest, err := unix.ParseOneSocketControlMessage(b)
		if err != nil {
			return nil
		}
		if hdr.Level == level && hdr.Type == kind {
			return data
		}
		b = rest
	}
	return nil
}

// direction translates the packet type of sockaddr_ll.
func direction(pkttype byte) Direction {
	switch pkttype {
	case unix.PACKET_HOST, unix.PACKET_BROADCAST, unix.PACKET_MULTICAST:
		return Incoming
	case unix.PACKET_OTHERHOST:
		return OtherHost
	case unix.PACKET_OUTGOING:
		return Outgoing
	}
	return Unknown
}

// etherType returns what data holds. Before Linux 6.10 a packet that leaves through a VLAN device in software was seen
// on the parent with the tag's own type, though its data begins after the tag (vlan_get_protocol_dgram in
// net/packet/af_packet.c was added then): there the version of the IP header tells.
func etherType(protocol uint16, data []byte) uint16 {
	if (protocol == unix.ETH_P_8021Q || protocol == unix.ETH_P_8021AD) && len(data) > 0 {
		switch data[0] >> 4 {
		case 4:
			return EtherTypeIPv4
		case 6:
			return EtherTypeIPv6
		}
	}
	return protocol
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
	// Packets carry the wall clock alone. Round strips a monotonic reading, against which none could be compared.
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

func (l *listener) send(iface int, etherType uint16, to [6]byte, packet []byte) error {
	sa := &unix.SockaddrLinklayer{Protocol: htons(etherType), Ifindex: iface, Halen: uint8(len(to))}
	copy(sa.Addr[:], to[:])
	var err error
	if cerr := l.conn.Control(func(fd uintptr) { err = unix.Sendto(int(fd), packet, 0, sa) }); cerr != nil {
		return l.opError("send", cerr)
	}
	if err != nil {
		return &OpError{"send", err}
	}
	return nil
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
		l.conn.Control(func(fd uintptr) {
			// From here on nothing is queued any more. This is not needed for the Close to be right, but the socket
			// lives on for a grace period or two, and would take every packet's time.
			attachFilter(int(fd), Nothing)
		})
		l.stats() // the last counts, for Stats after Close
		l.closed.Store(true)
		fd := -1
		l.conn.Control(func(f uintptr) { fd = int(f) })
		// os.File.Close wakes whoever waits in conn.Read and returns when the last user of the descriptor has left
		// (internal/poll.FD.Close, as long as the descriptor is non-blocking). Only this function calls it, so fd stays
		// what it is until then.
		if err := abandon(fd, l.file.Close); err != nil {
			l.closeErr = &OpError{"close", err}
		}
	})
	return l.closeErr
}

// inFlight is how abandon hands over the descriptor; tests have it fail.
var inFlight = putInFlight

// abandon closes a packet socket without waiting for it. closeFD closes its one descriptor.
//
// Whoever drops the last reference to a packet socket waits for an RCU grace period (packet_release in
// net/packet/af_packet.c calls synchronize_net): 4 to 16 ms, here as at the exit of the process, longer than all else that a
// probe of an open port does. So the last reference is left to the kernel: the descriptor is sent through a
// pair of UNIX sockets, together with the receiving end itself, and is never received. Once all three are closed, the
// receiver is kept alive by nothing but a message in its own queue. Such a cycle is what the garbage collector of UNIX
// sockets is for (net/unix/garbage.c): closing the sender starts it (unix_release_sock), a kernel worker finds the cycle and
// drops it, and packet_release waits there. Kernels that collect in the task that closes (before 6.9) are as
// slow as with a plain close, which is also what is left where no pair can be made or nothing more may be in flight
// (EMFILE; ETOOMANYREFS, too_many_unix_fds in net/core/scm.c).
//
// The socket is gone a little after abandon returns. It holds its network namespace until then, but no interface.
func abandon(fd int, closeFD func() error) error {
	ends, err := inFlight(fd)
	// The order matters: the collector must not start before the descriptor in flight is the last.
	closeErr := closeFD()
	if err == nil {
		unix.Close(ends[0])
		unix.Close(ends[1])
	}
	return closeErr
}

// putInFlight makes a pair of UNIX sockets, and sends fd and the first of them from the second to the first. The first is the
// receiver because its number is the lower one: if the process is killed now, its descriptors are closed in
// rising order (close_files in fs/file.c), and that too must end with the sender.
func putInFlight(fd int) ([2]int, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ends, err
	}
	if err := unix.Sendmsg(ends[1], []byte{0}, unix.UnixRights(fd, ends[0]), nil, 0); err != nil {
		unix.Close(ends[0])
		unix.Close(ends[1])
		return ends, err
	}
	return ends, nil
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
	// An attached filter is replaced by one pointer (__sk_attach_prog in net/core/filter.c): no packet meets none.
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

// htons turns a number from the machine's order to the network's, or back.
func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}
