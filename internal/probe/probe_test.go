package probe

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// try has a probe do one batch, and returns its results by number.
func try(t *testing.T, orders ...Order) map[int]Result {
	t.Helper()
	for i := range orders {
		orders[i].ID = i + 1
	}
	batch, err := json.Marshal(orders)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Run(bytes.NewReader(batch), &out); err != nil {
		t.Fatal(err)
	}
	results := map[int]Result{}
	lines := json.NewDecoder(&out)
	for {
		var r Result
		if err := lines.Decode(&r); err != nil {
			t.Fatalf("no end of the batch: %v", err)
		}
		if r.Done {
			break
		}
		results[r.ID] = r
	}
	if _, err := lines.Token(); !errors.Is(err, io.EOF) || len(results) != len(orders) {
		t.Errorf("%d results of %d orders; %v", len(results), len(orders), err)
	}
	return results
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	r := try(t,
		Order{Verb: Create, Path: at("a"), Data: []byte("text"), Mode: 0o4755},
		Order{Verb: Create, Path: at("a"), Mode: 0o644},
		Order{Verb: Symlink, Path: at("link"), To: "a"},
		Order{Verb: Read, Path: at("link")},
		Order{Verb: Create, Path: at("link"), Mode: 0o644},
		Order{Verb: Link, Path: at("a"), To: at("b")},
		Order{Verb: Rename, Path: at("b"), To: at("c")},
		Order{Verb: Remove, Path: at("c")},
		Order{Verb: Glob, Path: at("*")},
		Order{Verb: Read, Path: at("none")},
		Order{Verb: Mkdir, Path: at("d")}, Order{Verb: Rmdir, Path: at("d")},
		Order{Verb: Rmdir, Path: at("a")},
		Order{Verb: Filesystem, Path: "/proc"},
		Order{Verb: "dance"},
		Order{Verb: Read, Path: "/proc/self/environ"},
		Order{Verb: Read, Path: "/dev/zero"},
	)
	for id, want := range map[int]string{1: OK, 2: "EEXIST", 3: OK, 4: OK, 5: "EEXIST", 6: OK, 7: OK, 8: OK, 9: OK, 10: "ENOENT", 11: OK, 12: OK, 13: "ENOTDIR", 14: OK, 15: "ENOTSUP", 16: OK, 17: OK} {
		if got := r[id].Outcome; got != want {
			t.Errorf("order %d: %s, want %s", id, got, want)
		}
	}
	if string(r[4].Data) != "text" || string(r[14].Data) != "9fa0" || len(r[17].Data) != MaxData {
		t.Errorf("data: %q, %q, %d bytes", r[4].Data, r[14].Data, len(r[17].Data))
	}
	if got := string(r[9].Data); got != at("a")+"\ttext\n"+at("link")+"\ttext\n" {
		t.Errorf("glob: %q", got)
	}
	if info, err := os.Stat(at("a")); err != nil || info.Mode() != 0o755|os.ModeSetuid {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestConnections(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	open := uint16(l.Addr().(*net.TCPAddr).Port)
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	go func() {
		buffer := make([]byte, 100)
		for {
			n, from, err := u.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(bytes.ToUpper(buffer[:n]), from)
		}
	}()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	r := try(t,
		Order{Verb: TCP, Address: "127.0.0.1", Port: open},
		Order{Verb: TCP, Address: "127.0.0.1", Port: uint16(gone.Addr().(*net.TCPAddr).Port)},
		Order{Verb: UDP, Address: "127.0.0.1", Port: uint16(u.LocalAddr().(*net.UDPAddr).Port), Data: []byte("hello")},
	)
	if !r[1].Connected || r[1].Outcome != Silent || r[1].LocalPort == 0 {
		t.Errorf("open: %+v", r[1])
	}
	if r[2].Connected || r[2].Outcome != "ECONNREFUSED" {
		t.Errorf("closed: %+v", r[2])
	}
	if r[3].Outcome != Answered || string(r[3].Data) != "HELLO" {
		t.Errorf("udp: %+v", r[3])
	}
}

func TestBadOrders(t *testing.T) {
	for _, in := range []string{"{", "[1]", `[{"id":"x"}]`} {
		if err := Run(strings.NewReader(in), io.Discard); err == nil {
			t.Errorf("%s was taken", in)
		}
	}
	if err := Run(strings.NewReader(""), io.Discard); err != nil {
		t.Error(err)
	}
}
