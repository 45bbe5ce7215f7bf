// Package config reads bield.yaml into a spec.Host: strictly, with every
// default filled in, and with all problems at once, each at its line and
// column and saying what to write instead.
//
// It promises that the file it read could not have been written by a guest or
// by a stranger, that no input makes it panic or hang, and that nothing on the
// host changes. What it needs to know of the host comes in an Env. The options
// themselves are declared, with their documentation, in file.go.
package config
