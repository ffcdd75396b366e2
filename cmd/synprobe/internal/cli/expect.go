package cli

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"synprobe/cmd/synprobe/internal/report"
	"synprobe/traceroute/diagnose"
)

// maxExpected bounds what one file may expect: it is kept in memory target by
// target.
const maxExpected = 1 << 22

// verdictsByWord are the words of a file of expectations, by their number.
var verdictsByWord = []diagnose.Verdict{diagnose.Open, diagnose.Reject, diagnose.Drop, diagnose.HostDown, diagnose.NetworkDown, diagnose.Partial}

// An expectation is what --expect says of each target.
type expectation struct {
	file    string
	entries []expected // sorted once settled
	seen    []uint64   // a bit for each entry
	errors  uint64     // lines that hold an earlier run's errors
}

type expected struct {
	hi, lo  uint64 // the address, of IPv4 the mapped one
	port    uint16
	verdict uint8 // in verdictsByWord
}

func (e expected) target() netip.AddrPort { return netip.AddrPortFrom(addrOf(e.hi, e.lo), e.port) }

func compareExpected(a, b expected) int {
	return cmp.Or(cmp.Compare(a.hi, b.hi), cmp.Compare(a.lo, b.lo), cmp.Compare(a.port, b.port))
}

// splitExpected reads a line of --expect: HOST PORT VERDICT, HOST:PORT VERDICT
// or an object of an earlier --json. The verdict is empty for a line that says
// nothing of a target: an earlier run's error.
func splitExpected(text string) (pair, diagnose.Verdict, *failure) {
	if text[0] == '{' {
		return splitObject(text)
	}
	fields := strings.Fields(text)
	if len(fields) < 2 || len(fields) > 3 {
		return pair{}, "", misuse(clip(text), fmt.Sprintf("%s, where a line has HOST PORT VERDICT", report.Count(uint64(len(fields)), "word")), "")
	}
	word := fields[len(fields)-1]
	verdict := diagnose.Verdict(strings.ToLower(word))
	if !slices.Contains(verdictsByWord, verdict) {
		return pair{}, "", misuse("verdict "+clip(word), "not one of "+verdictList(), "")
	}
	p, err := splitLine(strings.Join(fields[:len(fields)-1], " "))
	return p, verdict, err
}

func verdictList() string {
	var all []string
	for _, v := range verdictsByWord {
		all = append(all, string(v))
	}
	return strings.Join(all, ", ")
}

// splitObject reads one line of JSON.
func splitObject(text string) (pair, diagnose.Verdict, *failure) {
	var o struct {
		Schema string
		Target *struct {
			Address string
			Port    uint16
		}
		Verdict diagnose.Verdict
		Error   json.RawMessage
	}
	switch err := json.Unmarshal([]byte(text), &o); {
	case err != nil:
		return pair{}, "", misuse("JSON", err.Error(), "")
	case o.Schema != report.Schema:
		return pair{}, "", misuse("JSON", fmt.Sprintf("the schema is %s, not %s", clip(o.Schema), report.Schema), "")
	case o.Error != nil:
		return pair{}, "", nil
	case o.Target == nil || !slices.Contains(verdictsByWord, o.Verdict):
		return pair{}, "", misuse("JSON", "it has no target or no verdict", "")
	}
	if _, err := netip.ParseAddr(o.Target.Address); err != nil || o.Target.Port == 0 {
		return pair{}, "", misuse("JSON", "its target has no address or no port", "")
	}
	return pair{host: o.Target.Address, port: fmt.Sprint(o.Target.Port), colon: true}, o.Verdict, nil
}

// use adds what a line names to what is probed, or expected, or both.
func (g *gatherer) use(p netip.Prefix, u use) *failure {
	if u.verdict != "" {
		if err := g.expect.add(p, g.set.ports.lists[u.list], u.verdict); err != nil {
			return err
		}
	}
	if u.verdict == "" || u.probe {
		g.set.add(p, u.list)
	}
	return nil
}

func (x *expectation) add(p netip.Prefix, ports []uint16, verdict diagnose.Verdict) *failure {
	first := entryOf(p, 0)
	n := first.addresses()
	if n*uint64(len(ports))+uint64(len(x.entries)) > maxExpected {
		return misuse(clip(p.String()), fmt.Sprintf("more than %d targets in one file of expectations", maxExpected), "")
	}
	v := uint8(slices.Index(verdictsByWord, verdict))
	for i := range n {
		for _, port := range ports {
			x.entries = append(x.entries, expected{first.hi, first.lo + i, port, v}) // a prefix of 2^32 at most stays in lo
		}
	}
	return nil
}

// settle sorts the entries, and refuses a target that two verdicts are expected
// of.
func (x *expectation) settle() error {
	slices.SortFunc(x.entries, compareExpected)
	for i := 1; i < len(x.entries); i++ {
		if a, b := x.entries[i-1], x.entries[i]; compareExpected(a, b) == 0 && a.verdict != b.verdict {
			return misuse(fileName(x.file), fmt.Sprintf("%v is expected to be %s and %s", a.target(), verdictsByWord[a.verdict], verdictsByWord[b.verdict]), "leave one of the lines out")
		}
	}
	x.entries = slices.Compact(x.entries)
	x.seen = make([]uint64, (len(x.entries)+63)/64)
	return nil
}

// of returns the verdict that is expected of a target, and notes that it was
// asked for.
func (x *expectation) of(t netip.AddrPort) (diagnose.Verdict, bool) {
	a := t.Addr().As16()
	key := expected{hi: binary.BigEndian.Uint64(a[:8]), lo: binary.BigEndian.Uint64(a[8:]), port: t.Port()}
	i, ok := slices.BinarySearchFunc(x.entries, key, compareExpected)
	if !ok {
		return "", false
	}
	x.seen[i/64] |= 1 << (i % 64)
	return verdictsByWord[x.entries[i].verdict], true
}

// unprobed is how many entries nobody asked for.
func (x *expectation) unprobed() uint64 {
	n := len(x.entries)
	for _, w := range x.seen {
		n -= bits.OnesCount64(w)
	}
	return uint64(n)
}
