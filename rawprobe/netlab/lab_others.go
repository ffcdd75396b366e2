//go:build !linux

package netlab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"runtime"
)

type (
	labSys     struct{}
	machineSys struct{}
)

var errUnsupported = fmt.Errorf("netlab: %s has no network namespaces: %w", runtime.GOOS, errors.ErrUnsupported)

func possible() error { return errUnsupported }

func (l *Lab) build() error { return errUnsupported }
func (l *Lab) close() error { return nil }

func (m *Machine) do(func() error) error                    { return errUnsupported }
func (m *Machine) begin(*exec.Cmd) error                    { return errUnsupported }
func (m *Machine) listen(Service) error                     { return errUnsupported }
func (m *Machine) setLink(string, bool) error               { return errUnsupported }
func (m *Machine) noCarrier(string) error                   { return errUnsupported }
func (m *Machine) die() error                               { return errUnsupported }
func (m *Machine) revive() error                            { return errUnsupported }
func (m *Machine) addRules([]PlanRule) error                { return errUnsupported }
func (m *Machine) addRoute([]PlanRoute) error               { return errUnsupported }
func (m *Machine) delRoute([]netip.Prefix) error            { return errUnsupported }
func (m *Machine) hits(string) (uint64, error)              { return 0, errUnsupported }
func (m *Machine) counterName() string                      { return "" }
func (m *Machine) warmNeighbor(netip.Addr) error            { return errUnsupported }
func (m *Machine) neighborState(netip.Addr) (string, error) { return "", errUnsupported }
func fillConntrack() error                                  { return errUnsupported }
func (m *Machine) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, name, args...)
}
