#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Checks format, spelling and style of the tree without building it.
set -euo pipefail

usage() {
  cat <<'END'
Usage: tests/lint.sh [option]... [FILE]...

Checks files of this tree; default: all of them. Prints the findings, and one line a check. The exit
status is 1 if there is a finding. A check whose tool is not installed is skipped.

  places    no file outside the directories and the few files that belong at the top
  text      licence line, 100 columns, 500 lines a file, white space at line ends
  format    C and C++, with clang-format 14 and the tree's .clang-format
  spelling  codespell, with .codespellrc
  shell     shellcheck
  python    pyflakes

  --staged        check the staged files, as they are staged: for a pre-commit hook
  --fix           let clang-format rewrite the files first
  --strict        install missing tools (with apt-get); one that stays missing is a failure
  --results FILE  write the checks' results there as a meson test log, for summary.py
  --help          this text
END
}

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=tests/setup.sh
. "$top/tests/setup.sh"

usage_error() {
  say "tests/lint.sh: $*; see tests/lint.sh --help" >&2
  exit 2
}

staged=
fix=
strict=
results=
named=()
while [ $# -gt 0 ]; do
  option=$1
  shift
  case $option in
  --staged) staged=yes ;;
  --fix) fix=yes ;;
  --strict) strict=yes ;;
  --results)
    [ $# -gt 0 ] || usage_error "--results needs a value"
    results=$(realpath -m "$1")
    shift
    ;;
  --help)
    usage
    exit 0
    ;;
  -*) usage_error "unknown option $option" ;;
  *)
    [ -f "$option" ] || usage_error "no file $option"
    option=$(realpath "$option")
    [ "$option" != "${option#"$top"/}" ] || usage_error "$option is not in $top"
    named+=("${option#"$top"/}")
    ;;
  esac
