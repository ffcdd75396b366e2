package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"synprobe/rawprobe"
	"synprobe/rawprobe/batch"
	"synprobe/traceroute/diagnose"
)

// fate is what the fake network does to a target: by the port's last two
// digits, as verdicts has it.
func fate(t netip.AddrPort) batch.Result {
	r := batch.Result{Target: t, Tries: 1, RTT: 1234567 * time.Nanosecond, From: t.Addr(), TTL: 62}
	switch t.Port() % 100 {
	case 80:
		r.Kind = rawprobe.SynAck
	case 81:
		r.Kind = rawprobe.Reset
		r.EchoAnswered, r.EchoTTL = true, 62
	case 86:
		r.Kind, r.From, r.Type, r.Code = rawprobe.ICMPError, netip.MustParseAddr("198.51.100.1"), 3, 13
		if t.Addr().Is6() {
			r.From, r.Type, r.Code = netip.MustParseAddr("2001:db8:ffff::1"), 1, 1
		}
	case 83:
		r = batch.Result{Target: t, Tries: 3, NoNeighbor: true}
	case 84:
		r = batch.Result{Target: t, Refused: rawprobe.RefusedNoRoute}
	default:
		r = batch.Result{Target: t, Tries: 3}
	}
	return r
}

// engine is a fake of batch.Run: it takes the targets in order.
func (w *world) engine(ctx context.Context, s *batch.Space, cfg batch.Config, emit func(*batch.Result)) (batch.Progress, error) {
	w.mu.Lock()
	w.batches = append(w.batches, cfg)
	w.mu.Unlock()
	p := batch.Progress{Targets: s.Len(), Done: cfg.Position, Position: cfg.Position}
	for p.Position < s.Len() && ctx.Err() == nil {
		r := fate(s.At(p.Position))
		p.Position++
		p.Done++
		p.Sent += uint64(r.Tries)
		emit(&r)
		if cfg.Progress != nil {
			cfg.Progress(p)
		}
	}
	p.Elapsed = 1500 * time.Millisecond
	p.Finished = p.Position == s.Len()
	return p, nil
}

var update = flag.Bool("update", false, "write the golden files")

// TestBatchGolden holds what a run with many targets prints against files. Each
// has its command line, and files to put into the directory that the run's
// paths are in, as comment and files of the archive; then stdout and stderr.
func TestBatchGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/batch-*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no golden files", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			t.Chdir(t.TempDir())
			w := newWorld()
			for _, f := range a.Files {
				switch f.Name {
				case "stdout", "stderr":
				case "stdin":
					w.Stdin = strings.NewReader(string(f.Data))
				default:
					if err := os.WriteFile(f.Name, f.Data, 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			line, _, _ := strings.Cut(string(a.Comment), "\n")
			var code int
			synctest.Test(t, func(t *testing.T) { // for the time in the JSON
				code = w.run(strings.Fields(line)...)
			})
			got := &txtar.Archive{Comment: fmt.Appendf(nil, "%s\nexit %d\n", line, code)}
			for _, f := range a.Files {
				if f.Name != "stdout" && f.Name != "stderr" {
					got.Files = append(got.Files, f)
				}
			}
			got.Files = append(got.Files, txtar.File{Name: "stdout", Data: w.out.Bytes()}, txtar.File{Name: "stderr", Data: w.err.Bytes()})
			text := txtar.Format(got)
			if *update {
				if err := os.WriteFile(filepath.Join(home, file), text, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(txtar.Format(a)), string(text)); diff != "" && !*update {
				t.Errorf("want -, got +:\n%s", diff)
			}
			if strings.Contains(line, "--csv") || strings.Contains(line, "--json") || strings.Contains(line, "2001:") {
				return
			}
			for l := range strings.Lines(w.out.String()) {
				if len(strings.TrimSuffix(l, "\n")) > 80 {
					t.Errorf("longer than 80 columns: %q", l)
				}
			}
		})
	}
}

// home is where the tests start.
var home, _ = os.Getwd()

// TestWhenMany: what is probed one by one, with all the proof, and what is a run
// with many.
func TestWhenMany(t *testing.T) {
	for args, many := range map[string]bool{
		"one 80": false, "one:80 one:81": false, "10.0.0.1/32:80": false, "[2001:db8::1/128]:80": false, "one http": false,
		"10.0.0.0/31:80": true, "10.0.0.0/24 80": true, "one:80,81": true, "one 80-81": true, "one:80 10.0.0.0/31:80": true, "one 80,80": true,
		"--rate 5 one 80": true, "--csv one 80": true, "--shard 1/1 one 80": true, "--explain one 80": true, "--link-layer one 80": true,
		"--resume state one 80": true,
	} {
		t.Chdir(t.TempDir())
		w := newWorld()
		code := w.run(strings.Fields(args)...)
		if code > 1 || (len(w.batches) == 1) != many || (len(w.probed) > 0) == many {
			t.Errorf("%s: exit %d, %d batches, %d probed; %s", args, code, len(w.batches), len(w.probed), &w.err)
		}
	}
}

func TestBatchConfig(t *testing.T) {
	w := newWorld()
	w.run("--rate=0", "--link-layer", "--shard", "2/3", "-i", "eth0", "-s", "192.0.2.100", "--tries=2", "one:80")
	w.run("10.0.0.0/24:80")
	w.run("10.0.0.0/24:80")
	w.run("--shard", "1/3", "one:80")
	if len(w.batches) != 4 {
		t.Fatalf("%d runs; %s", len(w.batches), &w.err)
	}
	first := w.batches[0]
	got := fmt.Sprintln(first.Rate, first.LinkLayer, first.Interface, first.Source, first.Tries, first.Position, first.Shard, first.Shards, first.Progress != nil)
	if want := "0 true eth0 192.0.2.100 2 0 2 3 true\n"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if w.batches[1].Rate != politeRate || w.batches[1].Seed == w.batches[2].Seed {
		t.Errorf("%+v and %+v", w.batches[1], w.batches[2])
	}
	// Other machines must have the same order.
	if w.batches[3].Seed != first.Seed {
		t.Errorf("shards of one list have the seeds %x and %x", first.Seed, w.batches[3].Seed)
	}
}

