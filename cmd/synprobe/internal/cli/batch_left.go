package cli

import (
	"bytes"
	"errors"
	"fmt"

	"synprobe/cmd/synprobe/internal/report"
	"synprobe/rawprobe"
	"synprobe/rawprobe/batch"
)

// leftOuts are the reasons for which a target can't be probed as it was asked
// for, each with its word in the file of --resume.
var leftOuts = [...]struct {
	err  error
	word string
}{
	{rawprobe.ErrBroadcast, "broadcast"},
	{rawprobe.ErrLoopback, "loopback"},
	{rawprobe.ErrNotLoopback, "not-loopback"},
	{batch.ErrByPort, "by-port"},
}

// leftOut counts targets that have no verdict since nothing could be sent, by
// leftOuts.
type leftOut [len(leftOuts)]uint64

func (l *leftOut) sum() (n uint64) {
	for _, k := range l {
		n += k
	}
	return n
}

func (l *leftOut) save() map[string]uint64 {
	saved := map[string]uint64{}
	for i, n := range l {
		if n > 0 {
			saved[leftOuts[i].word] = n
		}
	}
	return saved
}

func (l *leftOut) restore(saved map[string]uint64) {
	for i := range l {
		l[i] = saved[leftOuts[i].word]
	}
}

// leaveOut takes a result that is none: an error, as for a single target, or of
// an address that a network has and no host.
func (m *manyRun) leaveOut(r *batch.Result) {
	m.mu.Lock()
	m.gauge.done++
	for i := range leftOuts {
		if errors.Is(r.Err, leftOuts[i].err) {
			m.left[i]++
		}
	}
	m.mu.Unlock()
	if m.expect != nil {
		m.expect.of(r.Target) // it was not forgotten
	}
	if !m.flags.json || errors.Is(r.Err, rawprobe.ErrBroadcast) {
		return
	}
	f := m.unfit(r.Err, r.Target.Addr().String())
	name := m.called[r.Target.Addr()]
	if name == "" {
		name = r.Target.Addr().String()
	}
	out := report.Failure{Kind: f.kind, Message: f.message(), Name: name, Address: r.Target.Addr(), Port: r.Target.Port()}
	var b bytes.Buffer
	_ = out.ToJSON(&b) // into memory
	m.spool.add(func(out []byte) []byte { return append(out, b.Bytes()...) })
}

// unfit says why a target, or so many of them, can't be probed.
func (m *manyRun) unfit(err error, which string) *failure {
	if errors.Is(err, batch.ErrByPort) {
		return &failure{kind: report.Unsupported, what: which + " left out", why: err.Error(), hint: "probe such a target alone: that goes the connection's way"}
	}
	what := fmt.Sprintf("interface %s for %s", m.cfg.Interface, which)
	if src := m.cfg.Source; src.IsLoopback() && errors.Is(err, rawprobe.ErrLoopback) {
		what = fmt.Sprintf("source %s for %s", src, which)
	}
	return asFailure(fmt.Errorf("%s: %w", what, err))
}

// told is how many targets have a verdict. After a crash some of an earlier run
// may be counted twice.
func (m *manyRun) told(p batch.Progress) uint64 { return p.Done - min(p.Done, m.left.sum()) }

// tellLeftOut writes one line for each reason, and returns the exit code of the
// gravest.
func (m *manyRun) tellLeftOut(b *bytes.Buffer) (code int) {
	for i, n := range m.left {
		switch {
		case n == 0:
			continue
		case leftOuts[i].err == rawprobe.ErrBroadcast:
			// Whoever names a network names them along.
			fmt.Fprintf(b, "synprobe: %s left out: this machine's own networks' addresses and broadcast addresses are no hosts\n", report.Count(n, "target"))
			continue
		}
		f := m.unfit(leftOuts[i].err, report.Count(n, "target"))
		f.print(b)
		code = max(code, exitCodes[f.kind])
	}
	return code
}
