#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Compiles each public header by itself, included twice, under strict standards.
# Arguments: the include directory, the compiler, a language (c or c++), its standards.
set -euo pipefail

include=$1
compiler=$2
language=$3
shift 3
command -v "$compiler" >/dev/null || {
  echo "skip: no $compiler here"
  exit 77
}

warnings=(-Wall -Wextra -Wpedantic -Wundef -Werror)
# In C++ dl_cursor_stats() hides the constructor of its struct, as stat(2) does.
[ "$language" = c++ ] || warnings+=(-Wshadow)
for header in "$include"/dirtylog/*.h; do
  name=dirtylog/${header##*/}
  for standard; do
    printf '%s as %s\n' "$name" "$standard"
    printf '#include <%s>\n#include <%s>\nint neither_empty;\n' "$name" "$name" |
      "$compiler" "-std=$standard" "${warnings[@]}" -I"$include" -fsyntax-only -x "$language" -
  done
done
