package cli

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestWriteForSudoUser: the file belongs to who called sudo, not to root.
func TestWriteForSudoUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: not root")
	}
	for _, c := range []struct {
		uid, gid         string
		wantUID, wantGID uint32
	}{
		{"1234", "2345", 1234, 2345},
		{"", "", 0, 0},
		{"-1", "2345", 0, 0},
		{"1234", "", 0, 0},
		{"4294967295", "1", 0, 0}, // -1 in the system call: leave it as it is
	} {
		for _, old := range []bool{false, true} {
			path := filepath.Join(t.TempDir(), "x.pcapng")
			args := []string{"-w", path, "192.0.2.1:80"}
			if old {
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				args = append(args, "--force")
			}
			w := talkative()
			w.Getenv = func(name string) string { return map[string]string{"SUDO_UID": c.uid, "SUDO_GID": c.gid}[name] }
			if code := w.run(args...); code != 0 {
				t.Fatalf("exit %d: %s", code, &w.err)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if s := info.Sys().(*syscall.Stat_t); s.Uid != c.wantUID || s.Gid != c.wantGID {
				t.Errorf("%+v, old %v: it is %d:%d's", c, old, s.Uid, s.Gid)
			}
		}
	}
}
