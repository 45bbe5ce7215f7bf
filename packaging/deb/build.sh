#!/bin/sh
# The Debian package of the tree, in $DIST. The same commit makes the same
# package, byte for byte: dpkg-deb takes every time from SOURCE_DATE_EPOCH.
set -eu
cd "$(dirname "$0")/../.."
deb=packaging/deb
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2> /dev/null || echo 0)}
export SOURCE_DATE_EPOCH
umask 022

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"
$MAKE --no-print-directory --silent install BIN="$BIN" DESTDIR="$stage" PREFIX=/usr ZSHDIR=/usr/share/zsh/vendor-completions VERSION="$VERSION"

doc=$stage/usr/share/doc/bield
rm "$doc/LICENSE" # of which Debian has a copy
install -m 644 "$deb/copyright" "$doc/copyright"
install -D -m 644 "$deb/lintian-overrides" "$stage/usr/share/lintian/overrides/bield"
version=$("$deb/version.sh" "$VERSION")
printf 'bield (%s) unstable; urgency=medium\n\n  * Built from the tree at %s.\n\n -- %s  %s\n' "$version" "$VERSION" \
  "$(sed -n 's/^Maintainer: //p' "$deb/control.in")" "$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n > "$doc/changelog.gz"
gzip -9n "$stage"/usr/share/man/man*/*

mkdir "$stage/DEBIAN"
(cd "$stage" && find . -path ./DEBIAN -prune -o -type f -printf '%P\n' | LC_ALL=C sort | xargs md5sum > DEBIAN/md5sums)
(cd "$stage" && find etc -type f -printf '/%p\n' | LC_ALL=C sort > DEBIAN/conffiles)
install -m 755 "$deb/postinst" "$deb/prerm" "$deb/postrm" "$stage/DEBIAN"
# Sizes as dpkg-gencontrol counts them: files in whole KiB, 1 for all else.
size=$(cd "$stage" && find . -path ./DEBIAN -prune -o \( -type f -printf '%s\n' -o -printf '1\n' \) | awk '{ n += ($1 == 1) ? 1 : int(($1 + 1023) / 1024) } END { print n }')
arch=${DEB_ARCH:-$(dpkg --print-architecture)}
case $arch in
  amd64) qemu=qemu-system-x86 ;;
  arm64) qemu=qemu-system-arm ;;
  *) echo "bield has no QEMU for $arch" >&2; exit 1 ;;
esac
sed -e "s|@VERSION@|$version|" -e "s|@ARCH@|$arch|" -e "s|@QEMU@|$qemu|" -e "s|@SIZE@|$size|" "$deb/control.in" > "$stage/DEBIAN/control"

mkdir -p "$DIST"
dpkg-deb --root-owner-group -Z"${DEB_COMPRESSION:-xz}" --build "$stage" "$DIST/bield_${version}_$arch.deb"
