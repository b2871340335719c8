#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Runs precopy and checks its reports. Arguments: the path of precopy, and a check:
#
#   moves     the guest arrives complete and healthy, in every mode, from user and kernel mode
#   repeat N  a slow wire; then every move N times, with rings that fill and overflow
#   sabotage  every kind of sabotage is reported as corruption
#   kills     if one side is killed, the other reports it, and the source's guest keeps running
#   hops N    a guest moves on N times, from process to process
#   sides     source and destination are started separately, over each transport
#   usage     --help, usage errors and refused requests
#   listening destinations delete no file, and no stranger ends their wait
#   outputs   outputs that are closed, full or broken
#   limits    limits of memory
set -euo pipefail

precopy=$1
check=$2
scratch=$(mktemp -d)
children=()

cleanup() {
  local pid
  for pid in "${children[@]}"; do
    kill -9 "$pid" 2>/dev/null || true
  done
  rm -rf "$scratch"
}
trap cleanup EXIT

fail() {
  printf 'failed: %s\n' "$*" >&2
  cat "$scratch"/*.out "$scratch"/*.err >&2 || true
  exit 1
}

# Runs precopy. Arguments: the expected exit status, then precopy's arguments.
expect() {
  local want=$1 got=0
  shift
  timeout 120 "$precopy" "$@" >"$scratch/run.out" 2>"$scratch/run.err" </dev/null || got=$?
  [ "$got" = "$want" ] || fail "precopy $*: exit status $got, expected $want"
}

# Prints the value of a key of the JSON object in run.out.
json() {
  python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' \
    "$scratch/run.out" "$1"
}

expect_key() {
  local value
  value=$(json "$1") || fail "the JSON object has no $1"
  [ "$value" = "$2" ] || fail "$1 is $value, expected $2"
}

# Arguments: precopy's.
expect_moved() {
  expect 0 --json --bandwidth 400M "$@"
  expect_key differing_pages 0
  expect_key guest_healthy True
  expect_key device_healthy True
}

# Moves a guest while the log's descriptor is served. Slowly: at full speed a model guest has moved
# before the other thread has run once. Arguments: precopy's.
expect_reaped() {
  expect_moved --bandwidth 50M "$@"
  [ "$(json mode)" = ring ] || fail "precopy $*: the mode is not ring"
  [ "$(json reaps)" -gt 0 ] || fail "precopy $*: nobody serves the log's descriptor"
}

# Arguments: precopy's.
expect_corrupt() {
  expect 1 --json --bandwidth 400M --memory 24M "$@"
  [ "$(json differing_pages)" -gt 0 ] || fail "precopy $*: no page differs"
}

# Waits up to a minute until a file has a line that matches. Arguments: the pattern, the file.
wait_for() {
  local tries
  for ((tries = 0; tries < 6000; tries++)); do
    if grep -q -- "$1" "$scratch/$2"; then
      return
    fi
    sleep 0.01
  done
  fail "'$1' is not in $2"
}

backend=model
if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then
  backend=kvm
fi

# Succeeds if the library supports such a log here. Arguments: the log's options.
supported() {
  local got=0
  "$precopy" --json --backend "$backend" --memory 16M --vcpus 1 --bandwidth 0 "$@" \
    >"$scratch/run.out" 2>"$scratch/run.err" </dev/null || got=$?
  [ "$got" = 0 ] || [ "$(json mode)" = none ] || fail "precopy $*"
  return "$got"
}

# Moves a guest in every mode, user and kernel, with one vCPU and four, and with rings that are
# large, that fill, and that overflow. Argument: the backend.
move_all() {
  local guest vcpus log
  for log in "--mode auto" "--mode bitmap" "--mode ring" "--mode ring --ring-entries 256" \
    "--mode ring --ring-entries 1024"; do
    # shellcheck disable=SC2086
    supported $log || continue
    for guest in user kernel; do
      for vcpus in 1 4; do
        # shellcheck disable=SC2086
        expect_moved --backend "$1" --guest "$guest" --vcpus "$vcpus" --memory 24M $log
      done
    done
  done
}

check_moves() {
  local log
  move_all "$backend"
  expect_reaped --backend model --guest user --memory 24M
  if supported --mode ring; then
    expect_reaped --backend "$backend" --memory 24M --mode ring
  fi
  expect_moved --backend model --guest kernel --memory 24M --ring-entries 1024
  # The reason for a stop, and whether the limit of the downtime was met.
  expect_moved --memory 24M --downtime-limit 1000000
  expect_key stopped_because fits
  expect_key downtime_limit_met True
  expect_moved --memory 24M --downtime-limit 0 --passes 2 --bandwidth 100M
  expect_key stopped_because passes
  expect_key downtime_limit_met False
  expect_moved --memory 24M --working-set 2M --downtime-limit 0 --passes 100 --bandwidth 40M
  expect_key stopped_because 'no progress'
  expect 0 --memory 24M --downtime-limit 0 --passes 2 --bandwidth 100M
  grep -q 'The limit was not met: .* MiB were left after 2 passes' "$scratch/run.out" ||
    fail "the source does not say why the limit was not met"
  for log in "--channels 2 --backend model" "--channels 4 --mode bitmap --transport tcp" \
    "--channels 8 --guest kernel --slot-moves"; do
    # shellcheck disable=SC2086
    expect_moved --memory 24M $log
  done
  for log in "--backend model" "--mode bitmap" "--mode auto --guest kernel"; do
    # shellcheck disable=SC2086
    expect_moved --slot-moves --memory 24M --bandwidth 50M $log
    [ "$(json slot_changes)" -gt 3 ] || fail "precopy $log: the device's slot does not change"
  done
  for log in "--mode auto" "--mode bitmap"; do
    # shellcheck disable=SC2086
    expect_moved --backend model --watch --memory 24M --bandwidth 50M $log
    [ "$(json watched_bytes)" -gt 0 ] || fail "precopy --watch $log: nothing is found"
    [ "$(json missed_bytes)" = 0 ] || fail "precopy --watch $log: there is no audit"
    # shellcheck disable=SC2086
    expect_moved --backend model --watch --sabotage mark --memory 24M $log
    [ "$(json missed_pages)" -gt 0 ] || fail "precopy --watch $log: no mark is missing"
  done
  expect_moved --pattern sequential --memory 48M --no-zero-pages --transport tcp
  expect_moved --pattern hot --memory 16M --vcpus 8 --working-set 16M
  expect_moved --dirty-rate 4M --memory 20492K --vcpus 3 --downtime-limit 0 --passes 3
  [ "$(python3 -c 'import json, sys; print(len(json.load(open(sys.argv[1]))["passes"]))' \
    "$scratch/run.out")" -le 4 ] || fail "more than 3 passes before the final one"
}

check_repeat() {
  local i
  check_slow
  for ((i = 0; i < $1; i++)); do
    move_all "$backend"
  done
}

check_sabotage() {
  local kind guest log
  for kind in final mark discard ack drop read-early; do
    for guest in user kernel; do
      for log in "--mode auto" "--mode auto --ring-entries 256" "--mode bitmap"; do
        # shellcheck disable=SC2086
        expect_corrupt --backend "$backend" --guest "$guest" --sabotage "$kind" $log
      done
    done
    expect_corrupt --backend model --sabotage "$kind"
    expect_corrupt --backend "$backend" --channels 3 --sabotage "$kind"
  done
  # The guest finds the loss of its own pages too.
  expect_corrupt --sabotage ack
  expect_key guest_healthy False
}

check_kills() {
  local guest log source destination status
  for guest in user kernel; do
    for log in auto bitmap; do
      : >"$scratch/src.out"
      "$precopy" --memory 32M --bandwidth 4M --guest "$guest" --mode "$log" \
        --downtime-limit 0 >"$scratch/src.out" 2>"$scratch/src.err" </dev/null &
      source=$!
      children+=("$source")
      wait_for '^ *1  *[0-9]' src.out
      destination=$(sed -n 's/.*destination process \([0-9]*\).*/\1/p' "$scratch/src.out")
      kill -9 "$destination"
      status=0
      wait "$source" || status=$?
      [ "$status" = 3 ] || fail "the source's exit status is $status, expected 3"
      grep -q 'in pass 2: connection lost' "$scratch/src.err" ||
        fail "the source does not report the lost connection"
      grep -q 'still runs on the source, logging is off' "$scratch/src.out" ||
        fail "the guest does not run on the source"
      ! grep -q '.\{81\}' "$scratch/src.out" || fail "the report has a line over 80 columns"
    done
  done

  start_destination unix
  : >"$scratch/src.out"
  "$precopy" --memory 32M --bandwidth 4M --connect "$address" --downtime-limit 0 \
    >"$scratch/src.out" 2>"$scratch/src.err" </dev/null &
  source=$!
  children+=("$source")
  wait_for '^ *1  *[0-9]' src.out
  kill -9 "$source"
  status=0
  wait "$destination_pid" || status=$?
  [ "$status" = 3 ] || fail "the destination's exit status is $status, expected 3"
  grep -q 'connection lost' "$scratch/dst.err" ||
    fail "the destination does not report the lost connection"
}

