package batch

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"synprobe/rawprobe"
	"synprobe/rawprobe/netlab"
)

// The benchmarks run whole processes in turn, in a lab of two namespaces: this
// engine on the link layer and through the IP stack, and zmap and masscan
// where they are installed. What counts are the ratios of the CPU time for a
// probe, user and system together. The other end of a veth cable answers
// within the sender's own system call, so that the answer and our own kernel's
// reset are in it too, the same for all.
//
//	make bench
//
// Each iteration runs every program once, so -benchtime 5x is five runs.

func BenchmarkSilent(b *testing.B)   { compare(b, "10.96.0.0/12", "") }
func BenchmarkReset(b *testing.B)    { compare(b, "10.78.0.0/16", rawprobe.Reset) }
func BenchmarkRejected(b *testing.B) { compare(b, "10.79.0.0/16", rawprobe.ICMPError) }
func BenchmarkOpen(b *testing.B)     { compare(b, "10.77.0.0/16", rawprobe.SynAck) }

const benchVariable = "SYNPROBE_BATCH_BENCH"

// A benchRun is what the process that is measured does.
type benchRun struct {
	Prefix    string
	LinkLayer bool
	Rate      int
	Tries     int
	Wait      time.Duration
}

// A benchResult is what it says about it.
type benchResult struct {
	Progress Progress
	Kinds    map[rawprobe.ReplyKind]int
}

