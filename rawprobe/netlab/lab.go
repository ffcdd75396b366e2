package netlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// TB is what a lab wants of the test that it belongs to: every testing.TB has
// it. [Use] has one for programs.
type TB interface {
	// These do what those of testing.TB do. Fatal, Fatalf and Skipf end the
	// goroutine that calls them.
	Helper()
	Cleanup(f func())
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// A Lab is a topology that runs on the kernel. It ends with the test that
// started it.
type Lab struct {
	// Plan is what was built.
	Plan *Plan

	tb       TB
	machines map[string]*Machine
	sys      labSys
	driver   Driver // nil on the kernel
	counters int    // of a driver
}

// A Machine is a node that runs.
//
// Methods that take no error back call tb.Fatal when they fail, and so belong
// on the test's own goroutine; the others may be called from anywhere, also at
// the same time.
type Machine struct {
	*PlanNode

	lab *Lab
	sys machineSys
}

// Possible says why no lab can be built here: not as this user
// (fs.ErrPermission), or not on this system (errors.ErrUnsupported). It is nil
// where one can.
func Possible() error { return possible() }

// Require skips the test if no lab can be built here. Where the environment
// says LAB=1, as in CI, a skip would be a lie: the test then fails. The reason
// is always given.
func Require(tb TB) {
	tb.Helper()
	err := Possible()
	if err == nil {
		return
	}
	if os.Getenv("LAB") == "1" {
		tb.Fatalf("netlab: LAB=1, and no lab can be built here: %v", err)
	}
	tb.Skipf("netlab: SKIPPED, no lab can be built here: %v", err)
}

// Start builds t and returns when everything in it can be used: every cable has
// carrier, every address answers, every service listens. It calls [Require].
// The lab is taken down by tb.Cleanup.
func Start(tb TB, t Topology) *Lab {
	tb.Helper()
	Require(tb)
	plan, err := t.Resolve()
	if err != nil {
		tb.Fatal(err)
	}
	l := &Lab{Plan: plan, tb: tb, machines: make(map[string]*Machine)}
	for i := range plan.Nodes {
		l.machines[plan.Nodes[i].Name] = &Machine{PlanNode: &plan.Nodes[i], lab: l}
	}
	tb.Cleanup(func() {
		if err := l.close(); err != nil {
			tb.Errorf("netlab: topology %q: closing: %v", t.Name, err)
		}
	})
	if err := l.build(); err != nil {
		tb.Fatalf("netlab: topology %q: %v", t.Name, err)
	}
	return l
}

// Use builds t for a program that is no test, as [Start] does, calls f and takes
// the lab down again. What would fail or skip a test is the error returned; what
// would end it ends f.
func Use(t Topology, f func(*Lab)) error {
	u := &user{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer u.cleanUp()
		f(Start(u, t))
	}()
	<-done
	return errors.Join(u.errs...)
}

// user is the TB of a lab that is used by a program. As that of a test, it
// belongs to one goroutine.
type user struct {
	errs     []error
	cleanups []func()
}

func (u *user) Helper()          {}
func (u *user) Cleanup(f func()) { u.cleanups = append(u.cleanups, f) }

func (u *user) Errorf(format string, args ...any) {
	u.errs = append(u.errs, fmt.Errorf(format, args...))
}

func (u *user) Fatal(args ...any) { u.Fatalf("%s", fmt.Sprint(args...)) }

func (u *user) Fatalf(format string, args ...any) {
	u.Errorf(format, args...)
	runtime.Goexit()
}

func (u *user) Skipf(format string, args ...any) { u.Fatalf(format, args...) }

// cleanUp runs the functions in the order that a test has: the last one first.
func (u *user) cleanUp() {
	for _, f := range slices.Backward(u.cleanups) {
		f()
	}
}

// Node returns the machine called name; without one the test ends.
func (l *Lab) Node(name string) *Machine {
	l.tb.Helper()
	m := l.machines[name]
	if m == nil {
		l.tb.Fatalf("netlab: topology %q has no node %q", l.Plan.Topology.Name, name)
	}
	return m
}

// Addr returns the first address of family f of the node called name; without
// one the test ends.
func (l *Lab) Addr(name string, f Family) netip.Addr {
	l.tb.Helper()
	a := l.Plan.Addr(l.Node(name).Name, f)
	if !a.IsValid() {
		l.tb.Fatalf("netlab: node %q has no %s address", name, f)
	}
	return a
}

func (m *Machine) check(what string, err error) {
	m.lab.tb.Helper()
	if err != nil {
		m.lab.tb.Fatalf("netlab: node %q: %s: %v", m.Name, what, err)
	}
}

// Do runs f in the node's namespace, on a thread of its own that is thrown
// away afterwards, and returns its error. Sockets that f itself opens belong to
// the node for good; goroutines that f starts run elsewhere.
func (m *Machine) Do(f func() error) error {
	m.real("Do")
	return m.do(f)
}

// Dial connects from the node to an address by TCP.
func (m *Machine) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	m.real("Dial")
	var c net.Conn
	err := m.do(func() error {
		// A dial to one literal address stays on its goroutine: there is no
		// name to look up and no second address to race.
		var d net.Dialer
		var err error
		c, err = d.DialContext(ctx, "tcp", to.String())
		return err
	})
	return c, err
}

