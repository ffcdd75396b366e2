//go:build !linux

package rawprobe

// Confine has nothing to give up here.
func Confine(Privilege) error { return nil }

// CallingUser knows of nobody else here.
func CallingUser() (uid, gid int, ok bool) { return 0, 0, false }

// PrivilegeHint has nothing to explain here.
func PrivilegeHint() string { return "" }
