package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"

	"synprobe/cmd/synprobe/internal/report/htmlpage"
	"synprobe/rawprobe"
	"synprobe/traceroute"
	"synprobe/traceroute/diagnose"
)

// A shape is a path as it may be drawn.
type shape struct {
	name string
	r    *Result
}

// shapes are the examples, and paths of every form.
func shapes() []shape {
	var all []shape
	for _, e := range examples {
		all = append(all, shape{e.name, e.result()})
	}
	all = append(all,
		shape{"drop on 5 hops", dropped(5, 2, v4Hop).result()},
		shape{"drop at this machine's gateway", dropped(3, 0, v4Hop).result()},
		shape{"drop of IPv6", longIPv6().result()},
		shape{"long name", longName().result()},
		shape{"silent hops", silentHops().result()},
		shape{"several addresses", severalAddresses().result()},
		shape{"refused on the way", refused().result()},
		shape{"host down behind a router", hostDown().result()},
		shape{"two flows", twoFlows().result()},
		shape{"ends at a tick", endsAtTick().result()},
		shape{"two flows, one lost", mixedFlows().result()},
	)
	for _, n := range []int{1, 14, 15, 30, 63} {
		all = append(all, shape{fmt.Sprint(n, " hops"), dropped(n, n-1, v4Hop).result()})
	}
	return all
}

func v4Hop(ttl int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(ttl), 2}) }

func v6Hop(ttl int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:1234:5678:9abc:def0:1234:%x", 0xa000+ttl))
}

// dropped is a path of n hops, the last of them the host, behind whose hop
// last SYNs are lost.
func dropped(n, last int, addr func(int) netip.Addr) example {
	p := traceroute.Path{Depth: n, Names: []string{subjectName, "icmp-echo"}}
	for ttl := 1; ttl <= n; ttl++ {
		h := traceroute.Hop{TTL: ttl, Addrs: []netip.Addr{addr(ttl)}, RTT: time.Duration(ttl) * 117 * time.Microsecond, Host: ttl == n, Probes: map[string]traceroute.Probed{
			subjectName: {Status: traceroute.Silent}, "icmp-echo": {Status: traceroute.Passes},
		}}
		if ttl <= last {
			h.Probes[subjectName] = traceroute.Probed{Status: traceroute.Passes}
		}
		if h.Host {
			h.Probes["icmp-echo"] = traceroute.Probed{Status: traceroute.Answers}
		}
		p.Hops = append(p.Hops, h)
	}
	suspects := []diagnose.Hop{{TTL: last}, {TTL: last + 1, Address: addr(last + 1)}}
	if last > 0 {
		suspects[0].Address = addr(last)
	}
	return example{addr: netip.AddrPortFrom(addr(n), 5432), d: diagnose.Diagnosis{
		Verdict: diagnose.Drop, Cause: diagnose.NetworkFirewall, Certainty: diagnose.Certain,
		Summary: fmt.Sprintf("Between hop %d and hop %d a firewall silently drops SYNs to port 5432; other traffic passes there.", last, last+1),
		Next:    "Ask whoever runs them about rules for tcp/5432.",
		Fault:   at(diagnose.Path, suspects...), Evidence: because(threeSYNs, "ICMP echo reached the host: it is up"),
		Path: p, Tries: 3,
	}}
}

func longIPv6() example {
	e := dropped(4, 2, v6Hop)
	e.names = map[netip.Addr]string{v6Hop(2): "ae-12.cr1.fra2.backbone.example.net", v6Hop(3): strings.Repeat("very-long-label.", 12) + "example"}
	e.change = func(o *rawprobe.Observations) {
		o.Machine.Route = rawprobe.Route{Source: v6Hop(0), Gateway: v6Hop(1), Interface: 2}
		for i := range o.Sent {
			o.Sent[i].Flow.Src = netip.AddrPortFrom(v6Hop(0), o.Sent[i].Flow.Src.Port())
		}
	}
	return e
}

func longName() example {
	e := dropped(3, 1, v4Hop)
	e.target = strings.Repeat("an-unbroken-label-of-a-name-", 9)[:250]
	return e
}

func silentHops() example {
	e := dropped(8, 3, v4Hop)
	for _, i := range []int{1, 3, 4, 5} {
		h := &e.d.Path.Hops[i]
		h.Addrs, h.RTT = nil, 0
		h.Probes["icmp-echo"] = traceroute.Probed{Status: traceroute.Silent}
	}
	e.d.Fault = at(diagnose.Path, diagnose.Hop{TTL: 3, Address: v4Hop(3)}, diagnose.Hop{TTL: 4}, diagnose.Hop{TTL: 5}, diagnose.Hop{TTL: 6}, diagnose.Hop{TTL: 7, Address: v4Hop(7)})
	return e
}

