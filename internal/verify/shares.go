package verify

import (
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"bield/internal/probe"
)

const catShares = "shares"

// rootTag is the tag of the image's share.
const rootTag = "root"

func (b *builder) shares() {
	for i, s := range b.Shares {
		switch {
		case s.Tag == rootTag:
			b.image(s)
			continue
		case s.ReadOnly:
			b.readOnly(s)
		default:
			b.writable(s, i)
		}
		b.outOf(s)
	}
	if b.RootOnDisk {
		id := b.order(probe.Order{Verb: probe.Rewrite, Path: "/dev/vda"})
		b.refused("image: its disk is written to", id)
	}
}

// name is one in a share, for an attempt.
func (b *builder) name(what string) string { return b.plan.Prefix + "-" + what }

// file is an order's file, which the host looks for.
func (b *builder) file(s Share, what string) (full string, f File) {
	f = File{Tag: s.Tag, Name: b.name(what)}
	b.plan.Files = append(b.plan.Files, f)
	return path.Join(s.MountPoint, f.Name), f
}

// refused is an attempt that must end with an error, whatever the host sees.
func (b *builder) refused(name string, id int) {
	b.add(attempt{category: catShares, name: name, expected: "refused", judge: func(e Evidence) verdict {
		r := e.Results[id]
		return verdict{got: orDone(r), hole: r.Outcome == probe.OK, unchecked: r.Outcome == ""}
	}})
}

func orDone(r Result) string {
	switch r.Outcome {
	case probe.OK:
		return "done"
	case "":
		return "not tried"
	}
	return r.Outcome
}

// Flags that a share is mounted with in the guest.
const shareFlags = unix.MS_NOSUID | unix.MS_NODEV

// readOnly writes to a share as it is mounted, and after the guest's root has
// mounted it anew for writing.
func (b *builder) readOnly(s Share) {
	plain, asIs := b.file(s, "write")
	first := b.order(probe.Order{Verb: probe.Create, Path: plain, Mode: 0o644})
	b.written(s.Tag+": a file is written", first, asIs)
	full, remounted := b.file(s, "remounted")
	b.order(probe.Order{Verb: probe.Mount, Path: s.MountPoint, To: "none", Number: unix.MS_REMOUNT | shareFlags})
	second := b.order(probe.Order{Verb: probe.Create, Path: full, Mode: 0o644})
	b.order(probe.Order{Verb: probe.Mount, Path: s.MountPoint, To: "none", Number: unix.MS_REMOUNT | unix.MS_RDONLY | shareFlags})
	b.written(s.Tag+": mounted anew for writing, a file is written", second, remounted)
}

// image does the same with the root's, at a mount of its own.
func (b *builder) image(s Share) {
	at := "/run/" + b.name("image")
	b.order(probe.Order{Verb: probe.Mkdir, Path: at})
	mounted := b.order(probe.Order{Verb: probe.Mount, Path: at, To: s.Tag, Data: []byte("virtiofs"), Number: unix.MS_RDONLY | shareFlags})
	b.order(probe.Order{Verb: probe.Mount, Path: at, To: "none", Number: unix.MS_REMOUNT | shareFlags})
	s.MountPoint = at
	full, f := b.file(s, "write")
	id := b.order(probe.Order{Verb: probe.Create, Path: full, Mode: 0o644})
	b.order(probe.Order{Verb: probe.Mount, Path: at, To: "none", Number: unix.MS_REMOUNT | unix.MS_RDONLY | shareFlags})
	b.add(attempt{category: catShares, name: "image: mounted for writing, a file is written", expected: "refused", judge: func(e Evidence) verdict {
		if m := e.Results[mounted]; m.Outcome != probe.OK && e.Results[id].Outcome != probe.OK {
			return verdict{got: "it can't be mounted again: " + orDone(m), unchecked: m.Outcome == ""}
		}
		return judgeWritten(e, id, f)
	}})
	b.order(probe.Order{Verb: probe.Unmount, Path: at})
	b.order(probe.Order{Verb: probe.Rmdir, Path: at})
}

func (b *builder) written(name string, id int, f File) {
	b.add(attempt{category: catShares, name: name, expected: "refused", judge: func(e Evidence) verdict { return judgeWritten(e, id, f) }})
}

func judgeWritten(e Evidence, id int, f File) verdict {
	if _, there := e.Files[f]; there {
		return verdict{got: "the file is on the host", hole: true}
	}
	r := e.Results[id]
	return verdict{got: orDone(r), hole: r.Outcome == probe.OK, unchecked: r.Outcome == ""}
}

