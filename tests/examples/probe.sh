#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Checks probe's output, errors and exit statuses. Argument: the path of probe.
set -euo pipefail

probe=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
  printf 'failed: %s\n' "$*" >&2
  cat "$scratch/out" "$scratch/err" >&2
  exit 1
}

# Runs probe. Arguments: the expected exit status, then probe's arguments.
expect() {
  local want=$1 got=0
  shift
  "$probe" "$@" >"$scratch/out" 2>"$scratch/err" </dev/null || got=$?
  [ "$got" = "$want" ] || fail "probe $*: exit status $got, expected $want"
}

printed() {
  grep -q -- "$1" "$scratch/$2" || fail "'$1' is not in std$2"
}

# Prints the value of a key of the JSON object; a dot separates nested keys.
json() {
  python3 -c '
import json, sys
value = json.load(open(sys.argv[1]))
for key in sys.argv[2].split("."):
    value = value.get(key, {})
print(value)' "$scratch/out" "$1"
}

expect_key() {
  local value
  value=$(json "$1") || fail "the output is not JSON"
  [ "$value" = "$2" ] || fail "$1 is $value, expected $2"
}

expect 0 --help
printed 'Usage: probe' out
[ ! -s "$scratch/err" ] || fail "--help printed to stderr"
! grep -q '.\{81\}' "$scratch/out" || fail "--help has a line over 80 columns"

expect 2 --nonsense
expect 2 spare
printed "spare" err
expect 2 --mode
expect 2 --mode fast
printed "fast" err
expect 2 --backup maybe
for entries in '' x 12x -1 4294967296; do
  expect 2 --ring-entries "$entries"
done

for wrong in --nonsense spare --mode "--mode fast" "--ring-entries x"; do
  # shellcheck disable=SC2086
  expect 2 --json $wrong
  expect_key error 22
done

# Output that is lost is an error, with whatever is closed.
"$probe" --help >/dev/full 2>"$scratch/err" && fail "lost output is no error"
printed 'cannot write the output: No space' err
for closed in '>&-' '<&- >&- 2>&-'; do
  bash -c "\"\$1\" --device /dev/null --json $closed" bash "$probe" 2>"$scratch/err" &&
    fail "closed output is no error"
done

expect 1 --device "$scratch/absent"
printed "probe: no" err
printed "$scratch/absent:" err
expect 1 --device /dev/null
printed "not a KVM device" err
expect 1 --json --device "$scratch/a\"b\\c"$'\t'
expect_key device "$scratch/a\"b\\c"$'\t'
expect_key error 2
expect_key choice '{}'

if [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then
  expect 1
  printed "/dev/kvm" err
  printf 'skip: no access to /dev/kvm, so nothing is checked on a real kernel\n'
  exit 77
fi

expect 0
printed 'Offered by this kernel' out
printed 'Chosen by the library' out
! grep -q '.\{81\}' "$scratch/out" || fail "the table has a line over 80 columns"

expect 0 --json --mode bitmap
expect_key choice.mode bitmap
expect_key choice.ring_entries 0
expect_key offers.page_bytes "$(getconf PAGESIZE)"
expect_key error 0
expect 1 --mode ring --ring-entries 3000000000
[ -s "$scratch/err" ] || fail "an unsupported request was refused without a reason"

expect 0 --json
largest=$(json offers.ring_max_entries)
if [ "$(json choice.mode)" = ring ]; then
  expect 0 --json --mode ring --ring-entries "$largest"
  expect_key choice.mode ring
  expect_key choice.ring_entries "$largest"
  expect 1 --mode ring --ring-entries $((largest * 2))
  printed "$((largest * 2))" err
elif [ "$largest" = 0 ]; then
  expect 1 --mode ring
  printed ring err
fi
