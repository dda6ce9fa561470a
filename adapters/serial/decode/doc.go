// Package decode turns the frames of a serial line into payloads: as they are,
// or as a JSON object with named values.
//
// Numbers that come as text are passed on digit for digit, and binary ones are
// scaled in decimal: no value goes through a float64. The same frame gives the
// same object with its keys in the same order.
package decode