// writable makes what should not come to be on the host, or should be the owner's.
func (b *builder) writable(s Share, n int) {
	// Numbers of the kernel's own list: a disk, and the machine's memory.
	for _, node := range []struct {
		what         string
		mode         uint32
		major, minor uint32
	}{{"block", unix.S_IFBLK, 8, 0}, {"char", unix.S_IFCHR, 1, 1}} {
		full, f := b.file(s, node.what)
		id := b.order(probe.Order{Verb: probe.Mknod, Path: full, Mode: node.mode | 0o666, Number: unix.Mkdev(node.major, node.minor)})
		b.add(attempt{category: catShares, name: fmt.Sprintf("%s: mknod of a %s device", s.Tag, node.what), expected: "refused", judge: func(e Evidence) verdict {
			info, there := e.Files[f]
			if there && info.Mode&unix.S_IFMT == node.mode {
				return verdict{got: "the device is on the host", hole: true}
			}
			return verdict{got: orDone(e.Results[id]), unchecked: e.Results[id].Outcome == ""}
		}})
	}
	b.setuid(s)
	b.links(s)
	b.moved(s, n)
}

// setuid leaves a program of root's, as far as the guest can.
func (b *builder) setuid(s Share) {
	full, f := b.file(s, "setuid")
	id := b.order(probe.Order{Verb: probe.Create, Path: full, Mode: 0o755})
	b.order(probe.Order{Verb: probe.Chown, Path: full, Number: 0})
	b.order(probe.Order{Verb: probe.Chmod, Path: full, Mode: unix.S_ISUID | 0o755})
	owner := fmt.Sprintf("of uid %d", s.UID)
	b.add(attempt{category: catShares, name: s.Tag + ": a setuid program of root's", expected: owner, judge: func(e Evidence) verdict {
		info, there := e.Files[f]
		if !there {
			return verdict{got: "no file on the host: " + orDone(e.Results[id]), unchecked: true}
		}
		got := fmt.Sprintf("of uid %d", info.UID)
		if info.Mode&unix.S_ISUID == 0 {
			got += ", not setuid"
		}
		return verdict{got: got, hole: info.UID != s.UID || info.UID == 0}
	}})
}

// links lead to a file of the host's; what is read through them is the guest's
// own file, if there is one.
func (b *builder) links(s Share) {
	for _, what := range []string{"absolute", "relative"} {
		to := b.SecretPath
		if what == "relative" {
			to = climb() + to
		}
		full, _ := b.file(s, what)
		made := b.order(probe.Order{Verb: probe.Symlink, Path: full, To: to})
		id := b.order(probe.Order{Verb: probe.Read, Path: full})
		b.secret(s.Tag+": a link to a file of the host's, "+what, made, id)
	}
}

// climb leads to the root from any folder that is not deeper.
func climb() string { return strings.Repeat("../", 24) }

// outOf climbs out of a share by its own top, and by handles of nodes that the
// guest was never shown.
func (b *builder) outOf(s Share) {
	id := b.order(probe.Order{Verb: probe.Read, Path: s.MountPoint + "/" + climb() + b.SecretPath})
	b.secret(s.Tag+": .. out of it", id, id)
	id = b.order(probe.Order{Verb: probe.Handles, Path: s.MountPoint, Number: maxNodes, To: strings.TrimPrefix(b.SecretPath, "/")})
	b.secret(s.Tag+": file handles of what it does not show", id, id)
}

// maxNodes is how many nodes of a share are tried: a server numbers them from 1.
const maxNodes = 256

// secret is an attempt to read a file of the host's.
func (b *builder) secret(name string, made, id int) {
	b.add(attempt{category: catShares, name: name, expected: "not the host's", judge: func(e Evidence) verdict {
		r := e.Results[id]
		switch {
		case r.Outcome == "":
			return verdict{got: "not tried", unchecked: true}
		case b.Secret != "" && strings.Contains(string(r.Data), b.Secret):
			return verdict{got: "the host's file was read", hole: true}
		case e.Results[made].Outcome != probe.OK && made != id:
			return verdict{got: "could not be made: " + orDone(e.Results[made])}
		case r.Outcome == probe.OK:
			return verdict{got: "a file of the guest's own"}
		}
		return verdict{got: r.Outcome}
	}})
}

// moved moves and links a file to the folder above the share.
func (b *builder) moved(s Share, n int) {
	for _, verb := range []probe.Verb{probe.Rename, probe.Link} {
		full, _ := b.file(s, string(verb))
		b.order(probe.Order{Verb: probe.Create, Path: full, Mode: 0o644})
		above := File{Tag: s.Tag, Name: b.name(fmt.Sprintf("%s-above-%d", verb, n)), Above: true}
		b.plan.Files = append(b.plan.Files, above)
		id := b.order(probe.Order{Verb: verb, Path: full, To: s.MountPoint + "/../" + above.Name})
		b.add(attempt{category: catShares, name: fmt.Sprintf("%s: %s to the folder above", s.Tag, verb), expected: "refused", judge: func(e Evidence) verdict {
			if _, there := e.Files[above]; there {
				return verdict{got: "the file is above the share on the host", hole: true}
			}
			return verdict{got: orDone(e.Results[id]), unchecked: e.Results[id].Outcome == ""}
		}})
	}
}
