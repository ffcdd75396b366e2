package cli

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"unicode"

	"synprobe/rawprobe"
	"synprobe/rawprobe/batch"
)

// few is an engine that probes the first hundred targets.
func few(t *testing.T) func(context.Context, *batch.Space, batch.Config, func(*batch.Result)) (batch.Progress, error) {
	return func(_ context.Context, s *batch.Space, _ batch.Config, emit func(*batch.Result)) (batch.Progress, error) {
		for i := uint64(0); i < min(s.Len(), 100); i++ {
			a := s.At(i)
			if a.Port() == 0 || nobody(a.Addr()) != "" || !a.IsValid() {
				t.Errorf("%v was probed", a)
			}
			r := fate(a)
			emit(&r)
		}
		return batch.Progress{Targets: s.Len(), Done: s.Len(), Finished: true}, nil
	}
}

// FuzzArguments: whatever two arguments say, the program ends with a code of
// the contract, and nothing that could steer a terminal is printed.
func FuzzArguments(f *testing.F) {
	for _, s := range [][2]string{
		{"one", "80"}, {"one:80", "[2001:db8::1]:81"}, {"fe80::1%eth0", "22"}, {"-i", "eth0"}, {"--tries=3", "one:80"},
		{"a\x1b[31m", "80"}, {"-4", "-6"}, {"[::1", "]:22"}, {"10.0.0.0/8:1", "1-2,3"}, {"-1", "-65536"}, {"--", "-é"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, flag := range []string{"--resume", "--html"} {
			if strings.Contains(a, flag) || strings.Contains(b, flag) {
				t.Skip("it would write a file of any name")
			}
		}
		w := newWorld()
		w.Batch = few(t)
		w.Lookup = func(_ context.Context, name string) ([]netip.Addr, error) {
			if checkName(name) != nil {
				t.Errorf("%q was looked up", name)
			}
			return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
		}
		w.Probe = func(_ context.Context, target netip.AddrPort, _ Options) (*rawprobe.Observations, error) {
			if target.Port() == 0 || nobody(target.Addr()) != "" || !target.IsValid() {
				t.Errorf("%v was probed", target)
			}
			return nil, errors.New(a + b)
		}
		switch code := w.run(a, b); code {
		case exitOK, exitUsage, exitIO:
		case 1, 3, 4, 5: // of many targets, which meet all fates
		default:
			t.Errorf("%q %q: exit %d", a, b, code)
		}
		for _, out := range []string{w.out.String(), w.err.String()} {
			if i := strings.IndexFunc(out, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
				t.Errorf("%q %q prints %q", a, b, out)
			}
		}
	})
}
