package cli

import (
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"synprobe/cmd/synprobe/internal/report"
	"synprobe/rawprobe/batch"
	"synprobe/traceroute/diagnose"
)

const (
	// drawEvery is how often the progress bar is drawn and waiting output is
	// written: soon enough for a person who watches.
	drawEvery = 100 * time.Millisecond
	// writeAt is how much output is not kept waiting.
	writeAt = 64 << 10
	// mostWaiting is how much output may wait for a slow reader. Beyond it the
	// run waits too, and may lose answers.
	mostWaiting = 16 << 20
	// mostKept is the largest buffer that is used again: at full rate what comes
	// in the time that it takes to write the last.
	mostKept = 4 << 20
	// saveEvery is how often the state of --resume is written.
	saveEvery = 5 * time.Second
)

// A spool takes the output of a run with many targets and writes it from a
// goroutine of its own, so that whoever brings results does not wait for a
// terminal. It draws the progress bar in between, and writes the state of
// --resume when all results that it counts are out.
type spool struct {
	run  *run
	lost func() // called once, where standard output takes no more

	mu      sync.Mutex
	changed *sync.Cond
	waiting []byte
	closed  bool
	next    func()                     // see do; nil: nothing
	bar     func(now time.Time) string // nil: none
	save    func() error               // due when what waits now is out; else nil

	wake chan struct{}
	done sync.WaitGroup

	// Of the goroutine alone:
	drawn   bool
	failing error // of the last save; told once
}

func newSpool(r *run, lost func()) *spool {
	s := &spool{run: r, lost: lost, wake: make(chan struct{}, 1)}
	s.changed = sync.NewCond(&s.mu)
	s.done.Go(s.work)
	return s
}

// add gives write the output that waits, to append to.
func (s *spool) add(write func([]byte) []byte) {
	s.mu.Lock()
	for len(s.waiting) > mostWaiting {
		s.changed.Wait()
	}
	s.waiting = write(s.waiting)
	full := len(s.waiting) >= writeAt
	s.mu.Unlock()
	if full {
		s.hurry()
	}
}

func (s *spool) hurry() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// setBar sets what draws the progress bar. It is called by the goroutine.
func (s *spool) setBar(bar func(time.Time) string) {
	s.mu.Lock()
	s.bar = bar
	s.mu.Unlock()
}

// saveBehind has save called when all that was added is written.
func (s *spool) saveBehind(save func() error) {
	s.mu.Lock()
	s.save = save
	s.mu.Unlock()
}

// do runs what writes elsewhere than standard output, when all that was added is
// written and the bar is gone until it is drawn again. It has one caller at a
// time.
func (s *spool) do(what func()) {
	done := make(chan struct{})
	s.mu.Lock()
	s.next = func() { what(); close(done) }
	s.mu.Unlock()
	s.hurry()
	<-done
}

// close writes the rest, takes the bar away and ends. It returns the error of
// the last save.
func (s *spool) close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.hurry()
	s.done.Wait()
	return s.failing
}

func (s *spool) work() {
	tick := time.NewTicker(drawEvery)
	defer tick.Stop()
	var spare []byte
	for {
		drawDue := false
		select {
		case <-tick.C:
			drawDue = true
		case <-s.wake:
		}
		s.mu.Lock()
		out, bar, save, closed, next := s.waiting, s.bar, s.save, s.closed, s.next
		s.waiting, s.save, s.next = spare[:0], nil, nil
		s.changed.Broadcast()
		s.mu.Unlock()
		if s.drawn && (len(out) > 0 || closed || next != nil) {
			_, _ = fmt.Fprint(s.run.env.Stderr, "\r\x1b[K")
			s.drawn = false
		}
		was := s.run.lost
		s.run.write(out)
		if was == nil && s.run.lost != nil {
			s.lost()
		}
		if save != nil && s.run.lost == nil {
			s.saved(save())
		}
		if spare = out; cap(spare) > mostKept {
			spare = nil
		}
		if next != nil {
			next()
		}
		if closed {
			return
		}
		if bar != nil && (drawDue || len(out) > 0) {
			if line := bar(time.Now()); line != "" {
				_, _ = fmt.Fprint(s.run.env.Stderr, drawnLine(line))
				s.drawn = true
			}
		}
	}
}

