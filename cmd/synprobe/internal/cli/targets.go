package cli

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"synprobe/cmd/synprobe/internal/report"
	"synprobe/rawprobe/batch"
	"synprobe/traceroute/diagnose"
)

const (
	// longestLine of a file, in bytes: all 65,535 ports by number are not
	// longer.
	longestLine = 512 << 10
	// shownLines is how many bad lines are told.
	shownLines = 10
	// longestReason is how much of a reason is told, in bytes.
	longestReason = 200
	// lookupsTogether is how many names are looked up at once.
	lookupsTogether = 32
)

// gathered is what the command line and its files name.
type gathered struct {
	blocks     []batch.Block
	total      uint64
	duplicates uint64
	called     map[netip.Addr]string // the names of addresses that were named so
	expect     *expectation          // nil without --expect
}

// A gatherer reads targets of many, from arguments and files.
type gatherer struct {
	run        *run
	interfaces []Interface
	set        targetSet
	lists      map[string]uint32 // by the text of a list of ports
	names      map[netip.Addr]string
	waiting    map[string][]use // names that are not looked up yet
	order      []string         // those, as they came
	bad        []badLine        // the first few
	nBad       int
	expect     *expectation
}

// A use is a line that has a name.
type use struct {
	file    string
	line    int // 0 for an argument
	list    uint32
	verdict diagnose.Verdict // of --expect, else empty
	probe   bool             // with a verdict: probe it too
}

type badLine struct {
	file string
	line int
	why  string
}

// gather reads all targets and looks up their names. Nothing was sent where it
// fails; it has told why then.
func (r *run) gather(ctx context.Context, interfaces []Interface) (*gathered, int) {
	g := &gatherer{run: r, interfaces: interfaces, lists: map[string]uint32{}, names: map[netip.Addr]string{}, waiting: map[string][]use{}}
	if err := g.readAll(ctx); err != nil {
		return nil, r.fail(nil, err)
	}
	// No name server is asked for a list that is refused.
	if code := g.refuse(); code != exitOK {
		return nil, code
	}
	if err := g.lookUp(ctx); err != nil {
		return nil, r.fail(err.target, err)
	}
	if ctx.Err() != nil {
		return nil, r.fail(nil, ctx.Err())
	}
	if code := g.refuse(); code != exitOK {
		return nil, code
	}
	if g.nBad > 0 {
		g.tell()
		fmt.Fprintf(r.env.Stderr, "synprobe: %s left out\n", report.Count(uint64(g.nBad), "bad line"))
	}
	out := &gathered{called: g.names, expect: g.expect}
	var err error
	if out.blocks, out.total, out.duplicates, err = g.set.blocks(); err != nil {
		return nil, r.fail(nil, misuse("the targets", err.Error(), "split them into several runs"))
	}
	if out.total == 0 {
		return nil, r.fail(nil, misuse("no target", "the list has none", "one HOST:PORT, NETWORK:PORTS or HOST PORT a line"))
	}
	if g.expect != nil {
		if err := g.expect.settle(); err != nil {
			return nil, r.fail(nil, err)
		}
	}
	return out, exitOK
}

func (g *gatherer) readAll(ctx context.Context) error {
	f := g.run.flags
	if len(f.args) > 0 || len(f.batch.targets) == 0 && f.batch.expect == "" {
		pairs, err := split(f.args)
		if err != nil {
			return err
		}
		for _, p := range pairs {
			if err := g.take(ctx, p, use{}); err != nil {
				return err
			}
		}
	}
	for _, name := range f.batch.targets {
		err := g.readFile(ctx, name, "--targets", func(n int, text string) *failure {
			p, err := splitLine(text)
			if err != nil {
				return err
			}
			return g.take(ctx, p, use{file: name, line: n})
		})
		if err != nil {
			return err
		}
	}
	name := f.batch.expect
	if name == "" {
		return nil
	}
	g.expect = &expectation{file: name}
	probe := len(f.args) == 0 && len(f.batch.targets) == 0
	return g.readFile(ctx, name, "--expect", func(n int, text string) *failure {
		p, verdict, err := splitExpected(text)
		if err != nil {
			return err
		}
		if verdict == "" {
			g.expect.errors++
			return nil
		}
		return g.take(ctx, p, use{file: name, line: n, verdict: verdict, probe: probe})
	})
}

// refuse reports the bad lines, unless they are to be left out.
func (g *gatherer) refuse() int {
	if g.nBad == 0 || g.run.flags.batch.skipBad {
		return exitOK
	}
	what := fileName(g.bad[0].file)
	for _, b := range g.bad {
		if b.file != g.bad[0].file {
			what = "the files"
		}
	}
	g.tell()
	return g.run.fail(nil, misuse(what, report.Count(uint64(g.nBad), "bad line")+", nothing was sent", "--skip-bad leaves them out"))
}

