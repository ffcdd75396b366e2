package pcap

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"time"
	"unicode/utf8"
)

// Capture files: pcapng is written, pcapng and pcap are read. The format is that of draft-ietf-opsawg-pcapng; its
// sections are named at the line.

// A Section is what the head of a capture file says about its making (section 4.1). Empty fields are left out.
type Section struct {
	Hardware    string // the machine
	OS          string // its operating system
	Application string // the program that captured
	Comment     string
}

// A FileInterface is an interface as a capture file describes it (section 4.2).
type FileInterface struct {
	Name        string
	Description string
	// LinkType says how the packets' link-layer header looks (https://www.tcpdump.org/linktypes.html). A [Writer]
	// always writes Linux's own, whatever is asked for: it carries the direction, and fits every kind of link.
	LinkType uint16
}

// A Captured is one packet of a capture file. The link-layer header is taken off, as a [Listener] does it.
type Captured struct {
	// Packet is the packet. Its Interface is the number of the interface in the file; Direction is Unknown where
	// the file does not tell it; EtherType is 0 where the link-layer header is not understood, and Data is then
	// the whole frame. Stamped is false where the file has no time for the packet; Time is zero then. Read gives each
	// packet Data of its own.
	Packet
	// ID is a number by which the packet is known in the file (epb_packetid), 0 for none.
	ID uint64
	// Loopback says that the packet was on a loopback interface, as far as the link-layer header tells, or its addresses
	// where that is one of BSD's tunnels too.
	Loopback bool
	// Comment is what the file says about the packet; lines are joined where there are several comments.
	Comment string
}

// Statistics close the capture on one interface (section 4.6).
type Statistics struct {
	Interface         int // the number of the interface in the file
	Time              time.Time
	Start, End        time.Time // of the capture; a zero time is left out
	Received, Dropped uint64    // packets
	// Comment may have any length: a longer one than fits into an option is continued in the next, and put
	// together again by [Reader].
	Comment string
}

// Types of blocks (section 11.1).
const (
	blockInterface    = 1
	blockOldPacket    = 2
	blockSimplePacket = 3
	blockStatistics   = 5
	blockPacket       = 6
	blockSection      = 0x0a0d0d0a
)

// Codes of options. Those from 2 on mean something else in each type of block.
const (
	optEnd     = 0
	optComment = 1

	optHardware    = 2 // of a section
	optOS          = 3
	optApplication = 4

	optName        = 2 // of an interface
	optDescription = 3
	optResolution  = 9
	optOffset      = 14

	optFlags    = 2 // of a packet
	optPacketID = 5

	optStart    = 2 // of statistics
	optStop     = 3
	optReceived = 4
	optDropped  = 5
)

// The bits of a packet's flags (section 4.3.1): direction, and how it was received.
const (
	flagInbound     = 1
	flagOutbound    = 2
	flagPromiscuous = 4 << 2 // not for this machine
	flagDirection   = 3
	flagReception   = 7 << 2
)

// nanoseconds is the resolution of all times that are written: 10⁻⁹ s.
const nanoseconds = 9

// maxOption is the longest value that fits an option, whose length has 16 bits.
const maxOption = 65532

// byteOrderMagic tells the byte order of a section.
const byteOrderMagic = 0x1a2b3c4d

// A Writer writes a capture file, each block in one Write: whatever ends the program, the file holds whole blocks. Its
// methods are not to be called from several goroutines at once. An error of the underlying writer is returned as it is.
type Writer struct {
	w          io.Writer
	interfaces int
	block      []byte
}

// NewWriter begins a file with its one section.
func NewWriter(w io.Writer, s Section) (*Writer, error) {
	f := &Writer{w: w}
	f.begin(blockSection)
	f.block = binary.LittleEndian.AppendUint32(f.block, byteOrderMagic)
	f.block = binary.LittleEndian.AppendUint16(f.block, 1) // major version
	f.block = binary.LittleEndian.AppendUint16(f.block, 0)
	f.block = binary.LittleEndian.AppendUint64(f.block, ^uint64(0)) // "-1": the length of the section is not given
	f.text(optHardware, s.Hardware)
	f.text(optOS, s.OS)
	f.text(optApplication, s.Application)
	f.text(optComment, s.Comment)
	return f, f.end()
}

// AddInterface describes an interface and returns its number, which counts from 0. It must come before the
// packets on it.
func (f *Writer) AddInterface(i FileInterface) (int, error) {
	f.begin(blockInterface)
	f.block = binary.LittleEndian.AppendUint16(f.block, linkLinuxSLL)
	f.block = append(f.block, 0, 0)
	f.block = binary.LittleEndian.AppendUint32(f.block, 0) // no limit to the length of a packet
	f.text(optName, i.Name)
	f.text(optDescription, i.Description)
	f.option(optResolution, []byte{nanoseconds})
	f.interfaces++
	return f.interfaces - 1, f.end()
}

