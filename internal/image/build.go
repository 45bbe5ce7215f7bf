package image

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"bield/internal/apt"
)

//go:embed recipe.sh
var recipe []byte

// minFree is what a build wants free beside the image: the root and, for a
// while, the packages it comes from.
const minFree = 2 << 30

// Progress tells how far a build is.
type Progress struct {
	Digest string
	// Step is what is being done, in a few words.
	Step string
	// Detail is the newest thing done within the step, or "".
	Detail string
}

// Build returns the image of the inputs, making it where the store has none.
// Where another process is making it, Build waits for that one. progress may be
// nil. A build that fails or is cancelled leaves a log and nothing else.
func (s Store) Build(ctx context.Context, in Inputs, progress func(Progress)) (Image, error) {
	digest := in.Digest()
	if img, err := s.Find(digest); !errors.Is(err, ErrNotFound) {
		return img, err
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	if os.Geteuid() != 0 {
		return Image{}, errors.New("build image: only root can: the image's files belong to uids of their own")
	}
	if err := s.make(); err != nil {
		return Image{}, err
	}
	lock, err := s.waitLock(ctx, digest, func() {
		progress(Progress{Digest: digest, Step: "wait for another build of the same image"})
	})
	if err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	defer lock.Close()
	if img, err := s.Find(digest); !errors.Is(err, ErrNotFound) {
		return img, err
	}
	b := builder{store: s, in: in, digest: digest, progress: progress}
	if err := b.build(ctx); err != nil {
		return Image{}, fmt.Errorf("build image %s: %w", digest[:12], err)
	}
	return s.Find(digest)
}

// builder makes one image; it holds the image's lock.
type builder struct {
	store    Store
	in       Inputs
	digest   string
	progress func(Progress)
	// dir is the image while it is not whole: a temporary folder of the store.
	dir string
}

func (b *builder) tree() string { return filepath.Join(b.dir, "tree") }
func (b *builder) work() string { return filepath.Join(b.dir, "tree", "work") }
func (b *builder) root() string { return filepath.Join(b.dir, "tree", "rootfs") }

func (b *builder) step(name string) {
	b.store.at(name)
	b.progress(Progress{Digest: b.digest, Step: name})
}

func (b *builder) build(ctx context.Context) (err error) {
	if err := b.prepare(ctx); err != nil {
		return errors.Join(err, b.discard())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.discard())
		}
	}()
	b.store.at("folders are made")
	if err := b.bootstrap(ctx); err != nil {
		return err
	}
	b.store.at("tree is made")
	release, err := b.kernel()
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	b.store.at("kernel and modules are made")
	return b.publish(release)
}

// discard removes what was made so far. Other leftovers of this digest go with
// it: the lock is ours.
func (b *builder) discard() error {
	left, err := filepath.Glob(filepath.Join(b.store.Dir, tmpPrefix(b.digest)+"*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove an unfinished build: %w", err)
		}
	}
	return nil
}

// prepare makes the folders and puts the recipe's files in place.
func (b *builder) prepare(ctx context.Context) error {
	b.step("prepare")
	if err := b.discard(); err != nil {
		return err
	}
	// What has the image's name and is no whole image would be in the way.
	if _, err := os.Lstat(b.store.path(b.digest)); err == nil {
		if err := b.store.discard(b.digest); err != nil {
			return err
		}
	}
	if err := enoughSpace(b.store.Dir, minFree); err != nil {
		return err
	}
	if err := reachable(b.store.Dir); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(b.store.Dir, tmpPrefix(b.digest))
	if err != nil {
		return err
	}
	b.dir = dir
	b.store.at("folder is made")
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	for _, d := range []string{b.tree(), b.root(), b.work(), filepath.Join(b.work(), "tmp")} {
		if err := b.give(d, func() error { return os.Mkdir(d, 0o700) }); err != nil {
			return err
		}
	}
	// The root's own mode is what the guest sees of "/".
	if err := os.Chmod(b.root(), 0o755); err != nil {
		return err
	}
	return b.writeRecipe(ctx)
}

// give makes something and hands it to the image's root.
func (b *builder) give(path string, create func() error) error {
	if err := create(); err != nil {
		return err
	}
	return os.Lchown(path, int(b.in.UIDBase), int(b.in.UIDBase))
}

// writeRecipe writes what mmdebstrap and the hook read. It is complete before
// the first foreign program runs in the tree.
func (b *builder) writeRecipe(ctx context.Context) error {
	transport, err := apt.Transport(ctx)
	if err != nil {
		return err
	}
	if err := apt.Reach(ctx, b.in.download, transport); err != nil {
		return err
	}
	auth, err := apt.Credentials(b.in.root)
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"recipe.sh":      recipe,
		"kernel-package": []byte(b.in.Kernel),
		"dpkg.conf":      []byte(dpkgOptions),
		"90bield":        []byte(guestAptOptions),
		"auth.conf":      auth,
		"apt.conf":       []byte(b.aptOptions(transport)),
		"bield.sources":  nil,
	}
	if files["bield.sources"], err = b.innerSources(); err != nil {
		return err
	}
	for name, data := range files {
		path := filepath.Join(b.work(), name)
		if err := b.give(path, func() error { return os.WriteFile(path, data, 0o700) }); err != nil {
			return err
		}
	}
	return nil
}

