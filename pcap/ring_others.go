//go:build !linux

package pcap

import "time"

// A ring does not exist here: AF_PACKET is Linux's.
type ring struct{}

func openRing(RingConfig) (*ring, error) { return nil, unsupported("socket") }

func (*ring) read(func(*RingPacket)) int { return 0 }
func (*ring) stats() (Stats, error)      { return Stats{}, unsupported("stats") }
func (*ring) close() error               { return unsupported("close") }

func waitRings(time.Duration, []*Ring) error { return unsupported("wait") }