func severalAddresses() example {
	e := dropped(5, 3, v4Hop)
	for i := range 3 {
		e.d.Path.Hops[1].Addrs = append(e.d.Path.Hops[1].Addrs, netip.AddrFrom4([4]byte{192, 168, 250, byte(101 + i)}))
	}
	e.d.Path.Names = append(e.d.Path.Names, "tcp-syn:443")
	for i := range e.d.Path.Hops {
		h := &e.d.Path.Hops[i]
		h.Probes["tcp-syn:443"] = h.Probes["icmp-echo"]
	}
	e.d.Path.Hops[0].Probes["tcp-syn:443"] = traceroute.Probed{Status: traceroute.NotSent}
	return e
}

func refused() example {
	e := dropped(3, 2, v4Hop)
	e.d.Verdict, e.d.Summary = diagnose.Reject, "A device on the way, 10.0.2.2, rejects connections to port 5432."
	e.d.Path.Hops[2].Probes[subjectName] = traceroute.Probed{Status: traceroute.Rejects}
	e.d.Fault = at(diagnose.Path, second)
	return e
}

// hostDown has no host in its path.
func hostDown() example {
	e := dropped(3, 2, v4Hop)
	h := &e.d.Path.Hops[2]
	h.Addrs, h.RTT, h.Host = nil, 0, false
	h.Probes["icmp-echo"] = traceroute.Probed{Status: traceroute.Silent}
	e.d.Path.Depth = 0
	e.d.Verdict, e.d.Cause, e.d.Summary = diagnose.HostDown, diagnose.HostUnreachable, "The host is down: the router 10.0.2.2 can't reach it."
	e.d.Fault = at(diagnose.Destination, diagnose.Hop{TTL: diagnose.UnknownTTL, Address: v4Hop(3)})
	return e
}

// twoFlows is silent from the subject's port, and answered from another one that
// goes another way.
func twoFlows() example {
	e := dropped(4, 2, v4Hop)
	e.d.Verdict, e.d.Cause, e.d.Summary = diagnose.Partial, diagnose.FlowDependent, "Some connections get through and others do not, by their source port."
	e.change = func(o *rawprobe.Observations) {
		dst := netip.AddrPortFrom(v4Hop(4), 5432)
		flow := rawprobe.Flow{Src: netip.MustParseAddrPort("10.0.1.1:40007"), Dst: dst}
		send := func(ttl int, from netip.Addr, kind rawprobe.ReplyKind) {
			when := start.Add(time.Second + time.Duration(ttl)*time.Millisecond)
			o.Sent = append(o.Sent, rawprobe.Sent{Kind: rawprobe.OtherFlow, Try: 1, TTL: ttl, Flow: flow, Time: when, Departed: &rawprobe.Departure{Time: when, Flow: flow}})
			reply := rawprobe.Reply{Kind: kind, Probe: len(o.Sent) - 1, Exact: true, Time: when.Add(time.Millisecond), RTT: time.Millisecond, From: from, TTL: 60}
			if kind == rawprobe.ICMPError {
				reply.Type = 11
			}
			o.Replies = append(o.Replies, reply)
		}
		for i := range o.Sent {
			o.Sent[i].Flow.Dst = netip.AddrPortFrom(dst.Addr(), o.Sent[i].Flow.Dst.Port())
		}
		o.Replies = nil
		send(rawprobe.DefaultTTL, dst.Addr(), rawprobe.SynAck)
		send(1, v4Hop(1), rawprobe.ICMPError)
		send(2, v4Hop(2), rawprobe.ICMPError)
		send(3, netip.MustParseAddr("10.9.3.2"), rawprobe.ICMPError)
	}
	return e
}

// endsAtTick has a packet at 0 and an end at 200 ms.
func endsAtTick() example {
	e := examples[0]
	e.change = func(o *rawprobe.Observations) {
		o.Asks, o.Replies, o.Sent = nil, nil, o.Sent[:1]
		o.End = o.Sent[0].Departed.Time.Add(200 * time.Millisecond)
	}
	return e
}

// mixedFlows is answered from the subject's port, and silent from another one.
func mixedFlows() example {
	e := dropped(3, 2, v4Hop)
	e.d.Verdict, e.d.Cause, e.d.Certainty, e.d.Fault = diagnose.Partial, diagnose.FlowDependent, diagnose.Likely, at(diagnose.Path)
	e.d.Path.Hops[2].Probes[subjectName] = traceroute.Probed{Status: traceroute.Answers}
	e.change = func(o *rawprobe.Observations) {
		o.Sent = o.Sent[:1]
		o.Replies = []rawprobe.Reply{{Kind: rawprobe.SynAck, Probe: 0, Time: start.Add(time.Millisecond), From: v4Hop(3), TTL: 62}}
		for _, ttl := range []int{rawprobe.DefaultTTL, 1, 2, 3} {
			s := o.Sent[0]
			s.Kind, s.TTL, s.Flow.Src = rawprobe.OtherFlow, ttl, netip.MustParseAddrPort("10.0.1.1:40001")
			o.Sent = append(o.Sent, s)
		}
		o.Replies = append(o.Replies, rawprobe.Reply{Kind: rawprobe.ICMPError, Type: 11, Probe: 2, Exact: true, Time: start.Add(2 * time.Millisecond), From: v4Hop(1), TTL: 64})
	}
	return e
}

