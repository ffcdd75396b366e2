package cli

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"unicode"

	"synprobe/rawprobe"
)

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
		w := newWorld()
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
