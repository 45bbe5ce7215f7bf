package host

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Process is one as /proc shows it.
type Process struct {
	PID, Parent int
	State       string // a letter: proc_pid_stat(5)
	Command     string
	mounts, net string // namespaces
}

// Processes lists what lives in one of the machine's namespaces: a virtiofsd has
// a network of its own, the making of an image mounts of its own.
func (h *Host) Processes() []Process {
	return processes(func(p Process) bool { return p.mounts == h.mounts || p.net == h.net })
}

// processes lists those that are wanted. The dead have no namespaces.
func processes(wanted func(Process) bool) []Process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var all []Process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		p, err := look(pid)
		if err != nil || !wanted(p) {
			continue
		}
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		p.Command = strings.ReplaceAll(string(line), "\x00", " ")
		all = append(all, p)
	}
	return all
}

func look(pid int) (Process, error) {
	p := Process{PID: pid}
	p.mounts, _ = os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	p.net, _ = os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return p, err
	}
	// The name in parentheses may hold anything: the fields stand behind the
	// last one (proc_pid_stat(5)).
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	p.State = fields[0]
	p.Parent, err = strconv.Atoi(fields[1])
	return p, err
}
