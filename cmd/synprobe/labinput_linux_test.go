package main

import (
	"strings"
	"testing"

	"synprobe/rawprobe/netlab"
)

// TestBadInput gives the program what it must refuse: one line that names the
// value, a hint, the exit code, and not one packet.
func TestBadInput(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	// The port that is in use is the client's own service's. The name server
	// is one that would be asked over the wire, if it were.
	lab := netlab.Start(t, netlab.Chain(1).WithListen("client", "tcp:4000"))
	client := lab.Node("client")
	eth := listen(t, client, "eth0")
	around := surrounding{Etc: etc(t, "nameserver 10.0.2.2\noptions timeout:1 attempts:1\n",
		"127.0.0.1 localhost four\n::1 localhost six\n")}

	long := strings.Repeat("abcdefgh.", 30) + "com"
	for _, c := range []struct {
		argv  []string
		exit  int
		names string // the error's own line has this
	}{
		{[]string{"", "80"}, 64, `""`},
		{[]string{":80"}, 64, `""`},
		{[]string{long, "80"}, 64, "abcdefgh.abcdefgh."},
		{[]string{strings.Repeat("a", 64) + ".example", "80"}, 64, "aaaaaaaa"},
		{[]string{strings.Repeat("a", 100000), "80"}, 64, "aaaaaaaa"},
		{[]string{"a..b", "80"}, 64, "a..b"},
		{[]string{"10.0.2.256", "80"}, 64, "10.0.2.256"},
		{[]string{"10.0.2", "80"}, 64, "10.0.2"},
		{[]string{"010.0.2.2", "80"}, 64, "010.0.2.2"},
		{[]string{"fd00:0:0:2::2::1", "80"}, 64, "fd00:0:0:2::2::1"},
		{[]string{"0.0.0.0", "80"}, 64, "0.0.0.0"},
		{[]string{"::", "80"}, 64, "::"},
		{[]string{"224.0.0.1", "80"}, 64, "224.0.0.1"},
		{[]string{"ff02::1%eth0", "80"}, 64, "ff02::1%eth0"},
		{[]string{"255.255.255.255", "80"}, 64, "255.255.255.255"},
		{[]string{"10.0.1.255", "80"}, 64, "10.0.1.255"},
		{[]string{"127.255.255.255", "80"}, 64, "127.255.255.255"},
		{[]string{"-s", "127.0.0.1", "10.0.2.2", "80"}, 64, "127.0.0.1"},
		{[]string{"-s", "::1", "fd00:0:0:2::2", "80"}, 64, "::1"},
		{[]string{"-i", "lo", "10.0.2.2", "80"}, 64, "lo"},
		{[]string{"-i", "lo", "fd00:0:0:2::2", "80"}, 64, "lo"},
		{[]string{"http://10.0.2.2/", "80"}, 64, "http://10.0.2.2/"},
		{[]string{"10.0.2.2", "0"}, 64, "port 0:"},
		{[]string{"10.0.2.2", "65536"}, 64, "port 65536:"},
		{[]string{"10.0.2.2", "99999999999999999999"}, 64, "port 99999999999999999999:"},
		{[]string{"10.0.2.2", "-1"}, 64, "port -1:"},
		{[]string{"10.0.2.2", "22x"}, 64, "port 22x:"},
		{[]string{"10.0.2.2", ""}, 64, `port ""`},
		{[]string{"10.0.2.2:"}, 64, `port ""`},
		{[]string{"10.0.2.2", " 80"}, 64, "80"},
		{[]string{"10.0.2.2"}, 64, "10.0.2.2"},
		{[]string{"-6", "10.0.2.2", "80"}, 64, "10.0.2.2"},
		{[]string{"-4", "fd00:0:0:2::2", "80"}, 64, "fd00:0:0:2::2"},
		{[]string{"-6", "four", "80"}, 64, "four"},
		{[]string{"-4", "six", "80"}, 64, "six"},
		{[]string{"-i", "nosuch0", "10.0.2.2", "80"}, 64, "nosuch0"},
		{[]string{"-i", "", "10.0.2.2", "80"}, 64, `--interface ""`},
		{[]string{"fe80::1%nosuch0", "80"}, 64, "nosuch0"},
		{[]string{"fe80::2:2", "80"}, 64, "fe80::2:2"},
		{[]string{"-i", "lo", "fe80::2:2%eth0", "80"}, 64, "fe80::2:2%eth0"},
		{[]string{"-s", "10.0.2.2", "10.0.2.2", "80"}, 64, "10.0.2.2"},
		{[]string{"-s", "fd00:0:0:2::2", "fd00:0:0:2::2", "80"}, 64, "fd00:0:0:2::2"},
		{[]string{"-s", "nonsense", "10.0.2.2", "80"}, 64, "nonsense"},
		{[]string{"-s", "10.0.1.1", "fd00:0:0:2::2", "80"}, 64, "10.0.1.1"},
		{[]string{"--bogus", "10.0.2.2", "80"}, 64, "--bogus"},
		{[]string{"-Z", "10.0.2.2", "80"}, 64, "-Z"},
		{[]string{"-4", "-6", "10.0.2.2", "80"}, 64, "-4 and -6"},
		{[]string{"-q", "-v", "10.0.2.2", "80"}, 64, "-q and -v"},
		{[]string{"-4", "-s", "fd00:0:0:1::1", "10.0.2.2", "80"}, 64, "fd00:0:0:1::1"},
		{[]string{"--source-port", "0", "10.0.2.2", "80"}, 64, "--source-port 0"},
		{[]string{"--source-port", "65536", "10.0.2.2", "80"}, 64, "--source-port 65536"},
		{[]string{"--source-port", "4000", "10.0.2.2", "80"}, 74, "4000"},
		{[]string{"--source-port", "4000", "fd00:0:0:2::2", "80"}, 74, "4000"},
		{[]string{"-t", "0", "10.0.2.2", "80"}, 64, "--timeout 0"},
		{[]string{"-t", "-1s", "10.0.2.2", "80"}, 64, "--timeout -1s"},
		{[]string{"-t", "2", "10.0.2.2", "80"}, 64, "--timeout 2"},
		{[]string{"--tries", "0", "10.0.2.2", "80"}, 64, "--tries 0"},
		{[]string{"--tries", "101", "10.0.2.2", "80"}, 64, "--tries 101"},
		{[]string{"--color", "blue", "10.0.2.2", "80"}, 64, "--color blue"},
		{[]string{"nosuch.invalid", "80"}, 68, "nosuch.invalid"},
		// One that is bad stops all the others.
		{[]string{"10.0.2.2:80", "10.0.2.2:65536"}, 64, "port 65536:"},
		{[]string{"10.0.2.2:80", "[fd00:0:0:2::2]:80", ":80"}, 64, `""`},
		{[]string{"10.0.2.2:80", "[fd00:0:0:2::2:80"}, 64, "[fd00:0:0:2::2:80"},
		{[]string{"-4", "10.0.2.2:80", "[fd00:0:0:2::2]:80"}, 64, "fd00:0:0:2::2"},
	} {
		shown := strings.Join(c.argv, " ")
		if len(shown) > 60 {
			shown = shown[:60] + "…"
		}
		eth.taken(t)
		out := around.run(t, client, append([]string{binary()}, c.argv...)...)
		if out.Exit != c.exit {
			t.Errorf("%q: exit %d, want %d", shown, out.Exit, c.exit)
		}
		if out.Stdout != "" {
			t.Errorf("%q: stdout: %s", shown, out.Stdout)
		}
		lines := strings.Split(strings.TrimSuffix(out.Stderr, "\n"), "\n")
		if !strings.HasPrefix(lines[0], "synprobe: ") || !strings.Contains(lines[0], c.names) {
			t.Errorf("%q: no error that names %q:\n%s", shown, c.names, out.Stderr)
		}
		if len(lines) != 2 || !strings.HasPrefix(lines[len(lines)-1], "hint: ") {
			t.Errorf("%q: not an error and a hint of one line each:\n%s", shown, out.Stderr)
		}
		for _, l := range lines {
			if len(l) > 240 {
				t.Errorf("%q: a line of %d bytes: %s", shown, len(l), l)
			}
		}
		if sent := eth.sent(t); len(sent) != 0 {
			t.Errorf("%q: %d packets left: %v", shown, len(sent), sent)
		}
	}
}
