// Package devbroker is an MQTT v5 broker that follows akenza's rules, in the
// same process: who may connect (a device with a JWT, a connector with its
// secret), who may publish and subscribe where, and which content types a
// payload may have. It is what the demo, the broker command and the tests talk
// to, and it can misbehave on request: cut, freeze, forget, refuse, withhold.
//
// Packets, connections and subscriptions are those of mochi-mqtt. Downlinks are
// delivered by this package, because a gateway's tests depend on what mochi does
// not promise: redelivery in the original order, DUP only on what was sent
// before, and never more in flight than the client's Receive Maximum (MQTT v5
// sections 4.4, 4.6 and 4.9). Uplinks go nowhere but into the record.
//
// Everything is kept in memory. It is no broker for production.
package devbroker
