package report

import (
	"encoding/csv"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"synprobe/traceroute/diagnose"
)

func rowOf(target string, v diagnose.Verdict, c diagnose.Cause, w diagnose.Where) Row {
	return Row{Target: netip.MustParseAddrPort(target), Brief: diagnose.Brief{Verdict: v, Cause: c, Certainty: diagnose.Likely, Where: w}, Tries: 1}
}

// TestCSVReadsBack: what is written is what a reader of RFC 4180 gets, whatever
// a name holds.
func TestCSVReadsBack(t *testing.T) {
	plain := rowOf("10.0.0.1:22", diagnose.Open, diagnose.Listening, "")
	plain.RTT = 1234567 * time.Nanosecond
	named := rowOf("[2001:db8::1]:443", diagnose.Reject, diagnose.PortClosed, diagnose.Destination)
	named.Name = "db.example.com"
	odd := rowOf("[fe80::1%a,b\"c]:22", diagnose.Reject, diagnose.NetworkFirewall, diagnose.Path)
	odd.Name, odd.Device = "a,\"b\"\n\x1b[31m", ip("10.0.0.9")
	traced := RowOf("", netip.MustParseAddrPort("10.0.0.1:22"), &diagnose.Diagnosis{
		Verdict: diagnose.Drop, Cause: diagnose.NetworkFirewall, Certainty: diagnose.Certain, Tries: 3,
		Fault: at(diagnose.Path, first, silent, second),
	})
	var b []byte
	for _, r := range []Row{plain, named, odd, traced} {
		b = r.AppendCSV(b)
	}
	got, err := csv.NewReader(strings.NewReader(CSVHeader + string(b))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{
		{"name", "address", "port", "verdict", "cause", "certainty", "fault_where", "fault_address", "rtt_ms", "tries"},
		{"10.0.0.1", "10.0.0.1", "22", "open", "listening", "likely", "", "", "1.235", "1"},
		{"db.example.com", "2001:db8::1", "443", "reject", "port-closed", "likely", "destination", "2001:db8::1", "", "1"},
		{`a,"b"\n\x1b[31m`, `fe80::1%a,b"c`, "22", "reject", "network-firewall", "likely", "path", "10.0.0.9", "", "1"},
		{"10.0.0.1", "10.0.0.1", "22", "drop", "network-firewall", "certain", "path", "10.0.1.2 10.0.2.2", "", "3"},
	}
	if len(got) != len(want) {
		t.Fatalf("%d lines: %q", len(got), got)
	}
	for i := range want {
		if !slices.Equal(got[i], want[i]) {
			t.Errorf("line %d\ngot  %q\nwant %q", i, got[i], want[i])
		}
	}
}

func TestTable(t *testing.T) {
	rows := []Row{
		rowOf("10.0.0.1:22", diagnose.Open, diagnose.Listening, ""),
		rowOf("10.0.0.1:23", diagnose.Reject, diagnose.NetworkFirewall, diagnose.Path),
		rowOf("10.0.0.1:24", diagnose.HostDown, diagnose.NeighborUnreachable, diagnose.Destination),
		rowOf("10.0.0.1:25", diagnose.NetworkDown, diagnose.NoRoute, diagnose.Local),
		rowOf("10.0.0.1:26", diagnose.Drop, diagnose.Unknown, diagnose.Nowhere),
		rowOf("10.0.0.1:27", diagnose.Open, diagnose.Proxy, diagnose.Path),
	}
	rows[0].RTT, rows[1].RTT, rows[1].Device, rows[2].Name = 47*time.Microsecond, 12*time.Millisecond, ip("255.255.255.255"), "dé\x1b"
	var table Table
	for _, r := range rows {
		table.Fit(r.Name, r.Target)
	}
	out := table.AppendHeader(nil)
	for i := range rows {
		out = table.AppendRow(out, &rows[i])
	}
	want := `target       verdict       cause             who              rtt
10.0.0.1:22  open          listening         the host         0.047 ms
10.0.0.1:23  reject        network-firewall  255.255.255.255  12.0 ms
"dé\x1b:24"  host-down     neighbor-unreachable  the host
10.0.0.1:25  network-down  no-route          this machine
10.0.0.1:26  drop          unknown           unknown
10.0.0.1:27  open          proxy             on the way
`
	if string(out) != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
	table.Style = Style{ASCII: true, Colour: true}
	if got := string(table.AppendRow(nil, &rows[2])); got != "\"d?\\x1b:24\"  \x1b[1;35mhost-down\x1b[0m     neighbor-unreachable  the host\n" {
		t.Errorf("%q", got)
	}
}

// TestTableWidth: with IPv4 and the usual causes a line fits on a terminal.
func TestTableWidth(t *testing.T) {
	r := rowOf("255.255.255.255:65535", diagnose.NetworkDown, diagnose.NetworkFirewall, diagnose.Path)
	r.Device, r.RTT = ip("255.255.255.254"), 3456*time.Millisecond
	var table Table
	table.Fit("", r.Target)
	if line := table.AppendRow(nil, &r); len(line) > defaultWidth+1 {
		t.Errorf("%d columns: %s", len(line)-1, line)
	}
}

func TestTally(t *testing.T) {
	var tally Tally
	open, closed, drop := Outcome{diagnose.Open, diagnose.Listening}, Outcome{diagnose.Reject, diagnose.PortClosed}, Outcome{diagnose.Drop, diagnose.Unknown}
	refused := Outcome{diagnose.Reject, diagnose.HostFirewall}
	for _, o := range []Outcome{drop, drop, open, drop, closed, refused, refused, drop} {
		tally.Add(o, 1)
	}
	tally.Add(drop, 65532)
	tally.Move(drop, closed)
	s := Summary{Tally: &tally, Targets: 65540, Earlier: 7, Elapsed: 3723 * time.Second, Sent: 1}
	want := `65,540 targets in 1:02:03, 7 of them by an earlier run; 1 packet sent
       1  open          listening
       2  reject        host-firewall
       2  reject        port-closed
  65,535  drop          unknown
`
	if got := string(s.Append(nil)); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	tally.Move(open, closed)
	tally.All(func(o Outcome, n uint64) {
		if o == open || n == 0 {
			t.Errorf("%v is still there %d times", o, n)
		}
	})
}

func TestNumbers(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 65536: "65,536", 1 << 32: "4,294,967,296"} {
		if got := Thousands(n); got != want {
			t.Errorf("%d is %s", n, got)
		}
	}
	for d, want := range map[time.Duration]string{0: "0:00", 65 * time.Second: "1:05", 59*time.Second + 600*time.Millisecond: "1:00", 2*time.Hour + 65*time.Second: "2:01:05"} {
		if got := Clock(d); got != want {
			t.Errorf("%v is %s", d, got)
		}
	}
}

// TestDirectJSON: no path, and of this machine's end what is known.
func TestDirectJSON(t *testing.T) {
	d := diagnose.Diagnosis{Verdict: diagnose.Open, Cause: diagnose.Listening, Certainty: diagnose.Likely, Summary: "S.", RTT: time.Millisecond, Tries: 1, Answered: 1}
	got := NewDirectJSON(start, ip("10.0.1.1"), "eth0").Append(nil, "db", netip.MustParseAddrPort("10.0.4.2:22"), &d)
	want := `{"schema":"synprobe/1","time":"2026-11-22T08:27:00.123456Z","target":{"name":"db","address":"10.0.4.2","port":22},"source":{"address":"10.0.1.1","interface":"eth0","gateway":""},"verdict":"open","cause":"listening","certainty":"likely","summary":"S.","fault":null,"alternatives":[],"rtt_ms":1,"tries":1,"answered":1,"path":[],"evidence":[]}` + "\n"
	if string(got) != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
