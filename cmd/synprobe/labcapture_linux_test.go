package main

import (
	"bufio"
	"bytes"
	"context"
	endian "encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"synprobe/cmd/synprobe/internal/cli"
	"synprobe/rawprobe/netlab"
	"synprobe/rawprobe/simnet"
	"synprobe/rawprobe/wire"
	"synprobe/traceroute/diagnose"
)

// readFile runs the program with -r, in this process: it needs no network.
func readFile(t testing.TB, file string, argv ...string) netlab.Result {
	t.Helper()
	var out, errs bytes.Buffer
	env := cli.Env{
		Stdout: &out, Stderr: &errs, Explain: diagnose.Explain,
		Getenv: func(string) string { return "" },
	}
	exit := cli.Run(t.Context(), env, append([]string{"synprobe", "-r", file}, argv...))
	return netlab.Result{Stdout: out.String(), Stderr: errs.String(), Exit: exit}
}

// sameAgain explains the capture of a live run: every word and every number must
// be the same.
func sameAgain(t testing.TB, file string, live netlab.Result) {
	t.Helper()
	again := readFile(t, file, "--json", "-n")
	if again.Stdout != live.Stdout || again.Exit != live.Exit || again.Stderr != "" {
		t.Errorf("the capture is explained otherwise:\n%s%swas, with exit %d and now %d:\n%s", again.Stdout, again.Stderr, live.Exit, again.Exit, live.Stdout)
	}
}

// tool runs a program that reads captures, which must not complain. It returns
// its output's lines, nil where the program is not installed.
func tool(t testing.TB, argv ...string) []string {
	t.Helper()
	if _, err := exec.LookPath(argv[0]); err != nil {
		t.Logf("NOT TESTED: %s is not installed", argv[0])
		return nil
	}
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Errorf("%v: %v: %s", argv, err, &errs)
	}
	for line := range strings.Lines(errs.String()) {
		if !strings.HasPrefix(line, "Running as user") && !strings.HasPrefix(line, "reading from file") && !strings.HasPrefix(line, "Warning: interface names might be incorrect") {
			t.Errorf("%s complains: %s", argv[0], line)
		}
	}
	return strings.Split(strings.TrimSpace(out.String()), "\n")
}

// TestCaptureComplete holds a capture against another one that shares no code
// with it: nothing of what was sent and received is missing, nothing is made up,
// and the times are the kernel's. tshark and tcpdump read it.
func TestCaptureComplete(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, mixed)
	client := lab.Node("client")
	for _, f := range both {
		t.Run(f.String(), func(t *testing.T) {
			tap := listen(t, client, "eth0")
			file := filepath.Join(t.TempDir(), "x.pcapng")
			target := lab.Addr("server", f).String()
			out := shell(t, client, "--json", "-n", "-w", file, target, "82")
			sameAgain(t, file, out)
			var other []frame
			for _, p := range tap.taken(t) {
				if p.kind == "mld" || strings.HasPrefix(p.kind, "arp") || strings.HasPrefix(p.kind, "neighbor") || strings.HasPrefix(p.kind, "icmp Router") {
					continue // the kernel's own, in part
				}
				other = append(other, p)
			}
			lines := tool(t, "tshark", "-n", "-r", file, "-t", "u", "-T", "fields", "-E", "separator=|",
				"-e", "frame.interface_name", "-e", "frame.packet_flags_direction", "-e", "ip.ttl", "-e", "ipv6.hlim", "-e", "frame.time_epoch", "-e", "frame.comment", "-e", "frame.protocols", "-e", "_ws.malformed")
			if lines == nil {
				return
			}
			var got, comments []string
			var last time.Time
			for _, line := range lines {
				c := strings.Split(line, "|")
				if len(c) != 8 || c[0] != "eth0" || c[5] == "" || c[7] != "" {
					t.Fatalf("tshark says %q", line)
				}
				comments = append(comments, c[5])
				if strings.Contains(c[5], "our own") || strings.Contains(c[5], "next hop") || strings.Contains(c[5], "no part") {
					continue
				}
				ttl, _, _ := strings.Cut(c[2]+c[3], ",") // the packet's, not that of what it quotes
				sec, ns, _ := strings.Cut(c[4], ".")
				s, _ := strconv.ParseInt(sec, 10, 64)
				n, _ := strconv.ParseInt(ns, 10, 64)
				at := time.Unix(s, n)
				if at.After(last) {
					last = at
				}
				got = append(got, fmt.Sprintf("%v %s %s", c[1] == "0x00000002", ttl, at.UTC().Format("15:04:05.000000000")))
			}
			// What came once the answer stood was not waited for.
			var want []string
			for _, p := range other {
				if !p.time.After(last) {
					want = append(want, fmt.Sprintf("%v %d %s", p.out, p.ttl, p.time.UTC().Format("15:04:05.000000000")))
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if d := cmp.Diff(want, got); d != "" || len(got) < 4 {
				t.Errorf("the other capture has, and this one:\n%s", d)
			}
			all := strings.Join(comments, "\n") + "\n"
			for _, w := range []string{
				"subject SYN, TTL 64, try 1\n", "ICMP echo, TTL 64, try 1\n", " from " + target + " for the ICMP echo, try 1\n",
				" for the subject SYN", " for the next hop\n", "time exceeded from ", " for the subject SYN at TTL 1\n",
			} {
				if !strings.Contains(all, w) {
					t.Errorf("no comment %q in:\n%s", w, all)
				}
			}
			if n := len(tool(t, "tcpdump", "-n", "-r", file)); n != len(lines) {
				t.Errorf("tcpdump shows %d packets of %d", n, len(lines))
			}
		})
	}
}

// TestCaptureToPipe has tshark read the capture as it is written.
func TestCaptureToPipe(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, netlab.Chain(1))
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Skip("NOT TESTED: tshark is not installed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	target := lab.Addr("server", netlab.IPv4).String()
	out, err := lab.Node("client").Run(lab.Node("client").Command(ctx, "sh", "-c", `"$0" -w - -n "$1" 80 | tshark -n -r - 2>/dev/null`, binary(), target))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.Stdout, "[SYN, ACK]") || !strings.HasPrefix(out.Stderr, "OPEN  "+target) {
		t.Errorf("tshark: %s\nstderr: %s", out.Stdout, out.Stderr)
	}
}

