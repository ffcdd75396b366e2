package report

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/gopacket/layers"

	"synprobe/traceroute/diagnose"
)

// colours are the SGR parameters (ECMA-48, section 8.3.117) of each verdict's
// word: green is well, yellow was told no, red hears nothing, magenta has
// nobody there.
var colours = map[diagnose.Verdict]string{
	diagnose.Open:        "1;32",
	diagnose.Reject:      "1;33",
	diagnose.Drop:        "1;31",
	diagnose.HostDown:    "1;35",
	diagnose.NetworkDown: "1;35",
	diagnose.Partial:     "1;36",
}

// causeWords say each cause so that it can follow "it could also be".
var causeWords = map[diagnose.Cause]string{
	diagnose.Listening:           "the host itself listens",
	diagnose.Proxy:               "a device before the host answers in its name",
	diagnose.PortClosed:          "the host itself, where nothing listens on the port",
	diagnose.HostFirewall:        "the host's own firewall",
	diagnose.NetworkFirewall:     "a firewall on the way",
	diagnose.LocalFirewall:       "this machine's own firewall",
	diagnose.NotAccepting:        "the host takes no new connections on this port",
	diagnose.ReturnPath:          "the answer is lost on its way back",
	diagnose.Unknown:             "something that the packets do not show",
	diagnose.NeighborUnreachable: "the host is down",
	diagnose.HostUnreachable:     "the host is down",
	diagnose.NoRoute:             "this machine has no route",
	diagnose.NoAddress:           "this machine has no address of that family",
	diagnose.LinkDown:            "this machine's link is down",
	diagnose.GatewayDown:         "the gateway is down",
	diagnose.NetUnreachable:      "a router has no route",
	diagnose.RoutingLoop:         "the packet goes round in a loop",
	diagnose.FlowDependent:       "some flows get through and others do not",
}

// certaintyWords lead to the alternatives.
var certaintyWords = map[diagnose.Certainty]string{
	diagnose.Certain:   "",
	diagnose.Likely:    "This is likely, not certain.",
	diagnose.Ambiguous: "This is not sure: the packets do not decide it.",
}

// place says where a fault lies, for use behind a cause. It is empty where the
// cause says as much.
func place(f diagnose.Fault) string {
	switch hops := f.Hops; {
	case len(hops) == 0, f.Where == diagnose.Local, f.Where == diagnose.Destination && len(hops) == 1:
		return ""
	case len(hops) == 1:
		return "at " + hopWords(hops[0])
	case len(hops) == 2:
		return "between " + hopWords(hops[0]) + " and " + hopWords(hops[1])
	default:
		var all []string
		for _, h := range hops[:len(hops)-1] {
			all = append(all, hopWords(h))
		}
		return "at one of " + strings.Join(all, ", ") + " or " + hopWords(hops[len(hops)-1])
	}
}

func hopWords(h diagnose.Hop) string {
	known := h.TTL != diagnose.UnknownTTL
	switch {
	case h.TTL == 0:
		return "this machine"
	case known && h.Address.IsValid():
		return fmt.Sprintf("hop %d (%s)", h.TTL, h.Address)
	case known:
		return fmt.Sprintf("hop %d (silent)", h.TTL)
	case h.Address.IsValid():
		return h.Address.String()
	default:
		return "a silent hop"
	}
}

// service is the registered name of a TCP port, or nothing.
func service(port uint16) string { return layers.TCPPortNames[layers.TCPPort(port)] }

// rttWords gives d three digits that matter.
func rttWords(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	digits := 0
	switch {
	case ms < 0.1:
		digits = 3
	case ms < 10:
		digits = 2
	case ms < 100:
		digits = 1
	}
	return strconv.FormatFloat(ms, 'f', digits, 64) + " ms"
}

// count is "1 packet" or "3 packets".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// Endpoint is host:port, with brackets where host is an IPv6 address.
func Endpoint(host string, port uint16) string {
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		host = "[" + host + "]"
	}
	return host + ":" + strconv.Itoa(int(port))
}

// Escape makes text from outside safe to print. Names from the network, from
// files and from the command line can hold terminal escapes, and characters
// that reorder a line; such text, and the empty one, is quoted as in Go.
func Escape(s string) string {
	if s != "" && printable(s) {
		return s
	}
	return strconv.Quote(s)
}

func printable(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// clean escapes what is not printable within a sentence.
func clean(s string) string {
	if printable(s) {
		return s
	}
	q := strconv.Quote(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}

// fallbacks are what is printed for a character where the locale has only
// ASCII.
var fallbacks = strings.NewReplacer(
	"·", "*", "–", "-", "—", "-", "→", "->", "…", "...", "µ", "u", "×", "x",
	"‘", "'", "’", "'", "“", `"`, "”", `"`, "≤", "<=", "≥", ">=", "─", "-",
)

func ascii(s string) string {
	s = fallbacks.Replace(s)
	return strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII {
			return '?'
		}
		return r
	}, s)
}
