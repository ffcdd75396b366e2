package rawprobe

import (
	"errors"
	"net/netip"
	"time"

	"synprobe/pcap"
)

// Link is the one seam to the operating system. OpenLink gives the live one.
//
// A Link serves one run: one target, one set of flows. Its methods are called
// from one goroutine.
type Link interface {
	// Survey reports how this machine would carry a TCP connection of that
	// flow. A source of zero address or port 0 is left to the kernel. It sends
	// nothing.
	Survey(flow Flow) (Machine, error)

	// Hold reserves a TCP source port with a bound, unconnected socket, so
	// that no connection of this machine uses it during the run. Port 0 asks
	// for a free one. The kernel answers what reaches such a port as a closed
	// one. A *SendError says that the source address, which an earlier call
	// could use, is gone, which is an observation.
	Hold(src netip.AddrPort) (netip.AddrPort, error)

	// Watch starts the tap. Events carries what it sees from then on.
	Watch(pcap.Interest) error

	// Send hands one whole IP packet to the IP stack, or, where via is not
	// nil, to that next hop on the link layer. It asks a few times where there
	// is no room for the packet at the moment. A *SendError says that the kernel
	// refused it, which is an observation; any other error ends the run.
	Send(packet []byte, m *Machine, via *[6]byte) error

	// Ask sends one ARP request or neighbour solicitation for the next hop of
	// m towards target.
	Ask(m *Machine, target netip.Addr) error

	// Events is the stream of packets. It is closed when the tap has failed,
	// for the reason that Err gives.
	Events() <-chan Event
	Err() error

	// Final fills in what is known best at the end: the neighbour's state, the
	// connection table, what has changed since Survey, also what has changed
	// back, the tap's counters.
	Final(m *Machine, target netip.Addr) TapStats

	// Close gives everything back and waits until nothing of it runs.
	Close() error
}

// Event is one packet that reached the run.
type Event struct {
	// Data starts at the IP header, or the ARP header, of a packet seen by the
	// tap, and at the transport header of one that was Delivered.
	Data []byte
	Time time.Time // the kernel's stamp
	// Unstamped says that the kernel had not begun to stamp packets: Time is
	// when this one was read.
	Unstamped bool

	// Delivered marks a second copy that the IP stack handed to a socket of
	// ours, from the address From.
	Delivered bool
	From      netip.Addr
	ICMP      bool // Delivered: Data is an ICMP message, else a TCP segment

	Direction pcap.Direction
	Interface int
	// Hardware is the sender's link-layer address, zeros where there is none.
	Hardware [6]byte
	Loopback bool // Interface is a loopback interface
	ARP      bool // Data is an ARP message
	// ChecksumPartial says that the transport checksum is not filled in yet.
	ChecksumPartial bool
	// Cut says that the packet was longer, and that Data is what the tap kept of
	// it.
	Cut bool
}

// SendError is the kernel's refusal to send a packet.
type SendError struct {
	Reason Refusal
	Err    error
}

// Error gives the system's reason.
func (e *SendError) Error() string { return "send: " + e.Err.Error() }

// Unwrap gives the system's error.
func (e *SendError) Unwrap() error { return e.Err }

// PrivilegeError says that the process lacks a capability that probing needs.
type PrivilegeError struct {
	Op  string
	Err error
}

// Error names what was not permitted.
func (e *PrivilegeError) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap gives the system's error.
func (e *PrivilegeError) Unwrap() error { return e.Err }

// Errors about what the caller asked for.
var (
	// ErrNoInterface means that there is no interface of that name.
	ErrNoInterface = errors.New("no such interface")
	// ErrNotOurs means that a source address is not this machine's.
	ErrNotOurs = errors.New("not an address of this machine")
	// ErrPortInUse means that a source port is taken.
	ErrPortInUse = errors.New("source port in use")
	// ErrPortReserved means that a source port is for root, or for
	// CAP_NET_BIND_SERVICE (ip(7), ip_unprivileged_port_start).
	ErrPortReserved = errors.New("source port reserved for root")
	// ErrBroadcast means that the target is a broadcast address, which no
	// TCP connection can be made to.
	ErrBroadcast = errors.New("a broadcast address")
	// ErrLoopback means that a source address or an interface does not reach
	// beyond this machine, and the target is elsewhere.
	ErrLoopback = errors.New("it reaches this machine only")
	// ErrNotLoopback means that the target is this machine's own loopback
	// address, and an interface was asked for that leads elsewhere.
	ErrNotLoopback = errors.New("only the loopback interface leads there")
)

// LinkConfig chooses how a live Link reaches the network. The zero value
// leaves everything to the kernel.
type LinkConfig struct {
	// Interface is the name of the interface to send on (SO_BINDTODEVICE).
	Interface string
	// IPv6 selects the family of the sockets.
	IPv6 bool
	// Opened, where not nil, is called by Watch, once the Link has all sockets
	// that it will ever need a capability for. An error is Watch's.
	Opened func() error
}
