package cli

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestFilesForSudoUser: what is written belongs to who called sudo, not to root.
func TestFilesForSudoUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: not root")
	}
	for _, c := range []struct {
		uid, gid         string
		wantUID, wantGID uint32
	}{
		{"1234", "2345", 1234, 2345},
		{"1234", "0", 1234, 0},
		{"3000000000", "4000000000", 3000000000, 4000000000}, // a directory service's
		{"", "", 0, 0},
		{"-1", "2345", 0, 0},
		{"x", "2345", 0, 0},
		{"1234", "", 0, 0},
		{"4294967295", "1", 0, 0}, // -1 in the system call: leave it as it is
	} {
		t.Setenv("SUDO_UID", c.uid)
		t.Setenv("SUDO_GID", c.gid)
		for _, f := range []struct {
			flag string
			old  bool // the file is there before
		}{{"-w", false}, {"-w", true}, {"--html", false}, {"--html", true}, {"--resume", false}} {
			path := filepath.Join(t.TempDir(), "x")
			args := []string{f.flag, path, "192.0.2.1:80"}
			if f.old {
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				args = append(args, "--force")
			}
			w, ctx, want := talkative(), t.Context(), exitOK
			if f.flag == "--resume" { // whose file stays where there is more to do
				ctx, want = stopAfter(w, 3), exitInterrupted
				args[2] = "192.0.2.0/24:80"
			}
			if code := w.runIn(ctx, args...); code != want {
				t.Fatalf("%s: exit %d: %s", f.flag, code, &w.err)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if s := info.Sys().(*syscall.Stat_t); s.Uid != c.wantUID || s.Gid != c.wantGID {
				t.Errorf("%+v, %+v: it is %d:%d's", c, f, s.Uid, s.Gid)
			}
		}
	}
}
