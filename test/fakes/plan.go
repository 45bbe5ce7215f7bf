package fakes

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// Plan is plan.json: what is to go wrong. What it does not name goes well.
type Plan struct {
	VMs map[string]Guest `json:"vms"` // by name
	// Shares is by tag, Host for all VMs.
	Shares     map[string]Share `json:"shares"`
	Mmdebstrap Mmdebstrap       `json:"mmdebstrap"`
	// CloudHypervisor is the version that cloud-hypervisor is, "v53.0" if empty:
	// up to v52 it speaks as that did.
	CloudHypervisor string `json:"cloudHypervisor"`
}

// AtStart is where a VMM is before it has opened its monitor.
const AtStart = "start"

// Guest steers one VMM, and the guest in it.
type Guest struct {
	// Crash is where the VMM ends: AtStart, or a stage of the guest's boot; Exit
	// is its code, or Reset for a guest that resets its machine, and Says what it
	// prints then: to its log AtStart, else on the guest's console.
	Crash string `json:"crash"`
	Exit  int    `json:"exit"`
	Says  string `json:"says"`
	// Hang is where everything stands still for good: AtStart, or a stage.
	Hang string `json:"hang"`
	// Fail maps stages to the reason why they fail.
	Fail map[string]string `json:"fail"`
	// Relink is a stage at which the guest drops the guest link and takes it
	// up anew, as one does that goes on to systemd.
	Relink string `json:"relink"`
	// NoButton lets the guest ignore its power button.
	NoButton bool `json:"noButton"`
	// Mute lets the monitor take connections and never answer once the
	// machine runs, or, with cloud-hypervisor, once it has said so.
	Mute bool `json:"mute"`
	// HalfAnswers lets QEMU's monitor hang up in the middle of each answer once the
	// machine runs.
	HalfAnswers bool `json:"halfAnswers"`
	// SSH is what is wrong with the guest's sshd.
	SSH SSHFault `json:"ssh"`
	// Verify is what the guest does with a program that the host brings to verify
	// it.
	Verify VerifyFault `json:"verify"`
	// VMM is what is wrong with cloud-hypervisor itself.
	VMM VMMFaults `json:"vmm"`
}

// SSHFault is what can be wrong with a guest's sshd.
type SSHFault string

// The faults of a guest's sshd; the zero value is none.
const (
	SSHRefuses  SSHFault = "refuses"  // nobody listens
	SSHOtherKey SSHFault = "otherKey" // another host key than the pinned one
	SSHDenies   SSHFault = "denies"   // every key is refused
	SSHNoShell  SSHFault = "noShell"  // every command fails
)

// VerifyFault is what a guest does that is to be verified; with the zero value
// all that it tries is refused.
type VerifyFault string

// What it can do beside that.
const (
	VerifyConnects VerifyFault = "connects" // every connection is made
	VerifyEndless  VerifyFault = "endless"  // its output has no end
	VerifyGarbage  VerifyFault = "garbage"  // its output is none of ours
	VerifyChunks   VerifyFault = "chunks"   // not even chunks come
	VerifyNever    VerifyFault = "never"    // nothing comes
	VerifyHalf     VerifyFault = "half"     // it ends before it has done all
	VerifyMany     VerifyFault = "many"     // it says more than it was asked
	VerifyRefuses  VerifyFault = "refuses"  // it does not run programs
	VerifyEscapes  VerifyFault = "escapes"  // its results are escape sequences
)

// Share steers the virtiofsds of one tag.
type Share struct {
	// Crash ends virtiofsd with code 1 before anybody connects; Says is its
	// last word.
	Crash bool   `json:"crash"`
	Says  string `json:"says"`
}

// Mmdebstrap steers the making of images.
type Mmdebstrap struct {
	// Fail is the last line of a failing mmdebstrap.
	Fail string `json:"fail"`
	// Hang lets it stand still in the middle.
	Hang bool `json:"hang"`
}

// home is the folder of the program that runs.
func home() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find myself: %w", err)
	}
	return filepath.Dir(self), nil
}

func readPlan(dir string) (Plan, error) {
	var p Plan
	data, err := os.ReadFile(filepath.Join(dir, "plan.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("read the plan: %w", err)
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("read the plan: %w", err)
	}
	return p, nil
}

// QEMU is the name of this machine's QEMU.
func QEMU() string {
	if runtime.GOARCH == "arm64" {
		return "qemu-system-aarch64"
	}
	return "qemu-system-x86_64"
}

// Programs maps names of programs to what plays them; each returns its exit
// code.
func Programs() map[string]func() int {
	return map[string]func() int{
		QEMU():             program(QEMU(), runQEMU),
		"cloud-hypervisor": program("cloud-hypervisor", runCloudHypervisor),
		"virtiofsd":        program("virtiofsd", runVirtiofsd),
		"mmdebstrap":       program("E", runMmdebstrap),
	}
}

// exit is an error that is nothing but an exit code.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// program gives run the arguments and its folder, and prints its error as the
// program of that name would.
func program(name string, run func(dir string, p Plan, args []string) error) func() int {
	return func() int {
		dir, err := home()
		var p Plan
		if err == nil {
			p, err = readPlan(dir)
		}
		if err == nil {
			err = run(dir, p, os.Args[1:])
		}
		var code exit
		switch {
		case err == nil:
			return 0
		case errors.As(err, &code):
			return int(code)
		}
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
}

// forever keeps the program where it is until it is killed.
func forever() {
	for {
		time.Sleep(time.Hour) // the runtime takes an empty select for a deadlock
	}
}
