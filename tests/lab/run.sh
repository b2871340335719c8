#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Boots real Debian kernels as KVM hosts under QEMU and runs this tree's KVM tests inside.
set -euo pipefail

usage() {
  cat <<'END'
Usage: tests/lab/run.sh [KERNEL]... [option]...

Boots Debian kernels, unmodified, in machines that QEMU emulates (/dev/kvm is not needed), and runs
the KVM tests, the lab's own tests and live migrations inside each, with the kernel inside as the
KVM host. Prints one line per kernel: the tests that passed, failed and were skipped, and the
seconds. The exit status is 0 only if every kernel ran and nothing failed, and 77 if the lab cannot
run: without Debian's package tools and a mirror, or without the right to install missing packages.

Installs missing packages (with apt-get), downloads kernels and libraries from this machine's own
Debian mirror without installing them, and keeps them in
${XDG_CACHE_HOME:-~/.cache}/libdirtylog-lab.

  KERNEL           a name that --list prints; default: all
  --list           print the kernels' names
  --optional       a kernel that cannot be downloaded or booted does not fail the run
  --jobs N         run N machines at a time, of one processor each; default: the processors
  --build-dir DIR  build in DIR-x86_64 and DIR-aarch64; default: build-lab
  --output DIR     write there, for each kernel: KERNEL.console, the console output; KERNEL.json,
                   the test results in meson's format; KERNEL.answers, the results of the kernel's
                   calls and the library's choices. Default: build-lab/output
  --only PATTERN   run only tests whose names match the extended regular expression
  --refresh        look for newer packages than the cached ones
  --help           this text
END
}

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/libdirtylog-lab
build_dir=$top/build-lab
output=
optional=
refresh=
only=.
jobs=$(nproc)
kernels=()
# shellcheck source=tests/setup.sh
. "$top/tests/setup.sh"
# shellcheck source=tests/lab/kernels.sh
. "$top/tests/lab/kernels.sh"

usage_error() {
  say "tests/lab/run.sh: $*; see tests/lab/run.sh --help" >&2
  exit 2
}

while [ $# -gt 0 ]; do
  option=$1
  shift
  case $option in
  --build-dir | --output | --only | --jobs)
    [ $# -gt 0 ] || usage_error "$option needs a value"
    value=$1
    shift
    ;;
  esac
  case $option in
  --list)
    kernel_names
    exit 0
    ;;
  --optional) optional=yes ;;
  --refresh) refresh=yes ;;
  --build-dir) build_dir=$(realpath -m "$value") ;;
  --output) output=$(realpath -m "$value") ;;
  --only) only=$value ;;
  --jobs)
    [[ $value =~ ^[1-9][0-9]*$ ]] || usage_error "--jobs needs a number"
    jobs=$value
    ;;
  --help)
    usage
    exit 0
    ;;
  -*) usage_error "unknown option $option" ;;
  *)
    [ -n "$(kernel_column "$option" 1)" ] || usage_error "unknown kernel $option"
    kernels+=("$option")
    ;;
  esac
done
[ ${#kernels[@]} -gt 0 ] || mapfile -t kernels < <(kernel_names)
output=${output:-$build_dir/output}
# shellcheck source=tests/lab/image.sh
. "$top/tests/lab/image.sh"

# Timeout of a whole kernel, in seconds. Far above a normal run: only a hang reaches it.
boot_limit=3600

# Runs an emulated machine until it ends. Ignores QEMU's exit status, which is 0 after a panic too.
# Arguments: the kernel's name, the initramfs. The console is standard output.
boot() {
  local image machine
  image=$(kernel_image "$1")
  case $(kernel_column "$1" 2) in
  # EL2 lets the kernel inside be a KVM host.
  arm64) machine=(qemu-system-aarch64 -M 'virt,virtualization=on,gic-version=3' -cpu neoverse-n1
    -append 'console=ttyAMA0 quiet loglevel=1 panic=-1') ;;
  # This model has SVM and nested paging, which QEMU emulates, so guests run natively inside.
  # cmpxchg16b is off: on it, in an allocation, kernels sometimes died of a double fault, once while
  # booting.
  amd64) machine=(qemu-system-x86_64 -cpu 'EPYC,-cx16'
    -append 'console=ttyS0 quiet loglevel=1 panic=-1') ;;
  esac
  # One processor: kernels crash unless all processors share one QEMU thread, and then each waits a
  # tenth of a second for its turn and spends it waiting for another.
  timeout -k 5 "$boot_limit" "${machine[@]}" -accel tcg,thread=single -smp 1 -m 1024 -display none \
    -nodefaults -no-reboot -monitor none -serial stdio -kernel "$image" -initrd "$2" \
    </dev/null 2>&1 &
  # shellcheck disable=SC2064 # expand now: the machine just started
  trap "kill $!; exit 1" TERM
  wait $! || true
  trap - TERM
}

