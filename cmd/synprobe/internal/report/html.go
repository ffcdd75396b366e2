package report

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"synprobe/cmd/synprobe/internal/report/htmlpage"
	"synprobe/rawprobe"
	"synprobe/traceroute"
	"synprobe/traceroute/diagnose"
)

// About is what a page says of the run that made it.
type About struct {
	// CommandLine are the words of the command line, each one quoted for the
	// shell where that is needed. Nil leaves it out.
	CommandLine []string
	// Version is the program's version, as --version prints it. Empty leaves it
	// out.
	Version string
	// Time is when the run started; the page says it in Time's own zone. The
	// zero Time leaves it out.
	Time time.Time
	// NoNames leaves out the names of services.
	NoNames bool
}

// ToHTML writes the answers as one HTML page that stands for itself: it has no
// script and takes nothing from elsewhere, so that it can be attached to a
// ticket, read without a network and printed. It has a section for each
// result, in their order, with a table of all of them before it where there
// are several, and a table of the failures. A result that was interrupted has
// a section that says how far it came.
//
// The page is written in one call of w: where anything fails before, nothing
// is written. An error of w is returned as it is. Whoever writes to a file
// should write beside it and rename, since that one call can fail halfway.
func ToHTML(w io.Writer, results []*Result, failures []Failure, about About) error {
	page := &htmlpage.Page{Title: "synprobe report"}
	for _, r := range results {
		page.Sections = append(page.Sections, r.section(about))
	}
	for _, f := range failures {
		target := ""
		switch {
		case f.Name != "":
			target = Escape(f.Name)
		case f.Address.IsValid():
			target = Escape(f.Address.String())
		}
		if target != "" && f.Port != 0 {
			target += fmt.Sprintf(" port %d/tcp", f.Port)
		}
		page.Failures = append(page.Failures, htmlpage.Failure{Target: target, Kind: clean(string(f.Kind)), Message: clean(f.Message)})
	}
	if len(page.Sections) == 1 && len(failures) == 0 {
		page.Title = page.Sections[0].Word + " " + page.Sections[0].Target
	} else {
		page.Lead = lead(page)
	}
	if len(about.CommandLine) > 0 {
		page.Facts = append(page.Facts, htmlpage.Fact{Name: "Command", Text: clean(strings.Join(about.CommandLine, " ")), Code: true})
	}
	if !about.Time.IsZero() {
		page.Facts = append(page.Facts, htmlpage.Fact{Name: "Time", Text: clean(about.Time.Format("2006-01-02 15:04:05 MST (-07:00)"))})
	}
	if about.Version != "" {
		page.Facts = append(page.Facts, htmlpage.Fact{Name: "Version", Text: clean(about.Version)})
	}
	return page.Write(w)
}

// lead counts the verdicts, in the order in which they first come.
func lead(page *htmlpage.Page) string {
	var order []string
	n := make(map[string]int)
	for _, s := range page.Sections {
		if n[s.Word] == 0 {
			order = append(order, s.Word)
		}
		n[s.Word]++
	}
	targets := len(page.Sections)
	var parts []string
	for _, word := range order {
		parts = append(parts, fmt.Sprintf("%d %s", n[word], strings.ToLower(word)))
	}
	for _, f := range page.Failures {
		if f.Target != "" {
			targets++
		}
	}
	if failed := targets - len(page.Sections); failed > 0 {
		parts = append(parts, fmt.Sprintf("%d without a verdict", failed))
	}
	text := count(targets, "target")
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	return text + "."
}

