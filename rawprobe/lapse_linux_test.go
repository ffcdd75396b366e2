package rawprobe

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"synprobe/rawprobe/netlab"
)

// twoRouters is a client on a network with two routers, of which it uses s1. An
// address of its own is on no link.
var twoRouters = netlab.Topology{
	Name: "two routers",
	Nodes: []netlab.Node{
		{Name: "client", Routes: []netlab.Route{{To: "default", Next: []string{"s1"}}}},
		{Name: "s1", Forward: true},
		{Name: "s2", Forward: true, Routes: []netlab.Route{{To: "server", Next: []string{"server"}}}},
		{Name: "server"},
	},
	Links: []netlab.Link{
		{Kind: netlab.Segment, Ends: []netlab.End{{Node: "client"}, {Node: "s1"}, {Node: "s2"}}},
		netlab.Join("s1", "server"), netlab.Join("s2", "server"),
	},
}

// A flapping is a client whose network a test changes and changes back.
type flapping struct {
	*testing.T
	lab    *netlab.Lab
	client *netlab.Machine
	nl     *netlink.Handle
	family netlab.Family
}

func (f *flapping) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// pick is the one of two texts that is of the family.
func (f *flapping) pick(v4, v6 string) string {
	if f.family == netlab.IPv4 {
		return v4
	}
	return v6
}

func (f *flapping) prefix(v4, v6 string) *net.IPNet {
	p := netip.MustParsePrefix(f.pick(v4, v6))
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (f *flapping) everything() *net.IPNet { return f.prefix("0.0.0.0/0", "::/0") }

// network is the server's network, to which the client has a route by s1.
func (f *flapping) network() *net.IPNet {
	f.Helper()
	for _, r := range f.client.Routes {
		if r.Dst.Bits() > 0 && r.Dst.Contains(f.lab.Addr("server", f.family)) {
			return &net.IPNet{IP: r.Dst.Addr().AsSlice(), Mask: net.CIDRMask(r.Dst.Bits(), r.Dst.Addr().BitLen())}
		}
	}
	f.Fatal("the client has no route to the server's network")
	return nil
}

// server is the route to the server alone.
func (f *flapping) server() *net.IPNet {
	a := f.lab.Addr("server", f.family)
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func (f *flapping) link(name string) netlink.Link {
	f.Helper()
	k, err := f.nl.LinkByName(name)
	f.must(err)
	return k
}

// via is a route by eth0 and a router.
func (f *flapping) via(router string, dst *net.IPNet) *netlink.Route {
	return &netlink.Route{Dst: dst, LinkIndex: f.link("eth0").Attrs().Index, Gw: f.lab.Addr(router, f.family).AsSlice()}
}

// both is a route by eth0 and both routers.
func (f *flapping) both() *netlink.Route {
	r := &netlink.Route{Dst: f.network()}
	for _, name := range []string{"s1", "s2"} {
		r.MultiPath = append(r.MultiPath, &netlink.NexthopInfo{LinkIndex: f.link("eth0").Attrs().Index, Gw: f.lab.Addr(name, f.family).AsSlice()})
	}
	return r
}

// add adds a route and takes it away again.
func (f *flapping) add(r *netlink.Route) {
	f.Helper()
	f.must(f.nl.RouteAdd(r))
	f.must(f.nl.RouteDel(r))
}

// ruled makes a table be asked by a rule.
func (f *flapping) ruled(table, priority int) { f.ruledFor(table, priority, netlink.NewRule()) }

// ruledFor is ruled for what a rule matches.
func (f *flapping) ruledFor(table, priority int, r *netlink.Rule) {
	r.Table, r.Priority, r.Family = table, priority, netlink.FAMILY_V4
	if f.family == netlab.IPv6 {
		r.Family = netlink.FAMILY_V6
	}
	f.must(f.nl.RuleAdd(r))
}

// own is an address of eth0 as it was added.
func (f *flapping) own() *netlink.Addr {
	f.Helper()
	addrs, err := f.nl.AddrList(f.link("eth0"), netlink.FAMILY_ALL)
	f.must(err)
	for i := range addrs {
		if addrs[i].IP.String() == f.lab.Addr("client", f.family).String() {
			return &netlink.Addr{IPNet: addrs[i].IPNet, Flags: unix.IFA_F_NODAD}
		}
	}
	f.Fatal("the client has no address")
	return nil
}

// other adds an interface that leads nowhere, with an address.
func (f *flapping) other(addr *net.IPNet) netlink.Link {
	f.Helper()
	f.must(f.nl.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "other0"}, PeerName: "other1"}))
	f.must(f.nl.LinkSetUp(f.link("other1")))
	k := f.link("other0")
	f.must(f.nl.LinkSetUp(k))
	f.must(f.nl.AddrAdd(k, &netlink.Addr{IPNet: addr, Flags: unix.IFA_F_NODAD}))
	return k
}

