package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"synprobe/cmd/synprobe/internal/report"
	"synprobe/rawprobe"
	"synprobe/rawprobe/batch"
	"synprobe/traceroute"
	"synprobe/traceroute/diagnose"
)

// world is a machine without a network. What is probed is recorded; the
// verdict of a target is chosen by its port.
type world struct {
	Env
	out, err bytes.Buffer

	mu     sync.Mutex
	probed []netip.AddrPort
	opts   []Options

	batches []batch.Config // what the engine was started with; see batch_test.go
}

var verdicts = map[uint16]diagnose.Verdict{
	80: diagnose.Open, 81: diagnose.Reject, 82: diagnose.Drop, 83: diagnose.HostDown, 84: diagnose.NetworkDown, 85: diagnose.Partial,
}

func newWorld() *world {
	w := &world{}
	names := map[string]string{
		"one":   "192.0.2.1",
		"both":  "2001:db8::1 192.0.2.1 192.0.2.2",
		"four":  "192.0.2.1 192.0.2.2",
		"six":   "2001:db8::1",
		"local": "fe80::9",
		"hole":  "0.0.0.0",
	}
	w.Env = Env{
		Stdout:     &w.out,
		Stderr:     &w.err,
		Getenv:     func(name string) string { return map[string]string{"LANG": "C.UTF-8"}[name] },
		Executable: func() (string, error) { return "/opt/syn probe/synprobe", nil },
		Lookup: func(ctx context.Context, name string) ([]netip.Addr, error) {
			switch name {
			case "slow":
				<-ctx.Done()
				return nil, &net.DNSError{Err: "i/o timeout", Name: name, Server: "192.0.2.53:53", IsTimeout: true}
			case "broken":
				return nil, &net.DNSError{Err: "server misbehaving", Name: name, Server: "192.0.2.53:53", IsTemporary: true}
			}
			var all []netip.Addr
			for _, a := range strings.Fields(names[name]) {
				all = append(all, netip.MustParseAddr(a))
			}
			if all == nil {
				return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
			}
			return all, nil
		},
		Reverse: func(context.Context, netip.Addr) ([]string, error) { return nil, errors.New("none") },
		Service: func(_ context.Context, name string) (int, error) {
			if name == "http" {
				return 80, nil
			}
			return 0, errors.New("unknown service")
		},
		Interfaces: func() ([]Interface, error) { return []Interface{{1, "lo"}, {2, "eth0"}, {7, "wg0"}}, nil },
		Owns: func(a netip.Addr) bool {
			return a == netip.MustParseAddr("192.0.2.100") || a == netip.MustParseAddr("2001:db8::100")
		},
		Usable:   func(netip.Addr, Options) bool { return true },
		Networks: func() ([]netip.Prefix, error) { return nil, nil },
		Stdin:    strings.NewReader(""),
		Batch:    w.engine,
		Probe: func(_ context.Context, target netip.AddrPort, opt Options) (*rawprobe.Observations, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if err := opt.Opened(); err != nil {
				return nil, err
			}
			opt.Opened, opt.Watch = nil, nil // no two functions are equal
			w.probed, w.opts = append(w.probed, target), append(w.opts, opt)
			return &rawprobe.Observations{Target: target}, nil
		},
		Explain: func(o *rawprobe.Observations) diagnose.Diagnosis {
			return diagnose.Diagnosis{Verdict: verdicts[o.Target.Port()], Cause: "cause", Certainty: diagnose.Certain, Summary: "What " + o.Target.String() + " does."}
		},
	}
	return w
}

func (w *world) run(args ...string) int { return w.runIn(context.Background(), args...) }

func (w *world) runIn(ctx context.Context, args ...string) int {
	return Run(ctx, w.Env, append([]string{"synprobe"}, args...))
}

// targets are what was probed, in any order.
func (w *world) targets() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for _, t := range w.probed {
		all = append(all, t.String())
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func TestArguments(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"192.0.2.1 80", "192.0.2.1:80"},
		{"192.0.2.1:80", "192.0.2.1:80"},
		{"192.0.2.1:80 192.0.2.2:81", "192.0.2.1:80 192.0.2.2:81"},
		{"192.0.2.1:80 192.0.2.2:81 192.0.2.3:82", "192.0.2.1:80 192.0.2.2:81 192.0.2.3:82"},
		{"one http", "192.0.2.1:80"},
		{"one:http", "192.0.2.1:80"},
		{"2001:db8::1 80", "[2001:db8::1]:80"},
		{"[2001:db8::1] 80", "[2001:db8::1]:80"},
		{"[2001:db8::1]:80", "[2001:db8::1]:80"},
		{"[2001:db8::1]:80 one:81", "192.0.2.1:81 [2001:db8::1]:80"},
		{"fe80::1%eth0 80", "[fe80::1%eth0]:80"},
		{"[fe80::1%eth0]:80", "[fe80::1%eth0]:80"},
		{"fe80::1%7 80", "[fe80::1%wg0]:80"},
		{"-i eth0 fe80::1 80", "[fe80::1%eth0]:80"},
		{"-i eth0 fe80::1%eth0 80", "[fe80::1%eth0]:80"},
		{"-i eth0 local 80", "[fe80::9%eth0]:80"},
		{"::ffff:192.0.2.1 80", "192.0.2.1:80"},
		{"both 80", "[2001:db8::1]:80"},
		{"-4 both 80", "192.0.2.1:80"},
		{"both 80 -6", "[2001:db8::1]:80"},
		{"-s 192.0.2.100 both 80", "192.0.2.1:80"},
		{"-s 2001:db8::100 both 80", "[2001:db8::1]:80"},
		{"-- one 80", "192.0.2.1:80"},
		{"192.0.2.1/32:80", "192.0.2.1:80"},
		{"[2001:db8::1/128]:80", "[2001:db8::1]:80"},
		{"192.0.2.1/32 80", "192.0.2.1:80"},
		{"one. 80", ""}, // the fake name server does not know it
	} {
		w := newWorld()
		w.run(strings.Fields(test.args)...)
		if got := w.targets(); got != test.want {
			t.Errorf("synprobe %s probed %q, want %q; stderr:\n%s", test.args, got, test.want, &w.err)
		}
	}
}

