package report

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"synprobe/traceroute/diagnose"
)

// Row is one of many targets, as the table, a line of -q and CSV show it.
type Row struct {
	Name   string // as the user named the target; empty for the address itself
	Target netip.AddrPort
	diagnose.Brief
	RTT   time.Duration // 0 where there was no answer
	Tries int
	// Suspects are those of a traced path, and take the place of the one
	// device that Brief has.
	Suspects []netip.Addr
}

// RowOf is the row of a full diagnosis.
func RowOf(name string, target netip.AddrPort, d *diagnose.Diagnosis) Row {
	r := Row{Name: name, Target: target, RTT: d.RTT, Tries: d.Tries}
	r.Verdict, r.Cause, r.Certainty = d.Verdict, d.Cause, d.Certainty
	if d.Fault != nil {
		r.Where = d.Fault.Where
		for _, h := range d.Fault.Hops {
			if h.Address.IsValid() {
				r.Suspects = append(r.Suspects, h.Address)
			}
		}
	}
	return r
}

// appendEndpoint writes NAME:PORT, or ADDRESS:PORT.
func (r *Row) appendEndpoint(b []byte) []byte {
	if r.Name == "" {
		return r.Target.AppendTo(b)
	}
	return append(b, Escape(Endpoint(r.Name, r.Target.Port()))...)
}

// AppendLine writes the line of -q: verdict, cause and target.
func (r *Row) AppendLine(b []byte) []byte {
	b = append(append(b, r.Verdict...), ' ')
	b = append(append(b, r.Cause...), ' ')
	return append(r.appendEndpoint(b), '\n')
}

// Table lays out rows below each other.
type Table struct {
	Style  Style
	Target int // the width of the first column
}

// The widths of the other columns. A longer cause or address pushes the rest of
// its own line aside; with IPv4 and the usual causes a line has 80 columns.
const (
	widestTarget = 32
	verdictWidth = 12 // network-down
	causeWidth   = 16 // network-firewall
	whoWidth     = 15 // an IPv4 address
)

// Fit widens the first column for a target.
func (t *Table) Fit(name string, target netip.AddrPort) {
	r := Row{Name: name, Target: target}
	t.Target = max(t.Target, min(widestTarget, utf8.RuneCount(r.appendEndpoint(nil))))
}

// AppendHeader writes the names of the columns.
func (t *Table) AppendHeader(b []byte) []byte {
	b = pad(append(b, "target"...), len("target"), t.Target)
	b = pad(append(b, "verdict"...), len("verdict"), verdictWidth)
	b = pad(append(b, "cause"...), len("cause"), causeWidth)
	b = pad(append(b, "who"...), len("who"), whoWidth)
	return append(b, "rtt\n"...)
}

// AppendRow writes one line of the table.
func (t *Table) AppendRow(b []byte, r *Row) []byte {
	start := len(b)
	b = r.appendEndpoint(b)
	b = pad(b, utf8.RuneCount(b[start:]), t.Target)
	if t.Style.Colour {
		b = append(append(append(b, "\x1b["...), colours[r.Verdict]...), 'm')
	}
	b = append(b, r.Verdict...)
	if t.Style.Colour {
		b = append(b, "\x1b[0m"...)
	}
	b = pad(b, len(r.Verdict), verdictWidth)
	b = pad(append(b, r.Cause...), len(r.Cause), causeWidth)
	who := len(b)
	switch {
	case len(r.Suspects) > 0 && r.Where == diagnose.Path:
		b = r.Suspects[0].AppendTo(b)
	case r.Device.IsValid():
		b = r.Device.AppendTo(b)
	case r.Where == diagnose.Path:
		b = append(b, "on the way"...)
	case r.Where == diagnose.Local:
		b = append(b, "this machine"...)
	case r.Where == diagnose.Nowhere:
		b = append(b, "unknown"...)
	default:
		b = append(b, "the host"...)
	}
	if r.RTT > 0 {
		b = pad(b, len(b)-who, whoWidth)
		b = append(b, rttWords(r.RTT)...)
	}
	if b = append(b, '\n'); t.Style.ASCII {
		return append(b[:start], ascii(string(b[start:]))...)
	}
	return b
}

