#!/bin/sh
# version.sh VERSION: what `git describe` says, as a Debian version (deb-version(7))
# that sorts as the commits do. v1.2.0 becomes 1.2.0; v1.2.0-rc1 1.2.0~rc1, which
# is older; 5 commits later v1.2.0-5-gabc 1.2.0+5.gabc. Without a tag the commits
# are counted.
set -eu
version=$1 dirty=
case $version in *-dirty) version=${version%-dirty} dirty=+dirty ;; esac
case $version in
  v[0-9]*) version=${version#v} ;;
  [0-9]*.*) ;;
  *) version=0.0.0-$(git rev-list --count HEAD 2>/dev/null || echo 0)-g$version ;;
esac
printf '%s%s\n' "$version" "$dirty" | sed -E 's/-([0-9]+)-g([0-9a-z]+)/+\1.g\2/; s/-/~/g; s/[^A-Za-z0-9.+~]/./g'
