package main

import (
	"bytes"
	"go/ast"
	"go/token"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"synprobe/cmd/synprobe/internal/cli"
)

const readmePath = repository + "/README.md"

// readme is README.md, by its headings.
func readme(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(readmePath)
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	heading := ""
	for line := range strings.Lines(string(text)) {
		if h, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && line[0] == '#' {
			heading = strings.TrimSpace(h)
		}
		sections[heading] += line
	}
	return sections
}

var codeSpan = regexp.MustCompile("`([^`]+)`")

// column gives the words in code font in one column of a section's table, each
// once, in alphabetical order.
func column(t *testing.T, heading string, n int) []string {
	t.Helper()
	section, ok := readme(t)[heading]
	if !ok {
		t.Fatalf("README.md has no section %q", heading)
	}
	var words []string
	for line := range strings.Lines(section) {
		if cells := strings.Split(line, "|"); line[0] == '|' && len(cells) > n+2 {
			for _, m := range codeSpan.FindAllStringSubmatch(cells[n+1], -1) {
				words = append(words, m[1])
			}
		}
	}
	return set(words)
}

func set(words []string) []string {
	slices.Sort(words)
	return slices.Compact(words)
}

// same compares what the README documents with what the code has.
func same(t *testing.T, what string, documented, code []string) {
	t.Helper()
	if len(code) == 0 {
		t.Errorf("%s: found none in the code", what)
	}
	for _, w := range code {
		if !slices.Contains(documented, w) {
			t.Errorf("%s: README.md lacks %s", what, w)
		}
	}
	for _, w := range documented {
		if !slices.Contains(code, w) {
			t.Errorf("%s: README.md has %s, and the code has not", what, w)
		}
	}
}

// specs gives the declarations of one kind in a package, without tests.
func specs(t *testing.T, dir string, use func(*sourceFile, ast.Node)) {
	t.Helper()
	for _, f := range source(t) {
		if f.dir() == dir && !f.test() {
			ast.Inspect(f.File, func(n ast.Node) bool {
				use(f, n)
				return true
			})
		}
	}
}

// constants gives the string constants of a type, by their names.
func constants(t *testing.T, dir, typ string) map[string]string {
	t.Helper()
	found := map[string]string{}
	specs(t, dir, func(_ *sourceFile, n ast.Node) {
		s, ok := n.(*ast.ValueSpec)
		if !ok {
			return
		}
		if id, ok := s.Type.(*ast.Ident); ok && id.Name == typ {
			for i, name := range s.Names {
				found[name.Name] = unquote(t, s.Values[i])
			}
		}
	})
	return found
}

func unquote(t *testing.T, e ast.Expr) string {
	t.Helper()
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		t.Fatalf("%T is no string literal", e)
	}
	s, err := strconv.Unquote(lit.Value)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func values(m map[string]string) []string {
	var all []string
	for _, v := range m {
		all = append(all, v)
	}
	return set(all)
}

const (
	diagnoseDir = "traceroute/diagnose"
	reportDir   = "cmd/synprobe/internal/report"
	cliDir      = "cmd/synprobe/internal/cli"
)

func TestReadmeFlags(t *testing.T) {
	var help bytes.Buffer
	code := cli.Run(t.Context(), cli.Env{Stdout: &help, Stderr: io.Discard, Getenv: func(string) string { return "" }}, []string{"synprobe", "--help"})
	if code != 0 {
		t.Fatalf("--help exits with %d", code)
	}
	// A flag, and the name of its value.
	flag := regexp.MustCompile(`(--?[a-z0-9][a-z-]*)((?: [A-Z]+\b)?)`)
	var inHelp, documented []string
	for line := range strings.Lines(help.String()) {
		if !strings.HasPrefix(strings.TrimSpace(line), "-") {
			continue
		}
		// The explanation stands behind two spaces.
		names, _, _ := strings.Cut(strings.TrimSpace(line), "  ")
		inHelp = append(inHelp, flag.FindAllString(names, -1)...)
	}
	for _, span := range column(t, "Flags", 0) {
		documented = append(documented, flag.FindAllString(span, -1)...)
	}
	same(t, "flag", set(documented), set(inHelp))
}

func TestReadmeWords(t *testing.T) {
	same(t, "verdict", column(t, "Verdicts", 0), values(constants(t, diagnoseDir, "Verdict")))
	same(t, "cause", column(t, "Verdicts", 1), values(constants(t, diagnoseDir, "Cause")))
	same(t, "fault", column(t, "Verdicts", 3), values(constants(t, diagnoseDir, "Where")))
	same(t, "where", column(t, "Where a fault is", 0), values(constants(t, diagnoseDir, "Where")))
	var words []string // of a path: statuses, and the kinds of probe that are controls
	for name, kind := range constants(t, "rawprobe", "ProbeKind") {
		if name != "Subject" && name != "OtherFlow" {
			words = append(words, kind)
		}
	}
	words = append(words, values(constants(t, "traceroute", "Status"))...)
	same(t, "word of a path", column(t, "Words of a path", 0), set(words))
	same(t, "certainty", column(t, "Certainty", 0), values(constants(t, diagnoseDir, "Certainty")))
	same(t, "error kind", column(t, "Kinds of error", 0), values(constants(t, reportDir, "ErrorKind")))
}

