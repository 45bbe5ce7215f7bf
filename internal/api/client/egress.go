package client

import (
	"context"
	"net/http"
	"net/url"

	"bield/internal/api"
)

// EgressCheck asks whether a VM may go to HOST or HOST:PORT.
func (c *Client) EgressCheck(ctx context.Context, name, target string) (api.EgressCheck, error) {
	var reply api.EgressCheck
	query := url.Values{"target": {target}}
	err := c.call(ctx, http.MethodGet, expand(api.PathEgressCheck, "name", name)+"?"+query.Encode(), nil, &reply)
	return reply, err
}

// EgressLog shows what was refused to a VM, and with follow goes on until ctx or
// the VM ends; what is refused again is shown again, with its new count.
func (c *Client) EgressLog(ctx context.Context, name string, follow bool, show func(api.Denial) error) error {
	path := expand(api.PathEgressLog, "name", name)
	if follow {
		path += "?follow=1"
	}
	response, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	return eachLine(ctx, response.Body, show)
}