// innerSources is the package source file of the image. A keyring that the
// distribution's own package will put in the same place is named there; any
// other is copied in.
func (b *builder) innerSources() ([]byte, error) {
	var stanzas []string
	for _, s := range b.in.download {
		s = s.Public()
		if name := filepath.Base(s.Keyring); !strings.HasPrefix(s.Keyring, "/usr/share/keyrings/"+b.in.Distribution+"-archive-keyring.") {
			if err := b.copyKeyring(s.Keyring, name); err != nil {
				return nil, err
			}
			s.Keyring = "/etc/apt/keyrings/" + name
		}
		stanzas = append(stanzas, s.Deb822())
	}
	return []byte(strings.Join(stanzas, "\n")), nil
}

func (b *builder) copyKeyring(path, name string) error {
	dir := filepath.Join(b.work(), "keyrings")
	err := b.give(dir, func() error { return os.Mkdir(dir, 0o700) })
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	data, err := readKeyring(b.in.root, path)
	if err != nil {
		return err
	}
	target := filepath.Join(dir, name)
	return b.give(target, func() error { return os.WriteFile(target, data, 0o600) })
}

// kernel takes the kernel and the modules out of the tree and returns the
// kernel's release. The tree was written by foreign programs: no symlink in it
// may lead out.
func (b *builder) kernel() (string, error) {
	b.step("unpack the kernel")
	tree, err := os.OpenRoot(b.tree())
	if err != nil {
		return "", err
	}
	defer tree.Close()
	packed, err := readBounded(tree, "work/vmlinuz", maxPacked)
	if err != nil {
		return "", fmt.Errorf("read the kernel: %w", err)
	}
	vmlinux, err := extractKernel(packed, b.in.Arch)
	if err != nil {
		return "", err
	}
	if err := writeFile(filepath.Join(b.dir, "vmlinux"), vmlinux); err != nil {
		return "", err
	}
	release, err := kernelRelease(tree)
	if err != nil {
		return "", err
	}
	return release, b.modules(tree, release)
}

const modulesDir = "rootfs/usr/lib/modules"

func kernelRelease(tree *os.Root) (string, error) {
	entries, err := fs.ReadDir(tree.FS(), modulesDir)
	if err != nil {
		return "", fmt.Errorf("find the kernel's modules: %w", err)
	}
	if len(entries) != 1 {
		return "", fmt.Errorf("find the kernel's modules: expected those of one kernel, have %d", len(entries))
	}
	return entries[0].Name(), nil
}

func (b *builder) modules(tree *os.Root, release string) error {
	b.step("collect kernel modules")
	files, err := fs.Sub(tree.FS(), modulesDir+"/"+release)
	if err != nil {
		return fmt.Errorf("find the kernel's modules: %w", err)
	}
	found, err := openModules(files)
	if err != nil {
		return err
	}
	collected, err := collectModules(found, wantedModules())
	if err != nil {
		return err
	}
	records, err := moduleRecords(collected)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(filepath.Join(b.dir, "modules.cpio"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(writeArchive(out, records), out.Chmod(0o644), out.Close())
}

// publish removes the workplace, writes the manifest and gives the image its name.
func (b *builder) publish(release string) error {
	b.step("write to disk")
	if err := os.RemoveAll(b.work()); err != nil {
		return err
	}
	size, err := diskUsage(b.dir)
	if err != nil {
		return err
	}
	manifest := Manifest{
		Version: manifestVersion, Digest: b.digest, Inputs: b.in,
		MadeAt: time.Now().UTC().Truncate(time.Second), SizeBytes: size, Kernel: release,
	}
	data, err := json.MarshalIndent(manifest, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(b.dir, "manifest.json"), append(data, '\n')); err != nil {
		return err
	}
	if err := syncFileSystem(b.dir); err != nil {
		return err
	}
	b.store.at("manifest is written")
	if err := os.Rename(b.dir, b.store.path(b.digest)); err != nil {
		return err
	}
	b.store.at("image has its name")
	return errors.Join(syncFileSystem(b.store.Dir), removeFile(b.store.logPath(b.digest)))
}

func writeFile(path string, data []byte) error {
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return err
	}
	return os.Chmod(path, 0o644)
}

func readBounded(tree *os.Root, name string, limit int64) ([]byte, error) {
	f, err := tree.OpenFile(name, openAny, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := readRegular(f, limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}

// syncFileSystem puts all of an image on disk: after a loss of power a whole
// name must not stand for empty files.
func syncFileSystem(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

func enoughSpace(dir string, want uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("free space of %s: %w", dir, err)
	}
	free := st.Bavail * uint64(st.Bsize)
	if free < want {
		return fmt.Errorf("%s has %d MiB free, needed are %d MiB: make room (bield image prune) or set BIELD_CACHE_DIR", dir, free>>20, want>>20)
	}
	return nil
}

// reachable checks that the image's uids and unprivileged VMMs can get to dir.
func reachable(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("%s is closed to other users, who must pass through it to an image: chmod o+x it or set BIELD_CACHE_DIR", dir)
		}
	}
	return nil
}

// diskUsage counts each file once, however many names it has.
func diskUsage(dir string) (int64, error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	var total int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || seen[inode{st.Dev, st.Ino}] {
			return nil
		}
		seen[inode{st.Dev, st.Ino}] = true
		total += st.Blocks * 512
		return nil
	})
	return total, err
}
