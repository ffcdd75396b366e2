// Package simnet is a simulated internet, for tests under virtual time.
//
// It reads the same topologies as package netlab builds on the kernel, and does
// to packets what that kernel does: its hosts and routers check TTLs, filter,
// track and translate, resolve their neighbours, limit their ICMP, answer SYNs
// and echoes. Where the two differ the simulation is wrong.
//
// A [Net] has no goroutine of its own. All that happens in it is an event at a
// time, and one timer waits for the next: inside a bubble of package
// testing/synctest hours pass in no time. The same seed gives the same network.
package simnet

import (
	"container/heap"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"time"

	"synprobe/rawprobe"
	"synprobe/rawprobe/netlab"
)

// DefaultDelay is how long a packet takes over a link that no impairment slows:
// what a pair of veth devices and the receiver's scheduling take in the lab.
const DefaultDelay = 25 * time.Microsecond

// Options choose what a topology leaves open. The zero value is a network of
// Linux machines.
type Options struct {
	// Seed is what every choice by chance depends on: which leg a flow takes
	// where routers share traffic, which packet a rule with a Chance matches,
	// free source ports.
	Seed uint64
	// Delay is the time that a link without an impairment takes; 0 means
	// DefaultDelay.
	Delay time.Duration
	// Habits are the nodes, by name, that behave otherwise than Linux.
	Habits map[string]Habit
}

// A Net is a network that runs. Its methods may be called from several
// goroutines at once.
type Net struct {
	// Plan is what is simulated.
	Plan *netlab.Plan

	opt      Options
	mu       sync.Mutex
	nodes    map[string]*node
	segments []*segment
	rand     *rand.Rand

	queue  eventQueue
	events uint64
	timer  *time.Timer
	armed  time.Time // when the timer fires; zero while it does not
	closed bool
}

// New returns the simulation of a topology. Its error is that of
// [netlab.Topology.Resolve], or names a habit of no node.
func New(t netlab.Topology, opt Options) (*Net, error) {
	plan, err := t.Resolve()
	if err != nil {
		return nil, err
	}
	if opt.Delay == 0 {
		opt.Delay = DefaultDelay
	}
	s := &Net{Plan: plan, opt: opt, nodes: make(map[string]*node), rand: rand.New(rand.NewPCG(opt.Seed, 1))}
	for name := range opt.Habits {
		if plan.Node(name) == nil {
			return nil, fmt.Errorf("simnet: topology %q has no node %q to have a habit", t.Name, name)
		}
	}
	for k := range t.Links {
		s.segments = append(s.segments, newSegment(s, &t.Links[k]))
	}
	for i := range plan.Nodes {
		n := newNode(s, &plan.Nodes[i])
		s.nodes[n.name] = n
	}
	return s, nil
}

// Close ends the simulation: nothing moves any more. The links to it end with
// their own Close.
func (s *Net) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.queue = nil
	if s.timer != nil {
		s.timer.Stop()
	}
	return nil
}

// Link returns the network as the node called name sees it. It panics if there
// is no such node: that is a fault of the test.
func (s *Net) Link(name string, cfg rawprobe.LinkConfig) (rawprobe.Link, error) {
	n := s.nodes[name]
	if n == nil {
		panic(fmt.Sprintf("simnet: no node %q", name))
	}
	return openLink(n, cfg)
}

// An event is something that happens at some time; those of the same time
// happen in the order in which they were arranged.
type event struct {
	at time.Time
	n  uint64
	do func()
}

type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	if !q[i].at.Equal(q[j].at) {
		return q[i].at.Before(q[j].at)
	}
	return q[i].n < q[j].n
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *eventQueue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = event{}
	*q = (*q)[:last]
	return e
}

// at arranges for do to be called at a time, with s.mu held.
func (s *Net) at(t time.Time, do func()) {
	if s.closed {
		return
	}
	s.events++
	heap.Push(&s.queue, event{t, s.events, do})
	if s.armed.IsZero() || t.Before(s.armed) {
		s.arm(t)
	}
}

func (s *Net) after(d time.Duration, do func()) { s.at(time.Now().Add(d), do) }

func (s *Net) arm(t time.Time) {
	s.armed = t
	if s.timer == nil {
		s.timer = time.AfterFunc(time.Until(t), s.run)
		return
	}
	s.timer.Reset(time.Until(t))
}

// run does what is due.
func (s *Net) run() {
	s.mu.Lock()
	defer s.mu.Unlock()
	// While it works the timer is its own: events that it arranges need none.
	now := time.Now()
	s.armed = now.Add(-time.Hour)
	for len(s.queue) > 0 && !s.queue[0].at.After(now) {
		heap.Pop(&s.queue).(event).do()
	}
	s.armed = time.Time{}
	if len(s.queue) > 0 && !s.closed {
		s.arm(s.queue[0].at)
	}
}

// seedOf derives a seed for one thing from the network's.
func (s *Net) seedOf(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return s.opt.Seed ^ h.Sum64()
}
