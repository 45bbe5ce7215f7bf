package reconcile

import (
	"fmt"

	"bield/internal/spec"
)

// digests asks once for each kind of image: the answer takes reading the host's
// package sources.
type digests struct{ known map[string]digestAnswer }

type digestAnswer struct {
	digest string
	err    error
}

func newDigests() digests { return digests{known: map[string]digestAnswer{}} }

func (d digests) of(i spec.Image) (string, error) {
	key := fmt.Sprintf("%q", i)
	a, ok := d.known[key]
	if !ok {
		a.digest, a.err = digestOf(i)
		d.known[key] = a
	}
	return a.digest, a.err
}
