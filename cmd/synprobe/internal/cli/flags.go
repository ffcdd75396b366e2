package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"synprobe/cmd/synprobe/internal/report"
	"synprobe/traceroute"
)

const usage = `Usage:
  synprobe [flags] HOST PORT
  synprobe [flags] HOST:PORT...
  synprobe [flags] NETWORK:PORTS...

Try synprobe --help.
`

const help = `synprobe says what happens to a TCP connection attempt, and who does it.

Usage:
  synprobe [flags] HOST PORT       as telnet
  synprobe [flags] HOST:PORT...    several targets
  synprobe [flags] NETWORK:PORTS   many targets: see below
  synprobe -r FILE [HOST PORT]     a capture

  HOST is a name, an IPv4 address or an IPv6 address; PORT a number or the name
  of a service. With :PORT an IPv6 address stands in brackets.

    synprobe db.example.com 5432
    synprobe db.example.com:5432 10.0.4.2:https '[2001:db8::1]:22'
    synprobe fe80::1%eth0 22

Which way:
  -4, --ipv4               IPv4 only
  -6, --ipv6               IPv6 only
  -i, --interface NAME     send on this interface
  -s, --source ADDRESS     send from this address of this machine
      --source-port PORT   send from this port; several targets then take turns

Instead of the network:
  -r, --read FILE          explain a capture, pcap or pcapng, synprobe's own or
                           of another program that connects; - is standard
                           input; HOST PORT chooses where there are several

How hard:
  -t, --timeout DURATION   end after this long, as 2s or 500ms
                           (default: as long as the proof takes, 4.5s at most,
                           and the round trips)
      --tries N            SYNs to send before silence counts, 1 to 100
                           (default: as many as the proof needs, 3 or more)

Where it stops:
      --trace WHEN         auto, always or never (default: auto, which traces
                           the path of what is not a plain answer of the host,
                           and else looks at the last hops alone)
      --max-hops N         step no further than N hops, 1 to 64 (default: 30)
      --flows N            source ports to try beside the first, 1 to 16, of a
                           port that answers too (default: 2, of a silent one)
      --prove              where SYNs are silent, wait 30 to 35s for a proof
                           that they arrive (IPv4); Ctrl-C ends the wait with
                           the result so far
      --control-port PORT  a port of the host that should answer, to compare
                           with; may be given several times

What to print:
  -j, --json               one JSON object for each target, on one line
  -n, --no-names           no names for addresses and ports
  -v, --verbose            every packet as it goes by, and what this machine
                           knows (text only)
  -w, --write FILE         every packet sent and received, and the answer, as
                           pcapng; - is standard output, and the text then goes
                           to standard error
      --html FILE          a page with the answer, the path and every packet
      --force              let --write and --html replace a file
  -q, --quiet              one line for each target: verdict, cause, target
                           (text only)
      --color WHEN         auto, always or never (default: auto, which heeds
                           NO_COLOR)
      --version            print the version
  -h, --help               print this

Many targets: networks, lists of ports, or any of these flags. Each target gets
  one line, and no path is traced.

    synprobe 10.0.0.0/24:22,80,8000-8010 '[2001:db8::/120]:22'
    synprobe 10.0.0.0/16 22,443 --csv > now.csv

      --targets FILE       one HOST:PORT, NETWORK:PORTS or HOST PORT a line, #
                           for comments; - is standard input
      --skip-bad           leave out the lines of a file that are wrong
      --rate PPS           send so many packets a second (default: 1000); 0 is
                           as fast as it goes
      --shard I/N          the I-th of N parts of the targets
      --resume FILE        keep the state in FILE, and go on from there
      --csv                comma-separated values
      --expect FILE        print only what differs from FILE, whose lines are
                           HOST PORT VERDICT or an earlier run's JSON; exits
                           with 7 if anything does
      --explain            afterwards the full diagnosis of what is not open,
                           with one trace for each host, verdict and cause
      --link-layer         send Ethernet frames past this machine's IP stack:
                           faster, but its own firewall, NAT and policy
                           routing are then not tested

Exit codes:
  0  open            64  usage                      75  name servers silent
  1  reject          68  the name does not exist    77  not permitted
  3  drop            70  a bug in synprobe         130  interrupted before a
  4  host-down       74  this machine could not         verdict
  5  network-down        send, watch, read
  6  partial             or write
  7  --expect found differences
  Of several targets the highest counts.

Probing needs root, or once: sudo setcap cap_net_raw+ep /path/to/synprobe
`

