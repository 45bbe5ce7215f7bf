package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"bield/test/fakes"
)

// TestVerifyMachine verifies a VM that is given, beside its own, a disk of the
// host's and a channel to the VMM: each is found.
func TestVerifyMachine(t *testing.T) {
	h := newHost(t)
	workspace := h.folder(t, "work", guestUID, guestGID)
	h.configure(t, minimal(workspace)+"    storeOnDisk: true\n") // its kernel then knows disks
	v := &verified{h: h, workspace: workspace, name: "one"}
	wrap := wrapQEMU(t)
	for _, c := range []struct {
		name, more string
		holes      []string
	}{
		{"as it is", "", nil},
		// What Landlock leaves QEMU to read.
		{"a disk", "-drive if=none,id=more,file=/usr/share/common-licenses/GPL-3,format=raw,readonly=on -device virtio-blk-device,drive=more", []string{"disks", "virtio devices"}},
		{"a channel", "-chardev null,id=more -device virtserialport,chardev=more,name=more,nr=5", []string{"virtio-serial ports"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			wrap(c.more)
			h.bield(t, "up")
			rows, code := v.verify(t)
			if want := map[bool]int{true: 1}[len(c.holes) > 0]; code != want {
				t.Errorf("exit code %d:\n%s", code, table(rows))
			}
			for _, part := range c.holes {
				if !holeIn(rows, part) {
					t.Errorf("no hole found in %q:\n%s", part, table(rows))
				}
			}
			h.bield(t, "down")
		})
	}
}

// wrapQEMU puts before QEMU, in PATH, what starts it with more words; wrap says
// which.
func wrapQEMU(t *testing.T) (wrap func(words string)) {
	t.Helper()
	program, err := exec.LookPath(fakes.QEMU())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(os.Getenv(envInside), "q")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func(words string) {
		t.Helper()
		// In the script itself: Landlock leaves it no other file.
		script := fmt.Sprintf("#!/bin/sh\nexec %s \"$@\" %s\n", program, words)
		if err := os.WriteFile(filepath.Join(dir, fakes.QEMU()), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
