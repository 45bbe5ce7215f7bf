package spec

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// systemNames are accounts of a Debian guest (base-passwd, openssh-server, systemd).
func systemNames() []string {
	return []string{"root", "daemon", "bin", "sys", "sync", "games", "man", "lp", "mail", "news", "uucp", "proxy",
		"www-data", "backup", "list", "irc", "gnats", "nobody", "_apt", "sshd", "messagebus", "systemd-network",
		"systemd-timesync", "systemd-resolve"}
}

func (c *checker) checkUser(at location, u User) {
	c.say(at.to("name"), UserNameProblem(u.Name))
	c.say(at.to("uid"), guestIDProblem("uid", u.UID))
	c.say(at.to("gid"), guestIDProblem("gid", u.GID))
	c.say(at.to("home"), homeProblem(u.Home))
	switch m := pathProblem(u.Shell); {
	case m != "":
		c.add(at.to("shell"), "%s", m)
	case strings.ContainsAny(u.Shell, ": \t"):
		c.add(at.to("shell"), "%q cannot stand in /etc/passwd — write for example /bin/zsh", u.Shell)
	}
	c.checkKeys(at.to("authorizedKeys"), u.AuthorizedKeys)
}

// UserNameProblem says why name cannot be the guest's user, or is "".
func UserNameProblem(name string) string {
	switch {
	case len(name) > 32 || !madeOf(name, letters+"_", letters+digits+"_.-"):
		return fmt.Sprintf("%.60q is no user name — use at most 32 letters, digits, - _ and ., beginning with a letter", name)
	case slices.Contains(systemNames(), name):
		return fmt.Sprintf("%q is an account of the guest's own system — choose another `user`", name)
	}
	return ""
}

func guestIDProblem(kind string, id uint32) string {
	if id > 0 && id <= maxSystemUID {
		return fmt.Sprintf("%s %d belongs to the guest's own system — use 100 or more", kind, id)
	}
	return idProblem(kind, id)
}

// idProblem refuses the ids that nothing of bield's may serve a guest as.
func idProblem(kind string, id uint32) string {
	switch {
	case id == 0:
		return fmt.Sprintf("%s 0 is root: nothing serves a guest as root — name an ordinary user", kind)
	case id == math.MaxUint16 || id == math.MaxUint32:
		return fmt.Sprintf("%s %d means \"none\" to Linux — use another", kind, id)
	case id >= ImageUIDBase && id-ImageUIDBase < 1<<20+VMMUIDCount:
		return fmt.Sprintf("%s %d is in the range that bield keeps for itself — use another", kind, id)
	}
	return ""
}

func homeProblem(home string) string {
	if m := pathProblem(home); m != "" {
		return m
	}
	if home == WorkspaceMount || mountProblem(home, "") != "" || strings.Contains(home, ":") {
		return fmt.Sprintf("%q cannot be a home — write for example /home/agent", home)
	}
	return ""
}

func (c *checker) checkKeys(at location, keys []string) {
	if len(keys) > maxKeys {
		c.add(at, "%d keys are too many — keep to %d", len(keys), maxKeys)
		return
	}
	for i, k := range keys {
		c.say(at.to(strconv.Itoa(i)), KeyProblem(k))
	}
}

// KeyProblem says why line cannot be a line of authorized_keys, or is "". It
// looks for "TYPE BASE64" (sshd(8)), where the base64 begins with the length of
// the type and the type again (RFC 4253, section 6.6).
func KeyProblem(line string) string {
	const write = "write the line of a .pub file, \"ssh-ed25519 AAAA… comment\""
	switch {
	case strings.Contains(line, "PRIVATE KEY"):
		return "is a private key — " + write
	case len(line) > maxKeyBytes || strings.ContainsFunc(line, unicode.IsControl) || !utf8.ValidString(line):
		return "is not one line of text — " + write
	}
	fields := strings.Fields(line)
	for i := range max(0, len(fields)-1) {
		blob, err := base64.StdEncoding.DecodeString(fields[i+1])
		if err == nil && len(blob) > 4 && strings.HasPrefix(string(blob[4:]), fields[i]) &&
			binary.BigEndian.Uint32(blob) == uint32(len(fields[i])) {
			return ""
		}
	}
	return fmt.Sprintf("%.40q is no public key — %s", line, write)
}

func (c *checker) checkImage(at location, m Image) {
	if m.Suite != "" && (len(m.Suite) > 64 || !madeOf(m.Suite, letters+digits, letters+digits+"._-")) {
		c.add(at.to("suite"), "%q is no suite — write for example bookworm", m.Suite)
	}
	if m.Mirror != "" {
		c.say(at.to("mirror"), mirrorProblem(m.Mirror))
	}
	if m.Keyring != "" {
		c.say(at.to("keyring"), pathProblem(m.Keyring))
	}
	if len(m.Packages) > maxPackages {
		c.add(at.to("packages"), "%d packages are too many — keep to %d", len(m.Packages), maxPackages)
		return
	}
	for i, p := range m.Packages {
		if !packageName(p) {
			c.add(at.to("packages", strconv.Itoa(i)), "%q is no Debian package name — use lower-case letters, digits, + - and .", p)
		}
	}
}

