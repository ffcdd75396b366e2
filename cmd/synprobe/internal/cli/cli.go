// Package cli is the command line of synprobe: flags, names, exit codes and
// the loop over the targets. All that it needs of the machine is in an Env, so
// that its tests need no network; live.go has the real one.
package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"synprobe/cmd/synprobe/internal/report"
	"synprobe/rawprobe"
	"synprobe/rawprobe/batch"
	"synprobe/traceroute"
	"synprobe/traceroute/diagnose"
)

// Options is what a Prober is asked to do. The zero value leaves everything to
// the kernel and the engine.
type Options struct {
	Interface  string        // name of the interface to send on; empty: as routed
	Source     netip.Addr    // the zero Addr: as routed
	SourcePort uint16        // 0: a free one
	Tries      int           // SYNs to send before silence counts; 0: as many as the proof needs
	Timeout    time.Duration // 0: as long as the proof takes
	Trace      traceroute.Options

	// Opened, where not nil, is told that the target needs no more sockets. An
	// error ends its run.
	Opened func() error
	// Watch, where not nil, is told of every packet: see rawprobe.Options.
	Watch func(rawprobe.Seen)
}

// Prober observes one target. Where ctx ends before it has settled it returns
// what it has seen, marked as interrupted.
type Prober func(ctx context.Context, target netip.AddrPort, opt Options) (*rawprobe.Observations, error)

// Interface names a network interface of this machine.
type Interface struct {
	Index int
	Name  string
}

// Env is what the command line needs of the world. No field may be nil but
// Confine and PrivilegeHint.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Terminal       bool // Stdout is a terminal
	ErrTerminal    bool // Stderr is one
	Getenv         func(name string) string
	// Executable is the absolute path of this binary, with no link in it.
	Executable func() (string, error)

	// Lookup gives a name's addresses in the order to try them; its errors are
	// *net.DNSError or those of the context.
	Lookup func(ctx context.Context, name string) ([]netip.Addr, error)
	// Reverse gives the names of an address.
	Reverse func(ctx context.Context, a netip.Addr) ([]string, error)
	// Service gives the TCP port of a service's name.
	Service func(ctx context.Context, name string) (port int, err error)

	Interfaces func() ([]Interface, error)
	// Owns reports whether a is an address of this machine.
	Owns func(a netip.Addr) bool
	// Usable reports whether this machine has a route and a source address for
	// a. It sends nothing.
	Usable func(a netip.Addr, opt Options) bool

	// Networks gives this machine's addresses, each with the length of its
	// network's prefix where neighbours are found by ARP or neighbour
	// discovery, else with its own.
	Networks func() ([]netip.Prefix, error)

	// Batch probes many targets: see batch.Run.
	Batch   func(ctx context.Context, s *batch.Space, cfg batch.Config, emit func(*batch.Result)) (batch.Progress, error)
	Probe   Prober
	Explain func(*rawprobe.Observations) diagnose.Diagnosis
	// Confine gives up what the process may do beyond keep, for good.
	Confine func(keep rawprobe.Privilege) error
	// PrivilegeHint says why a capability that the binary's file has takes no
	// effect, or nothing.
	PrivilegeHint func() string
}

// Main runs synprobe for the arguments in argv, whose first is the program's
// own name, and returns the exit code.
func Main(argv []string) int {
	// A reader that goes away (synprobe … | head -1) shows as EPIPE, which ends
	// the run quietly and in order, where the signal would kill it.
	signal.Ignore(syscall.SIGPIPE)
	// The signals are not given back at the end: one that comes late must not
	// change the exit code.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first Ctrl-C ends the run with what is known. If that should hang,
	// a later one kills.
	context.AfterFunc(ctx, func() { time.AfterFunc(oneSignal, stop) })
	return Run(ctx, live(), argv)
}

// oneSignal is how long more signals are taken for the first one: timeout(1)
// sends its own to the program and then to the group that the program is in.
const oneSignal = time.Second

// Run is Main in a given environment. It ends when ctx does.
//
// Whatever runs it, root by sudo as a rule, it keeps no more than each step
// needs: before the arguments are parsed what opens sockets, and once the last
// socket is open nothing at all.
func Run(ctx context.Context, env Env, argv []string) (code int) {
	r := &run{env: env, program: "synprobe"}
	if len(argv) > 0 {
		r.program, r.args = argv[0], argv[1:]
	}
	defer func() {
		if p := recover(); p != nil {
			code = r.fail(nil, bug(p))
		}
		code = r.finish(max(code, r.closeCapture(), r.closePage()))
	}()
	if err := r.confine(needs(r.args)); err != nil {
		r.flags = &flags{json: asksJSON(r.args)}
		return r.fail(nil, err)
	}
	return r.main(ctx)
}

