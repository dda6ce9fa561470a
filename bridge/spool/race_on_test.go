//go:build race

package spool

// The race detector needs several times the memory.
const raceDetector = true

// size is how much a slow test does by default: less under the race detector.
func size(_, underRace int) int { return underRace }
