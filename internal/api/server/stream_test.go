package server

import (
	"bufio"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"bield/internal/api"
	"bield/internal/reconcile"
)

// TestStreamNeverHoldsUpTheWork: a client asks and then reads nothing.
func TestStreamNeverHoldsUpTheWork(t *testing.T) {
	worked := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		stream(w, func(show func(reconcile.Progress)) (string, error) {
			for range 100_000 {
				show(reconcile.Progress{VM: "a", Message: strings.Repeat("x", 1000)})
			}
			close(worked)
			return "", nil
		})
	}))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-worked:
	case <-time.After(30 * time.Second):
		t.Fatal("the work waits for the client")
	}
}

func TestStreamEndsWithTheResult(t *testing.T) {
	for _, failure := range []error{nil, errors.New("no room")} {
		w := httptest.NewRecorder()
		stream(w, func(show func(reconcile.Progress)) (string, error) {
			show(reconcile.Progress{VM: "a", Step: "tap", State: "done", Elapsed: time.Second})
			return "digest", failure
		})
		var events []api.Event
		for lines := bufio.NewScanner(w.Body); lines.Scan(); {
			var e api.Event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				t.Fatal(err)
			}
			events = append(events, e)
		}
		if len(events) != 2 || events[0].Step != "tap" || events[0].Done {
			t.Fatalf("got %+v", events)
		}
		last := events[1]
		if !last.Done || last.Message != "digest" || (last.Error == nil) != (failure == nil) {
			t.Errorf("got %+v", last)
		}
	}
}

func TestDecode(t *testing.T) {
	for body, good := range map[string]bool{
		`{"names":["a"]}`:            true,
		`{"names":["a"]}` + "\n":     true,
		`{"names":["a"],"speed":9}`:  false,
		`{"names":["a"]}{"names":1}`: false,
		`{"names":`:                  false,
		``:                           false,
		`{"names":7}`:                false,
	} {
		var request api.DownRequest
		err := decode(strings.NewReader(body), &request)
		if (err == nil) != good || err != nil && !errors.Is(err, errRequest) {
			t.Errorf("%q: %v", body, err)
		}
	}
}

func TestStatusOf(t *testing.T) {
	for err, want := range map[error]int{
		reconcile.ErrForbidden: 403, reconcile.ErrNotFound: 404, reconcile.ErrConflict: 409, errRequest: 400, errors.New("other"): 500,
	} {
		if got := statusOf(err); got != want {
			t.Errorf("%v: %d", err, got)
		}
	}
}
