package report

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"synprobe/traceroute/diagnose"
)

// CSVHeader is the first line of CSV: the names of the columns.
const CSVHeader = "name,address,port,verdict,cause,certainty,fault_where,fault_address,rtt_ms,tries\n"

// AppendCSV writes one line of CSV (RFC 4180, but for the end of the line, which
// is a line feed alone). Several suspects stand in one field, with spaces
// between.
func (r *Row) AppendCSV(b []byte) []byte {
	if r.Name == "" {
		b = appendAddr(b, r.Target.Addr())
	} else {
		b = appendField(b, r.Name)
	}
	b = appendAddr(append(b, ','), r.Target.Addr())
	b = strconv.AppendUint(append(b, ','), uint64(r.Target.Port()), 10)
	b = append(append(b, ','), r.Verdict...)
	b = append(append(b, ','), r.Cause...)
	b = append(append(b, ','), r.Certainty...)
	b = append(append(b, ','), r.Where...)
	b = append(b, ',')
	switch {
	case len(r.Suspects) > 0:
		for i, a := range r.Suspects {
			if i > 0 {
				b = append(b, ' ')
			}
			b = appendAddr(b, a)
		}
	case r.Where == diagnose.Destination:
		b = appendAddr(b, r.Target.Addr())
	case r.Device.IsValid():
		b = appendAddr(b, r.Device)
	}
	b = append(b, ',')
	if r.RTT > 0 {
		us := r.RTT.Round(time.Microsecond).Microseconds()
		b = strconv.AppendFloat(b, float64(us)/1000, 'f', -1, 64)
	}
	b = strconv.AppendInt(append(b, ','), int64(r.Tries), 10)
	return append(b, '\n')
}

// appendAddr writes an address. Its zone is the name of an interface, which may
// hold anything but slashes, colons and spaces.
func appendAddr(b []byte, a netip.Addr) []byte {
	if a.Zone() != "" {
		return appendField(b, a.String())
	}
	return a.AppendTo(b)
}

// appendField writes text, in quotes where it has what would end the field, and
// escaped where it could do something to a terminal.
func appendField(b []byte, s string) []byte {
	if s = clean(s); !strings.ContainsAny(s, ",\"") {
		return append(b, s...)
	}
	b = append(b, '"')
	b = append(b, strings.ReplaceAll(s, `"`, `""`)...)
	return append(b, '"')
}