func TestBatchMisuse(t *testing.T) {
	for _, test := range []struct{ args, err, hint string }{
		{"--csv", "no target", "HOST PORT"},
		{"--targets= one:80", `--targets "": empty`, "name of a file"},
		{"--targets nosuchfile", "--targets nosuchfile: no such file or directory", ""},
		{"--targets empty", "no target: the list has none", "a line"},
		{"--targets comments", "no target: the list has none", "a line"},
		{"--targets . one:80", "read .: is a directory", ""},
		{"--rate -1 one:80", "--rate -1: not a number of packets a second", "0 is as fast"},
		{"--rate 1k one:80", "--rate 1k: not a number of packets a second", ""},
		{"--rate 99999999999 one:80", "--rate 99999999999: not a number", ""},
		{"--shard 0/2 one:80", "--shard 0/2: not I/N with I from 1 to N", "2/3"},
		{"--shard 3/2 one:80", "--shard 3/2: not I/N", ""},
		{"--shard 2 one:80", "--shard 2: not I/N", ""},
		{"--shard 1/x one:80", "--shard 1/x: not I/N", ""},
		{"--csv --json one:80", "--csv and --json: they exclude each other", ""},
		{"--expect matrix --json", "--expect and --json: differences are told in words alone", ""},
		{"--expect matrix --csv", "--expect and --csv: differences", ""},
		{"--expect matrix --resume state", "--expect and --resume: ", ""},
		{"--explain --resume state one:80", "--explain and --resume: ", ""},
		{"--expect - --targets -", "standard input: it can be read once", ""},
		{"--targets - --targets -", "standard input: it can be read once", ""},
		{"--skip-bad one:80", "--skip-bad: there is no file whose lines could be bad", "--targets"},
		{"--prove 10.0.0.0/24:80", "--prove: it is for single targets, not for networks", "alone"},
		{"--csv --prove one:80", "--prove: it is for single targets, without --csv", "alone"},
		{"-v one:80,81", "--verbose: it is for single targets", ""},
		{"-t 2s one:80,81", "--timeout: it is for single targets", ""},
		{"--source-port 4000 one:80,81", "--source-port: it is for single targets", ""},
		{"--trace always one:80,81", "--trace: no path is traced for many targets without --explain", "add --explain"},
		{"--flows 3 one:80,81", "--flows: no path is traced", ""},
		{"--explain --trace never one:80", "--explain and --trace never: they exclude each other", ""},
		{"--explain 10.0.0.0/15:80", "--explain with 131,072 targets: it takes 65,536 at most", ""},
		{"--tries 32 one:80,81", "--tries 32: many targets get 31 SYNs each at most", ""},
		{"10.0.0.0/24", "10.0.0.0/24: no port", ""},
		{"10.0.0.0/24:", `port "" in 10.0.0.0/24:: empty`, ""},
		{"10.0.0.0/33:80", "10.0.0.0/33: not a network", ""},
		{"10.0.0/24:80", "10.0.0/24: not a network", ""},
		{"one/24:80", "one/24: not a network", "as in"},
		{"[::ffff:10.0.0.0/120]:80", "::ffff:10.0.0.0/120: an IPv4 network in IPv6 form", ""},
		{"10.0.0.1/31:80", "10.0.0.1/31: the address has bits behind the prefix; the network is 10.0.0.0/31", ""},
		{"-6 10.0.0.0/24:80", "10.0.0.0/24: an IPv4 network, with -6", ""},
		{"-6 10.0.0.1:80,81", "10.0.0.1: an IPv4 address, with -6", ""},
		{"0.0.0.0/0:80", "0.0.0.0/0: it holds the multicast addresses of 224.0.0.0/4", ""},
		{"255.255.255.254/31:80", "255.255.255.254/31: it holds the broadcast address 255.255.255.255: TCP", ""},
		{"0.0.0.0/8:80", "0.0.0.0/8: this address stands for no host", ""},
		{"[fe80::/120]:80", "fe80::/120: a link-local address can't be one of many", "alone"},
		{"[fe80::1%eth0]:80,81", "fe80::1%eth0: a link-local address can't be one of many", "alone"},
		{"[::/64]:80", "::/64: 2^64 addresses by 1 port, where", ""},
		{"[2001:db8::/64]:80", "2001:db8::/64: 2^64 addresses by 1 port, where a run takes 4294967296 targets", "smaller"},
		{"0.0.0.0/1:80", "0.0.0.0/1: this address", ""},
		{"[::/0]:80", "::/0: 2^128 addresses by 1 port", "smaller"},
		{"128.0.0.0/2:1-65535", "128.0.0.0/2: 2^30 addresses by 65,535 ports", ""},
		{"[2001:db8::/96]:80 [2001:db8:1::/96]:80", "the targets: more than 4294967296 targets in all", "split"},
		{"10.0.0.0/24:80, one:80", `port "" in 80,: empty`, ""},
		{"10.0.0.0/24:0-5", "port 0: not from 1 to 65535", ""},
		{"10.0.0.0/24:5-70000", "port 70000: not from 1 to 65535", ""},
		{"10.0.0.0/24:80,bogus", "port bogus in 80,bogus: neither", ""},
		{"10.0.0.0/24:80 81", "10.0.0.0/24:80 81: two ports for one host", "for both"},
		{"--resume empty one:80", "--resume empty: not a file of --resume", "does not exist yet"},
		{"--resume damaged one:80", "--resume damaged: it is damaged", "anew"},
		{"--resume hostile one:80", "--resume hostile: it is damaged", "anew"},
		{"--resume . one:80", "--resume .: not a regular file", ""},
		{"-s 192.0.2.9 one:80,81", "--source 192.0.2.9: not an address of this machine", ""},
		{"-i eth9 one:80,81", "--interface eth9: there is no such interface", ""},
	} {
		t.Chdir(t.TempDir())
		for name, text := range map[string]string{"empty": "", "comments": "# nothing\n\r\n \t\n", "matrix": "one 80 open\n",
			"damaged": `{"schema":"synprobe-resume/1","run":"","seed":"x","position":1,"counts":{}}`,
			"hostile": `{"schema":"synprobe-resume/1","run":"","seed":"1","position":1,"counts":{"open \u001b[31m":1}}`,
		} {
			if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		w := newWorld()
		code := w.run(strings.Fields(test.args)...)
		want := exitUsage
		if strings.HasPrefix(test.err, "read ") {
			want = exitIO
		}
		lines := strings.Split(strings.TrimSuffix(w.err.String(), "\n"), "\n")
		if code != want || len(w.batches)+len(w.probed) > 0 || !strings.HasPrefix(lines[0], "synprobe: "+test.err) || len(lines) > 2 {
			t.Errorf("%s: exit %d, %d runs\n%swant\nsynprobe: %s", test.args, code, len(w.batches), &w.err, test.err)
		}
		if test.hint != "" && (len(lines) < 2 || !strings.HasPrefix(lines[1], "hint: ") || !strings.Contains(lines[1], test.hint)) {
			t.Errorf("%s:\n%swant a hint with %q", test.args, &w.err, test.hint)
		}
		if w.out.Len() > 0 && !strings.Contains(test.args, "--json") {
			t.Errorf("%s prints on stdout: %s", test.args, &w.out)
		}
	}
}

// TestBatchName: a name of the command line that does not exist is no bad line.
func TestBatchName(t *testing.T) {
	for args, want := range map[string]int{"nosuch:80,81": exitNoHost, "broken:80,81": exitTempFail, "-6 four:80,81": exitUsage} {
		w := newWorld()
		if code := w.run(strings.Fields(args)...); code != want || len(w.batches) > 0 {
			t.Errorf("%s: exit %d, want %d; %s", args, code, want, &w.err)
		}
	}
}

// TestBatchEngineErrors: an error is the last word, behind the results that
// there are.
// TestBatchNamesAlign: names of addresses that are joined to one network get their
// room in the table, each of them.
func TestBatchNamesAlign(t *testing.T) {
	w := newWorld()
	w.Lookup = func(_ context.Context, name string) ([]netip.Addr, error) {
		last := byte(2)
		if name == "b" {
			last = 3
		}
		return []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, last})}, nil
	}
	w.run("--rate", "0", "a.long.example:80", "b:80")
	head, rest, _ := strings.Cut(w.out.String(), "\n")
	for line := range strings.Lines(rest) {
		if at := strings.Index(line, "open "); !strings.Contains(line, ":80") {
			break
		} else if at != strings.Index(head, "verdict") {
			t.Errorf("the columns do not stand below each other:\n%s", &w.out)
		}
	}
	if !strings.Contains(rest, "a.long.example:80") || !strings.Contains(rest, "b:80") {
		t.Errorf("a name is missing:\n%s", &w.out)
	}
}

