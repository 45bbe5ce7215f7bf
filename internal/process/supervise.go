package process

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// handleOrders make a launcher the parent of its program.
type handleOrders struct {
	UID, GID uint32 // on the host
	Map      *IDMap
}

// superviseHandles starts the program as a child of this launcher, gives up all
// but one capability, and serves the child's file handles until it ends. It
// returns only if the program was not started.
func superviseHandles(o orders, base int, status *os.File) error {
	if err := o.becomeSupervisor(); err != nil {
		return err
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket pair: %w", err)
	}
	defer unix.Close(ends[0])
	child, err := o.startSupervised(base, os.NewFile(uintptr(ends[1]), "seccomp"))
	if err != nil {
		return err
	}
	listener, err := o.finishSupervisor(ends[0])
	if err != nil {
		_ = child.Kill()
		return err
	}
	forwardSignals(child)
	go exitWith(child)
	_ = status.Close()
	server := handleServer{listener: listener, uid: o.Handles.UID, idMap: o.Handles.Map, seal: newHandleSeal(), askers: make(map[uint32]asker)}
	err = server.serve()
	fmt.Fprintln(os.Stderr, "bield-launch: serve file handles:", err)
	_ = child.Kill()
	select {} // exitWith ends this process
}

// becomeSupervisor makes the whole process the user that the program is to run
// as. What it needs to make a user namespace it keeps until that is made.
func (o orders) becomeSupervisor() error {
	all := rawCall(syscall.AllThreadsSyscall)
	unix.Umask(0o077)
	if err := setLimits(); err != nil {
		return err
	}
	if err := dropBounding(all); err != nil {
		return err
	}
	if err := do(all, "keep capabilities", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0); err != nil {
		return err
	}
	if err := setIDs(all, o.Handles.UID, o.Handles.GID, o.Groups); err != nil {
		return err
	}
	namespace := uint64(0)
	if o.Handles.Map != nil {
		namespace = 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID
	}
	if err := setCapabilities(all, 1<<unix.CAP_DAC_READ_SEARCH|namespace, namespace); err != nil {
		return err
	}
	if err := do(all, "set no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return err
	}
	// The child's /proc files, its uid_map among them, are ours only then.
	return do(rawThread, "make the launcher dumpable", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1, 0)
}

// startSupervised starts the program by a launcher of its own, and closes what
// was the program's: a listening socket must end with its program.
func (o orders) startSupervised(base int, socket *os.File) (*os.Process, error) {
	child := o
	child.Handles, child.Notify, child.Dup = nil, true, o.Dup+1
	s := spawn{orders: child, attr: &syscall.SysProcAttr{}, stdio: [3]*os.File{os.Stdin, os.Stdout, os.Stderr}}
	for i := range o.Dup {
		s.extra = append(s.extra, os.NewFile(uintptr(3+i), "inherited"))
	}
	s.extra = append(s.extra, socket)
	closing := s.extra
	if o.DirFile {
		s.dir = os.NewFile(uintptr(base+2), "directory")
		closing = append(closing, s.dir)
	}
	if o.Handles.Map != nil {
		o.Handles.Map.apply(s.attr)
	}
	process, err := s.run(context.Background())
	for _, f := range closing {
		_ = f.Close()
	}
	return process, err
}

// finishSupervisor leaves this process the one capability, not in effect.
func (o orders) finishSupervisor(socket int) (listener int, err error) {
	if listener, err = receiveListener(socket); err != nil {
		return -1, err
	}
	if err := setCapabilities(syscall.AllThreadsSyscall, 1<<unix.CAP_DAC_READ_SEARCH, 0); err != nil {
		return -1, err
	}
	return listener, do(rawThread, "make the launcher undumpable", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0)
}

func forwardSignals(child *os.Process) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	go func() {
		for s := range signals {
			_ = child.Signal(s)
		}
	}()
}

// exitWith ends this process as its child ended; a signal n becomes 128+n.
func exitWith(child *os.Process) {
	exit := waitChild(child)
	if exit.Signal != 0 {
		os.Exit(128 + int(exit.Signal))
	}
	os.Exit(exit.Code)
}
