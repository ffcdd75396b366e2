package diagnose

import (
	"fmt"
	"testing"
)

// icmpCodes says what each ICMP error means for a SYN: RFC 792, RFC 1122
// (section 3.2.2.1), RFC 1812 (section 5.2.7), RFC 4443, and field notes 17
// and 35. The words are those of transcripts, "nothing" for an error that does
// not say whether the SYN was wanted.
var icmpCodes = map[family]map[string]string{
	v4: {
		"3/0": "net-unreachable", "3/6": "net-unreachable", "3/11": "net-unreachable",
		"3/1": "host-unreachable", "3/7": "host-unreachable", "3/8": "host-unreachable", "3/12": "host-unreachable",
		"3/2": "refused", "3/3": "refused", "3/9": "refused", "3/10": "refused",
		"3/13": "refused", "3/14": "refused", "3/15": "refused",
		"3/4": "nothing", "3/5": "nothing",
		"11/0": "expired", "11/1": "nothing",
		"12/0": "nothing", "12/1": "nothing", "12/2": "nothing", "4/0": "nothing",
	},
	v6: {
		"1/0": "net-unreachable", "1/2": "net-unreachable",
		"1/3": "host-unreachable",
		"1/1": "refused", "1/4": "refused", "1/5": "refused", "1/6": "refused",
		// Neither 7 (RFC 6550) nor 8 (RFC 8883) can be about a plain SYN:
		// whoever sends them does not want it.
		"1/7": "refused", "1/8": "refused",
		"2/0": "nothing",
		"3/0": "expired", "3/1": "nothing",
		"4/0": "nothing", "4/1": "nothing", "4/2": "nothing",
	},
}

const unknownSilence = "drop unknown ambiguous"

// icmpOutcomes gives verdict, cause and certainty by what an error means, who
// sent it, and what the echo met: "alive" a reply, "silent" nothing, "alike"
// the same error.
var icmpOutcomes = map[string]map[string]string{
	"refused": {
		"host alive": "reject host-firewall certain", "host silent": "reject host-firewall likely", "host alike": "reject host-firewall likely",
		"r2 alive": "reject network-firewall certain", "r2 silent": "reject network-firewall certain", "r2 alike": "reject network-firewall certain",
		"me alive": "reject local-firewall likely", "me silent": "reject local-firewall likely", "me alike": "reject local-firewall likely",
	},
	"host-unreachable": {
		"host alive": "host-down host-unreachable likely", "host silent": "host-down host-unreachable likely", "host alike": "host-down host-unreachable likely",
		"r2 alive": "reject network-firewall likely", "r2 silent": "host-down host-unreachable likely", "r2 alike": "host-down host-unreachable likely",
		"me alive": unknownSilence, "me silent": unknownSilence, "me alike": unknownSilence,
	},
	"net-unreachable": {
		"host alive": "host-down host-unreachable likely", "host silent": "host-down host-unreachable likely", "host alike": "host-down host-unreachable likely",
		"r2 alive": "reject network-firewall likely", "r2 silent": "network-down net-unreachable likely", "r2 alike": "network-down net-unreachable likely",
		"me alive": unknownSilence, "me silent": unknownSilence, "me alike": unknownSilence,
	},
	"expired": {
		"host alive": "network-down routing-loop likely", "host silent": "network-down routing-loop likely", "host alike": "network-down routing-loop likely",
		"r2 alive": "network-down routing-loop likely", "r2 silent": "network-down routing-loop likely", "r2 alike": "network-down routing-loop likely",
		"me alive": unknownSilence, "me silent": unknownSilence, "me alike": unknownSilence,
	},
	"nothing": {
		"host alive": unknownSilence, "host silent": unknownSilence, "host alike": unknownSilence,
		"r2 alive": unknownSilence, "r2 silent": unknownSilence, "r2 alike": unknownSilence,
		"me alive": unknownSilence, "me silent": unknownSilence, "me alike": unknownSilence,
	},
}

func TestICMPCodes(t *testing.T) {
	for f, codes := range icmpCodes {
		for code, meaning := range codes {
			for who, want := range icmpOutcomes[meaning] {
				t.Run(fmt.Sprintf("IPv%d/%s/%s", f, code, who), func(t *testing.T) {
					var from, echo string
					if _, err := fmt.Sscan(who, &from, &echo); err != nil {
						t.Fatal(err)
					}
					by := " from=" + from
					if from == "me" {
						by += " on=lo"
					}
					see := "echo 0s\n" + silence + "+0.3ms icmp " + code + by + "\n"
					switch echo {
					case "alive":
						see += answered
						if from == "host" {
							see += looked
						}
					case "alike":
						see += "+0.3ms icmp " + code + " for echo" + by
					}
					o := f.observations(see)
					d := Explain(o)
					if got := fmt.Sprintf("%s %s %s", d.Verdict, d.Cause, d.Certainty); got != want {
						t.Errorf("got %s, want %s: %s", got, want, d.Summary)
					}
					for _, wrong := range violations(o, &d) {
						t.Error(wrong)
					}
				})
			}
		}
	}
}
