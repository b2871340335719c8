#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Builds the tree, shows what this kernel offers, and live-migrates a guest that keeps writing
# memory: once correctly, and once with a bug injected to show that verification catches it.
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=tests/setup.sh
. "$top/tests/setup.sh"

usage() {
  cat <<'END'
Usage: examples/demo.sh [--build-dir DIR] [--help]

Install missing build dependencies (with apt-get, if available), build, and
live-migrate a guest with 4 vCPUs between two processes, twice, while it dirties
memory half as fast as the wire carries it. Takes about half a minute. If
/dev/kvm cannot be used, the migrations run on the model kernel of tests/model.

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

migration=("$build_dir/examples/precopy/precopy" --vcpus 4 --dirty-rate 100M)

title "Live migration: ${migration[*]##*/}"
"${migration[@]}" || die "the migration failed"

title "The same with a bug injected: ${migration[*]##*/} --sabotage drop"
say "One page that the library reports is not sent. Verification must fail:"
status=0
"${migration[@]}" --sabotage drop || status=$?
[ "$status" = 1 ] || die "a page was dropped and verification missed it (exit status $status)"

title "Done"
say "The first migration lost no write. The second dropped a page and was caught."
say "For more options: $build_dir/examples/precopy/precopy --help"
