# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Helpers shared by tests/run.sh and examples/demo.sh: the build and its requirements.
# To be sourced by a script that has set -euo pipefail and top, the directory of this project.
: "${top:?}"

say() {
  printf '%s\n' "$*"
}

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# One line for each thing that is missing: "Debian package: what it is".
missing_things() {
  local cc=$1 library
  command -v "$cc" >/dev/null || say "${cc##*/}: C compiler"
  say '#include <stdlib.h>' | "$cc" -E -x c - >/dev/null 2>&1 || say 'libc6-dev: C library headers'
  say '#include <linux/kvm.h>' | "$cc" -E -x c - >/dev/null 2>&1 ||
    say 'linux-libc-dev: Linux headers (linux/kvm.h)'
  command -v meson >/dev/null || say 'meson: build system, 1.0.1 or newer'
  command -v ninja >/dev/null || say 'ninja-build: build system'
  command -v python3 >/dev/null || say 'python3: Python 3'
  command -v pkg-config >/dev/null || say 'pkg-config: pkg-config'
  for library in 'liburcu-bp liburcu-dev: userspace RCU, 0.13 or newer' \
    'cmocka libcmocka-dev: cmocka, 1.1.5 or newer'; do
    pkg-config --exists "${library%% *}" 2>/dev/null || say "${library#* }"
  done
}

# Runs a command as root; fails where that takes a password and nobody is there to give it.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif ! command -v sudo >/dev/null; then
    return 1
  elif [ -t 0 ]; then
    sudo "$@"
  else
    sudo -n "$@"
  fi
}

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 \
    install -y --no-install-recommends "$@" </dev/null
}

# Arguments: Debian packages. Package lists may be absent or out of date; they are fetched only if
# the installation fails, as that takes a while.
apt_update_install() {
  apt_install "$@" && return
  as_root apt-get -qq -o DPkg::Lock::Timeout=300 update </dev/null && apt_install "$@"
}

# Installs what the build needs, or prints what that is and stops. Arguments: the compiler.
need_packages() {
  local cc=$1 missing output
  local -a packages
  missing=$(missing_things "$cc")
  [ -n "$missing" ] || return 0

  say "This build needs, and does not find here (Debian package: what it is):"
  say "${missing//$'\n'/$'\n'  }" | sed '1s/^/  /'
  command -v apt-get >/dev/null || die "there is no apt-get here; install these and start again"
  mapfile -t packages < <(cut -d: -f1 <<<"$missing" | sort -u)
  as_root true || die "cannot become root to install them; have them installed and start again:" \
    "apt-get install ${packages[*]}"

  say "Installing: ${packages[*]}"
  output=$(apt_update_install "${packages[@]}" 2>&1) || die "apt-get install failed: $output"
  missing=$(missing_things "$cc")
  [ -z "$missing" ] || die "still missing after the installation: $missing"
}

# One line for each thing without which some tests skip: "Debian package: what it is".
useful_things() {
  local module
  command -v abidiff >/dev/null || say 'abigail-tools: abidiff'
  command -v g++ >/dev/null || say 'g++: C++ compiler'
  command -v gdb >/dev/null || say 'gdb: debugger'
  command -v valgrind >/dev/null || say 'valgrind: counts instructions, checks memory'
  # Two more languages are a lot to bring along; continuous integration has them.
  if [ -n "${CI:-}" ]; then
    command -v cargo >/dev/null || say 'cargo: Rust'
    command -v cargo-clippy >/dev/null || say 'rust-clippy: lint of Rust'
    command -v rustfmt >/dev/null || say 'rustfmt: format of Rust'
    command -v go >/dev/null || say 'golang-go: Go'
  fi
  for module in pip setuptools wheel; do
    /usr/bin/python3 -c "import $module" 2>/dev/null ||
      say "python3-$module: $module, to install the Python binding"
  done
  say '#include <sys/sdt.h>' | cc -E -x c - >/dev/null 2>&1 ||
    say 'systemtap-sdt-dev: sys/sdt.h, for the probes'
  command -v scdoc >/dev/null || say 'scdoc: makes the man pages'
  command -v mandoc >/dev/null || say 'mandoc: checks the man pages'
}

# Installs what only some tests need, where that takes no question: they skip without it.
want_packages() {
  local -a packages
  mapfile -t packages < <(useful_things | cut -d: -f1)
  [ ${#packages[@]} -gt 0 ] && command -v apt-get >/dev/null || return 0
  [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null || return 0
  say "Installing: ${packages[*]}"
  apt_update_install "${packages[@]}" >/dev/null 2>&1 || say "That failed; tests will skip."
}

# Configures. Arguments: the compiler, the build directory, options for meson setup.
configure_tree() {
  local cc=$1 directory=$2 output
  shift 2
  set -- -Dtests=true "$@"
  if ! mkdir -p "$directory" 2>/dev/null || [ ! -w "$directory" ]; then
    die "cannot write in $directory; remove it, or name another with --build-dir"
  fi
  # An older directory may come from another meson, or from where this tree was before.
  if [ ! -e "$directory/meson-private/coredata.dat" ]; then
    output=$(CC=$cc meson setup "$directory" "$top" "$@" 2>&1)
  else
    output=$(CC=$cc meson setup --reconfigure "$directory" "$top" "$@" 2>&1) ||
      output=$(CC=$cc meson setup --wipe "$directory" "$top" "$@" 2>&1)
  fi || die "meson setup of $directory failed:"$'\n'"$output"
}

# Arguments: the build directory, targets; without any, all that is built by default.
build_targets() {
  if [ -t 1 ]; then
    ninja -C "$@"
  else
    ninja --quiet -C "$@"
  fi
}

# Configures and builds. Arguments as of configure_tree.
build_tree() {
  configure_tree "$@"
  build_targets "$2"
}
