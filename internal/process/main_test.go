package process

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The test binary is also the program that the tests start: "play" and a part.
func TestMain(m *testing.M) {
	MaybeLaunch()
	if len(os.Args) > 2 && os.Args[1] == "play" {
		play(os.Args[2], os.Args[3:])
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func play(part string, args []string) {
	switch part {
	case "report":
		report()
	case "sleep":
		fmt.Println("up")
		time.Sleep(time.Minute)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("up")
		time.Sleep(time.Minute)
	case "family":
		family()
	case "exit7":
		os.Exit(7)
	case "deaf":
		signal.Ignore(syscall.SIGUSR1)
		fmt.Println("up")
		time.Sleep(time.Minute)
	case "try":
		playTry(args)
	case "mount":
		playMount()
	case "mount-inside":
		playMountInside()
	case "limits":
		playLimits()
	case "handle-loop":
		playHandleLoop()
	case "handle":
		playHandle(args)
	case "handle-room":
		playHandleRoom()
	}
}

// identity is what a started program sees of itself.
type identity struct {
	Status map[string]string
	Umask  int
	NoFile uint64
	Core   uint64
	FDs    []string
	Links  []string
	Cwd    string
	Env    []string
	SID    int
	NetNS  string
	UserNS string
}

func report() {
	id := identity{Status: map[string]string{}, Env: os.Environ()}
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		id.Status[key] = strings.Join(strings.Fields(value), " ")
	}
	id.Umask = unix.Umask(0)
	// Go raises the soft limit as it starts; the hard one is what was set.
	var limit unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	id.NoFile = limit.Max
	_ = unix.Getrlimit(unix.RLIMIT_CORE, &limit)
	id.Core = limit.Max
	for fd := range 64 {
		if link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil && !goOwn(link) {
			id.FDs = append(id.FDs, fmt.Sprint(fd))
			id.Links = append(id.Links, link)
		}
	}
	id.Cwd, _ = os.Getwd()
	id.SID, _ = unix.Getsid(0)
	id.NetNS, _ = os.Readlink("/proc/self/ns/net")
	id.UserNS, _ = os.Readlink("/proc/self/ns/user")
	_ = json.NewEncoder(os.Stdout).Encode(id)
}

// goOwn says that the descriptor is one that Go's runtime opened for itself.
func goOwn(link string) bool {
	return strings.HasPrefix(link, "anon_inode:[event") || strings.HasPrefix(link, "/sys/fs/cgroup/")
}

// family starts a child in the same group that outlives SIGTERM, and ends.
func family() {
	child, err := os.StartProcess("/proc/self/exe", []string{"test", "play", "stubborn"}, &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("child", child.Pid)
	time.Sleep(time.Minute)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root")
	}
}

func skip(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
		t.Fatal("required, but ", reason)
	}
	t.Skip(reason)
}

func readStatus(t *testing.T, path string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		fields[key] = strings.Join(strings.Fields(value), " ")
	}
	return fields
}
