# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# The packages of doc/packaging. Sourced by run.sh, with check, skip, copy_tree, top and work.
# shellcheck disable=SC2154 # work and passed are set by run.sh
: "${top:?}"

# Prints the Debian packages that one of these builds needs and this machine lacks.
packages_of_packaging() {
  command -v scdoc >/dev/null || say scdoc
  case $1 in
  debian)
    command -v dpkg-buildpackage >/dev/null || say dpkg-dev
    command -v dh >/dev/null || say debhelper
    command -v dh_python3 >/dev/null || say dh-python
    command -v lintian >/dev/null || say lintian
    command -v mandoc >/dev/null || say mandoc
    ;;
  rpm) command -v rpmbuild >/dev/null || say rpm ;;
  esac
}

build_debian() {
  check "Debian's packages are built, installed, used and removed" \
    "$top/tests/builds/debian.sh" "$work"
}

version_of_tree() {
  sed -n "s/^ *version: '\(.*\)',$/\1/p" "$top/meson.build" | head -n 1
}

# Debian has rpmbuild, but not Fedora's macros for Meson and Python: these stand for them.
rpm_build() {
  local version
  version=$(version_of_tree)
  command -v rpmbuild >/dev/null || skip "rpmbuild is not installed (Debian package rpm)"
  command -v scdoc >/dev/null || skip "scdoc is not installed"
  [ -e /usr/include/sys/sdt.h ] || [ -e "/usr/include/$(gcc -print-multiarch)/sys/sdt.h" ] ||
    skip "there is no sys/sdt.h (Debian package systemtap-sdt-dev)"
  mkdir -p "$work/SOURCES"
  copy_tree "$work/dirtylog-$version"
  tar -C "$work" -czf "$work/SOURCES/dirtylog-$version.tar.gz" "dirtylog-$version"
  rpmbuild -bb --nodeps --define "_topdir $work" --define "_libdir /usr/lib64" \
    --define "debug_package %{nil}" --define "python3_sitelib /usr/lib/python3/site-packages" \
    --define "meson meson setup build --prefix=/usr --libdir=/usr/lib64" \
    --define "meson_build ninja --quiet -C build" \
    --define "meson_install DESTDIR=%{buildroot} meson install --no-rebuild -C build" \
    "$top/doc/packaging/dirtylog.spec"
  find "$work/RPMS" -name '*.rpm' | wc -l | grep -qx 6
}

build_rpm() {
  check "the RPM spec builds, and lists what is installed" rpm_build
}

# Runs the functions of the APKBUILD in Alpine's order and shell, without Alpine: amove moves what
# a subpackage takes, as abuild's does.
apk_build() {
  local version
  version=$(version_of_tree)
  command -v scdoc >/dev/null || skip "scdoc is not installed"
  copy_tree "$work/tree"
  (cd "$work/tree" && pkgdir=$work/pkg dash -e "$top/tests/builds/apkbuild.sh" \
    "$top/doc/packaging/APKBUILD" "$version")
}

build_apk() {
  check "the APKBUILD builds, and its subpackages find their files" apk_build
}
