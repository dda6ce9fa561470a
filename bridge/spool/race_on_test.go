//go:build race

package spool

// The race detector needs several times the memory.
const raceDetector = true
