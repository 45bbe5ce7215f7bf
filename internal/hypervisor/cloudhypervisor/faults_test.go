package cloudhypervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bield/internal/guestlink"
	"bield/internal/hypervisor"
	"bield/internal/process"
	"bield/test/fakes"
)

// patience bounds what has no answer, and most what the driver may take for all
// of a case, whose own limits are at most apiTimeout.
const (
	patience = 3 * time.Second
	most     = apiTimeout + 15*time.Second
)

// fault is one thing that goes wrong, and what comes of it.
type fault struct {
	plan fakes.VMMFaults
	// do uses the VM; without it none is to start.
	do func(ctx context.Context, vm hypervisor.VM) error
	// says is a pattern of the error, "" for none.
	says string
	// ends is what Cause says then of a VMM that has ended by itself.
	ends string
}

func at(action string, f fakes.APIFault) fakes.VMMFaults {
	return fakes.VMMFaults{API: map[string]fakes.APIFault{action: f}}
}

func pause(ctx context.Context, vm hypervisor.VM) error { return vm.Pause(ctx) }

func link(ctx context.Context, vm hypervisor.VM) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := vm.Link(ctx)
	if err == nil {
		_ = conn.Close()
	}
	return err
}

// useAll asks for everything, and twice where that is allowed.
func useAll(ctx context.Context, vm hypervisor.VM) error {
	conn, err := vm.Serial(ctx)
	if err != nil {
		return err
	}
	_ = conn.Close()
	return errors.Join(link(ctx, vm), vm.Pause(ctx), vm.Pause(ctx), vm.Resume(ctx), vm.Resume(ctx), vm.PowerButton(ctx), ended(vm), vm.Cause())
}

func ended(vm hypervisor.VM) error {
	select {
	case <-vm.Done():
		return nil
	case <-time.After(patience):
		return errors.New("the VMM goes on")
	}
}

// nothing leaves it at start and end.
func nothing(context.Context, hypervisor.VM) error { return nil }

