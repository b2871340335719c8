#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Runs an APKBUILD in the current directory, with pkgdir set. Arguments: the file, the version that
# it should have.
set -eu

version=$2
# shellcheck source=doc/packaging/APKBUILD
. "$1"

# Debian's Python has its modules elsewhere.
python3() {
  echo /usr/lib/python3.11/site-packages
}

# Moves files from the package to the subpackage; each pattern must match something.
amove() {
  for pattern; do
    (
      cd "$pkgdir"
      # The pattern is expanded here.
      for path in $pattern; do
        [ -e "$path" ] || {
          echo "$subpackage: nothing matches $pattern"
          exit 1
        }
        mkdir -p "$subpkgdir/${path%/*}"
        mv "$path" "$subpkgdir/${path%/*}/"
      done
    )
  done
}

[ "$pkgver" = "$version" ] || {
  echo "pkgver is $pkgver, the release $version"
  exit 1
}
[ -n "$pkgname$pkgdesc$url$arch$license$makedepends$source" ]
build
package
for entry in $subpackages; do
  subpackage=${entry%%:*}
  function=$(echo "$entry" | cut -s -d: -f2)
  : "${function:=${subpackage##*-}}"
  # abuild has these two.
  case $function in
  dev | doc) continue ;;
  esac
  subpkgdir=$pkgdir-$subpackage
  "$function"
done
# The remaining files go to the package, to -dev and to -doc.
cd "$pkgdir"
left=$(find . -type f ! -path './usr/include/*' ! -path './usr/share/man/*' \
  ! -name '*.a' ! -name '*.pc' ! -name '*.so')
[ "$left" = "./usr/lib/libdirtylog.so.$version" ] || {
  echo "left in the package: $left"
  exit 1
}
