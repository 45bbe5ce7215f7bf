package guest

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bield/internal/guestconfig"
)

const (
	basePasswd = "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n" +
		"games:x:5:60:games:/usr/games:/usr/sbin/nologin\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
	baseGroup  = "root:x:0:\ndaemon:x:1:\nsudo:x:27:bob\nusers:x:100:\ngames:x:60:\nshadow:x:42:\n"
	baseShadow = "root:*:19000:0:99999:7:::\ngames:*:19000:0:99999:7:::\n"
)

func baseAccounts() accounts {
	return accounts{passwd: basePasswd, group: baseGroup, shadow: baseShadow, gshadow: "root:*::\nsudo:*::bob\n"}
}

func TestWithUser(t *testing.T) {
	tests := map[string]guestconfig.User{
		"plain":            {Name: "ann", UID: 1000, GID: 1000},
		"gid-of-users":     {Name: "ann", UID: 1000, GID: 100},
		"uid-of-sshd":      {Name: "ann", UID: 100, GID: 1000},
		"name-of-games":    {Name: "games", UID: 1000, GID: 1000},
		"name-is-group":    {Name: "users", UID: 1000, GID: 1000},
		"gid-of-sudo":      {Name: "ann", UID: 501, GID: 27},
		"name-prefix-sudo": {Name: "sud", UID: 1000, GID: 1000},
	}
	for name, u := range tests {
		t.Run(name, func(t *testing.T) {
			u.Home, u.Shell = "/home/"+u.Name, "/usr/bin/zsh"
			a, err := baseAccounts().withUser(u)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "accounts-"+name+".txt", "# passwd\n"+a.passwd+"# group\n"+a.group+"# shadow\n"+a.shadow+
				"# gshadow\n"+a.gshadow+"# subuid\n"+a.subuid+"# subgid\n"+a.subgid)
			again, err := a.withUser(u)
			if err != nil || again != a {
				t.Errorf("a second time changes it: %v", err)
			}
		})
	}
}

