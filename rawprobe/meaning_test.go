package rawprobe

import "testing"

// TestUnknownCodes: what no RFC defines says nothing in IPv4, where a connecting
// socket takes no notice of it; in IPv6 it ends the attempt.
func TestUnknownCodes(t *testing.T) {
	for _, c := range []struct {
		n         network
		typ, code int
		want      Meaning
	}{
		{net4, 3, 15, SaysRefused}, {net4, 3, 16, SaysNothing}, {net4, 3, 42, SaysNothing}, {net4, 3, 255, SaysNothing},
		{net4, 11, 2, SaysNothing}, {net4, 77, 0, SaysNothing},
		{net6, 1, 8, SaysRefused}, {net6, 1, 42, SaysRefused}, {net6, 3, 2, SaysNothing}, {net6, 77, 0, SaysNothing},
	} {
		r := Reply{Kind: ICMPError, From: c.n.router, Type: c.typ, Code: c.code}
		if got := r.Meaning(); got != c.want {
			t.Errorf("%s %d/%d: %q, want %q", c.n.name, c.typ, c.code, got, c.want)
		}
	}
}
