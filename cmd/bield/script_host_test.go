package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bield/internal/api/client"
	"bield/internal/state"
	"bield/test/fakes"
)

// host is the machine of one script: namespaces of its own, a run directory,
// and the programs that its bieldd finds.
type host struct {
	work   string
	run    state.Run
	mounts string // mount namespace
	before map[string]string
	ssh    net.Listener
	client *client.Client
}

// newHost makes a machine of the calling thread.
func newHost(work string) (*host, error) {
	h := &host{work: work, run: state.Run{Dir: filepath.Join(work, "run")}}
	h.client = client.New(h.run.Socket())
	if err := h.furnish(); err != nil {
		return nil, err
	}
	if err := h.enter(); err != nil {
		return nil, fmt.Errorf("make namespaces: %w", err)
	}
	return h, nil
}

// environment is what every program of the script's begins with.
func (h *host) environment(base string) map[string]string {
	return map[string]string{
		"HOME": h.work, "BIN": filepath.Join(base, "bin"), "BIELD_RUN_DIR": h.run.Dir, "BIELD_CACHE_DIR": filepath.Join(base, "cache"),
		// Only a proxy would know whether package sources can be reached.
		"http_proxy": "http://127.0.0.1:9", "TERM": "dumb", "LC_ALL": "C.UTF-8",
		"PATH": strings.Join([]string{filepath.Join(h.work, "fakes"), filepath.Join(base, "bin"), os.Getenv("PATH")}, ":"),
	}
}

// furnish puts the fakes, a workspace and a configuration in place, where the
// script has none.
func (h *host) furnish() error {
	dir := filepath.Join(h.work, "fakes")
	if err := os.MkdirAll(filepath.Join(dir, "net"), 0o755); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Join(dir, "net"), 0o777|fs.ModeSticky); err != nil {
		return err
	}
	for name := range fakes.Programs() {
		if err := install(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	src := filepath.Join(h.work, "src")
	if err := os.MkdirAll(src, 0o755); err != nil {
		return err
	}
	if err := os.Chown(src, guestUID, guestGID); err != nil {
		return err
	}
	file := filepath.Join(h.work, ".config", "bield", "bield.yaml")
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(configuration), 0o644)
}

// enter puts this thread in namespaces of its own, where guests can be reached.
func (h *host) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
		return err
	}
	// /sys shows the network namespace it was mounted in.
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return err
	}
	var err error
	if h.mounts, err = os.Readlink("/proc/thread-self/ns/mnt"); err != nil {
		return err
	}
	if err := fakes.RouteGuests(); err != nil {
		return fmt.Errorf("route to the guests: %w", err)
	}
	if h.ssh, err = net.Listen("tcp4", ":22"); err != nil {
		return err
	}
	go h.bringSSH()
	h.before, err = fakes.Settings()
	return err
}

// bringSSH takes each SSH connection to the fake guest of its address.
func (h *host) bringSSH() {
	for {
		conn, err := h.ssh.Accept()
		if err != nil {
			return
		}
		go h.bring(conn)
	}
}

func (h *host) bring(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	address, _, err := net.SplitHostPort(conn.LocalAddr().String())
	if err != nil {
		return
	}
	guest, err := net.Dial("unix", filepath.Join(h.work, "fakes", "net", address+".sock"))
	if err != nil {
		return
	}
	defer func() { _ = guest.Close() }()
	ended := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{conn, guest}, {guest, conn}} {
		go func() {
			_, _ = io.Copy(way[0], way[1])
			ended <- struct{}{}
		}()
	}
	<-ended
}

// processes lists what lives in the script's mount namespace.
func (h *host) processes() []process {
	return slices.DeleteFunc(processes(), func(p process) bool { return p.mounts != h.mounts || p.state == "Z" })
}