// tell prints the bad lines, the first few of them.
func (g *gatherer) tell() {
	slices.SortStableFunc(g.bad, func(a, b badLine) int {
		if a.file != b.file {
			return 0 // as they were read
		}
		return cmp.Compare(a.line, b.line)
	})
	var b bytes.Buffer
	for _, l := range g.bad {
		fmt.Fprintf(&b, "synprobe: %s:%d: %s\n", fileName(l.file), l.line, oneLine(l.why))
	}
	if more := g.nBad - len(g.bad); more > 0 {
		fmt.Fprintf(&b, "synprobe: and %s\n", report.Count(uint64(more), "more bad line"))
	}
	_, _ = g.run.env.Stderr.Write(b.Bytes())
	g.bad = nil
}

// fileName is how a file is told of.
func fileName(name string) string {
	if name == "-" {
		return "standard input"
	}
	return report.Escape(name)
}

func (g *gatherer) isBad(file string, line int, err *failure) {
	g.nBad++
	if len(g.bad) < shownLines {
		why := err.message()
		if len(why) > longestReason {
			why = strings.ToValidUTF8(why[:longestReason], "") + "…"
		}
		g.bad = append(g.bad, badLine{file, line, why})
	}
}

// readFile gives each line that holds anything to use, without its comment and
// the space around it. What use refuses is a bad line.
func (g *gatherer) readFile(ctx context.Context, name, flag string, use func(n int, text string) *failure) error {
	in := g.run.env.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return misuse(flag+" "+report.Escape(name), cause(err), "")
		}
		defer f.Close()
		in = f
	}
	b := bufio.NewReaderSize(&stoppable{ctx: ctx, in: in, buf: make([]byte, 64<<10)}, longestLine)
	for n := 1; ; n++ {
		line, err := b.ReadSlice('\n')
		long := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = b.ReadSlice('\n')
		}
		if long {
			g.isBad(name, n, misuse(fmt.Sprintf("longer than %d bytes", longestLine), "", ""))
		} else if text := content(line, n == 1); text != "" {
			if bad := use(n, text); bad != nil {
				g.isBad(name, n, bad)
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return &failure{kind: report.IOError, what: "read " + fileName(name), why: cause(err)}
		}
	}
}

// A stoppable reader ends with its context, also while a terminal or a pipe
// keeps it waiting.
type stoppable struct {
	ctx context.Context
	in  io.Reader
	buf []byte
}

func (s *stoppable) Read(b []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		// Not into b, which is its owner's again once the context has ended.
		n, err := s.in.Read(s.buf[:min(len(b), len(s.buf))])
		done <- result{n, err}
	}()
	select {
	case r := <-done:
		return copy(b, s.buf[:r.n]), r.err
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	}
}

// content is a line without its comment and the space around it. A comment
// starts at the line's start or behind a space.
func content(line []byte, first bool) string {
	if first {
		line = bytes.TrimPrefix(line, []byte("\ufeff")) // some editors put it there
	}
	text := string(line)
	for i := 0; i < len(text); i++ {
		if text[i] == '#' && (i == 0 || text[i-1] == ' ' || text[i-1] == '\t') {
			text = text[:i]
		}
	}
	return strings.TrimSpace(text)
}

// splitLine reads HOST:PORT or HOST PORT, each with networks and lists of ports.
func splitLine(text string) (pair, *failure) {
	fields := strings.Fields(text)
	if len(fields) > 2 {
		return pair{}, misuse(clip(text), fmt.Sprintf("%d words, where a line has HOST:PORT or HOST PORT", len(fields)), "")
	}
	p, err := splitHostPort(fields[0])
	switch {
	case err != nil:
		return p, asFailure(err)
	case len(fields) == 2 && p.colon:
		return p, misuse(clip(text), "two ports for one host", "")
	case len(fields) == 2:
		p.port = fields[1]
	case p.port == "":
		return p, misuse(clip(text), "no port", "")
	}
	return p, nil
}

// clip keeps a message to a line.
func clip(s string) string {
	const most = 60
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return report.Escape(s)
}

// take adds a target or a network by ports to the set. A name waits.
func (g *gatherer) take(ctx context.Context, p pair, u use) *failure {
	list, bad := g.portList(ctx, p.port)
	if bad != nil {
		return bad
	}
	u.list = list
	prefix, bad := g.run.readNetwork(p.host, g.interfaces, len(g.set.ports.lists[list]))
	switch {
	case bad != nil:
		return bad
	case !prefix.IsValid():
		g.wait(p.host, u)
		return nil
	}
	return g.use(prefix, u)
}

func (g *gatherer) wait(name string, u use) {
	if g.waiting[name] == nil {
		name = strings.Clone(name)
		g.order = append(g.order, name)
	}
	g.waiting[name] = append(g.waiting[name], u)
}

