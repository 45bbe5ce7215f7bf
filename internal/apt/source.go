package apt

import (
	"net/url"
	"strings"
)

// Source is one distribution archive: one URI and one suite of it.
type Source struct {
	URI        string   `json:"uri"`
	Suite      string   `json:"suite"`
	Components []string `json:"components"`
	// Keyring is the absolute path of the keyring that signs the archive;
	// empty means that the configuration names none.
	Keyring string `json:"keyring,omitempty"`
}

// Public is the source without the credentials its URI may hold.
func (s Source) Public() Source {
	s.URI = publicURI(s.URI)
	return s
}

// publicURI drops the user information of a URI. What does not parse is cut
// by hand: a password must not survive because it is odd.
func publicURI(uri string) string {
	if u, err := url.Parse(uri); err == nil && u.Opaque == "" {
		u.User = nil
		return u.String()
	}
	scheme, rest, ok := strings.Cut(uri, "://")
	if !ok {
		return uri
	}
	authority, path, _ := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		authority = authority[at+1:]
	}
	return scheme + "://" + authority + "/" + path
}

// Line is the source in the one-line format of sources.list(5).
func (s Source) Line() string {
	var b strings.Builder
	b.WriteString("deb ")
	if s.Keyring != "" {
		b.WriteString("[signed-by=" + s.Keyring + "] ")
	}
	b.WriteString(s.URI + " " + s.Suite)
	for _, c := range s.Components {
		b.WriteString(" " + c)
	}
	return b.String()
}

// Lines is a whole sources.list.
func Lines(sources []Source) string {
	var b strings.Builder
	for _, s := range sources {
		b.WriteString(s.Line() + "\n")
	}
	return b.String()
}

// Deb822 is the source as a stanza of a .sources file.
func (s Source) Deb822() string {
	out := "Types: deb\nURIs: " + s.URI + "\nSuites: " + s.Suite + "\n"
	if len(s.Components) > 0 {
		out += "Components: " + strings.Join(s.Components, " ") + "\n"
	}
	if s.Keyring != "" {
		out += "Signed-By: " + s.Keyring + "\n"
	}
	return out
}
