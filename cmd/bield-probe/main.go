// Command bield-probe is what `bield verify` runs in a guest; see
// internal/probe. It only wires.
package main

import (
	"fmt"
	"os"

	"bield/internal/probe"
)

// Exit codes: 1 for orders that cannot be read.
func main() {
	if err := probe.Run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bield-probe:", err)
		os.Exit(1)
	}
}
