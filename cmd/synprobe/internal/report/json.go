package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"time"
	"unicode"

	"synprobe/traceroute"
	"synprobe/traceroute/diagnose"
)

// Schema is the version of the JSON. A field may be added under the same
// version; none changes its meaning or goes.
const Schema = "synprobe/1"

// timeLayout is RFC 3339 with microseconds, always six digits, so that times
// sort as text.
const timeLayout = "2006-01-02T15:04:05.000000Z07:00"

// ErrorKind says what kind of error an error object holds.
type ErrorKind string

// The kinds of error.
const (
	// UsageError: the command line asks for something impossible. Nothing was
	// sent.
	UsageError ErrorKind = "usage"
	// NameNotFound: the name does not exist.
	NameNotFound ErrorKind = "name-not-found"
	// NameServers: no name server gave an answer.
	NameServers ErrorKind = "name-servers"
	// NotPermitted: the process may not send or watch packets.
	NotPermitted ErrorKind = "not-permitted"
	// Interrupted: the run was stopped before there was a verdict.
	Interrupted ErrorKind = "interrupted"
	// Unsupported: this operating system is not one that can be probed from.
	Unsupported ErrorKind = "unsupported"
	// IOError: this machine could not send, watch or write.
	IOError ErrorKind = "io"
	// Internal: synprobe itself is at fault.
	Internal ErrorKind = "internal"
)

// The JSON objects, field by field in the order in which they are printed.
type (
	jsonResult struct {
		Schema       string             `json:"schema"`
		Time         string             `json:"time"`
		Target       jsonTarget         `json:"target"`
		Source       jsonSource         `json:"source"`
		Verdict      diagnose.Verdict   `json:"verdict"`
		Cause        diagnose.Cause     `json:"cause"`
		Certainty    diagnose.Certainty `json:"certainty"`
		Summary      string             `json:"summary"`
		Fault        *jsonFault         `json:"fault"`
		Alternatives []jsonAlternative  `json:"alternatives"`
		RTT          *float64           `json:"rtt_ms"`
		Tries        int                `json:"tries"`
		Answered     int                `json:"answered"`
		Path         []jsonStep         `json:"path"`
		Evidence     []jsonEvidence     `json:"evidence"`
	}
	jsonTarget struct {
		Name    string `json:"name"`
		Address string `json:"address"`
		Port    uint16 `json:"port"`
	}
	jsonSource struct {
		Address   string `json:"address"`
		Interface string `json:"interface"`
		Gateway   string `json:"gateway"`
	}
	jsonFault struct {
		Where diagnose.Where `json:"where"`
		Hops  []jsonHop      `json:"hops"`
	}
	jsonHop struct {
		// TTL is absent where the distance was not measured. 0 is this
		// machine, so no number can stand for that.
		TTL     *int   `json:"ttl,omitempty"`
		Address string `json:"address"`
	}
	jsonStep struct {
		TTL     int    `json:"ttl"`
		Address string `json:"address"`
		// Addresses are there where more than one device answered at this TTL.
		Addresses []string                     `json:"addresses,omitempty"`
		RTT       *float64                     `json:"rtt_ms"`
		Subject   traceroute.Status            `json:"subject"`
		Controls  map[string]traceroute.Status `json:"controls"`
	}
	jsonAlternative struct {
		Cause diagnose.Cause `json:"cause"`
		Fault jsonFault      `json:"fault"`
		Why   string         `json:"why"`
	}
	jsonEvidence struct {
		Rule string `json:"rule"`
		Text string `json:"text"`
	}
	jsonFailure struct {
		Schema string      `json:"schema"`
		Target *jsonTarget `json:"target"`
		Error  jsonError   `json:"error"`
	}
	jsonError struct {
		Kind    ErrorKind `json:"kind"`
		Message string    `json:"message"`
	}
)

