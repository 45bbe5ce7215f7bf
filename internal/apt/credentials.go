package apt

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Credentials are the host's apt_auth.conf(5) files below root, one behind the
// other: etc/apt/auth.conf and etc/apt/auth.conf.d/*.conf. They are for the
// download only. None is no error.
func Credentials(root string) ([]byte, error) {
	dir := filepath.Join(root, "etc/apt")
	files := []string{filepath.Join(dir, "auth.conf")}
	parts, err := os.ReadDir(filepath.Join(dir, "auth.conf.d"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read apt's credentials: %w", err)
	}
	for _, p := range parts {
		if strings.HasSuffix(p.Name(), ".conf") {
			files = append(files, filepath.Join(dir, "auth.conf.d", p.Name()))
		}
	}
	var out bytes.Buffer
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read apt's credentials: %w", err)
		}
		out.Write(data)
		if len(data) > 0 && !bytes.HasSuffix(data, []byte("\n")) {
			out.WriteByte('\n')
		}
	}
	return out.Bytes(), nil
}
