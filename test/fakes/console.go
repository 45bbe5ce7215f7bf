package fakes

import (
	"net"
	"sync"
	"time"
)

// consoleRing is how much a console keeps for its next reader, where it does.
const consoleRing = 1 << 20

// console is the guest's end of the serial line.
type console struct {
	// keeps says that what is printed while nobody reads is told to the next
	// reader; else it is lost.
	keeps bool
	// typed is called with what is typed.
	typed func([]byte)
	first chan struct{} // closed at the first connection
	once  sync.Once

	mu   sync.Mutex
	conn net.Conn
	kept []byte
}

func newConsole(typed func([]byte)) *console {
	return &console{typed: typed, first: make(chan struct{})}
}

// attach writes to conn until it ends. A connection that there is already ends.
func (c *console) attach(conn net.Conn) {
	c.mu.Lock()
	if c.conn != nil {
		_ = c.conn.Close()
	}
	_, _ = conn.Write(c.kept)
	c.conn, c.kept = conn, nil
	c.mu.Unlock()
	c.once.Do(func() { close(c.first) })
	buffer := make([]byte, 512)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			c.detach(conn)
			return
		}
		c.typed(buffer[:n])
	}
}

func (c *console) detach(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == conn {
		c.conn = nil
	}
	_ = conn.Close()
}

// hangUp ends the connection that there is.
func (c *console) hangUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		_ = c.conn.Close()
	}
}

func (c *console) wait(limit time.Duration) {
	select {
	case <-c.first:
	case <-time.After(limit):
	}
}

func (c *console) print(line string) { c.write([]byte(line + "\r\n")) }

func (c *console) write(text []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		_, _ = c.conn.Write(text)
		return
	}
	if c.keeps {
		c.kept = append(c.kept, text...)
		c.kept = c.kept[max(0, len(c.kept)-consoleRing):]
	}
}
