package netlab

import (
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	// wireQueue is how many packets a direction of a wire holds: the
	// default limit of the kernel's own emulator, tc-netem(8).
	wireQueue = 1000
	// wireMTU is the longest packet that IP has.
	wireMTU = 65535
)

// A wire carries packets between two tun devices.
type wire struct {
	files [2]*os.File
	done  chan struct{}
	wg    sync.WaitGroup
}

func newWire(files [2]*os.File, im Impairment) *wire {
	w := &wire{files: files, done: make(chan struct{})}
	for end := range files {
		d := &direction{from: files[end], to: files[1-end], lane: im.Lane(end), wake: make(chan struct{}, 1)}
		w.wg.Go(d.read)
		w.wg.Go(func() { d.write(w.done) })
	}
	return w
}

// close returns when nothing of the wire runs any more.
func (w *wire) close() error {
	close(w.done)
	err := closeFiles(w.files[:]) // ends the reads
	w.wg.Wait()
	return err
}

type flight struct {
	at     time.Time
	packet []byte
}

// A direction is one of the two directions of a wire.
type direction struct {
	from, to *os.File
	lane     *Lane
	wake     chan struct{} // the queue has a new head

	mu    sync.Mutex
	queue []flight // by time of arrival; those of the same time as sent
}

// read takes packets from the sending end until it is closed.
func (d *direction) read() {
	buf := make([]byte, wireMTU)
	for {
		n, err := d.from.Read(buf)
		if errors.Is(err, os.ErrClosed) || errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			// EIO: the device is down; nothing to read until it is up,
			// and the poller says when that is.
			continue
		}
		d.send(buf[:n], time.Now())
	}
}

func (d *direction) send(packet []byte, now time.Time) {
	for _, at := range d.lane.Next(now) {
		d.mu.Lock()
		if len(d.queue) < wireQueue { // a full queue loses, as a router's does
			i, _ := slices.BinarySearchFunc(d.queue, at, func(f flight, t time.Time) int {
				if f.at.After(t) {
					return 1
				}
				return -1 // the same time: behind those that are there
			})
			d.queue = slices.Insert(d.queue, i, flight{at, slices.Clone(packet)})
		}
		d.mu.Unlock()
		select {
		case d.wake <- struct{}{}:
		default: // it has not looked since the last time
		}
	}
}

// write delivers packets when their time has come.
func (d *direction) write(done <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		for {
			d.mu.Lock()
			if len(d.queue) == 0 {
				d.mu.Unlock()
				break
			}
			wait := time.Until(d.queue[0].at)
			if wait > 0 {
				d.mu.Unlock()
				timer.Reset(wait)
				break
			}
			packet := d.queue[0].packet
			d.queue = slices.Delete(d.queue, 0, 1)
			d.mu.Unlock()
			// A device that is down refuses: the packet is lost, as on a
			// real wire.
			_, _ = d.to.Write(packet)
		}
		select {
		case <-done:
			return
		case <-d.wake:
		case <-timer.C:
		}
	}
}
