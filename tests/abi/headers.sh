#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Compiles each public header by itself, included twice, under strict standards.
# Arguments: the include directory, a language (c or c++), its standards, "--", the compiler.
set -euo pipefail

include=$1
language=$2
shift 2
standards=()
while [ "$1" != -- ]; do
  standards+=("$1")
  shift
done
shift
compiler=("$@")

warnings=(-Wall -Wextra -Wpedantic -Wundef -Werror)
# In C++ dl_cursor_stats() hides the constructor of its struct, as stat(2) does.
[ "$language" = c++ ] || warnings+=(-Wshadow)
for header in "$include"/dirtylog/*.h; do
  name=dirtylog/${header##*/}
  for standard in "${standards[@]}"; do
    printf '%s as %s\n' "$name" "$standard"
    printf '#include <%s>\n#include <%s>\nint neither_empty;\n' "$name" "$name" |
      "${compiler[@]}" "-std=$standard" "${warnings[@]}" -I"$include" \
        -fsyntax-only -x "$language" -
  done
done
