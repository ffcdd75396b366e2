package wire_test

import (
	"encoding/hex"
	"errors"
	"flag"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"synprobe/rawprobe/wire"
)

// unhex reads a packet written by hand: hexadecimal digits with spaces
// wherever they help, and comments from a # to the end of the line.
func unhex(t testing.TB, text string) []byte {
	t.Helper()
	var digits strings.Builder
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		for _, f := range strings.Fields(line) {
			digits.WriteString(f)
		}
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatalf("packet written wrongly: %v", err)
	}
	return b
}

var seed = flag.Uint64("wire.seed", 0, "seed of the random packets; 0 takes the time")

// random returns a source whose seed is in the test's log.
func random(t testing.TB) *rand.Rand {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("again with: go test -run '^%s$' -wire.seed=%d", t.Name(), s)
	return rand.New(rand.NewPCG(s, 0))
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// wantError checks that err is a ParseError that wraps want.
func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
	if _, ok := errors.AsType[*wire.ParseError](err); want != nil && !ok {
		t.Fatalf("error %v is a %T, want a *ParseError", err, err)
	}
}
