// Package probe is what `bield verify` runs as root in a guest: a small static
// program that makes system calls as it is ordered and says what came of them.
//
// It takes batches of orders as lines of JSON on its standard input and prints
// one line a result. It promises to answer every order of a batch, within
// MaxWait, and to know nothing of what is expected: who ordered judges. It uses
// no file and no program of the guest's. TCP connections stay open until the
// next batch, so that the other end can look at them.
package probe