// section is the result as a part of a page.
func (r *Result) section(about About) htmlpage.Section {
	d := &r.diagnosis
	s := htmlpage.Section{
		Tone:     "interrupted",
		Word:     "INTERRUPTED",
		Target:   r.subject(Style{NoNames: about.NoNames}),
		Seen:     r.run(),
		Timeline: r.timeline(),
		Packets:  r.packetTable(),
		Steps:    htmlpage.Table{Stop: -1},
	}
	if r.Interrupted() {
		s.Summary = capital(clean(r.interruption())) + "."
		s.Facts = r.choice()
		return s
	}
	s.Tone, s.Word = clean(string(d.Verdict)), clean(strings.ToUpper(string(d.Verdict)))
	s.Cause, s.Sure = clean(string(d.Cause)), clean(string(d.Certainty))
	s.Summary, s.Next = clean(d.Summary), clean(d.Next)
	s.Facts = []htmlpage.Fact{{Name: "Cause", Text: s.Cause}, {Name: "Certainty", Text: s.Sure}}
	if f := d.Fault; f != nil {
		where := clean(string(f.Where))
		if at := place(*f); at != "" {
			where += ", " + clean(at)
		}
		s.Facts = append(s.Facts, htmlpage.Fact{Name: "Fault", Text: where})
	}
	if d.RTT > 0 {
		s.Facts = append(s.Facts, htmlpage.Fact{Name: "Round trip", Text: rttWords(d.RTT)})
	}
	s.Facts = append(s.Facts, r.choice()...)
	s.Path, s.Steps = r.drawing()
	for _, e := range d.Evidence {
		s.Evidence = append(s.Evidence, htmlpage.Evidence{Rule: clean(e.Rule), Text: clean(e.Text)})
	}
	s.Doubt = certaintyWords[d.Certainty]
	if len(d.Alternatives) > 0 {
		s.Doubt = strings.TrimSpace(s.Doubt + " It could also be:")
	}
	for _, a := range d.Alternatives {
		s.Others = append(s.Others, htmlpage.Other{
			Cause: clean(cmp.Or(causeWords[a.Cause], string(a.Cause))),
			Where: clean(place(a.Fault)), Why: clean(a.Why),
		})
	}
	for _, a := range r.Devices() {
		if name := r.Names[a]; name != "" {
			s.Devices = append(s.Devices, htmlpage.Fact{Name: clean(a.String()), Text: Escape(name)})
		}
	}
	return s
}

// choice lists a name's addresses where there was a choice.
func (r *Result) choice() []htmlpage.Fact {
	if all := r.allAddresses(); len(all) > 1 {
		return []htmlpage.Fact{{Name: "Addresses", Text: strings.Join(all, ", ")}}
	}
	return nil
}

// run says when it was and what the machine knew.
func (r *Result) run() []htmlpage.Fact {
	facts := []htmlpage.Fact{
		{Name: "Started", Text: r.seen.Start.UTC().Format("2006-01-02 15:04:05.000000 UTC") + fmt.Sprintf(", took %.1f s", r.elapsed().Seconds())},
		{Name: "From", Text: clean(r.from())},
	}
	if text := r.nextHop(); text != "" {
		facts = append(facts, htmlpage.Fact{Name: "Next hop", Text: clean(text)})
	}
	if !r.Interrupted() {
		facts = append(facts, htmlpage.Fact{Name: "SYNs", Text: fmt.Sprintf("%d sent, %d answered", r.diagnosis.Tries, r.diagnosis.Answered)})
	}
	if text := r.unused(); text != "" {
		facts = append(facts, htmlpage.Fact{Name: "Ignored", Text: clean(text)})
	}
	if len(r.packets()) == 0 {
		facts = append(facts, htmlpage.Fact{Name: "Packets", Text: "none"})
	}
	return facts
}

// packetTable lists the packets, each with its time since the first.
func (r *Result) packetTable() htmlpage.Table {
	t := htmlpage.Table{Head: []string{"time", "direction", "packet", "ends", "TTL", "remarks"}, Stop: -1}
	rows := r.packets()
	for _, row := range rows {
		cells := []string{fmt.Sprintf("%.3f ms", float64(row.at.Sub(rows[0].at))/float64(time.Millisecond))}
		for i, c := range row.cells {
			if i == 3 {
				c = strings.TrimPrefix(c, "TTL ")
			}
			cells = append(cells, clean(c))
		}
		t.Rows = append(t.Rows, cells)
	}
	return t
}