func TestMain(m *testing.M) {
	text := os.Getenv(benchVariable)
	if text == "" {
		os.Exit(netlab.Main(m))
	}
	if err := benchMain(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// benchMain is a program that probes and writes a line for each answer, as the
// others do.
func benchMain(text string) error {
	var run benchRun
	if err := json.Unmarshal([]byte(text), &run); err != nil {
		return err
	}
	s, err := NewSpace([]Block{{netip.MustParsePrefix(run.Prefix), []uint16{80}}})
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(null)
	var line []byte
	result := benchResult{Kinds: make(map[rawprobe.ReplyKind]int)}
	counts := [4]int{}
	result.Progress, err = Run(context.Background(), s, Config{
		LinkLayer: run.LinkLayer, Rate: run.Rate, Tries: run.Tries, Wait: run.Wait, NoEcho: true, Seed: uint64(time.Now().UnixNano()),
	}, func(r *Result) {
		switch r.Kind {
		case rawprobe.SynAck:
			counts[0]++
		case rawprobe.Reset:
			counts[1]++
		case rawprobe.ICMPError:
			counts[2]++
		default:
			counts[3]++
			return
		}
		line = append(r.Target.AppendTo(line[:0]), '\n')
		out.Write(line)
	})
	if err != nil {
		return err
	}
	out.Flush()
	result.Kinds[rawprobe.SynAck], result.Kinds[rawprobe.Reset], result.Kinds[rawprobe.ICMPError], result.Kinds[""] = counts[0], counts[1], counts[2], counts[3]
	return json.NewEncoder(os.Stdout).Encode(result)
}

// A cost is what one run took.
type cost struct{ cpu, wall, memory float64 } // µs for a probe, seconds, MiB

// A bench is the lab and what is in it.
type bench struct {
	b      *testing.B
	client *netlab.Machine
	mac    string
}

func startBench(b *testing.B) *bench {
	netlab.Require(b)
	lab := netlab.Start(b, far(0, "10.77.0.0/16", "10.78.0.0/16", "10.79.0.0/16", "10.96.0.0/12").WithRules("server",
		netlab.Rule{Dst: "10.96.0.0/12", Action: netlab.Drop},
		netlab.Rule{Proto: netlab.TCP, Dst: "10.78.0.0/16", Action: netlab.Reset},
		netlab.Rule{Dst: "10.79.0.0/16", Action: netlab.RejectAdmin}))
	server := lab.Node("server")
	offloadsOff(b, lab.Node("client"), "eth0")
	offloadsOff(b, server, "eth0")
	trickle(b, server, lab.Addr("client", netlab.IPv4))
	return &bench{b, lab.Node("client"), server.Interfaces[0].MAC.String()}
}

// offloadsOff turns an interface's offloads off, as "ethtool -K DEV tx off rx
// off sg off tso off gso off gro off" does.
func offloadsOff(b *testing.B, m *netlab.Machine, device string) {
	err := m.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, command := range []uint32{unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO, unix.ETHTOOL_SGRO, unix.ETHTOOL_STXCSUM, unix.ETHTOOL_SRXCSUM, unix.ETHTOOL_SSG} {
			value := [2]uint32{command, 0} // struct ethtool_value
			request := struct {
				name [unix.IFNAMSIZ]byte
				data unsafe.Pointer
				_    [16]byte
			}{data: unsafe.Pointer(&value)}
			copy(request.name[:], device)
			if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 && errno != unix.EOPNOTSUPP {
				return fmt.Errorf("ethtool command %#x: %w", command, errno)
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// trickle sends the client a datagram now and then: masscan never ends where
// nothing at all comes in.
func trickle(b *testing.B, m *netlab.Machine, to netip.Addr) {
	var c net.Conn
	if err := m.Do(func() (err error) {
		c, err = net.Dial("udp", netip.AddrPortFrom(to, 9).String())
		return err
	}); err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	b.Cleanup(func() { close(done); c.Close() })
	go func() {
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-done:
				tick.Stop()
				return
			case <-tick.C:
				c.Write([]byte{0}) // refused: nobody listens
			}
		}
	}()
}

// measure runs a command in the client and returns what it took.
func (x *bench) measure(probes float64, name string, args []string, env ...string) (cost, string) {
	x.b.Helper()
	ctx, cancel := context.WithTimeout(x.b.Context(), 2*time.Minute)
	defer cancel()
	cmd := x.client.Command(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	begin := time.Now()
	if err := x.client.Begin(cmd); err != nil {
		x.b.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		x.b.Fatalf("%s: %v\n%s%s", filepath.Base(name), err, &out, &errs)
	}
	u := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	cpu := time.Duration(u.Utime.Nano() + u.Stime.Nano())
	return cost{cpu: cpu.Seconds() * 1e6 / probes, wall: time.Since(begin).Seconds(), memory: float64(u.Maxrss) / 1024}, out.String()
}

// ours runs the engine in a process of its own, and checks that every target
// has its result.
func (x *bench) ours(run benchRun, want rawprobe.ReplyKind) cost {
	x.b.Helper()
	self, err := os.Executable()
	if err != nil {
		x.b.Fatal(err)
	}
	text, err := json.Marshal(run)
	if err != nil {
		x.b.Fatal(err)
	}
	n := probesOf(run.Prefix)
	c, out := x.measure(float64(n), self, nil, benchVariable+"="+string(text))
	var r benchResult
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		x.b.Fatalf("%v: %s", err, out)
	}
	if r.Kinds[want] != n || r.Progress.Drops != 0 || !r.Progress.Finished {
		x.b.Errorf("%+v: %v of %d, %+v", run, r.Kinds, n, r.Progress)
	}
	return c
}

func probesOf(prefix string) int {
	return 1 << (32 - netip.MustParsePrefix(prefix).Bits())
}

// openTarget is an address of the open network, as all programs write it.
var openTarget = regexp.MustCompile(`10\.77\.\d+\.\d+`)

// waiting is how long all programs wait for the last answers.
const waiting = 2 * time.Second

func compare(b *testing.B, prefix string, want rawprobe.ReplyKind) {
	x := startBench(b)
	n := probesOf(prefix)
	programs := []struct {
		name string
		run  func() cost
	}{
		{"link-layer", func() cost {
			return x.ours(benchRun{Prefix: prefix, LinkLayer: true, Tries: 1, Wait: waiting}, want)
		}},
		{"ip-stack", func() cost { return x.ours(benchRun{Prefix: prefix, Tries: 1, Wait: waiting}, want) }},
	}
	results := filepath.Join(b.TempDir(), "results")
	least := make(map[string]int) // answers that the others wrote down
	other := func(name string, args ...string) {
		path, err := exec.LookPath(name)
		if err != nil {
			b.Logf("NOT COMPARED with %s: it is not installed", name)
			return
		}
		least[name] = n
		programs = append(programs, struct {
			name string
			run  func() cost
		}{name, func() cost {
			os.Remove(results)
			c, _ := x.measure(float64(n), path, args)
			text, _ := os.ReadFile(results)
			least[name] = min(least[name], len(openTarget.FindAll(text, -1)))
			return c
		}})
	}
	other("zmap", prefix, "-p", "80", "-B", "10G", "-c", "2", "-G", x.mac, "-i", "eth0", "-S", "10.0.1.1",
		"-b", os.DevNull, "-C", os.DevNull, "-q", "-o", results)
	other("masscan", prefix, "-p80", "--rate", "10000000", "--wait", "2", "--noreset", "--router-mac", x.mac,
		"-e", "eth0", "--adapter-ip", "10.0.1.1", "-oL", results)
	costs := make(map[string][]cost)
	for round := 0; b.Loop(); round++ {
		for i := range programs {
			p := programs[(i+round)%len(programs)] // none always comes first
			costs[p.name] = append(costs[p.name], p.run())
		}
	}
	b.ReportMetric(0, "ns/op") // of all programs together: it means nothing
	ours := costs["link-layer"]
	for _, p := range programs {
		c := costs[p.name]
		cpu := medianOf(c, func(c cost) float64 { return c.cpu })
		b.Logf("%-10s  %6.2f µs a probe  %6.2f s  %6.1f MiB", p.name, cpu,
			medianOf(c, func(c cost) float64 { return c.wall }), medianOf(c, func(c cost) float64 { return c.memory }))
		if got, ok := least[p.name]; ok && want == rawprobe.SynAck {
			b.Logf("%-10s  at least %d of %d answers", p.name, got, n)
		}
		b.ReportMetric(cpu, p.name+"-µs/probe")
		if p.name == "zmap" || p.name == "masscan" {
			for name, us := range map[string][]cost{"link-layer": ours, "ip-stack": costs["ip-stack"]} {
				ratios := make([]cost, len(c))
				for i := range c {
					ratios[i].cpu = us[i].cpu / c[i].cpu
				}
				b.ReportMetric(medianOf(ratios, func(c cost) float64 { return c.cpu }), name+"/"+p.name)
			}
		}
	}
}

// BenchmarkPaced compares the CPU time for a probe at 20,000 packets a second
// with that at full rate, in turn.
func BenchmarkPaced(b *testing.B) {
	x := startBench(b)
	for _, mode := range []string{"link-layer", "ip-stack"} {
		b.Run(mode, func(b *testing.B) {
			x := &bench{b, x.client, x.mac}
			var paced, full, ratio []cost
			for b.Loop() {
				run := benchRun{Prefix: "10.96.0.0/16", LinkLayer: mode == "link-layer", Tries: 1, Wait: time.Second}
				full = append(full, x.ours(run, ""))
				run.Rate = 20000
				paced = append(paced, x.ours(run, ""))
				ratio = append(ratio, cost{cpu: paced[len(paced)-1].cpu / full[len(full)-1].cpu})
			}
			cpu := func(c cost) float64 { return c.cpu }
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(medianOf(full, cpu), "full-µs/probe")
			b.ReportMetric(medianOf(paced, cpu), "paced-µs/probe")
			b.ReportMetric(medianOf(ratio, cpu), "paced/full")
		})
	}
}

func medianOf(c []cost, of func(cost) float64) float64 {
	v := make([]float64, len(c))
	for i := range c {
		v[i] = of(c[i])
	}
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}