func TestBatchEngineErrors(t *testing.T) {
	for _, test := range []struct {
		err  error
		some bool
		code int
		want string
	}{
		{&rawprobe.PrivilegeError{Op: "open raw socket", Err: errors.New("no")}, false, exitNoPerm, "synprobe: open raw socket: no\nhint: "},
		{fmt.Errorf("%w: 100 of 262144", batch.ErrConntrack), false, exitIO, "synprobe: probe: connection table too small: 100 of 262144\nhint: lower the --rate"},
		{errors.ErrUnsupported, false, exitIO, "synprobe: probe: this works on Linux only\n"},
		{errors.New("the ring broke"), true, exitIO, "synprobe: probe: the ring broke\n"},
	} {
		t.Chdir(t.TempDir())
		w := newWorld()
		engine := w.Batch
		w.Batch = func(ctx context.Context, s *batch.Space, cfg batch.Config, emit func(*batch.Result)) (batch.Progress, error) {
			if !test.some {
				return batch.Progress{}, test.err
			}
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			p, _ := engine(ctx, s, cfg, func(r *batch.Result) { emit(r); cancel() })
			return p, test.err
		}
		if code := w.run("--resume", "state", "10.0.0.0/31:80"); code != test.code || !strings.Contains(w.err.String(), test.want) {
			t.Errorf("%v: exit %d, want %d; stderr %s", test.err, code, test.code, &w.err)
		}
		if got := strings.Contains(w.out.String(), "10.0.0.0:80 "); got != test.some || !test.some && w.out.Len() > 0 {
			t.Errorf("%v: stdout %s", test.err, &w.out)
		}
		// A run that never began leaves nothing to go on with.
		if _, err := os.Stat("state"); (err == nil) != test.some {
			t.Errorf("%v: the state: %v", test.err, err)
		}
	}
}

