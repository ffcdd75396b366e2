//go:build !linux

package batch

import "errors"

// liveLink does not exist here: raw sockets and the ring are Linux's.
type liveLink struct{ link }

func (*liveLink) close() {}

func openLink(*Space, Config) (*liveLink, error) { return nil, errors.ErrUnsupported }
