package report

import (
	"fmt"

	"synprobe/rawprobe"
)

// PacketComment says what a packet was, in one line for a capture file.
func PacketComment(s rawprobe.Seen) string {
	switch s.What {
	case rawprobe.ProbeLeft, rawprobe.ProbeAgain, rawprobe.ProbeRefused:
		text := fmt.Sprintf("%s, TTL %d, try %d", commentProbe(&s.Probe), s.Probe.TTL, s.Probe.Try)
		if flow, translated := s.Probe.Translated(); translated {
			text += fmt.Sprintf("; sent as %s, which this machine translated to %s", flowWords(s.Probe.Flow), flowWords(flow))
		}
		switch s.What {
		case rawprobe.ProbeAgain:
			text += "; seen again on another interface"
		case rawprobe.ProbeRefused:
			text += "; refused by the kernel: " + string(s.Probe.Refused)
		}
		return text
	case rawprobe.Asked:
		if s.ARP {
			return "our own ARP request for the next hop"
		}
		return "our own neighbour solicitation for the next hop"
	case rawprobe.AskAnswer:
		return "the next hop's answer to our own request"
	case rawprobe.Answer:
		text := fmt.Sprintf("%s from %s for the %s", commentReply(&s.Reply), s.Reply.From, commentProbe(&s.Probe))
		switch {
		case s.Probe.Stepped():
			text += fmt.Sprintf(" at TTL %d", s.Probe.TTL)
		case s.Reply.Exact:
			text += fmt.Sprintf(", try %d", s.Probe.Try)
		}
		text += extensionWords(s.Reply.Extensions)
		if !s.Reply.Exact {
			text += "; it names no try"
		}
		return text
	case rawprobe.OwnReset:
		return "this machine's kernel resets what the subject SYN opened"
	case rawprobe.OwnReturn:
		return "our own packet, on its way into this machine"
	case rawprobe.Unprovoked:
		return "ignored: it answers nothing that this run sent"
	case rawprobe.Malformed:
		return "ignored: malformed or damaged"
	case rawprobe.Duplicate:
		return "ignored: a copy of the answer before"
	case rawprobe.Excess:
		return "ignored: beyond what a record holds"
	}
	return "no part of this run"
}

// commentProbe names a probe so that a capture can be searched for it.
func commentProbe(s *rawprobe.Sent) string {
	switch s.Kind {
	case rawprobe.Subject:
		return "subject SYN"
	case rawprobe.Echo:
		return "ICMP echo"
	case rawprobe.OtherFlow:
		return "subject's SYN of another flow"
	case rawprobe.ControlACK:
		return "control ACK"
	case rawprobe.ControlSYN:
		return fmt.Sprintf("control SYN to port %d", s.Flow.Dst.Port())
	case rawprobe.ControlUDP:
		return fmt.Sprintf("control UDP to port %d", s.Flow.Dst.Port())
	case rawprobe.Fragment:
		return "subject SYN as a lone first fragment"
	}
	return string(s.Kind)
}

// commentReply names an answer by what it says, an ICMP error without its
// numbers.
func commentReply(a *rawprobe.Reply) string {
	if name := icmpName(a); name != "" {
		return name
	}
	return replyWords(a)
}
