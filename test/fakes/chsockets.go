package fakes

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// listenCH makes a socket of cloud-hypervisor's own, with what the thread may do
// and the umask let it be. A stale file is an error, as there.
func listenCH(path string) (*net.UnixListener, error) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// It is removed by the VMM's thread, which alone may know that it is allowed.
	listener.SetUnlinkOnClose(false)
	return listener, nil
}

// serveSerial gives the console to one client; a new one displaces it.
func serveSerial(listener net.Listener, c *console) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go c.attach(conn)
	}
}

// chVsock is the device: a socket on which the host asks for ports of the guest's
// (docs/vsock.md).
type chVsock struct {
	listener net.Listener
	guest    *guest
	port     uint32 // on which the guest listens; 0 for none
	fault    SocketsFault

	mu       sync.Mutex
	open     []net.Conn
	hostPort uint32
	// serving is held by the connection that the guest serves: it takes one at a
	// time.
	serving sync.Mutex
}

const (
	// chVsockFirst is the first port that connections of the host get.
	chVsockFirst = 1 << 30
	// chVsockMost is how many connections there can be.
	chVsockMost = 1023
	// chVsockLine bounds "CONNECT <port>\n".
	chVsockLine = 32
)

// serve runs until the listener is closed. Nothing is read until the guest has a
// driver.
func (d *chVsock) serve() {
	for {
		conn, err := d.listener.Accept()
		if err != nil {
			return
		}
		if !d.keep(conn) {
			_ = conn.Close()
			continue
		}
		go func() {
			<-d.guest.drivers
			d.guest.thaw()
			d.connect(conn)
			d.drop(conn)
		}()
	}
}

func (d *chVsock) connect(conn net.Conn) {
	port, err := readConnect(conn)
	switch d.fault {
	case VsockGarbage:
		_, _ = conn.Write([]byte("220 mail.example ESMTP\n"))
		return
	case VsockEndless:
		for text := []byte(strings.Repeat("OK", 1000)); ; time.Sleep(time.Millisecond) {
			if _, err := conn.Write(text); err != nil {
				return
			}
		}
	}
	if err != nil || port != d.port || d.port == 0 {
		return // the end is the answer
	}
	d.mu.Lock()
	d.hostPort++
	answer := fmt.Sprintf("OK %d\n", chVsockFirst+d.hostPort)
	d.mu.Unlock()
	if _, err := conn.Write([]byte(answer)); err != nil {
		return
	}
	d.serving.Lock()
	defer d.serving.Unlock()
	d.guest.serveLink(conn)
}

var errConnect = errors.New("not CONNECT <port>")

// readConnect reads no byte behind the line.
func readConnect(conn net.Conn) (uint32, error) {
	var line []byte
	for b := make([]byte, 1); len(line) < chVsockLine; line = append(line, b[0]) {
		if _, err := conn.Read(b); err != nil {
			return 0, err
		}
		if b[0] == '\n' {
			word, port, _ := strings.Cut(string(line), " ")
			if word != "CONNECT" && word != "connect" {
				return 0, errConnect
			}
			n, err := strconv.ParseUint(port, 10, 32)
			return uint32(n), err
		}
	}
	return 0, errConnect
}

func (d *chVsock) keep(conn net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.open) >= chVsockMost {
		return false
	}
	d.open = append(d.open, conn)
	return true
}

func (d *chVsock) drop(conn net.Conn) {
	_ = conn.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, c := range d.open {
		if c == conn {
			d.open = append(d.open[:i], d.open[i+1:]...)
			return
		}
	}
}

// close ends it with all connections.
func (d *chVsock) close() {
	_ = d.listener.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, conn := range d.open {
		_ = conn.Close()
	}
}
