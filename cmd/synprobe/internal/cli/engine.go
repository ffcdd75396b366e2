package cli

import (
	"context"
	"errors"
	"net/netip"

	"synprobe/rawprobe"
	"synprobe/traceroute"
)

// probe observes one target through this machine's own network.
func probe(ctx context.Context, target netip.AddrPort, opt Options) (*rawprobe.Observations, error) {
	link, err := rawprobe.OpenLink(rawprobe.LinkConfig{
		Interface: opt.Interface, IPv6: target.Addr().Is6(), Opened: opt.Opened,
	})
	if err != nil {
		return nil, err
	}
	seen, err := traceroute.Observe(ctx, link, target, rawprobe.Options{
		Source: opt.Source, SourcePort: opt.SourcePort, Tries: opt.Tries, Timeout: opt.Timeout, Watch: opt.Watch,
	}, opt.Trace)
	return seen, errors.Join(err, link.Close())
}
