//go:build linux

package main

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(workerEnv) == "1" { // run has started this program again
		os.Exit(command(nil))
	}
	goleak.VerifyTestMain(m)
}
