package hypervisor

import (
	"net"
	"sync"
)

// Held is a connection that was made before anybody asked for it. The zero value
// has none.
type Held struct {
	mu   sync.Mutex
	conn net.Conn
}

// Keep holds a connection until it is taken.
func (h *Held) Keep(conn net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conn = conn
}

// Take gives the connection away; nil if there is none any more.
func (h *Held) Take() net.Conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	conn := h.conn
	h.conn = nil
	return conn
}

// Close closes what nobody has taken.
func (h *Held) Close() {
	if conn := h.Take(); conn != nil {
		_ = conn.Close()
	}
}