// end ends the daemon and holds the script to have left nothing.
func (h *host) end(t testing.TB) {
	_ = h.ssh.Close()
	if t.Failed() {
		for _, log := range []string{h.run.Log(), filepath.Join(h.work, "bieldd.log")} {
			if text, err := os.ReadFile(log); err == nil {
				t.Logf("%s:\n%s", log, text)
			}
		}
	} else if left := h.leftovers(); len(left) > 0 {
		t.Errorf("the script left: %s", strings.Join(left, "; "))
	}
	if err := h.endDaemon(unix.SIGTERM); err != nil {
		t.Error(err)
	}
	for _, p := range h.processes() {
		if !t.Failed() {
			t.Errorf("outlived the daemon: %s", p.command)
		}
	}
	h.killAll()
}

// killAll kills all that the script has started and that still runs.
func (h *host) killAll() {
	for _, p := range h.processes() {
		_ = unix.Kill(p.pid, unix.SIGKILL)
	}
}

// leftovers names what is there beside the daemon with its socket and logs.
func (h *host) leftovers() []string {
	var left []string
	now, err := fakes.Settings()
	if err != nil {
		return []string{err.Error()}
	}
	for _, key := range slices.Sorted(maps.Keys(now)) {
		if now[key] != h.before[key] {
			left = append(left, key+": "+now[key])
		}
	}
	daemon, _ := h.daemonPID()
	for _, p := range h.processes() {
		if p.pid != daemon {
			left = append(left, fmt.Sprintf("process %d %s", p.pid, p.command))
		}
	}
	_ = filepath.WalkDir(h.run.Dir, func(path string, _ os.DirEntry, err error) error {
		name, _ := filepath.Rel(h.run.Dir, path)
		own := strings.HasPrefix(name, "bieldd.") || slices.Contains([]string{".", "records", "vms", "state.json", "fates.json"}, name)
		if err == nil && !own {
			left = append(left, "run directory: "+name)
		}
		return nil
	})
	return left
}

// daemonPID is 0 where no daemon runs.
func (h *host) daemonPID() (int, error) {
	reply, err := h.client.Version(context.Background())
	h.client.Close()
	if errors.Is(err, client.ErrNoDaemon) {
		return 0, nil
	}
	return reply.PID, err
}

// endDaemon signals the daemon and waits for its end.
func (h *host) endDaemon(signal unix.Signal) error {
	return h.withDaemon(func(fd int) error {
		if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil {
			return fmt.Errorf("signal bieldd: %w", err)
		}
		if !ends(fd, 20*time.Second) {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			return fmt.Errorf("bieldd does not end on %s", signal)
		}
		return nil
	})
}

// awaitDaemonsEnd waits until the daemon has ended, and asks it nothing
// meanwhile.
func (h *host) awaitDaemonsEnd() error {
	return h.withDaemon(func(fd int) error {
		if !ends(fd, patience) {
			return errors.New("the daemon goes on")
		}
		return nil
	})
}

// withDaemon gives use a pidfd of the daemon, if one runs.
func (h *host) withDaemon(use func(fd int) error) error {
	pid, err := h.daemonPID()
	if err != nil || pid == 0 {
		return err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("pidfd of bieldd: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	return use(fd)
}

// ends waits for the end of a pidfd's process (pidfd_open(2)).
func ends(fd int, limit time.Duration) bool {
	end := time.Now().Add(limit)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(max(0, time.Until(end).Milliseconds())))
		if !errors.Is(err, unix.EINTR) {
			return n == 1
		}
	}
}

// startDaemon starts bieldd as bield does, and returns when it serves.
func (h *host) startDaemon(environ []string, program string, args ...string) error {
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = ready.Close() }()
	log, err := os.OpenFile(filepath.Join(h.work, "bieldd.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(program, append([]string{"--ready-fd", "3"}, args...)...)
	cmd.Env, cmd.Dir = environ, "/"
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{theirs}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	text, err := io.ReadAll(ready)
	if err == nil && string(text) != "\n" {
		err = fmt.Errorf("bieldd: %q", text)
	}
	return err
}
