#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Compares the library's ABI with the one that baseline/ records.
set -euo pipefail

usage() {
  cat <<'END'
Usage: tests/abi/baseline.sh [--renew] [option]...

Compares the ABI of the library with the recorded one (abidiff): its symbols and their versions, the
parameters, the structures of the public headers, and the constants, which no debugging information
has. Every difference is a failure, an addition too. The recorded ABI has a number, and the topmost
section of NEWS.md must have a line for it that begins with "ABI NUMBER:".

  --renew         record the ABI as it is, with the next number if it differs
  --library FILE  the library, built by gcc with -g; default: build one from this tree
  --headers DIR   the directory of the public headers; default: include/dirtylog
  --baseline DIR  default: tests/abi/baseline
  --news FILE     default: NEWS.md
  --help          this text

The exit status is 77 if the comparison is not possible here.
END
}

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=tests/setup.sh
. "$top/tests/setup.sh"

renew=
library=
headers=$top/include/dirtylog
baseline=$top/tests/abi/baseline
news=$top/NEWS.md
while [ $# -gt 0 ]; do
  case $1 in
  --library | --headers | --baseline | --news)
    [ $# -gt 1 ] || die "$1 needs a value"
    declare "${1#--}=$2"
    shift
    ;;
  --renew) renew=yes ;;
  --help)
    usage
    exit 0
    ;;
  *) die "unknown option $1; see --help" ;;
  esac
  shift
done

skip() {
  say "skip: $*"
  exit 77
}

build_library() {
  CC=gcc meson setup "$work/build" "$top" >"$work/log" 2>&1 || die "$(cat "$work/log")"
  ninja --quiet -C "$work/build"
  library=$work/build/lib/libdirtylog.so
}

# Flags are passed as integers, so their enums never reach the library, and abidiff cannot see them.
print_constants() {
  sed -nE 's/^[[:space:]]*(DL_[A-Z0-9_]+ = [^,/]+),.*/\1/p' "$headers"/*.h | LC_ALL=C sort
}

print_abi() {
  abidw --exported-interfaces-only --headers-dir "$headers" --drop-private-types \
    --no-comp-dir-path --no-corpus-path --no-show-locs --no-elf-needed "$library"
}

# Prints how the library and the headers differ from the baseline, and fails if they do.
compare() {
  local status=0
  # Not with the library itself: abidiff would take the public structures for private ones, as the
  # record has no paths, and would pass over their changes.
  print_abi >"$work/now.abi"
  abidiff --harmless "$abi" "$work/now.abi" || status=$?
  [ $((status & 3)) = 0 ] || die "abidiff failed"
  diff -U0 --label recorded --label now "$baseline/constants" <(print_constants) || status=4
  [ "$status" = 0 ]
}

# Digests of the record. They notice an edit of it by hand, which would not change the number.
digests() {
  (cd "$baseline" && LC_ALL=C sha256sum -- *.abi constants)
}

renew_baseline() {
  local number=0
  mkdir -p "$baseline"
  [ ! -e "$baseline/number" ] || number=$(sed -n 's/^abi: //p' "$baseline/number")
  if [ -e "$abi" ] && compare; then
    say "ABI $number: nothing differs from the record."
    return
  fi
  # The first record of another architecture is no change.
  [ "$number" != 0 ] && [ ! -e "$abi" ] || number=$((number + 1))
  print_abi >"$abi"
  print_constants >"$baseline/constants"
  { say "abi: $number" && digests; } >"$work/number"
  mv "$work/number" "$baseline/number"
  say "This is ABI $number now. The topmost section of $news must have a line for it:"
  say "- ABI $number: what changed"
}

check() {
  local number section
  number=$(sed -n 's/^abi: \([0-9][0-9]*\)$/\1/p' "$baseline/number")
  if [ -z "$number" ] || [ "$(sed 1d "$baseline/number")" != "$(digests)" ]; then
    say "The record in $baseline was edited by hand; renew it with tests/abi/baseline.sh --renew."
    return 1
  fi
  if ! compare; then
    say "The ABI is not ABI $number, as recorded. If that is meant: tests/abi/baseline.sh --renew"
    return 1
  fi
  section=$(awk '/^## / { sections++ } sections == 1' "$news")
  if ! grep -qE "^- ABI $number: ." <<<"$section"; then
    say "The topmost section of $news lacks a line \"- ABI $number: what changed\"."
    return 1
  fi
  say "ABI $number"
}

command -v abidiff >/dev/null || skip "no abidiff here (Debian package abigail-tools)"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -n "$library" ] || build_library
abi=$baseline/$(uname -m).abi
if [ -n "$renew" ]; then
  renew_baseline
  exit
fi
[ -e "$abi" ] || skip "no ABI is recorded for this architecture (${abi##*/})"
readelf -SW "$library" | grep -q ' \.debug_info ' || skip "the library has no debugging information"
check