func allFaults() map[string]fault {
	const impatient, one = "no patience any more", "exit status 1"
	return map[string]fault{
		"none":                     {do: useAll},
		"every answer is slow":     {plan: at("*", fakes.APISlow), do: useAll},
		"noise among the events":   {plan: fakes.VMMFaults{Events: fakes.EventsNoise}, do: useAll},
		"no answer, though done":   {plan: at("vm.pause", fakes.APIDrops), do: pause, says: "pause: vm.pause: .*EOF"},
		"no answer to vm.info":     {plan: at("vm.info", fakes.APIDrops), says: "vm.info: .*EOF"},
		"API closed at vm.info":    {plan: at("vm.info", fakes.APICloses), says: "vm.info: .*EOF"},
		"API closed later":         {plan: at("vm.pause", fakes.APICloses), do: twice(pause), says: "pause: vm.pause: .*EOF(?s).*vm.pause: .*connection refused"},
		"500 at vm.info":           {plan: at("vm.info", fakes.APIRefuses), says: "refuses: \"Error from API: The VM has a fault\" .status 500"},
		"500 twice":                {plan: at("vm.pause", fakes.APIRefuses), do: thirdWorks, says: "pause: vm.pause: cloud-hypervisor refuses: .*status 500"},
		"dies at vm.info":          {plan: at("vm.info", fakes.APIDies), says: "(it ended|EOF) .exit status 1"},
		"dies at vm.pause":         {plan: at("vm.pause", fakes.APIDies), do: pause, says: "pause: vm.pause: .*EOF", ends: one},
		"dies at vm.shutdown":      {plan: at("vm.shutdown", fakes.APIDies), do: nothing},
		"half an answer":           {plan: at("vm.info", fakes.APIHalf), says: "vm.info: read the answer: unexpected EOF"},
		"half, and silence":        {plan: at("vm.info", fakes.APIStalls), says: "vm.info: .*" + impatient},
		"silence":                  {plan: at("vm.info", fakes.APIMute), says: "vm.info: .*" + impatient},
		"silence later":            {plan: at("vm.pause", fakes.APIMute), do: pause, says: "pause: vm.pause: cloud-hypervisor does not answer within 10s"},
		"silence at the end":       {plan: at("vm.shutdown", fakes.APIMute), do: nothing},
		"a body without an end":    {plan: at("vm.info", fakes.APIEndless), says: "vm.info: an answer of more than 1048576 bytes"},
		"endless at the end":       {plan: at("vmm.shutdown", fakes.APIEndless), do: nothing},
		"no HTTP":                  {plan: at("vm.info", fakes.APIGarbage), says: "vm.info: .*malformed HTTP"},
		"no JSON":                  {plan: at("vm.info", fakes.APINoJSON), says: "vm.info: .*invalid character"},
		"Paused after booted":      {plan: fakes.VMMFaults{State: "Paused"}, says: `the VM is "Paused" after it has booted`},
		"Shutdown after booted":    {plan: fakes.VMMFaults{State: "Shutdown"}, says: `the VM is "Shutdown" after it has booted`},
		"no state of the API's":    {plan: fakes.VMMFaults{State: strings.Repeat("\x1b[2J", 10)}, says: `the VM is "\\x1b\[2J`},
		"a pause that is none":     {plan: at("vm.pause", fakes.APIIgnores), do: pause, says: `pause: vm.pause: the VM is "Running" then, not Paused`},
		"vm.shutdown is ignored":   {plan: at("vm.shutdown", fakes.APIIgnores), do: nothing},
		"vmm.shutdown is ignored":  {plan: at("vmm.shutdown", fakes.APIIgnores), do: nothing},
		"no events":                {plan: fakes.VMMFaults{Events: fakes.EventsNone}, says: impatient},
		"garbage for events":       {plan: fakes.VMMFaults{Events: fakes.EventsGarbage}, says: impatient},
		"an event without an end":  {plan: fakes.VMMFaults{Events: fakes.EventsEndless}, says: impatient},
		"no serial line":           {plan: fakes.VMMFaults{Sockets: fakes.SerialMissing}, says: "connect to cloud-hypervisor: .*serial.sock"},
		"vsock answers garbage":    {plan: fakes.VMMFaults{Sockets: fakes.VsockGarbage}, do: link, says: `connect to the guest link: .*it answers "220 mail`},
		"vsock answers for ever":   {plan: fakes.VMMFaults{Sockets: fakes.VsockEndless}, do: link, says: "connect to the guest link: .*it answers \"OKOKOK"},
		"ends while it boots":      {plan: fakes.VMMFaults{Ends: "booting"}, says: "exit status 1"},
		"ends when it has booted":  {plan: fakes.VMMFaults{Ends: "booted"}, says: "exit status 1"},
		"ends before anything":     {plan: fakes.VMMFaults{Ends: "starting"}, says: "it ended .exit status 1.; it said nothing"},
		"a request that is no one": {do: fly, ends: fmt.Sprint("exit status ", fakes.ContractCode)},
	}
}

func twice(do func(context.Context, hypervisor.VM) error) func(context.Context, hypervisor.VM) error {
	return func(ctx context.Context, vm hypervisor.VM) error { return errors.Join(do(ctx, vm), do(ctx, vm)) }
}

// thirdWorks returns the first error if the third time has none.
func thirdWorks(ctx context.Context, vm hypervisor.VM) error {
	first, second, third := vm.Pause(ctx), vm.Pause(ctx), vm.Pause(ctx)
	if second == nil || third != nil {
		return fmt.Errorf("then %w, then %w", second, third)
	}
	return first
}

// fly asks for what the API's description does not have.
func fly(ctx context.Context, vm hypervisor.VM) error {
	if err := vm.(*VM).api.put(ctx, "vm.fly"); err == nil {
		return errors.New("the VM flies")
	}
	err := ended(vm)
	if log := process.TailLog(vm.(*VM).log, 1); len(log) != 1 || !strings.HasPrefix(log[0], "contract: PUT /api/v1/vm.fly") {
		err = errors.Join(err, fmt.Errorf("it says %q", log))
	}
	return err
}

// TestFaults is the check of the fake as much as of the driver: each of these must
// be noticed, and none may keep it up or leave something.
func TestFaults(t *testing.T) {
	var mu sync.Mutex
	table := map[string]string{}
	t.Run("each", func(t *testing.T) {
		for _, version := range []string{"v52.0", "v53.0"} {
			for name, f := range allFaults() {
				t.Run(version+" "+name, func(t *testing.T) {
					t.Parallel()
					said := f.happens(t, version)
					mu.Lock()
					defer mu.Unlock()
					table[name] = said
				})
			}
		}
	})
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(table)) {
		fmt.Fprintf(&text, "%-25s %s\n", name, strings.ReplaceAll(table[name], "\n", "; "))
	}
	t.Logf("fault → what the driver says (v52 and v53)\n%s", &text)
}