# Every process on the way receives the guest, proves it, and sends it on, with a log of its own.
# Arguments: the number of moves, then precopy's options.
move_on() {
  local hops=$1 hop pids=()
  shift
  for ((hop = hops; hop > 0; hop--)); do
    local next=(--connect "unix:$scratch/hop$((hop + 1))")
    [ "$hop" -lt "$hops" ] || next=()
    : >"$scratch/hop$hop.err"
    "$precopy" --bandwidth 400M --downtime-limit 10 "$@" --listen "unix:$scratch/hop$hop" \
      "${next[@]}" >"$scratch/hop$hop.out" 2>"$scratch/hop$hop.err" </dev/null &
    pids+=("$!")
    children+=("$!")
    wait_for 'listening on' "hop$hop.err"
  done
  expect_moved "$@" --memory 16M --vcpus 2 --connect "unix:$scratch/hop1"
  for ((hop = 1; hop <= hops; hop++)); do
    wait "${pids[hops - hop]}" || fail "move $hop failed"
    grep -q 'the guest arrived and is healthy' "$scratch/hop$hop.out" ||
      fail "move $hop: the guest is not healthy"
    [ "$hop" = "$hops" ] || grep -q 'No write was lost' "$scratch/hop$hop.out" ||
      fail "move $hop: the guest did not move on"
  done
}

