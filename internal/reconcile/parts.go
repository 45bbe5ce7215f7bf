package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"bield/internal/firewall"
	"bield/internal/image"
	"bield/internal/network"
	"bield/internal/process"
	"bield/internal/share"
	"bield/internal/spec"
	"bield/internal/sshaccess"
	"bield/internal/state"
)

// prepare checks all that can be checked before anything on the host changes.
func (j *job) prepare(ctx context.Context) error {
	for _, s := range j.vm.Shares {
		source, err := share.Resolve(s, spec.ID{UID: j.caller.UID, GID: j.caller.GID}, j.vm.User)
		if err != nil {
			return err
		}
		j.sources[s.Tag] = source
	}
	if _, err := j.e.Virtiofsd(ctx); err != nil {
		return err
	}
	if err := j.chooseHypervisor(ctx); err != nil {
		return err
	}
	if _, err := os.Stat(j.e.InitBinary); err != nil {
		return fmt.Errorf("find bield-init: %w (it belongs beside bieldd)", err)
	}
	return nil
}

// chooseHypervisor finds what the VM is to run on, and says so where that is slow.
func (j *job) chooseHypervisor(ctx context.Context) error {
	choice, err := j.e.Hypervisors.Choose(ctx, j.vm.Hypervisor)
	if err != nil {
		return err
	}
	j.e.mu.Lock()
	j.hypervisor, j.e.kvm = choice, choice.KVM
	j.e.mu.Unlock()
	if !choice.KVM {
		j.show(Progress{Step: "hypervisor", State: "note", Message: "guests are slow here: " + choice.Why})
	}
	return nil
}

func makeVMDir(path string) error {
	// A leftover of an earlier boot must not be taken for one of this.
	if err := removeAll(path); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o711); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	return os.Chmod(path, 0o711)
}

