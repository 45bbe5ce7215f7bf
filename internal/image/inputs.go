package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"bield/internal/apt"
)

// Inputs is everything that determines an image.
type Inputs struct {
	// Recipe is the version of the steps that make an image.
	Recipe int `json:"recipe"`
	// Arch is Debian's name of the architecture, "amd64".
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
		data, err := os.ReadFile(filepath.Join(root, s.Keyring))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("keyring %s does not exist: install the distribution's archive keyring package or set image.keyring", s.Keyring)
		}
		if err != nil {
			return nil, fmt.Errorf("read keyring: %w", err)
		}
		sum := sha256.Sum256(data)
		out = append(out, Archive{
			URI: s.Public().URI, Suite: s.Suite, Components: slices.Clone(s.Components),
			KeyringSHA256: hex.EncodeToString(sum[:]),
		})
	}
	return out, nil
}
