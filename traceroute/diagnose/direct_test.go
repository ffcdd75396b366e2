package diagnose

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"synprobe/rawprobe"
	"synprobe/rawprobe/batch"
)

// resultOf is what a run with many targets would keep of a transcript.
func resultOf(o *rawprobe.Observations) *batch.Result {
	r := &batch.Result{Target: o.Target}
	for i := range o.Sent {
		if s := &o.Sent[i]; s.Kind == rawprobe.Subject {
			r.Refused = s.Refused
			if s.Refused == rawprobe.NotRefused {
				r.Tries++
			}
		}
	}
	for i := range o.Replies {
		reply := &o.Replies[i]
		switch {
		case o.Sent[reply.Probe].Kind == rawprobe.Echo && reply.Kind == rawprobe.EchoReply:
			r.EchoAnswered, r.EchoTTL = true, reply.TTL
		case o.Sent[reply.Probe].Kind == rawprobe.Subject && r.Kind == "":
			r.Kind, r.From, r.TTL, r.Type, r.Code, r.RTT = reply.Kind, reply.From, reply.TTL, reply.Type, reply.Code, reply.RTT
		}
	}
	r.NoNeighbor = len(o.Asks) > 0 && !o.NeighborAnswered() && r.Kind == ""
	return r
}

// hereOf is what such a run would know of the transcript's machine.
func (f family) hereOf(o *rawprobe.Observations) *Here {
	var all []netip.Prefix
	for _, a := range o.Machine.Addresses {
		bits := a.BitLen() - 8
		if !o.Machine.Route.Gateway.IsValid() && !o.Machine.Route.Local && o.Machine.Interface.Resolves {
			bits = 8 // the host is in the same network
		}
		all = append(all, netip.PrefixFrom(a, bits))
	}
	return NewHere(all)
}

const (
	threeSYNs = "syn 0s 0.6s 1.2s\nend 4.3s\n"
	echoed    = "echo 0s\n+0.4ms echo-reply\n"
	echoLost  = "echo 0s\n"
)

