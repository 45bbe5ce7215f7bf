#!/bin/sh
# install.sh install|uninstall: what `make` calls, with the folders in the
# environment. Uninstalling removes what installing would put there, but for
# settings, and the folders of bield's own that are empty then.
set -eu
cd "$(dirname "$0")/.."

# fill FILE TARGET: a file with its folders and version filled in.
fill() {
  mkdir -p "$(dirname "$2")"
  sed -e "s|@BINDIR@|$BINDIR|g" -e "s|@LIBEXECDIR@|$LIBEXECDIR|g" -e "s|@SYSCONFDIR@|$SYSCONFDIR|g" -e "s|@VERSION@|$VERSION|g" "$1" > "$2"
  chmod 644 "$2"
}

put() { # MODE FILE… FOLDER/
  mode=$1
  shift
  for last; do :; done
  install -d "$last"
  while [ $# -gt 1 ]; do
    install -m "$mode" "$1" "$last/"
    shift
  done
}

install_to() { # ROOT
  put 755 "$BIN/bield" "$1$BINDIR"
  put 755 "$BIN/bieldd" "$BIN/bield-init" "$BIN/bield-probe" "$1$LIBEXECDIR"
  for unit in bieldd.service bield-vms.service bield@.service; do
    fill "packaging/systemd/$unit.in" "$1$UNITDIR/$unit"
  done
  install -d "$1$SYSUSERSDIR" "$1$MANDIR/man1" "$1$BASHDIR" "$1$ZSHDIR" "$1$FISHDIR" "$1$SYSCONFDIR/default"
  install -m 644 packaging/systemd/bield.sysusers "$1$SYSUSERSDIR/bield.conf"
  [ -e "$1$SYSCONFDIR/default/bieldd" ] || install -m 644 packaging/bieldd.default "$1$SYSCONFDIR/default/bieldd"
  fill packaging/man/bieldd.8.in "$1$MANDIR/man8/bieldd.8"
  (umask 022 && "$BIN/bield" man "$1$MANDIR/man1")
  "$BIN/bield" completion bash > "$1$BASHDIR/bield"
  "$BIN/bield" completion zsh > "$1$ZSHDIR/_bield"
  "$BIN/bield" completion fish > "$1$FISHDIR/bield.fish"
  chmod 644 "$1$BASHDIR/bield" "$1$ZSHDIR/_bield" "$1$FISHDIR/bield.fish"
  put 644 README.md LICENSE "$1$DOCDIR"
  put 644 docs/*.md "$1$DOCDIR/docs"
  put 644 examples/*.yaml "$1$DOCDIR/examples"
}

uninstall() {
  stage=$(mktemp -d)
  trap 'rm -rf "$stage"' EXIT
  install_to "$stage"
  (cd "$stage" && find . -type f ! -path ".$SYSCONFDIR/*") | while read -r file; do
    rm -f "$DESTDIR/$file"
  done
  for dir in "$LIBEXECDIR" "$DOCDIR/docs" "$DOCDIR/examples" "$DOCDIR"; do
    [ ! -d "$DESTDIR$dir" ] || rmdir --ignore-fail-on-non-empty "$DESTDIR$dir"
  done
}

case $1 in
  install) install_to "$DESTDIR" ;;
  uninstall) uninstall ;;
  *) echo "install.sh install|uninstall" >&2; exit 2 ;;
esac
