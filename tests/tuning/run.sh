#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Measures the tables and curves in doc/tuning that doc/tuning.md shows.
set -euo pipefail

usage() {
  cat <<'END'
Usage: tests/tuning/run.sh BUILD_DIR [model|kvm|plot]...

  BUILD_DIR  build directory, with --buildtype=release
  model      the model's table: a minute of one processor, the same on every machine
  kvm        the table of this machine's /dev/kvm: some minutes, with nothing else running
  plot       the curves, with gnuplot
The default is all three.
END
}

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
data=$top/doc/tuning

measure_kvm() {
  "$programs/tuning-kvm" -p 512 -m 400
  "$programs/tuning-kvm" -v 2 -p 512 -m 400 -r 3 | tail -n +2
  "$programs/tuning-kvm" -k -p 8192 -m 200 -r 3 | tail -n +2
}

if [[ $# -lt 1 || $1 == --help ]]; then
  usage
  exit $(($# < 1 ? 2 : 0))
fi
programs=$1/tests/tuning
shift
mkdir -p "$data"
[[ $# -gt 0 ]] || set -- model kvm plot
for what; do
  case $what in
    model) "$programs/tuning-model" >"$data/model.tsv" ;;
    kvm) measure_kvm >"$data/kvm.tsv" ;;
    plot) gnuplot -c "$top/tests/tuning/plot.gp" "$data" ;;
    *)
      usage >&2
      exit 2
      ;;
  esac
done
