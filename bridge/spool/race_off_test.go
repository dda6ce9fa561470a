//go:build !race

package spool

const raceDetector = false

// size is how much a slow test does by default: less under the race detector.
func size(n, _ int) int { return n }
