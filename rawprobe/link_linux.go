package rawprobe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"synprobe/pcap"
	"synprobe/rawprobe/wire"
)

// link is the live Link: raw IP sockets to send, an AF_PACKET tap to watch, a
// raw TCP and a raw ICMP socket to see what passes the local firewall.
type link struct {
	cfg  LinkConfig
	bind *net.Interface // of cfg.Interface
	send int            // raw IP socket, or -1
	hold []int          // sockets that keep source ports
	// flow is that of the last Survey, and bound the index of the interface
	// that it had to leave by, or 0.
	flow  Flow
	bound int
	held  []holding // the addresses that it found
	ours  *fibRoute // the route that the flow goes by, nil where that is not known
	// news is a netlink socket on which the kernel tells of changes, or -1.
	news int
	// frames is a packet socket to send past the IP stack, or -1 where the
	// route does not ask for that.
	frames int

	tap     *pcap.Listener
	copies  []net.PacketConn
	loops   map[int]bool // loopback interfaces by index
	events  chan Event
	done    chan struct{} // closed by Close: nobody takes events any more
	stopped chan struct{} // closed when all readers have ended

	failed error // why events ended; set before its channel is closed
}

// OpenLink returns the Link to the live network. It opens the sockets that
// need CAP_NET_RAW at once: a *PrivilegeError says that the capability is
// missing, ErrNoInterface that cfg names no interface of this machine.
// Elsewhere than on Linux it answers errors.ErrUnsupported.
func OpenLink(cfg LinkConfig) (Link, error) {
	l := &link{cfg: cfg, send: -1, frames: -1, news: -1, events: make(chan Event, eventQueue), done: make(chan struct{})}
	if err := l.open(); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (l *link) open() error {
	// The tap first, deaf: the kernel takes a moment to begin with its stamps
	// (net/core/dev.c, net_enable_timestamp).
	tap, err := pcap.Open(pcap.Config{Filter: pcap.Nothing})
	if err != nil {
		return privilege("open packet socket", err)
	}
	l.tap = tap
	ifs, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	l.loops = make(map[int]bool)
	for i := range ifs {
		l.loops[ifs[i].Index] = ifs[i].Flags&net.FlagLoopback != 0
		if ifs[i].Name == l.cfg.Interface {
			l.bind = &ifs[i]
		}
	}
	if l.cfg.Interface != "" && l.bind == nil {
		return fmt.Errorf("interface %q: %w", l.cfg.Interface, ErrNoInterface)
	}
	return l.openSender()
}

// openSender opens the raw IP socket to which we write whole packets. With
// IPPROTO_RAW our own header is understood, and nothing is received (raw(7),
// net/ipv6/af_inet6.c, inet6_create).
func (l *link) openSender() error {
	family, level, recverr := unix.AF_INET, unix.SOL_IP, unix.IP_RECVERR
	if l.cfg.IPv6 {
		family, level, recverr = unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_RECVERR
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil // no such family here; Survey says so
	}
	if err != nil {
		return privilege("open raw socket", err)
	}
	l.send = fd
	// Without it a full queue is reported as success (net/ipv4/raw.c,
	// raw_sendmsg; net/ipv6/raw.c, rawv6_send_hdrinc).
	if err := unix.SetsockoptInt(fd, level, recverr, 1); err != nil {
		return os.NewSyscallError("setsockopt IP_RECVERR", err)
	}
	if !l.cfg.IPv6 {
		// Connection tracking would hold a lone fragment back on its way out
		// (net/ipv4/netfilter/nf_defrag_ipv4.c).
		if err := unix.SetsockoptInt(fd, level, unix.IP_NODEFRAG, 1); err != nil {
			return os.NewSyscallError("setsockopt IP_NODEFRAG", err)
		}
	}
	if l.bind != nil {
		if err := unix.BindToDevice(fd, l.bind.Name); err != nil {
			return privilege("bind to interface "+l.bind.Name, err)
		}
	}
	return nil
}

// privilege tells a missing capability from other failures.
func privilege(op string, err error) error {
	var step *pcap.OpError
	if errors.As(err, &step) {
		err = step.Err // op says it in the user's words
	}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return &PrivilegeError{Op: op, Err: err}
	}
	return fmt.Errorf("%s: %w", op, err)
}

