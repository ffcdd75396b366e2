package cli

import (
	"context"
	"errors"
	"net/netip"

	"synprobe/rawprobe"
	"synprobe/traceroute/diagnose"
)

// probe has no engine to call on this branch: as on a system that can't be
// probed from, it says so.
func probe(context.Context, netip.AddrPort, Options) (*rawprobe.Observations, error) {
	return nil, errors.ErrUnsupported
}

func explain(*rawprobe.Observations) diagnose.Diagnosis { return diagnose.Diagnosis{} }

func privilegeHint() string { return "" }
