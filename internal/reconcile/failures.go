package reconcile

import (
	"errors"
	"sync"
)

// failures are the errors of several VMs that are worked on at once.
type failures struct {
	mu   sync.Mutex
	byVM map[string]error
}

func (f *failures) note(name string, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byVM == nil {
		f.byVM = map[string]error{}
	}
	if err != nil {
		f.byVM[name] = err
	}
	return err
}

func (f *failures) has(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.byVM[name] != nil
}

// all joins them in the order of names.
func (f *failures) all(names []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, name := range names {
		errs = append(errs, f.byVM[name])
	}
	return errors.Join(errs...)
}
