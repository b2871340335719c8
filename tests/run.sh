#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Installs what is missing, builds, and runs all tests. The last line counts them.
set -euo pipefail

usage() {
  cat <<'END'
Usage: tests/run.sh [ROOM]... [option]...

Installs what the build needs and this machine lacks (with apt-get, if there is one), builds, and
runs the tests. Prints each failure, each skip with its reason, the slowest programs, and last the
line "N passed, N failed, N skipped". The exit status is 0 only if tests ran and none failed.

  ROOM             run only this directory of tests/, or "examples" or "lint", in its fast and long
                   forms, and build only what that needs; may be given several times.
                   Default: every room except lint
  --changed[=REV]  run the rooms that concern what differs from the merge base with REV: commits,
                   staged, unstaged and untracked files. Default: origin/main, or main without it.
                   tests/rooms.sh has the table. If nothing differs, nothing runs; the status is 0
  --list           print the rooms that would run, and stop; with --changed the reasons too
  --fast           only what ends within a few minutes (the meson suite "fast"), no lab, which
                   boots real kernels (tests/lab/run.sh), and no builds (tests/builds/run.sh)
  --lint           run tests/lint.sh as well, and install the tools that it lacks
  --cc CC          the compiler; default: $CC, else gcc
  --build-dir DIR  where to build; default: build, or build-CC with --cc
  --werror         compiler warnings are errors
  --variant NAME   another build, in its own directory; may be given several times, to have all of
                   them counted together:
                     plain  the usual one
                     clang  with clang; --fast without what takes /dev/kvm
                     asan   with the address and undefined behaviour sanitizers; --fast
                     tsan   with the thread sanitizer; --fast without what takes /dev/kvm
  --help           this text

END
  list_rooms
}

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=tests/setup.sh
. "$top/tests/setup.sh"
# shellcheck source=tests/rooms.sh
. "$top/tests/rooms.sh"

list_rooms() {
  say "Rooms:"
  rooms_table | sed 's/^/  /'
}

usage_error() {
  say "tests/run.sh: $*; see tests/run.sh --help" >&2
  exit 2
}

# Adds a room, also in the spelling that a shell completes. Argument: the room.
add_room() {
  local name=${1%/} command
  name=${name#tests/}
  [ "$name" != examples/precopy ] || name=examples
  if command=$(by_hand "$name"); then
    usage_error "$name has no tests; $command is run by hand"
  elif ! is_room "$name"; then
    say "tests/run.sh: unknown room $1; see tests/run.sh --help" >&2
    list_rooms >&2
    exit 2
  fi
  case " ${rooms[*]} " in
  *" $name "*) ;;
  *) rooms+=("$name") ;;
  esac
}

rooms=()
changed=
changed_revision=
list=
fast=
lint=
cc=${CC:-gcc}
build_dir=$top/build
build_dir_named=
werror=false
variants=()
while [ $# -gt 0 ]; do
  option=$1
  shift
  case $option in
  --cc | --build-dir | --variant)
    [ $# -gt 0 ] || usage_error "$option needs a value"
    value=$1
    shift
    ;;
  esac
  case $option in
  --changed) changed=yes ;;
  --changed=?*)
    changed=yes
    changed_revision=${option#*=}
    ;;
  --list) list=yes ;;
  --fast) fast=yes ;;
  --lint) lint=--strict ;;
  --cc)
    cc=$value
    [ -n "$build_dir_named" ] || build_dir=$top/build-${cc##*/}
    ;;
  --build-dir)
    build_dir=$(realpath -m "$value")
    build_dir_named=yes
    ;;
  --werror) werror=true ;;
  --variant)
    case $value in
    plain | clang | asan | tsan) variants+=("$value") ;;
    *) usage_error "unknown variant $value" ;;
    esac
    ;;
  --help)
    usage
    exit 0
    ;;
  -*) usage_error "unknown option $option" ;;
  *) add_room "$option" ;;
  esac
