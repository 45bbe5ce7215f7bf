#!/bin/sh
# What becomes of a fresh root file system: mmdebstrap's customize hook, run as
# root of the image's user namespace. $1 is the root; the files beside this
# script were put there by the builder.
set -eu
root=$1
work=$(dirname "$0")

# The kernel is unpacked, not installed: installing would bring an initramfs
# generator, and the host keeps the kernel outside the root anyway.
APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
export APT_CONFIG
package=$(cat "$work/kernel-package")
names=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts \
	--no-breaks --no-replaces --no-enhances "$package" |
	grep -E '^linux-(image|modules)-[0-9]' | sort -u)
if [ -z "$names" ]; then
	echo "E: Unable to locate package $package" >&2
	exit 1
fi
mkdir "$work/debs" "$work/kernel"
# shellcheck disable=SC2086
(cd "$work/debs" && apt-get -q download $names)
for deb in "$work"/debs/*.deb; do
	dpkg-deb -x "$deb" "$work/kernel"
done
mkdir -p "$root/usr/lib/modules"
for dir in "$work/kernel/lib/modules" "$work/kernel/usr/lib/modules"; do
	if [ -d "$dir" ]; then
		mv "$dir"/* "$root/usr/lib/modules/"
	fi
done
version=$(ls "$root/usr/lib/modules")
mv "$work/kernel/boot/vmlinuz-$version" "$work/vmlinuz"
mv "$work/kernel/boot/config-$version" "$root/boot/"
chroot "$root" depmod "$version"

# Only the distribution's sources, without credentials, and none of the
# settings that the download needed.
rm -f "$root/etc/apt/sources.list" "$root/etc/apt/sources.list.d"/* \
	"$root/etc/apt/apt.conf.d/99mmdebstrap"
mkdir -p "$root/etc/apt/keyrings"
if [ -d "$work/keyrings" ]; then
	cp "$work/keyrings"/* "$root/etc/apt/keyrings/"
	chmod 0644 "$root/etc/apt/keyrings"/*
fi
cp "$work/bield.sources" "$root/etc/apt/sources.list.d/bield.sources"
cp "$work/90bield" "$root/etc/apt/apt.conf.d/90bield"
chmod 0644 "$root/etc/apt/sources.list.d/bield.sources" "$root/etc/apt/apt.conf.d/90bield"

# Nothing that tells machines apart may lie in an image.
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/hostname" "$root/etc/resolv.conf" \
	"$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"
: >"$root/etc/machine-id"
: >"$root/etc/resolv.conf"
printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
printf 'LANG=C.UTF-8\n' >"$root/etc/default/locale"
mkdir -p "$root/workspace"
# With this folder journald would write every message twice into memory.
rm -rf "$root/var/log/journal"
chroot "$root" passwd --quiet --lock root

# bield-init starts sshd, and an ephemeral guest has nothing to tend by timer.
if [ -x "$root/usr/bin/systemctl" ]; then
	for unit in ssh.service ssh.socket apt-daily.timer apt-daily-upgrade.timer \
		dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
		logrotate.timer getty@tty1.service; do
		chroot "$root" systemctl --quiet disable "$unit" 2>/dev/null || true
	done
	chroot "$root" systemctl --quiet set-default multi-user.target
fi
