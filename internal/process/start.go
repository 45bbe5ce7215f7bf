package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Start runs the command and returns once the program was executed. Ending ctx
// before that ends the attempt; afterwards it has no effect.
func Start(ctx context.Context, c Command) (*Process, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	files, done, err := c.stdio()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	defer done()
	s := spawn{orders: c.orders(), stdio: files, extra: c.Files, dir: c.DirFile, attr: c.attributes()}
	limit := uint64(0)
	s.prepare = func(pid int) error { limit, err = c.prepare(pid); return err }
	child, err := s.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	p, err := own(child, limit)
	if err != nil {
		_ = child.Kill()
		_, _ = child.Wait()
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	return p, nil
}

// own makes a Process of a child that nobody has waited for yet, so that its
// number is still its own.
func own(child *os.Process, maxFiles uint64) (*Process, error) {
	id, err := identify(child.Pid)
	if err != nil {
		return nil, err
	}
	pidfd, err := openPidfd(child.Pid)
	if err != nil {
		return nil, err
	}
	return newProcess(id, pidfd, child, maxFiles), nil
}

func identify(pid int) (ID, error) {
	boot, err := bootID()
	if err != nil {
		return ID{}, err
	}
	s, err := readStat(pid)
	if err != nil {
		return ID{}, err
	}
	return ID{pid, s.startTime, boot}, nil
}

// prepare does to the launcher what only the daemon can, before it gets its
// orders. Without them it ends.
func (c Command) prepare(pid int) (limit uint64, err error) {
	if err := c.enterCgroups(pid); err != nil {
		return 0, err
	}
	if c.MaxFiles > 0 {
		if limit, err = raiseFiles(pid, c.MaxFiles); err != nil {
			return 0, err
		}
	}
	if c.Note == nil {
		return limit, nil
	}
	id, err := identify(pid)
	if err != nil {
		return 0, err
	}
	return limit, c.Note(id)
}

// enterCgroups moves the launcher into the command's control groups.
func (c Command) enterCgroups(pid int) error {
	for _, dir := range c.Cgroups {
		f, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString(strconv.Itoa(pid))
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			return fmt.Errorf("put it into its control group: %w", err)
		}
	}
	return nil
}

func (c Command) orders() orders {
	uid, gid := c.hostIDs()
	o := orders{Path: c.Path, Args: append([]string{c.Path}, c.Args...), Env: c.Env, Dir: c.Dir,
		UID: uid, GID: gid, Groups: c.Groups, UserNS: c.IDMap != nil, Dup: len(c.Files),
		Landlock: c.Landlock, Limits: c.Limits}
	if o.Dir == "" {
		o.Dir = "/"
	}
	if o.UserNS {
		o.UID, o.GID, o.Groups = 0, 0, nil
	}
	if c.FileHandles {
		o.Handles = &handleOrders{UID: uid, GID: gid, Map: c.IDMap}
	}
	return o
}

func (c Command) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if c.NewNetNS {
		attr.Cloneflags |= syscall.CLONE_NEWNET
	}
	// With file handles the launcher makes the user namespace: it must own it.
	if c.IDMap != nil && !c.FileHandles {
		c.IDMap.apply(attr)
	}
	return attr
}

func (m IDMap) apply(attr *syscall.SysProcAttr) {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(m.Base), Size: int(m.Count)}}
	attr.Cloneflags |= syscall.CLONE_NEWUSER
	attr.UidMappings, attr.GidMappings = ids, ids
	attr.GidMappingsEnableSetgroups = true
	attr.Credential = &syscall.Credential{Uid: 0, Gid: 0, Groups: []uint32{}}
}

// stdio opens the program's standard descriptors.
func (c Command) stdio() (files [3]*os.File, done func(), err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return files, nil, err
	}
	out, opened := c.Output, (*os.File)(nil)
	switch {
	case out != nil:
	case c.LogPath != "":
		if opened, err = OpenLog(c.LogPath); err != nil {
			_ = null.Close()
			return files, nil, err
		}
		out = opened
	default:
		out = null
	}
	done = func() {
		_ = null.Close()
		if opened != nil {
			_ = opened.Close()
		}
	}
	return [3]*os.File{null, out, out}, done, nil
}

// spawn is one run of the launcher.
type spawn struct {
	orders  orders
	stdio   [3]*os.File
	extra   []*os.File
	dir     *os.File // or nil
	attr    *syscall.SysProcAttr
	prepare func(pid int) error // before it gets its orders; or nil
}

// run starts the launcher, gives it its orders and waits until it has executed
// the program or says why not.
func (s spawn) run(ctx context.Context) (*os.Process, error) {
	ordersR, ordersW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ordersW.Close()
	defer ordersR.Close()
	statusR, statusW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer statusR.Close()
	defer statusW.Close()
	child, err := s.exec(ordersR, statusW)
	if err != nil {
		return nil, fmt.Errorf("run the launcher: %w", err)
	}
	_ = ordersR.Close()
	_ = statusW.Close()
	if err := s.instruct(ctx, child.Pid, ordersW, statusR); err != nil {
		_ = child.Kill()
		_, _ = child.Wait()
		return nil, err
	}
	return child, nil
}

func (s spawn) exec(ordersR, statusW *os.File) (*os.Process, error) {
	files := append(append(s.stdio[:], s.extra...), ordersR, statusW)
	if s.dir != nil {
		files = append(files, s.dir)
	}
	return os.StartProcess("/proc/self/exe", []string{launchName, strconv.Itoa(3 + len(s.extra))}, &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: files, Sys: s.attr,
	})
}

func (s spawn) instruct(ctx context.Context, pid int, ordersW, statusR *os.File) error {
	stop := context.AfterFunc(ctx, func() {
		past := time.Unix(1, 0)
		_ = ordersW.SetDeadline(past)
		_ = statusR.SetDeadline(past)
	})
	defer stop()
	// Go's runtime sets limits as it starts: change them only after that.
	if _, err := io.ReadFull(statusR, make([]byte, 1)); err != nil {
		return cmpErr(ctx, fmt.Errorf("wait for the launcher: %w", err))
	}
	if s.prepare != nil {
		if err := s.prepare(pid); err != nil {
			return err
		}
	}
	s.orders.DirFile = s.dir != nil
	if err := json.NewEncoder(ordersW).Encode(s.orders); err != nil {
		return cmpErr(ctx, fmt.Errorf("give the launcher its orders: %w", err))
	}
	_ = ordersW.Close()
	text, err := io.ReadAll(io.LimitReader(statusR, 4<<10))
	if err != nil {
		return cmpErr(ctx, fmt.Errorf("wait for the launcher: %w", err))
	}
	return parseFailure(text)
}

// cmpErr prefers the reason for which ctx ended.
func cmpErr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// failure is what a launcher writes to its status pipe when it can't go on.
type failure struct {
	Op    string
	Errno syscall.Errno
	Text  string // where there is no Errno
}

func parseFailure(text []byte) error {
	if len(text) == 0 {
		return nil
	}
	var f failure
	if err := json.Unmarshal(text, &f); err != nil {
		return fmt.Errorf("the launcher broke off: %w", err)
	}
	if f.Errno != 0 {
		return fmt.Errorf("%s: %w", f.Op, f.Errno)
	}
	return fmt.Errorf("%s: %w", f.Op, errors.New(f.Text))
}
