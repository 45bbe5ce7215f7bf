package reconcile

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"bield/internal/image"
	"bield/internal/plan"
	"bield/internal/spec"
)

// Image is one image of the store.
type Image struct {
	Digest   string
	Made     time.Time
	Bytes    int64
	Suite    string
	Kernel   string
	Packages []string
	UsedBy   []string
}

// sweepImages clears what an interrupted build has left. A tree takes seconds to
// remove: nobody waits for that.
func (e *Engine) sweepImages() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-e.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := e.images.Sweep(ctx); err != nil {
		e.Log.Warn("image store", "error", err)
	}
}

// Images lists the store, newest first.
func (e *Engine) Images() ([]Image, error) {
	stored, err := e.images.List()
	if err != nil {
		return nil, err
	}
	users := e.imageUsers()
	images := make([]Image, 0, len(stored))
	for _, i := range slices.Backward(stored) {
		images = append(images, describe(i, users[i.Digest]))
	}
	return images, nil
}

func describe(i image.Image, usedBy []string) Image {
	return Image{
		Digest: i.Digest, Made: i.MadeAt, Bytes: i.SizeBytes, Suite: i.Inputs.Suite,
		Kernel: i.Manifest.Kernel, Packages: i.Inputs.Packages, UsedBy: usedBy,
	}
}

// imageUsers names the VMs of each image: those that run on it and those of
// the applied spec.
func (e *Engine) imageUsers() map[string][]string {
	users := map[string][]string{}
	add := func(digest, name string) {
		if digest != "" && !slices.Contains(users[digest], name) {
			users[digest] = append(users[digest], name)
		}
	}
	e.mu.Lock()
	for _, name := range e.running() {
		add(e.vms[name].record.Image, name)
	}
	declared := e.applied.Host.VMs
	e.mu.Unlock()
	for _, vm := range declared {
		if inputs, err := image.Resolve(vm.Image); err == nil {
			add(inputs.Digest(), vm.Name)
		}
	}
	return users
}

// BuildImage makes an image unless it is there, and returns its digest.
func (e *Engine) BuildImage(ctx context.Context, caller Caller, wanted spec.Image, disk bool, show func(Progress)) (string, error) {
	if !caller.Root() && (wanted.Mirror != "" || wanted.Keyring != "") {
		return "", fmt.Errorf("%w: only root may set an image's mirror or keyring", ErrForbidden)
	}
	inputs, err := image.Resolve(wanted)
	if err != nil {
		return "", err
	}
	report := func(p image.Progress) { show(imageProgress("", p)) }
	built, err := e.images.Build(ctx, inputs, report)
	if err == nil {
		_, err = built.Initrd(ctx, e.InitBinary)
	}
	if err == nil && disk {
		_, err = built.Disk(ctx, report)
	}
	return inputs.Digest(), err
}

func imageProgress(vm string, p image.Progress) Progress {
	return Progress{VM: vm, Step: string(plan.MakeImage), State: "progress", Message: p.Step, Detail: p.Detail}
}

// RemoveImage deletes one image, named by an unambiguous start of its digest.
func (e *Engine) RemoveImage(_ context.Context, caller Caller, prefix string) error {
	if !caller.Root() {
		return fmt.Errorf("%w: only root may remove images", ErrForbidden)
	}
	images, err := e.Images()
	if err != nil {
		return err
	}
	var found []Image
	for _, i := range images {
		if prefix != "" && strings.HasPrefix(i.Digest, prefix) {
			found = append(found, i)
		}
	}
	switch {
	case len(found) == 0:
		return fmt.Errorf("%w: no image %q (`bield image ls` lists them)", ErrNotFound, prefix)
	case len(found) > 1:
		return fmt.Errorf("%w: %d images begin with %q: give more of the digest", ErrConflict, len(found), prefix)
	}
	if users := e.runningOn(found[0].Digest); len(users) > 0 {
		return fmt.Errorf("%w: image %s is in use by %s: `bield down` it first", ErrConflict, prefix, strings.Join(users, ", "))
	}
	return e.images.Remove(found[0].Digest)
}

func (e *Engine) runningOn(digest string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var names []string
	for _, name := range e.running() {
		if e.vms[name].record.Image == digest {
			names = append(names, name)
		}
	}
	return names
}

// PruneImages deletes the images that no VM runs on and no VM of the applied
// spec would use, and says which.
func (e *Engine) PruneImages(ctx context.Context, caller Caller) ([]Image, error) {
	if !caller.Root() {
		return nil, fmt.Errorf("%w: only root may remove images", ErrForbidden)
	}
	images, err := e.Images()
	if err != nil {
		return nil, err
	}
	used := e.imageUsers()
	pruned, err := e.images.Prune(ctx, func(digest string) bool { return len(used[digest]) > 0 || len(e.runningOn(digest)) > 0 })
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(images, func(i Image) bool { return !slices.Contains(pruned.Images, i.Digest) }), nil
}
