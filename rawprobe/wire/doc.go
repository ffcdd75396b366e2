// Package wire reads the packets that a SYN probe can get back, and writes
// the few link-local questions that gopacket's layers are not needed for.
//
// It covers IPv4 and IPv6 with extension headers, TCP and its options, UDP,
// ICMP and ICMPv6 with the packets that their errors quote, the multi-part
// extensions of RFC 4884, ARP and neighbour discovery. It never looks above
// TCP.
//
// Everything that is parsed came from the network and may have been written
// by an enemy. So every parser accepts any bytes without a panic, checks each
// length before the read that depends on it, and bounds each loop. Results are
// values; their byte slices alias the input and are valid for as long as it
// is. Parsing does not allocate, except for an error, for extension objects
// and for interface names.
//
// Two degrees of strictness are used on purpose. A packet that arrived passed
// this machine's own checks, so [ParseIP], [ParseTCP] and their kind refuse
// what is not well formed. A packet quoted in an ICMP error passed through
// whatever made the error, so [ICMP.Quote] takes what it can get and says
// which fields were there.
//
// No checksum is a condition of parsing: on loopback, veth and outgoing
// packets they are legitimately unfinished when a tap sees them. Callers that
// care ask [IP.VerifyPayload].
package wire
