#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Usage: tests/builds/debian.sh DIRECTORY, which is for what it makes
#
# Builds the packages of doc/packaging/debian with Debian's tools, has lintian look at them, and
# installs, uses and removes them. They are installed into an overlay over /, whose changes are in
# memory and which only this process sees; so it takes root.
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

skip() {
  printf 'skip: %s\n' "$*"
  exit 77
}

section() {
  printf '== %s\n' "$*"
}

fail() {
  printf 'failed: %s\n' "$*"
  exit 1
}

for tool in dpkg-buildpackage dh dh_python3 lintian mandoc scdoc; do
  command -v "$tool" >/dev/null || skip "$tool is not installed"
done
[ "$(id -u)" = 0 ] || skip "an overlay over / takes root"
scratch=$(realpath "${1:?}")
if [ -z "${DIRTYLOG_UNSHARED:-}" ]; then
  unshare --mount true 2>/dev/null || skip "mounts are not allowed here"
  DIRTYLOG_UNSHARED=yes exec unshare --mount --propagation private "$0" "$scratch"
fi
version=$(sed -n "s/^ *version: '\(.*\)',$/\1/p" "$top/meson.build" | head -n 1)
source=$scratch/dirtylog-$version

copy_source() {
  mkdir "$source"
  tar -C "$top" --exclude=__pycache__ -cf - meson.build meson_options.txt README.md NEWS.md \
    LICENSE doc include lib examples tests | tar -xf - -C "$source"
  tar -C "$scratch" -czf "$scratch/dirtylog_$version.orig.tar.gz" "${source##*/}"
  cp -r "$top/doc/packaging/debian" "$source/debian"
}

build() {
  cd "$source"
  env -i HOME="$scratch" LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    DEB_BUILD_OPTIONS="parallel=$(nproc)" \
    dpkg-buildpackage --no-sign --build=full >"$scratch/build.log" 2>&1
}

section "build"
copy_source
build || {
  tail -n 40 "$scratch/build.log"
  fail "dpkg-buildpackage"
}

section "lintian"
# Only an upload to Debian has a bug to close.
lintian --allow-root --fail-on error,warning --suppress-tags initial-upload-closes-no-bugs \
  "$scratch"/dirtylog_*.changes

section "install"
root=$scratch/root
mkdir "$scratch/memory" "$root"
mount -t tmpfs tmpfs "$scratch/memory"
mkdir "$scratch/memory/changes" "$scratch/memory/work"
mount -t overlay overlay "$root" \
  -o "lowerdir=/,upperdir=$scratch/memory/changes,workdir=$scratch/memory/work" ||
  skip "no overlay can be mounted over /"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mkdir -p "$root/tmp/packages"
cp "$scratch"/*.deb "$top"/examples/minimal.[cp]* "$root/tmp/packages"
# Remove the files of an installation by hand: they would be found first.
rm -rf "$root"/usr/local/include/dirtylog "$root"/usr/local/lib*/libdirtylog* \
  "$root"/usr/local/lib*/*/libdirtylog*

inside() {
  chroot "$root" env -i HOME=/tmp LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

before=$(inside find /usr /etc -xdev -name '*dirty*log*' -o -xdev -name 'dl_*' | sort)
inside sh -c 'dpkg -i /tmp/packages/*.deb' >"$scratch/install.log" 2>&1 || {
  cat "$scratch/install.log"
  fail "dpkg -i"
}

section "use"
inside dirtylog-probe --help >/dev/null || fail "dirtylog-probe"
inside dirtytop --help >/dev/null || fail "dirtytop"
inside dirtylog-precopy --backend model --memory 16M --passes 2 --json >"$scratch/precopy.json" ||
  fail "dirtylog-precopy"
# shellcheck disable=SC2016 # expanded inside
inside sh -c 'cc /tmp/packages/minimal.c $(pkg-config --cflags --libs dirtylog) -o /tmp/minimal' ||
  fail "a program that is compiled with the packages"
# shellcheck disable=SC2016 # expanded inside
inside sh -c 'cc -c -o /tmp/static.o /tmp/packages/minimal.c $(pkg-config --cflags dirtylog) &&
  cc /tmp/static.o -o /tmp/static -Wl,-Bstatic -ldirtylog -Wl,-Bdynamic -lurcu-bp -lpthread' ||
  fail "a program that is linked statically"
inside python3 -c 'import dirtylog; print(dirtylog.__version__)' | grep -qx "$version" ||
  fail "the Python binding"
for page in 1/dirtylog-precopy 1/dirtylog-probe 1/dirtylog-snapshot 1/dirtytop 3/dl_harvest \
  7/dirtylog 7/dirtylog-model; do
  inside sh -c "ls /usr/share/man/man${page%/*}/${page#*/}.*" >/dev/null || fail "manual page $page"
done
if [ -w /dev/kvm ] && [ "$(uname -m)" = x86_64 ]; then
  said=$(inside /tmp/minimal) || fail "minimal.c"
  [ "$said" = "$(inside /tmp/static)" ] || fail "minimal.c, statically linked"
  [ "$said" = "$(inside python3 /tmp/packages/minimal.py)" ] || fail "minimal.py"
  printf '%s\n' "$said"
fi

section "remove"
mapfile -t packages < <(cd "$scratch" && for deb in *.deb; do dpkg-deb -f "$deb" Package; done)
inside dpkg --purge "${packages[@]}" >"$scratch/remove.log" 2>&1 || {
  cat "$scratch/remove.log"
  fail "dpkg --purge"
}
after=$(inside find /usr /etc -xdev -name '*dirty*log*' -o -xdev -name 'dl_*' | sort)
[ "$before" = "$after" ] ||
  fail "left behind: $(comm -13 <(echo "$before") <(echo "$after"))"
printf '%s packages were built, installed, used and removed\n' "${#packages[@]}"
