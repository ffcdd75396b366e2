package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"synprobe/cmd/synprobe/internal/report"
	"synprobe/rawprobe/batch"
	"synprobe/traceroute/diagnose"
)

// exitDifferent is the exit code of --expect where anything differs. It is no
// verdict's.
const exitDifferent = 7

// maxExplained bounds the targets of --explain: what is not open is kept in
// memory until it is explained.
const maxExplained = 1 << 16

// A manyRun is one run with many targets.
type manyRun struct {
	*run
	*gathered
	here   *diagnose.Here
	space  *batch.Space
	cfg    batch.Config
	spool  *spool
	resume *resumeFile // nil without --resume
	start  time.Time
	table  report.Table
	// objects writes the results of --json.
	objects *report.DirectJSON
	unread  atomic.Bool // nobody takes the output any more

	// Of who brings the results:
	row    report.Row
	headed bool

	mu        sync.Mutex
	tally     report.Tally
	gauge     gauge
	saved     time.Time
	puzzles   []batch.Result // what --explain is to explain
	differing report.Tally   // differences, by what was found
	different uint64
	unasked   uint64 // results of which nothing is expected
	left      leftOut
	leftThen  uint64 // of those, by an earlier run
}

// many runs with many targets and returns the exit code.
func (r *run) many(ctx context.Context) int {
	if err := r.flags.batch.fits(&r.flags.opt); err != nil {
		return r.fail(nil, err)
	}
	interfaces, err := r.machine()
	if err != nil {
		return r.fail(nil, err)
	}
	r.style = r.flags.style(r.env)
	r.names = &resolver{env: &r.env}
	g, code := r.gather(ctx, interfaces)
	if g == nil {
		if ctx.Err() != nil {
			fmt.Fprintln(r.env.Stderr, "synprobe: interrupted: nothing was sent")
		}
		return code
	}
	m := &manyRun{run: r, gathered: g, start: time.Now()}
	if err := m.prepare(); err != nil {
		return r.fail(nil, err)
	}
	if n := g.duplicates; n > 0 {
		fmt.Fprintf(r.env.Stderr, "synprobe: %s named more than once: each is probed once\n", report.Count(n, "target"))
	}
	return m.goOn(ctx)
}

// prepare makes all that the run needs before anything is sent.
func (m *manyRun) prepare() (err error) {
	f := m.flags
	if f.batch.explain && m.total > maxExplained {
		return misuse(fmt.Sprintf("--explain with %s", report.Count(m.total, "target")), fmt.Sprintf("it takes %s at most", report.Thousands(maxExplained)), "explain what is not open in a second run")
	}
	if m.space, err = batch.NewSpace(m.blocks); err != nil {
		return misuse("the targets", err.Error(), "split them into several runs")
	}
	networks, err := m.env.Networks()
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	m.here = diagnose.NewHere(networks)
	m.here.LinkLayer = f.batch.linkLayer
	m.cfg = batch.Config{
		Rate: f.batch.rate, LinkLayer: f.batch.linkLayer, Interface: f.opt.Interface, Source: f.opt.Source,
		Tries: f.opt.Tries, Shard: f.batch.shard, Shards: f.batch.shards, Progress: m.progress,
	}
	if !f.batch.explain { // whose traces need sockets of their own
		m.cfg.Opened = func() error { return m.confine(0) }
	}
	m.cfg.Seed = newSeed(m.blocks, m.cfg)
	if name := f.batch.resume; name != "" {
		if m.resume, err = m.openResume(name, fingerprint(m.blocks, m.cfg), m.space.Part(m.cfg.Shard, m.cfg.Shards), &m.cfg); err != nil {
			return err
		}
		for text, n := range m.resume.state.Counts {
			verdict, cause, _ := strings.Cut(text, " ")
			m.tally.Add(report.Outcome{Verdict: diagnose.Verdict(verdict), Cause: diagnose.Cause(cause)}, n)
		}
		m.left.restore(m.resume.state.LeftOut)
		m.leftThen = m.left.sum()
	}
	m.objects = report.NewDirectJSON(m.start, m.cfg.Source, m.cfg.Interface)
	m.table.Style = m.style
	longest := uint16(0)
	for _, b := range m.blocks {
		port := b.Ports[len(b.Ports)-1]
		last := lastOf(b.Prefix)
		m.table.Fit(m.called[last], netip.AddrPortFrom(last, port))
		longest = max(longest, port)
	}
	for a, name := range m.called { // addresses side by side share a block
		m.table.Fit(name, netip.AddrPortFrom(a, longest))
	}
	m.blocks = nil // the space has what it needs of them
	m.gauge = gauge{width: 80, looking: m.start, began: m.start, verdicts: map[diagnose.Verdict]uint64{}}
	if m.style.Width > 0 {
		m.gauge.width = m.style.Width
	}
	m.gauge.first, m.gauge.done = m.cfg.Position, m.cfg.Position
	m.tally.All(func(o report.Outcome, n uint64) { m.gauge.verdicts[o.Verdict] += n })
	return nil
}