// happens runs the driver and returns what it said.
func (f fault) happens(t *testing.T, version string) string {
	const name = "faulty"
	m := newMachine(t, name)
	d := fakeDriver(t, fakes.Plan{CloudHypervisor: version, VMs: map[string]fakes.Guest{name: {VMM: f.plan}}})
	began := time.Now()
	said := f.use(t, d, m)
	if took := time.Since(began); took > most {
		t.Errorf("it took %s", took)
	}
	for _, left := range []string{"*.sock", "*.fifo", "vmm", "vmm/*"} {
		if names, _ := filepath.Glob(filepath.Join(m.Dir, left)); len(names) > 0 {
			t.Errorf("left: %s", names)
		}
	}
	if still := running(t, m.Dir); len(still) > 0 {
		t.Errorf("still running: %s", still)
	}
	return said
}

func (f fault) use(t *testing.T, d *Driver, m hypervisor.Machine) string {
	t.Helper()
	if f.do == nil {
		return f.check(t, f.starts(t, d, m))
	}
	vm, err := d.Start(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	err = f.do(t.Context(), vm)
	cause := ""
	if f.ends != "" {
		if ended(vm) != nil || vm.Cause() == nil || !strings.Contains(vm.Cause().Error(), f.ends) {
			t.Errorf("ended: %v, want %q", vm.Cause(), f.ends)
		}
		cause = fmt.Sprintf(" (%v)", vm.Cause())
	}
	if err := vm.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	return f.check(t, err) + cause
}

// starts is for a VM that should not.
func (f fault) starts(t *testing.T, d *Driver, m hypervisor.Machine) error {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("no patience any more"))
	defer cancel()
	vm, err := d.Start(ctx, m)
	if err == nil {
		_ = vm.Kill(t.Context())
	}
	return err
}

func (f fault) check(t *testing.T, err error) string {
	t.Helper()
	switch {
	case err == nil && f.says == "":
		return "nothing: it works"
	case err == nil:
		t.Errorf("no error, want %q", f.says)
		return ""
	case f.says == "" || !regexp.MustCompile(f.says).MatchString(err.Error()):
		t.Errorf("error %q, want %q", err, f.says)
	case strings.Contains(err.Error(), "\x1b"):
		t.Errorf("an escape sequence in %q", err)
	}
	return err.Error()
}

// running lists the processes whose command line names a folder.
func running(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && bytes.Contains(text, []byte(dir+"/")) {
			found = append(found, file)
		}
	}
	return found
}

// letGoOn is a session, which a guest with Relink waits for.
func letGoOn(t *testing.T, vm hypervisor.VM) {
	t.Helper()
	conn, err := vm.Link(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	session, err := guestlink.Dial(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	_ = session.Close()
}

// TestGuestResetsAtOnce: before Start has returned, perhaps.
func TestGuestResetsAtOnce(t *testing.T) {
	m := newMachine(t, "resets")
	d := fakeDriver(t, fakes.Plan{VMs: map[string]fakes.Guest{"resets": {Crash: "modules", Exit: fakes.Reset}}})
	vm, err := d.Start(t.Context(), m)
	if err == nil {
		if err = ended(vm); err == nil {
			err = vm.Cause()
		}
		_ = vm.Kill(t.Context())
	}
	if !errors.Is(err, errReset) {
		t.Errorf("error %v", err)
	}
}

// TestGuestResets: cloud-hypervisor would boot the guest anew.
func TestGuestResets(t *testing.T) {
	for _, version := range []string{"v52.0", "v53.0"} {
		m := newMachine(t, "resets")
		d := fakeDriver(t, fakes.Plan{CloudHypervisor: version, VMs: map[string]fakes.Guest{
			"resets": {Relink: "shares", Crash: "network", Exit: fakes.Reset, Says: "Kernel panic"},
		}})
		vm, err := d.Start(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		serial, err := vm.Serial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		letGoOn(t, vm)
		if text, _ := io.ReadAll(serial); !bytes.Contains(text, []byte("Linux version")) || !bytes.Contains(text, []byte("Kernel panic")) {
			t.Errorf("on the serial line: %q", text)
		}
		_ = serial.Close()
		if err := ended(vm); err != nil {
			t.Error(err)
		}
		if err := vm.Cause(); !errors.Is(err, errReset) {
			t.Errorf("%s: ended: %v", version, err)
		}
		if err := vm.Kill(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
