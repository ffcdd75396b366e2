package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket/pcapgo"

	"synprobe/pcap"
	"synprobe/rawprobe"
)

// seenPacket is what a run tells of one packet.
func seenPacket(number int) rawprobe.Seen {
	return rawprobe.Seen{
		Event:  rawprobe.Event{Data: []byte{0x45, 0, 0, 20, 19: 0}, Time: time.Unix(1795000000, int64(number)), Interface: 2, Direction: pcap.Outgoing},
		Number: number, What: rawprobe.ProbeLeft, Probe: rawprobe.Sent{Kind: rawprobe.Subject, TTL: 3, Try: number},
	}
}

// talkative is a world whose runs tell of packets.
func talkative() *world {
	w := newWorld()
	w.Probe = func(_ context.Context, target netip.AddrPort, opt Options) (*rawprobe.Observations, error) {
		for i := range 3 {
			opt.Watch(seenPacket(i)) // number 0 was refused: it is on no wire
		}
		return &rawprobe.Observations{Target: target}, nil
	}
	return w
}

// held reads a capture.
func held(t *testing.T, b []byte) (comments []string, closing []string) {
	t.Helper()
	file, err := pcap.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	for {
		var p pcap.Captured
		err := file.Read(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if file.Interface(p.Interface).Name != "eth0" || p.Direction != pcap.Outgoing {
			t.Errorf("packet %+v", p)
		}
		comments = append(comments, p.Comment)
	}
	for _, s := range file.Statistics() {
		closing = append(closing, s.Comment)
	}
	return comments, closing
}

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.pcapng")
	w := talkative()
	if code := w.run("-w", path, "192.0.2.1:80", "192.0.2.1:81"); code != 1 {
		t.Fatalf("exit %d: %s", code, &w.err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	comments, closing := held(t, b)
	if len(comments) != 4 || comments[0] != "subject SYN, TTL 3, try 1" {
		t.Errorf("comments %q", comments)
	}
	if len(closing) != 2 || !strings.HasPrefix(closing[0], `{"schema":"synprobe/1"`) || !strings.Contains(closing[0], "\n"+`{"schema":"synprobe-record/1"`) {
		t.Errorf("closing blocks %q", closing)
	}
	other, err := pcapgo.NewNgReader(bytes.NewReader(b), pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	s := other.SectionInfo()
	if s.Comment != "synprobe -w "+path+" 192.0.2.1:80 192.0.2.1:81" || !strings.HasPrefix(s.Application, "synprobe ") || s.OS == "" || s.Hardware == "" {
		t.Errorf("section %+v", s)
	}
}

// TestNoFileOfNothing: a run that could not begin leaves no file in the way of
// the next one, which the hint about privilege has pasted.
func TestNoFileOfNothing(t *testing.T) {
	for name, target := range map[string]string{"no privilege": "192.0.2.1:80", "no name": "nobody:80", "no port": "192.0.2.1:0", "no time": "slow:80"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			w := talkative()
			w.Probe = func(context.Context, netip.AddrPort, Options) (*rawprobe.Observations, error) {
				return nil, &rawprobe.PrivilegeError{Op: "open packet socket", Err: syscall.EPERM}
			}
			files := []string{"-w", filepath.Join(dir, "x.pcapng")}
			if name != "no name" { // which a page can show
				files = append(files, "--html", filepath.Join(dir, "x.html"))
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			lookup := w.Lookup
			w.Lookup = func(ctx context.Context, name string) ([]netip.Addr, error) {
				if name == "slow" {
					cancel()
				}
				return lookup(ctx, name)
			}
			if code := w.runIn(ctx, append(files, target)...); code < exitUsage {
				t.Errorf("exit %d", code)
			}
			if names := left(t, dir); len(names) > 0 {
				t.Errorf("left behind: %v", names)
			}
		})
	}
}

func TestWriteOverExisting(t *testing.T) {
	dir := t.TempDir()
	path, link, other := filepath.Join(dir, "x"), filepath.Join(dir, "link"), filepath.Join(dir, "other")
	for _, p := range []string{path, other} {
		if err := os.WriteFile(p, []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(other, link); err != nil {
		t.Skip("no links here: ", err)
	}
	dangling := filepath.Join(dir, "dangling")
	if err := os.Symlink(filepath.Join(dir, "nowhere"), dangling); err != nil {
		t.Fatal(err)
	}
	// An open file is what somebody else has of the old one.
	old, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	for _, args := range [][]string{{path}, {link}, {link, "--force"}, {dangling}, {dangling, "--force"}, {dir, "--force"}} {
		w := talkative()
		if code := w.run(append([]string{"192.0.2.1:80", "-w"}, args...)...); code != exitUsage || w.out.Len() > 0 || len(w.probed) > 0 {
			t.Errorf("%v: exit %d: %s%s", args, code, &w.out, &w.err)
		}
	}
	if b, _ := os.ReadFile(path); string(b) != "old" {
		t.Errorf("it was touched: %q", b)
	}
	w := talkative()
	if code := w.run("192.0.2.1:80", "--force", "-w", path); code != 0 {
		t.Fatalf("exit %d: %s", code, &w.err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if comments, closing := held(t, b); len(comments) != 2 || len(closing) != 1 {
		t.Errorf("%q %q", comments, closing)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if b, err := io.ReadAll(old); err != nil || string(b) != "old" {
		t.Errorf("the old file was written to: %q, %v", b, err)
	}
	if b, _ := os.ReadFile(other); string(b) != "old" {
		t.Errorf("a link was followed: %q", b)
	}
	if _, err := os.Stat(filepath.Join(dir, "nowhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link was followed: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestWriteToPipe(t *testing.T) {
	w := talkative()
	if code := w.run("-w", "-", "192.0.2.1:81"); code != 1 {
		t.Fatalf("exit %d: %s", code, &w.err)
	}
	if comments, closing := held(t, w.out.Bytes()); len(comments) != 2 || len(closing) != 1 {
		t.Errorf("%q %q", comments, closing)
	}
	if !strings.HasPrefix(w.err.String(), "REJECT  192.0.2.1 port 81/tcp") {
		t.Errorf("stderr: %s", &w.err)
	}
	w = talkative()
	w.Terminal = true
	if code := w.run("-w", "-", "192.0.2.1:81"); code != exitUsage || w.out.Len() > 0 {
		t.Errorf("on a terminal: exit %d: %s", code, &w.err)
	}
	// An error is no part of the capture, the one before there is any neither.
	w = talkative()
	if code := w.run("--json", "-w", "-", "192.0.2.1:0"); code != exitUsage || w.out.Len() > 0 || !strings.Contains(w.err.String(), `"kind":"usage"`) {
		t.Errorf("exit %d, stdout %q, stderr %s", code, &w.out, &w.err)
	}
}

// small is a disk with little room.
type small struct{ room int }

func (s *small) Write(b []byte) (int, error) {
	n := min(len(b), s.room)
	s.room -= n
	if n < len(b) {
		return n, errors.New("no space left on device")
	}
	return n, nil
}

// TestWriteFull: a full disk costs the capture and the exit code, not the
// answer.
func TestWriteFull(t *testing.T) {
	for _, room := range []int{0, 600} {
		w := talkative()
		w.Stdout = &small{room}
		code := w.run("-w", "-", "192.0.2.1:81")
		if code != exitIO || !strings.Contains(w.err.String(), "synprobe: write -: no space left on device\n") {
			t.Errorf("room %d: exit %d: %s", room, code, &w.err)
		}
		if answered := strings.Contains(w.err.String(), "REJECT"); answered != (room > 0) {
			t.Errorf("room %d: %s", room, &w.err)
		}
	}
}

// half writes half of what it is given, once it is told to, as a full disk may.
type half struct {
	*os.File
	full bool
}

func (h *half) Write(b []byte) (int, error) {
	if !h.full {
		return h.File.Write(b)
	}
	n, _ := h.File.Write(b[:len(b)/2])
	return n, errors.New("no space left on device")
}

func TestWholeBlocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := &half{File: f}
	w := &whole{Writer: h, file: f}
	if _, err := w.Write([]byte("a whole block")); err != nil {
		t.Fatal(err)
	}
	h.full = true
	if _, err := w.Write([]byte("one too many")); err == nil {
		t.Error("no error")
	}
	if b, _ := os.ReadFile(path); string(b) != "a whole block" {
		t.Errorf("%q", b)
	}
}
