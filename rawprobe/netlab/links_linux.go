package netlab

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ends returns the machines and interfaces of link k.
func (l *Lab) ends(k int) ([]*Machine, []Interface) {
	link := l.Plan.Topology.Links[k]
	machines := make([]*Machine, len(link.Ends))
	ifaces := make([]Interface, len(link.Ends))
	for e, end := range link.Ends {
		m := l.machines[end.Node]
		machines[e] = m
		for _, i := range m.Interfaces {
			if i.Link == k && i.End == e {
				ifaces[e] = i
			}
		}
	}
	return machines, ifaces
}

// lower returns the name of the device under a macvlan or VXLAN device: one
// letter longer, so it can't be another interface's unless the topology tries.
func lower(i Interface) string { return i.Name + "_" }

func (l *Lab) buildLink(k int, link Link) error {
	ms, is := l.ends(k)
	var err error
	switch link.Kind {
	case Veth:
		err = addVeth(ms[0].sys.space, is[0].Name, is[0].MAC, ms[1].sys.space, is[1].Name, is[1].MAC, link.MTU)
	case Tun:
		err = l.addWire(link, ms, is)
	case Macvlan:
		err = l.addMacvlan(link, ms, is)
	case VXLAN:
		err = l.addVXLAN(k, link, ms, is)
	case Segment:
		err = l.addSegment(k, link, ms, is)
	default:
		err = errors.ErrUnsupported
	}
	if err != nil {
		return err
	}
	for e, i := range is {
		if !i.NoARP {
			continue
		}
		dev, err := ms[e].sys.nl.LinkByName(i.Name)
		if err != nil {
			return err
		}
		if err := ms[e].sys.nl.LinkSetARPOff(dev); err != nil {
			return err
		}
	}
	return nil
}

// addVeth makes a cable. Both of its ends are born where they belong: an
// interface that is moved loses its settings, and takes an RCU grace period.
func addVeth(a *space, aName string, aMAC net.HardwareAddr, b *space, bName string, bMAC net.HardwareAddr, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = aName, aMAC, mtu
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: bName, PeerHardwareAddr: bMAC, PeerNamespace: netlink.NsFd(b.ns)}
	return a.nl.LinkAdd(veth)
}

func (s *space) up(name string) (netlink.Link, error) {
	dev, err := s.nl.LinkByName(name)
	if err != nil {
		return nil, err
	}
	return dev, s.nl.LinkSetUp(dev)
}

// other returns a link-layer address that no interface of a plan has.
func other(mac net.HardwareAddr) net.HardwareAddr {
	o := append(net.HardwareAddr(nil), mac...)
	o[2] = 1
	return o
}

func (l *Lab) addMacvlan(link Link, ms []*Machine, is []Interface) error {
	err := addVeth(ms[0].sys.space, lower(is[0]), other(is[0].MAC), ms[1].sys.space, is[1].Name, is[1].MAC, link.MTU)
	if err != nil {
		return err
	}
	parent, err := ms[0].sys.up(lower(is[0]))
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.ParentIndex = is[0].Name, is[0].MAC, parent.Attrs().Index
	return ms[0].sys.nl.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE})
}

// vxlanPort is the port that IANA gave VXLAN (RFC 7348, section 4.2); the
// kernel's default is an older one.
const vxlanPort = 4789