// TestLeftOut: targets that can't be probed as the flags want it have no verdict,
// but are told and counted, also by a run that goes on.
func TestLeftOut(t *testing.T) {
	for _, c := range []struct {
		args   string
		err    error
		stdout string // of the one that is left out
		stderr string
	}{
		{
			"--json", batch.ErrByPort,
			`{"schema":"synprobe/1","target":{"name":"10.0.0.0","address":"10.0.0.0","port":82},"error":{"kind":"unsupported","message":"10.0.0.0 left out: routing rules by protocol or port lead a connection another way than raw packets"}}`,
			"synprobe: 2 targets left out: routing rules by protocol or port lead a connection another way than raw packets\nhint: probe such a target alone: that goes the connection's way\n",
		},
		{"--json", rawprobe.ErrBroadcast, "", "synprobe: 2 targets left out: this machine's own networks' addresses and broadcast addresses are no hosts\n"},
		{"-q", rawprobe.ErrBroadcast, "", "synprobe: 2 targets left out: this machine's own networks' addresses and broadcast addresses are no hosts\n"},
		{"-s 127.0.0.1 --csv", rawprobe.ErrLoopback, "", "synprobe: source 127.0.0.1 for 2 targets: it reaches this machine only\nhint: leave it out to let the route decide\n"},
		{"-i lo -q", rawprobe.ErrLoopback, "", "synprobe: interface lo for 2 targets: it reaches this machine only\nhint: leave it out to let the route decide\n"},
		{"-i lo", rawprobe.ErrLoopback, "", "synprobe: interface lo for 2 targets: it reaches this machine only\nhint: leave it out to let the route decide\n"},
		{
			"-i eth0 --json", rawprobe.ErrNotLoopback,
			`{"schema":"synprobe/1","target":{"name":"10.0.0.1","address":"10.0.0.1","port":82},"error":{"kind":"usage","message":"interface eth0 for 10.0.0.1: only the loopback interface leads there"}}`,
			"synprobe: interface eth0 for 2 targets: only the loopback interface leads there\nhint: leave it out to let the route decide\n",
		},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Chdir(t.TempDir())
			args := append(strings.Fields(c.args), "--resume", "state", "10.0.0.0/31:80,82")
			var out, last string
			for i, stop := range []int{2, 1, 0} {
				w := newWorld()
				w.Owns = func(netip.Addr) bool { return true }
				ctx := stopAfter(w, stop)
				engine := w.Batch
				w.Batch = func(ctx context.Context, s *batch.Space, cfg batch.Config, emit func(*batch.Result)) (batch.Progress, error) {
					return engine(ctx, s, cfg, func(r *batch.Result) {
						if r.Target.Port() == 82 {
							*r = batch.Result{Target: r.Target, Err: c.err}
						}
						emit(r)
					})
				}
				want := exitInterrupted
				switch {
				case stop == 0 && c.err == rawprobe.ErrBroadcast:
					want = exitOK
				case stop == 0 && c.err == batch.ErrByPort:
					want = exitIO
				case stop == 0:
					want = exitUsage
				}
				if code := w.runIn(ctx, args...); code != want {
					t.Errorf("run %d: exit %d, want %d; %s", i, code, want, &w.err)
				}
				out, last = out+w.out.String(), w.err.String()
			}
			if !strings.HasSuffix(last, c.stderr) {
				t.Errorf("stderr is\n%swant at its end\n%s", last, c.stderr)
			}
			if strings.Contains(out, ":82 ") || strings.Contains(out, ",82,") || strings.Contains(out, `"port":82}`) != (c.stdout != "") || !strings.Contains(out, c.stdout) || strings.Contains(out, "drop") || strings.Contains(last, "drop") {
				t.Errorf("stdout is\n%swant in it %s", out, c.stdout)
			}
			if all := out + last; !strings.Contains(c.args, "-q") && !strings.Contains(all, "2 targets in 1.5 s, 2 of them by an earlier run") {
				t.Errorf("no sum in\n%s", all)
			}
		})
	}
}

func TestBatchDrops(t *testing.T) {
	w := newWorld()
	engine := w.Batch
	w.Batch = func(ctx context.Context, s *batch.Space, cfg batch.Config, emit func(*batch.Result)) (batch.Progress, error) {
		p, err := engine(ctx, s, cfg, emit)
		p.Drops = 1234
		return p, err
	}
	if code := w.run("-q", "10.0.0.0/31:80"); code != 0 || !strings.HasPrefix(w.err.String(), "synprobe: this machine had no room for 1,234 packets that it received: answers may be missing\nhint: send at a lower --rate\n") {
		t.Errorf("exit %d, stderr %s", code, &w.err)
	}
}

// stopAfter interrupts a run when it has n results.
func stopAfter(w *world, n int) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	engine := w.Batch
	w.Batch = func(ctx context.Context, s *batch.Space, cfg batch.Config, emit func(*batch.Result)) (batch.Progress, error) {
		left := n
		if n < 0 {
			cancel()
		}
		return engine(ctx, s, cfg, func(r *batch.Result) {
			emit(r)
			if left--; left == 0 {
				cancel()
			}
		})
	}
	return ctx
}

// TestResume: a run that is interrupted twice, and its two continuations, print
// every target once; the last removes the file.
func TestResume(t *testing.T) {
	t.Chdir(t.TempDir())
	args := []string{"--csv", "--resume", "state", "10.0.0.0/28:80,82"}
	whole := newWorld()
	whole.run("--csv", "10.0.0.0/28:80,82")

	var out string
	var seeds []uint64
	for i, n := range []int{-1, 5, 20, 0} { // -1: before the first result
		w := newWorld()
		code := w.runIn(stopAfter(w, n), args...)
		out += w.out.String()
		seeds = append(seeds, w.batches[0].Seed)
		info, err := os.Stat("state")
		if n == 0 {
			if code != 3 || !errors.Is(err, os.ErrNotExist) {
				t.Errorf("at the end: exit %d, state: %v; %s", code, err, &w.err)
			}
			want := "32 targets in 1.5 s, 25 of them by an earlier run; "
			if !strings.Contains(w.err.String(), want) || !strings.Contains(w.err.String(), "  16  open") || !strings.Contains(w.err.String(), "  16  drop") {
				t.Errorf("no %q in\n%s", want, &w.err)
			}
			continue
		}
		if code != exitInterrupted || err != nil || info.Mode() != 0o600 {
			t.Errorf("run %d: exit %d, state %v %v", i, code, info, err)
		}
		if want := "hint: the same command line goes on from there: its state is in state\n"; !strings.HasSuffix(w.err.String(), want) {
			t.Errorf("run %d: stderr lacks %q:\n%s", i, want, &w.err)
		}
		w = newWorld()
		if code := w.run("--csv", "--resume", "state", "10.0.0.0/28:80,83"); code != exitUsage || len(w.batches) > 0 || !strings.Contains(w.err.String(), "it is of a run with other targets or flags") {
			t.Errorf("other targets: exit %d, %s", code, &w.err)
		}
	}
	if out != whole.out.String() {
		t.Errorf("in pieces:\n%swhole:\n%s", out, &whole.out)
	}
	if seeds[0] != seeds[1] || seeds[1] != seeds[2] || seeds[2] != seeds[3] {
		t.Errorf("seeds %x", seeds)
	}
	left, _ := filepath.Glob(".*")
	if more, _ := filepath.Glob("*"); len(left)+len(more) > 0 {
		t.Errorf("left behind: %v %v", left, more)
	}
}

