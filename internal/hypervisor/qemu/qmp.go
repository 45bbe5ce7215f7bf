package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"bield/internal/hypervisor"
)

// Bounds of what one QMP conversation reads. QEMU's largest answer to what is
// asked here is its greeting, a few hundred bytes.
const (
	qmpBytes   = 256 << 10
	qmpTimeout = 10 * time.Second
)

// qmpMessage is any message of QEMU's: a greeting, an answer or an event.
type qmpMessage struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *qmpError       `json:"error"`
	Event    string          `json:"event"`
	ID       *int            `json:"id"`
	Data     struct {
		Reason string `json:"reason"`
	} `json:"data"`
}

type qmpError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *qmpError) Error() string { return fmt.Sprintf("QEMU: %s (%s)", e.Desc, e.Class) }

// errQMP says that what answers doesn't speak QMP.
var errQMP = errors.New("no QMP")

// execute connects to QMP and carries out commands without arguments in order.
func execute(ctx context.Context, socket string, commands ...string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, qmpTimeout, fmt.Errorf("QEMU does not answer within %s", qmpTimeout))
	defer cancel()
	conn, err := hypervisor.Dial(ctx, socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err = converse(conn, commands); err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

// converse is execute on an open connection; it returns the last result.
func converse(conn io.ReadWriter, commands []string) (json.RawMessage, error) {
	lines := bufio.NewReader(io.LimitReader(conn, qmpBytes))
	greeting, err := readMessage(lines)
	if err != nil {
		return nil, fmt.Errorf("read QEMU's greeting: %w", err)
	}
	if greeting.Greeting == nil {
		return nil, fmt.Errorf("read QEMU's greeting: %w", errQMP)
	}
	var result json.RawMessage
	for i, command := range append([]string{"qmp_capabilities"}, commands...) {
		request := fmt.Appendf(nil, "{\"execute\":%q,\"id\":%d}\r\n", command, i)
		if _, err := conn.Write(request); err != nil {
			return nil, fmt.Errorf("%s: %w", command, err)
		}
		if result, err = readAnswer(lines, i); err != nil {
			return nil, fmt.Errorf("%s: %w", command, err)
		}
	}
	return result, nil
}

// readAnswer skips events up to the answer with that id.
func readAnswer(lines *bufio.Reader, id int) (json.RawMessage, error) {
	for {
		m, err := readMessage(lines)
		switch {
		case err != nil:
			return nil, err
		case m.Event != "":
			continue
		case m.Error != nil:
			return nil, m.Error
		case m.Return == nil || m.ID == nil || *m.ID != id:
			return nil, errQMP
		}
		return m.Return, nil
	}
}

func readMessage(lines *bufio.Reader) (qmpMessage, error) {
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return qmpMessage{}, err
	}
	var m qmpMessage
	if err := json.Unmarshal(line, &m); err != nil {
		return qmpMessage{}, fmt.Errorf("%w: %w", errQMP, err)
	}
	return m, nil
}