done
[ -z "$changed" ] || [ ${#rooms[@]} = 0 ] ||
  usage_error "--changed chooses the rooms: name none beside it"

# Sets suites (none: all), meson_runs, lab, other_builds and lint from the rooms.
choose_rooms() {
  local room
  suites=()
  meson_runs=yes
  lab=
  other_builds=
  if [ ${#rooms[@]} = 0 ]; then
    [ -n "$fast" ] || lab=yes other_builds=yes
    return
  fi
  for room in "${rooms[@]}"; do
    case $room in
    lint) lint=${lint:-yes} ;;
    lab)
      lab=yes
      [ -z "$fast" ] || {
        lab=
        say "The lab has no fast form; it is left out."
      }
      ;;
    builds) other_builds=yes ;;
    *) suites+=("$room") ;;
    esac
  done
  [ ${#suites[@]} -gt 0 ] || meson_runs=
}

# Whether a VM can be made here, so that tests which then still find no KVM are failures.
kvm_works() {
  python3 - <<'END'
import fcntl, os, sys
KVM_CREATE_VM = 0xAE01
try:
    os.close(fcntl.ioctl(os.open("/dev/kvm", os.O_RDWR), KVM_CREATE_VM, 0))
except OSError:
    sys.exit(1)
END
}

# Sets the suites to run (none: all) and the suites to leave out. Argument: not empty for the fast
# forms only.
select_suites() {
  wanted=("${suites[@]}")
  unwanted=()
  if [ -n "$1" ] && [ ${#suites[@]} = 0 ]; then
    wanted=(fast)
  elif [ -n "$1" ]; then
    unwanted=(full)
  fi
}

# Prints the targets that tests need, for ninja. Arguments: the build directory, the suites to run,
# "--", the suites to leave out.
targets_of_suites() {
  meson introspect "$1" --tests --targets | python3 -c '
import json, os, sys
directory, split = sys.argv[1], sys.argv.index("--")
wanted, unwanted = set(sys.argv[2:split]), set(sys.argv[split + 1:])
data = json.load(sys.stdin)
needed = set()
for test in data["tests"]:
    suites = {suite.partition(":")[2] for suite in test["suite"]}
    if suites & wanted and not suites & unwanted:
        needed.update(test["depends"])
for target in data["targets"]:
    if target["id"] in needed:
        print(*(os.path.relpath(name, directory) for name in target["filename"]), sep="\n")
' "$@"
}

# Arguments: the variant. Sets its compiler, directory, suites, and options of meson setup and test.
choose_variant() {
  variant_cc=$cc
  variant_dir=$build_dir
  variant_setup=("-Dwerror=$werror")
  variant_tests=()
  select_suites "$fast"
  run_under=()
  [ "$1" != plain ] || return 0
  variant_dir=${build_dir}-$1
  select_suites yes
  unwanted+=(tools)
  case $1 in
  clang)
    variant_cc=clang
    unwanted+=(examples kvm)
    ;;
  asan)
    variant_setup+=('-Db_sanitize=address,undefined')
    variant_tests=(--timeout-multiplier 5)
    export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1
    export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
    ;;
  tsan)
    variant_setup+=(-Db_sanitize=thread)
    # It does not see what the kernel and a real guest do to memory.
    unwanted+=(examples kvm)
    variant_tests=(--timeout-multiplier 10)
    export TSAN_OPTIONS="suppressions=\"$top/tests/tsan.supp\""
    # This sanitizer does not start where the kernel randomises addresses by many bits.
    if setarch -R true 2>/dev/null; then
      run_under=(setarch -R)
    fi
    ;;
  esac
}

# Builds a variant: all of it, or the needs of the rooms that were named.
build_variant() {
  local -a targets
  if [ ${#suites[@]} = 0 ]; then
    build_tree "$variant_cc" "$variant_dir" "${variant_setup[@]}"
    return
  fi
  configure_tree "$variant_cc" "$variant_dir" "${variant_setup[@]}"
  mapfile -t targets < <(targets_of_suites "$variant_dir" "${wanted[@]}" -- "${unwanted[@]}")
  [ ${#targets[@]} = 0 ] || build_targets "$variant_dir" "${targets[@]}"
}

# Arguments: the variant. Adds its results to the arguments of summary.py.
run_variant() {
  choose_variant "$1"
  local status=0 log=$variant_dir/meson-logs/testlog.json
  say "== $1: build in ${variant_dir#"$top"/}"
  need_packages "$variant_cc"
  if ! (build_variant); then
    results+=("$1=")
    return
  fi
  rm -f "$log"
  say "== $1: test"
  # Failures are read from the log, which says more than the exit status.
  "${run_under[@]}" meson test -C "$variant_dir" --no-rebuild "${wanted[@]/#/--suite=}" \
    "${unwanted[@]/#/--no-suite=}" "${variant_tests[@]}" </dev/null || status=$?
  # Rooms without a test in this variant leave no log, and that is no error.
  if [ ${#suites[@]} = 0 ] || [ "$status" != 0 ] || [ -e "$log" ]; then
    results+=("$1=$log")
  fi
}

# The KVM tests once more, inside real kernels. Their results are counted kernel by kernel.
run_lab() {
  local kernel status=0 output=${build_dir}-lab/output
  say "== lab: real kernels"
  mkdir -p "$output"
  "$top/tests/lab/run.sh" --build-dir "${build_dir}-lab" --output "$output" </dev/null 2>&1 |
    tee "$output/said" || status=$?
  if [ "$status" = 77 ]; then
    printf '{"name": "lab / kernels", "result": "SKIP", "stdout": "%s"}\n' \
      "$(tail -n 1 "$output/said")" >"$output/skipped.json"
    results+=("plain=$output/skipped.json")
    return
  fi
  for kernel in $("$top/tests/lab/run.sh" --list); do
    results+=("$kernel=$output/$kernel.json")
  done
}

# The library built in other ways, and for other machines, whose tests are counted by themselves.
run_builds() {
  local name output=${build_dir}-builds/output
  say "== builds: other ways, other machines"
  "$top/tests/builds/run.sh" --build-dir "${build_dir}-builds" --output "$output" </dev/null || true
  for name in $("$top/tests/builds/run.sh" --list); do
    results+=("$name=$output/$name.json")
  done
}

# The lint's checks, each counted as a test.
run_lint() {
  local -a options=()
  [ "$lint" != --strict ] || options=(--strict)
  say "== lint"
  "$top/tests/lint.sh" "${options[@]}" --results "$scratch/lint.json" || true
  results+=("plain=$scratch/lint.json")
}

if [ -n "$list" ] && [ -z "$changed" ] && [ ${#rooms[@]} = 0 ]; then
  list_rooms
  exit 0
fi
if [ -n "$changed" ]; then
  choose_changed_rooms "$changed_revision"
  if [ ${#rooms[@]} = 0 ]; then
    printf '%s\n' "Nothing differs, so there is nothing to test." "" "0 passed, 0 failed, 0 skipped"
    exit 0
  fi
elif [ -n "$list" ]; then
  printf '%s\n' "${rooms[@]}"
fi
[ -z "$list" ] || exit 0

choose_rooms
export CMOCKA_MESSAGE_OUTPUT=stdout
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
results=()
if [ -n "$meson_runs" ]; then
  need_packages "$cc"
  want_packages
fi
[ -z "$lint" ] || run_lint
if [ -n "$meson_runs" ]; then
  if kvm_works; then
    export DIRTYLOG_EXPECT_KVM=1
  else
    unset DIRTYLOG_EXPECT_KVM
    say "No VM can be made here (/dev/kvm is absent, closed to $(id -un), or does not work):" \
      "tests that need one are skipped."
  fi
fi
for variant in "${variants[@]:-plain}"; do
  [ -z "$meson_runs" ] || run_variant "$variant"
  [ "$variant" = plain ] || continue
  [ -z "$other_builds" ] || run_builds
  [ -z "$lab" ] || run_lab
done
python3 "$top/tests/summary.py" "${results[@]}"
