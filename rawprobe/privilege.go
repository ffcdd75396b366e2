package rawprobe

// Privilege is what a process may keep that confines itself. The zero value is
// none at all.
type Privilege uint8

// The privileges that probing may need.
const (
	// RawSockets opens the sockets of a Link (CAP_NET_RAW).
	RawSockets Privilege = 1 << iota
	// LowPorts binds source ports that are reserved (CAP_NET_BIND_SERVICE; ip(7),
	// ip_unprivileged_port_start).
	LowPorts
)
