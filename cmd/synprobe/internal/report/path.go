package report

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"synprobe/rawprobe"
	"synprobe/traceroute"
	"synprobe/traceroute/diagnose"
)

// subjectName is the subject's name in a path.
const subjectName = string(rawprobe.Subject)

// maxControls is how many controls the picture shows: two fit 80 columns.
const maxControls = 2

// picture prints the path as a table: a row for each hop, a column for the
// subject and for each control, a line where the subject stops.
func (r *Result) picture(p *printer) {
	if len(r.diagnosis.Path.Hops) == 0 {
		return
	}
	stop := r.stop()
	for i, line := range columns(r.steps()) {
		p.line(margin + line)
		if i > 0 && i-1 == stop {
			p.line(margin + rule(utf8.RuneCountInString(line)))
		}
	}
	p.blank()
}

// steps is the table: its head, this machine, and the hops from TTL 1 up.
func (r *Result) steps() [][]string {
	path := r.diagnosis.Path
	controls := shown(path)
	rows := [][]string{{"hop", "address", "rtt", fmt.Sprintf("to :%d", r.target.Port())}}
	first := []string{"0", address(r.source.address.WithZone("")), "", "sent"}
	for _, c := range controls {
		rows[0] = append(rows[0], controlWords(c))
		first = append(first, "sent")
	}
	rows = append(rows, first)
	for _, h := range path.Hops {
		row := []string{fmt.Sprint(h.TTL), "", "", string(h.Of(subjectName).Status)}
		for i, a := range h.Addrs {
			if i > 0 {
				row[1] += " "
			}
			row[1] += a.String()
		}
		if row[1] == "" {
			row[1] = "(no answer)"
		}
		if h.RTT > 0 {
			row[2] = rttWords(h.RTT)
		}
		for _, c := range controls {
			row = append(row, string(h.Of(c).Status))
		}
		rows = append(rows, row)
	}
	return rows
}

// stop is the TTL after which the subject is lost, -1 where it is not lost on
// the path.
func (r *Result) stop() int {
	d := r.diagnosis
	if d.Verdict != diagnose.Drop && d.Verdict != diagnose.Partial {
		return -1
	}
	last := d.Path.Last(subjectName)
	if last >= len(d.Path.Hops) {
		return -1
	}
	return last
}

// shown are the controls of the picture: those that were answered, echo first.
func shown(path traceroute.Path) []string {
	var names []string
	for _, n := range path.Names {
		if n == subjectName {
			continue
		}
		for _, h := range path.Hops {
			if st := h.Of(n).Status; (st == traceroute.Passes || st == traceroute.Answers || st == traceroute.Rejects) && len(names) < maxControls {
				names = append(names, n)
				break
			}
		}
	}
	return names
}

// controlWords heads a control's column.
func controlWords(name string) string {
	switch rawprobe.ProbeKind(name) {
	case rawprobe.Echo:
		return "icmp echo"
	case rawprobe.ControlACK:
		return "tcp ack"
	case rawprobe.ControlUDP:
		return "udp"
	}
	if port, ok := strings.CutPrefix(name, string(rawprobe.ControlSYN)+":"); ok {
		return "to :" + port
	}
	return name
}

// columns aligns rows, the first column and the third to the right.
func columns(rows [][]string) []string {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var lines []string
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i > 0 {
				b.WriteString("  ")
			}
			if i == 0 || i == 2 {
				b.WriteString(pad + cell)
			} else {
				b.WriteString(cell + pad)
			}
		}
		lines = append(lines, strings.TrimRight(b.String(), " "))
	}
	return lines
}

// rule is the line at which the subject stops.
func rule(width int) string {
	const word = " stops here "
	side := max((width-len(word))/2, 3)
	return strings.Repeat("─", side) + word + strings.Repeat("─", side)
}
