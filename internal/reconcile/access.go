package reconcile

import (
	"context"
	"fmt"
	"slices"
	"time"

	"bield/internal/sshaccess"
	"bield/internal/state"
)

// Access is what OpenSSH needs to reach a guest.
type Access struct {
	Address    string
	User       string
	Alias      string
	Identity   string
	KnownHosts string
}

// Access lets a caller into a running guest: bield makes a key for them, if
// they have none, and the guest is told of it, if it does not know it.
func (e *Engine) Access(ctx context.Context, caller Caller, name string) (Access, error) {
	if _, err := e.user(caller, name); err != nil {
		return Access{}, err
	}
	t, err := e.acquire(ctx, name)
	if err != nil {
		return Access{}, err
	}
	defer e.leave(t)
	// It may have become another's while this waited.
	m, err := e.user(caller, name)
	if err != nil {
		return Access{}, err
	}
	e.mu.Lock()
	record := m.record
	e.mu.Unlock()
	if record == nil || record.Ready == nil {
		return Access{}, errDown(name)
	}
	j := e.newJob(m, record.VM, caller, e.logProgress)
	key, err := j.admit(ctx)
	if err != nil {
		return Access{}, err
	}
	return Access{
		Address: j.vm.IP.String(), User: j.vm.User.Name, Alias: sshaccess.Alias(name),
		Identity: key.Private, KnownHosts: e.Run.KnownHosts(name),
	}, nil
}

func errDown(name string) error {
	return fmt.Errorf("%w: VM %s is down: `bield up %s` starts it", ErrConflict, name, name)
}

// admitTimeout is how long a guest may take to note a key; it answers in
// milliseconds unless it does not mean to.
const admitTimeout = 10 * time.Second

// admit returns the caller's key, known to the guest.
func (j *job) admit(ctx context.Context) (sshaccess.Key, error) {
	folder := state.Folder{Dir: j.e.host().StateDir}
	j.e.keysMu.Lock()
	key, err := userKey(folder, j.caller.UID, j.caller.GID)
	j.e.keysMu.Unlock()
	if err != nil || slices.Contains(j.record().Authorized, j.caller.UID) {
		return key, err
	}
	authorized := append(j.record().Authorized, j.caller.UID)
	if err := j.authorize(ctx, authorized); err != nil {
		return key, err
	}
	return key, j.change(func(record *Record) { record.Authorized = authorized })
}

// authorize tells the guest which keys open it: those of these host users, and
// the VM user's own.
func (j *job) authorize(ctx context.Context, users []uint32) error {
	ctx, cancel := context.WithTimeout(ctx, admitTimeout)
	defer cancel()
	if err := j.collectKeys(state.Folder{Dir: j.host.StateDir}, users); err != nil {
		return err
	}
	session := j.currentRun().session()
	if session == nil {
		return fmt.Errorf("%w: the guest link of %s is not connected, and so the guest cannot be told of keys: try again, or `bield restart %s`", ErrConflict, j.vm.Name, j.vm.Name)
	}
	if err := session.Authorize(ctx, j.authorizedKeys()); err != nil {
		return fmt.Errorf("tell the guest of keys: %w", err)
	}
	return nil
}

// collectKeys reads the keys of those who may want in, the daemon's first.
func (j *job) collectKeys(folder state.Folder, users []uint32) error {
	j.e.keysMu.Lock() // several VMs may want the same key to be made
	defer j.e.keysMu.Unlock()
	daemon, err := sshaccess.EnsureKey(folder.DaemonKey(), "bieldd", 0, 0)
	if err != nil {
		return err
	}
	j.keys = []sshaccess.Key{daemon}
	for _, uid := range users {
		key, err := userKey(folder, uid, j.groupOf(uid))
		if err != nil && uid != j.caller.UID {
			// Somebody else's broken key is not this caller's business.
			j.e.Log.Warn("key left out", "vm", j.vm.Name, "uid", uid, "error", err)
			continue
		}
		if err != nil {
			return err
		}
		j.keys = append(j.keys, key)
	}
	return nil
}

// groupOf is the primary group that a user's key folder gets.
func (j *job) groupOf(uid uint32) uint32 {
	switch uid {
	case j.caller.UID:
		return j.caller.GID
	case j.vm.User.UID:
		return j.vm.User.GID
	default:
		return uid
	}
}
