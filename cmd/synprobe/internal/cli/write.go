package cli

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"synprobe/cmd/synprobe/internal/report"
	"synprobe/pcap"
	"synprobe/rawprobe"
)

// recordSchema is the version of what a capture holds beside its packets.
const recordSchema = "synprobe-record/1"

// record is what a capture holds of one target beside its packets, in the
// comment of a closing block, behind the answer.
type record struct {
	Schema string `json:"schema"`
	// Run is the part of the packets' numbers that they have in common.
	Run uint64 `json:"run"`
	// Name is the target as it was typed, Addresses are all that the name has.
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"`
	// Interfaces are the indexes of this machine's interfaces by their numbers in
	// the file.
	Interfaces map[int]int      `json:"interfaces"`
	Record     *rawprobe.Record `json:"record"`
}

// A packet's number in a file: a random one for each file, so that files can
// be put together, the target's, and the packet's own.
const (
	numberBits = 24
	runBits    = 20
	tagBits    = 64 - numberBits - runBits
)

// capture is the file of -w. Its runs write to it side by side.
type capture struct {
	name       string
	tag        uint64
	interfaces []Interface // of this machine

	mu     sync.Mutex
	out    *whole
	head   int64 // how much of out was written before any packet
	file   *pcap.Writer
	ids    map[int]int // the number in the file of an interface, by its index
	failed error       // why no more is written
}

// whole is a file that never keeps a part of a write: where a disk is full it
// is cut back to the last whole block.
type whole struct {
	io.Writer
	file *os.File // nil for what can't be cut
	size int64
}

func (w *whole) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	if err == nil {
		w.size += int64(n)
	} else if n > 0 && w.file != nil {
		_ = w.file.Truncate(w.size) // the first error is the one to tell
	}
	return n, err
}

// divert keeps standard output for the capture of -w -, which alone is the
// product then.
func (r *run) divert() error {
	switch {
	case r.flags.write != "-":
		return nil
	case r.env.Terminal:
		return misuse("--write -", "standard output is a terminal", "as in: synprobe -w - HOST PORT | tshark -r -")
	}
	r.packets = r.env.Stdout
	r.env.Stdout, r.env.Terminal = r.env.Stderr, r.env.ErrTerminal
	return nil
}

// openCapture begins the file of -w. Nothing was sent before.
func (r *run) openCapture(targets []*target) error {
	name := r.flags.write
	if name == "" {
		return nil
	}
	c := &capture{name: name, tag: 1 + rand.Uint64N(1<<tagBits-1), ids: make(map[int]int)}
	for i, t := range targets {
		t.number = i + 1
	}
	var err error
	if c.interfaces, err = r.env.Interfaces(); err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	if name == "-" {
		c.out = &whole{Writer: r.packets}
		if err := c.begin(r); err != nil {
			return writeFailure(name, err)
		}
	} else if err := c.create(r); err != nil {
		return err
	}
	r.capture = c
	return nil
}

// create makes the file. It follows no link and writes over nothing: where
// --force lets it take the place of an old file it is written beside, and takes
// the old one's name once its head is written.
func (c *capture) create(r *run) error {
	info, err := os.Lstat(c.name)
	old := err == nil
	switch {
	case old && !r.flags.force:
		return misuse("--write "+report.Escape(c.name), "it exists", "another name, or --force to replace it")
	case old && !info.Mode().IsRegular():
		return misuse("--write "+report.Escape(c.name), "not a regular file: --force does not replace it", "for a pipe: -w -")
	}
	var f *os.File
	if old {
		f, err = os.CreateTemp(filepath.Dir(c.name), "."+filepath.Base(c.name)+".*")
	} else {
		f, err = os.OpenFile(c.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return misuse("--write "+report.Escape(c.name), "it exists", "another name, or --force to replace it")
	case err != nil:
		return writeFailure(c.name, err)
	}
	c.out = &whole{Writer: f, file: f}
	err = own(f)
	if err == nil {
		err = c.begin(r)
	}
	if err == nil && old {
		err = os.Rename(f.Name(), c.name)
	}
	if err != nil {
		_ = f.Close()
		_ = os.Remove(f.Name())
		return writeFailure(c.name, err)
	}
	return nil
}

// own gives a new file to the user on whose behalf root runs. A run that was
// confined is that user's already, unless that was impossible: see
// rawprobe.Confine.
func own(f *os.File) error {
	uid, gid, ok := rawprobe.CallingUser()
	if !ok {
		return nil
	}
	return f.Chown(uid, gid)
}

func writeFailure(name string, err error) *failure {
	return &failure{kind: report.IOError, what: "write " + report.Escape(name), why: cause(err)}
}

// begin writes the head of the file: by whom and how it was made.
func (c *capture) begin(r *run) (err error) {
	system := runtime.GOOS
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		system += " " + strings.TrimSpace(string(b))
	}
	c.file, err = pcap.NewWriter(c.out, pcap.Section{
		Hardware: runtime.GOARCH, OS: system, Application: version(), Comment: strings.Join(r.commandLine(), " "),
	})
	c.head = c.out.size
	return err
}