// flags are the command line's flags, checked, and its arguments.
type flags struct {
	v4, v6        bool
	json          bool
	noNames       bool
	verbose       bool
	quiet         bool
	version, help bool
	write, read   string // files; - is standard output or input
	html          string // a file
	force         bool
	color         string // auto, always or never
	opt           Options
	batch         batchFlags
	args          []string
}

// wantsFamily reports whether -4, -6 and -s leave a's family.
func (f *flags) wantsFamily(a netip.Addr) bool {
	switch {
	case f.v4 && !a.Is4(), f.v6 && !a.Is6():
		return false
	case f.opt.Source.IsValid():
		return f.opt.Source.Is4() == a.Is4()
	}
	return true
}

// familyFlag is the flag that chose the family: -4, -6 or --source.
func (f *flags) familyFlag() string {
	switch {
	case f.v4:
		return "-4"
	case f.v6:
		return "-6"
	}
	return "--source " + f.opt.Source.String()
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

func otherFamily(a netip.Addr) string {
	if a.Is4() {
		return "IPv6"
	}
	return "IPv4"
}

const seeHelp = "synprobe --help lists the flags"

// parseFlags reads the command line as far as that needs nothing of the
// machine. The flags that it read before an error are returned with it.
func parseFlags(args []string) (*flags, error) {
	f := &flags{}
	var source, sourcePort, timeout, tries, trace, maxHops, flows string
	var controlPorts []string
	set := pflag.NewFlagSet("synprobe", pflag.ContinueOnError)
	set.BoolVarP(&f.v4, "ipv4", "4", false, "")
	set.BoolVarP(&f.v6, "ipv6", "6", false, "")
	set.BoolVarP(&f.json, "json", "j", false, "")
	set.StringVarP(&f.opt.Interface, "interface", "i", "", "")
	set.StringVarP(&source, "source", "s", "", "")
	set.StringVar(&sourcePort, "source-port", "", "")
	set.StringVarP(&timeout, "timeout", "t", "", "")
	set.StringVar(&tries, "tries", "", "")
	set.StringVar(&trace, "trace", string(traceroute.Auto), "")
	set.StringVar(&maxHops, "max-hops", "", "")
	set.StringVar(&flows, "flows", "", "")
	set.BoolVar(&f.opt.Trace.Prove, "prove", false, "")
	set.StringArrayVar(&controlPorts, "control-port", nil, "")
	set.BoolVarP(&f.noNames, "no-names", "n", false, "")
	set.BoolVarP(&f.verbose, "verbose", "v", false, "")
	set.BoolVarP(&f.quiet, "quiet", "q", false, "")
	set.StringVar(&f.color, "color", "auto", "")
	set.StringVarP(&f.write, "write", "w", "", "")
	set.StringVarP(&f.read, "read", "r", "", "")
	set.StringVar(&f.html, "html", "", "")
	set.BoolVar(&f.force, "force", false, "")
	set.BoolVar(&f.version, "version", false, "")
	set.BoolVarP(&f.help, "help", "h", false, "")
	f.batch.add(set)
	set.Usage = func() {}
	if err := set.Parse(args); err != nil {
		return f, flagError(err)
	}
	f.args = set.Args()
	if f.help || f.version {
		return f, nil
	}

	switch {
	case f.v4 && f.v6:
		return f, misuse("-4 and -6", "they exclude each other", "leave both out to take what the name has")
	case f.quiet && f.verbose:
		return f, misuse("-q and -v", "they exclude each other", "leave out the one that is not meant")
	}
	switch f.color {
	case "auto", "always", "never":
	default:
		return f, misuse("--color "+report.Escape(f.color), "not one of auto, always and never", "as in --color=never")
	}
	if set.Changed("interface") && f.opt.Interface == "" {
		return f, misuse(`--interface ""`, "empty", "leave it out to let the route decide")
	}
	if set.Changed("source") {
		a, err := netip.ParseAddr(source)
		if err != nil {
			return f, misuse("--source "+report.Escape(source), "not an IP address", "give an address of this machine, or -i with the name of an interface")
		}
		f.opt.Source = a.Unmap()
		if f.v4 && f.opt.Source.Is6() || f.v6 && f.opt.Source.Is4() {
			return f, misuse("--source "+report.Escape(source), "an "+family(f.opt.Source)+" address, with "+f.familyFlag(), "leave out one of the two")
		}
	}
	if set.Changed("source-port") {
		n, err := strconv.ParseUint(sourcePort, 10, 16)
		if err != nil || n == 0 {
			return f, misuse("--source-port "+report.Escape(sourcePort), "not a number from 1 to 65535", "leave it out to take a free one")
		}
		f.opt.SourcePort = uint16(n)
	}
	if set.Changed("timeout") {
		d, err := time.ParseDuration(timeout)
		hint := "as in -t 2s or -t 500ms"
		switch {
		case err != nil:
			return f, misuse("--timeout "+report.Escape(timeout), "not a duration with a unit", hint)
		case d <= 0:
			return f, misuse("--timeout "+report.Escape(timeout), "not above zero", hint)
		}
		f.opt.Timeout = d
	}
	if set.Changed("tries") {
		n, err := strconv.Atoi(tries)
		// More than that at one port is an attack, or a typing error.
		if err != nil || n < 1 || n > 100 {
			return f, misuse("--tries "+report.Escape(tries), "not a number from 1 to 100", "leave it out to send as many as the proof needs")
		}
		f.opt.Tries = n
	}
	if err := f.fileFlags(set); err != nil {
		return f, err
	}
	if err := f.traceFlags(set, trace, maxHops, flows, controlPorts); err != nil {
		return f, err
	}
	return f, f.checkBatch(set)
}

// fileFlags checks the flags about captures.
func (f *flags) fileFlags(set *pflag.FlagSet) error {
	for _, name := range []string{"write", "read"} {
		if v := set.Lookup(name); v.Changed && v.Value.String() == "" {
			return misuse("--"+name+` ""`, "empty", "the name of a file, or - for standard "+map[string]string{"write": "output", "read": "input"}[name])
		}
	}
	switch {
	case set.Changed("html") && f.html == "":
		return misuse(`--html ""`, "empty", "the name of a file")
	case f.html == "-":
		return misuse("--html -", "the page goes to a file", "as in --html case.html")
	case f.force && f.write == "" && f.html == "":
		return misuse("--force", "it is for --write and --html", "")
	}
	if f.read == "" {
		return nil
	}
	for _, name := range []string{
		"write", "ipv4", "ipv6", "interface", "source", "source-port", "timeout", "tries",
		"trace", "max-hops", "flows", "control-port", "prove",
	} {
		if set.Changed(name) {
			return misuse("--read and --"+name, "they exclude each other", "--read sends nothing")
		}
	}
	return nil
}

// traceFlags checks the flags about the path.
func (f *flags) traceFlags(set *pflag.FlagSet, trace, maxHops, flows string, controlPorts []string) error {
	f.opt.Trace.Mode = traceroute.Mode(trace)
	switch f.opt.Trace.Mode {
	case traceroute.Auto, traceroute.Always:
	case traceroute.Never:
		for _, name := range []string{"max-hops", "flows", "control-port", "prove"} {
			if set.Changed(name) {
				return misuse("--trace never and --"+name, "they exclude each other", "")
			}
		}
	default:
		return misuse("--trace "+report.Escape(trace), "not one of auto, always and never", "")
	}
	if f.opt.Trace.Prove && f.v6 {
		return misuse("--prove and -6", "the proof works in IPv4 alone", "")
	}
	if set.Changed("max-hops") {
		n, err := strconv.Atoi(maxHops)
		if err != nil || n < 1 || n > traceroute.MaxHops {
			return misuse("--max-hops "+report.Escape(maxHops), fmt.Sprintf("not a number from 1 to %d", traceroute.MaxHops), "")
		}
		f.opt.Trace.MaxHops = n
	}
	if set.Changed("flows") {
		n, err := strconv.Atoi(flows)
		// More are no better proof, and look like a scan.
		if err != nil || n < 1 || n > 16 {
			return misuse("--flows "+report.Escape(flows), "not a number from 1 to 16", "")
		}
		f.opt.Trace.Flows = n
	}
	for _, text := range controlPorts {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return misuse("--control-port "+report.Escape(text), "not a number from 1 to 65535", "")
		}
		f.opt.Trace.ControlPorts = append(f.opt.Trace.ControlPorts, uint16(n))
	}
	return nil
}

