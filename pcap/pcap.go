// Package pcap listens to the network: every packet that a filter lets through, in both directions, with the
// kernel's own time stamp, beginning at the IP header whatever the link is.
//
// A [Listener] is an AF_PACKET socket (Linux: net/packet/af_packet.c). There is no cgo and no libpcap. On other systems
// [Open] answers [errors.ErrUnsupported]; everything else, the filters included, works everywhere.
//
// What a listener sees is what a capture beside it would see. An outgoing packet is seen after netfilter's OUTPUT and
// POSTROUTING and after the queueing discipline, just before the driver takes it (net/core/dev.c,
// dev_queue_xmit_nit): it is the proof that a packet left. An incoming packet is seen before any firewall of
// this machine but XDP (net/core/dev.c, __netif_receive_skb_core).
//
// One packet can be seen more than once: on loopback once each way, with macvlan, bridges and VLANs once on each device
// that it crosses. The listener leaves all of them in: Interface and Direction tell them apart, and the caller decides.
package pcap

import (
	"fmt"
	"time"

	"golang.org/x/net/bpf"
)

// EtherTypes that a probe meets, in host order (linux/if_ether.h).
const (
	EtherTypeIPv4 = 0x0800
	EtherTypeARP  = 0x0806
	EtherTypeIPv6 = 0x86dd
)

// Direction says which way a packet went, seen from this machine. It is the packet type of packet(7).
type Direction uint8

const (
	// Unknown is the zero value: the kernel gave a packet type that has no direction.
	Unknown Direction = iota
	// Incoming was addressed to this machine: by its link-layer address, by broadcast or by multicast
	// (PACKET_HOST, PACKET_BROADCAST, PACKET_MULTICAST).
	Incoming
	// Outgoing was sent by this machine, or forwarded by it (PACKET_OUTGOING).
	Outgoing
	// OtherHost came in and carried another machine's link-layer address (PACKET_OTHERHOST): an interface in
	// promiscuous mode, or the parent of a macvlan.
	OtherHost
)

// String returns "incoming", "outgoing", "other-host" or "unknown".
func (d Direction) String() string {
	switch d {
	case Incoming:
		return "incoming"
	case Outgoing:
		return "outgoing"
	case OtherHost:
		return "other-host"
	}
	return "unknown"
}

// A Packet is one packet as the kernel showed it. The zero value is ready to be read into, and is best used again for
// every Read, so that its Data grows once.
type Packet struct {
	// Data begins at the network header: IPv4, IPv6 or ARP, on any kind of link. Read reuses its array, so it
	// is valid until the next Read into the same Packet; it outlives Close.
	Data []byte
	// Length is the size on the wire in bytes, counted from the network header. It is larger than len(Data) where the
	// snap length or the filter's own limit cut the packet.
	Length int
	// Time is the kernel's time stamp in nanoseconds of the wall clock (CLOCK_REALTIME): just before the driver for
	// what goes out, the entry to the network stack for what comes in. It has no monotonic part: a step of the
	// clock between two packets shows in their difference. Where Stamped is false it is another time: see there.
	Time time.Time
	// Stamped says that Time is the kernel's. The kernel begins to stamp a little after the first Open of the machine
	// (net_enable_timestamp in net/core/dev.c leaves it to a worker: some 0.3 ms, tens where the processors are busy); what passes
	// before has no stamp. Its Time is when Read found it, by the same clock: never earlier than the kernel's would
	// have been, and late by as much as Read was. A round-trip time needs two packets that are Stamped.
	Stamped bool
	// Interface is the index of the interface on which the packet was seen.
	Interface int
	// Direction is the packet's way, seen from this machine.
	Direction Direction
	// EtherType is what Data holds, in host order: EtherTypeIPv4, EtherTypeIPv6, EtherTypeARP or another.
	// A VLAN tag is looked through.
	EtherType uint16
	// LinkAddr holds the sender's link-layer address in its first LinkAddrLen bytes: six of a MAC, none on a tun
	// device. Addresses longer than eight bytes (InfiniBand) are cut.
	LinkAddr    [8]byte
	LinkAddrLen int
	// ChecksumPartial says that the transport checksum was still to be computed by the hardware: usual for what this
	// machine sends, on loopback and on veth, and no sign of damage (TP_STATUS_CSUMNOTREADY, linux/if_packet.h).
	ChecksumPartial bool
}

// DefaultSnapLen is the largest number of bytes of a packet that is kept when Config.SnapLen is zero: a packet of
// Ethernet's 1500 bytes is kept whole.
const DefaultSnapLen = 2048

// MaxSnapLen is the largest Config.SnapLen: the longest IP packet without a jumbo payload option.
const MaxSnapLen = 65535

// DefaultBuffer is the size of the receive buffer in bytes when Config.Buffer is zero: room for several hundred packets,
// several times of what one run ever has on the way at once.
const DefaultBuffer = 512 << 10