check_hops() {
  # A guest that cannot move on has arrived all the same, and says so.
  start_destination unix --connect "unix:$scratch/nobody"
  expect_moved --memory 16M --backend model --connect "$address"
  ! wait "$destination_pid" || fail "a destination that cannot move the guest on succeeds"
  grep -q 'the guest has arrived, and ends here' "$scratch/dst.err" ||
    fail "the destination does not say what became of the guest"
  move_on "$1" --backend model
  move_on "$1" --backend "$backend" --slot-moves
  move_on "$1" --backend "$backend" --mode bitmap --guest kernel
}

# Starts a destination. Arguments: unix or a TCP port, then precopy's options. Sets address and
# destination_pid.
start_destination() {
  address=unix:$scratch/socket
  [ "$1" = unix ] || address=tcp:127.0.0.1:$1
  shift
  : >"$scratch/dst.err" # clear the output of the previous destination
  "$precopy" --listen "$address" "$@" >"$scratch/dst.out" 2>"$scratch/dst.err" </dev/null &
  destination_pid=$!
  children+=("$destination_pid")
  wait_for 'listening on' dst.err
}

check_sides() {
  local port
  start_destination unix --json
  expect_moved --memory 32M --connect "$address"
  wait "$destination_pid" || fail "the destination failed"
  [ ! -e "$scratch/socket" ] || fail "the socket file was not removed"
  cp "$scratch/dst.out" "$scratch/run.out"
  expect_key differing_pages 0
  expect_key guest_healthy True

  port=$(python3 -c 'import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])')
  start_destination "$port"
  expect_moved --memory 32M --connect "$address"
  wait "$destination_pid" || fail "the destination failed"

  # Over several connections, each of which is flushed between passes.
  for port in unix 0; do
    start_destination "$port"
    address=$(sed -n 's/.*listening on //p' "$scratch/dst.err")
    expect_moved --memory 32M --channels 4 --connect "$address"
    expect_key channels 4
    wait "$destination_pid" || fail "the destination failed"
  done

  start_destination unix --memory 16M
  expect 3 --memory 32M --connect "$address"
  grep -q 'exceeds the limit' "$scratch/run.err" || fail "the source does not print the reason"
  ! wait "$destination_pid" || fail "the destination exits with status 0"
}

