package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// playTry tries what a program under Landlock may not, and prints how it went.
func playTry(args []string) {
	fmt.Println("result", errors.Unwrap(try(args[0], args[1])))
}

func try(what, on string) error {
	var err error
	switch what {
	case "read":
		_, err = os.ReadFile(on)
	case "list":
		_, err = os.ReadDir(on)
	case "write":
		err = os.WriteFile(on, []byte("x"), 0o600)
	case "execute":
		err = tryExecute(on)
	case "ioctl":
		err = tryIoctl(on)
	case "connect":
		_, err = net.Dial("tcp", on)
	case "bind":
		// Not what Landlock does not know yet, and Go prefers.
		var config net.ListenConfig
		config.SetMultipathTCP(false)
		_, err = config.Listen(context.Background(), "tcp", on)
	case "abstract":
		_, err = net.Dial("unix", on)
	case "signal":
		pid, _ := strconv.Atoi(on)
		err = syscall.Kill(pid, syscall.SIGUSR1)
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w", rootCause(err))
}

// rootCause is the error number.
func rootCause(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}

// tryExecute opens no /dev/null, as exec.Command does.
func tryExecute(path string) error {
	child, err := os.StartProcess(path, []string{path, "play", "nothing"}, &os.ProcAttr{})
	if err != nil {
		return err
	}
	_, err = child.Wait()
	return err
}

// tryIoctl asks how much entropy there is: RNDGETENTCNT of linux/random.h.
func tryIoctl(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.IoctlGetInt(fd, unix.RNDGETENTCNT)
	return err
}

// TestLandlock shows each thing that Landlock forbids to work without it.
func TestLandlock(t *testing.T) {
	version := LandlockVersion()
	if version == 0 {
		skip(t, "the kernel has no Landlock")
	}
	p := program(t, "try")
	given := filepath.Dir(p.Path)
	must(t, os.Chmod(given, 0o777))
	file, other := filepath.Join(given, "file"), otherDir(t)
	must(t, errors.Join(os.WriteFile(file, nil, 0o666), os.Chmod(file, 0o666)))
	script := filepath.Join(other, "program")
	self, err := os.ReadFile(p.Path) // a link would be the same file to the rules
	must(t, errors.Join(err, os.WriteFile(script, self, 0o755), os.Chmod(script, 0o755)))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	abstract, err := net.Listen("unix", "@bield-landlock-"+strconv.Itoa(os.Getpid()))
	must(t, err)
	defer abstract.Close()

	for _, c := range []struct {
		what, on string
		rules    Landlock
		since    int
		refused  syscall.Errno // 0: allowed by the rules
	}{
		{"read", "/etc/passwd", Landlock{}, 1, unix.EACCES},
		{"read", "/etc/passwd", Landlock{Read: []string{"/etc/passwd"}}, 1, 0},
		{"list", "/etc", Landlock{Read: []string{"/etc/passwd"}}, 1, unix.EACCES},
		{"read", "/proc/self/status", Landlock{}, 1, unix.EACCES},
		{"write", file, Landlock{}, 1, unix.EACCES},
		{"write", file, Landlock{Read: []string{file}}, 1, unix.EACCES},
		{"write", file, Landlock{Write: []string{file}}, 1, 0},
		{"write", filepath.Join(given, "new"), Landlock{Read: []string{given}}, 1, unix.EACCES},
		{"write", filepath.Join(given, "new"), Landlock{Write: []string{given}}, 1, 0},
		{"execute", script, Landlock{Read: []string{script}}, 1, unix.EACCES},
		{"execute", script, Landlock{Exec: []string{script}}, 1, 0},
		{"ioctl", "/dev/random", Landlock{Read: []string{"/dev/random"}}, 5, unix.EACCES},
		{"ioctl", "/dev/random", Landlock{Write: []string{"/dev/random"}}, 5, 0},
		{"connect", listener.Addr().String(), Landlock{}, 4, unix.EACCES},
		{"bind", "127.0.0.1:0", Landlock{}, 4, unix.EACCES},
		{"abstract", abstract.Addr().String(), Landlock{}, 6, unix.EPERM},
		{"signal", "", Landlock{}, 6, unix.EPERM},
	} {
		t.Run(c.what+" "+filepath.Base(c.on), func(t *testing.T) {
			if version < c.since {
				skip(t, fmt.Sprintf("Landlock is version %d here, not %d", version, c.since))
			}
			if c.what == "signal" {
				c.on = strconv.Itoa(sleeper(t, p).ID().PID)
			}
			if got := trying(t, p, nil, c.what, c.on); got != "<nil>" {
				t.Errorf("without Landlock: %s", got)
			}
			want := "<nil>"
			if c.refused != 0 {
				want = c.refused.Error()
			}
			c.rules.Files = true
			c.rules.Exec = append(c.rules.Exec, p.Path)
			if got := trying(t, p, &c.rules, c.what, c.on); got != want {
				t.Errorf("with Landlock: %s, want %s", got, want)
			}
		})
	}
}

// otherDir is a folder that every user may enter.
func otherDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "bield-landlock-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	return dir
}

