package guestlink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"
)

// Kinds of streams.
const (
	// KindEvents streams every event since boot, then new ones. The host
	// answers each line with an Ack.
	KindEvents = "events"
	// KindPowerOff asks for an orderly power-off; answered before it begins.
	KindPowerOff = "poweroff"
	// KindAuthorize replaces the user's authorized keys; the body is Authorize.
	KindAuthorize = "authorize"
	// KindClock sets the guest's time; the body is Clock.
	KindClock = "clock"
)

// maxEvents bounds one stream of events; a boot has some twenty.
const maxEvents = 4096

// Ack says that the host has seen all events up to Seq.
type Ack struct {
	Seq uint64 `json:"seq"`
}

// Authorize holds lines of an authorized_keys file.
type Authorize struct {
	Keys []string `json:"keys"`
}

// Clock is the host's time in Unix nanoseconds.
type Clock struct {
	Now int64 `json:"now"`
}

// GuestError is what a guest says went wrong with a request.
type GuestError struct {
	Kind string
	// Text is clean: one line of at most 1 KiB.
	Text string
}

func (e *GuestError) Error() string { return fmt.Sprintf("guest: %s: %s", e.Kind, e.Text) }

// Request opens a stream of a kind, and reads the guest's one line of an
// answer into reply, which may be nil. A refusal is a *GuestError.
func (s *Session) Request(ctx context.Context, kind string, body, reply any) error {
	st, err := s.Open(ctx, kind, body)
	if err != nil {
		return err
	}
	defer st.Close()
	return st.ReadAnswer(ctx, reply)
}

// ReadAnswer reads the guest's line of an answer into reply, which may be nil.
func (st *Stream) ReadAnswer(ctx context.Context, reply any) error {
	defer st.bind(ctx)()
	line, err := readLine(st.r, maxHeader)
	if err != nil {
		return fmt.Errorf("answer to %s: %w", st.kind, ctxError(ctx, err))
	}
	var a answerLine
	if err := json.Unmarshal(line, &a); err != nil {
		return fmt.Errorf("answer to %s: %w: %w", st.kind, errLine, err)
	}
	if a.Error != "" {
		return &GuestError{Kind: st.kind, Text: CleanText(a.Error, maxMessage)}
	}
	if reply == nil {
		return nil
	}
	if err := json.Unmarshal(a.Body, reply); err != nil {
		return fmt.Errorf("answer to %s: %w: %w", st.kind, errLine, err)
	}
	return nil
}

// PowerOff asks the guest to end its processes and power off.
func (s *Session) PowerOff(ctx context.Context) error {
	return s.Request(ctx, KindPowerOff, nil, nil)
}

// Authorize replaces the authorized keys of the guest's user.
func (s *Session) Authorize(ctx context.Context, keys []string) error {
	return s.Request(ctx, KindAuthorize, Authorize{Keys: keys}, nil)
}

// SetClock sets the guest's time to now.
func (s *Session) SetClock(ctx context.Context, now time.Time) error {
	return s.Request(ctx, KindClock, Clock{Now: now.UnixNano()}, nil)
}

// Events yields every event since the guest booted and then each new one, for
// as long as ctx and the session last. The last pair holds the error that
// ended it; Ended tells whether that is ErrClosed or io.EOF: the session is
// over, also when a guest hands its link over to another of its processes, and
// the host may dial again. The guest is told of each event that the loop's
// body has finished with.
func (s *Session) Events(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		st, err := s.Open(ctx, KindEvents, nil)
		if err != nil {
			yield(Event{}, err)
			return
		}
		defer st.Close()
		defer st.bind(ctx)()
		if err := st.eachEvent(yield); err != nil {
			yield(Event{}, s.endError(ctx, err))
		}
	}
}

// eachEvent returns nil when yield wants no more.
func (st *Stream) eachEvent(yield func(Event, error) bool) error {
	var last uint64
	for range maxEvents {
		line, err := readLine(st.r, maxEventLine)
		if err != nil {
			return err
		}
		e, err := parseEvent(line)
		if err != nil {
			return err
		}
		if e.Seq <= last {
			return fmt.Errorf("event %d after %d: %w", e.Seq, last, errProtocol)
		}
		last = e.Seq
		more := yield(e, nil)
		if err := st.writeJSON(Ack{Seq: last}); err != nil && more {
			return err
		}
		if !more {
			return nil
		}
	}
	return fmt.Errorf("more than %d events: %w", maxEvents, errProtocol)
}

// WriteEvent sends one event from the guest.
func (st *Stream) WriteEvent(e Event) error {
	e.Message = CleanText(e.Message, maxMessage)
	return st.writeJSON(e)
}

// ReadAck waits for the host's next acknowledgement.
func (st *Stream) ReadAck() (Ack, error) {
	line, err := readLine(st.r, maxKind*2)
	if err != nil {
		return Ack{}, err
	}
	var a Ack
	if err := json.Unmarshal(line, &a); err != nil {
		return Ack{}, fmt.Errorf("acknowledgement: %w: %w", errLine, err)
	}
	return a, nil
}

// endError finds the best reason why a stream ended.
func (s *Session) endError(ctx context.Context, err error) error {
	if context.Cause(ctx) == nil && errors.Is(err, io.EOF) && s.ym.IsClosed() {
		return s.Err()
	}
	return ctxError(ctx, err)
}

// Ended reports whether err is an orderly or expected end of a session or
// stream, which is not worth telling a person.
func Ended(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, ErrClosed) || errors.Is(err, context.Canceled)
}
