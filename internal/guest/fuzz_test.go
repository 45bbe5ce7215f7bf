package guest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzReadConfig: whatever lies in the initramfs, a configuration that is taken
// makes files of the lines that bield-init means, and one account.
func FuzzReadConfig(f *testing.F) {
	good, err := json.Marshal(testConfig())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"init":"bield","hostname":"a\nb","user":{"name":"x:0:0","authorizedKeys":["a\nb"]},"link":{"vsockPort":1011}}`))
	f.Add([]byte(strings.Replace(string(good), `"hostKey":"`, `"hostKey":"/a b#`, 1)))
	lines := strings.Count(sshdConfigText(testConfig()), "\n")
	path := filepath.Join(f.TempDir(), "guest.json")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		readLink(path)
		cfg, err := readConfig(path)
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Error("an error that says nothing")
			}
			return
		}
		if n := strings.Count(sshdConfigText(cfg), "\n"); n != lines {
			t.Errorf("sshd_config has %d lines and not %d:\n%s", n, lines, sshdConfigText(cfg))
		}
		if a, err := baseAccounts().withUser(cfg.User); err == nil {
			if n := strings.Count("\n"+a.passwd, "\n"+cfg.User.Name+":"); n != 1 {
				t.Errorf("%d accounts of %q", n, cfg.User.Name)
			}
			for line := range strings.Lines(a.passwd) {
				if strings.Count(line, ":") != 6 {
					t.Errorf("a line of passwd that is none: %q", line)
				}
			}
		}
	})
}
