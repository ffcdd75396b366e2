package pcap

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The tests of the listener need a network namespace of their own, where they can't see or touch the machine's
// interfaces. Root makes one for each test. Anybody else gets a user namespace first, for the whole test binary, since a
// process with several threads can't enter one: TestMain starts the binary again inside.

// inUserns marks the second run, so that there is no third.
const inUserns = "SYNPROBE_PCAP_USERNS"

// whyNoUserns is why the second run did not take place.
var whyNoUserns error

func TestMain(m *testing.M) {
	flag.Parse()
	fuzzing := false // a fuzzing worker talks to its parent through descriptors that a second run would not have
	flag.Visit(func(f *flag.Flag) { fuzzing = fuzzing || f.Name == "test.fuzz" || f.Name == "test.fuzzworker" })
	if os.Geteuid() != 0 && os.Getenv(inUserns) == "" && !fuzzing {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), inUserns+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
		if whyNoUserns = cmd.Start(); whyNoUserns == nil {
			if err := cmd.Wait(); err != nil {
				var exit *exec.ExitError
				if !errors.As(err, &exit) {
					fmt.Fprintln(os.Stderr, err)
				}
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// skip skips a test that the machine can't run. It fails it where LAB=1 says that the machine is there to run them.
func skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("LAB") == "1" {
		t.Fatalf("LAB=1 allows no skip: "+format, args...)
	}
	t.Skipf("SKIPPED, nothing was tested: "+format, args...)
}

// enterNetns moves the test's goroutine, and its thread with it, to a new network namespace with lo up. Sockets that it
// opens belong there, whoever uses them. The goroutine is never unlocked, so the thread ends with the test.
func enterNetns(t testing.TB) {
	t.Helper()
	if whyNoUserns != nil {
		skip(t, "not root, and no user namespace: %v", whyNoUserns)
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
			skip(t, "no network namespace: %v", err)
		}
		t.Fatal(err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
}

// loopback is the index of lo in every network namespace (LOOPBACK_IFINDEX, net/loopback.h).
const loopback = 1

// twoNetns enters a new network namespace, makes a second one, and joins them by a veth pair: va with 10.9.0.1 and
// fd09::1 here, vb with 10.9.0.2 and fd09::2 there. It returns the index of va.
func twoNetns(t testing.TB) int {
	t.Helper()
	enterNetns(t)
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	there, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { there.Close() }) // holds the namespace
	back := func(ns *os.File) {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
	}
	back(here)
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "vb", PeerNamespace: netlink.NsFd(int(there.Fd()))}
	veth.Name = "va"
	if err := netlink.LinkAdd(veth); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			skip(t, "no veth in this kernel: %v", err)
		}
		t.Fatal(err)
	}
	back(there)
	configure(t, "vb", "10.9.0.2/24", "fd09::2/64")
	back(here)
	return configure(t, "va", "10.9.0.1/24", "fd09::1/64")
}

// configure gives an interface its addresses, ready for use at once (no duplicate address detection), and sets it up.
func configure(t testing.TB, name string, addrs ...string) int {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			t.Fatal(err)
		}
		if netip.MustParsePrefix(a).Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	return link.Attrs().Index
}

// newTun makes a tun device, whose other end is the file, and returns the file and the device's index.
func newTun(t testing.TB, addrs ...string) (*os.File, int) {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		skip(t, "no tun device: %v", err)
	}
	req, err := unix.NewIfreq("tun0")
	if err != nil {
		t.Fatal(err)
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		unix.Close(fd)
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "tun0")
	t.Cleanup(func() { f.Close() })
	return f, configure(t, "tun0", addrs...)
}

// patience bounds every wait: only a test that fails comes near it.
const patience = 10 * time.Second

// mustOpen opens a listener that is closed with the test, and whose Reads end after patience.
func mustOpen(t testing.TB, cfg Config) *Listener {
	t.Helper()
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if err := l.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return l
}

// udp opens a socket in the namespace of this thread.
func udp(t testing.TB, addr string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func send(t testing.TB, c *net.UDPConn, to string, payload []byte) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort(payload, netip.MustParseAddrPort(to)); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, l *Listener) Packet {
	t.Helper()
	var p Packet
	if err := l.Read(&p); err != nil {
		t.Fatal(err)
	}
	return p
}
