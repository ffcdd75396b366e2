package rawprobe

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

type router struct {
	socket *nl.NetlinkSocket
	bound  Interface // of the last lookup
	raw    uint8     // the protocol that stands in for a raw packet's
}

func (r *router) open() (err error) {
	if r.socket, err = nl.Subscribe(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("route lookup: %w", err)
	}
	r.raw = standIn()
	return nil
}

func (r *router) lookup(flow Flow, iface int) (Route, error) {
	if iface != r.bound.Index {
		r.bound = Interface{}
		if iface != 0 {
			k, err := netlink.LinkByIndex(iface)
			if err != nil {
				return Route{}, fmt.Errorf("interface %d: %w", iface, err)
			}
			r.bound = describe(k)
		}
	}
	route, err := lookupOn(r.sockets(), flow, iface, r.raw)
	if err != nil {
		return route, err
	}
	return route, fits(flow, r.bound, route.Local)
}

func (r *router) lookupTCP(flow Flow, iface int) (Route, bool, error) {
	raw, err := lookupOn(r.sockets(), flow, iface, r.raw)
	if err != nil {
		return Route{}, false, err
	}
	route, err := lookupOn(r.sockets(), flow, iface, unix.IPPROTO_TCP)
	if err != nil || raw == route {
		return route, err == nil, err
	}
	a, okA := r.fib(flow, iface, r.raw)
	b, okB := r.fib(flow, iface, unix.IPPROTO_TCP)
	return route, okA && okB && a.instead(&b), nil
}

// fib returns the route of a table that a flow goes by, as askRoute asks for it.
// It is not ok where there is none, or where the kernel does not tell.
func (r *router) fib(flow Flow, iface int, protocol uint8) (fibRoute, bool) {
	replies, err := askRoute(r.sockets(), flow, iface, protocol, unix.RTM_F_LOOKUP_TABLE|unix.RTM_F_FIB_MATCH)
	if err != nil || len(replies) == 0 {
		return fibRoute{}, false
	}
	found, ok := parseFIB(replies[0], flow.Dst.Addr().Is6())
	return found, ok && found.flags&unix.RTM_F_CLONED == 0
}

func (r *router) sockets() map[int]*nl.SocketHandle {
	return map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: r.socket}}
}

func (r *router) close() { r.socket.Close() }
