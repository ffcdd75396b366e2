package diagnose

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"synprobe/rawprobe"
)

// A lapsed is a transcript of a run in which something went away and came back.
type lapsed struct {
	name  string
	only  family // 0 for both
	lapse rawprobe.Lapse
	see   string
	// says is what the evidence must say of it, by names; "" for nothing.
	says string
	want string
}

// stopped is a path on which everything but the SYN goes past gw: that a device
// between gw and r2 drops it is certain.
var stopped = silence + alive + echoPath + "tcp-443 1.5s ttl=2\n +0.3ms icmp expired from=r2\n" +
	"syn 1.3s ttl=1\n +0.2ms icmp expired from=gw\n" +
	"syn 1.3s 1.9s 2.5s ttl=2\n syn 1.3s 1.9s 2.5s ttl=3\n" + strings.Repeat("flow 1.3s\n", 10)

const openPort = answered + "syn 0s\n +0.3ms syn-ack\n"

var lapses = []lapsed{
	// What rests on a silence is not certain any more.
	{
		name: "nothing lapsed under a drop",
		see:  stopped,
		want: certainDrop,
	}, {
		name: "the interface under a drop", lapse: rawprobe.LapseDown,
		see: stopped, says: "interface eth0 went down and came back during the run",
		want: doubtfulDrop,
	}, {
		name: "the interface was removed under a drop", lapse: rawprobe.LapseRemoved,
		see: stopped, says: "interface eth0 was removed and came back during the run",
		want: doubtfulDrop,
	}, {
		name: "the carrier under a drop", lapse: rawprobe.LapseNoCarrier,
		see: stopped, says: "interface eth0 lost its carrier and got it back during the run",
		want: doubtfulDrop,
	}, {
		name: "the address under a drop", lapse: rawprobe.LapseNoAddress,
		see: stopped, says: "the address me was removed and came back during the run",
		want: doubtfulDrop,
	}, {
		name: "the route under a drop", lapse: rawprobe.LapseNoRoute,
		see: stopped, says: "the route to host went away and came back during the run",
		want: doubtfulDrop,
	}, {
		name: "another route under a drop", lapse: rawprobe.LapseOtherRoute,
		see: stopped, says: "the route to host changed and changed back during the run",
		want: doubtfulDrop,
	}, {
		// It may have been something else: that needs a coincidence.
		name: "nobody knows what, under a drop", lapse: rawprobe.LapseUnknown,
		see: stopped, says: "more of this machine's links, addresses and routes changed than could be followed during the run",
		want: strings.Replace(doubtfulDrop, "ambiguous", "likely", 1),
	}, {
		// A file of a later version may say so.
		name: "a lapse of another kind under a drop", lapse: "moon",
		see: stopped, says: "more of this machine's links, addresses and routes changed than could be followed during the run",
		want: strings.Replace(doubtfulDrop, "ambiguous", "likely", 1),
	}, {
		name: "the interface under a dead next hop", lapse: rawprobe.LapseDown,
		see: deadHop + silence, says: "interface eth0 went down and came back during the run",
		want: `dead-neighbor: network-down gateway-down ambiguous
			at local 0:me 1:gw
			or unknown@unknown
			why dead-neighbor changed`,
	}, {
		name: "the interface, and nothing was known anyway", lapse: rawprobe.LapseDown,
		see: "syn 0s\n end 0.5s", says: "interface eth0 went down and came back during the run",
		want: `silent-subject: drop unknown ambiguous
			at unknown
			or network-firewall@path host-firewall@destination
			why silent-subject changed`,
	},

	// An answer from outside is one, whatever went on.
	{
		name: "the interface before the answer", lapse: rawprobe.LapseDown,
		see: openPort + looked, says: "interface eth0 went down and came back during the run",
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight changed echo-reply`,
	}, {
		name: "nobody knows what, before the answer", lapse: rawprobe.LapseUnknown,
		see: openPort + looked, says: "more of this machine's links, addresses and routes changed than could be followed during the run",
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight changed echo-reply`,
	}, {
		name: "the answer came, and the next SYN was refused", lapse: rawprobe.LapseDown,
		see: openPort + looked + "syn 0.6s refused=link-down", says: "interface eth0 went down and came back during the run",
		want: `syn-ack: open listening certain
			why syn-ack same-distance straight changed echo-reply`,
	}, {
		// Those ports that are silent may have been asked just then.
		name: "the interface, and some source ports get no answer", lapse: rawprobe.LapseDown,
		see:  "syn 0s\n +0.3ms syn-ack\n" + answered + "flow 0.1s port=41001\n +0.3ms syn-ack\n flow 0.1s 0.7s 1.3s port=41002\n end 2.4s",
		says: "interface eth0 went down and came back during the run",
		want: `mixed-flows: partial flow-dependent ambiguous
			at path
			or network-firewall@path host-firewall@destination unknown@unknown
			why mixed-flows changed echo-reply`,
	},

	// A SYN that could not leave meanwhile: the way is there again, so that "there
	// is none" would be wrong.
	{
		name: "the only SYN was refused for a lapse of the interface", lapse: rawprobe.LapseDown,
		see: "syn 0s refused=link-down", says: "interface eth0 went down and came back during the run",
		want: `way-lost: network-down link-down likely
			at local 0:me
			or unknown@unknown
			why link-down`,
	}, {
		name: "the second SYN was refused for a lapse of the interface", lapse: rawprobe.LapseDown,
		see: "syn 0s\n syn 0.6s refused=no-route", says: "interface eth0 went down and came back during the run",
		want: `way-lost: network-down link-down likely
			at local 0:me
			or unknown@unknown
			why link-down`,
	}, {
		name: "a SYN was refused for a lapse of the address", lapse: rawprobe.LapseNoAddress,
		see: "syn 0s\n syn 0.6s refused=blackhole", says: "the address me was removed and came back during the run",
		want: `way-lost: network-down no-address likely
			at local 0:me
			or unknown@unknown
			why no-address`,
	}, {
		name: "a SYN was refused for a lapse of the route", lapse: rawprobe.LapseNoRoute,
		see: "syn 0s\n syn 0.6s refused=no-route", says: "the route to host went away and came back during the run",
		want: `way-lost: network-down no-route likely
			at local 0:me
			or unknown@unknown
			why no-route`,
	}, {
		name: "a SYN was refused for a route that forbade", lapse: rawprobe.LapseOtherRoute,
		see: "syn 0s\n syn 0.6s refused=prohibit", says: "the route to host changed and changed back during the run",
		want: `way-lost: network-down no-route likely
			at local 0:me
			or unknown@unknown
			why no-route`,
	}, {
		name: "the last SYN was refused after a silence", lapse: rawprobe.LapseNoRoute,
		see: silence + "syn 1.8s refused=no-route", says: "the route to host went away and came back during the run",
		want: `way-lost: network-down no-route ambiguous
			at local 0:me
			or unknown@unknown
			why no-route`,
	}, {
		name: "an answer came for an address that was gone", lapse: rawprobe.LapseNoAddress,
		see: "syn 0s\n +300ms syn-ack swallowed\n syn 0.6s refused=blackhole", says: "the address me was removed and came back during the run",
		want: `way-lost: network-down no-address likely
			at local 0:me
			or local-firewall@local
			why no-address`,
	}, {
		// It left again afterwards.
		name: "a SYN in the midst was refused", lapse: rawprobe.LapseDown,
		see: "route link\n" + alive + "syn 0s 0.6s\n syn 0.7s refused=link-down\n syn 1.3s", says: "interface eth0 went down and came back during the run",
		want: `silent-subject: drop host-firewall ambiguous
			at destination 1:host
			or not-accepting@destination network-firewall@path unknown@unknown
			why silent-subject changed echo-reply`,
	}, {
		// Why it was refused is not known then, and the kernel has said so.
		name: "a SYN was refused, and nobody knows what lapsed", lapse: rawprobe.LapseUnknown,
		see: "syn 0s refused=no-route", says: "more of this machine's links, addresses and routes changed than could be followed during the run",
		want: `no-route: network-down no-route likely
			at local 0:me
			or unknown@unknown
			why no-route changed`,
	}, {
		// A firewall is no lapse of a route.
		name: "the own firewall refused", lapse: rawprobe.LapseNoRoute,
		see: "syn 0s 0.1s refused=not-permitted", says: "the route to host went away and came back during the run",
		want: `local-refusal: drop local-firewall ambiguous
			at local 0:me
			or unknown@unknown
			why send-refused changed`,
	},

	// What stands at the end says more than what was for a while.
	{
		name: "the interface lapsed, and went down for good", lapse: rawprobe.LapseNoRoute,
		see: "syn 0s refused=no-route\n after eth0 down",
		want: `way-lost: network-down link-down certain
			at local 0:me
			why link-down`,
	}, {
		// No run: it was so from the beginning, and nothing was sent.
		name: "there was no way to lapse", lapse: rawprobe.LapseDown,
		see: "eth0 down\n route none",
		want: `no-route: network-down no-route certain
			at local 0:me
			why no-route`,
	},
}

