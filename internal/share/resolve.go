package share

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"

	"bield/internal/spec"
)

// nobody is the kernel's overflow uid and gid (/proc/sys/kernel/overflowuid).
const nobody = 65534

// Source is a folder that may be shared, open, and as whom.
type Source struct {
	ServeAs spec.ID
	Dir     *os.File
}

// Close closes the folder.
func (s Source) Close() error { return s.Dir.Close() }

// Resolve opens the folder of a share and decides as whom it is served. caller
// is who asks for the share; vmUser is the person inside the guest.
//
// root's shares are served as the user they name, or else as the folder's
// owner; those that root owns as vmUser, where they are read-only. Anybody else's are served as themselves, whoever owns the
// folder. The identity that serves, with its primary group alone, must be able
// to open the folder. It is never uid 0.
func Resolve(share spec.Share, caller spec.ID, vmUser spec.User) (Source, error) {
	source, err := resolve(share, caller, vmUser)
	if err != nil {
		return Source{}, fmt.Errorf("share %s: %w", share.Tag, err)
	}
	return source, nil
}

func resolve(share spec.Share, caller spec.ID, vmUser spec.User) (Source, error) {
	if caller.UID != 0 {
		return resolveForUser(share, caller)
	}
	opener := caller
	if share.User != nil {
		opener = *share.User // root can't read all: FUSE, NFS
	}
	if opener.UID == 0 && share.User != nil {
		return Source{}, errors.New("`user: root` is refused: nothing serves a guest as root; name another user")
	}
	dir, err := openAs(share.Source, opener)
	if err != nil {
		return Source{}, err
	}
	id, err := rootsChoice(share, dir, vmUser)
	if err == nil {
		err = checkAccess(dir, id)
	}
	if err != nil {
		_ = dir.Close()
		return Source{}, err
	}
	return Source{id, dir}, nil
}

// resolveForUser is Resolve for a caller who is not root.
func resolveForUser(share spec.Share, caller spec.ID) (Source, error) {
	if share.User != nil && *share.User != caller {
		return Source{}, fmt.Errorf("only root may serve a share as another user: leave out `user:`, or name uid %d, gid %d",
			caller.UID, caller.GID)
	}
	dir, err := openAs(share.Source, caller)
	if err != nil {
		return Source{}, fmt.Errorf("%w: you may share only what you can open yourself", err)
	}
	return Source{caller, dir}, nil
}

// rootsChoice is who serves a folder that root shares.
func rootsChoice(share spec.Share, dir *os.File, vmUser spec.User) (spec.ID, error) {
	if share.User != nil {
		return *share.User, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return spec.ID{}, fmt.Errorf("read the owner of %s: %w", share.Source, err)
	}
	switch {
	case st.Uid != 0:
		return spec.ID{UID: st.Uid, GID: primaryGroup(st.Uid, st.Gid)}, nil
	case vmUser.UID != 0 && share.ReadOnly:
		return vmUser.ID, nil
	case share.ReadOnly:
		return spec.ID{UID: nobody, GID: nobody}, nil
	default:
		return spec.ID{}, fmt.Errorf(
			"%s belongs to root, and nothing serves a guest as root: set `readOnly: true`, or name a `user:` to serve it as",
			share.Source)
	}
}

// primaryGroup is the user's own group; a folder's can be one that the user is
// not in. A uid without an account has no other than the folder's.
func primaryGroup(uid, folder uint32) uint32 {
	account, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return folder
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	if err != nil {
		return folder
	}
	return uint32(gid)
}

// checkAccess says early, and clearly, what virtiofsd would find out.
func checkAccess(dir *os.File, id spec.ID) error {
	again, err := openAs("/proc/self/fd/"+strconv.Itoa(int(dir.Fd())), id)
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("uid %d, gid %d, as whom %s would be served, may not open it: change its mode, or name a `user:` who may",
			id.UID, id.GID, dir.Name())
	}
	if err != nil {
		return err
	}
	return again.Close()
}
