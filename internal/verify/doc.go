// Package verify holds what `bield verify` tries from inside a guest: the list
// of attempts to break out, what each is expected to come to, and whether what
// came of it is a hole.
//
// It is pure. Plan makes orders for internal/probe from what the host knows;
// Judge holds the probe's results and what the host saw itself against what was
// expected. A guest's word alone never closes an attempt that the host can see:
// where both speak, the worse counts. It promises that each attempt can fail:
// what was not tried, or could not be seen, is called unchecked and not closed.
package verify
