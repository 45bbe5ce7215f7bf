package notify

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

const (
	envSocket = "NOTIFY_SOCKET"
	// sendTimeout bounds a manager whose queue is full. It answers nothing.
	sendTimeout = 5 * time.Second
)

// Manager is the service manager that waits for news of this process. The zero
// value is none: telling it something does nothing.
type Manager struct{ socket string }

// FromEnv takes NOTIFY_SOCKET out of the environment: main calls it once,
// before it starts other programs.
func FromEnv() (Manager, error) {
	socket := os.Getenv(envSocket)
	if socket == "" {
		return Manager{}, nil
	}
	if err := os.Unsetenv(envSocket); err != nil {
		return Manager{}, fmt.Errorf("unset %s: %w", envSocket, err)
	}
	if socket[0] != '/' && socket[0] != '@' {
		return Manager{}, fmt.Errorf("%s is %q: want an absolute path or an abstract socket, @NAME", envSocket, socket)
	}
	return Manager{socket}, nil
}

// Asked says whether there is a manager to be told.
func (m Manager) Asked() bool { return m.socket != "" }

// Ready ends the start of the service: units ordered after it may go on. status
// is one line for `systemctl status`; "" leaves it out.
func (m Manager) Ready(status string) error { return m.send("READY=1", statusLine(status)) }

// Status is one line for `systemctl status`.
func (m Manager) Status(status string) error { return m.send(statusLine(status)) }

// Stopping says that the service is about to end of its own will.
func (m Manager) Stopping() error { return m.send("STOPPING=1") }

// statusLine keeps a line break from becoming a variable of its own.
func statusLine(status string) string {
	if status == "" {
		return ""
	}
	return "STATUS=" + strings.NewReplacer("\n", " ", "\r", " ").Replace(status)
}

func (m Manager) send(lines ...string) error {
	var text strings.Builder
	for _, line := range lines {
		if line != "" {
			text.WriteString(line + "\n")
		}
	}
	if m.socket == "" || text.Len() == 0 {
		return nil
	}
	// Go writes an abstract name with the same @ as systemd does.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(sendTimeout))
	_, err = conn.Write([]byte(text.String()))
	if err = errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}
