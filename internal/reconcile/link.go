package reconcile

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"bield/internal/guestlink"
	"bield/internal/process"
)

// guest is what a guest has told of itself. It is the guest's word.
type guest struct {
	mu      sync.Mutex
	at      progressOfGuest
	changed chan struct{} // closed and replaced at each change
}

// progressOfGuest is where a guest's boot stands.
type progressOfGuest struct {
	stage   string // the newest that was told of
	failure string // why that stage failed
	ready   bool   // sshd listens
	seq     uint64 // of the newest event
}

func newGuest() *guest { return &guest{changed: make(chan struct{})} }

// now is the state and what is closed when it is no longer that.
func (g *guest) now() (progressOfGuest, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.at, g.changed
}

// take notes one event; a new session tells the old ones again.
func (g *guest) take(e guestlink.Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e.Seq <= g.at.seq {
		return
	}
	g.at.seq, g.at.stage = e.Seq, e.Stage
	switch {
	case e.State == guestlink.StateFailed:
		g.at.failure = e.Message
	case e.Stage == guestlink.StageReady && e.State == guestlink.StateDone:
		g.at.ready = true
	}
	close(g.changed)
	g.changed = make(chan struct{})
}

// A guest that ends every session at once must not keep the host busy, nor fill
// its log: the pause between two tries doubles up to maxLinkPause, unless the
// session lasted that long.
const (
	linkPause    = 50 * time.Millisecond
	maxLinkPause = 30 * time.Second
)

// keepLink holds a session on the guest link for as long as the run lasts. One
// may end on the way: a guest that goes on to systemd takes the link up anew.
func (r *run) keepLink(ctx context.Context, log *slog.Logger) {
	for wait := linkPause; ctx.Err() == nil; wait = min(2*wait, maxLinkPause) {
		began := time.Now()
		session, err := r.connect(ctx)
		if err == nil {
			err = r.listen(ctx, session)
		}
		if ctx.Err() == nil && !guestlink.Ended(err) {
			log.Warn("guest link", "error", err)
		}
		if time.Since(began) > maxLinkPause {
			wait = linkPause
		}
		pause(ctx, wait)
	}
}

// connect opens a session on the guest link.
func (r *run) connect(ctx context.Context) (*guestlink.Session, error) {
	conn, err := r.vmm.Link(ctx)
	if err != nil {
		return nil, err
	}
	return guestlink.Dial(ctx, conn)
}

// listen takes the guest's events until the session ends.
func (r *run) listen(ctx context.Context, session *guestlink.Session) error {
	r.setLink(session)
	defer func() {
		r.setLink(nil)
		_ = session.Close()
	}()
	for event, err := range session.Events(ctx) {
		if err != nil {
			return err
		}
		r.guest.take(event)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Bounds of what a VM's helpers may log: a guest can make them say a lot.
const (
	maxLogBytes = 1 << 20
	trimEvery   = time.Minute
)

// trimLogs keeps the logs of VMs' programs small.
func (e *Engine) trimLogs() {
	ticker := time.NewTicker(trimEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			for _, path := range e.logs() {
				_ = process.TrimLog(path, maxLogBytes)
			}
		case <-e.closing:
			return
		}
	}
}

func (e *Engine) logs() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	paths := []string{e.Run.EgressLog()}
	for _, m := range e.vms {
		if m.run != nil {
			paths = slices.AppendSeq(paths, maps.Values(m.run.logs))
		}
	}
	return paths
}
