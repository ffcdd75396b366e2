package diagnose

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write testdata/sentences.golden anew")

// TestSentences holds every sentence that the cases bring forth against
// testdata/sentences.golden, so that a change of wording is read before it is
// made. What a case only repeats is left out. It says nothing about whether a diagnosis is right; TestExplain does.
func TestSentences(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Written by go test ./traceroute/diagnose -run Sentences -update. IPv6 only where it says something else.\n")
	said := make(map[string]bool)
	for _, c := range cases {
		var first string
		for _, f := range c.families() {
			o := f.observations(c.see)
			text := sentences(Explain(o))
			plain := f.nameless(text)
			if plain == first || said[plain] {
				continue
			}
			said[plain] = true
			if first == "" {
				fmt.Fprintf(&b, "\n== %s\n", c.name)
			} else {
				b.WriteString("   IPv6:\n")
			}
			first = plain
			b.WriteString(text)
		}
	}
	golden := filepath.Join("testdata", "sentences.golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(b.String(), "\n")); diff != "" {
		t.Errorf("the wording changed; read it, then run with -update (want -, got +):\n%s", diff)
	}
}

// sentences are all that a diagnosis says in words.
func sentences(d Diagnosis) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s: %s\n", strings.ToUpper(string(d.Verdict)), d.Certainty, d.Summary)
	for _, a := range d.Alternatives {
		fmt.Fprintf(&b, "   or   %s: %s\n", a.Cause, a.Why)
	}
	for _, e := range d.Evidence {
		fmt.Fprintf(&b, "   why  %s\n", e.Text)
	}
	if d.Next != "" {
		fmt.Fprintf(&b, "   next %s\n", d.Next)
	}
	return b.String()
}

// nameless puts names for addresses and for what the families call the same
// thing, so that only other words tell them apart.
func (f family) nameless(text string) string {
	var pairs []string
	for _, n := range names {
		pairs = append(pairs, f.addr(n.name).String(), n.name, "["+f.addr(n.name).String()+"]", n.name)
	}
	// The longer first, or [a] would be left with its brackets.
	slices.Reverse(pairs)
	for i := 0; i < len(pairs); i += 2 {
		text = strings.ReplaceAll(text, pairs[i+1], pairs[i])
	}
	for _, code := range []string{"refused", "host-unreachable", "net-unreachable", "expired", "too-big"} {
		typ, n := f.code(code)
		text = strings.ReplaceAll(text, describeCode(f, typ, n), code)
	}
	return strings.NewReplacer("IPv4", "family", "IPv6", "family").Replace(text)
}

func describeCode(f family, typ, code int) string {
	o := f.observations(fmt.Sprintf("syn 0s\n +0.1ms icmp %d/%d from=gw", typ, code))
	return describe(&o.Replies[0])
}
