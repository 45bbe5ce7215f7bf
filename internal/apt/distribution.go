package apt

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// host tells the distribution's own sources from others'.
type host struct {
	root    string
	release Release
}

// expand makes one Source of every URI and suite of an entry. An entry whose
// key is no keyring of the distribution gives none.
func (h host) expand(e Entry) []Source {
	keyring, ok := h.keyring(e)
	if !ok {
		return nil
	}
	var out []Source
	for _, uri := range e.URIs {
		uri, ok := h.remote(uri)
		if !ok {
			continue
		}
		for _, suite := range e.Suites {
			out = append(out, Source{
				URI: uri, Suite: suite, Components: slices.Clone(e.Components), Keyring: keyring,
			})
		}
	}
	return out
}

// keyringDirs are where Debian and Ubuntu put the keys of archives.
const keyringDirs = "/usr/share/keyrings /etc/apt/trusted.gpg.d /etc/apt/keyrings"

// keyring is the distribution keyring an entry names, or "" where it names none.
func (h host) keyring(e Entry) (string, bool) {
	if e.InlineKey {
		return "", false
	}
	if len(e.SignedBy) == 0 {
		return "", true
	}
	for _, path := range e.SignedBy {
		dir, base := filepath.Split(filepath.Clean(path))
		if !slices.Contains(strings.Fields(keyringDirs), filepath.Clean(dir)) ||
			!strings.HasPrefix(base, h.release.ID+"-archive-") {
			return "", false
		}
	}
	return filepath.Clean(e.SignedBy[0]), true
}

// remote is the URI that a guest can use as well: http or https. The
// mirror+file lists of Debian's cloud images stand for their first such line.
func (h host) remote(uri string) (string, bool) {
	if list, ok := strings.CutPrefix(uri, "mirror+file:"); ok {
		return h.firstMirror(list)
	}
	u, err := url.Parse(uri)
	// These would mean something else on a line of sources.list.
	if err != nil || strings.ContainsAny(uri, " \t#[]\"") || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return "", false
	}
	return uri, true
}

// firstMirror reads a mirror list (apt-transport-mirror(1)): one URI a line,
// options behind a tab.
func (h host) firstMirror(path string) (string, bool) {
	data, err := os.ReadFile(filepath.Join(h.root, strings.TrimPrefix(path, "//")))
	if err != nil {
		return "", false
	}
	for _, line := range lines(data) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), "\t")
		if strings.HasPrefix(line, "http://") || strings.HasPrefix(line, "https://") {
			return h.remote(line)
		}
	}
	return "", false
}

// own says whether the source is one of the distribution's: by its suite and
// component, and, without a keyring of its own, by the origin that its
// downloaded Release file names.
func (h host) own(s Source) bool {
	if !slices.Contains(s.Components, "main") || slices.ContainsFunc(s.Components, oddComponent) {
		return false
	}
	release, known := h.downloaded(s)
	if known && s.Keyring == "" && !strings.EqualFold(release["origin"], h.release.ID) {
		return false
	}
	base, _, _ := strings.Cut(s.Suite, "-")
	pocket := strings.TrimPrefix(s.Suite, base)
	if pocket != "" && pocket != "-updates" && pocket != "-security" {
		return false
	}
	// "stable" and the like are the codename where the archive says so.
	named, _, _ := strings.Cut(release["codename"], "-")
	return base == h.release.Codename || known && named == h.release.Codename
}

var component = regexp.MustCompile(`^[A-Za-z0-9./_-]+$`)

func oddComponent(name string) bool { return !component.MatchString(name) }

// downloaded are the fields of the archive's Release file as the host's apt
// last fetched it.
func (h host) downloaded(s Source) (map[string]string, bool) {
	name := strings.TrimSuffix(publicURI(s.URI), "/")
	if _, rest, ok := strings.Cut(name, "://"); ok {
		name = rest
	}
	// apt quotes '_' and turns '/' into '_' (URItoFileName).
	name = strings.ReplaceAll(strings.ReplaceAll(name, "_", "%5f"), "/", "_")
	for _, kind := range []string{"InRelease", "Release"} {
		file := filepath.Join(h.root, "var/lib/apt/lists", name+"_dists_"+s.Suite+"_"+kind)
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		_, data2, signed := strings.Cut(string(data), "\n\n")
		if kind == "InRelease" && signed {
			data = []byte(data2)
		}
		return releaseFields(data), true
	}
	return nil, false
}

// DefaultKeyring is the archive keyring of a distribution on this host: the
// first of the usual places that exists.
func DefaultKeyring(root, id string) (string, bool) {
	for _, ext := range []string{".gpg", ".pgp"} {
		path := "/usr/share/keyrings/" + id + "-archive-keyring" + ext
		if _, err := os.Stat(filepath.Join(root, path)); err == nil {
			return path, true
		}
	}
	return "", false
}