func TestReadmeEvidence(t *testing.T) {
	var rules []string
	specs(t, diagnoseDir, func(f *sourceFile, n ast.Node) {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return
		}
		if s, ok := call.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "because" {
			rules = append(rules, unquote(t, call.Args[0]))
		}
	})
	same(t, "evidence rule", column(t, "Evidence", 0), set(rules))
}

// TestReadmeExitCodes reads the tables of package cli: a verdict's code is a
// number there, an error's a constant.
func TestReadmeExitCodes(t *testing.T) {
	verdicts, kinds := constants(t, diagnoseDir, "Verdict"), constants(t, reportDir, "ErrorKind")
	numbers := map[string]string{} // constants, by name
	specs(t, cliDir, func(_ *sourceFile, n ast.Node) {
		if s, ok := n.(*ast.ValueSpec); ok && len(s.Values) == 1 && strings.HasPrefix(s.Names[0].Name, "exit") {
			if lit, ok := s.Values[0].(*ast.BasicLit); ok {
				numbers[s.Names[0].Name] = lit.Value
			}
		}
	})
	var all, pairs []string // "0", "0 open"
	specs(t, cliDir, func(_ *sourceFile, n ast.Node) {
		kv, ok := n.(*ast.KeyValueExpr)
		if !ok {
			return
		}
		key, ok := kv.Key.(*ast.SelectorExpr)
		if !ok {
			return
		}
		switch v := kv.Value.(type) {
		case *ast.BasicLit:
			if verdict := verdicts[key.Sel.Name]; verdict != "" && v.Kind == token.INT {
				all, pairs = append(all, v.Value), append(pairs, v.Value+" "+verdict)
			}
		case *ast.Ident:
			if kind := kinds[key.Sel.Name]; kind != "" && numbers[v.Name] != "" {
				all, pairs = append(all, numbers[v.Name]), append(pairs, numbers[v.Name]+" "+kind)
			}
		}
	})
	all = append(all, numbers["exitDifferent"]) // of --expect, and of no single target
	same(t, "exit code", column(t, "Exit codes", 0), set(all))

	var documented []string
	sections := readme(t)
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\d+)` \\| `([a-z-]+)` \\|$").FindAllStringSubmatch(sections["Exit codes"], -1) {
		documented = append(documented, row[1]+" "+row[2])
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| `(\\d+)` \\|").FindAllStringSubmatch(sections["Kinds of error"], -1) {
		documented = append(documented, row[2]+" "+row[1])
	}
	same(t, "meaning of an exit code", documented, set(pairs))
	if len(verdicts)+len(kinds) != len(pairs) {
		t.Errorf("%d verdicts and %d kinds of error have %d exit codes", len(verdicts), len(kinds), len(pairs))
	}
}

func TestReadmeJSON(t *testing.T) {
	types := map[string]*ast.StructType{}
	specs(t, reportDir, func(_ *sourceFile, n ast.Node) {
		if s, ok := n.(*ast.TypeSpec); ok {
			if st, ok := s.Type.(*ast.StructType); ok {
				types[s.Name.Name] = st
			}
		}
	})
	// A field of an object is documented by its path, except that an object
	// which is never null, and holds fields of its own, needs no line.
	var walk func(typ, prefix string, fields *[]string)
	walk = func(typ, prefix string, fields *[]string) {
		for _, f := range types[typ].Fields.List {
			tag, err := strconv.Unquote(f.Tag.Value)
			if err != nil {
				t.Fatal(err)
			}
			name, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
			name = prefix + name
			inner, suffix, own := f.Type, ".", false
			switch e := f.Type.(type) {
			case *ast.StarExpr:
				inner, own = e.X, true
			case *ast.ArrayType:
				inner, suffix, own = e.Elt, "[].", true
			}
			id, ok := inner.(*ast.Ident)
			nested := ok && types[id.Name] != nil
			if own || !nested || prefix == "alternatives[]." {
				*fields = append(*fields, name)
			}
			if nested {
				walk(id.Name, name+suffix, fields)
			}
		}
	}
	for _, c := range []struct{ typ, heading string }{
		{"jsonResult", "Fields of an answer"},
		{"jsonFailure", "Fields of an error"},
	} {
		var fields []string
		walk(c.typ, "", &fields)
		same(t, "field", column(t, c.heading, 0), set(fields))
	}
}
