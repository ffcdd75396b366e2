package cli

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"synprobe/rawprobe"
	"synprobe/rawprobe/batch"
	"synprobe/traceroute/diagnose"
)

// live is this machine.
func live() Env {
	// Go's own resolver: the same answers on every system, and no thread that
	// a cancelled lookup leaves behind.
	resolver := &net.Resolver{PreferGo: true}
	return Env{
		Stdin:    os.Stdin,
		Stdout:   os.Stdout,
		Stderr:   os.Stderr,
		Terminal: isTerminal(os.Stdout),

		ErrTerminal: isTerminal(os.Stderr),
		Getenv:      os.Getenv,
		Executable: func() (string, error) {
			path, err := os.Executable()
			if err != nil {
				return "", err
			}
			return filepath.EvalSymlinks(path)
		},
		Lookup: func(ctx context.Context, name string) ([]netip.Addr, error) {
			return resolver.LookupNetIP(ctx, "ip", name)
		},
		Reverse: func(ctx context.Context, a netip.Addr) ([]string, error) {
			return resolver.LookupAddr(ctx, a.String())
		},
		Service: func(ctx context.Context, name string) (int, error) {
			return resolver.LookupPort(ctx, "tcp", name)
		},
		Interfaces:    interfaces,
		Owns:          owns,
		Usable:        usable,
		Networks:      networks,
		Batch:         batch.Run,
		Probe:         probe,
		Explain:       diagnose.Explain,
		Confine:       rawprobe.Confine,
		PrivilegeHint: rawprobe.PrivilegeHint,
	}
}

// isTerminal takes every character device for a terminal but those that stand
// for a file (null(4), full(4)).
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	return !slices.ContainsFunc([]string{os.DevNull, "/dev/full", "/dev/zero"}, func(name string) bool {
		device, err := os.Stat(name)
		return err == nil && os.SameFile(info, device)
	})
}

func interfaces() ([]Interface, error) {
	all, err := net.Interfaces()
	var named []Interface
	for _, i := range all {
		named = append(named, Interface{Index: i.Index, Name: i.Name})
	}
	return named, err
}

// owns looks a up among the interfaces' addresses. Those lack what local
// routes add, for which the kernel decides by binding a UDP socket to a, which
// sends nothing.
func owns(a netip.Addr) bool {
	if a.IsUnspecified() || a.IsMulticast() {
		return false
	}
	if addrs, err := net.InterfaceAddrs(); err == nil {
		for _, own := range addrs {
			if p, err := netip.ParsePrefix(own.String()); err == nil && p.Addr() == a.WithZone("") {
				return true
			}
		}
	}
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// networks lists this machine's addresses. Hosts of a network are found by
// address resolution where the interface has a hardware address.
func networks() ([]netip.Prefix, error) {
	all, err := net.Interfaces()
	var found []netip.Prefix
	for _, i := range all {
		addrs, err := i.Addrs()
		if err != nil {
			continue // it may just have gone
		}
		for _, own := range addrs {
			p, err := netip.ParsePrefix(own.String())
			if err != nil {
				continue
			}
			if len(i.HardwareAddr) == 0 || i.Flags&net.FlagPointToPoint != 0 {
				p = netip.PrefixFrom(p.Addr(), p.Addr().BitLen())
			}
			found = append(found, p)
		}
	}
	return found, err
}

// usable connects a UDP socket, which looks up the route and the source
// address and sends nothing. A chosen interface needs no route: what has none
// is taken to be on its link.
func usable(a netip.Addr, opt Options) bool {
	if opt.Interface != "" {
		return hasFamily(opt.Interface, a)
	}
	d := net.Dialer{}
	if opt.Source.IsValid() {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(opt.Source, 0))
	}
	// Port 9 is discard (RFC 863); any would do.
	c, err := d.Dial("udp", netip.AddrPortFrom(a, 9).String())
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// hasFamily reports whether an interface has an address that packets to a
// could come from.
func hasFamily(name string, a netip.Addr) bool {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return false
	}
	addrs, err := i.Addrs()
	if err != nil {
		return true // not known to lack it
	}
	for _, own := range addrs {
		p, err := netip.ParsePrefix(own.String())
		if err == nil && p.Addr().Is4() == a.Is4() && (a.Is4() || p.Addr().IsLinkLocalUnicast() == a.IsLinkLocalUnicast()) {
			return true
		}
	}
	return false
}
