// Package session keeps one authenticated MQTT v5 connection and its session
// state alive: it connects with fresh credentials, carries readings up within
// the in-flight window, hands downlinks on and acknowledges them in the order
// of their arrival, renews credentials before they expire by an orderly
// reconnect, and backs off when the broker is away or refuses.
//
// The packets are those of paho (paho.golang/packets); paho.Client is not used.
// The session state must be ours, because the one that comes with paho neither
// tells what became of a publish nor notices that the broker has lost the
// session. What is left of the client then is CONNECT, SUBSCRIBE, PINGREQ and a
// reading loop, and it costs an idle session two goroutines, two contexts and a
// channel more than these need: measured with 10,000 sessions, twice the memory.
//
// An idle session is two goroutines, the one of Run and one that reads, a read
// buffer of 512 bytes and one timer. Publishes are encoded into the connection's
// write buffer without anything between, and the write buffer is given back when
// the connection goes idle.
package session
