package guest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestWriteUnits(t *testing.T) {
	needRoot(t)
	root := fill(t, map[string]string{
		unitDir + "/ssh.service":                "[Service]\nExecStart=/bin/false\n", // the image's own, in /etc
		unitDir + "/NetworkManager.service/odd": "",
	})
	if err := writeUnits(root); err != nil {
		t.Fatal(err)
	}
	golden(t, guestUnit, content(t, root, unitDir+"/"+guestUnit))
	golden(t, sshdUnit, content(t, root, unitDir+"/"+sshdUnit))
	for _, u := range maskedUnits() {
		if to, err := os.Readlink(root.at(unitDir + "/" + u)); to != "/dev/null" {
			t.Errorf("%s is not masked: %q %v", u, to, err)
		}
	}
	for _, u := range []string{guestUnit, sshdUnit} {
		if !root.exists(earlyWants + "/" + u) {
			t.Errorf("nothing wants %s", u)
		}
	}
	if err := writeUnits(root); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func TestUnitsVerify(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		skip(t, "needs systemd-analyze")
	}
	dir := t.TempDir()
	var files []string
	for name, text := range map[string]string{guestUnit: guestUnitText(), sshdUnit: sshdUnitText(sshdCommand("/"))} {
		text = strings.NewReplacer(programCopy, "/bin/true", sshdBinary, "/bin/true").Replace(text)
		files = append(files, filepath.Join(dir, name))
		if err := os.WriteFile(files[len(files)-1], []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(testContext(t), analyze, append([]string{"verify", "--man=no"}, files...)...)
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), dir) {
		t.Errorf("%v: %s", err, out)
	}
}

func TestFindSystemd(t *testing.T) {
	if _, err := findSystemd(tree(t.TempDir())); err == nil || !strings.Contains(err.Error(), "init: bield") {
		t.Errorf("got %v", err)
	}
	if got, err := findSystemd(fill(t, map[string]string{"/lib/systemd/systemd": ""})); got != "/lib/systemd/systemd" || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

func TestMachineID(t *testing.T) {
	a, b := testConfig(), testConfig()
	b.Hostname = "other"
	if len(machineID(a)) != 32 || machineID(a) != machineID(testConfig()) || machineID(a) == machineID(b) {
		t.Errorf("%s, %s", machineID(a), machineID(b))
	}
}

// TestZshrc: the start-up file is a program, and zsh knows best.
func TestZshrc(t *testing.T) {
	zsh, err := exec.LookPath("zsh")
	if err != nil {
		skip(t, "needs zsh")
	}
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, ".zshrc"), []byte(zshrc), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(testContext(t), zsh, "-d", "-i", "-c", `print -r -- $path[1] $HISTSIZE ${aliases[ls]} && bindkey '^I'`)
	cmd.Env = []string{"HOME=" + home, "ZDOTDIR=" + home, "PATH=/usr/bin:/bin", "TERM=xterm"}
	out, err := cmd.CombinedOutput()
	want := home + "/.local/bin 50000 ls --color=auto\n\"^I\" _bield_first_tab\n"
	if err != nil || string(out) != want {
		t.Errorf("%v: %q, want %q", err, out, want)
	}
}

func TestEnvironmentIsPOSIX(t *testing.T) {
	cmd := exec.CommandContext(testContext(t), "/bin/sh", "-eu", "-c", environment(testConfig().User)+`echo "$LANG"`)
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "C.UTF-8\n" {
		t.Errorf("%v: %s", err, out)
	}
}
