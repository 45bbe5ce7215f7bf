#!/usr/bin/env bash
# A VM for a sample workspace, from nothing to nothing: built, started, shown,
# stopped. It runs in a network namespace of its own, so that the machine's
# network stays as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/bin

if [ -z "${BIELD_DEMO_DIR:-}" ]; then
  BIELD_DEMO_DIR=$(mktemp -d /tmp/bield-demo-XXXXXX)
  export BIELD_DEMO_DIR BIELD_RUN_DIR=$BIELD_DEMO_DIR/run
  chmod 755 "$BIELD_DEMO_DIR"
  end_daemon() { # and wait until it has
    local pid
    for pid in $("$bin/bield" version | sed -n 's/.*(pid \([0-9]*\)).*/\1/p'); do
      kill "$pid"
      while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
    done
  }
  finish() {
    local code=$?
    if [ -S "$BIELD_RUN_DIR/bieldd.sock" ]; then
      "$bin/bield" down --all --force || true
      end_daemon
    fi
    rm -rf "$BIELD_DEMO_DIR"
    exit $code
  }
  trap finish EXIT
  trap 'exit 130' INT TERM
  mkdir -p "$BIELD_DEMO_DIR/project" "$BIELD_DEMO_DIR/etc"
  echo 'hello from the host' > "$BIELD_DEMO_DIR/project/hello.txt"
  chown -R 1000:1000 "$BIELD_DEMO_DIR/project"
  cat > "$BIELD_DEMO_DIR/etc/bield.yaml" <<YAML
stateDir: $BIELD_DEMO_DIR/state
user: {name: dev, uid: 1000, gid: 1000}
vms:
  demo:
    ip: 192.168.83.2
    workspace: $BIELD_DEMO_DIR/project
    mem: 1G
YAML
  echo '== the guest image, while there is a network (cached afterwards)'
  "$bin/bield" -c "$BIELD_DEMO_DIR/etc/bield.yaml" image build
  end_daemon # it lives in this machine's network
  unshare --net --mount "$0" inside
  exit
fi

mount -t sysfs sysfs /sys # that of this network namespace
bield() { echo "\$ bield $*"; "$bin/bield" -c "$BIELD_DEMO_DIR/etc/bield.yaml" "$@"; }

bield up demo
bield ls
bield ssh demo -- 'cat /etc/os-release | head -1; uname -r; id; cat /workspace/hello.txt'
bield ssh demo -- 'echo hello from the guest > /workspace/answer.txt; sudo touch /etc/forgotten'
echo '$ cat answer.txt (on the host)'
ls -l "$BIELD_DEMO_DIR/project/answer.txt"
cat "$BIELD_DEMO_DIR/project/answer.txt"
bield logs demo | tail -3
bield down demo
echo '$ ls /sys/class/net (what is left in this network namespace)'
ls /sys/class/net
