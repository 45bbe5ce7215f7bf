package fakes

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// chLine is a command line that cloud-hypervisor takes.
func chLine(more ...string) []string {
	return append([]string{
		"--kernel", "/k", "--initramfs", "/i", "--cmdline", "console=ttyS0 a,b=c[", "--cpus", "boot=2", "--memory", "size=64M,shared=on",
		"--serial", "socket=/s", "--console", "off", "--net", "fd=[3,4],mac=02:00:00:00:00:01,num_queues=4",
		"--fs", "tag=a,socket=/a", `tag="b,[c]",socket=/b`,
	}, more...)
}

func TestCHArguments(t *testing.T) {
	for _, c := range []struct {
		args []string
		says string // "" if they are fine
		clap bool
	}{
		{args: chLine()},
		{args: chLine("--vsock", "cid=3,socket=/v", "--balloon", "size=0,deflate_on_oom=on", "--watchdog", "-v", "-vv")},
		{args: chLine("--fs", "tag=d,socket=/d")},
		{args: chLine("--disk=path=/d,readonly=on,image_type=raw", "--seccomp", "true", "--landlock", "--landlock-rules", "path=/,access=rw")},
		{args: chLine("--cpu", "boot=1"), says: "unexpected argument '--cpu'", clap: true},
		{args: chLine("word"), says: "unknown option: word"}, // a value of --fs
		{args: chLine("--watchdog", "word"), says: "unexpected argument 'word'", clap: true},
		{args: chLine("--kernel", "/other"), says: "cannot be used multiple times", clap: true},
		{args: chLine("--landlock", "--landlock"), says: "cannot be used multiple times", clap: true},
		{args: chLine("--vsock"), says: "a value is required", clap: true},
		{args: chLine("--seccomp", "yes"), says: "invalid value 'yes'", clap: true},
		{args: []string{"--cpus", "boot=1"}, says: "--kernel", clap: true},
		{args: chLine("--vsock", "cid=2,socket=/v"), says: "invalid vsock CID"},
		{args: chLine("--vsock", "cid=3,path=/v"), says: "unknown option: path"},
		{args: chLine("--vsock", "cid=3"), says: "missing socket"},
		{args: chLine("--vsock", `cid=3,socket="/v`), says: "Invalid syntax"},
		{args: chLine("--vsock", `cid=3,socket=/v"x"`), says: "Invalid syntax"},
		{args: chLine("--disk", "path=/d,[e"), says: "Invalid syntax"},
		{args: chLine("--disk", "path=/d,image_type=erofs"), says: "image_type"},
		{args: chLine("--disk", "path=/d,queue_size=100"), says: "power of two"},
		{args: chLine("--disk", "path=/d,num_queues=3"), says: "exceeds number of vCPUs"},
		{args: chLine("--disk", "path=/d,readonly=yes"), says: "not a valid toggle"},
		{args: chLine("--disk", "path=/d,id=_fs0"), says: "_fs0 is not unique"},
		{args: chLine("--net", "fd=5,mac=02:00:00:00:00:02,num_queues=4"), says: "does not match the number of FDs"},
		{args: chLine("--net", "fd=2,mac=02:00:00:00:00:02"), says: "Reserved fd"},
		{args: chLine("--net", "fd=[5-7],mac=02:00:00:00:00:02,num_queues=6"), says: "exceeds number of vCPUs"},
		{args: chLine("--net", "fd=5,mac=02"), says: "mac"},
		{args: chLine("--balloon", "size=64M"), says: "not smaller than the memory"},
		{args: chLine("--landlock-rules", "path=/nowhere/at/all,access=rw"), says: "does not exist"},
		{args: chLine("--landlock-rules", "path=/,access=rwx"), says: "access"},
		{args: replaced("--memory", "size=64M"), says: "shared memory"},
		{args: replaced("--memory", "size=64m,shared=on"), says: "invalid size"},
		{args: replaced("--memory", "size=64M,shared=on,mergeable=on"), says: "can't both"},
		{args: replaced("--console", "socket=/c"), says: "No socket option"},
		{args: replaced("--cpus", "boot=2,max=1"), says: "smaller than boot"},
	} {
		options, err := parseCHArguments(c.args, 53)
		if err == nil {
			_, err = chConfigOf(options)
		}
		var clap clapError
		switch {
		case (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says):
			t.Errorf("%q: %v, want %q", c.args, err, c.says)
		case err != nil && errors.As(err, &clap) != c.clap:
			t.Errorf("%q: clap's or not: %v", c.args, err)
		}
	}
}

// replaced is chLine with another value of an option.
func replaced(option, value string) []string {
	args := chLine()
	args[slices.Index(args, option)+1] = value
	return args
}

func TestCHVersions(t *testing.T) {
	if _, err := parseCHArguments(chLine("--rtc", "id=r"), 52); err == nil {
		t.Error("v52 knows --rtc")
	}
	if _, err := parseCHArguments(chLine("--rtc", "id=r"), 53); err != nil {
		t.Error(err)
	}
}

// TestCHLandlock: a socket that no rule covers can't be made.
func TestCHLandlock(t *testing.T) {
	in, out := t.TempDir(), t.TempDir()
	c := chConfig{LandlockEnable: true, LandlockRules: []chLandlockRule{{in, "rw"}, {out, "r"}}}
	for _, unconfined := range []bool{false, true} {
		v := &chVMM{config: c, unconfined: unconfined}
		result := make(chan error)
		go func() {
			runtime.LockOSThread() // and never unlocked
			if !unconfined {
				if err := c.restrict(); err != nil {
					result <- err
					return
				}
			}
			path := filepath.Join(in, fmt.Sprint(unconfined))
			listener, err := v.listen(path)
			if err == nil {
				_ = listener.Close()
				_, err = v.listen(path)
			}
			if !errors.Is(err, unix.EADDRINUSE) {
				result <- fmt.Errorf("a stale socket: %w", err)
				return
			}
			_, err = v.listen(filepath.Join(out, "socket"))
			result <- err
		}()
		err := <-result
		if errors.Is(err, errNoLandlock) {
			t.Log(err)
			continue
		}
		if !errors.Is(err, unix.EACCES) {
			t.Errorf("a socket where none may be made, unconfined %v: %v", unconfined, err)
		}
		if names, _ := os.ReadDir(out); len(names) > 0 {
			t.Errorf("made %v", names)
		}
	}
}

func TestReadConnect(t *testing.T) {
	for line, want := range map[string]uint32{"CONNECT 1011\npayload": 1011, "connect 7\n": 7, "CONNECT x\n": 0, "HELLO 7\n": 0, strings.Repeat("C", 40): 0} {
		conn, peer := net.Pipe()
		go func() { _, _ = peer.Write([]byte(line)); _ = peer.Close() }()
		port, err := readConnect(conn)
		if port != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v", line, port, err)
		}
	}
}
