package hypervisortest

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"bield/internal/process"
)

// starts: the record is written before, the VMM runs, and nobody but root and the
// VMM's user can reach what the driver has made.
func (t *trial) starts() {
	m := t.machine()
	var noted process.ID
	m.Note = func(id process.ID) error { noted = id; return nil }
	vm := t.start(m)
	if vm.ID() != noted || noted.PID <= 1 {
		t.Errorf("the record was told %+v, the VM is %+v", noted, vm.ID())
	}
	t.goesOn(vm)
	for _, path := range t.files(m) {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Error(err)
		} else if st.Mode&0o077 != 0 || st.Uid != 0 && st.Uid != m.UID {
			t.Errorf("%s: mode %o, owner %d", path, st.Mode, st.Uid)
		}
	}
}

// keepsFirstWords: whoever takes the serial line after Start misses nothing.
func (t *trial) keepsFirstWords() {
	vm := t.start(t.machine())
	time.Sleep(pause) // the guest prints meanwhile
	t.sees(t.serial(vm), t.subject.Guest.Greeting)
}

// pause is enough for a guest to do what it must not do, or does too early.
const pause = 200 * time.Millisecond

// links: one connection of the guest link after another.
func (t *trial) links() {
	vm := t.start(t.machine())
	ctx, cancel := t.context()
	defer cancel()
	for range 3 {
		conn, err := vm.Link(ctx)
		if err != nil {
			t.Fatalf("connect to the guest link: %v", err)
		}
		if t.subject.Link != nil {
			if err := t.subject.Link(ctx, conn); err != nil {
				t.Errorf("the guest on its link: %v", err)
			}
		}
		_ = conn.Close() // who speaks on it may have done so
	}
}

// carriesBytes: any byte passes in both directions. Of line ends terminals are known
// to make others.
func (t *trial) carriesBytes() {
	conn := t.serial(t.start(t.machine()))
	orders := t.subject.Guest.PowerOff + t.subject.Guest.Reset + t.subject.Guest.Spin + "\r\n"
	for b := range 256 {
		if strings.IndexByte(orders, byte(b)) < 0 {
			t.echoes(conn, string([]byte{byte(b)}))
		}
	}
	long := strings.Repeat("0123456789abcdef", 32)
	t.echoes(conn, long)
}

// reconnects: a daemon that was restarted connects anew.
func (t *trial) reconnects() {
	vm := t.start(t.machine())
	for i := range 3 {
		conn := t.serial(vm)
		t.echoes(conn, fmt.Sprintf("connection %d", i))
		_ = conn.Close()
	}
}

// pauses: a paused guest does nothing, a resumed one goes on where it was. Neither
// minds being asked twice.
func (t *trial) pauses() {
	vm := t.start(t.machine())
	ctx, cancel := t.context()
	defer cancel()
	conn := t.serial(vm)
	t.echoes(conn, "before")
	for range 2 {
		if err := vm.Pause(ctx); err != nil {
			t.Fatal(err)
		}
	}
	t.drain(conn)
	t.types(conn, "after")
	t.silent(conn)
	for range 2 {
		if err := vm.Resume(ctx); err != nil {
			t.Fatal(err)
		}
	}
	t.sees(conn, "after")
}

// drain reads what the guest has printed before it was paused.
func (t *trial) drain(conn net.Conn) {
	_ = conn.SetReadDeadline(time.Now().Add(pause))
	_, _ = io.Copy(io.Discard, conn)
}

// silent holds the guest to print nothing for a while.
func (t *trial) silent(conn net.Conn) {
	_ = conn.SetReadDeadline(time.Now().Add(pause))
	chunk := make([]byte, 64)
	if n, _ := conn.Read(chunk); n > 0 {
		t.Errorf("the paused guest says %q", chunk[:n])
	}
	_ = conn.SetReadDeadline(time.Now().Add(t.subject.Patience))
}

// confined: the VMM is its VM's own user without any privilege, in a network of its
// own.
func (t *trial) confined() {
	m := t.machine()
	vm := t.start(m)
	for _, path := range t.threads(vm.ID().PID) {
		t.hasAll(path,
			fmt.Sprintf("Uid:\t%d\t%[1]d\t%[1]d\t%[1]d\n", m.UID), fmt.Sprintf("Gid:\t%d\t%[1]d\t%[1]d\t%[1]d\n", m.GID),
			"CapInh:\t0000000000000000\n", "CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n",
			"CapBnd:\t0000000000000000\n", "CapAmb:\t0000000000000000\n", "NoNewPrivs:\t1\n")
	}
	host, _ := os.Readlink("/proc/self/ns/net")
	if own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", vm.ID().PID)); err != nil || own == host {
		t.Errorf("network namespace %s, %v", own, err)
	}
	links, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", vm.ID().PID))
	if n := strings.Count(string(links), ":"); err != nil || n > 1 {
		t.Errorf("%d links in its network namespace, %v", n, err)
	}
}

// filtered: each thread that serves the guest has its filter of system calls. The
// first thread only waits for the others, in cloud-hypervisor.
func (t *trial) filtered() {
	pid := t.start(t.machine()).ID().PID
	threads := 0
	for _, path := range t.threads(pid) {
		if filepath.Base(filepath.Dir(path)) != fmt.Sprint(pid) {
			threads++
			t.hasAll(path, "Seccomp:\t2\n")
		}
	}
	if threads == 0 {
		t.Errorf("the VMM has no threads")
	}
}

// threads are the status files of a process's threads.
func (t *trial) threads(pid int) []string {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("threads of the VMM: %q, %v", tasks, err)
	}
	return tasks
}

// hasAll holds a thread's status to have lines. One that has ended has none.
func (t *trial) hasAll(path string, lines ...string) {
	text, err := os.ReadFile(path)
	if err != nil {
		return
	}
	for _, line := range lines {
		if !strings.Contains(string(text), line) {
			t.Errorf("%s has not %q", path, line)
		}
	}
}
