package report

import (
	"fmt"
	"strconv"
	"strings"

	"synprobe/rawprobe/wire"
)

// extensionWords are what an ICMP error says beside its quote, each part with a
// comma before it: empty where there is nothing.
func extensionWords(e wire.Extensions) string {
	text := ""
	for _, l := range e.MPLS {
		text += fmt.Sprintf(", MPLS label %d (exp %d, TTL %d)", l.Label, l.TC, l.TTL)
	}
	for _, i := range e.Interfaces {
		if words := interfaceWords(i); words != "" {
			text += ", " + words
		}
	}
	return text
}

// interfaceWords name an interface by the first that is known of its name, its
// address and its index. They are empty where nothing is.
func interfaceWords(i wire.InterfaceInfo) string {
	var known []string
	if i.Name != "" {
		known = append(known, interfaceName(i.Name))
	}
	if i.Addr.IsValid() {
		known = append(known, i.Addr.String())
	}
	if i.HasIndex {
		known = append(known, fmt.Sprintf("index %d", i.Index))
	}
	if i.MTU != 0 {
		known = append(known, fmt.Sprintf("MTU %d", i.MTU))
	}
	if len(known) == 0 {
		return ""
	}
	text := i.Role.String()
	if i.Role != wire.RoleNextHop {
		text += " interface"
	}
	text += " " + known[0]
	if len(known) > 1 {
		text += " (" + strings.Join(known[1:], ", ") + ")"
	}
	return text
}

// interfaceName quotes a name that has more than the characters of those that
// systems give: it must not pass for words of the line that it stands in.
func interfaceName(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@#+") == "" {
		return s
	}
	return strconv.Quote(s)
}