// timeline draws the packets by what was asked, from the first packet to the
// end of the run.
func (r *Result) timeline() *htmlpage.Timeline {
	packets := r.packets()
	if len(packets) == 0 {
		return nil
	}
	begin, end := packets[0].at, packets[len(packets)-1].at
	if r.seen.End.After(end) {
		end = r.seen.End
	}
	t := &htmlpage.Timeline{Title: "When packets were sent and received", Length: end.Sub(begin)}
	row := func(label string) *htmlpage.TimeRow {
		label = clean(label)
		i := slices.IndexFunc(t.Rows, func(row htmlpage.TimeRow) bool { return row.Label == label })
		if i < 0 {
			i = len(t.Rows)
			t.Rows = append(t.Rows, htmlpage.TimeRow{Label: label})
		}
		return &t.Rows[i]
	}
	for i := range r.seen.Asks {
		ask, w := &r.seen.Asks[i], row(r.askWords())
		w.Sent = append(w.Sent, ask.Time.Sub(begin))
		if !ask.Answered.IsZero() {
			w.Received = append(w.Received, ask.Answered.Sub(begin))
		}
	}
	for i := range r.seen.Sent {
		w := row(probeWords(r.seen.Sent[i].Kind))
		w.Sent = append(w.Sent, left(&r.seen.Sent[i]).Sub(begin))
	}
	for _, reply := range r.seen.Replies {
		what := "answers"
		if reply.Probe >= 0 && reply.Probe < len(r.seen.Sent) {
			what = probeWords(r.seen.Sent[reply.Probe].Kind)
		}
		w := row(what)
		w.Received = append(w.Received, reply.Time.Sub(begin))
	}
	var told []string
	for _, w := range t.Rows {
		told = append(told, fmt.Sprintf("%s: %d sent, %d received", w.Label, len(w.Sent), len(w.Received)))
	}
	t.Desc = fmt.Sprintf("In %.1f s. %s. The table has the times.", t.Length.Seconds(), strings.Join(told, "; "))
	return t
}

// spot is a place in the drawing of a path.
type spot struct {
	htmlpage.Node
	ttl   int // UnknownTTL where it was not measured
	addrs []netip.Addr
	host  bool
}

// drawing draws the path, and puts it in words. Where no TTL was stepped it
// draws what is known without: this machine, its gateway, the suspects and the
// host.
func (r *Result) drawing() (*htmlpage.Path, htmlpage.Table) {
	d := &r.diagnosis
	spots := r.spots()
	spots, suspects := r.suspects(spots)
	lanes := r.lanes(spots)
	traced := len(d.Path.Hops) > 0
	if f := d.Fault; f != nil && f.Where == diagnose.Path && len(suspects) == 1 {
		lanes[0].endAt(suspects[0])
	}
	p := &htmlpage.Path{Stop: -1, StopText: "stops here"}
	p.Title = clean("The path to " + r.target.Addr().String())
	table := htmlpage.Table{Stop: -1, Marked: make(map[int]bool), Stopped: p.StopText}
	var told []string
	for _, l := range lanes {
		p.Lanes = append(p.Lanes, l.Lane)
	}
	for i := range spots {
		s := &spots[i]
		said := ""
		for _, l := range lanes {
			m := l.marks[i]
			s.Marks = append(s.Marks, m)
			if m != "" {
				said += fmt.Sprintf(", %s %s", l.Label, m)
			}
		}
		text := strings.Join(s.Names, " ")
		if s.Number != "" {
			text = "hop " + s.Number + " " + text
		}
		if slices.Contains(suspects, i) {
			said += ", " + s.Suspect
		}
		told = append(told, text+said)
		p.Nodes = append(p.Nodes, s.Node)
	}
	p.Desc = clean(strings.Join(told, "; ") + ".")
	if !traced {
		return p, table
	}
	// A SYN that was answered farther on was not lost, whatever the verdict: the
	// answer was, or that of another flow.
	if stop := r.stop(); stop >= lanes[0].Reach {
		p.Stop, table.Stop = stop, stop
	}
	if p.Stop >= 0 {
		p.Desc = clean(fmt.Sprintf("The SYN stops after hop %d. ", p.Stop)) + p.Desc
	}
	steps := r.steps()
	for _, row := range steps {
		for i, cell := range row {
			row[i] = clean(cell)
		}
	}
	table.Head, table.Rows = steps[0], steps[1:]
	for _, i := range suspects {
		if i < len(table.Rows) && spots[i].ttl == i {
			table.Marked[i] = true
		}
	}
	return p, table
}

