package wire

import (
	"errors"
	"strconv"
)

// Why a parser gave up. Every error of this package is a [*ParseError] that
// wraps exactly one of these, for use with [errors.Is].
var (
	// ErrTruncated says that the bytes end before what they announce.
	ErrTruncated = errors.New("truncated")

	// ErrMalformed says that a field has a value that its RFC forbids, or
	// that this package does not read (an ARP packet for token ring, say).
	ErrMalformed = errors.New("malformed")

	// ErrChecksum says that a checksum which was computed by the sender
	// does not fit the bytes that follow it.
	ErrChecksum = errors.New("wrong checksum")

	// ErrNoQuote says that an ICMP message of this type quotes no packet.
	ErrNoQuote = errors.New("no quoted packet")
)

// A ParseError says what could not be parsed and where. It has no useful zero
// value.
type ParseError struct {
	Layer  string // the header being read: "ipv4", "tcp", "quote", ...
	Field  string // the part of it that is at fault: "header length"
	Offset int    // where that part starts, in bytes from the start of the layer
	Err    error  // ErrTruncated, ErrMalformed, ErrChecksum or ErrNoQuote
}

// Error names the layer, the field, its offset and the fault. It contains no
// bytes of the packet and is safe to print.
func (e *ParseError) Error() string {
	return e.Layer + ": " + e.Field + " at byte " + strconv.Itoa(e.Offset) + ": " + e.Err.Error()
}

// Unwrap returns e.Err.
func (e *ParseError) Unwrap() error { return e.Err }

func truncated(layer, field string, offset int) error {
	return &ParseError{Layer: layer, Field: field, Offset: offset, Err: ErrTruncated}
}

func malformed(layer, field string, offset int) error {
	return &ParseError{Layer: layer, Field: field, Offset: offset, Err: ErrMalformed}
}
