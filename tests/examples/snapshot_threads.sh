#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Points of a guest while others read its log, for ThreadSanitizer: what must stand still in a
# pause does. Argument: snapshot.
set -euo pipefail

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for passes in 0 2; do
  "$1" run "$scratch/$passes" --backend model --memory 16M --count 3 --interval 0 --prove all \
    --beside --slot-moves --passes "$passes" >/dev/null
done
"$1" restore "$scratch/2" >/dev/null
