package report

import (
	"strings"
	"testing"
	"unicode"

	"synprobe/rawprobe"
	"synprobe/rawprobe/wire"
)

func TestExtensions(t *testing.T) {
	label := wire.MPLSLabel{Label: 24015, TTL: 1}
	for _, c := range []struct {
		e    wire.Extensions
		want string
	}{
		{wire.Extensions{}, ""},
		{wire.Extensions{Unknown: 3, Verified: true}, ""},
		{wire.Extensions{MPLS: []wire.MPLSLabel{label}}, ", MPLS label 24015 (exp 0, TTL 1)"},
		{wire.Extensions{MPLS: []wire.MPLSLabel{label, {Label: 1048575, TC: 7, Bottom: true, TTL: 255}}},
			", MPLS label 24015 (exp 0, TTL 1), MPLS label 1048575 (exp 7, TTL 255)"},
		{wire.Extensions{Interfaces: []wire.InterfaceInfo{{Name: "ge-0/0/1.100"}}}, ", incoming interface ge-0/0/1.100"},
		{wire.Extensions{Interfaces: []wire.InterfaceInfo{
			{HasIndex: true, Index: 7, Addr: ip("10.0.1.2"), MTU: 1500, Name: "Bundle-Ether1"},
			{Role: wire.RoleSubIncoming, HasIndex: true, Index: 0},
			{Role: wire.RoleOutgoing, Addr: ip("2001:db8::1"), HasIndex: true, Index: 8},
			{Role: wire.RoleNextHop, Addr: ip("10.0.2.2")},
			{Role: wire.RoleNextHop, MTU: 9000},
			{Role: wire.RoleOutgoing},
		}}, ", incoming interface Bundle-Ether1 (10.0.1.2, index 7, MTU 1500), incoming sub-IP interface index 0" +
			", outgoing interface 2001:db8::1 (index 8), next hop 10.0.2.2, next hop MTU 9000"},
		// A name is no part of the sentence.
		{wire.Extensions{Interfaces: []wire.InterfaceInfo{{Name: "eth0, try 2"}}}, `, incoming interface "eth0, try 2"`},
		{wire.Extensions{Interfaces: []wire.InterfaceInfo{{Name: `"`}}}, `, incoming interface "\""`},
		{wire.Extensions{Interfaces: []wire.InterfaceInfo{{Name: "straße"}}}, `, incoming interface "straße"`},
		{wire.Extensions{Interfaces: []wire.InterfaceInfo{{Name: "\x1b[2J\xff\u202e\n"}}}, `, incoming interface "\x1b[2J\xff\u202e\n"`},
	} {
		if got := extensionWords(c.e); got != c.want {
			t.Errorf("%+v:\n%s\nwant\n%s", c.e, got, c.want)
		}
	}
}

// TestExtensionsHarmless: whatever a device calls its interfaces, each packet is
// one line, of characters that a terminal can bear, and not without end.
func TestExtensionsHarmless(t *testing.T) {
	var e wire.Extensions
	for range 16 { // as many as package wire gives
		e.MPLS = append(e.MPLS, wire.MPLSLabel{Label: 1<<20 - 1, TC: 7, TTL: 255})
	}
	for _, name := range []string{"\x1b]0;owned\x07", "\xff\xfe\xc3", "a\r\nb", "\u202e\u2028\U000e0041", strings.Repeat("\x9b", 63), "\U0010fffd", " ", "%s%n"} {
		e.Interfaces = append(e.Interfaces, wire.InterfaceInfo{Name: name})
	}
	reply := rawprobe.Reply{Kind: rawprobe.ICMPError, Type: 11, From: second.Address, Extensions: e}
	seen := rawprobe.Seen{What: rawprobe.Answer, Reply: reply}
	for name, text := range map[string]string{
		"log": strings.TrimSuffix(string(NewLog(Style{}).Line(seen)), "\n"), "comment": PacketComment(seen),
		"list": strings.Join(replyCells(&reply, nil), " "),
	} {
		if !strings.Contains(text, `interface "\x1b]0;owned\a"`) || !strings.Contains(text, `interface "%s%n"`) {
			t.Errorf("%s: a name is missing: %q", name, text)
		}
		for _, r := range text {
			if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
				t.Errorf("%s: %U in %q", name, r, text)
			}
		}
		if len(text) > 4000 {
			t.Errorf("%s: %d bytes", name, len(text))
		}
	}
}
