package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Memory is what the processes of one group hold, in bytes.
type Memory struct {
	// RSS is what they have in memory. What several of them share is counted
	// for each.
	RSS uint64
	// Shared is the part of RSS that is shared memory: of a VMM and its
	// virtiofsds, the guest's memory.
	Shared uint64
	// PSS is RSS with each page divided by the number of those who share it.
	// It is 0 unless asked for.
	PSS uint64
}

func (m *Memory) add(other Memory) {
	m.RSS += other.RSS
	m.Shared += other.Shared
	m.PSS += other.PSS
}

// MemoryOf adds up what each process holds together with the group that it
// leads, in one pass over /proc. One that has ended has no entry.
func MemoryOf(ids []ID) (map[ID]Memory, error) {
	boot, err := bootID()
	if err != nil {
		return nil, fmt.Errorf("read memory of processes: %w", err)
	}
	leaders := map[int]ID{}
	for _, id := range ids {
		if s, err := readStat(id.PID); err == nil && id.BootID == boot && s.startTime == id.StartTime && !s.dead() {
			leaders[id.PID] = id
		}
	}
	held := make(map[ID]Memory, len(leaders))
	if len(leaders) == 0 {
		return held, nil
	}
	err = eachProcess(func(pid int) {
		s, err := readStat(pid)
		if err != nil || s.dead() {
			return
		}
		leader, ok := leaders[s.group]
		if !ok {
			return
		}
		if m, err := readMemory(pid); err == nil {
			sum := held[leader]
			sum.add(m)
			held[leader] = sum
		}
	})
	return held, err
}

// Usage is who a process runs as and what it holds together with its group,
// PSS included: the kernel walks all its pages for that.
func (id ID) Usage() (uid uint32, m Memory, err error) {
	all, err := MemoryOf([]ID{id})
	if err != nil {
		return 0, m, err
	}
	m, alive := all[id]
	if !alive {
		return 0, m, fmt.Errorf("process %d: %w", id.PID, ErrGone)
	}
	for _, pid := range append(groupMembers(id.PID), id.PID) {
		// One that ends meanwhile holds nothing.
		rollup, err := os.ReadFile(procFile(pid, "smaps_rollup"))
		if err == nil {
			pss, _ := kibibytes(rollup, "Pss")
			m.PSS += pss
		}
	}
	uid, err = effectiveUID(id.PID)
	return uid, m, err
}

func procFile(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

func eachProcess(visit func(pid int)) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			visit(pid)
		}
	}
	return nil
}

func readMemory(pid int) (Memory, error) {
	status, err := os.ReadFile(procFile(pid, "status"))
	if err != nil {
		return Memory{}, err
	}
	rss, err := kibibytes(status, "VmRSS")
	if err != nil {
		return Memory{}, err
	}
	shared, err := kibibytes(status, "RssShmem")
	return Memory{RSS: rss, Shared: shared}, err
}

func effectiveUID(pid int) (uint32, error) {
	status, err := os.ReadFile(procFile(pid, "status"))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(statusField(status, "Uid")) // real, effective, …
	if len(fields) < 2 {
		return 0, errors.New("no uid in status")
	}
	uid, err := strconv.ParseUint(string(fields[1]), 10, 32)
	return uint32(uid), err
}

// kibibytes reads a field of /proc/PID/status or smaps_rollup (proc(5)), such
// as "VmRSS:	  1234 kB", in bytes.
func kibibytes(file []byte, field string) (uint64, error) {
	value, _, _ := bytes.Cut(bytes.TrimSpace(statusField(file, field)), []byte(" "))
	n, err := strconv.ParseUint(string(value), 10, 54)
	if err != nil {
		return 0, fmt.Errorf("field %s: %w", field, err)
	}
	return n << 10, nil
}

// statusField is what stands behind a field's name. The kernel escapes the
// process's name, which holds no line of its own then.
func statusField(file []byte, field string) []byte {
	for line := range bytes.Lines(file) {
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && string(name) == field {
			return value
		}
	}
	return nil
}