func removeAll(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// makeImage finds the VM's image, or builds it.
func (j *job) makeImage(ctx context.Context) error {
	inputs, err := image.Resolve(j.vm.Image)
	if err != nil {
		return err
	}
	digest := inputs.Digest()
	if err := j.change(func(r *Record) { r.Image = digest }); err != nil {
		return err
	}
	j.image, err = j.e.images.Build(ctx, inputs, j.buildProgress)
	if err != nil {
		return err
	}
	if j.vm.StoreOnDisk {
		_, err = j.image.Disk(ctx, j.buildProgress)
	}
	return err
}

func (j *job) buildProgress(p image.Progress) {
	j.show(imageProgress(j.vm.Name, p))
}

// makeKeys makes what is missing of the keys: the guest's host key, the
// daemon's, and one for each user who may want in.
func (j *job) makeKeys() error {
	folder := state.Folder{Dir: j.host.StateDir}
	if err := folder.Make(); err != nil {
		return err
	}
	user := j.vm.User
	hostKey, err := sshaccess.EnsureHostKey(folder.VM(j.vm.Name), folder.HostKeys(j.vm.Name), spec.HostKeyFile,
		"root@"+j.vm.Name, user.UID, user.GID)
	if err != nil {
		return err
	}
	authorized := slices.Compact(slices.Sorted(slices.Values([]uint32{user.UID, j.caller.UID})))
	if err := j.collectKeys(folder, authorized); err != nil {
		return err
	}
	if err := j.change(func(r *Record) { r.HostKey, r.Authorized = hostKey.Public, authorized }); err != nil {
		return err
	}
	return state.WriteFile(j.e.Run.KnownHosts(j.vm.Name), sshaccess.KnownHosts(j.vm.Name, j.vm.IP.String(), hostKey.Public), 0o644)
}

func userKey(folder state.Folder, uid, gid uint32) (sshaccess.Key, error) {
	return sshaccess.EnsureKey(folder.UserKey(uid), fmt.Sprintf("bield-uid-%d", uid), uid, gid)
}

func (j *job) setFirewall(ctx context.Context) error {
	if err := j.change(func(r *Record) { r.Firewall = true }); err != nil {
		return err
	}
	return j.e.syncFirewall(ctx)
}

func (j *job) clearFirewall(ctx context.Context) error {
	_ = j.drop(func(r *Record) { r.Firewall = false })
	err := j.e.syncFirewall(ctx)
	switch {
	case errors.Is(err, firewall.ErrForeign):
		return nil // then there is nothing of ours to take away
	case errors.Is(err, errUntold):
		j.e.Log.Warn("remove a VM from the firewall", "vm", j.vm.Name, "error", err)
		return nil // its address is nobody's now, and what is left of the policy opens nothing
	}
	return err
}

func (j *job) tap() network.Tap {
	record := j.record()
	j.e.mu.Lock()
	defer j.e.mu.Unlock()
	return j.e.tapOf(record)
}

func (j *job) addTap(ctx context.Context) error {
	if err := j.change(func(r *Record) { r.Tap = true }); err != nil {
		return err
	}
	return network.EnsureTap(ctx, j.tap())
}

func (j *job) removeTap(ctx context.Context) error {
	if err := network.RemoveTap(ctx, j.tap()); err != nil {
		return err
	}
	return j.drop(func(r *Record) { r.Tap = false })
}

// source opens what a share serves, and says as whom.
func (j *job) source(tag string) (share.Source, error) {
	if source, ok := j.sources[tag]; ok {
		return source, nil
	}
	path, serveAs := j.image.Root(), spec.ID{}
	if tag == spec.HostKeysTag {
		path, serveAs = state.Folder{Dir: j.host.StateDir}.HostKeys(j.vm.Name), j.vm.User.ID
	}
	dir, err := share.Open(path)
	if err != nil {
		return share.Source{}, err
	}
	j.sources[tag] = share.Source{ServeAs: serveAs, Dir: dir}
	return j.sources[tag], nil
}

// close lets go of the folders that the job has opened.
func (j *job) close() {
	for _, source := range j.sources {
		_ = source.Close()
	}
}

func (j *job) readOnly(tag string) bool {
	i := slices.IndexFunc(j.vm.Shares, func(s spec.Share) bool { return s.Tag == tag })
	return i < 0 || j.vm.Shares[i].ReadOnly
}

func (j *job) shareSocket(tag string) string {
	return filepath.Join(j.e.Run.VM(j.vm.Name), "share-"+tag+".sock")
}

func (j *job) shareLog(tag string) string {
	return filepath.Join(j.e.Run.VM(j.vm.Name), "share-"+tag+".log")
}

func (j *job) startShare(ctx context.Context, tag string) error {
	command, err := j.e.Virtiofsd(ctx)
	if err != nil {
		return err
	}
	source, err := j.source(tag)
	if err != nil {
		return err
	}
	// A share in the record without a process has nothing to stop.
	if err := j.change(func(r *Record) { r.share(tag) }); err != nil {
		return err
	}
	record := j.record()
	uid := record.UID
	p, err := share.Start(ctx, command, share.Config{
		Tag: tag, Dir: source.Dir, ReadOnly: j.readOnly(tag), ImageRoot: tag == spec.RootTag,
		Socket: j.shareSocket(tag), SocketUID: uid, SocketGID: uid,
		UID: source.ServeAs.UID, GID: source.ServeAs.GID, Log: j.shareLog(tag), Cgroups: record.Group,
		Note: func(id process.ID) error {
			return j.change(func(r *Record) { r.share(tag).Process = &id })
		},
	})
	if err != nil {
		return err
	}
	j.building().addShare(tag, p)
	return nil
}

// shareGrace is how long a virtiofsd may take to end: it does so by itself
// when its VMM is gone.
const shareGrace = 2 * time.Second

func (j *job) stopShare(ctx context.Context, tag string) error {
	p, err := j.shareProcess(tag)
	if err != nil {
		return err
	}
	if p != nil {
		if err := p.Stop(ctx, shareGrace); err != nil {
			return err
		}
	}
	return j.drop(func(r *Record) { r.dropShare(tag) })
}

// shareProcess finds a share's process, in this daemon's hands or by its
// record; nil when it is gone.
func (j *job) shareProcess(tag string) (*process.Process, error) {
	if p := j.currentRun().share(tag); p != nil {
		return p, nil
	}
	record := j.record()
	id := record.share(tag).Process
	if id == nil {
		return nil, nil
	}
	p, err := process.Adopt(*id)
	if errors.Is(err, process.ErrGone) || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return p, err
}
