package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"bield/internal/spec"
	"bield/test/host"
)

// commands are what scripts have beside testscript's own: see
// testdata/script/README.md.
func commands() map[string]func(*testscript.TestScript, bool, []string) {
	table := map[string]func(*testscript.TestScript, *host.Host, []string) error{
		"exits": runExits, "daemon": runDaemon, "end-daemon": runEndDaemon, "await": runAwait,
		"await-file": runAwaitFile, "await-text": runAwaitText, "slay": runSlay, "clean": runClean, "plain": runPlain, "chown": runChown,
	}
	all := map[string]func(*testscript.TestScript, bool, []string){}
	for name, run := range table {
		all[name] = func(ts *testscript.TestScript, neg bool, args []string) {
			if neg {
				ts.Fatalf("unsupported: ! %s", name)
			}
			if err := run(ts, hostOf(ts), args); err != nil {
				ts.Fatalf("%s: %v", name, err)
			}
		}
	}
	return all
}

var errArguments = errors.New("wrong arguments")

// runExits is exec for a command that must end with one exit code.
func runExits(ts *testscript.TestScript, _ *host.Host, args []string) error {
	if len(args) < 2 {
		return errArguments
	}
	want, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		return err
	}
	if code != want {
		return fmt.Errorf("exit code %d, want %d", code, want)
	}
	return nil
}

func runDaemon(ts *testscript.TestScript, h *host.Host, args []string) error {
	set := map[string]string{"BIELD_TEST_KVM": ts.Getenv("BIELD_TEST_KVM")}
	for name := range h.Environment() {
		set[name] = ts.Getenv(name)
	}
	return h.StartDaemon(set, args...)
}

func runEndDaemon(_ *testscript.TestScript, h *host.Host, args []string) error {
	if len(args) != 1 || unix.SignalNum("SIG"+args[0]) == 0 {
		return errArguments
	}
	if pid, err := h.DaemonPID(); err != nil || pid == 0 {
		return fmt.Errorf("no daemon runs: %w", err)
	}
	return h.EndDaemon(unix.SignalNum("SIG" + args[0]))
}

// runAwait waits until a VM has one of some states, nothing is left, or there
// is no daemon.
func runAwait(_ *testscript.TestScript, h *host.Host, args []string) error {
	switch {
	case len(args) == 2:
		return awaitState(h, args[0], strings.Split(args[1], "|"))
	case len(args) == 1 && args[0] == "clean":
		if !host.WaitFor(host.Patience, func() bool { return len(h.Leftovers()) == 0 }) {
			return fmt.Errorf("left: %s", strings.Join(h.Leftovers(), "; "))
		}
		return nil
	case len(args) == 1 && args[0] == "no-daemon":
		return h.AwaitDaemonsEnd()
	}
	return errArguments
}

func awaitState(h *host.Host, name string, states []string) error {
	var last []spec.VMStatus
	reached := host.WaitFor(host.Patience, func() bool {
		reply, err := h.Client.VMs(context.Background())
		last = reply.VMs
		return err == nil && slices.ContainsFunc(last, func(vm spec.VMStatus) bool {
			return vm.Name == name && slices.Contains(states, string(vm.State))
		})
	})
	if !reached {
		return fmt.Errorf("%s does not become %s: %+v", name, states, last)
	}
	return nil
}

func runAwaitFile(ts *testscript.TestScript, _ *host.Host, args []string) error {
	if len(args) != 1 {
		return errArguments
	}
	there := func() bool { _, err := os.Stat(ts.MkAbs(args[0])); return err == nil }
	if !host.WaitFor(host.Patience, there) {
		return fmt.Errorf("%s does not appear", args[0])
	}
	return nil
}

// runAwaitText waits until a line of a file matches a pattern.
func runAwaitText(ts *testscript.TestScript, _ *host.Host, args []string) error {
	if len(args) != 2 {
		return errArguments
	}
	pattern, err := regexp.Compile("(?m)" + args[1])
	if err != nil {
		return err
	}
	var text []byte
	there := func() bool {
		text, _ = os.ReadFile(ts.MkAbs(args[0]))
		return pattern.Match(text)
	}
	if !host.WaitFor(host.Patience, there) {
		return fmt.Errorf("%s has no %s, but:\n%s", args[0], args[1], text)
	}
	return nil
}

// runSlay kills a process that a record names, `vmm VM` or `share VM TAG`, and
// waits for its end.
func runSlay(_ *testscript.TestScript, h *host.Host, args []string) error {
	if len(args) < 2 {
		return errArguments
	}
	type id struct{ PID int }
	var record struct {
		VMM    *id
		Shares []struct {
			Tag     string
			Process *id
		}
	}
	data, err := os.ReadFile(h.Run.Record(args[1]))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &record); err != nil {
		return err
	}
	victim := record.VMM
	for _, s := range record.Shares {
		if args[0] == "share" && len(args) == 3 && s.Tag == args[2] {
			victim = s.Process
		}
	}
	if victim == nil || args[0] == "share" && victim == record.VMM {
		return fmt.Errorf("no such process in %s", data)
	}
	fd, err := unix.PidfdOpen(victim.PID, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return err
	}
	if !host.Ends(fd, host.Patience) {
		return fmt.Errorf("process %d does not end", victim.PID)
	}
	return nil
}

func runClean(_ *testscript.TestScript, h *host.Host, _ []string) error {
	if left := h.Leftovers(); len(left) > 0 {
		return fmt.Errorf("left: %s", strings.Join(left, "; "))
	}
	return nil
}

// runPlain writes a file anew with what differs from run to run replaced:
// durations by TIME, the script's folder by WORK, and pids by PID.
func runPlain(ts *testscript.TestScript, h *host.Host, args []string) error {
	if len(args) != 2 {
		return errArguments
	}
	return os.WriteFile(ts.MkAbs(args[1]), []byte(plainText(ts.ReadFile(args[0]), h.Work)), 0o644)
}

func runChown(ts *testscript.TestScript, _ *host.Host, args []string) error {
	if len(args) != 2 {
		return errArguments
	}
	id, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	return os.Chown(ts.MkAbs(args[1]), id, id)
}

// plainText is text without what differs from run to run.
func plainText(text, work string) string {
	text = strings.ReplaceAll(text, work, "WORK")
	for pattern, plain := range map[string]string{`\b\d+(\.\d+)?m?s\b`: "TIME", `\bpid \d+`: "pid PID"} {
		text = regexp.MustCompile(pattern).ReplaceAllString(text, plain)
	}
	return text
}
