package rawprobe

// Meaning is what an ICMP error says about the packet that it quotes.
type Meaning string

// The meanings of ICMP errors. The zero value says nothing about whether the
// packet was wanted: fragmentation needed, a source route that failed, and
// whatever has no place in the lists. An ICMPv6 "destination unreachable" of an
// unknown code ends a connection attempt, and is a refusal (net/ipv6/icmp.c,
// icmpv6_err_convert).
const (
	SaysNothing            Meaning = ""
	SaysRefused            Meaning = "refused"             // somebody does not want it
	SaysHostUnreachable    Meaning = "host-unreachable"    // a router can't reach the host
	SaysNetworkUnreachable Meaning = "network-unreachable" // a router has no route
	SaysExpired            Meaning = "expired"             // its TTL was used up
)

// Meaning returns what an ICMP error says, by RFC 792, RFC 1122 section
// 3.2.2.1, RFC 1812 section 5.2.7 and RFC 4443 section 3. Other answers say
// nothing in this sense.
func (r *Reply) Meaning() Meaning {
	switch {
	case r.Kind != ICMPError:
		return SaysNothing
	case r.From.Is4():
		return meaning4(r.Type, r.Code)
	}
	return meaning6(r.Type, r.Code)
}

func meaning4(typ, code int) Meaning {
	switch {
	case typ == 11 && code == 0:
		return SaysExpired
	case typ != 3:
		return SaysNothing
	}
	switch code {
	case 0, 6, 11: // network unreachable, unknown, unreachable for the type of service
		return SaysNetworkUnreachable
	case 1, 7, 8, 12: // host unreachable, unknown, isolated, unreachable for the type of service
		return SaysHostUnreachable
	case 4, 5: // fragmentation needed, source route failed
		return SaysNothing
	}
	if code > 15 { // the last that is defined; the kernel ignores others (net/ipv4/tcp_ipv4.c, tcp_v4_err)
		return SaysNothing
	}
	return SaysRefused
}

func meaning6(typ, code int) Meaning {
	switch {
	case typ == 3 && code == 0:
		return SaysExpired
	case typ != 1:
		return SaysNothing
	}
	switch code {
	case 0, 2: // no route, beyond the scope of the source address
		return SaysNetworkUnreachable
	case 3: // address unreachable
		return SaysHostUnreachable
	}
	return SaysRefused
}
