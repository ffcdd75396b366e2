//go:build race

package main

// raceDetector is 1 where the race detector is on, else 0.
const raceDetector = 1
