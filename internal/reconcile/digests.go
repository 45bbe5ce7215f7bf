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

// knownOf is the answer to what was asked before, or "".
func (d digests) knownOf(i spec.Image) string { return d.known[fmt.Sprintf("%q", i)].digest }

// digestsOfRunning asks for the images that VMs which run should have.
func (e *Engine) digestsOfRunning() digests {
	var images []spec.Image
	e.mu.Lock()
	for _, name := range e.running() {
		if vm, declared := e.applied.Host.VM(name); declared {
			images = append(images, vm.Image)
		}
	}
	e.mu.Unlock()
	d := newDigests()
	for _, i := range images {
		_, _ = d.of(i) // of what can't be told nothing is said
	}
	return d
}
