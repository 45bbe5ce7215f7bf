package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/term"

	"bield/internal/api"
	"bield/internal/api/client"
	"bield/internal/spec"
)

// refresh is how often what changes by itself is drawn anew on a terminal.
const refresh = time.Second

// printer writes a list of VMs; hint is where a remark for a person goes.
type printer func(out, hint io.Writer, vms []spec.VMStatus) error

// watch prints the list of VMs whenever it changes: on a terminal in the place
// of the last one, elsewhere below it.
type watch struct {
	a      *app
	client *client.Client
	list   printer
	// live says that lists take each other's place; apart that an empty line
	// stands between them otherwise.
	live, apart bool

	changed chan struct{} // something may have
	gone    atomic.Bool   // the daemon is

	vms     []spec.VMStatus
	known   bool // vms were listed once
	missing bool // it was said that the daemon is gone
	drawn   int  // lines on the terminal now
}

// watchList shows the list until ctx ends. What the daemon says happened is when
// to look; what is shown is what it then lists.
func (a *app) watchList(ctx context.Context, list printer, asJSON bool) error {
	ctx, stop := untilUnread(ctx, a.out)
	defer stop()
	w := &watch{
		a: a, client: client.New(a.run.Socket()), list: list, live: isTerminal(a.out) && !asJSON, apart: !asJSON,
		changed: make(chan struct{}, 1),
	}
	defer w.client.Close()
	ended := make(chan error, 1)
	go func() {
		ended <- a.follow(ctx, api.EventQuery{Follow: true}, follower{
			show: w.take, begun: func() { w.look(false) }, lost: func() { w.look(true) },
		})
	}()
	err := w.show(ctx, ended)
	if err != nil {
		stop()
		return errors.Join(err, <-ended)
	}
	return nil
}

// show returns when the following of events has ended.
func (w *watch) show(ctx context.Context, ended chan error) error {
	var tick <-chan time.Time
	if w.live {
		ticker := time.NewTicker(refresh)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		var err error
		select {
		case err = <-ended:
			ended <- nil
			return err
		case <-w.changed:
			err = w.update(ctx)
		case <-tick:
			err = w.draw()
		}
		if err != nil {
			return err
		}
	}
}

// take looks again after what may change the list: steps do not.
func (w *watch) take(e api.HostEvent) error {
	if e.Kind != spec.EventStep {
		w.look(false)
	}
	return nil
}

func (w *watch) look(gone bool) {
	w.gone.Store(gone)
	select {
	case w.changed <- struct{}{}:
	default: // somebody is about to look
	}
}

// update prints the list if it has changed.
func (w *watch) update(ctx context.Context) error {
	if w.gone.Load() {
		return w.miss()
	}
	reply, err := w.client.VMs(ctx)
	switch {
	case errors.Is(err, client.ErrNoDaemon), errors.Is(err, context.Canceled):
		return nil // who follows the events notices that, too
	case err != nil:
		return err
	}
	same, first := w.known && reflect.DeepEqual(reply.VMs, w.vms), !w.known
	w.vms, w.known, w.missing = reply.VMs, true, false
	switch {
	case w.live:
		return w.draw()
	case same:
		return nil
	case w.apart && !first:
		fmt.Fprintln(w.a.out)
	}
	return w.list(w.a.out, w.a.err, w.vms)
}

const waiting = "bieldd has ended: waiting for the next one"

// miss says once that the daemon is gone.
func (w *watch) miss() error {
	if w.missing {
		return nil
	}
	w.missing = true
	if w.live {
		return w.draw()
	}
	_, err := fmt.Fprintln(w.a.err, waiting)
	return err
}

// draw puts the list in the place of the last one.
func (w *watch) draw() error {
	if !w.known && !w.missing {
		return nil
	}
	var table bytes.Buffer
	if err := w.list(&table, &table, w.vms); err != nil {
		return err
	}
	if w.missing {
		fmt.Fprintln(&table, waiting)
	}
	width, height := terminalSize(w.a.out)
	lines := fit(strings.Split(strings.TrimRight(table.String(), "\n"), "\n"), width, height)
	var out strings.Builder
	if w.drawn > 0 {
		fmt.Fprintf(&out, "\x1b[%dA", w.drawn)
	}
	for _, line := range lines {
		if mark, rest, ok := strings.Cut(line, " "); ok && mark == "!" {
			line = w.a.paint(w.a.out, red, mark) + " " + rest
		}
		out.WriteString("\r" + line + "\x1b[K\n")
	}
	out.WriteString("\x1b[J")
	w.drawn = len(lines)
	_, err := io.WriteString(w.a.out, out.String())
	return err
}

// fit cuts lines to a terminal, which would scroll or break them.
func fit(lines []string, width, height int) []string {
	if height > 2 && len(lines) >= height {
		left := len(lines) - (height - 2)
		lines = append(lines[:height-2:height-2], fmt.Sprintf("… and %d lines more", left))
	}
	for i, line := range lines {
		lines[i] = cut(line, width)
	}
	return lines
}

func terminalSize(w io.Writer) (width, height int) {
	if f, ok := w.(*os.File); ok {
		if width, height, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			return width, height
		}
	}
	return 80, 24
}
