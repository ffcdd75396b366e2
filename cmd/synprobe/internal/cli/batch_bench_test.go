package cli

import (
	"context"
	"io"
	"net/netip"
	"strings"
	"testing"

	"synprobe/rawprobe/batch"
)

// BenchmarkEmit is what a result costs whoever brings it, in each format.
func BenchmarkEmit(b *testing.B) {
	for _, format := range []string{"--json", "--csv", "-q"} {
		for _, port := range []string{"80", "81", "82", "83", "84", "86"} {
			b.Run(strings.Trim(format, "-")+"/"+port, func(b *testing.B) {
				w := newWorld()
				w.Stdout = io.Discard
				w.Batch = func(_ context.Context, s *batch.Space, _ batch.Config, emit func(*batch.Result)) (batch.Progress, error) {
					r := fate(netip.MustParseAddrPort("10.0.0.1:" + port))
					b.ReportAllocs()
					for b.Loop() {
						emit(&r)
					}
					return batch.Progress{Targets: s.Len(), Done: s.Len(), Finished: true}, nil
				}
				w.run(format, "10.0.0.0/31:80")
			})
		}
	}
}
