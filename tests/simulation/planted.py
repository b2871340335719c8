#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Plants defects in a copy of lib/, one at a time, and tells how soon the simulation finds each.

A simulation that finds nothing proves something only if it would have found it.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import time

# Name, file of lib/, what stands there, what is planted.
PLANTED = [
    ("an iterator that is given up does not fold back", "iter.c",
     "if (!over && !iter->slots[i]->discarded)", "if (false)"),
    ("nobody looks whether a reset took everything", "ring.c",
     "	if (!ring->unsettled)\n		return true;\n	/*",
     "	ring->unsettled = false;\n	if (!ring->unsettled)\n		return true;\n	/*"),
    ("a short reset owes no repair", "ring.c",
     "		ring_owe(ring);\n		ring_count(&ring->stats.short_resets, 1);",
     "		ring_count(&ring->stats.short_resets, 1);"),
    ("a failed reset owes no repair", "ring.c",
     "	if (ring->unsettled)\n		ring_owe(ring);\n}", "}"),
    ("cells are released before they are copied", "ring.c",
     "		to[n] = cell_read(ring, ring->head + n);",
     "		cell_release(ring, ring->head + n);\n"
     "		to[n] = cell_read(ring, ring->head + n);"),
    ("a vCPU's drain publishes before its reset", "ring.c",
     "	dli_ring_copy(ring);\n	r = dli_reset_begin(reset);\n	if (!r) {\n"
     "		r = drain(ring, reset, full, &idle);",
     "	dli_ring_copy(ring);\n	if (ring->fresh)\n		sink(opaque, ring->batch +"
     " ring->released_entries, ring->fresh);\n	r = dli_reset_begin(reset);\n	if (!r) {\n"
     "		r = drain(ring, reset, full, &idle);\n		if (!ring->unsettled)\n"
     "			ring->released_entries = 0;"),
    ("publishing outside a read section", "publish.c",
     "	dli_rcu_read_lock();\n	/*", "	/*"),
    ("a chunk is taken without the log's lock", "iter.c",
     "	pthread_mutex_lock(lock);\n	while (iter->at < iter->n)",
     "	while (iter->at < iter->n)"),
    ("two readers of an iterator at once", "iter.c",
     "	pthread_mutex_lock(&iter->log->reading);\n	if (!is_over(iter))",
     "	if (!is_over(iter))"),
    ("a removed slot is not handed out once more", "layout.c",
     "	if (dli_slot_is_loggable(slot))\n		dli_pageset_mark_all(slot->set);\n"
     "	slot->logged = false;", "	slot->logged = false;"),
    ("a new slot is not marked", "layout.c",
     "	if (slot->logged && !(s->flags & DL_SLOT_CLEAN))", "	if (false)"),
    ("a new slot enters the table after KVM knows it", "layout.c",
     "	old = dli_slots_publish(&log->slots, table);\n	r = bring_up(log, s, slot);\n"
     "	if (r)\n		old = dli_slots_publish(&log->slots, old);\n",
     "	r = bring_up(log, s, slot);\n	if (r)\n		old = table;\n	else\n"
     "		old = dli_slots_publish(&log->slots, table);\n"),
    ("a moved slot is not marked", "layout.c",
     "dli_log_is_on(log) && (moved || by_caller)", "dli_log_is_on(log) && by_caller"),
    ("the caller's ioctl is taken to leave logging on", "layout.c",
     "	if (!was_logged)\n		return 0;", "	return 0;"),
    ("a stop leaves the pages", "session.c",
     "		dli_rcu_synchronize();\n		discard_pages(log);\n	}\n	return r ? r : drained;",
     "		dli_rcu_synchronize();\n	}\n	return r ? r : drained;"),
    ("sessions are not told apart", "session.c",
     "	atomic_fetch_add_explicit(&log->session, 1, memory_order_release);\n", ""),
    ("no repair after an overflow", "harvest.c",
     "return dli_vcpus_want_repair(&log->vcpus) ? repair(log) : 0;", "return 0;"),
    ("a repair marks before it protects", "harvest.c",
     "	int r = dli_protect_again(log);\n\n	if (r)\n		return r;\n	dli_mark_everything(log);",
     "	int r;\n\n	dli_mark_everything(log);\n	r = dli_protect_again(log);\n	if (r)\n"
     "		return r;"),
    ("a repair that failed counts as made", "harvest.c",
     "	int r = dli_protect_again(log);\n\n	if (r)\n		return r;",
     "	int r = dli_protect_again(log);\n\n	dli_vcpus_repaired(&log->vcpus);\n	if (r)\n"
     "		return r;"),
    ("what is owed meanwhile counts as repaired", "ring.c",
     "	ring->owed_paid = ring->owed_seen;",
     "	ring->owed_paid = atomic_load_explicit(&ring->owed, memory_order_acquire);"),
    ("a slot whose GET failed is not marked", "harvest.c",
     "		dli_pageset_mark_all(slot->set);\n		return r;", "		return r;"),
    ("the backup bitmap is not read in the end", "harvest.c",
     "(last && log->caps.backup)", "false"),
    ("a slot that is switched on late is not marked", "protect.c",
     "			return r;\n		dli_pageset_mark_all(slot->set);",
     "			return r;"),
    ("a chunk whose CLEAR failed is not given back", "iter.c",
     "		dli_pageset_give_back(slot->set, &iter->chunk);\n", ""),
    ("CLEAR covers pages that were not taken", "iter.c",
     "[chunk->index[i] - first] = chunk->bits[i];", "[chunk->index[i] - first] = ~UINT64_C(0);"),
    ("CLEAR covers words that were not taken", "iter.c",
     "	memset(iter->clear_words, 0,", "	memset(iter->clear_words, 0xff,"),
    ("runs of a discarded slot are still handed out", "iter.c",
     "	if (slot->discarded || !dli_pageset_take(", "	if (!dli_pageset_take("),
    ("an iterator holds no slots", "iter.c",
     "		dli_slot_get(iter->slots[i]);", "		;"),
    ("an acknowledgement clears the whole word", "pageset.c",
     "gone += clear_word(&set->taken, word, range_bits(word, first_page, end_page));",
     "gone += clear_word(&set->taken, word, ~UINT64_C(0));"),
    ("summaries are set before the page", "pageset.c",
     "	uint64_t before = set_bits(&map->leaf[word], bits);\n"
     "	uint64_t mid = word / 64, group = mid / MID_GROUP;\n\n"
     "	set_bits(&map->mid[mid], UINT64_C(1) << word % 64);\n"
     "	set_bits(&map->top[group / 64], UINT64_C(1) << group % 64);\n",
     "	uint64_t mid = word / 64, group = mid / MID_GROUP;\n\n"
     "	set_bits(&map->mid[mid], UINT64_C(1) << word % 64);\n"
     "	set_bits(&map->top[group / 64], UINT64_C(1) << group % 64);\n"
     "	uint64_t before = set_bits(&map->leaf[word], bits);\n"),
    ("a chunk's summary is removed after it was taken", "pageset.c",
     "	add_pages(map, -(int64_t)pages);\n	return pages;",
     "	atomic_fetch_and_explicit(&map->top[chunk / 64], ~(UINT64_C(1) << chunk % 64),\n"
     "				  memory_order_acq_rel);\n"
     "	add_pages(map, -(int64_t)pages);\n	return pages;"),
    ("a table is replaced without a grace period", "slots.c",
     "	dli_rcu_synchronize();\n	return old;", "	return old;"),
    ("resets are not serialised", "reset.c",
     "	pthread_mutex_lock(&reset->lock);\n	if (!reset->closed)\n		return 0;\n"
     "	pthread_mutex_unlock(&reset->lock);\n	return -ECANCELED;\n}\n\n"
     "void dli_reset_end(struct dli_reset *reset)\n{\n	pthread_mutex_unlock(&reset->lock);",
     "	return reset->closed ? -ECANCELED : 0;\n}\n\n"
     "void dli_reset_end(struct dli_reset *reset)\n{"),
    ("signals are not blocked around a reset", "reset.c",
     "	int r = dli_os_block_signals(reset->os, &before);\n",
     "	int r = 0;\n\n	sigemptyset(&before);\n"),
    ("a ring is drained without its lock", "ring.c",
     "	dli_ring_lock(ring);\n	full = came_out_full(ring);", "	full = came_out_full(ring);"),
    ("coming round before the reset is not looked for", "ring.c",
     "if (ring->fresh == ring->entries || went_round(ring))",
     "if (ring->fresh == ring->entries)"),
    ("a ring that is wholly dirty counts as sound", "ring.c",
     "if (ring->fresh == ring->entries || went_round(ring))", "if (false)"),
    ("an overflowed ring is not wiped", "ring_recovery.c",
     "		cell_clear(ring, i);\n	ring->state", "		;\n	ring->state"),
    ("an overflowed ring owes no repair", "ring_recovery.c",
     "	ring_owe(ring);\n	atomic_store_explicit(&reset->overflowed",
     "	atomic_store_explicit(&reset->overflowed"),
    ("coming round is not looked for while cells are offered", "ring_recovery.c",
     "	if (came_round)\n		ring_owe(ring);\n", ""),
    ("coming round during a reset is never owed", "ring.c",
     "	    atomic_load_explicit(&reset->overflowed, memory_order_relaxed))", "	    false)"),
    ("nobody looks for dirty cells after the last drain", "vcpus.c",
     "		if (last)\n			dli_ring_check_empty(vcpu->ring);\n", ""),
    ("a repair's failure to switch on is not told", "protect.c",
     "	return r ? r : on;", "	(void)on;\n	return r;"),
    ("a repair switches nothing off", "protect.c",
     "	int r = dli_protect_all(log, false);\n\n	/* Also", "	int r = 0;\n\n	/* Also"),
    ("a harvest forgets the rings' error", "harvest.c",
     "	return rings ? rings : bitmaps;", "	return bitmaps;"),
    ("pending bytes leave out removed slots", "harvest.c",
     "	for (struct dli_slot *slot = log->slots.retired; slot; slot = slot->next_retired)\n"
     "		pages +=", "	for (struct dli_slot *slot = NULL; slot; slot = slot->next_retired)\n"
     "		pages +="),
    ("the address space of an entry is not looked at", "slots.h",
     "	uint32_t as_id = slot >> 16, id = slot & 0xffff;",
     "	uint32_t as_id = 0, id = slot & 0xffff;"),
    ("a mark misses the last of several pages", "mark.c",
     "last - first + 1);", "last - first + (last == first));"),
    ("blocks of half a ring are offered", "ring_cells.h",
     "	return ring->entries / 4;", "	return ring->entries / 2 + 1;"),
    ("a full exit is not told from the next", "ring.c",
     "		atomic_compare_exchange_strong_explicit(exit_reason(ring), &full, KVM_EXIT_INTR,\n"
     "							memory_order_relaxed, memory_order_relaxed);",
     "		full == KVM_EXIT_DIRTY_RING_FULL;"),
    ("getting into step passes the first dirty cell", "ring_recovery.c",
     "	offer(ring, first + 1, ring->entries - 1);",
     "	cell_release(ring, first);\n	offer(ring, first + 1, ring->entries - 1);"),
    ("a close leaves its vCPUs without a file descriptor", "log.c",
     "	dli_reset_close(&log->reset, dli_vcpus_in_use(&log->vcpus));",
     "	dli_reset_close(&log->reset, false);"),
    ("a closed log uses the caller's file descriptor", "reset.c",
     "		reset->vm_fd = fd;\n", "		(void)fd;\n"),
    ("a vCPU that comes back is added a second time", "vcpus.c",
     "	if (vcpu) {\n		dli_ring_free(ring);", "	if (false) {\n		dli_ring_free(ring);"),
    ("a lock is kept after an error", "iter.c",
     "	pthread_mutex_unlock(lock);\n	return r;", "	if (r >= 0)\n		pthread_mutex_unlock(lock);\n"
     "	return r;"),
    ("the locks of a stop in the wrong order", "session.c",
     "	pthread_mutex_lock(&log->reading);\n	pthread_mutex_lock(&log->lock);\n	if (atomic",
     "	pthread_mutex_lock(&log->lock);\n	pthread_mutex_lock(&log->reading);\n	if (atomic"),
]


