package batch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"synprobe/pcap"
	"synprobe/rawprobe"
)

// A liveLink is the link to the network: for each family a raw IP socket, or
// for all a packet socket, and a ring for what comes back.
type liveLink struct {
	reader
	cfg  Config
	ways *ways
	own  map[addr]bool // this machine's addresses
	// networks are the first addresses of the networks that it is on.
	networks map[addr]bool
	conns    *connections // nil on the link layer
	// portParts are, by family, the ports of the space in the parts that policy
	// rules may part them into; none where no rule looks at ports or protocols.
	portParts [2][]portRefusal
	// shared are the gateways that a route has together with others.
	shared map[addr]bool

	raw    [2]int // sockets to send on, by family: IPv4, IPv6
	hold   [2]int // what keeps our source ports
	frames int    // packet socket of the link layer, or -1
	onLink map[addr][6]byte
	rings  []*pcap.Ring
	syns   []template // by way
	echoes []template

	bound    *net.Interface // of Config.Interface
	id       uint16
	out      *outgoing
	answer   answer
	receiver func(*pcap.RingPacket)
	handle   func(*answer)
}

const (
	v4 = iota
	v6
)

// outgoing is what one sendmmsg hands over. It is set up once: nothing is
// allocated for a packet.
type outgoing struct {
	messages [2 * burst]message
	vectors  [2 * burst]unix.Iovec
	to4      [2 * burst]unix.RawSockaddrInet4
	to6      [2 * burst]unix.RawSockaddrInet6
	frames   [2 * burst][frameLen]byte
	of       [2 * burst]*template // which each frame is a copy of
}

// A message is struct mmsghdr (sendmmsg(2)).
type message struct {
	header unix.Msghdr
	_      uint32 // how much was sent
}

// openLink opens all that the run needs, in the network namespace of the
// calling thread, which is the run's from then on.
func openLink(ctx context.Context, s *Space, cfg Config) (*liveLink, error) {
	runtime.LockOSThread()
	l := &liveLink{cfg: cfg, raw: [2]int{-1, -1}, hold: [2]int{-1, -1}, frames: -1, own: make(map[addr]bool), networks: make(map[addr]bool), shared: make(map[addr]bool), out: new(outgoing)}
	if err := l.open(ctx, s); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *liveLink) open(ctx context.Context, s *Space) error {
	families := s.families()
	if cfg := l.cfg; cfg.Interface != "" {
		ifi, err := net.InterfaceByName(cfg.Interface)
		if err != nil {
			return fmt.Errorf("interface %q: %w", cfg.Interface, rawprobe.ErrNoInterface)
		}
		l.bound = ifi
	}
	// What needs the capability comes first.
	for family, used := range families {
		if !used {
			continue
		}
		err := l.openFamily(family)
		if errors.Is(err, unix.EAFNOSUPPORT) {
			continue // the route lookup says so for each target
		}
		if err != nil {
			return err
		}
	}
	if err := l.survey(s, families); err != nil {
		return err
	}
	if !l.cfg.LinkLayer {
		var err error
		if l.conns, err = openConnections(s, l.cfg); err != nil {
			return err
		}
	}
	if err := l.meetNeighbors(ctx, s); err != nil {
		return err
	}
	if l.cfg.LinkLayer {
		if err := l.openFrames(); err != nil {
			return err
		}
	}
	return l.prepare()
}

// families says of which families the space has addresses.
func (s *Space) families() (used [2]bool) {
	for _, k := range s.roots {
		if s.spans[k].first.is4() {
			used[v4] = true
		} else {
			used[v6] = true
		}
	}
	return used
}

// openFamily opens the sockets of a family: the one that keeps the source port,
// the one to send on, and the ring.
func (l *liveLink) openFamily(family int) error {
	inet, level, recverr, etherType := unix.AF_INET, unix.SOL_IP, unix.IP_RECVERR, uint16(pcap.EtherTypeIPv4)
	var any unix.Sockaddr = &unix.SockaddrInet4{}
	if family == v6 {
		inet, level, recverr, etherType = unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_RECVERR, pcap.EtherTypeIPv6
		any = &unix.SockaddrInet6{}
	}
	if !l.cfg.LinkLayer {
		fd, err := unix.Socket(inet, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
		if err != nil {
			return privilege("open raw socket", err)
		}
		l.raw[family] = fd
		enlarge(fd)
		// Without it a full queue is reported as success (net/ipv4/raw.c,
		// raw_sendmsg; net/ipv6/raw.c, rawv6_send_hdrinc).
		if err := unix.SetsockoptInt(fd, level, recverr, 1); err != nil {
			return os.NewSyscallError("setsockopt IP_RECVERR", err)
		}
		if l.bound != nil {
			if err := unix.BindToDevice(fd, l.bound.Name); err != nil {
				return privilege("bind to interface "+l.bound.Name, err)
			}
		}
		if src := l.cfg.Source; src.IsValid() && src.Is4() == (family == v4) {
			if err := unix.Bind(fd, sockaddr(src)); err != nil {
				if errors.Is(err, unix.EADDRNOTAVAIL) {
					err = rawprobe.ErrNotOurs
				}
				return fmt.Errorf("source %s: %w", src, err)
			}
		}
	}
	fd, err := unix.Socket(inet, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	l.hold[family] = fd
	if family == v6 {
		if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return os.NewSyscallError("setsockopt IPV6_V6ONLY", err)
		}
	}
	if err := unix.Bind(fd, any); err != nil {
		return os.NewSyscallError("bind", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	var filter []bpf.Instruction
	if family == v4 {
		l.port4 = uint16(name.(*unix.SockaddrInet4).Port)
		filter = filter4(l.port4)
	} else {
		l.port6 = uint16(name.(*unix.SockaddrInet6).Port)
		filter = filter6(l.port6)
	}
	ring, err := pcap.OpenRing(pcap.RingConfig{Filter: filter, EtherType: etherType, Blocks: l.cfg.ringBlocks})
	if err != nil {
		return privilege("open packet ring", err)
	}
	l.rings = append(l.rings, ring)
	return nil
}

func sockaddr(a netip.Addr) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Addr: a.As16()}
}

// sendBuffer is room for what a driver has not sent yet, in bytes; each packet
// takes some 700. The system's default holds less than half a millisecond's
// packets at full rate.
const sendBuffer = 4 << 20

// enlarge asks for a larger send buffer. Without CAP_NET_ADMIN it is cut to
// net.core.wmem_max, and the sender pauses more often.
func enlarge(fd int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
	}
}