// lastOf is the last address of a network.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := range b {
		for bit := range 8 {
			if i*8+bit >= p.Bits() {
				b[i] |= 0x80 >> bit
			}
		}
	}
	a, _ := netip.AddrFromSlice(b) // as long as it was
	return a
}

// goOn runs the engine, and what comes after.
func (m *manyRun) goOn(ctx context.Context) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m.spool = newSpool(m.run, func() {
		m.unread.Store(true)
		cancel()
	})
	if m.env.drawsLines() && !m.flags.quiet {
		m.spool.setBar(func(now time.Time) string {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.gauge.line(now)
		})
	}
	code, stopped := exitOK, false
	func() {
		// The spool's goroutine must end, whatever breaks.
		defer func() {
			if p := recover(); p != nil {
				m.spool.setBar(nil)
				_ = m.spool.close()
				panic(p)
			}
		}()
		code, stopped = m.engine(ctx)
	}()
	err := m.spool.close()
	switch {
	case m.resume == nil || m.lost != nil:
	case !stopped:
		if err := m.resume.remove(); err != nil {
			code = max(code, m.fail(nil, err))
		}
	case err != nil:
		code = max(code, exitIO)
	default:
		fmt.Fprintf(m.env.Stderr, "hint: the same command line goes on from there: its state is in %s\n", report.Escape(m.resume.name))
	}
	return code
}

// engine probes, explains and sums up. stopped says that targets were left.
func (m *manyRun) engine(ctx context.Context) (code int, stopped bool) {
	p, err := m.env.Batch(ctx, m.space, m.cfg, m.emit)
	m.progress(p)
	if errors.Is(err, context.Canceled) {
		err = nil // ctx says so
	}
	stopped = !p.Finished
	if err != nil && p.Done <= m.cfg.Position {
		return m.failBatch(err), stopped && (m.resume == nil || !m.resume.fresh)
	}
	if stopped {
		m.keep(p)
	}
	if !stopped || m.resume == nil {
		m.head() // else the run that goes on has it
	}
	code = m.explain(ctx)
	m.spool.setBar(nil)
	if m.flags.batch.expect == "" {
		m.tally.All(func(o report.Outcome, _ uint64) { code = max(code, verdictCodes[o.Verdict]) })
	} else if m.different > 0 {
		code = max(code, exitDifferent)
	}
	if m.unread.Load() {
		return code, stopped
	}
	m.sumUp(p)
	var b bytes.Buffer
	code = max(code, m.tellLeftOut(&b))
	if p.Drops > 0 {
		fmt.Fprintf(&b, "synprobe: this machine had no room for %s that it received: answers may be missing\n", report.Count(p.Drops, "packet"))
		fmt.Fprintf(&b, "hint: send at a lower --rate\n")
	}
	if p.Unmatched > 0 {
		fmt.Fprintf(&b, "synprobe: %s came for no target as it was asked: this machine may translate addresses (NAT in OUTPUT)\n", report.Count(p.Unmatched, "answer"))
		fmt.Fprintf(&b, "hint: probe such a target alone\n")
	}
	if stopped && ctx.Err() != nil {
		code = exitInterrupted
		fmt.Fprintf(&b, "synprobe: interrupted: %s of %s have a result\n", report.Thousands(p.Done), report.Count(p.Targets, "target"))
	}
	m.stderr(b.Bytes())
	if err != nil { // the last word
		code = m.failBatch(err)
	}
	return code, stopped
}

// stderr writes to standard error behind what waits for standard output, so
// that a terminal shows both in order.
func (m *manyRun) stderr(b []byte) {
	if len(b) == 0 {
		return
	}
	m.spool.do(func() { _, _ = m.env.Stderr.Write(b) })
}

// failBatch reports an error of the engine.
func (m *manyRun) failBatch(err error) (code int) {
	if errors.Is(err, batch.ErrConntrack) {
		err = &failure{kind: report.IOError, what: "probe", why: err.Error(), hint: "lower the --rate, raise net.netfilter.nf_conntrack_max, or go past the table with --link-layer"}
	}
	if errors.Is(err, batch.ErrLinkLayer) {
		err = misuse("--link-layer", err.Error(), "leave it out to go through the IP stack")
	}
	m.spool.do(func() { code = m.fail(nil, err) })
	return code
}

// head prints what stands before the first result, once.
func (m *manyRun) head() {
	if m.headed {
		return
	}
	m.headed = true
	switch {
	case m.flags.batch.csv && m.cfg.Position == 0:
		m.spool.add(func(b []byte) []byte { return append(b, report.CSVHeader...) })
	case m.tabular():
		m.spool.add(m.table.AppendHeader)
	}
}

// tabular reports whether results are shown as the table.
func (m *manyRun) tabular() bool {
	f := m.flags
	return !f.batch.csv && !f.json && !f.quiet && f.batch.expect == ""
}

