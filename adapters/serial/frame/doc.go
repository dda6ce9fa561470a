// Package frame cuts the bytes of a serial line into frames and puts frames on
// it: by a delimiter, a fixed length, start and end bytes, a length field,
// silence, SLIP (RFC 1055) or COBS, each with an optional check such as a CRC.
//
// A Splitter is fed with bytes and times and reads no clock, so that a
// recording gives the same frames as the line did. Each is bounded by the
// longest frame, and finds the next good frame behind any garbage.
package frame
