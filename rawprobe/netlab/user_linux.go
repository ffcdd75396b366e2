package netlab

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/vishvananda/netlink"
)

// inUser marks the second run of a test binary, so that there is no third.
const inUser = "SYNPROBE_LAB_USER"

// whyNoUser is why the second run did not take place.
var whyNoUser error

// Main runs tests in a user namespace where the caller is not root: there he may
// build networks. A process with several threads can't enter one, so the test
// binary is started again inside. Where that can't be done, or root runs it, the
// tests run as they are. It returns the exit code, and belongs into TestMain.
func Main(m interface{ Run() int }) int {
	if !flag.Parsed() {
		flag.Parse()
	}
	// A fuzzing worker talks to its parent through descriptors that a second run
	// would not have.
	fuzzing := false
	flag.Visit(func(f *flag.Flag) { fuzzing = fuzzing || f.Name == "test.fuzz" || f.Name == "test.fuzzworker" })
	if Rootless() {
		// As on any machine; no other network is there.
		if lo, err := netlink.LinkByName("lo"); err == nil {
			_ = netlink.LinkSetUp(lo)
		}
	}
	if os.Geteuid() == 0 || fuzzing {
		return m.Run()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inUser+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if whyNoUser = cmd.Start(); whyNoUser != nil {
		return m.Run()
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// Rootless reports whether labs are built in a user namespace, of which the only
// user is its root.
func Rootless() bool { return os.Getenv(inUser) != "" }
