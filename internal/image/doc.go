// Package image makes the root file systems of guests, with their kernel and
// the initramfs, and keeps them in a store addressed by the digest of what
// they are made from.
//
// It promises:
//   - equal inputs give one image, built once, whoever asks for it at the same time;
//   - an image is whole or not there: it is built beside its place and renamed;
//   - no maintainer script runs as the host's root: the build has a user
//     namespace of its own, whose uid 0 is spec.ImageUIDBase on the host;
//   - nothing of the host's apt configuration gets into an image but the URIs
//     of its distribution, without credentials.
//
// # On disk
//
//	STORE/                      0711
//	  locks/DIGEST              held while DIGEST is built, changed or removed; see lastingLock
//	  logs/DIGEST.log           0600: the output of the last failed build, for a week
//	  .tmp-DIGEST-RANDOM/       a build or a removal under way; rubbish without its lock
//	  DIGEST/                   0711
//	    manifest.json           what it is made from; see Manifest
//	    vmlinux                 0644: the kernel as ELF
//	    modules.cpio            0644: initramfs of kernel modules, without /init
//	    initrd-HASH.cpio        0644: the same with one bield-init; made when asked for
//	    lock                    held while one of those is made, taken or removed
//	    root.erofs              0644: the root as a disk; made when asked for
//	    tree/                   0700, spec.ImageUIDBase: keeps setuid files from the host's users
//	      rootfs/               0755: the root, uids shifted by spec.ImageUIDBase
//
// It imports apt, spec, state and guestconfig of bield's rooms.
package image
