package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"bield/internal/api"
)

func TestEvents(t *testing.T) {
	for name, c := range map[string]struct {
		body, want string
		seen       int
	}{
		"ended":      {`{"seq":1}` + "\n" + `{"seq":2}` + "\n", "", 2},
		"cut off":    {`{"seq":1}` + "\n" + `{"seq":`, "read bieldd's answer", 1},
		"no JSON":    {"hello\n", "read bieldd's answer", 0},
		"no end":     {strings.Repeat("x", api.MaxEventBytes+1), "read bieldd's answer", 0},
		"no content": {"", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			client := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, c.body) })
			seen, begun := 0, false
			err := client.Events(t.Context(), api.EventQuery{}, func() { begun = true }, func(api.HostEvent) error { seen++; return nil })
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
				t.Errorf("got %.200v", err)
			}
			if seen != c.seen || !begun {
				t.Errorf("%d events, begun: %t", seen, begun)
			}
		})
	}
}

func TestEventsOfADaemonThatIsKilled(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"seq":1}`+"\n"+`{"se`)
		_ = http.NewResponseController(w).Flush()
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = conn.Close()
		}
	})
	err := c.Events(t.Context(), api.EventQuery{Follow: true}, nil, func(api.HostEvent) error { return nil })
	if !errors.Is(err, ErrNoDaemon) {
		t.Errorf("got %v", err)
	}
}

func TestEventsEndWithTheirContext(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	if err := c.Events(ctx, api.EventQuery{}, cancel, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	enough := errors.New("enough")
	c = serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"seq":1}`+"\n") })
	if err := c.Events(t.Context(), api.EventQuery{}, nil, func(api.HostEvent) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
}

func TestEventQuery(t *testing.T) {
	for _, q := range []api.EventQuery{
		{Tail: -1}, {}, {Follow: true, After: 1 << 63, Tail: 7, VMs: []string{"a", "b"}},
		{Since: time.Date(2026, 1, 31, 12, 0, 0, 5, time.UTC), Tail: 1},
	} {
		values := q.Values()
		again, err := api.ParseEventQuery(values)
		if err != nil || again.Values().Encode() != values.Encode() || again.After != q.After || again.Tail != q.Tail || !again.Since.Equal(q.Since) {
			t.Errorf("%+v became %+v: %v", q, again, err)
		}
	}
	for _, bad := range []string{"after=-1", "after=x", "tail=1.5", "since=now"} {
		values, _ := http.NewRequest(http.MethodGet, "/?"+bad, nil)
		if _, err := api.ParseEventQuery(values.URL.Query()); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
