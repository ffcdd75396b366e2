package cli

import (
	"fmt"
	"sync"
	"time"
)

// A countdown shows on standard error what a long run waits for: on a terminal
// one line that counts down and then goes, elsewhere one line once.
type countdown struct {
	env  *Env
	quit chan struct{}
	done sync.WaitGroup
}

// start begins to count down to until. It is called once at most, and before
// stop.
func (c *countdown) start(what string, until time.Time) {
	left := func() string {
		return fmt.Sprintf("waiting for %s: %.0f s left at most (Ctrl-C ends it)", what, max(time.Until(until), 0).Seconds())
	}
	if !c.env.ErrTerminal {
		_, _ = fmt.Fprintf(c.env.Stderr, "synprobe: %s\n", left())
		return
	}
	c.quit = make(chan struct{})
	c.done.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			_, _ = fmt.Fprintf(c.env.Stderr, "\r%s\x1b[K", left())
			select {
			case <-tick.C:
			case <-c.quit:
				_, _ = fmt.Fprint(c.env.Stderr, "\r\x1b[K")
				return
			}
		}
	})
}

// stop takes the line away.
func (c *countdown) stop() {
	if c.quit != nil {
		close(c.quit)
		c.done.Wait()
	}
}
