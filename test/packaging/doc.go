// Package packaging holds what a machine gets of bield to what it should get:
// the files of `make install`, units that systemd takes, a manual for every
// program, and a Debian package that is the same each time it is built.
//
// It promises to write only to folders of its own. What the package does to a
// machine is test/e2e's.
package packaging
