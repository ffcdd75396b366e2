package netlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// patience is how long the kernel may take to bring up a link or an address.
// Both happen in a work queue, within microseconds on an idle machine; the limit
// is for a machine that builds something else meanwhile.
const patience = 10 * time.Second

// labSys is what a lab holds of the kernel.
type labSys struct {
	ctx    context.Context // ends with the lab
	cancel context.CancelFunc
	// fabric is the namespace of the segments' switches, made when needed.
	fabric *space
	wires  []*wire
}

// machineSys is what a machine holds of the kernel.
type machineSys struct {
	*space
	fw firewall

	mu      sync.Mutex // guards the fields below
	jobs    chan func()
	closers []io.Closer
	tuns    map[string]*os.File
}

// possible says why no lab can be built here, if so.
var possible = sync.OnceValue(func() error {
	s, err := newSpace()
	if err != nil {
		if whyNoUser != nil {
			err = fmt.Errorf("%w; and no user namespace: %w", err, whyNoUser)
		}
		return fmt.Errorf("a network namespace needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN): %w", err)
	}
	return s.close()
})

// A space is a network namespace without a name.
type space struct {
	ns netns.NsHandle
	nl *netlink.Handle
}

// onThread runs f on a thread that is thrown away afterwards, so that f may put
// it into any namespace: a goroutine that ends while locked takes its thread
// along (runtime.LockOSThread).
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errors.New("netlab: the function ended its goroutine")
		defer func() { done <- err }()
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread can't be thrown away: the runtime would
			// park it as it is, and /proc/self would show its namespace.
			// While it is held here, another one has to do the work.
			err = onThread(f)
			runtime.UnlockOSThread()
			return
		}
		err = f()
	}()
	return <-done
}

// newSpace makes a namespace, with its loopback interface up.
func newSpace() (*space, error) {
	s := &space{ns: netns.None()}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		var err error
		if s.ns, err = netns.Get(); err != nil {
			return err
		}
		// A netlink socket belongs to the namespace that it was made in.
		if s.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		lo, err := s.nl.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, kv := range [][2]string{
			// Interfaces are usable at once: no duplicate address
			// detection, no waiting for a router.
			{"net.ipv6.conf.default.accept_dad", "0"},
			{"net.ipv6.conf.default.dad_transmits", "0"},
			{"net.ipv6.conf.default.accept_ra", "0"},
			{"net.ipv6.conf.default.autoconf", "0"},
			// IN6_ADDR_GEN_MODE_NONE: the plan has the link-local address.
			{"net.ipv6.conf.default.addr_gen_mode", "1"},
			// The machine's defaults may differ (rp_filter is 2 in
			// systemd's), the lab's not.
			{"net.ipv4.conf.all.rp_filter", "0"},
			{"net.ipv4.conf.default.rp_filter", "0"},
			// ECMP by ports, as routers do it, and the same in each run.
			{"net.ipv4.fib_multipath_hash_policy", "1"},
			{"net.ipv6.fib_multipath_hash_policy", "1"},
		} {
			if err := writeSysctl(kv[0], kv[1]); err != nil {
				return err
			}
		}
		// Since Linux 6.11; without it flows merely choose other legs.
		if err := writeSysctl("net.ipv4.fib_multipath_hash_seed", "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return s.nl.LinkSetUp(lo)
	})
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *space) close() error {
	if s == nil {
		return nil
	}
	if s.nl != nil {
		s.nl.Close()
		s.nl = nil
	}
	if s.ns.IsOpen() {
		return s.ns.Close()
	}
	return nil
}

func (s *space) do(f func() error) error {
	if s == nil || !s.ns.IsOpen() {
		return net.ErrClosed
	}
	return onThread(func() error {
		if err := netns.Set(s.ns); err != nil {
			return os.NewSyscallError("setns", err)
		}
		return f()
	})
}

func (m *Machine) do(f func() error) error { return m.sys.space.do(f) }

// Netlink returns the route netlink handle of the node. The lab closes it.
func (m *Machine) Netlink() *netlink.Handle { return m.sys.nl }

