package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"bield/internal/api"
	"bield/internal/spec"
)

func TestPrintEvent(t *testing.T) {
	uid := uint32(1000)
	at := time.Date(2026, 1, 31, 12, 0, 0, 7_000_000, time.Local)
	for name, c := range map[string]struct {
		event api.HostEvent
		want  string
	}{
		"a state":        {api.HostEvent{Kind: spec.EventState, VM: "claude-home", State: "running", Elapsed: 1234 * time.Millisecond}, "claude-home      running    after 1.234s"},
		"a reason":       {api.HostEvent{Kind: spec.EventState, VM: "a", State: "failed", Message: "why"}, "a                failed     why"},
		"nothing to say": {api.HostEvent{Kind: spec.EventState, VM: "a", State: "starting"}, "a                starting"},
		"a step":         {api.HostEvent{Kind: spec.EventStep, VM: "a", State: "failed", Step: "share x", Elapsed: time.Second, Message: "why"}, "a                failed     share x (1.000s): why"},
		"of the host":    {api.HostEvent{Kind: spec.EventStep, State: "done", Step: "bridge"}, "host             done       bridge (0.000s)"},
		"a file":         {api.HostEvent{Kind: spec.EventApply, Origin: "/f", UID: &uid, Message: "2 VMs"}, "host             applied    /f by uid 1000: 2 VMs"},
		"of a later bield": {api.HostEvent{Kind: "new", State: "x", Message: "y"},
			"host             x          y"},
		"lines and escapes": {api.HostEvent{Kind: spec.EventState, VM: "a\nb", State: "down\x1b[2J", Message: "x\n2026-01-31 forged\r\x1b]0;t\x07\t\u202ey"},
			"a / b            down       x / 2026-01-31 forged y"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			c.event.Time = at
			if err := (&app{out: &out}).printEvent(c.event); err != nil {
				t.Fatal(err)
			}
			if want := "2026-01-31 12:00:00.007  " + c.want + "\n"; out.String() != want {
				t.Errorf("got  %q\nwant %q", out.String(), want)
			}
		})
	}
}

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"": {}, "90s": now.Add(-90 * time.Second), "2h": now.Add(-2 * time.Hour), "2026-01-30T00:00:00Z": time.Date(2026, 1, 30, 0, 0, 0, 0, time.UTC),
	} {
		if got, err := parseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if _, err := parseSince("yesterday", now); err == nil || !strings.Contains(err.Error(), "2026-01-31T12:00:00Z") {
		t.Errorf("got %v", err)
	}
}
