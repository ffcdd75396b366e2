package netlab

import (
	"errors"
	"math/rand/v2"
	"time"
)

func (im Impairment) validate() error {
	for _, p := range []float64{im.Loss, im.Duplicate, im.Reorder} {
		if p < 0 || p > 1 {
			return errors.New("impairment: not a probability between 0 and 1")
		}
	}
	if im.Delay < 0 || im.Jitter < 0 {
		return errors.New("impairment: a negative time")
	}
	if im.Reorder > 0 && im.Delay == 0 {
		return errors.New("impairment: reordering needs a delay to overtake")
	}
	return nil
}

// A Lane decides what happens to the packets of one direction of an impaired
// link. It has no clock of its own. It is not safe for use by several
// goroutines at once.
type Lane struct {
	im   Impairment
	rand *rand.Rand
	last time.Time // when the latest packet in order arrives
}

// Lane returns the lane of the direction whose packets come from end number
// end (from 0).
func (im Impairment) Lane(end int) *Lane {
	return &Lane{im: im, rand: rand.New(rand.NewPCG(im.Seed, uint64(end)))}
}

// Next returns when the copies of a packet sent now arrive: none if it is
// lost, two times if it is duplicated.
func (l *Lane) Next(now time.Time) []time.Time {
	// Each packet takes the same random numbers whatever becomes of it, so
	// that a change in one probability moves none of the others' choices.
	lost := l.rand.Float64() < l.im.Loss
	twice := l.rand.Float64() < l.im.Duplicate
	ahead := l.rand.Float64() < l.im.Reorder
	jitter := time.Duration(l.rand.Float64() * float64(l.im.Jitter))
	if lost {
		return nil
	}
	at := now
	if !ahead {
		at = now.Add(l.im.Delay + jitter)
		if at.Before(l.last) {
			at = l.last
		}
		l.last = at
	}
	if twice {
		return []time.Time{at, at}
	}
	return []time.Time{at}
}
