//go:build !linux

package batch

func allocate(n uint64) []uint8    { return make([]uint8, n) }
func allocate32(n uint64) []uint32 { return make([]uint32, n) }
func release([]uint8)              {}
func release32([]uint32)           {}
