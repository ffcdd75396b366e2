package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"synprobe/cmd/synprobe/internal/report"
	"synprobe/pcap"
	"synprobe/rawprobe"
)

// A capture may hold anything. These bound what is kept of our own runs; what
// others sent is bounded by rawprobe.Overhearer.
const (
	maxOwnPackets = 1 << 17
	maxOwnBytes   = 64 << 20
)

// taken is one run of ours in a capture.
type taken struct {
	run     uint64
	packets []rawprobe.Seen
	inFile  []int   // the packets' interfaces, by their numbers in the file
	record  *record // nil where the run was killed
}

// readCapture explains the capture of -r. It sends nothing and asks nobody.
func (r *run) readCapture(ctx context.Context) int {
	outcomes, err := r.explainCapture(ctx)
	if err != nil {
		return r.fail(nil, err)
	}
	code := exitOK
	for i, o := range outcomes {
		code = max(code, r.present(o, i == 0))
	}
	r.sayInterrupted(len(outcomes))
	return code
}

func (r *run) explainCapture(ctx context.Context) ([]outcome, error) {
	name, in := r.flags.read, r.env.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, readFailure(name, cause(err))
		}
		defer func() { _ = f.Close() }() // nothing was written
		in = f
	}
	wanted, err := r.wanted(ctx)
	if err != nil {
		return nil, err
	}
	c := &reading{r: r, runs: make(map[uint64]*taken)}
	if err := c.read(in); err != nil {
		return nil, c.failure(name, err)
	}
	if c.file.Cut() {
		_, _ = fmt.Fprintf(r.env.Stderr, "synprobe: %s: it ends in the middle of a packet\n", report.Escape(name))
	}
	if len(c.runs) > 0 {
		return c.own(name, wanted)
	}
	return c.others(name, wanted)
}

func readFailure(name, why string) *failure {
	return &failure{kind: report.IOError, what: "read " + report.Escape(name), why: why}
}

// asked is one HOST PORT of the command line.
type asked struct {
	host string
	addr netip.Addr // the zero Addr for a name
	port uint16
}

func (a asked) String() string { return report.Escape(report.Endpoint(a.host, a.port)) }

