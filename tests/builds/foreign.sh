# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Builds for another C library and for other machines. Sourced by run.sh, with check, skip, top,
# cache and work.
# shellcheck disable=SC2154 # set by run.sh, and the machine by set_machine
: "${top:?}" "${cache:?}"

# Tests that do not run in QEMU's user emulation: the system calls that are QEMU's there; what takes
# more than ten seconds; and one that compiles the library once more, to count its locks.
# The manual's program is started by a script, not by Meson in the emulator.
not_emulated='unit-(os|page_set_steps|ring_recovery|many_slots|drain_all|locks)|model-manual'
# Tests of the smaller choice: words, bitmaps, rings, and passes through all rooms of the library.
few='unit-(abi|bitmap|bits|page_set_moves|read|ring|rules_take)|model-(bitmap|ring)'

# Prints the packages that a build needs and this machine lacks.
packages_of() {
  case $1 in
  install | reproducible | check_vcpus) ;;
  asan)
    command -v clang >/dev/null || say clang
    compgen -G '/usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.asan*' >/dev/null ||
      say libclang-rt-dev
    ;;
  debian | rpm | apk) packages_of_packaging "$1" ;;
  musl) command -v musl-gcc >/dev/null || say musl-tools ;;
  *)
    set_machine "$1"
    command -v "$compiler" >/dev/null || say "gcc-${triplet//_/-}"
    [ -e "/usr/$triplet/lib/crti.o" ] || say "libc6-dev-$1-cross"
    command -v "$emulator" >/dev/null || say qemu-user
    ;;
  esac
}

sysroot_of() {
  say "$cache/sysroot/$(. /etc/os-release && say "$VERSION_CODENAME")-$1"
}

