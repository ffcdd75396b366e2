package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"synprobe/cmd/synprobe/internal/report"
	"synprobe/traceroute"
)

// politeRate is the default of --rate. It is far from what a firewall or a
// slow link notices, and what an engineer would call a scan.
const politeRate = 1000

// mostTries is how often the engine asks a target at most: it has five bits for
// the count.
const mostTries = 31

// batchFlags are the flags of many targets.
type batchFlags struct {
	targets       []string // files
	rate          int
	shard, shards int // 0: all
	resume        string
	csv           bool
	expect        string
	explain       bool
	linkLayer     bool
	skipBad       bool

	asked  string // a flag that means many targets; empty if none was given
	alone  string // a flag that means one target; likewise
	traces string // a flag about traces; likewise

	rateText, shardText string
}

// add defines the flags.
func (b *batchFlags) add(set *pflag.FlagSet) {
	set.StringArrayVar(&b.targets, "targets", nil, "")
	set.StringVar(&b.rateText, "rate", "", "")
	set.StringVar(&b.shardText, "shard", "", "")
	set.StringVar(&b.resume, "resume", "", "")
	set.BoolVar(&b.csv, "csv", false, "")
	set.StringVar(&b.expect, "expect", "", "")
	set.BoolVar(&b.explain, "explain", false, "")
	set.BoolVar(&b.linkLayer, "link-layer", false, "")
	set.BoolVar(&b.skipBad, "skip-bad", false, "")
}

// checkBatch reads the flags' values, and which were given. A name that is no flag
// was not given.
func (f *flags) checkBatch(set *pflag.FlagSet) error {
	b := &f.batch
	given := func(names ...string) string {
		for _, name := range names {
			if set.Changed(name) {
				return "--" + name
			}
		}
		return ""
	}
	b.asked = given("targets", "rate", "shard", "resume", "csv", "expect", "explain", "link-layer")
	b.alone = given("write", "read", "prove", "verbose", "source-port", "timeout")
	b.traces = given("trace", "max-hops", "flows", "control-port")
	for _, name := range []string{"targets", "resume", "expect"} {
		if v := set.Lookup(name).Value.String(); given(name) != "" && (v == "" || v == "[]") {
			return misuse("--"+name+` ""`, "empty", "it takes the name of a file")
		}
	}
	stdin := 0
	for _, name := range append([]string{b.expect}, b.targets...) {
		if name == "-" {
			stdin++
		}
	}
	b.rate = politeRate
	if given("rate") != "" {
		n, err := strconv.ParseUint(b.rateText, 10, 31)
		if err != nil {
			return misuse("--rate "+report.Escape(b.rateText), "not a number of packets a second", "as in --rate 5000; 0 is as fast as it goes")
		}
		b.rate = int(n)
	}
	if given("shard") != "" {
		i, n, slash := strings.Cut(b.shardText, "/")
		shard, err := strconv.ParseUint(i, 10, 31)
		shards, err2 := strconv.ParseUint(n, 10, 31)
		if !slash || err != nil || err2 != nil || shard < 1 || shard > shards {
			return misuse("--shard "+report.Escape(b.shardText), "not I/N with I from 1 to N", "as in --shard 2/3 on the second of three machines")
		}
		b.shard, b.shards = int(shard), int(shards)
	}
	exclude := func(why string, names ...string) error {
		for _, name := range names {
			if given(name) == "" {
				return nil
			}
		}
		return misuse("--"+strings.Join(names, " and --"), why, "")
	}
	for _, c := range []struct {
		why   string
		names []string
	}{
		{"they exclude each other", []string{"csv", "json"}},
		{"differences are told in words alone", []string{"expect", "json"}},
		{"differences are told in words alone", []string{"expect", "csv"}},
		{"an earlier run's differences are not kept", []string{"expect", "resume"}},
		{"an earlier run's results are not kept", []string{"explain", "resume"}},
	} {
		if err := exclude(c.why, c.names...); err != nil {
			return err
		}
	}
	switch {
	case stdin > 1:
		return misuse("standard input", "it can be read once", "give - to one of the flags")
	case b.skipBad && len(b.targets) == 0 && b.expect == "":
		return misuse("--skip-bad", "there is no file whose lines could be bad", "it goes with --targets or --expect")
	}
	return nil
}

// many reports whether the command line asks for a run with many targets. What
// can't be read is left to the run with few.
func (f *flags) many() bool {
	if f.batch.asked != "" {
		return true
	}
	pairs, err := split(f.args)
	if err != nil {
		return false
	}
	for _, p := range pairs {
		if p.wide() {
			return true
		}
	}
	return false
}

// fits refuses the flags that make no sense with many targets.
func (b *batchFlags) fits(opt *Options) error {
	const hint = "probe the target alone"
	why := "it is for single targets, not for networks, lists of ports and files"
	if b.asked != "" {
		why = "it is for single targets, without " + b.asked
	}
	switch {
	case b.alone != "":
		return misuse(b.alone, why, hint)
	case b.traces != "" && !b.explain:
		return misuse(b.traces, "no path is traced for many targets without --explain", "add --explain, or leave it out")
	case opt.Tries > mostTries:
		return misuse(fmt.Sprintf("--tries %d", opt.Tries), fmt.Sprintf("many targets get %d SYNs each at most", mostTries), "")
	case b.explain && opt.Trace.Mode == traceroute.Never:
		return misuse("--explain and --trace never", "they exclude each other", "")
	}
	return nil
}
