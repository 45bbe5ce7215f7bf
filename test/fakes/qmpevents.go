package fakes

import (
	"bufio"
	"fmt"
	"net"
	"sync"
)

// events is QEMU's second monitor, which bield reads events from.
type events struct {
	mu   sync.Mutex
	conn net.Conn
}

func (e *events) serve(conn net.Conn) {
	fmt.Fprintf(conn, "%s\r\n", qmpGreeting)
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		e.mu.Lock()
		e.conn = conn
		e.mu.Unlock()
		fmt.Fprint(conn, `{"return": {}}`+"\r\n")
	}
}

// shutdown tells why QEMU ends, unless it does so with an error.
func (e *events) shutdown(code int) {
	reason := map[int]string{0: "guest-shutdown", Reset: "guest-reset"}[code]
	e.mu.Lock()
	defer e.mu.Unlock()
	if reason == "" || e.conn == nil {
		return
	}
	fmt.Fprintf(e.conn, "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 1}, \"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": %q}}\r\n", reason)
}
