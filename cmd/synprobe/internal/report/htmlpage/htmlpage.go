// Package htmlpage lays a report out as one HTML page that needs nothing else:
// no script, and no style, font or image from elsewhere. Package report fills
// in the words; nothing here knows what they mean.
//
// The page is also well-formed XML, so that a slip in the template shows.
package htmlpage

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
)

// All text of a page is plain text. It is escaped as HTML here; characters that
// are not printable must not be in it.
type (
	// Page is the whole report.
	Page struct {
		Title    string
		Lead     string // one sentence on all sections; may be empty
		Sections []Section
		Failures []Failure
		Facts    []Fact // about the run, at the foot
	}

	// Section is the answer about one target.
	Section struct {
		// Tone is the verdict as the style sheet names it: see page.css. One
		// that it does not know has the colour of text.
		Tone    string
		Word    string // the verdict as it is read
		Target  string
		Cause   string // in a few words, for the table of all targets
		Sure    string // the certainty, for the same
		Summary string // the verdict in one sentence
		Facts   []Fact // what stands below it

		Path     *Path // nil where there is nothing to draw
		Steps    Table // the path in words
		Evidence []Evidence
		Doubt    string // how sure the answer is; empty where nothing else is left
		Others   []Other
		Next     string    // what to do; may be empty
		Devices  []Fact    // who they are
		Seen     []Fact    // what the machine knew
		Timeline *Timeline // nil where there were no packets
		Packets  Table
	}

	// Failure is a target, or a run, without an answer. Target may be empty.
	Failure struct {
		Target, Kind, Message string
	}

	// Fact is something with a name.
	Fact struct {
		Name, Text string
		Code       bool // Text is what a computer reads
	}

	// Evidence is one fact that an answer rests on, and the rule that found it.
	Evidence struct {
		Rule, Text string
	}

	// Other is another explanation: what, where (may be empty) and why it is
	// left.
	Other struct {
		Cause, Where, Why string
	}

	// Table is a table of text. A row may be shorter than the head. Without rows
	// it is left out.
	Table struct {
		Head []string
		Rows [][]string
		// Marked are the rows that are about a suspect, by their index.
		Marked map[int]bool
		// Stop is the row after which a line says Stopped; negative where there
		// is none.
		Stop    int
		Stopped string
	}
)

var (
	//go:embed page.tmpl
	source string
	//go:embed page.css
	style string
)

// Write writes the page in one call of w, so that it is whole or, where it
// can't be laid out, absent.
func (p *Page) Write(w io.Writer) error {
	page, err := template.New("page").Funcs(template.FuncMap{
		"style":        func() template.CSS { return template.CSS(style) },
		"inc":          func(i int) int { return i + 1 },
		"columns":      func(t Table) int { return len(t.Head) },
		"pad":          func(t Table, row []string) []string { return make([]string, max(0, len(t.Head)-len(row))) },
		"draw":         draw,
		"drawTimeline": drawTimeline,
		"table":        func(name string, t Table) namedTable { return namedTable{name, t} },
	}).Parse(source)
	if err != nil {
		return fmt.Errorf("page template: %w", err)
	}
	var b bytes.Buffer
	if err := page.Execute(&b, p); err != nil {
		return fmt.Errorf("lay out page: %w", err)
	}
	_, err = w.Write(b.Bytes())
	return err
}

// namedTable is a table and what a screen reader calls the box that scrolls.
type namedTable struct {
	Name string
	Table
}
