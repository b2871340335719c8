#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Shows on a small library that baseline.sh lets no change of an ABI pass. Argument: the C compiler.
set -euo pipefail

baseline_sh=$(dirname "$(realpath "${BASH_SOURCE[0]}")")/baseline.sh
compiler=("$@")
command -v abidiff >/dev/null || {
  echo "skip: no abidiff here (Debian package abigail-tools)"
  exit 77
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/original" "$scratch/news"
cd "$scratch/original"

cat >toy.h <<'END'
enum dl_flag {
	DL_FLAG_ONE = 1,
};
struct dl_hidden;
struct dl_toy {
	unsigned size;
	unsigned pages;
};
int dl_first(struct dl_toy *toy, unsigned slot);
int dl_second(struct dl_hidden *hidden);
END
cat >toy.c <<'END'
#include "toy.h"
struct dl_hidden { int inside; };
int dl_first(struct dl_toy *toy, unsigned slot) { return (int)(toy->pages + slot); }
int dl_second(struct dl_hidden *hidden) { return hidden->inside; }
END
printf 'TOY_1 {\nglobal:\n\tdl_*;\nlocal:\n\t*;\n};\n' >toy.map
printf '## Not released yet\n\n- ABI 1: new.\n\n## 0.1\n\n- ABI 2: not here.\n' \
  >"$scratch/news/good.md"
printf '## Not released yet\n\n## 0.1\n\n- ABI 1: new.\n' >"$scratch/news/old.md"

# Arguments: the directory of a toy, its NEWS.md, options of baseline.sh. Sets output and status.
run_baseline() {
  local toy=$scratch/$1 news=$scratch/news/$2.md
  shift 2
  "${compiler[@]}" -g -O1 -shared -fPIC -o "$toy/libtoy.so" "$toy/toy.c" \
    -Wl,--version-script="$toy/toy.map"
  status=0
  output=$("$baseline_sh" --library "$toy/libtoy.so" --headers "$toy" --news "$news" \
    --baseline "$scratch/record" "$@" 2>&1) || status=$?
}

# Arguments: what is done, the status wanted, a line of the output.
expect() {
  [ "$status" = "$2" ] && grep -qE -e "$3" <<<"$output" && return
  printf 'FAILED: %s: exit status %s, wanted %s and "%s"\n%s\n' "$1" "$status" "$2" "$3" "$output"
  failed=yes
}

# A changed copy of the toy does not pass. Arguments: the change, a line of output, a sed script.
refuse() {
  rm -rf "$scratch/changed"
  cp -r "$scratch/original" "$scratch/changed"
  sed -i -e "$3" "$scratch"/changed/toy.*[hcp]
  ! diff -rq "$scratch/original" "$scratch/changed" --exclude='*.so' >/dev/null || failed=yes
  run_baseline changed good
  expect "$1" 1 "$2"
}

failed=
run_baseline original good --renew
expect "the first record" 0 'This is ABI 1 now'
run_baseline original good
expect "the ABI as recorded" 0 '^ABI 1$'
run_baseline original old
expect "an ABI that only an older section of NEWS.md names" 1 'lacks a line "- ABI 1:'
run_baseline original good --renew
expect "nothing to renew" 0 'nothing differs'

refuse "a member's type" "type of 'unsigned int pages' changed" 's/unsigned pages/long pages/'
refuse "a member more" "1 data member insertion" 's/\(unsigned pages;\)/\1 int more;/'
refuse "members that change places" "offset changed" \
  '/unsigned size;/d; s/\(unsigned pages;\)/\1 unsigned size;/'
refuse "a member's name" "pages.* changed|changed.*pages" 's/\bpages\b/frames/'
refuse "a function less" "1 Removed function" '/dl_second/d'
refuse "a function more" "1 Added function" \
  's/^\(int dl_\)second\(.*\)$/&\n\1third\2/'
refuse "a parameter's type" "parameter 2 of type 'unsigned int' changed" \
  's/unsigned slot/long slot/'
refuse "a return type" "return type changed" 's/^int dl_first/long dl_first/'
refuse "another symbol version" "Removed function" 's/TOY_1/TOY_2/'
refuse "a constant's value" '^\+DL_FLAG_ONE = 2' 's/ONE = 1/ONE = 2/'
refuse "a constant more" '^\+DL_FLAG_TWO = 2' 's/\(DL_FLAG_\)ONE = 1,/&\n\t\1TWO = 2,/'

# A structure that no caller compiles in is not part of the ABI.
rm -rf "$scratch/changed"
cp -r "$scratch/original" "$scratch/changed"
sed -i 's/int inside;/int inside, more;/' "$scratch/changed/toy.c"
run_baseline changed good
expect "a member of an opaque structure" 0 '^ABI 1$'

sed -i 's/\bpages\b/frames/' "$scratch/record"/*.abi
run_baseline original good
expect "a record that was edited" 1 'edited by hand'
run_baseline original good --renew
expect "the next number" 0 'This is ABI 2 now'
run_baseline original good
expect "a number without its line in NEWS.md" 1 'lacks a line "- ABI 2:'
[ -z "$failed" ]
