//go:build linux

package main

import (
	"errors"
	"flag"
	"fmt"
	"time"
)

// The modes.
const (
	modeLoad     = "load"     // connect in steps, idle, a steady trickle of readings
	modeStorm    = "storm"    // the broker is killed under the sessions
	modeRotation = "rotation" // tokens that live for seconds
)

// The ways to log in. Mosquitto does not check either.
const (
	authJWT    = "jwt"    // each session signs an ES256 token for each CONNECT
	authSecret = "secret" // all sessions have the same password
)

// options are the settings of a run. They go to the worker as JSON.
type options struct {
	Mode     string
	Sessions int
	TLS      bool
	NoDelay  bool // the broker sets TCP_NODELAY
	Auth     string
	// Rate is the budget: connects per second.
	Rate      int
	KeepAlive time.Duration
	Life      time.Duration // of a token
	Steps     int           // of connecting, with a measurement after each
	Idle      time.Duration // how long to look on without readings
	Steady    time.Duration // how long to send readings
	Period    time.Duration // between two readings of one device
	Away      time.Duration // how long the broker is away
	Calm      time.Duration // how long readings go on before and after that

	// For the worker.
	Address string
	CAPEM   []byte
	Dir     string
}

func parse(args []string) (options, error) {
	o := options{Mode: modeLoad}
	var storm, rotation bool
	fs := flag.NewFlagSet("loadtest", flag.ContinueOnError)
	fs.IntVar(&o.Sessions, "sessions", 1000, "sessions, each with a subscription")
	fs.BoolVar(&o.TLS, "tls", false, "TLS with a generated CA instead of plain TCP")
	fs.BoolVar(&o.NoDelay, "nodelay", false, "have Mosquitto set TCP_NODELAY, which it does not by default")
	fs.StringVar(&o.Auth, "auth", authJWT, "jwt: a token for each CONNECT; secret: one password for all")
	fs.IntVar(&o.Rate, "rate", 500, "budget of connects per second")
	fs.DurationVar(&o.KeepAlive, "keep-alive", time.Minute, "keep alive")
	fs.DurationVar(&o.Life, "life", time.Hour, "life of a token")
	fs.IntVar(&o.Steps, "steps", 4, "steps in which to connect, with a measurement after each")
	fs.DurationVar(&o.Idle, "idle", 65*time.Second, "how long to measure idle sessions")
	fs.DurationVar(&o.Steady, "steady", 5*time.Minute, "how long to send readings")
	fs.DurationVar(&o.Period, "period", time.Minute, "time between two readings of a device")
	fs.DurationVar(&o.Away, "away", 5*time.Second, "with -storm: how long the broker is away")
	fs.DurationVar(&o.Calm, "calm", 5*time.Second, "with -storm: how long readings are sent before and after")
	fs.BoolVar(&storm, "storm", false, "kill the broker under the sessions and start it again without theirs")
	fs.BoolVar(&rotation, "rotation", false, "measure how long readings wait while tokens are renewed; see -life")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	switch {
	case storm && rotation:
		return o, errors.New("-storm and -rotation exclude each other")
	case storm:
		o.Mode = modeStorm
	case rotation:
		o.Mode = modeRotation
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	return o, o.check()
}

// Bounds: this is for one machine's loopback.
const (
	maxSessions = 100_000
	maxRate     = 10_000
	maxDuration = time.Hour
)

func (o *options) check() error {
	switch {
	case o.Sessions < 1 || o.Sessions > maxSessions:
		return fmt.Errorf("-sessions must be 1 to %d (got %d)", maxSessions, o.Sessions)
	case o.Rate < 1 || o.Rate > maxRate:
		return fmt.Errorf("-rate must be 1 to %d (got %d)", maxRate, o.Rate)
	case o.Auth != authJWT && o.Auth != authSecret:
		return fmt.Errorf("-auth must be %s or %s (got %q)", authJWT, authSecret, o.Auth)
	case o.Steps < 1 || o.Steps > o.Sessions:
		return fmt.Errorf("-steps must be 1 to the number of sessions (got %d)", o.Steps)
	case o.Period < time.Millisecond:
		return fmt.Errorf("-period must be at least 1ms (got %s)", o.Period)
	}
	for name, d := range map[string]time.Duration{"idle": o.Idle, "steady": o.Steady, "away": o.Away, "calm": o.Calm} {
		if d < 0 || d > maxDuration {
			return fmt.Errorf("-%s must be 0 to %s (got %s)", name, maxDuration, d)
		}
	}
	return nil
}

// deviceID names device i.
func deviceID(i int) string { return fmt.Sprintf("dev-%05d", i) }