// until waits for what the kernel does a little later.
func (f *flapping) until(what string, ready func() bool) {
	f.Helper()
	for end := time.Now().Add(20 * time.Second); !ready(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			f.Fatalf("waited in vain: %s", what)
		}
	}
}

func (f *flapping) carrier() bool { return f.link("eth0").Attrs().RawFlags&unix.IFF_LOWER_UP != 0 }

const loopbackAddress4, loopbackAddress6 = "10.77.0.1/32", "fd77::1/128"

// storm is far more than a socket's buffer holds of messages (net.core.rmem_default,
// some 200 KiB, of which the smallest takes 0.75).
const storm = 1000

var oneRouter = netlab.Chain(1)

var lapseCases = []struct {
	name  string
	net   *netlab.Topology // nil: two routers
	only  netlab.Family    // 0: both
	bound bool             // to eth0
	// before prepares the client; src is where the flow comes from and dst where
	// it goes to, where that is not the server.
	before   func(*flapping)
	src, dst func(*flapping) netip.Addr
	between  func(*flapping) // the two Surveys of a run
	during   func(*flapping)
	want     Lapse
}{
	{name: "nothing", during: func(*flapping) {}},

	// What the flow goes by.
	{name: "interface down", want: LapseDown, during: func(f *flapping) {
		f.client.LinkDown("eth0")
		f.client.LinkUp("eth0")
	}},
	{name: "no carrier", net: &oneRouter, want: LapseNoCarrier, during: func(f *flapping) {
		f.lab.Node("r1").LinkDown("eth0")
		f.until("no carrier", func() bool { return !f.carrier() })
		f.lab.Node("r1").LinkUp("eth0")
		f.until("carrier", f.carrier)
	}},
	{name: "address removed", want: LapseNoAddress, during: func(f *flapping) {
		f.must(f.nl.AddrDel(f.link("eth0"), f.own()))
		f.client.LinkUp("eth0") // it has the address and the routes again
	}},
	{name: "own address removed, which is the target", want: LapseNoAddress,
		dst: func(f *flapping) netip.Addr { return f.lab.Addr("client", f.family) },
		during: func(f *flapping) {
			f.must(f.nl.AddrDel(f.link("eth0"), f.own()))
			f.client.LinkUp("eth0")
		}},
	{name: "route deleted", want: LapseNoRoute, during: func(f *flapping) {
		f.must(f.nl.RouteDel(f.via("s1", f.network())))
		f.must(f.nl.RouteAdd(f.via("s1", f.network())))
	}},
	{name: "route of the link deleted", want: LapseNoRoute,
		dst: func(f *flapping) netip.Addr { return f.lab.Addr("s2", f.family) },
		during: func(f *flapping) {
			routes, err := f.nl.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: f.link("eth0").Attrs().Index}, netlink.RT_FILTER_OIF)
			f.must(err)
			for _, r := range routes {
				if r.Gw == nil && r.Dst.Contains(f.lab.Addr("s2", f.family).AsSlice()) {
					f.must(f.nl.RouteDel(&r))
					f.must(f.nl.RouteAdd(&r))
					return
				}
			}
			f.Fatal("no route of the link")
		}},
	{name: "route deleted, and added with another metric", want: LapseNoRoute, during: func(f *flapping) {
		f.must(f.nl.RouteDel(f.via("s1", f.network())))
		r := f.via("s1", f.network())
		r.Priority = 5000
		f.must(f.nl.RouteAdd(r))
	}},
	{name: "another gateway", want: LapseOtherRoute, during: func(f *flapping) {
		f.must(f.nl.RouteReplace(f.via("s2", f.network())))
		f.must(f.nl.RouteReplace(f.via("s1", f.network())))
	}},
	// Which of the two next hops a flow takes may have changed.
	{name: "another gateway besides", only: netlab.IPv6, want: LapseOtherRoute, during: func(f *flapping) {
		f.must(f.nl.RouteAppend(f.via("s2", f.network())))
		f.must(f.nl.RouteDel(f.via("s2", f.network())))
	}},
	{name: "one of two gateways", only: netlab.IPv6, want: LapseNoRoute, before: func(f *flapping) {
		f.must(f.nl.RouteAppend(f.via("s2", f.network())))
	}, during: func(f *flapping) {
		f.must(f.nl.RouteDel(f.via("s2", f.network())))
		f.must(f.nl.RouteAppend(f.via("s2", f.network())))
	}},
	{name: "one gateway of two", only: netlab.IPv4, want: LapseOtherRoute, before: func(f *flapping) {
		f.must(f.nl.RouteReplace(f.both()))
	}, during: func(f *flapping) {
		f.must(f.nl.RouteReplace(f.via("s1", f.network())))
		f.must(f.nl.RouteReplace(f.both()))
	}},
	{name: "another gateway for the host", want: LapseOtherRoute, during: func(f *flapping) { f.add(f.via("s2", f.server())) }},
	{name: "a better metric", want: LapseOtherRoute, before: func(f *flapping) {
		r := f.via("s1", f.server())
		r.Priority = 500
		f.must(f.nl.RouteAdd(r))
	}, during: func(f *flapping) {
		r := f.via("s2", f.server())
		r.Priority = 400
		f.add(r)
	}},
	{name: "another interface for the host", want: LapseOtherRoute, before: func(f *flapping) {
		f.other(f.prefix("172.17.0.1/16", "fd17::1/64"))
	}, during: func(f *flapping) { f.add(&netlink.Route{Dst: f.server(), LinkIndex: f.link("other0").Attrs().Index}) }},
	{name: "prohibited", want: LapseOtherRoute, during: func(f *flapping) {
		f.add(&netlink.Route{Dst: f.server(), Type: unix.RTN_PROHIBIT})
	}},
	{name: "a table that is asked before", want: LapseOtherRoute, before: func(f *flapping) { f.ruled(100, 90) }, during: func(f *flapping) {
		r := f.via("s2", f.everything())
		r.Table = 100
		f.add(r)
	}},
	// With the interface's only address IPv4 takes the routes away without a
	// word (net/ipv4/fib_frontend.c, fib_disable_ip).
	{name: "routes gone with an address that is not the source", only: netlab.IPv4, want: LapseNoRoute, before: func(f *flapping) {
		f.must(f.nl.AddrAdd(f.link("lo"), &netlink.Addr{IPNet: f.prefix(loopbackAddress4, loopbackAddress6)}))
	}, src: func(f *flapping) netip.Addr { return netip.MustParsePrefix(loopbackAddress4).Addr() }, during: func(f *flapping) {
		f.must(f.nl.AddrDel(f.link("eth0"), f.own()))
		f.client.LinkUp("eth0")
	}},
	{name: "more than can be told", want: LapseUnknown, during: func(f *flapping) {
		r := f.via("s2", f.network())
		r.Priority = 9999
		for range storm {
			f.add(r)
		}
	}},

	// What it does not go by.
	{name: "another interface", during: func(f *flapping) {
		k := f.other(f.prefix("172.17.0.1/16", "fd17::1/64"))
		f.must(f.nl.LinkSetDown(k))
		f.must(f.nl.LinkSetUp(k))
		f.must(f.nl.LinkDel(k))
	}},
	{name: "much of another interface", during: func(f *flapping) {
		k := f.other(f.prefix("172.17.0.1/16", "fd17::1/64"))
		for range storm {
			f.must(f.nl.LinkSetDown(k))
			f.must(f.nl.LinkSetUp(k))
		}
		f.must(f.nl.LinkDel(k))
	}},
	{name: "another interface for a link-local target", only: netlab.IPv6, dst: func(f *flapping) netip.Addr {
		for _, i := range f.lab.Node("s1").Interfaces {
			if i.Name == "eth0" {
				return i.LinkLocal.WithZone("eth0")
			}
		}
		return netip.Addr{}
	}, during: func(f *flapping) {
		k := f.other(f.prefix("172.17.0.1/16", "fe80::77/64"))
		f.must(f.nl.LinkSetDown(k))
		f.must(f.nl.LinkSetUp(k))
		f.must(f.nl.LinkDel(k))
	}},
	{name: "another interface for the host, where it is not free to choose", bound: true, before: func(f *flapping) {
		f.other(f.prefix("172.17.0.1/16", "fd17::1/64"))
	}, during: func(f *flapping) { f.add(&netlink.Route{Dst: f.server(), LinkIndex: f.link("other0").Attrs().Index}) }},
	{name: "the MTU of the interface", during: func(f *flapping) {
		f.must(f.nl.LinkSetMTU(f.link("eth0"), 1400))
		f.must(f.nl.LinkSetMTU(f.link("eth0"), 1500))
	}},
	{name: "another address", during: func(f *flapping) {
		a := &netlink.Addr{IPNet: f.prefix("10.66.0.1/24", "fd66::1/64"), Flags: unix.IFA_F_NODAD}
		f.must(f.nl.AddrAdd(f.link("eth0"), a))
		f.must(f.nl.AddrDel(f.link("eth0"), a))
	}},
	{name: "the same address of another interface", during: func(f *flapping) {
		own := f.own()
		own.Mask = net.CIDRMask(len(own.IP)*8, len(own.IP)*8)
		if v4 := own.IP.To4(); v4 != nil {
			own.Mask = net.CIDRMask(32, 32)
		}
		f.must(f.nl.LinkDel(f.other(own.IPNet)))
	}},
	{name: "a route to elsewhere", during: func(f *flapping) { f.add(f.via("s2", f.prefix("10.55.0.0/16", "fd55::/32"))) }},
	{name: "many routes to elsewhere", during: func(f *flapping) {
		for i := range storm {
			f.add(f.via("s2", f.prefix(fmt.Sprintf("10.55.%d.0/24", i%256), fmt.Sprintf("fd55:%x::/32", i%256))))
		}
	}},
	{name: "a route to its neighbour", during: func(f *flapping) {
		dst := f.server()
		dst.IP = f.lab.Addr("server", f.family).Next().AsSlice()
		f.add(f.via("s2", dst))
	}},
	{name: "a worse metric", during: func(f *flapping) {
		r := f.via("s2", f.network())
		r.Priority = 9999
		f.add(r)
	}},
	{name: "another gateway behind it", only: netlab.IPv4, during: func(f *flapping) {
		f.must(f.nl.RouteAppend(f.via("s2", f.network())))
		f.must(f.nl.RouteDel(f.via("s2", f.network())))
	}},
	{name: "a shorter prefix", during: func(f *flapping) {
		f.must(f.nl.RouteReplace(f.via("s2", f.everything())))
		f.must(f.nl.RouteDel(f.via("s2", f.everything())))
	}},
	{name: "the same gateway for the host", during: func(f *flapping) { f.add(f.via("s1", f.server())) }},
	{name: "the same gateway for the host from now on", during: func(f *flapping) { f.must(f.nl.RouteAdd(f.via("s1", f.server()))) }},
	{name: "the same gateway with another metric from now on", during: func(f *flapping) {
		r := f.via("s1", f.network())
		r.Priority = 5000
		f.must(f.nl.RouteAdd(r))
		f.must(f.nl.RouteDel(f.via("s1", f.network())))
	}},
	{name: "one of two routes to the same gateway deleted", before: func(f *flapping) {
		r := f.via("s1", f.network())
		r.Priority = 5000
		f.must(f.nl.RouteAdd(r))
	}, during: func(f *flapping) { f.must(f.nl.RouteDel(f.via("s1", f.network()))) }},
	{name: "the same route once more", during: func(f *flapping) { f.must(f.nl.RouteReplace(f.via("s1", f.network()))) }},
	{name: "a table that nobody asks", during: func(f *flapping) {
		r := f.via("s2", f.everything())
		r.Table = 100
		f.add(r)
	}},
	{name: "a table that is asked later", before: func(f *flapping) { f.ruled(100, 40000) }, during: func(f *flapping) {
		r := f.via("s2", f.everything())
		r.Table = 100
		f.add(r)
	}},
	{name: "a table that is asked for another protocol", before: func(f *flapping) {
		r := netlink.NewRule()
		r.IPProto = unix.IPPROTO_UDP
		f.ruledFor(100, 100, r)
	}, during: func(f *flapping) {
		r := f.via("s2", f.everything())
		r.Table = 100
		f.add(r)
	}},
	{name: "a table that is asked for other ports", before: func(f *flapping) {
		r := netlink.NewRule()
		r.Dport = netlink.NewRulePortRange(81, 90)
		f.ruledFor(100, 100, r)
	}, during: func(f *flapping) {
		r := f.via("s2", f.everything())
		r.Table = 100
		f.add(r)
	}},
	{name: "a table that is asked from other ports", before: func(f *flapping) {
		r := netlink.NewRule()
		r.Sport = netlink.NewRulePortRange(1, 39999)
		f.ruledFor(100, 100, r)
	}, during: func(f *flapping) {
		r := f.via("s2", f.everything())
		r.Table = 100
		f.add(r)
	}},
	{name: "a table that is asked for the flow alone", before: func(f *flapping) {
		r := netlink.NewRule()
		r.IPProto, r.Dport, r.Sport = unix.IPPROTO_TCP, netlink.NewRulePortRange(80, 80), netlink.NewRulePortRange(40000, 40001)
		f.ruledFor(100, 100, r)
	}, during: func(f *flapping) {
		r := f.via("s2", f.everything())
		r.Table = 100
		f.add(r)
	}, want: LapseOtherRoute},

	// The last Survey is where a run begins.
	{name: "before the last look", between: func(f *flapping) {
		f.client.LinkDown("eth0")
		f.client.LinkUp("eth0")
	}, during: func(*flapping) {}},
}

