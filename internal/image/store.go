package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotFound means that the store holds no whole image of that digest.
var ErrNotFound = errors.New("no such image")

// Store is a folder of images.
type Store struct {
	Dir string
	// Hook, when set, is told of each stage of making an image as it is
	// reached: tests kill the process there.
	Hook func(point string)
}

// at tells the hook.
func (s Store) at(point string) {
	if s.Hook != nil {
		s.Hook("image: " + point)
	}
}

// manifestVersion is the format of manifest.json.
const manifestVersion = 1

// Manifest is manifest.json: an image's description of itself.
type Manifest struct {
	Version int       `json:"version"`
	Digest  string    `json:"digest"`
	Inputs  Inputs    `json:"inputs"`
	MadeAt  time.Time `json:"madeAt"`
	// SizeBytes is the disk space of the image when it was made.
	SizeBytes int64 `json:"sizeBytes"`
	// Kernel is the kernel's release, as `uname -r` prints it.
	Kernel string `json:"kernel"`
}

// Image is a whole image in a store.
type Image struct {
	Manifest
	dir   string
	store Store
}

// Dir is the image's folder.
func (i Image) Dir() string { return i.dir }

// Root is the root file system, its uids shifted by Inputs.UIDBase. Only that
// uid gets at it.
func (i Image) Root() string { return filepath.Join(i.dir, "tree", "rootfs") }

// Kernel is the kernel as an ELF file.
func (i Image) Kernel() string { return filepath.Join(i.dir, "vmlinux") }

// Modules is an initramfs archive with the kernel modules and their list, but
// without an init.
func (i Image) Modules() string { return filepath.Join(i.dir, "modules.cpio") }

var digestForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (s Store) path(digest string) string { return filepath.Join(s.Dir, digest) }
func (s Store) logPath(digest string) string {
	return filepath.Join(s.Dir, "logs", digest+".log")
}

// make creates the store. Others may pass through it, not list it.
func (s Store) make() error {
	if err := os.MkdirAll(filepath.Dir(s.Dir), 0o755); err != nil {
		return fmt.Errorf("make image store: %w", err)
	}
	for dir, mode := range map[string]os.FileMode{s.Dir: 0o711} {
		if err := os.Mkdir(dir, mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make image store: %w", err)
		}
		if err := os.Chmod(dir, mode); err != nil {
			return fmt.Errorf("make image store: %w", err)
		}
	}
	return nil
}

// Find returns the image of that digest, or ErrNotFound where the store has none
// or only a damaged one.
func (s Store) Find(digest string) (Image, error) {
	if !digestForm.MatchString(digest) {
		return Image{}, fmt.Errorf("image %q: %w", digest, ErrNotFound)
	}
	dir := s.path(digest)
	data, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, fmt.Errorf("image %s: %w", digest, ErrNotFound)
	}
	if err != nil {
		return Image{}, fmt.Errorf("read image: %w", err)
	}
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return Image{}, fmt.Errorf("image %s: manifest: %w: %w", digest, err, ErrNotFound)
	}
	if m.Version != manifestVersion || m.Digest != digest {
		return Image{}, fmt.Errorf("image %s: its manifest is of version %d for %q: %w", digest, m.Version, m.Digest, ErrNotFound)
	}
	img := Image{Manifest: m, dir: dir, store: s}
	if err := img.whole(); err != nil {
		return Image{}, fmt.Errorf("image %s: %w", digest, err)
	}
	return img, nil
}

// whole wraps ErrNotFound where a part is missing: somebody cleaned the cache.
// What the caller may not look at, the root of others' images, counts as there.
func (i Image) whole() error {
	for part, kind := range map[string]fs.FileMode{i.Kernel(): 0, i.Modules(): 0, i.Root(): fs.ModeDir} {
		info, err := os.Lstat(part)
		switch {
		case errors.Is(err, fs.ErrPermission):
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
			return fmt.Errorf("lacks %s: %w", filepath.Base(part), ErrNotFound)
		case err != nil:
			return err
		case info.Mode().Type() != kind:
			return fmt.Errorf("its %s is of another kind: %w", filepath.Base(part), ErrNotFound)
		}
	}
	return nil
}

// List returns all whole images, the oldest first.
func (s Store) List() ([]Image, error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var images []Image
	for _, e := range entries {
		if !digestForm.MatchString(e.Name()) {
			continue
		}
		img, err := s.Find(e.Name())
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	slices.SortFunc(images, func(a, b Image) int { return a.MadeAt.Compare(b.MadeAt) })
	return images, nil
}
