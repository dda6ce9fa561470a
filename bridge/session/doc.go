// Package session keeps one authenticated MQTT v5 connection and its session
// state alive: it connects with fresh credentials, carries readings up within
// the in-flight window, hands downlinks on and acknowledges them in the order
// of their arrival, renews credentials before they expire by an orderly
// reconnect, and backs off when the broker is away or refuses.
//
// Underneath is paho.Client with a session state of our own (window), because
// the one that comes with paho neither tells what became of a publish nor
// notices that the broker has lost the session.
package session