// privilege tells a missing capability from other failures.
func privilege(op string, err error) error {
	var step *pcap.OpError
	if errors.As(err, &step) {
		err = step.Err
	}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return &rawprobe.PrivilegeError{Op: op, Err: err}
	}
	return fmt.Errorf("%s: %w", op, err)
}

// openFrames opens the packet socket of the link layer.
func (l *liveLink) openFrames() error {
	index, local := 0, false
	for i := range l.ways.all {
		w := &l.ways.all[i]
		if w.outcome != rawprobe.RouteFound {
			continue
		}
		if w.local {
			local = true
			continue
		}
		ifi, err := net.InterfaceByIndex(w.index)
		if err != nil {
			return fmt.Errorf("interface %d: %w", w.index, err)
		}
		if !w.resolves {
			return fmt.Errorf("interface %s is no Ethernet: %w", ifi.Name, ErrLinkLayer)
		}
		if index != 0 && index != w.index {
			return fmt.Errorf("targets are reached through several interfaces: %w", ErrLinkLayer)
		}
		index = w.index
	}
	switch {
	case index == 0 && local:
		return fmt.Errorf("the targets are this machine itself: %w", ErrLinkLayer)
	case index == 0:
		return nil // there is no way to anywhere
	}
	// Protocol 0: nothing is ever queued on it. The kernel takes the protocol
	// from the frame (packet_parse_headers).
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return privilege("open packet socket", err)
	}
	l.frames = fd
	enlarge(fd)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	return nil
}

// prepare makes the templates, and sets up what does not change from one
// sendmmsg to the next.
func (l *liveLink) prepare() error {
	hardware := make(map[int][6]byte)
	ifs, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	for _, ifi := range ifs {
		var mac [6]byte
		copy(mac[:], ifi.HardwareAddr)
		hardware[ifi.Index] = mac
	}
	l.syns, l.echoes = make([]template, len(l.ways.all)), make([]template, len(l.ways.all))
	for i := range l.ways.all {
		w := &l.ways.all[i]
		if w.outcome != rawprobe.RouteFound {
			continue
		}
		is6, port := !w.source.is4(), l.port4
		if is6 {
			port = l.port6
		}
		l.syns[i] = newTemplate(w, is6, false, port, hardware[w.index])
		l.echoes[i] = newTemplate(w, is6, true, port, hardware[w.index])
	}
	o := l.out
	scope := uint32(0)
	if l.bound != nil {
		scope = uint32(l.bound.Index)
	}
	for k := range o.messages {
		o.to4[k].Family = unix.AF_INET
		o.to6[k].Family = unix.AF_INET6
		o.to6[k].Scope_id = scope
		o.messages[k].header.Iov = &o.vectors[k]
		o.messages[k].header.SetIovlen(1)
	}
	l.receiver = l.received
	return nil
}