func mixedFlowsShort() example {
	e := mixedFlows()
	e.addr = netip.AddrPortFrom(v4Hop(3), 5432)
	e.d.Path.Depth, e.d.Path.Hops = 0, e.d.Path.Hops[:2]
	return e
}

// behindThePath has a suspect one hop behind what answered.
func behindThePath() example {
	e := dropped(3, 1, v4Hop)
	e.addr = netip.AddrPortFrom(v4Hop(3), 5432)
	e.d.Path.Depth, e.d.Path.Hops = 0, e.d.Path.Hops[:1]
	e.d.Fault = at(diagnose.Path, diagnose.Hop{TTL: diagnose.UnknownTTL, Address: v4Hop(3)}, diagnose.Hop{TTL: 2})
	return e
}

var aboutTest = About{
	CommandLine: []string{"synprobe", "--html", "'a b.html'", "db.example.com", "5432"},
	Version:     "synprobe v1.2.3",
	Time:        start.In(time.FixedZone("CET", 3600)),
}

// document is a page that was read back.
type document struct {
	t    *testing.T
	text string
	root *html.Node
}

// page makes a page and reads it back as XML, where everything that is opened
// must be closed, and as a browser does.
func page(t *testing.T, results []*Result, failures []Failure, about About) *document {
	t.Helper()
	var b bytes.Buffer
	if err := ToHTML(&b, results, failures, about); err != nil {
		t.Fatal(err)
	}
	x := xml.NewDecoder(bytes.NewReader(b.Bytes()))
	for {
		if _, err := x.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("not well-formed: %v\n%s", err, &b)
		}
	}
	root, err := html.Parse(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return &document{t, b.String(), root}
}

// all returns the elements of a name and, unless it is empty, of a class.
func (d *document) all(name, class string) (found []*html.Node) { return within(d.root, name, class) }

