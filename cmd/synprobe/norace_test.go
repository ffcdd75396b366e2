//go:build !race

package main

// raceDetector is 0: it is off.
const raceDetector = 0