func TestWithUserRefusesTheSystemsOwn(t *testing.T) {
	for _, name := range []string{"root", "sshd"} {
		_, err := baseAccounts().withUser(guestconfig.User{Name: name, UID: 1000, GID: 1000})
		if err == nil || !strings.Contains(err.Error(), "set another `user` name") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzWithUser(f *testing.F) {
	f.Add(basePasswd, baseGroup, "ann")
	f.Add("root:x:0:0::/:", "sudo:x:27:", "root:")
	f.Fuzz(func(t *testing.T, passwd, group, name string) {
		if !plain(name) {
			return
		}
		a, err := accounts{passwd: passwd, group: group}.withUser(guestconfig.User{Name: name, UID: 7, GID: 7})
		if err != nil {
			return
		}
		if n := strings.Count("\n"+a.passwd, "\n"+name+":"); n != 1 {
			t.Fatalf("%d entries of %q in %q", n, name, a.passwd)
		}
	})
}

// imageTree is as much of an image as a user needs.
func imageTree(t *testing.T) tree {
	return fill(t, map[string]string{
		"/etc/passwd": basePasswd, "/etc/group": baseGroup, "/etc/shadow": baseShadow,
		"/etc/skel/.profile": "# skeleton\n", "/etc/zsh/zshenv": "# Debian's\n", "/usr/bin/zsh": "#!",
		"/usr/lib/x86_64-linux-gnu/zsh/5.9/zsh/newuser.so": "", "/usr/lib/x86_64-linux-gnu/zsh/5.9/zsh/zle.so": "",
	})
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root to give files away")
	}
}

func TestMakeUser(t *testing.T) {
	needRoot(t)
	root, cfg := imageTree(t), testConfig()
	notes, err := makeUser(root, cfg)
	if err != nil || len(notes) != 0 {
		t.Fatalf("%v, %v", notes, err)
	}
	owned := map[string]struct {
		uid  uint32
		mode uint32
	}{
		"/home": {0, 0o755}, "/home/ann": {1000, 0o750}, "/home/ann/.zshrc": {1000, 0o644},
		"/home/ann/.profile": {1000, 0o644}, "/etc/sudoers.d/bield": {0, 0o440},
		"/etc/ssh/authorized_keys.d/ann": {0, 0o644}, "/etc/shadow": {0, 0o640}, "/etc/passwd": {0, 0o644},
	}
	for path, want := range owned {
		var st unix.Stat_t
		if err := unix.Stat(root.at(path), &st); err != nil {
			t.Fatal(path, err)
		}
		if st.Uid != want.uid || st.Mode&0o7777 != want.mode {
			t.Errorf("%s: uid %d mode %o, want %+v", path, st.Uid, st.Mode&0o7777, want)
		}
	}
	if got := content(t, root, "/etc/sudoers.d/bield"); got != "#1000 ALL=(ALL:ALL) NOPASSWD: ALL\n" {
		t.Errorf("sudoers: %s", got)
	}
	if got := content(t, root, "/etc/ssh/authorized_keys.d/ann"); got != "ssh-ed25519 AAAA ann@host\n" {
		t.Errorf("keys: %s", got)
	}
	if root.exists("/usr/lib/x86_64-linux-gnu/zsh/5.9/zsh/newuser.so") || !root.exists("/usr/lib/x86_64-linux-gnu/zsh/5.9/zsh/zle.so") {
		t.Error("zsh would ask a new user")
	}
	golden(t, "zshenv.txt", content(t, root, "/etc/zsh/zshenv"))
}

func TestMakeUserKeepsWhatIsThere(t *testing.T) {
	needRoot(t)
	root, cfg := imageTree(t), testConfig()
	if err := os.MkdirAll(root.at("/home/ann"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"/.zshrc", "/.profile"} {
		if err := os.WriteFile(root.at("/home/ann"+f), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := makeUser(root, cfg); err != nil {
		t.Fatal(err)
	}
	if content(t, root, "/home/ann/.zshrc") != "mine" || content(t, root, "/home/ann/.profile") != "mine" {
		t.Error("overwrote the home's own files")
	}
}

func TestSharedHomeIsLeftAlone(t *testing.T) {
	needRoot(t)
	root, cfg := imageTree(t), testConfig()
	cfg.Shares = append(cfg.Shares, guestconfig.Share{Tag: "home", MountPoint: cfg.User.Home})
	if _, err := makeUser(root, cfg); err != nil {
		t.Fatal(err)
	}
	if root.exists("/home/ann/.zshrc") {
		t.Error("wrote into a home that the host shares")
	}
}

func TestUsableShell(t *testing.T) {
	needRoot(t)
	root, cfg := imageTree(t), testConfig()
	cfg.User.Shell = "/usr/bin/fish"
	if _, err := makeUser(root, cfg); err == nil {
		t.Fatal("took a shell that is not there")
	}
	if err := os.MkdirAll(root.at("/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root.at("/bin/bash"), []byte("#!"), 0o755); err != nil {
		t.Fatal(err)
	}
	notes, err := makeUser(root, cfg)
	if err != nil || len(notes) != 1 || !strings.Contains(content(t, root, "/etc/passwd"), ":/home/ann:/bin/bash\n") {
		t.Fatalf("%v, %v", notes, err)
	}
}

func TestAuthorizeReplaces(t *testing.T) {
	needRoot(t)
	root := tree(t.TempDir())
	for _, keys := range [][]string{{"a", "b"}, {"c"}, nil} {
		if err := root.authorize("ann", keys); err != nil {
			t.Fatal(err)
		}
		want := strings.Join(keys, "\n")
		if got := strings.TrimSpace(content(t, root, "/etc/ssh/authorized_keys.d/ann")); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if err := root.authorize("ann", []string{"a\nb"}); err == nil {
		t.Error("took two lines as one key")
	}
}

func TestMountPointsBelowHomeAreTheUsers(t *testing.T) {
	needRoot(t)
	root, cfg := tree(t.TempDir()), testConfig()
	for _, p := range []string{"/home/ann/.config/claude", "/srv/data"} {
		if err := makeMountPoint(root, guestconfig.Share{Tag: "x", MountPoint: p}, cfg.User); err != nil {
			t.Fatal(err)
		}
	}
	for path, uid := range map[string]uint32{"/home": 0, "/home/ann": 1000, "/home/ann/.config": 1000,
		"/home/ann/.config/claude": 1000, "/srv": 0, "/srv/data": 0} {
		var st unix.Stat_t
		if err := unix.Stat(root.at(path), &st); err != nil || st.Uid != uid {
			t.Errorf("%s: uid %d, want %d (%v)", path, st.Uid, uid, err)
		}
	}
	if err := os.WriteFile(root.at("/srv/file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	err := makeMountPoint(root, guestconfig.Share{Tag: "x", MountPoint: "/srv/file"}, cfg.User)
	if err == nil || !strings.Contains(err.Error(), "choose another mount point") {
		t.Errorf("got %v", err)
	}
}
