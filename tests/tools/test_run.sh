#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# The arguments of tests/run.sh, the rooms that it knows, and those that it chooses for a change.
# Argument: the root of this tree.
set -euo pipefail

# shellcheck source=tests/tools/scratch.sh
. "$(dirname "${BASH_SOURCE[0]}")/scratch.sh"

cd "$scratch"
mkdir tests
cp "$source/tests/run.sh" "$source/tests/setup.sh" "$source/tests/rooms.sh" tests
run=$scratch/tests/run.sh

# Sets status, and output from both streams. Arguments: those of run.sh.
run_it() {
  status=0
  output=$("$run" "$@" 2>&1) || status=$?
}

# Sets chosen, the rooms for what differs, in one line. Arguments: more options.
choose() {
  run_it --changed --list "$@"
  expect "status of --changed --list $*" 0 "$status"
  chosen=$(sed -n 's/^  \([a-z]*\)  .*/\1/p' <<<"$output" | paste -sd' ')
}

# Arguments: a path, the rooms that its change concerns.
expect_rooms() {
  mkdir -p "$(dirname "$1")"
  echo "changed" >>"$1"
  choose
  expect "rooms for a change of $1" "$2" "$chosen"
  git clean -qfd
  git checkout -q .
}

help_is_printed() {
  run_it --help
  expect "status of --help" 0 "$status"
  expect_line "the help" '^Usage: tests/run.sh' "$output"
  expect_line "the help" '--changed' "$output"
  expect_line "the rooms of the help" '^  unit  ' "$output"
}

# Argument: a line that says what is wrong. The rest: arguments of run.sh.
expect_usage_error() {
  local line=$1
  shift
  run_it "$@"
  expect "status of run.sh $*" 2 "$status"
  expect_line "output of run.sh $*" "$line" "$output"
}

wrong_arguments_are_usage_errors() {
  expect_usage_error 'unknown room nonsense' nonsense
  expect_line "an unknown room lists the rooms" '^  migrations  ' "$output"
  expect_usage_error 'unknown room unit.kvm' unit.kvm
  expect_usage_error 'unknown room ;' ''
  expect_usage_error 'bench has no tests; tests/bench/run.sh' bench
  expect_usage_error 'mutation has no tests; tests/mutation/mutants.py' tests/mutation/
  expect_usage_error 'unknown option --nonsense' --nonsense
  expect_usage_error 'unknown option --changed=' --changed=
  expect_usage_error 'unknown variant odd' --variant odd
  expect_usage_error '--cc needs a value' --cc
  expect_usage_error '--changed chooses the rooms' --changed unit
  expect_usage_error 'unknown revision no-such-branch' --changed=no-such-branch --list
}

rooms_are_named() {
  run_it --list kvm unit
  expect "rooms, as they were named" $'kvm\nunit' "$output"
  run_it --list tests/unit/ unit examples/precopy
  expect "rooms by their directories, each once" $'unit\nexamples' "$output"
  run_it --list
  expect_line "all rooms" '^  abi  ' "$output"
}