done
[ -z "$staged" ] || [ ${#named[@]} = 0 ] || usage_error "--staged chooses the files: name none"
[ -z "$staged" ] || [ -z "$fix" ] || usage_error "--fix does not change what is staged"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Prints the files to check, each ended by NUL.
chosen_files() {
  if [ ${#named[@]} -gt 0 ]; then
    printf '%s\0' "${named[@]}"
  elif [ -n "$staged" ]; then
    git diff --cached --name-only --no-renames --diff-filter=d -z
  elif git -C "$top" rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git -C "$top" ls-files --cached --others --exclude-standard -z
  else
    # A source archive.
    (cd "$top" && find . \( -name .git -o -path './build*' \) -prune -o -type f -printf '%P\0')
  fi
}

# Sorts the files by kind.
sort_files() {
  local file
  c_files=() scripts=() python_files=() text_files=() spelled_files=() strange_files=()
  while IFS= read -r -d '' file; do
    # Deleted, and not yet staged as such.
    [ -f "$file" ] || continue
    case $file in
    .ci/* | .githooks/* | doc/* | examples/* | include/dirtylog/* | lib/* | tests/*) ;;
    .clang-format | .codespellrc | .editorconfig | .gitignore | LICENSE) ;;
    CONTRIBUTING.md | NEWS.md | README.md | SECURITY.md | meson.build | meson_options.txt) ;;
    *) strange_files+=("$file") ;;
    esac
    case $file in
    tests/fuzz/corpus/*) continue ;;
    *.c | *.h | *.cpp | *.hpp) c_files+=("$file") ;;
    *.sh | .ci/run | .githooks/*) scripts+=("$file") ;;
    *.py) python_files+=("$file") ;;
    *.S | meson.build | */meson.build | meson_options.txt | *.md) ;;
    *.map | *.gp | LICENSE)
      spelled_files+=("$file")
      continue
      ;;
    *) continue ;;
    esac
    text_files+=("$file")
    spelled_files+=("$file")
  done
}

clang_format_14() {
  local name
  for name in clang-format-14 clang-format; do
    if "$name" --version 2>/dev/null | grep -q 'version 14\.'; then
      say "$name"
      return
    fi
  done
  return 1
}

# The module of the python3 in use may be absent though Debian's program is there.
pyflakes() {
  if command -v pyflakes3 >/dev/null; then
    pyflakes3 "$@"
  else
    python3 -m pyflakes "$@"
  fi
}

# Prints "Debian package: what it is" for each tool that is missing.
missing_tools() {
  clang_format_14 >/dev/null || say 'clang-format-14: clang-format 14'
  command -v codespell >/dev/null || say 'codespell: codespell'
  command -v shellcheck >/dev/null || say 'shellcheck: shellcheck'
  pyflakes --version >/dev/null 2>&1 || say 'pyflakes3: pyflakes'
}

install_tools() {
  local -a packages
  mapfile -t packages < <(missing_tools | cut -d: -f1)
  [ ${#packages[@]} -gt 0 ] || return 0
  say "Installing: ${packages[*]}"
  apt_update_install "${packages[@]}" || true
}

# A fuzzer's finds, and what else a command leaves in the tree, are soon added by accident.
check_places() {
  [ ${#strange_files[@]} = 0 ] || {
    printf '%s: not a place for files\n' "${strange_files[@]}"
    return 1
  }
}

check_text() {
  python3 tests/lint_text.py "${text_files[@]}"
}

check_format() {
  local -a differ
  [ ${#c_files[@]} -gt 0 ] || return 0
  "$(clang_format_14)" --dry-run -Werror "${c_files[@]}" >"$scratch/clang-format" 2>&1 && return
  mapfile -t differ < <(sed -n 's/:[0-9]*:[0-9]*: error: code should be clang-formatted.*//p' \
    "$scratch/clang-format" | sort -u)
  if [ ${#differ[@]} -gt 0 ]; then
    printf '%s: not as clang-format 14 writes it; tests/lint.sh --fix\n' "${differ[@]}"
  else
    cat "$scratch/clang-format"
  fi
  return 1
}

check_spelling() {
  [ ${#spelled_files[@]} = 0 ] || codespell "${spelled_files[@]}"
}

check_shell() {
  [ ${#scripts[@]} = 0 ] || shellcheck -x -f gcc "${scripts[@]}"
}

check_python() {
  [ ${#python_files[@]} = 0 ] || pyflakes "${python_files[@]}"
}

# Prints and records a result. Arguments: the check, OK, SKIP or FAIL, a file with its output.
report() {
  case $2 in
  OK) say "$1: ok" ;;
  SKIP) say "$1: $(cat "$3")" ;;
  FAIL)
    # summary.py prints it otherwise.
    [ -n "$results" ] || cat "$3"
    say "$1: FAILED"
    failed=yes
    ;;
  esac
  [ -z "$results" ] || python3 -c '
import json, sys
name, result, path = sys.argv[1:]
with open(path, encoding="utf-8", errors="replace") as output:
    print(json.dumps({"name": "lint / " + name, "result": result, "stdout": output.read(),
                      "returncode": int(result == "FAIL")}))
' "$@" >>"$results"
}

# Arguments: the check, and its tool as missing_tools names it, or nothing.
run_check() {
  local output=$scratch/$1
  if [ -n "$2" ] && grep -q ": $2\$" <<<"$missing"; then
    say "skip: no $2 here" >"$output"
    if [ -n "$strict" ]; then
      report "$1" FAIL "$output"
    else
      report "$1" SKIP "$output"
    fi
  elif "check_$1" >"$output" 2>&1; then
    report "$1" OK "$output"
  else
    report "$1" FAIL "$output"
  fi
}

chosen_files >"$scratch/files"
cd "$top"
if [ -n "$staged" ]; then
  mkdir "$scratch/tree"
  git checkout-index --all --prefix="$scratch/tree/"
  cd "$scratch/tree"
fi
sort_files <"$scratch/files"
[ -z "$strict" ] || install_tools
missing=$(missing_tools)
[ -z "$results" ] || : >"$results"
if [ -n "$fix" ] && [ ${#c_files[@]} -gt 0 ]; then
  clang_format=$(clang_format_14) || die "--fix needs clang-format 14"
  "$clang_format" -i "${c_files[@]}"
fi
failed=
run_check places ''
run_check text ''
run_check format 'clang-format 14'
run_check spelling codespell
run_check shell shellcheck
run_check python pyflakes
[ -z "$failed" ]
