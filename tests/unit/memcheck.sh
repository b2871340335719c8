#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Runs a test program under valgrind, which finds what no sanitizer of ours does: decisions that
# depend on memory that nobody has written. Arguments: the program and its arguments.
if ! command -v valgrind >/dev/null; then
  echo 'skip: valgrind is not installed'
  exit 77
fi
exec valgrind --quiet --error-exitcode=1 --leak-check=full "$@"
