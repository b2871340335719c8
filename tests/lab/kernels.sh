# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# The lab's kernels, and how to download them from the machine's own Debian mirror into the cache.
# Uses a private apt directory, so that this machine's configuration stays unchanged.
# Source after setup.sh, with cache set to the cache directory.
: "${cache:?}"

# Name, architecture, suite, package, and the mode that the library must choose by itself.
lab_kernels='
arm64-4k-6.12   arm64  trixie             linux-image-cloud-arm64  ring+backup
arm64-16k-6.12  arm64  trixie             linux-image-arm64-16k    ring+backup
arm64-4k-6.1    arm64  bookworm           linux-image-cloud-arm64  bitmap
x86-5.10        amd64  bullseye-security  linux-image-cloud-amd64  bitmap
x86-6.1         amd64  bookworm           linux-image-cloud-amd64  ring
x86-6.12        amd64  trixie             linux-image-cloud-amd64  ring
x86-newest      amd64  sid                linux-image-cloud-amd64  ring
'

kernel_names() {
  awk 'NF { print $1 }' <<<"$lab_kernels"
}

# Arguments: a kernel's name, a column number.
kernel_column() {
  awk -v name="$1" -v column="$2" '$1 == name { print $column }' <<<"$lab_kernels"
}

# The newest suite changes daily; its kernel may be missing without failing the run.
kernel_is_optional() {
  [ "$1" = x86-newest ]
}

# Prints the URL of this machine's Debian mirror for a suite.
mirror_of() {
  local wanted=Debian
  case $1 in *-security) wanted=Debian-Security ;; esac
  # The label is known only after the lists were fetched; the URL always is.
  # shellcheck disable=SC2016 # apt-get expands it
  apt-get indextargets --format '$(REPO_URI) $(LABEL) $(ORIGIN)' 'Created-By: Packages' \
    2>/dev/null |
    awk -v wanted="$wanted" '
      { security = $2 == "Debian-Security" || $1 ~ /debian-security/
        debian = $3 == "Debian" || $1 ~ /\/debian(-security)?\/?$/ }
      debian && security == (wanted == "Debian-Security") { print $1; exit }'
}

# Runs an apt program on a suite's private directory. Arguments: architecture, suite, command.
private_apt() {
  local architecture=$1 directory=$cache/apt/$1-$2 program=$3
  shift 3
  "$program" -q -o "Dir::Etc::sourcelist=$directory/sources.list" -o Dir::Etc::sourceparts=- \
    -o "Dir::State::Lists=$directory/lists" -o "Dir::State::status=$directory/status" \
    -o "Dir::Cache=$directory/cache" -o "APT::Architecture=$architecture" \
    -o "APT::Architectures=$architecture" -o APT::Sandbox::User="$(id -un)" \
    -o Acquire::Languages=none -o Acquire::Retries=3 "$@" </dev/null
}

# Fetches a suite's package lists, once per run of this script. Arguments: architecture, suite.
private_apt_update() {
  local directory=$cache/apt/$1-$2 mirror
  [ ! -e "$directory/fresh-$$" ] || return 0
  mirror=$(mirror_of "$2")
  if [ -z "$mirror" ]; then
    say "no Debian mirror for $2 is configured on this machine" >&2
    return 1
  fi
  mkdir -p "$directory/lists/partial" "$directory/cache/archives/partial"
  rm -f "$directory"/fresh-*
  : >"$directory/status"
  say "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $2 main" \
    >"$directory/sources.list"
  private_apt "$1" "$2" apt-get update >"$directory/update.log" 2>&1 || {
    tail -n 5 "$directory/update.log" >&2
    return 1
  }
  : >"$directory/fresh-$$"
}

# Prints packages and those of their dependencies, transitively, whose names match the pattern.
# Arguments: architecture, suite, pattern, packages.
dependencies() {
  local architecture=$1 suite=$2 pattern=$3 package found seen=' '
  shift 3
  while [ $# -gt 0 ]; do
    package=$1
    shift
    case $seen in *" $package "*) continue ;; esac
    seen="$seen$package "
    found=$(private_apt "$architecture" "$suite" apt-cache depends "$package" |
      sed -nE 's/^ *\|?Depends: ([^ <>]+)$/\1/p' | grep -E "$pattern" || true)
    # shellcheck disable=SC2086 # one word per package
    set -- "$@" $found
  done
  say "$seen"
}

# Downloads the packages and dependencies whose names match a pattern, and unpacks the files that
# match the tar patterns, unless the same was done before. Installs nothing.
# Arguments: directory, architecture, suite, pattern, packages; then --, tar patterns.
fetch() {
  local directory=$1 architecture=$2 suite=$3 pattern=$4 package wanted=$* all=()
  shift 4
  while [ "$1" != -- ]; do
    all+=("$1")
    shift
  done
  shift
  [ ! -e "$directory/complete" ] || [ "$(cat "$directory/wanted" 2>&1)" != "$wanted" ] || return 0
  rm -rf "$directory"
  mkdir -p "$directory/packages"
  private_apt_update "$architecture" "$suite" || return 1
  for package in $(dependencies "$architecture" "$suite" "$pattern" "${all[@]}"); do
    grep -qE "$pattern" <<<"$package" || continue
    (cd "$directory/packages" &&
      private_apt "$architecture" "$suite" apt-get download "$package" >download.log 2>&1) || {
      tail -n 3 "$directory/packages/download.log" >&2
      return 1
    }
  done
  for package in "$directory"/packages/*.deb; do
    # tar fails on a package without matching files; ignore that.
    dpkg-deb --fsys-tarfile "$package" |
      tar -x -C "$directory" --wildcards "$@" 2>/dev/null || true
  done
  (cd "$directory/packages" && ls -- *.deb) >"$directory/contents"
  rm -rf "$directory/packages"
  say "$wanted" >"$directory/wanted"
  mv "$directory/contents" "$directory/complete"
}

# Prints the modules that the tests need, in load order. Argument: a kernel's name.
kernel_modules() {
  [ "$(kernel_column "$1" 2)" != amd64 ] || say irqbypass kvm kvm-amd
  say tap tun vhost_iotlb vhost vhost_net
  say vsock vmw_vsock_virtio_transport_common vhost_vsock
}

# Prints the path of a module as packaged. Arguments: a kernel's name, the module.
kernel_module() {
  find "$cache/kernels/$1" -name "$2.ko*" -type f | head -n 1
}

# Ensures that a kernel is in the cache. Argument: its name.
fetch_kernel() {
  local name=$1 module patterns=('*/vmlinuz*')
  for module in $(kernel_modules "$name"); do
    patterns+=("*/$module.ko*")
  done
  fetch "$cache/kernels/$name" "$(kernel_column "$name" 2)" "$(kernel_column "$name" 3)" \
    '^linux-(image|binary|modules)-[0-9]' "$(kernel_column "$name" 4)" -- "${patterns[@]}" &&
    [ -n "$(kernel_image "$name")" ]
}

kernel_image() {
  find "$cache/kernels/$1" -name 'vmlinuz*' -type f | head -n 1
}
