package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"bield/internal/apt"
)

// Inputs is everything that determines an image.
type Inputs struct {
	// Recipe is the version of the steps that make an image.
	Recipe int `json:"recipe"`
	// Arch is Debian's name of the architecture, "amd64" or "arm64".
	Arch         string    `json:"arch"`
	Distribution string    `json:"distribution"`
	Suite        string    `json:"suite"`
	Sources      []Archive `json:"sources"`
	// Kernel is the package that depends on the newest kernel.
	Kernel string `json:"kernel"`
	// Packages are sorted and without duplicates.
	Packages []string `json:"packages"`
	UIDBase  uint32   `json:"uidBase"`
	UIDCount uint32   `json:"uidCount"`

	// download are the sources as the host reaches them, with credentials;
	// they never leave the process but for the build itself.
	download []apt.Source
	root     string
}

// Archive is a package source as it is seen inside the image.
type Archive struct {
	URI           string   `json:"uri"`
	Suite         string   `json:"suite"`
	Components    []string `json:"components"`
	KeyringSHA256 string   `json:"keyringSHA256"`
}

// Digest is the image's address: the SHA-256 of the inputs' JSON, in hex.
func (in Inputs) Digest() string {
	// Marshalling plain strings and numbers can't fail.
	data, _ := json.Marshal(in)
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// archives are the sources without credentials, each with its keyring's hash.
func archives(root string, sources []apt.Source) ([]Archive, error) {
	var out []Archive
	for _, s := range sources {
		data, err := readKeyring(root, s.Keyring)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(data)
		out = append(out, Archive{
			URI: s.Public().URI, Suite: s.Suite, Components: slices.Clone(s.Components),
			KeyringSHA256: hex.EncodeToString(sum[:]),
		})
	}
	return out, nil
}

// maxKeyring is many times what distributions ship, some 100 KB.
const maxKeyring = 1 << 20

// readKeyring reads a keyring. Distributions have links among theirs, so those
// are followed; the file may be any that the configuration names.
func readKeyring(root, path string) ([]byte, error) {
	f, err := os.OpenFile(filepath.Join(root, path), openAny, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("keyring %s does not exist: install the distribution's archive keyring package or set image.keyring", path)
	}
	if err != nil {
		return nil, fmt.Errorf("read keyring: %w", err)
	}
	defer f.Close()
	data, err := readRegular(f, maxKeyring)
	if err != nil {
		return nil, fmt.Errorf("keyring %s: %w: set image.keyring to a file of OpenPGP keys", path, err)
	}
	return data, nil
}

// openAny are the flags to open a file of which nothing is known: without
// O_NONBLOCK the opening of a pipe would wait for its writer.
const openAny = os.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY

// readRegular reads a regular file of at most limit bytes. What says that it is
// empty is refused: files of /proc do, and may never end.
func readRegular(f *os.File, limit int64) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() == 0 || info.Size() > limit {
		return nil, fmt.Errorf("is no file of at most %d bytes", limit)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("is no file of at most %d bytes", limit)
	}
	return data, err
}