func TestProveIsIPv4(t *testing.T) {
	for _, args := range [][]string{{"--prove", "2001:db8::1", "80"}, {"--prove", "-6", "both", "80"}} {
		w := newWorld()
		if code := w.run(args...); code != exitUsage || len(w.opts) != 0 || !strings.Contains(w.err.String(), "--prove") {
			t.Errorf("%v: exit %d, %d probed, stderr %q", args, code, len(w.opts), &w.err)
		}
	}
}

// TestLoopbackHint: what reaches this machine only is not to be chosen, and a
// zone can't be left out.
func TestLoopbackHint(t *testing.T) {
	for args, hint := range map[string]string{
		"-i eth0 192.0.2.1 80":     "leave it out to let the route decide",
		"fe80::1%eth0 80":          "name the interface of the link that the host is on, as in fe80::1%eth0",
		"-i eth0 fe80::1 80":       "name the interface of the link that the host is on, as in fe80::1%eth0",
		"-s ::1 fe80::1%eth0 80":   "leave it out to let the route decide",
		"-i eth0 2001:db8::1 http": "leave it out to let the route decide",
	} {
		w := newWorld()
		w.Owns = func(netip.Addr) bool { return true }
		w.Probe = func(context.Context, netip.AddrPort, Options) (*rawprobe.Observations, error) {
			return nil, fmt.Errorf("this and that: %w", rawprobe.ErrLoopback)
		}
		want := "synprobe: this and that: it reaches this machine only\nhint: " + hint + "\n"
		if code := w.run(strings.Fields(args)...); code != exitUsage || w.err.String() != want {
			t.Errorf("%s: exit %d: %s", args, code, &w.err)
		}
	}
}

// TestAsksJSON: where a command line is wrong, it asks for JSON as if it were
// right, in a cluster of short flags too.
func TestAsksJSON(t *testing.T) {
	for letter := '0'; letter <= 'z'; letter++ {
		args := []string{"-" + string(letter) + "j", "192.0.2.1:80"}
		f, err := parseFlags(args)
		want := f.json
		if err != nil && strings.Contains(err.Error(), "unknown flag") {
			want = true // behind what is wrong, too
		}
		if got := asksJSON(args); got != want && letter != '=' {
			t.Errorf("%v: JSON %v, want %v", args, got, want)
		}
	}
	for args, want := range map[string]bool{
		"-Z -j": true, "-Z --json": true, "-Z -nj": true, "-Z -jn": true, "-Z -jwfile": true,
		"-Z": false, "-Z -wj": false, "-Z -nwj": false, "-Z -i=j": false, "-Z -- -j": false, "-Z -- -nj": false, "-Z --nj": false, "-Z -": false, "-Z j": false,
	} {
		if got := asksJSON(strings.Fields(args)); got != want {
			t.Errorf("%s: JSON %v", args, got)
		}
	}
}

func TestOptions(t *testing.T) {
	w := newWorld()
	code := w.run("-i", "eth0", "-s", "192.0.2.100", "--source-port=4000", "-t", "1.5s", "--tries", "7",
		"--trace=always", "--max-hops=9", "--flows=4", "--control-port=25", "--control-port", "8443", "one", "80")
	want := Options{
		Interface: "eth0", Source: netip.MustParseAddr("192.0.2.100"), SourcePort: 4000, Tries: 7, Timeout: 1500 * time.Millisecond,
		Trace: traceroute.Options{Mode: traceroute.Always, MaxHops: 9, Flows: 4, ControlPorts: []uint16{25, 8443}},
	}
	if code != 0 || len(w.opts) != 1 || !reflect.DeepEqual(w.opts[0], want) {
		t.Errorf("exit %d, options %+v, want %+v", code, w.opts, want)
	}
}

// TestConfined looks at what is kept, and when it is given up: everything once
// the last target has its sockets, whichever that is, or has failed without.
func TestConfined(t *testing.T) {
	const raw, low = rawprobe.RawSockets, rawprobe.LowPorts
	for _, test := range []struct {
		args string
		want []any // of privileges kept, and ports probed, in that order
	}{
		{"one 80", []any{raw, "probe 80", rawprobe.Privilege(0), "open 80"}},
		{"--source-port=80 one 80", []any{raw | low, "probe 80", rawprobe.Privilege(0), "open 80"}},
		{"--source-port 80 one:80 one:81", []any{raw | low, "probe 80", "open 80", "probe 81", rawprobe.Privilege(0), "open 81"}},
		{"--help", []any{raw}},
		{"--nonsense", []any{raw}},
		// The first target never gets as far as a socket.
		{"--source-port=4000 nowhere:80 one:81", []any{raw | low, "probe 81", rawprobe.Privilege(0), "open 81"}},
		{"--source-port=4000 one:81 nowhere:80", []any{raw | low, "probe 81", "open 81", rawprobe.Privilege(0)}},
	} {
		w := newWorld()
		var got []any
		w.Confine = func(keep rawprobe.Privilege) error {
			got = append(got, keep)
			return nil
		}
		w.Probe = func(_ context.Context, target netip.AddrPort, opt Options) (*rawprobe.Observations, error) {
			got = append(got, fmt.Sprintf("probe %d", target.Port()))
			err := opt.Opened()
			got = append(got, fmt.Sprintf("open %d", target.Port()))
			return &rawprobe.Observations{Target: target}, err
		}
		w.run(strings.Fields(test.args)...)
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %v, want %v", test.args, got, test.want)
		}
	}
}

