package netlab

import (
	"fmt"
	"net/netip"
	"strings"
)

// A Driver does to the nodes of a running network what the methods of a
// [Machine] ask for. The kernel's is that of [Start]; package simnet has one
// for its simulation.
type Driver interface {
	// Listen starts a service.
	Listen(node string, s Service) error
	// Die makes a node deaf and dumb; Revive ends that.
	Die(node string) error
	// Revive ends what Die began.
	Revive(node string) error
	// SetLink takes an interface up or down.
	SetLink(node, iface string, up bool) error
	// NoCarrier pulls an interface's cable.
	NoCarrier(node, iface string) error
	// AddRules appends rules to a node's firewall.
	AddRules(node string, rules []PlanRule) error
	// AddRoutes adds routes, or replaces those to the same destination.
	AddRoutes(node string, routes []PlanRoute) error
	// DelRoutes removes routes from a node's main table; that there is none to
	// any of the destinations is an error.
	DelRoutes(node string, dsts []netip.Prefix) error
	// Hits counts the packets that a node's rules of this name have matched.
	Hits(node, rule string) (uint64, error)
	// FillConntrack leaves a node no room to track another connection.
	FillConntrack(node string) error
	// WarmNeighbor makes a node's neighbour on the way to an address one that
	// it has just heard of.
	WarmNeighbor(node string, addr netip.Addr) error
	// Neighbor returns the state of an entry as ip-neigh names it, in any case.
	Neighbor(node string, addr netip.Addr) (string, error)
}

// Drive returns a Lab of a network that runs elsewhere than on the kernel. Its
// machines do what d can. What needs a real node, such as running a command,
// skips the test.
func Drive(tb TB, plan *Plan, d Driver) *Lab {
	l := &Lab{Plan: plan, tb: tb, machines: make(map[string]*Machine), driver: d}
	for i := range plan.Nodes {
		l.machines[plan.Nodes[i].Name] = &Machine{PlanNode: &plan.Nodes[i], lab: l}
	}
	return l
}

// Driver returns what carries out the machine's methods.
func (m *Machine) Driver() Driver {
	if m.lab.driver != nil {
		return m.lab.driver
	}
	return kernel{m}
}

// kernel is the Driver of one machine in a namespace.
type kernel struct{ m *Machine }

func (k kernel) Listen(_ string, s Service) error                { return k.m.listen(s) }
func (k kernel) Die(string) error                                { return k.m.die() }
func (k kernel) Revive(string) error                             { return k.m.revive() }
func (k kernel) SetLink(_, iface string, up bool) error          { return k.m.setLink(iface, up) }
func (k kernel) NoCarrier(_, iface string) error                 { return k.m.noCarrier(iface) }
func (k kernel) AddRules(_ string, rules []PlanRule) error       { return k.m.addRules(rules) }
func (k kernel) AddRoutes(_ string, routes []PlanRoute) error    { return k.m.addRoute(routes) }
func (k kernel) DelRoutes(_ string, dsts []netip.Prefix) error   { return k.m.delRoute(dsts) }
func (k kernel) Hits(_, rule string) (uint64, error)             { return k.m.hits(rule) }
func (k kernel) FillConntrack(string) error                      { return k.m.do(fillConntrack) }
func (k kernel) WarmNeighbor(_ string, addr netip.Addr) error    { return k.m.warmNeighbor(addr) }
func (k kernel) Neighbor(_ string, a netip.Addr) (string, error) { return k.m.neighborState(a) }

// real skips the test where the machine is none of the kernel's.
func (m *Machine) real(what string) {
	m.lab.tb.Helper()
	if m.lab.driver != nil {
		m.lab.tb.Skipf("netlab: SKIPPED, %s needs the kernel", what)
	}
}

// counter names the next counting rule.
func (m *Machine) counter() string {
	if m.lab.driver == nil {
		return m.counterName()
	}
	m.lab.counters++
	return fmt.Sprintf("counter %d", m.lab.counters)
}

// neighborName is ip-neigh's name of a state.
func neighborName(s string, err error) (string, error) { return strings.ToUpper(s), err }