# Prints why a kernel did not run. Fails if that fails the run.
# Arguments: the kernel's name, the reason, and "had" if the kernel was downloaded.
absent() {
  local result=FAIL
  if [ -n "$optional" ] || { [ "${3:-}" != had ] && kernel_is_optional "$1"; }; then
    result=SKIP
  fi
  say "$1: $2"
  say "{\"name\": \"lab / kernel\", \"result\": \"$result\", \"stdout\": \"skip: $2\"}" \
    >"$output/$1.json"
  [ "$result" = SKIP ]
}

# Prepares everything that a kernel's machine needs. Argument: the kernel's name.
prepare_kernel() {
  local name=$1 architecture
  architecture=$(kernel_column "$name" 2)
  choose_architecture "$architecture"
  fetch_kernel "$name" || {
    absent "$name" "the kernel cannot be downloaded"
    return
  }
  build_for "$architecture" || {
    absent "$name" "the tree does not build for $architecture" had
    return
  }
  make_image "$name" "$(image_of "$name")"
}

# Argument: the name of a prepared kernel.
run_kernel() {
  local name=$1 result=0
  boot "$name" "$(image_of "$name")" >"$output/$name.console"
  rm -f "$(image_of "$name")"
  python3 "$top/tests/lab/console.py" "$name" "$(kernel_column "$name" 5)" "$output" || result=$?
  [ "$result" != 3 ] || {
    absent "$name" "the kernel does not boot; see $output/$name.console" had
    return
  }
  return "$result"
}

progress() {
  [ ! -t 1 ] || say "$*"
}

install_packages() {
  local missing name
  missing=$(for name in "${kernels[@]}"; do
    lab_packages "$(kernel_column "$name" 2)"
  done | sort -u)
  [ -n "$missing" ] || return 0
  as_root true || cannot "cannot become root to install what the lab needs:" "${missing//$'\n'/ }"
  # shellcheck disable=SC2086 # one word per package
  apt_install $missing >/dev/null 2>&1 || {
    as_root apt-get -qq -o DPkg::Lock::Timeout=300 update </dev/null || true
    apt_install $missing >/dev/null || die "cannot install:" $missing
  }
}

# Ends the run as skipped: the lab cannot run on this machine.
cannot() {
  say "skip: $*"
  exit 77
}

for program in apt-get dpkg-deb; do
  command -v "$program" >/dev/null ||
    cannot "the lab takes its kernels from Debian packages, and $program is missing"
done
[ -n "$(mirror_of trixie)" ] || cannot "no Debian mirror is configured on this machine"
need_packages gcc
install_packages
mkdir -p "$cache" "$output"
[ -z "$refresh" ] || rm -rf "${cache:?}/kernels" "${cache:?}/sysroot"
trap 'kill "${machines[@]}" 2>/dev/null; exit 1' INT TERM
status=0
machines=()
for kernel in "${kernels[@]}"; do
  rm -f "$output/$kernel".*
  progress "$kernel: preparing"
  # Not as a condition, which would disable set -e inside the function.
  (
    set -e
    prepare_kernel "$kernel"
  ) &
  wait $! || {
    status=1
    continue
  }
  # The kernel is absent, and optional.
  [ -e "$(image_of "$kernel")" ] || continue
  while [ "$(jobs -pr | wc -l)" -ge "$jobs" ]; do
    wait -n || true
  done
  progress "$kernel: booting"
  { run_kernel "$kernel" || : >"$output/$kernel.failed"; } &
  machines+=($!)
done
wait
for kernel in "${kernels[@]}"; do
  [ ! -e "$output/$kernel.failed" ] || status=1
done
exit "$status"
