package cloudhypervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"
)

// pretty is an event as the event monitor writes it.
func pretty(source, name string) string {
	return fmt.Sprintf("{\n  \"timestamp\": {\n    \"secs\": 0,\n    \"nanos\": 9129\n  },\n  \"source\": %q,\n  \"event\": %q,\n  \"properties\": null\n}\n\n", source, name)
}

func read(r io.Reader) []event {
	var got []event
	readEvents(r, func(e event) { got = append(got, e) })
	return got
}

func TestReadEvents(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []event
	}{
		"in order":             {pretty("vmm", "starting") + pretty("vm", "booting") + pretty("vm", "booted"), []event{{"vm", "booting"}, {"vm", "booted"}}},
		"braces in strings":    {pretty("virtio-device", "}}{\"") + pretty("vm", "booted"), []event{{"vm", "booted"}}},
		"between two":          {"garbage } ]" + pretty("vm", "booted"), []event{{"vm", "booted"}}},
		"no JSON":              {"{not: json}" + pretty("vm", "booted"), []event{{"vm", "booted"}}},
		"other types":          {`{"source": 1, "event": []}` + pretty("vm", "booted"), []event{{"vm", "booted"}}},
		"cut off":              {`{"source": "vm", "event": "boo`, nil},
		"one cut off":          {pretty("vm", "booting")[:60] + pretty("vm", "booting") + pretty("vm", "booted"), []event{{"vm", "booted"}}},
		"too long":             {`{"a": "` + strings.Repeat("x", 2*maxEvent) + `"}` + pretty("vm", "booted"), []event{{"vm", "booted"}}},
		"deep":                 {strings.Repeat("{", 3*maxEvent) + strings.Repeat("}", 3*maxEvent) + pretty("vm", "booted"), []event{{"vm", "booted"}}},
		"nothing":              {"", nil},
		"one that is not told": {pretty("vm", "deleted"), nil},
	} {
		if got := fmt.Sprint(read(strings.NewReader(c.text))); got != fmt.Sprint(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if got := fmt.Sprint(read(iotest.OneByteReader(strings.NewReader(c.text)))); got != fmt.Sprint(c.want) {
			t.Errorf("%s, byte by byte: %v, want %v", name, got, c.want)
		}
	}
}

// FuzzEvents: whatever a guest makes the VMM write, no more than the known events
// come of it, and no more than maxEvent is kept.
func FuzzEvents(f *testing.F) {
	for _, seed := range []string{pretty("vm", "booted"), "{{{", `{"a":"\"}`, "\x00{}", pretty("guest", "panic")[:40]} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newSplitter(bytes.NewReader(data))
		for {
			object, err := s.next()
			if err != nil {
				break
			}
			if len(object) > maxEvent || object[0] != '{' || object[len(object)-1] != '}' {
				t.Fatalf("an object of %d bytes: %.60q", len(object), object)
			}
		}
		if cap(s.object) > 2*maxEvent {
			t.Fatalf("%d bytes are kept", cap(s.object))
		}
		for _, e := range read(bytes.NewReader(data)) {
			if !bytes.Contains(data, []byte("{")) || e.Source == "" {
				t.Fatalf("%v of %.60q", e, data)
			}
		}
	})
}

func TestWatchReadsOnAfterAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.fifo")
	vmm, err := makeFIFO(path)
	if err != nil {
		t.Fatal(err)
	}
	first := watchFor(t, path)
	write(t, vmm, pretty("vm", "booting"))
	await(t, first, event{"vm", "booting"})
	first.stop()
	write(t, vmm, pretty("vm", "booted")) // while nobody reads
	second := watchFor(t, path)
	await(t, second, event{"vm", "booted"})
	vmm.Close()
	second.drain()
	select {
	case <-second.over:
	default:
		t.Error("it reads on after the VMM's end")
	}
	second.stop()
}

func TestNobodyWaitsForAFullPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.fifo")
	vmm, err := makeFIFO(path)
	if err != nil {
		t.Fatal(err)
	}
	defer vmm.Close()
	for err == nil {
		_, err = vmm.WriteString(pretty("virtio-device", "reset"))
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Fatalf("a pipe without a reader takes all: %v", err)
	}
	w := watchFor(t, path)
	defer w.stop()
	for {
		if _, err := vmm.WriteString(pretty("vm", "rebooting")); err == nil {
			break
		} else if !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
	}
	await(t, w, event{"vm", "rebooting"})
}

func watchFor(t *testing.T, path string) *watch {
	t.Helper()
	w, err := newWatch(path, func(event) {})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func write(t *testing.T, f *os.File, text string) {
	t.Helper()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, w *watch, e event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := w.await(ctx, e); err != nil {
		t.Fatalf("%v does not come: %v", e, err)
	}
}
