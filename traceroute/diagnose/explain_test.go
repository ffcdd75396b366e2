package diagnose

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// An explained is a transcript and what must be made of it. The expectations
// are read off the design's table of verdicts and the field notes, never off
// the output.
type explained struct {
	name string
	// misses names the check that the case comes near to and that must not
	// apply. The check that decides is the first word of want.
	misses string
	only   family // 0 for both
	see    string
	want   string
}

const (
	// silence is a run whose SYNs waited long enough.
	silence = "syn 0s 0.6s 1.2s\n"
	// quiet is one whose echoes are not answered either.
	quiet = "echo 0s 0.6s 1.2s\n" + silence
	// answered is an echo's reply; alive those of three.
	answered = "echo 0s\n +0.4ms echo-reply\n"
	alive    = answered + "echo 0.6s\n +0.4ms echo-reply\n echo 1.2s\n +0.4ms echo-reply\n"
	// echoPath is a path on which gw and r2 let echoes pass, and host, at hop 3,
	// answers them.
	echoPath = "echo 1.3s ttl=1\n +0.2ms icmp expired for echo from=gw\n" +
		"echo 1.3s ttl=2\n +0.3ms icmp expired for echo from=r2\n echo 1.3s ttl=3\n +0.4ms echo-reply\n"
	// looked is a look at the hops before the host: r2 is the last router by the
	// words of a SYN and an echo, and as near by its way back.
	looked = "syn 0.1s ttl=2\n +0.2ms icmp expired from=r2 ttl=63\n echo 0.1s ttl=2\n +0.2ms icmp expired for echo from=r2 ttl=63\n" +
		"echo 0.1s ttl=3\n +0.4ms echo-reply\n"
	// deadHop is a next hop that was asked long enough.
	deadHop = "ask 0s 0.4s 0.8s 1.2s\n end 1.7s\n"
)

