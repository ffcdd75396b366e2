package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"synprobe/traceroute/diagnose"
)

// table gives the verdicts and causes of the README's table, as in
// "drop, unknown".
func table(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## Verdicts\n")
	if !found {
		t.Fatal("README.md has no section about verdicts")
	}
	section, _, _ = strings.Cut(section, "\n#")
	var all []string
	verdict := ""
	for _, row := range regexp.MustCompile("(?m)^\\| (?:`([a-z-]+)` )?\\| `([a-z-]+)` \\|").FindAllStringSubmatch(section, -1) {
		if row[1] != "" {
			verdict = row[1]
		}
		all = append(all, verdict+", "+row[2])
	}
	if len(all) < 15 {
		t.Fatalf("read only %q of the README's table", all)
	}
	return all
}

// TestEveryVerdict wants a scene for each line of the table, and no scene that
// has none.
func TestEveryVerdict(t *testing.T) {
	documented := table(t)
	shown := map[string]bool{}
	for _, s := range scenes() {
		promise := fmt.Sprintf("%s, %s", s.verdict, s.cause)
		shown[promise] = true
		if !slices.Contains(documented, promise) {
			t.Errorf("scene %s promises %s, which README.md has not", s.name, promise)
		}
	}
	for _, d := range documented {
		// Nothing shows it for certain: it is an alternative of answers-lost.
		if !shown[d] && d != fmt.Sprintf("%s, %s", diagnose.Drop, diagnose.ReturnPath) {
			t.Errorf("no scene for %s", d)
		}
	}
}

// TestScenesAreWhole: each can be chosen, and its heading fits a terminal and
// needs no more than ASCII.
func TestScenesAreWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range scenes() {
		if seen[s.name] {
			t.Errorf("two scenes are called %s", s.name)
		}
		seen[s.name] = true
		plan, err := s.net.Resolve()
		if err != nil {
			t.Errorf("scene %s: %v", s.name, err)
			continue
		}
		family := s.ipVersion()
		text := s.heading(99, 99, false) + "   " + s.draw(plan, family)
		for line := range strings.Lines(text) {
			if n := len(strings.TrimSuffix(line, "\n")); n > 80 {
				t.Errorf("scene %s: %d columns: %s", s.name, n, line)
			}
		}
		if strings.IndexFunc(text, func(r rune) bool { return r > unicode.MaxASCII }) >= 0 || strings.Contains(text, "@") || strings.Contains(text, "invalid") {
			t.Errorf("scene %s: %s", s.name, text)
		}
		if n := len(broken(s)); (n == 0) != (s.cause == diagnose.Listening) {
			t.Errorf("scene %s: %s of %d broken nodes: %s", s.name, s.cause, n, s.drawing)
		}
		for _, name := range broken(s) {
			if plan.Node(name) == nil {
				t.Errorf("scene %s: %q in brackets is no node", s.name, name)
			}
		}
	}
}

// broken are the nodes that the drawing calls so.
func broken(s scene) []string {
	var all []string
	for _, m := range regexp.MustCompile(`\[([a-z0-9]+)@?\]`).FindAllStringSubmatch(s.drawing, -1) {
		all = append(all, m[1])
	}
	return all
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args   []string
		exit   int
		stdout []string // in it
		stderr string   // its beginning
	}{
		{[]string{"--help"}, 0, []string{"--list", "--scene NAME"}, ""},
		{[]string{"--list"}, 0, []string{"open ", "one-way-broken ", "drop ", "network-firewall "}, ""},
		{[]string{"--list", "--scene", "loop"}, 0, []string{"loop "}, ""},
		{[]string{"--nonsense"}, 64, nil, "demo: unknown flag"},
		{[]string{"nonsense"}, 64, nil, "demo: unexpected argument"},
		{[]string{"--scene", "nonsense"}, 64, nil, `demo: there is no scene "nonsense"`},
		{[]string{"--scene", "loop\x1b[2J"}, 64, nil, `demo: there is no scene "loop\x1b[2J"`},
	} {
		var stdout, stderr strings.Builder
		if exit := run(t.Context(), c.args, &stdout, &stderr); exit != c.exit || !strings.HasPrefix(stderr.String(), c.stderr) || (c.stderr == "") != (stderr.Len() == 0) {
			t.Errorf("%q: exit %d, want %d\n%s", c.args, exit, c.exit, stderr.String())
		}
		if c.stdout == nil && stdout.Len() > 0 {
			t.Errorf("%q: %s", c.args, stdout.String())
		}
		for _, want := range c.stdout {
			if !strings.Contains(stdout.String(), want) {
				t.Errorf("%q: no %q in %s", c.args, want, stdout.String())
			}
		}
	}
	var one strings.Builder
	if run(t.Context(), []string{"--list", "--scene", "loop"}, &one, io.Discard); strings.Count(one.String(), "\n") != 1 {
		t.Errorf("one scene is %s", one.String())
	}
}
