package process

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// group starts a shell that leads a group with a child in it.
func group(t *testing.T) ID {
	t.Helper()
	cmd := exec.Command("sh", "-c", "sleep 60 & echo; wait")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return idOf(t, cmd.Process.Pid)
}

func TestMemoryOfAGroup(t *testing.T) {
	id := group(t)
	alone, err := readMemory(id.PID)
	if err != nil {
		t.Fatal(err)
	}
	held, err := MemoryOf([]ID{id})
	if err != nil {
		t.Fatal(err)
	}
	if m := held[id]; m.RSS <= alone.RSS || m.Shared > m.RSS || m.PSS != 0 {
		t.Errorf("the group holds %+v, its leader %+v", m, alone)
	}
	uid, m, err := id.Usage()
	if err != nil || uid != uint32(os.Geteuid()) || m.PSS == 0 || m.PSS > m.RSS {
		t.Errorf("uid %d, %+v, %v", uid, m, err)
	}
}

// TestMemoryOfOthers: a number that another process has by now is nobody's.
func TestMemoryOfOthers(t *testing.T) {
	id := group(t)
	later, before := id, id
	later.StartTime++
	before.BootID = "another"
	held, err := MemoryOf([]ID{later, before, {PID: 0}, {PID: 1 << 30}})
	if err != nil || len(held) != 0 {
		t.Errorf("got %v, %v", held, err)
	}
	if _, _, err := later.Usage(); !errors.Is(err, ErrGone) {
		t.Errorf("got %v", err)
	}
}

func TestKibibytes(t *testing.T) {
	file := []byte("Name:\tRssShmem\nVmRSS:\t    1234 kB\nRssShmem:\t       0 kB\nPss: 5 kB\nBad:\t-1 kB\n")
	for field, want := range map[string]uint64{"VmRSS": 1234 << 10, "RssShmem": 0, "Pss": 5 << 10} {
		if got, err := kibibytes(file, field); err != nil || got != want {
			t.Errorf("%s: %d, %v", field, got, err)
		}
	}
	for _, field := range []string{"Bad", "None", ""} {
		if _, err := kibibytes(file, field); err == nil {
			t.Errorf("%s: no error", field)
		}
	}
}