// spots are this machine, the hops and the host, from near to far.
func (r *Result) spots() []spot {
	d, target := &r.diagnosis, r.target.Addr()
	machine := spot{ttl: 0}
	machine.Number = "0"
	machine.Names = []string{"no address"}
	if a := r.source.address; a.IsValid() {
		machine.addrs = []netip.Addr{a.WithZone("")}
		machine.Names = []string{clean(a.WithZone("").String())}
	}
	machine.Notes = []string{"this machine"}
	if r.source.iface != "" {
		machine.Notes[0] += ", " + Escape(r.source.iface)
	}
	spots := []spot{machine}
	for i := range d.Path.Hops {
		h := &d.Path.Hops[i]
		s := spot{ttl: h.TTL, addrs: h.Addrs, host: h.Host || slices.Contains(h.Addrs, target.WithZone(""))}
		s.Number = fmt.Sprint(h.TTL)
		s.Silent = len(h.Addrs) == 0
		for _, a := range h.Addrs {
			s.Names = append(s.Names, clean(a.String()))
		}
		var notes []string
		if s.host {
			notes = append(notes, "the host")
		}
		if h.RTT > 0 && !s.Silent {
			notes = append(notes, rttWords(h.RTT))
		}
		if s.Silent && s.host {
			s.Names = []string{clean(target.String())}
		} else if s.Silent {
			s.Names = []string{"(no answer)"}
		}
		if len(notes) > 0 {
			s.Notes = append(s.Notes, strings.Join(notes, ", "))
		}
		for _, a := range h.Addrs {
			if name := r.Names[a]; name != "" {
				s.Notes = append(s.Notes, Escape(name))
			}
		}
		spots = append(spots, s)
	}
	if gateway := r.source.gateway; len(d.Path.Hops) == 0 && gateway.IsValid() && gateway != target {
		s := spot{ttl: diagnose.UnknownTTL, addrs: []netip.Addr{gateway}}
		s.Names = []string{clean(gateway.String())}
		s.Notes = []string{"the gateway"}
		spots = append(spots, s)
	}
	if !slices.ContainsFunc(spots, func(s spot) bool { return s.host }) {
		s := spot{ttl: diagnose.UnknownTTL, addrs: []netip.Addr{target}, host: true}
		s.Names = []string{clean(target.String())}
		s.Notes = []string{"the host"}
		switch {
		case r.seen.Machine.Route.Local:
			s.Notes[0] += ": this machine itself"
		case len(d.Path.Hops) > 0 && spots[len(spots)-1].Silent:
			s.Gap = fmt.Sprintf("at hop %d or beyond", len(d.Path.Hops))
		case len(d.Path.Hops) > 0:
			s.Gap = "distance unknown"
		case r.source.gateway.IsValid() || r.source.iface == "":
			s.Gap = "not traced"
		}
		spots = append(spots, s)
	}
	return spots
}

// suspects marks what the fault names, and returns the places. One that is at no
// known place comes before the host.
func (r *Result) suspects(spots []spot) ([]spot, []int) {
	d := &r.diagnosis
	if d.Fault == nil {
		return spots, nil
	}
	word := "suspect"
	switch {
	case d.Certainty != diagnose.Certain || len(d.Fault.Hops) != 1:
	case d.Verdict == diagnose.Open:
		word = "answers for the host"
	case d.Verdict == diagnose.Reject:
		word = "refuses"
	default:
		word = "the fault is here"
	}
	for _, h := range d.Fault.Hops {
		i := r.find(spots, h)
		if i < 0 {
			s := spot{ttl: h.TTL, Node: htmlpage.Node{Names: []string{"(no answer)"}, Silent: true}}
			if h.TTL != diagnose.UnknownTTL {
				s.Number = fmt.Sprint(h.TTL)
			}
			if h.Address.IsValid() {
				s.addrs, s.Silent = []netip.Addr{h.Address}, false
				s.Names = []string{clean(h.Address.String())}
				if name := r.Names[h.Address]; name != "" {
					s.Notes = append(s.Notes, Escape(name))
				}
			}
			// Near before far: behind the suspects so far, before the host.
			i = len(spots)
			if at := slices.IndexFunc(spots, func(s spot) bool { return s.host }); at > 0 {
				i = at
			}
			if s.ttl == diagnose.UnknownTTL || s.ttl != spots[i-1].ttl+1 {
				s.Gap = "not traced"
			}
			spots = slices.Insert(spots, i, s)
		} else if s := &spots[i]; s.Silent && h.Address.IsValid() {
			s.Names = []string{clean(h.Address.String())}
		}
		spots[i].Suspect = word
	}
	var marked []int
	for i := range spots {
		if spots[i].Suspect != "" {
			marked = append(marked, i)
		}
	}
	return spots, marked
}

