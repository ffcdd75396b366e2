package rawprobe

import (
	"errors"
	"math"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestID reads the numbers that sudo gives. Whatever is not plainly a user other
// than root is nobody.
func TestID(t *testing.T) {
	for s, want := range map[string]int{"1": 1, "1000": 1000, "65534": 65534, "2147483647": math.MaxInt32} {
		if got, ok := id(s); got != want || !ok {
			t.Errorf("%q: %d, %v", s, got, ok)
		}
	}
	for _, s := range []string{
		"", "0", "00", "-1", "+1000", " 1000", "1000 ", "1000\n", "1e3", "0x3e8", "1_000", "me", "１０００",
		"4294967295", "4294967296", "4294968296", "18446744073709552616", "99999999999999999999999",
	} {
		if got, ok := id(s); ok {
			t.Errorf("%q: %d, want none", s, got)
		}
	}
}

// TestCallingUser asks whom sudo names. A user in root's group is a user too.
func TestCallingUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Setenv("SUDO_UID", "1000")
		t.Setenv("SUDO_GID", "1000")
		if uid, gid, ok := CallingUser(); ok {
			t.Errorf("not root, and yet %d, %d", uid, gid)
		}
		return
	}
	for _, c := range []struct {
		user, group string
		uid, gid    int
		ok          bool
	}{
		{"1000", "1001", 1000, 1001, true},
		{"1000", "0", 1000, 0, true},
		{"0", "0", 0, 0, false},
		{"0", "1001", 0, 0, false},
		{"1000", "", 0, 0, false},
		{"1000", "-1", 0, 0, false},
		{"1000", "4294967295", 0, 0, false},
		{"", "0", 0, 0, false},
	} {
		t.Setenv("SUDO_UID", c.user)
		t.Setenv("SUDO_GID", c.group)
		if uid, gid, ok := CallingUser(); uid != c.uid || gid != c.gid || ok != c.ok {
			t.Errorf("%q, %q: %d, %d, %v", c.user, c.group, uid, gid, ok)
		}
	}
}

// TestPatiently has a send refused for want of room: it is tried again a few
// times, and what lasts is an observation. Any other refusal is one at once.
func TestPatiently(t *testing.T) {
	const most = 4 // the first, and one after each pause
	for _, c := range []struct {
		err     error
		refused int // how often
		tries   int
		reason  Refusal
	}{
		{unix.ENOBUFS, 0, 1, NotRefused},
		{unix.ENOBUFS, 1, 2, NotRefused},
		{unix.EAGAIN, 3, 4, NotRefused},
		{unix.ENOMEM, 2, 3, NotRefused},
		{unix.ENOBUFS, 100, most, RefusedNoBuffer},
		{unix.EAGAIN, 100, most, RefusedNoBuffer},
		{unix.EPERM, 100, 1, RefusedByFirewall},
		{unix.ENETDOWN, 100, 1, RefusedDown},
	} {
		tries := 0
		err := refusal(patiently(func() error {
			if tries++; tries <= c.refused {
				return c.err
			}
			return nil
		}))
		reason := NotRefused
		if refused := (*SendError)(nil); errors.As(err, &refused) {
			reason = refused.Reason
		}
		if tries != c.tries || reason != c.reason {
			t.Errorf("%v %d times: %d tries and %q, want %d and %q", c.err, c.refused, tries, reason, c.tries, c.reason)
		}
	}
}
