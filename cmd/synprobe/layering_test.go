package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What keeps the packages apart, checked in the source of every file, whatever
// system it is built for.

const module = "synprobe"

// tiers are the packages from the top down: a package imports what is in the
// tiers below its own, and of its own layer only what is in the same tree.
// Only tests, and the program of practice, may import the networks for tests.
var tiers = [][]string{
	{"cmd"},
	{"traceroute"},
	{"rawprobe/netlab", "rawprobe/simnet"},
	{"rawprobe"},
	{"pcap", "rawprobe/wire"},
}

const testNetworks = 2 // the layer of the networks for tests

// practice is the program that builds the networks for tests for people to
// learn with. It is no part of what is installed.
const practice = "cmd/demo"

// layer returns the layer of a package's directory, and the tree in it: the
// longest name that fits, so that rawprobe/wire is not taken for rawprobe.
func layer(dir string) (depth int, tree string) {
	depth = -1
	for i, l := range tiers {
		for _, name := range l {
			if (dir == name || strings.HasPrefix(dir, name+"/")) && len(name) > len(tree) {
				depth, tree = i, name
			}
		}
	}
	return depth, tree
}

// kernelSide are the packages that speak to one kernel.
var kernelSide = regexp.MustCompile(`^(syscall|unsafe|golang\.org/x/sys/.*|github\.com/(vishvananda|mdlayher|google/nftables)(/.*)?)$`)

// pure are the packages that may look at no clock, network or file, and all
// that they may import of the standard library. Of net they may use the types
// of addresses.
var (
	pure        = []string{"traceroute/diagnose", "cmd/synprobe/internal/report"}
	pureImports = []string{"bytes", "cmp", "encoding/json", "errors", "fmt", "io", "maps", "math", "net", "net/netip", "slices", "sort", "strconv", "strings", "time", "unicode", "unicode/utf8"}
	addressOnly = []string{"HardwareAddr", "IP", "IPMask", "IPNet"}
	clock       = []string{"After", "AfterFunc", "NewTicker", "NewTimer", "Now", "Since", "Sleep", "Tick", "Until"}
)

// signalOrErrno are the names of package syscall that every system has.
var signalOrErrno = regexp.MustCompile(`^(SIG[A-Z]+|E[A-Z0-9]+|Errno|Signal)$`)

// A sourceFile is one parsed file of this module.
type sourceFile struct {
	*ast.File
	fset *token.FileSet
	path string // from the module's root, with slashes
}

func (f *sourceFile) dir() string { return path.Dir(f.path) }
func (f *sourceFile) test() bool  { return strings.HasSuffix(f.path, "_test.go") }
func (f *sourceFile) linux() bool {
	return regexp.MustCompile(`_linux(_test)?\.go$`).MatchString(f.path)
}
func (f *sourceFile) in(tree string) bool {
	return strings.HasPrefix(f.path, tree+"/")
}

func (f *sourceFile) errorf(t *testing.T, n ast.Node, format string, args ...any) {
	t.Helper()
	t.Errorf("%s:%d: %s", f.path, f.fset.Position(n.Pos()).Line, fmt.Sprintf(format, args...))
}

// uses gives each name that f uses of an imported package.
func (f *sourceFile) uses(imported string, use func(*ast.SelectorExpr)) {
	local := path.Base(imported)
	for _, spec := range f.Imports {
		if spec.Path.Value == strconv.Quote(imported) && spec.Name != nil {
			local = spec.Name.Name
		}
	}
	ast.Inspect(f.File, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == local {
				use(s)
			}
		}
		return true
	})
}

// repository is the module's root, seen from this package.
const repository = "../.."

