package guest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"bield/internal/guestconfig"
)

// accounts is the text of the account files (passwd(5), group(5), shadow(5),
// gshadow(5), subuid(5)); "" for one that the image has not.
type accounts struct {
	passwd, group, shadow, gshadow, subuid, subgid string
}

// adminGroups are the groups that stand for sudo in the distributions.
func adminGroups() []string { return []string{"sudo", "wheel"} }

// The range of subordinate ids that adduser(8) would give the first user.
const subordinateIDs = "100000:65536"

// withUser returns the files with the user in them. An entry of the same name
// gives way; one of the same number stays behind the user's, so that names
// are the user's and the system's own account still exists.
func (a accounts) withUser(u guestconfig.User) (accounts, error) {
	if err := a.checkName(u.Name); err != nil {
		return a, err
	}
	a.group, a.gshadow = withPrimaryGroup(ended(a.group), ended(a.gshadow), u)
	for _, g := range adminGroups() {
		a.group = withMember(a.group, g, u.Name)
		a.gshadow = withMember(a.gshadow, g, u.Name)
	}
	entry := fmt.Sprintf("%s:x:%d:%d::%s:%s", u.Name, u.UID, u.GID, u.Home, u.Shell)
	a.passwd = insertEntry(withoutEntry(a.passwd, u.Name), entry)
	// "*" is no password and not locked either: sshd without PAM refuses "!".
	a.shadow = insertEntry(withoutEntry(a.shadow, u.Name), u.Name+":*:::::::")
	sub := u.Name + ":" + subordinateIDs
	a.subuid = insertEntry(withoutEntry(a.subuid, u.Name), sub)
	a.subgid = insertEntry(withoutEntry(a.subgid, u.Name), sub)
	return a, nil
}

// checkName refuses names that the system itself cannot do without.
func (a accounts) checkName(name string) error {
	fields := strings.Split(entryOf(a.passwd, name), ":")
	if name == "sshd" || len(fields) > 2 && fields[2] == "0" {
		return fmt.Errorf("user %q is the image's own: set another `user` name", name)
	}
	return nil
}

// withPrimaryGroup sees that the user's gid has a group. A group of that
// number is taken as it is; else one is made, called as the user where no
// other group has that name.
func withPrimaryGroup(group, gshadow string, u guestconfig.User) (string, string) {
	gid := strconv.FormatUint(uint64(u.GID), 10)
	for line := range strings.Lines(group) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) > 2 && f[2] == gid {
			return group, gshadow
		}
	}
	name := u.Name
	if entryOf(group, name) != "" {
		name = "bield" + gid
	}
	return insertEntry(group, name+":x:"+gid+":"), insertEntry(gshadow, name+":!::")
}

// withMember adds the user to a group's last field, if the group is there.
func withMember(text, group, user string) string {
	old := entryOf(text, group)
	if old == "" {
		return text
	}
	i := strings.LastIndexByte(old, ':')
	members := strings.FieldsFunc(old[i+1:], func(r rune) bool { return r == ',' })
	if slices.Contains(members, user) {
		return text
	}
	entry := old[:i+1] + strings.Join(append(members, user), ",")
	return strings.Replace("\n"+text, "\n"+old+"\n", "\n"+entry+"\n", 1)[1:]
}

// entryOf returns the line of a name without its newline.
func entryOf(text, name string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name+":") {
			return strings.TrimSuffix(line, "\n")
		}
	}
	return ""
}

func withoutEntry(text, name string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, name+":") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// insertEntry puts a line behind root's: the first entry of a number names it.
func insertEntry(text, entry string) string {
	text = ended(text)
	if root := entryOf(text, "root"); root != "" && strings.HasPrefix(text, root+"\n") {
		return root + "\n" + entry + "\n" + text[len(root)+1:]
	}
	return entry + "\n" + text
}

// ended sees that a text's last line is whole.
func ended(text string) string {
	if text != "" && !strings.HasSuffix(text, "\n") {
		return text + "\n"
	}
	return text
}