// TestNotConfined has a process that can't give up its privileges: nothing is
// done with them.
func TestNotConfined(t *testing.T) {
	for _, allowed := range []int{0, 1} { // calls that succeed
		w := newWorld()
		calls := 0
		w.Confine = func(rawprobe.Privilege) error {
			if calls++; calls > allowed {
				return errors.New("no way")
			}
			return nil
		}
		if code := w.run("one", "80"); code != exitIO || len(w.probed) != 0 || w.out.Len() != 0 || !strings.Contains(w.err.String(), "no way") {
			t.Errorf("%d calls allowed: exit %d, %d probed, %s%s", allowed, code, len(w.probed), &w.out, &w.err)
		}
	}
}

// TestBadInput holds what is refused before a name server is asked or a packet
// sent: each with a line that names the value, exit code 64 and, mostly, a
// hint.
func TestBadInput(t *testing.T) {
	long := strings.Repeat("abcdefgh.", 29) + "com" // 264 characters
	for _, test := range []struct {
		args []string
		err  string // the first line
		hint string // part of the second
	}{
		{[]string{"", "80"}, `host "": empty`, "HOST PORT"},
		{[]string{":80"}, `host "": empty`, "HOST PORT"},
		{[]string{long, "80"}, "host abcdefgh.abcdefgh.abcdefgh.abc…: 264 characters, where a name has at most 253", ""},
		{[]string{strings.Repeat("a", 64), "80"}, "host " + strings.Repeat("a", 30) + "…: a part of 64 characters, where a name has at most 63", ""},
		{[]string{"a..b", "80"}, "host a..b: an empty part between dots", ""},
		{[]string{"a b", "80"}, "host a b: ' ' can't be part of a name", ""},
		{[]string{"a\x1b[31m", "80"}, `host "a\x1b[31m": '\x1b' can't be part of a name`, ""},
		{[]string{"straße.de", "80"}, "host straße.de: not written in ASCII", "xn--"},
		{[]string{"--", "-x", "80"}, "host -x: a name does not start with a hyphen", ""},
		{[]string{"192.0.2.256", "80"}, "host 192.0.2.256: not an IP address", ""},
		{[]string{"192.0.2", "80"}, "host 192.0.2: not an IP address", ""},
		{[]string{"192.0.2.1%eth0", "80"}, "host 192.0.2.1%eth0: not an IPv6 address with a zone", ""},
		{[]string{"one", "0"}, "port 0: not from 1 to 65535", "a port is"},
		{[]string{"one", "65536"}, "port 65536: not from 1 to 65535", "a port is"},
		{[]string{"one", "99999999999999999999"}, "port 99999999999999999999: not from 1 to 65535", "a port is"},
		{[]string{"one", "-1"}, "port -1: not from 1 to 65535", "a port is"},
		{[]string{"one", "--", "-1"}, "port -1: not from 1 to 65535", "a port is"},
		{[]string{"one:-1"}, "port -1: not from 1 to 65535", "a port is"},
		{[]string{"one", "22x"}, "port 22x: neither a number nor a known service", "a port is"},
		{[]string{"one", "+22"}, "port +22: neither a number nor a known service", "a port is"},
		{[]string{"one", "bogus"}, "port bogus: neither a number nor a known service", "a port is"},
		{[]string{"one", "2\x002"}, `port "2\x002": neither a number nor a known service`, "a port is"},
		{[]string{"one", ""}, `port "": empty`, "a port is"},
		{[]string{"one:"}, `port "" in one:: empty`, "a port is"},
		{[]string{"one", "22,"}, `port "" in 22,: empty`, "a port is"},
		{[]string{"one:8010-8000"}, "ports 8010-8000: the first is above the last", "8000-8010"},
		{[]string{"10.0.0.1/24:22"}, "10.0.0.1/24: the address has bits behind the prefix; the network is 10.0.0.0/24", "without a slash"},
		{[]string{"https://one:443"}, "https://one:443: a URL, not a host and a port", "HOST PORT"},
		{[]string{"one"}, "one: no port", "HOST PORT"},
		{[]string{"::1"}, "::1: no port", "HOST PORT"},
		{[]string{"one", "two:80"}, "one: no port", "HOST PORT"},
		{[]string{"one:80", "two"}, "two: no port", "HOST PORT"},
		{[]string{"one", "22", "80"}, "one: no port", "for several ports: synprobe one:22 one:80"},
		{[]string{"one:22", "80"}, "one:22 80: two ports for one host", "for both: synprobe one:22 one:80"},
		{[]string{"[::1]:22", "80"}, "[::1]:22 80: two ports for one host", "[::1]:80"},
		{[]string{"[::1:22"}, "[::1:22: not an IPv6 address in brackets, with :PORT behind", "as in"},
		{[]string{"[one]:22"}, "[one]:22: not an IPv6 address in brackets, with :PORT behind", "as in"},
		{[]string{"[::1]22"}, "[::1]22: not an IPv6 address in brackets, with :PORT behind", "as in"},
		{[]string{"a:b:c"}, "a:b:c: not an IPv6 address, and too many colons for HOST:PORT", "as in"},
		{[]string{"-j"}, "no target", "HOST PORT"},
		{[]string{"0.0.0.0", "80"}, "0.0.0.0: this address stands for no host", ""},
		{[]string{"::", "80"}, ":::", ""},
		{[]string{"ff02::1%eth0", "80"}, "ff02::1%eth0: a multicast address", ""},
		{[]string{"255.255.255.255", "80"}, "255.255.255.255: the broadcast address", ""},
		{[]string{"fe80::1", "80"}, "fe80::1: a link-local address needs its interface", "lo, eth0, wg0"},
		{[]string{"fe80::1%eth9", "80"}, "fe80::1%eth9: there is no interface eth9", "lo, eth0, wg0"},
		{[]string{"2001:db8::1%eth0", "80"}, "2001:db8::1%eth0: only a link-local address has a zone", "-i eth0"},
		{[]string{"-i", "wg0", "fe80::1%eth0", "80"}, "fe80::1%eth0 and --interface wg0: they name two interfaces", "leave"},
		{[]string{"-i", "eth9", "one", "80"}, "--interface eth9: there is no such interface", "this machine has lo, eth0, wg0"},
		{[]string{"-i", "", "one", "80"}, `--interface "": empty`, ""},
		{[]string{"-s", "192.0.2.9", "one", "80"}, "--source 192.0.2.9: not an address of this machine", "leave it out"},
		{[]string{"-s", "one", "one", "80"}, "--source one: not an IP address", ""},
		{[]string{"-s", "192.0.2.100", "2001:db8::1", "80"}, "2001:db8::1: an IPv6 address, with --source 192.0.2.100", ""},
		{[]string{"-6", "-s", "192.0.2.100", "both", "80"}, "--source 192.0.2.100: an IPv4 address, with -6", ""},
		{[]string{"-4", "-6", "one", "80"}, "-4 and -6: they exclude each other", "leave both"},
		{[]string{"-4", "2001:db8::1", "80"}, "2001:db8::1: an IPv6 address, with -4", ""},
		{[]string{"-6", "one:80", "192.0.2.1:80"}, "192.0.2.1: an IPv4 address, with -6", ""},
		{[]string{"-q", "-v", "one", "80"}, "-q and -v: they exclude each other", ""},
		{[]string{"--color=blue", "one", "80"}, "--color blue: not one of auto, always and never", ""},
		{[]string{"-t", "0", "one", "80"}, "--timeout 0: not above zero", "2s"},
		{[]string{"-t", "-1s", "one", "80"}, "--timeout -1s: not above zero", "2s"},
		{[]string{"-t", "2", "one", "80"}, "--timeout 2: not a duration with a unit", "2s"},
		{[]string{"--tries", "0", "one", "80"}, "--tries 0: not a number from 1 to 100", ""},
		{[]string{"--tries", "-1", "one", "80"}, "--tries -1: not a number from 1 to 100", ""},
		{[]string{"--tries", "101", "one", "80"}, "--tries 101: not a number from 1 to 100", ""},
		{[]string{"--source-port", "0", "one", "80"}, "--source-port 0: not a number from 1 to 65535", ""},
		{[]string{"--source-port", "65536", "one", "80"}, "--source-port 65536: not a number from 1 to 65535", ""},
		{[]string{"--source-port=-1", "one", "80"}, "--source-port -1: not a number from 1 to 65535", ""},
		{[]string{"--bogus", "one", "80"}, "unknown flag --bogus", "--help"},
		{[]string{"--bo\x1bgus", "one", "80"}, `unknown flag "--bo\x1bgus"`, "--help"},
		{[]string{"-x", "one", "80"}, "unknown flag -x", "--help"},
		{[]string{"-é", "one", "80"}, "unknown flag in -é", "--help"},
		{[]string{"-4x", "one", "80"}, "unknown flag -x", "--help"},
		{[]string{"--=x", "one", "80"}, "unknown flag --=x", "--help"},
		{[]string{"one", "80", "-s"}, "--source: it needs a value", "--help"},
		{[]string{"--json=maybe", "one", "80"}, "--json maybe: it takes no value", "--help"},
	} {
		w := newWorld()
		w.Lookup = func(context.Context, string) ([]netip.Addr, error) {
			t.Errorf("%q: a name server was asked", test.args)
			return nil, errors.New("not to be called")
		}
		code := w.run(test.args...)
		if code != exitUsage || len(w.probed) > 0 {
			t.Errorf("%q: exit %d, want %d; probed %v", test.args, code, exitUsage, w.probed)
		}
		lines := strings.Split(strings.TrimSuffix(w.err.String(), "\n"), "\n")
		if !strings.HasPrefix(lines[0], "synprobe: "+test.err) || len(lines) > 2 {
			t.Errorf("%q:\n%swant\nsynprobe: %s", test.args, &w.err, test.err)
		}
		if len(lines) == 2 && !strings.HasPrefix(lines[1], "hint: ") || test.hint != "" && (len(lines) < 2 || !strings.Contains(lines[1], test.hint)) {
			t.Errorf("%q:\n%swant a hint with %q", test.args, &w.err, test.hint)
		}
		if w.out.Len() > 0 && !slices.Contains(test.args, "-j") {
			t.Errorf("%q prints on stdout: %s", test.args, &w.out)
		}
	}
}

