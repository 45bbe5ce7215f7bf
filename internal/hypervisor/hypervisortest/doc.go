// Package hypervisortest holds every driver to what package hypervisor promises,
// by one suite of cases that a real VMM or a fake one goes through.
//
// It promises that a case asks for nothing but the interface's words, and that what
// a subject can't show is seen in the table as n/a with its reason, never as ok.
// The package's own tests break a driver in one way after another and see that just
// the cases fail that are there for it.
//
// Kernel is a guest of some two hundred bytes for the real programs; programs.go has
// what the drivers' own tests need beside the suite.
package hypervisortest
