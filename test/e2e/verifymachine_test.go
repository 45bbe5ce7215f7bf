package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"bield/test/fakes"
	"bield/test/vsock"
)

// TestVerifyMachine verifies a VM that is given, beside its own, a disk of the
// host's, a channel to the VMM, an option for its firmware and the host's vsock:
// each is found.
func TestVerifyMachine(t *testing.T) {
	h := newHost(t)
	workspace := h.folder(t, "work", guestUID, guestGID)
	h.configure(t, minimal(workspace)+"    storeOnDisk: true\n") // its kernel then knows disks
	v := &verified{h: h, workspace: workspace, name: "one"}
	wrap := wrapQEMU(t)
	socket := vsockOf(t, h.folder(t, "vsock", 0, 0), 1023)
	for _, c := range []struct {
		name, more string
		inside     string // what the guest's root does first
		holes      []string
	}{
		{"as it is", "", "true", nil},
		// What Landlock leaves QEMU to read.
		{"a disk", "-drive if=none,id=more,file=/usr/share/common-licenses/GPL-3,format=raw,readonly=on -device virtio-blk-device,drive=more", "true", []string{"disks", "virtio devices"}},
		{"a channel", "-chardev null,id=more -device virtserialport,chardev=more,name=more,nr=5", "true", []string{"virtio-serial ports"}},
		{"an option", "-fw_cfg name=opt/org.example/more,string=more", "true", []string{"options of the host's in fw_cfg"}},
		{"vsock", "-chardev socket,id=more,path=" + socket + " -device vhost-user-vsock-device,chardev=more", "modprobe vmw_vsock_virtio_transport",
			[]string{"vsock to the host", "virtio devices"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			wrap(c.more)
			h.bield(t, "up")
			h.in(t, v.name, "sudo "+c.inside)
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

// vsockOf serves vsock devices at a socket, whose host listens on one port.
func vsockOf(t *testing.T, dir string, port uint32) (path string) {
	t.Helper()
	path = filepath.Join(dir, "sock")
	listener := listenUnix(t, path)
	device := vsock.New(3)
	device.Listen(port)
	ended := make(chan error, 1)
	go func() { ended <- device.ServeQEMU(listener) }()
	t.Cleanup(func() {
		_ = listener.Close()
		if err := <-ended; err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return path
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