var directCases = []struct {
	name, see string
	want      Brief // Device by name
	device    string
}{
	{"silent", echoLost + threeSYNs, Brief{Verdict: Drop, Cause: Unknown, Certainty: Ambiguous, Where: Nowhere}, ""},
	{"silent and alive", echoed + threeSYNs, Brief{Verdict: Drop, Cause: Unknown, Certainty: Ambiguous, Where: Nowhere}, ""},
	{"silent and here", "route local\n" + threeSYNs, Brief{Verdict: Drop, Cause: LocalFirewall, Certainty: Likely, Where: Local}, ""},
	{"open", echoLost + "syn 0s\n+0.3ms syn-ack", Brief{Verdict: Open, Cause: Listening, Certainty: Likely}, ""},
	{"open, same distance", echoed + "syn 0s\n+0.3ms syn-ack", Brief{Verdict: Open, Cause: Listening, Certainty: Likely}, ""},
	{"open, nearer", echoed + "syn 0s\n+0.3ms syn-ack ttl=63", Brief{Verdict: Open, Cause: Proxy, Certainty: Ambiguous, Where: Path}, ""},
	{"open, farther", echoed + "syn 0s\n+0.3ms syn-ack ttl=60", Brief{Verdict: Open, Cause: Listening, Certainty: Likely}, ""},
	{"open, on the link", "route link\nsyn 0s\n+0.3ms syn-ack", Brief{Verdict: Open, Cause: Listening, Certainty: Likely}, ""},
	{"open, here", "route local\nsyn 0s\n+0.3ms syn-ack", Brief{Verdict: Open, Cause: Listening, Certainty: Likely}, ""},
	{"reset", echoLost + "syn 0s\n+0.3ms reset", Brief{Verdict: Reject, Cause: PortClosed, Certainty: Likely, Where: Destination}, ""},
	{"reset, same distance", echoed + "syn 0s\n+0.3ms reset", Brief{Verdict: Reject, Cause: PortClosed, Certainty: Likely, Where: Destination}, ""},
	{"reset, nearer", echoed + "syn 0s\n+0.3ms reset ttl=63", Brief{Verdict: Reject, Cause: NetworkFirewall, Certainty: Ambiguous, Where: Path}, ""},
	{"reset, farther", echoed + "syn 0s\n+0.3ms reset ttl=60", Brief{Verdict: Reject, Cause: PortClosed, Certainty: Likely, Where: Destination}, ""},
	{"reset, here", "route local\nsyn 0s\n+0.3ms reset", Brief{Verdict: Reject, Cause: PortClosed, Certainty: Likely, Where: Destination}, ""},
	{"refused by the host", echoed + "syn 0s\n+0.3ms icmp refused", Brief{Verdict: Reject, Cause: HostFirewall, Certainty: Likely, Where: Destination}, ""},
	{"refused by a router", echoed + "syn 0s\n+0.3ms icmp refused from=r2", Brief{Verdict: Reject, Cause: NetworkFirewall, Certainty: Likely, Where: Path}, "r2"},
	{"refused by this machine", "syn 0s\n+0.3ms icmp refused from=me on=lo", Brief{Verdict: Reject, Cause: LocalFirewall, Certainty: Likely, Where: Local}, ""},
	{"refused here", "route local\nsyn 0s\n+0.3ms icmp refused from=host on=lo", Brief{Verdict: Reject, Cause: LocalFirewall, Certainty: Likely, Where: Local}, ""},
	{"unreachable behind the address", echoed + "syn 0s\n+3.1s icmp host-unreachable", Brief{Verdict: HostDown, Cause: HostUnreachable, Certainty: Likely, Where: Destination}, ""},
	{"loop behind the address", echoed + "syn 0s\n+3ms icmp expired", Brief{Verdict: NetworkDown, Cause: RoutingLoop, Certainty: Likely, Where: Path}, "host"},
	{"host unreachable at once", echoLost + "syn 0s\n+1ms icmp host-unreachable from=r2", Brief{Verdict: HostDown, Cause: HostUnreachable, Certainty: Likely, Where: Destination}, ""},
	{"host unreachable after a search", echoLost + "syn 0s\n+3.1s icmp host-unreachable from=r2", Brief{Verdict: HostDown, Cause: HostUnreachable, Certainty: Likely, Where: Destination}, ""},
	{"net unreachable", echoLost + "syn 0s\n+1ms icmp net-unreachable from=r2", Brief{Verdict: NetworkDown, Cause: NetUnreachable, Certainty: Likely, Where: Path}, "r2"},
	{"loop", echoLost + "syn 0s\n+1ms icmp expired from=r2", Brief{Verdict: NetworkDown, Cause: RoutingLoop, Certainty: Likely, Where: Path}, "r2"},
	{"host unreachable, yet alive", echoed + "syn 0s\n+1ms icmp host-unreachable from=r2", Brief{Verdict: Reject, Cause: NetworkFirewall, Certainty: Likely, Where: Path}, "r2"},
	{"net unreachable, yet alive", echoed + "syn 0s\n+1ms icmp net-unreachable from=r2", Brief{Verdict: Reject, Cause: NetworkFirewall, Certainty: Likely, Where: Path}, "r2"},
	{"loop, yet alive", echoed + "syn 0s\n+1ms icmp expired from=r2", Brief{Verdict: NetworkDown, Cause: RoutingLoop, Certainty: Likely, Where: Path}, "r2"},
	{"an error that says nothing", echoLost + threeSYNs + "+1ms icmp too-big from=r2", Brief{Verdict: Drop, Cause: Unknown, Certainty: Ambiguous, Where: Nowhere}, ""},
	{"bare ACK", echoLost + "syn 0s\n+1ms ack", Brief{Verdict: Drop, Cause: Unknown, Certainty: Ambiguous, Where: Nowhere}, ""},
	{"dead neighbour", "route link\nask 0s 0.6s 1.2s\n" + threeSYNs, Brief{Verdict: HostDown, Cause: NeighborUnreachable, Certainty: Likely, Where: Destination}, ""},
	{"dead gateway", "ask 0s 0.6s 1.2s\n" + threeSYNs, Brief{Verdict: NetworkDown, Cause: GatewayDown, Certainty: Likely, Where: Local}, ""},
	{"own word about a neighbour", "route link\nask 0s 0.6s 1.2s\n" + threeSYNs + "+3s icmp host-unreachable from=me on=lo", Brief{Verdict: HostDown, Cause: NeighborUnreachable, Certainty: Likely, Where: Destination}, ""},
	{"own word about the gateway", "ask 0s 0.6s 1.2s\n" + threeSYNs + "+3s icmp host-unreachable from=me on=lo", Brief{Verdict: NetworkDown, Cause: GatewayDown, Certainty: Likely, Where: Local}, ""},
	{"no route", "syn 0s refused=no-route", Brief{Verdict: NetworkDown, Cause: NoRoute, Certainty: Likely, Where: Local}, ""},
	{"unreachable route", "syn 0s refused=unreachable", Brief{Verdict: NetworkDown, Cause: NoRoute, Certainty: Certain, Where: Local}, ""},
	{"prohibit route", "syn 0s refused=prohibit", Brief{Verdict: NetworkDown, Cause: NoRoute, Certainty: Certain, Where: Local}, ""},
	{"blackhole route", "syn 0s refused=blackhole", Brief{Verdict: NetworkDown, Cause: NoRoute, Certainty: Certain, Where: Local}, ""},
	{"no address", "syn 0s refused=no-address", Brief{Verdict: NetworkDown, Cause: NoAddress, Certainty: Likely, Where: Local}, ""},
	{"link down", "eth0 down\nsyn 0s refused=link-down", Brief{Verdict: NetworkDown, Cause: LinkDown, Certainty: Certain, Where: Local}, ""},
	{"own firewall drops", "syn 0s 0.6s 1.2s refused=not-permitted", Brief{Verdict: Drop, Cause: LocalFirewall, Certainty: Likely, Where: Local}, ""},
	{"own firewall resets", "syn 0s refused=not-permitted\n+0.1ms reset on=lo", Brief{Verdict: Reject, Cause: LocalFirewall, Certainty: Likely, Where: Local}, ""},
	{"no buffer", "syn 0s 0.6s 1.2s refused=no-buffer unseen", Brief{Verdict: Drop, Cause: LocalFirewall, Certainty: Likely, Where: Local}, ""},
	{"another refusal", "syn 0s refused=other", Brief{Verdict: Drop, Cause: Unknown, Certainty: Ambiguous, Where: Nowhere}, ""},
}

