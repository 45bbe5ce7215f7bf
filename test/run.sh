#!/usr/bin/env bash
# The whole suite, cheap groups first; says how long each took.
set -uo pipefail
export CGO_ENABLED=0 # as bield is built: its launcher sets up all threads itself
cd "$(dirname "$0")/.."

failed=0
summary=""
group() { # NAME COMMAND…
  local name=$1 began=$SECONDS result=ok
  shift
  echo "== $name"
  "$@" || { result=FAILED; failed=1; }
  summary+=$(printf '%-28s %5ds  %s' "$name" $((SECONDS - began)) "$result")$'\n'
}

formatted() {
  local files
  files=$(gofmt -l bench cmd internal test) || return
  [ -z "$files" ] || { echo "gofmt these: $files"; return 1; }
}

# What needs no kernel of that architecture also runs as its code; a program that
# starts itself in new namespaces can't under user-mode emulation.
arm64() {
  GOARCH=arm64 go build -o /dev/null ./... && GOARCH=arm64 go vet ./... || return
  if ! command -v qemu-aarch64-static > /dev/null; then
    echo "no qemu-aarch64-static: the tests were not run"
    [ "${BIELD_TEST_REQUIRE:-}" != 1 ]
    return
  fi
  GOARCH=arm64 go test -exec qemu-aarch64-static -timeout 5m \
    -run 'Arguments|Architecture|Choose|Extract|Resolve|Digest|Archive|Module|Advice|Goldens|Session|Listener|Units' \
    ./internal/hypervisor/... ./internal/plan ./internal/image ./internal/setup ./internal/guestlink ./internal/guest
}

group "formatting" formatted
group "vet" go vet ./...
[ "$(go env GOARCH)" = arm64 ] || group "arm64: build, vet, goldens" arm64
group "rooms and CLI scripts" bash -c 'go test $(go list ./... | grep -v -e /test/e2e -e /test/faults -e /hypervisortest)'
# Its table stands in what it prints: each case with each driver, and why not. The
# real cloud-hypervisor is one of them where BIELD_CLOUD_HYPERVISOR names it.
group "hypervisor conformance" bash -o pipefail -c 'go test -v -count=1 -timeout 10m ./internal/hypervisor/hypervisortest | grep -v -e "^=== " -e "^ *--- PASS" -e "^ *--- SKIP" -e "^    suite.go:.*: \(n/a\|skipped\): "'
# What they tried stands in what they print.
group "daemons that are killed" bash -o pipefail -c 'go test -v -count=1 -timeout 30m ./test/faults | grep -v -e "^=== " -e "^ *--- PASS"'
group "real VMs" go test -v -count=1 -timeout 40m ./test/e2e

printf '\n%s' "$summary"
exit $failed
