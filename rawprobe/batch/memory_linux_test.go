package batch

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"synprobe/rawprobe"
)

// A /8 of silent hosts, with an answer here and there. The bar for the memory
// of the whole process is 64 MiB, of which the ring has four for each family,
// so the test runs in a process of its own.
func TestMemory(t *testing.T) {
	t.Parallel()
	const child = "SYNPROBE_BATCH_MEMORY"
	if raceDetector == 1 {
		t.Skip("SKIPPED under the race detector, which takes memory of its own")
	}
	if os.Getenv(child) == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestMemory$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1")
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	synctest.Test(t, func(t *testing.T) {
		s := mustSpace(t, prefix("10.0.0.0/8", 22))
		f := &slowNet{fakeNet{t: t, react: func(p probe, nth int) []reply {
			if p.to.lo%100000 == 0 {
				return []reply{to(p, rawprobe.Reset, 20*time.Millisecond)}
			}
			return nil
		}}}
		var done, answers uint64
		p, err := newEngine(s, Config{Seed: 11, Tries: 1}, f, func(r *Result) {
			done++
			if r.Kind != "" {
				answers++
			}
		}).run(t.Context())
		if err != nil || done != 1<<24 || !p.Finished {
			t.Errorf("%d results, %+v, %v", done, p, err)
		}
		want := uint64(0)
		for a := uint64(10 << 24); a < 11<<24; a++ {
			if (a|mapped4)%100000 == 0 {
				want++
			}
		}
		if answers != want {
			t.Errorf("%d answers, want %d", answers, want)
		}
	})
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	peak := regexp.MustCompile(`VmHWM:\s*(\d+) kB`).FindSubmatch(status)
	if peak == nil {
		t.Fatalf("no peak in %s", status)
	}
	kib, _ := strconv.Atoi(string(peak[1]))
	t.Logf("peak memory %d MiB", kib>>10)
	if kib > 56<<10 {
		t.Errorf("peak memory %d MiB, want 56 at most", kib>>10)
	}
}

// slowNet takes its time for a batch, and so needs no timer for each packet.
type slowNet struct{ fakeNet }

func (f *slowNet) send(probes []probe) (int, rawprobe.Refusal) {
	time.Sleep(time.Duration(len(probes)) * 1500 * time.Nanosecond)
	return f.fakeNet.send(probes)
}
