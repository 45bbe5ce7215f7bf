package guestlink

import (
	"io"
	"net"
	"sync"
	"testing"
)

// line is a virtio-serial port as QEMU makes it: bytes stay in between when an
// end dies and the other is not told, the host's socket takes one client after
// another, and the guest's port may be opened again.
type line struct {
	down, up *pipe // towards the guest, towards the host
	mu       sync.Mutex
	host     *end
}

func newLine(t *testing.T) *line {
	l := &line{down: newPipe(), up: newPipe()}
	t.Cleanup(func() { l.down.shut(); l.up.shut() })
	return l
}

func (l *line) guestEnd() io.ReadWriteCloser { return newEnd(l.down, l.up) }

func (l *line) hostEnd() io.ReadWriteCloser {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.host = newEnd(l.up, l.down)
	return l.host
}

// dropHost is the death of the host's process: nothing is said.
func (l *line) dropHost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.host.Close()
}

type end struct {
	from, to *pipe
	closed   chan struct{}
	once     sync.Once
}

func newEnd(from, to *pipe) *end { return &end{from: from, to: to, closed: make(chan struct{})} }

func (e *end) Read(p []byte) (int, error)  { return e.from.read(p, e.closed) }
func (e *end) Write(p []byte) (int, error) { return e.to.write(p, e.closed) }
func (e *end) Close() error                { e.once.Do(func() { close(e.closed) }); return nil }

// pipe holds bytes until someone takes them.
type pipe struct {
	mu    sync.Mutex
	buf   []byte
	moved chan struct{} // closed and renewed at every change
	done  bool
}

const pipeSize = 64 << 10

func newPipe() *pipe { return &pipe{moved: make(chan struct{})} }

func (p *pipe) changed() {
	close(p.moved)
	p.moved = make(chan struct{})
}

func (p *pipe) shut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
	p.changed()
}

func (p *pipe) read(b []byte, closed <-chan struct{}) (int, error) {
	for {
		p.mu.Lock()
		if isClosed(closed) || p.done {
			p.mu.Unlock()
			return 0, net.ErrClosed
		}
		if n := copy(b, p.buf); n > 0 {
			p.buf = p.buf[n:]
			p.changed()
			p.mu.Unlock()
			return n, nil
		}
		moved := p.moved
		p.mu.Unlock()
		select {
		case <-moved:
		case <-closed:
		}
	}
}

func (p *pipe) write(b []byte, closed <-chan struct{}) (int, error) {
	done := 0
	for {
		p.mu.Lock()
		if isClosed(closed) || p.done {
			p.mu.Unlock()
			return done, net.ErrClosed
		}
		n := min(len(b)-done, pipeSize-len(p.buf))
		p.buf = append(p.buf, b[done:done+n]...)
		if done += n; n > 0 {
			p.changed()
		}
		moved := p.moved
		p.mu.Unlock()
		if done == len(b) {
			return done, nil
		}
		select {
		case <-moved:
		case <-closed:
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
