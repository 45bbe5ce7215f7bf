#!/bin/sh
# What only the tests need of this machine: systemd-analyze to read the units,
# groff to read the manual, iptables to write other firewalls' rules with, and
# QEMU for arm64, for its machines and for its programs: a host of that kind has the one and needs not the other.
set -eu
packages=
command -v systemd-analyze > /dev/null || packages="$packages systemd"
command -v iptables-nft > /dev/null || packages="$packages iptables"
command -v groff > /dev/null || packages="$packages groff-base"
if [ "$(uname -m)" != aarch64 ]; then
  command -v qemu-system-aarch64 > /dev/null || packages="$packages qemu-system-arm"
  command -v qemu-aarch64-static > /dev/null || packages="$packages qemu-user-static"
fi
[ -n "$packages" ] || exit 0
if ! command -v apt-get > /dev/null; then
  echo "install what has the programs of Debian's$packages: tests that need them are skipped" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
# shellcheck disable=SC2086
apt-get -q -y install --no-install-recommends -o DPkg::Lock::Timeout=300 $packages