func TestNames(t *testing.T) {
	for _, test := range []struct {
		args, err string
		code      int
	}{
		{"nosuch 80", "synprobe: nosuch: the name does not exist\nhint: ", exitNoHost},
		{"nosuch.invalid 80", "synprobe: nosuch.invalid: the name does not exist\nhint: ", exitNoHost},
		{"broken 80", "synprobe: broken: the name servers do not answer, 192.0.2.53:53 last (server misbehaving)\nhint: ", exitTempFail},
		{"hole 80", "synprobe: hole: the name servers give 0.0.0.0, which is no host\nhint: ", exitNoHost},
		{"-6 four 80", "synprobe: four: the name has no IPv6 address, with -6\nhint: it has 192.0.2.1, 192.0.2.2\n", exitUsage},
		{"-4 six 80", "synprobe: six: the name has no IPv4 address, with -4\nhint: it has 2001:db8::1\n", exitUsage},
		{"-s 192.0.2.100 six 80", "synprobe: six: the name has no IPv4 address, with --source 192.0.2.100\nhint: it has 2001:db8::1\n", exitUsage},
	} {
		w := newWorld()
		if code := w.run(strings.Fields(test.args)...); code != test.code || len(w.probed) > 0 {
			t.Errorf("%s: exit %d, want %d; probed %v", test.args, code, test.code, w.probed)
		}
		if !strings.HasPrefix(w.err.String(), test.err) || w.out.Len() > 0 {
			t.Errorf("%s: stderr\n%swant\n%s", test.args, &w.err, test.err)
		}
	}
}

func TestSilentNameServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		before := time.Now()
		if code := w.run("slow", "80"); code != exitTempFail {
			t.Errorf("exit %d, want %d", code, exitTempFail)
		}
		if took := time.Since(before); took != lookupTime {
			t.Errorf("took %v, want %v", took, lookupTime)
		}
		if want := "synprobe: slow: the name servers do not answer, 192.0.2.53:53 last\n"; !strings.HasPrefix(w.err.String(), want) {
			t.Errorf("stderr %q, want %q", &w.err, want)
		}
	})
}

// TestFirstUsable: the address to probe is the first that this machine could
// reach, and the first of all if there is none.
func TestFirstUsable(t *testing.T) {
	w := newWorld()
	w.Usable = func(a netip.Addr, _ Options) bool { return a.Is4() && a != netip.MustParseAddr("192.0.2.1") }
	w.run("both", "82")
	if got := w.targets(); got != "192.0.2.2:82" {
		t.Errorf("probed %s", got)
	}
	if want := "\n  Addresses: 2001:db8::1, 192.0.2.1, 192.0.2.2 (probed)\n"; !strings.Contains(w.out.String(), want) {
		t.Errorf("output lacks %q:\n%s", want, &w.out)
	}
	w = newWorld()
	w.Usable = func(netip.Addr, Options) bool { return false }
	w.run("both", "82")
	if got := w.targets(); got != "[2001:db8::1]:82" {
		t.Errorf("probed %s", got)
	}
}

func TestOneLookupForEachName(t *testing.T) {
	w := newWorld()
	var asked atomic.Int32
	lookup := w.Lookup
	w.Lookup = func(ctx context.Context, name string) ([]netip.Addr, error) {
		asked.Add(1)
		return lookup(ctx, name)
	}
	w.run("both:80", "both:81", "both:82")
	if n := asked.Load(); n != 1 {
		t.Errorf("the name was asked for %d times", n)
	}
}

func TestExitCodes(t *testing.T) {
	for port, verdict := range verdicts {
		want := map[diagnose.Verdict]int{"open": 0, "reject": 1, "drop": 3, "host-down": 4, "network-down": 5, "partial": 6}[verdict]
		if code := newWorld().run("one", fmt.Sprint(port)); code != want {
			t.Errorf("%s: exit %d, want %d", verdict, code, want)
		}
	}
	for _, test := range []struct {
		args string
		want int
	}{
		{"one:80 one:80", 0},
		{"one:80 one:82 one:81", 3},
		{"one:85 one:80", 6},
		{"one:80 nosuch:80 one:85", exitNoHost},
		{"broken:80 nosuch:80 one:85", exitTempFail},
	} {
		w := newWorld()
		if code := w.run(strings.Fields(test.args)...); code != test.want {
			t.Errorf("%s: exit %d, want %d", test.args, code, test.want)
		}
	}
	for kind, code := range exitCodes {
		if code <= 6 || code == 2 {
			t.Errorf("error %s exits with %d, among the verdicts", kind, code)
		}
	}
}

