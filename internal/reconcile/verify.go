package reconcile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"bield/internal/guestlink"
	"bield/internal/probe"
	"bield/internal/share"
	"bield/internal/spec"
	"bield/internal/state"
	"bield/internal/verify"
	"bield/internal/witness"
)

// Bounds of a verification.
const (
	verifyTimeout = 3 * time.Minute
	// arriveTimeout is how long the last packet may take to be seen.
	arriveTimeout = 5 * time.Second
	// maxVerifyOutput is what a probe's results come to at most: it is a guest
	// that writes them.
	maxVerifyOutput = 32 << 20
	// maxGot is the longest text about what a guest got.
	maxGot = 200
)

// verification is one of a VM's, under way.
type verification struct {
	e       *Engine
	vm      spec.VM
	host    spec.Host
	record  Record
	session *guestlink.Session
	cookie  witness.Cookie

	packets  *witness.Packets
	canaries *witness.Canaries
	// folders are those of the shares, by tag.
	folders map[string]*os.File
	secret  string // path of a file that a guest should not read
}

// Verify tries from inside a running guest to break out of it, and says what came
// of each attempt.
func (e *Engine) Verify(ctx context.Context, caller Caller, name string) ([]verify.Row, error) {
	v, err := e.newVerification(caller, name)
	if err != nil {
		return nil, err
	}
	defer v.end()
	ctx, cancel := context.WithTimeoutCause(ctx, verifyTimeout, fmt.Errorf("the guest of %s did not come to an end of it within %s", name, verifyTimeout))
	defer cancel()
	rows, err := v.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("verify %s: %w", name, err)
	}
	return rows, nil
}

func (e *Engine) newVerification(caller Caller, name string) (*verification, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	m, err := e.allowed(caller, name)
	if err != nil {
		return nil, err
	}
	switch {
	case m.record == nil || m.record.Ready == nil || m.record.Stopping || m.run == nil:
		return nil, errDown(name)
	case m.verifying:
		return nil, fmt.Errorf("%w: VM %s is being verified already: wait for that", ErrConflict, name)
	}
	session := m.run.session()
	if session == nil {
		return nil, fmt.Errorf("%w: the guest link of %s is not connected: try again, or `bield restart %s`", ErrConflict, name, name)
	}
	m.verifying = true
	record := m.record.clone()
	return &verification{e: e, vm: record.VM, host: e.applied.Host, record: record, session: session,
		cookie: witness.NewCookie(), folders: map[string]*os.File{}}, nil
}

// end gives back all that the verification has opened and made.
func (v *verification) end() {
	if v.packets != nil {
		_ = v.packets.Close()
	}
	if v.canaries != nil {
		_ = v.canaries.Close()
	}
	for _, dir := range v.folders {
		_ = dir.Close()
	}
	if v.secret != "" {
		_ = os.Remove(v.secret)
	}
	v.e.mu.Lock()
	defer v.e.mu.Unlock()
	if m := v.e.vms[v.vm.Name]; m != nil {
		m.verifying = false
	}
}

func (v *verification) run(ctx context.Context) ([]verify.Row, error) {
	image, err := os.ReadFile(v.e.ProbeBinary)
	if err != nil {
		return nil, fmt.Errorf("find bield-probe: %w (it belongs beside bieldd)", err)
	}
	if err := v.openFolders(); err != nil {
		return nil, err
	}
	if v.packets, err = witness.WatchPackets(v.cookie); err != nil {
		return nil, err
	}
	if v.canaries, err = witness.Listen(v.cookie); err != nil {
		return nil, err
	}
	facts, err := v.facts()
	if err != nil {
		return nil, err
	}
	plan := verify.New(facts)
	evidence, err := v.attempt(ctx, plan, image)
	if err = errors.Join(err, v.sweep(plan)); err != nil {
		return nil, err
	}
	rows := plan.Judge(evidence)
	for i := range rows {
		rows[i].Got = guestlink.CleanText(rows[i].Got, maxGot)
	}
	return rows, state.Write(v.folder().Verified(v.vm.Name), verified{Boot: facts.Boot}, 0o600)
}

// verified is the note of a verification.
type verified struct {
	Boot string `json:"boot"`
}

func (v *verification) folder() state.Folder { return state.Folder{Dir: v.record.Host.StateDir} }

// openFolders opens what the VM shares, so that it is looked at and nothing that
// is put in its place.
func (v *verification) openFolders() error {
	paths := map[string]string{spec.HostKeysTag: v.folder().HostKeys(v.vm.Name)}
	for _, s := range v.vm.Shares {
		paths[s.Tag] = s.Source
	}
	if !v.vm.StoreOnDisk {
		img, err := v.e.images.Find(v.record.Image)
		if err != nil {
			return err
		}
		paths[spec.RootTag] = img.Root()
	}
	for tag, path := range paths {
		dir, err := share.Open(path)
		if err != nil {
			return fmt.Errorf("share %s: %w", tag, err)
		}
		v.folders[tag] = dir
	}
	return nil
}