// source parses every Go file of the module.
func source(t *testing.T) []*sourceFile {
	t.Helper()
	var files []*sourceFile
	err := filepath.WalkDir(repository, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != repository && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(name) != ".go":
			return nil
		}
		rel, err := filepath.Rel(repository, name)
		if err != nil {
			return err
		}
		f := &sourceFile{fset: token.NewFileSet(), path: filepath.ToSlash(rel)}
		f.File, err = parser.ParseFile(f.fset, name, nil, parser.ParseComments)
		files = append(files, f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 50 {
		t.Fatalf("only %d files: this is not the module's root", len(files))
	}
	return files
}

func TestImportsGoDownwards(t *testing.T) {
	for _, f := range source(t) {
		depth, tree := layer(f.dir())
		if depth < 0 {
			f.errorf(t, f.Name, "a package in no layer")
			continue
		}
		for _, spec := range f.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			dir, ours := strings.CutPrefix(imported, module+"/")
			if !ours {
				if tree == "rawprobe/wire" && !f.test() && strings.Contains(imported, ".") {
					f.errorf(t, spec, "wire imports %s, and may import the standard library alone", imported)
				}
				continue
			}
			to, toTree := layer(dir)
			switch {
			case to < 0:
				f.errorf(t, spec, "%s is in no layer", imported)
			case tree == toTree:
			case depth == testNetworks && to == testNetworks: // simnet reads netlab's topologies
			case to == testNetworks && !f.test() && f.dir() != practice:
				f.errorf(t, spec, "%s is for tests", imported)
			case to <= depth && !(f.test() && to == testNetworks):
				f.errorf(t, spec, "%s imports %s, which is not below it", f.dir(), imported)
			}
		}
	}
}

func TestSyscallsStayBelow(t *testing.T) {
	for _, f := range source(t) {
		for _, spec := range f.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			switch {
			case imported == "C":
				f.errorf(t, spec, "cgo: synprobe is one static binary")
			case !kernelSide.MatchString(imported):
			case f.linux() && (f.in("pcap") || f.in("rawprobe")), f.linux() && f.test(), imported == "unsafe" && f.test():
			case imported == "syscall" && f.in("cmd"):
				f.uses("syscall", func(s *ast.SelectorExpr) {
					if !signalOrErrno.MatchString(s.Sel.Name) {
						f.errorf(t, s, "syscall.%s in cmd, which may use signals and error numbers", s.Sel.Name)
					}
				})
			default:
				f.errorf(t, spec, "%s is for *_linux.go in pcap and rawprobe", imported)
			}
		}
	}
}

func TestPurePackages(t *testing.T) {
	for _, f := range source(t) {
		if f.test() || !slices.Contains(pure, f.dir()) {
			continue
		}
		for _, spec := range f.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			standard := !strings.Contains(imported, ".") && !strings.HasPrefix(imported, module+"/")
			if standard && !slices.Contains(pureImports, imported) {
				f.errorf(t, spec, "%s in a package that is a pure function of the observations", imported)
			}
		}
		f.uses("net", func(s *ast.SelectorExpr) {
			if !slices.Contains(addressOnly, s.Sel.Name) {
				f.errorf(t, s, "net.%s in a package that has no network", s.Sel.Name)
			}
		})
		f.uses("time", func(s *ast.SelectorExpr) {
			if slices.Contains(clock, s.Sel.Name) {
				f.errorf(t, s, "time.%s in a package that has no clock", s.Sel.Name)
			}
		})
	}
}

func TestPackageNames(t *testing.T) {
	for _, f := range source(t) {
		for _, vague := range []string{"util", "utils", "common", "helper", "helpers", "misc"} {
			if f.Name.Name == vague || path.Base(f.dir()) == vague {
				f.errorf(t, f.Name, "a package named %s says nothing", vague)
			}
		}
	}
}

// TestDocumented wants a doc comment on every exported identifier; one on a
// group of constants or variables is for all of them, and so is that of
// interface methods on consecutive lines.
func TestDocumented(t *testing.T) {
	documented := map[string]bool{} // packages
	for _, f := range source(t) {
		if f.test() {
			continue
		}
		documented[f.dir()] = documented[f.dir()] || f.Doc != nil
		for _, decl := range f.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				// What Error does is documented where error is.
				if d.Doc == nil && d.Name.IsExported() && exportedReceiver(d) && (d.Recv == nil || d.Name.Name != "Error") {
					f.errorf(t, d, "%s has no doc comment", d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					f.documentedSpec(t, d, spec)
				}
			}
		}
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("package %s has no doc comment", dir)
		}
	}
}