// flagError says an error of pflag as all other errors are said.
func flagError(err error) *failure {
	var unknown *pflag.NotExistError
	var missing *pflag.ValueRequiredError
	var invalid *pflag.InvalidValueError
	var syntax *pflag.InvalidSyntaxError
	switch {
	case errors.As(err, &unknown):
		group := unknown.GetSpecifiedShortnames()
		switch {
		case group == "":
			return misuse("unknown flag "+report.Escape("--"+unknown.GetSpecifiedName()), "", seeHelp)
		case strings.Trim(group, "0123456789") == "":
			// synprobe host -1: a port, as the user sees it.
			return badPort("-"+group, "")
		case len(group) == 1:
			return misuse("unknown flag "+report.Escape("-"+group), "", seeHelp)
		default:
			// The name may be one byte of a longer character: the group is
			// the whole of what was typed.
			return misuse("unknown flag in "+report.Escape("-"+group), "", seeHelp)
		}
	case errors.As(err, &missing):
		return misuse("--"+missing.GetFlag().Name, "it needs a value", seeHelp)
	case errors.As(err, &invalid):
		return misuse("--"+invalid.GetFlag().Name+" "+report.Escape(invalid.GetValue()), "it takes no value", seeHelp)
	case errors.As(err, &syntax):
		return misuse("unknown flag "+report.Escape(syntax.GetSpecifiedFlag()), "", seeHelp)
	}
	return misuse(err.Error(), "", seeHelp)
}

