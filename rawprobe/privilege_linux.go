package rawprobe

import (
	"os"

	"golang.org/x/sys/unix"
)

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
	if on, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err == nil && on == 1 {
		return "the file has capabilities, but this process runs under no_new_privs, which makes the kernel ignore them"
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err == nil && fs.Flags&unix.ST_NOSUID != 0 {
		return "the file has capabilities, but lies on a file system mounted nosuid, which makes the kernel ignore them"
	}
	return "the file has capabilities, but cap_net_raw is not among those in effect (see getcap)"
}
