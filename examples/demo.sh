#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Builds, tells what this kernel offers, and live-migrates a guest that writes memory all the while:
# once as it should be, and once with a mistake built in, to show that the proof notices.
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=tests/setup.sh
. "$top/tests/setup.sh"

usage() {
  cat <<'END'
Usage: examples/demo.sh [--build-dir DIR] [--help]

Installs what the build needs and this machine lacks (with apt-get, where there is one), builds,
and migrates a guest with 4 vCPUs between two processes, twice. Takes about half a minute. Where
/dev/kvm cannot be used, the guest and its kernel are the model ones of tests/model.
END
}

build_dir=$top/build
while [ $# -gt 0 ]; do
  case $1 in
  --build-dir)
    [ $# -gt 1 ] || die "--build-dir needs a value"
    build_dir=$(realpath -m "$2")
    shift
    ;;
  --help)
    usage
    exit 0
    ;;
  *) die "unknown option $1; see examples/demo.sh --help" ;;
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
"$build_dir/examples/probe" || say "Therefore all that follows runs on the model kernel."

migration=("$build_dir/examples/precopy/precopy" --vcpus 4)

title "A live migration: ${migration[*]##*/}"
"${migration[@]}" || die "the migration failed"

title "The same with a mistake built in: ${migration[*]##*/} --sabotage drop"
say "One page that the library reports is not sent. The proof must fail:"
status=0
"${migration[@]}" --sabotage drop || status=$?
[ "$status" = 1 ] || die "a page was left out, and the proof did not notice (exit status $status)"

title "Done"
say "The first migration lost no write. The second lacked a page, and the proof said so."
say "More to try: $build_dir/examples/precopy/precopy --help"