// emit takes a result of the engine.
func (m *manyRun) emit(r *batch.Result) {
	m.head()
	if r.Err != nil {
		m.leaveOut(r)
		return
	}
	b := m.here.Brief(r)
	row := &m.row
	*row = report.Row{Target: r.Target, Brief: b, RTT: r.RTT, Tries: r.Tries}
	if len(m.called) > 0 {
		row.Name = m.called[r.Target.Addr()]
	}
	want, asked := diagnose.Verdict(""), false
	if m.expect != nil {
		want, asked = m.expect.of(r.Target)
	}
	different := asked && want != b.Verdict
	puzzling := m.flags.batch.explain && b.Verdict != diagnose.Open && (m.expect == nil || different)

	// Nobody who holds the lock may wait for the spool, which takes it for the
	// bar.
	m.mu.Lock()
	m.tally.Add(report.Outcome{Verdict: b.Verdict, Cause: b.Cause}, 1)
	m.gauge.verdicts[b.Verdict]++
	m.gauge.done++
	if different && !puzzling {
		m.different++
		m.differing.Add(report.Outcome{Verdict: b.Verdict, Cause: b.Cause}, 1)
	}
	if m.expect != nil && !asked {
		m.unasked++
	}
	if puzzling {
		m.puzzles = append(m.puzzles, *r)
	}
	m.mu.Unlock()
	switch {
	case different && puzzling: // its trace may find what is expected
	case different:
		m.spool.add(func(out []byte) []byte { return append(out, report.Difference(row, want)...) })
	case m.expect == nil && (!puzzling || m.tabular()):
		m.spool.add(func(out []byte) []byte { return m.appendRow(out, row, r, nil) })
	}
}

// appendRow writes one result in the format that was asked for. d is its
// diagnosis where that is made already.
func (m *manyRun) appendRow(out []byte, row *report.Row, r *batch.Result, d *diagnose.Diagnosis) []byte {
	switch {
	case m.flags.batch.csv:
		return row.AppendCSV(out)
	case m.flags.json:
		if d == nil {
			direct := m.here.Direct(r)
			d = &direct
		}
		return m.objects.Append(out, row.Name, row.Target, d)
	case m.flags.quiet:
		return row.AppendLine(out)
	}
	return m.table.AppendRow(out, row)
}

// progress takes word of how far the engine is.
func (m *manyRun) progress(p batch.Progress) {
	m.mu.Lock()
	m.gauge.now = p
	now := time.Now()
	due := m.resume != nil && !p.Finished && now.Sub(m.saved) >= saveEvery
	if due {
		m.saved = now
	}
	m.mu.Unlock()
	if due {
		m.keep(p)
	}
}

// keep has the state of --resume written when all results so far are out.
func (m *manyRun) keep(p batch.Progress) {
	if m.resume == nil {
		return
	}
	state := m.resume.state
	state.Position, state.Counts = p.Position, map[string]uint64{}
	m.mu.Lock()
	m.tally.All(func(o report.Outcome, n uint64) { state.Counts[fmt.Sprintf("%s %s", o.Verdict, o.Cause)] = n })
	state.LeftOut = m.left.save()
	m.mu.Unlock()
	m.spool.saveBehind(func() error {
		file := *m.resume
		file.state = state
		return file.save()
	})
}

// sumUp prints the summary: with the table as its end, else on standard error.
func (m *manyRun) sumUp(p batch.Progress) {
	if m.flags.quiet {
		return
	}
	s := report.Summary{Tally: &m.tally, Targets: m.told(p), Earlier: m.gauge.first - min(m.gauge.first, m.leftThen), Elapsed: p.Elapsed, Sent: p.Sent}
	switch {
	case m.flags.batch.expect != "":
		m.spool.add(func(b []byte) []byte { return m.appendComparison(b, p) })
	case m.tabular():
		m.spool.add(func(b []byte) []byte { return s.Append(append(b, '\n')) })
	default:
		m.stderr(s.Append(nil))
	}
}

// appendComparison is the summary of --expect.
func (m *manyRun) appendComparison(b []byte, p batch.Progress) []byte {
	if m.different > 0 {
		b = append(b, '\n')
	}
	file := fileName(m.expect.file)
	b = fmt.Appendf(b, "%s compared with %s: %s\n", report.Count(m.told(p)-m.unasked, "target"), file, report.Count(m.different, "difference"))
	m.differing.All(func(o report.Outcome, n uint64) {
		b = fmt.Appendf(b, "  %s found %s (%s)\n", report.Thousands(n), o.Verdict, o.Cause)
	})
	if m.unasked > 0 {
		b = fmt.Appendf(b, "%s probed that %s does not name\n", report.Count(m.unasked, "target"), file)
	}
	if n := m.expect.unprobed(); n > 0 && p.Finished && m.cfg.Shards == 0 {
		b = fmt.Appendf(b, "%s named in %s and not probed\n", report.Count(n, "target"), file)
	}
	if n := m.expect.errors; n > 0 {
		b = fmt.Appendf(b, "%s in %s left out: an earlier run's errors\n", report.Count(n, "line"), file)
	}
	return b
}
