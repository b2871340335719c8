#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# The project as a Meson subproject of another one: its dependency is found, shared or static as the
# other project wants, and neither tests nor examples are built. Argument: this project's directory.
set -euo pipefail

top=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir "$work/subprojects"
ln -s "$top" "$work/subprojects/dirtylog"
cat >"$work/meson.build" <<'END'
project('vmm', 'c')
executable('vmm', 'vmm.c', dependencies: dependency('dirtylog', fallback: 'dirtylog'))
END
cat >"$work/vmm.c" <<'END'
#include <dirtylog/dirtylog.h>

int main(void)
{
	return dl_library_version() != DL_VERSION;
}
END

quietly()
{
  "$@" >"$work/log" || { cat "$work/log" && exit 1; }
}

for kind in shared static; do
  build=$work/$kind
  # Forced, because this machine may have a dirtylog installed.
  quietly meson setup "$build" "$work" "-Ddefault_library=$kind" --force-fallback-for=dirtylog
  quietly ninja -C "$build"
  "$build/vmm"
  needed=$(readelf -d "$build/vmm" | grep -c 'libdirtylog' || true)
  case $kind:$needed in
  shared:0 | static:[1-9]*)
    printf 'default_library=%s: the program needs libdirtylog.so %s times\n' "$kind" "$needed"
    exit 1
    ;;
  esac
  if ninja -C "$build" -t targets all | grep -E 'cmocka|tests/|examples/'; then
    printf 'a subproject builds tests or examples\n'
    exit 1
  fi
done