func TestEngineErrors(t *testing.T) {
	for _, test := range []struct {
		err  error
		code int
		kind report.ErrorKind
		text string
	}{
		{&rawprobe.PrivilegeError{Op: "open packet socket", Err: syscall.EPERM}, exitNoPerm, report.NotPermitted, "open packet socket: operation not permitted"},
		{fmt.Errorf("link: %w", &rawprobe.PrivilegeError{Op: "open raw socket", Err: syscall.EPERM}), exitNoPerm, report.NotPermitted, "open raw socket: operation not permitted"},
		{fmt.Errorf("interface %q: %w", "eth0", rawprobe.ErrNoInterface), exitUsage, report.UsageError, `interface "eth0": no such interface`},
		{fmt.Errorf("192.0.2.9: %w", rawprobe.ErrNotOurs), exitUsage, report.UsageError, "192.0.2.9: not an address of this machine"},
		{fmt.Errorf("port 80: %w", rawprobe.ErrPortInUse), exitIO, report.IOError, "port 80: source port in use"},
		{errors.ErrUnsupported, exitIO, report.Unsupported, "probe: this works on Linux only"},
		{context.Canceled, exitInterrupted, report.Interrupted, "interrupted: there was no verdict yet"},
		{errors.New("the tap failed\n\x1b[2J"), exitIO, report.IOError, `probe: the tap failed\n\x1b[2J`},
		{nil, exitIO, report.IOError, "probe: nothing was observed"},
	} {
		w := newWorld()
		w.Probe = func(context.Context, netip.AddrPort, Options) (*rawprobe.Observations, error) { return nil, test.err }
		if code := w.run("--json", "one", "80"); code != test.code {
			t.Errorf("%v: exit %d, want %d", test.err, code, test.code)
		}
		if line, _, _ := strings.Cut(w.err.String(), "\n"); line != "synprobe: "+test.text {
			t.Errorf("%v: stderr %q, want %q", test.err, line, test.text)
		}
		var got struct {
			Schema string
			Target struct {
				Name, Address string
				Port          int
			}
			Error struct{ Kind report.ErrorKind }
		}
		if err := json.Unmarshal(w.out.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if got.Schema != report.Schema || got.Error.Kind != test.kind || got.Target.Name != "one" || got.Target.Address != "192.0.2.1" || got.Target.Port != 80 {
			t.Errorf("%v: %s", test.err, &w.out)
		}
	}
}

func TestPrivilegeHints(t *testing.T) {
	w := newWorld()
	w.Probe = func(context.Context, netip.AddrPort, Options) (*rawprobe.Observations, error) {
		return nil, &rawprobe.PrivilegeError{Op: "open raw socket", Err: syscall.EPERM}
	}
	w.PrivilegeHint = func() string {
		return "the file has the capability, and /opt is mounted nosuid, where it has no effect"
	}
	if code := w.run("[2001:db8::1]:80", "one:80"); code != exitNoPerm {
		t.Errorf("exit %d", code)
	}
	want := `synprobe: open raw socket: operation not permitted
hint: the file has the capability, and /opt is mounted nosuid, where it has no effect
hint: once, as root:     sudo synprobe '[2001:db8::1]:80' one:80
hint: or for every user: sudo setcap cap_net_raw+ep '/opt/syn probe/synprobe'
synprobe: open raw socket: operation not permitted
`
	if w.err.String() != want {
		t.Errorf("stderr:\n%swant:\n%s", &w.err, want)
	}
}

func TestJSONUsageErrors(t *testing.T) {
	for args, want := range map[string]string{
		"one 22x --json":          `{"schema":"synprobe/1","target":{"name":"one","address":"","port":0},"error":{"kind":"usage","message":"port 22x: neither a number nor a known service"}}`,
		"-j -4 -6 one 80":         `{"schema":"synprobe/1","target":null,"error":{"kind":"usage","message":"-4 and -6: they exclude each other"}}`,
		"--bogus --json one 80":   `{"schema":"synprobe/1","target":null,"error":{"kind":"usage","message":"unknown flag --bogus"}}`,
		"-4j --bogus one 80":      `{"schema":"synprobe/1","target":null,"error":{"kind":"usage","message":"unknown flag --bogus"}}`,
		"-j nosuch 80":            `{"schema":"synprobe/1","target":{"name":"nosuch","address":"","port":80},"error":{"kind":"name-not-found","message":"nosuch: the name does not exist"}}`,
		"-j broken 80":            `{"schema":"synprobe/1","target":{"name":"broken","address":"","port":80},"error":{"kind":"name-servers","message":"broken: the name servers do not answer, 192.0.2.53:53 last (server misbehaving)"}}`,
		"-j -6 192.0.2.1 80":      `{"schema":"synprobe/1","target":{"name":"192.0.2.1","address":"192.0.2.1","port":0},"error":{"kind":"usage","message":"192.0.2.1: an IPv4 address, with -6"}}`,
		"--bogus -- --json 80 80": ``,
	} {
		w := newWorld()
		w.run(strings.Fields(args)...)
		if got := strings.TrimSuffix(w.out.String(), "\n"); got != want {
			t.Errorf("%s prints\n%s\nwant\n%s", args, got, want)
		}
		if !strings.HasPrefix(w.err.String(), "synprobe: ") {
			t.Errorf("%s prints on stderr %q", args, &w.err)
		}
	}
}

// TestOrder: answers come in the order of the arguments, each as soon as those
// before it are out, while others are still under way.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		start := time.Now()
		var lines []string
		w.Stdout = writer(func(b []byte) (int, error) {
			lines = append(lines, fmt.Sprintf("%v %s", time.Since(start), b))
			return len(b), nil
		})
		took := map[uint16]time.Duration{82: 3 * time.Second, 80: time.Second, 81: 4 * time.Second}
		probe := w.Probe
		w.Probe = func(ctx context.Context, target netip.AddrPort, opt Options) (*rawprobe.Observations, error) {
			time.Sleep(took[target.Port()])
			return probe(ctx, target, opt)
		}
		if code := w.run("-q", "--trace=never", "one:82", "one:80", "one:81"); code != 3 {
			t.Errorf("exit %d", code)
		}
		want := []string{"3s drop cause one:82\n", "3s open cause one:80\n", "4s reject cause one:81\n"}
		if !slices.Equal(lines, want) {
			t.Errorf("printed %q, want %q", lines, want)
		}
	})
}

func TestBounded(t *testing.T) {
	for flag, limit := range map[string]int32{"--trace=never": together, "-q": tracedTogether, "--source-port=4000": 1} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			var now, most atomic.Int32
			probe := w.Probe
			w.Probe = func(ctx context.Context, target netip.AddrPort, opt Options) (*rawprobe.Observations, error) {
				n := now.Add(1)
				defer now.Add(-1)
				if n > most.Load() {
					most.Store(n)
				}
				time.Sleep(time.Second)
				return probe(ctx, target, opt)
			}
			args := []string{flag}
			for range 40 {
				args = append(args, "one:80")
			}
			w.run(args...)
			if most.Load() != limit || len(w.probed) != 40 {
				t.Errorf("%s: %d at once, want %d; %d in all", flag, most.Load(), limit, len(w.probed))
			}
		})
	}
}

