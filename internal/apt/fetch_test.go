package apt

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseTransport(t *testing.T) {
	dump := `APT::Architecture "amd64";
Acquire "";
Acquire::http "";
Acquire::http::Proxy "http://proxy.example.test:3128";
Acquire::https::CaInfo "/etc/ssl/x.pem";
Acquire::Retries "3";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::httpd "no";
APT::Update::Post-Invoke:: "rm -rf /";
Acquire::http::Odd "a"b";
broken
`
	var got []string
	for _, s := range parseTransport(dump) {
		got = append(got, s.String())
	}
	want := []string{
		`Acquire::http::Proxy "http://proxy.example.test:3128";`,
		`Acquire::https::CaInfo "/etc/ssl/x.pem";`,
		`Acquire::Retries "3";`,
		`Acquire::Check-Valid-Until "false";`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestExplain(t *testing.T) {
	tests := []struct{ name, log, want string }{
		{"no such package", "Reading package lists...\nE: Unable to locate package nonsuch\n",
			`no package "nonsuch" in the package sources`},
		{"unreachable", "Err:1 http://deb.example.org/debian x InRelease\n  Could not resolve 'deb.example.org'\nReading package lists...\nE: Failed to fetch http://u:p@deb.example.org/debian/dists/x/InRelease  Could not resolve 'deb.example.org'\nE: Some index files failed to download.\n",
			"package source http://deb.example.org/debian/dists/x/InRelease: Could not resolve 'deb.example.org'"},
		{"only ignored", "Ign:1 http://deb.example.org/debian x InRelease\n  Connection refused\nE: apt-get update failed\n",
			"package source http://deb.example.org/debian: Connection refused"},
		{"not signed by us", "Err:1 http://a.test x InRelease\n  The following signatures couldn't be verified because the public key is not available: NO_PUBKEY 0E98404D386FA1D9\nE: The repository 'http://a.test x InRelease' is not signed.\n",
			"the keyring lacks the key 0E98404D386FA1D9 that signs the package source"},
		{"no suite", "E: The repository 'http://a.test nonsuch Release' does not have a Release file.\n",
			"package source http://a.test nonsuch Release does not have a Release file."},
		{"out of date", "E: Release file for http://a.test/InRelease is expired (invalid since 3d). Updates for this repository will not be applied.\n",
			"the package source http://a.test/InRelease is out of date, or this machine's clock is wrong"},
		{"disk full", "dpkg: x\ntar: write: No space left on device\n", "No space left on device"},
		{"other", "I: hm\nE: something else\n", "something else"},
		{"nothing", "all is well\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Explain(tt.log); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	got := Environment([]string{"http_proxy=http://p.test", "NO_PROXY=x", "SECRET=1", "PATH=/evil", "LD_PRELOAD=x"}, "A=b")
	for _, want := range []string{"http_proxy=http://p.test", "NO_PROXY=x", "A=b", "LC_ALL=C.UTF-8"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing in %q", want, got)
		}
	}
	for _, kv := range got {
		if strings.Contains(kv, "evil") || strings.HasPrefix(kv, "SECRET") || strings.HasPrefix(kv, "LD_") {
			t.Errorf("%s got through", kv)
		}
	}
}

func require(t *testing.T, ok bool, reason string) {
	t.Helper()
	switch {
	case ok:
	case os.Getenv("BIELD_TEST_REQUIRE") == "1":
		t.Fatal("required: " + reason)
	default:
		t.Skip(reason)
	}
}

func TestFetchUnreachable(t *testing.T) {
	_, err := exec.LookPath("apt-get")
	require(t, err == nil, "needs apt-get")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	uri := "http://" + listener.Addr().String() + "/debian"
	listener.Close()
	dir := t.TempDir()
	keyring := filepath.Join(dir, "x.gpg")
	if err := os.WriteFile(keyring, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = Fetch(t.Context(), []Source{{URI: uri, Suite: "x", Components: []string{"main"}, Keyring: keyring}}, []string{"hello"}, dir)
	checkError(t, err, "read the package lists: package source "+uri)
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than a line: %q", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".apt-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestFetchWantsKeyring(t *testing.T) {
	_, err := Fetch(t.Context(), []Source{{URI: "http://u:p@a.test", Suite: "x"}}, []string{"hello"}, t.TempDir())
	checkError(t, err, "source http://a.test has no keyring")
}

// TestFetch downloads a small package from the host's own sources, and checks
// that the host's apt is as it was.
func TestFetch(t *testing.T) {
	release, err := HostRelease("/")
	require(t, err == nil && release.Archive(), "needs Debian or Ubuntu")
	sources, err := HostSources("/", release)
	require(t, err == nil, "needs package sources of the distribution")
	keyring, ok := DefaultKeyring("/", release.ID)
	require(t, ok, "needs the distribution's keyring")
	for i := range sources {
		sources[i].Keyring = keyring
	}
	before := listing(t, "/var/lib/apt/lists") + listing(t, "/var/cache/apt")
	dir := t.TempDir()
	debs, err := Fetch(t.Context(), sources, []string{"netbase"}, dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(debs) != 1 || filepath.Dir(debs[0]) != dir || !strings.HasPrefix(filepath.Base(debs[0]), "netbase_") {
		t.Errorf("got %v", debs)
	}
	if data, err := os.ReadFile(debs[0]); err != nil || !strings.HasPrefix(string(data), "!<arch>\n") {
		t.Errorf("no .deb: %v", err)
	}
	if listing(t, "/var/lib/apt/lists")+listing(t, "/var/cache/apt") != before {
		t.Error("the host's apt has changed")
	}
	_, err = Fetch(t.Context(), sources, []string{"no-such-package-bield"}, dir)
	checkError(t, err, `no package "no-such-package-bield"`)
}

func listing(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString(e.Name() + info.ModTime().String() + "\n")
	}
	return out.String()
}
