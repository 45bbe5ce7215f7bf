package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// stat holds the fields of /proc/PID/stat that identify a process (proc(5)).
type stat struct {
	state     byte
	group     int
	session   int
	startTime uint64 // clock ticks since boot
}

// Field numbers of proc(5), less that of the first behind the name: the state.
const (
	statState   = 0
	statGroup   = 5 - 3
	statSession = 6 - 3
	statStart   = 22 - 3
)

// parseStat reads one line of /proc/PID/stat. The name in its second field may
// hold anything, spaces and parentheses included.
func parseStat(line []byte) (stat, error) {
	end := bytes.LastIndexByte(line, ')')
	if end < 0 {
		return stat{}, errors.New("no process name in stat")
	}
	fields := strings.Fields(string(line[end+1:]))
	if len(fields) <= statStart || len(fields[statState]) != 1 {
		return stat{}, errors.New("too few fields in stat")
	}
	group, err1 := strconv.Atoi(fields[statGroup])
	session, err2 := strconv.Atoi(fields[statSession])
	start, err3 := strconv.ParseUint(fields[statStart], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return stat{}, fmt.Errorf("parse stat: %w", err)
	}
	return stat{fields[statState][0], group, session, start}, nil
}

func readStat(pid int) (stat, error) {
	line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	return parseStat(line)
}

// dead says that nothing runs any more, though a parent may not have noticed.
func (s stat) dead() bool { return s.state == 'Z' || s.state == 'X' }

func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(id)), nil
}
