//go:build !linux

package rawprobe

import "errors"

type router struct{}

func (router) open() error { return errors.ErrUnsupported }

func (router) lookup(Flow, int) (Route, error) { return Route{}, errors.ErrUnsupported }

func (router) lookupTCP(Flow, int) (Route, bool, error) {
	return Route{}, false, errors.ErrUnsupported
}

func (router) close() {}