// Hold implements Link.
func (l *link) Hold(src netip.AddrPort) (netip.AddrPort, error) {
	sa, family := sockaddr(src)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return src, os.NewSyscallError("socket", err)
	}
	l.hold = append(l.hold, fd)
	switch err := unix.Bind(fd, sa); {
	case errors.Is(err, unix.EADDRINUSE):
		return src, fmt.Errorf("source port %d: %w", src.Port(), ErrPortInUse)
	case errors.Is(err, unix.EACCES):
		return src, fmt.Errorf("source port %d: %w", src.Port(), ErrPortReserved)
	case err != nil && len(l.hold) > 1:
		// EADDRNOTAVAIL, or ENODEV and EINVAL for a zone: it was there before.
		return src, &SendError{Reason: RefusedNoAddress, Err: err}
	case err != nil:
		return src, os.NewSyscallError("bind", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return src, os.NewSyscallError("getsockname", err)
	}
	// The route lookup of the sender knows its source from the socket, not
	// from our header (net/ipv4/raw.c, net/ipv6/raw.c).
	bind, _ := sockaddr(netip.AddrPortFrom(src.Addr(), 0))
	switch err := unix.Bind(l.send, bind); {
	case err != nil && len(l.hold) > 1:
		return src, &SendError{Reason: RefusedNoAddress, Err: err}
	case err != nil:
		return src, os.NewSyscallError("bind raw socket", err)
	}
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(src.Addr(), uint16(name.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(src.Addr(), uint16(name.Port)), nil
	}
	return src, fmt.Errorf("getsockname: unexpected %T", name)
}

func sockaddr(a netip.AddrPort) (unix.Sockaddr, int) {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}, unix.AF_INET
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: uint32(zoneIndex(a.Addr()))}, unix.AF_INET6
}

// zoneIndex is the interface index of an address's zone, or 0.
func zoneIndex(a netip.Addr) int {
	if a.Zone() == "" {
		return 0
	}
	ifi, err := net.InterfaceByName(a.Zone())
	if err != nil {
		return 0
	}
	return ifi.Index
}

// Watch implements Link.
func (l *link) Watch(interest pcap.Interest) error {
	if err := l.tap.SetFilter(interest.Filter()); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if err := l.openCopies(interest); err != nil {
		return err
	}
	if l.cfg.Opened != nil {
		if err := l.cfg.Opened(); err != nil {
			return err
		}
	}
	var copies sync.WaitGroup
	for i, c := range l.copies {
		copies.Go(func() { l.readCopies(c, i == icmpCopies) })
	}
	l.stopped = make(chan struct{})
	go func() {
		defer close(l.stopped)
		l.failed = l.readTap()
		// The tap is what a run can't do without: all end with it.
		for _, c := range l.copies {
			c.Close()
		}
		copies.Wait()
		close(l.events)
	}()
	return nil
}

// The order of link.copies.
const (
	tcpCopies = iota
	icmpCopies
)

// openCopies opens the sockets that get a copy of what passes the local
// firewall: raw sockets receive behind netfilter's INPUT and the reverse-path
// filter (net/ipv4/ip_input.c, ip_protocol_deliver_rcu), the tap before.
func (l *link) openCopies(interest pcap.Interest) error {
	filters := [][]bpf.Instruction{tcpCopies: interest.Filter(), icmpCopies: interest.Filter()}
	// By number: a name would be looked up in /etc/protocols.
	networks, address := []string{tcpCopies: "ip4:6", icmpCopies: "ip4:1"}, "0.0.0.0"
	if l.cfg.IPv6 {
		// IPv6 raw sockets, and their filters, start behind the IP header.
		filters = [][]bpf.Instruction{tcpCopies: ackFilter(interest.ISN + 1), icmpCopies: icmp6ErrorFilter()}
		networks, address = []string{tcpCopies: "ip6:6", icmpCopies: "ip6:58"}, "::"
	}
	for i, network := range networks {
		raw, err := bpf.Assemble(filters[i])
		if err != nil {
			return fmt.Errorf("assemble filter: %w", err)
		}
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return attach(c, raw) }}
		c, err := lc.ListenPacket(context.Background(), network, address)
		if err != nil {
			return privilege("listen", err)
		}
		l.copies = append(l.copies, c)
	}
	return nil
}

