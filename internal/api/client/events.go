package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"bield/internal/api"
)

// Events shows what happened on the host, and with query.Follow goes on until
// ctx or the daemon ends: the error is nil when the daemon says so, and wraps
// ErrNoDaemon when it is gone. begun, if not nil, is called when events to come
// will be shown.
func (c *Client) Events(ctx context.Context, query api.EventQuery, begun func(), show func(api.HostEvent) error) error {
	response, err := c.do(ctx, http.MethodGet, api.PathEvents+"?"+query.Values().Encode(), nil)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if begun != nil {
		begun()
	}
	return eachLine(ctx, response.Body, show)
}

// eachLine shows each line of JSON of an answer that ends with its connection.
func eachLine[T any](ctx context.Context, body io.Reader, show func(T) error) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, api.MaxEventBytes)
	var failure error
	for failure == nil && lines.Scan() {
		var one T
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			failure = fmt.Errorf("read bieldd's answer: %w", err)
			break
		}
		failure = show(one)
	}
	switch err := lines.Err(); {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("read bieldd's answer: %w", err)
	case err != nil: // also of a last line that is cut off
		return fmt.Errorf("%w: it ended in the middle of its answer: %w", ErrNoDaemon, err)
	}
	return failure
}

// Inspect asks for all that is known of one VM.
func (c *Client) Inspect(ctx context.Context, name string) (api.Inspection, error) {
	var reply api.Inspection
	err := c.call(ctx, http.MethodGet, expand(api.PathVM, "name", name), nil, &reply)
	return reply, err
}

// Metrics opens the daemon's metrics in Prometheus's text form.
func (c *Client) Metrics(ctx context.Context) (io.ReadCloser, error) {
	response, err := c.do(ctx, http.MethodGet, api.PathMetrics, nil)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}