// TestDirect: each direct answer has its words, they keep to the rules for all
// diagnoses, and Explain, which sees the same packets and more about them, says
// the same and is at least as sure.
func TestDirect(t *testing.T) {
	for _, c := range directCases {
		for _, f := range []family{v4, v6} {
			o := f.observations(c.see)
			r, here := resultOf(o), f.hereOf(o)
			want := c.want
			if c.device != "" {
				want.Device = f.addr(c.device)
			}
			if got := here.Brief(r); got != want {
				t.Errorf("%s, IPv%d: %+v, want %+v", c.name, f, got, want)
			}
			d := here.Direct(r)
			if wrong := violations(o, &d); len(wrong) > 0 {
				t.Errorf("%s, IPv%d: %s\n%+v", c.name, f, strings.Join(wrong, "\n"), d)
			}
			full := Explain(o)
			// Unknown claims nothing: Explain may know more.
			if d.Verdict != full.Verdict || d.Cause != full.Cause && d.Cause != Unknown {
				t.Errorf("%s, IPv%d: %s %s, and Explain says %s %s", c.name, f, d.Verdict, d.Cause, full.Verdict, full.Cause)
			}
			if rank(d.Certainty) > rank(full.Certainty) {
				t.Errorf("%s, IPv%d: %s, and Explain is only %s", c.name, f, d.Certainty, full.Certainty)
			}
		}
	}
}

// TestDirectAgreesWithBrief goes through all combinations of answers, and of
// what the machine knows.
func TestDirectAgreesWithBrief(t *testing.T) {
	refusals := []rawprobe.Refusal{"", rawprobe.RefusedByFirewall, rawprobe.RefusedNoRoute, rawprobe.RefusedUnreachable, rawprobe.RefusedProhibit,
		rawprobe.RefusedBlackhole, rawprobe.RefusedDown, rawprobe.RefusedNoAddress, rawprobe.RefusedNoBuffer, rawprobe.RefusedOther}
	kinds := []rawprobe.ReplyKind{"", rawprobe.SynAck, rawprobe.Reset, rawprobe.OldAck, rawprobe.EchoReply, rawprobe.ICMPError}
	n := 0
	for _, f := range []family{v4, v6} {
		me, gw, host := f.addr("me"), f.addr("gw"), f.addr("host")
		for _, link := range []bool{false, true} {
			here := NewHere([]netip.Prefix{netip.PrefixFrom(me, me.BitLen()-8)})
			here.LinkLayer = link
			for _, to := range []netip.Addr{me, gw, host} {
				for _, from := range []netip.Addr{me, gw, host, to} {
					for _, kind := range kinds {
						for _, refused := range refusals {
							for bits := range 32 {
								r := &batch.Result{
									Target: netip.AddrPortFrom(to, 22), Kind: kind, Refused: refused, Tries: 3,
									NoNeighbor: bits&1 != 0, EchoAnswered: bits&2 != 0,
								}
								if r.EchoAnswered {
									r.EchoTTL = 62
								}
								if kind != "" {
									r.From, r.TTL, r.RTT = from, 60+bits>>3, time.Millisecond
								}
								if kind == rawprobe.ICMPError {
									words := []string{"refused", "host-unreachable", "net-unreachable", "expired", "too-big"}
									r.Type, r.Code = f.code(words[n%len(words)])
								}
								n++
								checkBrief(t, here, r)
							}
						}
					}
				}
			}
		}
	}
}

