//go:build race

package batch

// raceDetector is 1 where the race detector is on, else 0.
const raceDetector = 1
