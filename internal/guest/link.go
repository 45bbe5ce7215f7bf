package guest

import (
	"context"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"bield/internal/guestconfig"
	"bield/internal/guestlink"
)

// linkPause keeps a port that fails at once from taking the CPU.
const linkPause = 200 * time.Millisecond

// link serves the host over the guest link, one session after another.
type link struct {
	// open waits for a host at the other end.
	open func(ctx context.Context) (io.ReadWriteCloser, error)
	// close gives up what open opens hosts' connections on.
	close   func()
	journal *journal
	// powerOff asks for an orderly power-off.
	powerOff func(why string)
	// authorize replaces the user's keys.
	authorize func(keys []string) error
	// start executes what the host brings.
	start starter
}

// newLink makes a link that comes as cfg says. Over vsock it can be connected to
// from now on.
func newLink(cfg guestconfig.Link) (*link, error) {
	if cfg.VsockPort == 0 {
		return &link{open: openLink, close: func() {}}, nil
	}
	listener, err := listenVsock(cfg.VsockPort)
	if err != nil {
		return nil, fmt.Errorf("guest link: %w", err)
	}
	return &link{open: listener.accept, close: listener.close}, nil
}

// run serves until ctx is done.
func (l *link) run(ctx context.Context) {
	defer l.close()
	for ctx.Err() == nil {
		if err := l.serveOnce(ctx); err != nil && !guestlink.Ended(err) && ctx.Err() == nil {
			select {
			case <-time.After(linkPause):
			case <-ctx.Done():
			}
		}
	}
}

// serveOnce opens the port, which drops what an old session left in it, or takes
// a connection, and serves one session.
func (l *link) serveOnce(ctx context.Context) error {
	port, err := l.open(ctx)
	if err != nil {
		return err
	}
	s, err := guestlink.Serve(ctx, port)
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		st, err := s.Accept(ctx)
		if err != nil {
			return err
		}
		go func() {
			defer st.Close()
			defer func() { // a fault in one request is not the machine's end
				if p := recover(); p != nil {
					_ = st.Answer(fmt.Errorf("panic: %v", p), nil)
				}
			}()
			l.handle(ctx, st)
		}()
	}
}

// handle serves one stream of the host's.
func (l *link) handle(ctx context.Context, st *guestlink.Stream) {
	switch st.Kind() {
	case guestlink.KindEvents:
		l.sendEvents(ctx, st)
	case guestlink.KindPowerOff:
		_ = st.Answer(nil, nil)
		l.powerOff("the host asked for it")
	case guestlink.KindAuthorize:
		var a guestlink.Authorize
		err := st.Decode(&a)
		if err == nil {
			err = l.authorize(a.Keys)
		}
		_ = st.Answer(err, nil)
	case guestlink.KindClock:
		var c guestlink.Clock
		err := st.Decode(&c)
		if err == nil {
			err = setClock(c.Now)
		}
		_ = st.Answer(err, nil)
	case guestlink.KindRun:
		l.start.serveRun(ctx, st)
	default:
		_ = st.Answer(fmt.Errorf("this guest knows no %q: its image is older than the host's bield", st.Kind()), nil)
	}
}

// sendEvents sends every event since boot and each new one, until the host
// ends the stream.
func (l *link) sendEvents(ctx context.Context, st *guestlink.Stream) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		for {
			ack, err := st.ReadAck()
			if err != nil {
				return
			}
			l.journal.ack(ack.Seq)
		}
	}()
	var sent uint64
	for {
		events, changed := l.journal.after(sent)
		for _, e := range events {
			if st.WriteEvent(e) != nil {
				return
			}
			sent = e.Seq
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// setClock sets the time of day to Unix nanoseconds.
func setClock(now int64) error {
	ts := unix.NsecToTimespec(now)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}

// startClock mends a clock that is behind what the host wrote before boot: a
// machine without a clock of its own begins in 1970.
func startClock(host int64) error {
	if now := host + int64(uptime()); host > 0 && time.Now().UnixNano() < host {
		return setClock(now)
	}
	return nil
}
