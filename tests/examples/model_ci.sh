#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Runs the example of a VMM's test on the model: equal without a bug, and each planted bug is found,
# with the page and its writer. Argument: the program.
set -euo pipefail

program=$1

fail() {
  printf 'failed: %s\n' "$*" >&2
  exit 1
}

# Arguments: exit status, what is printed (a pattern), the program's arguments.
expect() {
  local want=$1 pattern=$2 printed status=0
  shift 2
  printed=$("$program" "$@" 2>&1) || status=$?
  [ "$status" = "$want" ] || fail "$*: exit status $status instead of $want: $printed"
  # shellcheck disable=SC2254 # a pattern indeed
  case $printed in
  $pattern) ;;
  *) fail "$*: printed '$printed' instead of '$pattern'" ;;
  esac
}

for mode in ring bitmap; do
  for seed in 1 2 3; do
    options=(--mode "$mode" --seed "$seed")
    expect 0 'equal: 1024 pages after *' "${options[@]}"
    expect 0 'equal: 1024 pages after *' "${options[@]}" --bug none
    expect 1 'stale: The page at guest address 0x403e9000 *the VMM (virtio-net)*was it marked?' \
      "${options[@]}" --bug forget-mark
    expect 1 'stale: *by vCPU 0 at *but had been read before it*' "${options[@]}" --bug read-early
    expect 1 'stale: The page at guest address 0x403ea000 *kernel (no vCPU)*a harvest is missing.' \
      "${options[@]}" --bug skip-harvest
  done
done
case $("$program" --mode ring) in
*' 0 full rings') fail 'no ring was ever full' ;;
esac
expect 0 'Usage: model_ci *' --help
expect 2 '*Usage: model_ci *' --bug unknown
expect 2 '*Usage: model_ci *' --mode fast
expect 2 '*Usage: model_ci *' --seed 1x
expect 2 '*Usage: model_ci *' --nonsense
expect 2 '*Usage: model_ci *' argument
