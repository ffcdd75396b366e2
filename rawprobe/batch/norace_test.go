//go:build !race

package batch

// raceDetector is 0: it is off.
const raceDetector = 0
