package guest

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// console writes lines for a person who reads the VM's log. It never holds
// anything up for long and its errors are nobody's business.
type console struct {
	mu sync.Mutex
	w  io.Writer
}

// openConsole opens the kernel's console, or goes without.
func openConsole() *console {
	f, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return &console{w: io.Discard}
	}
	return &console{w: f}
}

func (c *console) printf(format string, args ...any) {
	line := fmt.Sprintf("bield-init %6.3f: %s\r\n", uptime().Seconds(), fmt.Sprintf(format, args...))
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = io.WriteString(c.w, line)
}

// kernelLog leaves a line where dmesg finds it; the level keeps a quiet kernel
// from writing it to the console as well.
func kernelLog(text string) {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = io.WriteString(f, "<5>bield-init: "+text+"\n")
}

// uptime is the time since the kernel started.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