func (l *Lab) addVXLAN(k int, link Link, ms []*Machine, is []Interface) error {
	err := addVeth(ms[0].sys.space, lower(is[0]), other(is[0].MAC), ms[1].sys.space, lower(is[1]), other(is[1].MAC), link.MTU)
	if err != nil {
		return err
	}
	underlay := func(e int) net.IP {
		return net.IPv4(198, byte(18+(k+1)>>8&1), byte(k+1), byte(e+1)).To4()
	}
	for e, m := range ms {
		parent, err := m.sys.up(lower(is[e]))
		if err != nil {
			return err
		}
		err = m.sys.nl.AddrAdd(parent, &netlink.Addr{IPNet: &net.IPNet{IP: underlay(e), Mask: net.CIDRMask(24, 32)}})
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = is[e].Name, is[e].MAC
		err = m.sys.nl.LinkAdd(&netlink.Vxlan{
			LinkAttrs: attrs, VxlanId: k + 1, Port: vxlanPort, Learning: true,
			VtepDevIndex: parent.Attrs().Index, SrcAddr: underlay(e), Group: underlay(1 - e),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func bridgeName(k int) string  { return fmt.Sprintf("br%d", k+1) }
func portName(k, e int) string { return fmt.Sprintf("p%d-%d", k+1, e+1) }

func (l *Lab) addSegment(k int, link Link, ms []*Machine, is []Interface) error {
	if l.sys.fabric == nil {
		s, err := newSpace()
		if err != nil {
			return err
		}
		l.sys.fabric = s
	}
	s := l.sys.fabric
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = bridgeName(k), link.MTU
	// Without snooping multicast goes to all ports, as neighbour discovery
	// needs, and no querier is waited for.
	snooping := false
	if err := s.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return err
	}
	bridge, err := s.up(bridgeName(k))
	if err != nil {
		return err
	}
	for e, m := range ms {
		if err := addVeth(s, portName(k, e), other(is[e].MAC), m.sys.space, is[e].Name, is[e].MAC, link.MTU); err != nil {
			return err
		}
		port, err := s.up(portName(k, e))
		if err != nil {
			return err
		}
		if err := s.nl.LinkSetMaster(port, bridge); err != nil {
			return err
		}
	}
	return nil
}

// forwarding reports whether the switch port called name passes packets. A
// port does once its cable's carrier has been seen, in a work queue
// (br_port_carrier_check, net/bridge/br_if.c).
func (s *space) forwarding(name string) (ok bool, err error) {
	const (
		portState  = 1 // IFLA_BRPORT_STATE, linux/if_link.h
		forwarding = 3 // BR_STATE_FORWARDING, linux/if_bridge.h
	)
	err = s.do(func() error {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_BRIDGE))
		msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
		if err != nil {
			return err
		}
		for _, msg := range msgs {
			attrs, err := nl.ParseRouteAttrAsMap(msg[unix.SizeofIfInfomsg:])
			if err != nil {
				return err
			}
			ifname := string(attrs[unix.IFLA_IFNAME].Value)
			if ifname != name+"\x00" {
				continue
			}
			port, err := nl.ParseRouteAttrAsMap(attrs[unix.IFLA_PROTINFO|unix.NLA_F_NESTED].Value)
			if err != nil {
				return err
			}
			state := port[portState].Value
			ok = len(state) == 1 && state[0] == forwarding
		}
		return nil
	})
	return ok, err
}

// noCarrier takes the far end of an interface's cable down.
func (m *Machine) noCarrier(name string) error {
	i, err := m.iface(name)
	if err != nil {
		return err
	}
	var far *space
	var farName string
	switch i.Kind {
	case Veth, Macvlan:
		ms, is := m.lab.ends(i.Link)
		far, farName = ms[1-i.End].sys.space, is[1-i.End].Name
		if i.Kind == Macvlan && i.End == 1 {
			farName = lower(is[0])
		}
	case Segment:
		far, farName = m.lab.sys.fabric, portName(i.Link, i.End)
	case Tun:
		m.sys.mu.Lock()
		f := m.sys.tuns[name]
		m.sys.mu.Unlock()
		if err := setCarrier(f, false); err != nil {
			return err
		}
	default:
		return fmt.Errorf("a %s link has no carrier to lose: %w", i.Kind, errors.ErrUnsupported)
	}
	if far != nil {
		dev, err := far.nl.LinkByName(farName)
		if err != nil {
			return err
		}
		if err := far.nl.LinkSetDown(dev); err != nil {
			return err
		}
	}
	return until(func() (bool, error) {
		dev, err := m.sys.nl.LinkByName(name)
		if err != nil {
			return false, err
		}
		a := dev.Attrs()
		return a.RawFlags&unix.IFF_LOWER_UP == 0 && a.OperState != netlink.OperUp, nil
	})
}

// openTun makes a tun device in the calling thread's namespace.
func openTun(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = os.NewSyscallError("TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr))
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	// Only now does the runtime's poller see it: a tun without a device is
	// always in error.
	return os.NewFile(uintptr(fd), "tun "+name), nil
}

func setCarrier(f *os.File, on bool) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	v := 0
	if on {
		v = 1
	}
	var ioctl error
	err = rc.Control(func(fd uintptr) { ioctl = unix.IoctlSetPointerInt(int(fd), unix.TUNSETCARRIER, v) })
	return errors.Join(err, os.NewSyscallError("TUNSETCARRIER", ioctl))
}

// addWire makes two tun devices and the wire between them.
func (l *Lab) addWire(link Link, ms []*Machine, is []Interface) error {
	var files [2]*os.File
	for e, m := range ms {
		err := m.do(func() (err error) {
			files[e], err = openTun(is[e].Name)
			return err
		})
		if err != nil {
			return errors.Join(err, closeFiles(files[:]))
		}
		m.sys.mu.Lock()
		if m.sys.tuns == nil {
			m.sys.tuns = make(map[string]*os.File)
		}
		m.sys.tuns[is[e].Name] = files[e]
		m.sys.mu.Unlock()
		if link.MTU == 0 {
			continue
		}
		dev, err := m.sys.nl.LinkByName(is[e].Name)
		if err == nil {
			err = m.sys.nl.LinkSetMTU(dev, link.MTU)
		}
		if err != nil {
			return errors.Join(err, closeFiles(files[:]))
		}
	}
	im := Impairment{}
	if link.Wire != nil {
		im = *link.Wire
	}
	l.sys.wires = append(l.sys.wires, newWire(files, im))
	return nil
}

func closeFiles(files []*os.File) error {
	var errs []error
	for _, f := range files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}
