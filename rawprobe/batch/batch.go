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
	"fmt"
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
	// firewall, address translation and policy routing are then not tested. All
	// targets have to be behind one interface, and on its own link no more than
	// 65536 of them. This machine's own addresses are refused.
	LinkLayer bool
	// Interface is the name of the interface to send on; empty leaves it to
	// the route.
	Interface string
	// Source is the address to send from; the zero Addr leaves it to the
	// route.
	Source netip.Addr
	// Tries is how often a silent target is asked; 0 means 3, and 31 is the
	// most.
	Tries int
	// Wait is how long a silent target is waited for after its last SYN. 0
	// means a second, and 3.5 seconds from the first SYN on: a router that
	// can't reach a host by ARP takes 3 to say so.
	Wait time.Duration
	// NoEcho leaves out the ICMP echo request that otherwise each host gets once
	// of which a SYN stayed silent, beside the second SYN. More than 2^24
	// addresses get none either: it takes a byte of memory for each.
	NoEcho bool
	// Seed chooses the order. A run with the seed and the Position of an
	// interrupted one goes on with it. It need not be secret.
	Seed uint64
	// Position is how many targets in the order are done already: of this
	// shard, in a run of the same Space, Seed, Shard and Shards.
	Position uint64
	// Shard of Shards takes its part of the order: 1 of 3, 2 of 3, 3 of 3. Both
	// 0 means all.
	Shard, Shards int
	// Progress is called now and then, and at the end; nil is allowed.
	Progress func(Progress)
	// Opened, where not nil, is called when no more sockets are needed. An error
	// ends the run.
	Opened func() error

	ringBlocks int // 0 is pcap's own number
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
	// RTT is from the time when the SYN was handed to the kernel, together with
	// up to 63 others, to the kernel's stamp of the answer: at full rate too
	// long by a tenth of a millisecond and more. 0 where it can't be told: to
	// the second SYN and later ones.
	RTT   time.Duration
	Tries int
	// Refused is why the kernel would not send; then nothing was sent, and Kind
	// alone is how this machine's own firewall answered, if it did.
	Refused rawprobe.Refusal
	// Err is why the target can't be probed as Config says; then nothing was sent
	// and nothing is known of it. It is rawprobe.ErrLoopback,
	// rawprobe.ErrNotLoopback, ErrByPort, or, for the broadcast address of a
	// network that this machine is on and for the network's own address,
	// rawprobe.ErrBroadcast. nil for all others.
	Err error
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
	Drops uint64
	// Unmatched is how many packets came to our port that answer nothing that
	// was asked: forged ones, or answers that this machine translates the
	// addresses of (DNAT in OUTPUT).
	Unmatched uint64
	// Asked is how many ARP requests and neighbour solicitations were sent, and
	// ToAsk how many there are to be at most: before the first SYN next hops are
	// asked for, and targets on this machine's own links. ToAsk is 0 when that is
	// over.
	Asked, ToAsk uint64
	Elapsed      time.Duration
	Finished     bool
}

// Errors about what the caller asked for, or about this machine.
var (
	// ErrConntrack means that the run would take more than half of this
	// machine's connection table: entries of connections that nobody answers
	// stay for two minutes. Where Run finds that out on the way, the results so
	// far are good.
	ErrConntrack = errors.New("connection table too small")
	// ErrTwice means that the space has a target twice.
	ErrTwice = errors.New("target named twice")
	// ErrShard means that Shard is not between 1 and Shards.
	ErrShard = errors.New("no such shard")
	// ErrByPort means that this machine's routing rules by protocol or port lead a
	// connection to a target another way than the raw packets of a run.
	ErrByPort = errors.New("routing rules by protocol or port lead a connection another way than raw packets")
	// ErrLinkLayer means that a target can't be reached by Ethernet frames of
	// our own.
	ErrLinkLayer = errors.New("not possible on the link layer")
)

// Run probes every target of s and calls emit for each, in no order, from one
// goroutine. Where ctx ends it sends no SYN to further targets, and returns when
// those already asked have their results. The Result is good until emit
// returns; while emit is busy nothing is sent.
//
// Errors are failures of our own: *rawprobe.PrivilegeError, rawprobe.ErrNoInterface,
// rawprobe.ErrNotOurs, those above without ErrByPort, those of rawprobe that
// [Result].Err names where no target at all can be probed, and
// errors.ErrUnsupported elsewhere than on Linux.
func Run(ctx context.Context, s *Space, cfg Config, emit func(*Result)) (Progress, error) {
	if cfg.Shards != 0 || cfg.Shard != 0 {
		if cfg.Shard < 1 || cfg.Shard > cfg.Shards {
			return Progress{}, fmt.Errorf("shard %d of %d: %w", cfg.Shard, cfg.Shards, ErrShard)
		}
	}
	if t, ok := s.Twice(); ok {
		return Progress{}, fmt.Errorf("%s: %w", t, ErrTwice)
	}
	l, err := openLink(ctx, s, cfg)
	if err != nil {
		return Progress{}, err
	}
	defer l.close()
	if cfg.Opened != nil {
		if err := cfg.Opened(); err != nil {
			return Progress{}, err
		}
	}
	e := newEngine(s, cfg, l, emit)
	e.key = randomSecret()
	return e.run(ctx)
}
