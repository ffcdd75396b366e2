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
}

func (r *router) open() (err error) {
	if r.socket, err = nl.Subscribe(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("route lookup: %w", err)
	}
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
	route, err := lookupOn(map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: r.socket}}, flow, iface, false)
	if err != nil {
		return route, err
	}
	return route, fits(flow, r.bound, route.Local)
}

func (r *router) close() { r.socket.Close() }