// sleeper is another process of the same user, that SIGUSR1 does not end.
func sleeper(t *testing.T, p Command) *Process {
	p.Args = []string{"play", "deaf"}
	p.LogPath = filepath.Join(t.TempDir(), "log")
	s := start(t, p)
	waitLog(t, p.LogPath, "up")
	return s
}

func trying(t *testing.T, p Command, rules *Landlock, what, on string) string {
	t.Helper()
	p.Args = []string{"play", "try", what, on}
	p.Landlock, p.LogPath = rules, filepath.Join(t.TempDir(), "log")
	if exit := wait(t, start(t, p)); exit != (Exit{Known: true}) {
		t.Fatalf("%s: %q", exit, TailLog(p.LogPath, 5))
	}
	return strings.TrimSpace(waitLog(t, p.LogPath, "result "))
}

// TestScopes: without rules of files a program may still make mounts, as the
// sandbox of virtiofsd does, and no more signals than with them.
func TestScopes(t *testing.T) {
	if LandlockVersion() < 6 {
		skip(t, "this Landlock has no scopes")
	}
	p := program(t, "mount")
	for _, rules := range []*Landlock{nil, {}} {
		p.Landlock, p.LogPath = rules, filepath.Join(t.TempDir(), "log")
		wait(t, start(t, p))
		if got := waitLog(t, p.LogPath, "mounted "); got != "<nil>" {
			t.Errorf("rules %v: %s", rules, got)
		}
	}
	p.Landlock, p.LogPath = &Landlock{Files: true, Exec: []string{p.Path}, Write: []string{"/"}}, filepath.Join(t.TempDir(), "log")
	wait(t, start(t, p))
	if got := waitLog(t, p.LogPath, "mounted "); got != unix.EPERM.Error() {
		t.Errorf("under rules of files: %s", got)
	}
	p = program(t, "try")
	if got := trying(t, p, &Landlock{}, "signal", strconv.Itoa(sleeper(t, p).ID().PID)); got != unix.EPERM.Error() {
		t.Errorf("a signal: %s", got)
	}
	if got := trying(t, p, &Landlock{}, "read", "/etc/passwd"); got != "<nil>" {
		t.Errorf("a file: %s", got)
	}
}

// playMount mounts something in namespaces of its own.
func playMount() {
	cmd := exec.Command("/proc/self/exe", "play", "mount-inside")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		fmt.Println("mounted", err)
	}
}

func playMountInside() {
	err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == nil {
		err = unix.Mount("none", "/tmp", "tmpfs", 0, "")
	}
	fmt.Println("mounted", err)
}

func TestLimits(t *testing.T) {
	p := program(t, "limits")
	p.Limits = Limits{Processes: 321, FileSize: 4096, Files: 123}
	if exit := wait(t, start(t, p)); exit != (Exit{Known: true}) {
		t.Fatalf("%s: %q", exit, TailLog(p.LogPath, 5))
	}
	if got := waitLog(t, p.LogPath, "limits "); got != "321 321 4096 4096 123 file too large" {
		t.Errorf("limits: %s", got)
	}
	p.Limits, p.LogPath = Limits{}, filepath.Join(t.TempDir(), "log")
	wait(t, start(t, p))
	if got := waitLog(t, p.LogPath, "limits "); !strings.HasSuffix(got, "<nil>") {
		t.Errorf("without: %s", got)
	}
}

// playLimits shows limits, and tries to make a file longer than is allowed.
func playLimits() {
	var processes, size, files unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_NPROC, &processes)
	_ = unix.Getrlimit(unix.RLIMIT_FSIZE, &size)
	_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &files)
	fd, err := unix.MemfdCreate("long", 0)
	if err == nil {
		err = unix.Ftruncate(fd, 8192)
	}
	fmt.Println("limits", processes.Cur, processes.Max, size.Cur, size.Max, files.Max, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
