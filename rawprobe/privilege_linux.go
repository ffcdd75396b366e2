package rawprobe

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// capabilities is a set of them, capability n as bit n.
type capabilities uint64

// has reports whether capability n is in the set.
func (s capabilities) has(n int) bool { return s&(1<<n) != 0 }

// set gives the capabilities that p stands for.
func (p Privilege) set() capabilities {
	var s capabilities
	if p&RawSockets != 0 {
		s |= 1 << unix.CAP_NET_RAW
	}
	if p&LowPorts != 0 {
		s |= 1 << unix.CAP_NET_BIND_SERVICE
	}
	return s
}

// confinement is what Confine has made of a process.
type confinement struct {
	mu    sync.Mutex
	begun bool
	// impossible says that the binary is linked with cgo.
	impossible bool
	// hadNoNew says that the process was under no_new_privs before.
	hadNoNew bool
	held     capabilities // what the process has
	granted  capabilities // what was asked to be kept of it
	settled  bool         // the sets are what held says, on all threads
}

// process is the confinement of this one.
var process confinement

// emptyBounding is how long after the first Confine the bounding set is emptied.
// That takes a system call on every thread for each of some 40 capabilities, 3 ms
// in all, for which a run that is over in 10 should not wait. It is for good
// order: under no_new_privs nothing is gained from that set (security/commoncap.c,
// cap_bprm_creds_from_file).
const emptyBounding = 100 * time.Millisecond

// Confine gives up, for all threads and for good, what the process may do beyond
// its user's rights, but for keep. It is to be called before anything else is
// done, and again with less as soon as less is enough: what one call has given
// up, no later one brings back.
//
// The first call sets no_new_privs, so that no program that is ever executed gets
// more, and leaves root, and root's groups, for the user on whose behalf the
// process runs: see CallingUser. Root whom nobody else has asked stays root, and
// owns root's files, but has no capability any more beyond keep
// (capabilities(7)). The inheritable and the ambient set are emptied, and a tenth
// of a second later the bounding set, where the process has CAP_SETPCAP, which it
// keeps until then.
//
// What is in keep and was never held is not missed here: opening a Link says so.
// An error means that the process is not confined as it should be, and has to
// end. In a binary that is linked with cgo, where no system call can be made on
// all threads (syscall.AllThreadsSyscall), and elsewhere than on Linux nothing is
// done, and there is no error.
func Confine(keep Privilege) error { return process.confine(keep) }

func (c *confinement) confine(keep Privilege) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.begun {
		c.begun = true
		if err := c.begin(); err != nil {
			return err
		}
	}
	c.granted &= keep.set()
	return c.keep(c.granted | c.held&(1<<unix.CAP_SETPCAP))
}

// begin does what is done once, and leaves the capabilities to the caller.
func (c *confinement) begin() error {
	if on, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err == nil {
		c.hadNoNew = on == 1
	}
	switch err := onAllThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1); err {
	case nil:
	case unix.ENOTSUP: // prctl itself never says so
		c.impossible = true
		return nil
	default:
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	hdr, data := capabilityArguments()
	if err := unix.Capget(hdr, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	// Permitted, whether in effect or not: setcap cap_net_raw+p is enough.
	c.held = capabilities(data[0].Permitted) | capabilities(data[1].Permitted)<<32
	c.granted = c.held
	if err := leaveRoot(); err != nil {
		return fmt.Errorf("leave root for the calling user: %w", err)
	}
	if c.held.has(unix.CAP_SETPCAP) {
		time.AfterFunc(emptyBounding, c.finish)
	}
	return nil
}

// finish empties the bounding set and gives up what that needs. Nobody is left
// to be told of an error, after which the set is of no use to anybody either.
func (c *confinement) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := 0; ; n++ {
		in, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0)
		if err != nil {
			break // EINVAL: this kernel knows no more
		}
		if in == 1 {
			_ = onAllThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(n))
		}
	}
	_ = c.keep(c.granted)
}

