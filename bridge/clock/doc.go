// Package clock knows whether the wall clock can be trusted yet.
//
// A gateway without a battery-backed clock boots in 1970, or at the time at
// which it was switched off. A token that is signed then is refused, and a
// reading that is stamped then is wrong for ever. So no token is minted before
// Clock.State says trusted, and a Stamp of before then carries the time since
// boot and the boot's id, from which Stamp.Resolve makes the wall time later.
package clock
