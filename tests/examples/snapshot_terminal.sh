#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# The output of snapshot fits terminals of several widths. Arguments: snapshot, terminal.py.
set -euo pipefail

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$1" run "$scratch/points" --backend model --memory 16M --count 2 --interval 10 >/dev/null
# The second run goes on where the first has ended.
python3 "$2" "$1" run "$scratch/points" --continue --count 3 --interval 10 --prove all --beside \
  --pause write --fault enospc@8
