//go:build !linux

package rawprobe

import "errors"

// OpenLink answers errors.ErrUnsupported: the raw sockets and the tap that a
// live run needs are Linux's.
func OpenLink(LinkConfig) (Link, error) { return nil, errors.ErrUnsupported }
