package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"

	"synprobe/cmd/synprobe/internal/report"
	"synprobe/rawprobe"
	"synprobe/traceroute/diagnose"
)

// The exit codes of errors follow sysexits.h. 2 is never used: a Go program
// that dies by itself exits so.
const (
	exitOK          = 0
	exitUsage       = 64 // EX_USAGE
	exitNoHost      = 68 // EX_NOHOST
	exitInternal    = 70 // EX_SOFTWARE
	exitIO          = 74 // EX_IOERR
	exitTempFail    = 75 // EX_TEMPFAIL
	exitNoPerm      = 77 // EX_NOPERM
	exitInterrupted = 130
)

// exitCodes are the errors' codes. Any of them is above any verdict's, so that
// the highest code of several targets is an error where there was one.
var exitCodes = map[report.ErrorKind]int{
	report.UsageError:   exitUsage,
	report.NameNotFound: exitNoHost,
	report.NameServers:  exitTempFail,
	report.NotPermitted: exitNoPerm,
	report.Interrupted:  exitInterrupted,
	report.Unsupported:  exitIO,
	report.IOError:      exitIO,
	report.Internal:     exitInternal,
}

// verdictCodes are the exit codes of the verdicts.
var verdictCodes = map[diagnose.Verdict]int{
	diagnose.Open:        0,
	diagnose.Reject:      1,
	diagnose.Drop:        3,
	diagnose.HostDown:    4,
	diagnose.NetworkDown: 5,
	diagnose.Partial:     6,
}

// failure is an error as the user is told it.
type failure struct {
	kind   report.ErrorKind
	what   string // what failed; it names the value
	why    string
	hint   string  // what to do about it, one line; may be empty
	target *target // which target it is about; nil if none
}

func (f *failure) Error() string { return f.message() }

// message is the error without the program's name and the hint.
func (f *failure) message() string {
	if f.why == "" {
		return f.what
	}
	return f.what + ": " + f.why
}

func (f *failure) print(b *bytes.Buffer) {
	fmt.Fprintf(b, "synprobe: %s\n", oneLine(f.message()))
	if f.hint != "" {
		fmt.Fprintf(b, "hint: %s\n", oneLine(f.hint))
	}
}

// oneLine keeps what an error of a library holds from breaking the line or the
// terminal.
func oneLine(s string) string {
	if e := report.Escape(s); s != "" && e != s {
		return strings.ReplaceAll(e[1:len(e)-1], `\"`, `"`)
	}
	return s
}

// misuse is the failure of a command line. The hint may be empty.
func misuse(what, why, hint string) *failure {
	return &failure{kind: report.UsageError, what: what, why: why, hint: hint}
}

// bug is the failure of synprobe itself, by a panic.
func bug(p any) *failure {
	return &failure{
		kind: report.Internal,
		what: "internal error",
		why:  fmt.Sprintf("%v: this is a bug in synprobe", p),
		hint: "please report it, with the command line",
	}
}

// asFailure says an error of the engine in the user's words.
func asFailure(err error) *failure {
	var f *failure
	var privilege *rawprobe.PrivilegeError
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &privilege):
		return &failure{kind: report.NotPermitted, what: privilege.Op, why: cause(privilege.Err)}
	case errors.Is(err, context.Canceled):
		return &failure{kind: report.Interrupted, what: "interrupted", why: "there was no verdict yet"}
	case errors.Is(err, rawprobe.ErrNoInterface), errors.Is(err, rawprobe.ErrNotOurs):
		return &failure{kind: report.UsageError, what: err.Error()}
	case errors.Is(err, rawprobe.ErrBroadcast):
		return &failure{kind: report.UsageError, what: err.Error(), hint: "give the address of one host"}
	case errors.Is(err, rawprobe.ErrLoopback), errors.Is(err, rawprobe.ErrNotLoopback):
		return &failure{kind: report.UsageError, what: err.Error(), hint: "leave it out to let the route decide"}
	case errors.Is(err, rawprobe.ErrPortReserved):
		return &failure{kind: report.NotPermitted, what: err.Error(), hint: "choose a higher --source-port, or leave it out; or run it with sudo"}
	case errors.Is(err, rawprobe.ErrPortInUse):
		return &failure{kind: report.IOError, what: err.Error(), hint: "choose another --source-port, or leave it out"}
	case errors.Is(err, errors.ErrUnsupported):
		return &failure{kind: report.Unsupported, what: "probe", why: "this works on Linux only"}
	default:
		return &failure{kind: report.IOError, what: "probe", why: err.Error()}
	}
}

// cause is the system's own word on an error, without the names of calls and
// files around it.
func cause(err error) string {
	var path *os.PathError
	var sys *os.SyscallError
	var op *net.OpError
	switch {
	case errors.As(err, &sys):
		return sys.Err.Error()
	case errors.As(err, &path):
		return path.Err.Error()
	case errors.As(err, &op):
		return op.Err.Error()
	}
	return err.Error()
}

// privilegeHints say how to get the permission to probe, in lines that can be
// pasted.
func (r *run) privilegeHints(b *bytes.Buffer) {
	if r.env.PrivilegeHint != nil {
		if why := r.env.PrivilegeHint(); why != "" {
			fmt.Fprintf(b, "hint: %s\n", oneLine(why))
		}
	}
	again := []string{"sudo", shellQuote(r.program)}
	for _, a := range r.args {
		again = append(again, shellQuote(a))
	}
	fmt.Fprintf(b, "hint: once, as root:     %s\n", strings.Join(again, " "))
	if path, err := r.env.Executable(); err == nil {
		fmt.Fprintf(b, "hint: or for every user: sudo setcap cap_net_raw+ep %s\n", shellQuote(path))
	}
}

// plainWord is what no shell changes.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// shellQuote makes s one word of a POSIX shell, or of bash where it holds what
// should not reach a terminal.
func shellQuote(s string) string {
	switch {
	case plainWord.MatchString(s):
		return s
	case s != "" && report.Escape(s) != s:
		q := report.Escape(s)
		return "$'" + strings.ReplaceAll(strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`), "'", `\'`) + "'"
	default:
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
}