# Each room that a meson.build names is one that run.sh runs, and each room is in tests/README.md.
every_room_is_known() {
  local room directory
  local -a rooms
  mapfile -t rooms < <(sed -n "s/.*suite: \['\([a-z]*\)'.*/\1/p" "$source"/tests/*/meson.build \
    "$source"/examples/meson.build "$source"/examples/*/meson.build | sort -u)
  [ ${#rooms[@]} -gt 5 ] || fail "only these rooms are in meson.build files: ${rooms[*]}"
  for room in "${rooms[@]}"; do
    run_it --list "$room"
    expect "run.sh --list $room" "$room" "$output"
  done
  for directory in "$source"/tests/*/; do
    room=$(basename "$directory")
    [ "$room" != __pycache__ ] || continue
    run_it --list "$room"
    grep -qE "^$room$|has no tests" <<<"$output" || fail "run.sh does not know tests/$room"
    grep -qE "^\| \`$room\` " "$source/tests/README.md" || fail "tests/README.md lacks $room"
  done
  if grep -nE "suite: '|suite: \['[a-z]+'\]" "$source"/tests/*/meson.build \
    "$source"/examples/meson.build "$source"/examples/*/meson.build; then
    fail "a test is in its room only; it needs \"fast\" or \"full\" too"
  fi
}

# The table for changes names rooms that exist, and files of the tree where it names files.
the_table_is_right() {
  local pattern row room
  # shellcheck disable=SC2034 # for rooms.sh
  top=$scratch
  # shellcheck source=tests/rooms.sh
  . "$source/tests/rooms.sh"
  while read -r pattern row; do
    for room in $row; do
      case $room in
      all | library | -) ;;
      *) is_room "$room" || fail "$room, beside $pattern, is no room" ;;
      esac
    done
    # A row for what is gone would hide that its successor has none.
    [ -z "$pattern" ] || compgen -G "$source/$pattern" >/dev/null || fail "no file matches $pattern"
  done < <(changes_table)
}

changes_choose_rooms() {
  local library='unit migrations vmm simulation race'
  local all='unit model migrations vmm simulation race tuning convergence process'
  all+=' fuzz kvm lab abi builds examples tools lint'
  git checkout -q -b work
  expect_rooms lib/ring/ring.c "$library tuning process fuzz kvm examples lint"
  expect_rooms lib/kvm/os.c "$library process fuzz kvm lab builds examples lint"
  expect_rooms lib/api/log.c "$library process fuzz kvm abi examples lint"
  expect_rooms lib/new/file.c "$all"
  expect_rooms lib/new.c "$all"
  expect_rooms lib/meson.build "$all"
  expect_rooms include/dirtylog/dirtylog.h "$all"
  expect_rooms tests/new/test_new.c "$all"
  expect_rooms tests/unit/test_ring.c "unit lint"
  expect_rooms "tests/unit/test_with space.c" "unit lint"
  expect_rooms tests/kvm/rig.c "model vmm process kvm lab lint"
  expect_rooms doc/embedding.md "process abi lint"
  expect_rooms doc/manual/pages/dl_probe.3.page "abi lint"
  expect_rooms doc/architecture.md "lint"
  expect_rooms README.md "abi lint"
  expect_rooms tests/mutation/mutants.py "lint"
  expect_rooms tests/run.sh "tools lint"
  git checkout -q main
}

# Committed, staged, unstaged, untracked, renamed and deleted files count; ignored ones do not.
every_kind_of_change_counts() {
  git checkout -q -b kinds
  choose
  expect "rooms without a change" '' "$chosen"

  mkdir -p tests/abi tests/race tests/fuzz
  echo committed >tests/abi/layout.c
  commit_all kinds
  echo staged >tests/race/pair.h
  git add tests/race/pair.h
  echo untracked >tests/fuzz/fuzz.h
  echo '# changed' >>tests/run.sh
  choose
  expect "rooms of four kinds of change" "race fuzz abi tools lint" "$chosen"

  echo 'tests/fuzz/' >.gitignore
  git rm -q --cached tests/race/pair.h
  rm tests/race/pair.h
  git checkout -q tests/run.sh
  choose
  expect "rooms without ignored files" "abi lint" "$chosen"

  # main goes on meanwhile, and its changes are not of this branch.
  git stash -q -u
  git checkout -q main
  mkdir -p tests/process
  echo other >tests/process/tour.c
  commit_all other
  git checkout -q kinds
  choose
  expect "rooms since the merge base" "abi lint" "$chosen"
  choose --fast
  expect_line "the base is named" "merge base with main" "$output"

  git mv tests/abi/layout.c tests/unit-layout.c
  run_it --changed=HEAD --list
  expect_line "a file that moved away concerns its old room" '^  abi  +tests/abi/layout.c' "$output"
  git reset -q --hard
  git checkout -q main
  choose
  expect "rooms on main without a change" '' "$chosen"
}

nothing_to_test_is_success() {
  run_it --changed
  expect "status without a change" 0 "$status"
  expect_line "output without a change" '^0 passed, 0 failed, 0 skipped$' "$output"
}

outside_a_repository_changed_is_a_usage_error() {
  local run=$scratch/archive/tests/run.sh
  mkdir archive
  cp -r tests archive
  GIT_CEILING_DIRECTORIES=$scratch expect_usage_error 'needs git' --changed
}

commit_all all
help_is_printed
wrong_arguments_are_usage_errors
rooms_are_named
every_room_is_known
the_table_is_right
changes_choose_rooms
every_kind_of_change_counts
nothing_to_test_is_success
outside_a_repository_changed_is_a_usage_error
end_test