// build makes everything that the plan has, in the order in which one part
// needs another.
func (l *Lab) build() error {
	l.sys.ctx, l.sys.cancel = context.WithCancel(context.Background())
	nodes := l.Plan.Nodes
	for i := range nodes {
		m := l.machines[nodes[i].Name]
		s, err := newSpace()
		if err != nil {
			return fmt.Errorf("node %q: %w", m.Name, err)
		}
		m.sys.space = s
	}
	for k, link := range l.Plan.Topology.Links {
		if err := l.buildLink(k, link); err != nil {
			return fmt.Errorf("link %d (%s): %w", k+1, link.Kind, err)
		}
	}
	steps := []func(*Machine) error{
		(*Machine).configure,
		(*Machine).addAddresses,
		(*Machine).waitReady,
		(*Machine).addPlanRoutes,
		func(m *Machine) error { return m.addRules(m.Rules) },
		func(m *Machine) error {
			for _, s := range m.Services {
				if err := m.listen(s); err != nil {
					return err
				}
			}
			return nil
		},
	}
	for _, step := range steps {
		for i := range nodes {
			m := l.machines[nodes[i].Name]
			if err := step(m); err != nil {
				return fmt.Errorf("node %q: %w", m.Name, err)
			}
		}
	}
	return nil
}

// close ends processes, services, wires and namespaces. What a namespace holds
// goes with it, as soon as nothing has it open.
func (l *Lab) close() error {
	if l.sys.cancel != nil {
		l.sys.cancel()
	}
	var errs []error
	for _, w := range l.sys.wires {
		errs = append(errs, w.close())
	}
	for _, m := range l.machines {
		m.sys.mu.Lock()
		for _, c := range m.sys.closers {
			errs = append(errs, c.Close())
		}
		if m.sys.jobs != nil {
			close(m.sys.jobs)
		}
		m.sys.closers, m.sys.jobs = nil, nil
		m.sys.mu.Unlock()
		errs = append(errs, m.sys.fw.close(), m.sys.space.close())
	}
	return errors.Join(append(errs, l.sys.fabric.close())...)
}

// configure sets the node's kernel settings and brings its interfaces up.
func (m *Machine) configure() error {
	return m.do(func() error {
		settings := map[string]string{}
		if m.Forward {
			settings["net.ipv4.ip_forward"] = "1"
			settings["net.ipv6.conf.all.forwarding"] = "1"
		}
		for k, v := range settings {
			if err := writeSysctl(k, v); err != nil {
				return err
			}
		}
		for k, v := range m.Sysctls {
			if err := writeSysctl(k, v); err != nil {
				return err
			}
		}
		for _, i := range m.Interfaces {
			if i.Down {
				continue
			}
			dev, err := m.sys.nl.LinkByName(i.Name)
			if err != nil {
				return fmt.Errorf("%s: %w", i.Name, err)
			}
			if err := m.sys.nl.LinkSetUp(dev); err != nil {
				return fmt.Errorf("%s: %w", i.Name, err)
			}
		}
		return nil
	})
}

func (m *Machine) addAddresses() error {
	for _, i := range m.Interfaces {
		if err := m.addInterfaceAddresses(i); err != nil {
			return fmt.Errorf("%s: %w", i.Name, err)
		}
	}
	if len(m.Addrs) == 0 {
		return nil
	}
	lo, err := m.sys.nl.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, p := range m.Addrs {
		if p.IsSingleIP() {
			err = m.sys.nl.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD})
		} else {
			err = m.sys.nl.RouteAdd(&netlink.Route{
				Dst: ipNet(p.Masked()), LinkIndex: lo.Attrs().Index,
				Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
			})
		}
		if err != nil {
			return fmt.Errorf("%v on lo: %w", p, err)
		}
	}
	return nil
}