// find returns the place of a suspect, -1 where it has none yet.
func (r *Result) find(spots []spot, h diagnose.Hop) int {
	if h.TTL != diagnose.UnknownTTL {
		if i := slices.IndexFunc(spots, func(s spot) bool { return s.ttl == h.TTL }); i >= 0 {
			return i
		}
	}
	if !h.Address.IsValid() {
		return -1
	}
	a := h.Address.WithZone("")
	return slices.IndexFunc(spots, func(s spot) bool {
		return s.host && a == r.target.Addr().WithZone("") ||
			slices.ContainsFunc(s.addrs, func(b netip.Addr) bool { return a == b.WithZone("") })
	})
}

// lane is one kind of probe in the drawing.
type lane struct {
	htmlpage.Lane
	marks []htmlpage.Mark // by spot
}

// reach says how far the marks show that the probe got.
func (l *lane) reach() {
	l.Reach = 0
	for i, m := range l.marks {
		if m != "" && m != htmlpage.Silent {
			l.Reach = i
		}
	}
	l.Faint = max(l.Faint, l.Reach)
}

// endAt ends the lane at a device that answers in the host's name or refuses:
// what was sent to go further met the same device.
func (l *lane) endAt(i int) {
	for j := len(l.marks) - 1; j >= i; j-- {
		if m := l.marks[j]; m == htmlpage.Answers || m == htmlpage.Rejects {
			clear(l.marks[i+1:])
			l.marks[i] = m
			l.Reach, l.Faint = i, i
			return
		}
	}
}

// lanes are the subject, another flow of it that fares otherwise, and the
// controls of the picture.
func (r *Result) lanes(spots []spot) []lane {
	d := &r.diagnosis
	subject := lane{Lane: htmlpage.Lane{Label: fmt.Sprintf("SYN to :%d", r.target.Port())}, marks: r.marks(spots, d.Path, subjectName)}
	host := slices.IndexFunc(spots, func(s spot) bool { return s.host })
	if len(d.Path.Hops) == 0 && !r.local() {
		subject.Faint = host
		switch {
		case d.Verdict == diagnose.Open:
			subject.marks[host] = htmlpage.Answers
		case d.Verdict == diagnose.Reject, d.Cause == diagnose.NetUnreachable:
			subject.marks[host] = htmlpage.Rejects
		case d.Verdict == diagnose.Drop:
			subject.marks[host] = htmlpage.Silent
		}
	}
	if d.Verdict == diagnose.Drop || d.Verdict == diagnose.Partial {
		// The path holds stepped probes; what they show is not all that the
		// host said.
		for _, f := range r.fates() {
			if f.subject && f.host {
				subject.marks[host] = f.mark
			}
		}
	}
	subject.reach()
	all := []lane{subject}
	if flow, ok := r.otherFlow(spots, host); ok {
		all = append(all, flow)
	}
	if len(d.Path.Hops) == 0 {
		return all
	}
	for _, name := range shown(d.Path) {
		l := lane{Lane: htmlpage.Lane{Label: clean(controlWords(name))}, marks: r.marks(spots, d.Path, name)}
		if name == string(rawprobe.Echo) {
			l.Label = "ICMP echo"
		} else if strings.HasPrefix(l.Label, "to :") {
			l.Label = "SYN " + l.Label
		}
		l.reach()
		all = append(all, l)
	}
	return all
}

// local reports whether the fault is this machine's own.
func (r *Result) local() bool {
	f := r.diagnosis.Fault
	return f != nil && f.Where == diagnose.Local
}

