#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# tests/lint.sh and the pre-commit hook notice planted faults. Argument: the root of this tree.
set -euo pipefail

# shellcheck source=tests/tools/scratch.sh
. "$(dirname "${BASH_SOURCE[0]}")/scratch.sh"

# So that plant() adds to the lists of this shell.
shopt -s lastpipe
cd "$scratch"
mkdir tests lib include
cp -r "$source/.githooks" "$source/.clang-format" "$source/.codespellrc" .
cp "$source/tests/lint.sh" "$source/tests/lint_text.py" "$source/tests/setup.sh" tests
licence='/* SPDX-License-Identifier: MIT */'
printf '%s\nint x;\n' "$licence" >lib/good.c
commit_all all

# Sets status and output. Arguments: those of lint.sh.
lint_it() {
  status=0
  output=$(tests/lint.sh "$@" 2>&1) || status=$?
}

a_tree_without_faults_passes() {
  lint_it
  expect "status of the lint" 0 "$status"
  expect_line "the lint" '^text: ok' "$output"
}

# Arguments: a file, a finding in it. Standard input is the file's text.
plant() {
  cat >"$1"
  planted+=("$1")
  findings+=("^$1:$2")
}

# All at once, as each run of the tools takes its time.
planted_faults_are_found() {
  local finding
  planted=() findings=()
  printf '%s\n/* %098d */\n' "$licence" 0 | plant lib/wide.c '2: 104 columns'
  # A tab ends at the next multiple of 8.
  printf '%s\n\t/* %087d */\n' "$licence" 0 | plant lib/tab.c '2: 101 columns'
  printf 'x' | plant crash-17 ' not a place for files'
  printf 'x' | plant include/stray.h ' not a place for files'
  printf 'int x;\n' | plant lib/bare.c '1: does not begin with SPDX'
  printf 'int x;\n' | plant lib/bare.hpp '1: does not begin with SPDX'
  printf '%s\nint x; \n' "$licence" | plant lib/blank.c '2: white space'
  printf '%s\nint x;' "$licence" | plant lib/end.c '2: no newline'
  {
    printf '%s\n' "$licence"
    printf 'int x%d;\n' {1..500}
  } | plant lib/long.c '501: 501 lines'
  lint_it
  grep -q '^format: skip: no clang-format 14' <<<"$output" ||
    for file in lib/format.c lib/format.cpp; do
      printf '%s\nint  x;\n' "$licence" | plant $file ' not as clang-format'
    done
  grep -q '^spelling: skip: no codespell' <<<"$output" ||
    printf '%s\n/* re%s */\nint x;\n' "$licence" ciever | plant lib/word.c '2: .*receiver'
  # shellcheck disable=SC2016 # text of the script to check
  grep -q '^shell: skip: no shellcheck' <<<"$output" ||
    printf '#!/bin/sh\n# SPDX-License-Identifier: MIT\nx=$(ls)\ncd $x\n' |
    plant tests/odd.sh '4:.*SC2086'
  grep -q '^python: skip: no pyflakes' <<<"$output" ||
    printf '# SPDX-License-Identifier: MIT\nimport os\n' |
    plant tests/odd.py "2:.*'os' imported but unused"
  printf '%s\nint x;\n' "$licence" >lib/no_fault.c
  lint_it
  expect "status of the lint" 1 "$status"
  [ ${#findings[@]} -ge 7 ] || fail "only ${#findings[@]} faults are planted"
  for finding in "${findings[@]}"; do
    expect_line "the lint" "$finding" "$output"
  done
  ! grep -q no_fault.c <<<"$output" || fail "the lint finds a fault where there is none: $output"
  lint_it lib/wide.c lib/no_fault.c
  expect "status of the lint of named files" 1 "$status"
  ! grep -q lib/long.c <<<"$output" || fail "the lint of named files looks at others: $output"
  lint_it lib/no_fault.c
  expect "status of the lint of a file without faults" 0 "$status"
  rm "${planted[@]}" lib/no_fault.c
}

# The staged contents count, not those of the work tree.
the_hook_checks_what_is_staged() {
  git config core.hooksPath .githooks
  printf '%s\nint staged; \n' "$licence" >lib/staged.c
  git add lib/staged.c
  printf '%s\nint staged;\n' "$licence" >lib/staged.c
  if git commit -q -m staged >"$scratch/said" 2>&1; then
    fail "the hook let a fault pass that is staged"
  fi
  expect_line "the hook" 'lib/staged.c:2: white space' "$(cat "$scratch/said")"
  git add lib/staged.c
  printf '%s\nint unstaged; \n' "$licence" >lib/unstaged.c
  git commit -q -m staged >"$scratch/said" 2>&1 ||
    fail "the hook refused a good commit: $(cat "$scratch/said")"
  expect "what was committed" "staged" "$(git log -1 --format=%s)"
  git commit -q -a --amend -m again >"$scratch/said" 2>&1 ||
    fail "the hook refused a commit that changes no file: $(cat "$scratch/said")"
  rm -f lib/unstaged.c "$scratch/said"
}

a_missing_tool_is_skipped_unless_strict() {
  local name stubs=$scratch/stubs
  mkdir "$stubs"
  # Another version of the one, and no way to install anything.
  for name in clang-format clang-format-14 apt-get sudo; do
    printf '#!/bin/sh\necho "version 99.0"\nexit 1\n' >"$stubs/$name"
    chmod +x "$stubs/$name"
  done
  PATH=$stubs:$PATH lint_it lib/good.c
  expect "status without clang-format" 0 "$status"
  expect_line "without clang-format" '^format: skip: no clang-format 14 here' "$output"
  PATH=$stubs:$PATH lint_it --strict lib/good.c
  expect "status of --strict without clang-format" 1 "$status"
  expect_line "--strict without clang-format" '^format: FAILED' "$output"
}

a_tree_without_faults_passes
planted_faults_are_found
the_hook_checks_what_is_staged
a_missing_tool_is_skipped_unless_strict
end_test
