package htmlpage

import (
	"cmp"
	"fmt"
	"strings"
)

// Path is a drawing of the way to a target: a card for each hop from near to
// far, and beside the cards a line for each kind of probe, as far as it got.
type Path struct {
	Title, Desc string // for who can't see it
	Lanes       []Lane
	Nodes       []Node
	// Stop is the node after which the first lane's probes are lost; negative
	// where they are not lost between nodes.
	Stop int
	// StopText says so.
	StopText string
}

// Lane is one kind of probe. The first one is what was asked about.
type Lane struct {
	Label string
	// Reach is the last node that it is known to have got to, Faint the last one
	// that it may have got to. 0 is this machine.
	Reach, Faint int
}

// Node is one hop.
type Node struct {
	Number  string // its distance; may be empty
	Names   []string
	Notes   []string
	Suspect string // what marks it as one; empty where it is none
	Silent  bool   // it answers nobody
	Marks   []Mark // one for each lane
	// Gap says that there may be hops between the node before and this one;
	// it is what is written there.
	Gap string
}

// Mark is what became of a kind of probe at a node.
type Mark string

// The marks. The zero value draws nothing.
const (
	Passes  Mark = "passes"
	Answers Mark = "answers"
	Rejects Mark = "rejects"
	Silent  Mark = "silent"
)

// The drawing's measures, in CSS pixels. It is as wide as a phone, so that it
// is never scaled to less than can be read.
const (
	drawWidth = 330
	laneStep  = 18
	laneFirst = 12
	lineStep  = 17
	cardPad   = 8  // above and below the lines of a card
	gapPlain  = 12 // between cards
	gapText   = 34 // between cards, with words
	numberCol = 28 // from a card's edge to its text
	edge      = 8
	// A character of a 12 px monospace font is 0.6 em wide, of some 0.61.
	charWidth = 7.35
	maxLines  = 3 // of one name
	// sheetNodes are drawn in one piece. Pieces follow each other without a seam.
	// A printer breaks the page between them, so they are short.
	sheetNodes = 7
)

// A sheet is one piece of a drawing.
type sheet struct {
	Title, Desc   string
	Width, Height int
	Labels        []label
	Lines         []line
	Cards         []card
	Gaps          []gap
	Marks         []drawnMark
	Stops         []stopMark
	Keys          []drawnMark
}

type (
	// label names a lane, by an elbow from its upper end.
	label struct {
		X, Y, TextX int
		Text        string
		Main        bool
	}
	line struct {
		X, Y1, Y2 int
		Class     string
	}
	card struct {
		X, Y, Width, Height int
		NumberX, NumberY    int
		Number              string
		Suspect, Silent     bool
		Lines               []cardLine
	}
	cardLine struct {
		X, Y        int
		Text, Class string
	}
	gap struct {
		X, Y int
		Text string
	}
	drawnMark struct {
		X, Y  int
		Mark  Mark
		Text  string // of a key
		TextX int
	}
	stopMark struct {
		X, Y, TextX int
		Text        string
	}
)

// draw works out where everything is.
func draw(p *Path) []sheet {
	var sheets []sheet
	cardX := laneFirst + laneStep*max(len(p.Lanes)-1, 0) + laneStep
	for from := 0; from < len(p.Nodes); from += sheetNodes {
		to := min(from+sheetNodes, len(p.Nodes))
		s := sheet{Title: p.Title, Desc: p.Desc, Width: drawWidth}
		if len(p.Nodes) > sheetNodes {
			s.Title += fmt.Sprintf(" (part %d of %d)", len(sheets)+1, (len(p.Nodes)+sheetNodes-1)/sheetNodes)
		}
		if len(sheets) > 0 {
			s.Desc = "See the first part."
		}
		y := 0
		starts := make([]int, len(p.Lanes)) // where each lane enters the sheet
		if from == 0 {
			y = edge
			for i, l := range p.Lanes {
				y += lineStep
				x := laneFirst + laneStep*i
				s.Labels = append(s.Labels, label{X: x, Y: y - 4, TextX: cardX + edge, Text: clip(l.Label, cardX+edge), Main: i == 0})
				starts[i] = y - 4
			}
			y += gapPlain
		}
		for n := from; n < to; n++ {
			node := &p.Nodes[n]
			if node.Gap != "" && n > 0 {
				y += gapText - gapPlain
				s.Gaps = append(s.Gaps, gap{cardX + numberCol, y - gapText/2 + 4, node.Gap})
			}
			c := node.card(cardX, y)
			centre := c.Y + c.Height/2
			for i := range p.Lanes {
				s.lane(p, i, n, starts[i], centre)
				starts[i] = centre
				if i < len(node.Marks) && node.Marks[i] != "" {
					s.Marks = append(s.Marks, drawnMark{X: laneFirst + laneStep*i, Y: centre, Mark: node.Marks[i]})
				}
			}
			s.Cards = append(s.Cards, c)
			y += c.Height + gapPlain
			if n == p.Stop {
				y += gapText - gapPlain
				at := y - gapText/2
				s.Stops = append(s.Stops, stopMark{X: laneFirst, Y: at, TextX: cardX + numberCol, Text: p.StopText})
				s.Lines = append(s.Lines, line{laneFirst, centre, at, "main"})
			}
		}
		if to == len(p.Nodes) {
			y = s.keys(p, y)
		} else {
			for i := range p.Lanes {
				s.lane(p, i, to, starts[i], y)
			}
		}
		s.Height = y
		sheets = append(sheets, s)
	}
	return sheets
}

