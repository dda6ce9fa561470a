//go:build race

package spool

// The race detector needs several times the memory and the time.
const raceDetector = true
