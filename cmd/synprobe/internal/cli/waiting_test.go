package cli

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"synprobe/pcap"
	"synprobe/rawprobe"
)

// screen is a terminal of one line: what stands there now, and all that ever did.
type screen struct {
	mu      sync.Mutex
	line    string
	history []string
	above   bytes.Buffer // whole lines that were written
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for part := range strings.SplitAfterSeq(string(b), "\n") {
		if rest, ok := strings.CutPrefix(part, "\r"); ok {
			line, ok := unwrapped(rest)
			if !ok {
				return 0, fmt.Errorf("a narrow terminal would wrap %q", rest)
			}
			if s.line = line; line != "" {
				s.history = append(s.history, line)
			}
			continue
		}
		if part != "" && s.line != "" {
			return 0, fmt.Errorf("%q was written behind the live line %q", part, s.line)
		}
		s.above.WriteString(part)
	}
	return len(b), nil
}

// unwrapped is the text of a line that is drawn while no line wraps, or nothing
// where the line is taken away. A line that may wrap is not ok.
func unwrapped(drawn string) (text string, ok bool) {
	if drawn == "\x1b[K" {
		return "", true
	}
	text, off := strings.CutPrefix(drawn, "\x1b[?7l")
	text, on := strings.CutSuffix(text, "\x1b[?7h\x1b[K")
	return text, off && on
}

// slow is a world on a terminal whose runs take two seconds and tell of packets.
func slow(s *screen) *world {
	w := newWorld()
	w.Env.Stdout, w.Env.Stderr, w.Env.Terminal, w.Env.ErrTerminal = s, s, true, true
	w.Probe = func(_ context.Context, target netip.AddrPort, opt Options) (*rawprobe.Observations, error) {
		start := time.Now()
		syn := rawprobe.Sent{Kind: rawprobe.Subject, TTL: rawprobe.DefaultTTL, Try: 1, Time: start.Add(600 * time.Millisecond),
			Flow: rawprobe.Flow{Src: netip.MustParseAddrPort("192.0.2.100:40000"), Dst: target}}
		out := rawprobe.Event{Direction: pcap.Outgoing, Time: start}
		opt.Watch(rawprobe.Seen{Event: rawprobe.Event{Direction: pcap.Outgoing, Time: start, ARP: true}, What: rawprobe.Asked})
		time.Sleep(600 * time.Millisecond)
		opt.Watch(rawprobe.Seen{Event: rawprobe.Event{Time: time.Now()}, What: rawprobe.AskAnswer})
		opt.Watch(rawprobe.Seen{Event: out, Number: 1, What: rawprobe.ProbeLeft, Probe: syn})
		time.Sleep(400 * time.Millisecond)
		step := syn
		step.TTL = 3
		opt.Watch(rawprobe.Seen{Event: rawprobe.Event{Time: time.Now()}, What: rawprobe.Answer, Probe: step, Reply: rawprobe.Reply{
			Kind: rawprobe.ICMPError, Type: 11, From: netip.MustParseAddr("192.0.2.77"), TTL: 61, Time: time.Now()}})
		time.Sleep(time.Second)
		if opt.Trace.Waiting != nil {
			opt.Trace.Waiting("the host's word that the SYN arrives", time.Now().Add(30*time.Second))
			time.Sleep(2 * time.Second)
		}
		return &rawprobe.Observations{Target: target}, nil
	}
	return w
}

