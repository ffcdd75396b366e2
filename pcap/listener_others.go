//go:build !linux

package pcap

import (
	"errors"
	"time"

	"golang.org/x/net/bpf"
)

// A listener does not exist here: AF_PACKET is Linux's.
type listener struct{}

func open(Config) (*listener, error) { return nil, unsupported("socket") }

func (*listener) read(*Packet) error                { return unsupported("read") }
func (*listener) setReadDeadline(time.Time) error   { return unsupported("set deadline") }
func (*listener) setFilter([]bpf.Instruction) error { return unsupported("set filter") }
func (*listener) send(int, uint16, [6]byte, []byte) error {
	return unsupported("send")
}
func (*listener) stats() (Stats, error) { return Stats{}, unsupported("stats") }
func (*listener) close() error          { return unsupported("close") }

func unsupported(op string) error { return &OpError{Op: op, Err: errors.ErrUnsupported} }