// needs is what a run may need to begin with. Only who names a source port can
// mean a reserved one.
func needs(args []string) rawprobe.Privilege {
	p := rawprobe.RawSockets
	for _, a := range args {
		if strings.HasPrefix(a, "--source-port") {
			p |= rawprobe.LowPorts
		}
	}
	return p
}

// confine gives up all privileges but keep.
func (r *run) confine(keep rawprobe.Privilege) error {
	if r.env.Confine == nil {
		return nil
	}
	if err := r.env.Confine(keep); err != nil {
		return &failure{kind: report.IOError, what: "give up privileges", why: err.Error(), hint: "run it as another user, with cap_net_raw"}
	}
	return nil
}

// run is one run of the program.
type run struct {
	env     Env
	program string // as it was called
	args    []string

	flags   *flags
	style   report.Style
	names   *resolver
	capture *capture  // of -w, else nil
	packets io.Writer // where the capture of -w - goes, else nil
	page    *page     // of --html, else nil
	waits   *waiting
	log     func(rawprobe.Seen) // prints packets as they go by; nil: nothing does
	refused bool                // the hint about privilege was printed
	lost    error               // why standard output takes no more; nil while it does

	// unopened counts the targets that may still need a socket.
	unopened atomic.Int64

	// interruptions counts the targets whose lack of a verdict standard
	// output does not show to a person.
	interruptions int
}

func (r *run) main(ctx context.Context) int {
	if len(r.args) == 0 {
		_, _ = io.WriteString(r.env.Stderr, usage)
		return exitUsage
	}
	var err error
	r.flags, err = parseFlags(r.args)
	if err != nil {
		// The flag that asks for JSON may stand behind the one that is wrong.
		r.flags.json = r.flags.json || asksJSON(r.args)
		return r.fail(nil, err)
	}
	switch {
	case r.flags.help:
		r.write([]byte(help))
		return exitOK
	case r.flags.version:
		r.write([]byte(version() + "\n"))
		return exitOK
	}
	if err := r.divert(); err != nil {
		return r.fail(nil, err)
	}
	if r.flags.many() {
		return r.many(ctx)
	}
	if err := r.openPage(); err != nil {
		return r.fail(nil, err)
	}
	if r.flags.read != "" {
		r.style = r.flags.style(r.env)
		return r.readCapture(ctx)
	}
	targets, err := r.plan(ctx)
	if err == nil {
		err = r.openCapture(targets)
	}
	if err != nil {
		return r.fail(nil, err)
	}
	r.style = r.flags.style(r.env)
	r.names = &resolver{env: &r.env}
	return r.probeAll(ctx, targets)
}

// write writes a piece of the product, unless one was lost already.
func (r *run) write(b []byte) {
	if r.lost == nil && len(b) > 0 {
		_, r.lost = r.env.Stdout.Write(b)
	}
}

// finish returns the exit code once all is written. A closed pipe is the
// reader's decision and no error: code stands.
func (r *run) finish(code int) int {
	if r.lost == nil || errors.Is(r.lost, syscall.EPIPE) {
		return code
	}
	r.complain(&failure{kind: report.IOError, what: "write to standard output", why: cause(r.lost)})
	return max(code, exitIO)
}

// fail reports an error and returns its exit code. The target is nil where the
// error is about none.
func (r *run) fail(t *target, err error) int {
	f := asFailure(err)
	out := report.Failure{Kind: f.kind, Message: f.message()}
	if t == nil {
		t = f.target
	}
	if t != nil {
		out.Name, out.Port = t.host, t.port
		if t.addr.IsValid() {
			out.Address = t.addr
		}
	}
	if r.page != nil {
		r.page.failures = append(r.page.failures, out)
	}
	if r.flags != nil && r.flags.json {
		var b bytes.Buffer
		_ = out.ToJSON(&b) // of strings and a number: nothing there can fail
		r.write(b.Bytes())
	}
	r.complain(f)
	return exitCodes[f.kind]
}

// complain prints an error for a person. There is nobody to tell if that
// fails.
func (r *run) complain(f *failure) {
	if f.kind == report.Interrupted {
		r.interruptions++ // probeAll says so once for all targets
		return
	}
	var b bytes.Buffer
	f.print(&b)
	if f.kind == report.NotPermitted && f.hint == "" {
		// What helps is the same for every target.
		if !r.refused {
			r.privilegeHints(&b)
		}
		r.refused = true
	}
	_, _ = r.env.Stderr.Write(b.Bytes())
}
