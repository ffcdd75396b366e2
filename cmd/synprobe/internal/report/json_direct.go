package report

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strconv"
	"time"

	"synprobe/traceroute/diagnose"
)

// A DirectJSON writes the results of many targets as JSON: byte for byte the
// lines of [Result.ToJSON], at a tenth of the cost and without garbage. The zero
// value has no time and no source; make one with [NewDirectJSON].
type DirectJSON struct {
	// head is all before the target's name, source all between target and
	// verdict.
	head, source []byte
}

// NewDirectJSON returns what writes the results of a run. Of this machine's end
// no more is known than from, if that, and the name of an interface.
func NewDirectJSON(start time.Time, from netip.Addr, iface string) *DirectJSON {
	w := &DirectJSON{}
	w.head = appendString([]byte(`{"schema":`), Schema)
	w.head = append(w.head, `,"time":"`...)
	w.head = start.UTC().AppendFormat(w.head, timeLayout)
	w.head = append(w.head, `","target":{"name":`...)
	w.source = appendAddress([]byte(`},"source":{"address":`), from)
	w.source = appendString(append(w.source, `,"interface":`...), iface)
	w.source = append(w.source, `,"gateway":""},"verdict":`...)
	return w
}

// Append writes one result as an object on a line. An empty name stands for the
// address. A path that d may have is left out: none was traced.
func (w *DirectJSON) Append(b []byte, name string, target netip.AddrPort, d *diagnose.Diagnosis) []byte {
	b = append(b, w.head...)
	if name == "" {
		b = appendAddress(b, target.Addr())
	} else {
		b = appendString(b, name)
	}
	b = appendAddress(append(b, `,"address":`...), target.Addr())
	b = strconv.AppendUint(append(b, `,"port":`...), uint64(target.Port()), 10)
	b = appendString(append(b, w.source...), string(d.Verdict))
	b = appendString(append(b, `,"cause":`...), string(d.Cause))
	b = appendString(append(b, `,"certainty":`...), string(d.Certainty))
	b = appendString(append(b, `,"summary":`...), d.Summary)
	b = append(b, `,"fault":`...)
	if d.Fault == nil {
		b = append(b, "null"...)
	} else {
		b = appendFault(b, d.Fault)
	}
	b = append(b, `,"alternatives":[`...)
	for i := range d.Alternatives {
		a := &d.Alternatives[i]
		b = appendString(append(comma(b, i), `{"cause":`...), string(a.Cause))
		b = appendFault(append(b, `,"fault":`...), &a.Fault)
		b = append(appendString(append(b, `,"why":`...), a.Why), '}')
	}
	b = append(b, `],"rtt_ms":`...)
	if d.RTT > 0 {
		// As the encoder writes what is neither tiny nor huge, which no round trip
		// in whole microseconds is.
		us := d.RTT.Round(time.Microsecond).Microseconds()
		b = strconv.AppendFloat(b, float64(us)/1000, 'f', -1, 64)
	} else {
		b = append(b, "null"...)
	}
	b = strconv.AppendInt(append(b, `,"tries":`...), int64(d.Tries), 10)
	b = strconv.AppendInt(append(b, `,"answered":`...), int64(d.Answered), 10)
	b = append(b, `,"path":[],"evidence":[`...)
	for i := range d.Evidence {
		e := &d.Evidence[i]
		b = appendString(append(comma(b, i), `{"rule":`...), e.Rule)
		b = append(appendString(append(b, `,"text":`...), e.Text), '}')
	}
	return append(b, "]}\n"...)
}

func appendFault(b []byte, f *diagnose.Fault) []byte {
	b = appendString(append(b, `{"where":`...), string(f.Where))
	b = append(b, `,"hops":[`...)
	for i := range f.Hops {
		h := &f.Hops[i]
		b = append(comma(b, i), '{')
		if h.TTL != diagnose.UnknownTTL {
			b = append(strconv.AppendInt(append(b, `"ttl":`...), int64(h.TTL), 10), ',')
		}
		b = append(appendAddress(append(b, `"address":`...), h.Address), '}')
	}
	return append(b, "]}"...)
}

// comma separates an element of a list from the one before.
func comma(b []byte, i int) []byte {
	if i > 0 {
		b = append(b, ',')
	}
	return b
}

// appendAddress writes an address as a string, the zero Addr as an empty one.
func appendAddress(b []byte, a netip.Addr) []byte {
	if a.Zone() != "" {
		return appendString(b, a.String()) // of any characters
	}
	b = append(b, '"')
	if a.IsValid() {
		b = a.AppendTo(b)
	}
	return append(b, '"')
}

// appendString writes a string. Of what needs escaping the sentences have quotes
// alone; the rest is left to the encoder.
func appendString(b []byte, s string) []byte {
	before := len(b)
	b = append(b, '"')
	start := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c > '~':
			return appendEscaped(b[:before], s)
		case c == '"' || c == '\\':
			b = append(append(b, s[start:i]...), '\\')
			start = i
		}
	}
	return append(append(b, s[start:]...), '"')
}

func appendEscaped(b []byte, s string) []byte {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // of a string: nothing there can fail
	return append(b, bytes.TrimSuffix(plain(text.Bytes()), []byte("\n"))...)
}