var cases = []explained{
	// What this machine knows by itself.
	{
		name: "interface down",
		see:  "eth0 down",
		want: `link-down: network-down link-down certain
			at local 0:me
			why link-down`,
	}, {
		name: "no carrier",
		see:  "eth0 no-carrier",
		want: `link-down: network-down link-down certain
			at local 0:me
			why link-down`,
	}, {
		name: "the interface went down under the send",
		see:  "syn 0s refused=link-down",
		want: `link-down: network-down link-down certain
			at local 0:me
			why link-down`,
	}, {
		name: "interrupted, but the interface is down all the same",
		see:  "syn 0s refused=link-down\n interrupted",
		want: `link-down: network-down link-down certain
			at local 0:me
			why link-down`,
	}, {
		name: "the only route was that of an interface that is down",
		see:  "route none\n covering eth1 down",
		want: `link-down: network-down link-down certain
			at local 0:me
			why covering-link-down no-route`,
	}, {
		name: "the only route was that of an interface without carrier",
		see:  "route none\n covering eth1 no-carrier",
		want: `link-down: network-down link-down certain
			at local 0:me
			why covering-link-down no-route`,
	}, {
		name: "no interface is up, and no route",
		see:  "route none\n all down",
		want: `link-down: network-down link-down likely
			at local 0:me
			or no-route@local
			why link-down`,
	}, {
		name: "no interface is up, and no address",
		see:  "route no-address\n all down",
		want: `link-down: network-down link-down likely
			at local 0:-
			or no-route@local
			why link-down`,
	}, {
		name: "with carrier, the same silence is the next hop's", misses: "link-down",
		see: deadHop + silence,
		want: `dead-neighbor: network-down gateway-down certain
			at local 0:me 1:gw
			why dead-neighbor`,
	}, {
		name: "an answer from outside outweighs a link that went down later", misses: "link-down",
		see: answered + "syn 0s\n +0.3ms syn-ack\n syn 0.6s refused=link-down\n" + looked,
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight echo-reply`,
	}, {
		name: "no route, and the interfaces are up", misses: "link-down",
		see: "route none",
		want: `no-route: network-down no-route certain
			at local 0:me
			why no-route`,
	},
	{
		name: "an unreachable route",
		see:  "route unreachable",
		want: `no-route: network-down no-route certain
			at local 0:me
			why no-route`,
	}, {
		name: "a prohibit route",
		see:  "route prohibit",
		want: `no-route: network-down no-route certain
			at local 0:me
			why no-route`,
	}, {
		name: "a blackhole route",
		see:  "route blackhole",
		want: `no-route: network-down no-route certain
			at local 0:me
			why no-route`,
	}, {
		name: "no source address",
		see:  "route no-address",
		want: `no-route: network-down no-address certain
			at local 0:-
			why no-address`,
	}, {
		name: "the send tells of no route",
		see:  "syn 0s refused=no-route",
		want: `no-route: network-down no-route certain
			at local 0:me
			why no-route`,
	}, {
		name: "the send tells of no route, and is interrupted",
		see:  "syn 0s refused=no-route\n interrupted",
		want: `no-route: network-down no-route certain
			at local 0:me
			why no-route`,
	}, {
		name: "the send tells of an unreachable route",
		see:  "syn 0s refused=unreachable",
		want: `no-route: network-down no-route certain
			at local 0:me
			why no-route`,
	}, {
		name: "the send tells of a prohibit route",
		see:  "syn 0s refused=prohibit",
		want: `no-route: network-down no-route certain
			at local 0:me
			why no-route`,
	}, {
		name: "the send tells of a blackhole route",
		see:  "syn 0s refused=blackhole",
		want: `no-route: network-down no-route certain
			at local 0:me
			why no-route`,
	}, {
		name: "the send finds no source address",
		see:  "syn 0s refused=no-address",
		want: `no-route: network-down no-address certain
			at local 0:me
			why no-address`,
	}, {
		name: "EPERM says nothing about routes", misses: "no-route",
		see: "syn 0s 0.1s refused=not-permitted",
		want: `local-refusal: drop local-firewall certain
			at local 0:me
			why send-refused`,
	}, {
		name: "a router's missing route is not this machine's", misses: "no-route",
		see: "syn 0s\n +0.3ms icmp net-unreachable from=r2",
		want: `icmp-from-router: network-down net-unreachable likely
			at path ?:r2
			or network-firewall@path
			why icmp-from-router`,
	},

	// What changed while the run went on.
	{
		name: "the interface went down before a SYN had left",
		see:  "syn 0s refused=no-route\n after eth0 down",
		want: `way-lost: network-down link-down certain
			at local 0:me
			why link-down`,
	}, {
		name: "the interface went down after a SYN had left",
		see:  "syn 0s\n syn 0.6s refused=no-route\n after eth0 down",
		want: `way-lost: network-down link-down likely
			at local 0:me
			or unknown@unknown
			why link-down`,
	}, {
		name: "the carrier went after a SYN had left",
		see:  "syn 0s\n syn 0.6s 1.2s unseen\n after eth0 no-carrier",
		want: `way-lost: network-down link-down likely
			at local 0:me
			or unknown@unknown
			why link-down`,
	}, {
		// A silence that was complete is as good an explanation.
		name: "the interface was removed after the last SYN",
		see:  silence + "after eth0 gone",
		want: `way-lost: network-down link-down ambiguous
			at local 0:me
			or unknown@unknown
			why link-down`,
	}, {
		name: "the host's echoes do not answer for the port",
		see:  answered + "syn 0s\n syn 0.6s refused=link-down\n after eth0 down",
		want: `way-lost: network-down link-down likely
			at local 0:me
			or unknown@unknown
			why link-down echo-reply`,
	}, {
		name: "the route went away",
		see:  "syn 0s\n syn 0.6s refused=no-route\n after route none",
		want: `way-lost: network-down no-route likely
			at local 0:me
			or unknown@unknown
			why no-route`,
	}, {
		name: "the route became a prohibit one, and the run was stopped",
		see:  "syn 0s\n syn 0.6s refused=prohibit\n after route prohibit\n interrupted",
		want: `way-lost: network-down no-route ambiguous
			at local 0:me
			or unknown@unknown
			why no-route`,
	}, {
		// EINVAL, which is a blackhole route's else.
		name: "the address was removed",
		see:  "syn 0s\n syn 0.6s refused=blackhole\n after route no-address",
		want: `way-lost: network-down no-address likely
			at local 0:me
			or unknown@unknown
			why no-address`,
	}, {
		// The tap sees what comes for an address that is gone, no socket does.
		name: "the address was removed under the answer",
		see:  "syn 0s\n +300ms syn-ack swallowed\n syn 0.6s\n +0.3ms syn-ack swallowed\n after route no-address",
		want: `way-lost: network-down no-address likely
			at local 0:me
			or local-firewall@local
			why no-address`,
	}, {
		name: "the interface went down after the answer", misses: "way-lost",
		see: answered + "syn 0s\n +0.3ms syn-ack\n after eth0 down\n" + looked,
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight changed echo-reply`,
	}, {
		name: "the route changed under a drop", misses: "way-lost",
		see: "route link\n ask 0s answered\n" + alive + silence + "after route via other",
		want: `silent-subject: drop host-firewall ambiguous
			at destination 1:host
			or not-accepting@destination network-firewall@path unknown@unknown
			why silent-subject changed echo-reply`,
	}, {
		name: "the route changed under a dead next hop", misses: "way-lost",
		see: deadHop + silence + "after route on eth1",
		want: `dead-neighbor: network-down gateway-down ambiguous
			at local 0:me 1:gw
			or unknown@unknown
			why dead-neighbor changed`,
	}, {
		name: "the route changed, and nothing was known anyway", misses: "way-lost",
		see: "syn 0s\n end 0.5s\n after route via other",
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination
			why silent-subject changed`,
	},

	// This machine's own firewall, outwards.
	{
		name: "own OUTPUT drops, and is interrupted",
		see:  "syn 0s 0.1s refused=not-permitted\n interrupted",
		want: `local-refusal: drop local-firewall certain
			at local 0:me
			why send-refused`,
	}, {
		name: "own OUTPUT rejects with a reset",
		see:  "syn 0s 0.1s refused=not-permitted\n +0.1ms reset on=lo",
		want: `local-refusal: reject local-firewall certain
			at local 0:me
			why send-refused local-reject`,
	}, {
		name: "own OUTPUT rejects with ICMP",
		see:  "syn 0s 0.1s refused=not-permitted\n +0.1ms icmp refused from=me on=lo",
		want: `local-refusal: reject local-firewall certain
			at local 0:me
			why send-refused local-reject`,
	}, {
		// Field note 5: "Where the send itself returned EPERM, ICMP from our
		// own address is a local REJECT, not ARP."
		name: "own OUTPUT says host unreachable",
		see:  "syn 0s 0.1s refused=not-permitted\n +0.1ms icmp host-unreachable from=me on=lo",
		want: `local-refusal: reject local-firewall certain
			at local 0:me
			why send-refused local-reject`,
	}, {
		name: "own OUTPUT drops, and an ICMP error refuses nothing",
		see:  "syn 0s 0.1s refused=not-permitted\n +0.1ms icmp too-big from=me on=lo",
		want: `local-refusal: drop local-firewall certain
			at local 0:me
			why send-refused`,
	}, {
		name: "the connection table is full",
		see:  "conntrack 100/100\n syn 0s 0.1s refused=not-permitted",
		want: `local-refusal: drop local-firewall certain
			at local 0:me
			why conntrack-full`,
	}, {
		name: "the connection table has room for one",
		see:  "conntrack 99/100\n syn 0s 0.1s refused=not-permitted",
		want: `local-refusal: drop local-firewall certain
			at local 0:me
			why send-refused`,
	}, {
		// One SYN did leave, so its own fate remains unknown.
		name: "own OUTPUT lets the first SYN out only",
		see:  "syn 0s\n syn 0.6s 0.7s refused=not-permitted",
		want: `local-refusal: drop local-firewall likely
			at local 0:me
			or unknown@unknown
			why send-refused`,
	}, {
		name: "no room to send",
		see:  "syn 0s 0.6s 1.2s refused=no-buffer",
		want: `local-refusal: drop local-firewall likely
			at local 0:me
			or link-down@local
			why send-refused`,
	}, {
		name: "a reset of this machine's own without a refused send",
		see:  "syn 0s\n +0.1ms reset on=lo",
		want: `local-refusal: reject local-firewall likely
			at local 0:me
			or network-firewall@path
			why local-reject`,
	}, {
		name: "an ICMP refusal of this machine's own without a refused send",
		see:  "syn 0s\n +0.1ms icmp refused from=me on=lo",
		want: `local-refusal: reject local-firewall likely
			at local 0:me
			or network-firewall@path
			why local-reject`,
	}, {
		name: "this machine's firewall rejects what is for itself",
		see:  "route local\n syn 0s\n +0.1ms icmp refused",
		want: `local-refusal: reject local-firewall certain
			at local 0:host
			why local-reject`,
	}, {
		name: "no room once, but the SYN got through", misses: "local-refusal",
		see: answered + "syn 0s\n +0.3ms syn-ack\n syn 0.6s refused=no-buffer\n" + looked,
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight echo-reply`,
	}, {
		name: "EPERM after an answer from outside", misses: "local-refusal",
		see: answered + "syn 0s\n +0.3ms reset\n syn 0.6s refused=not-permitted\n" + looked,
		want: `reset: reject port-closed certain
			at destination 3:host
			why reset same-distance straight echo-reply`,
	}, {
		// Field note 5: "Host-unreachable whose source is our own address is
		// local: our neighbour [...] is dead."
		name: "this machine's word about its next hop is no refusal", misses: "local-refusal",
		see: deadHop + silence + "+1.1s icmp host-unreachable from=me on=lo",
		want: `dead-neighbor: network-down gateway-down certain
			at local 0:me 1:gw
			why dead-neighbor`,
	}, {
		name: "a closed port of this machine is no firewall", misses: "local-refusal",
		see: "route local\n syn 0s\n +0.1ms reset",
		want: `reset: reject port-closed certain
			at destination 0:host
			why reset`,
	}, {
		name: "the same refusal from a router", misses: "local-refusal",
		see: "syn 0s\n +0.1ms icmp refused from=gw",
		want: `icmp-from-router: reject network-firewall certain
			at path 1:gw
			why icmp-from-router`,
	},

	// This machine's own firewall, inwards.
	{
		name: "own INPUT drops the SYN-ACKs",
		see:  answered + "syn 0s\n +0.3ms syn-ack swallowed\n syn 0.6s\n +0.3ms syn-ack swallowed",
		want: `swallowed-answer: drop local-firewall certain
			at local 0:me
			why swallowed-answer echo-reply`,
	}, {
		name: "own INPUT drops the resets",
		see:  "syn 0s\n +0.3ms reset swallowed\n syn 0.6s\n +0.3ms reset swallowed",
		want: `swallowed-answer: drop local-firewall certain
			at local 0:me
			why swallowed-answer`,
	}, {
		name: "own INPUT drops the ICMP refusals",
		see:  "syn 0s\n +0.3ms icmp refused from=gw swallowed\n syn 0.6s\n +0.3ms icmp refused from=gw swallowed",
		want: `swallowed-answer: drop local-firewall certain
			at local 0:me
			why swallowed-answer`,
	}, {
		name: "three answers, and none delivered",
		see:  "syn 0s\n +0.3ms reset swallowed\n syn 0.6s\n +0.3ms reset swallowed\n syn 1.2s\n +0.3ms reset swallowed",
		want: `swallowed-answer: drop local-firewall certain
			at local 0:me
			why swallowed-answer`,
	}, {
		name: "one answer that was not delivered may be an accident",
		see:  "syn 0s\n +0.3ms syn-ack swallowed",
		want: `swallowed-answer: drop local-firewall likely
			at local 0:me
			or unknown@unknown
			why swallowed-answer`,
	}, {
		name: "strict reverse-path filter",
		see:  "rp_filter 1\n syn 0s\n +0.3ms syn-ack swallowed on=eth1\n syn 0.6s\n +0.3ms syn-ack swallowed on=eth1",
		want: `swallowed-answer: drop local-firewall certain
			at local 0:me
			why swallowed-answer reverse-path`,
	}, {
		// ip-sysctl.rst: a loose filter drops only what comes from an address
		// that no interface leads to, and this machine has a route to host.
		name: "a loose reverse-path filter is not to blame",
		see:  "rp_filter 2\n syn 0s\n +0.3ms syn-ack swallowed on=eth1\n syn 0.6s\n +0.3ms syn-ack swallowed on=eth1",
		want: `swallowed-answer: drop local-firewall certain
			at local 0:me
			why swallowed-answer`,
	}, {
		name: "a strict filter does not drop what comes in where it went out",
		see:  "rp_filter 1\n syn 0s\n +0.3ms syn-ack swallowed\n syn 0.6s\n +0.3ms syn-ack swallowed",
		want: `swallowed-answer: drop local-firewall certain
			at local 0:me
			why swallowed-answer`,
	}, {
		name: "a single answer, held up by a strict filter",
		see:  "rp_filter 1\n syn 0s\n +0.3ms syn-ack swallowed on=eth1",
		want: `swallowed-answer: drop local-firewall likely
			at local 0:me
			or unknown@unknown
			why swallowed-answer reverse-path`,
	}, {
		name: "a bare ACK that was not delivered is not the answer", misses: "swallowed-answer",
		see: "syn 0s\n +0.3ms ack swallowed\n syn 0.6s\n +0.3ms syn-ack",
		want: `syn-ack: open listening likely
			or proxy@path
			why syn-ack`,
	}, {
		name: "one answer delivered and one not", misses: "swallowed-answer",
		see: answered + "syn 0s\n +0.3ms syn-ack swallowed\n syn 0.6s\n +0.3ms syn-ack\n" + looked,
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight echo-reply`,
	}, {
		name: "an undelivered packet that says nothing", misses: "swallowed-answer",
		see: quiet + "+0.3ms icmp too-big from=gw swallowed",
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination host-unreachable@destination return-path@path
			why silent-subject silent-echo`,
	},

	// Answers that contradict each other.
	{
		name: "a SYN-ACK, then a reset",
		see:  answered + "syn 0s\n +0.3ms syn-ack\n +0.5ms reset",
		want: `conflicting-answers: open listening ambiguous
			or network-firewall@path
			why conflicting-answers echo-reply`,
	}, {
		name: "a reset, then a SYN-ACK",
		see:  answered + "syn 0s\n +0.3ms reset\n +0.5ms syn-ack",
		want: `conflicting-answers: reject network-firewall ambiguous
			at path
			or port-closed@destination
			why conflicting-answers echo-reply`,
	}, {
		name: "an ICMP refusal, then a SYN-ACK",
		see:  "syn 0s\n +0.3ms icmp refused from=gw\n +0.5ms syn-ack",
		want: `conflicting-answers: reject network-firewall ambiguous
			at path 1:gw
			or port-closed@destination
			why conflicting-answers`,
	}, {
		name: "two SYN-ACKs agree", misses: "conflicting-answers",
		see: answered + "syn 0s\n +0.3ms syn-ack\n +0.5ms syn-ack\n" + looked,
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight echo-reply`,
	}, {
		name: "a reset that no socket got does not contradict", misses: "conflicting-answers",
		see: answered + "syn 0s\n +0.3ms syn-ack\n +0.5ms reset swallowed\n" + looked,
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight echo-reply`,
	}, {
		name: "an ICMP error that says nothing does not contradict", misses: "conflicting-answers",
		see: answered + "syn 0s\n +0.2ms icmp too-big from=gw\n +0.5ms syn-ack\n" + looked,
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight echo-reply`,
	},

	// SYN-ACKs: by field notes 13 to 15, who made it is told by its distance.
	{
		name: "open, as far away as the echo",
		see:  answered + "syn 0s\n +0.3ms syn-ack\n" + looked,
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight echo-reply`,
	}, {
		name: "open, and ICMP starts from another TTL",
		see:  "echo 0s\n +0.4ms echo-reply ttl=253\n syn 0s\n +0.3ms syn-ack ttl=126\n" + looked,
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight echo-reply`,
	}, {
		name: "open, without an echo to compare",
		see:  "echo 0s\n syn 0s\n +0.3ms syn-ack",
		want: `syn-ack: open listening likely
			or proxy@path
			why syn-ack`,
	}, {
		name: "open on the link, without an echo to compare",
		see:  "route link\n syn 0s\n +0.3ms syn-ack",
		want: `syn-ack: open listening certain
			why syn-ack`,
	}, {
		// The gateway answers ARP in the host's name, and makes the SYN-ACK.
		name: "open on the link, but the host is two routers away",
		see:  "route link\n echo 0s\n +0.4ms echo-reply ttl=62\n syn 0s\n +0.3ms syn-ack\n syn 0.1s\n +0.3ms syn-ack",
		want: `syn-ack: open proxy likely
			at path
			or listening@destination
			why syn-ack other-distance echo-reply`,
	}, {
		// What lies behind the other end of a tunnel is not on the link.
		name: "open through a tunnel, without an echo to compare",
		see:  "route tunnel\n syn 0s\n +0.3ms syn-ack",
		want: `syn-ack: open listening likely
			or proxy@path
			why syn-ack`,
	}, {
		name: "open through a tunnel, as far away as the echo",
		see: "route tunnel\n echo 0s\n +0.4ms echo-reply ttl=62\n syn 0s\n +0.3ms syn-ack ttl=62\n" +
			"syn 0.1s ttl=2\n +0.2ms icmp expired from=r2 ttl=63\n echo 0.1s ttl=2\n +0.2ms icmp expired for echo from=r2 ttl=63\n echo 0.1s ttl=3\n +0.4ms echo-reply ttl=62",
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight echo-reply`,
	}, {
		name: "open on this machine",
		see:  "route local\n echo 0s\n +0.1ms echo-reply\n syn 0s\n +0.1ms syn-ack",
		want: `syn-ack: open listening certain
			why syn-ack`,
	}, {
		name: "a SYN-ACK from nearer by, twice",
		see:  answered + "syn 0s\n +0.3ms syn-ack ttl=63\n syn 0.1s\n +0.3ms syn-ack ttl=63",
		want: `syn-ack: open proxy likely
			at path
			or listening@destination
			why syn-ack other-distance echo-reply`,
	}, {
		// Field note 13: a difference of one is weak, unless it repeats.
		name: "a SYN-ACK from nearer by, once",
		see:  answered + "syn 0s\n +0.3ms syn-ack ttl=63",
		want: `syn-ack: open proxy ambiguous
			at path
			or listening@destination
			why syn-ack other-distance echo-reply`,
	}, {
		name: "a SYN-ACK from farther away: a port forward",
		see:  answered + "syn 0s\n +0.3ms syn-ack ttl=61",
		want: `syn-ack: open listening likely
			or proxy@path
			why syn-ack other-distance echo-reply`,
	}, {
		name: "SYN-ACKs from different distances",
		see:  answered + "syn 0s\n +0.3ms syn-ack ttl=62\n syn 0.1s\n +0.3ms syn-ack ttl=61",
		want: `syn-ack: open listening likely
			or proxy@path
			why syn-ack other-distance echo-reply`,
	}, {
		name: "a SYN-ACK without options and window",
		see:  answered + "syn 0s\n +0.3ms syn-ack bare",
		want: `syn-ack: open proxy likely
			at path
			or listening@destination
			why syn-ack same-distance bare-syn-ack echo-reply`,
	}, {
		name: "a SYN-ACK with options and a window of 0 is the host's",
		see:  answered + "syn 0s\n +0.3ms syn-ack window=0\n" + looked,
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight echo-reply`,
	}, {
		name: "a SYN-ACK with a window and without options is the host's",
		see:  answered + "syn 0s\n +0.3ms syn-ack options=0\n" + looked,
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight echo-reply`,
	}, {
		name: "redirected to this machine",
		see:  answered + "syn 0s to=me:15001\n +0.1ms syn-ack from=me on=lo ttl=64",
		want: `syn-ack: open proxy certain
			at local 0:me
			why syn-ack echo-reply local-dnat`,
	}, {
		// The echo went to host, the SYN to other: their distances say nothing.
		name: "redirected to another machine",
		see:  answered + "syn 0s to=other:8080\n +0.3ms syn-ack from=other ttl=63",
		want: `syn-ack: open listening likely
			or proxy@path proxy@local
			why syn-ack echo-reply local-dnat`,
	}, {
		// A SYN with TTL 1 gets there, and the host is farther away: which says
		// nothing, as the host was not asked.
		name: "redirected to the first router",
		see:  answered + "syn 0s to=gw:22\n +0.3ms syn-ack from=gw ttl=64\n syn 0.1s ttl=1 to=gw:22\n +0.3ms syn-ack from=gw ttl=64\n" + echoPath,
		want: `syn-ack: open listening likely
			or proxy@path proxy@local
			why syn-ack echo-reply local-dnat`,
	}, {
		name: "redirected to another port of the host",
		see:  answered + "syn 0s to=host:8080\n +0.3ms syn-ack\n" + strings.Replace(looked, "ttl=2", "ttl=2 to=host:8080", 1),
		want: `syn-ack: open listening likely
			or proxy@local
			why syn-ack same-distance straight echo-reply local-dnat`,
	}, {
		name: "redirected to another port of this machine",
		see:  "route local\n echo 0s\n +0.1ms echo-reply\n syn 0s to=host:8080\n +0.1ms syn-ack",
		want: `syn-ack: open listening likely
			or proxy@local
			why syn-ack local-dnat`,
	}, {
		name: "masqueraded",
		see:  answered + "syn 0s from=nat:999\n +0.3ms syn-ack\n" + looked,
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight echo-reply local-snat`,
	}, {
		name: "a policy route is told",
		see:  "route by-port\n" + answered + "syn 0s\n +0.3ms syn-ack\n" + looked,
		want: `syn-ack: open listening likely
			or local-firewall@local
			why syn-ack same-distance straight echo-reply policy-route`,
	}, {
		name: "a SYN-ACK that this machine swallowed opens nothing", misses: "syn-ack",
		see: answered + "syn 0s 0.6s\n +0.3ms syn-ack swallowed\n +0.4ms syn-ack swallowed",
		want: `swallowed-answer: drop local-firewall certain
			at local 0:me
			why swallowed-answer echo-reply`,
	}, {
		name: "one packet that nothing of ours provoked opens nothing", misses: "syn-ack",
		see: "unprovoked 1\n" + quiet,
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination host-unreachable@destination return-path@path
			why silent-subject silent-echo ignored`,
	}, {
		name: "packets that nothing of ours provoked open nothing", misses: "syn-ack",
		see: "unprovoked 3\n" + quiet,
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination host-unreachable@destination return-path@path
			why silent-subject silent-echo ignored`,
	},

	// Resets: field note 12.
	{
		name: "closed, as far away as the echo",
		see:  answered + "syn 0s\n +0.3ms reset\n" + looked,
		want: `reset: reject port-closed certain
			at destination 3:host
			why reset same-distance straight echo-reply`,
	}, {
		name: "closed, without an echo to compare",
		see:  "echo 0s\n syn 0s\n +0.3ms reset",
		want: `reset: reject port-closed likely
			at destination ?:host
			or network-firewall@path
			why reset`,
	}, {
		name: "closed on the link",
		see:  "route link\n syn 0s\n +0.3ms reset",
		want: `reset: reject port-closed certain
			at destination 1:host
			why reset`,
	}, {
		name: "on the link, from too far away, without an echo to compare",
		see:  "route link\n syn 0s\n +0.3ms reset ttl=63",
		want: `reset: reject port-closed likely
			at destination 1:host
			or network-firewall@path
			why reset`,
	}, {
		name: "closed on the link, with an echo",
		see:  "route link\n echo 0s\n +0.3ms echo-reply\n syn 0s\n +0.3ms reset",
		want: `reset: reject port-closed certain
			at destination 1:host
			why reset same-distance echo-reply`,
	}, {
		name: "closed through a tunnel, without an echo to compare",
		see:  "route tunnel\n syn 0s\n +0.3ms reset",
		want: `reset: reject port-closed likely
			at destination ?:host
			or network-firewall@path
			why reset`,
	}, {
		name: "a reset from nearer by, twice",
		see:  answered + "syn 0s\n +0.3ms reset ttl=63\n syn 0.1s\n +0.3ms reset ttl=63",
		want: `reset: reject network-firewall likely
			at path
			or port-closed@destination
			why reset other-distance echo-reply`,
	}, {
		name: "a reset from nearer by, once",
		see:  answered + "syn 0s\n +0.3ms reset ttl=63",
		want: `reset: reject network-firewall ambiguous
			at path
			or port-closed@destination
			why reset other-distance echo-reply`,
	}, {
		name: "a reset from farther away",
		see:  answered + "syn 0s\n +0.3ms reset ttl=61",
		want: `reset: reject port-closed likely
			at destination ?:host
			or network-firewall@path
			why reset other-distance echo-reply`,
	}, {
		name: "resets from different distances",
		see:  answered + "syn 0s\n +0.3ms reset ttl=62\n syn 0.1s\n +0.3ms reset ttl=63",
		want: `reset: reject port-closed likely
			at destination ?:host
			or network-firewall@path
			why reset other-distance echo-reply`,
	}, {
		name: "redirected to this machine, where nothing listens",
		see:  answered + "syn 0s to=me:15001\n +0.1ms reset from=me on=lo ttl=64",
		want: `reset: reject local-firewall certain
			at local 0:me
			why reset echo-reply local-dnat`,
	}, {
		name: "redirected to a closed port of another machine",
		see:  answered + "syn 0s to=other:8080\n +0.3ms reset from=other ttl=63",
		want: `reset: reject port-closed likely
			at destination ?:other
			or network-firewall@path local-firewall@local
			why reset echo-reply local-dnat`,
	}, {
		name: "redirected to a closed port of the first router",
		see:  answered + "syn 0s to=gw:22\n +0.3ms reset from=gw ttl=64\n syn 0.1s ttl=1 to=gw:22\n +0.3ms reset from=gw ttl=64\n" + echoPath,
		want: `reset: reject port-closed likely
			at destination 1:gw
			or network-firewall@path local-firewall@local
			why reset echo-reply local-dnat`,
	}, {
		name: "redirected to a closed port of the host",
		see:  answered + "syn 0s to=host:8080\n +0.3ms reset\n" + strings.Replace(looked, "ttl=2", "ttl=2 to=host:8080", 1),
		want: `reset: reject port-closed likely
			at destination 3:host
			or local-firewall@local
			why reset same-distance straight echo-reply local-dnat`,
	}, {
		name: "redirected to a closed port of this machine",
		see:  "route local\n syn 0s to=host:8080\n +0.1ms reset",
		want: `reset: reject port-closed likely
			at destination 0:host
			or local-firewall@local
			why reset local-dnat`,
	}, {
		name: "redirected to this machine, whose own INPUT rejects",
		see:  answered + "syn 0s to=me:15001\n +0.1ms icmp refused from=me on=lo ttl=64",
		want: `local-refusal: reject local-firewall certain
			at local 0:me
			why local-reject echo-reply local-dnat`,
	}, {
		name: "redirected to this machine, whose own INPUT drops",
		see:  alive + strings.ReplaceAll(silence, "1.2s", "1.2s to=me:15001"),
		want: `silent-local: drop local-firewall likely
			at local 0:me
			or not-accepting@destination
			why silent-subject echo-reply local-dnat`,
	}, {
		// What the host and the routers before it say of other packets is no word
		// about the way to another machine.
		name: "redirected to another machine, from where nothing comes",
		see: strings.ReplaceAll(silence, "1.2s", "1.2s to=other:8080") + alive + echoPath + "tcp-443 1.5s ttl=2\n +0.3ms icmp expired from=r2\n" +
			"syn 1.3s ttl=1 to=other:8080\n +0.2ms icmp expired from=gw\n syn 1.3s 1.9s 2.5s ttl=2 to=other:8080\n" + strings.Repeat("flow 1.3s to=other:8080\n", 10),
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination not-accepting@destination host-unreachable@destination return-path@path local-firewall@local
			why silent-subject subject-path echo-reply local-dnat`,
	}, {
		name: "redirected to another port of the host, and dropped between the first two routers",
		see: strings.ReplaceAll(silence, "1.2s", "1.2s to=host:8080") + alive + echoPath + "tcp-443 1.5s ttl=2\n +0.3ms icmp expired from=r2\n" +
			"syn 1.3s ttl=1 to=host:8080\n +0.2ms icmp expired from=gw\n syn 1.3s 1.9s 2.5s ttl=2 to=host:8080\n syn 1.3s 1.9s 2.5s ttl=3 to=host:8080\n" + strings.Repeat("flow 1.3s to=host:8080\n", 10),
		want: `bracket: drop network-firewall likely
			at path 1:gw 2:r2
			or local-firewall@local
			why silent-subject subject-path control-passes host-alive other-flows echo-reply local-dnat`,
	}, {
		name: "redirected to another machine, and another flow to a third",
		see:  strings.ReplaceAll(silence, "1.2s", "1.2s to=other:8080") + alive + "flow 1.3s 1.9s 2.5s to=host:8080 port=41000\n +0.3ms syn-ack\n +0.3ms syn-ack\n +0.3ms syn-ack",
		want: `other-flows: partial flow-dependent likely
			at path
			or network-firewall@path host-firewall@destination local-firewall@local
			why silent-subject other-flows echo-reply local-dnat`,
	}, {
		// r2 is on the way to the host: nobody saw the redirected SYN get there.
		name: "redirected to another machine, of whose ways one is broken",
		see: strings.ReplaceAll(silence, "1.2s", "1.2s to=other:8080") + alive + echoPath +
			"syn 1.3s ttl=1 to=other:8080\n +0.2ms icmp expired from=gw\n syn 1.3s 1.9s 2.5s ttl=2 to=other:8080\n" +
			"flow 1.3s 1.9s 2.5s to=other:8080 port=41000\n +0.3ms syn-ack from=other\n +0.3ms syn-ack from=other\n +0.3ms syn-ack from=other",
		want: `other-flows: partial flow-dependent likely
			at path 1:gw 2:-
			or network-firewall@path host-firewall@destination local-firewall@local
			why silent-subject other-flows subject-path echo-reply local-dnat`,
	}, {
		name: "redirected to another machine, of whose ways one is broken, and no hop beyond the first was tried",
		see: strings.ReplaceAll(silence, "1.2s", "1.2s to=other:8080") + alive +
			"syn 1.3s ttl=1 to=other:8080\n +0.2ms icmp expired from=gw\n" +
			"flow 1.3s 1.9s 2.5s to=other:8080 port=41000\n +0.3ms syn-ack from=other\n +0.3ms syn-ack from=other\n +0.3ms syn-ack from=other",
		want: `other-flows: partial flow-dependent likely
			at path 1:gw 2:-
			or network-firewall@path host-firewall@destination local-firewall@local
			why silent-subject other-flows subject-path echo-reply local-dnat`,
	}, {
		// The host is at hop 3, and not behind the ways that are tried.
		name: "redirected to another machine, which some source ports do not reach",
		see: "syn 0s to=other:8080\n +0.3ms syn-ack from=other\n" + alive + echoPath +
			"flow 0.1s 0.7s 1.3s port=41002 to=other:8080\n flow 1.4s ttl=1 port=41002 to=other:8080\n +0.2ms icmp expired from=gw\n" +
			"flow 1.4s ttl=2 port=41002 to=other:8080\n +0.2ms icmp expired from=r2\n end 3s",
		want: `mixed-flows: partial flow-dependent likely
			at path 2:r2 3:-
			or network-firewall@path host-firewall@destination local-firewall@local
			why mixed-flows echo-reply local-dnat`,
	}, {
		name: "redirected to another machine, and goes round",
		see: strings.ReplaceAll(silence, "1.2s", "1.2s to=other:8080") + alive + echoPath +
			"syn 1.3s ttl=2 to=other:8080\n +0.2ms icmp expired from=gw\n syn 1.3s ttl=3 to=other:8080\n +0.2ms icmp expired from=r2\n" +
			"syn 1.3s ttl=4 to=other:8080\n +0.2ms icmp expired from=gw\n syn 1.3s ttl=5 to=other:8080\n +0.2ms icmp expired from=r2\n",
		want: `loop: network-down routing-loop likely
			at path 2:gw 3:r2
			or local-firewall@local
			why silent-subject loop echo-reply local-dnat`,
	}, {
		name: "redirected to another machine, and a dead interface holds the host's prefix", misses: "covering-link-down",
		see: "covering eth1 down\n echo 0s\n" + strings.ReplaceAll(silence, "1.2s", "1.2s to=other:8080"),
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination not-accepting@destination host-unreachable@destination return-path@path local-firewall@local
			why silent-subject local-dnat`,
	}, {
		name: "redirected to another machine, and an echo to the host is refused", misses: "echo-refused",
		see: "echo 0s\n +3.1s icmp host-unreachable for echo from=r2\n" + strings.ReplaceAll(silence, "1.2s", "1.2s to=other:8080"),
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination not-accepting@destination host-unreachable@destination return-path@path local-firewall@local
			why silent-subject echo-refused local-dnat`,
	}, {
		name: "a reset that no socket got", misses: "reset",
		see: "syn 0s\n +0.3ms reset swallowed",
		want: `swallowed-answer: drop local-firewall likely
			at local 0:me
			or unknown@unknown
			why swallowed-answer`,
	},

	// An answer from the host's distance is the host's only where the way there
	// is as long as the way back, and the last router is nearer by its own word.
	{
		name: "no TTL was stepped",
		see:  answered + "syn 0s\n +0.3ms syn-ack",
		want: `syn-ack: open listening likely
			or proxy@path
			why syn-ack same-distance echo-reply`,
	}, {
		name: "no TTL was stepped, and it is closed",
		see:  answered + "syn 0s\n +0.3ms reset",
		want: `reset: reject port-closed likely
			at destination ?:host
			or network-firewall@path
			why reset same-distance echo-reply`,
	}, {
		name: "no TTL was stepped, and the host refuses by ICMP",
		see:  answered + "syn 0s\n +0.3ms icmp refused",
		want: `icmp-from-target: reject host-firewall likely
			at destination ?:host
			or network-firewall@path
			why icmp-from-target same-distance echo-reply`,
	}, {
		name: "the way there is longer",
		see: answered + "syn 0s\n +0.3ms reset\n syn 0.1s ttl=2\n +0.2ms icmp expired from=r2 ttl=63\n echo 0.1s ttl=2\n +0.2ms icmp expired for echo from=r2 ttl=63\n" +
			"echo 0.1s ttl=3\n +0.2ms icmp expired for echo from=other\n echo 0.1s ttl=4\n +0.4ms echo-reply",
		want: `reset: reject port-closed likely
			at destination 4:host
			or network-firewall@path
			why reset same-distance echo-reply`,
	}, {
		name: "the way there is shorter",
		see: answered + "syn 0s\n +0.3ms reset\n syn 0.1s ttl=2\n +0.2ms reset\n echo 0.1s ttl=2\n +0.4ms echo-reply\n" +
			"echo 0.1s ttl=3\n +0.4ms echo-reply",
		want: `reset: reject port-closed likely
			at destination 2:host
			or network-firewall@path
			why reset provoked-at-host echo-reply`,
	}, {
		name: "the last router has no word for the SYN",
		see: answered + "syn 0s\n +0.3ms syn-ack\n syn 0.1s ttl=2\n echo 0.1s ttl=2\n +0.2ms icmp expired for echo from=r2 ttl=63\n" +
			"echo 0.1s ttl=3\n +0.4ms echo-reply",
		want: `syn-ack: open listening likely
			or proxy@path
			why syn-ack same-distance echo-reply`,
	}, {
		name: "the last router has no word for the echo",
		see: answered + "syn 0s\n +0.3ms syn-ack\n syn 0.1s ttl=2\n +0.2ms icmp expired from=r2 ttl=63\n echo 0.1s ttl=2\n" +
			"echo 0.1s ttl=3\n +0.4ms echo-reply",
		want: `syn-ack: open listening likely
			or proxy@path
			why syn-ack same-distance echo-reply`,
	}, {
		name: "the SYN and the echo meet different last routers",
		see: answered + "syn 0s\n +0.3ms syn-ack\n syn 0.1s ttl=2\n +0.2ms icmp expired from=r2 ttl=63\n echo 0.1s ttl=2\n +0.2ms icmp expired for echo from=other ttl=63\n" +
			"echo 0.1s ttl=3\n +0.4ms echo-reply",
		want: `syn-ack: open listening likely
			or proxy@path
			why syn-ack same-distance echo-reply`,
	}, {
		name: "the SYN and the echo meet different last routers, and six datagrams show no longer way",
		see: answered + "syn 0s\n +0.3ms syn-ack\n syn 0.1s ttl=2\n +0.2ms icmp expired from=r2 ttl=63\n echo 0.1s ttl=2\n +0.2ms icmp expired for echo from=other ttl=63\n" +
			"echo 0.1s ttl=3\n +0.4ms echo-reply\n udp 0.1s ttl=2\n +0.3ms icmp expired from=r2 ttl=63\n udp 0.1s 0.1s 0.1s 0.1s 0.1s 0.1s ttl=3",
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight echo-reply`,
	}, {
		name: "six datagrams show no longer way, and none goes the SYN's",
		see: answered + "syn 0s\n +0.3ms syn-ack\n syn 0.1s ttl=2\n +0.2ms icmp expired from=r2 ttl=63\n echo 0.1s ttl=2\n +0.2ms icmp expired for echo from=other ttl=63\n" +
			"echo 0.1s ttl=3\n +0.4ms echo-reply\n udp 0.1s ttl=2\n +0.3ms icmp expired from=other ttl=63\n udp 0.1s 0.1s 0.1s 0.1s 0.1s 0.1s ttl=3",
		want: `syn-ack: open listening likely
			or proxy@path
			why syn-ack same-distance echo-reply`,
	}, {
		name: "five datagrams are not enough",
		see: answered + "syn 0s\n +0.3ms syn-ack\n syn 0.1s ttl=2\n +0.2ms icmp expired from=r2 ttl=63\n echo 0.1s ttl=2\n +0.2ms icmp expired for echo from=other ttl=63\n" +
			"echo 0.1s ttl=3\n +0.4ms echo-reply\n udp 0.1s ttl=2\n +0.3ms icmp expired from=r2 ttl=63\n udp 0.1s 0.1s 0.1s 0.1s 0.1s ttl=3",
		want: `syn-ack: open listening likely
			or proxy@path
			why syn-ack same-distance echo-reply`,
	}, {
		name: "six datagrams that may have got nowhere",
		see: answered + "syn 0s\n +0.3ms syn-ack\n syn 0.1s ttl=2\n +0.2ms icmp expired from=r2 ttl=63\n echo 0.1s ttl=2\n +0.2ms icmp expired for echo from=other ttl=63\n" +
			"echo 0.1s ttl=3\n +0.4ms echo-reply\n udp 0.1s ttl=2\n udp 0.1s 0.1s 0.1s 0.1s 0.1s 0.1s ttl=3",
		want: `syn-ack: open listening likely
			or proxy@path
			why syn-ack same-distance echo-reply`,
	}, {
		name: "one of six datagrams expires where the host is, and others get there",
		see: answered + "syn 0s\n +0.3ms syn-ack\n syn 0.1s ttl=2\n +0.2ms icmp expired from=r2 ttl=63\n echo 0.1s ttl=2\n +0.2ms icmp expired for echo from=other ttl=63\n" +
			"echo 0.1s ttl=3\n +0.4ms echo-reply\n udp 0.1s ttl=2\n +0.3ms icmp expired from=r2 ttl=63\n udp 0.1s 0.1s 0.1s 0.1s 0.1s ttl=3\n +0.3ms icmp 3/3\n udp 0.1s ttl=3\n +0.3ms icmp expired from=r2",
		only: v4,
		want: `syn-ack: open listening likely
			or proxy@path
			why syn-ack same-distance echo-reply`,
	}, {
		name: "the last router translates",
		see:  answered + "syn 0s\n +0.3ms syn-ack\n syn 0.1s ttl=2\n +0.2ms icmp expired ttl=63\n echo 0.1s ttl=2\n +0.2ms icmp expired for echo from=r2 ttl=63\n echo 0.1s ttl=3\n +0.4ms echo-reply",
		want: `syn-ack: open listening likely
			or proxy@path
			why syn-ack same-distance echo-reply`,
	}, {
		name: "only a datagram reached the host with as few TTLs",
		see: answered + "syn 0s\n +0.3ms reset\n syn 0.1s ttl=2\n +0.2ms icmp expired from=r2 ttl=63\n echo 0.1s ttl=2\n +0.2ms icmp expired for echo from=r2 ttl=63\n" +
			"echo 0.1s 0.3s ttl=3\n udp 0.1s ttl=2\n +0.2ms icmp expired from=r2 ttl=63\n udp 0.1s ttl=3\n +0.3ms icmp 3/3",
		only: v4,
		want: `reset: reject port-closed likely
			at destination 3:host
			or network-firewall@path
			why reset same-distance echo-reply`,
	}, {
		name: "the same, and only our neighbour seems to be between",
		see:  "echo 0s\n +0.4ms echo-reply ttl=63\n syn 0s\n +0.3ms reset ttl=63\n echo 0.1s 0.3s ttl=2\n udp 0.1s ttl=2\n +0.3ms icmp 3/3 ttl=63",
		only: v4,
		want: `reset: reject port-closed likely
			at destination 2:host
			or network-firewall@path
			why reset same-distance echo-reply`,
	}, {
		name: "another control than an echo met another last router",
		see: answered + "syn 0s\n +0.3ms syn-ack\n syn 0.1s ttl=2\n +0.2ms icmp expired from=r2 ttl=63\n tcp-443 0.1s ttl=2\n +0.2ms icmp expired from=other ttl=63\n" +
			"tcp-443 0.1s ttl=3\n +0.4ms reset\n echo 0.1s ttl=3\n +0.4ms echo-reply\n udp 0.1s ttl=2\n +0.3ms icmp expired from=r2 ttl=63\n udp 0.1s 0.1s 0.1s 0.1s 0.1s 0.1s ttl=3",
		want: `syn-ack: open listening likely
			or proxy@path
			why syn-ack same-distance echo-reply`,
	}, {
		name: "a datagram expires where the host is",
		see:  answered + "syn 0s\n +0.3ms reset\n" + looked + "udp 0.1s ttl=3\n +0.3ms icmp expired from=other",
		want: `reset: reject port-closed likely
			at destination 3:host
			or network-firewall@path
			why reset same-distance echo-reply`,
	}, {
		name: "a datagram meets another router",
		see:  answered + "syn 0s\n +0.3ms reset\n" + looked + "udp 0.1s ttl=2\n +0.3ms icmp expired from=other ttl=63",
		want: `reset: reject port-closed likely
			at destination 3:host
			or network-firewall@path
			why reset same-distance echo-reply`,
	}, {
		name: "datagrams go the same way",
		see:  answered + "syn 0s\n +0.3ms reset\n" + looked + "udp 0.1s ttl=2\n +0.3ms icmp expired from=r2 ttl=63\n udp 0.1s ttl=3\n +0.3ms icmp 3/3",
		only: v4,
		want: `reset: reject port-closed certain
			at destination 3:host
			why reset same-distance straight echo-reply`,
	}, {
		name: "the last router is as far away as the answer",
		see: answered + "syn 0s\n +0.3ms syn-ack\n syn 0.1s ttl=2\n +0.2ms icmp expired from=r2\n echo 0.1s ttl=2\n +0.2ms icmp expired for echo from=r2\n" +
			"echo 0.1s ttl=3\n +0.4ms echo-reply",
		want: `syn-ack: open listening likely
			or proxy@path
			why syn-ack same-distance echo-reply`,
	}, {
		name: "the last router is farther away than the answer",
		see: answered + "syn 0s\n +0.3ms syn-ack\n syn 0.1s ttl=2\n +0.2ms icmp expired from=r2 ttl=61\n echo 0.1s ttl=2\n +0.2ms icmp expired for echo from=r2 ttl=61\n" +
			"echo 0.1s ttl=3\n +0.4ms echo-reply",
		want: `syn-ack: open listening likely
			or proxy@path
			why syn-ack same-distance echo-reply`,
	}, {
		name: "answered at the host's hop and no earlier, by a shorter way back",
		see: "echo 0s\n +0.4ms echo-reply ttl=63\n syn 0s\n +0.3ms reset ttl=63\n syn 0.1s ttl=2\n +0.2ms icmp expired from=gw ttl=63\n" +
			"syn 0.2s ttl=3\n +0.2ms icmp expired from=r2\n echo 0.1s ttl=3\n +0.2ms icmp expired for echo from=r2\n" +
			"syn 0.3s ttl=4\n +0.3ms reset ttl=63\n echo 0.1s ttl=4\n +0.4ms echo-reply ttl=63",
		want: `reset: reject port-closed certain
			at destination 4:host
			why reset provoked-at-host echo-reply`,
	}, {
		name: "the same, and the last router is as near by its way back",
		see: "echo 0s\n +0.4ms echo-reply ttl=63\n syn 0s\n +0.3ms reset ttl=63\n syn 0.1s ttl=2\n +0.2ms icmp expired from=gw ttl=63\n" +
			"syn 0.2s ttl=3\n +0.2ms icmp expired from=r2 ttl=63\n echo 0.1s ttl=3\n +0.2ms icmp expired for echo from=r2 ttl=63\n" +
			"syn 0.3s ttl=4\n +0.3ms reset ttl=63\n echo 0.1s ttl=4\n +0.4ms echo-reply ttl=63",
		want: `reset: reject port-closed likely
			at destination 4:host
			or network-firewall@path
			why reset provoked-at-host echo-reply`,
	}, {
		name: "only our neighbour is between",
		see:  "echo 0s\n +0.4ms echo-reply ttl=63\n syn 0s\n +0.3ms reset ttl=63\n echo 0.1s ttl=2\n +0.4ms echo-reply ttl=63",
		want: `reset: reject port-closed certain
			at destination 2:host
			why reset same-distance straight echo-reply`,
	}, {
		name: "more than our neighbour is between",
		see: "echo 0s\n +0.4ms echo-reply ttl=63\n syn 0s\n +0.3ms reset ttl=63\n echo 0.1s ttl=2\n +0.2ms icmp expired for echo from=r2 ttl=63\n" +
			"echo 0.1s ttl=3\n +0.4ms echo-reply ttl=63",
		want: `reset: reject port-closed likely
			at destination 3:host
			or network-firewall@path
			why reset same-distance echo-reply`,
	}, {
		name: "nobody is between, behind a tunnel",
		see:  "route tunnel\n echo 0s\n +0.4ms echo-reply\n syn 0s\n +0.3ms syn-ack\n echo 0.1s ttl=1\n +0.4ms echo-reply",
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight echo-reply`,
	},

	// ICMP errors from the target's address. TestICMPCodes goes through them all.
	{
		name: "the host refuses by ICMP",
		see:  answered + "syn 0s\n +0.3ms icmp refused\n" + looked,
		want: `icmp-from-target: reject host-firewall certain
			at destination 3:host
			why icmp-from-target same-distance straight echo-reply`,
	}, {
		name: "the host's address refuses by ICMP, without an echo to compare",
		see:  "syn 0s\n +0.3ms icmp refused",
		want: `icmp-from-target: reject host-firewall likely
			at destination ?:host
			or network-firewall@path
			why icmp-from-target`,
	}, {
		name: "the host's address refuses by ICMP from nearer by",
		see:  answered + "syn 0s\n +0.3ms icmp refused ttl=63",
		want: `icmp-from-target: reject host-firewall likely
			at destination ?:host
			or network-firewall@path
			why icmp-from-target other-distance echo-reply`,
	}, {
		// Field note 9: a port forward whose backend is dead.
		name: "the host's address can't reach the host",
		see:  answered + "syn 0s\n +3.1s icmp host-unreachable",
		want: `icmp-from-target: host-down host-unreachable likely
			at destination ?:host
			or host-firewall@destination network-firewall@path
			why icmp-from-target echo-reply`,
	}, {
		name: "a loop behind the host's address",
		see:  answered + "syn 0s\n +0.3ms icmp expired",
		want: `icmp-from-target: network-down routing-loop likely
			at path ?:host
			or network-firewall@path
			why icmp-from-target echo-reply`,
	}, {
		name: "a refusal of a machine that this one translates to",
		see:  "syn 0s to=other:8080\n +0.3ms icmp refused from=other",
		want: `icmp-from-target: reject host-firewall likely
			at destination ?:other
			or network-firewall@path local-firewall@local
			why icmp-from-target local-dnat`,
	}, {
		name: "a refusal of another port of the host that this machine translates to",
		see:  answered + "syn 0s to=host:8080\n +0.3ms icmp refused\n" + strings.Replace(looked, "ttl=2", "ttl=2 to=host:8080", 1),
		want: `icmp-from-target: reject host-firewall likely
			at destination 3:host
			or local-firewall@local
			why icmp-from-target same-distance straight echo-reply local-dnat`,
	}, {
		// It translates to yet another, which refuses in its own name.
		name: "a refusal of a machine behind the one that this machine translates to",
		see:  "syn 0s to=other:8080\n +0.3ms icmp refused from=nat quotes=nat:8080",
		want: `icmp-from-target: reject host-firewall likely
			at destination ?:other
			or network-firewall@path local-firewall@local
			why icmp-from-target local-dnat remote-nat`,
	}, {
		name: "a machine that this one translates to can't reach the one behind it",
		see:  "syn 0s to=other:8080\n +3.1s icmp host-unreachable from=other",
		want: `icmp-from-target: host-down host-unreachable likely
			at destination ?:other
			or host-firewall@destination network-firewall@path local-firewall@local
			why icmp-from-target local-dnat`,
	}, {
		// The host is but a router on the way to the other machine.
		name: "a refusal by the host of what this machine translates to another", misses: "icmp-from-target",
		see: answered + "syn 0s to=other:8080\n +0.3ms icmp refused",
		want: `icmp-from-router: reject network-firewall likely
			at path ?:host
			or local-firewall@local
			why icmp-from-router echo-reply local-dnat`,
	}, {
		name: "a router can't reach the machine that this one translates to",
		see:  answered + "syn 0s to=other:8080\n +3.1s icmp host-unreachable from=r2",
		want: `icmp-from-router: host-down host-unreachable likely
			at destination ?:other
			or unknown@path local-firewall@local
			why icmp-from-router searched echo-reply local-dnat`,
	}, {
		name: "a refusal from a router is not the host's", misses: "icmp-from-target",
		see: answered + "syn 0s\n +0.3ms icmp refused from=r2",
		want: `icmp-from-router: reject network-firewall certain
			at path ?:r2
			why icmp-from-router echo-reply`,
	}, {
		name: "the host's address asks for smaller packets", misses: "icmp-from-target",
		see: quiet + "+0.3ms icmp too-big",
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination host-unreachable@destination return-path@path
			why silent-subject silent-echo`,
	},

	// ICMP errors from routers.
	{
		name: "a router can't reach the host, and the echo is silent",
		see:  "echo 0s\n syn 0s\n +3.1s icmp host-unreachable from=r2",
		want: `icmp-from-router: host-down host-unreachable likely
			at destination ?:host
			or unknown@path
			why icmp-from-router searched`,
	}, {
		name: "a router can't reach the host, as the echo learns too",
		see:  "echo 0s\n syn 0s\n +3.1s icmp host-unreachable from=r2\n +3.1s icmp host-unreachable for echo from=r2",
		want: `icmp-from-router: host-down host-unreachable likely
			at destination ?:host
			or unknown@path
			why icmp-from-router echo-refused searched`,
	}, {
		name: "a router has no route, as the echo learns too",
		see:  "echo 0s\n syn 0s\n +0.3ms icmp net-unreachable from=r2\n +0.3ms icmp net-unreachable for echo from=r2",
		want: `icmp-from-router: network-down net-unreachable likely
			at path ?:r2
			or network-firewall@path
			why icmp-from-router echo-refused`,
	}, {
		name: "a loop, as the echo learns too",
		see:  "echo 0s\n syn 0s\n +0.3ms icmp expired from=r2\n +0.3ms icmp expired for echo from=gw",
		want: `icmp-from-router: network-down routing-loop likely
			at path ?:r2
			or network-firewall@path
			why icmp-from-router echo-refused`,
	}, {
		name: "the echo learns something else",
		see:  "echo 0s\n syn 0s\n +0.3ms icmp host-unreachable from=r2\n +0.3ms icmp refused for echo from=r2",
		want: `icmp-from-router: host-down host-unreachable likely
			at destination ?:host
			or network-firewall@path
			why icmp-from-router`,
	}, {
		// Field note 9: "a control that the host answers turns it into a
		// reject by that device"; two more flows before that.
		name: "a router can't reach a host that answers, on eleven flows",
		see: answered + "syn 0s\n +0.3ms icmp host-unreachable from=r2\n" +
			strings.Repeat("flow 0.1s\n +0.3ms icmp host-unreachable from=r2\n", 5) + strings.Repeat("flow 0.1s\n", 5), // limited
		want: `icmp-from-router: reject network-firewall certain
			at path ?:r2
			why icmp-from-router host-alive other-flows echo-reply`,
	}, {
		name: "a router can't reach a host that answers, on three flows",
		see: answered + "syn 0s\n +0.3ms icmp host-unreachable from=r2\n" +
			strings.Repeat("flow 0.1s\n +0.3ms icmp host-unreachable from=r2\n", 2), // all may take one broken way of two
		want: `icmp-from-router: reject network-firewall likely
			at path ?:r2
			or flow-dependent@path
			why icmp-from-router host-alive echo-reply`,
	}, {
		name: "a router can't reach a host that answers, and other flows are silent",
		see:  answered + "syn 0s\n +0.3ms icmp host-unreachable from=r2\n flow 0.1s\n flow 0.1s",
		want: `icmp-from-router: reject network-firewall likely
			at path ?:r2
			or flow-dependent@path
			why icmp-from-router host-alive echo-reply`,
	}, {
		name: "a router can't reach a host that answers, and one other flow learns the same",
		see:  answered + "syn 0s\n +0.3ms icmp net-unreachable from=r2\n flow 0.1s\n +0.3ms icmp net-unreachable from=r2\n flow 0.1s",
		want: `icmp-from-router: reject network-firewall likely
			at path ?:r2
			or flow-dependent@path
			why icmp-from-router host-alive echo-reply`,
	}, {
		name: "one of several ways is broken",
		see: answered + "syn 0s\n +0.3ms icmp net-unreachable from=r2\n" +
			"flow 0.1s\n +0.3ms syn-ack\n flow 0.1s\n +0.3ms icmp net-unreachable from=r2",
		want: `icmp-from-router: partial flow-dependent likely
			at path ?:r2
			or network-firewall@path
			why icmp-from-router host-alive other-flows echo-reply`,
	}, {
		name: "one of several ways is broken, and the port is closed",
		see:  answered + "syn 0s\n +0.3ms icmp host-unreachable from=r2\n flow 0.1s\n +0.3ms reset\n flow 0.1s\n +0.3ms reset",
		want: `icmp-from-router: partial flow-dependent likely
			at path ?:r2
			or network-firewall@path
			why icmp-from-router host-alive other-flows echo-reply`,
	}, {
		// A packet that goes round is not refused, whatever reaches the host
		// beside it.
		name: "a loop for this port alone",
		see:  answered + "syn 0s\n +0.3ms icmp expired from=r2",
		want: `icmp-from-router: network-down routing-loop likely
			at path ?:r2
			or network-firewall@path
			why icmp-from-router host-alive echo-reply`,
	}, {
		name: "a device on the way translates the destination",
		see:  "syn 0s\n +0.3ms icmp refused from=r2 quotes=other:8080",
		want: `icmp-from-router: reject network-firewall certain
			at path ?:r2
			why icmp-from-router remote-nat`,
	}, {
		name: "a router's word counts though this machine's own came first",
		see:  "syn 0s\n +0.1ms icmp host-unreachable from=me on=lo\n syn 0.6s\n +0.3ms icmp refused from=r2",
		want: `icmp-from-router: reject network-firewall certain
			at path ?:r2
			why icmp-from-router`,
	}, {
		name: "a router asks for smaller packets", misses: "icmp-from-router",
		see: quiet + "+0.3ms icmp too-big from=gw",
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination host-unreachable@destination return-path@path
			why silent-subject silent-echo`,
	}, {
		name: "host-unreachable from this machine itself is no router's", misses: "icmp-from-router",
		see: "route link\n" + deadHop + silence + "+1.1s icmp host-unreachable from=me on=lo",
		want: `dead-neighbor: host-down neighbor-unreachable certain
			at destination 1:host
			why dead-neighbor`,
	},

	// Field note 18: a bare ACK is an old connection's.
	{
		name: "a bare ACK",
		see:  answered + "syn 0s 0.6s 1.2s\n +0.3ms ack",
		want: `old-connection: drop unknown ambiguous
			at unknown
			or not-accepting@destination network-firewall@path
			why old-connection echo-reply`,
	}, {
		name: "a bare ACK, and only the tap saw it",
		see:  "syn 0s 0.6s 1.2s\n +0.3ms ack swallowed",
		want: `old-connection: drop unknown ambiguous
			at unknown
			or not-accepting@destination network-firewall@path
			why old-connection`,
	}, {
		name: "a bare ACK of a machine that this one translates to",
		see:  "syn 0s 0.6s 1.2s to=other:8080\n +0.3ms ack from=other",
		want: `old-connection: drop unknown ambiguous
			at unknown
			or not-accepting@destination network-firewall@path local-firewall@local
			why old-connection local-dnat`,
	}, {
		name: "a bare ACK, then a reset",
		see:  answered + "syn 0s\n +0.3ms ack\n syn 0.6s\n +0.3ms reset\n" + looked,
		want: `reset: reject port-closed certain
			at destination 3:host
			why reset same-distance straight echo-reply`,
	},

	{
		name: "a bare ACK on another flow", misses: "old-connection",
		see: quiet + "flow 1.3s\n +0.3ms ack",
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination host-unreachable@destination return-path@path
			why silent-subject silent-echo`,
	},

	// Silence: this machine's links, its next hop, its own rules.
	{
		name: "silent, and a dead interface holds the host's prefix",
		see:  "covering eth1 no-carrier\n echo 0s\n" + silence,
		want: `covering-link-down: network-down link-down likely
			at local 0:me
			or unknown@unknown
			why covering-link-down silent-subject`,
	}, {
		name: "silent for a moment, and a dead interface holds the host's prefix",
		see:  "covering eth1 down\n syn 0s\n end 0.2s",
		want: `covering-link-down: network-down link-down ambiguous
			at local 0:me
			or unknown@unknown
			why covering-link-down silent-subject`,
	}, {
		name: "an answer by the other route", misses: "covering-link-down",
		see: "covering eth1 down\n" + answered + "syn 0s\n +0.3ms reset\n" + looked,
		want: `reset: reject port-closed certain
			at destination 3:host
			why reset same-distance straight echo-reply`,
	}, {
		name: "an echo reply by the other route", misses: "covering-link-down",
		see: "covering eth1 down\n" + silence + alive,
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination not-accepting@destination return-path@path
			why silent-subject echo-reply`,
	},
	{
		name: "a dead host on the link",
		see:  "route link\n" + deadHop + silence,
		want: `dead-neighbor: host-down neighbor-unreachable certain
			at destination 1:host
			why dead-neighbor`,
	}, {
		name: "a dead gateway, as the kernel knows too",
		see:  "neighbor failed\n" + deadHop + silence,
		want: `dead-neighbor: network-down gateway-down certain
			at local 0:me 1:gw
			why dead-neighbor neighbor-table`,
	}, {
		// A neighbour entry from before the run proves nothing.
		name: "a dead gateway that the kernel still trusts",
		see:  "neighbor reachable\n" + deadHop + silence,
		want: `dead-neighbor: network-down gateway-down certain
			at local 0:me 1:gw
			why dead-neighbor`,
	}, {
		name: "a dead host, asked in a hurry",
		see:  "route link\n ask 0s 0.4s\n syn 0s\n end 0.5s",
		want: `dead-neighbor: host-down neighbor-unreachable ambiguous
			at destination 1:host
			or unknown@unknown
			why dead-neighbor`,
	}, {
		name: "a dead host, asked once",
		see:  "route link\n ask 0s\n syn 0s\n end 0.1s",
		want: `dead-neighbor: host-down neighbor-unreachable ambiguous
			at destination 1:host
			or unknown@unknown
			why dead-neighbor`,
	}, {
		name: "a dead host, asked three times but not waited for",
		see:  "route link\n ask 0s 0.4s 0.8s\n syn 0s\n end 0.9s\n interrupted",
		want: `dead-neighbor: host-down neighbor-unreachable ambiguous
			at destination 1:host
			or unknown@unknown
			why dead-neighbor`,
	}, {
		name: "a dead host, but the tap lost packets",
		see:  "drops 2\n route link\n" + deadHop + silence,
		want: `dead-neighbor: host-down neighbor-unreachable ambiguous
			at destination 1:host
			or unknown@unknown
			why dead-neighbor tap-drops`,
	}, {
		name: "one request answered", misses: "dead-neighbor",
		see: "route link\n ask 0s 0.4s answered\n" + quiet,
		want: `silent-subject: drop host-firewall ambiguous
			at destination 1:host
			or host-unreachable@destination network-firewall@path
			why silent-subject silent-echo`,
	}, {
		name: "an echo reply by a next hop that answers no request", misses: "dead-neighbor",
		see: deadHop + silence + answered + "end 4.3s",
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination not-accepting@destination return-path@path
			why silent-subject echo-reply`,
	}, {
		name: "an ICMP error by a next hop that answers no request", misses: "dead-neighbor",
		see: deadHop + "syn 0s\n +0.3ms icmp refused from=r2",
		want: `icmp-from-router: reject network-firewall certain
			at path ?:r2
			why icmp-from-router`,
	}, {
		name: "an ICMP error for the echo by a next hop that answers no request", misses: "dead-neighbor",
		see: deadHop + "echo 0s\n" + silence + "+3s icmp host-unreachable for echo from=r2\n end 4.3s",
		want: `echo-refused: host-down host-unreachable likely
			at destination ?:host
			or network-firewall@path
			why silent-subject echo-refused`,
	},
	{
		name: "the SYNs never left",
		see:  "ask 0s answered\n syn 0s 0.6s 1.2s unseen",
		want: `never-departed: drop local-firewall likely
			at local 0:me
			or link-down@local
			why never-departed`,
	}, {
		name: "the SYNs were not seen to leave, but the tap lost packets", misses: "never-departed",
		see: "drops 3\n ask 0s answered\n echo 0s\n syn 0s 0.6s 1.2s unseen",
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination host-unreachable@destination return-path@path
			why silent-subject silent-echo tap-drops`,
	}, {
		name: "the only SYN never left",
		see:  "ask 0s answered\n syn 0s unseen",
		want: `never-departed: drop local-firewall likely
			at local 0:me
			or link-down@local
			why never-departed`,
	}, {
		name: "one SYN was seen to leave", misses: "never-departed",
		see: "ask 0s answered\n echo 0s\n syn 0s unseen\n syn 0.6s 1.2s",
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination host-unreachable@destination return-path@path
			why silent-subject silent-echo`,
	}, {
		name: "not seen to leave, and yet answered", misses: "never-departed",
		see: answered + "syn 0s unseen\n +0.3ms syn-ack\n" + looked,
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight echo-reply`,
	},
	{
		name: "this machine does not answer itself",
		see:  "route local\n" + silence,
		want: `silent-local: drop local-firewall likely
			at local 0:host
			or not-accepting@destination
			why silent-subject`,
	}, {
		name: "this machine does not answer itself at once",
		see:  "route local\n syn 0s\n end 0.2s",
		want: `silent-local: drop local-firewall ambiguous
			at local 0:host
			or not-accepting@destination
			why silent-subject`,
	}, {
		name: "this machine answers itself", misses: "silent-local",
		see: "route local\n" + silence + "+0.1ms syn-ack",
		want: `syn-ack: open listening certain
			why syn-ack`,
	}, {
		name: "silence of a host on the link is not this machine's", misses: "silent-local",
		see: "route link\n" + silence + alive,
		want: `silent-subject: drop host-firewall ambiguous
			at destination 1:host
			or not-accepting@destination network-firewall@path
			why silent-subject echo-reply`,
	},

	// Silence of the SYN, with a word about the echo.
	{
		name: "silent, and the echo finds no way to the host",
		see:  "echo 0s\n +3.1s icmp host-unreachable from=r2 for echo\n" + silence,
		want: `echo-refused: host-down host-unreachable likely
			at destination ?:host
			or network-firewall@path
			why silent-subject echo-refused`,
	}, {
		name: "silent, and the echo finds no route",
		see:  "echo 0s\n +0.3ms icmp net-unreachable from=r2 for echo\n" + silence,
		want: `echo-refused: network-down net-unreachable likely
			at path ?:r2
			or network-firewall@path
			why silent-subject echo-refused`,
	}, {
		name: "silent, and the echo goes round",
		see:  "echo 0s\n +0.3ms icmp expired from=r2 for echo\n" + silence,
		want: `echo-refused: network-down routing-loop likely
			at path ?:r2
			or network-firewall@path
			why silent-subject echo-refused`,
	}, {
		// One echo of two was lost, as all of three SYNs are one time in eight.
		name: "an echo that the host answered after all", misses: "echo-refused",
		see: "echo 0s\n +0.3ms icmp host-unreachable from=r2 for echo\n" + silence + answered,
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination
			why silent-subject loss echo-reply`,
	}, {
		// That echoes are not wanted says nothing about the host's health.
		name: "a router refuses echoes", misses: "echo-refused",
		see: "echo 0s\n +0.3ms icmp refused from=r2 for echo\n" + silence,
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination host-unreachable@destination return-path@path
			why silent-subject echo-refused`,
	}, {
		// The address that refuses echoes is alive.
		name: "the host refuses echoes", misses: "echo-refused",
		see: "echo 0s\n +0.3ms icmp refused for echo\n" + silence,
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination not-accepting@destination return-path@path
			why silent-subject echo-refused`,
	}, {
		name: "the host on the link refuses echoes", misses: "echo-refused",
		see: "route link\n echo 0s\n +0.3ms icmp refused for echo\n" + silence,
		want: `silent-subject: drop host-firewall ambiguous
			at destination 1:host
			or not-accepting@destination network-firewall@path
			why silent-subject echo-refused`,
	},

	// An answer that is much faster than the host's echo.
	{
		name: "each SYN-ACK comes before an echo could",
		see:  "syn 0s\n +2ms syn-ack\n echo 0s\n +80ms echo-reply\n syn 0.1s\n +2ms syn-ack\n" + strings.ReplaceAll(looked, "0.4ms", "80ms"),
		want: `syn-ack: open listening likely
			or proxy@path
			why syn-ack same-distance straight too-fast echo-reply`,
	}, {
		name: "each reset comes before an echo could",
		see:  "syn 0s\n +2ms reset\n echo 0s\n +80ms echo-reply\n syn 0.1s\n +2ms reset\n" + strings.ReplaceAll(looked, "0.4ms", "80ms"),
		want: `reset: reject port-closed likely
			at destination 3:host
			or network-firewall@path
			why reset same-distance straight too-fast echo-reply`,
	}, {
		name: "one SYN-ACK has overtaken the echo",
		see:  "syn 0s\n +2ms syn-ack\n echo 0s\n +80ms echo-reply\n syn 0.1s\n +80ms syn-ack\n" + strings.ReplaceAll(looked, "0.4ms", "80ms"),
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight echo-reply`,
	},

	// Other source ports of a port that answers.
	{
		name: "some source ports get no answer",
		see: "syn 0s\n +0.3ms syn-ack\n" + answered + "flow 0.1s port=41001\n +0.3ms syn-ack\n" +
			"flow 0.1s 0.7s 1.3s port=41002\n end 2.4s",
		want: `mixed-flows: partial flow-dependent likely
			at path
			or network-firewall@path host-firewall@destination
			why mixed-flows echo-reply`,
	}, {
		name: "the only other source port gets no answer",
		see:  "syn 0s\n +0.3ms syn-ack\n" + answered + "flow 0.1s 0.7s 1.3s port=41002\n end 2.4s",
		want: `mixed-flows: partial flow-dependent likely
			at path
			or network-firewall@path host-firewall@destination
			why mixed-flows echo-reply`,
	}, {
		name: "one source port has got no answer in two tries", misses: "mixed-flows",
		see: "syn 0s\n +0.3ms syn-ack\n" + answered + "flow 0.1s port=41001\n +0.3ms syn-ack\n" +
			"flow 0.1s 0.7s port=41002\n end 2.4s\n" + looked,
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight echo-reply`,
	}, {
		name: "one source port has been waited for too briefly", misses: "mixed-flows",
		see: "syn 0s\n +0.3ms syn-ack\n" + answered + "flow 0.1s 0.7s 1.3s port=41002\n end 2.2s\n" + looked,
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight echo-reply`,
	},

	// Silence with the TTL stepped: where it begins.
	{
		// Field note 1: gw may drop after its TTL check, r2 on the way in.
		name: "a firewall between the first two routers",
		see: silence + alive + echoPath + "tcp-443 1.5s ttl=2\n +0.3ms icmp expired from=r2\n" +
			"syn 1.3s ttl=1\n +0.2ms icmp expired from=gw\n" +
			"syn 1.3s 1.9s 2.5s ttl=2\n syn 1.3s 1.9s 2.5s ttl=3\n" + strings.Repeat("flow 1.3s\n", 10),
		want: `bracket: drop network-firewall certain
			at path 1:gw 2:r2
			why silent-subject subject-path control-passes host-alive other-flows echo-reply`,
	}, {
		// The ACK goes the SYN's own way: no other flow has to be tried.
		name: "a firewall between the first two routers, past which an ACK of the same flow goes",
		see: silence + alive + echoPath + "tcp-ack 1.5s ttl=2\n +0.3ms icmp expired from=r2\n" +
			"syn 1.3s ttl=1\n +0.2ms icmp expired from=gw\n syn 1.3s 1.9s 2.5s ttl=2\n syn 1.3s 1.9s 2.5s ttl=3",
		want: `bracket: drop network-firewall certain
			at path 1:gw 2:r2
			why silent-subject subject-path control-passes host-alive echo-reply`,
	}, {
		// One ACK of two got no answer: so may the SYNs have been lost.
		name: "a firewall between the first two routers, or loss that an ACK met",
		see: silence + alive + echoPath + "tcp-ack 1.5s ttl=2\n +0.3ms icmp expired from=r2\n tcp-ack 1.4s ttl=1\n tcp-ack 1.6s ttl=1\n +0.2ms icmp expired from=gw\n" +
			"syn 1.3s ttl=1\n +0.2ms icmp expired from=gw\n syn 1.3s 1.6s 1.9s 2.2s 2.5s ttl=2",
		want: `bracket: drop network-firewall likely
			at path 1:gw 2:r2
			or host-firewall@destination return-path@path network-firewall@path
			why silent-subject subject-path control-passes host-alive loss echo-reply`,
	}, {
		// So many SYNs are not lost by chance where one ACK of three was.
		name: "a firewall between the first two routers, and loss that does not explain it",
		see: silence + alive + echoPath + "tcp-ack 1.5s ttl=2\n +0.3ms icmp expired from=r2\n tcp-ack 1.4s ttl=1\n tcp-ack 1.6s ttl=1\n +0.2ms icmp expired from=gw\n" +
			"syn 1.3s ttl=1\n +0.2ms icmp expired from=gw\n" + strings.Repeat("syn 1.3s 1.4s 1.5s 1.6s 1.9s ttl=2\n", 4),
		want: `bracket: drop network-firewall certain
			at path 1:gw 2:r2
			why silent-subject subject-path control-passes host-alive echo-reply`,
	}, {
		// What r2 said may be among what was lost.
		name: "a firewall between the first two routers, but the tap lost packets",
		see: silence + alive + echoPath + "tcp-ack 1.5s ttl=2\n +0.3ms icmp expired from=r2\n" +
			"syn 1.3s ttl=1\n +0.2ms icmp expired from=gw\n syn 1.3s 1.9s 2.5s ttl=2\n syn 1.3s 1.9s 2.5s ttl=3\n drops 3",
		want: `bracket: drop network-firewall likely
			at path 1:gw 2:r2
			or unknown@unknown
			why silent-subject subject-path control-passes host-alive echo-reply tap-drops`,
	}, {
		// As for two of these, its limit may leave no word for the SYNs.
		name: "a firewall behind a router that answers some of the controls only",
		see: silence + alive + echoPath + "tcp-443 1.5s ttl=2\n +0.3ms icmp expired from=r2\n tcp-443 2.1s 2.7s ttl=2\n" +
			"syn 1.3s ttl=1\n +0.2ms icmp expired from=gw\n" +
			"syn 1.3s 1.9s 2.5s ttl=2\n syn 1.3s 1.9s 2.5s ttl=3\n" + strings.Repeat("flow 1.3s\n", 10),
		want: `bracket: drop network-firewall likely
			at path 1:gw 2:r2
			or network-firewall@path host-firewall@destination return-path@path
			why silent-subject subject-path control-passes host-alive few-answers other-flows echo-reply`,
	}, {
		// The first router's limit for ICMP leaves no word for the echo.
		name: "a firewall between the first two routers, and the first has no word for the echo",
		see: silence + alive + strings.Replace(echoPath, " +0.2ms icmp expired for echo from=gw\n", "", 1) + "tcp-443 1.5s ttl=2\n +0.3ms icmp expired from=r2\n" +
			"syn 1.3s ttl=1\n +0.2ms icmp expired from=gw\n syn 1.3s 1.9s 2.5s ttl=2\n syn 1.3s 1.9s 2.5s ttl=3\n" + strings.Repeat("flow 1.3s\n", 10),
		want: `bracket: drop network-firewall likely
			at path 1:gw 2:r2
			or host-firewall@destination return-path@path network-firewall@path flow-dependent@path
			why silent-subject subject-path control-passes host-alive loss few-answers echo-reply`,
	}, {
		name: "the same, and the second answers some of the controls only",
		see: silence + alive + strings.Replace(echoPath, " +0.2ms icmp expired for echo from=gw\n", "", 1) + "tcp-443 1.5s ttl=2\n +0.3ms icmp expired from=r2\n tcp-443 2.1s 2.7s ttl=2\n" +
			"syn 1.3s ttl=1\n +0.2ms icmp expired from=gw\n syn 1.3s 1.9s 2.5s ttl=2\n syn 1.3s 1.9s 2.5s ttl=3\n" + strings.Repeat("flow 1.3s\n", 10),
		want: `bracket: drop network-firewall likely
			at path 1:gw 2:r2
			or network-firewall@path host-firewall@destination return-path@path flow-dependent@path
			why silent-subject subject-path control-passes host-alive few-answers few-answers echo-reply`,
	}, {
		name: "a firewall between the first two routers, and the echo meets another first one",
		see: silence + alive + strings.Replace(echoPath, "from=gw", "from=other", 1) + "tcp-443 1.5s ttl=2\n +0.3ms icmp expired from=r2\n" +
			"syn 1.3s ttl=1\n +0.2ms icmp expired from=gw\n syn 1.3s 1.9s 2.5s ttl=2\n syn 1.3s 1.9s 2.5s ttl=3\n" + strings.Repeat("flow 1.3s\n", 10),
		want: `bracket: drop network-firewall likely
			at path 1:gw 2:r2
			or flow-dependent@path network-firewall@path host-firewall@destination return-path@path
			why silent-subject subject-path control-passes host-alive other-way echo-reply`,
	}, {
		// The SYN to port 443 that r2 named may have taken a longer way, and so not
		// have met the second hop of the subject's, where nobody says anything.
		name: "a firewall between two routers, and the host's answers come from two distances",
		see: silence + "tcp-443 0s\n +0.4ms reset ttl=62\n tcp-443 0.1s\n +0.4ms reset ttl=61\n" +
			"tcp-443 1.3s ttl=1\n +0.2ms icmp expired from=gw ttl=64\n tcp-443 1.3s ttl=2\n +0.3ms icmp expired from=r2 ttl=63\n tcp-443 1.3s ttl=3\n +0.4ms reset ttl=62\n" +
			"syn 1.3s ttl=1\n +0.2ms icmp expired from=gw ttl=64\n syn 1.3s 1.9s 2.5s ttl=2\n syn 1.3s 1.9s 2.5s ttl=3\n" + strings.Repeat("flow 1.3s\n", 10),
		want: `bracket: drop network-firewall likely
			at path 1:gw 2:r2
			or flow-dependent@path network-firewall@path host-firewall@destination return-path@path
			why silent-subject subject-path control-passes host-alive other-way`,
	}, {
		name: "the same, and all of the host's answers come from one distance",
		see: silence + "tcp-443 0s\n +0.4ms reset ttl=62\n tcp-443 0.1s\n +0.4ms reset ttl=62\n" +
			"tcp-443 1.3s ttl=1\n +0.2ms icmp expired from=gw ttl=64\n tcp-443 1.3s ttl=2\n +0.3ms icmp expired from=r2 ttl=63\n tcp-443 1.3s ttl=3\n +0.4ms reset ttl=62\n" +
			"syn 1.3s ttl=1\n +0.2ms icmp expired from=gw ttl=64\n syn 1.3s 1.9s 2.5s ttl=2\n syn 1.3s 1.9s 2.5s ttl=3\n" + strings.Repeat("flow 1.3s\n", 10),
		want: `bracket: drop network-firewall certain
			at path 1:gw 2:r2
			why silent-subject subject-path control-passes host-alive other-flows`,
	}, {
		// A SYN to port 443 met gw one hop later, by a longer way: who is there on
		// the subject's way says nothing.
		name: "a firewall about a silent router, where another way is longer",
		see: silence + "echo 0s\n +0.4ms echo-reply ttl=61\n echo 1.3s ttl=1\n +0.2ms icmp expired for echo from=gw\n echo 1.3s ttl=3\n +0.3ms icmp expired for echo from=r2\n" +
			"echo 1.3s ttl=4\n +0.4ms echo-reply ttl=61\n tcp-443 1.5s ttl=2\n +0.3ms icmp expired from=gw\n tcp-443 1.5s ttl=3\n +0.3ms icmp expired from=r2\n" +
			"syn 1.3s ttl=1\n +0.2ms icmp expired from=gw\n syn 1.3s 1.9s 2.5s ttl=2\n syn 1.3s 1.9s 2.5s ttl=3\n syn 1.3s 1.9s 2.5s ttl=4\n" + strings.Repeat("flow 1.3s\n", 10),
		want: `bracket: drop network-firewall certain
			at path 1:gw 2:- 3:r2
			why silent-subject subject-path control-passes host-alive other-flows echo-reply`,
	}, {
		// gw translates, and says in the host's name that SYNs expire there.
		name: "silent routers between a translator and the host",
		see: silence + alive + "echo 1.3s ttl=1\n +0.2ms icmp expired for echo from=gw\n echo 1.3s ttl=2\n echo 1.3s ttl=3\n +0.4ms echo-reply\n" +
			"syn 1.3s ttl=1\n +0.2ms icmp expired\n syn 1.3s 1.9s 2.5s ttl=2\n syn 1.3s 1.9s 2.5s ttl=3",
		want: `bracket: drop unknown ambiguous
			at unknown 1:gw 2:- 3:host
			or network-firewall@path host-firewall@destination not-accepting@destination return-path@path
			why silent-subject subject-path host-alive echo-reply`,
	}, {
		// Many who ask at once use up what a router may say (field note 3).
		name: "a silent router refuses an ACK, and may have refused the SYNs",
		see: silence + alive + "echo 1.3s 1.9s ttl=1\n echo 1.3s ttl=2\n +0.3ms icmp expired for echo from=r2\n echo 1.3s ttl=3\n +0.4ms echo-reply\n" +
			"tcp-443 1.5s ttl=2\n +0.3ms icmp expired from=r2\n tcp-ack 1.6s\n +0.2ms icmp refused from=gw\n" +
			"syn 1.3s 1.9s 2.5s ttl=1\n syn 1.3s 1.9s 2.5s ttl=2\n syn 1.3s 1.9s 2.5s ttl=3\n" + strings.Repeat("flow 1.3s\n", 10),
		want: `bracket: drop network-firewall likely
			at path 1:- 2:r2
			or network-firewall@path
			why silent-subject subject-path control-passes host-alive other-flows refused-ack echo-reply`,
	}, {
		name: "the only suspect refuses an ACK, and may have refused the SYNs",
		see: silence + alive + echoPath + "tcp-443 1.5s ttl=1\n +0.2ms icmp expired from=gw\n tcp-ack 1.6s\n +0.2ms icmp refused from=gw\n" +
			"syn 1.3s 1.9s 2.5s ttl=1\n syn 1.3s 1.9s 2.5s ttl=2\n syn 1.3s 1.9s 2.5s ttl=3\n" + strings.Repeat("flow 1.3s\n", 10),
		want: `bracket: drop network-firewall likely
			at path 1:gw
			or unknown@unknown
			why silent-subject subject-path control-passes host-alive other-flows refused-ack echo-reply`,
	}, {
		// Errors about TCP may be what is dropped.
		name: "a firewall between the first two routers, as far as echoes alone show",
		see: silence + alive + echoPath + "syn 1.3s ttl=1\n +0.2ms icmp expired from=gw\n" +
			"syn 1.3s 1.9s 2.5s ttl=2\n syn 1.3s 1.9s 2.5s ttl=3\n" + strings.Repeat("flow 1.3s\n", 10),
		want: `bracket: drop network-firewall likely
			at path 1:gw 2:r2
			or host-firewall@destination
			why silent-subject subject-path control-passes host-alive other-flows echo-reply`,
	}, {
		// Of two ways one may be broken, and all flows may take it.
		name: "a firewall between the first two routers, or one broken way of several",
		see: silence + alive + echoPath + "tcp-443 1.5s ttl=2\n +0.3ms icmp expired from=r2\n" +
			"syn 1.3s ttl=1\n +0.2ms icmp expired from=gw\n" +
			"syn 1.3s 1.9s 2.5s ttl=2\n syn 1.3s 1.9s 2.5s ttl=3\n flow 1.3s\n flow 1.3s",
		want: `bracket: drop network-firewall likely
			at path 1:gw 2:r2
			or flow-dependent@path
			why silent-subject subject-path control-passes host-alive other-flows echo-reply`,
	}, {
		name: "a firewall between the first two routers, as far as an interrupted run shows",
		see: silence + alive + echoPath + "tcp-443 1.5s ttl=2\n +0.3ms icmp expired from=r2\n" +
			"syn 1.3s ttl=1\n +0.2ms icmp expired from=gw\n syn 1.3s ttl=2\n syn 1.3s ttl=3\n interrupted",
		want: `bracket: drop network-firewall ambiguous
			at path 1:gw 2:r2
			or host-firewall@destination flow-dependent@path
			why silent-subject subject-path control-passes host-alive few-tries echo-reply`,
	}, {
		name: "a firewall between the first two routers, as far as two SYNs show",
		see: silence + alive + echoPath + "tcp-443 1.5s ttl=2\n +0.3ms icmp expired from=r2\n" +
			"syn 1.3s ttl=1\n +0.2ms icmp expired from=gw\n syn 1.3s 1.9s ttl=2\n syn 1.3s 1.9s ttl=3\n interrupted",
		want: `bracket: drop network-firewall ambiguous
			at path 1:gw 2:r2
			or host-firewall@destination flow-dependent@path
			why silent-subject subject-path control-passes host-alive few-tries echo-reply`,
	}, {
		// Field note 36: five faults give these packets.
		name: "lost at the last step",
		see: silence + alive + echoPath + "syn 1.3s ttl=1\n +0.2ms icmp expired from=gw\n" +
			"syn 1.3s ttl=2\n +0.3ms icmp expired from=r2\n syn 1.3s ttl=3",
		want: `bracket: drop host-firewall ambiguous
			at destination 3:host
			or not-accepting@destination network-firewall@path return-path@path
			why silent-subject subject-path last-step host-alive echo-reply`,
	}, {
		name: "stepped, but the wait was too short", misses: "bracket",
		see: "syn 0s 1.2s\n" + alive + echoPath + "syn 1.3s ttl=1\n +0.2ms icmp expired from=gw\n syn 1.3s ttl=2\n syn 1.3s ttl=3",
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination
			why silent-subject echo-reply`,
	}, {
		name: "some source ports get through, each time",
		see: silence + alive + "flow 1.3s port=41000\n +0.3ms syn-ack\n" +
			"flow 1.9s port=41000\n +0.3ms syn-ack\n flow 2.5s port=41000\n +0.3ms syn-ack",
		want: `other-flows: partial flow-dependent likely
			at path
			or network-firewall@path host-firewall@destination
			why silent-subject other-flows echo-reply`,
	}, {
		name: "another source port got through once",
		see:  silence + alive + "flow 1.3s port=41000\n +0.3ms syn-ack",
		want: `other-flows: partial flow-dependent likely
			at path
			or network-firewall@path host-firewall@destination unknown@unknown
			why silent-subject other-flows echo-reply`,
	}, {
		name: "all other source ports get through, each time",
		see: silence + alive + "flow 1.3s 1.9s 2.5s port=41000\n +0.3ms syn-ack\n +0.3ms syn-ack\n +0.3ms syn-ack\n" +
			"flow 1.3s 1.9s 2.5s port=41001\n +0.3ms syn-ack\n +0.3ms syn-ack\n +0.3ms syn-ack",
		want: `other-flows: partial flow-dependent likely
			at path
			or network-firewall@path host-firewall@destination
			why silent-subject other-flows echo-reply`,
	}, {
		name: "no other source port gets through", misses: "other-flows",
		see: silence + alive + "flow 1.3s port=41000\n flow 1.3s port=41001",
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination not-accepting@destination return-path@path
			why silent-subject echo-reply`,
	}, {
		name: "the path goes round",
		see: quiet + "syn 1.3s ttl=1\n +0.2ms icmp expired from=gw\n syn 1.3s ttl=2\n +0.2ms icmp expired from=r2\n" +
			"syn 1.3s ttl=3\n +0.2ms icmp expired from=gw\n syn 1.3s ttl=4\n +0.2ms icmp expired from=r2",
		want: `loop: network-down routing-loop certain
			at path 1:gw 2:r2
			why silent-subject loop`,
	}, {
		name: "followed to the first hop only",
		see:  silence + "syn 1.3s ttl=1\n +0.2ms icmp expired from=gw\n echo 1.3s ttl=1\n +0.2ms icmp expired from=gw",
		want: `bracket: drop unknown ambiguous
			at path 1:gw 2:-
			or network-firewall@path host-firewall@destination host-unreachable@destination return-path@path
			why silent-subject subject-path silent-controls`,
	}, {
		name: "no hop answers, and only the first was asked, once",
		see:  quiet + "syn 1.3s ttl=1",
		want: `bracket: drop unknown ambiguous
			at path 1:-
			or network-firewall@path host-firewall@destination host-unreachable@destination return-path@path
			why silent-subject subject-path silent-controls`,
	}, {
		name: "no hop answers, and two were asked, once each",
		see:  quiet + "syn 1.3s ttl=1\n syn 1.3s ttl=2\n echo 1.3s ttl=1",
		want: `bracket: drop unknown ambiguous
			at path 1:-
			or network-firewall@path host-firewall@destination host-unreachable@destination return-path@path
			why silent-subject subject-path silent-controls`,
	}, {
		// Field note 10: a router that forwards TTL 0 answers twice.
		name: "adjacent repeats are no loop", misses: "loop",
		see: quiet + "syn 1.3s ttl=1\n +0.2ms icmp expired from=gw\n syn 1.3s ttl=2\n +0.2ms icmp expired from=gw\n" +
			"syn 1.3s ttl=3\n +0.2ms icmp expired from=r2\n syn 1.3s ttl=4",
		want: `bracket: drop unknown ambiguous
			at path 3:r2 4:-
			or network-firewall@path host-firewall@destination host-unreachable@destination return-path@path
			why silent-subject subject-path silent-controls`,
	},

	// Plain silence: field note 36 forbids to be certain of anything.
	{
		name: "silent, and nothing is known of the host",
		see:  "echo 0s 0.6s 1.2s\n" + silence,
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination host-unreachable@destination return-path@path
			why silent-subject silent-echo`,
	}, {
		// This machine's own firewall refuses echoes.
		name: "silent, and no echo could be sent",
		see:  "echo 0s 0.6s 1.2s refused=not-permitted\n" + silence,
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination host-unreachable@destination return-path@path
			why silent-subject not-sent`,
	}, {
		name: "silent, and the host is alive",
		see:  silence + alive,
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination not-accepting@destination return-path@path
			why silent-subject echo-reply`,
	}, {
		name: "silent behind a tunnel, and the host is alive",
		see:  "route tunnel\n" + silence + alive,
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination not-accepting@destination return-path@path
			why silent-subject echo-reply`,
	}, {
		// 1 echo of 3 lost, 3 SYNs: (1/3)^3 = 0.037.
		name: "silent, but a third of the packets get lost",
		see:  "echo 0s\n +0.4ms echo-reply\n echo 0.6s\n echo 1.2s\n +0.4ms echo-reply\n" + silence,
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination
			why silent-subject loss echo-reply`,
	}, {
		// (1/3)^7 = 0.00046, below 1 in 1,000.
		name: "silent for seven SYNs, though a third of the packets get lost",
		see:  "echo 0s\n +0.4ms echo-reply\n echo 0.6s\n echo 1.2s\n +0.4ms echo-reply\n syn 0s 0.6s 1.2s 1.5s 1.8s 2.1s 2.4s",
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination not-accepting@destination return-path@path
			why silent-subject echo-reply`,
	}, {
		name: "two tries are no silence",
		see:  "route link\n syn 0s 1.2s\n" + answered,
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination
			why silent-subject echo-reply`,
	}, {
		name: "tries over 1.1 s are no silence",
		see:  "route link\n syn 0s 0.6s 1.1s\n" + answered,
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination
			why silent-subject echo-reply`,
	}, {
		name: "0.9 s of listening is no silence",
		see:  "route link\n end 2.1s\n" + silence + answered,
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination
			why silent-subject echo-reply`,
	}, {
		name: "a second of listening is",
		see:  "route link\n end 2.2s\n" + silence + answered,
		want: `silent-subject: drop host-firewall ambiguous
			at destination 1:host
			or not-accepting@destination network-firewall@path
			why silent-subject echo-reply`,
	}, {
		// The SYN that the kernel refused was no try.
		name: "of three tries, one was refused",
		see:  "route link\n syn 0s refused=other\n syn 0.6s 1.2s\n" + answered,
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination
			why silent-subject echo-reply`,
	}, {
		name: "interrupted",
		see:  "syn 0s\n end 0.3s\n interrupted",
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination
			why silent-subject`,
	}, {
		name: "interrupted before anything was sent",
		see:  "end 0.1s\n interrupted",
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination
			why not-sent`,
	}, {
		name: "a refused echo makes it more than plain silence", misses: "silent-subject",
		see: "echo 0s\n +0.3ms icmp net-unreachable from=r2 for echo\n" + silence,
		want: `echo-refused: network-down net-unreachable likely
			at path ?:r2
			or network-firewall@path
			why silent-subject echo-refused`,
	},
}

