package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"bield/internal/spec"
)

// Host is what this host can run VMs with.
type Host struct {
	// KVM says whether guests run on the CPU itself, and why not: see KVM.
	KVM func() (usable bool, reason string)
	// Programs are the VMMs that bield knows, the preferred ones first.
	Programs []Program
}

// Program is one kind of VMM, there or not.
type Program struct {
	Kind spec.HypervisorKind
	// Driver drives it, with KVM or without; nil where it can't do without.
	Driver, WithoutKVM Driver
	// Find says what is installed, as "QEMU 7.2". The error says why that
	// can't be used, and what to install.
	Find func(context.Context) (string, error)
}

// Choice is what a VM runs on.
type Choice struct {
	Kind spec.HypervisorKind `json:"kind"` // never auto
	// KVM says that guests run on the CPU itself; else they are emulated.
	KVM bool `json:"kvm,omitempty"`
	// Why is a line for people: the version, and what decided.
	Why string `json:"why"`
}

// Accelerator is "kvm", or "tcg" for QEMU's emulation.
func (c Choice) Accelerator() string {
	if c.KVM {
		return "kvm"
	}
	return "tcg"
}

// Choose finds what a VM is to run on that asks for a program by name or, with
// auto, for the first that works: programs with KVM come before those without.
// The error says of each that was asked for why it does not, and what to do.
func (h Host) Choose(ctx context.Context, asked spec.HypervisorKind) (Choice, error) {
	kvm, reason := h.KVM()
	var against []string
	for _, p := range h.Programs {
		if asked != spec.HypervisorAuto && asked != p.Kind {
			continue
		}
		found, err := p.Find(ctx)
		switch {
		case ctx.Err() != nil:
			return Choice{}, context.Cause(ctx)
		case err != nil:
			against = append(against, err.Error())
		case !kvm && p.WithoutKVM == nil:
			against = append(against, fmt.Sprintf("%s runs guests with KVM alone: %s", p.Kind, reason))
		default:
			return Choice{Kind: p.Kind, KVM: kvm, Why: why(asked, found, kvm, reason, against)}, nil
		}
	}
	if asked != spec.HypervisorAuto {
		against = append(against, "or write `hypervisor: auto`, or leave it out: bield then takes what works")
	}
	return Choice{}, errors.New(strings.Join(against, "; "))
}

// why puts a choice into words.
func why(asked spec.HypervisorKind, found string, kvm bool, reason string, against []string) string {
	switch {
	case !kvm:
		return found + " without KVM: " + reason
	case asked != spec.HypervisorAuto:
		return found + " with KVM, as asked for"
	case len(against) > 0:
		return found + " with KVM: " + strings.Join(against, "; ")
	default:
		return found + " with KVM"
	}
}

// Driver is that of a choice, made now or earlier.
func (h Host) Driver(c Choice) (Driver, error) {
	for _, p := range h.Programs {
		switch {
		case p.Kind != c.Kind:
		case c.KVM:
			return p.Driver, nil
		case p.WithoutKVM != nil:
			return p.WithoutKVM, nil
		}
	}
	return nil, fmt.Errorf("this version of bield has no driver for %q (%s)", c.Kind, c.Accelerator())
}
