#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Installs what is missing, builds, and runs all tests. The last line counts them.
set -euo pipefail

usage() {
  cat <<'END'
Usage: tests/run.sh [option]...

Installs what the build needs and this machine lacks (with apt-get, where there is one), builds, and
runs the tests. Prints each failure, each skip with its reason, the slowest programs, and as the last
line "N passed, N failed, N skipped". The exit status is 0 only if tests ran and none failed.

  --fast           only what ends within a few minutes (the meson suite "fast"), and no lab: the real
                   kernels that tests/lab/run.sh boots
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
}

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=tests/setup.sh
. "$top/tests/setup.sh"

usage_error() {
  say "tests/run.sh: $*; see tests/run.sh --help" >&2
  exit 2
}

suite=()
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
  --fast) suite=(--suite fast) ;;
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
  *) usage_error "unknown option $option" ;;
  esac
done

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

# Arguments: the variant. Sets its compiler, directory, and options for meson setup and meson test.
choose_variant() {
  variant_cc=$cc
  variant_dir=$build_dir
  variant_setup=("-Dwerror=$werror")
  variant_tests=("${suite[@]}")
  run_under=()
  [ "$1" != plain ] || return 0
  variant_dir=${build_dir}-$1
  variant_tests=(--suite fast)
  case $1 in
  clang)
    variant_cc=clang
    variant_tests+=(--no-suite examples --no-suite kvm)
    ;;
  asan)
    variant_setup=('-Db_sanitize=address,undefined')
    variant_tests+=(--timeout-multiplier 5)
    export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1
    export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
    ;;
  tsan)
    variant_setup=(-Db_sanitize=thread)
    # It does not see what the kernel and a real guest do to memory.
    variant_tests+=(--no-suite examples --no-suite kvm --timeout-multiplier 10)
    export TSAN_OPTIONS="suppressions=\"$top/tests/tsan.supp\""
    # This sanitizer does not start where the kernel randomises addresses by many bits.
    if setarch -R true 2>/dev/null; then
      run_under=(setarch -R)
    fi
    ;;
  esac
}

# Arguments: the variant. Adds what came out to the arguments of summary.py.
run_variant() {
  choose_variant "$1"
  local log=$variant_dir/meson-logs/testlog.json
  say "== $1: build in ${variant_dir#"$top"/}"
  need_packages "$variant_cc"
  if ! (build_tree "$variant_cc" "$variant_dir" "${variant_setup[@]}"); then
    results+=("$1=")
    return
  fi
  rm -f "$log"
  say "== $1: test"
  # The exit status is of no interest: the log tells more, and summary.py reads it.
  "${run_under[@]}" meson test -C "$variant_dir" --no-rebuild "${variant_tests[@]}" </dev/null || true
  results+=("$1=$log")
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

need_packages "$cc"
export CMOCKA_MESSAGE_OUTPUT=stdout
if kvm_works; then
  export DIRTYLOG_EXPECT_KVM=1
else
  unset DIRTYLOG_EXPECT_KVM
  say "No VM can be made here (/dev/kvm is absent, closed to $(id -un), or does not work):" \
    "tests that need one are skipped."
fi
results=()
for variant in "${variants[@]:-plain}"; do
  run_variant "$variant"
  if [ "$variant" = plain ] && [ ${#suite[@]} = 0 ]; then
    run_lab
  fi
done
exec python3 "$top/tests/summary.py" "${results[@]}"
