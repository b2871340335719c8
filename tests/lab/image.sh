# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Builds the initramfs of a lab machine: the library, its tests and examples, the shared objects
# that they need, all for the machine's architecture, an init process, and the plan that it follows.
# Source after setup.sh and kernels.sh, with build_dir set, and with only set to a regular
# expression for the names of tests.
: "${top:?}" "${cache:?}" "${build_dir:?}" "${only:?}"
# shellcheck source=tests/builds/machines.sh
. "$top/tests/builds/machines.sh"

# Programs that the plan runs beside tests.
shown_programs=(tests/lab/answers examples/probe examples/precopy/precopy)

# Timeouts are this many times those of a real machine.
patience=10

# Argument: a Debian architecture. Sets triplet, cpu, compiler and native.
choose_architecture() {
  case $1 in
  arm64 | amd64) set_machine "$1" ;;
  *) die "the lab does not support $1" ;;
  esac
  native=
  [ "$(dpkg --print-architecture)" != "$1" ] || native=yes
  [ -z "$native" ] || compiler=gcc
}

# Prints the packages that an architecture's lab needs and this machine lacks.
lab_packages() {
  choose_architecture "$1"
  command -v cpio >/dev/null || say cpio
  command -v zstd >/dev/null || say zstd
  command -v xz >/dev/null || say xz-utils
  [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || say debian-archive-keyring
  command -v "qemu-system-$cpu" >/dev/null || case $1 in
  arm64) say qemu-system-arm ;;
  amd64) say qemu-system-x86 ;;
  esac
  [ -n "$native" ] || command -v "$compiler" >/dev/null || say "gcc-${triplet//_/-}"
  [ -n "$native" ] || [ -e "/usr/$triplet/lib/libc.so.6" ] || say "libc6-dev-$1-cross"
}

# Fetches the libraries of another architecture, from this machine's release, like the compiler.
fetch_sysroot() {
  local architecture=$1 release
  release=$(. /etc/os-release && say "$VERSION_CODENAME")
  sysroot=$cache/sysroot/$release-$architecture
  fetch "$sysroot" "$architecture" "$release" '^lib(urcu|cmocka)' \
    liburcu-dev libcmocka-dev -- './usr/include/*' './usr/lib/*' ||
    die "liburcu and cmocka for $architecture cannot be downloaded"
}

# Builds what the machines need of the tree: the rest would take twice as long. Arguments: options.
build_lab_tree() {
  local targets
  configure_tree gcc "$built" "$@" || return
  mapfile -t targets < <(kvm_targets)
  build_targets "$built" lab-programs "${shown_programs[@]}" "${targets[@]}"
}

# Builds the tree and the init process. Argument: a Debian architecture. Sets built.
build_for() {
  local options=(-Dwerror=false)
  choose_architecture "$1"
  built=$build_dir-$cpu
  sysroot=
  mkdir -p "$built"
  if [ -z "$native" ]; then
    fetch_sysroot "$1"
    write_cross_file "$sysroot" >"$built/lab-cross.ini"
    options+=(--cross-file "$built/lab-cross.ini")
  fi
  (build_lab_tree "${options[@]}" >"$built/lab-build.log" 2>&1) || {
    tail -n 30 "$built/lab-build.log" >&2
    return 1
  }
  "$compiler" -O2 -Wall -Wextra -static -o "$built/lab-init" "$top/tests/lab/init.c"
}

# Prints "name seconds path" for each test program that needs a real /dev/kvm. Argument: its meson
# suite, or a prefix of its name.
kvm_programs() {
  meson introspect --tests "$built" | python3 -c '
import json, sys
for test in json.load(sys.stdin):
    suites = [suite.partition(":")[2] for suite in test["suite"]]
    wanted = sys.argv[1] in suites or test["name"].startswith(sys.argv[1])
    if wanted and "fast" in suites:
        print(test["name"], test["timeout"], test["cmd"][0])' "$1"
}

# Prints the targets of all of these.
kvm_targets() {
  local path top_of_build
  top_of_build=$(realpath "$built")
  { kvm_programs kvm && kvm_programs model-differential; } | while read -r _ _ path; do
    say "${path#"$top_of_build/"}"
  done
}

# Prints the lab's own programs (see tests/lab/meson.build) in the format of kvm_programs.
lab_programs() {
  local program
  for program in "$built"/tests/lab/lab-*; do
    [ ! -f "$program" ] || say "${program##*/} 60 $program"
  done
}

# Prints the path of a shared object for the architecture.
find_library() {
  local directory
  for directory in "$built/lib" ${sysroot:+"$sysroot/usr/lib/$triplet"}; do
    [ ! -e "$directory/$1" ] || {
      say "$directory/$1"
      return
    }
  done
  directory=$("$compiler" -print-file-name="$1")
  [ -e "$directory" ] || die "no $1 for $triplet"
  say "$directory"
}

# Copies a program's shared objects, transitively, into lib. Arguments: the root, the program.
copy_libraries() {
  local root=$1 name path
  readelf -d "$2" | sed -nE 's/.*\(NEEDED\).*\[(.*)\]/\1/p' | while read -r name; do
    [ ! -e "$root/lib/$name" ] || continue
    path=$(find_library "$name")
    install -m 755 "$path" "$root/lib/$name"
    copy_libraries "$root" "$path"
  done
}

copy_loader() {
  local root=$1 loader
  loader=$(readelf -l "$2" | sed -nE 's/.*interpreter: (.*)\]/\1/p')
  install -D -m 755 "$(find_library "${loader##*/}")" "$root$loader"
}

copy_program() {
  local root=$1 path=$2
  [ ! -e "$root/bin/${path##*/}" ] || return 0
  install -s --strip-program="$triplet-strip" -m 755 "$path" "$root/bin/${path##*/}"
  copy_libraries "$root" "$path"
  copy_loader "$root" "$path"
}

# Prints "seconds name arguments" for each migration that the kernel supports. Argument: the mode
# that the library chooses there.
migrations() {
  local common=(--vcpus 2 --memory 24M --working-set 8M --passes 4 --bandwidth 0 --json)
  say 60 precopy-auto "${common[*]} --slot-moves"
  say 60 precopy-bitmap "${common[*]} --mode bitmap --slot-moves"
  say 60 precopy-kernel-guest "${common[*]} --guest kernel --device-process"
  case $1 in
  ring*) say 60 precopy-ring "${common[*]} --mode ring --ring-entries 1024" ;;
  esac
}

plan_programs() {
  local name seconds path option
  while read -r name seconds path; do
    option=
    [ "$name" != vmm-kvm ] || option=' --few-mistakes'
    say "test $((seconds * patience)) $name /bin/${path##*/}$option"
  done
}

# Prints the plan for a kernel. Arguments: the mode that the library chooses there, the modules.
plan() {
  local choice=$1 name seconds rest module
  shift
  for module in "$@"; do
    say "load /mod/$module"
  done
  say "show 30 answers /bin/answers"
  say "show 30 probe /bin/probe --json"
  for rest in '--mode ring' '--mode ring --backup off' '--backup required' '--mode bitmap'; do
    name=${rest//--/}
    say "show 30 probe-${name// /-} /bin/probe --json $rest"
  done
  { kvm_programs kvm && lab_programs; } | plan_programs
  migrations "$choice" | while read -r seconds name rest; do
    say "test $((seconds * patience)) $name /bin/precopy $rest"
  done
  # Rings where they lose nothing alone, otherwise the bitmap: huge pages would show it on arm64.
  say "test $((60 * patience)) precopy-backup-off /bin/precopy --vcpus 2 --memory 24M" \
    "--working-set 8M --passes 4 --bandwidth 0 --json --backup off"
  kvm_programs model-differential | plan_programs
}

# Arguments: the module as packaged, the destination.
unpack_module() {
  case $1 in
  *.xz) xz -dc "$1" >"$2" ;;
  *.zst) zstd -qdc "$1" >"$2" ;;
  *) cp "$1" "$2" ;;
  esac
}

# Argument: a kernel's name.
image_of() {
  say "$build_dir-$1.initramfs"
}

# Builds the initramfs. Arguments: the kernel's name, the output file.
make_image() {
  local name=$1 image=$2 root path module modules=()
  root=$built/lab-root-$name
  rm -rf "$root"
  mkdir -p "$root"/{bin,lib,mod,dev,proc,sys,tmp}
  install -m 755 "$built/lab-init" "$root/init"
  # A missing module stays in the plan, so that its load fails visibly.
  for module in $(kernel_modules "$name"); do
    path=$(kernel_module "$name" "$module")
    [ -z "$path" ] || unpack_module "$path" "$root/mod/$module.ko"
    modules+=("$module.ko")
  done
  { kvm_programs kvm && kvm_programs model-differential && lab_programs; } |
    while read -r _ _ path; do
      copy_program "$root" "$path"
    done
  for path in "${shown_programs[@]}"; do
    copy_program "$root" "$built/$path"
  done
  plan "$(kernel_column "$name" 5)" "${modules[@]}" |
    awk -v only="$only" '$1 != "test" || $3 ~ only' >"$root/plan"
  (cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$image"
  rm -rf "$root"
}
