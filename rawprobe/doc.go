// Package rawprobe sends TCP SYNs and their controls as raw packets, and
// records what becomes of them.
//
// A run asks one question: what happens to a TCP connection attempt from this
// machine to one address and port? Its answer is an [Observations] record: the
// route and the neighbour the kernel would use, each packet sent, the proof of
// its departure, each packet that came back because of it. The record is plain
// data; package diagnose turns it into a verdict without any further I/O, so a
// live run, a saved capture and a simulated network are explained by the same
// rules.
//
// The operating system is reached through one seam, [Link]. Probes go out
// through the kernel's IP stack, as a real connection's packets do, and are
// watched on one tap in both directions. A packet that arrives is believed
// only where a packet of our own provoked it.
//
// The network's answers are data here. A Go error means that the run could
// not do its job: no privilege, no such interface, a socket that failed.
package rawprobe
