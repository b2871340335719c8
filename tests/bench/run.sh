#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Builds a release, measures all figures, prints the table and writes it as JSON.
set -euo pipefail

usage() {
  cat <<'END'
Usage: tests/bench/run.sh [option]...

Builds the library for release in a directory of its own (and installs missing packages with
apt-get), measures it against what the machine can do, prints the figures as ratios with their bars,
and writes them as JSON. Slow figures do not fail. Run it on an otherwise idle machine; it takes a
few minutes.

  --runs N           runs of each figure, 7 to 101 (default 9); the median counts
  --only NAME        measure only figures whose names begin with NAME
  --json FILE        where to write the figures; default: figures.json in the build directory
  --document         also write them into doc/performance.md
  --no-instructions  do not count instructions (counted with valgrind, if installed)
  --cc CC            the compiler; default: $CC, else gcc
  --build-dir DIR    where to build; default: build-bench
  --help             this text
END
}

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=tests/setup.sh
. "$top/tests/setup.sh"

cc=${CC:-gcc}
build_dir=$top/build-bench
json=
document=
instructions=yes
measure=()
only=()
while [ $# -gt 0 ]; do
  option=$1
  shift
  case $option in
  --runs | --only | --json | --cc | --build-dir)
    [ $# -gt 0 ] || die "$option needs a value"
    value=$1
    shift
    ;;
  esac
  case $option in
  --runs)
    if ! [[ $value =~ ^[0-9]+$ ]] || [ "$value" -lt 7 ] || [ "$value" -gt 101 ]; then
      die "--runs: expected 7 to 101, got $value"
    fi
    measure+=(--runs "$value")
    ;;
  --only) only=(--only "$value") ;;
  --json) json=$(realpath -m "$value") ;;
  --document) document=yes ;;
  --no-instructions) instructions= ;;
  --cc) cc=$value ;;
  --build-dir) build_dir=$(realpath -m "$value") ;;
  --help)
    usage
    exit 0
    ;;
  *) die "unknown option $option; see --help" ;;
  esac
done
json=${json:-$build_dir/figures.json}

need_packages "$cc"
options=(-Dtests=true -Dbuildtype=release)
if [ ! -e "$build_dir/meson-private/coredata.dat" ]; then
  CC=$cc meson setup "$build_dir" "$top" "${options[@]}" >/dev/null
else
  CC=$cc meson setup --reconfigure "$build_dir" "$top" "${options[@]}" >/dev/null ||
    CC=$cc meson setup --wipe "$build_dir" "$top" "${options[@]}" >/dev/null
fi || die "meson setup of $build_dir failed; see $build_dir/meson-logs/meson-log.txt"
ninja --quiet -C "$build_dir" benchmarks examples/precopy/precopy
load=$(cut -d' ' -f1 /proc/loadavg)
parts=()
for program in bench bench-calls bench-stall bench-precopy; do
  [ -x "$build_dir/tests/bench/$program" ] || continue
  part=$build_dir/tests/bench/$program.json
  "$build_dir/tests/bench/$program" "${measure[@]}" "${only[@]}" --json "$part" >/dev/null
  parts+=("$part")
done
if [ -n "$instructions" ]; then
  part=$build_dir/tests/bench/instructions.json
  python3 "$top/tests/bench/instructions.py" "$build_dir/tests/bench/bench" "${only[@]}" \
    --json "$part" >/dev/null
  parts+=("$part")
fi
report=(python3 "$top/tests/bench/report.py")
"${report[@]}" --compiler "$cc" --load "$load" --merge "$json" "${parts[@]}"
if [ -n "$document" ]; then
  "${report[@]}" "$json" "$top/doc/performance.md"
fi
"${report[@]}" --print "$json"
say "The figures are in $json"
