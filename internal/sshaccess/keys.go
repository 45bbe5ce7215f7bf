package sshaccess

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"bield/internal/state"
)

// Key is a key pair: Private is a file in OpenSSH's format, Public one line of
// an authorized_keys file without a line feed.
type Key struct {
	Private string
	Public  string
}

// EnsureKey returns the ed25519 key pair at path, made without a passphrase
// when it is missing. Its folder (0700) and files (600 and 644) belong to
// uid:gid. The folder above must belong to root.
func EnsureKey(path, comment string, uid, gid uint32) (Key, error) {
	dir := filepath.Dir(path)
	if err := state.MakeOwned(dir, 0o700, uid, gid); err != nil {
		return Key{}, err
	}
	return ensureKeyIn(dir, filepath.Base(path), comment, uid, gid)
}

// EnsureHostKey makes the folder of a VM's SSH host keys (0755, the user's, as
// is the VM's folder above it) and its one ed25519 key.
func EnsureHostKey(vmDir, keysDir, file, comment string, uid, gid uint32) (Key, error) {
	if err := state.MakeOwned(vmDir, 0o755, uid, gid); err != nil {
		return Key{}, err
	}
	if err := makeInside(vmDir, filepath.Base(keysDir), uid, gid); err != nil {
		return Key{}, err
	}
	return ensureKeyIn(keysDir, file, comment, uid, gid)
}

// makeInside makes a folder below one that a user owns, without following any
// link that the user may have put there.
func makeInside(dir, name string, uid, gid uint32) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer func() { _ = root.Close() }()
	if err := root.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make folder %s: %w", filepath.Join(dir, name), err)
	}
	info, err := root.Lstat(name)
	if err != nil {
		return fmt.Errorf("look at %s: %w", filepath.Join(dir, name), err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is no folder: move it away", filepath.Join(dir, name))
	}
	return root.Lchown(name, int(uid), int(gid))
}

// ensureKeyIn works through os.Root, since the folder belongs to a user who
// could put links into it.
func ensureKeyIn(dir, file, comment string, uid, gid uint32) (Key, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Key{}, fmt.Errorf("open %s: %w", dir, err)
	}
	defer func() { _ = root.Close() }()
	path := filepath.Join(dir, file)
	data, err := readRegular(root, file)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = newPrivateKey(comment); err == nil {
			err = writeKey(root, file, data, 0o600, uid, gid)
		}
	}
	if err != nil {
		return Key{}, fmt.Errorf("key %s: %w", path, err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		return Key{}, fmt.Errorf("key %s: %w (remove it, and bield makes a new one)", path, err)
	}
	public := publicLine(signer, comment)
	if err := ensurePublic(root, file+".pub", public, uid, gid); err != nil {
		return Key{}, fmt.Errorf("key %s.pub: %w", path, err)
	}
	return Key{Private: path, Public: public}, nil
}

func publicLine(signer ssh.Signer, comment string) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))) + " " + comment
}

// maxKeyBytes is far above any key file.
const maxKeyBytes = 16 << 10

func readRegular(root *os.Root, file string) ([]byte, error) {
	info, err := root.Lstat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyBytes {
		return nil, fmt.Errorf("is no key file: move it away")
	}
	return root.ReadFile(file)
}

func newPrivateKey(comment string) ([]byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(block), nil
}

func ensurePublic(root *os.Root, file, line string, uid, gid uint32) error {
	if data, err := readRegular(root, file); err == nil && strings.TrimSpace(string(data)) == line {
		return nil
	}
	return writeKey(root, file, []byte(line+"\n"), 0o644, uid, gid)
}

// writeKey writes beside the name and renames, so that a full disk leaves no
// half a key.
func writeKey(root *os.Root, file string, data []byte, mode os.FileMode, uid, gid uint32) (err error) {
	temporary := file + ".new"
	if err := root.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = root.Remove(temporary)
		}
	}()
	if err = fill(f, data, mode, uid, gid); err != nil {
		return err
	}
	return root.Rename(temporary, file)
}

func fill(f *os.File, data []byte, mode os.FileMode, uid, gid uint32) error {
	_, err := f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Chown(int(uid), int(gid)), f.Sync())
	return errors.Join(err, f.Close())
}
