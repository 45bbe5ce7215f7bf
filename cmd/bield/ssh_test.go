package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"bield/internal/api"
)

func TestSSHArguments(t *testing.T) {
	access := api.AccessReply{
		Address: "192.168.83.2", User: "dev", Alias: "one.bield",
		Identity: "/state/keys/id_ed25519", KnownHosts: "/run/known_hosts",
	}
	fixed := []string{
		"ssh", "-F", "none", "-i", "/state/keys/id_ed25519",
		"-o", "IdentitiesOnly=yes",
		"-o", "UserKnownHostsFile=/run/known_hosts",
		"-o", "GlobalKnownHostsFile=none",
		"-o", "StrictHostKeyChecking=yes",
		"-o", "HostKeyAlias=one.bield",
		"-o", "ForwardAgent=no",
		"-o", "LogLevel=ERROR",
		"-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=6",
		"--", "dev@192.168.83.2",
	}
	for name, c := range map[string]struct{ command, want []string }{
		"a login shell":              {nil, nil},
		"one word is a shell's line": {[]string{"cd /workspace && make | tail"}, []string{"cd /workspace && make | tail"}},
		"words arrive as they are":   {[]string{"git", "commit", "-m", "it's done; $HOME"}, []string{`'git'`, `'commit'`, `'-m'`, `'it'\''s done; $HOME'`}},
		"no word is lost":            {[]string{"printf", "%s", ""}, []string{`'printf'`, `'%s'`, `''`}},
		"what looks like an option":  {[]string{"-oProxyCommand=x", "-v"}, []string{`'-oProxyCommand=x'`, `'-v'`}},
	} {
		t.Run(name, func(t *testing.T) {
			want := append(slices.Clone(fixed), c.want...)
			if got := sshArguments(access, c.command); !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

// FuzzQuote asks a shell what it makes of a quoted word.
func FuzzQuote(f *testing.F) {
	for _, word := range []string{"", "a b", "it's", `\`, "$HOME `x`", "-n", "*", "a\nb", "'''", "größe"} {
		f.Add(word)
	}
	f.Fuzz(func(t *testing.T, word string) {
		if strings.ContainsRune(word, 0) {
			t.Skip("no argument holds a zero byte")
		}
		out, err := exec.Command("/bin/sh", "-c", "printf %s "+quote(word)).Output()
		if err != nil || string(out) != word {
			t.Errorf("%q came as %q, %v", word, out, err)
		}
	})
}