// attempt runs the probe and gathers what it says and what is seen meanwhile.
func (v *verification) attempt(ctx context.Context, plan verify.Plan, image []byte) (verify.Evidence, error) {
	evidence := verify.Evidence{Results: map[int]probe.Result{}, Files: map[verify.File]verify.FileInfo{}}
	orders, write := io.Pipe()
	defer orders.Close()
	go func() { _ = json.NewEncoder(write).Encode(plan.Orders) }()
	reader := &resultReader{limit: len(plan.Orders), take: func(r probe.Result) error {
		if !r.Done {
			evidence.Results[r.ID] = r
			return nil
		}
		// All connections are open still, and no file is removed.
		defer write.Close()
		return v.look(ctx, plan, &evidence)
	}}
	exit, err := v.session.Run(ctx, guestlink.Program{Name: probe.Name, Image: image, Input: orders, MaxOutput: maxVerifyOutput}, reader.read)
	if err == nil {
		err = exit.Err()
	}
	if err != nil {
		return evidence, err
	}
	if n := plan.Missing(evidence.Results); n > 0 {
		return evidence, fmt.Errorf("the guest ended with %d of %d attempts not made", n, len(plan.Orders))
	}
	return evidence, nil
}

// resultReader cuts a guest's output into results.
type resultReader struct {
	left  []byte
	count int
	limit int
	take  func(probe.Result) error
}

var errResults = errors.New("the guest sent no results of ours")

func (r *resultReader) read(data []byte) error {
	r.left = append(r.left, data...)
	for {
		line, rest, found := bytes.Cut(r.left, []byte{'\n'})
		if len(line) > probe.MaxLine {
			return fmt.Errorf("%w: a line of more than %d bytes", errResults, probe.MaxLine)
		}
		if !found {
			return nil
		}
		var result probe.Result
		if err := json.Unmarshal(line, &result); err != nil {
			return fmt.Errorf("%w: %w", errResults, err)
		}
		if r.count++; r.count > r.limit+1 {
			return fmt.Errorf("%w: more of them than there are attempts", errResults)
		}
		r.left = rest
		if err := r.take(result); err != nil {
			return err
		}
	}
}

// look gathers what the host sees itself, once all was tried.
func (v *verification) look(ctx context.Context, plan verify.Plan, evidence *verify.Evidence) error {
	ctx, cancel := context.WithTimeout(ctx, arriveTimeout)
	defer cancel()
	// Not to see it is an answer as well.
	_ = v.packets.Await(ctx, uint32(plan.Control), v.record.Host.Bridge)
	evidence.Seen, evidence.Heard = v.packets.Seen(), v.canaries.Heard()
	sockets, err := witness.Sockets()
	if err != nil {
		return err
	}
	for _, s := range sockets {
		if s.Remote.Addr() == v.vm.IP {
			evidence.Connections = append(evidence.Connections, verify.Connection{Local: s.Local, GuestPort: s.Remote.Port()})
		}
	}
	for _, f := range plan.Files {
		find := witness.Look
		if f.Above {
			find = witness.LookAbove
		}
		found, err := find(v.folders[f.Tag], f.Name)
		if err != nil {
			return err
		}
		if found != nil {
			evidence.Files[f] = verify.FileInfo(*found)
		}
	}
	return nil
}

// sweep removes what was made in shares and above them, also what is left of a
// verification that did not come to its end.
func (v *verification) sweep(plan verify.Plan) error {
	var failures []error
	for _, dir := range v.folders {
		failures = append(failures, witness.Sweep(dir, verify.Prefix("")))
	}
	for _, f := range plan.Files {
		if f.Above {
			failures = append(failures, witness.RemoveAbove(v.folders[f.Tag], f.Name))
		}
	}
	return errors.Join(failures...)
}

// siblings are the other VMs that run.
func (v *verification) siblings() ([]verify.Sibling, error) {
	v.e.mu.Lock()
	defer v.e.mu.Unlock()
	var list []verify.Sibling
	for _, name := range v.e.running() {
		r := v.e.vms[name].record
		if name == v.vm.Name || r == nil || !r.Tap {
			continue
		}
		mac, err := net.ParseMAC(r.VM.MAC)
		if err != nil {
			return nil, err
		}
		list = append(list, verify.Sibling{Name: name, IP: r.VM.IP, MAC: mac, Tap: r.VM.Tap()})
	}
	return list, nil
}

// writeSecret makes a file of the host's that a guest should not be able to read.
func (v *verification) writeSecret() (path, secret string, err error) {
	path = filepath.Join(v.e.Run.VM(v.vm.Name), "secret-"+v.cookie.String())
	secret = witness.NewCookie().String()
	v.secret = path
	return path, secret, state.WriteFile(path, []byte(secret+"\n"), 0o644)
}