// TestLiveLine looks at what a terminal shows while a run waits.
func TestLiveLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s screen
		if code := slow(&s).run("-n", "--color=never", "--prove", "one", "82"); code != 3 {
			t.Errorf("exit %d", code)
		}
		if s.line != "" {
			t.Errorf("left on the screen: %q", s.line)
		}
		if !strings.HasPrefix(s.above.String(), "DROP  one") || strings.Contains(s.above.String(), "waiting") {
			t.Errorf("the answer: %q", &s.above)
		}
		at := 0
		for _, want := range []string{
			"waiting for the next hop to one port 82 to say its link-layer address: 0.3 s",
			"waiting for the next hop to one port 82 to say its link-layer address: 0.5 s",
			"waiting for an answer from one port 82: 0.7 s, 1 SYN sent",
			"waiting for an answer from one port 82: 1.9 s, 1 SYN sent, got to hop 3",
			"waiting for the host's word that the SYN arrives: 30 s at most (Ctrl-C ends it)",
			"waiting for the host's word that the SYN arrives: 29 s at most (Ctrl-C ends it)",
		} {
			for at < len(s.history) && s.history[at] != want {
				at++
			}
			if at == len(s.history) {
				t.Errorf("never, or not in its turn: %q in\n%s", want, strings.Join(s.history, "\n"))
				break
			}
		}
	})
}

// TestLiveLineOfLongName shows what moves, whatever the length of the name.
func TestLiveLineOfLongName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s screen
		slow(&s).run("-n", "2001:db8:1111:2222:3333:4444:5555:6666", "82")
		for _, want := range []string{
			" port 82 to say its link-layer address: 0.3 s",
			" port 82: 1.9 s, 1 SYN sent, got to hop 3",
		} {
			if !slices.ContainsFunc(s.history, func(line string) bool {
				return strings.HasSuffix(line, want) && strings.Contains(line, " 200") && len(line) == lineWidth
			}) {
				t.Errorf("never %q at the end of a full line in\n%s", want, strings.Join(s.history, "\n"))
			}
		}
	})
}

// TestNoLiveLine leaves pipes, and those who want it quiet, alone.
func TestNoLiveLine(t *testing.T) {
	for name, edit := range map[string]func(*world) []string{
		"no terminal": func(w *world) []string { w.Env.ErrTerminal = false; return []string{"-n"} },
		"quiet":       func(w *world) []string { return []string{"-q"} },
		"dumb terminal": func(w *world) []string {
			w.Env.Getenv = func(name string) string { return map[string]string{"TERM": "dumb"}[name] }
			return []string{"-n"}
		},
		"packets as they go by": func(w *world) []string { return []string{"-n", "-v"} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s screen
				w := slow(&s)
				w.run(append(edit(w), "one", "82")...)
				if len(s.history) > 0 {
					t.Errorf("%q", s.history)
				}
			})
		})
	}
}

// TestLiveLineOfMany counts the targets that are still waited for.
func TestLiveLineOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s screen
		slow(&s).run("-n", "one:82", "one:80", "one:81")
		all := strings.Join(s.history, "\n")
		for _, want := range []string{"waiting for 3 targets: 1.0 s", "waiting for 1 target: 3.0 s"} {
			if !strings.Contains(all, want) {
				t.Errorf("never %q in\n%s", want, all)
			}
		}
	})
}

// TestPacketsGoBy prints each packet when it is seen, and none again.
func TestPacketsGoBy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s screen
		w := slow(&s)
		probe := w.Probe
		var early string
		w.Probe = func(ctx context.Context, target netip.AddrPort, opt Options) (*rawprobe.Observations, error) {
			o, err := probe(ctx, target, opt)
			early = s.above.String()
			return o, err
		}
		w.run("-n", "--color=never", "-v", "one", "82")
		want := `       0.000 ms  sent      our own ARP request for the next hop
     600.000 ms  received  the next hop's answer to our own request
     600.000 ms  sent      SYN, try 1                    192.0.2.100:40000 > 192.0.2.1:82  TTL 64  not seen to leave
    1000.000 ms  received  ICMP 11/0 (time exceeded)     from 192.0.2.77                   TTL 61  for SYN, try 1
`
		if early != want {
			t.Errorf("while the run went on there stood\n%s\nwant\n%s", early, want)
		}
		if rest := strings.TrimPrefix(s.above.String(), early); !strings.HasPrefix(rest, "\nDROP  one") || strings.Contains(rest, "try 1") {
			t.Errorf("then\n%s", rest)
		}
	})
}
