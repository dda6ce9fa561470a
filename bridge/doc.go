// Package bridge holds the words of fieldbridge (Reading, Downlink, DeviceID,
// Receipt and the errors that callers branch on) and the Bridge itself: the
// table of devices, one lane per device, and the routes of the downlinks.
//
// Implementations import bridge; bridge imports none of them. The interfaces it
// needs from them (Source's counterpart Uplink, and Deliverer) are declared
// here, by their consumer.
package bridge
