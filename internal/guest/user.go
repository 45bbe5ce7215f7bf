package guest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"bield/internal/guestconfig"
)

const (
	authorizedDir = "/etc/ssh/authorized_keys.d"
	sudoersFile   = "/etc/sudoers.d/bield"
)

// fallbackShells are tried when the image lacks the user's own.
func fallbackShells() []string { return []string{"/bin/zsh", "/bin/bash", "/bin/sh"} }

// makeUser makes the account, its rights, its keys and its home. notes are
// for the console.
func makeUser(t tree, cfg guestconfig.Config) (notes []string, err error) {
	u := cfg.User
	if u.Shell, err = usableShell(t, u.Shell); err != nil {
		return nil, err
	}
	if u.Shell != cfg.User.Shell {
		notes = append(notes, fmt.Sprintf("the image has no %s: %s has %s", cfg.User.Shell, u.Name, u.Shell))
	}
	return notes, firstError(
		t.addAccount(u),
		t.write(sudoersFile, sudoers(u), 0o440, owner{}),
		t.authorize(u.Name, u.AuthorizedKeys),
		t.shellDefaults(u),
		t.makeHome(u, cfg.Shares),
	)
}

func usableShell(t tree, wanted string) (string, error) {
	for _, shell := range append([]string{wanted}, fallbackShells()...) {
		if st, err := os.Stat(t.at(shell)); err == nil && st.Mode()&0o111 != 0 && st.Mode().IsRegular() {
			return shell, nil
		}
	}
	return "", fmt.Errorf("the image has no shell: add %s's package to it", wanted)
}

// sudoers names the user by number: a name may hold what sudoers(5) treats as
// special.
func sudoers(u guestconfig.User) string {
	return fmt.Sprintf("#%d ALL=(ALL:ALL) NOPASSWD: ALL\n", u.UID)
}

// addAccount writes the account files; group files that the image has not are
// not begun.
func (t tree) addAccount(u guestconfig.User) error {
	var a accounts
	files := []struct {
		path string
		text *string
		mode fs.FileMode
	}{
		{"/etc/passwd", &a.passwd, 0o644}, {"/etc/group", &a.group, 0o644},
		{"/etc/shadow", &a.shadow, 0o640}, {"/etc/gshadow", &a.gshadow, 0o640},
		{"/etc/subuid", &a.subuid, 0o644}, {"/etc/subgid", &a.subgid, 0o644},
	}
	for _, f := range files {
		text, err := t.read(f.path)
		if err != nil {
			return fmt.Errorf("add user %s: %w", u.Name, err)
		}
		*f.text = text
	}
	a, err := a.withUser(u)
	if err != nil {
		return err
	}
	shadow := owner{gid: groupID(a.group, "shadow")}
	for _, f := range files {
		o := owner{}
		if f.mode == 0o640 {
			o = shadow
		}
		if err := t.write(f.path, *f.text, f.mode, o); err != nil {
			return fmt.Errorf("add user %s: %w", u.Name, err)
		}
	}
	return nil
}

// groupID is the number of a group, or root's.
func groupID(group, name string) uint32 {
	var id uint32
	if f := strings.Split(entryOf(group, name), ":"); len(f) > 2 {
		_, _ = fmt.Sscan(f[2], &id)
	}
	return id
}

// authorize replaces the keys that may log in as the user. The file is
// root's: what runs as the user cannot let others in.
func (t tree) authorize(user string, keys []string) error {
	for _, k := range keys {
		if err := checkKey(k); err != nil {
			return err
		}
	}
	text := ""
	if len(keys) > 0 {
		text = strings.Join(keys, "\n") + "\n"
	}
	return t.write(filepath.Join(authorizedDir, user), text, 0o644, owner{})
}

// makeHome makes the home and what a home begins with. A home that the host
// shares is the user's own and left alone.
func (t tree) makeHome(u guestconfig.User, shares []guestconfig.Share) error {
	for _, s := range shares {
		if s.MountPoint == u.Home {
			return nil
		}
	}
	o := owner{u.UID, u.GID}
	if err := t.mkdirs(u.Home, u.Home, o); err != nil {
		return err
	}
	home := t.at(u.Home)
	if err := firstError(os.Chown(home, int(o.uid), int(o.gid)), os.Chmod(home, 0o750)); err != nil {
		return fmt.Errorf("home %s: %w", u.Home, err)
	}
	if err := t.copySkeleton(u.Home, o); err != nil {
		return err
	}
	if t.exists(u.Home + "/.zshrc") {
		return nil
	}
	return t.write(u.Home+"/.zshrc", zshrc, 0o644, o)
}

// copySkeleton copies the files of /etc/skel that the home has not.
func (t tree) copySkeleton(home string, o owner) error {
	entries, err := os.ReadDir(t.at("/etc/skel"))
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("home %s: %w", home, err)
	}
	for _, e := range entries {
		to := filepath.Join(home, e.Name())
		if !e.Type().IsRegular() || t.exists(to) {
			continue
		}
		text, err := t.read("/etc/skel/" + e.Name())
		if err = firstError(err, t.write(to, text, 0o644, o)); err != nil {
			return err
		}
	}
	return nil
}