func TestLapse(t *testing.T) {
	netlab.Require(t)
	for _, c := range lapseCases {
		for _, fam := range labFamilies {
			if c.only != 0 && c.only != fam {
				continue
			}
			t.Run(c.name+"/"+fam.String(), func(t *testing.T) {
				t.Parallel()
				net := &twoRouters
				if c.net != nil {
					net = c.net
				}
				lab := netlab.Start(t, *net)
				f := &flapping{T: t, lab: lab, client: lab.Node("client"), nl: lab.Node("client").Netlink(), family: fam}
				target, src := lab.Addr("server", fam), lab.Addr("client", fam)
				if c.dst != nil {
					target = c.dst(f)
				}
				if c.src != nil {
					src = c.src(f)
				}
				if target.IsLinkLocalUnicast() {
					src = netip.Addr{}
				}
				var l Link
				var m Machine
				must := func(step func() error) { f.must(f.client.Do(step)) }
				cfg := LinkConfig{IPv6: fam == netlab.IPv6}
				if c.bound {
					cfg.Interface = "eth0"
				}
				must(func() (err error) { l, err = OpenLink(cfg); return err })
				defer l.Close()
				if c.before != nil {
					c.before(f)
				}
				must(func() (err error) {
					m, err = l.Survey(Flow{Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(target, 80)})
					return err
				})
				if c.between != nil {
					c.between(f)
				}
				must(func() (err error) {
					m, err = l.Survey(Flow{Src: netip.AddrPortFrom(m.Route.Source, 40000), Dst: netip.AddrPortFrom(target, 80)})
					return err
				})
				if m.Route.Outcome != RouteFound {
					t.Fatalf("no route: %+v", m.Route)
				}
				c.during(f)
				must(func() error { l.Final(&m, target); return nil })
				if m.After != nil || m.Lapse != c.want {
					t.Errorf("lapse %q, want %q; after %+v", m.Lapse, c.want, m.After)
				}
			})
		}
	}
}
