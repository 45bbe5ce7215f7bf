// Package guest is what runs inside a VM: it turns an initramfs and a
// guestconfig.Config into the machine the host asked for, and keeps it.
//
// As PID 1 (Boot) it loads modules, mounts the root as an overlay whose upper
// half is forgotten at shutdown, mounts the shares, sets the network up, makes
// the user, starts sshd and keeps it, reaps, and powers off in order. With
// `init: systemd` it prepares the same and then executes the image's systemd,
// under which it goes on as a service (Service).
//
// From its first moment it tells the host over the guest link which stage is
// under way. It promises that the link never holds up the boot, that a stage
// that fails is named with its reason on the link and on the console before
// the machine powers off, and that power-off happens within a bound even when
// a file system no longer answers.
//
// The image is the host's own and trusted; so is everything before a user is in.
package guest
