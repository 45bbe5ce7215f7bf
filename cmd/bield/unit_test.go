package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bield/internal/api/client"
	"bield/internal/state"
)

// systemctl puts one into the path that runs a script.
func systemctl(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestUnitLoaded(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		want   bool
	}{
		"installed":         {"case $1 in show) echo loaded ;; *) echo degraded; exit 1 ;; esac", true},
		"masked":            {"case $1 in show) echo masked ;; *) echo running ;; esac", true},
		"not installed":     {"case $1 in show) echo not-found ;; *) echo running ;; esac", false},
		"the machine stops": {"case $1 in show) echo loaded ;; *) echo stopping; exit 1 ;; esac", false},
		"no bus":            {"echo 'Failed to connect to bus' >&2; exit 1", false},
	} {
		t.Run(name, func(t *testing.T) {
			systemctl(t, c.script)
			if got := unitLoaded(t.Context()); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestOwnDaemonOnly leaves a bield beside the host's own to itself.
func TestOwnDaemonOnly(t *testing.T) {
	systemctl(t, "echo asked >> $0.log; echo loaded")
	a := &app{run: state.Run{Dir: "/somewhere/else"}}
	if a.hasUnit(t.Context()) {
		t.Error("the unit has another run directory")
	}
	t.Setenv(state.EnvCacheDir, "/somewhere/else")
	a.run.Dir = state.DefaultRunDir
	if a.hasUnit(t.Context()) {
		t.Error("the unit has another cache")
	}
}

func TestStartUnit(t *testing.T) {
	if os.Geteuid() != 0 {
		if err := startUnit(t.Context()); !errors.Is(err, client.ErrNoDaemon) || !strings.Contains(err.Error(), "sudo systemctl start bieldd") {
			t.Errorf("an ordinary user is told: %v", err)
		}
		return
	}
	systemctl(t, `[ "$*" = "--no-ask-password start bieldd.service" ]`)
	if err := startUnit(t.Context()); err != nil {
		t.Error(err)
	}
	systemctl(t, `printf 'Job for bieldd.service failed.\nSee more.\n' >&2; exit 1`)
	err := startUnit(t.Context())
	if err == nil || !strings.Contains(err.Error(), "Job for bieldd.service failed. (`journalctl -u bieldd`") {
		t.Errorf("a unit that fails: %v", err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := startUnit(canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

func TestEndDaemon(t *testing.T) {
	systemctl(t, "echo 17")
	if got := endDaemon(t.Context(), 17); got != "sudo systemctl restart bieldd" {
		t.Errorf("the unit's daemon: %s", got)
	}
	if got := endDaemon(t.Context(), 18); got != "kill 18" {
		t.Errorf("another: %s", got)
	}
}
