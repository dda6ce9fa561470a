//go:build linux

// Command loadtest measures what thousands of sessions cost and shows that they
// lose nothing. It starts a Mosquitto of its own on loopback, a process that has
// the sessions and nothing else, and a subscriber that counts what arrives; it
// prints a row of the tables in docs/performance.md and exits with 1 if a reading
// was lost or the budget of connects was exceeded.
//
//	go run ./bridge/session/loadtest -sessions 10000 -rate 500
//	go run ./bridge/session/loadtest -sessions 10000 -rate 500 -tls
//	go run ./bridge/session/loadtest -storm -sessions 5000 -rate 500 -period 10s
//	go run ./bridge/session/loadtest -rotation -sessions 10 -period 2ms -life 10s
//
// It runs on Linux, and ends no process but those it has started.
package main