// Config says what a [Listener] is to see. The zero value sees all packets on all interfaces.
type Config struct {
	// Filter is a classic BPF program; offset 0 is the network header. The packet is cut to the number of bytes that it
	// returns, and not seen at all where that is 0. Empty means everything.
	Filter []bpf.Instruction
	// Interface is the index of the one interface to listen on. Zero means all, those that appear later included.
	Interface int
	// SnapLen is the number of bytes to keep of each packet, at most MaxSnapLen. Zero means DefaultSnapLen.
	SnapLen int
	// Buffer is the size of the receive buffer in bytes, at most 1 GiB. Zero means DefaultBuffer. The kernel allows for its
	// own bookkeeping by doubling it, and each packet then takes its size and about 0.7 KiB (socket(7), SO_RCVBUF).
	// Without CAP_NET_ADMIN it is cut to net.core.rmem_max, which is no error; Stats.Drops tells whether it was enough.
	Buffer int
}

// Stats counts packets since Open.
type Stats struct {
	// Packets passed the filter, those that were then dropped included.
	Packets uint64
	// Drops passed the filter but found the receive buffer full.
	Drops uint64
}

// An OpError says which step failed. It is the type of every error that a [Listener] returns.
type OpError struct {
	// Op is the step: "socket", "bind", "setsockopt SO_ATTACH_FILTER", "read" and so on.
	Op string
	// Err is the reason, as a rule a syscall.Errno: errors.Is(err, os.ErrPermission) tells missing privilege.
	Err error
}

// Error returns the step and the reason.
func (e *OpError) Error() string { return fmt.Sprintf("pcap: %s: %v", e.Op, e.Err) }

// Unwrap returns the reason.
func (e *OpError) Unwrap() error { return e.Err }

// Timeout reports whether a deadline was the reason, as net.Error has it.
func (e *OpError) Timeout() bool {
	t, ok := e.Err.(interface{ Timeout() bool })
	return ok && t.Timeout()
}

// A Listener receives packets. Its methods may be called from several goroutines at once; packets go to one Read each.
// A Listener that is no longer needed should be closed: as long as it lives, the kernel passes it every packet.
type Listener struct {
	l *listener
}

// Open starts to listen, in the network namespace of the calling thread. No packet that the filter refuses is ever
// delivered: the socket is made deaf (protocol 0), gets its filter, and only then is bound.
//
// It needs CAP_NET_RAW: without it the error is EPERM at the step "socket". An interface that does not exist is ENODEV,
// one that is down ENETDOWN, both at "bind". A filter that the kernel refuses is EINVAL at "setsockopt
// SO_ATTACH_FILTER". On systems other than Linux the error is errors.ErrUnsupported.
//
// Open waits for nothing. Since the kernel needs a moment before it stamps packets ([Packet].Stamped), a program that
// does not know yet what it wants to see should open the listener first, with the filter [Nothing], prepare everything else,
// and then call [Listener.SetFilter].
func Open(cfg Config) (*Listener, error) {
	l, err := open(cfg)
	if err != nil {
		return nil, err
	}
	return &Listener{l}, nil
}

// Read waits for the next packet and fills p. It blocks the goroutine, not a thread.
//
// It ends at once with net.ErrClosed when the listener is closed, and with os.ErrDeadlineExceeded when the deadline has
// passed. A packet that came before the deadline, yet is read after it, is still delivered (one without a stamp where
// it may have come before): so a timeout means that nothing had come in by then, however late the goroutine was
// scheduled. ENETDOWN means that the one interface listened on went down or away; packets that came before are read
// first, and each Read says it until one comes after it. On an error p is not changed.
func (l *Listener) Read(p *Packet) error { return l.l.read(p) }

// SetReadDeadline sets the time after which Read fails, for a Read that is waiting now too. The zero time means never.
// A time before Open ends Read at once, whatever waits in the queue.
func (l *Listener) SetReadDeadline(t time.Time) error { return l.l.setReadDeadline(t) }

// SetFilter replaces the filter in one step: each packet sees the old one or the new one, and what comes after
// SetFilter has returned sees the new one. Packets that passed the old one may still wait to be read: none where it was
// [Nothing]. Empty means that everything passes.
func (l *Listener) SetFilter(filter []bpf.Instruction) error { return l.l.setFilter(filter) }

// Send hands a packet to an interface's driver, past the IP stack: past routing, the firewall and translation. The packet
// begins at its network header; to is the link-layer address of who is to get it, which a link without such
// addresses ignores. It is for what has no other way out, such as an ARP request of our own: a second socket for that would be
// one more for the kernel to give up. Errors are the system's: ENETDOWN, ENXIO where there is no such interface, ENOBUFS.
func (l *Listener) Send(iface int, etherType uint16, to [6]byte, packet []byte) error {
	return l.l.send(iface, etherType, to, packet)
}

// Stats returns the counts since Open. The kernel's own counters begin anew at each reading (PACKET_STATISTICS in
// packet_getsockopt); these do not. After Close it returns the last counts.
func (l *Listener) Stats() (Stats, error) { return l.l.stats() }

// Close ends a Read that is waiting, waits until none uses the socket any more, and gives it back. It may be called
// more than once. The kernel lets a packet socket go only after an RCU grace period, some 10 ms; Close does not wait for
// that but leaves it to a kernel worker, so the socket can be seen in /proc/net/packet a little longer.
func (l *Listener) Close() error { return l.l.close() }