# The JSON object of a run that failed early has its error. Arguments: precopy's.
expect_json_error() {
  local status=$1
  shift
  expect "$status" "$@" --json
  [ -n "$(json error)" ] || fail "precopy $*: the JSON object has no error"
  expect_key exit_status "$status"
}

check_listening() {
  printf 'a file of somebody else' >"$scratch/file"
  expect_json_error 3 --listen "unix:$scratch/file"
  grep -q 'the file exists' "$scratch/run.err" || fail "the reason is not the file"
  [ "$(cat "$scratch/file")" = 'a file of somebody else' ] || fail "the file was changed"

  # Neither a second destination at its address ends the first one, nor a probe of its port.
  start_destination unix --json
  expect_json_error 3 --listen "$address"
  python3 -c '
import socket, sys
for data in b"", b"GET / HTTP/1.0\r\n\r\n":
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(sys.argv[1])
        peer.sendall(data)' "$scratch/socket"
  wait_for 'ignored a connection: it was closed' dst.err
  wait_for 'ignored a connection: it does not speak' dst.err
  expect_moved --memory 16M --connect "$address"
  wait "$destination_pid" || fail "the destination failed"

  # A connection that says nothing keeps no source out.
  start_destination unix
  python3 -c '
import signal, socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
print(flush=True)
signal.pause()' "$scratch/socket" >"$scratch/silent.out" &
  children+=("$!")
  wait_for '^$' silent.out
  expect_moved --memory 16M --connect "$address"
  wait "$destination_pid" || fail "the destination failed"

  # An interrupt removes the socket, but not a file that has taken its place.
  start_destination unix
  kill -INT "$destination_pid"
  ! wait "$destination_pid" || fail "an interrupted destination exits with status 0"
  [ ! -e "$scratch/socket" ] || fail "the socket file was not removed"
  start_destination unix
  rm "$scratch/socket"
  : >"$scratch/socket"
  kill -TERM "$destination_pid"
  ! wait "$destination_pid" || fail "an interrupted destination exits with status 0"
  [ -e "$scratch/socket" ] || fail "another file was removed"

  start_destination 0
  address=$(sed -n 's/.*listening on //p' "$scratch/dst.err")
  expect_moved --memory 16M --connect "$address"
  wait "$destination_pid" || fail "the destination failed"
}

# Runs a small migration with its descriptors redirected. Arguments: the expected status, then a
# command for bash that runs "$@".
expect_redirected() {
  local want=$1 got=0
  timeout 120 bash -c "$2" bash "$precopy" --backend model --memory 16M --vcpus 1 --bandwidth 0 \
    2>"$scratch/run.err" </dev/null || got=$?
  [ "$got" = "$want" ] || fail "$2: exit status $got, expected $want"
}

check_outputs() {
  local closed
  # shellcheck disable=SC2016 # "$@" is expanded by the inner shell.
  for closed in '>&-' '<&- >&-' '<&- >&- 2>&-'; do
    expect_redirected 5 "\"\$@\" $closed"
    expect_redirected 5 "\"\$@\" --json $closed"
  done
  expect_redirected 5 '"$@" >/dev/full'
  grep -q 'cannot write all of the output: No space' "$scratch/run.err" ||
    fail "the source does not say that its output is lost"
  expect_redirected 0 '"$@" <&- 2>&- >/dev/null'
  expect_redirected 5 'set -o pipefail; "$@" | head -1 >/dev/null'
  expect_redirected 2 '"$@" --vcpus 0 >&- 2>&-'
  expect_redirected 5 '"$@" --help >/dev/full'
}

