#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Runs the smallest program, which must also be the README's first one, word for word. Arguments:
# the program, its source, and the README.
set -euo pipefail

program=$1 source=$2 readme=$3

fail() {
  printf 'failed: %s\n' "$*" >&2
  exit 1
}

# The README's first block of C.
# shellcheck disable=SC2016 # sed's pattern, not the shell's
first=$(sed -n '/^```c$/,/^```$/ { /^```c$/d; /^```$/q; p; }' "$readme")
[ "$first" = "$(cat "$source")" ] || fail "README.md has another program than examples/minimal.c"
[ "$(wc -l <"$source")" -lt 100 ] || fail "the smallest program has a hundred lines"

if [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then
  ! "$program" 2>/dev/null || fail "it succeeds without /dev/kvm"
  printf 'skip: no access to /dev/kvm, so the smallest program does not run\n'
  exit 77
fi
printed=$("$program")
[ "$printed" = 'dirty: 4096 bytes at 0x3000' ] || fail "it prints '$printed'"