// send implements link.
func (l *liveLink) send(probes []probe) (int, rawprobe.Refusal) {
	o := l.out
	probes = probes[:min(len(probes), len(o.messages))]
	tsval := uint32(time.Now().UnixMilli())
	n, family := 0, v4
	refused := rawprobe.NotRefused
	for k := range probes {
		p := &probes[k]
		is := v4
		if !p.to.is4() {
			is = v6
		}
		if k > 0 && is != family && !l.cfg.LinkLayer {
			break // another socket
		}
		family = is
		i := l.ways.of(p.to)
		if i < 0 {
			refused = rawprobe.RefusedNoRoute
			break
		}
		if refused = l.closed(&l.ways.all[i], p.tag); refused != rawprobe.NotRefused {
			break
		}
		t := &l.syns[i]
		if p.tag == echoTag {
			t = &l.echoes[i]
		}
		frame := &o.frames[k]
		if o.of[k] != t {
			o.of[k] = t
			*frame = t.frame
			start := headroom
			if l.cfg.LinkLayer {
				start -= ethernetLen
			}
			o.vectors[k].Base = &frame[start]
			o.vectors[k].SetLen(t.end - start)
			h := &o.messages[k].header
			switch {
			case l.cfg.LinkLayer:
			case family == v4:
				h.Name, h.Namelen = (*byte)(unsafe.Pointer(&o.to4[k])), unix.SizeofSockaddrInet4
			default:
				h.Name, h.Namelen = (*byte)(unsafe.Pointer(&o.to6[k])), unix.SizeofSockaddrInet6
			}
		}
		if l.id++; l.id == 0 {
			l.id++ // the kernel would fill in its own (raw_send_hdrinc)
		}
		t.patch(frame, p, l.id, tsval)
		if l.ways.all[i].asked {
			mac, ok := l.onLink[p.to]
			if !ok {
				refused = refusedNoNeighbor
				break
			}
			copy(frame[headroom-ethernetLen:], mac[:])
		}
		switch {
		case l.cfg.LinkLayer:
		case family == v4:
			copy(o.to4[k].Addr[:], frame[headroom+16:])
		default:
			copy(o.to6[k].Addr[:], frame[headroom+24:])
		}
		n++
	}
	if n == 0 {
		return 0, refused
	}
	fd := l.raw[family]
	if l.cfg.LinkLayer {
		fd = l.frames
	}
	for {
		// It does not wait, so the runtime need not know of it: telling it costs a
		// tenth of a CPU, in moving its own work to another thread and back.
		sent, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&o.messages[0])), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			refused = refusal(errno)
			if refused == rawprobe.RefusedNoBuffer && l.dead(probes[0].to) {
				refused = refusedNoNeighbor // the kernel asks for it now, and keeps what waits
			}
			return 0, refused
		case int(sent) < n:
			return int(sent), rawprobe.NotRefused // the next call says why
		default:
			return n, refused
		}
	}
}

// closed says why a probe can't be sent on a way.
func (l *liveLink) closed(w *way, tag uint32) rawprobe.Refusal {
	if w.local && l.cfg.LinkLayer && w.unfit == rawprobe.NotRefused {
		return rawprobe.RefusedOther
	}
	return w.closed(tag)
}

// refusal names the error of a send.
func refusal(errno syscall.Errno) rawprobe.Refusal {
	switch errno {
	case unix.EPERM:
		return rawprobe.RefusedByFirewall
	case unix.ENETUNREACH:
		return rawprobe.RefusedNoRoute
	case unix.EHOSTUNREACH:
		return rawprobe.RefusedUnreachable
	case unix.EACCES:
		return rawprobe.RefusedProhibit
	case unix.EINVAL:
		return rawprobe.RefusedBlackhole
	case unix.ENETDOWN, unix.ENXIO, unix.ENODEV:
		return rawprobe.RefusedDown
	case unix.EADDRNOTAVAIL:
		return rawprobe.RefusedNoAddress
	case unix.ENOBUFS, unix.EAGAIN, unix.ENOMEM:
		return rawprobe.RefusedNoBuffer
	}
	return rawprobe.RefusedOther
}

// receive implements link.
func (l *liveLink) receive(f func(*answer)) {
	l.handle = f
	for _, r := range l.rings {
		r.Read(l.receiver)
	}
}

func (l *liveLink) received(p *pcap.RingPacket) {
	a := &l.answer
	if p.Direction == pcap.Outgoing || !l.parse(p.Data, a) {
		return
	}
	a.local = a.kind == rawprobe.ICMPError && l.own[a.from] && !l.own[a.to]
	a.receivedAt = p.Time
	l.handle(a)
}

// wait implements link.
func (l *liveLink) wait(d time.Duration) {
	if err := pcap.WaitRings(d, l.rings...); err != nil {
		time.Sleep(d)
	}
}

// counts implements link.
func (l *liveLink) counts() (received, drops uint64) {
	for _, r := range l.rings {
		if s, err := r.Stats(); err == nil {
			received += s.Packets
			drops += s.Drops
		}
	}
	return received, drops
}

// dead implements link.
func (l *liveLink) dead(to addr) bool {
	i := l.ways.of(to)
	return i >= 0 && l.ways.all[i].dead
}

// alive implements link. A gateway may pass packets on, and answer no request of
// ours: it came up meanwhile, or keeps a list of whom it answers.
func (l *liveLink) alive(to addr) {
	if i := l.ways.of(to); i >= 0 {
		l.ways.all[i].dead = false
	}
}

// check implements link.
func (l *liveLink) check() error {
	if l.conns == nil {
		return nil
	}
	return l.conns.check()
}

// close gives everything back, the thread too.
func (l *liveLink) close() {
	for _, r := range l.rings {
		r.Close()
	}
	for _, fd := range []int{l.raw[v4], l.raw[v6], l.hold[v4], l.hold[v6], l.frames} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	runtime.UnlockOSThread()
}