// pad fills a column that has n characters up to its width, and adds the two
// spaces between columns.
func pad(b []byte, n, width int) []byte {
	for n = min(n, width); n < width+2; n++ {
		b = append(b, ' ')
	}
	return b
}

// Count is a number of things in words: "1 target", "65,536 targets".
func Count(n uint64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return Thousands(n) + " " + thing + "s"
}

// Thousands writes a number with a comma before every three digits.
func Thousands(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Tally counts results by verdict and cause.
type Tally struct {
	counts map[Outcome]uint64
	last   Outcome // most results are like the one before
	held   uint64  // of last, not in counts yet
}

// Outcome is a verdict and its cause.
type Outcome struct {
	Verdict diagnose.Verdict
	Cause   diagnose.Cause
}

// Add counts n results.
func (t *Tally) Add(o Outcome, n uint64) {
	if o != t.last {
		t.settle()
		t.last = o
	}
	t.held += n
}

// Move counts a result anew that has another outcome than it seemed.
func (t *Tally) Move(from, to Outcome) {
	t.settle()
	t.counts[from]--
	t.counts[to]++
}

func (t *Tally) settle() {
	if t.counts == nil {
		t.counts = make(map[Outcome]uint64)
	}
	if t.held > 0 {
		t.counts[t.last] += t.held
		t.held = 0
	}
}

// All returns the outcomes that were counted, and calls use for each with its
// count: those with the best verdict first, then the most frequent.
func (t *Tally) All(use func(Outcome, uint64)) {
	t.settle()
	var all []Outcome
	for o, n := range t.counts {
		if n > 0 {
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b Outcome) int {
		return cmp.Or(
			cmp.Compare(slices.Index(verdictOrder, a.Verdict), slices.Index(verdictOrder, b.Verdict)),
			cmp.Compare(t.counts[b], t.counts[a]), cmp.Compare(a.Cause, b.Cause))
	})
	for _, o := range all {
		use(o, t.counts[o])
	}
}

var verdictOrder = []diagnose.Verdict{diagnose.Open, diagnose.Reject, diagnose.Drop, diagnose.HostDown, diagnose.NetworkDown, diagnose.Partial}

// Summary is what a run with many targets ends with.
type Summary struct {
	Tally   *Tally
	Targets uint64        // that have their result
	Earlier uint64        // of those, by an earlier run
	Elapsed time.Duration // of this run
	Sent    uint64        // packets, by this run
}

// Append writes the summary: one line in all, and one for each outcome.
func (s *Summary) Append(b []byte) []byte {
	b = fmt.Appendf(b, "%s in %s", Count(s.Targets, "target"), elapsedWords(s.Elapsed))
	if s.Earlier > 0 {
		b = fmt.Appendf(b, ", %s of them by an earlier run", Thousands(s.Earlier))
	}
	b = fmt.Appendf(b, "; %s sent\n", Count(s.Sent, "packet"))
	width := 0
	s.Tally.All(func(_ Outcome, n uint64) { width = max(width, len(Thousands(n))) })
	s.Tally.All(func(o Outcome, n uint64) {
		b = fmt.Appendf(b, "  %*s  %-*s  %s\n", width, Thousands(n), verdictWidth, o.Verdict, o.Cause)
	})
	return b
}

func elapsedWords(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return Clock(d)
}

// Clock writes a duration as 1:05, or 2:01:05 with hours.
func Clock(d time.Duration) string {
	s := int(d.Round(time.Second) / time.Second)
	if s < 3600 {
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}

// Difference is a target that met something else than was expected, in words.
func Difference(r *Row, expected diagnose.Verdict) string {
	var b strings.Builder
	b.Write(r.appendEndpoint(nil))
	fmt.Fprintf(&b, ": expected %s, found %s (%s", expected, r.Verdict, r.Cause)
	switch {
	case r.Device.IsValid():
		fmt.Fprintf(&b, ", by %v", r.Device)
	case r.Where == diagnose.Local:
		b.WriteString(", this machine")
	}
	b.WriteString(")\n")
	return b.String()
}
