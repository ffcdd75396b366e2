package main

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"synprobe/rawprobe/netlab"
)

// TestPacketBudget counts what leaves the client for one question. More
// packets can trip a scan defence (field notes 34, 43), and routers answer only
// so many (field note 3).
func TestPacketBudget(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	const routers = 2
	// design.md, "How it decides": at most 6 subject SYNs reach the host (5),
	// and for all kinds together at most 6 packets end at a router (6). A
	// control gets no more of the host's attention than the subject does.
	const toHost, atRouters = 6, 6 * routers
	// Our own requests to the next hop, three in a second and one spare, and
	// the kernel's own, as many as it sends before it gives up (mcast_solicit
	// and ucast_solicit of net/ipv4/arp.c, 3 each).
	const asks = 4 + 6
	silent := map[string]int{"syn": toHost + atRouters, "icmp-echo": toHost + atRouters, "rst": 0, "arp-request": asks, "neighbor-solicitation": asks,
		// Controls that a later release may send: an ACK on the subject's
		// five-tuple, and UDP.
		"tcp": toHost + atRouters, "udp": toHost + atRouters}
	// What an answer ends takes one SYN and one echo; a second pair is for an
	// answer that is slow or doubtful, which none here is. The kernel's reset
	// is its own.
	open := map[string]int{"syn": 1, "icmp-echo": 1, "rst": 1, "arp-request": 2, "neighbor-solicitation": 2}
	closed := maps.Clone(open)
	closed["rst"] = 0

	for _, c := range []struct {
		name    string
		port    uint16
		verdict string
		bound   map[string]int
	}{
		{"open", 80, "open", open},
		{"closed", 81, "reject", closed},
		{"rejected", 82, "reject", map[string]int{"syn": 3, "icmp-echo": 2, "arp-request": 2, "neighbor-solicitation": 2}},
		{"silent", 83, "drop", silent},
	} {
		for _, f := range both {
			t.Run(c.name+"/"+f.String(), func(t *testing.T) {
				t.Parallel()
				lab := netlab.Start(t, mixed)
				client := lab.Node("client")
				arrived := lab.Node("server").CountSYN(c.port)
				eth := listen(t, client, "eth0")
				got, _ := probe(t, client, "-n", "--json", lab.Addr("server", f).String(), fmt.Sprint(c.port))
				if got.Verdict != c.verdict {
					t.Fatalf("%s, want %s", got.Verdict, c.verdict)
				}
				sent := eth.sent(t)
				count := map[string]int{}
				for _, p := range sent {
					count[p.kind]++
				}
				for _, kind := range slices.Sorted(maps.Keys(count)) {
					if count[kind] > c.bound[kind] {
						t.Errorf("%d packets of kind %s left, the budget has %d", count[kind], kind, c.bound[kind])
					}
				}
				if n := arrived.Packets(); n > toHost {
					t.Errorf("%d SYNs reached the host, the budget has %d", n, toHost)
				}
				t.Logf("left: %v; SYNs that reached the host: %d", count, arrived.Packets())
				if t.Failed() {
					for _, p := range sent {
						t.Log(p)
					}
				}
			})
		}
	}
}
