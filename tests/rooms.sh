# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# The rooms of the tests, and the rooms that a change concerns. Sourced by tests/run.sh.
: "${top:?}"

# Room: what it tests. All are suites of meson except lab (tests/lab/run.sh), builds
# (tests/builds/run.sh) and lint (lint.sh).
rooms_table() {
  cat <<'END'
unit         each file of lib/ by itself
model        the model kernel, also compared with /dev/kvm
migrations   whole migrations on the model kernel
vmm          a VMM as established ones are built, on the model and on /dev/kvm
simulation   library and model under one seeded scheduler
race         real threads, and the memory orders
tuning       the rule of dl_log_harvest_due() on a virtual clock
convergence  laws that make migrations end, in virtual time
process      failing calls, system calls, signals, forks, cancellation
fuzz         hostile rings, calls and streams
kvm          this machine's /dev/kvm with a real guest
lab          Debian kernels in emulated machines; slow, and has no fast form
abi          public headers, exported symbols, the recorded ABI, the programs of documents
builds       other compilers, C libraries and machines, installation, reproducible files
examples     probe, precopy, snapshot, dirtytop and the bindings
tools        tests/run.sh and tests/lint.sh
lint         format, spelling, scripts, line widths
END
}

# Directories of tests/ that neither pass nor fail, and the commands to run them by hand.
by_hand() {
  case $1 in
  bench) printf 'tests/bench/run.sh' ;;
  mutation) printf 'tests/mutation/mutants.py' ;;
  *) return 1 ;;
  esac
}

# File: rooms that it concerns. The first matching pattern counts; * matches / too.
#   library  the rooms that run the whole library, except the slow lab
#   all      every room
#   -        none
# Every change concerns lint as well. Files of lib/ and tests/ without a row concern all rooms.
changes_table() {
  cat <<'END'
lib/api/*                  library abi
lib/ring/*                 library tuning
lib/pages/*                library
lib/kvm/*                  library lab builds
lib/log.[ch]               library
lib/slot_logging.[ch]      library
lib/pace.[ch]              library tuning
lib/plan/*                 library tuning convergence abi
lib/planner.[ch]           library tuning convergence
lib/throttle.[ch]          library tuning convergence
lib/vcpu_check.[ch]        kvm
lib/dirtylog.map           abi builds
lib/*                      all
include/*                  all
meson.build                all
meson_options.txt          all

tests/unit/test_*          unit
tests/unit/*               unit migrations vmm race process fuzz
tests/model/test_*         model
tests/model/differential.h model
tests/model/host.c         model
tests/model/pair.c         model
tests/model/script*        model
tests/model/sides.[ch]     model
tests/model/*             unit model migrations vmm simulation race process fuzz abi builds examples
tests/migrations/test_*    migrations
tests/migrations/checker.[ch]  migrations race process kvm lab
tests/migrations/*         migrations race process
tests/vmm/*                vmm
tests/simulation/*         simulation
tests/race/*               race
tests/tuning/*             tuning
tests/convergence/*        convergence
tests/process/*            process
tests/fuzz/*               fuzz
tests/kvm/test_*           kvm lab
tests/kvm/*                model vmm process kvm lab
tests/lab/kernels.sh       lab builds
tests/lab/*                lab
tests/builds/machines.sh   lab builds
tests/builds/*             builds
tests/abi/*                abi
tests/examples/*           examples
tests/tools/*              tools
tests/bench/*              -
tests/figures.py           -
tests/mutation/planted.py  simulation
tests/mutation/defects.py  simulation
tests/mutation/*           -
tests/run.sh               tools
tests/rooms.sh             tools
tests/summary.py           tools
tests/lint*                tools
tests/setup.sh             tools lab
tests/README.md            tools
tests/tsan.supp            race
tests/*                    all

examples/guest/*           fuzz lab examples
examples/precopy/*         fuzz lab examples
examples/bindings/*        examples
examples/status/*          fuzz lab examples
examples/snapshot/*        fuzz examples
examples/dirtytop/*        examples
examples/demo.sh           -
examples/*                 lab examples
README.md                  abi
NEWS.md                    abi
doc/integrate.md           abi
doc/sources.md             abi lab
doc/embedding.md           process abi
doc/manual/*               abi
.githooks/*                tools
*                          -
END
}

room_names() {
  rooms_table | cut -d' ' -f1
}

is_room() {
  room_names | grep -qxF -e "$1"
}

room_description() {
  rooms_table | sed -n "s/^$1  *//p"
}

# Prints the rooms that a file concerns, one a line. Argument: its path in this tree.
rooms_of_file() {
  local pattern row room
  say lint
  while read -r pattern row; do
    # shellcheck disable=SC2254 # a pattern indeed
    case $1 in
    ${pattern:-none}) break ;;
    esac
  done < <(changes_table)
  for room in $row; do
    case $room in
    all) room_names ;;
    library) printf '%s\n' unit migrations vmm simulation race process fuzz kvm examples ;;
    -) ;;
    *) say "$room" ;;
    esac
  done | sort -u
}

# Sets changed_base and changed_since, a commit and words for it. Argument: a revision, or nothing
# for the main branch.
choose_base() {
  local name
  git -C "$top" rev-parse --is-inside-work-tree >/dev/null 2>&1 ||
    usage_error "--changed needs git and a work tree of it; name the rooms instead"
  if [ -n "$1" ]; then
    git -C "$top" rev-parse -q --verify "$1^{commit}" >/dev/null 2>&1 ||
      usage_error "--changed: unknown revision $1"
    name=$1
  else
    for name in origin/main main HEAD; do
      git -C "$top" rev-parse -q --verify "$name^{commit}" >/dev/null 2>&1 && break
    done
  fi
  changed_base=$(git -C "$top" merge-base HEAD "$name" 2>/dev/null) ||
    changed_base=$(git -C "$top" rev-parse -q --verify "$name^{commit}") ||
    usage_error "--changed: nothing is committed yet; name the rooms instead"
  changed_since="$(git -C "$top" rev-parse --short "$changed_base") (merge base with $name)"
}

# Prints what differs from changed_base, each path ended by NUL: committed, staged, in the work
# tree, and untracked.
changed_files() {
  {
    git -C "$top" diff --name-only --no-renames --relative -z "$changed_base"
    git -C "$top" diff --name-only --no-renames --relative -z --cached "$changed_base"
    git -C "$top" ls-files --others --exclude-standard -z
  } | sort -zu
}

# Sets rooms to those that a change concerns, and prints them with their reasons.
# Argument: a revision, or nothing.
choose_changed_rooms() {
  local file room name hand
  local -a files
  local -A why=() more=()
  choose_base "$1"
  mapfile -d '' files < <(changed_files)
  say "Files that differ from $changed_since: ${#files[@]}"
  for file in "${files[@]}"; do
    for room in $(rooms_of_file "$file"); do
      if [ -z "${why[$room]:-}" ]; then
        why[$room]=$file
      else
        more[$room]=$((${more[$room]:-0} + 1))
      fi
    done
  done
  rooms=()
  for name in $(room_names); do
    [ -n "${why[$name]:-}" ] || continue
    rooms+=("$name")
    printf '  %-12s %s%s\n' "$name" "${why[$name]}" "${more[$name]:+ and ${more[$name]} more}"
  done
  for name in bench mutation; do
    hand=$(by_hand "$name")
    for file in "${files[@]}"; do
      case $file in
      tests/"$name"/*)
        say "  Changed, and run by hand: $hand"
        break
        ;;
      esac
    done
  done
}
