package main

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"
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
		return nil // ^C is how following ends
	}
	return err
}

// plainWriter leaves out control characters and escape sequences, which could
// write elsewhere on the terminal or make it answer.
type plainWriter struct {
	w     io.Writer
	state escapeState
	out   []byte
}

type escapeState int

const (
	inText      escapeState = iota
	afterEscape             // ESC came
	inSequence              // ESC [ came: up to a final byte 0x40 to 0x7e
	inString                // ESC ] P X ^ _ came: up to BEL or ESC \
)

func (p *plainWriter) Write(data []byte) (int, error) {
	p.out = p.out[:0]
	for _, b := range data {
		p.take(b)
	}
	if _, err := p.w.Write(p.out); err != nil {
		return 0, err
	}
	return len(data), nil
}

func (p *plainWriter) take(b byte) {
	switch p.state {
	case afterEscape:
		p.state = afterEscapeByte(b)
	case inSequence:
		if b >= 0x40 && b <= 0x7e {
			p.state = inText
		}
	case inString:
		switch b {
		case 0x07, '\n':
			p.state = inText
		case 0x1b:
			p.state = afterEscape
		}
	default:
		p.text(b)
	}
}

func afterEscapeByte(b byte) escapeState {
	switch b {
	case '[':
		return inSequence
	case ']', 'P', 'X', '^', '_':
		return inString
	default:
		return inText
	}
}

func (p *plainWriter) text(b byte) {
	switch {
	case b == 0x1b:
		p.state = afterEscape
	case b == '\n', b == '\t', b >= 0x20 && b != 0x7f:
		p.out = append(p.out, b)
	}
}