// TestCaptureSeveral: of several targets in one file each gets its own packets
// again.
func TestCaptureSeveral(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, mixed)
	file := filepath.Join(t.TempDir(), "x.pcapng")
	argv := []string{"--json", "-n", "-w", file}
	for _, f := range both {
		for _, fate := range fates {
			argv = append(argv, net.JoinHostPort(lab.Addr("server", f).String(), strconv.Itoa(fate.port)))
		}
	}
	out := shell(t, lab.Node("client"), argv...)
	if n := len(decode(t, out)); n != 2*len(fates) {
		t.Fatalf("%d answers: %s%s", n, out.Stdout, out.Stderr)
	}
	sameAgain(t, file, out)
	// One of them alone.
	one := readFile(t, file, "--json", argv[len(argv)-3])
	if want := strings.SplitAfter(out.Stdout, "\n")[2*len(fates)-3]; one.Stdout != want {
		t.Errorf("%s%swant %s", one.Stdout, one.Stderr, want)
	}
	// Two files put together: each run is known by its own number.
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(t.TempDir(), "y.pcapng")
	more := shell(t, lab.Node("client"), "--json", "-n", "-w", again, argv[4])
	b2, err := os.ReadFile(again)
	if err != nil {
		t.Fatal(err)
	}
	joined := filepath.Join(t.TempDir(), "both.pcapng")
	if err := os.WriteFile(joined, append(b, b2...), 0o600); err != nil {
		t.Fatal(err)
	}
	sameAgain(t, joined, netlab.Result{Stdout: out.Stdout + more.Stdout, Exit: out.Exit})
}

// TestCaptureKilled ends the program in the middle of its work: the file is a
// capture all the same.
func TestCaptureKilled(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	lab := netlab.Start(t, mixed)
	client := lab.Node("client")
	target := lab.Addr("server", netlab.IPv4).String()
	for _, how := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT} {
		t.Run(how.String(), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "x.pcapng")
			r := start(t, client, client.Command(t.Context(), binary(), "--json", "-n", "-w", file, target, "83"))
			eventually(t, "the second SYN is in the file", func() bool {
				b, err := os.ReadFile(file)
				return err == nil && bytes.Contains(b, []byte("subject SYN, TTL 64, try 2"))
			})
			live := r.stop(t, how)
			tool(t, "tshark", "-n", "-r", file)
			tool(t, "tcpdump", "-n", "-r", file)
			if how == syscall.SIGINT {
				again := readFile(t, file, "--json", "-n")
				if again.Stdout != live.Stdout || again.Exit != 130 || live.Exit != 130 || again.Stderr != live.Stderr {
					t.Errorf("exit %d: %s%swas %d: %s%s", again.Exit, again.Stdout, again.Stderr, live.Exit, live.Stdout, live.Stderr)
				}
				return
			}
			got := readFile(t, file, "--json", "-n")
			var answer result
			if err := json.Unmarshal([]byte(got.Stdout), &answer); err != nil {
				t.Fatalf("%v: %s%s", err, got.Stdout, got.Stderr)
			}
			if answer.Verdict != "drop" || answer.Certainty != "ambiguous" || answer.Target.Address != target || answer.Target.Port != 83 || len(answer.Path) == 0 ||
				!slices.ContainsFunc(answer.Evidence, func(e struct{ Rule, Text string }) bool {
					return e.Rule == "capture" && strings.Contains(e.Text, "not completed")
				}) {
				t.Errorf("%s", got.Stdout)
			}
		})
	}
}

// TestForeignCapture has tcpdump watch another program connect.
func TestForeignCapture(t *testing.T) {
	netlab.Require(t)
	if _, err := exec.LookPath("tcpdump"); err != nil {
		t.Skip("NOT TESTED: tcpdump is not installed")
	}
	t.Parallel()
	lab := netlab.Start(t, mixed)
	client := lab.Node("client")
	var ports atomic.Int32
	ports.Store(20000)
	for _, iface := range []string{"eth0", "any"} {
		for _, f := range both {
			t.Run(iface+"/"+f.String(), func(t *testing.T) {
				t.Parallel()
				for _, want := range []struct {
					port                      int
					verdict, cause, certainty string
				}{
					{80, "open", "listening", "likely"},
					{81, "reject", "port-closed", "likely"},
					{82, "reject", "network-firewall", "certain"},
					// Linux repeats its SYN after 1, 2 and 3 seconds, or, before its
					// release 6.5, after 1 and 3.
					{83, "drop", "unknown", "ambiguous"},
				} {
					t.Run(fmt.Sprint(want.port), func(t *testing.T) {
						t.Parallel()
						dst := netip.AddrPortFrom(lab.Addr("server", f), uint16(want.port))
						file := filepath.Join(t.TempDir(), "x.pcap")
						// The others' attempts, of which it would see a part, are
						// not its own.
						own := int(ports.Add(1))
						dump := client.Command(t.Context(), "tcpdump", "-U", "--immediate-mode", "-n", "-i", iface, "-w", file,
							fmt.Sprintf("icmp or icmp6 or port %d", own))
						dumping(t, client, dump)
						wait := 2 * time.Second
						if want.verdict == "drop" {
							wait = 4500 * time.Millisecond
						}
						_ = client.Do(func() error {
							d := &net.Dialer{Timeout: wait, LocalAddr: &net.TCPAddr{Port: own}}
							c, err := d.Dial("tcp", dst.String())
							if err == nil {
								return c.Close()
							}
							return err
						})
						var got result
						var out netlab.Result
						defer func() {
							if t.Failed() {
								t.Logf("exit %d: %s%s", out.Exit, out.Stdout, out.Stderr)
							}
						}()
						eventually(t, "tcpdump has written it", func() bool {
							out = readFile(t, file, "--json", "-n", dst.String())
							got = result{}
							return json.Unmarshal([]byte(out.Stdout), &got) == nil && got.Error == nil && got.Verdict == want.verdict
						})
						if got.Cause != want.cause || got.Certainty != want.certainty || out.Exit != exitCodes[want.verdict] || (got.Certainty == "certain") != (len(got.Alternatives) == 0) {
							t.Errorf("exit %d: %s", out.Exit, out.Stdout)
						}
						if want.verdict == "drop" && got.Tries < 3 {
							t.Errorf("%s", out.Stdout)
						}
					})
				}
			})
		}
	}
}

// dumping starts tcpdump and waits until it listens. It ends with the test.
func dumping(t *testing.T, m *netlab.Machine, cmd *exec.Cmd) {
	t.Helper()
	errs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Begin(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(errs)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "listening on") {
			go func() {
				for lines.Scan() { // lest it block
				}
			}()
			return
		}
	}
	t.Fatalf("tcpdump ended: %v", lines.Err())
}

// passing is the line of a packet, in the list of all and as it goes by.
var passing = regexp.MustCompile(`(?m)^ +[0-9.]+ ms  (sent|received) .*\n`)

