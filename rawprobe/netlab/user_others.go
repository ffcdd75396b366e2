//go:build !linux

package netlab

// Main runs tests. On Linux it gives them a user namespace where they need one.
func Main(m interface{ Run() int }) int { return m.Run() }

// Rootless reports whether labs are built in a user namespace: only on Linux.
func Rootless() bool { return false }