// wanted reads the arguments: which attempts to explain, none for all.
func (r *run) wanted(ctx context.Context) ([]asked, error) {
	if len(r.flags.args) == 0 {
		return nil, nil
	}
	pairs, err := split(r.flags.args)
	if err != nil {
		return nil, err
	}
	var all []asked
	for _, p := range pairs {
		a := asked{host: p.host}
		if addr, err := netip.ParseAddr(p.host); err == nil {
			a.addr = addr.Unmap().WithZone("")
		} else if err := checkName(p.host); err != nil {
			return nil, err
		}
		var err *failure
		if a.port, err = r.readPort(ctx, p.port); err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

// reading is a capture as it is read.
type reading struct {
	r       *run
	file    *pcap.Reader
	runs    map[uint64]*taken
	order   []*taken
	foreign rawprobe.Overhearer
	packets int
	bytes   int // of our own packets

	unknown uint16 // the link type of a packet that was not understood
	strange int    // how many there were
}

func (c *reading) failure(name string, err error) *failure {
	switch {
	case errors.Is(err, pcap.ErrNoCapture):
		return readFailure(name, "it is neither a pcap nor a pcapng file")
	case errors.Is(err, rawprobe.ErrMissing):
		f := readFailure(name, err.Error())
		f.hint = "explain the file as it was written"
		return f
	case errors.Is(err, rawprobe.ErrTooMuch):
		f := readFailure(name, "it holds too much")
		f.hint = "keep what concerns one host: tcpdump -r FILE -w LESS 'icmp or icmp6 or host ADDRESS'"
		return f
	}
	return readFailure(name, cause(err))
}

// read takes in the whole file.
func (c *reading) read(in io.Reader) error {
	var err error
	if c.file, err = pcap.NewReader(in); err != nil {
		return err
	}
	for {
		var p pcap.Captured
		switch err := c.file.Read(&p); {
		case errors.Is(err, io.EOF):
			c.records()
			return nil
		case err != nil:
			return err
		}
		if err := c.take(&p); err != nil {
			return err
		}
	}
}

func (c *reading) take(p *pcap.Captured) error {
	switch p.EtherType {
	case pcap.EtherTypeIPv4, pcap.EtherTypeIPv6, pcap.EtherTypeARP:
	case 0:
		c.strange++
		c.unknown = c.file.Interface(p.Interface).LinkType
		return nil
	default:
		return nil
	}
	c.packets++
	ev := rawprobe.Event{
		Data: p.Data, Time: p.Time, Unstamped: !p.Stamped, Cut: p.Length > len(p.Data), Direction: p.Direction,
		Interface: p.Interface + 1, Loopback: p.Loopback, ARP: p.EtherType == pcap.EtherTypeARP,
	}
	if p.LinkAddrLen == len(ev.Hardware) {
		ev.Hardware = [6]byte(p.LinkAddr[:])
	}
	// Others may number their packets too, but would not comment on each.
	run := p.ID >> numberBits
	if run>>runBits == 0 || p.Comment == "" {
		return c.foreign.Take(ev)
	}
	if c.packets > maxOwnPackets || c.bytes > maxOwnBytes {
		return rawprobe.ErrTooMuch
	}
	c.bytes += len(p.Data)
	t := c.of(run)
	t.packets = append(t.packets, rawprobe.Seen{Event: ev, Number: int(p.ID & (1<<numberBits - 1))})
	t.inFile = append(t.inFile, p.Interface)
	return nil
}

// of is a run of ours by its number.
func (c *reading) of(run uint64) *taken {
	t := c.runs[run]
	if t == nil {
		t = &taken{run: run}
		c.runs[run] = t
		c.order = append(c.order, t)
	}
	return t
}

// records finds what the closing blocks say about our own runs. Their first
// JSON text is the answer that was given then; it is not believed.
func (c *reading) records() {
	for _, s := range c.file.Statistics() {
		c.foreign.Until(s.End)
		if !strings.HasPrefix(s.Comment, "{") {
			continue
		}
		d := json.NewDecoder(strings.NewReader(s.Comment))
		var answer json.RawMessage
		var rec record
		if d.Decode(&answer) != nil || d.Decode(&rec) != nil || rec.Schema != recordSchema || rec.Record == nil || rec.Run>>runBits == 0 {
			continue
		}
		c.of(rec.Run).record = &rec
	}
	// By the targets' order on the command line; files that were put together
	// keep theirs.
	first := make(map[uint64]int)
	for i, t := range c.order {
		if _, ok := first[t.run>>runBits]; !ok {
			first[t.run>>runBits] = i
		}
	}
	slices.SortStableFunc(c.order, func(a, b *taken) int {
		if a.run>>runBits != b.run>>runBits {
			return first[a.run>>runBits] - first[b.run>>runBits]
		}
		return int(a.run) - int(b.run)
	})
}

// own explains the runs of our own.
func (c *reading) own(name string, wanted []asked) ([]outcome, error) {
	var all []outcome
	for _, t := range c.order {
		o, found, err := c.again(t)
		if err != nil {
			return nil, c.failure(name, err)
		}
		if found {
			all = append(all, o)
		}
	}
	if len(all) == 0 {
		return nil, misuse("read "+report.Escape(name), "there is no SYN in it", "")
	}
	if wanted == nil {
		return all, nil
	}
	var chosen []outcome
	for _, a := range wanted {
		n := len(chosen)
		for _, o := range all {
			if o.target.port == a.port && (o.target.host == a.host || o.target.addr.WithZone("") == a.addr) {
				chosen = append(chosen, o)
			}
		}
		if n == len(chosen) {
			var have []string
			for _, o := range all {
				have = append(have, report.Endpoint(o.target.host, o.target.port))
			}
			return nil, misuse("read "+report.Escape(name), "it does not ask about "+a.String(), "it has "+list(have))
		}
	}
	return chosen, nil
}

// again explains one run of our own. It finds nothing where none was sent.
func (c *reading) again(t *taken) (o outcome, found bool, err error) {
	if t.record == nil {
		over := rawprobe.Overhearer{Ours: true}
		for i := range t.packets {
			if err := over.Take(t.packets[i].Event); err != nil {
				return o, false, err
			}
		}
		if len(over.Attempts()) == 0 {
			return o, false, nil
		}
		return c.overheard(&over, 0, ""), true, nil
	}
	rec := t.record
	for i := range t.packets {
		if index, ok := rec.Interfaces[t.inFile[i]]; ok {
			t.packets[i].Interface = index
		}
	}
	seen, err := rec.Record.Replay(t.packets)
	if err != nil {
		return o, false, err
	}
	return c.outcome(rec.Name, rec.Addresses, seen), true, nil
}

func (c *reading) outcome(name string, addresses []netip.Addr, seen *rawprobe.Observations) outcome {
	return outcome{
		target: &target{host: name, addr: seen.Target.Addr(), port: seen.Target.Port()},
		result: report.New(name, addresses, seen, c.r.env.Explain(seen)),
	}
}

// overheard explains one attempt of which no record says more.
func (c *reading) overheard(over *rawprobe.Overhearer, attempt int, name string) outcome {
	seen := over.Observe(attempt)
	m := &seen.Machine
	m.Interface.Name = c.file.Interface(m.Interface.Index - 1).Name
	if name == "" {
		name = seen.Target.Addr().String()
	}
	return c.outcome(name, []netip.Addr{seen.Target.Addr()}, seen)
}

// others explains what another program attempted.
func (c *reading) others(name string, wanted []asked) ([]outcome, error) {
	all := c.foreign.Attempts()
	shown := report.Escape(name)
	switch {
	case c.packets == 0 && c.strange > 0:
		return nil, readFailure(name, fmt.Sprintf("packets of link type %d, which synprobe does not know", c.unknown))
	case len(all) == 0:
		return nil, misuse("read "+shown, "there is no SYN in it", "a capture must begin before the connection attempt")
	}
	if wanted == nil {
		end, err := only(all, shown)
		if err != nil {
			return nil, err
		}
		wanted = []asked{{host: end.Addr().String(), addr: end.Addr(), port: end.Port()}}
	}
	var out []outcome
	for _, a := range wanted {
		if !a.addr.IsValid() {
			return nil, misuse(a.String(), "names are not looked up for a capture", "give the address; it has "+list(ends(all)))
		}
		i, err := choose(all, netip.AddrPortFrom(a.addr, a.port))
		switch {
		case err != nil:
			return nil, misuse("read "+shown, err.Error()+" "+a.String(), "capture on the machine that connects")
		case i < 0:
			return nil, misuse("read "+shown, "there is no SYN to "+a.String(), "it has "+list(ends(all)))
		}
		out = append(out, c.overheard(&c.foreign, i, a.host))
	}
	return out, nil
}

var errElsewhere = errors.New("it was not captured where the connection starts: it shows how others reach")

// choose finds the attempt at an end to explain: the first that got no
// connection, else the first. It returns -1 where there is none.
func choose(all []rawprobe.Attempt, end netip.AddrPort) (int, error) {
	first, failed, elsewhere := -1, -1, false
	for i := range all {
		a := &all[i]
		switch {
		case a.Flow.Dst != end:
			continue
		case a.Elsewhere:
			elsewhere = true
			continue
		case first < 0:
			first = i
		}
		if !a.Answered && failed < 0 {
			failed = i
		}
	}
	switch {
	case failed >= 0:
		return failed, nil
	case first < 0 && elsewhere:
		return -1, errElsewhere
	}
	return first, nil
}

// only is the one end at which attempts failed, or else the only one.
func only(all []rawprobe.Attempt, shown string) (netip.AddrPort, error) {
	var failed, any []netip.AddrPort
	for _, a := range all {
		if !slices.Contains(any, a.Flow.Dst) {
			any = append(any, a.Flow.Dst)
		}
		if !a.Answered && !slices.Contains(failed, a.Flow.Dst) {
			failed = append(failed, a.Flow.Dst)
		}
	}
	switch {
	case len(failed) == 1:
		return failed[0], nil
	case len(failed) == 0 && len(any) == 1:
		return any[0], nil
	case len(failed) == 0:
		failed = any
	}
	var names []string
	for _, f := range failed {
		names = append(names, f.String())
	}
	return netip.AddrPort{}, misuse("read "+shown, fmt.Sprintf("it has SYNs to %d ports", len(failed)), "say which: "+list(names))
}

// ends are the addresses and ports that SYNs go to.
func ends(all []rawprobe.Attempt) []string {
	var names []string
	for _, a := range all {
		if s := a.Flow.Dst.String(); !slices.Contains(names, s) && len(names) <= maxListed {
			names = append(names, s)
		}
	}
	return names
}

// maxListed is how many of a list a person wants to read.
const maxListed = 8

func list(names []string) string {
	more := ""
	if len(names) > maxListed {
		more, names = ", …", names[:maxListed]
	}
	return strings.Join(names, ", ") + more
}
