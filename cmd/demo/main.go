// Command demo breaks practice networks in every way that synprobe knows, and
// shows what synprobe says about each. The networks are namespaces of this
// machine's kernel: no packet leaves it. See demo --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"synprobe/rawprobe/netlab"
)

const help = `demo shows what synprobe says about every kind of fault, each in a practice
network of its own, which it builds of network namespaces and takes down again.
No packet leaves this machine. It needs Linux and root, and the program synprobe
beside it.

Usage:
  demo [flags]

      --list         list the scenes and end
      --scene NAME   show this scene alone; may be given several times
  -h, --help         print this
`

// Exit codes, those of synprobe where it has the same.
const (
	exitOK          = 0
	exitFailed      = 1 // a scene could not be shown, or ended otherwise than promised
	exitUsage       = 64
	exitOther       = 69 // EX_UNAVAILABLE: not Linux
	exitRoot        = 77
	exitInterrupted = 130
	exitSignal      = -1 // of synprobe: see netlab.Result
)

// together is how many scenes run at once. They wait more than they work; but
// many more on few processors would delay answers that are timed.
const together = 6

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first Ctrl-C takes the networks down. If that should hang, the second
	// one kills, and the kernel does it.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	complain := func(code int, format string, args ...any) int {
		_, _ = fmt.Fprintf(stderr, "demo: "+format+"\n", args...)
		return code
	}
	var list, wantsHelp bool
	var names []string
	set := pflag.NewFlagSet("demo", pflag.ContinueOnError)
	set.BoolVar(&list, "list", false, "")
	set.StringArrayVar(&names, "scene", nil, "")
	set.BoolVarP(&wantsHelp, "help", "h", false, "")
	set.Usage = func() {}
	switch err := set.Parse(args); {
	case err != nil:
		return complain(exitUsage, "%v\n  demo --help lists the flags", err)
	case set.NArg() > 0:
		return complain(exitUsage, "unexpected argument %q\n  demo --help lists the flags", set.Arg(0))
	case wantsHelp:
		_, _ = io.WriteString(stdout, help)
		return exitOK
	}
	all, err := choose(names)
	if err != nil {
		return complain(exitUsage, "%v\n  demo --list has all names", err)
	}
	if list {
		for _, s := range all {
			_, _ = fmt.Fprintf(stdout, "%-17s  %-12s  %-20s  %s\n", s.name, s.verdict, s.cause, s.title)
		}
		return exitOK
	}

	switch err := netlab.Possible(); {
	case errors.Is(err, errors.ErrUnsupported):
		return complain(exitOther, "Linux only: %v", err)
	case errors.Is(err, fs.ErrPermission):
		return complain(exitRoot, "needs root, to build networks of its own: sudo %s\n  %v", os.Args[0], err)
	case err != nil:
		return complain(exitFailed, "%v", err)
	}
	self, err := os.Executable()
	if err != nil {
		return complain(exitFailed, "%v", err)
	}
	program := filepath.Join(filepath.Dir(self), "synprobe")
	if _, err := os.Stat(program); err != nil {
		return complain(exitFailed, "no synprobe beside this program: %v\n  make demo builds both", err)
	}
	return show(ctx, all, program, stdout, complain)
}

// choose returns the scenes of these names in the order in which the demo has
// them, or all where there are no names.
func choose(names []string) ([]scene, error) {
	all := scenes()
	if len(names) == 0 {
		return all, nil
	}
	for _, n := range names {
		if !slices.ContainsFunc(all, func(s scene) bool { return s.name == n }) {
			return nil, fmt.Errorf("there is no scene %q", n)
		}
	}
	return slices.DeleteFunc(all, func(s scene) bool { return !slices.Contains(names, s.name) }), nil
}

// An act is what came of a scene.
type act struct {
	drawing, command string
	out              netlab.Result
	err              error
}

