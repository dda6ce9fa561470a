// Package bridgetest holds fakes with behaviour for what the Bridge talks to.
// It is imported by tests only.
package bridgetest
