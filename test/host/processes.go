package host

import (
	"fmt"
	"os"
	"slices"
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
	return slices.DeleteFunc(processes(), func(p Process) bool {
		return p.mounts != h.mounts && p.net != h.net || p.State == "Z"
	})
}

func processes() []Process {
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
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// The name in parentheses may hold anything: the fields stand behind
		// the last one (proc_pid_stat(5)).
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		parent, _ := strconv.Atoi(fields[1])
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		mounts, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
		net, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		all = append(all, Process{pid, parent, fields[0], strings.ReplaceAll(string(line), "\x00", " "), mounts, net})
	}
	return all
}
