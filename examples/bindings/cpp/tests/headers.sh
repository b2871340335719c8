#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Compiles dirtylog.hpp and what uses it with each C++ compiler that is installed, in each standard,
# with and without exceptions, without a warning; and looks for each public call in it. Arguments:
# the two include directories.
set -euo pipefail

binding=$1
include=$2
compilers=0

# Names in messages and comments are no calls.
code=$(sed -e 's/"[^"]*"//g' -e 's@/\*.*\*/@@' -e '/\/\*/,/\*\//d' \
  "$binding/dirtylog/dirtylog.hpp")
while read -r call; do
  grep -q "\b$call\b" <<<"$code" || {
    printf 'failed: dirtylog.hpp never calls %s\n' "$call"
    exit 1
  }
done < <(grep -o '\bdl_[a-z_]*(' "$include/dirtylog/dirtylog.h" | tr -d '(' | sort -u)

for compiler in g++ clang++; do
  command -v "$compiler" >/dev/null || continue
  compilers=$((compilers + 1))
  for standard in c++17 c++20; do
    for half in throwing noexcept; do
      options=("-std=$standard" -Wall -Wextra -Wpedantic -Wundef -Wconversion -Wsign-conversion
        -Wold-style-cast -Werror)
      [ $half = throwing ] || options+=(-fno-exceptions)
      printf '%s %s\n' "$compiler" "${options[*]}"
      printf '#include <%s>\n' dirtylog/dirtylog.hpp dirtylog/dirtylog.hpp "test_$half.cpp" |
        "$compiler" "${options[@]}" -I"$binding" -I"$binding/tests" -I"$include" -fsyntax-only \
          -x c++ -
    done
  done
done
[ "$compilers" -gt 0 ] || {
  printf 'skip: no C++ compiler\n'
  exit 77
}
