package fakes

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"bield/internal/guestconfig"
	"bield/internal/guestlink"
)

// Reset is what a guest ends with that has reset its machine, as a kernel does
// that panics. 0 is a power-off, and any other number the exit code of a VMM that
// breaks down.
const Reset = -1

// guest is the machine inside a fake VMM.
type guest struct {
	name    string
	plan    Guest
	config  guestconfig.Config
	devices map[string]*share
	netDir  string
	console *console
	journal *journal
	// drivers is closed when its modules are loaded: devices work from then on.
	drivers chan struct{}
	// off takes what it ends with.
	off  chan int
	once sync.Once
	// frozen is held for writing while the CPUs stand still.
	frozen sync.RWMutex
	still  bool   // with mu
	line   []byte // typed and not yet ended
	// hasRun says that QEMU's monitor has let them run.
	hasRun bool

	mu      sync.Mutex
	current *guestlink.Session
	running bool
	mounts  mounts
	keys    []string
}

func newGuest(name string, plan Guest, c guestconfig.Config, devices map[string]*share, netDir string) *guest {
	v := &guest{
		name: name, plan: plan, config: c, devices: devices, netDir: netDir,
		journal: newJournal(), drivers: make(chan struct{}), off: make(chan int, 1),
		keys: c.User.AuthorizedKeys,
	}
	v.console = newConsole(v.typed)
	return v
}

func (v *guest) isRunning() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.running
}

// freeze lets the CPUs stand still, or go on.
func (v *guest) freeze(still bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case still && !v.still:
		v.frozen.Lock()
	case !still && v.still:
		v.frozen.Unlock()
	}
	v.still = still
}

func (v *guest) isStill() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.still
}

// thaw waits while the CPUs stand still.
func (v *guest) thaw() {
	v.frozen.RLock()
	defer v.frozen.RUnlock()
}

// print writes a line to the console.
func (v *guest) print(line string) {
	v.thaw()
	v.console.print(line)
}

// end ends the machine.
func (v *guest) end(code int) {
	v.thaw()
	v.once.Do(func() { v.off <- code })
}

// powerOff is the guest's own orderly end.
func (v *guest) powerOff(why string) {
	v.print("bield-init: power off: " + why)
	v.journal.note(guestlink.StagePowerOff, guestlink.StateDone, "")
	v.print("reboot: Power down")
	v.end(0)
}

func (v *guest) pressButton() {
	if v.plan.NoButton {
		v.print("button: ignored")
		return
	}
	go v.powerOff("the power button")
}

// maxLine bounds a line that is typed.
const maxLine = 100

// typed takes what is typed on the console. It is sent back as it is, and a line
// that is poweroff, panic or spin is done: who spins reads its console no more.
func (v *guest) typed(text []byte) {
	v.thaw()
	v.console.write(text)
	for _, b := range text {
		if b != '\r' {
			v.line = append(v.line[max(0, len(v.line)-maxLine):], b)
			continue
		}
		line := string(v.line)
		v.line = nil
		switch line {
		case "poweroff":
			go v.powerOff("its console asked for it")
		case "panic":
			v.print("Kernel panic - not syncing: as asked")
			v.end(Reset)
		case "spin":
			forever()
		}
	}
}

// consoleWait is how long the guest waits for somebody to read its console,
// so that what a test expects there is not lost.
const consoleWait = 5 * time.Second

// boot goes through the stages of bield-init.
func (v *guest) boot() {
	v.console.wait(consoleWait)
	v.print("Linux version 6.1.0-fake (" + v.name + ")")
	for _, stage := range guestlink.Stages() {
		if stage == guestlink.StagePowerOff {
			break
		}
		v.journal.note(stage, guestlink.StateStarted, "")
		if err := v.stage(stage); err != nil {
			v.print(fmt.Sprintf("bield-init: %s: %v", stage, err))
			v.journal.note(stage, guestlink.StateFailed, err.Error())
			return
		}
		v.print("bield-init: " + stage)
		v.journal.note(stage, guestlink.StateDone, "")
		if stage == guestlink.StageModules {
			close(v.drivers)
		}
	}
	v.mu.Lock()
	v.running = true
	v.mu.Unlock()
}

// stage is one of them, with what the plan has for it.
func (v *guest) stage(stage string) error {
	switch {
	case v.plan.Crash == stage:
		v.print(v.plan.Says)
		v.end(v.plan.Exit)
		forever()
	case v.plan.Hang == stage:
		v.print("bield-init: " + stage + " …")
		_ = os.WriteFile(filepath.Join(v.netDir, v.name+".hangs"), nil, 0o644)
		forever()
	case v.plan.Fail[stage] != "":
		return fmt.Errorf("%s", v.plan.Fail[stage])
	case v.plan.Relink == stage:
		v.relink()
	}
	switch stage {
	case guestlink.StageRoot:
		return v.mountRoot()
	case guestlink.StageShares:
		m, err := mount(v.config, v.devices)
		v.mu.Lock()
		defer v.mu.Unlock()
		v.mounts = m
		return err
	case guestlink.StageHostKeys:
		_, err := v.file("read", v.config.HostKey, nil)
		return err
	case guestlink.StageSSHD:
		return v.startSSHD()
	}
	return nil
}

// relink ends the session with the host once there is one.
func (v *guest) relink() {
	for {
		v.mu.Lock()
		s := v.current
		v.mu.Unlock()
		if s != nil {
			_ = s.Close()
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func (v *guest) mountRoot() error {
	if v.config.Root.Disk != "" {
		return nil
	}
	device, ok := v.devices[v.config.Root.Tag]
	if !ok {
		return fmt.Errorf("mount /: virtio-fs: tag <%s> not found", v.config.Root.Tag)
	}
	_, err := device.do("stat", "etc", nil)
	return err
}

// file works on a file of a share by its path in the guest.
func (v *guest) file(op, path string, data []byte) ([]byte, error) {
	v.mu.Lock()
	m := v.mounts
	v.mu.Unlock()
	return m.do(op, path, data)
}

// serveLink serves the host on one connection of the guest link.
func (v *guest) serveLink(conn net.Conn) {
	ctx := context.Background()
	s, err := guestlink.Serve(ctx, conn)
	if err != nil {
		return
	}
	defer func() { _ = s.Close() }()
	v.mu.Lock()
	v.current = s
	v.mu.Unlock()
	for {
		st, err := s.Accept(ctx)
		if err != nil {
			return
		}
		v.thaw()
		go func() {
			defer func() { _ = st.Close() }()
			v.answer(st)
		}()
	}
}

func (v *guest) answer(st *guestlink.Stream) {
	switch st.Kind() {
	case guestlink.KindEvents:
		v.journal.send(st)
	case guestlink.KindPowerOff:
		_ = st.Answer(nil, nil)
		v.powerOff("the host asked for it")
	case guestlink.KindAuthorize:
		var a guestlink.Authorize
		err := st.Decode(&a)
		if err == nil {
			v.mu.Lock()
			v.keys = a.Keys
			v.mu.Unlock()
		}
		_ = st.Answer(err, nil)
	case guestlink.KindClock:
		_ = st.Answer(nil, nil)
	case guestlink.KindRun:
		v.runProbe(st)
	default:
		_ = st.Answer(fmt.Errorf("no %q here", st.Kind()), nil)
	}
}
