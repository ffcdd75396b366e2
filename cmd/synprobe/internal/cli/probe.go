package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"

	"synprobe/cmd/synprobe/internal/report"
	"synprobe/rawprobe"
	"synprobe/traceroute"
)

// together is how many targets are probed at once: enough that a dozen silent
// ones take no longer than one, and few packets in flight from one machine.
const together = 16

// tracedTogether is the same where paths may be traced: routers limit their
// errors for all of this machine's probes together, Linux to a burst of six and
// one a second for each peer. Two traces of one path stay within that.
const tracedTogether = 2

// outcome is what became of one target.
type outcome struct {
	target *target
	result *report.Result // nil where there is an error
	err    error
}

// probeAll probes the targets side by side and prints each in the order of the
// arguments, as soon as those before it are printed.
func (r *run) probeAll(ctx context.Context, targets []*target) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	atOnce := together
	if r.flags.opt.Trace.Mode != traceroute.Never {
		atOnce = tracedTogether
	}
	if r.flags.opt.SourcePort != 0 {
		atOnce = 1 // one port is held by one run at a time
	}
	name := ""
	if len(targets) == 1 {
		name = report.Escape(targets[0].host)
		r.log = r.newLog(cancel)
	}
	r.waits = newWaiting(&r.env, len(targets), name, targets[0].port, !r.flags.quiet && r.log == nil)
	defer r.waits.stop()
	slots := make(chan struct{}, atOnce)
	r.unopened.Store(int64(len(targets)))
	outcomes := make([]chan outcome, len(targets))
	for i := range outcomes {
		outcomes[i] = make(chan outcome, 1)
	}
	go func() {
		for i, t := range targets {
			slots <- struct{}{}
			go func() {
				defer func() { <-slots }()
				outcomes[i] <- r.probe(ctx, t)
			}()
		}
	}()

	code, known := exitOK, false // known: code is of one target at least
	for i, c := range outcomes {
		o := <-c // each target has an outcome, an interrupted one too
		r.waits.answered()
		switch {
		case r.lost == nil:
			r.waits.aside(func() { code = max(code, r.present(o, i == 0)) })
			known = true
		case o.err == nil:
			r.onPage(o.result)
			if c, ok := verdictCodes[o.result.Verdict()]; ok && !o.result.Interrupted() {
				code, known = max(code, c), true
			}
		}
		if r.lost != nil {
			cancel() // nobody reads: only wait until all has been given back
		}
	}
	if !known && errors.Is(r.lost, syscall.EPIPE) {
		code = exitInterrupted // by the reader; 0 would say open
	}
	r.waits.stop()
	r.sayInterrupted(len(targets))
	return code
}

// newLog returns what prints the packets of the one target as they go by, nil
// where they are not asked for. It calls cancel where nobody reads any more.
func (r *run) newLog(cancel func()) func(rawprobe.Seen) {
	if !r.flags.verbose || r.flags.json || r.flags.quiet {
		return nil
	}
	r.style.Logged = true
	log := report.NewLog(r.style)
	return func(s rawprobe.Seen) {
		// The goroutine that prints all else waits for this run.
		if r.write(log.Line(s)); r.lost != nil {
			cancel()
		}
	}
}

// watch is told of each packet of a run.
func (r *run) watch(t *target) func(rawprobe.Seen) {
	var all []func(rawprobe.Seen)
	if r.waits != nil {
		all = append(all, r.waits.seen)
	}
	if r.capture != nil {
		all = append(all, r.capture.watch(t))
	}
	if r.log != nil {
		all = append(all, r.log)
	}
	return func(s rawprobe.Seen) {
		for _, f := range all {
			f(s)
		}
	}
}

// present prints what became of one target and returns its exit code.
func (r *run) present(o outcome, first bool) int {
	if o.err != nil {
		return r.fail(o.target, o.err)
	}
	r.onPage(o.result)
	return r.show(o.result, first)
}

// sayInterrupted tells a person how many of so many targets have no verdict,
// where standard output does not.
func (r *run) sayInterrupted(targets int) {
	switch n := r.interruptions; {
	case n > 0 && targets == 1:
		_, _ = fmt.Fprintf(r.env.Stderr, "synprobe: interrupted: there was no verdict yet\n")
	case n > 0:
		_, _ = fmt.Fprintf(r.env.Stderr, "synprobe: interrupted: %d of %d targets have no verdict\n", n, targets)
	}
}

// probe does all for one target but to print it.
func (r *run) probe(ctx context.Context, t *target) (o outcome) {
	o.target = t
	defer func() {
		if p := recover(); p != nil {
			o.result, o.err = nil, bug(p)
		}
	}()
	opened := sync.OnceValue(r.opened)
	defer func() {
		if err := opened(); err != nil { // where it came to no sockets
			o.result, o.err = nil, err
		}
	}()
	if ctx.Err() != nil {
		o.err = ctx.Err()
		return o
	}
	addr, all, err := r.choose(ctx, t)
	if err != nil {
		o.err = err
		return o
	}
	if r.flags.opt.Trace.Prove && addr.Is6() {
		o.err = misuse("--prove for "+report.Escape(addr.String()), "the proof works in IPv4 alone", "leave --prove out, or choose an IPv4 address with -4")
		return o
	}
	resolved := *t
	resolved.addr = addr
	o.target = &resolved
	opt := r.flags.opt
	opt.Opened = opened
	opt.Watch = r.watch(t)
	if opt.Trace.Prove {
		opt.Trace.Waiting = r.waits.proof
	}
	seen, err := r.env.Probe(ctx, netip.AddrPortFrom(addr, t.port), opt)
	// A run that was stopped may say so twice: what it saw counts.
	if seen == nil || err != nil && !seen.Interrupted {
		if err == nil {
			err = fmt.Errorf("nothing was observed")
		}
		o.err = err
		if errors.Is(err, rawprobe.ErrLoopback) && addr.Zone() != "" && !opt.Source.IsLoopback() {
			// Its zone can't be left out.
			o.err = misuse(err.Error(), "", "name the interface of the link that the host is on, as in "+addr.WithZone("").String()+"%eth0")
		}
		return o
	}
	o.result = report.New(t.host, all, seen, r.env.Explain(seen))
	if r.capture != nil {
		r.capture.end(t, all, seen, o.result)
	}
	if !r.flags.noNames && !r.flags.json && !r.flags.quiet {
		o.result.Names = r.reverse(ctx, o.result.Devices())
	}
	return o
}

// opened gives up the last privileges when no target needs a socket any more:
// what the network says to the last one is read without any.
func (r *run) opened() error {
	if r.unopened.Add(-1) > 0 {
		return nil
	}
	return r.confine(0)
}

// show prints one result in one write and returns its exit code.
func (r *run) show(result *report.Result, first bool) int {
	var b bytes.Buffer
	var err error
	switch {
	case r.flags.json:
		err = result.ToJSON(&b)
	case r.flags.quiet:
		err = result.ToLine(&b)
	default:
		if !first || r.style.Logged {
			b.WriteByte('\n')
		}
		err = result.ToText(&b, r.style)
	}
	code, known := verdictCodes[result.Verdict()]
	switch {
	case err != nil:
		return r.fail(nil, bug(err))
	case !known && !result.Interrupted():
		// Nothing is worse than an exit code 0 that means nothing.
		return r.fail(nil, bug(fmt.Sprintf("no verdict %q", result.Verdict())))
	}
	r.write(b.Bytes())
	if !result.Interrupted() {
		return code
	}
	if r.flags.json || r.flags.quiet {
		r.interruptions++ // the text says so itself
	}
	return exitInterrupted
}