def run(command, **more):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True, check=False, **more)


def prepare(source, work):
    tree = work / "tree"
    if tree.exists():
        shutil.rmtree(tree)
    shutil.copytree(source, tree, ignore=shutil.ignore_patterns(".git", "build*"), symlinks=True)
    build = work / "build"
    if build.exists():
        shutil.rmtree(build)
    made = run(["meson", "setup", str(build), str(tree), "-Dexamples=false"])
    if made.returncode:
        sys.exit(made.stdout)
    return tree, build


def try_one(tree, build, defect, schedules):
    name, file, old, new = defect
    path = tree / "lib" / file
    before = path.read_text()
    if before.count(old) != 1:
        return name, "does not fit the source any more", "", 0
    path.write_text(before.replace(old, new))
    try:
        made = run(["ninja", "-j2", "-C", str(build), "tests/simulation/simulation"])
        if made.returncode:
            return name, "does not compile:\n" + made.stdout, "", 0
        begin = time.monotonic()
        ran = run([str(build / "tests/simulation/simulation"), "--schedules", str(schedules)],
                  timeout=600)
        seconds = time.monotonic() - begin
    finally:
        path.write_text(before)
    found = re.search(r"^seed (\d+): ([^:]*): ", ran.stdout, re.M)
    if found:
        return name, f"after {found.group(1)}", found.group(2), seconds
    if ran.returncode:
        return name, "found", "exit status " + str(ran.returncode), seconds
    return name, "NOT FOUND", "", seconds


def main():
    top = pathlib.Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--work", required=True, help="a directory for the copy and its build")
    parser.add_argument("--schedules", type=int, default=20000, help="at most; default %(default)s")
    parser.add_argument("--only", help="only the defects whose name contains this")
    arguments = parser.parse_args()
    work = pathlib.Path(arguments.work)
    work.mkdir(parents=True, exist_ok=True)
    tree, build = prepare(top, work)
    missed = 0
    for defect in PLANTED:
        if arguments.only and arguments.only not in defect[0]:
            continue
        name, when, how, seconds = try_one(tree, build, defect, arguments.schedules)
        missed += not when.startswith(("after", "found"))
        print(f"| {name} | {when} | {how} | {seconds:.1f} s |", flush=True)
    print(f"{missed} not found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
