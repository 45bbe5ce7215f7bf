package witness

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// Canaries are sockets of the host that nobody but a guest's attempt uses: what
// arrives there got in.
type Canaries struct {
	cookie Cookie
	tcp    net.Listener
	udp    net.PacketConn
	raw    []net.PacketConn
	tasks  sync.WaitGroup

	mu    sync.Mutex
	heard map[uint32][]string
}

// RawProtocols lists the IP protocols that canaries take: IP in IP, GRE, and one
// for experiments (RFC 3692).
func RawProtocols() []int { return []int{4, 47, 253} }

// Listen opens the sockets, on all addresses of the host.
func Listen(c Cookie) (*Canaries, error) {
	all := &Canaries{cookie: c, heard: map[uint32][]string{}}
	err := all.open()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for what gets in: %w", err), all.Close())
	}
	all.tasks.Go(all.accept)
	all.tasks.Go(func() { all.receive("udp", all.udp) })
	for i, conn := range all.raw {
		all.tasks.Go(func() { all.receive(fmt.Sprintf("IP protocol %d", RawProtocols()[i]), conn) })
	}
	return all, nil
}

func (c *Canaries) open() (err error) {
	if c.tcp, err = net.Listen("tcp", ":0"); err != nil { //nolint:noctx // it does not wait
		return err
	}
	if c.udp, err = net.ListenPacket("udp", ":0"); err != nil { //nolint:noctx // it does not wait
		return err
	}
	for _, protocol := range RawProtocols() {
		conn, err := net.ListenPacket(fmt.Sprintf("ip4:%d", protocol), "0.0.0.0") //nolint:noctx // it does not wait
		if err != nil {
			return err
		}
		c.raw = append(c.raw, conn)
	}
	return nil
}

// TCP and UDP are the ports.
func (c *Canaries) TCP() uint16 { return c.tcp.Addr().(*net.TCPAddr).AddrPort().Port() }

// UDP is the port of the UDP socket.
func (c *Canaries) UDP() uint16 { return c.udp.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

const (
	// maxCallers is how many may be connected at a time, for callWait each.
	maxCallers = 16
	callWait   = 2 * time.Second
)

func (c *Canaries) accept() {
	places := make(chan struct{}, maxCallers)
	for {
		conn, err := c.tcp.Accept()
		if err != nil {
			return
		}
		places <- struct{}{}
		c.tasks.Go(func() {
			defer func() { <-places }()
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(callWait))
			mark := make([]byte, MarkBytes)
			if _, err := io.ReadFull(conn, mark); err == nil {
				c.note(mark, "tcp")
			}
		})
	}
}

func (c *Canaries) receive(what string, conn net.PacketConn) {
	buffer := make([]byte, maxPacket)
	for {
		n, _, err := conn.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			c.note(buffer[:n], what)
		}
	}
}

func (c *Canaries) note(packet []byte, what string) {
	id, marked := c.cookie.attempt(packet)
	if !marked {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.heard) < maxSeen && !slices.Contains(c.heard[id], what) {
		c.heard[id] = append(c.heard[id], what)
	}
}

// Heard lists, for each attempt, which sockets had a packet of its.
func (c *Canaries) Heard() map[uint32][]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make(map[uint32][]string, len(c.heard))
	for id, what := range c.heard {
		all[id] = slices.Sorted(slices.Values(what))
	}
	return all
}

// Close closes the sockets.
func (c *Canaries) Close() error {
	var failures []error
	if c.tcp != nil {
		failures = append(failures, c.tcp.Close())
	}
	if c.udp != nil {
		failures = append(failures, c.udp.Close())
	}
	for _, conn := range c.raw {
		failures = append(failures, conn.Close())
	}
	c.tasks.Wait()
	return errors.Join(failures...)
}
