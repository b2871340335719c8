# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# A scratch repository for the tests of this room, and their checks. Sourced with the root of this
# tree as $1. Sets source, its absolute path, and scratch, a directory that is removed at the end.

# shellcheck disable=SC2034 # for the tests
source=$(realpath "$1")
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_NAME=test GIT_AUTHOR_EMAIL=test@example.org
export GIT_COMMITTER_NAME=test GIT_COMMITTER_EMAIL=test@example.org
# A hook that runs the tests has them set, for another repository.
unset GIT_DIR GIT_INDEX_FILE GIT_WORK_TREE GIT_PREFIX
command -v git >/dev/null || {
  echo "skip: no git here"
  exit 77
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failures=0

# Arguments: what is wrong.
fail() {
  printf 'FAILED: %s\n' "$*"
  failures=$((failures + 1))
}

# Arguments: what is compared, the expected text, the text seen.
expect() {
  [ "$2" = "$3" ] || fail "$1"$'\n'"expected: $2"$'\n'"seen:     $3"
}

# Arguments: what is searched, a line of it (an extended regular expression), the text.
expect_line() {
  grep -qE -e "$2" <<<"$3" || fail "$1"$'\n'"expected a line: $2"$'\n'"seen:"$'\n'"$3"
}

# Commits all of the current directory, in a repository that is made if there is none.
# Argument: the message.
commit_all() {
  [ -d .git ] || git init -q -b main .
  git add -A
  git commit -q -m "$1"
}

end_test() {
  [ "$failures" = 0 ] || exit 1
}
