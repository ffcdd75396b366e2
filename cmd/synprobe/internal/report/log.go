package report

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"synprobe/rawprobe"
)

// A Log words the packets of a run as they go by, one line each.
type Log struct {
	style Style
	start time.Time // of the first packet
	width [4]int    // of the columns so far
}

// NewLog returns the log of one run. Of the style only ASCII counts.
func NewLog(s Style) *Log { return &Log{style: s, width: [4]int{8, 28, 32, 6}} }

// Line is what to print of a packet: nothing where it is none of the run's. Its
// first column is the time since the first packet.
func (l *Log) Line(s rawprobe.Seen) []byte {
	at, cells := s.Time, []string(nil)
	switch s.What {
	case rawprobe.ProbeLeft, rawprobe.ProbeRefused:
		at, cells = left(&s.Probe), sentCells(&s.Probe)
	case rawprobe.Answer:
		cells = replyCells(&s.Reply, &s.Probe)
	case rawprobe.Stranger, rawprobe.OwnReturn, rawprobe.ProbeAgain:
		return nil
	case rawprobe.Asked, rawprobe.OwnReset:
		cells = []string{"sent", PacketComment(s)}
	default:
		cells = []string{"received", PacketComment(s)}
	}
	if l.start.IsZero() {
		l.start = at
	}
	line := fmt.Sprintf("%s%10.3f ms", margin, float64(at.Sub(l.start))/float64(time.Millisecond))
	for i, c := range cells {
		c = clean(c)
		n := utf8.RuneCountInString(c)
		pad := 0
		if i < len(l.width) && i < len(cells)-1 {
			// What was printed can't be moved: a column only gets wider.
			l.width[i] = max(l.width[i], n)
			pad = l.width[i] - n
		}
		line += "  " + c + strings.Repeat(" ", pad)
	}
	line = strings.TrimRight(line, " ") + "\n"
	if l.style.ASCII {
		line = ascii(line)
	}
	return []byte(line)
}
