package report

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	"synprobe/traceroute/diagnose"
)

// Style is how text is laid out. The zero value is plain UTF-8 of 80 columns
// without colour.
type Style struct {
	Colour  bool
	ASCII   bool // the terminal's locale has no UTF-8
	Verbose bool // also print the facts and every packet
	Logged  bool // the packets were printed as they went by: see Log
	NoNames bool // print no service names
	Width   int  // columns; 0 means 80
}

const (
	defaultWidth = 80
	margin       = "  "
	// labelWidth is that of the longest of Why:, Or:, But:, Next: and Who:, and a space.
	labelWidth = 6
)

// ToText writes the result for a person to read: the verdict and the target,
// what happens in one sentence, the packets that prove it, what else it could
// be, and what to do.
func (r *Result) ToText(w io.Writer, s Style) error {
	p := &printer{style: s}
	switch {
	case r.Interrupted():
		r.interrupted(p)
	case r.compact(s):
		r.header(p)
		p.paragraph(margin, r.diagnosis.Summary)
	default:
		r.header(p)
		r.explanation(p)
	}
	if s.Verbose {
		r.facts(p)
	}
	return p.flush(w)
}

// ToLine writes the result as one line of three words: verdict, cause and
// target. A run that was interrupted has no verdict and writes nothing.
func (r *Result) ToLine(w io.Writer) error {
	if r.Interrupted() {
		return nil
	}
	_, err := fmt.Fprintf(w, "%s %s %s\n", r.diagnosis.Verdict, r.diagnosis.Cause, Escape(Endpoint(r.name, r.target.Port())))
	return err
}

// compact reports whether there is nothing to explain. That this machine sends
// the SYN elsewhere is: what is open there need not be what was asked for.
func (r *Result) compact(s Style) bool {
	d := r.diagnosis
	return d.Verdict == diagnose.Open && d.Cause == diagnose.Listening && d.Certainty == diagnose.Certain && len(d.Alternatives) == 0 && len(d.Path.Hops) == 0 && !s.Verbose &&
		!slices.ContainsFunc(d.Evidence, func(e diagnose.Evidence) bool { return e.Rule == "local-dnat" })
}

func (r *Result) header(p *printer) {
	word := strings.ToUpper(string(r.diagnosis.Verdict))
	if p.style.Colour {
		word = "\x1b[" + colours[r.diagnosis.Verdict] + "m" + word + "\x1b[0m"
	}
	line := word + "  " + r.subject(p.style)
	if r.diagnosis.Verdict == diagnose.Open && r.diagnosis.RTT > 0 {
		line += "  " + rttWords(r.diagnosis.RTT)
	}
	p.line(line)
	r.addressLine(p)
}

// subject names the target as the user did, and as the packets did.
func (r *Result) subject(s Style) string {
	host := Escape(r.name)
	addr := r.target.Addr().String()
	if typed, err := netip.ParseAddr(r.name); err == nil && typed.Unmap().WithZone("") == r.target.Addr().WithZone("") {
		host = Escape(addr)
	} else {
		host += " (" + Escape(addr) + ")"
	}
	text := fmt.Sprintf("%s port %d/tcp", host, r.target.Port())
	if name := service(r.target.Port()); name != "" && !s.NoNames {
		text += " (" + name + ")"
	}
	return text
}

// addressLine lists a name's addresses where there was a choice.
func (r *Result) addressLine(p *printer) {
	if all := r.allAddresses(); len(all) > 1 {
		p.hanging(margin, "Addresses: ", words(strings.Join(all, ", ")))
	}
}

// allAddresses are the name's addresses, the one that was probed marked.
func (r *Result) allAddresses() []string {
	var all []string
	for _, a := range r.addresses {
		text := Escape(a.String())
		if a == r.target.Addr() {
			text += " (probed)"
		}
		all = append(all, text)
	}
	return all
}

func (r *Result) explanation(p *printer) {
	d := r.diagnosis
	p.blank()
	p.paragraph(margin, d.Summary)
	p.blank()
	r.picture(p)
	if len(d.Evidence) > 0 {
		p.labelled("Why:", r.evidence())
	}
	r.doubts(p)
	if d.Next != "" {
		p.labelled("Next:", words(d.Next))
	}
	r.names(p)
}

// evidence joins the facts by dots. A dot stays with the fact that it
// announces, so that a wrapped line starts with it.
func (r *Result) evidence() []string {
	var all []string
	for i, e := range r.diagnosis.Evidence {
		w := words(e.Text)
		if i > 0 && len(w) > 0 {
			w[0] = "· " + w[0]
		}
		all = append(all, w...)
	}
	return all
}

// doubts says how sure the diagnosis is, and what else would look the same.
func (r *Result) doubts(p *printer) {
	d := r.diagnosis
	lead := words(certaintyWords[d.Certainty])
	switch {
	case len(d.Alternatives) > 0:
		p.labelled("Or:", append(lead, "It", "could", "also", "be:"))
	case len(lead) > 0:
		p.labelled("But:", lead)
	}
	indent := margin + strings.Repeat(" ", labelWidth)
	for _, a := range d.Alternatives {
		text := cmp.Or(causeWords[a.Cause], string(a.Cause))
		if at := place(a.Fault); at != "" {
			text += ", " + at
		}
		if a.Why != "" {
			text += ": " + a.Why
		}
		p.hanging(indent, "- ", words(text))
	}
}

