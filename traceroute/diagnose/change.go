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

// hasChanged reports whether this machine had a way out and lost or changed it.
func (v *view) hasChanged() bool {
	return v.m.After != nil && v.m.Route.Outcome == rawprobe.RouteFound && v.m.Interface.Index != 0
}

// changed says what became of the way out during the run, "" where it is as it
// was.
func (v *view) changed() string {
	after, was := v.m.After, v.m.Route
	if !v.hasChanged() {
		return ""
	}
	name := v.m.Interface.Name
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

// wayLost: this machine lost its way out during the run, before anybody had
// answered.
func wayLost(v *view) *Diagnosis {
	after := v.m.After
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
	}
	return d
}

// doubtChanged adds that the way changed during the run, and weakens what rests
// on silence: what was sent went two ways.
func (v *view) doubtChanged(d *Diagnosis, by string) {
	change := v.changed()
	if change == "" || by == "way-lost" {
		return
	}
	d.because("changed", "%s during the run", change)
	if v.outsideWord() || d.Cause == Unknown {
		return
	}
	d.weaken(Ambiguous)
	d.or(Unknown, Fault{Where: Nowhere}, "%s during the run, so that not all packets went the same way", change)
}
