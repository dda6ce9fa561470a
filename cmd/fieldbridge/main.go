// Command fieldbridge is a gateway between sensors on serial ports and local
// apps on one side and an MQTT v5 broker on the other. See README.md.
package main

import "os"

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}