// saved keeps the error of a save, and tells the first of a row.
func (s *spool) saved(err error) {
	if err != nil && s.failing == nil {
		if s.drawn {
			_, _ = fmt.Fprint(s.run.env.Stderr, "\r\x1b[K")
			s.drawn = false
		}
		s.run.complain(asFailure(err))
	}
	s.failing = err
}

// A gauge is the progress of a run as the bar shows it.
type gauge struct {
	width int // columns

	looking  time.Time // when neighbours began to be asked for
	began    time.Time // when the probing did
	first    uint64    // targets that an earlier run had done
	done     uint64    // targets that have their result, those included
	now      batch.Progress
	verdicts map[diagnose.Verdict]uint64

	// The rate is that since the sample before the last.
	sampled    time.Time
	before     uint64
	rate       float64
	hasSamples bool
}

// rateOver is the time that the rate shown is an average of.
const rateOver = 2 * time.Second

// line is the bar: how much is done, how fast, what was found and how long it
// will take.
func (g *gauge) line(now time.Time) string {
	p := g.now
	switch {
	case p.Targets == 0:
		return ""
	case p.ToAsk > 0:
		return g.asking(now)
	}
	switch since := now.Sub(g.sampled); {
	case !g.hasSamples:
		g.sampled, g.before, g.hasSamples = now, p.Sent, true
		if d := now.Sub(g.began); d > 0 {
			g.rate = float64(p.Sent) / d.Seconds()
		}
	case since >= rateOver:
		g.rate = float64(p.Sent-g.before) / since.Seconds()
		g.sampled, g.before = now, p.Sent
	}
	v := g.verdicts
	text := fmt.Sprintf("%s/%s  %s/s  open %s  reject %s  drop %s  down %s",
		report.Thousands(g.done), report.Thousands(p.Targets), report.Thousands(uint64(g.rate)),
		report.Thousands(v[diagnose.Open]), report.Thousands(v[diagnose.Reject]), report.Thousands(v[diagnose.Drop]),
		report.Thousands(v[diagnose.HostDown]+v[diagnose.NetworkDown]))
	if left, ok := g.left(now); ok {
		text += "  " + report.Clock(left) + " left"
	}
	return g.drawn(float64(g.done)/float64(p.Targets), text)
}

// asking is the bar before the first SYN, while next hops and targets on the link
// are looked for. How long that takes tells nothing about the rest.
func (g *gauge) asking(now time.Time) string {
	asked, most := g.now.Asked, g.now.ToAsk
	text := fmt.Sprintf("looking for neighbours: %s/%s requests", report.Thousands(asked), report.Thousands(most))
	if took := now.Sub(g.looking); took >= time.Second && asked > 0 {
		text += "  " + report.Clock(time.Duration(float64(most-min(asked, most))/float64(asked)*float64(took))) + " left"
	}
	g.began = now
	return g.drawn(float64(asked)/float64(most), text)
}

// drawn puts the part that is done before a text, in a line of the bar's width.
func (g *gauge) drawn(done float64, text string) string {
	done = min(1, done)
	text = fmt.Sprintf("%3d%%  %s", int(100*done), text)
	// A line of full width would wrap on some terminals.
	if room := g.width - 1 - utf8.RuneCountInString(text) - len("[] "); room >= 8 {
		n := min(room, 20) &^ 3 // it does not change with every digit
		full := int(done * float64(n))
		text = "[" + strings.Repeat("#", full) + strings.Repeat("-", n-full) + "] " + text
	}
	if len(text) > g.width-1 { // all ASCII
		text = text[:g.width-1]
	}
	return text
}

// left is how long the rest takes at the pace so far.
func (g *gauge) left(now time.Time) (time.Duration, bool) {
	done, took := g.done-g.first, now.Sub(g.began)
	if done == 0 || took < time.Second {
		return 0, false
	}
	rest := float64(g.now.Targets-min(g.done, g.now.Targets)) / float64(done) * took.Seconds()
	if rest > 1000*3600 {
		return 0, false // it would say nothing
	}
	return time.Duration(rest * float64(time.Second)), true
}