// asksJSON reports whether args ask for JSON, where they could not be parsed.
func asksJSON(args []string) bool {
	for _, a := range args {
		switch {
		case a == "--":
			return false
		case a == "--json":
			return true
		case strings.HasPrefix(a, "-") && !strings.HasPrefix(a, "--"):
			// Behind a flag with a value the rest of the cluster is that.
			letters := a
			if i := strings.IndexAny(a, "=irstw"); i >= 0 {
				letters = a[:i]
			}
			if strings.Contains(letters, "j") {
				return true
			}
		}
	}
	return false
}

// style is how text is to look on this terminal.
func (f *flags) style(env Env) report.Style {
	s := report.Style{Verbose: f.verbose, NoNames: f.noNames, ASCII: !utf8Locale(env.Getenv)}
	switch f.color {
	case "always":
		s.Colour = true
	case "auto":
		// https://no-color.org: any value but the empty one.
		s.Colour = env.Terminal && env.Getenv("NO_COLOR") == "" && env.Getenv("TERM") != "dumb"
	}
	// Shells seldom export COLUMNS; where one does, it is meant, but for the 0 of
	// a terminal that does not say. Below 40 columns wrapped text is harder to
	// read than what a terminal wraps.
	if n, err := strconv.Atoi(env.Getenv("COLUMNS")); err == nil && n > 0 && env.Terminal {
		s.Width = min(max(n, 40), 120)
	}
	return s
}

// utf8Locale follows the order of POSIX (Base Definitions, section 8.2).
func utf8Locale(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := getenv(name); v != "" {
			v = strings.ToLower(v)
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// version is the build's own account of itself.
func version() string {
	v, rev, dirty := "unknown", "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				rev = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = ", modified"
			}
		}
	}
	if len(rev) > 12 {
		rev = rev[:12]
	}
	if rev != "" {
		v += " (" + rev + dirty + ")"
	}
	return fmt.Sprintf("synprobe %s %s %s/%s", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
