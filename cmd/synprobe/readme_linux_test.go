package main

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"synprobe/rawprobe/netlab"
)

// example is one of the README: the state of the network, the format, the
// command and its output.
var example = regexp.MustCompile("(?s)<!-- example: ([a-z ]+) -->\n```(text|json)\n\\$ synprobe ([^\n]*)\n(.*?)```\n")

// chance is what differs from run to run.
// The width of a number moves what stands behind it,
// and a busy machine makes fewer tries.
var chance = regexp.MustCompile(`\s+|─+|\bonce\b|\btwice\b|\b\d+ times\b|\b\d+(\.\d+)? (ms|s)\b|"time": "[^"]*"|"rtt_ms": [0-9.]+`)

// plain is text without what chance decides, a word a line.
func plain(text string) string {
	return chance.ReplaceAllStringFunc(text, func(s string) string {
		switch {
		case strings.TrimSpace(s) == "":
			return "\n"
		case s[0] >= '0' && s[0] <= '9' && !strings.HasSuffix(s, " times"):
			return "# " + s[strings.LastIndex(s, " ")+1:]
		}
		return "#"
	})
}

// TestReadmeExamples runs what the README shows, in the network that it
// describes.
func TestReadmeExamples(t *testing.T) {
	netlab.Require(t)
	text, err := os.ReadFile(readmePath)
	if err != nil {
		t.Fatal(err)
	}
	net := netlab.Chain(2).WithListen("server", "tcp:22").
		WithRules("r1", netlab.Rule{Hook: netlab.Forward, Proto: netlab.TCP, DstPort: 3306, Action: netlab.Drop}).
		WithRules("r2", netlab.Rule{Hook: netlab.Forward, Proto: netlab.TCP, DstPort: 25, Action: netlab.RejectAdmin}).
		WithRules("server", netlab.Rule{Hook: netlab.Input, Proto: netlab.TCP, DstPort: 5432, Action: netlab.Drop})
	dead := map[string]string{"alive": "", "server down": "server", "gateway down": "r1"}

	found := example.FindAllStringSubmatch(string(text), -1)
	if marks := bytes.Count(text, []byte("<!-- example")); len(found) == 0 || len(found) != marks {
		t.Fatalf("read %d of %d examples", len(found), marks)
	}
	outputs := make([]string, len(found))
	t.Run("run", func(t *testing.T) {
		for i, m := range found {
			t.Run(m[1]+" "+m[3], func(t *testing.T) {
				t.Parallel()
				lab := netlab.Start(t, net)
				name, known := dead[m[1]]
				if !known {
					t.Fatalf("no network is %q", m[1])
				}
				if name != "" {
					lab.Node(name).Die()
				}
				client := lab.Node("client")
				cmd := client.Command(t.Context(), binary(), strings.Fields(m[3])...)
				cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "LC_") || strings.HasPrefix(v, "COLUMNS=") })
				cmd.Env = append(cmd.Env, "LANG=C.UTF-8")
				out, err := client.Run(cmd)
				if err != nil {
					t.Fatal(err)
				}
				if out.Stderr != "" {
					t.Errorf("stderr: %s", out.Stderr)
				}
				outputs[i] = out.Stdout
				if m[2] == "json" {
					var b bytes.Buffer
					if err := json.Indent(&b, []byte(out.Stdout), "", "  "); err != nil {
						t.Fatal(err)
					}
					outputs[i] = b.String()
				}
				if *update {
					return
				}
				if diff := cmp.Diff(plain(m[4]), plain(outputs[i])); diff != "" {
					t.Errorf("README.md shows another output (go test -run %s -update):\n%s", "TestReadmeExamples", diff)
				}
			})
		}
	})
	if !*update || t.Failed() {
		return
	}
	i := -1
	text = example.ReplaceAllFunc(text, func(b []byte) []byte {
		i++
		m := found[i]
		return []byte("<!-- example: " + m[1] + " -->\n```" + m[2] + "\n$ synprobe " + m[3] + "\n" + outputs[i] + "```\n")
	})
	if err := os.WriteFile(readmePath, text, 0o644); err != nil {
		t.Fatal(err)
	}
}
