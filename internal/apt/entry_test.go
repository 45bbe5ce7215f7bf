package apt

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseList(t *testing.T) {
	tests := []struct {
		name, in string
		want     []Entry
		err      string
	}{
		{"plain", "deb http://deb.example.org/debian bookworm main contrib\n",
			[]Entry{{Types: []string{"deb"}, URIs: []string{"http://deb.example.org/debian"}, Suites: []string{"bookworm"}, Components: []string{"main", "contrib"}}}, ""},
		{"comments, blank lines, CRLF", "# a comment\r\n\r\n  deb\thttp://a.test/d  x main # why\r\n",
			[]Entry{{Types: []string{"deb"}, URIs: []string{"http://a.test/d"}, Suites: []string{"x"}, Components: []string{"main"}}}, ""},
		{"options", "deb [ arch=amd64 signed-by=/a.gpg,/b.gpg ] http://a.test x main",
			[]Entry{{Types: []string{"deb"}, URIs: []string{"http://a.test"}, Suites: []string{"x"}, Components: []string{"main"}, SignedBy: []string{"/a.gpg", "/b.gpg"}}}, ""},
		{"switched off", "deb [enabled=no] http://a.test x main",
			[]Entry{{Types: []string{"deb"}, URIs: []string{"http://a.test"}, Suites: []string{"x"}, Components: []string{"main"}, Disabled: true}}, ""},
		{"flat", "deb http://a.test ./",
			[]Entry{{Types: []string{"deb"}, URIs: []string{"http://a.test"}, Suites: []string{"./"}}}, ""},
		{"cdrom with blanks", "deb cdrom:[Debian GNU/Linux 12]/ bookworm main",
			[]Entry{{Types: []string{"deb"}, URIs: []string{"cdrom:[Debian GNU/Linux 12]/"}, Suites: []string{"bookworm"}, Components: []string{"main"}}}, ""},
		{"no suite", "\ndeb http://a.test", nil, "line 2: a source needs a URI and a suite"},
		{"open bracket", "deb [arch=amd64 http://a.test x main", nil, `line 1: "]" is missing`},
		{"glued options", "deb [arch=amd64]http://a.test x main", nil, "line 1: text follows the options"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseList([]byte(tt.in))
			checkError(t, err, tt.err)
			if !sameEntries(got, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestParseDeb822(t *testing.T) {
	tests := []struct {
		name, in string
		want     []Entry
		err      string
	}{
		{"two stanzas", `# head
Types: deb deb-src
URIs: http://a.test/debian
# between
  http://b.test/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

types: deb
uris: http://c.test
suites: x
ENABLED: no
`, []Entry{
			{Types: []string{"deb", "deb-src"}, URIs: []string{"http://a.test/debian", "http://b.test/debian"},
				Suites: []string{"bookworm", "bookworm-updates"}, Components: []string{"main"},
				SignedBy: []string{"/usr/share/keyrings/debian-archive-keyring.gpg"}},
			{Types: []string{"deb"}, URIs: []string{"http://c.test"}, Suites: []string{"x"}, Disabled: true},
		}, ""},
		{"key in the text", "Types: deb\nURIs: http://a.test\nSuites: x\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n",
			[]Entry{{Types: []string{"deb"}, URIs: []string{"http://a.test"}, Suites: []string{"x"}, InlineKey: true}}, ""},
		{"no field", "Types: deb\nnonsense\n", nil, `line 2: "nonsense" is no field`},
		{"continuation of nothing", " x\n", nil, "line 1: the continuation of no field"},
		{"no URI", "\nTypes: deb\nSuites: x\n", nil, "line 2: a source needs Types, URIs and Suites"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseDeb822([]byte(tt.in))
			checkError(t, err, tt.err)
			if !sameEntries(got, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// sameEntries takes nil and empty lists for equal.
func sameEntries(a, b []Entry) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		for _, e := range []*Entry{&a[i], &b[i]} {
			for _, list := range []*[]string{&e.Types, &e.URIs, &e.Suites, &e.Components, &e.SignedBy} {
				*list = append([]string{}, *list...)
			}
		}
	}
	return len(a) == 0 || reflect.DeepEqual(a, b)
}

func checkError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Fatalf("error %v", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Fatalf("error %v, want one with %q", err, want)
	}
}

func FuzzParseList(f *testing.F) {
	f.Add([]byte("deb [signed-by=/a.gpg] http://a.test x main\n"))
	f.Add([]byte("deb cdrom:[Debian 12]/ x main # c"))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := ParseList(data)
		if err != nil && entries != nil {
			t.Error("entries beside an error")
		}
		for _, e := range entries {
			if len(e.Types) != 1 || len(e.URIs) != 1 || len(e.Suites) != 1 {
				t.Errorf("an entry without its parts: %+v", e)
			}
			writable(t, host{root: "/nonexistent", release: Release{ID: "debian", Codename: "x"}}, e)
		}
	})
}

func FuzzParseDeb822(f *testing.F) {
	f.Add([]byte("Types: deb\nURIs: http://a.test\nSuites: x\nSigned-By:\n -----BEGIN\n"))
	f.Add([]byte("# c\n\nA: b\n c\n"))
	f.Add([]byte("Types: deb\nURIs: http://a.test/#b https://u:p@c.test/[d]\nSuites: x x-updates\nComponents: main a#b\nSigned-By: /etc/apt/keyrings/debian-archive-x.gpg"))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := ParseDeb822(data)
		if err != nil && entries != nil {
			t.Error("entries beside an error")
		}
		for _, e := range entries {
			writable(t, host{root: "/nonexistent", release: Release{ID: "debian", Codename: "x"}}, e)
		}
	})
}

// writable checks that what is taken from a configuration can be written into
// another without becoming more than one line.
func writable(t *testing.T, h host, e Entry) {
	t.Helper()
	for _, s := range h.expand(e) {
		if !h.own(s) {
			continue
		}
		if got, err := ParseList([]byte(s.Line() + "\n")); err != nil || len(got) != 1 || got[0].URIs[0] != s.URI {
			t.Errorf("source %+v becomes %+v, %v", s, got, err)
		}
	}
}
