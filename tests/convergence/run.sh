#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Builds a release, migrates guests under several laws in virtual time, checks and prints.
set -euo pipefail

usage() {
  cat <<'END'
Usage: tests/convergence/run.sh [option]...

Migrates 18 guests (tests/convergence/loads.c) in virtual time with the
library's real code, under the library's plan and under the throttles of
others; checks the plan's rules, and prints one table. The figures are the same
on every machine. 100 seeds of everything take about an hour of one processor.

  --seeds N       seeds 1 to N of each load; default: 100
  --loads LIST    as 1,3-5; default: 1-18
  --laws LIST     of none, auto-converge, aggressive, dirty-limit, equal-quota,
                  plan, plan-skip, plan-bitmap; default: all
  --jobs N        runs at the same time; default: one a processor
  --by-load       a row of the table for each load
  --rules         print the rules, and end
  --document      also write doc/convergence/curves.png, and the tables of
                  doc/convergence.md
  --save FILE     keep the figures of each run, for --from
  --from FILE     run nothing: use figures that were kept; may be repeated
  --build-dir DIR where to build; default: build-convergence
  --help          this text
END
}

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=tests/setup.sh
. "$top/tests/setup.sh"

build_dir=$top/build-convergence
document=
options=()
while [ $# -gt 0 ]; do
  option=$1
  shift
  case $option in
  --help)
    usage
    exit 0
    ;;
  --by-load | --rules) options+=("$option") ;;
  --document) document=yes ;;
  --seeds | --loads | --laws | --jobs | --save | --from | --build-dir)
    [ $# -gt 0 ] || die "$option needs a value"
    if [ "$option" = --build-dir ]; then
      build_dir=$(realpath -m "$1")
    else
      options+=("$option" "$1")
    fi
    shift
    ;;
  *) die "unknown option $option; see --help" ;;
  esac
done

# Traces of the loads that the curves show, each under all laws.
draw() {
  local traces load
  traces=$(mktemp -d)
  mkdir -p "$top/doc/convergence"
  for load in 1 4 8 12; do
    "$program" --loads "$load" --trace "$traces/$load.tsv" >/dev/null
  done
  gnuplot -c "$top/tests/convergence/plot.gp" "$traces" "$top/doc/convergence"
  rm -r "$traces"
}

if [ ! -e "$build_dir/build.ninja" ]; then
  meson setup "$build_dir" "$top" -Dtests=true -Dbuildtype=release >/dev/null ||
    die "meson setup of $build_dir failed; see $build_dir/meson-logs/meson-log.txt"
fi
program=$build_dir/tests/convergence/convergence
ninja --quiet -C "$build_dir" tests/convergence/convergence
if [ -n "$document" ]; then
  command -v gnuplot >/dev/null || die "--document needs gnuplot"
  draw
  options+=(--document "$top/doc/convergence.md")
fi
exec "$top/tests/convergence/convergence.py" --program "$program" "${options[@]}"
