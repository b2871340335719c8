#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Checks the crate. Argument: lint; model, for all tests but those of /dev/kvm; or kvm. Meson sets
# the environment: DIRTYLOG_*, CC, CARGO_TARGET_DIR and LD_LIBRARY_PATH. Nothing is downloaded, and
# nothing written beside the sources.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
part=$1

skip() {
  printf 'skip: %s\n' "$*"
  exit 77
}

[ "${DIRTYLOG_SANITIZE:-none}" = none ] ||
  skip "the library is built with a sanitizer, whose runtime a Rust program does not have"
command -v cargo >/dev/null || skip "no cargo here"
export CARGO_HOME=$CARGO_TARGET_DIR/home CARGO_NET_OFFLINE=true CARGO_INCREMENTAL=0
export CARGO_PROFILE_DEV_DEBUG=0 # builds in half the time

case $part in
lint)
  cargo fmt --version >/dev/null 2>&1 || skip "no rustfmt here"
  cargo clippy --version >/dev/null 2>&1 || skip "no clippy here"
  cargo fmt --check
  cargo clippy --locked --all-targets --features model-tests -- -D warnings
  RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps
  ;;
model)
  cargo test --locked --features model-tests --lib --test layout --test model
  cargo test --locked --doc
  ;;
kvm)
  [ "$(uname -m)" = x86_64 ] || skip "the guest of these tests is one for x86-64"
  if [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then
    skip "no access to /dev/kvm"
  fi
  cargo test --locked --test kvm
  ;;
esac
