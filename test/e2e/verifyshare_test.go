package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bield/internal/setup"
	"bield/internal/state"
)

// TestVerifyShares verifies a VM whose shares are served as they should not be:
// by a virtiofsd that writes what is read-only, by one that is root, and by one
// that serves all of the host.
func TestVerifyShares(t *testing.T) {
	w := newWrapper(t)
	h := newHost(t)
	workspace, reference := h.folder(t, "work/first", guestUID, guestGID), h.folder(t, "work/reference", guestUID, guestGID)
	h.configure(t, fmt.Sprintf(`  first:
    ip: 192.168.83.2
    mem: 512
    workspace: %s
    shares: [{source: %s, mountPoint: /mnt/reference, readOnly: true}]
`, workspace, reference))
	v := &verified{h: h, name: "first", workspace: workspace, reference: reference}
	for mode, holes := range map[string][]string{
		"as it is": nil,
		"everything": {"workspace: a link to a file of the host's, absolute", "workspace: a link to a file of the host's, relative", "workspace: .. out of it",
			"workspace: file handles of what it does not show", "workspace: rename to the folder above", "workspace: link to the folder above"},
		"writable": {"reference: mounted anew for writing, a file is written", "ssh-host-keys: mounted anew for writing, a file is written"},
		"root":     {"workspace: mknod of a block device", "workspace: mknod of a char device", "workspace: a setuid program of root's"},
	} {
		t.Run(mode, func(t *testing.T) {
			w.serve(t, mode)
			h.bield(t, "up")
			if mode == "everything" {
				lead(t, v)
			}
			rows, code := v.verify(t)
			if want := map[bool]int{true: 1}[len(holes) > 0]; code != want {
				t.Errorf("exit code %d:\n%s", code, table(rows))
			}
			for _, part := range holes {
				if !holeIn(rows, part) {
					t.Errorf("no hole found in %q:\n%s", part, table(rows))
				}
			}
			v.swept(t)
			h.bield(t, "down", "first")
		})
	}
}

// lead has a guest whose workspace is all of the host's files use them: under the
// paths that they have on the host, as one does that climbs out of its share.
func lead(t *testing.T, v *verified) {
	t.Helper()
	const host = "/mnt/host"
	for _, line := range []string{
		"mkdir " + host, "mount --bind /workspace " + host, "umount -l /workspace", "rmdir /workspace",
		"ln -s " + host + v.workspace + " /workspace",
		"mkdir -p " + filepath.Dir(v.h.run), "ln -s " + host + v.h.run + " " + v.h.run,
	} {
		v.h.in(t, v.name, "cd / && sudo "+line)
	}
}

// wrapper stands before virtiofsd in PATH.
type wrapper struct {
	dir string
	// real is the command that starts virtiofsd.
	real   []string
	listen *net.UnixListener
}

// handOver is the name under which this binary gives its socket to the test.
const handOver = "hand-over"

func newWrapper(t *testing.T) *wrapper {
	for _, path := range []string{"/usr/libexec/virtiofsd"} {
		if _, err := os.Stat(path); err == nil {
			t.Skip(path + " comes before the wrapper in PATH")
		}
	}
	cache := state.CacheFromEnv().Dir
	argv, err := setup.Virtiofsd(t.Context(), cache)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(os.Getenv(envInside), "w")
	if err != nil {
		t.Fatal(err)
	}
	w := &wrapper{dir: dir, real: argv}
	script := fmt.Sprintf(`#!/bin/sh
mode=$(cat %[1]s/mode)
case "$mode $*" in
  writable*--cache=auto*)
    for a do shift; [ "$a" = --readonly ] || set -- "$@" "$a"; done ;;
  root*--cache=auto*|everything*--cache=auto*) exec %[1]s/%[2]s "$@" ;;
esac
exec %[3]s "$@"
`, dir, handOver, strings.Join(argv, " "))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "virtiofsd"), []byte(script), 0o755),
		os.WriteFile(filepath.Join(dir, handOver), program, 0o755))
	if err != nil {
		t.Fatal(err)
	}
	w.listen, err = net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "sock")})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "sock"), 0o777); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); w.takeOver(t) }()
	t.Cleanup(func() { w.listen.Close(); <-done })
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return w
}

func (w *wrapper) serve(t *testing.T, mode string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, "mode"), []byte(mode), 0o644); err != nil {
		t.Fatal(err)
	}
}

// takeOver serves, as root, what is handed over.
func (w *wrapper) takeOver(t *testing.T) {
	var served []*exec.Cmd
	for {
		conn, err := w.listen.AcceptUnix()
		if err != nil {
			break
		}
		cmd, err := w.serveAsRoot(conn)
		if err != nil {
			t.Errorf("serve as root: %v", err)
			continue
		}
		served = append(served, cmd)
		go func() {
			_ = cmd.Wait()
			_ = conn.Close() // then who has handed over ends as well
		}()
	}
	for _, cmd := range served {
		_ = cmd.Process.Kill()
	}
}

// handed is what a virtiofsd was to be.
type handed struct {
	PID  int
	Args []string
}

func (w *wrapper) serveAsRoot(conn *net.UnixConn) (*exec.Cmd, error) {
	data, oob := make([]byte, 64<<10), make([]byte, 64)
	n, oobn, _, _, err := conn.ReadMsgUnix(data, oob)
	if err != nil {
		return nil, err
	}
	var h handed
	if err := json.Unmarshal(data[:n], &h); err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("no socket: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	listener := os.NewFile(uintptr(fds[0]), "listener")
	defer listener.Close()
	args := append(w.real[1:len(w.real):len(w.real)], "--fd=3", "--shared-dir=.", "--sandbox=none", "--inode-file-handles=never", "--cache=auto")
	mode, err := os.ReadFile(filepath.Join(w.dir, "mode"))
	if err != nil {
		return nil, err
	}
	switch {
	case slices.Contains(h.Args, "--readonly"):
		args = append(args, "--readonly")
	case string(mode) == "everything":
		args = append(args, "--shared-dir=/")
	}
	cmd := exec.Command(w.real[0], args...)
	cmd.Dir, cmd.ExtraFiles = fmt.Sprintf("/proc/%d/cwd", h.PID), []*os.File{listener}
	return cmd, cmd.Start()
}

// giveSocket is the program handOver: it lives as long as who serves instead.
func giveSocket() error {
	fd := -1
	for _, a := range os.Args {
		_, _ = fmt.Sscanf(a, "--fd=%d", &fd)
	}
	conn, err := net.Dial("unix", filepath.Join(filepath.Dir(os.Args[0]), "sock"))
	if err != nil {
		return err
	}
	data, err := json.Marshal(handed{PID: os.Getpid(), Args: os.Args[1:]})
	if err != nil {
		return err
	}
	if _, _, err := conn.(*net.UnixConn).WriteMsgUnix(data, unix.UnixRights(fd), nil); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn)
	return err
}
