package cli

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"synprobe/rawprobe"
)

// left is what lies in a folder.
func left(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names
}

func TestPage(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "case.html")
	w := newWorld()
	if code := w.run("--html", path, "192.0.2.1:80", "nobody:81", "192.0.2.1:82"); code != exitNoHost {
		t.Fatalf("exit %d: %s", code, &w.err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"What 192.0.2.1:80 does.", "What 192.0.2.1:82 does.", "nobody", "--html " + path} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if !strings.Contains(w.out.String(), "OPEN") {
		t.Errorf("standard output: %s", &w.out)
	}
	if names := left(t, dir); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

// TestPageKeepsOld never writes over a file without --force, and then no half of
// one, and leaves nothing beside it.
func TestPageKeepsOld(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "case.html")
	link := filepath.Join(dir, "link.html")
	if err := os.WriteFile(path, []byte("old"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, link); err != nil {
		t.Skip(err)
	}
	content := func() string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--html", path, "one", "80"}, exitUsage, "it exists"},
		{[]string{"--html", link, "--force", "one", "80"}, exitUsage, "not a regular file"},
		{[]string{"--html", filepath.Join(dir, "none", "x"), "one", "80"}, exitIO, "no such file"},
		{[]string{"--html", "", "one", "80"}, exitUsage, "empty"},
		{[]string{"--html", "-", "one", "80"}, exitUsage, "goes to a file"},
		{[]string{"--html", path, "-w", path, "--force", "one", "80"}, exitUsage, "--html and --write: both name"},
		{[]string{"--html", path, "-w", dir + "/./case.html", "--force", "one", "80"}, exitUsage, "--html and --write: both name"},
		{[]string{"--html", filepath.Join(dir, "new"), "-w", dir + "/../" + filepath.Base(dir) + "/new", "one", "80"}, exitUsage, "--html and --write: both name"},
		{[]string{"--html", path, "-r", path, "--force"}, exitUsage, "--html and --read: both name"},
		{[]string{"--html", path, "192.0.2.0/30:80"}, exitUsage, "--html"},
	} {
		w := newWorld()
		if code := w.run(c.args...); code != c.code || !strings.Contains(w.err.String(), c.says) || len(w.probed) != 0 {
			t.Errorf("%q: exit %d, %d probed: %s", c.args, code, len(w.probed), &w.err)
		}
		if content() != "old" {
			t.Fatalf("%q wrote over the file", c.args)
		}
	}
	w := newWorld()
	if code := w.run("--html", path, "--force", "one", "80"); code != 0 || !strings.Contains(content(), "What 192.0.2.1:80 does.") {
		t.Errorf("exit %d: %s", code, &w.err)
	}
	if names := left(t, dir); len(names) != 2 {
		t.Errorf("left behind: %v", names)
	}
}

// TestPageOfFailure has the error on the page where no target has a verdict.
func TestPageOfFailure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "case.html")
	w := newWorld()
	w.Probe = func(context.Context, netip.AddrPort, Options) (*rawprobe.Observations, error) {
		return nil, errors.New("the roof is on fire")
	}
	if code := w.run("--html", path, "one", "80"); code != exitIO {
		t.Errorf("exit %d", code)
	}
	if b, err := os.ReadFile(path); err != nil || !strings.Contains(string(b), "the roof is on fire") {
		t.Errorf("the page: %v", err)
	}
}

// TestPageWithoutReader is whole where nobody reads standard output.
func TestPageWithoutReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "case.html")
	w := talkative()
	w.Stdout = writer(func([]byte) (int, error) { return 0, syscall.EPIPE })
	if code := w.run("--html", path, "-v", "one", "82"); code != 3 {
		t.Errorf("exit %d: %s", code, &w.err)
	}
	if b, err := os.ReadFile(path); err != nil || !strings.Contains(string(b), "What 192.0.2.1:82 does.") {
		t.Errorf("the page: %v", err)
	}
}
