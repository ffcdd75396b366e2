package report

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"synprobe/rawprobe"
)

// facts prints what the machine knew and every packet, for -v.
func (r *Result) facts(p *printer) {
	p.blank()
	p.hanging(margin, "From:      ", words(r.from()))
	if text := r.nextHop(); text != "" {
		p.hanging(margin, "Next hop:  ", words(text))
	}
	rows := r.packets()
	switch {
	case len(rows) == 0:
		p.line(margin + "Packets:   none")
	case p.style.Logged: // they were printed as they went by
	default:
		p.line(margin + "Packets:")
		table(p, rows)
	}
	if text := r.unused(); text != "" {
		p.hanging(margin, "Ignored:   ", words(text))
	}
}

func (r *Result) from() string {
	m := r.seen.Machine
	text := "no address"
	if r.source.address.IsValid() {
		text = r.source.address.String()
	}
	switch {
	case r.source.iface == "":
		text += ", no interface"
	case m.Route.Local:
		text += " on " + Escape(r.source.iface) + ", which is this machine itself"
	case r.source.gateway.IsValid():
		text += " on " + Escape(r.source.iface) + ", by gateway " + r.source.gateway.String()
	default:
		text += " on " + Escape(r.source.iface) + ", on the target's own link"
	}
	if m.Route.Outcome != rawprobe.RouteFound {
		text += "; route: " + string(m.Route.Outcome)
	}
	if m.Conntrack.Max > 0 {
		text += fmt.Sprintf("; %d of %d connections tracked", m.Conntrack.Count, m.Conntrack.Max)
	}
	return text
}

// nextHop says what our own ARP requests or neighbour solicitations brought.
func (r *Result) nextHop() string {
	if len(r.seen.Asks) == 0 {
		return ""
	}
	text := fmt.Sprintf("%s, asked %s, ", r.source.neighbour, count(len(r.seen.Asks), "time"))
	answer := "no answer"
	for _, a := range r.seen.Asks {
		if !a.Answered.IsZero() {
			answer = fmt.Sprintf("%s answered after %s", net.HardwareAddr(a.Hardware[:]), rttWords(a.Answered.Sub(a.Time)))
			break
		}
	}
	text += answer
	if n := r.seen.Machine.Neighbor; n != "" {
		text += "; the kernel says " + string(n)
	}
	return text
}

func (r *Result) unused() string {
	var parts []string
	add := func(n int, what string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, what))
		}
	}
	i := r.seen.Ignored
	add(i.Unprovoked, "that answer nothing we sent")
	add(i.Malformed, "malformed")
	add(i.Duplicates, "seen twice")
	add(i.Excess, "more than a record holds")
	add(int(min(r.seen.Tap.Drops, 1<<30)), "lost because the capture was full")
	return strings.Join(parts, ", ")
}

// row is one packet, sent or received.
type row struct {
	at    time.Time
	cells []string
}

// packets are all the packets in the order of time.
func (r *Result) packets() []row {
	var rows []row
	at := func(t time.Time, cells ...string) { rows = append(rows, row{t, cells}) }
	ask := r.askWords()
	for _, a := range r.seen.Asks {
		at(a.Time, "sent", ask, r.source.neighbour.String())
		if !a.Answered.IsZero() {
			at(a.Answered, "received", "answer", net.HardwareAddr(a.Hardware[:]).String())
		}
	}
	for i := range r.seen.Sent {
		s := &r.seen.Sent[i]
		at(left(s), sentCells(s)...)
	}
	for i := range r.seen.Replies {
		reply := &r.seen.Replies[i]
		var s *rawprobe.Sent
		if reply.Probe >= 0 && reply.Probe < len(r.seen.Sent) {
			s = &r.seen.Sent[reply.Probe]
		}
		at(reply.Time, replyCells(reply, s)...)
	}
	slices.SortStableFunc(rows, func(a, b row) int { return a.at.Compare(b.at) })
	return rows
}

// sentCells are a probe's columns.
func sentCells(s *rawprobe.Sent) []string {
	detail := ""
	switch flow, translated := s.Translated(); {
	case s.Refused != rawprobe.NotRefused:
		detail = "refused by the kernel: " + string(s.Refused)
	case s.Departed == nil:
		detail = "not seen to leave"
	case translated:
		detail = fmt.Sprintf("left as %s", flowWords(flow))
	}
	return []string{"sent", fmt.Sprintf("%s, try %d", probeName(s), s.Try), flowWords(s.Flow), fmt.Sprintf("TTL %d", s.TTL), detail}
}