// Command returns a command to be run in the node by [Machine.Run] or
// [Machine.Begin]. It is killed when ctx ends, when the lab ends, or when the
// test process dies; where it changes its identity by exec (a file capability)
// the kernel forgets the last of these. Its SysProcAttr is set: add a
// Credential to it rather than replace it.
func (m *Machine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	m.real("Command")
	return m.command(ctx, name, args...)
}

// Begin starts cmd inside the node's namespace. The caller waits for it.
func (m *Machine) Begin(cmd *exec.Cmd) error { return m.begin(cmd) }

// A Result is what a command did.
type Result struct {
	Stdout, Stderr string
	// Exit is the exit code, -1 if a signal ended it.
	Exit int
	// Elapsed is the time from before its start until it was waited for.
	Elapsed time.Duration
}

// Run runs cmd inside the node and waits for it. Whatever it exits with is in
// the Result; the error says that it could not be started or waited for.
// Stdout and Stderr are captured where cmd does not send them elsewhere.
func (m *Machine) Run(cmd *exec.Cmd) (Result, error) {
	var out, errs bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &errs
	}
	begin := time.Now()
	if err := m.begin(cmd); err != nil {
		return Result{}, fmt.Errorf("netlab: node %q: %w", m.Name, err)
	}
	err := cmd.Wait()
	r := Result{Stdout: out.String(), Stderr: errs.String(), Exit: cmd.ProcessState.ExitCode(), Elapsed: time.Since(begin)}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	return r, err
}

// Listen starts a service, written as in [Node.Listen].
func (m *Machine) Listen(service string) {
	m.lab.tb.Helper()
	s, err := parseService(service)
	if err == nil {
		err = m.Driver().Listen(m.Name, s)
	}
	m.check("listen", err)
}

// LinkDown takes one of the node's interfaces down: its routes go, and by
// Linux' default its IPv6 addresses.
func (m *Machine) LinkDown(iface string) {
	m.lab.tb.Helper()
	m.check("link down", m.Driver().SetLink(m.Name, iface, false))
}

// LinkUp brings one of the node's interfaces up again, with the addresses and
// routes that it had in the plan.
func (m *Machine) LinkUp(iface string) {
	m.lab.tb.Helper()
	m.check("link up", m.Driver().SetLink(m.Name, iface, true))
}

// NoCarrier pulls the cable of one of the node's interfaces, which stays up
// itself. A VXLAN device has no cable.
func (m *Machine) NoCarrier(iface string) {
	m.lab.tb.Helper()
	m.check("no carrier", m.Driver().NoCarrier(m.Name, iface))
}

// Die makes the node stop answering, all at once and ARP and neighbour
// discovery included. Carrier stays, and what others have in their neighbour
// tables.
func (m *Machine) Die() {
	m.lab.tb.Helper()
	m.check("die", m.Driver().Die(m.Name))
}

// Revive ends what [Machine.Die] began.
func (m *Machine) Revive() {
	m.lab.tb.Helper()
	m.check("revive", m.Driver().Revive(m.Name))
}

// AddRule appends a rule to the node's firewall.
func (m *Machine) AddRule(rule Rule) {
	m.lab.tb.Helper()
	rules, err := m.lab.Plan.expand(m.PlanNode, rule)
	if err == nil {
		err = m.Driver().AddRules(m.Name, rules)
	}
	m.check("rule", err)
}

// AddRoute adds a route, or replaces the one to the same destination.
func (m *Machine) AddRoute(r Route) {
	m.lab.tb.Helper()
	routes, err := m.resolveRoute(r)
	if err == nil {
		err = m.Driver().AddRoutes(m.Name, routes)
	}
	m.check("route", err)
}

