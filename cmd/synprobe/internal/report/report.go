// Package report presents one answer of synprobe: as text for people and as
// JSON for programs. A Result is built once from what was observed and what it
// means; its ToText, ToLine and ToJSON methods are the formats.
//
// Nothing here looks at the network, the clock or the environment, so that a
// format is tested by writing down a diagnosis.
package report

import (
	"net/netip"
	"slices"
	"time"

	"synprobe/rawprobe"
	"synprobe/traceroute/diagnose"
)

// Result is the view model of one target's answer.
type Result struct {
	// Names are the reverse names of devices, for the text alone. Addresses
	// that have none are absent. Nil is fine.
	Names map[netip.Addr]string

	name      string       // as the user typed it
	addresses []netip.Addr // all that the name has
	target    netip.AddrPort
	source    source
	diagnosis diagnose.Diagnosis
	seen      *rawprobe.Observations
}

// source is this machine's end of the connection attempt.
type source struct {
	address   netip.Addr // the zero Addr where the machine has none to offer
	iface     string     // empty where there is no route
	gateway   netip.Addr // the zero Addr where the target is on the link
	neighbour netip.Addr // whom packets are handed to on the link
}

// New makes the result for the target that the user called name. The name has
// all of the addresses, of which o is about one. The result keeps o.
func New(name string, addresses []netip.Addr, o *rawprobe.Observations, d diagnose.Diagnosis) *Result {
	r := &Result{name: name, addresses: addresses, target: o.Target, diagnosis: d, seen: o}
	route := o.Machine.Route
	r.source = source{
		address:   route.Source,
		iface:     o.Machine.Interface.Name,
		gateway:   route.Gateway,
		neighbour: route.NextHop(o.Target.Addr()),
	}
	// What was sent is better than what the route suggested: the user may
	// have asked for another source.
	for _, s := range o.Sent {
		if s.Kind == rawprobe.Subject && s.Flow.Src.Addr().IsValid() {
			r.source.address = s.Flow.Src.Addr()
			break
		}
	}
	return r
}

// Interrupted reports whether the run was stopped before its verdict. The
// diagnosis of such a run is not shown: a silence in it proves nothing.
func (r *Result) Interrupted() bool { return r.seen.Interrupted }

// Verdict is the verdict of the diagnosis. It means nothing where Interrupted.
func (r *Result) Verdict() diagnose.Verdict { return r.diagnosis.Verdict }

// Diagnosis is what the result says. It means nothing where Interrupted.
func (r *Result) Diagnosis() diagnose.Diagnosis { return r.diagnosis }

// Devices are the addresses that a reader may want the names of: every suspect
// in the diagnosis but the target and this machine.
func (r *Result) Devices() []netip.Addr {
	if f := r.diagnosis.Fault; r.Interrupted() || f != nil && f.Where == diagnose.Local {
		return nil // or the trouble is this machine's own, which may reach no name server
	}
	var found []netip.Addr
	add := func(f diagnose.Fault) {
		for _, h := range f.Hops {
			a := h.Address
			if !a.IsValid() || h.TTL == 0 || a == r.target.Addr() || r.seen.Machine.Own(a) || slices.Contains(found, a) {
				continue
			}
			found = append(found, a)
		}
	}
	if r.diagnosis.Fault != nil {
		add(*r.diagnosis.Fault)
	}
	for _, a := range r.diagnosis.Alternatives {
		add(a.Fault)
	}
	return found
}

// elapsed is how long the run took.
func (r *Result) elapsed() time.Duration { return r.seen.End.Sub(r.seen.Start) }
