package netlab

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// namespaces returns the network namespaces that this process still holds, by
// a thread or by a descriptor, its own excepted.
func namespaces(t *testing.T) map[string]bool {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	held := map[string]bool{}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	var links []string
	for _, task := range tasks {
		links = append(links, "/proc/self/task/"+task.Name()+"/ns/net")
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		links = append(links, "/proc/self/fd/"+fd.Name())
	}
	for _, l := range links {
		// A thread or descriptor may be gone since it was listed.
		if name, err := os.Readlink(l); err == nil && len(name) > 4 && name[:4] == "net:" && name != own {
			held[name] = true
		}
	}
	return held
}

func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// TestNothingLeft runs beside no other test: it is not parallel, and parallel
// tests wait for those that are not.
func TestNothingLeft(t *testing.T) {
	Require(t)
	// The runtime's poller and the like are opened once.
	t.Run("warm up", func(t *testing.T) { exercise(t) })
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	self, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("twenty labs", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { exercise(t) })
		}
		wg.Wait()
	})
	err = until(func() (bool, error) {
		return runtime.NumGoroutine() <= goroutines && openFiles(t) <= files && len(namespaces(t)) == 0, nil
	})
	if err != nil {
		buf := make([]byte, 1<<16)
		t.Errorf("left behind: %d goroutines, %d files, namespaces %v\n%s", runtime.NumGoroutine()-goroutines, openFiles(t)-files,
			namespaces(t), buf[:runtime.Stack(buf, true)])
	}
	if now, err := os.Readlink("/proc/self/ns/net"); err != nil || now != self {
		t.Errorf("the process has moved from %s to %s: %v", self, now, err)
	}
}

// exercise uses a lab with everything that holds something open.
func exercise(t *testing.T) {
	l := Start(t, Chain(2).
		WithLink(1, func(l *Link) { l.Kind, l.Wire = Tun, &Impairment{Delay: time.Millisecond} }).
		WithLink(2, func(l *Link) { l.Kind = Segment }).
		WithListen("server", "tcp:81/full").
		WithRules("r1", Rule{Hook: Forward, Proto: TCP, DstPort: 82, Action: Drop}))
	for _, f := range families {
		if name, err := connect(l.Node("client"), l.Addr("server", f), 80); name != "server" {
			t.Errorf("%s: got %q, %v", f, name, err)
		}
	}
	// A process that would outlive the lab.
	sleeper := l.Node("client").Command(t.Context(), "/bin/sleep", "1000")
	if err := l.Node("client").Begin(sleeper); err != nil {
		t.Error(err)
		return
	}
	go func() {
		// Killed by the end of the lab; the error says so.
		_ = sleeper.Wait()
	}()
}

// A test process that is killed leaves no namespace and no process behind.
func TestKilled(t *testing.T) {
	if os.Getenv("NETLAB_VICTIM") != "" {
		l := Start(t, Chain(1))
		ns, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", l.Node("server").sys.ns))
		if err != nil {
			t.Fatal(err)
		}
		sleeper := l.Node("server").Command(t.Context(), "/bin/sleep", "1000")
		if err := l.Node("server").Begin(sleeper); err != nil {
			t.Fatal(err)
		}
		fmt.Println("victim", sleeper.Process.Pid, ns)
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		select {}
	}
	t.Parallel()
	Require(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), "NETLAB_VICTIM=1")
	out, _ := cmd.Output() // it was killed
	var pid int
	var ns string
	if _, err := fmt.Sscanf(string(out), "victim %d %s", &pid, &ns); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	// Gone, or a zombie that nobody has reaped yet: in the namespace no more.
	err := until(func() (bool, error) {
		now, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		return err != nil || now != ns, nil
	})
	if err != nil {
		t.Errorf("process %d still runs in %s: %v", pid, ns, err)
	}
}
