//go:build !faults

package main

// hook is for tests: see faults.go.
func hook() func(string) { return nil }