// run is the common part of the numbers of a target's packets.
func (c *capture) run(t *target) uint64 { return c.tag<<runBits | uint64(t.number)&(1<<runBits-1) }

// watch is what a run tells of its packets.
func (c *capture) watch(t *target) func(rawprobe.Seen) {
	run := c.run(t)
	return func(s rawprobe.Seen) {
		if s.Number == 0 {
			return // it is on no wire
		}
		p := pcap.Captured{
			Packet: pcap.Packet{
				Data: s.Data, Time: s.Time, Stamped: !s.Unstamped, Direction: s.Direction, EtherType: etherType(&s.Event),
			},
			ID: run<<numberBits | uint64(s.Number)&(1<<numberBits-1), Loopback: s.Loopback, Comment: report.PacketComment(s),
		}
		if s.Cut {
			p.Length = wireLength(s.Data)
		}
		if s.Hardware != [6]byte{} {
			p.LinkAddrLen = copy(p.LinkAddr[:], s.Hardware[:])
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		var ok bool
		if p.Interface, ok = c.number(s.Interface); ok {
			c.keep(c.file.WritePacket(&p))
		}
	}
}

// wireLength is how long a packet was that is cut, by its header.
func wireLength(b []byte) int {
	n := 0
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		n = int(binary.BigEndian.Uint16(b[2:]))
	case len(b) >= 40:
		n = 40 + int(binary.BigEndian.Uint16(b[4:]))
	}
	return max(n, len(b)+1)
}

func etherType(ev *rawprobe.Event) uint16 {
	switch {
	case ev.ARP:
		return pcap.EtherTypeARP
	case len(ev.Data) > 0 && ev.Data[0]>>4 == 6:
		return pcap.EtherTypeIPv6
	}
	return pcap.EtherTypeIPv4
}

// number is an interface's number in the file. It is false where nothing can be
// written any more.
func (c *capture) number(index int) (int, bool) {
	if c.failed != nil {
		return 0, false
	}
	if id, ok := c.ids[index]; ok {
		return id, true
	}
	name := "none" // no route, no interface
	if index != 0 {
		name = "if" + strconv.Itoa(index)
	}
	for _, i := range c.interfaces {
		if i.Index == index {
			name = i.Name
		}
	}
	id, err := c.file.AddInterface(pcap.FileInterface{Name: name})
	c.keep(err)
	c.ids[index] = id
	return id, err == nil
}

// keep remembers the first error.
func (c *capture) keep(err error) {
	if c.failed == nil {
		c.failed = err
	}
}

// end closes a target's part of the file: the answer, and what no packet shows.
func (c *capture) end(t *target, addresses []netip.Addr, seen *rawprobe.Observations, result *report.Result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, ok := c.number(seen.Machine.Interface.Index)
	if !ok {
		return
	}
	indexes := make(map[int]int)
	for index, id := range c.ids {
		indexes[id] = index
	}
	var b bytes.Buffer
	c.keep(result.ToJSON(&b))
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	c.keep(e.Encode(record{recordSchema, c.run(t), t.host, addresses, indexes, rawprobe.NewRecord(seen)}))
	if c.failed != nil {
		return
	}
	c.keep(c.file.WriteStatistics(pcap.Statistics{
		Interface: id, Time: seen.End, Start: seen.Start, End: seen.End,
		Received: seen.Tap.Packets, Dropped: seen.Tap.Drops, Comment: b.String(),
	}))
}

// closeCapture ends the file and returns the exit code that its failure asks
// for, 0 for none. That nobody reads a pipe to its end is no failure. A file
// that holds neither a packet nor an answer is removed: where a run lacks
// privilege or a name, the next try gives the same command line.
func (r *run) closeCapture() int {
	c := r.capture
	if c == nil {
		return exitOK
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.out.file; f != nil {
		made, err := f.Stat()
		c.keep(f.Close())
		if c.failed == nil && err == nil && c.out.size == c.head {
			if now, err := os.Lstat(c.name); err == nil && os.SameFile(made, now) {
				c.keep(os.Remove(c.name))
			}
		}
	}
	if c.failed == nil || c.name == "-" && errors.Is(c.failed, syscall.EPIPE) {
		return exitOK
	}
	r.complain(writeFailure(c.name, c.failed))
	return exitIO
}
