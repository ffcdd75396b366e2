package cli

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"synprobe/cmd/synprobe/internal/report"
)

// page is the file of --html. It is written when all is known.
type page struct {
	name     string
	began    time.Time
	results  []*report.Result
	failures []report.Failure
}

// openPage makes sure, before anything is sent, that the page can be written.
func (r *run) openPage() error {
	name := r.flags.html
	if name == "" {
		return nil
	}
	for flag, other := range map[string]string{"--write": r.flags.write, "--read": r.flags.read} {
		if other != "" && other != "-" && sameFile(name, other) {
			return misuse("--html and "+flag, "both name "+report.Escape(name), "give each a file of its own")
		}
	}
	if err := r.vacant(name); err != nil {
		return err
	}
	f, err := besides(name)
	if err != nil {
		return writeFailure(name, err)
	}
	_ = f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return writeFailure(name, err)
	}
	r.page = &page{name: name, began: time.Now()}
	return nil
}

// sameFile reports whether two names are of one file, there or not yet: the page
// would take the place of the capture.
func sameFile(a, b string) bool {
	if filepath.Base(a) != filepath.Base(b) {
		return false
	}
	dir, err := os.Stat(filepath.Dir(a))
	other, err2 := os.Stat(filepath.Dir(b))
	return err == nil && err2 == nil && os.SameFile(dir, other)
}

// onPage has a result shown on the page, if there is to be one.
func (r *run) onPage(result *report.Result) {
	if r.page != nil {
		r.page.results = append(r.page.results, result)
	}
}

// vacant reports why a file can't be made under a name: there is one, or
// something that --force does not replace.
func (r *run) vacant(name string) error {
	info, err := os.Lstat(name)
	switch {
	case err != nil: // there is none, or what comes next says why not
	case !r.flags.force:
		return misuse("--html "+report.Escape(name), "it exists", "another name, or --force to replace it")
	case !info.Mode().IsRegular():
		return misuse("--html "+report.Escape(name), "not a regular file: --force does not replace it", "")
	}
	return nil
}

// besides makes a file in the folder of another.
func besides(name string) (*os.File, error) {
	return os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
}

// closePage writes the page and returns the exit code that its failure asks for,
// 0 for none.
func (r *run) closePage() int {
	p := r.page
	if p == nil || !p.worthIt() {
		return exitOK
	}
	if err := r.writePage(p); err != nil {
		r.complain(asFailure(err))
		return exitIO
	}
	return exitOK
}

// worthIt reports whether there is anything to show. A run that could not begin
// has nothing: the next try gives the same file.
func (p *page) worthIt() bool {
	return len(p.results) > 0 || slices.ContainsFunc(p.failures, func(f report.Failure) bool {
		return f.Kind != report.UsageError && f.Kind != report.NotPermitted && f.Kind != report.Interrupted
	})
}

func (r *run) writePage(p *page) error {
	about := report.About{Version: version(), Time: p.began, NoNames: r.flags.noNames, CommandLine: r.commandLine()}
	var b bytes.Buffer
	if err := report.ToHTML(&b, p.results, p.failures, about); err != nil {
		return bug(err)
	}
	f, err := besides(p.name)
	if err != nil {
		return writeFailure(p.name, err)
	}
	_, err = f.Write(b.Bytes())
	err = errors.Join(err, own(f), f.Close())
	if err == nil {
		err = r.vacant(p.name) // somebody may have been quicker
	}
	if err == nil {
		err = os.Rename(f.Name(), p.name)
	}
	if err == nil {
		return nil
	}
	_ = os.Remove(f.Name())
	var said *failure
	if errors.As(err, &said) {
		return said
	}
	return writeFailure(p.name, err)
}

// commandLine is what was typed, quoted for a shell.
func (r *run) commandLine() []string {
	argv := []string{shellQuote(r.program)}
	for _, a := range r.args {
		argv = append(argv, shellQuote(a))
	}
	return argv
}
