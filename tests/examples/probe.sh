#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# The probe program: its answers, its refusals and its exit statuses. Argument: the program.
set -euo pipefail

probe=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
  printf 'failed: %s\n' "$*" >&2
  cat "$scratch/out" "$scratch/err" >&2
  exit 1
}

# Arguments: the exit status that is right, then the program's arguments.
expect() {
  local want=$1 got=0
  shift
  "$probe" "$@" >"$scratch/out" 2>"$scratch/err" </dev/null || got=$?
  [ "$got" = "$want" ] || fail "probe $*: exit status $got, not $want"
}

said() {
  grep -q -- "$1" "$scratch/$2" || fail "no '$1' in $2"
}

# The value of one key of the JSON object, keys of inner objects joined by dots.
json() {
  python3 -c '
import json, sys
value = json.load(open(sys.argv[1]))
for key in sys.argv[2].split("."):
    value = value.get(key, {})
print(value)' "$scratch/out" "$1"
}

is() {
  local value
  value=$(json "$1") || fail "not JSON"
  [ "$value" = "$2" ] || fail "$1 is $value, not $2"
}

expect 0 --help
said 'Usage: probe' out
[ ! -s "$scratch/err" ] || fail "--help writes to stderr"
! grep -q '.\{81\}' "$scratch/out" || fail "a line of --help is longer than 80 columns"

expect 2 --nonsense
expect 2 spare
said "spare" err
expect 2 --mode
expect 2 --mode fast
said "fast" err
expect 2 --backup maybe
for entries in '' x 12x -1 4294967296; do
  expect 2 --ring-entries "$entries"
done

expect 1 --device "$scratch/absent"
said "there is no" err
expect 1 --device /dev/null
said "not a KVM device" err
expect 1 --json --device "$scratch/a\"b\\c"$'\t'
is device "$scratch/a\"b\\c"$'\t'
is error 2
is choice '{}'

if [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then
  expect 1
  said "/dev/kvm" err
  printf 'skip: the answers of a real kernel: no access to /dev/kvm\n'
  exit 77
fi

expect 0
said 'This kernel offers' out
said 'The library would choose' out
! grep -q '.\{81\}' "$scratch/out" || fail "a line of the table is longer than 80 columns"

expect 0 --json --mode bitmap
is choice.mode bitmap
is choice.ring_entries 0
is offers.page_bytes "$(getconf PAGESIZE)"
is error 0
expect 1 --mode ring --ring-entries 3000000000
[ -s "$scratch/err" ] || fail "a refusal without a reason"

expect 0 --json
largest=$(json offers.ring_max_entries)
if [ "$(json choice.mode)" = ring ]; then
  expect 0 --json --mode ring --ring-entries "$largest"
  is choice.mode ring
  is choice.ring_entries "$largest"
  expect 1 --mode ring --ring-entries $((largest * 2))
  said "$((largest * 2))" err
elif [ "$largest" = 0 ]; then
  expect 1 --mode ring
  said ring err
fi
