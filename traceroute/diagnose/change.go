package diagnose

import (
	"fmt"

	"synprobe/rawprobe"
)

// The check, and the doubt, about a machine that changed while it was asked.

// outsideWord reports whether anybody else than this machine answered the
// subject, and this machine took it.
func (v *view) outsideWord() bool {
	for _, r := range v.subject {
		if r.Delivered && !r.Loopback {
			return true
		}
	}
	return false
}

// hadWay reports whether this machine had a way out when the run began.
func (v *view) hadWay() bool {
	return v.m.Route.Outcome == rawprobe.RouteFound && v.m.Interface.Index != 0
}

// hasChanged reports whether this machine had a way out and lost or changed it.
func (v *view) hasChanged() bool { return v.m.After != nil && v.hadWay() }

// hasLapsed reports whether this machine had a way out, lost or changed it, and has
// it again, as far as is known.
func (v *view) hasLapsed() bool {
	return v.m.After == nil && v.m.Lapse != rawprobe.NoLapse && v.hadWay()
}

// changed says what became of the way out during the run, "" where it is as it
// was all the time.
func (v *view) changed() string {
	after, was, name := v.m.After, v.m.Route, v.m.Interface.Name
	if v.hasLapsed() {
		return v.lapse()
	}
	if !v.hasChanged() {
		return ""
	}
	switch now := after.Route; {
	case after.Interface.Index == 0:
		return fmt.Sprintf("interface %s was removed", name)
	case !after.Interface.Up:
		return fmt.Sprintf("interface %s went down", name)
	case !after.Interface.Carrier:
		return fmt.Sprintf("interface %s lost its carrier", name)
	case now.Outcome == rawprobe.RouteNoAddress:
		return fmt.Sprintf("the address %s was removed", was.Source.WithZone(""))
	case now.Outcome == rawprobe.RouteNone:
		return fmt.Sprintf("the route to %s went away", v.target)
	case now.Outcome != rawprobe.RouteFound:
		return fmt.Sprintf("the route to %s became one of type %s", v.target, now.Outcome)
	case now.Local != was.Local:
		return fmt.Sprintf("the address %s came to this machine, or went from it", v.target)
	case now.Gateway != was.Gateway:
		return fmt.Sprintf("the next hop to %s changed from %s to %s", v.target, was.NextHop(v.target), now.NextHop(v.target))
	}
	return fmt.Sprintf("the route to %s changed to another interface than %s", v.target, name)
}

// lapse says what was lost for a while.
func (v *view) lapse() string {
	name := v.m.Interface.Name
	switch v.m.Lapse {
	case rawprobe.LapseRemoved:
		return fmt.Sprintf("interface %s was removed and came back", name)
	case rawprobe.LapseDown:
		return fmt.Sprintf("interface %s went down and came back", name)
	case rawprobe.LapseNoCarrier:
		return fmt.Sprintf("interface %s lost its carrier and got it back", name)
	case rawprobe.LapseNoAddress:
		return fmt.Sprintf("the address %s was removed and came back", v.m.Route.Source.WithZone(""))
	case rawprobe.LapseNoRoute:
		return fmt.Sprintf("the route to %s went away and came back", v.target)
	case rawprobe.LapseOtherRoute:
		return fmt.Sprintf("the route to %s changed and changed back", v.target)
	}
	return "more of this machine's links, addresses and routes changed than could be followed"
}

// lapseCause is what a lapse is called where it is to blame. It is "" where nobody
// knows what lapsed.
func (v *view) lapseCause() Cause {
	switch v.m.Lapse {
	case rawprobe.LapseRemoved, rawprobe.LapseDown, rawprobe.LapseNoCarrier:
		return LinkDown
	case rawprobe.LapseNoAddress:
		return NoAddress
	case rawprobe.LapseNoRoute, rawprobe.LapseOtherRoute:
		return NoRoute
	}
	return ""
}

