package pcap

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// gopacket's reader (pcapgo, v1.1.19) leaves out directions and comments of packets, and panics, divides by zero or allocates
// gigabytes for lengths that a hostile file makes up. This one trusts no number in the file.

// ErrNoCapture means that a file is neither pcap nor pcapng.
var ErrNoCapture = errors.New("neither pcap nor pcapng")

// The bounds of what a file may ask for.
const (
	// maxBlock is libpcap's (sf-pcapng.c, INITIAL_MAX_BLOCKSIZE): 16 MiB.
	maxBlock = 16 << 20
	// maxKept is how much of a packet is kept: more than any header, and than any quote.
	maxKept = MaxSnapLen
	// maxInterfaces and maxStatistics bound what a file makes us keep beside its packets.
	maxInterfaces = 1 << 12
	maxStatistics = 1 << 12
	// maxComment bounds the comment of a packet.
	maxComment = 8 << 10
	// maxText bounds all comments of one block of statistics together.
	maxText = 4 << 20
	// maxTexts bounds the texts of all statistics together.
	maxTexts = 64 << 20
)

// The first bytes of files. A pcap file's tell the units of its times, and its byte order.
const (
	magicMicro = 0xa1b2c3d4
	magicNano  = 0xa1b23c4d
)

// A Reader reads a capture file, pcap or pcapng, of whatever program. What it takes of memory does not depend on the
// lengths that the file claims, only on what is there, and is bounded. Its methods are not to be called from several
// goroutines at once.
type Reader struct {
	r       *bufio.Reader
	order   binary.ByteOrder
	classic bool // pcap

	interfaces []fileInterface
	base       int // the number of the section's first interface
	statistics []Statistics
	texts      int // bytes of text in statistics
	cut        bool
	buf        bytes.Buffer
}

type fileInterface struct {
	FileInterface
	unit resolution
	snap uint32
}

// NewReader reads the head of a file. Its errors are ErrNoCapture and those of r.
func NewReader(r io.Reader) (*Reader, error) {
	f := &Reader{r: bufio.NewReader(r)}
	head, err := f.r.Peek(4)
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil, ErrNoCapture
		}
		return nil, err
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch order.Uint32(head) {
		case blockSection:
			return f, f.first()
		case magicMicro, magicNano:
			f.order, f.classic = order, true
			return f, f.header()
		}
	}
	return nil, ErrNoCapture
}

// first reads the section header that every pcapng file starts with.
func (f *Reader) first() error {
	typ, body, err := f.block()
	switch {
	case errors.Is(err, io.EOF):
		return ErrNoCapture
	case err != nil:
		return err
	}
	return f.take(typ, body)
}

// header reads the head of a pcap file.
func (f *Reader) header() error {
	var h [24]byte
	if _, err := io.ReadFull(f.r, h[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return ErrNoCapture
		}
		return err
	}
	i := fileInterface{unit: resolution{perSecond: 1e6}}
	if f.order.Uint32(h[:]) == magicNano {
		i.unit.perSecond = 1e9
	}
	i.LinkType = uint16(f.order.Uint32(h[20:])) // above it are flags, about a checksum at the end of each frame
	f.interfaces = []fileInterface{i}
	return nil
}

// Interface describes an interface by the number that a packet or a statistic has. It is zero for one that there is not.
func (f *Reader) Interface(i int) FileInterface {
	if i < 0 || i >= len(f.interfaces) {
		return FileInterface{}
	}
	return f.interfaces[i].FileInterface
}

// Statistics are those read so far: all of the file's once Read has returned io.EOF.
func (f *Reader) Statistics() []Statistics { return f.statistics }

// Cut reports whether the file ended in the middle of a block, as one does whose program was killed.
func (f *Reader) Cut() bool { return f.cut }

// Read reads the next packet into p, whose old content is lost. At the end of the file it returns io.EOF, also where the last
// block is cut (see [Reader.Cut]). Other errors say what is wrong with the file, or are those of the underlying reader;
// after one there is nothing more to read.
func (f *Reader) Read(p *Captured) error {
	*p = Captured{}
	if f.classic {
		return f.record(p)
	}
	for {
		typ, body, err := f.block()
		if err != nil {
			return err
		}
		switch typ {
		case blockPacket, blockOldPacket, blockSimplePacket:
			return f.packet(typ, body, p)
		default:
			if err := f.take(typ, body); err != nil {
				return err
			}
		}
	}
}

// malformed is the error for what no program would write.
func malformed(what string) error { return fmt.Errorf("malformed capture: %s", what) }

