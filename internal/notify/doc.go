// Package notify tells the service manager how a service fares, by the
// protocol of sd_notify(3): one datagram of VARIABLE=value lines to the unix
// socket that NOTIFY_SOCKET names.
//
// It promises to do nothing, and to say so by no error, where no service
// manager asked to be told; never to wait for a manager that does not listen;
// and to take NOTIFY_SOCKET out of the environment, so that no program started
// later speaks for this one.
//
// It imports none of bield's rooms.
package notify