// TestInterrupt: what settled keeps its verdict, what did not says so, and
// what did not begin is counted.
func TestInterrupt(t *testing.T) {
	interrupted := func(t *testing.T, args ...string) (*world, int) {
		w := newWorld()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		probe := w.Probe
		w.Probe = func(ctx context.Context, target netip.AddrPort, opt Options) (*rawprobe.Observations, error) {
			o, err := probe(ctx, target, opt)
			if target.Port() == 82 {
				cancel()
				<-ctx.Done()
				o.Interrupted = true
			}
			return o, err
		}
		return w, w.runIn(ctx, args...)
	}
	w, code := interrupted(t, "one", "82")
	if code != exitInterrupted || !strings.HasPrefix(w.out.String(), "INTERRUPTED  one (192.0.2.1) port 82/tcp") || strings.Contains(w.out.String(), "DROP") || w.err.Len() > 0 {
		t.Errorf("exit %d, stdout %s, stderr %s", code, &w.out, &w.err)
	}
	w, code = interrupted(t, "-j", "one", "82")
	if code != exitInterrupted || !strings.Contains(w.out.String(), `"error":{"kind":"interrupted"`) {
		t.Errorf("exit %d, stdout %s", code, &w.out)
	}
	w, code = interrupted(t, "--source-port=4000", "one:80", "one:82", "one:81", "one:81")
	if code != exitInterrupted || !strings.HasPrefix(w.out.String(), "OPEN") || w.err.String() != "synprobe: interrupted: 2 of 4 targets have no verdict\n" {
		t.Errorf("exit %d, stdout %s, stderr %s", code, &w.out, &w.err)
	}
	w = newWorld()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code := w.runIn(ctx, "slow", "80"); code != exitInterrupted || w.out.Len() > 0 || w.err.String() != "synprobe: interrupted: there was no verdict yet\n" {
		t.Errorf("while resolving: exit %d, stdout %s, stderr %s", code, &w.out, &w.err)
	}
	w, code = interrupted(t, "-q", "--source-port=4000", "one:80", "one:82")
	if code != exitInterrupted || w.out.String() != "open cause one:80\n" || w.err.String() != "synprobe: interrupted: 1 of 2 targets have no verdict\n" {
		t.Errorf("-q: exit %d, stdout %s, stderr %s", code, &w.out, &w.err)
	}
}

func TestPanics(t *testing.T) {
	breakers := map[string]func(*world){
		"probe":      func(w *world) { w.Probe = nil },
		"explain":    func(w *world) { w.Explain = func(*rawprobe.Observations) diagnose.Diagnosis { panic("no\nrule") } },
		"lookup":     func(w *world) { w.Lookup = nil },
		"interfaces": func(w *world) { w.Interfaces = nil },
		"no verdict": func(w *world) { w.Explain = func(*rawprobe.Observations) (d diagnose.Diagnosis) { return } },
	}
	for name, f := range breakers {
		w := newWorld()
		f(w)
		code := w.run("one:80", "one:81")
		line, _, _ := strings.Cut(w.err.String(), "\n")
		if code != exitInternal || !strings.HasPrefix(line, "synprobe: internal error: ") || !strings.HasSuffix(line, ": this is a bug in synprobe") || strings.Contains(w.err.String(), "goroutine") {
			t.Errorf("%s: exit %d, stderr %s", name, code, &w.err)
		}
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

func TestLostOutput(t *testing.T) {
	for _, test := range []struct {
		err        error
		args, want string
		code       int
	}{
		{&os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.EPIPE}, "one:82 one:80", "", 3},
		{&os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.ENOSPC}, "one:82", "synprobe: write to standard output: no space left on device\n", exitIO},
		{io.ErrClosedPipe, "--version", "synprobe: write to standard output: io: read/write on closed pipe\n", exitIO},
		{syscall.EPIPE, "--help", "", 0},
		{syscall.EPIPE, "--json nosuch:80", "synprobe: nosuch: the name does not exist\nhint: check the spelling, and the search domains of this machine\n", exitNoHost},
	} {
		w := newWorld()
		w.Stdout = writer(func([]byte) (int, error) { return 0, test.err })
		code := w.run(strings.Fields(test.args)...)
		if code != test.code || w.err.String() != test.want {
			t.Errorf("%v on %s: exit %d, want %d; stderr %q", test.err, test.args, code, test.code, &w.err)
		}
	}
}

// TestReaderLeavesEarly: where the packets that go by have lost their reader and
// the run ends before its verdict, no exit code is one.
func TestReaderLeavesEarly(t *testing.T) {
	for _, test := range []struct {
		err     error
		verdict bool // the run got that far
		code    int
	}{
		{syscall.EPIPE, false, exitInterrupted},
		{syscall.EPIPE, true, 3},
		{syscall.ENOSPC, false, exitIO},
	} {
		w := newWorld()
		w.Stdout = writer(func([]byte) (int, error) { return 0, test.err })
		w.Probe = func(ctx context.Context, target netip.AddrPort, opt Options) (*rawprobe.Observations, error) {
			opt.Watch(seenPacket(1))
			return &rawprobe.Observations{Target: target, Interrupted: !test.verdict && ctx.Err() != nil}, nil
		}
		if code := w.run("-v", "one", "82"); code != test.code {
			t.Errorf("%v, verdict %v: exit %d, want %d", test.err, test.verdict, code, test.code)
		}
	}
}

func TestReverseNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.Explain = func(*rawprobe.Observations) diagnose.Diagnosis {
			return diagnose.Diagnosis{Verdict: diagnose.Drop, Cause: diagnose.NetworkFirewall, Certainty: diagnose.Certain, Fault: &diagnose.Fault{
				Where: diagnose.Path,
				Hops:  []diagnose.Hop{{TTL: 1, Address: netip.MustParseAddr("192.0.2.11")}, {TTL: 2, Address: netip.MustParseAddr("192.0.2.12")}},
			}}
		}
		w.Reverse = func(ctx context.Context, a netip.Addr) ([]string, error) {
			if a == netip.MustParseAddr("192.0.2.12") {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return []string{"fw\x07.example."}, nil
		}
		start := time.Now()
		w.run("one", "80")
		if took := time.Since(start); took != reverseTime {
			t.Errorf("waited %v for names, want %v", took, reverseTime)
		}
		if want := "  Who:  192.0.2.11 is \"fw\\a.example\"\n"; !strings.Contains(w.out.String(), want) {
			t.Errorf("no %q in\n%s", want, &w.out)
		}
		w.Reverse = nil // a call would panic
		for _, flag := range []string{"-n", "-j", "-q"} {
			if code := w.run(flag, "one", "80"); code != 3 {
				t.Errorf("%s: exit %d", flag, code)
			}
		}
	})
}

func TestColumns(t *testing.T) {
	for _, test := range []struct {
		columns  string
		terminal bool
		width    int // 0: as if nothing were said
	}{
		{"", true, 0}, {"wide", true, 0}, {"0", true, 0}, {"-1", true, 0},
		{"1", true, 40}, {"60", true, 60}, {"1000", true, 120}, {"60", false, 0},
	} {
		w := newWorld()
		w.Terminal = test.terminal
		w.Getenv = func(name string) string { return map[string]string{"COLUMNS": test.columns}[name] }
		if got := (&flags{}).style(w.Env).Width; got != test.width {
			t.Errorf("COLUMNS=%s, terminal %v: %d columns, want %d", test.columns, test.terminal, got, test.width)
		}
	}
}

func TestColour(t *testing.T) {
	for _, test := range []struct {
		flag, noColor, term string
		terminal, want      bool
	}{
		{"--color=auto", "", "xterm", true, true},
		{"--color=auto", "", "xterm", false, false},
		{"--color=auto", "1", "xterm", true, false},
		{"--color=auto", "", "dumb", true, false},
		{"--color=always", "1", "dumb", false, true},
		{"--color=never", "", "xterm", true, false},
	} {
		w := newWorld()
		w.Terminal = test.terminal
		w.Getenv = func(name string) string {
			return map[string]string{"NO_COLOR": test.noColor, "TERM": test.term}[name]
		}
		w.run(test.flag, "one", "80")
		if got := strings.Contains(w.out.String(), "\x1b["); got != test.want {
			t.Errorf("%+v: colour is %v", test, got)
		}
	}
}

func TestLocale(t *testing.T) {
	for _, test := range []struct {
		all, ctype, lang string
		want             bool
	}{
		{"", "", "en_GB.UTF-8", true},
		{"", "", "de_DE.utf8", true},
		{"C", "", "en_GB.UTF-8", false},
		{"", "C", "en_GB.UTF-8", false},
		{"", "en_GB.UTF-8", "C", true},
		{"", "", "", false},
	} {
		got := utf8Locale(func(name string) string {
			return map[string]string{"LC_ALL": test.all, "LC_CTYPE": test.ctype, "LANG": test.lang}[name]
		})
		if got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

// TestHelp: the help names every flag, and no other.
func TestHelp(t *testing.T) {
	w := newWorld()
	if code := w.run("--help", "--json", "-4", "-6"); code != 0 || w.out.String() != help || w.err.Len() > 0 {
		t.Errorf("exit %d, stderr %s", code, &w.err)
	}
	for _, line := range strings.Split(help, "\n") {
		if len(line) > 80 {
			t.Errorf("longer than 80 columns: %q", line)
		}
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "-") {
			continue
		}
		for _, name := range strings.FieldsFunc(strings.SplitN(line, "  ", 2)[0], func(r rune) bool { return r == ',' || r == ' ' }) {
			if !strings.HasPrefix(name, "-") {
				continue
			}
			if _, err := parseFlags([]string{name}); err != nil && strings.Contains(err.Error(), "unknown flag") {
				t.Errorf("the help has %s, which is no flag", name)
			}
		}
	}
	for _, name := range flagNames {
		if !strings.Contains(help, name) {
			t.Errorf("the help lacks %s", name)
		}
	}
}

// flagNames are the flags of today.
var flagNames = []string{
	"-4,", "-6,", "-j, --json", "-i, --interface", "-s, --source", "--source-port", "-t, --timeout", "-n, --no-names",
	"--tries", "-v, --verbose", "-q, --quiet", "--color", "--version", "-h, --help",
}

func TestShellQuote(t *testing.T) {
	for in, want := range map[string]string{
		"fe80::1%eth0": "fe80::1%eth0",
		"[::1]:22":     "'[::1]:22'",
		"it's":         `'it'\''s'`,
		"":             "''",
		"a\x1bb'":      `$'a\x1bb\''`,
	} {
		if got := shellQuote(in); got != want {
			t.Errorf("shellQuote(%q) = %s, want %s", in, got, want)
		}
	}
}