func (m *Machine) addInterfaceAddresses(i Interface) error {
	dev, err := m.sys.nl.LinkByName(i.Name)
	if err != nil {
		return err
	}
	for _, p := range append(i.Addrs[:len(i.Addrs):len(i.Addrs)], netip.PrefixFrom(i.LinkLocal, 64)) {
		err := m.sys.nl.AddrAdd(dev, &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD})
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("address %v: %w", p, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// until asks ready again and again until it says yes. The kernel has no
// message for some of the states waited for, so they are polled for.
func until(ready func() (bool, error)) error {
	deadline := time.Now().Add(patience)
	for wait := 50 * time.Microsecond; ; wait = min(2*wait, 5*time.Millisecond) {
		ok, err := ready()
		if err != nil || ok {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready after %v", patience)
		}
		time.Sleep(wait)
	}
}

// waitReady waits until the node's interfaces carry packets and its IPv6
// addresses can be resolved.
func (m *Machine) waitReady() error {
	for _, i := range m.Interfaces {
		if i.Down {
			continue
		}
		if m.lab.hasCarrier(i) {
			err := until(func() (bool, error) {
				dev, err := m.sys.nl.LinkByName(i.Name)
				if err != nil {
					return false, err
				}
				// A queueing discipline is attached, and operstate set,
				// after carrier (net/core/link_watch.c).
				a := dev.Attrs()
				up := a.OperState == netlink.OperUp || a.OperState == netlink.OperUnknown
				return up && a.RawFlags&unix.IFF_LOWER_UP != 0, nil
			})
			if err != nil {
				return fmt.Errorf("%s: carrier: %w", i.Name, err)
			}
		}
		if i.Kind == Segment {
			err := until(func() (bool, error) { return m.lab.sys.fabric.forwarding(portName(i.Link, i.End)) })
			if err != nil {
				return fmt.Errorf("%s: switch port: %w", i.Name, err)
			}
		}
	}
	// A node answers neighbour solicitations only once it has joined the
	// address' solicited-node group, which the kernel does in a work queue
	// (net/ipv6/addrconf.c, addrconf_dad_work).
	return m.do(func() error {
		err := until(func() (bool, error) {
			b, err := os.ReadFile("/proc/thread-self/net/igmp6")
			if err != nil {
				return false, err
			}
			return m.joined(string(b)), nil
		})
		if err != nil {
			return fmt.Errorf("IPv6 neighbour discovery: %w", err)
		}
		return nil
	})
}

// joined reports whether igmp6, the contents of /proc/net/igmp6, has the
// solicited-node groups (RFC 4291, section 2.7.1) of the node's interfaces.
func (m *Machine) joined(igmp6 string) bool {
	have := map[string]bool{}
	for line := range strings.Lines(igmp6) {
		if f := strings.Fields(line); len(f) > 2 {
			have[f[1]+" "+f[2]] = true
		}
	}
	for _, i := range m.Interfaces {
		if i.Down || i.NoARP || i.Kind == Tun || !m.lab.hasCarrier(i) {
			continue
		}
		for _, a := range append(m.addrs6(i), i.LinkLocal) {
			b := a.As16()
			if !have[fmt.Sprintf("%s ff0200000000000000000001ff%x", i.Name, b[13:])] {
				return false
			}
		}
	}
	return true
}

func (m *Machine) addrs6(i Interface) []netip.Addr {
	var addrs []netip.Addr
	for _, p := range i.Addrs {
		if p.Addr().Is6() {
			addrs = append(addrs, p.Addr())
		}
	}
	return addrs
}

// hasCarrier reports whether the plan gives interface i, itself up, carrier:
// its link's other ends are up. A switch and a VXLAN device always give it.
func (l *Lab) hasCarrier(i Interface) bool {
	switch i.Kind {
	case Veth, Macvlan:
		return !l.Plan.Topology.Links[i.Link].Ends[1-i.End].Down
	}
	return true
}

func (m *Machine) addPlanRoutes() error {
	for _, r := range m.Routes {
		// What leaves by an interface that is down the kernel refuses, as
		// it would have removed it when the interface went down.
		down := func(hop NextHop) bool {
			for _, i := range m.Interfaces {
				if i.Name == hop.Iface && i.Down {
					return true
				}
			}
			return false
		}
		if len(r.Next) == 1 && down(r.Next[0]) {
			continue
		}
		if err := m.route(r, m.sys.nl.RouteAdd); err != nil {
			return fmt.Errorf("route to %v: %w", r.Dst, err)
		}
	}
	for k, p := range m.Policies {
		for _, f := range []Family{IPv4, IPv6} {
			if p.Only != 0 && p.Only != f {
				continue
			}
			rule := netlink.NewRule()
			// Before the main table's 32766, in the order written.
			rule.Priority, rule.Table, rule.IPProto = 1000+k, p.Table, int(p.Proto)
			rule.Family = unix.AF_INET
			if f == IPv6 {
				rule.Family = unix.AF_INET6
			}
			if p.SrcPort != 0 {
				rule.Sport = netlink.NewRulePortRange(p.SrcPort, p.SrcPort)
			}
			if p.DstPort != 0 {
				rule.Dport = netlink.NewRulePortRange(p.DstPort, p.DstPort)
			}
			if p.HasUID {
				rule.UIDRange = netlink.NewRuleUIDRange(p.UID, p.UID)
			}
			if err := m.sys.nl.RuleAdd(rule); err != nil {
				return fmt.Errorf("policy %d: %w", k, err)
			}
		}
	}
	return nil
}

// route applies change, such as RouteAdd, to r.
func (m *Machine) route(r PlanRoute, change func(*netlink.Route) error) error {
	nr := &netlink.Route{Dst: ipNet(r.Dst), Table: r.Table, Priority: r.Metric, Type: map[RouteType]int{
		Unicast: unix.RTN_UNICAST, Unreachable: unix.RTN_UNREACHABLE, Prohibit: unix.RTN_PROHIBIT, Blackhole: unix.RTN_BLACKHOLE,
	}[r.Type]}
	if r.Src.IsValid() {
		nr.Src = r.Src.AsSlice()
	}
	for _, hop := range r.Next {
		dev, err := m.sys.nl.LinkByName(hop.Iface)
		if err != nil {
			return err
		}
		nh := &netlink.NexthopInfo{LinkIndex: dev.Attrs().Index}
		if hop.Addr.IsValid() {
			nh.Gw = hop.Addr.AsSlice()
		}
		nr.MultiPath = append(nr.MultiPath, nh)
	}
	if len(nr.MultiPath) == 1 {
		nr.LinkIndex, nr.Gw, nr.MultiPath = nr.MultiPath[0].LinkIndex, nr.MultiPath[0].Gw, nil
		if nr.Gw == nil && r.Dst.Addr().Is4() {
			nr.Scope = netlink.SCOPE_LINK
		}
	}
	return change(nr)
}

func (m *Machine) addRoute(routes []PlanRoute) error {
	for _, r := range routes {
		if err := m.route(r, m.sys.nl.RouteReplace); err != nil {
			return fmt.Errorf("%v: %w", r.Dst, err)
		}
	}
	return nil
}

func (m *Machine) delRoute(dsts []netip.Prefix) error {
	n := 0
	for _, dst := range dsts {
		// A route without type and next hop stands for any.
		err := m.sys.nl.RouteDel(&netlink.Route{Dst: ipNet(dst)})
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%v: %w", dst, err)
		}
		n++
	}
	if n == 0 {
		return fmt.Errorf("there is none to any of %v", dsts)
	}
	return nil
}

// keeper returns the channel of the thread that starts the node's processes.
// It lives as long as the lab, because the kernel counts a thread's end as the
// parent's death (PR_SET_PDEATHSIG, prctl(2)).
func (m *Machine) keeper() (chan func(), error) {
	m.sys.mu.Lock()
	defer m.sys.mu.Unlock()
	if m.sys.jobs != nil {
		return m.sys.jobs, nil
	}
	jobs := make(chan func())
	ready := make(chan error, 2) // ready, and later the end
	go func() {
		ready <- m.do(func() error {
			ready <- nil
			for job := range jobs {
				job()
			}
			return nil
		})
	}()
	if err := <-ready; err != nil {
		return nil, err
	}
	m.sys.jobs = jobs
	return jobs, nil
}

func (m *Machine) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(m.lab.sys.ctx, cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	// A grandchild that holds the output open does not keep a killed
	// command's Wait; on a busy machine its last output may take a while.
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (m *Machine) begin(cmd *exec.Cmd) error {
	jobs, err := m.keeper()
	if err != nil {
		return err
	}
	started := make(chan error, 1)
	jobs <- func() { started <- cmd.Start() }
	return <-started
}

func (m *Machine) own(c io.Closer) {
	m.sys.mu.Lock()
	defer m.sys.mu.Unlock()
	m.sys.closers = append(m.sys.closers, c)
}

// listen starts a service on all addresses of both families.
func (m *Machine) listen(s Service) error {
	if s.Full {
		return m.do(func() error { return m.listenFull(s.Port) })
	}
	var l net.Listener
	err := m.do(func() (err error) {
		l, err = net.Listen("tcp", ":"+strconv.Itoa(int(s.Port)))
		return err
	})
	if err != nil {
		return err
	}
	m.own(l)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed with the lab
			}
			// A client that is gone already has nobody to tell.
			_, _ = io.WriteString(c, m.Name)
			_ = c.Close()
		}
	}()
	return nil
}

