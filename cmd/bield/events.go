package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"bield/internal/api"
	"bield/internal/api/client"
	"bield/internal/spec"
)

// eventOptions are the flags of `bield events`.
type eventOptions struct {
	follow, asJSON bool
	tail           int
	since          string
}

func newEventsCommand(a *app) *cobra.Command {
	var o eventOptions
	c := &cobra.Command{
		Use:   "events [NAME…]",
		Short: "What happened on this host, and how long it took",
		Long: `Print what happened on this host: VMs that started, stopped and failed, and why;
each step with the time it took; what was applied; the daemon's own start and
end. With names, only what happened to those VMs. The newest one or two MiB are
kept until the machine is started again.`,
		Example: `  bield events -n 20 claude-home
  bield events -f --json | jq 'select(.kind == "step") | [.vm, .step, .elapsed / 1e9]'`,
		RunE: func(c *cobra.Command, args []string) error { return runEvents(c.Context(), a, o, args) },
	}
	c.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on with what happens")
	c.Flags().BoolVar(&o.asJSON, "json", false, "print one JSON object a line")
	c.Flags().IntVarP(&o.tail, "tail", "n", -1, "print the last `N` at most of what happened before")
	c.Flags().StringVar(&o.since, "since", "", "print nothing older than this: 90s, 2h, or a time as in RFC 3339")
	return c
}

func runEvents(ctx context.Context, a *app, o eventOptions, names []string) error {
	since, err := parseSince(o.since, time.Now())
	if err != nil {
		return &exitError{exitUsage, err}
	}
	ctx, stop := untilUnread(ctx, a.out)
	defer stop()
	query := api.EventQuery{Follow: o.follow, Since: since, Tail: o.tail, VMs: names}
	show := a.printEvent
	if o.asJSON {
		encoder := json.NewEncoder(a.out)
		show = func(e api.HostEvent) error { return encoder.Encode(e) }
	}
	return a.follow(ctx, query, follower{show: show})
}

// parseSince takes a duration before now, or a time.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil {
		return now.Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, fmt.Errorf("--since %q: write a duration such as 90s or 2h, or a time such as %s", text, now.Format(time.RFC3339))
	}
	return at, nil
}

// printEvent writes an event in columns.
func (a *app) printEvent(e api.HostEvent) error {
	what, text := describeEvent(e)
	colour := map[string]string{
		string(spec.StateRunning): green, string(spec.StateFailed): red, spec.EventRemoved: red,
	}[e.State]
	what = fmt.Sprintf("%-9s", plainLine(what))
	if colour != "" {
		what = a.paint(a.out, colour, what)
	}
	line := fmt.Sprintf("%s  %-15s  %s  %s", e.Time.Local().Format("2006-01-02 15:04:05.000"), plainLine(cmp.Or(e.VM, "host")), what, plainLine(text))
	_, err := fmt.Fprintln(a.out, strings.TrimRight(line, " "))
	return err
}

// describeEvent says what happened in a word, and the rest of it.
func describeEvent(e api.HostEvent) (what, text string) {
	switch e.Kind {
	case spec.EventStep:
		return e.State, withMessage(fmt.Sprintf("%s (%s)", e.Step, seconds(e.Elapsed)), e.Message)
	case spec.EventState:
		if e.Elapsed > 0 {
			text = "after " + seconds(e.Elapsed)
		}
		return e.State, withMessage(text, e.Message)
	case spec.EventApply:
		text = e.Origin
		if e.UID != nil {
			text += fmt.Sprintf(" by uid %d", *e.UID)
		}
		return "applied", withMessage(text, e.Message)
	default:
		return e.State, e.Message
	}
}

func withMessage(text, message string) string {
	if text == "" || message == "" {
		return text + message
	}
	return text + ": " + message
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3fs", d.Seconds()) }

// follower is what becomes of events. begun and lost may be nil.
type follower struct {
	show func(api.HostEvent) error
	// begun is called when what happens from now on will be shown, lost when
	// the daemon is gone: it may come back.
	begun, lost func()
}

// retry is how often a daemon that is gone is looked for. Only connecting tells
// that one answers.
const retry = 250 * time.Millisecond

// follow shows events. When the query follows, it does so until ctx ends, and
// waits for the next daemon when one ends.
func (a *app) follow(ctx context.Context, query api.EventQuery, f follower) error {
	began := time.Now()
	d, err := a.daemon(ctx)
	for err == nil {
		err = d.Events(ctx, query, f.begun, func(e api.HostEvent) error {
			query.After = e.Seq
			return f.show(e)
		})
		d.Close()
		if !query.Follow || err != nil && !errors.Is(err, client.ErrNoDaemon) {
			break
		}
		if query.Tail == 0 && query.After == 0 {
			query.Since = began
		}
		query.Tail = -1 // nothing that happened meanwhile is to be missed
		if f.lost != nil {
			f.lost()
		}
		d, err = a.nextDaemon(ctx)
	}
	if query.Follow && errors.Is(err, context.Canceled) {
		return nil // ^C is how following ends, or a reader that has gone
	}
	return err
}

// nextDaemon waits for a daemon to answer, and starts none: this one may have
// been ended on purpose.
func (a *app) nextDaemon(ctx context.Context) (*client.Client, error) {
	ticker := time.NewTicker(retry)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		d, err := a.connect(ctx)
		if err == nil || errors.Is(err, errVersion) {
			return d, err
		}
	}
}
