// Command bield is what people type: it reads bield.yaml, asks bieldd, and
// shows what happens. One file holds one verb.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// version is stamped by the build.
var version = "dev"

func main() { os.Exit(Main()) }

// Main runs bield with the process's arguments and returns its exit code, as
// docs/architecture.md lists them.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	a := newApp(os.Stdout, os.Stderr)
	err := newRootCommand(a).ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var coded *exitError
	code := exitFailure
	if errors.As(err, &coded) {
		code = coded.code
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted: bieldd takes back what was begun, but for a restart: that goes on")
		code = exitInterrupted
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(os.Stderr, a.paint(os.Stderr, red, "bield:"), plainLines(text))
	}
	return code
}

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
	exitChanges = 2 // of plan
	// exitOwn is bield's own failure in a verb that passes on exit codes of
	// the guest.
	exitOwn         = 125
	exitInterrupted = 130
)

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }
