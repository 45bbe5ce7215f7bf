package egress

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// Client talks to an egress process over its control socket.
type Client struct{ http *http.Client }

// NewClient connects only when it is used.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &Client{&http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Set puts a policy in force; connections that it forbids are cut.
func (c *Client) Set(ctx context.Context, p Policy) (Status, error) {
	body, err := json.Marshal(p)
	if err != nil {
		return Status{}, fmt.Errorf("write the egress policy: %w", err)
	}
	var s Status
	return s, c.call(ctx, http.MethodPut, pathPolicy, bytes.NewReader(body), &s)
}

// Status asks which policy is in force.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	return s, c.call(ctx, http.MethodGet, pathPolicy, nil, &s)
}

// Check asks what would happen to a VM that goes to HOST or HOST:PORT.
func (c *Client) Check(ctx context.Context, vm, target string) (Check, error) {
	var out Check
	query := url.Values{"vm": {vm}, "target": {target}}
	return out, c.call(ctx, http.MethodGet, pathCheck+"?"+query.Encode(), nil, &out)
}

// Log shows the denials of a VM, or of all where vm is ""; with follow also
// those that come, until ctx ends or show fails.
func (c *Client) Log(ctx context.Context, vm string, follow bool, show func(Denial) error) error {
	query := url.Values{"vm": {vm}}
	if follow {
		query.Set("follow", "1")
	}
	body, err := c.open(ctx, http.MethodGet, pathLog+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	defer body.Close()
	for d := json.NewDecoder(body); ; {
		var n Denial
		if err := d.Decode(&n); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read denials: %w", err)
		}
		if err := show(n); err != nil {
			return err
		}
	}
}

func (c *Client) call(ctx context.Context, method, path string, body io.Reader, out any) error {
	in, err := c.open(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := json.NewDecoder(in).Decode(out); err != nil {
		return fmt.Errorf("read the answer of bieldd egress: %w", err)
	}
	return nil
}

func (c *Client) open(ctx context.Context, method, path string, body io.Reader) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://egress"+path, body)
	if err != nil {
		return nil, err
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask bieldd egress: %w", err)
	}
	if answer.StatusCode == http.StatusOK {
		return answer.Body, nil
	}
	defer answer.Body.Close()
	const most = 4096
	words, _ := io.ReadAll(io.LimitReader(answer.Body, most))
	return nil, fmt.Errorf("bieldd egress: %s", strings.TrimSpace(string(words)))
}
