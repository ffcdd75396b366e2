// Package batch probes many targets with one sender and one receiver, in memory
// that does not grow with their number.
//
// Targets are taken in a pseudo-random order that needs no list. Each gets the
// SYN of its flow, up to three times; a keyed hash of the flow is the initial
// sequence number, so that an answer names its target by itself. Paths are not
// traced here.
package batch

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"synprobe/rawprobe"
)

// A Block is every address of a prefix by every port of a list.
type Block struct {
	Prefix netip.Prefix
	Ports  []uint16
}

// Config shapes a run. The zero value probes all targets through the IP stack,
// as fast as the machine can.
type Config struct {
	// Rate is how many packets are sent in a second; 0 means no limit.
	Rate int
	// LinkLayer sends Ethernet frames past the IP stack: this machine's own
	// firewall, address translation and policy routing are then not tested.
	LinkLayer bool
	// Interface is the name of the interface to send on; empty leaves it to
	// the route.
	Interface string
	// Source is the address to send from; the zero Addr leaves it to the
	// route.
	Source netip.Addr
	// Tries is how often a silent target is asked; 0 means 3.
	Tries int
	// Wait is how long a silent target is waited for after its last SYN; 0
	// means a second.
	Wait time.Duration
	// Seed chooses the order and the sequence numbers. A run with the seed and
	// the Position of an interrupted one goes on with it.
	Seed uint64
	// Position is how many targets in the order are done already.
	Position uint64
	// Shard of Shards takes its part of the order: 1 of 3, 2 of 3, 3 of 3. Both
	// 0 means all.
	Shard, Shards int
	// Progress is called now and then, and at the end; nil is allowed.
	Progress func(Progress)
}

// A Result is what became of one target. Every target has exactly one.
type Result struct {
	Target netip.AddrPort
	// Kind is what answered; the zero value is silence.
	Kind rawprobe.ReplyKind
	// From is who answered, and TTL what was left of the answer's.
	From       netip.Addr
	TTL        int
	Type, Code int // of an ICMP error
	// RTT is from the SYN's departure to the answer; 0 where it can't be told.
	RTT   time.Duration
	Tries int
	// Refused is why the kernel would not send; then nothing was sent.
	Refused rawprobe.Refusal
	// NoNeighbor says that the next hop, or the target on this machine's own
	// link, answered no ARP request or neighbour solicitation.
	NoNeighbor bool
	// EchoAnswered says that the host answered an ICMP echo, and EchoTTL what
	// was left of that answer's TTL.
	EchoAnswered bool
	EchoTTL      int
}

// Progress is how far a run is.
type Progress struct {
	Targets  uint64 // in this shard, those done by an earlier run included
	Done     uint64 // targets that have their result, likewise
	Position uint64 // for Config.Position: all before it in the order are done, none after
	Sent     uint64 // packets
	Received uint64 // packets that passed the filter
	// Drops is how many packets this machine received and lost since its
	// buffer was full: answers may be missing.
	Drops    uint64
	Elapsed  time.Duration
	Finished bool
}

// ErrConntrack means that this machine's connection table is too small for the
// rate.
var ErrConntrack = errors.New("connection table too small")

// Run probes every target of s and calls emit for each, in no order, from one
// goroutine. Where ctx ends it sends no SYN to further targets, and returns when
// those already asked have their results. The Result is good until emit
// returns.
func Run(ctx context.Context, s *Space, cfg Config, emit func(*Result)) (Progress, error) {
	return Progress{}, errors.ErrUnsupported
}
