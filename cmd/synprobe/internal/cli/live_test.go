package cli

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestLive checks this machine's own answers where every machine gives the
// same.
func TestLive(t *testing.T) {
	loopback, nobodys := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("203.0.113.77")
	for a, want := range map[netip.Addr]bool{
		loopback:                         true,
		nobodys:                          false, // RFC 5737: an address for documentation
		netip.MustParseAddr("0.0.0.0"):   false,
		netip.MustParseAddr("::"):        false,
		netip.MustParseAddr("224.0.0.1"): false,
	} {
		if got := owns(a); got != want {
			t.Errorf("owns(%v) is %v", a, got)
		}
	}
	if !usable(loopback, Options{}) {
		t.Error("the loopback address is not usable")
	}
	if usable(loopback, Options{Interface: "nosuch0"}) {
		t.Error("an address is usable on an interface that does not exist")
	}
	if usable(loopback, Options{Source: nobodys}) {
		t.Error("an address is usable from a source that is not ours")
	}

	all, err := interfaces()
	if err != nil || len(all) == 0 || slices.Contains(all, Interface{}) {
		t.Errorf("interfaces %v, error %v", all, err)
	}

	env := live()
	path, err := env.Executable()
	if err != nil || !filepath.IsAbs(path) {
		t.Errorf("the binary is %q, error %v", path, err)
	}

	for _, name := range []string{os.DevNull, "/dev/full", "/dev/zero"} {
		f, err := os.Open(name)
		if err != nil && name != os.DevNull {
			continue // not every system has it
		}
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if isTerminal(f) {
			t.Errorf("%s is taken for a terminal", name)
		}
	}
}
