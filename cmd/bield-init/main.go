package main

import (
	"context"
	"fmt"
	"os"
	"slices"

	"bield/internal/guest"
)

// Exit codes: 1 for a service that cannot run, 2 for wrong use.
func main() {
	ctx := context.Background()
	switch {
	case os.Getpid() == 1:
		guest.Boot(ctx)
		select {} // PID 1 must not end
	case slices.Equal(os.Args[1:], []string{guest.ServiceVerb}):
		if err := guest.Service(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "bield-init:", err)
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "bield-init is PID 1 of a bield guest; it does nothing on a host")
		os.Exit(2)
	}
}
