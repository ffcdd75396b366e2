package htmlpage

import (
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// Timeline is a drawing of when packets were sent and received.
type Timeline struct {
	Title, Desc string        // for who can't see it
	Length      time.Duration // of the axis
	Rows        []TimeRow
}

// TimeRow is one kind of packet. Its times count from the axis' start; those
// beyond its ends are drawn at them.
type TimeRow struct {
	Label          string
	Sent, Received []time.Duration
}

// The timeline's measures, in CSS pixels.
const (
	timeRowHeight = 38
	timeLine      = 26 // from a row's top to its line
	timeTicks     = 4  // on the axis, at most, beside 0
)

type drawnTimeline struct {
	Title, Desc              string
	Width, Height            int
	Left, Right, Axis, First int
	Rows                     []drawnTimeRow
	Ticks                    []label
	KeySent, KeyReceived     label
}

type drawnTimeRow struct {
	Label          string
	LabelY, Y      int
	Sent, Received []int
}

// drawTimeline works out where everything is. What falls on the same pixel is
// drawn once.
func drawTimeline(t *Timeline) drawnTimeline {
	d := drawnTimeline{Title: t.Title, Desc: t.Desc, Width: drawWidth, Left: edge, Right: drawWidth - 2*edge}
	at := func(times []time.Duration) (xs []int) {
		for _, when := range times {
			part := min(max(float64(when)/float64(max(t.Length, 1)), 0), 1)
			xs = append(xs, d.Left+int(part*float64(d.Right-d.Left)+.5))
		}
		slices.Sort(xs)
		return slices.Compact(xs)
	}
	d.First = edge
	y := d.First
	for _, r := range t.Rows {
		d.Rows = append(d.Rows, drawnTimeRow{
			Label: clip(r.Label, d.Left), LabelY: y + 12, Y: y + timeLine, Sent: at(r.Sent), Received: at(r.Received),
		})
		y += timeRowHeight
	}
	d.Axis = y + 4
	step := tick(t.Length)
	for n := time.Duration(0); n <= t.Length; n += step {
		x, text := at([]time.Duration{n})[0], timeText(n)
		half := int(charWidth*float64(utf8.RuneCountInString(text))/2) + 1
		d.Ticks = append(d.Ticks, label{X: x, TextX: min(max(x, half), drawWidth-half), Y: d.Axis + 16, Text: text})
	}
	y = d.Axis + 38
	d.KeySent = label{X: d.Left + 4, Y: y, TextX: d.Left + 14, Text: "sent"}
	d.KeyReceived = label{X: d.Left + 74, Y: y, TextX: d.Left + 84, Text: "received"}
	d.Height = y + edge
	return d
}

// tick is the distance of the axis' ticks: the least of 1, 2 and 5 times a power
// of ten nanoseconds that gives few enough.
func tick(length time.Duration) time.Duration {
	for step := time.Duration(1); ; step *= 10 {
		for _, n := range []time.Duration{1, 2, 5} {
			if length/(n*step) <= timeTicks {
				return n * step
			}
		}
	}
}

// timeText is a time of the axis in the unit that suits it. Its digits are few,
// since ticks are round.
func timeText(d time.Duration) string {
	switch {
	case d == 0:
		return "0"
	case d < time.Millisecond:
		return strconv.FormatFloat(float64(d)/float64(time.Microsecond), 'g', 4, 64) + " µs"
	case d < time.Second:
		return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'g', 4, 64) + " ms"
	default:
		return strconv.FormatFloat(d.Seconds(), 'g', 4, 64) + " s"
	}
}
