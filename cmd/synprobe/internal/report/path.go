package report

import (
	"fmt"
	"slices"
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
// subject and for each control, a line where the subject stops or is refused.
func (r *Result) picture(p *printer) {
	if len(r.diagnosis.Path.Hops) == 0 {
		return
	}
	ttl, word := r.stop(), "stops here"
	if ttl < 0 {
		ttl, word = r.refusal()
	}
	width := p.style.Width
	if width == 0 {
		width = defaultWidth
	}
	rows, hops := fit(r.steps(), width-len(margin))
	for i, line := range columns(rows) {
		p.line(margin + line)
		if ttl >= 0 && hops[i] == ttl && (i == len(rows)-1 || hops[i+1] != ttl) {
			p.line(margin + rule(word, utf8.RuneCountInString(line)))
		}
	}
	p.blank()
}

// fit makes rows narrower where they are wider than a terminal: long addresses
// of one hop stand on lines of their own, and the last controls are left out. It
// returns with each row its TTL, -1 for the head.
func fit(rows [][]string, width int) (fitting [][]string, ttls []int) {
	for i := range rows {
		fitting, ttls = append(fitting, rows[i]), append(ttls, i-1)
	}
	if wide(fitting) <= width {
		return fitting, ttls
	}
	fitting, ttls = nil, nil
	for i, row := range rows {
		addresses := strings.Fields(row[1])
		if i == 0 || len(addresses) < 2 || row[1] == noAnswer {
			addresses = []string{row[1]}
		}
		for k, a := range addresses {
			line := make([]string, len(row))
			if k == 0 {
				copy(line, row)
			}
			line[1] = a
			fitting, ttls = append(fitting, line), append(ttls, i-1)
		}
	}
	for len(fitting[0]) > leastColumns && wide(fitting) > width {
		for i, row := range fitting {
			fitting[i] = row[:len(row)-1]
		}
	}
	return fitting, ttls
}

// leastColumns are those without controls, and one.
const leastColumns = 5

// wide is how many columns of a terminal the widest row takes.
func wide(rows [][]string) int {
	most := 0
	for _, line := range columns(rows) {
		most = max(most, utf8.RuneCountInString(line))
	}
	return most
}

// noAnswer stands for the address of a hop that answers nobody.
const noAnswer = "(no answer)"

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
			row[1] = r.blamed(h.TTL)
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
	for i := range d.Path.Hops {
		if d.Path.Hops[i].Host && d.Path.Hops[i].Of(subjectName).Status == traceroute.Answers {
			return -1 // this flow gets there
		}
	}
	last := d.Path.Last(subjectName)
	if last >= len(d.Path.Hops) {
		return -1
	}
	return last
}

// refusal is the TTL of the one device on the path that turned the subject away,
// and how to mark it; -1 where there is none. Its own row says that the subject
// passes where it answered for a smaller TTL too.
func (r *Result) refusal() (ttl int, word string) {
	d := r.diagnosis
	if d.Fault == nil || d.Fault.Where != diagnose.Path || len(d.Fault.Hops) != 1 {
		return -1, ""
	}
	switch ttl = d.Fault.Hops[0].TTL; {
	case ttl < 1 || ttl > len(d.Path.Hops):
		return -1, ""
	case d.Verdict == diagnose.Reject:
		return ttl, "refused here"
	case d.Cause == diagnose.NetUnreachable:
		return ttl, "no route here"
	case d.Cause == diagnose.Proxy:
		return ttl, "answered here"
	}
	return -1, ""
}

// blamed is the address of the fault's device at a TTL where no probe that was
// stepped got an answer.
func (r *Result) blamed(ttl int) string {
	if f := r.diagnosis.Fault; f != nil {
		for _, h := range f.Hops {
			if h.TTL == ttl && h.Address.IsValid() {
				return h.Address.String()
			}
		}
	}
	return noAnswer
}

// shown are the controls of the picture: those that were answered, echo first.
// Datagrams are left out that only met what others did: they were sent to see
// whether ways differ.
func shown(path traceroute.Path) []string {
	var names []string
	for _, n := range path.Names {
		if n == subjectName {
			continue
		}
		for _, h := range path.Hops {
			if !met(h.Of(n)) || len(names) == maxControls ||
				n == string(rawprobe.ControlUDP) && slices.ContainsFunc(names, func(o string) bool { return met(h.Of(o)) }) {
				continue
			}
			names = append(names, n)
			break
		}
	}
	return names
}

func met(p traceroute.Probed) bool {
	return p.Status == traceroute.Passes || p.Status == traceroute.Answers || p.Status == traceroute.Rejects
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
func rule(word string, width int) string {
	side := max((width-len(word)-2)/2, 3)
	return strings.Repeat("─", side) + " " + word + " " + strings.Repeat("─", side)
}
