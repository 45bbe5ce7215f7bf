package qemu

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// scripted is a connection that reads a script and keeps what is written.
type scripted struct {
	io.Reader
	written bytes.Buffer
}

func (s *scripted) Write(p []byte) (int, error) { return s.written.Write(p) }

const (
	capabilitiesDone = `{"return": {}, "id": 0}` + "\r\n"
	greetingLine     = fakeGreeting + "\r\n"
)

func TestConverse(t *testing.T) {
	event := `{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "NIC_RX_FILTER_CHANGED", "data": {"name": "n"}}` + "\r\n"
	for name, test := range map[string]struct {
		script, result, err string
	}{
		"status":         {greetingLine + capabilitiesDone + `{"return": {"status": "running"}, "id": 1}` + "\n", `{"status": "running"}`, ""},
		"events between": {greetingLine + event + capabilitiesDone + event + event + `{"return": {}, "id": 1}` + "\n", `{}`, ""},
		"refused":        {greetingLine + capabilitiesDone + `{"id": 1, "error": {"class": "CommandNotFound", "desc": "no such"}}` + "\n", "", "query-status: QEMU: no such (CommandNotFound)"},
		"hangs up":       {greetingLine, "", "qmp_capabilities: EOF"},
		"no greeting":    {`{"event": "x"}` + "\n", "", "greeting: no QMP"},
		"no JSON":        {"SSH-2.0-OpenSSH\n", "", "greeting: no QMP"},
		"wrong id":       {greetingLine + `{"return": {}, "id": 7}` + "\n", "", "qmp_capabilities: no QMP"},
		"no id":          {greetingLine + `{"return": {}}` + "\n", "", "qmp_capabilities: no QMP"},
		"endless line":   {strings.Repeat("x", 2*qmpBytes), "", "greeting: EOF"},
		"endless events": {greetingLine + strings.Repeat(event, qmpBytes/len(event)+1), "", "qmp_capabilities: "},
	} {
		t.Run(name, func(t *testing.T) {
			conn := &scripted{Reader: strings.NewReader(test.script)}
			result, err := converse(conn, []string{"query-status"})
			if test.err == "" {
				if err != nil || string(result) != test.result {
					t.Errorf("%s, %v", result, err)
				}
				want := "{\"execute\":\"qmp_capabilities\",\"id\":0}\r\n{\"execute\":\"query-status\",\"id\":1}\r\n"
				if conn.written.String() != want {
					t.Errorf("asked %q", conn.written.String())
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
		})
	}
}

func FuzzConverse(f *testing.F) {
	f.Add([]byte(greetingLine + capabilitiesDone + `{"return": {}, "id": 1}` + "\n"))
	f.Add([]byte(`{"QMP": null}` + "\n"))
	f.Fuzz(func(t *testing.T, script []byte) {
		result, err := converse(&scripted{Reader: bytes.NewReader(script)}, []string{"quit"})
		if err == nil && result == nil {
			t.Error("neither a result nor an error")
		}
	})
}

// TestExecuteGivesUp asks one who accepts and says nothing.
func TestExecuteGivesUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	reason := errors.New("no patience")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 30*time.Millisecond, reason)
	defer cancel()
	if err := execute(ctx, path, "quit"); !errors.Is(err, reason) {
		t.Errorf("error %v", err)
	}
}