// marks are what became of a kind of probe of a path, by spot.
func (r *Result) marks(spots []spot, path traceroute.Path, name string) []htmlpage.Mark {
	marks := make([]htmlpage.Mark, len(spots))
	for i := range spots {
		if h := path.Hop(spots[i].ttl); h != nil {
			marks[i] = mark(h.Of(name).Status)
		}
	}
	return marks
}

func mark(s traceroute.Status) htmlpage.Mark {
	switch s {
	case traceroute.Passes:
		return htmlpage.Passes
	case traceroute.Answers:
		return htmlpage.Answers
	case traceroute.Rejects:
		return htmlpage.Rejects
	case traceroute.Silent:
		return htmlpage.Silent
	}
	return ""
}

// fate is what became of the SYNs of full TTL from one source port.
type fate struct {
	port    uint16
	subject bool
	mark    htmlpage.Mark
	host    bool // the answer is the host's own, or in its name
}

// fates are those of all source ports, in the order of sending.
func (r *Result) fates() []fate {
	var all []fate
	full := func(s *rawprobe.Sent) bool {
		return !s.Stepped() && s.Refused == rawprobe.NotRefused && (s.Kind == rawprobe.OtherFlow || s.Kind == rawprobe.Subject)
	}
	of := func(s *rawprobe.Sent) int {
		return slices.IndexFunc(all, func(f fate) bool { return f.port == s.Flow.Src.Port() })
	}
	for i := range r.seen.Sent {
		if s := &r.seen.Sent[i]; full(s) && of(s) < 0 {
			all = append(all, fate{port: s.Flow.Src.Port(), subject: s.Kind == rawprobe.Subject, mark: htmlpage.Silent})
		}
	}
	for i := range r.seen.Replies {
		reply := &r.seen.Replies[i]
		if reply.Probe < 0 || reply.Probe >= len(r.seen.Sent) || !full(&r.seen.Sent[reply.Probe]) {
			continue
		}
		switch f := &all[of(&r.seen.Sent[reply.Probe])]; {
		case reply.Kind == rawprobe.SynAck:
			f.mark, f.host = htmlpage.Answers, true
		case reply.Kind == rawprobe.Reset:
			f.mark, f.host = htmlpage.Rejects, true
		case reply.Kind == rawprobe.ICMPError && reply.Meaning() != rawprobe.SaysExpired && !f.host:
			f.mark = htmlpage.Rejects
		}
	}
	return all
}

// otherFlow is the lane of one other source port that fared otherwise than the
// subject, where that is the verdict; one that was stepped comes first. The
// hops where it met somebody else say so.
func (r *Result) otherFlow(spots []spot, host int) (lane, bool) {
	if r.diagnosis.Verdict != diagnose.Partial {
		return lane{}, false
	}
	all := r.fates()
	own := slices.IndexFunc(all, func(f fate) bool { return f.subject })
	if own < 0 {
		return lane{}, false
	}
	mark := all[own].mark
	all = slices.DeleteFunc(all, func(f fate) bool { return f.mark == mark })
	if len(all) == 0 {
		return lane{}, false
	}
	chosen := all[0]
	for _, f := range all {
		if len(traceroute.ReadFlow(r.seen, f.port).Hops) > 0 {
			chosen = f
			break
		}
	}
	path := traceroute.ReadFlow(r.seen, chosen.port)
	l := lane{Lane: htmlpage.Lane{Label: fmt.Sprintf("the same from port %d", chosen.port)}, marks: r.marks(spots, path, subjectName)}
	for i := range spots {
		h := path.Hop(spots[i].ttl)
		if h == nil {
			continue
		}
		for _, a := range h.Addrs {
			if !slices.Contains(spots[i].addrs, a) {
				spots[i].Notes = append(spots[i].Notes, fmt.Sprintf("from port %d: %s", chosen.port, clean(a.String())))
			}
		}
	}
	if m := l.marks[host]; chosen.host || m == "" && chosen.mark == htmlpage.Silent {
		l.marks[host] = chosen.mark
	}
	l.reach()
	return l, true
}

// capital begins a sentence of ours.
func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
