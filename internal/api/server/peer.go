package server

import (
	"context"
	"fmt"
	"net"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"

	"bield/internal/reconcile"
)

type callerKey struct{}

// withCaller notes who connected, once for a connection: the kernel says so.
func withCaller(ctx context.Context, conn net.Conn) context.Context {
	known, ok := conn.(*placed)
	if !ok {
		return ctx
	}
	return context.WithValue(ctx, callerKey{}, reconcile.Caller{UID: known.uid, GID: known.gid, Groups: groupsOf(known.uid)})
}

func callerOf(ctx context.Context) (reconcile.Caller, error) {
	caller, ok := ctx.Value(callerKey{}).(reconcile.Caller)
	if !ok {
		return reconcile.Caller{}, fmt.Errorf("%w: the kernel does not say who calls", reconcile.ErrForbidden)
	}
	return caller, nil
}

func peerCredentials(conn net.Conn) (cred *unix.Ucred, err error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("no unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if controlErr != nil {
		return nil, controlErr
	}
	return cred, err
}

// groupsOf lists a user's groups as the system's files give them; a user they
// do not know has none.
func groupsOf(uid uint32) []uint32 {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return nil
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil
	}
	var groups []uint32
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil {
			groups = append(groups, uint32(n))
		}
	}
	return groups
}