// show plays the scenes side by side and prints each as soon as those before it
// are printed.
func show(ctx context.Context, all []scene, program string, stdout io.Writer, complain func(int, string, ...any) int) int {
	ctx, interrupt := context.WithCancel(ctx)
	defer interrupt()
	began := time.Now()
	colour := wantsColour()
	slots := make(chan struct{}, together)
	acts := make([]chan act, len(all))
	for i := range acts {
		acts[i] = make(chan act, 1)
	}
	go func() {
		for i, s := range all {
			slots <- struct{}{}
			go func() {
				defer func() { <-slots }()
				acts[i] <- s.play(ctx, program, colour)
			}()
		}
	}()
	code := exitOK
	for i, s := range all {
		a := <-acts[i] // each scene has an act, an interrupted one too
		if a.out.Exit == exitInterrupted || a.out.Exit == exitSignal {
			// A terminal's Ctrl-C may reach synprobe before it does us, and
			// even before synprobe heeds it.
			interrupt()
		}
		if ctx.Err() != nil {
			continue // what it says now is not what it would have said
		}
		_, _ = io.WriteString(stdout, s.heading(i+1, len(all), colour))
		if a.err != nil {
			code = complain(exitFailed, "scene %s: %v", s.name, a.err)
			continue
		}
		_, _ = fmt.Fprintf(stdout, "   %s\n\n$ %s\n%s\n", a.drawing, a.command, a.out.Stdout)
		first, _, _ := strings.Cut(a.out.Stdout, "\n")
		if !strings.Contains(first, strings.ToUpper(string(s.verdict))) {
			code = complain(exitFailed, "scene %s: exit %d, and not the verdict %s", s.name, a.out.Exit, s.verdict)
		}
	}
	if ctx.Err() != nil {
		return complain(exitInterrupted, "interrupted; the networks are taken down")
	}
	_, _ = fmt.Fprintf(stdout, "%d scenes in %.0f s. No packet has left this machine.\n", len(all), time.Since(began).Seconds())
	return code
}

// heading names the scene and what it promises.
func (s scene) heading(n, of int, colour bool) string {
	h := fmt.Sprintf("== %d of %d, %s: %s, %s ", n, of, s.name, s.verdict, s.cause)
	h += strings.Repeat("=", max(78-len(h), 2))
	if colour {
		h = "\x1b[1m" + h + "\x1b[0m"
	}
	return h + "\n   " + s.title + "\n"
}

// play builds the scene's network and runs synprobe in it.
func (s scene) play(ctx context.Context, program string, colour bool) (a act) {
	if ctx.Err() != nil {
		return act{err: ctx.Err()}
	}
	err := netlab.Use(s.net, func(lab *netlab.Lab) {
		var flags []string
		if colour {
			flags = []string{"--color=always"} // its output is not a terminal here
		}
		a = s.probe(ctx, lab, program, flags...)
	})
	if err != nil {
		a.err = err
	}
	return a
}

// probe breaks the scene's network and runs synprobe in it, with flags that the
// command shown has not.
func (s scene) probe(ctx context.Context, lab *netlab.Lab, program string, flags ...string) (a act) {
	family := s.ipVersion()
	a.drawing = s.draw(lab.Plan, family)
	if s.broken != nil {
		s.broken(lab, family)
	}
	argv := slices.Clone(s.flags)
	if s.target == "" {
		argv = append(argv, lab.Addr("server", family).String())
	} else {
		argv = append(argv, s.target)
	}
	if s.port == "" {
		argv = append(argv, "80")
	} else {
		argv = append(argv, s.port)
	}
	a.command = "synprobe " + strings.Join(argv, " ")
	client := lab.Node("client")
	a.out, a.err = client.Run(client.Command(ctx, program, append(flags, argv...)...))
	if a.err == nil && a.out.Stdout == "" {
		a.err = fmt.Errorf("synprobe said nothing: exit %d: %s", a.out.Exit, strings.TrimSpace(a.out.Stderr))
	}
	return a
}

func (s scene) ipVersion() netlab.Family {
	if s.family == 0 {
		return netlab.IPv4
	}
	return s.family
}

// draw puts the addresses that face the client into the drawing.
func (s scene) draw(plan *netlab.Plan, f netlab.Family) string {
	words := strings.Fields(s.drawing)
	for i, w := range words {
		if name, rest, ok := strings.Cut(w, "@"); ok {
			addr := plan.Addr(strings.TrimLeft(name, "["), f)
			words[i] = name + " " + addr.String() + rest
		}
	}
	return strings.Join(words, " ")
}

// wantsColour decides as synprobe does.
func wantsColour() bool {
	info, err := os.Stdout.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}