// apart parts the lines of a text's probes and answers from all else: live they
// come as they go by, later in a list.
func apart(text string) (rest string, packets []string) {
	for _, line := range passing.FindAllString(text, -1) {
		if strings.Contains(line, " try ") {
			packets = append(packets, strings.Join(strings.Fields(line), " "))
		}
	}
	rest = strings.Replace(passing.ReplaceAllString(text, ""), "  Packets:\n", "", 1)
	return strings.TrimPrefix(rest, "\n"), packets
}

// TestTextAgain: what a person reads is the same again too, with every packet.
func TestTextAgain(t *testing.T) {
	for _, port := range []int{80, 81, 82, 83} {
		synctest.Test(t, func(t *testing.T) {
			var live string
			file := simulatedText(t, mixed, "server", port, &live, "-v", "-n")
			again := readFile(t, file, "-v", "-n")
			want, sent := apart(live)
			got, listed := apart(again.Stdout)
			if got != want || want == "" {
				t.Errorf("port %d: %s", port, cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")))
			}
			slices.Sort(sent)
			slices.Sort(listed)
			if !slices.Equal(sent, listed) || len(sent) < 2 {
				t.Errorf("port %d: %s", port, cmp.Diff(sent, listed))
			}
		})
	}
}

// TestExtensions: a person reads what routers say of themselves, as it goes by,
// in the comments of the capture, and when that is explained. The answer is the
// same without.
func TestExtensions(t *testing.T) {
	// How long the name is that r2 gives its interface, and what is read of it.
	const object, read = 255, "\x1b[2J\xff"
	hostile := func(b []byte) (a simnet.Attack) {
		if ip, err := wire.ParseIP(b); err != nil || ip.Proto != wire.ProtoICMP || ip.Payload[0] != wire.ICMPv4TimeExceeded || ip.Src != netip.MustParseAddr("10.0.2.2") {
			return a
		}
		b = append(slices.Clone(b[:28+60]), make([]byte, 68)...) // the quote has 128 bytes
		b = append(b, 0x20, 0, 0, 0, 1, 4, 2, 2, object)
		b = append(b, strings.Repeat(read, 51)[:object]...)
		endian.BigEndian.PutUint16(b[2:], uint16(len(b)))
		for _, sum := range [][]byte{b[:20], b[20:]} {
			at := map[int]int{20: 10}[len(sum)] // of the IP header
			if at == 0 {
				at = 2
			}
			endian.BigEndian.PutUint16(sum[at:], 0)
			endian.BigEndian.PutUint16(sum[at:], wire.Checksum(sum, 0))
		}
		return simnet.Attack{Swallow: true, In: []simnet.Forged{{Packet: b}}}
	}
	synctest.Test(t, func(t *testing.T) {
		run := func(habit simnet.Habit, attack bool, argv ...string) string {
			sim, err := simnet.New(mixed, simnet.Options{Seed: 1, Habits: map[string]simnet.Habit{"r1": habit}})
			if err != nil {
				t.Fatal(err)
			}
			defer sim.Close()
			if attack {
				if err := sim.Attack("client", hostile); err != nil {
					t.Fatal(err)
				}
			}
			env := simEnv(sim, "client")
			var out, errs bytes.Buffer
			env.Stdout, env.Stderr = &out, &errs
			if code := cli.Run(t.Context(), env, append([]string{"synprobe", "-n", "10.0.3.2", "83"}, argv...)); code != 3 {
				t.Fatalf("exit %d: %s%s", code, &out, &errs)
			}
			return out.String()
		}
		file := filepath.Join(t.TempDir(), "x.pcapng")
		live := run(simnet.Habit{Quote: simnet.QuoteExtended}, true, "-v", "-w", file)
		again := readFile(t, file, "-v", "-n").Stdout
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		harmless(t, "live", live)
		harmless(t, "again", again)
		// By the sizes of package wire: 63 bytes are 12 times five, and three.
		name := `"` + strings.Repeat(`\x1b[2J\xff`, 12) + `\x1b[2"`
		for what, text := range map[string]string{"live": live, "again": again} {
			for _, want := range []string{` for SYN, try 1, MPLS label 25 (exp 0, TTL 1)`, ` for SYN, try 1, incoming interface ` + name} {
				if !strings.Contains(text, want+"\n") {
					t.Errorf("%s: no %q in\n%s", what, want, text)
				}
			}
		}
		for _, want := range []string{
			"time exceeded from 10.0.1.2 for the subject SYN at TTL 1, MPLS label 25 (exp 0, TTL 1)",
			"time exceeded from 10.0.2.2 for the subject SYN at TTL 2, incoming interface " + name,
		} {
			if !bytes.Contains(b, []byte(want)) {
				t.Errorf("no comment %q", want)
			}
		}
		untimed := regexp.MustCompile(`"time":"[^"]*"`)
		plain, extended := run(simnet.Habit{}, false, "--json"), run(simnet.Habit{Quote: simnet.QuoteExtended}, true, "--json")
		if a, b := untimed.ReplaceAllString(plain, ""), untimed.ReplaceAllString(extended, ""); a != b {
			t.Errorf("another answer: %s%s", a, b)
		}
	})
}

// TestPacketsMissing: with a packet less the answer could be another one. It is
// not given.
func TestPacketsMissing(t *testing.T) {
	file := simulated(t, mixed, "server", 81)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte("RST from "))
	if at < 0 {
		t.Fatal("no reset in the file")
	}
	start := bytes.LastIndex(b[:at], []byte{6, 0, 0, 0}) // the type of its block
	length := int(endian.LittleEndian.Uint32(b[start+4:]))
	if err := os.WriteFile(file, slices.Delete(b, start, start+length), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := readFile(t, file); got.Exit != 74 || got.Stdout != "" || !strings.Contains(got.Stderr, "packets are missing") {
		t.Errorf("exit %d: %s%s", got.Exit, got.Stdout, got.Stderr)
	}
}

// TestPacketsDecide: what the file says besides the packets is not what
// decides. Without the packets there is no answer, with other packets another.
func TestPacketsDecide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := simulated(t, mixed, "server", 81)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		// The reset, as it is in the file, with another acknowledgement: its
		// checksum fails, and it answers nothing.
		at := bytes.Index(b, []byte("RST from "))
		if at < 0 {
			t.Fatal("no reset in the file")
		}
		start := bytes.LastIndex(b[:at], []byte{6, 0, 0, 0}) // the type of its block; see below
		damaged := slices.Clone(b)
		damaged[start+28+16+20+8]++ // block, SLL, IPv4, acknowledgement
		if err := os.WriteFile(file, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := readFile(t, file, "--json", "-n"); strings.Contains(got.Stdout, `"verdict":"reject"`) || got.Exit != 3 {
			t.Errorf("exit %d: %s%s", got.Exit, got.Stdout, got.Stderr)
		}
	})
}