// families are those that a case is played in.
func (c *explained) families() []family {
	if c.only != 0 {
		return []family{c.only}
	}
	return []family{v4, v6}
}

func TestExplain(t *testing.T) {
	for _, c := range cases {
		for _, f := range c.families() {
			t.Run(c.name+"/IPv"+string('0'+rune(f)), func(t *testing.T) {
				o := f.observations(c.see)
				d := Explain(o)
				if diff := cmp.Diff(trim(c.want), f.short(decider(o), d)); diff != "" {
					t.Errorf("want -, got +\n%s\n%q", diff, d.Summary)
				}
				if c.misses != "" {
					m := checkNamed(t, c.misses)
					// The last check takes whatever the others leave.
					if last := checks[len(checks)-1].name; m.name == last && decider(o) == last || m.name != last && m.find(look(o)) != nil {
						t.Errorf("%s applies", c.misses)
					}
				}
				for _, wrong := range violations(o, &d) {
					t.Error(wrong)
				}
			})
		}
	}
}

// TestEveryCheckIsTested holds the cases against the list of checks: each must
// decide at least one, and have at least one near miss.
func TestEveryCheckIsTested(t *testing.T) {
	decides, missed := make(map[string]int), make(map[string]int)
	for _, c := range cases {
		for _, f := range c.families() {
			decides[decider(f.observations(c.see))]++
		}
		if c.misses != "" {
			missed[checkNamed(t, c.misses).name]++
		}
	}
	for _, c := range checks {
		if decides[c.name] == 0 {
			t.Errorf("no case in which %s decides", c.name)
		}
		if missed[c.name] == 0 {
			t.Errorf("no near miss of %s", c.name)
		}
	}
}
