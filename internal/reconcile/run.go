package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"sync"
	"time"

	"bield/internal/cgroup"
	"bield/internal/guestlink"
	"bield/internal/hypervisor"
	"bield/internal/process"
	"bield/internal/spec"
)

// run is what belongs to one run of a VM: its processes, its link, its console,
// and why it ended.
type run struct {
	vmm     hypervisor.VM
	console *boundedLog
	drained chan struct{} // closed when the console has ended
	guest   *guest
	// group is the control group that it runs in.
	group    cgroup.Group
	groupMiB int
	// logs holds the path of each share's log by its tag, and the VMM's by "".
	logs map[string]string
	// forced is closed to skip the guest's own shutdown.
	forced    chan struct{}
	forceOnce sync.Once

	// letGo is closed when the run is over or the daemon leaves it to its
	// successor.
	letGo chan struct{}
	once  sync.Once
	tasks sync.WaitGroup

	// ended is closed once the VMM is gone; cause is then why, nil for a
	// power-off by the guest.
	ended chan struct{}
	cause error

	mu     sync.Mutex
	link   *guestlink.Session
	shares map[string]*process.Process
}

func newRun(record Record) *run {
	return &run{group: record.Group, groupMiB: groupLimits(record).MemoryMiB, shares: map[string]*process.Process{}, guest: newGuest(), drained: make(chan struct{}), logs: map[string]string{}, ended: make(chan struct{}), forced: make(chan struct{}), letGo: make(chan struct{})}
}

// building is the run that the job puts together.
func (j *job) building() *run {
	if j.run == nil {
		j.run = newRun(j.record())
		j.e.mu.Lock()
		j.m.run = j.run
		j.e.mu.Unlock()
	}
	return j.run
}

func (j *job) currentRun() *run {
	j.e.mu.Lock()
	defer j.e.mu.Unlock()
	return j.m.run
}

// vmmGrace is how long after its share a VMM may still end by itself: when a
// VMM dies, its shares may be seen to end first.
const vmmGrace = time.Second

// supervise waits for the end of the VMM. A share that ends while the VMM
// lives leaves the guest hanging for good, so the VMM is killed. It returns
// without an end when the daemon lets go.
func (r *run) supervise() {
	tag, lost := r.waitAny()
	if lost {
		return
	}
	if tag != "" && !r.vmmEnds(vmmGrace) {
		r.cause = r.shareEnded(tag)
		ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
		defer cancel()
		if err := r.vmm.Kill(ctx); err != nil {
			r.cause = errors.Join(r.cause, err)
		}
		<-r.vmm.Done()
	}
	if r.cause == nil {
		r.cause = r.vmm.Cause()
	}
	r.cause = r.outOfMemory(r.cause)
	r.awaitConsole()
	close(r.ended)
	r.quit()
}

// awaitConsole lets the console's last words get into its log: the serial line
// ends with the VMM.
func (r *run) awaitConsole() {
	timer := time.NewTimer(vmmGrace)
	defer timer.Stop()
	select {
	case <-r.drained:
	case <-timer.C:
	}
}

// awaitDeadShare gives a virtiofsd whose end has been felt the time to be seen to
// have ended.
func (r *run) awaitDeadShare() {
	timer := time.NewTimer(vmmGrace)
	defer timer.Stop()
	cases := []reflect.SelectCase{{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(timer.C)}}
	for _, p := range r.allShares() {
		cases = append(cases, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(p.Done())})
	}
	_, _, _ = reflect.Select(cases)
}

// deadShares says which virtiofsd has ended: it, and not the VMM that cannot
// connect, is then what failed. One that ended well did so because its VMM had.
func (r *run) deadShares() error {
	var dead []error
	for tag, p := range r.allShares() {
		if !over(p.Done()) {
			continue
		}
		if exit := p.Exit(); exit != (process.Exit{Known: true}) {
			dead = append(dead, fmt.Errorf("the virtiofsd of share %s ended (%s): %s", tag, exit,
				strings.Join(process.TailLog(r.logs[tag], logTail), " / ")))
		}
	}
	return errors.Join(dead...)
}

