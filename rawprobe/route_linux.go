package rawprobe

import (
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

type router struct{ socket *nl.NetlinkSocket }

func (r *router) open() (err error) {
	if r.socket, err = nl.Subscribe(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("route lookup: %w", err)
	}
	return nil
}

func (r *router) lookup(flow Flow, iface int) (Route, error) {
	return lookupOn(map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: r.socket}}, flow, iface, false)
}

func (r *router) close() { r.socket.Close() }