// keep makes s, as far as it is held, the capabilities of all threads. The
// kernel takes from the ambient set what is not inheritable (security/commoncap.c,
// cap_capset).
func (c *confinement) keep(s capabilities) error {
	if c.impossible || c.settled && s == c.held {
		return nil
	}
	hdr, data := capabilityArguments()
	data[0].Permitted, data[1].Permitted = uint32(s), uint32(s>>32)
	data[0].Effective, data[1].Effective = data[0].Permitted, data[1].Permitted
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(hdr)), uintptr(unsafe.Pointer(data)), 0)
	if errno != 0 {
		return fmt.Errorf("give up capabilities: %w", errno)
	}
	c.held, c.settled = s, true
	return nil
}

// capabilityArguments are those of capget(2) and capset(2) for the calling
// thread.
func capabilityArguments() (*unix.CapUserHeader, *[2]unix.CapUserData) {
	return &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, new([2]unix.CapUserData)
}

// onAllThreads makes a system call, without pointers, on all threads.
func onAllThreads(trap, a1, a2 uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall6(trap, a1, a2, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// leaveRoot makes the calling user the process's only one. Capabilities stay
// permitted.
func leaveRoot() error {
	uid, gid, ok := CallingUser()
	if !ok {
		return nil
	}
	if err := onAllThreads(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1); err != nil {
		return err
	}
	// Under a set-uid bit the supplementary groups are the user's own.
	if os.Getuid() == 0 {
		if err := syscall.Setgroups(nil); err != nil {
			return os.NewSyscallError("setgroups", err)
		}
	}
	if err := syscall.Setresgid(gid, gid, gid); err != nil {
		return os.NewSyscallError("setresgid", err)
	}
	// The kernel ends with it that the user may look into this process (dumpable,
	// kernel/cred.c, commit_creds). What the process reads of itself in /proc is
	// not affected.
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return os.NewSyscallError("setresuid", err)
	}
	return nil
}

// CallingUser returns the user, and the group, on whose behalf root runs this
// process, and to whom its files should belong: who called sudo (SUDO_UID and
// SUDO_GID, believed from root alone), or who executed a file with a set-uid bit.
// It is not ok where there is nobody else than the process's own user: root
// itself, or whoever the process has become by Confine, to whom its files belong
// anyway. Elsewhere than on Linux it is never ok.
func CallingUser() (uid, gid int, ok bool) {
	switch real, effective := os.Getuid(), os.Geteuid(); {
	case real != 0 && effective == 0:
		return real, os.Getgid(), true
	case real != 0:
		return 0, 0, false
	}
	uid, byUser := id(os.Getenv("SUDO_UID"))
	gid, byGroup := group(os.Getenv("SUDO_GID"))
	if !byUser || !byGroup {
		return 0, 0, false
	}
	return uid, gid, true
}

// group reads a group's number. Users other than root may be in group 0 too.
func group(s string) (int, bool) {
	if s == "0" {
		return 0, true
	}
	return id(s)
}

// id reads a user's or group's number, other than root's. The highest one means
// nobody to the kernel (setresuid(2)).
func id(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return int(n), err == nil && n != 0 && n != math.MaxUint32
}

// fileCapability is the extended attribute that holds a file's capabilities
// (capabilities(7)).
const fileCapability = "security.capability"

// PrivilegeHint explains why this program may not open raw sockets although
// its file was given capabilities, or returns "" where it was given none. The
// kernel ignores them on a file system that is mounted nosuid, and in a process
// that must not gain privileges (PR_SET_NO_NEW_PRIVS: containers, systemd's
// NoNewPrivileges).
func PrivilegeHint() string {
	path, err := os.Executable()
	if err != nil {
		return ""
	}
	if n, err := unix.Getxattr(path, fileCapability, nil); err != nil || n == 0 {
		return ""
	}
	if process.underNoNew() {
		return "the file has capabilities, but this process runs under no_new_privs, which makes the kernel ignore them"
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err == nil && fs.Flags&unix.ST_NOSUID != 0 {
		return "the file has capabilities, but lies on a file system mounted nosuid, which makes the kernel ignore them"
	}
	return "the file has capabilities, but cap_net_raw is not among those in effect (see getcap)"
}

// underNoNew reports whether the process was started under no_new_privs.
func (c *confinement) underNoNew() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.begun {
		return c.hadNoNew // now every one is
	}
	on, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	return err == nil && on == 1
}