// lane draws the part of lane i that leads to node n.
func (s *sheet) lane(p *Path, i, n, y1, y2 int) {
	class := [...]string{"main", "flow", "flow second"}[min(i, 2)]
	switch l := p.Lanes[i]; {
	case n <= l.Reach:
	case n <= l.Faint:
		class += " faint"
	default:
		return
	}
	s.Lines = append(s.Lines, line{laneFirst + laneStep*i, y1, y2, class})
}

// card is the node's box at a place.
func (n *Node) card(x, y int) card {
	c := card{X: x, Y: y, Width: drawWidth - x - 2, Number: n.Number, NumberX: x + edge, Suspect: n.Suspect != "", Silent: n.Silent}
	at := y + cardPad + 12
	add := func(text, class string) {
		c.Lines = append(c.Lines, cardLine{x + numberCol, at, text, class})
		at += lineStep
	}
	if n.Suspect != "" {
		add(n.Suspect, "tag")
	}
	c.NumberY = at
	for _, name := range n.Names {
		for _, l := range wrap(name, room(x+numberCol)) {
			add(l, "name")
		}
	}
	for _, note := range n.Notes {
		for _, l := range wrap(note, room(x+numberCol)) {
			add(l, "note")
		}
	}
	c.Height = max(at-lineStep-y+cardPad-2, 2*cardPad+12)
	return c
}

// keyTexts explain the marks.
var keyTexts = []struct {
	mark Mark
	text string
}{
	{Passes, "got this far: the router there says so"},
	{Answers, "answered"},
	{Rejects, "refused: a reset, or an ICMP error"},
	{Silent, "sent there, and nothing came back"},
}

// keys explains the marks that were used, below everything else.
func (s *sheet) keys(p *Path, y int) int {
	used := make(map[Mark]bool)
	for _, n := range p.Nodes {
		for _, m := range n.Marks {
			used[m] = true
		}
	}
	for _, k := range keyTexts {
		if used[k.mark] {
			y += lineStep
			s.Keys = append(s.Keys, drawnMark{X: laneFirst, Y: y - 4, Mark: k.mark, Text: k.text, TextX: laneFirst + laneStep})
		}
	}
	return y + edge
}

// room is how many columns are free from x to a card's edge.
func room(x int) int { return max(int((drawWidth-edge-float64(x))/charWidth), 8) }

// clip is the text's first line from x on.
func clip(s string, x int) string {
	lines := wrap(s, room(x))
	if len(lines) > 1 {
		return strings.TrimRight(lines[0], " ") + "…"
	}
	return lines[0]
}

// wrap breaks text into lines of so many columns: between words, else behind a
// dot or colon, else anywhere. What is too long for maxLines ends in an
// ellipsis.
func wrap(s string, columns int) []string {
	columns-- // for the ellipsis
	var lines []string
	rest := []rune(strings.TrimSpace(s))
	for len(rest) > 0 {
		fit, used := 0, 0
		for fit < len(rest) && used+width(rest[fit]) <= columns {
			used += width(rest[fit])
			fit++
		}
		fit = max(fit, 1)
		if fit < len(rest) {
			space, point := 0, 0
			for i, r := range rest[:fit] {
				switch r {
				case ' ':
					space = i + 1
				case '.', ':', '-', '%':
					point = i + 1
				}
			}
			if point < fit/2 { // a line of little
				point = 0
			}
			fit = cmp.Or(space, point, fit)
		}
		lines = append(lines, strings.TrimSpace(string(rest[:fit])))
		rest = []rune(strings.TrimLeft(string(rest[fit:]), " "))
		if len(lines) == maxLines && len(rest) > 0 {
			lines[maxLines-1] += "…"
			break
		}
	}
	if lines == nil {
		return []string{""}
	}
	return lines
}

// width is how many columns a character takes: two from the first block of the
// East Asian scripts up, which is more than enough for the others there.
func width(r rune) int {
	if r >= 0x1100 {
		return 2
	}
	return 1
}
