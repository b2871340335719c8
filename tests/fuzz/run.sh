#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Runs the fuzz targets for long, with libFuzzer.
set -euo pipefail

usage() {
  cat <<'END'
Usage: tests/fuzz/run.sh [TARGET]... [option]...

Builds the fuzz targets with clang, libFuzzer and the address and undefined behaviour sanitizers,
runs them one after the other, and minimizes the corpora. For each, prints libFuzzer's counters,
where a finding is (the exit status is then 1), and how many inputs reach code that those of the
tree (tests/fuzz/corpus) do not. To trace an input:
    FUZZ_TRACE=1 BUILD-DIR/tests/fuzz/libfuzzer-TARGET FILE

  TARGET           bitmap, calls, page_set, ring or wire; default: all
  --seconds N      run each target this long; default: 300
  --build-dir DIR  build there; default: build-fuzz. The results are in DIR/fuzz:
                   corpus-TARGET, small-TARGET (the fewest inputs with the same coverage),
                   new-TARGET (those of them that the tree lacks), findings-TARGET
  --help           this text

On Debian, libFuzzer is in libclang-rt-dev.
END
}

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=tests/setup.sh
. "$top/tests/setup.sh"

usage_error() {
  say "tests/fuzz/run.sh: $*; see tests/fuzz/run.sh --help" >&2
  exit 2
}

seconds=300
build_dir=$top/build-fuzz
targets=()
while [ $# -gt 0 ]; do
  option=$1
  shift
  case $option in
  --seconds | --build-dir) [ $# -gt 0 ] || usage_error "$option needs a value" ;;
  esac
  case $option in
  calls | page_set | ring | wire) targets+=("$option") ;;
  --seconds)
    seconds=$1
    shift
    ;;
  --build-dir)
    build_dir=$(realpath -m "$1")
    shift
    ;;
  --help)
    usage
    exit 0
    ;;
  *) usage_error "unknown target or option $option" ;;
  esac
done
[[ $seconds =~ ^[1-9][0-9]*$ ]] || usage_error "--seconds needs a number, not $seconds"
[ ${#targets[@]} -gt 0 ] || targets=(calls page_set ring wire)

build() {
  local output
  if ! output=$(CC=clang meson setup --reconfigure "$build_dir" "$top" -Dtests=true 2>&1); then
    output=$(CC=clang meson setup "$build_dir" "$top" -Dtests=true 2>&1) ||
      die "meson setup of $build_dir failed:"$'\n'"$output"
  fi
  grep -q 'libFuzzer and its sanitizers.*YES' <<<"$output" ||
    grep -q libfuzzer-ring "$build_dir/build.ninja" ||
    die "clang has no libFuzzer here: install libclang-rt-dev"
  ninja --quiet -C "$build_dir" "${targets[@]/#/tests/fuzz/libfuzzer-}"
}

# Argument: the target. Prints libFuzzer's final counters, without its dictionary.
fuzz() {
  local target=$1 program=$build_dir/tests/fuzz/libfuzzer-$1 log=$results/log-$1 status=0
  mkdir -p "$results/corpus-$target" "$results/findings-$target"
  say "== $target: $seconds s"
  "$program" -max_total_time="$seconds" -max_len=1024 -timeout=20 -rss_limit_mb=3000 \
    -use_value_profile=1 -len_control=10 -print_final_stats=1 \
    -artifact_prefix="$results/findings-$target/" \
    "$results/corpus-$target" "$top/tests/fuzz/corpus/$target" >"$log" 2>&1 </dev/null || status=1
  grep -E 'cov: ' "$log" | tail -n 1
  grep -E '^stat::(number_of_executed_units|average_exec_per_sec)' "$log" || true
  [ "$status" = 0 ] || say "FINDING in ${results#"$top"/}/findings-$target, log in ${log#"$top"/}"
  return "$status"
}

# Argument: the target. Makes the minimized corpus, and the inputs of it that the tree lacks.
minimize() {
  local target=$1 program=$build_dir/tests/fuzz/libfuzzer-$1
  local small=$results/small-$1 new=$results/new-$1
  rm -rf "$small" "$new"
  mkdir -p "$small" "$new"
  "$program" -merge=1 -use_counters=0 "$small" "$results/corpus-$target" >/dev/null 2>&1 </dev/null
  # libFuzzer keeps the inputs that are there, and adds those that reach more.
  cp "$top/tests/fuzz/corpus/$target"/* "$new"
  "$program" -merge=1 -use_counters=0 "$new" "$results/corpus-$target" >/dev/null 2>&1 </dev/null
  (cd "$top/tests/fuzz/corpus/$target" && printf '%s\0' *) | (cd "$new" && xargs -0 rm -f)
  say "$(find "$small" -type f | wc -l) inputs in ${small#"$top"/}," \
    "$(find "$new" -type f | wc -l) that the tree lacks in ${new#"$top"/}"
}

need_packages clang
build
results=$build_dir/fuzz
mkdir -p "$results"
found=0
for target in "${targets[@]}"; do
  fuzz "$target" || found=1
  minimize "$target"
done
exit "$found"