// simulated writes the capture of one run on a simulated network.
func simulated(t testing.TB, net netlab.Topology, node string, port int) string {
	t.Helper()
	return simulatedText(t, net, node, port, new(string), "-n")
}

// simulatedText is simulated with flags, and gives what was printed.
func simulatedText(t testing.TB, net netlab.Topology, node string, port int, text *string, flags ...string) string {
	t.Helper()
	sim, err := simnet.New(net, simnet.Options{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	file := filepath.Join(t.TempDir(), "sim.pcapng")
	env := simEnv(sim, "client")
	var out, errs bytes.Buffer
	env.Stdout, env.Stderr = &out, &errs
	target := ""
	for _, i := range sim.Plan.Node(node).Interfaces {
		for _, p := range i.Addrs {
			if p.Addr().Is4() {
				target = p.Addr().String()
			}
		}
	}
	if code := cli.Run(t.Context(), env, append([]string{"synprobe", "-w", file, target, strconv.Itoa(port)}, flags...)); code > 6 {
		t.Fatalf("exit %d: %s", code, &errs)
	}
	*text = out.String()
	return file
}

// FuzzReplay explains files of any content: it must end, and give an answer or an
// error.
func FuzzReplay(f *testing.F) {
	for _, port := range []int{80, 81, 82} { // in real time, but at once
		b, err := os.ReadFile(simulated(f, mixed, "server", port))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, argv := range [][]string{{"--json"}, {"-v"}, {"--json", "10.0.3.2", "81"}} {
			var out, errs bytes.Buffer
			env := cli.Env{Stdin: bytes.NewReader(b), Stdout: &out, Stderr: &errs, Explain: diagnose.Explain, Getenv: func(string) string { return "" }}
			code := cli.Run(t.Context(), env, append([]string{"synprobe", "-r", "-"}, argv...))
			if code == 70 || code == 2 || out.Len()+errs.Len() == 0 {
				t.Errorf("%v: exit %d: %s%s", argv, code, &out, &errs)
			}
			if strings.ContainsAny(out.String()+errs.String(), "\x1b\x07\x00") {
				t.Errorf("%v: control characters: %q", argv, out.String()+errs.String())
			}
		}
	})
}