func within(n *html.Node, name, class string) (found []*html.Node) {
	for n := range n.Descendants() {
		if n.Type == html.ElementNode && n.Data == name && (class == "" || slices.Contains(strings.Fields(attr(n, "class")), class)) {
			found = append(found, n)
		}
	}
	return found
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// texts are the texts of elements.
func texts(nodes []*html.Node) (all []string) {
	for _, n := range nodes {
		text := ""
		for n := range n.Descendants() {
			if n.Type == html.TextNode {
				text += n.Data
			}
		}
		all = append(all, text)
	}
	return all
}

// cells are the texts of a table's rows, without its head.
func cells(table *html.Node) (rows [][]string) {
	for _, body := range within(table, "tbody", "") {
		for _, tr := range within(body, "tr", "") {
			var row []string
			for c := range tr.ChildNodes() {
				if c.Type == html.ElementNode {
					row = append(row, texts([]*html.Node{c})[0])
				}
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// sane checks what holds for every page.
func (d *document) sane() {
	t := d.t
	t.Helper()
	elements := strings.Fields("html head meta title style body header main footer article section h1 h2 h3 p ul li strong code a span dl div dt dd " +
		"table thead tbody tr th td figure svg desc line path circle rect text")
	attributes := strings.Fields("lang charset name content http-equiv class id href role tabindex scope colspan aria-labelledby " +
		"width height viewBox x y dx dy x1 x2 y1 y2 cx cy r rx d")
	ids := make(map[string]int)
	var refs []string
	level := 0
	for n := range d.root.Descendants() {
		if n.Type == html.CommentNode {
			t.Errorf("a comment: %q", n.Data)
		}
		if n.Type != html.ElementNode {
			continue
		}
		if !slices.Contains(elements, n.Data) {
			t.Errorf("an element %q", n.Data)
		}
		for _, a := range n.Attr {
			if !slices.Contains(attributes, a.Key) {
				t.Errorf("%s has an attribute %q", n.Data, a.Key)
			}
			switch a.Key {
			case "id":
				ids[a.Val]++
			case "aria-labelledby":
				refs = append(refs, strings.Fields(a.Val)...)
			case "href":
				target, ok := strings.CutPrefix(a.Val, "#")
				if !ok {
					t.Errorf("a link out of the page: %q", a.Val)
				}
				refs = append(refs, target)
			}
		}
		switch n.Data {
		case "h1", "h2", "h3":
			l := int(n.Data[1] - '0')
			if l > level+1 {
				t.Errorf("%s follows h%d", n.Data, level)
			}
			level = l
		case "svg":
			if attr(n, "role") != "img" || len(within(n, "title", "")) != 1 || len(within(n, "desc", "")) != 1 {
				t.Errorf("an svg of role %q with %d titles and %d descriptions", attr(n, "role"), len(within(n, "title", "")), len(within(n, "desc", "")))
			}
		case "th":
			if attr(n, "scope") == "" {
				t.Error("a th without scope")
			}
		case "table":
			want := len(within(within(n, "thead", "")[0], "th", ""))
			for _, row := range cells(n) {
				if len(row) != want && len(row) != 1 {
					t.Errorf("a row of %d cells below a head of %d: %q", len(row), want, row)
				}
			}
		}
	}
	for id, n := range ids {
		if n > 1 {
			t.Errorf("id %q is there %d times", id, n)
		}
	}
	for _, ref := range refs {
		if ids[ref] == 0 {
			t.Errorf("a reference to %q, which is not there", ref)
		}
	}
	if l := attr(d.all("html", "")[0], "lang"); l != "en" {
		t.Errorf("lang is %q", l)
	}
	styles := texts(d.all("style", ""))
	if len(styles) != 1 || regexp.MustCompile(`url\(|@import|//|expression|src`).MatchString(styles[0]) {
		t.Error("a style sheet that loads something")
	}
	if len(d.all("h1", "")) != 1 {
		t.Errorf("%d h1", len(d.all("h1", "")))
	}
	for _, r := range d.text {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("an unprintable character %U", r)
			break
		}
	}
}

// once checks that each of want is the text of one of the nodes, in order.
func (d *document) once(what string, got, want []string) {
	d.t.Helper()
	if !slices.Equal(got, want) {
		d.t.Errorf("%s: %q, want %q", what, got, want)
	}
	for _, w := range want {
		body := texts(d.all("body", ""))[0]
		if n := strings.Count(body, w); n != 1 {
			d.t.Errorf("%s: %q is there %d times", what, w, n)
		}
	}
}

// TestHTML checks that each page has all that the result has, in its place.
func TestHTML(t *testing.T) {
	for _, s := range shapes() {
		t.Run(s.name, func(t *testing.T) {
			doc := page(t, []*Result{s.r}, nil, aboutTest)
			doc.sane()
			d := s.r.diagnosis
			if s.r.Interrupted() {
				if strings.Contains(doc.text, d.Summary) || !strings.Contains(doc.text, "<p class=\"summary\">Stopped after 0.8 s, before there was a verdict; so far: ") {
					t.Errorf("an interrupted run: %s", doc.text)
				}
				return
			}
			doc.once("summary", texts(doc.all("p", "summary")), []string{d.Summary})
			if d.Next != "" {
				doc.once("next", texts(doc.all("p", "next")), []string{d.Next})
			}
			var evidence, others []string
			for _, e := range d.Evidence {
				evidence = append(evidence, e.Text+" "+e.Rule)
			}
			for _, ul := range doc.all("ul", "evidence") {
				doc.once("evidence", texts(within(ul, "li", "")), evidence)
			}
			for _, a := range d.Alternatives {
				others = append(others, a.Why)
				if !strings.Contains(doc.text, "<strong>"+html.EscapeString(causeWords[a.Cause])+"</strong>") {
					t.Errorf("no words for the alternative %s", a.Cause)
				}
			}
			for i, li := range texts(within(doc.root, "ul", "others")) {
				for _, why := range others {
					if strings.Count(li, why) != 1 {
						t.Errorf("list %d has the reason %q %d times", i, why, strings.Count(li, why))
					}
				}
			}
			if len(doc.all("ul", "evidence")) != min(len(evidence), 1) || len(doc.all("ul", "others")) != min(len(others), 1) {
				t.Error("a list is missing, or there twice")
			}
			doc.path(s.r)
			doc.packets(s.r)
			badge := texts(doc.all("span", "verdict"))
			if !slices.Equal(badge, []string{strings.ToUpper(string(d.Verdict))}) {
				t.Errorf("verdicts %q", badge)
			}
			foot := texts(within(doc.all("footer", "")[0], "dd", ""))
			if want := []string{"synprobe --html 'a b.html' db.example.com 5432", "2026-11-22 09:27:00 CET (+01:00)", "synprobe v1.2.3"}; !slices.Equal(foot, want) {
				t.Errorf("foot %q, want %q", foot, want)
			}
		})
	}
}

// drawnText is all that stands in the drawings, without the breaks of lines.
func (d *document) drawnText() string {
	all := ""
	for _, svg := range d.all("svg", "") {
		all += strings.Join(texts(within(svg, "text", "")), "")
	}
	return strings.ReplaceAll(all, " ", "")
}

// path checks that every address is in the drawing and, if TTLs were stepped, in
// one row of the table.
func (d *document) path(r *Result) {
	d.t.Helper()
	drawn := d.drawnText()
	path := r.diagnosis.Path
	for _, h := range path.Hops {
		for _, a := range h.Addrs {
			if n := strings.Count(drawn, a.String()); n == 0 {
				d.t.Errorf("%s is not in the drawing: %s", a, drawn)
			}
		}
	}
	if r.diagnosis.Fault != nil {
		for _, h := range r.diagnosis.Fault.Hops {
			if h.Address.IsValid() && !strings.Contains(drawn, h.Address.String()) {
				d.t.Errorf("suspect %s is not in the drawing: %s", h.Address, drawn)
			}
		}
	}
	if len(path.Hops) == 0 {
		return
	}
	var rows [][]string
	stop := -1
	for i, row := range cells(within(d.all("div", "path")[0], "table", "")[0]) {
		if len(row) == 1 {
			stop = i - 1
			continue
		}
		rows = append(rows, row)
	}
	want := r.stop()
	if last := path.Hop(len(path.Hops)); last.Of(subjectName).Status == traceroute.Answers {
		want = -1
	}
	if stop != want || len(rows) != len(path.Hops)+1 {
		d.t.Fatalf("the table has %d hops and stops at %d, want %d and %d", len(rows)-1, stop, len(path.Hops), want)
	}
	for i, h := range path.Hops {
		row := rows[i+1]
		var addrs []string
		for _, a := range h.Addrs {
			addrs = append(addrs, a.String())
		}
		if len(addrs) == 0 {
			addrs = []string{"(no", "answer)"}
		}
		if row[0] != strconv.Itoa(h.TTL) || !slices.Equal(strings.Fields(row[1]), addrs) || row[3] != string(h.Of(subjectName).Status) {
			d.t.Errorf("hop %d: row %q", h.TTL, row)
		}
	}
}

// packets checks that each packet has its row, in the order of time.
func (d *document) packets(r *Result) {
	d.t.Helper()
	asks := 0
	for _, a := range r.seen.Asks {
		asks++
		if !a.Answered.IsZero() {
			asks++
		}
	}
	want := asks + len(r.seen.Sent) + len(r.seen.Replies)
	tables := d.all("table", "")
	if want == 0 {
		if !strings.Contains(d.text, "<dt>Packets</dt><dd>none</dd>") {
			d.t.Error("nothing says that there were no packets")
		}
		return
	}
	rows := cells(tables[len(tables)-1])
	sent, last := 0, -1.0
	for _, row := range rows {
		ms, err := strconv.ParseFloat(strings.TrimSuffix(row[0], " ms"), 64)
		if err != nil || ms < last {
			d.t.Errorf("time %q after %v ms: %v", row[0], last, err)
		}
		last = ms
		if row[1] == "sent" {
			sent++
		}
	}
	if len(rows) != want || sent != len(r.seen.Asks)+len(r.seen.Sent) {
		d.t.Errorf("%d packets of which %d were sent, want %d and %d", len(rows), sent, want, len(r.seen.Asks)+len(r.seen.Sent))
	}
}

// TestHTMLDrawing checks what the drawing says, in words: each line is a place
// with its marks, * for a suspect, and x where the SYN is lost behind it.
func TestHTMLDrawing(t *testing.T) {
	for _, test := range []struct {
		name string
		e    example
		want string
	}{
		{"between two hops", dropped(5, 2, v4Hop), `
			10.0.1.1 - -
			10.0.1.2 passes passes
			10.0.2.2 passes passes * x
			10.0.3.2 silent passes *
			10.0.4.2 silent passes
			10.0.5.2 silent answers
			to 2 5`},
		{"before the first hop", dropped(2, 0, v4Hop), `
			10.0.1.1 - - * x
			10.0.1.2 silent passes *
			10.0.2.2 silent answers
			to 0 2`},
		{"silent hops", silentHops(), `
			10.0.1.1 - -
			10.0.1.2 passes passes
			(no answer) passes silent
			10.0.3.2 passes passes * x
			(no answer) silent silent *
			(no answer) silent silent *
			(no answer) silent silent *
			10.0.7.2 silent passes *
			10.0.8.2 silent answers
			to 3 8`},
		{"a control less", severalAddresses(), `
			10.0.1.1 - - -
			10.0.1.2 passes passes -
			10.0.2.2 192.168.250.101 192.168.250.102 192.168.250.103 passes passes passes
			10.0.3.2 passes passes passes * x
			10.0.4.2 silent passes passes *
			10.0.5.2 silent answers answers
			to 3 5 5`},
		// What was sent to hop 3 met hop 2.
		{"refused at 2", refused(), `
			10.0.1.1 - -
			10.0.1.2 passes passes
			10.0.2.2 rejects passes *
			10.0.3.2 - answers
			to 2 3`},
		{"the host is beyond the path", hostDown(), `
			10.0.1.1 - -
			10.0.1.2 passes passes
			10.0.2.2 passes passes
			(no answer) silent silent
			[at hop 3 or beyond] 10.0.3.2 - - *
			to 2 2`},
		{"two flows", twoFlows(), `
			10.0.1.1 - - -
			10.0.1.2 passes passes passes
			10.0.2.2 passes passes passes * x
			10.0.3.2 silent passes passes *
			10.0.4.2 silent answers answers
			to 2 4 4`},
		{"two flows, one lost", mixedFlows(), `
			10.0.1.1 - - -
			10.0.1.2 passes passes passes
			10.0.2.2 passes silent passes
			10.0.3.2 answers silent answers
			to 3 1 3`},
		// The path does not show the subject's own answer.
		{"two flows, one lost, subject not stepped to the end", mixedFlowsShort(), `
			10.0.1.1 - - -
			10.0.1.2 passes passes passes
			10.0.2.2 passes silent passes
			[distance unknown] 10.0.3.2 answers silent -
			to 3 1 2`},
		{"untraced, open", examples[0], `
			10.0.1.1 -
			10.0.1.2 -
			[not traced] 10.0.4.2 answers
			to 2`},
		{"untraced, open by a proxy at 2", byName("open-proxy"), `
			10.0.1.1 -
			10.0.1.2 -
			[not traced] 10.0.2.2 answers *
			[not traced] 10.0.4.2 -
			to 2`},
		{"untraced, between 2 and 3", byName("drop-network-firewall"), `
			10.0.1.1 -
			10.0.1.2 -
			[not traced] 10.0.2.2 - *
			10.0.3.2 - *
			[not traced] 10.0.4.2 silent
			to 0`},
		// The path has no hop at which the SYN is silent, so nothing marks a stop.
		{"a suspect behind the path, the host named first", behindThePath(), `
			10.0.1.1 - -
			10.0.1.2 passes passes
			(no answer) - - *
			[distance unknown] 10.0.3.2 - - *
			to 1 1`},
		{"the gateway is dead", byName("network-down-gateway-down"), `
			10.0.1.1 - *
			10.0.1.2 - *
			[not traced] 10.0.4.2 -
			to 0`},
		{"on the link", byName("host-down-neighbor-unreachable"), `
			fe80::1 -
			fe80::2%eth0 - *
			to 0`},
		{"no route", byName("network-down-no-route"), `
			no address - *
			[not traced] 10.0.4.2 -
			to 0`},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := test.e.result()
			spots, marked := r.suspects(r.spots())
			for i := range spots {
				if slices.Contains(marked, i) != (spots[i].Suspect != "") {
					t.Errorf("suspects at %v, and place %d has %q", marked, i, spots[i].Suspect)
				}
			}
			p, _ := r.drawing()
			if got, want := drawnWords(p), strings.ReplaceAll(strings.TrimSpace(test.want), "\t", ""); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func drawnWords(p *htmlpage.Path) string {
	var b strings.Builder
	for i, n := range p.Nodes {
		if n.Gap != "" {
			fmt.Fprintf(&b, "[%s] ", n.Gap)
		}
		b.WriteString(strings.Join(n.Names, " "))
		for _, m := range n.Marks {
			if m == "" {
				m = "-"
			}
			b.WriteString(" " + string(m))
		}
		if n.Suspect != "" {
			b.WriteString(" *")
		}
		if p.Stop == i {
			b.WriteString(" x")
		}
		b.WriteByte('\n')
	}
	b.WriteString("to")
	for _, l := range p.Lanes {
		fmt.Fprintf(&b, " %d", l.Reach)
	}
	return b.String()
}

func byName(name string) example {
	return examples[slices.IndexFunc(examples, func(e example) bool { return e.name == name })]
}

func TestHTMLTimeline(t *testing.T) {
	us := func(all ...int) (times []time.Duration) {
		for _, n := range all {
			times = append(times, time.Duration(n)*time.Microsecond)
		}
		return times
	}
	want := &htmlpage.Timeline{
		Title:  "When packets were sent and received",
		Desc:   "In 2.3 s. ARP request: 1 sent, 1 received; SYN: 2 sent, 1 received; ICMP echo: 1 sent, 1 received. The table has the times.",
		Length: 2300*time.Millisecond - 20*time.Microsecond, // from the first packet on
		Rows: []htmlpage.TimeRow{
			{Label: "ARP request", Sent: us(0), Received: us(130)},
			{Label: "SYN", Sent: us(180, 400200), Received: us(490)},
			{Label: "ICMP echo", Sent: us(200), Received: us(720)},
		},
	}
	if diff := cmp.Diff(want, examples[0].result().timeline()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := byName("network-down-no-route").result().timeline(); got != nil {
		t.Errorf("a timeline of nothing: %v", got)
	}
}

// TestHTMLSeveral checks the table of all targets, the one of failures, and
// that a link leads to the section that it names.
func TestHTMLSeveral(t *testing.T) {
	results := []*Result{examples[0].result(), byName("drop-unknown").result(), byName("interrupted").result(), byName("host-down-neighbor-unreachable").result()}
	failures := []Failure{
		{Name: "nx.example.com", Port: 22, Kind: NameNotFound, Message: "nx.example.com: no such host"},
		{Address: dest, Kind: IOError, Message: "it broke"},
		{Kind: Internal, Message: "no target at all"},
	}
	d := page(t, results, failures, About{})
	d.sane()
	if got, want := texts(within(d.all("header", "")[0], "p", "")), []string{"6 targets: 1 open, 1 drop, 1 interrupted, 1 host-down, 2 without a verdict."}; !slices.Equal(got, want) {
		t.Errorf("lead %q, want %q", got, want)
	}
	want := [][]string{
		{"OPEN", "db.example.com (10.0.4.2) port 5432/tcp (postgresql)", "listening", "certain"},
		{"DROP", "db.example.com (10.0.4.2) port 5432/tcp (postgresql)", "unknown", "ambiguous"},
		{"INTERRUPTED", "db.example.com (10.0.4.2) port 5432/tcp (postgresql)", "", ""},
		{"HOST-DOWN", "fe80::2%eth0 port 22/tcp (ssh)", "neighbor-unreachable", "certain"},
	}
	if got := cells(d.all("table", "all")[0]); !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("all targets %q, want %q", got, want)
	}
	want = [][]string{
		{"nx.example.com port 22/tcp", "name-not-found", "nx.example.com: no such host"},
		{"10.0.4.2", "io", "it broke"},
		{"none", "internal", "no target at all"},
	}
	if got := cells(d.all("table", "failures")[0]); !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("failures %q, want %q", got, want)
	}
	links, sections := d.all("a", ""), d.all("article", "target")
	if len(links) != len(results) || len(sections) != len(results) {
		t.Fatalf("%d links and %d sections for %d results", len(links), len(sections), len(results))
	}
	for i := range sections {
		if attr(links[i], "href") != "#"+attr(sections[i], "id") {
			t.Errorf("link %d leads to %s, its section is %s", i, attr(links[i], "href"), attr(sections[i], "id"))
		}
	}
	if page(t, nil, failures[:1], About{}).sane(); t.Failed() {
		t.Error("failures alone")
	}
	page(t, nil, nil, About{}).sane()
}

func TestHTMLNoNames(t *testing.T) {
	about := aboutTest
	about.NoNames = true
	if d := page(t, []*Result{examples[0].result()}, nil, about); strings.Contains(d.text, "postgresql") {
		t.Error("the name of a service")
	}
}

// TestHTMLWritesOnce checks that a page is written whole.
func TestHTMLWritesOnce(t *testing.T) {
	var w calls
	if err := ToHTML(&w, []*Result{examples[0].result(), longIPv6().result()}, nil, aboutTest); err != nil || w != 1 {
		t.Errorf("%d writes: %v", w, err)
	}
	if err := ToHTML(broken{}, nil, nil, aboutTest); !errors.Is(err, errBroken) {
		t.Errorf("%v, want the writer's error", err)
	}
}

type calls int

func (c *calls) Write(b []byte) (int, error) { *c++; return len(b), nil }

// filled is a page with text wherever text comes from outside.
func filled(t *testing.T, text string) *document {
	e := dropped(3, 1, v4Hop)
	e.target = text
	e.d.Cause, e.d.Certainty, e.d.Verdict = diagnose.Cause(text), diagnose.Certainty(text), diagnose.Verdict(text)
	e.d.Summary, e.d.Next = text, text
	e.d.Evidence = []diagnose.Evidence{{Rule: text, Text: text}}
	e.d.Fault.Where = diagnose.Where(text)
	e.d.Alternatives = []diagnose.Alternative{instead(diagnose.Cause(text), at(diagnose.Where(text), third), text)}
	e.d.Path.Names[1] = text
	for i := range e.d.Path.Hops {
		h := &e.d.Path.Hops[i]
		h.Probes[text] = h.Probes["icmp-echo"]
		h.Probes[subjectName] = traceroute.Probed{Status: traceroute.Status(text)}
	}
	e.names = map[netip.Addr]string{v4Hop(1): text, v4Hop(2): text}
	e.change = func(o *rawprobe.Observations) {
		o.Machine.Interface.Name = text
		o.Machine.Neighbor = rawprobe.NeighborState(text)
		o.Machine.Route.Outcome = rawprobe.RouteOutcome(text)
		o.Sent[0].Kind, o.Sent[1].Refused = rawprobe.ProbeKind(text), rawprobe.Refusal(text)
		o.Replies[0].Kind = rawprobe.ReplyKind(text)
	}
	zoned := e
	zoned.addr = netip.AddrPortFrom(ip("fe80::2").WithZone(text), 22)
	about := About{CommandLine: []string{text, text}, Version: text, Time: time.Unix(0, 0).In(time.FixedZone(text, 0))}
	return page(t, []*Result{e.result(), zoned.result()}, []Failure{{Name: text, Port: 1, Kind: ErrorKind(text), Message: text}}, about)
}

// tree lists the elements outside of drawings, where long text takes more
// lines, with the names of their attributes.
func (d *document) tree() (all []string) {
	var walk func(*html.Node)
	walk = func(n *html.Node) {
		if n.Type == html.ElementNode {
			tag := n.Data
			for _, a := range n.Attr {
				tag += " " + a.Key
			}
			all = append(all, tag)
			if n.Data == "svg" {
				return
			}
		}
		for c := range n.ChildNodes() {
			walk(c)
		}
		all = append(all, "/")
	}
	walk(d.root)
	return all
}

var hostile = []string{
	"plain", "<script>alert(1)</script>", `"><img src=x onerror=alert(1)>`, "</title><script>", "</style><script>", "</svg><script>", "</text><foreignObject>",
	"<!--", "-->", "]]>", "<![CDATA[", "{{.}}", "{{end}}", "javascript:alert(1)", "' onload='x", "` x=y", "&lt;b&gt;&#60;b&#62;", "&", "\\u003cscript\\u003e",
	"\x1b[2J\x07", "a\x00b", "\u202egnp.exe", "\u2066x\u2069", "\ufeff", "\xff\xfe", "line\u2028break\r\n", "\u00a0", strings.Repeat("w", 5000), "日本語の名前", "xn--é", "%s%d%!",
}

// checkHostile checks that text changes no element of the page, and comes
// through as it is.
func checkHostile(t *testing.T, text string, want []string) {
	t.Helper()
	d := filled(t, text)
	d.sane()
	if strings.TrimSpace(text) == "" {
		return // an empty paragraph may be left out
	}
	if got := d.tree(); !slices.Equal(got, want) {
		t.Errorf("%q changes the elements of the page:\n%q\nwant\n%q", text, got, want)
	}
	for _, s := range texts(d.all("p", "summary")) {
		if s != clean(text) {
			t.Errorf("summary %q became %q", text, s)
		}
	}
}

// TestHTMLHostile puts what could break out of a page, alone and mixed, wherever
// text comes from outside.
func TestHTMLHostile(t *testing.T) {
	want := filled(t, "harmless").tree()
	for _, text := range hostile {
		checkHostile(t, text, want)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		var text strings.Builder
		for range 1 + random.IntN(5) {
			if s := hostile[random.IntN(len(hostile))]; len(s) < 100 {
				text.WriteString(s)
			}
			text.WriteRune(rune(random.IntN(0x3000)))
			text.WriteByte(byte(random.IntN(256)))
		}
		checkHostile(t, text.String(), want)
	}
}

// TestHTMLColours computes the contrast of all text by WCAG 2, and that no
// verdict is without its colour.
func TestHTMLColours(t *testing.T) {
	css, err := os.ReadFile("htmlpage/page.css")
	if err != nil {
		t.Fatal(err)
	}
	schemes := regexp.MustCompile(`:root \{[^}]*\}`).FindAllString(string(css), -1)
	if len(schemes) != 2 {
		t.Fatalf("%d colour schemes, want a light and a dark one", len(schemes))
	}
	var names []string
	for _, scheme := range schemes {
		colour := make(map[string]float64)
		for _, m := range regexp.MustCompile(`--(\w+): #([0-9a-f]{6});`).FindAllStringSubmatch(scheme, -1) {
			colour[m[1]] = luminance(t, m[2])
		}
		if got := slices.Sorted(maps.Keys(colour)); names == nil {
			names = got
		} else if !slices.Equal(got, names) {
			t.Errorf("the dark scheme has %q, the light one %q", got, names)
		}
		for _, text := range []string{"fg", "soft", "link", "open", "reject", "drop", "down", "partial"} {
			for _, back := range []string{"bg", "panel"} {
				a, b := colour[text], colour[back]
				if ratio := (max(a, b) + .05) / (min(a, b) + .05); ratio < 4.5 {
					t.Errorf("%s on %s has a contrast of %.1f, below 4.5", text, back, ratio)
				}
			}
		}
	}
	for _, v := range constants(t, "../../../../traceroute/diagnose/diagnosis.go")["Verdict"] {
		if !strings.Contains(string(css), ".tone-"+v+" ") && !strings.Contains(string(css), ".tone-"+v+",") {
			t.Errorf("verdict %s has no colour", v)
		}
	}
}

// luminance is the relative luminance of a colour (WCAG 2.2, definition of the
// same name).
func luminance(t *testing.T, hex string) float64 {
	t.Helper()
	n, err := strconv.ParseUint(hex, 16, 32)
	if err != nil {
		t.Fatal(err)
	}
	part := func(shift uint) float64 {
		c := float64(n>>shift&0xff) / 255
		if c <= .04045 {
			return c / 12.92
		}
		return math.Pow((c+.055)/1.055, 2.4)
	}
	return .2126*part(16) + .7152*part(8) + .0722*part(0)
}