// wayLost: this machine lost its way out during the run, before anybody had
// answered.
func wayLost(v *view) *Diagnosis {
	after := v.m.After
	if v.hasLapsed() {
		return wayBack(v)
	}
	if !v.hasChanged() || v.outsideWord() {
		return nil
	}
	d := &Diagnosis{Verdict: NetworkDown, Certainty: Certain, Fault: ptr(v.local())}
	name, change := v.m.Interface.Name, v.changed()
	d.Summary = fmt.Sprintf("This machine lost its way to %s during the run: %s.", v.target, change)
	switch {
	case after.Interface.Index == 0:
		d.Cause = LinkDown
		d.Next = fmt.Sprintf("Find out what removed %s: an interface of a VPN or a container goes with it.", name)
		d.because("link-down", "%s during the run", change)
	case !after.Interface.Up:
		d.Cause = LinkDown
		d.Next = fmt.Sprintf("Bring %s up (ip link set %s up) and try again.", name, name)
		d.because("link-down", "%s during the run", change)
	case !after.Interface.Carrier:
		d.Cause = LinkDown
		d.Next = fmt.Sprintf("Check the cable, the switch port or the virtual network behind %s.", name)
		d.because("link-down", "%s during the run", change)
	case after.Route.Outcome == rawprobe.RouteNoAddress:
		d.Cause = NoAddress
		d.Next = "Find out what changes this machine's addresses, and try again."
		d.because("no-address", "%s during the run", change)
	case after.Route.Outcome != rawprobe.RouteFound:
		d.Cause = NoRoute
		d.Next = fmt.Sprintf("Look at this machine's routes: ip route get %s", v.target)
		d.because("no-route", "%s during the run", change)
	default:
		return nil // it goes another way now: see doubtChanged
	}
	v.sentBefore(d)
	return d
}

// sentBefore weakens what says that this machine lost its way out, by what had
// happened by then. It reports false where nothing had.
func (v *view) sentBefore(d *Diagnosis) bool {
	n := 0
	for i := range v.o.Sent {
		if s := &v.o.Sent[i]; s.Kind == rawprobe.Subject && !s.Stepped() && s.Departed != nil {
			n++
		}
	}
	if n >= silentTries {
		d.weaken(Ambiguous)
	}
	switch {
	case len(v.subject) > 0 && !v.onlyOwnWord():
		d.weaken(Likely)
		d.or(LocalFirewall, v.local(), "an answer came that no socket got, which this machine's own firewall may have dropped")
	case n > 0:
		d.weaken(Likely)
		d.or(Unknown, Fault{Where: Nowhere}, "%s had left before and got no answer, which may have another reason", plural(n, "SYN"))
	default:
		return false
	}
	return true
}

// wayBack: the kernel refused to send the last SYN in a run in which this machine
// lost its way out for a while. What another one would meet is not known.
func wayBack(v *view) *Diagnosis {
	cause, change := v.lapseCause(), v.changed()
	if cause == "" || v.outsideWord() {
		return nil
	}
	switch v.refused {
	case rawprobe.RefusedDown, rawprobe.RefusedNoRoute, rawprobe.RefusedUnreachable, rawprobe.RefusedProhibit, rawprobe.RefusedBlackhole, rawprobe.RefusedNoAddress:
	default:
		return nil
	}
	d := &Diagnosis{
		Verdict: NetworkDown, Cause: cause, Certainty: Likely, Fault: ptr(v.local()),
		Summary: fmt.Sprintf("This machine had lost its way to %s for a while: %s during the run.", v.target, change),
		Next:    "Try again, now that it is back, and find out what took it away.",
	}
	const told = "%s during the run, and the kernel refused to send"
	switch cause {
	case LinkDown:
		d.because("link-down", told, change)
	case NoAddress:
		d.because("no-address", told, change)
	case NoRoute:
		d.because("no-route", told, change)
	}
	if !v.sentBefore(d) {
		d.or(Unknown, Fault{Where: Nowhere}, "the kernel may have refused to send for another reason")
	}
	return d
}

// doubtChanged adds that the way changed during the run, and weakens what rests
// on silence: what was sent went two ways, or none for a while.
func (v *view) doubtChanged(d *Diagnosis, by string) {
	change := v.changed()
	if change == "" || by == "way-lost" {
		return
	}
	d.because("changed", "%s during the run", change)
	// That some source ports are answered says nothing of those that are not.
	if v.outsideWord() && d.Verdict != Partial || d.Cause == Unknown {
		return
	}
	switch {
	case !v.hasLapsed():
		d.weaken(Ambiguous)
		d.or(Unknown, Fault{Where: Nowhere}, "%s during the run, so that not all packets went the same way", change)
	case v.lapseCause() == "":
		d.weaken(Likely)
		d.or(Unknown, Fault{Where: Nowhere}, "%s during the run, and its way out may have been among it", change)
	default:
		d.weaken(Ambiguous)
		d.or(Unknown, Fault{Where: Nowhere}, "%s during the run, and what was on its way then may be lost by that", change)
	}
}
