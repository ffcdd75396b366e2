package batch

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

const netfilter = "/proc/sys/net/netfilter/"

// connections minds this machine's connection table: an entry for each target,
// which where nobody answers stays for two minutes, must not take the room of
// everybody else's connections. A run keeps below half of the table.
type connections struct{ half int }

// openConnections checks that the table has room for the run. Where nothing is
// tracked it returns nil.
func openConnections(s *Space, cfg Config) (*connections, error) {
	size, ok := number("nf_conntrack_max")
	if !ok || size == 0 || !tracked() {
		return nil, nil
	}
	c := &connections{half: size / 2}
	count, _ := number("nf_conntrack_count")
	keep, ok := number("nf_conntrack_tcp_timeout_syn_sent")
	if !ok {
		keep = 120 // net/netfilter/nf_conntrack_proto_tcp.c
	}
	shard, every := uint64(0), uint64(1)
	if cfg.Shards > 1 {
		shard, every = uint64(cfg.Shard-1), uint64(cfg.Shards)
	}
	n := share(s.Len(), shard, every)
	n -= min(n, cfg.Position)
	if !cfg.NoEcho {
		n += min(n, s.Hosts())
	}
	if cfg.Rate > 0 {
		n = min(n, uint64(cfg.Rate)*uint64(keep))
	}
	if room := uint64(max(0, c.half-count)); n > room {
		err := fmt.Errorf("%w: it has %d entries (net.netfilter.nf_conntrack_max), of which %d are in use, and this run would take %d, each for %d seconds; half of the table is left to others",
			ErrConntrack, size, count, n, keep)
		if rate := room / uint64(max(keep, 1)); rate > 0 {
			return nil, fmt.Errorf("%w: a rate of %d packets a second at most fits", err, rate)
		}
		return nil, err
	}
	return c, nil
}

// check returns why the run has to end: others fill the table too.
func (c *connections) check() error {
	if c == nil {
		return nil
	}
	if count, ok := number("nf_conntrack_count"); ok && count > c.half {
		return fmt.Errorf("%w: half of its %d entries are in use", ErrConntrack, 2*c.half)
	}
	return nil
}

// number reads a setting of netfilter; without the module there is none.
func number(name string) (int, bool) {
	b, err := os.ReadFile(netfilter + name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	return n, err == nil
}

// tracked reports whether connections are tracked in this network namespace:
// the module alone tracks nothing, until a rule asks for a state or an address
// translation. A datagram of ours to ourselves shows it. Where that can't be
// told it says yes.
func tracked() bool {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return true
	}
	defer c.Close()
	before, ok := number("nf_conntrack_count")
	if !ok || before > 0 {
		return ok
	}
	if _, err := c.WriteTo(nil, c.LocalAddr()); err != nil {
		return true
	}
	// It has arrived, and is in the table, when it can be read.
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return true
	}
	if _, _, err := c.ReadFrom(make([]byte, 1)); err != nil {
		return true
	}
	after, ok := number("nf_conntrack_count")
	return !ok || after > 0
}