// A file whose place is behind the targets is not theirs: it is refused and
// kept. That all are done is no such place.
func TestResumeBeyondTargets(t *testing.T) {
	for _, c := range []struct {
		args     string
		position uint64 // the first that is too far
	}{{"10.0.0.0/30:80", 5}, {"--shard 3/3 10.0.0.0/30:80", 2}} {
		t.Run(c.args, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "state")
			args := append([]string{"--resume", name}, strings.Fields(c.args)...)
			w := newWorld()
			w.runIn(stopAfter(w, -1), args...)
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			put := func(position uint64) []byte {
				t.Helper()
				var state resumeState
				if err := json.Unmarshal(text, &state); err != nil {
					t.Fatal(err)
				}
				state.Position = position
				b, err := json.Marshal(state)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, b, 0o600); err != nil {
					t.Fatal(err)
				}
				return b
			}
			b := put(c.position)
			w = newWorld()
			code := w.run(args...)
			if code != exitUsage || len(w.batches) != 0 || !strings.Contains(w.err.String(), "it is not of these targets") {
				t.Errorf("beyond: exit %d, %d engines, %s", code, len(w.batches), &w.err)
			}
			if got, err := os.ReadFile(name); err != nil || string(got) != string(b) {
				t.Errorf("the file: %v, %s", err, got)
			}
			put(c.position - 1)
			w = newWorld()
			if code := w.run(args...); code != exitOK || len(w.batches) != 1 {
				t.Errorf("at the end: exit %d, %d engines, %s", code, len(w.batches), &w.err)
			}
		})
	}
}

// TestResumeIsSaved: while it runs the state is written every few seconds, and
// counts no result that is not out.
func TestResumeIsSaved(t *testing.T) {
	t.Chdir(t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.Batch = func(_ context.Context, s *batch.Space, cfg batch.Config, emit func(*batch.Result)) (batch.Progress, error) {
			p := batch.Progress{Targets: s.Len()}
			for i := range s.Len() {
				r := fate(s.At(i))
				emit(&r)
				p.Done, p.Position = i+1, i+1
				cfg.Progress(p)
				time.Sleep(time.Second)
				synctest.Wait()
				var state resumeState
				text, err := os.ReadFile("state")
				if err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal(text, &state); err != nil {
					t.Fatal(err)
				}
				if want := i/5*5 + 1; state.Position != want || state.Counts["open listening"] != want {
					t.Errorf("after %d results the state is %+v", i+1, state)
				}
				if lines := strings.Count(w.out.String(), "\n"); uint64(lines) < state.Position {
					t.Errorf("%d results are out, and the state says %d", lines, state.Position)
				}
			}
			p.Finished = true
			return p, nil
		}
		if code := w.run("-q", "--resume", "state", "10.0.0.0/28:80"); code != 0 {
			t.Errorf("exit %d, %s", code, &w.err)
		}
	})
}

// TestResumeCanNotBeWritten: that is found before anything is sent.
func TestResumeCanNotBeWritten(t *testing.T) {
	w := newWorld()
	code := w.run("--resume", filepath.Join(t.TempDir(), "nosuch", "state"), "10.0.0.0/31:80")
	if code != exitIO || len(w.batches) > 0 || !strings.HasPrefix(w.err.String(), "synprobe: write ") {
		t.Errorf("exit %d, %d runs; %s", code, len(w.batches), &w.err)
	}
}

// TestBatchInterrupt: without a state to keep, too, what is known is out.
func TestBatchInterrupt(t *testing.T) {
	w := newWorld()
	code := w.runIn(stopAfter(w, 3), "-q", "10.0.0.0/24:80")
	if code != exitInterrupted || strings.Count(w.out.String(), "\n") != 3 || w.err.String() != "synprobe: interrupted: 3 of 256 targets have a result\n" {
		t.Errorf("exit %d, stdout %s, stderr %s", code, &w.out, &w.err)
	}
	// Where nothing was left there is nothing that it has stopped.
	w = newWorld()
	if code := w.runIn(stopAfter(w, 16), "-q", "10.0.0.0/28:81"); code != 1 || strings.Count(w.out.String(), "\n") != 16 || w.err.Len() > 0 {
		t.Errorf("at the last: exit %d, stdout %s, stderr %s", code, &w.out, &w.err)
	}
	w = newWorld()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if code := w.runIn(ctx, "both:80,81"); code != exitInterrupted || len(w.batches) > 0 || w.err.String() != "synprobe: interrupted: nothing was sent\n" {
		t.Errorf("before: exit %d, stderr %s", code, &w.err)
	}
}

// TestInterruptedReading: a list that never comes does not hold up Ctrl-C.
func TestInterruptedReading(t *testing.T) {
	w := newWorld()
	r, hold := io.Pipe()
	defer hold.Close()
	w.Stdin = r
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = hold.Write([]byte("10.0.0.1:80\n"))
		cancel()
	}()
	if code := w.runIn(ctx, "--targets", "-"); code != exitInterrupted || len(w.batches) > 0 || w.err.String() != "synprobe: interrupted: nothing was sent\n" {
		t.Errorf("exit %d, stderr %s", code, &w.err)
	}
}

// TestBatchLostOutput: a reader that goes away ends the run.
func TestBatchLostOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.Stdout = writer(func([]byte) (int, error) { return 0, errors.New("gone") })
		n := 0
		w.Batch = func(ctx context.Context, s *batch.Space, cfg batch.Config, emit func(*batch.Result)) (batch.Progress, error) {
			for i := uint64(0); i < s.Len() && ctx.Err() == nil; i++ {
				r := fate(s.At(i))
				emit(&r)
				n++
				time.Sleep(10 * time.Millisecond)
			}
			return batch.Progress{Targets: s.Len(), Done: uint64(n)}, nil
		}
		if code := w.run("-q", "10.0.0.0/24:80"); code != exitIO || n > 20 || w.err.String() != "synprobe: write to standard output: gone\n" {
			t.Errorf("exit %d after %d results, stderr %s", code, n, &w.err)
		}
	})
}

// TestSlowReader: where nobody takes the output the run waits, and deadlocks
// with nothing.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.ErrTerminal = true
		lines := 0
		w.Stdout = writer(func(b []byte) (int, error) {
			time.Sleep(time.Hour)
			lines += strings.Count(string(b), "\n")
			return len(b), nil
		})
		// More than may wait.
		if code := w.run("--csv", "10.0.0.0/14:80"); code != 0 || lines != 1<<18+1 {
			t.Errorf("exit %d, %d lines", code, lines)
		}
	})
}

