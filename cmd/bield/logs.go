package main

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func newLogsCommand(a *app) *cobra.Command {
	var follow, raw bool
	c := &cobra.Command{
		Use:   "logs NAME",
		Short: "The guest's console of its newest boot",
		Long: `Print what the guest's console showed in its newest boot, also after it ended.
The guest chooses these bytes: control characters are left out unless --raw.`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			return runLogs(c.Context(), a, args[0], follow, raw)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the VM ends")
	c.Flags().BoolVar(&raw, "raw", false, "print every byte as it came")
	return c
}

func runLogs(ctx context.Context, a *app, name string, follow, raw bool) error {
	d, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	ctx, stop := untilUnread(ctx, a.out)
	defer stop()
	log, err := d.Logs(ctx, name, follow)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	out := a.out
	if !raw {
		out = &plainWriter{w: a.out}
	}
	_, err = io.Copy(out, log)
	if errors.Is(err, context.Canceled) {
		return nil // ^C is how following ends, or a reader that has gone
	}
	return err
}

// untilUnread ends ctx when w is a pipe that nobody reads any more: a quiet
// guest would have `bield logs -f | head` wait for good.
func untilUnread(ctx context.Context, w io.Writer) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	f, ok := w.(*os.File)
	if !ok {
		return ctx, cancel
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
		return ctx, cancel
	}
	go func() {
		// Errors and hang-ups are told of unasked (poll(2)).
		fds := []unix.PollFd{{Fd: int32(f.Fd())}}
		for {
			if _, err := unix.Poll(fds, -1); !errors.Is(err, unix.EINTR) {
				cancel()
				return
			}
		}
	}()
	return ctx, cancel
}

// plainWriter leaves out what a terminal would obey and not show: control
// characters, escape sequences (ECMA-48), also in their 8-bit form, and what
// turns the direction of writing. What is no UTF-8 is left out too.
type plainWriter struct {
	w       io.Writer
	state   escapeState
	partial []byte // of a rune whose end is still to come
	out     []byte
}

type escapeState int

const (
	inText      escapeState = iota
	afterEscape             // ESC came, and maybe some of 0x20 to 0x2f
	inSequence              // ESC [ came: up to a final byte 0x40 to 0x7e
	inString                // ESC ] P X ^ _ came: up to BEL or ESC \
)

const escape = 0x1b

func (p *plainWriter) Write(data []byte) (int, error) {
	p.out = p.out[:0]
	rest := append(p.partial, data...)
	for len(rest) > 0 && utf8.FullRune(rest) {
		r, size := utf8.DecodeRune(rest)
		if r != utf8.RuneError || size > 1 {
			p.take(r)
		}
		rest = rest[size:]
	}
	p.partial = slices.Clone(rest)
	if _, err := p.w.Write(p.out); err != nil {
		return 0, err
	}
	return len(data), nil
}

func (p *plainWriter) take(r rune) {
	switch {
	case r == '\n': // nothing goes on over the end of a line
		p.state = inText
		p.text(r)
	case r == escape:
		p.state = afterEscape
	case r >= 0x80 && r < 0xa0: // stands for ESC and a character
		p.state = introduced(r - 0x40)
	case p.state == afterEscape:
		p.state = introduced(r)
	case p.state == inSequence:
		if r < 0x20 || r >= 0x40 {
			p.state = inText
		}
	case p.state == inString:
		if r == '\a' {
			p.state = inText
		}
	default:
		p.text(r)
	}
}

// introduced is the state behind ESC and a character.
func introduced(r rune) escapeState {
	switch {
	case r == '[':
		return inSequence
	case strings.ContainsRune("]PX^_", r):
		return inString
	case r >= 0x20 && r < 0x30:
		return afterEscape
	default:
		return inText
	}
}

func (p *plainWriter) text(r rune) {
	hidden := r < 0x20 || r == 0x7f || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r)
	if r == '\n' || r == '\t' || !hidden {
		p.out = utf8.AppendRune(p.out, r)
	}
}