// attach sets a socket's filter.
func attach(c syscall.RawConn, raw []bpf.RawInstruction) error {
	prog := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})
	}); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("setsockopt SO_ATTACH_FILTER", err)
}

// wholePacket is what a filter returns to accept a packet in full.
const wholePacket = 0xffff

// ackFilter accepts the TCP segments that acknowledge ack.
func ackFilter(ack uint32) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 8, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: ack, SkipFalse: 1},
		bpf.RetConstant{Val: wholePacket},
		bpf.RetConstant{Val: 0},
	}
}

// icmp6ErrorFilter accepts ICMPv6 error messages: "error messages are
// identified as such by a zero in the high-order bit of their message Type
// field values" (RFC 4443, section 2.1).
func icmp6ErrorFilter() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x80, SkipTrue: 1},
		bpf.RetConstant{Val: wholePacket},
		bpf.RetConstant{Val: 0},
	}
}

// readTap carries the tap's packets to the run until the tap is closed, or
// fails for the reason that it returns.
func (l *link) readTap() error {
	var p pcap.Packet
	for {
		if err := l.tap.Read(&p); err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		var hardware [6]byte
		if p.LinkAddrLen == len(hardware) {
			hardware = [6]byte(p.LinkAddr[:])
		}
		l.emit(Event{
			Data: append([]byte(nil), p.Data...), Time: p.Time, Hardware: hardware,
			Direction: p.Direction, Interface: p.Interface, Loopback: l.loops[p.Interface],
			ARP: p.EtherType == pcap.EtherTypeARP, ChecksumPartial: p.ChecksumPartial, Unstamped: !p.Stamped, Cut: p.Length > len(p.Data),
		})
	}
}

// maxFailures is how many errors in a row end the reading of copies.
const maxFailures = 100

// readCopies carries what passed the local firewall to the run. Losing one is
// no failure of the run: the tap has it.
func (l *link) readCopies(c net.PacketConn, icmp bool) {
	buf := make([]byte, 2048)
	for failures := 0; ; {
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// An error queued on the socket, now taken off it; one that stays
			// would keep us here for ever.
			if failures++; failures > maxFailures {
				return
			}
			continue
		}
		failures = 0
		addr, ok := netip.AddrFromSlice(from.(*net.IPAddr).IP)
		if !ok {
			continue
		}
		if !l.cfg.IPv6 {
			addr = addr.Unmap()
		}
		l.emit(Event{Data: append([]byte(nil), buf[:n]...), Time: time.Now(), Delivered: true, From: addr, ICMP: icmp})
	}
}

func (l *link) emit(ev Event) {
	select {
	case l.events <- ev:
	case <-l.done:
	}
}

// Events implements Link.
func (l *link) Events() <-chan Event { return l.events }

// Err implements Link.
func (l *link) Err() error { return l.failed }

// Send implements Link.
func (l *link) Send(packet []byte, m *Machine, via *[6]byte) error {
	if via != nil {
		return l.sendLinkLayer(packet, m, *via)
	}
	ip, err := wire.ParseIP(packet)
	if err != nil {
		return err
	}
	dst := ip.Dst
	if dst.IsLinkLocalUnicast() && dst.Is6() {
		dst = dst.WithZone(m.Interface.Name)
	}
	sa, _ := sockaddr(netip.AddrPortFrom(dst, 0))
	return refusal(patiently(func() error { return unix.Sendto(l.send, packet, 0, sa) }))
}

