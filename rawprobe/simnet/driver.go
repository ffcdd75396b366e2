package simnet

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"synprobe/rawprobe/netlab"
)

// The methods of netlab.Driver: what happens to a network while it runs.

// with calls do for a node, with the mutex held.
func (s *Net) with(on string, do func(*node) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[on]
	if n == nil {
		return fmt.Errorf("simnet: no node %q", on)
	}
	return do(n)
}

// Listen starts a service.
func (s *Net) Listen(on string, v netlab.Service) error {
	return s.with(on, func(n *node) error {
		n.services[v.Port] = v
		return nil
	})
}

// Die makes a node deaf and dumb, carrier aside.
func (s *Net) Die(on string) error {
	return s.with(on, func(n *node) error { n.dead = true; return nil })
}

// Revive ends what Die began.
func (s *Net) Revive(on string) error {
	return s.with(on, func(n *node) error { n.dead = false; return nil })
}

// SetLink takes an interface down or up.
func (s *Net) SetLink(on, dev string, up bool) error {
	return s.withIface(on, dev, func(n *node, i *iface) {
		if i.up = up; up {
			n.address(i)
			return
		}
		// IPv6 addresses go with the interface (keep_addr_on_down).
		i.addrs = slices.DeleteFunc(slices.Clone(i.addrs), func(p netip.Prefix) bool { return p.Addr().Is6() })
		i.linkLocal = netip.Addr{}
		for h := range n.neighbors {
			if h.out == i {
				delete(n.neighbors, h)
			}
		}
	})
}

// NoCarrier pulls an interface's cable.
func (s *Net) NoCarrier(on, dev string) error {
	return s.withIface(on, dev, func(_ *node, i *iface) { i.pulled = true })
}

func (s *Net) withIface(on, dev string, do func(*node, *iface)) error {
	return s.with(on, func(n *node) error {
		i := n.iface(dev)
		if i == nil || i.loopback {
			return fmt.Errorf("simnet: node %q: no interface %q", on, dev)
		}
		do(n, i)
		return nil
	})
}

// AddRules appends rules to a node's firewall.
func (s *Net) AddRules(on string, rules []netlab.PlanRule) error {
	return s.with(on, func(n *node) error {
		n.addRules(rules)
		return nil
	})
}

// AddRoutes adds routes, or replaces those to the same destination.
func (s *Net) AddRoutes(on string, routes []netlab.PlanRoute) error {
	return s.with(on, func(n *node) error {
		for _, r := range routes {
			n.routes = slices.DeleteFunc(n.routes, func(o netlab.PlanRoute) bool {
				return o.Table == r.Table && o.Dst == r.Dst && o.Metric == r.Metric
			})
			n.routes = append(n.routes, r)
		}
		return nil
	})
}

// DelRoutes removes a node's routes to destinations from its main table.
func (s *Net) DelRoutes(on string, dsts []netip.Prefix) error {
	return s.with(on, func(n *node) error {
		before := len(n.routes)
		n.routes = slices.DeleteFunc(n.routes, func(o netlab.PlanRoute) bool { return o.Table == 0 && slices.Contains(dsts, o.Dst) })
		if len(n.routes) == before {
			return fmt.Errorf("simnet: node %q: no route to any of %v", on, dsts)
		}
		return nil
	})
}

// Hits counts the packets that a node's rules of this name have matched.
func (s *Net) Hits(on, rule string) (uint64, error) {
	found, sum := false, uint64(0)
	err := s.with(on, func(n *node) error {
		for _, rules := range n.rules {
			for _, r := range rules {
				if r.Name == rule {
					found = true
					sum += r.hits
				}
			}
		}
		return nil
	})
	if err == nil && !found {
		err = fmt.Errorf("simnet: node %q: no rule %q", on, rule)
	}
	return sum, err
}

// FillConntrack leaves no room for new connections in a node's table.
func (s *Net) FillConntrack(on string) error {
	return s.with(on, func(n *node) error {
		n.track.on()
		n.track.full = true
		return nil
	})
}

// WarmNeighbor makes the neighbour through which a node reaches an address one
// that it has just heard of.
func (s *Net) WarmNeighbor(on string, addr netip.Addr) error {
	return s.with(on, func(n *node) error {
		r := n.lookup(flow{dst: addr})
		if r.out == nil || !r.out.resolves {
			return fmt.Errorf("simnet: node %q: no neighbour on the way to %v", on, addr)
		}
		to := r.hop(addr.WithZone(""))
		for _, other := range r.out.seg.ends {
			if other != r.out && other.has(to) && !other.node.dead {
				e := n.neighbor(hop{r.out, to})
				e.rounds++
				e.mac, e.state, e.since = other.mac, reachable, time.Now()
				return nil
			}
		}
		return fmt.Errorf("simnet: node %q: %v does not answer", on, to)
	})
}

// Neighbor returns the state of a node's neighbour entry for an address, in the
// words of netlab, or nothing where there is none.
func (s *Net) Neighbor(on string, addr netip.Addr) (state string, err error) {
	err = s.with(on, func(n *node) error {
		for h, e := range n.neighbors {
			if h.addr == addr.WithZone("") {
				state = string(e.state)
			}
		}
		return nil
	})
	return state, err
}
