// Package api is what bield and bieldd say to each other: JSON over HTTP on a
// unix socket. A call that takes long answers with a stream of Events, one
// JSON object a line; the last one has Done set.
//
// It holds plain wire types alone; server and client below it speak them.
package api
