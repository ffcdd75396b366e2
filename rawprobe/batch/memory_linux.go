package batch

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The tables of an engine lie beside Go's heap: the collector lets the heap
// grow to twice of what is in use, and would let garbage take as much again as
// they do. Only pages that were written to take memory.

func allocate(n uint64) []uint8 {
	if n == 0 {
		return nil
	}
	b, err := unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return make([]uint8, n)
	}
	return b
}

func allocate32(n uint64) []uint32 {
	b := allocate(4 * n)
	if b == nil {
		return nil
	}
	return unsafe.Slice((*uint32)(unsafe.Pointer(&b[0])), n)
}

// release gives memory back. What Go's heap has is none of Munmap's, which says
// so, and is the collector's.
func release(b []uint8) {
	if b != nil {
		_ = unix.Munmap(b)
	}
}

func release32(b []uint32) {
	if len(b) > 0 {
		release(unsafe.Slice((*uint8)(unsafe.Pointer(&b[0])), 4*len(b)))
	}
}
