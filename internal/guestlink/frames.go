package guestlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// The yamux frame header: version, type, flags, stream, length
// (github.com/hashicorp/yamux, spec.md).
const (
	headerSize = 12

	frameData   = 0
	framePing   = 2
	frameGoAway = 3
	flagSYN     = 1

	// maxFrame is the longest body of a data frame. Writers cut at it, so
	// that a stale frame is ended by that many bytes.
	maxFrame = 16 << 10
)

// How much a peer may send: frames above the rate wait, which slows the peer
// down by back-pressure; pings above theirs end the session, since yamux
// starts a goroutine for each.
const (
	frameBurst  = 8000
	framePerSec = 4000
	pingBurst   = 8
	pingPerSec  = 1
)

// errProtocol wraps every breach of the wire's rules.
var errProtocol = errors.New("peer broke the protocol")

// guard is the reading end given to yamux. It follows the frames that pass and
// ends the session at the first that yamux would take but that a peer of ours
// never sends.
type guard struct {
	r         io.Reader
	closed    <-chan struct{}
	allowSYN  bool
	header    [headerSize]byte
	have      int    // bytes of header seen
	body      uint32 // bytes of the current body still to come
	frames    bucket
	pings     bucket
	pastError error
}

func newGuard(r io.Reader, closed <-chan struct{}, side side) *guard {
	now := time.Now()
	return &guard{
		r: r, closed: closed, allowSYN: side == guestSide,
		frames: bucket{level: frameBurst, burst: frameBurst, perSec: framePerSec, last: now},
		pings:  bucket{level: pingBurst, burst: pingBurst, perSec: pingPerSec, last: now},
	}
}

func (g *guard) Read(p []byte) (int, error) {
	if g.pastError != nil {
		return 0, g.pastError
	}
	n, err := g.r.Read(p)
	now := time.Now()
	good, bad := g.follow(p[:n], now)
	if bad != nil {
		g.pastError = bad
		if good == 0 {
			return 0, bad
		}
		return good, nil
	}
	if wait := g.frames.debt(); wait > 0 {
		g.pause(wait)
	}
	return n, err
}

// follow returns how many bytes may be passed on, and why not more.
func (g *guard) follow(p []byte, now time.Time) (int, error) {
	for i := 0; i < len(p); {
		if g.body > 0 {
			skip := min(uint32(len(p)-i), g.body)
			g.body -= skip
			i += int(skip)
			continue
		}
		n := copy(g.header[g.have:], p[i:])
		if g.have == 0 && p[i] != 0 {
			return i, fmt.Errorf("%w: version %d", errProtocol, p[i])
		}
		start := i - g.have
		g.have += n
		i += n
		if g.have < headerSize {
			break
		}
		g.have = 0
		if err := g.admit(now); err != nil {
			return max(start, 0), err
		}
	}
	return len(p), nil
}

func (g *guard) admit(now time.Time) error {
	typ, flags := g.header[1], binary.BigEndian.Uint16(g.header[2:])
	length := binary.BigEndian.Uint32(g.header[8:])
	g.frames.take(now)
	switch {
	case typ > frameGoAway:
		return fmt.Errorf("%w: frame type %d", errProtocol, typ)
	case typ == frameGoAway:
		return io.EOF // the peer ends the session in order
	case typ == framePing:
		if flags&flagSYN != 0 && !g.pings.take(now) {
			return fmt.Errorf("%w: too many pings", errProtocol)
		}
	case flags&flagSYN != 0 && !g.allowSYN:
		return fmt.Errorf("%w: only the host opens streams", errProtocol)
	case typ == frameData && length > maxFrame:
		return fmt.Errorf("%w: frame of %d bytes", errProtocol, length)
	case typ == frameData:
		g.body = length
	}
	return nil
}

func (g *guard) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-g.closed:
	}
}

// bucket is a token bucket that may go into debt.
type bucket struct {
	level, burst, perSec float64
	last                 time.Time
}

// take uses one token and reports whether there was one.
func (b *bucket) take(now time.Time) bool {
	b.level = min(b.burst, b.level+now.Sub(b.last).Seconds()*b.perSec)
	b.last = now
	b.level--
	return b.level >= 0
}

// debt is how long it takes until the bucket is out of the red.
func (b *bucket) debt() time.Duration {
	if b.level >= 0 {
		return 0
	}
	return time.Duration(-b.level / b.perSec * float64(time.Second))
}
