package main

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"synprobe/rawprobe/netlab"
)

var update = flag.Bool("update", false, "write what the program says in the lab to README.md and testdata/text")

// times are what differs from run to run. The lab's addresses do not.
var times = regexp.MustCompile(`\b\d+(\.\d+)? (µs|ms|s)\b`)

// masked returns the text's words, without its line breaks: a time of another
// length may wrap a line elsewhere.
func masked(text string) []string {
	var all []string
	for paragraph := range strings.SplitSeq(times.ReplaceAllString(text, "TIME"), "\n\n") {
		all = append(append(all, strings.Fields(paragraph)...), "¶")
	}
	return all
}

// TestText holds what a person reads against what was read by a person before.
// Write the files anew with -update, and read them.
func TestText(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	for _, c := range []struct {
		file string // under testdata/text
		of   string // the lab case
		f    netlab.Family
	}{
		{"open", "open", netlab.IPv4},
		{"open-filtered-echo", "open, echo filtered", netlab.IPv6},
		{"closed", "closed", netlab.IPv4},
		{"drop", "host drops", netlab.IPv4},
		{"drop-own-firewall", "own OUTPUT drops", netlab.IPv4},
		{"host-down", "target on the link is down", netlab.IPv4},
		{"host-down-routed", "target behind a router is down", netlab.IPv6},
		{"network-down", "own route: noroute", netlab.IPv4},
		{"gateway-down", "gateway down", netlab.IPv4},
		{"link-down", "no carrier", netlab.IPv4},
		{"reject-by-router", "r2 rejects with admin-prohibited", netlab.IPv4},
		{"reset-by-router", "r1 rejects with a reset", netlab.IPv6},
	} {
		cases := labCases()
		i := slices.IndexFunc(cases, func(l labCase) bool {
			return l.name == c.of && (l.only == nil || slices.Contains(l.only, c.f))
		})
		if i < 0 {
			t.Errorf("there is no lab case %q any more", c.of)
			continue
		}
		l := cases[i]
		t.Run(c.file, func(t *testing.T) {
			t.Parallel()
			lab := netlab.Start(t, l.net)
			if l.setup != nil {
				l.setup(t, lab, c.f)
			}
			target, port := lab.Addr("server", c.f).String(), "80"
			if l.target != nil {
				target = l.target(lab, c.f)
			}
			if l.port == 81 {
				port = "81"
			}
			// No reverse names: nobody listens there.
			s := surrounding{Etc: etc(t, "nameserver 127.0.0.1\n", "127.0.0.1 localhost\n")}
			out := s.run(t, lab.Node("client"), binary(), target, port)
			if want := exitCodes[l.verdict]; out.Exit != want || out.Stderr != "" {
				t.Errorf("exit %d, want %d\n%s", out.Exit, want, out.Stderr)
			}
			for line := range strings.Lines(out.Stdout) {
				line = strings.TrimSuffix(line, "\n")
				if n := utf8.RuneCountInString(line); n > 80 {
					t.Errorf("%d columns: %s", n, line)
				}
				if line != strings.TrimRight(line, " ") {
					t.Errorf("spaces at the end: %q", line)
				}
			}
			if strings.ContainsAny(out.Stdout, "\x1b\t\r") {
				t.Errorf("colour or tabs where there is no terminal: %q", out.Stdout)
			}
			path := filepath.Join("testdata", "text", c.file+".txt")
			if *update {
				if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(out.Stdout), 0o666); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(masked(out.Stdout), masked(string(want))) {
				t.Errorf("it says\n%s\nand %s has\n%s", out.Stdout, path, want)
			}
		})
	}
}
