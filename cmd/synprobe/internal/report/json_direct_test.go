package report

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"synprobe/rawprobe"
	"synprobe/rawprobe/batch"
	"synprobe/traceroute/diagnose"
)

// byEncoder is the line that encoding/json makes of a result.
func byEncoder(t testing.TB, start time.Time, from netip.Addr, iface, name string, target netip.AddrPort, d *diagnose.Diagnosis) string {
	t.Helper()
	if name == "" {
		name = address(target.Addr())
	}
	r := Result{
		name: name, target: target, diagnosis: *d, source: source{address: from, iface: iface},
		seen: &rawprobe.Observations{Target: target, Start: start},
	}
	var b bytes.Buffer
	if err := r.ToJSON(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func sameLine(t testing.TB, start time.Time, from netip.Addr, iface, name string, target netip.AddrPort, d *diagnose.Diagnosis) {
	t.Helper()
	want := byEncoder(t, start, from, iface, name, target, d)
	got := NewDirectJSON(start, from, iface).Append([]byte("before\n"), name, target, d)
	if string(got) != "before\n"+want {
		t.Errorf("\ngot  %swant before\n%s", got, want)
	}
}

// directResults are one of each kind that the engine for many targets can give,
// or nearly.
func directResults() (all []batch.Result) {
	target, other := netip.MustParseAddrPort("10.0.4.2:5432"), ip("10.0.2.2")
	add := func(r batch.Result) {
		r.Target = target
		all = append(all, r)
		r.EchoAnswered, r.EchoTTL = true, 61
		all = append(all, r)
	}
	add(batch.Result{Tries: 3})
	add(batch.Result{Tries: 3, NoNeighbor: true})
	for _, kind := range []rawprobe.ReplyKind{rawprobe.SynAck, rawprobe.Reset} {
		for _, ttl := range []int{61, 62, 60} {
			add(batch.Result{Kind: kind, From: target.Addr(), TTL: ttl, RTT: 1234567 * time.Nanosecond, Tries: 1})
		}
	}
	for _, from := range []netip.Addr{target.Addr(), other} {
		for _, m := range [][2]int{{3, 13}, {3, 1}, {3, 0}, {11, 0}, {3, 3}} {
			add(batch.Result{Kind: rawprobe.ICMPError, From: from, TTL: 62, Type: m[0], Code: m[1], RTT: 3 * time.Second, Tries: 1})
		}
	}
	for _, why := range []rawprobe.Refusal{
		rawprobe.RefusedByFirewall, rawprobe.RefusedNoRoute, rawprobe.RefusedUnreachable, rawprobe.RefusedProhibit, rawprobe.RefusedBlackhole,
		rawprobe.RefusedNoAddress, rawprobe.RefusedDown, rawprobe.RefusedNoBuffer, rawprobe.RefusedOther,
	} {
		add(batch.Result{Refused: why})
	}
	return all
}

// TestDirectJSONIsTheSame: a line of many targets is the encoder's, byte for
// byte.
func TestDirectJSONIsTheSame(t *testing.T) {
	begin := time.Date(2026, 11, 22, 8, 27, 0, 123456789, time.FixedZone("", 3600))
	here := diagnose.NewHere([]netip.Prefix{netip.MustParsePrefix("10.0.1.1/24")})
	for _, r := range directResults() {
		d := here.Direct(&r)
		sameLine(t, begin, netip.Addr{}, "", "", r.Target, &d)
		traced := diagnose.Diagnosis{Verdict: diagnose.Drop, Cause: diagnose.NetworkFirewall, Fault: at(diagnose.Path, first, second)}
		d.Beside(80, &traced)
		sameLine(t, begin, ip("fd00::1"), "eth0", "db.example.com", r.Target, &d)
	}
}

// FuzzDirectJSON holds the same for whatever names and sentences there could be.
func FuzzDirectJSON(f *testing.F) {
	f.Add("", "", "Port 22 is open.", "reset", []byte{10, 0, 0, 1}, uint16(22), int64(1234567), -1, 3)
	f.Add("dé\x1b\"\\\x7f", "eth\u202e0", "a\xffb\u2028\U0001f600\U000e0001<&>", "\t\n\x00", []byte("0123456789abcdef"), uint16(65535), int64(400), 0, -1)
	f.Add("10.0.0.1", "%", "\ufffd\u0085", "é", []byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff1234"), uint16(0), int64(1<<62), 64, 1<<40)
	f.Fuzz(func(t *testing.T, name, iface, sentence, word string, raw []byte, port uint16, rtt int64, ttl, tries int) {
		a, _ := netip.AddrFromSlice(raw)
		zoned := a.WithZone(iface)
		d := diagnose.Diagnosis{
			Verdict: diagnose.Verdict(word), Cause: diagnose.Cause(name), Certainty: diagnose.Certainty(iface), Summary: sentence,
			RTT: time.Duration(rtt), Tries: tries, Answered: ttl,
		}
		sameLine(t, time.Unix(rtt%1e9, rtt), a, iface, name, netip.AddrPortFrom(a, port), &d)
		d.Fault = at(diagnose.Where(word), diagnose.Hop{TTL: ttl, Address: zoned}, diagnose.Hop{TTL: tries})
		d.Evidence = []diagnose.Evidence{{Rule: word, Text: sentence}, {Rule: name, Text: iface}}
		d.Alternatives = []diagnose.Alternative{{Cause: diagnose.Cause(word), Fault: *d.Fault, Why: sentence}, {Why: name}}
		sameLine(t, time.Unix(rtt%1e9, rtt), zoned, iface, name, netip.AddrPortFrom(zoned, port), &d)
	})
}

// TestDirectJSONMakesNoGarbage: at full rate there are hundreds of thousands of
// lines in a second.
func TestDirectJSONMakesNoGarbage(t *testing.T) {
	w := NewDirectJSON(time.Now(), netip.Addr{}, "")
	out := make([]byte, 0, 4096)
	var here diagnose.Here
	for _, r := range directResults() {
		d := here.Direct(&r)
		if n := testing.AllocsPerRun(10, func() { out = w.Append(out[:0], "", r.Target, &d) }); n != 0 {
			t.Errorf("%v allocations for %s", n, out)
		}
	}
}

// BenchmarkJSONLine compares the two.
func BenchmarkJSONLine(b *testing.B) {
	target := netip.MustParseAddrPort("10.0.0.1:82")
	var here diagnose.Here
	for name, r := range map[string]batch.Result{
		"silent": {Target: target, Tries: 3},
		"open":   {Target: target, Kind: rawprobe.SynAck, From: target.Addr(), TTL: 61, RTT: 1234567, Tries: 1},
		"reject": {Target: target, Kind: rawprobe.ICMPError, From: ip("10.0.2.2"), TTL: 61, Type: 3, Code: 13, RTT: 1234567, Tries: 1},
	} {
		d := here.Direct(&r)
		out := make([]byte, 0, 4096)
		b.Run(name+"/encoder", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				buf := bytes.NewBuffer(out[:0])
				full := Result{name: r.Target.Addr().String(), target: target, diagnosis: d, seen: &rawprobe.Observations{Target: target, Start: start, End: start}}
				_ = full.ToJSON(buf)
			}
		})
		b.Run(name+"/direct", func(b *testing.B) {
			b.ReportAllocs()
			w := NewDirectJSON(start, netip.Addr{}, "")
			for b.Loop() {
				out = w.Append(out[:0], "", target, &d)
			}
		})
	}
}