// openFrames opens the socket of sendLinkLayer. The tap is not shown what its own
// socket sends (net/core/dev.c, skb_loop_sk), and that the probe left must be
// seen. Protocol 0: nothing is ever queued on it.
func (l *link) openFrames() error {
	if l.frames >= 0 {
		return nil
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return privilege("open packet socket", err)
	}
	l.frames = fd
	return nil
}

// A send that finds no room is tried again after these pauses: a queue at the
// rate of a slow link gets some packets out by then. What still has no room then
// is an observation. Together they are short enough not to hold up a run that is
// always refused.
var roomPauses = []time.Duration{time.Millisecond, 2 * time.Millisecond, 4 * time.Millisecond}

// patiently calls send again where there was no room for the packet: a full
// queue (ENOBUFS), a full socket buffer (EAGAIN) or no memory. The kernel has
// dropped it then.
func patiently(send func() error) error {
	err := send()
	for _, pause := range roomPauses {
		if !noRoom(err) {
			break
		}
		time.Sleep(pause)
		err = send()
	}
	return err
}

func noRoom(err error) bool {
	return errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOMEM)
}

// sendLinkLayer hands a packet to a next hop that the IP stack would not have
// chosen for it. The local firewall does not see such a packet.
func (l *link) sendLinkLayer(packet []byte, m *Machine, to [6]byte) error {
	proto := uint16(unix.ETH_P_IP)
	if packet[0]>>4 == 6 {
		proto = unix.ETH_P_IPV6
	}
	sa := &unix.SockaddrLinklayer{Protocol: htons(proto), Ifindex: m.Interface.Index, Halen: 6}
	copy(sa.Addr[:], to[:])
	return refusal(patiently(func() error { return unix.Sendto(l.frames, packet, 0, sa) }))
}

// htons turns a number from the machine's order to the network's.
func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func (l *link) sendFrame(packet []byte, m *Machine, proto uint16, to [6]byte) error {
	return refusal(patiently(func() error { return l.tap.Send(m.Interface.Index, proto, to, packet) }))
}

// refusal turns the error of a send into an observation.
func refusal(err error) error {
	var errno syscall.Errno
	if err == nil || !errors.As(err, &errno) {
		return err
	}
	reason := RefusedOther
	switch errno {
	case unix.EPERM:
		reason = RefusedByFirewall
	case unix.ENETUNREACH:
		reason = RefusedNoRoute
	case unix.EHOSTUNREACH:
		reason = RefusedUnreachable
	case unix.EACCES:
		reason = RefusedProhibit
	case unix.EINVAL:
		reason = RefusedBlackhole
	case unix.ENETDOWN, unix.ENXIO, unix.ENODEV:
		reason = RefusedDown
	case unix.EADDRNOTAVAIL:
		reason = RefusedNoAddress
	case unix.ENOBUFS, unix.EAGAIN, unix.ENOMEM:
		reason = RefusedNoBuffer
	}
	return &SendError{Reason: reason, Err: err}
}

// Ask implements Link.
func (l *link) Ask(m *Machine, target netip.Addr) error {
	hop := m.Route.NextHop(target).WithZone("")
	src := m.Route.Source.WithZone("")
	if hop.Is4() {
		broadcast := [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		return l.sendFrame(wire.AppendARPRequest(nil, m.Interface.Hardware, src, hop), m, unix.ETH_P_ARP, broadcast)
	}
	_, group := wire.SolicitedNode(hop)
	return l.sendFrame(wire.AppendNeighborSolicitation(nil, src, hop, m.Interface.Hardware), m, unix.ETH_P_IPV6, group)
}

// Close implements Link.
func (l *link) Close() error {
	select {
	case <-l.done:
		return nil
	default:
	}
	close(l.done)
	var errs []error
	if l.tap != nil {
		errs = append(errs, l.tap.Close())
	}
	if l.stopped != nil {
		<-l.stopped
	} else {
		for _, c := range l.copies {
			c.Close()
		}
	}
	for _, fd := range append(l.hold, l.send, l.frames, l.news) {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}