// record reads one packet of a pcap file.
func (f *Reader) record(p *Captured) error {
	var h [16]byte
	if _, err := io.ReadFull(f.r, h[:]); err != nil {
		return f.ended(err)
	}
	i := &f.interfaces[0]
	length := f.order.Uint32(h[8:])
	if length > maxBlock {
		return malformed("a packet longer than any")
	}
	body, err := f.bytes(int(length))
	if err != nil {
		return err
	}
	sec, rest := uint64(f.order.Uint32(h[:])), uint64(f.order.Uint32(h[4:]))
	p.Time, p.Stamped = i.unit.time(sec*i.unit.perSecond + rest)
	f.fill(p, i.LinkType, body, int64(f.order.Uint32(h[12:])))
	return nil
}

// ended makes an end where there was to be more an end, and remembers it.
func (f *Reader) ended(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		f.cut = true
		return io.EOF
	}
	return err
}

// bytes reads n bytes, which are valid until the next call. The buffer grows with what is there, not with n.
func (f *Reader) bytes(n int) ([]byte, error) {
	f.buf.Reset()
	if _, err := io.CopyN(&f.buf, f.r, int64(n)); err != nil {
		return nil, f.ended(unexpected(err))
	}
	return f.buf.Bytes(), nil
}

// block reads one block and returns its body, which is valid until the next call.
func (f *Reader) block() (typ uint32, body []byte, err error) {
	var h [12]byte
	if _, err := io.ReadFull(f.r, h[:8]); err != nil {
		return 0, nil, f.ended(err)
	}
	fixed := 8
	// The type of a section header reads the same in both byte orders, which its magic tells.
	if binary.LittleEndian.Uint32(h[:]) == blockSection {
		if _, err := io.ReadFull(f.r, h[8:12]); err != nil {
			return 0, nil, f.ended(unexpected(err))
		}
		switch uint32(byteOrderMagic) {
		case binary.LittleEndian.Uint32(h[8:]):
			f.order = binary.LittleEndian
		case binary.BigEndian.Uint32(h[8:]):
			f.order = binary.BigEndian
		default:
			return 0, nil, ErrNoCapture
		}
		fixed = 12
	}
	typ = f.order.Uint32(h[:])
	length := f.order.Uint32(h[4:])
	if length%4 != 0 || length < uint32(fixed)+4 || length > maxBlock {
		return 0, nil, malformed("a block of a length that none has")
	}
	body, err = f.bytes(int(length) - fixed)
	if err != nil {
		return 0, nil, err
	}
	n := len(body) - 4
	if f.order.Uint32(body[n:]) != length {
		return 0, nil, malformed("a block whose two lengths differ")
	}
	return typ, body[:n], nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// take takes in a block that is no packet.
func (f *Reader) take(typ uint32, body []byte) error {
	switch typ {
	case blockSection:
		// Version 1.2 was written for 1.0 by some (section 4.1).
		if len(body) < 12 || f.order.Uint16(body) != 1 {
			return malformed("a section of another version than 1")
		}
		f.base = len(f.interfaces)
	case blockInterface:
		return f.describe(body)
	case blockStatistics:
		return f.statistic(body)
	}
	return nil
}

func (f *Reader) describe(body []byte) error {
	if len(body) < 8 {
		return malformed("a short interface description")
	}
	if len(f.interfaces) >= maxInterfaces {
		return malformed("too many interfaces")
	}
	i := fileInterface{snap: f.order.Uint32(body[4:]), unit: resolution{perSecond: 1e6}}
	i.LinkType = f.order.Uint16(body)
	err := f.options(body[8:], func(code uint16, v []byte) error {
		switch {
		case code == optName:
			i.Name = string(v[:min(len(v), 256)])
		case code == optDescription:
			i.Description = string(v[:min(len(v), 1024)])
		case code == optResolution && (len(v) < 1 || !i.unit.set(v[0])):
			return malformed("an impossible resolution of times")
		case code == optOffset && len(v) == 8:
			i.unit.offset = int64(f.order.Uint64(v))
		}
		return nil
	})
	f.interfaces = append(f.interfaces, i)
	return err
}

func (f *Reader) statistic(body []byte) error {
	if len(body) < 12 {
		return malformed("short statistics")
	}
	if len(f.statistics) >= maxStatistics {
		return malformed("too many statistics")
	}
	i, err := f.number(f.order.Uint32(body))
	if err != nil {
		return err
	}
	unit := f.interfaces[i].unit
	s := Statistics{Interface: i}
	s.Time, _ = unit.time(f.stamp(body[4:]))
	var comment strings.Builder
	err = f.options(body[12:], func(code uint16, v []byte) error {
		switch {
		case code == optComment:
			if f.texts += len(v); f.texts > maxTexts || comment.Len()+len(v) > maxText {
				return malformed("too long a comment")
			}
			comment.Write(v)
		case len(v) != 8:
		case code == optStart:
			s.Start, _ = unit.time(f.stamp(v))
		case code == optStop:
			s.End, _ = unit.time(f.stamp(v))
		case code == optReceived:
			s.Received = f.order.Uint64(v)
		case code == optDropped:
			s.Dropped = f.order.Uint64(v)
		}
		return nil
	})
	s.Comment = comment.String()
	f.statistics = append(f.statistics, s)
	return err
}

// stamp reads a time: its high half comes first in both byte orders.
func (f *Reader) stamp(b []byte) uint64 {
	return uint64(f.order.Uint32(b))<<32 | uint64(f.order.Uint32(b[4:]))
}

// number finds a section's interface in the file.
func (f *Reader) number(n uint32) (int, error) {
	if uint64(n) >= uint64(len(f.interfaces)-f.base) {
		return 0, malformed("a packet on an interface that was not described")
	}
	return f.base + int(n), nil
}

// packet takes a packet out of its block: an enhanced packet block (section 4.3), a simple one without time and
// options (4.4), or one of the kind before (A.1).
func (f *Reader) packet(typ uint32, body []byte, p *Captured) error {
	var iface, length, wire uint32
	at := 20
	switch {
	case typ == blockSimplePacket && len(body) >= 4:
		wire, at = f.order.Uint32(body), 4
		length = min(wire, uint32(len(body)-4))
	case len(body) < 20:
		return malformed("a short packet block")
	case typ == blockOldPacket:
		iface = uint32(f.order.Uint16(body))
		length, wire = f.order.Uint32(body[12:]), f.order.Uint32(body[16:])
	default:
		iface = f.order.Uint32(body)
		length, wire = f.order.Uint32(body[12:]), f.order.Uint32(body[16:])
	}
	i, err := f.number(iface)
	if err != nil {
		return err
	}
	if snap := f.interfaces[i].snap; typ == blockSimplePacket && snap != 0 {
		length = min(length, snap)
	}
	if uint64(length) > uint64(len(body)-at) {
		return malformed("a packet longer than its block")
	}
	p.Interface = i
	data := body[at : at+int(length)]
	if typ != blockSimplePacket {
		p.Time, p.Stamped = f.interfaces[i].unit.time(f.stamp(body[4:]))
		err = f.options(body[min(at+(int(length)+3)&^3, len(body)):], func(code uint16, v []byte) error {
			switch {
			case code == optComment:
				p.Comment = joined(p.Comment, v)
			case code == optFlags && len(v) == 4:
				p.Direction = flagged(f.order.Uint32(v))
			case code == optPacketID && len(v) == 8:
				p.ID = f.order.Uint64(v)
			}
			return nil
		})
	}
	f.fill(p, f.interfaces[i].LinkType, data, int64(wire))
	return err
}

// flagged is the direction in a packet's flags.
func flagged(flags uint32) Direction {
	switch {
	case flags&flagDirection == flagOutbound:
		return Outgoing
	case flags&flagDirection != flagInbound:
		return Unknown
	case flags&flagReception == flagPromiscuous:
		return OtherHost
	}
	return Incoming
}

// fill completes a packet by its bytes.
func (f *Reader) fill(p *Captured, link uint16, frame []byte, wire int64) {
	p.Data = append([]byte(nil), frame[:min(len(frame), maxKept)]...)
	p.Length = int(max(wire, int64(len(p.Data))))
	p.unwrap(link)
	if !p.Stamped {
		p.Time = time.Time{}
	}
}

// options calls take for each option in b, until it returns an error.
func (f *Reader) options(b []byte, take func(code uint16, value []byte) error) error {
	for len(b) >= 4 {
		code, n := f.order.Uint16(b), int(f.order.Uint16(b[2:]))
		if code == optEnd {
			return nil
		}
		if b = b[4:]; n > len(b) {
			return malformed("an option longer than its block")
		}
		if err := take(code, b[:n]); err != nil {
			return err
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

// joined adds a line to a text that is kept short.
func joined(text string, line []byte) string {
	if len(line) == 0 || len(text) >= maxComment {
		return text
	}
	if text != "" {
		text += "\n"
	}
	text += string(line)
	return text[:min(len(text), maxComment)]
}
