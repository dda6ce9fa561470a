//go:build linux && race

package main

// The race detector takes many times the time.
const raceDetector = true
