//go:build !linux

package batch

import (
	"context"
	"errors"
)

// liveLink does not exist here: raw sockets and the ring are Linux's.
type liveLink struct{ link }

func (*liveLink) close() {}

func openLink(context.Context, *Space, Config) (*liveLink, error) { return nil, errors.ErrUnsupported }
