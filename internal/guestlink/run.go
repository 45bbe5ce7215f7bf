package guestlink

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// KindRun brings a program and executes it as root; the body is Run. The guest
// answers that it will take it, the program's bytes follow, and the guest answers
// once more when it runs. From then on both sides send chunks: the host ChunkInput and one ChunkInputEnd, the
// guest ChunkOutput, ChunkErrors and, last, one ChunkExit. Whoever ends the
// stream before ends the program, and all that it started.
const KindRun = "run"

// Run is the header's body of KindRun.
type Run struct {
	// Name is the program's argv[0].
	Name string `json:"name"`
	// Size is how many bytes of program follow, at most MaxProgram.
	Size int `json:"size"`
}

// Limits of KindRun.
const (
	// MaxProgram is the largest program, in bytes.
	MaxProgram = 16 << 20
	// maxChunk leaves room for a chunk's header in one frame.
	maxChunk = maxFrame - chunkHeader
	// chunkHeader is a chunk's kind and the length of its data, big-endian.
	chunkHeader = 5
	// maxErrors is how much of what a program says goes wrong is kept.
	maxErrors = 4 << 10
)

// ChunkKind says what a chunk holds.
type ChunkKind byte

// Kinds of chunks.
const (
	ChunkInput    ChunkKind = 'i'
	ChunkInputEnd ChunkKind = 'z'
	ChunkOutput   ChunkKind = 'o'
	ChunkErrors   ChunkKind = 'e'
	ChunkExit     ChunkKind = 'x' // data is an Exit as JSON
)

// Exit is how a program ended: by a signal, or with a code.
type Exit struct {
	Code   int    `json:"code"`
	Signal string `json:"signal,omitempty"`
	// Errors is what it wrote to its standard error: one clean line, cut.
	Errors string `json:"-"`
}

// Err is nil for a program that ended with 0.
func (e Exit) Err() error {
	var how string
	switch {
	case e.Signal != "":
		how = "was killed by " + e.Signal
	case e.Code != 0:
		how = fmt.Sprintf("ended with exit status %d", e.Code)
	default:
		return nil
	}
	if e.Errors != "" {
		how += ": " + e.Errors
	}
	return errors.New(how)
}

// Program is what Session.Run brings into a guest.
type Program struct {
	Name  string
	Image []byte // a static executable
	// Input is its standard input, read until its end or that of the program:
	// who gives it closes it when Run has returned.
	Input io.Reader
	// MaxOutput is after how many bytes of output it is ended.
	MaxOutput int
}

// ErrOutput means that a program wrote more than Program.MaxOutput.
var ErrOutput = errors.New("the guest's program wrote more than it may")

// Run executes a program in the guest and gives its output to take as it comes,
// until it ends. ctx ends it at once.
func (s *Session) Run(ctx context.Context, p Program, take func([]byte) error) (Exit, error) {
	if len(p.Image) > MaxProgram {
		return Exit{}, fmt.Errorf("run %s: it has %d bytes; the limit is %d", p.Name, len(p.Image), MaxProgram)
	}
	st, err := s.Open(ctx, KindRun, Run{Name: p.Name, Size: len(p.Image)})
	if err != nil {
		return Exit{}, err
	}
	defer st.Close()
	defer st.bind(ctx)()
	if err := st.ReadAnswer(ctx, nil); err != nil {
		return Exit{}, err
	}
	if _, err := st.Write(p.Image); err != nil {
		return Exit{}, fmt.Errorf("send %s: %w", p.Name, ctxError(ctx, err))
	}
	if err := st.ReadAnswer(ctx, nil); err != nil {
		return Exit{}, err
	}
	go func() { _ = st.writeInput(p.Input) }()
	exit, err := st.readOutput(p.MaxOutput, take)
	if err != nil {
		return Exit{}, fmt.Errorf("run %s: %w", p.Name, s.endError(ctx, err))
	}
	return exit, nil
}

func (st *Stream) writeInput(from io.Reader) error {
	buffer := make([]byte, maxChunk)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if err := st.WriteChunk(ChunkInput, buffer[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return st.WriteChunk(ChunkInputEnd, nil)
		}
	}
}

// readOutput reads a guest's chunks, which may be anything, up to the last.
func (st *Stream) readOutput(limit int, take func([]byte) error) (Exit, error) {
	var said []byte
	for {
		kind, data, err := st.ReadChunk()
		if err != nil {
			return Exit{}, unexpectedEOF(err)
		}
		switch kind {
		case ChunkOutput:
			if limit -= len(data); limit < 0 {
				return Exit{}, ErrOutput
			}
			if err := take(data); err != nil {
				return Exit{}, err
			}
		case ChunkErrors:
			if limit -= len(data); limit < 0 {
				return Exit{}, ErrOutput
			}
			said = append(said, data[:min(len(data), maxErrors-len(said))]...)
		case ChunkExit:
			return parseExit(data, said)
		default:
			return Exit{}, fmt.Errorf("chunk of kind %d: %w", kind, errProtocol)
		}
	}
}

func parseExit(data, said []byte) (Exit, error) {
	var exit Exit
	if err := json.Unmarshal(data, &exit); err != nil {
		return Exit{}, fmt.Errorf("exit status: %w: %w", errLine, err)
	}
	exit.Signal = CleanText(exit.Signal, maxKind)
	exit.Errors = CleanText(string(said), maxMessage)
	return exit, nil
}

// ReadChunk reads one chunk; its data is the caller's.
func (st *Stream) ReadChunk() (ChunkKind, []byte, error) {
	var header [chunkHeader]byte
	if _, err := io.ReadFull(st.r, header[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length > maxChunk {
		return 0, nil, fmt.Errorf("chunk of %d bytes: %w", length, errProtocol)
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(st.r, data); err != nil {
		return 0, nil, unexpectedEOF(err)
	}
	return ChunkKind(header[0]), data, nil
}

// WriteChunk sends data as one chunk, or as several of the kind where it is
// longer than one may be. It may not be called at once with others.
func (st *Stream) WriteChunk(kind ChunkKind, data []byte) error {
	for {
		n := min(len(data), maxChunk)
		chunk := make([]byte, chunkHeader, chunkHeader+n)
		chunk[0] = byte(kind)
		binary.BigEndian.PutUint32(chunk[1:], uint32(n))
		if _, err := st.Write(append(chunk, data[:n]...)); err != nil {
			return err
		}
		if data = data[n:]; len(data) == 0 {
			return nil
		}
	}
}

// WriteExit sends how a program ended, the last chunk.
func (st *Stream) WriteExit(exit Exit) error {
	data, err := json.Marshal(exit)
	if err != nil {
		return fmt.Errorf("exit status: %w", err)
	}
	return st.WriteChunk(ChunkExit, data)
}
