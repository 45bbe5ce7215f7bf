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

group "formatting" formatted
group "vet" go vet ./...
group "rooms and CLI scripts" bash -c 'go test $(go list ./... | grep -v -e /test/e2e -e /test/faults)'
# What they tried stands in what they print.
group "daemons that are killed" bash -o pipefail -c 'go test -v -count=1 -timeout 30m ./test/faults | grep -v -e "^=== " -e "^ *--- PASS"'
group "real VMs" go test -v -count=1 -timeout 40m ./test/e2e

printf '\n%s' "$summary"
exit $failed
