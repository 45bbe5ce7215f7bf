package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"bield/internal/api"
)

// progress shows what happens to VMs: on a terminal one live line for each VM,
// elsewhere a plain line for each step that took its time.
type progress struct {
	a     *app
	verb  string
	live  bool
	began time.Time
	stop  chan struct{}
	tasks sync.WaitGroup

	mu    sync.Mutex
	lines []*progressLine
	drawn int // lines on the terminal now
	notes []string
}

// progressLine is one VM's.
type progressLine struct {
	name, step, message string
	detail              string
	began               time.Time
	failed              bool
}

// frame is how often a live line is drawn anew.
const frame = 100 * time.Millisecond

func (a *app) newProgress(verb string) *progress {
	p := &progress{a: a, verb: verb, live: isTerminal(a.err), began: time.Now(), stop: make(chan struct{})}
	if p.live {
		p.tasks.Go(p.animate)
	}
	return p
}

// close ends the live lines and leaves the terminal as a person expects it.
func (p *progress) close() {
	close(p.stop)
	p.tasks.Wait()
	if p.live {
		p.mu.Lock()
		p.erase()
		p.mu.Unlock()
	}
}

func (p *progress) animate() {
	ticker := time.NewTicker(frame)
	defer ticker.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-ticker.C:
			p.mu.Lock()
			p.draw()
			p.mu.Unlock()
		}
	}
}

// show takes one event of the daemon's.
func (p *progress) show(e api.Event) {
	if e.Done {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.State == "note" {
		p.showNote(e)
		return
	}
	line := p.line(e.VM)
	if e.State == "failed" {
		line.failed = true
	}
	known := line.step == e.Step && line.message == e.Message
	line.step, line.message, line.detail = e.Step, e.Message, e.Detail
	if p.live {
		p.showLive(e, line)
		return
	}
	if e.State != "progress" || !known {
		p.showPlain(e, line)
	}
}

// showNote prints what is to be said once.
func (p *progress) showNote(e api.Event) {
	if slices.Contains(p.notes, e.Message) {
		return
	}
	p.notes = append(p.notes, e.Message)
	if p.live {
		p.erase()
		defer p.draw()
	}
	fmt.Fprintf(p.a.err, "%s %s\n", p.a.paint(p.a.err, yellow, "~"), plainLine(e.Message))
}

func (p *progress) line(name string) *progressLine {
	i := slices.IndexFunc(p.lines, func(l *progressLine) bool { return l.name == name })
	if i >= 0 {
		return p.lines[i]
	}
	line := &progressLine{name: name, began: time.Now()}
	p.lines = append(p.lines, line)
	return line
}

// showPlain leaves out the starts, and what was quick.
func (p *progress) showPlain(e api.Event, line *progressLine) {
	switch {
	case e.State == "start", e.State == "done" && e.Elapsed < frame && e.Message == "" && !final(e):
		return
	case e.State == "progress" && e.Message == e.Step:
		return // the guest's last stage, "ready", is that of up itself
	case e.State == "progress":
		fmt.Fprintf(p.a.err, "%s: %s: %s\n", subject(e.VM), e.Step, e.Message)
	case e.State == "failed":
		fmt.Fprintf(p.a.err, "%s: %s: failed (%.1fs)\n", subject(e.VM), e.Step, e.Elapsed.Seconds())
	case final(e) && line.failed:
		p.over(line)
		fmt.Fprintf(p.a.err, "%s: what was made is taken back\n", subject(e.VM))
	case final(e):
		p.over(line)
		fmt.Fprintf(p.a.err, "%s: %s\n", subject(e.VM), line.outcome(e))
	case e.Message != "":
		fmt.Fprintf(p.a.err, "%s: %s\n", subject(e.VM), e.Message)
	default:
		fmt.Fprintf(p.a.err, "%s: %s (%.1fs)\n", subject(e.VM), e.Step, e.Elapsed.Seconds())
	}
}

// over ends a line: the VM may go another way yet.
func (p *progress) over(line *progressLine) {
	p.lines = slices.DeleteFunc(p.lines, func(l *progressLine) bool { return l == line })
}

// outcome is what became of a VM at the end of its way up or down.
func (l *progressLine) outcome(e api.Event) string {
	if e.Message != "" {
		return e.Message
	}
	return fmt.Sprintf("%s in %.1fs", map[string]string{"ready": "is up", "forget": "is down"}[e.Step], time.Since(l.began).Seconds())
}

// final says that the event ends a VM's way up or down.
func final(e api.Event) bool { return e.Step == "ready" || e.Step == "forget" }

func subject(vm string) string {
	if vm == "" {
		return "host"
	}
	return vm
}

// showLive turns a VM's live line into a lasting one at its end.
func (p *progress) showLive(e api.Event, line *progressLine) {
	if line.name == "" && e.State == "done" {
		// The host's steps are over at once, and another may never come.
		p.lines = slices.DeleteFunc(p.lines, func(l *progressLine) bool { return l == line })
	}
	if !final(e) || e.State != "done" || line.failed {
		return
	}
	p.erase()
	p.lines = slices.DeleteFunc(p.lines, func(l *progressLine) bool { return l == line || l.name == "" })
	fmt.Fprintf(p.a.err, "%s %s %s\n", p.a.paint(p.a.err, green, "✓"), line.name, line.ended(e))
	p.draw()
}

// ended says how a VM's way up or down has ended.
func (l *progressLine) ended(e api.Event) string {
	switch {
	case e.Message != "":
		return e.Message
	case l.failed:
		return "is taken back"
	}
	what := map[string]string{"ready": "is up", "forget": "is down"}[e.Step]
	return fmt.Sprintf("%s in %.1fs", what, time.Since(l.began).Seconds())
}

// draw replaces the live lines. Needs p.mu.
func (p *progress) draw() {
	p.erase()
	width := terminalWidth(p.a.err)
	for _, l := range p.lines {
		spinner := string([]rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")[int(time.Since(p.began)/frame)%10])
		text := fmt.Sprintf("%s  %s", subject(l.name), l.step)
		if l.message != "" {
			text += ": " + l.message
		}
		if l.detail != "" {
			text += ": " + l.detail
		}
		text = fmt.Sprintf("%s  %.1fs", cut(text, width-10), time.Since(l.began).Seconds())
		fmt.Fprintf(p.a.err, "%s %s\n", p.a.paint(p.a.err, dim, spinner), text)
		p.drawn++
	}
}

// erase takes the live lines off the terminal. Needs p.mu.
func (p *progress) erase() {
	fmt.Fprint(p.a.err, strings.Repeat("\x1b[1A\x1b[2K", p.drawn))
	p.drawn = 0
}

func cut(text string, width int) string {
	runes := []rune(strings.ReplaceAll(text, "\n", " "))
	if width < 10 || len(runes) <= width {
		return string(runes)
	}
	return string(runes[:width-1]) + "…"
}

func terminalWidth(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			return width
		}
	}
	return 80
}