// ToJSON writes the result as one object on one line. A run that was
// interrupted gives an error object: it has no verdict.
func (r *Result) ToJSON(w io.Writer) error {
	if r.Interrupted() {
		return Failure{
			Name: r.name, Address: r.target.Addr(), Port: r.target.Port(),
			Kind: Interrupted, Message: r.interruption(),
		}.ToJSON(w)
	}
	d := r.diagnosis
	out := jsonResult{
		Schema: Schema,
		Time:   r.seen.Start.UTC().Format(timeLayout),
		Target: jsonTarget{r.name, address(r.target.Addr()), r.target.Port()},
		Source: jsonSource{
			Address:   address(r.source.address),
			Interface: r.source.iface,
			Gateway:   address(r.source.gateway),
		},
		Verdict:      d.Verdict,
		Cause:        d.Cause,
		Certainty:    d.Certainty,
		Summary:      d.Summary,
		Alternatives: make([]jsonAlternative, 0, len(d.Alternatives)),
		RTT:          milliseconds(d.RTT),
		Tries:        d.Tries,
		Answered:     d.Answered,
		Path:         path(d.Path),
		Evidence:     make([]jsonEvidence, 0, len(d.Evidence)),
	}
	if d.Fault != nil {
		f := fault(*d.Fault)
		out.Fault = &f
	}
	for _, a := range d.Alternatives {
		out.Alternatives = append(out.Alternatives, jsonAlternative{a.Cause, fault(a.Fault), a.Why})
	}
	for _, e := range d.Evidence {
		out.Evidence = append(out.Evidence, jsonEvidence(e))
	}
	return writeLine(w, out)
}

// Failure is an error in place of an answer: the program could not do its job.
type Failure struct {
	Name    string     // as the user typed it; empty where the error is about no target
	Address netip.Addr // the zero Addr where the name was not resolved
	Port    uint16     // 0 where it could not be read
	Kind    ErrorKind
	Message string
}

// ToJSON writes the failure as one object on one line. Its target is null
// where the error is about none.
func (f Failure) ToJSON(w io.Writer) error {
	out := jsonFailure{Schema: Schema, Error: jsonError{f.Kind, f.Message}}
	if f.Name != "" || f.Address.IsValid() {
		out.Target = &jsonTarget{f.Name, address(f.Address), f.Port}
	}
	return writeLine(w, out)
}

func fault(f diagnose.Fault) jsonFault {
	out := jsonFault{Where: f.Where, Hops: make([]jsonHop, 0, len(f.Hops))}
	for _, h := range f.Hops {
		hop := jsonHop{Address: address(h.Address)}
		if h.TTL != diagnose.UnknownTTL {
			hop.TTL = &h.TTL
		}
		out.Hops = append(out.Hops, hop)
	}
	return out
}

// path is the path hop by hop, from TTL 1.
func path(p traceroute.Path) []jsonStep {
	out := make([]jsonStep, 0, len(p.Hops))
	for _, h := range p.Hops {
		step := jsonStep{
			TTL: h.TTL, Address: address(p.Addr(h.TTL)), RTT: milliseconds(h.RTT),
			Subject: h.Of(subjectName).Status, Controls: make(map[string]traceroute.Status),
		}
		if len(h.Addrs) > 1 {
			for _, a := range h.Addrs {
				step.Addresses = append(step.Addresses, a.String())
			}
		}
		for _, name := range p.Names {
			if name != subjectName {
				step.Controls[name] = h.Of(name).Status
			}
		}
		out = append(out, step)
	}
	return out
}

// address is a's text, or nothing for the zero Addr.
func address(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// milliseconds is d to the microsecond, or nil where there was no answer.
func milliseconds(d time.Duration) *float64 {
	if d <= 0 {
		return nil
	}
	ms := float64(d.Round(time.Microsecond).Microseconds()) / 1000
	return &ms
}

// writeLine writes v and a newline in one call, so that lines of programs that
// share a file do not mix.
func writeLine(w io.Writer, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	_, err := w.Write(plain(b.Bytes()))
	return err
}

// plain escapes what could do something to a terminal and is left as it is by
// the encoder, which escapes what JSON demands (RFC 8259, section 7): DEL, the
// controls of C1, and what turns the direction of text. Such characters can stand
// in strings alone.
func plain(line []byte) []byte {
	if bytes.IndexFunc(line, unprintable) < 0 {
		return line
	}
	var b bytes.Buffer
	for _, r := range string(line) {
		switch {
		case !unprintable(r):
			b.WriteRune(r)
		case r > 0xffff:
			r -= 0x10000 // two surrogates, of ten bits each
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.Bytes()
}

func unprintable(r rune) bool { return r >= 0x7f && !unicode.IsPrint(r) }
