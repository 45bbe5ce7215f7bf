// Package share serves host folders to guests: it decides as whom, opens the
// folder so that nobody can swap it, and starts the Rust virtiofsd (1.13 or
// newer) for it.
//
// It promises that
//   - no server is host uid 0, and none has a capability on the host: a share is
//     served as its owner (or the user the share names) and every uid of the
//     guest becomes that one; the image is served read-only by the root of a
//     user namespace that maps the image's uids;
//   - what was checked is what is served: the folder is opened once, by a path
//     without symbolic links and with the rights of the user that the share names,
//     its owner read from the descriptor and compared with what it was when the
//     file was read, and virtiofsd gets that descriptor as its working directory,
//     not a path;
//   - nothing of the kernel's own file systems is served, and no descriptor of the
//     daemon's by /proc;
//   - who is not root shares only what they can open themselves, and is the one
//     it is served as;
//   - the socket exists, with its listener, before the VMM starts, so there is
//     nothing to wait for, and only the VMM's user can connect.
//
// # Arguments
//
// virtiofsd gets its listener by --fd and its folder as "." with
// --sandbox=namespace: it pivots into the folder in a mount, pid and network
// namespace of its own, and, where it isn't root of one already, a user
// namespace that maps its own uid alone.
//
// --announce-submounts is its default and said aloud: without it two file
// systems below a share can show the guest the same inode number for different
// files, and a sync in the guest reaches only the first. --xattr is off: overlay
// roots ask for attributes at every look-up, and one "no" spares all of them.
// The image never changes while it is served, so the guest may cache it for good
// (--cache=always). --rlimit-nofile=0 keeps the limit that process has set.
//
// # Descriptors
//
// With --inode-file-handles=never virtiofsd keeps a descriptor for every inode
// that the guest remembers, and a guest forgets only under memory pressure: a
// limit of 20,000 makes the share fail at the 19,387th file. The limit is raised
// to a million. Where that is not allowed (root in a container without
// CAP_SYS_RESOURCE), what else there is:
//
//   - --cache=never lets the guest forget at once, but then every path component
//     is a round trip and no file page is cached;
//   - file handles need CAP_DAC_READ_SEARCH in the first user namespace. Kernel
//     6.18 still opens nothing but folders for the root of another (measured).
//     With that capability a guest could read every file of the share that its
//     owner may not, and a broken virtiofsd every file of the file system;
//   - process.Command.FileHandles: virtiofsd has no capability and keeps its
//     whole sandbox; its launcher opens handles for it, with the owner's rights.
//
// The last is what happens below enoughFiles, with --inode-file-handles=prefer:
// what has no handle (symbolic links, for example) costs a descriptor. It costs
// a look-up two switches of process more.
package share
