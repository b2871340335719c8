#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# dirtylog-model(7): its program prints what the page says, and the page has every call of the
# header. Arguments: the program, the page, the header.
set -euo pipefail

program=$1 page=$2 header=$3

fail() {
  printf 'failed: %s\n' "$*" >&2
  exit 1
}

status=0
printed=$("$program") || status=$?
[ "$status" = 1 ] || fail "the program's exit status is $status: $printed"
# shellcheck disable=SC2016 # sed's pattern, not the shell's
said=$(sed -n '/^The page at guest address/,/^```$/ { /^```$/d; p; }' "$page" | tr '\n' ' ')
[ "$printed " = "$said" ] || fail "the program prints '$printed', and the page has '$said'"

calls=$(grep -oE '\bdlm_[a-z_]+\(' "$header" | sort -u)
# The page has the values of these enums by their endings.
values=$(grep -oE '^	DLM_[A-Z0-9_]+' "$header" | grep -vE 'DLM_(CALL|PAGE|HAS)_')
[ -n "$calls" ] || fail "no call found in $header"
[ -n "$values" ] || fail "no value found in $header"
for name in $calls $values; do
  grep -qF "$name" "$page" || fail "the page does not name $name"
done
