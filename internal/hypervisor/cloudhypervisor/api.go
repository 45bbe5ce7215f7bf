package cloudhypervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"bield/internal/hypervisor"
)

const (
	// apiTimeout bounds one request: the largest is answered in milliseconds.
	apiTimeout = 10 * time.Second
	// apiBytes bounds an answer. vm.info, the largest, has a few thousand.
	apiBytes = 1 << 20
	// apiErrorBytes of a refusal's words go into an error.
	apiErrorBytes = 300
)

// States of a VM, VmInfo.state of the API's description.
const (
	stateRunning = "Running"
	statePaused  = "Paused"
)

// api speaks to one VMM, a connection a request: nothing has to be kept alive,
// and a new daemon goes on as the old one did.
type api struct{ socket string }

// refusal is an answer other than 2xx.
type refusal struct {
	status int
	words  string
}

func (r *refusal) Error() string {
	return fmt.Sprintf("cloud-hypervisor refuses: %s (status %d)", r.words, r.status)
}

// put asks for something to be done.
func (a api) put(ctx context.Context, action string) error {
	_, err := a.ask(ctx, http.MethodPut, action)
	return err
}

// state is the VM's.
func (a api) state(ctx context.Context) (string, error) {
	body, err := a.ask(ctx, http.MethodGet, "vm.info")
	if err != nil {
		return "", err
	}
	var info struct {
		State string `json:"state"`
	}
	if err := json.Unmarshal(body, &info); err != nil {
		return "", fmt.Errorf("vm.info: %w", err)
	}
	return info.State, nil
}

// become asks for something that leaves the VM in a state. A refusal counts only
// if it is not in that state: versions differ in how they say that it already
// was.
func (a api) become(ctx context.Context, action, wanted string) error {
	err := a.put(ctx, action)
	var refused *refusal
	if err != nil && !errors.As(err, &refused) {
		return err
	}
	state, stateErr := a.state(ctx)
	switch {
	case stateErr != nil:
		return errors.Join(err, stateErr)
	case state == wanted:
		return nil
	case err != nil:
		return err
	default:
		return fmt.Errorf("%s: the VM is %.20q then, not %s", action, state, wanted)
	}
}

// ask sends one request and reads the whole answer.
func (a api) ask(ctx context.Context, method, action string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, apiTimeout, fmt.Errorf("cloud-hypervisor does not answer within %s", apiTimeout))
	defer cancel()
	body, err := a.exchange(ctx, method, action)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("%s: %w", action, err)
	}
	return body, nil
}

func (a api) exchange(ctx context.Context, method, action string) ([]byte, error) {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return hypervisor.Dial(ctx, a.socket)
		},
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 16 << 10,
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, method, "http://localhost/api/v1/"+action, http.NoBody)
	if err != nil {
		return nil, err
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, apiBytes+1))
	switch {
	case answer.StatusCode/100 != 2:
		return nil, &refusal{answer.StatusCode, wordsOf(body)}
	case err != nil:
		return nil, fmt.Errorf("read the answer: %w", err)
	case len(body) > apiBytes:
		return nil, fmt.Errorf("an answer of more than %d bytes", apiBytes)
	}
	return body, nil
}

// wordsOf makes one line of a refusal's body: a JSON list of strings since v28,
// text before and in some cases still.
func wordsOf(body []byte) string {
	var list []string
	if json.Unmarshal(body, &list) == nil {
		parts := make([][]byte, len(list))
		for i, s := range list {
			parts[i] = []byte(s)
		}
		body = bytes.Join(parts, []byte(": "))
	}
	return fmt.Sprintf("%.*q", apiErrorBytes, bytes.TrimSpace(body))
}