// replyCells are an answer's columns; s is the probe that it answers, or nil.
func replyCells(r *rawprobe.Reply, s *rawprobe.Sent) []string {
	detail := ""
	if r.RTT > 0 {
		detail = rttWords(r.RTT)
	}
	if s != nil {
		detail += fmt.Sprintf(" for %s, try %d", probeName(s), s.Try)
	}
	detail += extensionWords(r.Extensions)
	return []string{"received", replyWords(r), "from " + r.From.String(), fmt.Sprintf("TTL %d", r.TTL), strings.TrimLeft(detail, ", ")}
}

// probeName is a probe in a list of packets.
func probeName(s *rawprobe.Sent) string {
	if s.Kind == rawprobe.ControlSYN {
		return fmt.Sprintf("SYN to :%d", s.Flow.Dst.Port())
	}
	return probeWords(s.Kind)
}

// askWords is what asks for the next hop.
func (r *Result) askWords() string {
	if r.target.Addr().Is6() {
		return "neighbour solicitation"
	}
	return "ARP request"
}

// left is when a probe left this machine, or was handed to the kernel where it
// was not seen to leave.
func left(s *rawprobe.Sent) time.Time {
	if s.Refused == rawprobe.NotRefused && s.Departed != nil {
		return s.Departed.Time
	}
	return s.Time
}

// table prints rows in columns, each with its time since the start.
func table(p *printer, rows []row) {
	var lines [][]string
	var width []int
	for _, row := range rows {
		cells := append([]string{}, row.cells...)
		for i, c := range cells {
			cells[i] = clean(c)
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], len([]rune(cells[i])))
		}
		lines = append(lines, cells)
	}
	start := rows[0].at
	for i, cells := range lines {
		line := fmt.Sprintf("%s%10.3f ms", margin, float64(rows[i].at.Sub(start))/float64(time.Millisecond))
		for j, c := range cells {
			line += fmt.Sprintf("  %-*s", width[j], c)
		}
		p.line(line)
	}
}

func flowWords(f rawprobe.Flow) string {
	if f.Src.Port() == 0 && f.Dst.Port() == 0 {
		return f.Src.Addr().String() + " > " + f.Dst.Addr().String()
	}
	return f.Src.String() + " > " + f.Dst.String()
}

func probeWords(k rawprobe.ProbeKind) string {
	switch k {
	case rawprobe.Subject:
		return "SYN"
	case rawprobe.Echo:
		return "ICMP echo"
	case rawprobe.OtherFlow:
		return "SYN of another flow"
	case rawprobe.ControlSYN:
		return "SYN to other ports"
	case rawprobe.ControlACK:
		return "ACK"
	case rawprobe.ControlUDP:
		return "UDP"
	case rawprobe.Fragment:
		return "first fragment of the SYN"
	}
	return string(k)
}

func replyWords(reply *rawprobe.Reply) string {
	switch reply.Kind {
	case rawprobe.SynAck:
		return "SYN-ACK"
	case rawprobe.Reset:
		return "RST"
	case rawprobe.OldAck:
		return "challenge ACK"
	case rawprobe.EchoReply:
		return "echo reply"
	case rawprobe.ICMPError:
		text := fmt.Sprintf("ICMP %d/%d", reply.Type, reply.Code)
		if name := icmpName(reply); name != "" {
			text += " (" + name + ")"
		}
		return text
	}
	return string(reply.Kind)
}

// icmpName is the name of an ICMP error, empty where it has none here, or is no
// ICMP error.
func icmpName(a *rawprobe.Reply) string {
	names := icmpv4
	switch {
	case a.Kind != rawprobe.ICMPError:
		return ""
	case a.From.Is6():
		names = icmpv6
	}
	return names[[2]int{a.Type, a.Code}]
}

// icmpv4 names the errors of RFC 792 and RFC 1812, section 5.2.7, by type and
// code.
var icmpv4 = map[[2]int]string{
	{3, 0}:  "network unreachable",
	{3, 1}:  "host unreachable",
	{3, 2}:  "protocol unreachable",
	{3, 3}:  "port unreachable",
	{3, 4}:  "too big",
	{3, 9}:  "network prohibited",
	{3, 10}: "host prohibited",
	{3, 13}: "prohibited",
	{11, 0}: "time exceeded",
	{11, 1}: "reassembly time exceeded",
}

// icmpv6 names the errors of RFC 4443, section 3.
var icmpv6 = map[[2]int]string{
	{1, 0}: "no route",
	{1, 1}: "prohibited",
	{1, 2}: "beyond scope",
	{1, 3}: "address unreachable",
	{1, 4}: "port unreachable",
	{1, 5}: "policy",
	{1, 6}: "reject route",
	{2, 0}: "too big",
	{3, 0}: "time exceeded",
	{3, 1}: "reassembly time exceeded",
}