// WritePacket writes one packet, on an interface that was added. Data begins at the network header.
func (f *Writer) WritePacket(p *Captured) error {
	if p.Interface < 0 || p.Interface >= f.interfaces {
		return fmt.Errorf("pcap: write: no interface %d", p.Interface)
	}
	f.begin(blockPacket)
	f.block = binary.LittleEndian.AppendUint32(f.block, uint32(p.Interface))
	f.time(p.Time)
	length := max(p.Length, len(p.Data))
	f.block = binary.LittleEndian.AppendUint32(f.block, uint32(sllLen+len(p.Data)))
	f.block = binary.LittleEndian.AppendUint32(f.block, uint32(sllLen+length))
	f.block = appendSLL(f.block, p)
	f.block = append(f.block, p.Data...)
	f.pad()
	f.text(optComment, p.Comment)
	var flags uint32
	switch p.Direction {
	case Incoming:
		flags = flagInbound
	case Outgoing:
		flags = flagOutbound
	case OtherHost:
		flags = flagInbound | flagPromiscuous
	}
	f.option(optFlags, binary.LittleEndian.AppendUint32(nil, flags))
	if p.ID != 0 {
		f.option(optPacketID, binary.LittleEndian.AppendUint64(nil, p.ID))
	}
	return f.end()
}

// WriteStatistics closes the capture on one interface. There may be several for the same.
func (f *Writer) WriteStatistics(s Statistics) error {
	if s.Interface < 0 || s.Interface >= f.interfaces {
		return fmt.Errorf("pcap: write: no interface %d", s.Interface)
	}
	f.begin(blockStatistics)
	f.block = binary.LittleEndian.AppendUint32(f.block, uint32(s.Interface))
	f.time(s.Time)
	for text := s.Comment; text != ""; {
		n := min(len(text), maxOption)
		for n < len(text) && n > 0 && !utf8.RuneStart(text[n]) {
			n--
		}
		if n == 0 { // no text at all
			n = min(len(text), maxOption)
		}
		f.text(optComment, text[:n])
		text = text[n:]
	}
	for _, t := range []struct {
		code uint16
		time time.Time
	}{{optStart, s.Start}, {optStop, s.End}} {
		if !t.time.IsZero() {
			f.option(t.code, appendTime(nil, t.time))
		}
	}
	f.option(optReceived, binary.LittleEndian.AppendUint64(nil, s.Received))
	f.option(optDropped, binary.LittleEndian.AppendUint64(nil, s.Dropped))
	return f.end()
}

// begin starts a block: its type, and room for its length.
func (f *Writer) begin(typ uint32) {
	f.block = binary.LittleEndian.AppendUint32(f.block[:0], typ)
	f.block = append(f.block, 0, 0, 0, 0)
}

// end completes the block by its length, which stands at both ends, and writes it.
func (f *Writer) end() error {
	f.block = append(f.block, 0, 0, 0, 0) // opt_endofopt
	length := uint32(len(f.block) + 4)
	binary.LittleEndian.PutUint32(f.block[4:], length)
	f.block = binary.LittleEndian.AppendUint32(f.block, length)
	_, err := f.w.Write(f.block)
	return err
}

func (f *Writer) pad() {
	for len(f.block)%4 != 0 {
		f.block = append(f.block, 0)
	}
}

func (f *Writer) option(code uint16, value []byte) {
	f.block = binary.LittleEndian.AppendUint16(f.block, code)
	f.block = binary.LittleEndian.AppendUint16(f.block, uint16(len(value)))
	f.block = append(f.block, value...)
	f.pad()
}

// text writes an option unless it is empty, and cuts what does not fit.
func (f *Writer) text(code uint16, s string) {
	if len(s) > maxOption {
		s = s[:maxOption]
	}
	if s != "" {
		f.option(code, []byte(s))
	}
}

// time writes a packet's time: the high half first, whatever the byte order (section 4.3).
func (f *Writer) time(t time.Time) { f.block = appendTime(f.block, t) }

func appendTime(b []byte, t time.Time) []byte {
	var ns uint64
	if !t.IsZero() {
		ns = uint64(t.UnixNano())
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(ns>>32))
	return binary.LittleEndian.AppendUint32(b, uint32(ns))
}

// A resolution says how long the units are in which an interface's times count. The zero value is microseconds, as
// where nothing is said.
type resolution struct {
	perSecond uint64
	offset    int64 // seconds to add
}

// maxSeconds keeps times within what time.Time, and whoever formats it, can do: the year 36812.
const maxSeconds = 1 << 40

// time is the moment of a count of units. It is false for one that is beyond all sense.
func (r resolution) time(units uint64) (time.Time, bool) {
	if r.perSecond == 0 {
		r.perSecond = 1e6
	}
	sec, rest := units/r.perSecond, units%r.perSecond
	if sec > maxSeconds || r.offset > maxSeconds || r.offset < -maxSeconds {
		return time.Time{}, false
	}
	hi, lo := bits.Mul64(rest, 1e9)
	ns, _ := bits.Div64(hi, lo, r.perSecond) // rest is less than perSecond, so the quotient is below 1e9
	return time.Unix(int64(sec)+r.offset, int64(ns)), true
}

// set reads an if_tsresol: a power of 10, or of 2 where the highest bit is set. It is false for units
// whose number in a second does not fit 64 bits.
func (r *resolution) set(v byte) bool {
	exponent := int(v &^ 0x80)
	r.perSecond = 1
	base := uint64(10)
	if v&0x80 != 0 {
		base = 2
	}
	for range exponent {
		hi, lo := bits.Mul64(r.perSecond, base)
		if hi != 0 {
			return false
		}
		r.perSecond = lo
	}
	return true
}
