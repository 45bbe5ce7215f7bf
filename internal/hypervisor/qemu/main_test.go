package qemu

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"bield/internal/hypervisor/hypervisortest"
	"bield/internal/process"
)

var update = flag.Bool("update", false, "write the goldens anew")

// The test binary is also a fake QEMU: the machine's name says how it behaves.
func TestMain(m *testing.M) {
	process.MaybeLaunch()
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println("QEMU emulator version 7.2.22 (fake)")
		os.Exit(0)
	}
	if len(os.Args) > 2 && os.Args[1] == "-name" {
		name, _, _ := strings.Cut(strings.TrimPrefix(os.Args[2], "guest="), ",")
		fake(name)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

const fakeGreeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}`

func fake(name string) {
	if name == "dies" {
		fmt.Println("qemu: could not load kernel '/nowhere': \x1b[1mFailed")
		os.Exit(1)
	}
	if name == "looks" || name == "probes" {
		probe(os.Args)
	}
	if name == "looks" {
		return
	}
	go fakeMonitor(eventsFD, name)
	fakeMonitor(qmpFD, name)
}

func fakeMonitor(fd uintptr, name string) {
	listener, err := net.FileListener(os.NewFile(fd, "monitor"))
	if err != nil {
		panic(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		if name == "silent" {
			time.Sleep(time.Minute)
		}
		fakeQMP(conn, name)
		conn.Close()
	}
}

func fakeQMP(conn net.Conn, name string) {
	_, _ = fmt.Fprint(conn, fakeGreeting+"\r\n")
	commands := json.NewDecoder(conn)
	for {
		var c struct {
			Execute string
			ID      int
		}
		if commands.Decode(&c) != nil {
			return
		}
		_, _ = fmt.Fprintf(conn, `{"timestamp": {"seconds": 1}, "event": "RESUME"}`+"\r\n")
		switch {
		case c.Execute == "system_powerdown" && name == "refuses":
			_, _ = fmt.Fprintf(conn, `{"id": %d, "error": {"class": "GenericError", "desc": "no button"}}`+"\r\n", c.ID)
		case c.Execute == "system_powerdown":
			os.Exit(3)
		default:
			_, _ = fmt.Fprintf(conn, `{"id": %d, "return": {}}`+"\r\n", c.ID)
		}
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		hypervisortest.Skip(t, "needs root")
	}
}
