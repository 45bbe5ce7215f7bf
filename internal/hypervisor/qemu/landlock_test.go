package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"bield/internal/hypervisor/hypervisortest"
	"bield/internal/process"
)

// probe opens what the words of the kernel's command line name, "read=PATH" or
// "write=PATH", and prints how that went.
func probe(args []string) {
	for _, word := range strings.Fields(strings.Join(args, " ")) {
		how, path, _ := strings.Cut(word, "=")
		flags, asked := map[string]int{"read": os.O_RDONLY, "write": os.O_WRONLY}[how]
		if !asked {
			continue
		}
		f, err := os.OpenFile(path, flags, 0)
		if err == nil {
			_ = f.Close()
		}
		errno, _ := errors.AsType[syscall.Errno](err)
		fmt.Printf("probe %s %d\n", word, errno)
	}
	fmt.Println("probe over")
}

// TestConfinedFiles has a program that the driver starts as QEMU look around, and
// then another of that user's, without Landlock.
func TestConfinedFiles(t *testing.T) {
	if process.LandlockVersion() == 0 {
		hypervisortest.Skip(t, "the kernel has no Landlock")
	}
	m, d := machine(t, "probes"), fakeDriver(t)
	secrets := hypervisortest.PublicDir(t)
	others, open := filepath.Join(secrets, "others"), filepath.Join(secrets, "open")
	for _, path := range []string{m.Kernel, m.Initrd, others, open} {
		if err := errors.Join(os.WriteFile(path, nil, 0o666), os.Chmod(path, 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	may := []string{"read=" + m.Kernel, "read=" + m.Initrd, "read=/usr/lib", "write=/dev/null"}
	mayNot := []string{
		"read=/etc/passwd", "read=/etc", "read=/tmp", "read=/proc/self/status", fmt.Sprintf("read=/proc/%d/status", os.Getpid()),
		"read=/sys/kernel", "read=/dev/urandom", "read=" + others, "write=" + open, "write=" + m.Kernel,
	}
	m.Cmdline = append(may, mayNot...)
	start(t, d, m)
	alone := filepath.Join(t.TempDir(), "log")
	p, err := process.Start(t.Context(), process.Command{
		Path: d.program, Args: append([]string{"-name", "guest=looks"}, m.Cmdline...), UID: m.UID, GID: m.GID, LogPath: alone,
	})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	for _, c := range []struct {
		log   string
		words []string
		want  syscall.Errno
	}{{m.Log, may, 0}, {m.Log, mayNot, syscall.EACCES}, {alone, m.Cmdline, 0}} {
		said := string(must(os.ReadFile(c.log)))
		for _, word := range c.words {
			if line := fmt.Sprintf("probe %s %d\n", word, c.want); !strings.Contains(said, line) {
				t.Errorf("no %q in\n%s", line, said)
			}
		}
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
