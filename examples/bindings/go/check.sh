#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Checks the module. Argument: lint; model, for all tests but those of /dev/kvm; or kvm. Meson sets
# the environment: DIRTYLOG_*, CC, PKG_CONFIG_PATH, GOPATH, GOCACHE and LD_LIBRARY_PATH. Nothing is
# downloaded, and nothing written beside the sources.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
part=$1

skip() {
  printf 'skip: %s\n' "$*"
  exit 77
}

[ "${DIRTYLOG_SANITIZE:-none}" = none ] ||
  skip "the library is built with a sanitizer, whose runtime a Go program does not have"
command -v go >/dev/null || skip "no go here"
command -v pkg-config >/dev/null || skip "no pkg-config here, which cgo asks"
export CGO_ENABLED=1 GOFLAGS=-mod=mod GOPROXY=off GOTOOLCHAIN=local GOENV=off

case $part in
lint)
  unformatted=$(gofmt -l .)
  [ -z "$unformatted" ] || {
    printf 'not as gofmt writes it: %s\n' "$unformatted"
    exit 1
  }
  go vet ./...
  ;;
model) go test -count=1 -timeout 120s -run 'TestModel|TestVersions' . ;;
kvm)
  [ "$(go env GOARCH)" = amd64 ] || skip "the guest of these tests is one for x86-64"
  if [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then
    skip "no access to /dev/kvm"
  fi
  go test -count=1 -timeout 120s -run TestKVM .
  ;;
esac
