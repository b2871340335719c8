# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Builds for this machine. Sourced by run.sh, with check, skip, top and work.
# shellcheck disable=SC2154 # work and passed are set by run.sh
: "${top:?}"

program='#include <dirtylog/dirtylog.h>
int main(void)
{
	char why[200];

	return dl_library_version() != DL_VERSION || dl_probe(-1, 0, 0, why, sizeof(why)) >= 0;
}'

# Copies what a package builds from. Argument: where to.
copy_tree() {
  mkdir -p "$1"
  tar -C "$top" --exclude=__pycache__ -cf - meson.build meson_options.txt README.md NEWS.md \
    LICENSE doc include lib examples tests | tar -xf - -C "$1"
}

# Hides cmocka: a directory of .pc files with liburcu's only, and no CMake, which Meson asks next.
without_cmocka() {
  mkdir -p "$work/pc"
  cp "$(pkg-config --variable=pcfiledir liburcu-bp)/liburcu-bp.pc" "$work/pc"
  export PKG_CONFIG_LIBDIR=$work/pc CMAKE=$work/no-cmake
}

install_alone() {
  local built installed version
  without_cmocka
  if pkg-config --exists cmocka; then
    say "cmocka is found all the same"
    return 1
  fi
  copy_tree "$work/tree"
  meson setup "$work/build" "$work/tree" --prefix=/usr --libdir=lib -Dwerror=true
  meson install -C "$work/build" --destdir "$work/root"
  built=$(cd "$work/build" && find . -name '*.o' ! -path './lib/*')
  if [ -n "$built" ]; then
    say "built, and not part of the library: $built"
    return 1
  fi
  version=$(meson introspect --projectinfo "$work/build" |
    sed -n 's/.*"version": "\([0-9.]*\)".*/\1/p')
  # The pages of the manual have a test of their own.
  installed=$(cd "$work/root/usr" &&
    find . ! -type d ! -path './share/man/*' -printf '%P\n' | LC_ALL=C sort)
  diff -u <(cat <<END
include/dirtylog/dirtylog.h
include/dirtylog/dirtylog.hpp
include/dirtylog/os.h
lib/libdirtylog.a
lib/libdirtylog.so
lib/libdirtylog.so.0
lib/libdirtylog.so.$version
lib/pkgconfig/dirtylog.pc
END
  ) <(say "$installed")
}

# Builds and runs a program. Argument: options of pkg-config.
build_with_pkg_config() {
  local flags
  without_cmocka
  export PKG_CONFIG_LIBDIR=$work/root/usr/lib/pkgconfig:$work/pc PKG_CONFIG_SYSROOT_DIR=$work/root
  flags=$(pkg-config --cflags --libs "$@" dirtylog)
  say "$program" >"$work/program.c"
  # shellcheck disable=SC2086 # one word per flag
  gcc -Wall -Werror "$work/program.c" -o "$work/program" $flags
  LD_LIBRARY_PATH=$work/root/usr/lib "$work/program"
}

use_shared() {
  build_with_pkg_config
  readelf -d "$work/program" | grep 'libdirtylog\.so\.0'
}

use_static() {
  rm "$work/root/usr/lib/"libdirtylog.so*
  build_with_pkg_config --static
  if readelf -d "$work/program" | grep libdirtylog; then
    return 1
  fi
}

build_install() {
  check "the library alone" install_alone
  [ -n "$passed" ] || return 0
  check "a program finds it by pkg-config" use_shared
  check "a program links the static one" use_static
}

same_in_two_directories() {
  local directory file
  for directory in one "the second/directory"; do
    copy_tree "$work/$directory"
    meson setup "$work/$directory/build" "$work/$directory" --prefix=/usr
    ninja --quiet -C "$work/$directory/build"
  done
  for file in libdirtylog.a libdirtylog.so; do
    cmp "$work/one/build/lib/$file" "$work/the second/directory/build/lib/$file"
  done
}

build_reproducible() {
  check "two directories, the same files" same_in_two_directories
}

with_check_vcpus() {
  meson setup "$work/build" "$top" -Dcheck_vcpus=true -Dwerror=true
  ninja --quiet -C "$work/build"
  nm "$work/build/lib/libdirtylog.a" | grep ' T dli_vcpu_check$'
}

build_check_vcpus() {
  check "check_vcpus" with_check_vcpus
}

shared_with_asan() {
  say 'int main(void) { return 0; }' >"$work/empty.c"
  command -v clang >/dev/null || skip "no clang here"
  clang -fsanitize=address "$work/empty.c" -o "$work/empty" ||
    skip "clang has no address sanitizer here (Debian package libclang-rt-dev)"
  CC=clang meson setup "$work/build" "$top" -Db_sanitize=address -Dwerror=true --buildtype=debug
  ninja --quiet -C "$work/build"
  nm -D "$work/build/lib/libdirtylog.so" | grep ' U __asan_'
  say "$program" >"$work/program.c"
  clang -fsanitize=address -I "$top/include" "$work/program.c" -o "$work/program" \
    -L "$work/build/lib" -ldirtylog -Wl,-rpath,"$work/build/lib"
  "$work/program"
}

build_asan() {
  check "a shared library with clang's sanitizer" shared_with_asan
}