func mirrorProblem(mirror string) string {
	u, err := url.Parse(mirror)
	switch {
	case err != nil || strings.ContainsFunc(mirror, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return fmt.Sprintf("%q is no URL — write for example https://mirror.example/debian", mirror)
	case u.User != nil:
		return "holds a name or password, which would end in the image — use a mirror that needs none"
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "", u.Scheme == "file" && u.Host == "" && path.IsAbs(u.Path):
		return ""
	}
	return fmt.Sprintf("%q is no mirror — write a URL of http, https or file", mirror)
}

func (c *checker) checkShares(at location, v *VM) {
	if v.Workspace() == "" {
		c.add(at.to("workspace"), "is missing — name the host folder that the guest sees at %s", WorkspaceMount)
	}
	if len(v.Shares) > MaxShares {
		c.add(at.to("shares"), "%d shares, the workspace among them: a VM has room for %d — remove some", len(v.Shares), MaxShares)
		return
	}
	home := v.User.Home
	if homeProblem(home) != "" {
		home = "" // said already
	}
	tags, mounts := map[string]bool{}, map[string]bool{}
	for i, s := range v.Shares {
		at := at.to("shares", strconv.Itoa(i))
		c.checkSource(at.to("source"), s.Source)
		c.checkTag(at.to("tag"), s, tags[s.Tag])
		c.say(at.to("mountPoint"), mountProblem(s.MountPoint, home))
		if mounts[s.MountPoint] {
			c.add(at.to("mountPoint"), "%q is mounted twice — choose another mount point", s.MountPoint)
		}
		if child := firstBelow(mounts, s.MountPoint); child != "" {
			c.add(at.to("mountPoint"), "%q would hide %q, mounted before it — put it first", s.MountPoint, child)
		}
		c.checkShareUser(at.to("user"), s.User)
		tags[s.Tag], mounts[s.MountPoint] = true, true
	}
}

func (c *checker) checkShareUser(at location, id *ID) {
	if id == nil {
		return
	}
	c.say(at, idProblem("uid", id.UID))
	if id.UID != 0 {
		c.say(at, idProblem("gid", id.GID))
	}
}

func (c *checker) checkSource(at location, source string) {
	if m := pathProblem(source); m != "" {
		c.say(at, m)
		return
	}
	state := c.stateDir
	switch {
	case within(source, "/proc") || within(source, "/sys") || within(source, "/dev"):
		c.add(at, "%q is the kernel's — share a folder of files", source)
	case state != "" && (within(source, state) || within(state, source)):
		c.add(at, "%q and the state folder %s lie in each other: a guest would see bield's keys — share another folder", source, state)
	}
}

func (c *checker) checkTag(at location, s Share, twice bool) {
	switch {
	case s.Tag == "":
		c.add(at, "is empty — write a short name")
	case len(s.Tag) > MaxTagBytes:
		c.add(at, "%q has %d bytes, virtio-fs allows %d — shorten it", s.Tag, len(s.Tag), MaxTagBytes)
	case !madeOf(s.Tag, letters+digits+"_", letters+digits+"_.-"):
		c.add(at, "%q is no tag — use letters, digits, - _ and .", s.Tag)
	case s.Tag == RootTag || s.Tag == HostKeysTag:
		c.add(at, "%q is bield's own — choose another tag", s.Tag)
	case (s.Tag == WorkspaceTag) != (s.MountPoint == WorkspaceMount):
		c.add(at, "the tag %q and the mount point %s belong together — choose another tag or mount point", WorkspaceTag, WorkspaceMount)
	case twice:
		c.add(at, "the tag %q is there twice — choose another for one of them", s.Tag)
	}
}

// mountProblem says why a guest cannot have a share there; home is the
// guest user's, which bield makes anew at each start.
func mountProblem(at, home string) string {
	if m := pathProblem(at); m != "" {
		return m
	}
	for _, own := range []string{"/proc", "/sys", "/dev", "/run", "/var/run", HostKeysMount} {
		if within(at, own) {
			return fmt.Sprintf("%q lies in %s, which the guest needs for itself — choose another mount point", at, own)
		}
	}
	needed := []string{HostKeysMount, "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/share", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/var/lib", home}
	for _, p := range needed {
		if p != "" && within(p, at) {
			return fmt.Sprintf("%q would hide %s, which the guest needs — choose a mount point of its own", at, p)
		}
	}
	return ""
}

// pathProblem is about the text of a path alone.
func pathProblem(p string) string {
	switch {
	case p == "":
		return "is empty — write an absolute path"
	case len(p) >= 4096 || strings.ContainsFunc(p, unicode.IsControl) || !utf8.ValidString(p):
		return fmt.Sprintf("%.60q is no usable path — write one without control characters, under 4096 bytes", p)
	case !path.IsAbs(p):
		return fmt.Sprintf("%q is not absolute — write the whole path, from /", p)
	case path.Clean(p) != p:
		return fmt.Sprintf("%q is written roundabout — write %q", p, path.Clean(p))
	}
	return ""
}

// within reports whether the clean path p is dir or lies below it.
func within(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}

func firstBelow(mounts map[string]bool, dir string) string {
	for _, m := range slices.Sorted(maps.Keys(mounts)) {
		if m != dir && dir != "/" && within(m, dir) {
			return m
		}
	}
	return ""
}
