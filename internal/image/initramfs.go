package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"bield/internal/guestconfig"
	"bield/internal/state"
)

// initramfsVersion changes whenever the same parts would give other bytes.
const initramfsVersion = 1

// maxInit bounds bield-init.
const maxInit = 64 << 20

// archiveAlignment is what every archive is filled up to with zeros. The
// kernel wants the next one at a multiple of 4 (init/initramfs.c); 512 is the
// block of cpio(1).
const archiveAlignment = 512

// writeArchive writes records as one newc archive that another may follow. The
// bytes depend on the records alone: no times, no owners, no inode numbers.
func writeArchive(w io.Writer, records []cpio.Record) error {
	count := &counter{w: w}
	out := cpio.Newc.Writer(count)
	for _, r := range records {
		r.Name = strings.TrimPrefix(r.Name, "/")
		if err := out.WriteRecord(r); err != nil {
			return fmt.Errorf("write initramfs: %s: %w", r.Name, err)
		}
	}
	if err := cpio.WriteTrailer(out); err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	padding := make([]byte, -count.n&(archiveAlignment-1))
	if _, err := count.Write(padding); err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	return nil
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// moduleRecords is the shared part of every initramfs of a kernel: the folders
// that an init mounts on, a console for its first words, and the modules.
func moduleRecords(modules []kernelModule) ([]cpio.Record, error) {
	list, err := json.MarshalIndent(moduleList(modules), "", " ")
	if err != nil {
		return nil, fmt.Errorf("list kernel modules: %w", err)
	}
	records := []cpio.Record{
		cpio.Directory("bield", 0o755),
		cpio.Directory("bield/modules", 0o755),
	}
	for _, m := range modules {
		records = append(records, cpio.StaticFile(modulePath(m.name), string(m.content), 0o644))
	}
	return append(records,
		cpio.StaticFile(guestconfig.ModulesPath, string(list), 0o644),
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.Directory("proc", 0o555),
		cpio.Directory("root", 0o700),
		cpio.Directory("sys", 0o555),
	), nil
}

// ConfigArchive is the archive of one VM: its configuration, for its root
// only. It stands behind an image's Initrd, in the same file.
func ConfigArchive(cfg guestconfig.Config) ([]byte, error) {
	data, err := json.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("write guest configuration: %w", err)
	}
	var out bytes.Buffer
	err = writeArchive(&out, []cpio.Record{cpio.StaticFile(guestconfig.Path, string(data), 0o600)})
	return out.Bytes(), err
}

// Initrd is the path of an initramfs of the image's modules and the program at
// initBinary as init. It is made when it does not exist yet, and is there for a
// day after the last call at least: then Prune may take it.
func (i Image) Initrd(ctx context.Context, initBinary string) (string, error) {
	program, err := readInit(initBinary, i.Inputs.Arch)
	if err != nil {
		return "", err
	}
	path := filepath.Join(i.dir, initrdName(program))
	lock, err := state.WaitLock(ctx, i.initrdLock(), nil)
	if err != nil {
		return "", fmt.Errorf("make initramfs: %w", err)
	}
	defer lock.Close()
	if err := os.Chtimes(path, time.Time{}, time.Now()); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	return path, i.writeInitrd(path, program)
}

// initrdLock is held while an initramfs is looked for, made or removed, so that
// none goes between Prune's look and Initrd's.
func (i Image) initrdLock() string { return filepath.Join(i.dir, "lock") }

func initrdName(program []byte) string {
	hash := sha256.New()
	hash.Write(fmt.Appendf(nil, "%d\n", initramfsVersion))
	hash.Write(program)
	return "initrd-" + hex.EncodeToString(hash.Sum(nil))[:16] + ".cpio"
}

// readInit checks that the program can be what the kernel starts.
func readInit(path, arch string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read the guest's init: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxInit {
		return nil, fmt.Errorf("read the guest's init: %s is no program of at most 64 MiB", path)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the guest's init: %w", err)
	}
	if err := checkELF(program, arch); err != nil {
		return nil, fmt.Errorf("read the guest's init: %s is no program for %s", path, arch)
	}
	return program, nil
}

// unfinishedInitrd is where an initramfs is written; its lock is held meanwhile.
func (i Image) unfinishedInitrd() string { return filepath.Join(i.dir, ".initrd") }

func (i Image) writeInitrd(path string, program []byte) error {
	tmp := i.unfinishedInitrd()
	err := i.fillInitrd(tmp, program)
	if err == nil {
		i.store.at("initramfs is made")
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("make initramfs: %w", err), removeFile(tmp))
	}
	i.store.at("initramfs has its name")
	return nil
}

func (i Image) fillInitrd(path string, program []byte) error {
	if err := removeFile(path); err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	i.store.at("initramfs is begun")
	modules, err := os.Open(i.Modules())
	if err != nil {
		return err
	}
	defer modules.Close()
	if _, err := io.Copy(out, modules); err != nil {
		return err
	}
	if err := writeArchive(out, []cpio.Record{cpio.StaticFile(guestconfig.InitPath, string(program), 0o755)}); err != nil {
		return err
	}
	return errors.Join(out.Chmod(0o644), out.Sync())
}
