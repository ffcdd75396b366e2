package rawprobe

import "net/netip"

// A Router asks the kernel for the routes of many targets over one socket. One
// goroutine at a time may use it; the zero value is of no use. Get one from
// [OpenRouter].
type Router struct{ sys router }

// OpenRouter returns a Router in the network namespace of the calling thread.
// It needs no privilege. Where no target can be probed at all the error is
// errors.ErrUnsupported.
func OpenRouter() (*Router, error) {
	r := &Router{}
	if err := r.sys.open(); err != nil {
		return nil, err
	}
	return r, nil
}

// Lookup returns the kernel's route to dst as a raw packet gets it
// (net/ipv4/raw.c, net/ipv6/raw.c): policy rules see no ports. src is the
// address to send from and iface the index of the interface to send on; the
// zero Addr and 0 leave them to the route. The Route's Source is what the kernel
// would choose, and its MTU 0 where the route has none of its own.
//
// What the kernel answers is a Route, and [ErrBroadcast] for an address that is
// all hosts. [ErrLoopback] and [ErrNotLoopback] say that src or iface can't lead
// to dst; other errors are failures of our own.
func (r *Router) Lookup(dst, src netip.Addr, iface int) (Route, error) {
	return r.sys.lookup(Flow{Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(dst, 0)}, iface)
}

// LookupTCP is Lookup for a TCP connection, as policy rules by protocol and port
// would have it (ip-rule(8)). A zero port of the flow is any. same says that a raw
// packet goes the same way, or by another next hop of the same route. Errors are
// [ErrBroadcast] and failures of our own.
func (r *Router) LookupTCP(flow Flow, iface int) (route Route, same bool, err error) {
	return r.sys.lookupTCP(flow, iface)
}

// Close gives the socket back.
func (r *Router) Close() { r.sys.close() }