// TestProgressBar: on a terminal the bar counts, and is gone before each line of
// output and at the end.
func TestProgressBar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.ErrTerminal, w.Terminal = true, true
		var screen []string // what was written, in order
		w.Stdout = writer(func(b []byte) (int, error) { screen = append(screen, "out "+string(b)); return len(b), nil })
		w.Stderr = writer(func(b []byte) (int, error) { screen = append(screen, "err "+string(b)); return len(b), nil })
		w.Batch = func(_ context.Context, s *batch.Space, cfg batch.Config, emit func(*batch.Result)) (batch.Progress, error) {
			p := batch.Progress{Targets: s.Len()}
			for i := range s.Len() {
				time.Sleep(time.Second)
				r := fate(s.At(i))
				p.Done, p.Position, p.Sent = i+1, i+1, 10*(i+1)
				cfg.Progress(p)
				emit(&r)
			}
			p.Finished = true
			return p, nil
		}
		if code := w.run("--color=never", "10.0.0.0/31:80,81,82,84"); code != 5 {
			t.Errorf("exit %d", code)
		}
		want := regexp.MustCompile(`^\[#{12}-{4}\]  75%  6/8  \d+/s  open 2  reject 2  drop 1  down 1  0:02 left$`)
		drawn, found := false, false
		for _, s := range screen {
			bar, isBar := strings.CutPrefix(s, "err \r")
			switch text, ok := unwrapped(bar); {
			case !isBar:
				if drawn {
					t.Errorf("the bar stands before %q", s)
				}
			case !ok || len(text) > 79:
				t.Errorf("a bar that may wrap, or of more than 79 columns: %q", s)
			default:
				drawn, found = text != "", found || want.MatchString(text)
			}
		}
		if !found {
			t.Errorf("no bar %s in %q", want, screen)
		}
		if drawn {
			t.Error("the bar is left")
		}
	})
}

// TestGauge: the rate is that of the last seconds, the rest is told by the pace
// since the start, and an earlier run's part counts as done.
func TestGauge(t *testing.T) {
	began := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	g := gauge{width: 80, began: began, first: 1000, verdicts: map[diagnose.Verdict]uint64{
		diagnose.Open: 1234, diagnose.Drop: 766, diagnose.HostDown: 30, diagnose.NetworkDown: 4,
	}}
	for _, step := range []struct {
		at         time.Duration
		done, sent uint64
		want       string
	}{
		{0, 1000, 0, "[#---------------]  10%  1,000/10,000  0/s  open 1,234  reject 0  drop 766  down 34"},
		{500 * time.Millisecond, 1500, 600, "15%  1,500/10,000  0/s"},
		{2 * time.Second, 3000, 4000, "30%  3,000/10,000  2,000/s  open 1,234  reject 0  drop 766  down 34  0:07 left"},
		{4 * time.Second, 4000, 4500, "40%  4,000/10,000  250/s  open 1,234  reject 0  drop 766  down 34  0:08 left"},
	} {
		g.done, g.now = step.done, batch.Progress{Targets: 10000, Sent: step.sent}
		line := g.line(began.Add(step.at))
		if !strings.Contains(line, strings.TrimPrefix(step.want, "[#---------------]  ")) || len(line) > 79 {
			t.Errorf("after %v: %q, want %q", step.at, line, step.want)
		}
	}
	g.now.Targets = 0
	if line := g.line(began); line != "" {
		t.Errorf("without targets: %q", line)
	}
	g.done, g.now, g.width = 1<<31, batch.Progress{Targets: 1 << 32, Sent: 1 << 33}, 40
	if line := g.line(began.Add(time.Hour)); len(line) != 39 {
		t.Errorf("%d columns: %q", len(line), line)
	}
}

// TestGaugeLooking: what comes before the first SYN is counted by itself, and
// leaves the estimate of the rest alone.
func TestGaugeLooking(t *testing.T) {
	began := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	g := gauge{width: 80, looking: began, began: began, verdicts: map[diagnose.Verdict]uint64{}}
	for _, step := range []struct {
		at          time.Duration
		asked, most uint64
		done        uint64
		want        string
	}{
		{100 * time.Millisecond, 100, 196602, 0, "  0%  looking for neighbours: 100/196,602 requests"},
		{100 * time.Second, 100000, 196602, 0, "[####----]  50%  looking for neighbours: 100,000/196,602 requests  1:37 left"},
		{150 * time.Second, 150000, 150000, 0, "[########] 100%  looking for neighbours: 150,000/150,000 requests  0:00 left"},
		{160 * time.Second, 0, 0, 8192, " 12%  8,192/65,534  "},
	} {
		g.done, g.now = step.done, batch.Progress{Targets: 65534, Asked: step.asked, ToAsk: step.most}
		if line := g.line(began.Add(step.at)); !strings.Contains(line, step.want) || len(line) > 79 {
			t.Errorf("after %v: %q, want %q", step.at, line, step.want)
		}
	}
	// 8,192 in 10 seconds.
	if left, ok := g.left(began.Add(160 * time.Second)); !ok || left.Round(time.Second) != 70*time.Second {
		t.Errorf("left: %v, %v", left, ok)
	}
}

func TestNoProgressBar(t *testing.T) {
	for _, c := range []struct {
		args, term string
		terminal   bool
	}{
		{"-q 10.0.0.0/31:80", "xterm", true},
		{"10.0.0.0/31:80", "xterm", false},
		{"--explain 10.0.0.0/31:81", "dumb", true},
	} {
		w := newWorld()
		w.ErrTerminal = c.terminal
		w.Getenv = func(name string) string { return map[string]string{"TERM": c.term}[name] }
		run := w.Batch
		w.Batch = func(ctx context.Context, s *batch.Space, cfg batch.Config, emit func(*batch.Result)) (batch.Progress, error) {
			p, err := run(ctx, s, cfg, emit)
			time.Sleep(time.Second)
			return p, err
		}
		synctest.Test(t, func(t *testing.T) { w.run(strings.Fields(c.args)...) })
		if w.err.Len() > 0 {
			t.Errorf("%+v prints on stderr %q", c, &w.err)
		}
	}
}