type fdCloser int

func (fd fdCloser) Close() error { return unix.Close(int(fd)) }

// listenFull listens with a backlog of 0, which has room for one connection
// (sk_acceptq_is_full, include/net/sock.h), and fills it from inside.
func (m *Machine) listenFull(port uint16) error {
	l, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	m.own(fdCloser(l))
	if err := unix.SetsockoptInt(l, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(l, &unix.SockaddrInet6{Port: int(port)}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(l, 0); err != nil {
		return os.NewSyscallError("listen", err)
	}
	c, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	m.own(fdCloser(c))
	return os.NewSyscallError("connect", unix.Connect(c, &unix.SockaddrInet6{Port: int(port), Addr: [16]byte{15: 1}}))
}

func (m *Machine) iface(name string) (Interface, error) {
	for _, i := range m.Interfaces {
		if i.Name == name {
			return i, nil
		}
	}
	return Interface{}, fmt.Errorf("no interface %q", name)
}

func (m *Machine) setLink(name string, up bool) error {
	i, err := m.iface(name)
	if err != nil {
		return err
	}
	dev, err := m.sys.nl.LinkByName(name)
	if err != nil {
		return err
	}
	if !up {
		return m.sys.nl.LinkSetDown(dev)
	}
	if err := m.sys.nl.LinkSetUp(dev); err != nil {
		return err
	}
	if err := m.addInterfaceAddresses(i); err != nil {
		return err
	}
	for _, r := range m.Routes {
		for _, hop := range r.Next {
			if hop.Iface != name {
				continue
			}
			if err := m.route(r, m.sys.nl.RouteReplace); err != nil {
				return fmt.Errorf("route to %v: %w", r.Dst, err)
			}
			break
		}
	}
	return m.waitReady()
}

// neighbourOf returns the neighbour by which the node reaches addr, and the
// interface's index.
func (m *Machine) neighbourOf(addr netip.Addr) (netip.Addr, int, error) {
	routes, err := m.sys.nl.RouteGet(addr.AsSlice())
	if err != nil || len(routes) == 0 {
		return netip.Addr{}, 0, fmt.Errorf("route to %v: %w", addr, err)
	}
	if gw, ok := netip.AddrFromSlice(routes[0].Gw); ok {
		addr = gw.Unmap()
	}
	return addr, routes[0].LinkIndex, nil
}

func (m *Machine) neighbor(addr netip.Addr, index int) (*netlink.Neigh, error) {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	neighs, err := m.sys.nl.NeighList(index, family)
	if err != nil {
		return nil, err
	}
	for _, n := range neighs {
		if a, _ := netip.AddrFromSlice(n.IP); a.Unmap() == addr.WithZone("") {
			return &n, nil
		}
	}
	return nil, nil
}

var neighborStates = []struct {
	bit  int
	name string
}{
	{netlink.NUD_INCOMPLETE, "INCOMPLETE"}, {netlink.NUD_REACHABLE, "REACHABLE"}, {netlink.NUD_STALE, "STALE"},
	{netlink.NUD_DELAY, "DELAY"}, {netlink.NUD_PROBE, "PROBE"}, {netlink.NUD_FAILED, "FAILED"},
	{netlink.NUD_NOARP, "NOARP"}, {netlink.NUD_PERMANENT, "PERMANENT"},
}

func (m *Machine) neighborState(addr netip.Addr) (string, error) {
	n, err := m.neighbor(addr, 0)
	if err != nil || n == nil {
		return "", err
	}
	for _, s := range neighborStates {
		if n.State&s.bit != 0 {
			return s.name, nil
		}
	}
	return "NONE", nil
}

// warmNeighbor forgets what is known and sends an echo request, so that the
// kernel has to ask the neighbour and hears it answer.
func (m *Machine) warmNeighbor(addr netip.Addr) error {
	hop, index, err := m.neighbourOf(addr)
	if err != nil {
		return err
	}
	if old, err := m.neighbor(hop, index); err != nil {
		return err
	} else if old != nil {
		if err := m.sys.nl.NeighDel(old); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	if err := m.do(func() error { return sendEcho(addr) }); err != nil {
		return err
	}
	return until(func() (bool, error) {
		n, err := m.neighbor(hop, index)
		if n != nil && n.State == netlink.NUD_FAILED {
			return false, fmt.Errorf("%v does not answer", hop)
		}
		return n != nil && n.State == netlink.NUD_REACHABLE, err
	})
}

// sendEcho sends an ICMP echo request that waits for no answer: echo is the
// one ICMP message that kernels do not limit.
func sendEcho(addr netip.Addr) error {
	// Type, code, checksum, identifier and sequence number of RFC 792 and
	// RFC 4443; the checksum of the IPv6 one is the kernel's to fill in.
	domain, proto, packet := unix.AF_INET, unix.IPPROTO_ICMP, []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}
	var sa unix.Sockaddr
	if addr.Is4() {
		sa = &unix.SockaddrInet4{Addr: addr.As4()}
	} else {
		domain, proto, packet = unix.AF_INET6, unix.IPPROTO_ICMPV6, []byte{128, 0, 0, 0, 0, 0, 0, 0}
		sa = &unix.SockaddrInet6{Addr: addr.As16()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	return os.NewSyscallError("sendto", unix.Sendto(fd, packet, 0, sa))
}