// names tells who the devices are, where reverse names were found.
func (r *Result) names(p *printer) {
	var known []string
	for _, a := range r.Devices() {
		if name := r.Names[a]; name != "" {
			known = append(known, a.String()+" is "+Escape(name))
		}
	}
	if len(known) > 0 {
		p.labelled("Who:", words(strings.Join(known, ", ")))
	}
}

func (r *Result) interrupted(p *printer) {
	p.line("INTERRUPTED  " + r.subject(p.style))
	r.addressLine(p)
	p.blank()
	p.paragraph(margin, fmt.Sprintf("Stopped after %.1f s, before there was a verdict.", r.elapsed().Seconds()))
	p.blank()
	p.labelled("So far:", words(r.soFar()))
}

// interruption is the same in one sentence.
func (r *Result) interruption() string {
	return fmt.Sprintf("stopped after %.1f s, before there was a verdict; so far: %s", r.elapsed().Seconds(), r.soFar())
}

// soFar says what was sent and what came back. It draws no conclusion.
func (r *Result) soFar() string {
	if len(r.seen.Sent) == 0 {
		return "nothing was sent"
	}
	var kinds []string
	sent, answers := map[string]int{}, map[string][]string{}
	for _, s := range r.seen.Sent {
		k := probeWords(s.Kind)
		if sent[k] == 0 {
			kinds = append(kinds, k)
		}
		sent[k]++
	}
	for i := range r.seen.Replies {
		reply := &r.seen.Replies[i]
		if reply.Probe < 0 || reply.Probe >= len(r.seen.Sent) {
			continue
		}
		k := probeWords(r.seen.Sent[reply.Probe].Kind)
		if text := replyWords(reply) + " from " + reply.From.String(); !slices.Contains(answers[k], text) {
			answers[k] = append(answers[k], text)
		}
	}
	for i, k := range kinds {
		answer := "no answer"
		if len(answers[k]) > 0 {
			answer = strings.Join(answers[k], " and ")
		}
		kinds[i] = fmt.Sprintf("%s sent %s, %s", k, count(sent[k], "time"), answer)
	}
	return strings.Join(kinds, "; ")
}

// printer lays out lines. It writes all of them in one call, so that a block
// is whole or absent.
type printer struct {
	style Style
	out   strings.Builder
}

func (p *printer) flush(w io.Writer) error {
	text := p.out.String()
	if p.style.ASCII {
		text = ascii(text)
	}
	_, err := io.WriteString(w, text)
	return err
}

func (p *printer) blank() { p.out.WriteByte('\n') }

func (p *printer) line(s string) { p.out.WriteString(strings.TrimRight(s, " ") + "\n") }

func (p *printer) paragraph(indent, text string) { p.hanging(indent, "", words(text)) }

// labelled prints a label and, in the column behind it, its text.
func (p *printer) labelled(label string, text []string) {
	p.hanging(margin, fmt.Sprintf("%-*s", labelWidth, label), text)
}

// hanging prints words after indent and first, wrapped; later lines start
// below the first word.
func (p *printer) hanging(indent, first string, words []string) {
	if !strings.HasSuffix(first, " ") && first != "" {
		first += " "
	}
	width := p.style.Width
	if width == 0 {
		width = defaultWidth
	}
	start := indent + first
	rest := indent + strings.Repeat(" ", utf8.RuneCountInString(first))
	line, empty := start, true
	for _, w := range words {
		if !empty && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(w) > width {
			p.line(line)
			line, empty = rest, true
		}
		if !empty {
			line += " "
		}
		line += w
		empty = false
	}
	p.line(line)
}

// words splits a sentence of the diagnosis where it may be wrapped: not between
// a number and its unit, nor within a command in parentheses, which somebody may
// want to copy.
func words(s string) []string {
	var all []string
	open := false
	for _, w := range strings.Fields(clean(s)) {
		last := len(all) - 1
		switch {
		case last >= 0 && open && utf8.RuneCountInString(all[last]) < longestCommand:
			all[last] += " " + w
		case last >= 0 && unit(w) && all[last] != "" && strings.ContainsRune("0123456789", rune(all[last][len(all[last])-1])):
			all[last] += " " + w
		default:
			all = append(all, w)
			open = strings.HasPrefix(w, "(")
		}
		open = open && !strings.Contains(w, ")")
	}
	return all
}

// longestCommand bounds what is kept on one line, in columns.
const longestCommand = 30

// unit reports whether a word is a unit, with the sentence's marks behind it.
func unit(w string) bool {
	switch strings.TrimRight(w, ".,:;)") {
	case "ms", "s", "%":
		return true
	}
	return false
}