// readNetwork returns the network, or the one address, that a host of many is,
// and the zero Prefix for a name.
func (r *run) readNetwork(host string, interfaces []Interface, ports int) (netip.Prefix, *failure) {
	if !strings.Contains(host, "/") {
		t := &target{host: host}
		if bad := r.readHost(t, interfaces); bad != nil || !t.addr.IsValid() {
			return netip.Prefix{}, bad
		}
		if t.addr.IsLinkLocalUnicast() && t.addr.Is6() {
			return netip.Prefix{}, linkLocal(host)
		}
		return netip.PrefixFrom(t.addr, t.addr.BitLen()), nil
	}
	shown := clip(host)
	p, err := netip.ParsePrefix(host)
	switch {
	case err != nil:
		return p, misuse(shown, "not a network", "as in 10.0.0.0/24, or [2001:db8::/120]:22")
	case p.Addr().Is4In6():
		return p, misuse(shown, "an IPv4 network in IPv6 form: write it as IPv4", "")
	case p != p.Masked():
		return p, misuse(shown, fmt.Sprintf("the address has bits behind the prefix; the network is %v", p.Masked()), "one address is written without a slash")
	case !r.flags.wantsFamily(p.Addr()):
		return p, misuse(shown, fmt.Sprintf("an %s network, with %s", family(p.Addr()), r.flags.familyFlag()), "leave out "+r.flags.familyFlag())
	}
	if n := p.Addr().BitLen() - p.Bits(); n > 32 || uint64(ports)<<n > maxTargets {
		return p, misuse(shown, fmt.Sprintf("2^%d addresses by %s, where a run takes %d targets", n, report.Count(uint64(ports), "port"), uint64(maxTargets)), "name smaller networks")
	}
	if p.Overlaps(linkLocals) {
		return p, linkLocal(host)
	}
	for _, m := range multicasts {
		if p.Overlaps(m) {
			return p, misuse(shown, fmt.Sprintf("it holds the multicast addresses of %v: TCP connects to one host", m), "")
		}
	}
	if why := nobody(p.Addr()); why != "" {
		return p, misuse(shown, why, "")
	}
	if p.Contains(broadcast) {
		return p, misuse(shown, fmt.Sprintf("it holds the broadcast address %v: TCP connects to one host", broadcast), "")
	}
	return p, nil
}

var (
	linkLocals = netip.MustParsePrefix("fe80::/10")
	multicasts = []netip.Prefix{netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("ff00::/8")}
	broadcast  = netip.AddrFrom4([4]byte{255, 255, 255, 255})
)

func linkLocal(host string) *failure {
	return misuse(clip(host), "a link-local address can't be one of many", "probe it alone, as in: synprobe fe80::1%eth0 22")
}

// portList reads PORT, PORT,PORT and PORT-PORT, with names of services as
// single ports, and returns the list's number.
func (g *gatherer) portList(ctx context.Context, text string) (uint32, *failure) {
	if n, ok := g.lists[text]; ok {
		return n, nil
	}
	var ports []uint16
	for item := range strings.SplitSeq(text, ",") {
		from, to, ranged := strings.Cut(item, "-")
		if !ranged || !isPort(from) || !isPort(to) {
			p, bad := g.run.readPort(ctx, item)
			if bad != nil {
				if item != text {
					bad.what += " in " + clip(text)
				}
				return 0, bad
			}
			ports = append(ports, p)
			continue
		}
		first, bad := g.run.readPort(ctx, from)
		if bad != nil {
			return 0, bad
		}
		last, bad := g.run.readPort(ctx, to)
		switch {
		case bad != nil:
			return 0, bad
		case last < first:
			return 0, misuse("ports "+clip(item), "the first is above the last", fmt.Sprintf("as in %d-%d", last, first))
		}
		for p := int(first); p <= int(last); p++ {
			ports = append(ports, uint16(p))
		}
	}
	slices.Sort(ports)
	n, err := g.set.ports.intern(slices.Compact(ports))
	if err != nil {
		return 0, misuse("ports "+clip(text), err.Error(), "name fewer, or use ranges that are alike")
	}
	g.lists[strings.Clone(text)] = n
	return n, nil
}

// lookUp looks up all names that wait, several at once, and adds their targets.
// A name that fails makes its lines bad; that of an argument fails the run.
func (g *gatherer) lookUp(ctx context.Context) *failure {
	type found struct {
		addr netip.Addr
		err  error
	}
	all := make([]found, len(g.order))
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(lookupsTogether, len(g.order)) {
		workers.Go(func() {
			for i := range next {
				func() {
					defer func() {
						if p := recover(); p != nil {
							all[i].err = bug(p)
						}
					}()
					all[i].addr, _, all[i].err = g.run.choose(ctx, &target{host: g.order[i]})
				}()
			}
		})
	}
	for i := range g.order {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	workers.Wait()
	if ctx.Err() != nil {
		return nil // the caller looks
	}
	for i, name := range g.order {
		f := all[i]
		if f.err == nil && f.addr.Is6() && f.addr.IsLinkLocalUnicast() {
			f.err = linkLocal(name)
		}
		for _, u := range g.waiting[name] {
			err := f.err
			if err == nil {
				if bad := g.use(netip.PrefixFrom(f.addr, f.addr.BitLen()), u); bad != nil {
					err = bad
				}
			}
			if err == nil {
				continue
			}
			bad := asFailure(err)
			if bad.kind == report.Internal || u.line == 0 {
				bad.target = &target{host: name}
				return bad
			}
			g.isBad(u.file, u.line, bad)
		}
		if f.err == nil && g.names[f.addr] == "" {
			g.names[f.addr] = name
		}
	}
	g.waiting, g.order = nil, nil
	return nil
}