# Prints the overflows of a migration whose rings fill in a few milliseconds. Arguments: precopy's.
overflows() {
  expect_moved --guest kernel --memory 64M --mode ring --ring-entries 4096 --vcpus 2 \
    --bandwidth 100M "$@"
  json overflows
}

# A kernel that emulates guests overflows their rings, unless somebody empties them in time. Another
# program on the machine can keep the reaper from being in time, so it has three tries.
check_reaper() {
  local with without=0 try
  supported --mode ring || { printf 'skip: no /dev/kvm with dirty rings\n' && exit 77; }
  for try in 1 2 3; do
    without=$(overflows --no-reaper)
    [ "$(json reaps)" = 0 ] || fail "--no-reaper: somebody serves the log's descriptor"
    with=$(overflows)
    printf 'try %s: overflows %s with a reaper, %s without\n' "$try" "$with" "$without"
    [ "$without" != 0 ] || { printf 'skip: this kernel does not overflow rings\n' && exit 77; }
    [ $((10 * with)) -gt "$without" ] || return 0
  done
  fail "with a reaper, rings overflow more than a tenth as often"
}

# With too little memory or too few threads the migration succeeds, or fails with a reason and
# leaves the guest where it was; the guest is never damaged.
check_limits() {
  local kib got
  if [ -n "${ASAN_OPTIONS:-}" ]; then
    printf 'skip: a sanitizer uses too much address space to limit it\n'
    exit 77
  fi
  # How much is enough depends on how many threads allocate at once: each takes an arena of 64 MiB.
  for kib in {30000..330000..15000} 1000000; do
    got=0
    (ulimit -v "$kib" && exec timeout 120 "$precopy" --json --backend model --memory 16M \
      --bandwidth 0) >"$scratch/run.out" 2>"$scratch/run.err" </dev/null || got=$?
    case $got in
    0) ;;
    3) [ -s "$scratch/run.err" ] || fail "ulimit -v $kib: no reason" ;;
    *) fail "ulimit -v $kib: exit status $got" ;;
    esac
  done
  [ "$got" = 0 ] || fail "ulimit -v $kib: a migration of 16 MiB fails"
}

# Neither side gives the other up for dead while a frame is on a slow wire.
check_slow() {
  expect 0 --json --backend model --memory 16M --vcpus 1 --working-set 64K --bandwidth 64K \
    --downtime-limit 100000
  expect_key differing_pages 0
}

check_usage() {
  local wrong
  expect 0 --help
  grep -q 'Usage: precopy' "$scratch/run.out" || fail "--help prints no usage line"
  ! grep -q '.\{81\}' "$scratch/run.out" || fail "--help has a line over 80 columns"
  for wrong in --nonsense spare --vcpus "--vcpus 0" "--vcpus 9" "--memory 1M" "--memory 12Q" \
    "--memory 16777217" "--memory 16M --working-set 17M" "--mode fast" "--passes 0" \
    "--guest none" "--listen here" "--listen unix:" \
    "--connect tcp:localhost" "--connect tcp:localhost:0" "--connect tcp:localhost:65537" \
    "--bandwidth 1K" "--sabotage log" "--no-reaper --throttle plan" \
    "--device-process --memory 16M --working-set 16M" \
    "--device-process --listen unix:socket" --nonsense=1 --memory; do
    # shellcheck disable=SC2086
    expect 2 $wrong
    [ -s "$scratch/run.err" ] || fail "precopy $wrong: no message"
    ! grep -q '.\{81\}' "$scratch/run.err" || fail "precopy $wrong: a line over 80 columns"
    # An option that takes --json for its argument complains about that.
    case $wrong in
    *--memory | *--vcpus) continue ;;
    esac
    # shellcheck disable=SC2086
    expect_json_error 2 $wrong
  done
  expect_json_error 3 --connect "unix:$scratch/nobody"
  expect 3 --ring-entries 3 --mode ring --json
  expect_key differing_pages None
  [ -n "$(json error)" ] || fail "the JSON object has no error"
}

case $check in
moves | sabotage | kills | sides | usage | listening | outputs | limits | reaper) "check_$check" ;;
repeat | hops) "check_$check" "$3" ;;
*) fail "unknown check $check" ;;
esac
