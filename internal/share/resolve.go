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
// owner; those that root owns as vmUser, where they are read-only. Anybody
// else's are served as themselves, whoever owns the folder. It is never uid 0
// or gid 0.
//
// The identity that serves opens the folder, and so must be allowed to; where
// nobody is named it is root who opens it. The open folder is what counts, and
// must be as the share says it was: no symbolic link on the way to it, and the
// same owner.
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
	if share.User != nil && (share.User.UID == 0 || share.User.GID == 0) {
		return Source{}, errors.New("`user: root` is refused: nothing serves a guest as root; name another user")
	}
	dir, err := openForRoot(share)
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

// openForRoot opens as the user that the share names, in all groups that they
// are in. root can't open everything (FUSE, NFS), and should not where a user
// could lead it elsewhere.
func openForRoot(share spec.Share) (*os.File, error) {
	if share.User == nil {
		return openChecked(share, spec.ID{}, nil)
	}
	dir, err := openChecked(share, *share.User, groupsOf(share.User.UID))
	if errors.Is(err, os.ErrPermission) {
		err = fmt.Errorf("%w: uid %d, gid %d, as whom it is served, may not open it: change its mode or that of a folder above, or name a `user:` who may",
			err, share.User.UID, share.User.GID)
	}
	return dir, err
}

// openChecked opens the folder of a share, and makes sure that it is the one
// that was checked.
func openChecked(share spec.Share, id spec.ID, groups []uint32) (*os.File, error) {
	dir, err := openAs(share.Source, id, groups)
	if err != nil {
		return nil, err
	}
	if err = checkFolder(dir); err == nil {
		err = checkOwner(share, dir)
	}
	if err != nil {
		_ = dir.Close()
		return nil, err
	}
	return dir, nil
}

func checkOwner(share spec.Share, dir *os.File) error {
	if share.Owner == nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return fmt.Errorf("read the owner of %s: %w", share.Source, err)
	}
	if st.Uid != *share.Owner {
		return fmt.Errorf("%s belongs to uid %d, but belonged to uid %d when the file was read: look at what it is now, and run `bield up` again",
			share.Source, st.Uid, *share.Owner)
	}
	return nil
}

// resolveForUser is Resolve for a caller who is not root.
func resolveForUser(share spec.Share, caller spec.ID) (Source, error) {
	if share.User != nil && *share.User != caller {
		return Source{}, fmt.Errorf("only root may serve a share as another user: leave out `user:`, or name uid %d, gid %d",
			caller.UID, caller.GID)
	}
	if caller.GID == 0 {
		return Source{}, errors.New("nothing is served in root's group: use another group of yours (newgrp)")
	}
	dir, err := openChecked(share, caller, nil)
	if errors.Is(err, os.ErrPermission) {
		err = fmt.Errorf("%w: you may share only what you can open yourself", err)
	}
	if err != nil {
		return Source{}, err
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
		return ownerOf(share, st.Uid, st.Gid)
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

// ownerOf is a folder's owner and their primary group: the folder's can be one
// that they are not in. A uid without an account has no other than the folder's.
func ownerOf(share spec.Share, uid, folder uint32) (spec.ID, error) {
	id := spec.ID{UID: uid, GID: folder}
	if account, err := lookUp(uid); err == nil {
		gid, err := strconv.ParseUint(account.Gid, 10, 32)
		if err != nil {
			return spec.ID{}, fmt.Errorf("read the group of uid %d: %w", uid, err)
		}
		id.GID = uint32(gid)
	}
	if id.GID == 0 {
		return spec.ID{}, fmt.Errorf("%s would be served in root's group: name a `user:` to serve it as", share.Source)
	}
	return id, nil
}

func lookUp(uid uint32) (*user.User, error) {
	return user.LookupId(strconv.FormatUint(uint64(uid), 10))
}

// groupsOf are the groups that the host has a user in; of one that it does not
// know there are none.
func groupsOf(uid uint32) []uint32 {
	account, err := lookUp(uid)
	if err != nil {
		return nil
	}
	ids, err := account.GroupIds()
	if err != nil {
		return nil
	}
	var groups []uint32
	for _, id := range ids {
		if gid, err := strconv.ParseUint(id, 10, 32); err == nil {
			groups = append(groups, uint32(gid))
		}
	}
	return groups
}

// checkAccess says early, and clearly, what virtiofsd would find out.
func checkAccess(dir *os.File, id spec.ID) error {
	again, err := reopenAs(dir, id)
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("uid %d, gid %d, as whom %s would be served, may not open it: change its mode, or name a `user:` who may",
			id.UID, id.GID, dir.Name())
	}
	if err != nil {
		return err
	}
	return again.Close()
}