// DelRoute removes the node's routes to a destination, written as in
// [Route.To], from its main table: where that is a node, the routes to its
// addresses and to their networks. A host's own way out is often its "default"
// route alone.
func (m *Machine) DelRoute(to string) {
	m.lab.tb.Helper()
	r := resolver{plan: m.lab.Plan}
	dsts, err := r.targets(to, false)
	if err == nil && m.lab.Plan.Node(to) != nil {
		var nets []netip.Prefix
		nets, err = r.targets(to, true)
		dsts = append(dsts, nets...)
	}
	if err == nil {
		err = m.Driver().DelRoutes(m.Name, dsts)
	}
	m.check("route", err)
}

// resolveRoute returns the routes that r stands for on m.
func (m *Machine) resolveRoute(r Route) ([]PlanRoute, error) {
	if r.Type == NoRoute {
		return nil, errors.New("to take a route away use DelRoute")
	}
	// Resolve it as the node's only route, beside which none is worked out.
	n := *m.PlanNode
	n.Node.Routes, n.Routes = []Route{r}, nil
	res := resolver{plan: &Plan{Topology: m.lab.Plan.Topology, Nodes: []PlanNode{n}}}
	for _, o := range m.lab.Plan.Nodes {
		if o.Name != m.Name {
			o.Node.Routes = nil
			res.plan.Nodes = append(res.plan.Nodes, o)
		}
	}
	res.routes()
	var routes []PlanRoute
	for _, pr := range res.plan.Nodes[0].Routes {
		if !pr.Auto {
			routes = append(routes, pr)
		}
	}
	return routes, errors.Join(res.errs...)
}

// Sysctl sets a kernel setting of the node, such as "net.ipv4.ip_forward".
func (m *Machine) Sysctl(key, value string) {
	m.lab.tb.Helper()
	m.real("Sysctl")
	m.check("sysctl", m.do(func() error { return writeSysctl(key, value) }))
}

func writeSysctl(key, value string) error {
	return os.WriteFile("/proc/sys/"+strings.ReplaceAll(key, ".", "/"), []byte(value), 0)
}

// Hits returns how many packets the node's rules of this name have matched, in
// both families.
func (m *Machine) Hits(name string) uint64 {
	m.lab.tb.Helper()
	n, err := m.Driver().Hits(m.Name, name)
	m.check("hits", err)
	return n
}

// A Counter counts packets at a node; see [Machine.Count].
type Counter struct {
	m    *Machine
	name string
}

// Count counts from now on the packets that match rule, whose Action is not
// heeded and whose Hook is [Ingress] by default: what reached the node, before
// any of its own rules.
func (m *Machine) Count(rule Rule) *Counter {
	m.lab.tb.Helper()
	rule.Action = Count
	rule.Name = m.counter()
	m.AddRule(rule)
	return &Counter{m: m, name: rule.Name}
}

// CountSYN counts from now on the SYNs to a port that reach the node.
func (m *Machine) CountSYN(port uint16) *Counter {
	m.lab.tb.Helper()
	return m.Count(Rule{Proto: TCP, DstPort: port, Flags: SYN})
}

// Packets returns how many packets have matched so far.
func (c *Counter) Packets() uint64 {
	c.m.lab.tb.Helper()
	return c.m.Hits(c.name)
}

// FillConntrack turns connection tracking on in the node and fills its table
// to the machine's own limit (nf_conntrack_max, which a namespace can't
// change), with entries that the kernel does not evict: a new connection then
// fails. It takes about a second and 320 bytes of kernel memory an entry.
func (m *Machine) FillConntrack() {
	m.lab.tb.Helper()
	// A rule that asks for the state turns tracking on.
	m.AddRule(Rule{Hook: Output, State: CTNew, Action: Count})
	m.check("fill conntrack", m.Driver().FillConntrack(m.Name))
}

// WarmNeighbor makes the neighbour entry through which the node reaches addr
// REACHABLE, by a real exchange with that neighbour.
func (m *Machine) WarmNeighbor(addr netip.Addr) {
	m.lab.tb.Helper()
	m.check("warm neighbour", m.Driver().WarmNeighbor(m.Name, addr))
}

// Neighbor returns the state of the node's neighbour entry for addr as ip-neigh
// names it, such as "REACHABLE", or "" where there is none.
func (m *Machine) Neighbor(addr netip.Addr) string {
	m.lab.tb.Helper()
	s, err := neighborName(m.Driver().Neighbor(m.Name, addr))
	m.check("neighbour", err)
	return s
}