func (r *run) shareEnded(tag string) error {
	p := r.share(tag)
	text := fmt.Sprintf("the virtiofsd of share %s ended (%s), and the guest hangs without it: the VM was stopped by force", tag, p.Exit())
	if tail := process.TailLog(r.logs[tag], logTail); len(tail) > 0 {
		text += "; its last words: " + strings.Join(tail, " / ")
	}
	return errors.New(text)
}

func (r *run) vmmEnds(within time.Duration) bool {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-r.vmm.Done():
		return true
	case <-timer.C:
		return false
	}
}

// waitAny returns the tag of the first share that ends, "" when the VMM ended,
// and lost when the daemon lets go of the run.
func (r *run) waitAny() (tag string, lost bool) {
	receive := func(c <-chan struct{}) reflect.SelectCase {
		return reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(c)}
	}
	tags := []string{""}
	cases := []reflect.SelectCase{receive(r.vmm.Done())}
	for tag, p := range r.allShares() {
		tags, cases = append(tags, tag), append(cases, receive(p.Done()))
	}
	// One goroutine a VM, however many shares it has.
	first, _, _ := reflect.Select(append(cases, receive(r.letGo)))
	if first == len(tags) {
		return "", true
	}
	return tags[first], false
}

// forceOff ends the waiting for the guest's own shutdown.
func (r *run) forceOff() { r.forceOnce.Do(func() { close(r.forced) }) }

// addShare makes a virtiofsd part of the run.
func (r *run) addShare(tag string, p *process.Process) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shares[tag] = p
}

// share is the virtiofsd of a tag, or nil. A nil run has none.
func (r *run) share(tag string) *process.Process {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.shares[tag]
}

func (r *run) allShares() map[string]*process.Process {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.shares)
}

// setLink puts a new session in the place of the old one.
func (r *run) setLink(s *guestlink.Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.link = s
}

// session is the guest link, or nil while there is none.
func (r *run) session() *guestlink.Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.link
}

// quit ends the daemon's own work for the run, and waits for it.
func (r *run) quit() {
	r.once.Do(func() { close(r.letGo) })
	r.tasks.Wait()
}

// release leaves the run to the next daemon: what runs goes on.
func (r *run) release() {
	r.quit()
	if r.vmm != nil {
		r.vmm.Close()
	}
	for _, p := range r.allShares() {
		p.Release()
	}
}

// follow takes back what is left when the VM ends by itself.
func (e *Engine) follow(ctx context.Context, m *machine, r *run) {
	e.tasks.Go(func() {
		select {
		case <-r.ended:
		case <-e.closing:
			return
		}
		ctx := context.WithoutCancel(ctx)
		t, err := e.acquire(ctx, m.name)
		if err != nil {
			return
		}
		defer e.leave(t)
		e.mu.Lock()
		current := m.run == r
		e.mu.Unlock()
		if !current {
			return
		}
		e.ended(ctx, m, r)
	})
}

func (e *Engine) ended(ctx context.Context, m *machine, r *run) {
	e.Log.Info("VM ended", "vm", m.name, "cause", r.cause)
	e.mu.Lock()
	ran := time.Duration(0)
	if m.record != nil && m.record.Ready != nil {
		ran = time.Since(*m.record.Ready)
	}
	e.mu.Unlock()
	again := e.startsAgain(m.name, r.cause != nil)
	if !again {
		e.setFate(m.name, func(f *Fate) { *f = Fate{Failure: text(r.cause), Restarts: f.Restarts} })
	}
	if err := e.takeBack(ctx, m, e.logProgress); err != nil {
		e.Log.Error("remove what is left", "vm", m.name, "error", err)
		e.fail(m, err)
		return
	}
	switch {
	case again:
		e.restartLater(ctx, m, text(r.cause), ran)
	case r.cause != nil:
		e.setState(m, spec.StateFailed, r.cause.Error())
	default:
		e.setState(m, spec.StateDown, "")
	}
}

// text is an error's, or "".
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
