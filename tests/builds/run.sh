#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Builds the library in the ways that others do, and for other machines.
set -euo pipefail

usage() {
  cat <<'END'
Usage: tests/builds/run.sh [BUILD]... [option]...

Builds the library as others build it, and runs what can run. Prints one line per build: the checks
that passed, failed and were skipped, and the seconds. The exit status is 0 only if none failed.

  install       without an option, where cmocka is absent: builds and installs the library alone
  reproducible  in two directories: the same files
  check_vcpus   with -Dcheck_vcpus=true
  asan          by clang with its address sanitizer, as a shared library
  debian        Debian's packages: built, examined by lintian, installed, used and removed
  rpm, apk      the recipes of the others, as far as Debian's tools go: built, their lists of files
  musl          against musl; linked with a stand-in for liburcu, which Debian has for glibc only
  s390x, arm64  for these machines; the rooms unit and model run in QEMU's user emulation
  ppc64el, i386 for these machines; a few of those tests run
  riscv64       for this machine; linked with a stand-in for liburcu, and nothing runs

Installs missing compilers, and downloads libraries of other machines without installing them, into
the cache of tests/lab. What is missing all the same is skipped, with the reason.

  --list        print the names of the builds
  --build-dir DIR  build in there; default: build-builds
  --output DIR  write the results there, in meson's format: BUILD.json; default: in the build-dir
  --help        this text
END
}

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/libdirtylog-lab
# shellcheck source=tests/setup.sh
. "$top/tests/setup.sh"
# shellcheck source=tests/lab/kernels.sh
. "$top/tests/lab/kernels.sh"
# shellcheck source=tests/builds/machines.sh
. "$top/tests/builds/machines.sh"
# shellcheck source=tests/builds/native.sh
. "$top/tests/builds/native.sh"
# shellcheck source=tests/builds/foreign.sh
. "$top/tests/builds/foreign.sh"
# shellcheck source=tests/builds/packages.sh
. "$top/tests/builds/packages.sh"

natives=(install reproducible check_vcpus asan)
packagings=(debian rpm apk)
foreigners=(musl s390x arm64 ppc64el i386 riscv64)
build_dir=$top/build-builds
output=
builds=()
while [ $# -gt 0 ]; do
  case $1 in
  --build-dir | --output)
    [ $# -gt 1 ] || die "$1 needs a value"
    case $1 in
    --output) output=$(realpath -m "$2") ;;
    --build-dir) build_dir=$(realpath -m "$2") ;;
    esac
    shift
    ;;
  --list)
    printf '%s\n' "${natives[@]}" "${packagings[@]}" "${foreigners[@]}"
    exit 0
    ;;
  --help)
    usage
    exit 0
    ;;
  *)
    case " ${natives[*]} ${packagings[*]} ${foreigners[*]} " in
    *" $1 "*) builds+=("$1") ;;
    *) die "no build $1; see --help" ;;
    esac
    ;;
  esac
  shift
done
[ ${#builds[@]} -gt 0 ] || builds=("${natives[@]}" "${packagings[@]}" "${foreigners[@]}")
output=${output:-$build_dir/output}
mkdir -p "$build_dir" "$output"

# Adds a result to the file of the current build. Arguments: the check, OK, FAIL or SKIP, the
# seconds, a file with its output.
record() {
  python3 - "$@" >>"$results" <<'END'
import json, sys
name, result, seconds, path = sys.argv[1:]
with open(path, encoding="utf-8", errors="replace") as text:
    print(json.dumps({"name": "builds / " + name, "result": result, "duration": float(seconds),
                      "returncode": 1 if result == "FAIL" else 0, "stdout": text.read()}))
END
}

# Runs a function as a check, which fails if a command in it does. Sets passed, instead of failing:
# as a condition, or called by one, set -e would have no effect inside the function.
# Arguments: the name of the check, the function, its arguments.
check() {
  local name=$1 status=0 begin=$SECONDS result=OK log=$build_dir/$build.log
  shift
  set +e
  (
    set -e
    "$@"
  ) >"$log" 2>&1
  status=$?
  set -e
  case $status in
  0) ;;
  77) result=SKIP ;;
  *) result=FAIL ;;
  esac
  record "$name" "$result" $((SECONDS - begin)) "$log"
  passed=
  [ "$result" != OK ] || passed=yes
}

skip() {
  say "skip: $*"
  exit 77
}

# Prints a line for a build, and fails if a check of it failed. Argument: the seconds.
summarize() {
  python3 "$top/tests/summary.py" "$build=$results" | awk -v name="$build" -v seconds="$1" '
    { last = $0 }
    END { printf "%s: %s, %s s\n", name, last, seconds; exit last !~ / 0 failed/ }'
}

# Argument: a build. Sets failed if a check of it fails.
run_build() {
  local begin=$SECONDS
  build=$1
  work=$build_dir/$build
  results=$output/$build.json
  rm -rf "$work"
  rm -f "$results"
  mkdir -p "$work"
  "build_$build"
  summarize $((SECONDS - begin)) || failed=yes
}

need_packages gcc
# The network and the compilers are waited for at the same time.
provide_for "${builds[@]}" >"$build_dir/provide.log" 2>&1 &
provider=$!
trap '[ -z "$provider" ] || kill "$provider" 2>/dev/null || true' EXIT
failed=
for name in "${builds[@]}"; do
  case " ${packagings[*]} ${foreigners[*]} asan " in
  *" $name "*)
    [ -z "$provider" ] || wait "$provider" || true
    provider=
    ;;
  esac
  run_build "$name"
done
[ -z "$failed" ]
