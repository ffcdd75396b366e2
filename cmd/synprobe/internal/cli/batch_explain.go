package cli

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"synprobe/cmd/synprobe/internal/report"
	"synprobe/rawprobe/batch"
	"synprobe/traceroute/diagnose"
)

// A puzzle is a host with one verdict that is not open, by one cause: its path
// is traced once, for the first of its ports.
type puzzle struct {
	results []batch.Result // by port
	outcome chan outcome
}

// explain gives what is not open its full diagnosis, after the engine has ended:
// routers limit their errors for all of this machine's probes together, and
// traces would starve beside it. It returns the highest exit code of an error.
// Where ctx ends, the rest keeps its direct diagnosis, and that is the error.
func (m *manyRun) explain(ctx context.Context) (code int) {
	if len(m.puzzles) == 0 {
		return exitOK
	}
	type host struct {
		addr    netip.Addr
		verdict diagnose.Verdict
		cause   diagnose.Cause
	}
	var all []*puzzle
	byHost := map[host]*puzzle{}
	for i := range m.puzzles {
		r := m.puzzles[i]
		b := m.here.Brief(&r)
		h := host{r.Target.Addr(), b.Verdict, b.Cause}
		p := byHost[h]
		if p == nil {
			p = &puzzle{outcome: make(chan outcome, 1)}
			byHost[h], all = p, append(all, p)
		}
		p.results = append(p.results, r)
	}
	m.puzzles = nil
	for _, p := range all {
		slices.SortFunc(p.results, func(a, b batch.Result) int { return a.Target.Compare(b.Target) })
	}
	done := 0
	if m.env.drawsLines() && !m.flags.quiet {
		m.spool.setBar(func(time.Time) string {
			m.mu.Lock()
			defer m.mu.Unlock()
			return fmt.Sprintf("explained %d of %s (Ctrl-C ends it)", done, report.Count(uint64(len(all)), "host"))
		})
	}
	slots := make(chan struct{}, tracedTogether)
	m.unopened.Store(int64(len(all)))
	go func() {
		for _, p := range all {
			slots <- struct{}{}
			go func() {
				defer func() { <-slots }()
				r := &p.results[0]
				addr := r.Target.Addr()
				p.outcome <- m.probe(ctx, &target{host: m.nameOf(addr), addr: addr, port: r.Target.Port()})
			}()
		}
	}()
	unexplained := 0
	for _, p := range all {
		o := <-p.outcome
		switch {
		case o.err != nil && ctx.Err() == nil:
			// On standard error alone: the target has its line without it. What
			// breaks one trace breaks more of them.
			f := asFailure(o.err)
			if code == exitOK {
				m.spool.do(func() { m.complain(f) })
			}
			code = max(code, exitCodes[f.kind])
			fallthrough
		case o.err != nil || o.result.Interrupted():
			unexplained += len(p.results)
			m.show(p, nil)
		default:
			m.show(p, o.result)
		}
		m.mu.Lock()
		done++
		m.mu.Unlock()
	}
	if unexplained > 0 {
		if ctx.Err() != nil {
			code = exitInterrupted
		}
		m.stderr(fmt.Appendf(nil, "synprobe: %s without a full diagnosis\n", report.Count(uint64(unexplained), "target")))
	}
	return code
}

func (m *manyRun) nameOf(a netip.Addr) string {
	if name := m.called[a]; name != "" {
		return name
	}
	return a.String()
}

// compare tells which targets of a puzzle are not as expected, now that the first
// is explained, and reports whether the first is one of them.
func (m *manyRun) compare(p *puzzle, full *report.Result) (first bool) {
	for i := range p.results {
		r := &p.results[i]
		name := m.called[r.Target.Addr()]
		row := report.Row{Name: name, Target: r.Target, Brief: m.here.Brief(r)}
		if i == 0 && full != nil {
			d := full.Diagnosis()
			row = report.RowOf(name, r.Target, &d)
		}
		want, _ := m.expect.of(r.Target)
		if want == row.Verdict {
			continue
		}
		first = first || i == 0
		m.mu.Lock()
		m.different++
		m.differing.Add(report.Outcome{Verdict: row.Verdict, Cause: row.Cause}, 1)
		m.mu.Unlock()
		m.spool.add(func(out []byte) []byte { return append(out, report.Difference(&row, want)...) })
	}
	return first
}

// show prints a puzzle: its first port by the full diagnosis, the others by
// their direct ones with a word about the first. Without a full one all are
// direct.
func (m *manyRun) show(p *puzzle, full *report.Result) {
	if m.expect != nil && !m.compare(p, full) {
		return
	}
	text := m.tabular() || m.flags.batch.expect != ""
	for i := range p.results {
		r := &p.results[i]
		name := m.called[r.Target.Addr()]
		switch {
		case i == 0 && full != nil:
			d := full.Diagnosis()
			row := report.RowOf(name, r.Target, &d)
			before := m.here.Brief(r)
			m.mu.Lock()
			m.tally.Move(report.Outcome{Verdict: before.Verdict, Cause: before.Cause}, report.Outcome{Verdict: d.Verdict, Cause: d.Cause})
			m.mu.Unlock()
			var b bytes.Buffer
			switch {
			case text:
				b.WriteByte('\n')
				_ = full.ToText(&b, m.style) // into memory
			case m.flags.json:
				_ = full.ToJSON(&b)
			}
			m.spool.add(func(out []byte) []byte {
				if b.Len() > 0 {
					return append(out, b.Bytes()...)
				}
				return m.appendRow(out, &row, r, &d)
			})
		case text:
			// It has its line in the table already.
		default:
			d := m.here.Direct(r)
			if full != nil {
				traced := full.Diagnosis()
				d.Beside(p.results[0].Target.Port(), &traced)
			}
			row := report.Row{Name: name, Target: r.Target, Brief: m.here.Brief(r), RTT: r.RTT, Tries: r.Tries}
			m.spool.add(func(out []byte) []byte { return m.appendRow(out, &row, r, &d) })
		}
	}
	if text && full != nil && len(p.results) > 1 {
		others := "  Also: the same verdict, by direct answers alone, on port"
		if len(p.results) > 2 {
			others += "s"
		}
		for i, r := range p.results[1:] {
			if i == 10 {
				others += fmt.Sprintf(" and %d more", len(p.results)-1-i)
				break
			}
			if i > 0 {
				others += ","
			}
			others += fmt.Sprintf(" %d", r.Target.Port())
		}
		m.spool.add(func(out []byte) []byte { return append(out, others+"\n"...) })
	}
}
