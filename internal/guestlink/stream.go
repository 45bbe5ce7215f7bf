package guestlink

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/yamux"
)

const (
	// maxHeader is the longest header or answer line: a list of keys fits.
	maxHeader    = 64 << 10
	maxKind      = 32
	streamBuffer = 4 << 10
)

// errLine means a line that is too long or that its reader cannot understand.
var errLine = errors.New("unusable line")

// Stream is one conversation of a kind. Close ends both directions.
type Stream struct {
	ys      *yamux.Stream
	r       *bufio.Reader
	kind    string
	body    json.RawMessage
	release func()
}

type header struct {
	Kind string          `json:"kind"`
	Body json.RawMessage `json:"body,omitempty"`
}

type answerLine struct {
	Error string          `json:"error,omitempty"`
	Body  json.RawMessage `json:"body,omitempty"`
}

// Kind says what the stream is for.
func (st *Stream) Kind() string { return st.kind }

// Decode reads the body of the stream's header into v.
func (st *Stream) Decode(v any) error {
	if len(st.body) == 0 {
		return fmt.Errorf("%s: %w: no body in the header", st.kind, errLine)
	}
	if err := json.Unmarshal(st.body, v); err != nil {
		return fmt.Errorf("%s: %w: %w", st.kind, errLine, err)
	}
	return nil
}

// Read reads the bytes behind the lines read so far.
func (st *Stream) Read(p []byte) (int, error) { return st.r.Read(p) }

// Write cuts p into frames short enough for a new session to end.
func (st *Stream) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := st.ys.Write(p[done:min(done+maxFrame, len(p))])
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Close ends the stream. What the other side still sends is dropped.
func (st *Stream) Close() error {
	st.release()
	return st.ys.Close()
}

// SetDeadline bounds reads and writes that block; the zero time is no bound.
func (st *Stream) SetDeadline(t time.Time) error { return st.ys.SetDeadline(t) }

// Answer sends the guest's one line: failure's text, or body, which may be nil.
func (st *Stream) Answer(failure error, body any) error {
	var a answerLine
	if failure != nil {
		a.Error = CleanText(failure.Error(), maxMessage)
	} else if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("answer %s: %w", st.kind, err)
		}
		a.Body = b
	}
	return st.writeJSON(a)
}

func (st *Stream) writeJSON(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s: %w", st.kind, err)
	}
	_, err = st.Write(append(line, '\n'))
	return err
}

// bind makes blocked calls return when ctx is done, until it is released.
func (st *Stream) bind(ctx context.Context) (release func()) {
	stop := context.AfterFunc(ctx, func() { _ = st.ys.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

func (st *Stream) readHeader() error {
	_ = st.ys.SetDeadline(time.Now().Add(headerTimeout))
	line, err := readLine(st.r, maxHeader)
	if err != nil {
		return err
	}
	h, err := parseHeader(line)
	if err != nil {
		return err
	}
	st.kind, st.body = h.Kind, h.Body
	return st.ys.SetDeadline(time.Time{})
}

func encodeHeader(kind string, body any) ([]byte, error) {
	h := header{Kind: kind}
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("header of a %s stream: %w", kind, err)
		}
		h.Body = b
	}
	line, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("header of a %s stream: %w", kind, err)
	}
	if len(line) >= maxHeader || len(kind) > maxKind {
		return nil, fmt.Errorf("header of a %s stream: %d bytes; the limit is %d", kind, len(line), maxHeader)
	}
	return append(line, '\n'), nil
}

func parseHeader(line []byte) (header, error) {
	var h header
	if err := json.Unmarshal(line, &h); err != nil {
		return header{}, fmt.Errorf("%w: %w", errLine, err)
	}
	if h.Kind == "" || len(h.Kind) > maxKind {
		return header{}, fmt.Errorf("%w: kind of %d bytes", errLine, len(h.Kind))
	}
	return h, nil
}

// readLine returns the next line without its newline; it never holds more than
// limit bytes and what r buffers.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > limit {
			return nil, fmt.Errorf("%w: longer than %d bytes", errLine, limit)
		}
		line = append(line, part...)
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case errors.Is(err, bufio.ErrBufferFull):
		case len(line) > 0:
			return nil, unexpectedEOF(err)
		default:
			return nil, err
		}
	}
}

// ctxError prefers the reason of a context that is done to what it caused.
func ctxError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
