package probe

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxAtOnce is how many connections are tried at a time.
const maxAtOnce = 64

// Run does batches of orders, one JSON array a line, until orders end.
func Run(orders io.Reader, results io.Writer) error {
	in, out := json.NewDecoder(bufio.NewReader(orders)), newPrinter(results)
	var held []net.Conn
	for {
		var batch []Order
		err := in.Decode(&batch)
		for _, c := range held {
			_ = c.Close()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read orders: %w", err)
		}
		if len(batch) > MaxOrders {
			return fmt.Errorf("a batch of %d orders: the limit is %d", len(batch), MaxOrders)
		}
		held = do(batch, out)
		if err := out.print(Result{Done: true}); err != nil {
			return err
		}
	}
}

// do is for one batch: what waits for answers is done at the same time, all
// else in its order before.
func do(batch []Order, out *printer) (held []net.Conn) {
	var waiting []Order
	for _, o := range batch {
		if o.Verb == TCP || o.Verb == UDP {
			waiting = append(waiting, o)
			continue
		}
		data, err := one(o)
		_ = out.print(Result{ID: o.ID, Outcome: outcome(err), Data: data[:min(len(data), MaxData)]})
	}
	var mu sync.Mutex
	var tries sync.WaitGroup
	places := make(chan struct{}, maxAtOnce)
	for _, o := range waiting {
		places <- struct{}{}
		tries.Go(func() {
			defer func() { <-places }()
			result, conn := connect(o)
			if conn != nil {
				mu.Lock()
				defer mu.Unlock()
				held = append(held, conn)
			}
			_ = out.print(result)
		})
	}
	tries.Wait()
	return held
}

// one does an order that does not wait for the network.
func one(o Order) ([]byte, error) {
	switch o.Verb {
	case RawIP:
		return nil, sendIP(o)
	case Frame:
		return nil, sendFrame(o)
	case Vsock:
		return tryVsock(o)
	case Firmware:
		return onThread(firmware)
	case Read:
		return readStart(o.Path)
	case Glob:
		return glob(o.Path)
	case Create:
		return nil, create(o)
	case Chmod:
		return nil, unix.Chmod(o.Path, o.Mode)
	case Chown:
		return nil, os.Lchown(o.Path, int(o.Number), int(o.Number))
	case Mknod:
		return nil, unix.Mknod(o.Path, o.Mode, int(o.Number))
	case Symlink:
		return nil, unix.Symlink(o.To, o.Path)
	case Rename:
		return nil, unix.Rename(o.Path, o.To)
	case Link:
		return nil, unix.Link(o.Path, o.To)
	case Remove:
		return nil, unix.Unlink(o.Path)
	case Mkdir:
		return nil, unix.Mkdir(o.Path, 0o700)
	case Rmdir:
		return nil, unix.Rmdir(o.Path)
	case Mount:
		return nil, unix.Mount(o.To, o.Path, string(o.Data), uintptr(o.Number), "")
	case Unmount:
		return nil, unix.Unmount(o.Path, unix.MNT_DETACH)
	case Rewrite:
		return nil, rewrite(o.Path)
	case Handles:
		return openHandles(o)
	case Filesystem:
		var st unix.Statfs_t
		err := unix.Statfs(o.Path, &st)
		return fmt.Appendf(nil, "%x", uint32(st.Type)), err
	}
	return nil, unix.ENOTSUP
}

// outcome names what happened.
func outcome(err error) string {
	var errno syscall.Errno
	var timeout net.Error
	switch {
	case err == nil:
		return OK
	case errors.As(err, &timeout) && timeout.Timeout():
		return Silent
	case errors.As(err, &errno):
		if name := unix.ErrnoName(errno); name != "" {
			return name
		}
		return fmt.Sprintf("errno %d", int(errno))
	case errors.Is(err, io.EOF):
		return Closed
	}
	return err.Error()
}

// printer writes one line a result.
type printer struct {
	mu  sync.Mutex
	out *json.Encoder
}

func newPrinter(w io.Writer) *printer { return &printer{out: json.NewEncoder(w)} }

func (p *printer) print(r Result) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Encode(r)
}
