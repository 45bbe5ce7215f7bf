package vsock

import (
	"fmt"
	"net"
)

// ServeHost takes the host's connections until the listener is closed.
func (d *Device) ServeHost(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		d.tasks.Go(func() { d.connect(conn) })
	}
}

// connect serves one connection. A guest that refuses ends it without an OK.
func (d *Device) connect(conn net.Conn) {
	var port uint32
	if _, err := fmt.Fscanf(conn, "CONNECT %d\n", &port); err != nil {
		_ = conn.Close()
		return
	}
	d.mu.Lock()
	d.port++
	s := &stream{conn: conn, host: d.port, guest: port, connected: make(chan bool, 1)}
	d.streams[s.host] = s
	d.send(s, opRequest, 0, nil)
	d.mu.Unlock()
	if !<-s.connected {
		return
	}
	if _, err := fmt.Fprintf(conn, "OK %d\n", s.host); err == nil {
		d.pump(s)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !s.gone {
		d.send(s, opShutdown, shutdownBoth, nil)
		d.drop(s)
	}
}

// pump sends what the host writes, as far as the guest has room.
func (d *Device) pump(s *stream) {
	buf := make([]byte, chunk)
	for {
		n, err := s.conn.Read(buf)
		if err != nil {
			return
		}
		d.mu.Lock()
		for !s.gone && s.room-(s.sent-s.taken) < uint32(n) {
			d.changed.Wait()
		}
		if !s.gone {
			s.sent += uint32(n)
			d.send(s, opData, 0, append([]byte(nil), buf[:n]...))
		}
		d.mu.Unlock()
	}
}