// TestBatchJSONIsTheSame: a line of a run with many targets is one of a single
// target's, field by field.
func TestBatchJSONIsTheSame(t *testing.T) {
	fields := func(args ...string) []string {
		w := newWorld()
		w.run(append([]string{"--json"}, args...)...)
		line, _, _ := strings.Cut(w.out.String(), "\n")
		d := json.NewDecoder(strings.NewReader(line))
		var keys []string
		if _, err := d.Token(); err != nil {
			t.Fatal(err)
		}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, fmt.Sprint(key))
			var value json.RawMessage
			if err := d.Decode(&value); err != nil {
				t.Fatal(err)
			}
		}
		return keys
	}
	if one, many := fields("one", "82"), fields("--rate=5", "one", "82"); !slices.Equal(one, many) || len(one) < 10 {
		t.Errorf("one target %v\nmany %v", one, many)
	}
}

// TestExplainInterrupted: what was not explained keeps its direct diagnosis.
func TestExplainInterrupted(t *testing.T) {
	for _, format := range []string{"-q", "--json", "--csv"} {
		w := newWorld()
		ctx, cancel := context.WithCancel(t.Context())
		probe := w.Probe
		w.Probe = func(ctx context.Context, target netip.AddrPort, opt Options) (*rawprobe.Observations, error) {
			cancel()
			o, err := probe(ctx, target, opt)
			o.Interrupted = true
			return o, err
		}
		code := w.runIn(ctx, "--explain", format, "10.0.0.0/29:80,82,83")
		lines := strings.Count(w.out.String(), "\n")
		if format == "--csv" {
			lines--
		}
		if code != exitInterrupted || lines != 24 || !strings.Contains(w.err.String(), "synprobe: 16 targets without a full diagnosis\n") {
			t.Errorf("%s: exit %d, %d lines, stderr %s", format, code, lines, &w.err)
		}
	}
}

// TestExplainFails: an error of one trace is told, and its targets keep their
// direct diagnosis.
func TestExplainFails(t *testing.T) {
	for _, format := range []string{"-q", "--json", "--csv"} {
		w := newWorld()
		probe := w.Probe
		w.Probe = func(ctx context.Context, target netip.AddrPort, opt Options) (*rawprobe.Observations, error) {
			if target.Addr() == netip.MustParseAddr("10.0.0.1") {
				return nil, errors.New("the tap broke")
			}
			return probe(ctx, target, opt)
		}
		code := w.run("--explain", format, "10.0.0.0/30:80,82,182")
		n := 0
		for line := range strings.Lines(w.out.String()) {
			if strings.HasPrefix(line, "drop ") || strings.Contains(line, ",drop,") || strings.Contains(line, `"verdict":"drop"`) {
				n++
			}
		}
		if code != exitIO || n != 8 || strings.Contains(w.out.String(), "error") || !strings.Contains(w.err.String(), "synprobe: probe: the tap broke\n") || !strings.Contains(w.err.String(), "synprobe: 2 targets without a full diagnosis\n") {
			t.Errorf("%s: exit %d, %d silent, stderr %s\n%s", format, code, n, &w.err, &w.out)
		}
	}
}

// TestExplainTracesOnce: one trace for each host and verdict, two at a time.
func TestExplainTracesOnce(t *testing.T) {
	w := newWorld()
	run := w.Batch
	w.Batch = func(ctx context.Context, s *batch.Space, cfg batch.Config, emit func(*batch.Result)) (batch.Progress, error) {
		var all []batch.Result
		p, err := run(ctx, s, cfg, func(r *batch.Result) { all = append(all, *r) })
		for i := range slices.Backward(all) { // results come in any order
			emit(&all[i])
		}
		return p, err
	}
	w.run("--explain", "-q", "10.0.0.0/31:80,81,82,86,181,182,186,282")
	// A router's refusal is another matter than a closed port.
	if want := "10.0.0.0:81 10.0.0.0:82 10.0.0.0:86 10.0.0.1:81 10.0.0.1:82 10.0.0.1:86"; w.targets() != want {
		t.Errorf("traced %s, want %s", w.targets(), want)
	}
	if n := strings.Count(w.out.String(), "\n"); n != 16 {
		t.Errorf("%d lines:\n%s", n, &w.out)
	}
}

// TestExplainFirstPort: results come in no order, and the first port is traced
// all the same.
func TestExplainFirstPort(t *testing.T) {
	w := newWorld()
	w.Batch = func(_ context.Context, s *batch.Space, _ batch.Config, emit func(*batch.Result)) (batch.Progress, error) {
		for i := s.Len(); i > 0; i-- {
			r := fate(s.At(i - 1))
			emit(&r)
		}
		return batch.Progress{Targets: s.Len(), Done: s.Len(), Finished: true}, nil
	}
	w.run("--explain", "--csv", "10.0.0.1:82,182,282")
	if want := "10.0.0.1:82"; w.targets() != want {
		t.Errorf("traced %s, want %s", w.targets(), want)
	}
}

// TestEmitIsCheap: at full rate there are hundreds of thousands in a second.
func TestEmitIsCheap(t *testing.T) {
	for _, format := range []string{"-q", "--csv", ""} {
		w := newWorld()
		var n float64
		w.Batch = func(_ context.Context, s *batch.Space, _ batch.Config, emit func(*batch.Result)) (batch.Progress, error) {
			r := fate(netip.MustParseAddrPort("10.0.0.1:82"))
			for range 2000 {
				emit(&r) // the buffers grow
			}
			n = testing.AllocsPerRun(100, func() { emit(&r) })
			return batch.Progress{Targets: s.Len(), Done: s.Len(), Finished: true}, nil
		}
		w.run(strings.Fields(format + " 10.0.0.0/31:80")...)
		if n != 0 {
			t.Errorf("%q: %v allocations a result", format, n)
		}
	}
}