const (
	certainDrop = `bracket: drop network-firewall certain
			at path 1:gw 2:r2
			why silent-subject subject-path control-passes host-alive other-flows echo-reply`
	doubtfulDrop = `bracket: drop network-firewall ambiguous
			at path 1:gw 2:r2
			or unknown@unknown
			why silent-subject subject-path control-passes host-alive other-flows changed echo-reply`
)

func TestLapses(t *testing.T) {
	for _, c := range lapses {
		for _, f := range (&explained{only: c.only}).families() {
			t.Run(c.name+"/IPv"+string('0'+rune(f)), func(t *testing.T) {
				o := f.observations(c.see)
				o.Machine.Lapse = c.lapse
				d := Explain(o)
				if diff := cmp.Diff(trim(c.want), f.short(decider(o), d)); diff != "" {
					t.Errorf("want -, got +\n%s\n%q", diff, d.Summary)
				}
				said := ""
				for _, e := range d.Evidence {
					if e.Rule != "straight" && strings.Contains(e.Text, "back") || e.Rule == "changed" {
						said += f.nameless(e.Text)
					}
				}
				// The refusal is told beside it.
				if said = strings.TrimSuffix(said, ", and the kernel refused to send"); said != c.says {
					t.Errorf("said %q, want %q", said, c.says)
				}
				for _, wrong := range violations(o, &d) {
					t.Error(wrong)
				}
			})
		}
	}
}
