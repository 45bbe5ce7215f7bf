package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"bield/internal/api"
)

// ErrNoDaemon says that nothing listens on the socket.
var ErrNoDaemon = errors.New("bieldd is not running")

// ErrNoPermission says that the caller may not use the socket.
var ErrNoPermission = errors.New("no permission")

// Client is a connection to one daemon.
type Client struct {
	socket string
	http   *http.Client
}

// New returns a client of the daemon that listens on socket. It connects only
// when it is used.
func New(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Version asks who answers; it fails with ErrNoDaemon when nobody does.
func (c *Client) Version(ctx context.Context) (api.VersionReply, error) {
	var reply api.VersionReply
	err := c.call(ctx, http.MethodGet, api.PathVersion, nil, &reply)
	return reply, err
}

// VMs lists what is known of every VM.
func (c *Client) VMs(ctx context.Context) (api.VMsReply, error) {
	var reply api.VMsReply
	err := c.call(ctx, http.MethodGet, api.PathVMs, nil, &reply)
	return reply, err
}

// Access asks how to reach a VM by SSH as the calling user.
func (c *Client) Access(ctx context.Context, name string) (api.AccessReply, error) {
	var reply api.AccessReply
	err := c.call(ctx, http.MethodPost, expand(api.PathAccess, "name", name), nil, &reply)
	return reply, err
}

// Verify tries to break out of a VM that runs.
func (c *Client) Verify(ctx context.Context, name string) (api.VerifyReply, error) {
	var reply api.VerifyReply
	err := c.call(ctx, http.MethodPost, expand(api.PathVerify, "name", name), nil, &reply)
	return reply, err
}

// Images lists the image store.
func (c *Client) Images(ctx context.Context) (api.ImagesReply, error) {
	var reply api.ImagesReply
	err := c.call(ctx, http.MethodGet, api.PathImages, nil, &reply)
	return reply, err
}

// RemoveImage deletes one image, named by its digest or an unambiguous start of it.
func (c *Client) RemoveImage(ctx context.Context, digest string) error {
	return c.call(ctx, http.MethodDelete, expand(api.PathImage, "digest", digest), nil, nil)
}

// PruneImages deletes the images that nothing uses.
func (c *Client) PruneImages(ctx context.Context) (api.PruneReply, error) {
	var reply api.PruneReply
	err := c.call(ctx, http.MethodPost, api.PathImagesPrune, api.PruneRequest{}, &reply)
	return reply, err
}

// Up brings VMs up; each event goes to show.
func (c *Client) Up(ctx context.Context, request api.UpRequest, show func(api.Event)) error {
	return c.stream(ctx, api.PathUp, request, show)
}

// Start brings VMs up as they were applied last; each event goes to show.
func (c *Client) Start(ctx context.Context, request api.StartRequest, show func(api.Event)) error {
	return c.stream(ctx, api.PathStart, request, show)
}

// Plan says what Apply would do.
func (c *Client) Plan(ctx context.Context, request api.ApplyRequest) (api.PlanReply, error) {
	var reply api.PlanReply
	err := c.call(ctx, http.MethodPost, api.PathPlan, request, &reply)
	return reply, err
}

// Apply brings about what a file declares; each event goes to show.
func (c *Client) Apply(ctx context.Context, request api.ApplyRequest, show func(api.Event)) error {
	return c.stream(ctx, api.PathApply, request, show)
}

// Wait returns once a VM neither runs nor is about to.
func (c *Client) Wait(ctx context.Context, name string) (api.WaitReply, error) {
	var reply api.WaitReply
	err := c.call(ctx, http.MethodPost, expand(api.PathWait, "name", name), nil, &reply)
	return reply, err
}

// Down stops VMs; each event goes to show.
func (c *Client) Down(ctx context.Context, request api.DownRequest, show func(api.Event)) error {
	return c.stream(ctx, api.PathDown, request, show)
}

// BuildImage makes an image; each event goes to show, the last with its digest
// as message.
func (c *Client) BuildImage(ctx context.Context, request api.BuildRequest, show func(api.Event)) error {
	return c.stream(ctx, api.PathImages, request, show)
}

// Logs opens the console log of a VM as a stream of raw bytes.
func (c *Client) Logs(ctx context.Context, name string, follow bool) (io.ReadCloser, error) {
	path := expand(api.PathLogs, "name", name)
	if follow {
		path += "?follow=1"
	}
	response, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

func expand(path, key, value string) string {
	return strings.Replace(path, "{"+key+"}", url.PathEscape(value), 1)
}

func (c *Client) call(ctx context.Context, method, path string, request, reply any) error {
	response, err := c.do(ctx, method, path, request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if reply == nil {
		return nil
	}
	if err := json.NewDecoder(response.Body).Decode(reply); err != nil {
		return fmt.Errorf("read bieldd's answer: %w", err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string, request any) (*http.Response, error) {
	var body io.Reader
	if request != nil {
		data, err := json.Marshal(request)
		if err != nil {
			return nil, fmt.Errorf("write request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://bieldd"+path, body)
	if err != nil {
		return nil, fmt.Errorf("write request: %w", err)
	}
	response, err := c.http.Do(r)
	if err != nil {
		return nil, c.explain(err)
	}
	if response.StatusCode >= http.StatusBadRequest {
		defer func() { _ = response.Body.Close() }()
		return nil, readError(response)
	}
	return response, nil
}

// explain says in a person's words why the socket did not answer.
func (c *Client) explain(err error) error {
	switch {
	// The socket of a daemon that is just ending is reset or closed.
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF):
		return fmt.Errorf("%w (nothing listens on %s)", ErrNoDaemon, c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w for %s: join the group bield (`sudo usermod -aG bield $USER`, then log in again), or use sudo", ErrNoPermission, c.socket)
	case errors.Is(err, context.Canceled):
		return context.Canceled
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Errorf("speak to bieldd: %w", err)
}

func readError(response *http.Response) error {
	var e api.Error
	data, err := io.ReadAll(io.LimitReader(response.Body, api.MaxErrorBytes))
	if err == nil && json.Unmarshal(data, &e) == nil && e.Message != "" {
		return &e
	}
	return fmt.Errorf("bieldd answered %s", response.Status)
}

// stream posts a request and passes events on until the one that is done.
func (c *Client) stream(ctx context.Context, path string, request any, show func(api.Event)) error {
	response, err := c.do(ctx, http.MethodPost, path, request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	events := json.NewDecoder(io.LimitReader(response.Body, api.MaxStreamBytes))
	for {
		var event api.Event
		if err = events.Decode(&event); err != nil {
			break
		}
		show(event)
		if event.Done && event.Error != nil {
			return event.Error
		}
		if event.Done {
			return nil
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("bieldd ended in the middle of its answer (see `%s` beside its socket): %w",
		"bieldd.log", err)
}
