package main

import (
	"testing"

	"bield/test/host"
)

// TestMain also makes this binary the bield that the scripts run.
func TestMain(m *testing.M) {
	host.Main(m, map[string]func() int{"bield": func() int {
		version = "test"
		return Main()
	}})
}