func checkBrief(t *testing.T, here *Here, r *batch.Result) {
	b, d := here.Brief(r), here.Direct(r)
	where := Where("")
	if d.Fault != nil {
		where = d.Fault.Where
	}
	if b.Verdict != d.Verdict || b.Cause != d.Cause || b.Certainty != d.Certainty || b.Where != where {
		t.Errorf("%+v: brief %+v, direct %+v", r, b, d)
	}
	switch {
	case !slices.Contains(table[d.Verdict][d.Cause], where):
		t.Errorf("%+v: %s %s at %q", r, d.Verdict, d.Cause, where)
	case (d.Certainty == Certain) != (len(d.Alternatives) == 0):
		t.Errorf("%+v: %s with the alternatives %+v", r, d.Certainty, d.Alternatives)
	case here.LinkLayer && r.Refused == "" && d.Certainty == Certain:
		t.Errorf("%+v: certain of what met no firewall of this machine", r)
	case len(d.Evidence) == 0 || d.Summary == "" || d.Next == "" && d.Verdict != Open:
		t.Errorf("%+v: %+v lacks words", r, d)
	}
	for _, a := range d.Alternatives {
		if !mayBe(a.Cause, a.Fault.Where) {
			t.Errorf("%+v: no table has the alternative %s at %q", r, a.Cause, a.Fault.Where)
		}
	}
}

// TestBroadcast: the kernel's refusal to send to a broadcast address is no
// route that forbids.
func TestBroadcast(t *testing.T) {
	here := NewHere([]netip.Prefix{netip.MustParsePrefix("10.0.1.1/24"), netip.MustParsePrefix("10.0.9.1/31")})
	for address, want := range map[string]Cause{"10.0.1.255": Unknown, "10.0.2.255": NoRoute, "10.0.1.254": NoRoute, "10.0.9.1": NoRoute} {
		r := &batch.Result{Target: netip.AddrPortFrom(netip.MustParseAddr(address), 22), Refused: rawprobe.RefusedProhibit}
		if d := here.Direct(r); d.Cause != want {
			t.Errorf("%s: %s %s", address, d.Verdict, d.Cause)
		}
	}
}

func TestBeside(t *testing.T) {
	here := NewHere(nil)
	d := here.Direct(&batch.Result{Target: netip.MustParseAddrPort("10.0.4.2:25"), Tries: 3})
	before := d
	d.Beside(5432, &Diagnosis{Verdict: Drop, Cause: NetworkFirewall, Fault: &Fault{Where: Path, Hops: []Hop{{TTL: 2, Address: netip.MustParseAddr("10.0.2.2")}, {TTL: 3}}}})
	want := Evidence{"traced-port", "port 5432 of this host met the same and was traced: drop network-firewall, hop 2 (10.0.2.2)"}
	if d.Verdict != before.Verdict || d.Cause != before.Cause || d.Certainty != before.Certainty || d.Evidence[len(d.Evidence)-1] != want {
		t.Errorf("%+v", d)
	}
}

// TestBriefIsCheap: it is asked for every target at full rate.
func TestBriefIsCheap(t *testing.T) {
	here := NewHere([]netip.Prefix{netip.MustParsePrefix("10.0.1.1/24")})
	r := &batch.Result{Target: netip.MustParseAddrPort("10.0.4.2:25"), Kind: rawprobe.ICMPError, From: netip.MustParseAddr("10.0.2.2"), Type: 3, Code: 13}
	if n := testing.AllocsPerRun(100, func() { here.Brief(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
