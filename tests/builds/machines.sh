# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# The machines that Debian's compilers build for, and what Meson wants to know of them. Sourced by
# tests/builds/run.sh, and by the lab, which has libraries for other machines in the same way.

# Debian's name; Meson's of the processor and of its family; the byte order; the prefix of the
# compiler; the directory of libraries; and QEMU's name.
machine_table='
amd64    x86_64   x86_64   little  x86_64-linux-gnu       x86_64-linux-gnu       x86_64
arm64    aarch64  aarch64  little  aarch64-linux-gnu      aarch64-linux-gnu      aarch64
i386     i686     x86      little  i686-linux-gnu         i386-linux-gnu         i386
ppc64el  ppc64le  ppc64    little  powerpc64le-linux-gnu  powerpc64le-linux-gnu  ppc64le
riscv64  riscv64  riscv64  little  riscv64-linux-gnu      riscv64-linux-gnu      riscv64
s390x    s390x    s390x    big     s390x-linux-gnu        s390x-linux-gnu        s390x
'

# Argument: Debian's name of a machine. Sets cpu, family, endian, triplet, multiarch, emulator and
# compiler.
# shellcheck disable=SC2034 # for those who source this
set_machine() {
  local name
  read -r name cpu family endian triplet multiarch emulator < <(
    awk -v name="$1" '$1 == name' <<<"$machine_table")
  [ -n "$name" ] || die "no machine $1"
  emulator=qemu-$emulator
  compiler=$triplet-gcc
}

# Writes a cross file for the machine that set_machine chose. Arguments: the directory of its
# libraries; options of the emulator, if programs are to run in it.
write_cross_file() {
  local sysroot=$1
  shift
  cat <<END
[binaries]
c = '$compiler'
ar = '$triplet-ar'
strip = '$triplet-strip'
pkgconfig = 'pkg-config'
pkg-config = 'pkg-config'
END
  [ $# = 0 ] || {
    printf "exe_wrapper = ['%s'" "$emulator"
    printf ", '%s'" "$@"
    printf ']\n'
  }
  cat <<END
[properties]
sys_root = '$sysroot'
pkg_config_libdir = '$sysroot/usr/lib/$multiarch/pkgconfig'
[built-in options]
c_args = ['-isystem', '$sysroot/usr/include/$multiarch', '-isystem', '$sysroot/usr/include']
c_link_args = ['-L$sysroot/usr/lib/$multiarch', '-Wl,-rpath-link,$sysroot/usr/lib/$multiarch']
[host_machine]
system = 'linux'
cpu_family = '$family'
cpu = '$cpu'
endian = '$endian'
END
}
