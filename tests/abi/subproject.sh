#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# The project as a Meson subproject of another one, from a directory and by a wrap file: its
# dependency is found, shared or static as the other project wants, and neither tests nor examples
# are built. So is libdirtylog-model where it is wanted. Argument: this project's directory.
set -euo pipefail

top=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

quietly()
{
  "$@" >"$work/log" 2>&1 || { cat "$work/log" && exit 1; }
}

# Arguments: a directory for the other project, how it wants the library.
write_project()
{
  mkdir -p "$1/subprojects"
  cat >"$1/meson.build" <<END
project('vmm', 'c')
executable('vmm', 'vmm.c', dependencies: [dependency('dirtylog'$2), dependency('dirtylog-cpp'$2)])
END
  cat >"$1/vmm.c" <<'END'
#include <dirtylog/dirtylog.h>

#if !__has_include(<dirtylog/dirtylog.hpp>)
#error "dirtylog-cpp does not find its header"
#endif

int main(void)
{
	return dl_library_version() != DL_VERSION;
}
END
}

# Arguments: the other project, shared or static.
build_and_run()
{
  local project=$1 kind=$2 build=$1/build-$2 needed
  # Forced, because this machine may have a dirtylog installed. An option that asks for the tests
  # is of no use in a subproject.
  quietly meson setup "$build" "$project" "-Ddefault_library=$kind" --buildtype=plain \
    --force-fallback-for=dirtylog -Ddirtylog:tests=true
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
}

write_project "$work/directory" ", fallback: 'dirtylog'"
ln -s "$top" "$work/directory/subprojects/dirtylog"
build_and_run "$work/directory" shared
build_and_run "$work/directory" static

# An archive in the cache of packages is not downloaded.
write_project "$work/wrap" ''
wrapped=$work/wrap/subprojects
mkdir "$wrapped/packagecache"
tar -C "$top" --transform 's,^,dirtylog/,' -czf "$wrapped/packagecache/dirtylog.tar.gz" \
  meson.build meson_options.txt include lib examples/bindings/cpp/dirtylog
cat >"$wrapped/dirtylog.wrap" <<END
[wrap-file]
directory = dirtylog
source_url = https://example.org/dirtylog.tar.gz
source_filename = dirtylog.tar.gz
source_hash = $(sha256sum "$wrapped/packagecache/dirtylog.tar.gz" | cut -d' ' -f1)

[provide]
dependency_names = dirtylog, dirtylog-cpp
END
build_and_run "$work/wrap" shared

# Beside it, without cmocka: the model for the other project's tests.
project=$work/directory
cat >"$project/meson.build" <<'END'
project('vmm', 'c')
executable('vmm', 'vmm.c', dependencies: [
  dependency('dirtylog', fallback: 'dirtylog'), dependency('dirtylog-model', fallback: 'dirtylog')])
END
cat >"$project/vmm.c" <<'END'
#include <dirtylog/model.h>

int main(void)
{
	return dlm_library_version() != dl_library_version();
}
END
quietly meson setup "$project/model" "$project" -Ddirtylog:model=enabled \
  --force-fallback-for=dirtylog
quietly ninja -C "$project/model"
"$project/model/vmm"
if ninja -C "$project/model" -t targets all | grep -E 'cmocka|examples/'; then
  printf 'a subproject with the model builds tests or examples\n'
  exit 1
fi
