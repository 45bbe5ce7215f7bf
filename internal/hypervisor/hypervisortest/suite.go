package hypervisortest

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"bield/internal/hypervisor"
)

// Subject is a driver with a program to drive and a guest to run.
type Subject struct {
	// Name heads its column of the table.
	Name string
	// Missing says why it can't be had on this host, "" if it can.
	Missing string
	// New returns a driver as a new daemon has it.
	New func() hypervisor.Driver
	// Machine makes a machine: kernel, initramfs, and a Dir with nothing in it.
	Machine func(t testing.TB, f Fault) hypervisor.Machine
	Guest   Guest
	// Link, if set, says whether the guest answers on its link.
	Link func(ctx context.Context, conn net.Conn) error
	// Patience is how long what must happen may take.
	Patience time.Duration
	// Cannot has the reason why a case can't be shown, by its name.
	Cannot map[string]string
}

// Guest is how a subject's guest is spoken to on its serial line. It sends back each
// byte that is not part of these.
type Guest struct {
	// Greeting begins what it prints, as soon as it runs.
	Greeting string
	// PowerOff, Reset and Spin are what to type for it to power off, to reset its
	// machine as a panic does, and to answer nobody any more.
	PowerOff, Reset, Spin string
}

// greeting is what the guest prints first.
const greeting = "bield: a guest of its own\r\n"

// KernelGuest is how Kernel and KernelARM are spoken to.
func KernelGuest() Guest {
	return Guest{Greeting: greeting, PowerOff: "\x10", Reset: "\x12", Spin: "\x13"}
}

// Fault is what is wrong with the VMM of a machine.
type Fault string

// The faults of a VMM; the zero value is none.
const (
	// HalfAnswers: once the machine runs, the VMM breaks off in the middle of
	// each answer of its control socket.
	HalfAnswers Fault = "half answers"
)

// Verdict is what became of a case.
type Verdict string

// The verdicts.
const (
	OK      Verdict = "ok"
	NA      Verdict = "n/a"
	Skipped Verdict = "skipped"
	Failed  Verdict = "FAIL"
)

// Result is the verdict on one case, and why if it is not OK.
type Result struct {
	Case    string
	Verdict Verdict
	Why     string
}

// Report is what became of a subject, in the order of the suite's cases.
type Report struct {
	Subject string
	Results []Result
}

// Failures are the names of the cases that have failed.
func (r Report) Failures() []string {
	var names []string
	for _, result := range r.Results {
		if result.Verdict == Failed {
			names = append(names, result.Case)
		}
	}
	return names
}

// scenario is one case of the suite.
type scenario struct {
	name string
	run  func(*trial)
}

// cases are the suite, in the order of the table.
func cases() []scenario {
	return []scenario{
		{"start", (*trial).starts},
		{"first words", (*trial).keepsFirstWords},
		{"guest link", (*trial).links},
		{"console", (*trial).carriesBytes},
		{"console again", (*trial).reconnects},
		{"pause and resume", (*trial).pauses},
		{"power button", (*trial).pressesButton},
		{"forced stop", (*trial).kills},
		{"guest powers off", (*trial).guestPowersOff},
		{"guest resets", (*trial).guestResets},
		{"VMM killed", (*trial).vmmKilled},
		{"start twice", (*trial).startsTwice},
		{"starts at once", (*trial).startsAtOnce},
		{"start fails", (*trial).startFails},
		{"start hangs", (*trial).startHangs},
		{"stale files", (*trial).staleFiles},
		{"adoption", (*trial).adopts},
		{"end after adoption", (*trial).endsAdopted},
		{"adoption too late", (*trial).adoptsTooLate},
		{"VMM hangs", (*trial).vmmHangs},
		{"slow answers", (*trial).slowAnswers},
		{"half answers", (*trial).halfAnswers},
		{"confined", (*trial).confined},
		{"seccomp", (*trial).filtered},
	}
}

// Run puts a subject through the suite. Cases run in parallel with each other.
func Run(t *testing.T, s Subject) Report {
	t.Helper()
	return examine(t, s, func(t *testing.T, r Result) {
		t.Helper()
		switch r.Verdict {
		case Failed:
			t.Error(r.Why)
		case NA, Skipped:
			t.Skip(string(r.Verdict) + ": " + r.Why)
		}
	})
}

// Check is Run, but t does not fail by what fails.
func Check(t *testing.T, s Subject) Report {
	t.Helper()
	return examine(t, s, func(*testing.T, Result) {})
}

func examine(t *testing.T, s Subject, judge func(*testing.T, Result)) Report {
	t.Helper()
	known := cases()
	for name := range s.Cannot {
		if !has(known, name) {
			t.Errorf("%s can't do %q, which is no case", s.Name, name)
		}
	}
	results := make([]Result, len(known))
	t.Run(s.Name, func(t *testing.T) {
		for i, c := range known {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				results[i] = s.try(t, c)
				judge(t, results[i])
			})
		}
	})
	return Report{s.Name, results}
}

func has(known []scenario, name string) bool {
	for _, c := range known {
		if c.name == name {
			return true
		}
	}
	return false
}

// try runs one case in a goroutine of its own, which its end does not fail t by.
func (s Subject) try(t *testing.T, c scenario) Result {
	switch reason := s.Cannot[c.name]; {
	case s.Missing != "":
		return Result{c.name, Skipped, s.Missing}
	case reason != "":
		return Result{c.name, NA, reason}
	}
	r := &trial{TB: t, subject: s, driver: s.New()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.run(r)
		r.ended = true
	}()
	<-done
	return r.result(c.name)
}

func (t *trial) result(name string) Result {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case len(t.failures) > 0:
		return Result{name, Failed, strings.Join(t.failures, "; ")}
	case t.skipped != "":
		return Result{name, Skipped, t.skipped}
	case !t.ended:
		return Result{name, Failed, fmt.Sprintf("%s broke off", name)}
	}
	return Result{name, OK, ""}
}