// TestMillionTargets: a file of a million single targets is read in time and
// memory that nobody minds.
func TestMillionTargets(t *testing.T) {
	n := 1_000_000
	if raceDetector {
		n = 50_000 // it takes ten times as long, and its memory is no measure
	}
	path := filepath.Join(t.TempDir(), "list")
	var b []byte
	for i := range n {
		// Not in order, and with holes, so that little joins.
		a := uint32(10)<<24 | uint32(i*7919%n)*3
		b = fmt.Appendf(b, "%d.%d.%d.%d:%d\n", a>>24, a>>16&255, a>>8&255, a&255, 80+i%3)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	b = nil
	w := newWorld()
	before := heap()
	w.Batch = func(_ context.Context, s *batch.Space, cfg batch.Config, _ func(*batch.Result)) (batch.Progress, error) {
		if s.Len() != uint64(n) {
			t.Errorf("%d targets", s.Len())
		}
		// 56 bytes for a block, and what the space adds.
		if grown := heap() - min(before, heap()); grown > 160<<20 && !raceDetector {
			t.Errorf("%d MiB stay in use", grown>>20)
		}
		return batch.Progress{Targets: s.Len(), Done: s.Len(), Finished: true}, nil
	}
	if code := w.run("-q", "--targets", path); code != 0 || w.err.Len() > 0 {
		t.Errorf("exit %d, %s", code, &w.err)
	}
}

// heap is how much memory is in use that can't be freed.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestBatchPanics(t *testing.T) {
	for name, breaks := range map[string]func(*world){
		"engine":   func(w *world) { w.Batch = nil },
		"networks": func(w *world) { w.Networks = nil },
		"lookup":   func(w *world) { w.Lookup = nil },
	} {
		w := newWorld()
		breaks(w)
		if code := w.run("--csv", "one:80,81"); code != exitInternal || strings.Contains(w.err.String(), "goroutine") {
			t.Errorf("%s: exit %d, stderr %s", name, code, &w.err)
		}
	}
}

// FuzzTargetLines: whatever files of targets and expectations hold, the program
// ends with a code of the contract, prints nothing that could steer a terminal,
// and probes only hosts that were named.
func FuzzTargetLines(f *testing.F) {
	for _, s := range []string{
		"10.0.0.1:80\n10.0.0.0/30 22,80-82 # four\r\n", "[2001:db8::/126]:22\n", "one http\n", "\ufeffone:80", "a\x1b[31m:80\n", "[::/0]:1-65535",
		"10.0.0.1 80 open\n", `{"schema":"synprobe/1","target":{"address":"10.0.0.1","port":80},"verdict":"drop"}`, "10.0.0.1/31:80", "1:2:3 4 5\n", "one:80,", "-:-",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, args := range [][]string{{"--targets", "-"}, {"--expect", "-"}, {"--targets", "-", "--skip-bad"}} {
			w := newWorld()
			w.Stdin = strings.NewReader(text)
			w.Lookup = func(_ context.Context, name string) ([]netip.Addr, error) {
				if checkName(name) != nil {
					t.Errorf("%q was looked up", name)
				}
				return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
			}
			w.Batch = few(t)
			switch code := w.run(append(args, "-q")...); code {
			case 0, 1, 3, 4, 5, exitDifferent, exitUsage:
			default:
				t.Errorf("%q: exit %d: %s", text, code, &w.err)
			}
			for _, out := range []string{w.out.String(), w.err.String()} {
				if i := strings.IndexFunc(out, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
					t.Errorf("%q prints %q", text, out)
				}
			}
		}
	})
}

// TestCRLFAndComments: what editors of other systems make of a file.
func TestCRLFAndComments(t *testing.T) {
	w := newWorld()
	w.Stdin = strings.NewReader("\ufeff# head\r\n10.0.0.1:80\r\n\r\n  10.0.0.2\t80   # tail\r\n\t#x\r\n10.0.0.3:80#not a comment\r\none:80")
	if code := w.run("-q", "--skip-bad", "--targets", "-"); code != 0 || w.out.String() != "open listening 10.0.0.1:80\nopen listening 10.0.0.2:80\nopen listening one:80\n" {
		t.Errorf("exit %d, %s%s", code, &w.out, &w.err)
	}
	if want := "synprobe: standard input:6: port 80#not in 10.0.0.3:80#not a comment"; strings.Contains(w.err.String(), want) {
		t.Errorf("%s", &w.err)
	}
}

func TestLongLine(t *testing.T) {
	w := newWorld()
	w.Stdin = strings.NewReader(strings.Repeat("1", 3*longestLine) + "\n10.0.0.1:80\n" + strings.Repeat("a", 1000) + "/24:80\n")
	if code := w.run("-q", "--skip-bad", "--targets", "-"); code != 0 || w.out.String() != "open listening 10.0.0.1:80\n" {
		t.Errorf("exit %d, %s", code, &w.out)
	}
	for line := range strings.Lines(w.err.String()) {
		if len(line) > 300 {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
	if !strings.HasPrefix(w.err.String(), "synprobe: standard input:1: longer than 524288 bytes\n") {
		t.Errorf("%s", &w.err)
	}
}

func TestManyBadLines(t *testing.T) {
	w := newWorld()
	w.Stdin = strings.NewReader(strings.Repeat("10.0.0.1:0\n", 1234))
	code := w.run("--targets", "-", "--json")
	lines := strings.Split(w.err.String(), "\n")
	if code != exitUsage || len(lines) != shownLines+4 || lines[0] != "synprobe: standard input:1: port 0: not from 1 to 65535" ||
		lines[10] != "synprobe: and 1,224 more bad lines" || lines[11] != "synprobe: standard input: 1,234 bad lines, nothing was sent" {
		t.Errorf("exit %d\n%s", code, &w.err)
	}
	if want := `{"schema":"synprobe/1","target":null,"error":{"kind":"usage","message":"standard input: 1,234 bad lines, nothing was sent"}}` + "\n"; w.out.String() != want {
		t.Errorf("stdout %s", &w.out)
	}
}

// TestLookupsAreBounded: a list of names does not ask for all of them at once.
func TestLookupsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var now, most atomic.Int32
		w.Lookup = func(context.Context, string) ([]netip.Addr, error) {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			time.Sleep(time.Second)
			return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
		}
		var list strings.Builder
		for i := range 100 {
			fmt.Fprintf(&list, "host%d:80\nhost%d:81\n", i, i)
		}
		w.Stdin = strings.NewReader(list.String())
		start := time.Now()
		if code := w.run("--targets", "-", "-q"); code != 1 {
			t.Errorf("exit %d, %s", code, &w.err)
		}
		if took := time.Since(start); most.Load() != lookupsTogether || took != 4*time.Second {
			t.Errorf("%d at once, %v", most.Load(), took)
		}
		if want := "synprobe: 198 targets named more than once: each is probed once\n"; w.err.String() != want {
			t.Errorf("stderr %s", &w.err)
		}
	})
}