func (f *sourceFile) documentedSpec(t *testing.T, d *ast.GenDecl, spec ast.Spec) {
	switch s := spec.(type) {
	case *ast.ValueSpec:
		for _, name := range s.Names {
			if name.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
				f.errorf(t, s, "%s has no doc comment", name.Name)
			}
		}
	case *ast.TypeSpec:
		if !s.Name.IsExported() {
			return
		}
		if s.Doc == nil && (d.Doc == nil || d.Lparen.IsValid()) {
			f.errorf(t, s, "%s has no doc comment", s.Name.Name)
		}
		methods, ok := s.Type.(*ast.InterfaceType)
		if !ok || methods.Methods.NumFields() == 1 { // what its one method does is what it is
			return
		}
		last := 0 // the last line of what is documented
		for _, m := range methods.Methods.List {
			line := func(p token.Pos) int { return f.fset.Position(p).Line }
			if m.Doc != nil || m.Comment != nil || len(m.Names) == 0 || last != 0 && line(m.Pos()) == last+1 {
				last = line(m.End())
				continue
			}
			f.errorf(t, m, "%s.%s has no doc comment", s.Name.Name, m.Names[0].Name)
		}
	}
}

// exportedReceiver reports whether d is a function or the method of an
// exported type.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	exported := false
	ast.Inspect(d.Recv.List[0].Type, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok {
			exported = exported || id.IsExported()
		}
		return true
	})
	return exported
}

// TestForeignTypes looks through all that the packages below cmd export for
// gopacket's types, which are ours to use and nobody's to depend on.
func TestForeignTypes(t *testing.T) {
	const foreign = "github.com/google/gopacket"
	list := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Export", "./...")
	list.Dir = repository
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	exports := map[string]string{}
	var ours []string
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct{ ImportPath, Export string }
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
		if dir, ok := strings.CutPrefix(p.ImportPath, module+"/"); ok && !strings.HasPrefix(dir, "cmd/") {
			ours = append(ours, p.ImportPath)
		}
	}
	imp := importer.ForCompiler(token.NewFileSet(), "gc", func(p string) (io.ReadCloser, error) { return os.Open(exports[p]) })
	for _, p := range ours {
		pkg, err := imp.Import(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range pkg.Scope().Names() {
			if obj := pkg.Scope().Lookup(name); obj.Exported() {
				if found := exposes(obj, foreign); found != "" {
					t.Errorf("%s.%s exposes %s", p, name, found)
				}
			}
		}
	}
}

// exposes returns the name of a type of the foreign packages that the users of
// obj can see, or "".
func exposes(obj types.Object, foreign string) string {
	seen := map[types.Type]bool{}
	var look func(types.Type) string
	tuple := func(vars *types.Tuple) string {
		for v := range vars.Variables() {
			if found := look(v.Type()); found != "" {
				return found
			}
		}
		return ""
	}
	look = func(typ types.Type) string {
		if seen[typ] {
			return ""
		}
		seen[typ] = true
		switch typ := types.Unalias(typ).(type) {
		case *types.Named:
			if pkg := typ.Obj().Pkg(); pkg != nil && strings.HasPrefix(pkg.Path(), foreign) {
				return typ.String()
			} else if pkg != obj.Pkg() {
				return "" // another package's affair
			}
			for m := range typ.Methods() {
				if m.Exported() {
					if found := look(m.Type()); found != "" {
						return found
					}
				}
			}
			return look(typ.Underlying())
		case *types.Struct:
			for field := range typ.Fields() {
				if field.Exported() || field.Embedded() {
					if found := look(field.Type()); found != "" {
						return found
					}
				}
			}
		case *types.Interface:
			for m := range typ.Methods() {
				if found := look(m.Type()); found != "" {
					return found
				}
			}
		case *types.Signature:
			if found := tuple(typ.Params()); found != "" {
				return found
			}
			return tuple(typ.Results())
		case *types.Map:
			if found := look(typ.Key()); found != "" {
				return found
			}
			return look(typ.Elem())
		case interface{ Elem() types.Type }: // array, channel, pointer, slice
			return look(typ.Elem())
		}
		return ""
	}
	return look(obj.Type())
}
