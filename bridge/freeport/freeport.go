// Package freeport finds ports for servers that must be told theirs.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// The ports below those that systems give to whoever asks for any port: Linux
// begins with 32768, others later. A port of theirs that is free now may be
// taken, by a listener or a client, before the server has it, or while it is
// away.
const (
	lowest  = 15000
	highest = 32000
)

// Loopback is an address of 127.0.0.1 on which nobody listens, "127.0.0.1:port".
// Nothing holds it: start the server soon.
func Loopback() (string, error) {
	var why error
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", lowest+rand.IntN(highest-lowest))
		l, err := net.Listen("tcp", addr)
		if err == nil {
			return addr, l.Close()
		}
		why = err
	}
	return "", errors.Join(errors.New("no free port"), why)
}
