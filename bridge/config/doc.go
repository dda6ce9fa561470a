// Package config reads the TOML file in which an operator describes a gateway:
// its connectors, devices, serial ports, HTTP endpoint and spool.
//
// Reading is strict. An unknown key is a mistake, a value of the wrong type or
// out of range is a mistake, a secret that others on the machine can read is a
// mistake; and Load reports all of them at once, each with its file, line and
// key, what is wrong and what would be right.
//
// Secrets are given by file, never in the configuration itself, and come back
// as bridge.Secret, which does not print its value.
package config
