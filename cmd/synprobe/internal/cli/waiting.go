package cli

import (
	"fmt"
	"sync"
	"time"
	"unicode/utf8"

	"synprobe/cmd/synprobe/internal/report"
	"synprobe/pcap"
	"synprobe/rawprobe"
)

// The live line.
const (
	// quietFirst is how long nobody needs to be told that there is a wait.
	quietFirst = 300 * time.Millisecond
	drawLive   = 100 * time.Millisecond
)

// waiting shows on standard error what a run waits for, and since when: on a
// terminal one line that is drawn again and again and then goes, elsewhere only
// that the run waits for a proof, once.
type waiting struct {
	env  *Env
	live bool // a line is drawn
	quit chan struct{}
	done sync.WaitGroup

	mu      sync.Mutex
	began   time.Time
	drawn   bool
	targets int // without an answer yet
	// Of the one target, where there is one only:
	name   string
	port   uint16
	asked  int // requests to the next hop
	known  bool
	sent   int // SYNs of full TTL
	stepAt int // the greatest TTL at which a router said that a SYN expired
	what   string
	until  time.Time
}

// newWaiting begins to show what so many targets are waited for. Name and port
// are those of the one of them; more have no name.
func newWaiting(env *Env, targets int, name string, port uint16, live bool) *waiting {
	w := &waiting{env: env, live: live && env.drawsLines(), began: time.Now(), targets: targets, name: name, port: port}
	if !w.live {
		return w
	}
	w.quit = make(chan struct{})
	quit := w.quit
	w.done.Go(func() {
		tick := time.NewTicker(drawLive)
		defer tick.Stop()
		for {
			select {
			case now := <-tick.C:
				w.draw(now)
			case <-quit:
				return
			}
		}
	})
	return w
}

// seen takes in a packet of the one target.
func (w *waiting) seen(s rawprobe.Seen) {
	if !w.live {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case s.What == rawprobe.Asked:
		w.asked++
	case s.What == rawprobe.AskAnswer:
		w.known = true
	case s.What == rawprobe.ProbeLeft && s.Direction == pcap.Outgoing && s.Probe.Kind == rawprobe.Subject && !s.Probe.Stepped():
		w.sent++
	case s.What == rawprobe.Answer && s.Probe.Kind == rawprobe.Subject && s.Probe.Stepped() && s.Reply.Meaning() == rawprobe.SaysExpired:
		w.stepAt = max(w.stepAt, s.Probe.TTL)
	}
}

// proof says that the run only waits for a proof now, and until when at most.
func (w *waiting) proof(what string, until time.Time) {
	w.mu.Lock()
	w.what, w.until = what, until
	w.mu.Unlock()
	if !w.live {
		_, _ = fmt.Fprintf(w.env.Stderr, "synprobe: %s\n", w.text(time.Now()))
	}
}

// text is the line. Where it is too long for a terminal the target's name gives
// way: what moves stands behind it.
func (w *waiting) text(now time.Time) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := w.words(now, w.name)
	name := []rune(w.name)
	if over := utf8.RuneCountInString(text) - lineWidth; over > 0 && len(name) > 0 {
		text = w.words(now, string(name[:max(len(name)-over-len("..."), 0)])+"...")
	}
	return text
}

// words is the line with name for the one target.
func (w *waiting) words(now time.Time, name string) string {
	if name != "" {
		name = fmt.Sprintf("%s port %d", name, w.port)
	}
	since := fmt.Sprintf("%.1f s", now.Sub(w.began).Seconds())
	switch {
	case w.what != "":
		return fmt.Sprintf("waiting for %s: %.0f s at most (Ctrl-C ends it)", w.what, max(w.until.Sub(now), 0).Seconds())
	case name == "":
		return fmt.Sprintf("waiting for %s: %s", report.Count(uint64(w.targets), "target"), since)
	case w.sent == 0 && w.asked > 0 && !w.known:
		return fmt.Sprintf("waiting for the next hop to %s to say its link-layer address: %s", name, since)
	case w.sent == 0:
		return fmt.Sprintf("waiting for %s: %s", name, since)
	}
	text := fmt.Sprintf("waiting for an answer from %s: %s, %s sent", name, since, report.Count(uint64(w.sent), "SYN"))
	if w.stepAt > 0 {
		text += fmt.Sprintf(", got to hop %d", w.stepAt)
	}
	return text
}

// lineWidth is what most terminals have.
const lineWidth = 79

// drawsLines reports whether a line on standard error can be drawn again and
// again, and taken back.
func (e *Env) drawsLines() bool { return e.ErrTerminal && e.Getenv("TERM") != "dumb" }

// drawnLine takes the place of the line that the cursor stands in. A line that
// wraps could not be taken back, and nobody says how narrow a terminal is: so
// autowrap is off meanwhile (DECAWM, VT100 User Guide, chapter 3), and what does
// not fit is not seen.
func drawnLine(text string) string { return "\r\x1b[?7l" + text + "\x1b[?7h\x1b[K" }

func (w *waiting) draw(now time.Time) {
	if now.Sub(w.began) < quietFirst {
		return
	}
	text := []rune(w.text(now))
	if len(text) > lineWidth {
		text = text[:lineWidth]
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drawn = true
	_, _ = fmt.Fprint(w.env.Stderr, drawnLine(string(text)))
}

// aside takes the line away while output is written.
func (w *waiting) aside(write func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.erase()
	write()
}

func (w *waiting) erase() {
	if w.drawn {
		_, _ = fmt.Fprint(w.env.Stderr, "\r\x1b[K")
	}
	w.drawn = false
}

// answered says that one target more has its answer.
func (w *waiting) answered() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.targets--
}

// stop takes the line away for good. It may be called again.
func (w *waiting) stop() {
	if w.quit != nil {
		close(w.quit)
		w.done.Wait()
		w.quit = nil
	}
	w.aside(func() {})
}