# Fetches liburcu and cmocka for machines, with one fetch of the package lists for all of them, and
# unpacks them where the lab looks for them too. Arguments: machines.
fetch_sysroots() {
  local directory=$cache/apt/builds release machine deb sysroot
  local -a options packages
  release=$(. /etc/os-release && say "$VERSION_CODENAME")
  rm -rf "$directory"
  mkdir -p "$directory/lists/partial" "$directory/cache/archives/partial" "$directory/packages"
  : >"$directory/status"
  say "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror_of "$release")" \
    "$release main" >"$directory/sources.list"
  options=(-q -o "Dir::Etc::sourcelist=$directory/sources.list" -o Dir::Etc::sourceparts=-
    -o "Dir::State::Lists=$directory/lists" -o "Dir::State::status=$directory/status"
    -o "Dir::Cache=$directory/cache" -o "APT::Architectures=$(IFS=, && say "$*")"
    -o "APT::Sandbox::User=$(id -un)" -o Acquire::Languages=none -o Acquire::Retries=3)
  for machine; do
    packages+=({liburcu-dev,liburcu8,libcmocka-dev,libcmocka0}":$machine")
  done
  apt-get "${options[@]}" update </dev/null || return
  (cd "$directory/packages" && apt-get "${options[@]}" download "${packages[@]}" </dev/null) ||
    return
  for machine; do
    sysroot=$(sysroot_of "$machine")
    rm -rf "$sysroot"
    mkdir -p "$sysroot"
    for deb in "$directory"/packages/*_"$machine".deb; do
      dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$sysroot" ./usr/include ./usr/lib 2>/dev/null ||
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$sysroot" ./usr/lib
    done
    (cd "$directory/packages" && ls -- *_"$machine".deb) >"$sysroot/complete"
  done
}

# Installs and downloads what builds need, where that is possible. Arguments: the builds.
provide_for() {
  local build
  local -a packages machines=()
  mapfile -t packages < <(for build; do packages_of "$build"; done | sort -u)
  if [ ${#packages[@]} -gt 0 ] && command -v apt-get >/dev/null && as_root true; then
    apt_update_install "${packages[@]}"
  fi
  for build; do
    case $build in
    s390x | arm64 | ppc64el | i386)
      [ -e "$(sysroot_of "$build")/complete" ] || machines+=("$build")
      ;;
    esac
  done
  [ ${#machines[@]} = 0 ] || ! command -v dpkg-deb >/dev/null || fetch_sysroots "${machines[@]}"
}

# A directory of liburcu's headers, which are the same for every machine, and of the kernel's, with
# a library of liburcu's names, in which nothing works. All that the library needs of a C library is
# linked for. Arguments: the directory; the words "with kernel" for the kernel's headers.
make_stand_in() {
  local directory=$1 headers real name size kind
  headers=$(gcc -print-multiarch)
  mkdir -p "$directory/include" "$directory/lib"
  cp -r "/usr/include/$headers"/urcu* "$directory/include"
  [ "${2:-}" != "with kernel" ] || {
    cp -r /usr/include/linux /usr/include/asm-generic "$directory/include"
    cp -r "/usr/include/$headers/asm" "$directory/include"
  }
  real=$(gcc -print-file-name=liburcu-bp.so)
  readelf -W --dyn-syms "$real" | while read -r _ _ size kind _ _ index name _; do
    case $index:$kind in
    UND:* | Ndx:*) ;;
    *:FUNC) say "void $name(void);" "void $name(void) {}" ;;
    *:OBJECT) say "char ${name}[$size];" ;;
    *:TLS) say "__thread char ${name}[$size];" ;;
    esac
  done >"$directory/stand_in.c"
  grep -q urcu_bp_synchronize_rcu "$directory/stand_in.c"
  "$compiler" -w -shared -fPIC "$directory/stand_in.c" -o "$directory/lib/liburcu-bp.so" \
    -Wl,-soname,liburcu-bp.so.8
  cat >"$directory/lib/liburcu-bp.pc" <<END
Name: liburcu-bp
Description: a stand-in
Version: $(pkg-config --modversion liburcu-bp)
Libs: -L$directory/lib -lurcu-bp
Cflags: -isystem $directory/include
END
}

# Writes a cross file for the stand-in and the compiler.
write_stand_in_file() {
  cat <<END
[binaries]
c = '$compiler'
ar = 'ar'
strip = 'strip'
pkgconfig = 'pkg-config'
pkg-config = 'pkg-config'
[properties]
pkg_config_libdir = '$work/urcu/lib'
needs_exe_wrapper = true
[host_machine]
system = 'linux'
cpu_family = '$family'
cpu = '$cpu'
endian = '$endian'
END
}

# Compiles the library and links it with a stand-in for liburcu. Argument: that of make_stand_in.
library_with_stand_in() {
  command -v "$compiler" >/dev/null || skip "no $compiler here"
  make_stand_in "$work/urcu" "$@"
  write_stand_in_file >"$work/cross.ini"
  meson setup "$work/build" "$top" --cross-file "$work/cross.ini" -Dwerror=true --buildtype=debug
  ninja --quiet -C "$work/build" all
  readelf -h "$work/build/lib/libdirtylog.so" | grep Machine
}

build_musl() {
  set_machine "$(dpkg --print-architecture)"
  compiler=musl-gcc
  check "the library, linked with musl" library_with_stand_in "with kernel"
}

build_riscv64() {
  set_machine riscv64
  check "the library" library_with_stand_in
}

# Configures for the machine that set_machine chose. Argument: its name.
configure_for() {
  local sysroot
  sysroot=$(sysroot_of "$1")
  command -v "$compiler" >/dev/null || skip "no $compiler here (Debian package gcc-$triplet)"
  [ -e "/usr/$triplet/lib/crti.o" ] || skip "no C library here (Debian package libc6-dev-$1-cross)"
  [ -e "$sysroot/complete" ] || skip "liburcu and cmocka for $1 cannot be downloaded"
  write_cross_file "$sysroot" -L "/usr/$triplet" \
    -E "LD_LIBRARY_PATH=$sysroot/usr/lib/$multiarch" >"$work/cross.ini"
  meson setup "$work/build" "$top" --cross-file "$work/cross.ini" -Dtests=true -Dwerror=true \
    --buildtype=debug -Doptimization=1
}

library_for() {
  configure_for "$1"
  ninja --quiet -C "$work/build" lib/libdirtylog.a \
    "lib/$(cd "$work/build" && meson introspect --targets . | grep -o 'libdirtylog\.so\.[0-9.]*' |
      head -n 1)"
}

# Prints the names of tests, or the targets that they need. Arguments: "names" or "targets", a
# regular expression for names to take, one for names to leave out.
choose_tests() {
  meson introspect "$work/build" --tests --targets | python3 -c '
import json, os, re, sys
what, take, leave, directory = sys.argv[1:]
data, needed = json.load(sys.stdin), set()
for test in data["tests"]:
    if ("dirtylog:fast" in test["suite"] and re.fullmatch(take, test["name"]) and
            not re.fullmatch(leave, test["name"])):
        needed.update(test["depends"])
        if what == "names":
            print(test["name"])
for target in data["targets"]:
    if what == "targets" and target["id"] in needed:
        print(*(os.path.relpath(name, directory) for name in target["filename"]), sep="\n")
' "$1" "$2" "$3" "$work/build"
}

# Arguments: regular expressions, as of choose_tests.
compile_tests() {
  local -a targets
  mapfile -t targets < <(choose_tests targets "$@")
  [ ${#targets[@]} -gt 3 ]
  ninja --quiet -C "$work/build" "${targets[@]}"
}

# Runs tests in the emulator, and adds their results. Arguments: as of choose_tests.
emulate() {
  local -a names
  command -v "$emulator" >/dev/null || skip "no $emulator here (Debian package qemu-user)"
  mapfile -t names < <(choose_tests names "$@")
  DIRTYLOG_EMULATED=1 CMOCKA_MESSAGE_OUTPUT=stdout \
    meson test -C "$work/build" --no-rebuild -t 4 "${names[@]}" </dev/null || true
  [ -s "$work/build/meson-logs/testlog.json" ]
}

# Arguments: the machine, the tests to run.
build_for_machine() {
  set_machine "$1"
  check "the library" library_for "$1"
  [ -n "$passed" ] || return 0
  check "the tests, compiled" compile_tests "$2" "$not_emulated"
  [ -n "$passed" ] || return 0
  check "the tests, started" emulate "$2" "$not_emulated"
  [ -n "$passed" ] || return 0
  cat "$work/build/meson-logs/testlog.json" >>"$results"
}

build_s390x() {
  build_for_machine s390x '(unit|model)-.*'
}

build_arm64() {
  build_for_machine arm64 '(unit|model)-(?!differential).*'
}

build_ppc64el() {
  build_for_machine ppc64el "$few"
}

build_i386() {
  build_for_machine i386 "$few"
}
