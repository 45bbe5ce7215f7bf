package guest

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"bield/internal/guestlink"
)

// starter begins a process and has it waited for: who reaps the children gives
// it.
type starter func(path string, argv []string, attr *os.ProcAttr) (*child, error)

// serveRun serves one stream of KindRun: a program that the host brings, of
// which nothing comes to lie in the guest's files. It is PID 1 of a namespace of
// its own, so that all it started ends with it.
func (start starter) serveRun(ctx context.Context, st *guestlink.Stream) {
	p, err := start.receive(st)
	if answered := st.Answer(err, nil); err != nil {
		return
	} else if answered != nil {
		_ = st.Close() // attend sees it, and ends the program
	}
	p.attend(ctx, st)
}

// receive reads the program and starts it.
func (start starter) receive(st *guestlink.Stream) (*program, error) {
	var order guestlink.Run
	if err := st.Decode(&order); err != nil {
		return nil, err
	}
	if order.Size <= 0 || order.Size > guestlink.MaxProgram {
		return nil, fmt.Errorf("a program of %d bytes: the limit is %d", order.Size, guestlink.MaxProgram)
	}
	if err := st.Answer(nil, nil); err != nil {
		return nil, err
	}
	file, err := keepInMemory(order.Name, io.LimitReader(st, int64(order.Size)), int64(order.Size))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	p, err := newProgram()
	if err != nil {
		return nil, err
	}
	defer p.closeTheirs()
	// The file is resolved before it is closed by the exec.
	p.child, err = start(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), []string{order.Name}, &os.ProcAttr{
		Dir: "/", Env: daemonEnv(), Files: p.theirs,
		Sys: &unix.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWPID, PidFD: &p.pidfd},
	})
	if err != nil {
		p.closeOurs()
		return nil, err
	}
	return p, nil
}

// keepInMemory copies what is to be executed to a file that has no name.
func keepInMemory(name string, from io.Reader, size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate("bield-"+name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("keep %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	n, err := io.Copy(f, from)
	if err == nil && n < size {
		err = io.ErrUnexpectedEOF
	}
	// A file that is open for writing can't be executed.
	var again *os.File
	if err == nil {
		again, err = os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	}
	_ = f.Close()
	if err != nil {
		return nil, fmt.Errorf("keep %s: %w", name, err)
	}
	return again, nil
}

// program is one that runs, with both ends of the pipes that are its standard
// input, output and errors.
type program struct {
	*child
	// pidfd is its process, and no later one of that number.
	pidfd        int
	ours, theirs []*os.File
}

func newProgram() (*program, error) {
	p := &program{pidfd: -1}
	for i := range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			p.closeOurs()
			p.closeTheirs()
			return nil, fmt.Errorf("make pipes: %w", err)
		}
		if i == 0 {
			r, w = w, r
		}
		p.ours, p.theirs = append(p.ours, r), append(p.theirs, w)
	}
	return p, nil
}

func (p *program) closeOurs() {
	for _, f := range p.ours {
		_ = f.Close()
	}
}

func (p *program) closeTheirs() {
	for _, f := range p.theirs {
		_ = f.Close()
	}
}

// attend passes on what goes in and out until the program has ended, and ends
// it with the stream.
func (p *program) attend(ctx context.Context, st *guestlink.Stream) {
	defer p.closeOurs()
	defer unix.Close(p.pidfd)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		passInput(st, p.ours[0])
	}()
	var writing sync.Mutex
	var outputs sync.WaitGroup
	for i, kind := range []guestlink.ChunkKind{guestlink.ChunkOutput, guestlink.ChunkErrors} {
		outputs.Go(func() {
			if passOutput(st, &writing, kind, p.ours[i+1]) != nil {
				cancel()
			}
		})
	}
	status := p.await(ctx)
	outputs.Wait() // all that could write is gone
	exit := guestlink.Exit{Code: status.ExitStatus()}
	if status.Signaled() {
		exit.Signal = unix.SignalName(status.Signal())
	}
	_ = st.WriteExit(exit)
}

// await returns when the program has ended; ctx ends it.
func (p *program) await(ctx context.Context) unix.WaitStatus {
	select {
	case status := <-p.exited:
		return status
	case <-ctx.Done():
	}
	_ = unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0)
	return <-p.exited
}

// maxPending is how many chunks of input may wait for a program that does not
// read: the stream is read on, or its end would not be seen.
const maxPending = 128

// passInput gives the program what the host sends, and returns when the stream
// ends.
func passInput(st *guestlink.Stream, to *os.File) {
	queue := make(chan []byte, maxPending)
	go func() {
		defer to.Close()
		for data := range queue {
			_, _ = to.Write(data) // it may have closed its input
		}
	}()
	finish := sync.OnceFunc(func() { close(queue) })
	defer finish()
	for open := true; ; {
		kind, data, err := st.ReadChunk()
		switch {
		case err != nil:
			return
		case kind == guestlink.ChunkInput && open && len(queue) < maxPending:
			queue <- data
		case kind == guestlink.ChunkInputEnd && open:
			open = false
			finish()
		default:
			return // no host of ours sends that
		}
	}
}

// passOutput sends the host what the program writes.
func passOutput(st *guestlink.Stream, writing *sync.Mutex, kind guestlink.ChunkKind, from *os.File) error {
	buffer := make([]byte, 8<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			writing.Lock()
			sent := st.WriteChunk(kind, buffer[:n])
			writing.Unlock()
			if sent != nil {
				return sent
			}
		}
		if err != nil {
			return nil //nolint:nilerr // the program's end closes its pipes
		}
	}
}
