// Package e2e starts real VMs with the real programs and looks at them from
// inside and outside.
//
// It promises to touch nothing of the machine it runs on: everything happens in
// network and mount namespaces of its own, with another network namespace
// playing the internet, and a process that outlives the tests is a failure.
// Images are built before, outside of them, into the ordinary cache.
package e2e
