package main

import (
	"fmt"
	"maps"
	"net/netip"
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
	// Trials of other flows are separate (7): two source ports, twice each.
	const otherFlows = 4
	// Our own requests to the next hop, three in a second and one spare, and
	// the kernel's own, as many as it sends before it gives up (mcast_solicit
	// and ucast_solicit of net/ipv4/arp.c, 3 each).
	const asks = 4 + 6
	// SYNs to other ports, ACKs on the subject's five-tuple, UDP: in the worst
	// case each as often as the subject. The kernel resets the connections
	// that other ports would accept.
	stepped := map[string]int{"syn": toHost + atRouters, "other-flow": otherFlows, "icmp-echo": toHost + atRouters, "arp-request": asks, "neighbor-solicitation": asks,
		"control-syn": toHost, "tcp": toHost, "udp": toHost, "rst": toHost}
	// What an answer of the host's ends takes one SYN and one echo, and for the
	// look at the last hops one SYN, two echoes and two datagrams; a second pair
	// is for an answer that is slow or doubtful, which none here is. The reset is
	// the kernel's own.
	open := map[string]int{"syn": 2, "icmp-echo": 3, "udp": 2, "rst": 1, "arp-request": 2, "neighbor-solicitation": 2}
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
		{"rejected", 82, "reject", stepped},
		{"silent", 83, "drop", stepped},
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
				var subject netip.AddrPort
				routed, hosted := 0, 0
				for _, p := range sent {
					if p.kind == "syn" {
						switch {
						case p.dst.Port() != c.port:
							p.kind = "control-syn"
						case !subject.IsValid():
							subject = p.src
						case p.src != subject:
							p.kind = "other-flow"
						}
					}
					count[p.kind]++
					switch {
					case p.ttl > 0 && p.ttl <= routers:
						routed++
					case p.kind == "syn":
						hosted++
					}
				}
				if hosted > toHost {
					t.Errorf("%d subject SYNs could reach the host, the budget has %d", hosted, toHost)
				}
				if routed > atRouters {
					t.Errorf("%d packets ended at %d routers, the budget has %d", routed, routers, atRouters)
				}
				for _, kind := range slices.Sorted(maps.Keys(count)) {
					if count[kind] > c.bound[kind] {
						t.Errorf("%d packets of kind %s left, the budget has %d", count[kind], kind, c.bound[kind])
					}
				}
				if n := arrived.Packets(); n > toHost+otherFlows {
					t.Errorf("%d SYNs reached the port, the budget has %d", n, toHost+otherFlows)
				}
				t.Logf("left: %v; %d SYNs reached the port, %d packets ended at routers", count, arrived.Packets(), routed)
				if t.Failed() {
					for _, p := range sent {
						t.Log(p)
					}
				}
			})
		}
	}
}
