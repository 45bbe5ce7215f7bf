package sshaccess

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
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
// uid:gid. Nobody but root may be able to exchange the folder: see
// state.OpenOwned.
func EnsureKey(path, comment string, uid, gid uint32) (Key, error) {
	folder, err := state.OpenOwned(filepath.Dir(path), 0o700, uid, gid)
	if err != nil {
		return Key{}, err
	}
	defer folder.Close()
	return ensureKeyIn(folder, path, comment)
}

// EnsureHostKey makes the folder of a VM's SSH host keys (0755, the user's, as
// is the VM's folder above it) and its one ed25519 key. keysDir lies in vmDir,
// where the user may exchange it: it is reached from vmDir by handles alone.
func EnsureHostKey(vmDir, keysDir, file, comment string, uid, gid uint32) (Key, error) {
	vm, err := state.OpenOwned(vmDir, 0o755, uid, gid)
	if err != nil {
		return Key{}, err
	}
	defer vm.Close()
	folder, err := vm.Folder(filepath.Base(keysDir), 0o755)
	if err != nil {
		return Key{}, err
	}
	defer folder.Close()
	return ensureKeyIn(folder, filepath.Join(keysDir, file), comment)
}

// maxKeyBytes is far above any key file.
const maxKeyBytes = 16 << 10

// ensureKeyIn works in the open folder; path only tells where that was.
func ensureKeyIn(folder *state.Owned, path, comment string) (Key, error) {
	file := filepath.Base(path)
	data, err := folder.Read(file, maxKeyBytes)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = newPrivateKey(comment); err == nil {
			err = folder.Write(file, data, 0o600)
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
	if err := ensurePublic(folder, file+".pub", public); err != nil {
		return Key{}, fmt.Errorf("key %s.pub: %w", path, err)
	}
	return Key{Private: path, Public: public}, nil
}

func publicLine(signer ssh.Signer, comment string) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))) + " " + comment
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

func ensurePublic(folder *state.Owned, file, line string) error {
	if data, err := folder.Read(file, maxKeyBytes); err == nil && strings.TrimSpace(string(data)) == line {
		return nil
	}
	return folder.Write(file, []byte(line+"\n"), 0o644)
}
