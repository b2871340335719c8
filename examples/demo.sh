#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Builds the tree, shows what this kernel offers, and live-migrates a guest that writes memory
# faster than it can be sent: without a throttle, with the plan of the library, and with a bug
# injected to show that verification catches it.
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=tests/setup.sh
. "$top/tests/setup.sh"

usage() {
  cat <<'END'
Usage: examples/demo.sh [--build-dir DIR] [--help]

Install missing build dependencies (with apt-get, if available), build, and
live-migrate a guest between two processes. One vCPU dirties memory faster than
the wire carries it, the other only reads. Without a throttle that does not
converge; with the library's plan it ends in time. Takes less than 40 seconds.
If /dev/kvm cannot be used, the model kernel of tests/model takes its place.

  --build-dir DIR  build in DIR (default: build)
  --help           print this help
END
}

build_dir=$top/build
while [ $# -gt 0 ]; do
  case $1 in
  --build-dir)
    [ $# -gt 1 ] || die "--build-dir needs a directory"
    build_dir=$(realpath -m "$2")
    shift
    ;;
  --help)
    usage
    exit 0
    ;;
  *) die "unknown option $1; try 'examples/demo.sh --help'" ;;
  esac
  shift
done

title() {
  printf '\n== %s\n\n' "$*"
}

cc=${CC:-gcc}
need_packages "$cc"
title "Build"
build_tree "$cc" "$build_dir" -Dwerror=false
say "built in $build_dir"

title "What this kernel offers"
"$build_dir/examples/probe" || say "The migrations below run on the model kernel instead."

precopy=$build_dir/examples/precopy/precopy
guest=(--vcpus 2 --readers 1 --memory 512M --working-set 400M --bandwidth 150M
  --downtime-limit 300)

# Prints what is run, and runs it.
migrate() {
  printf 'precopy %s\n' "$*" | fold -s -w 78
  echo
  "$precopy" "$@"
}

title "A guest that writes faster than the wire carries, without a throttle"
migrate "${guest[@]}" --passes 3 || die "the migration failed"

title "The same guest with a plan: within 12 seconds, and the reader goes on"
migrate "${guest[@]}" --throttle plan --budget 12 || die "the migration failed"

title "A page that the library reports and the sender drops"
say "Verification must fail:"
status=0
migrate --vcpus 4 --dirty-rate 100M --sabotage drop || status=$?
[ "$status" = 1 ] || die "a page was dropped and verification missed it (exit status $status)"

title "Done"
say "Without a throttle the guest was stopped for longer than it should have been."
say "With a plan it was not. Neither lost a write; the dropped page was caught."
say "For more options: $precopy --help"
