package preflight

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The oldest kernel that will do: PIDFD_NONBLOCK came with 5.10.
const oldestMajor, oldestMinor = 5, 10

func (h Host) release() (string, error) {
	text, err := os.ReadFile(h.path("proc/sys/kernel/osrelease"))
	return strings.TrimSpace(string(text)), err
}

func (h Host) kernel() Result {
	release, err := h.release()
	if err != nil {
		return warn(err.Error(), "mount /proc")
	}
	return judgeKernel(release, runtime.GOARCH)
}

func judgeKernel(release, arch string) Result {
	major, minor, known := kernelVersion(release)
	switch {
	case arch != "amd64" && arch != "arm64":
		return fail("Linux "+release+" on "+arch+": bield runs on amd64 and arm64 only", "use a machine with such a CPU")
	case !known:
		return warn("Linux " + release + ": what version is that?")
	case major < oldestMajor || major == oldestMajor && minor < oldestMinor:
		return fail(fmt.Sprintf("Linux %s: bield needs %d.%d or newer", release, oldestMajor, oldestMinor), "upgrade the kernel and reboot")
	}
	if arch == "arm64" {
		return warn("Linux " + release + " on arm64: bield has not been tested on such a machine as a whole")
	}
	return ok("Linux %s", release)
}

// kernelVersion reads the first two numbers of "6.1.0-37-cloud-amd64".
func kernelVersion(release string) (major, minor int, known bool) {
	first, rest, _ := strings.Cut(release, ".")
	second := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	major, err1 := strconv.Atoi(first)
	minor, err2 := strconv.Atoi(second)
	return major, minor, err1 == nil && err2 == nil
}

// calls is what the kernel lets this process do. An error is why not.
type calls struct {
	pidfd, memfd error
	// notify says that seccomp can hand system calls to another process.
	notify error
	// landlock is the version of its interface, 0 for none.
	landlock int
}

func (h Host) systemCalls() Result {
	return judgeCalls(tryCalls(h.path("proc/sys/kernel/seccomp/actions_avail")))
}

func tryCalls(actions string) calls {
	var c calls
	fd, err := unix.PidfdOpen(os.Getpid(), unix.PIDFD_NONBLOCK)
	if c.pidfd = err; err == nil {
		unix.Close(fd)
	}
	fd, err = unix.MemfdCreate("bield-doctor", unix.MFD_CLOEXEC)
	if c.memfd = err; err == nil {
		unix.Close(fd)
	}
	text, err := os.ReadFile(actions)
	if c.notify = err; err == nil && !strings.Contains(string(text), "user_notif") {
		c.notify = errors.New("not among the kernel's seccomp actions")
	}
	// landlock_create_ruleset(2): with LANDLOCK_CREATE_RULESET_VERSION it makes
	// nothing and returns the version.
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno == 0 {
		c.landlock = int(version)
	}
	return c
}

func judgeCalls(c calls) Result {
	const advice = "use a kernel and, in a container, a seccomp profile that have them"
	var lacks []string
	for _, need := range []struct {
		name string
		err  error
	}{{"pidfd_open (bieldd watches processes by it)", c.pidfd}, {"memfd_create (QEMU keeps guest memory in one)", c.memfd}} {
		if need.err != nil {
			lacks = append(lacks, fmt.Sprintf("%s: %v", need.name, need.err))
		}
	}
	landlock := "no Landlock, which bield does not use yet"
	if c.landlock > 0 {
		landlock = fmt.Sprintf("Landlock %d", c.landlock)
	}
	switch {
	case lacks != nil:
		return fail("the kernel refuses "+strings.Join(lacks, "; "), advice)
	case c.notify != nil:
		return warn(fmt.Sprintf("pidfd, memfd, %s; no seccomp user notification (%v): shares can't do without many open files", landlock, c.notify), advice)
	}
	return ok("pidfd, memfd, seccomp user notification, %s", landlock)
}

// cgroups only says which there are: bield does not use any yet.
func (h Host) cgroups() Result {
	has := func(name string) bool { _, err := os.Stat(h.path("sys/fs/cgroup/" + name)); return err == nil }
	switch {
	case has("cgroup.controllers"):
		text, err := os.ReadFile(h.path("sys/fs/cgroup/cgroup.controllers"))
		if err != nil {
			return warn(err.Error())
		}
		return ok("version 2 (%s)", strings.Join(strings.Fields(string(text)), ", "))
	case has("unified/cgroup.controllers"):
		return ok("version 1, with version 2 beside it")
	case has("memory"), has("cpu"):
		return ok("version 1")
	}
	return ok("none are mounted; bield does not use any yet")
}
