#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Plants defects in a copy of lib/, one at a time, and tells how soon the simulation finds each.

A simulation that finds nothing proves something only if it would have found it. What it cannot find,
as its guests are small, say, names another test's program that has to fail instead; that is built and
run on the broken copy, too.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import time

# Name, file of lib/, what stands there, what is planted (two tuples: in several places), and for what
# the simulation does not find: the program in tests/ that does.
PLANTED = [
    ("an iterator that is freed does not requeue its pages", "api/iter.c",
     "if (!stale && !iter->slots[i]->discarded)", "if (false)"),
    ("nobody looks whether a reset took everything", "ring/ring.c",
     "	if (!ring->reset_pending)\n		return true;\n	/*",
     "	ring->reset_pending = false;\n	if (!ring->reset_pending)\n		return true;\n	/*"),
    ("a short reset owes no repair", "ring/ring.c",
     "		ring_request_repair(ring);\n		ring_count(&ring->stats.short_resets, 1);",
     "		ring_count(&ring->stats.short_resets, 1);"),
    ("a failed reset owes no repair", "ring/ring.c",
     "	if (ring->reset_pending)\n		ring_request_repair(ring);\n	return", "	return"),
    ("cells are released before they are copied", "ring/ring.c",
     "		struct kvm_dirty_gfn entry = cell_read(cell);\n",
     "		cell_release(cell);\n		struct kvm_dirty_gfn entry = cell_read(cell);\n"),
    ("a vCPU's drain publishes before its reset", "ring/drain.c",
     ("#include \"ring/drain.h\"\n", "	dli_ring_set_next(ring, NULL);\n	r = submit(reset, &drain);\n"),
     ("#include \"ring/drain.h\"\n\n#include \"pages/publish.h\"\n#include \"ring/ring_private.h\"\n",
      "	if (ring->copied)\n		dli_publish(slots, ring->words + ring->released_words,"
      " ring->copied_words);\n	dli_ring_set_next(ring, NULL);\n	r = submit(reset, &drain);\n"
      "	if (!ring->reset_pending)\n		ring->released_entries = ring->released_words = 0;\n")),
    ("publishing outside a read section", "pages/publish.c",
     "	dli_rcu_read_lock();\n	/*", "	/*"),
    ("a chunk is taken without the log's lock", "api/iter.c",
     "	pthread_mutex_lock(lock);\n	while (iter->at < iter->n)",
     "	while (iter->at < iter->n)"),
    ("two readers of an iterator at once", "api/iter.c",
     "	pthread_mutex_lock(&iter->log->reading);\n	if (!is_stale(iter))",
     "	if (!is_stale(iter))"),
    ("a removed slot is not handed out once more", "api/slot.c",
     "	if (dli_slot_is_loggable(slot))\n		dli_page_set_mark_all(slot->set);\n"
     "	slot->logged = false;", "	slot->logged = false;"),
    ("a new slot is not marked", "api/slot.c",
     "	if (slot->logged && !(s->flags & DL_SLOT_CLEAN))", "	if (false)"),
    ("a new slot enters the table after KVM knows it", "api/slot.c",
     "	old = dli_slots_publish(&log->slots, table);\n	r = create_in_kvm(log, s, slot);\n"
     "	if (r)\n		old = dli_slots_publish(&log->slots, old);\n",
     "	r = create_in_kvm(log, s, slot);\n	if (r)\n		old = table;\n	else\n"
     "		old = dli_slots_publish(&log->slots, table);\n",
     "unit/unit-slot"),
    ("a moved slot is not marked", "api/slot.c",
     "dli_log_is_on(log) && (moved || by_caller)", "dli_log_is_on(log) && by_caller"),
    ("the caller's ioctl is taken to leave logging on", "api/slot.c",
     "	if (!was_logged)\n		return 0;", "	return 0;"),
    ("a stop leaves the pages", "api/start_stop.c",
     "		dli_rcu_synchronize();\n		discard_pages(log);\n	}\n	return r ? r : drained;",
     "		dli_rcu_synchronize();\n	}\n	return r ? r : drained;"),
    ("sessions are not told apart", "api/start_stop.c",
     "	atomic_fetch_add_explicit(&log->session, 1, memory_order_release);\n", ""),
    ("no repair after an overflow", "api/harvest.c",
     "return dli_reset_repair_needed(&log->reset) ? repair(log) : 0;", "return 0;"),
    ("a repair marks before it protects", "api/harvest.c",
     "	int r = dli_slot_logging_restart(log);\n\n	if (r)\n		return r;\n	dli_mark_all_slots(log);",
     "	int r;\n\n	dli_mark_all_slots(log);\n	r = dli_slot_logging_restart(log);\n	if (r)\n"
     "		return r;"),
    ("a repair that failed counts as made", "api/harvest.c",
     "	int r = dli_slot_logging_restart(log);\n\n	if (r)\n		return r;",
     "	int r = dli_slot_logging_restart(log);\n\n	dli_reset_repaired(&log->reset);\n	if (r)\n"
     "		return r;"),
    ("what is owed meanwhile counts as repaired", "ring/reset.c",
     "	reset->repair_requests_served = reset->repair_requests_seen;",
     "	reset->repair_requests_served = atomic_load_explicit(&reset->repair_requests, memory_order_acquire);",
     "unit/unit-ring_loss"),
    ("a slot whose GET failed is not marked", "api/harvest.c",
     "		dli_page_set_mark_all(slot->set);\n		return r;", "		return r;"),
    ("the backup bitmap is not read in the end", "api/harvest.c",
     "(last && log->caps.backup)", "false"),
    ("a slot that is switched on late is not marked", "slot_logging.c",
     "			return r;\n		dli_page_set_mark_all(slot->set);",
     "			return r;",
     "unit/unit-slot_logging"),
    ("a chunk whose CLEAR failed is not given back", "api/iter.c",
     "		dli_page_set_unclaim(slot->set, &iter->batch);\n", ""),
    ("CLEAR covers pages that were not taken", "api/iter.c",
     "[batch->word[i] - first] = batch->bits[i];", "[batch->word[i] - first] = ~UINT64_C(0);"),
    ("CLEAR covers words that were not taken", "api/iter.c",
     "	memset(iter->clear_words, 0,", "	memset(iter->clear_words, 0xff,",
     "unit/unit-iter_clear"),
    ("runs of a discarded slot are still handed out", "api/iter.c",
     "	if (slot->discarded || !dli_page_set_take(", "	if (!dli_page_set_take("),
    ("an iterator holds no slots", "api/iter.c",
     "		dli_slot_get(iter->slots[i]);", "		;"),
    ("an acknowledgement clears the whole word", "pages/page_set.c",
     "	*acked += clear_word(map, word, bits);", "	*acked += clear_word(map, word, ~UINT64_C(0));"),
    ("an acknowledgement of many words clears whole ones", "pages/page_set.c",
     "		*acked += clear_word(map, word, range_bits(word, first_page, end_page));",
     "		*acked += clear_word(map, word, ~UINT64_C(0));",
     "unit/unit-page_set"),
    ("summaries are set before the page", "pages/page_set.c",
     "	uint64_t before = set_bits(leaf_of(&set->pending, word), bits);\n\n"
     "	set_block_summary(&set->pending, word / BLOCK_WORDS);\n",
     "	set_block_summary(&set->pending, word / BLOCK_WORDS);\n"
     "	uint64_t before = set_bits(leaf_of(&set->pending, word), bits);\n",
     "unit/unit-page_set_steps"),
    ("a block's summary is removed after it was taken", "pages/page_set_take.c",
     "		for (uint32_t i = 0; i < blocks.n; i++)\n"
     "			pages += claim_block(map, blocks.block[i], batch);\n",
     "		for (uint32_t i = 0; i < blocks.n; i++) {\n"
     "			uint64_t b = blocks.block[i];\n"
     "			pages += claim_block(map, b, batch);\n"
     "			clear_summary(&map->mid[b / 64], UINT64_C(1) << b % 64);\n		}\n"),
    ("a table is replaced without a grace period", "pages/slot_table.c",
     "	dli_rcu_synchronize();\n	return old;", "	return old;"),
    ("resets are not serialised", "ring/reset.c", "	if (!reset->busy)\n		return;", "	if (true)\n		return;"),
    ("signals are not blocked around a reset", "ring/reset.c",
     "	int r = dli_os_block_signals(reset->os, &before);\n",
     "	int r = 0;\n\n	sigemptyset(&before);\n"),
    ("a ring is drained without its lock", "ring/drain.c",
     ("	dli_ring_lock(ring);\n	drain.exited_full", "	dli_ring_unlock(ring);\n	return r;"),
     ("	drain.exited_full", "	return r;")),
    ("coming round before the reset is not looked for", "ring/ring.c",
     "ring->copied == ring->entries || overwritten || lapped(ring)",
     "ring->copied == ring->entries || overwritten",
     "unit/unit-ring_loss"),
    ("a ring that is wholly dirty counts as sound", "ring/ring.c",
     "ring->copied == ring->entries || overwritten || lapped(ring)",
     "overwritten || lapped(ring)",
     "unit/unit-ring_loss"),
    ("an overflowed ring is not wiped", "ring/recovery.c",
     "		cell_clear(cell_at(ring, i));\n	ring->state", "		;\n	ring->state"),
    ("an overflowed ring owes no repair", "ring/recovery.c",
     "	ring_request_repair(ring);\n	atomic_store_explicit(&reset->overflowed",
     "	atomic_store_explicit(&reset->overflowed"),
    ("coming round is not looked for while cells are offered", "ring/recovery.c",
     "	if (kernel_lapped)\n		ring_request_repair(ring);\n", ""),
    ("coming round during a reset is never owed", "ring/ring.c",
     "	    atomic_load_explicit(&reset->overflowed, memory_order_relaxed))", "	    false)",
     "unit/unit-ring_loss"),
    ("nobody looks for dirty cells after the last drain", "ring/drain.c",
     "		if (harvest->last)\n			dli_ring_check_empty(ring);\n", ""),
    ("a repair's failure to switch on is not told", "slot_logging.c",
     "	return r ? r : on;", "	(void)on;\n	return r;"),
    ("a repair switches nothing off", "slot_logging.c",
     "	int r = dli_slot_logging_set_all(log, false);\n\n	/* Even", "	int r = 0;\n\n	/* Even"),
    ("a harvest forgets the rings' error", "api/harvest.c",
     "	return rings ? rings : bitmaps;", "	return bitmaps;"),
    ("pending bytes leave out removed slots", "api/harvest.c",
     "	for (struct dli_slot *slot = log->slots.retired; slot; slot = slot->next_retired)\n"
     "		pages +=", "	for (struct dli_slot *slot = NULL; slot; slot = slot->next_retired)\n"
     "		pages +="),
    ("the address space of an entry is not looked at", "pages/slot_table.h",
     "	uint32_t as_id = slot >> 16, id = slot & 0xffff;",
     "	uint32_t as_id = 0, id = slot & 0xffff;"),
    ("a mark misses the last of several pages", "api/mark.c",
     "last - first + 1);", "last - first + (last == first));"),
    ("blocks of half a ring are offered", "ring/ring_private.h",
     "	return ring->entries / 4;", "	return ring->entries / 2 + 1;"),
    ("a full exit is not told from the next", "ring/recovery.c",
     "		atomic_compare_exchange_strong_explicit(exit_reason(ring), &full, KVM_EXIT_INTR,\n"
     "							memory_order_relaxed, memory_order_relaxed);",
     "		full == KVM_EXIT_DIRTY_RING_FULL;"),
    ("getting into step passes the first dirty cell", "ring/recovery.c",
     "	offer(ring, first + 1, ring->entries - 1);",
     "	cell_release(cell_at(ring, first));\n	offer(ring, first + 1, ring->entries - 1);"),
    ("a close leaves its vCPUs without a file descriptor", "api/log.c",
     "	dli_reset_close(&log->reset, dli_vcpu_list_in_use(&log->vcpus));",
     "	dli_reset_close(&log->reset, false);"),
    ("a closed log uses the caller's file descriptor", "ring/reset.c",
     "		reset->vm_fd = fd;\n", "		(void)fd;\n"),
    ("a vCPU that comes back is added a second time", "api/vcpu.c",
     "	if (vcpu) {\n		dli_ring_free(ring);", "	if (false) {\n		dli_ring_free(ring);"),
    ("a lock is kept after an error", "api/iter.c",
     "	pthread_mutex_unlock(lock);\n	return r;", "	if (r >= 0)\n		pthread_mutex_unlock(lock);\n"
     "	return r;"),
    ("the locks of a stop in the wrong order", "api/start_stop.c",
     "	pthread_mutex_lock(&log->reading);\n	pthread_mutex_lock(&log->lock);\n	if (!dli_log",
     "	pthread_mutex_lock(&log->lock);\n	pthread_mutex_lock(&log->reading);\n	if (!dli_log"),
    # Requests that share a reset.
    ("only one request is released", "ring/drain.c",
     "	for (request = batch; request; request = request->next)\n"
     "		needed |= release_rings(reset, to_drain_request(request));",
     "	needed |= release_rings(reset, to_drain_request(batch));",
     "unit/unit-drain"),
    ("only one request is verified after the reset", "ring/drain.c",
     "		for (request = batch; request; request = request->next)\n"
     "			needed |= verify_rings(reset, to_drain_request(request), retried);",
     "		needed |= verify_rings(reset, to_drain_request(batch), retried);"),
    ("a reset's failure concerns one request only", "ring/drain.c",
     "		for (request = batch; request && r < 0; request = request->next)\n"
     "			fail_request(to_drain_request(request), r);",
     "		if (r < 0)\n			fail_request(to_drain_request(batch), r);",
     "unit/unit-drain"),
    ("only one request is resynchronised", "ring/drain.c",
     "	for (request = batch; request; request = request->next)\n"
     "		recover_rings(reset, to_drain_request(request));",
     "	recover_rings(reset, to_drain_request(batch));",
     "unit/unit-drain"),
    ("only one ring of a request is resynchronised", "ring/drain.c",
     "	for (; ring; ring = dli_ring_next(ring)) {\n		int r = dli_ring_recover",
     "	{\n		int r = dli_ring_recover",
     "unit/unit-drain_all"),
    ("a request is released before the next is resynchronised", "ring/drain.c",
     "		recover_rings(reset, to_drain_request(request));\n"
     "	for (request = batch; request; request = request->next)\n"
     "		needed |= release_rings(reset, to_drain_request(request));",
     "		recover_rings(reset, to_drain_request(request)),\n"
     "			needed |= release_rings(reset, to_drain_request(request));",
     "unit/unit-drain"),
    ("a request is done before its reset", "ring/reset.c",
     "	reset->queue = NULL;\n	reset->busy = true;\n",
     "	reset->queue = NULL;\n	reset->busy = true;\n"
     "	for (struct dli_reset_request *request = batch; request; request = request->next)\n"
     "		request->done = true;\n	pthread_cond_broadcast(&reset->changed);\n"),
    ("a request forgets those that are queued", "ring/reset.c",
     "	request->next = reset->queue;", "	request->next = NULL;",
     "unit/unit-drain"),
    ("nobody is woken when the section is free", "ring/reset.c",
     "	pthread_cond_broadcast(&reset->changed);\n", ""),
    ("a reset is made after the close", "ring/reset.c",
     "	if (!reset->closed)\n		return batch;", "	if (true)\n		return batch;",
     "unit/unit-reset"),
    ("a second reset's cells may stay behind", "ring/drain.c", "		retried = true;\n", "",
     "unit/unit-ring_loss"),
    # Harvests that pass over rings, and share them.
    ("the head of a quiet ring is not looked at again", "ring/cells.h",
     " &&\n	       atomic_load_explicit(head, memory_order_relaxed) == cell;", ";",
     "race/protocols.py"),
    ("a locked ring does not hide its head", "ring/ring.c",
     "	if (ring->published_head)\n", "	if (ring->published_head && shown)\n",
     "unit/unit-drain_all"),
    ("a ring that is locked by trying does not hide its head", "ring/ring.c",
     "		return false;\n	publish_head(ring, false);", "		return false;",
     "unit/unit-drain_all"),
    ("a ring whose reset failed shows its head", "ring/ring.c",
     "ring->state == RING_IN_SYNC && !ring->reset_pending && !ring->released_entries;",
     "ring->state == RING_IN_SYNC;",
     "unit/unit-drain_all"),
    ("a ring that is out of step shows its head", "ring/ring.c",
     "ring->state == RING_IN_SYNC && !ring->reset_pending && !ring->released_entries;",
     "!ring->reset_pending && !ring->released_entries;",
     "unit/unit-drain_all"),
    ("a ring whose entries nobody has counted shows its head", "ring/ring.c",
     "	publish_head(ring, settled && entries == seen);",
     "	(void)entries, (void)seen;\n	publish_head(ring, settled);",
     "unit/unit-drain_all"),
    ("a harvest leaves out the rings that somebody is at", "ring/drain.c",
     "		collect_busy_rings(&harvest, group, busy);\n",
     "		(void)busy;\n		(void)collect_busy_rings;\n",
     "unit/unit-drain_all"),
    ("a harvest waits for no ring", "ring/drain.c",
     "			flush_rings(harvest);\n			dli_ring_lock(ring);\n", "			continue;\n",
     "unit/unit-drain_all"),
    ("a harvest waits for a ring and holds others", "ring/drain.c",
     "			flush_rings(harvest);\n			dli_ring_lock(ring);", "			dli_ring_lock(ring);",
     "unit/unit-drain_all"),
    ("the final harvest passes over quiet rings", "ring/drain.c",
     ("		if (!harvest->last && ring_is_quiet(&group->heads[i]))\n			continue;\n		ring =",
      "		if (!harvest->last && ring_is_quiet(&group->heads[i]))\n			continue;\n		/* Block"),
     ("		if (ring_is_quiet(&group->heads[i]))\n			continue;\n		ring =",
      "		if (ring_is_quiet(&group->heads[i]))\n			continue;\n		/* Block"),
     "unit/unit-drain_all"),
    ("a harvest hands back all at once", "ring/drain.c",
     "	if (harvest->entries >= reset_entries(harvest))\n		flush_rings(harvest);\n",
     "	(void)reset_entries;\n",
     "unit/unit-drain_all"),
    ("a harvest publishes when it has let go of the ring", "ring/drain.c",
     ("		dli_ring_publish(ring, harvest->slots);\n", "		dli_ring_unlock(ring);\n"),
     ("", "		dli_ring_unlock(ring);\n		dli_ring_publish(ring, harvest->slots);\n"),
     "unit/unit-locks"),
    ("a drain publishes when it has let go of the ring", "ring/drain.c",
     "	dli_ring_publish(ring, slots);\n	dli_ring_unlock(ring);\n",
     "	dli_ring_unlock(ring);\n	dli_ring_publish(ring, slots);\n",
     "unit/unit-locks"),
    ("a harvest knows 64 vCPUs", "ring/drain.c",
     "	     group = dli_vcpu_group_next(group)) {", "	     group = NULL) {",
     "unit/unit-vcpu"),
    ("a ring is looked for while others are at theirs", "ring/vcpu_list.c",
     ("	lock_all(vcpus);\n", "	unlock_all(vcpus);\n	return vcpu;"),
     ("	(void)lock_all;\n", "	(void)unlock_all;\n	return vcpu;"),
     "unit/unit-locks"),
    # What cells named is gathered word by word.
    ("the cell that ends a word is passed over", "ring/ring.c",
     "			if (entry.offset / 64 != word || entry.slot != first.slot)\n				break;",
     "			if ((entry.offset / 64 != word || entry.slot != first.slot) && ++cell)\n"
     "				break;"),
    ("words of two slots are taken for one", "ring/ring.c",
     "entry.offset / 64 != word || entry.slot != first.slot", "entry.offset / 64 != word",
     "unit/unit-ring"),
    ("of a word's cells only the first is gathered", "ring/ring.c",
     "			bits |= UINT64_C(1) << entry.offset % 64;\n", ""),
    ("released words are not counted", "ring/ring.c",
     "	ring->released_words += ring->copied_words;\n", ""),
    ("what a failed reset left is overwritten by what comes next", "ring/ring.c",
     "*words = ring->words + ring->released_words, *to = words;", "*words = ring->words, *to = words;",
     "unit/unit-ring"),
    ("more is gathered than there is room for", "ring/ring.c",
     "copy_ring(ring, ring->entries - ring->released_entries, &to);",
     "copy_ring(ring, ring->entries, &to);",
     "unit/unit-ring_recovery"),
    ("cells behind the ring's turn are not gathered", "ring/ring.c",
     "	stop = copy_cells(ring->cells, ring->cells + room - before_turn, to);",
     "	stop = ring->cells;",
     "unit/unit-ring"),
    ("cells behind the ring's turn are not released", "ring/ring.c",
     "		release_cells(ring->cells, first + ring->copied - ring->entries);\n", "",
     "unit/unit-ring"),
    ("the last words are only asked for", "pages/publish.c",
     "	for (uint32_t i = 0; i < n; i++) {\n		if (i + PREFETCH_WORDS < n)",
     "	for (uint32_t i = 0; i + PREFETCH_WORDS < n; i++) {\n		if (i + PREFETCH_WORDS < n)",
     "unit/unit-publish"),
    ("pages behind a slot's end are taken for pages", "pages/publish.c",
     "? 0 : word->bits & ~(~UINT64_C(0) << slot->pages % 64);", "? 0 : word->bits;",
     "unit/unit-publish"),
    ("new pages are counted for the next slot", "pages/publish.c",
     "	leave_slot(p);\n	p->slot_number", "	p->slot_number",
     "unit/unit-publish"),
    # Sets and their summaries.
    ("a range's summaries are set before its pages", "pages/page_set.c",
     ("	uint64_t new_pages = 0;\n\n	for (uint64_t word = first_word; word < end_word; word++) {",
      "	set_block_summary(map, first_word / BLOCK_WORDS);\n	return new_pages;"),
     ("	uint64_t new_pages = 0;\n\n	set_block_summary(map, first_word / BLOCK_WORDS);\n"
      "	for (uint64_t word = first_word; word < end_word; word++) {", "	return new_pages;"),
     "unit/unit-page_set_steps"),
    ("a range has the summary of its first block only", "pages/page_set.c",
     "		uint64_t next = (word / BLOCK_WORDS + 1) * BLOCK_WORDS;",
     "		uint64_t next = end_word;",
     "unit/unit-page_set"),
    ("a page that is pending gets no summary", "pages/page_set.c",
     "	set_block_summary(&set->pending, word / BLOCK_WORDS);\n	return count_bits(bits & ~before);",
     "	if (bits & ~before)\n		set_block_summary(&set->pending, word / BLOCK_WORDS);\n"
     "	return count_bits(bits & ~before);",
     "unit/unit-page_set_steps"),
    ("one summary bit that is set stands for all", "pages/page_set_maps.h",
     "	if (!(atomic_load_explicit(word, memory_order_seq_cst) & bit))",
     "	if (!atomic_load_explicit(word, memory_order_seq_cst))",
     "unit/unit-page_set"),
    ("the top summary goes without a second look", "pages/page_set_take.c",
     "	if (load_below(&map->mid[mid]))\n		set_summary(&map->top[mid / 64], bit);\n", "",
     "unit/unit-page_set_steps"),
    ("the top summary goes although other blocks have pages", "pages/page_set_take.c",
     "	if (!atomic_load_explicit(&map->mid[mid], memory_order_relaxed))\n		clear_top(map, mid);\n	for",
     "	clear_summary(&map->top[mid / 64], UINT64_C(1) << mid % 64);\n	for",
     "unit/unit-page_set"),
    ("blocks take the summaries of others along", "pages/page_set_take.c",
     "	bits = clear_summary(&map->mid[mid], bits);",
     "	clear_summary(&map->mid[mid], ~UINT64_C(0));",
     "unit/unit-page_set"),
    ("one of eight words is not looked at", "pages/page_set_take.c",
     "load_below(&leaf[6]) | load_below(&leaf[7]);", "load_below(&leaf[6]);",
     "unit/unit-page_set"),
    ("what is still taken is overwritten", "pages/page_set_take.c",
     "		if (!atomic_load_explicit(word, memory_order_relaxed))", "		if (true)",
     "unit/unit-page_set"),
    ("the iteration goes on behind a block that had no room", "pages/page_set_take.c",
     "		*from = mid * 64 + 64 - (uint64_t)__builtin_clzll(bits);", "		*from = mid * 64 + 64;",
     "unit/unit-page_set"),
    ("a batch takes from the next chunk, too", "pages/page_set_take.c",
     "(first / CHUNK_BLOCKS + 1) * CHUNK_BLOCKS, batch);", "UINT64_MAX, batch);",
     "unit/unit-iter_clear"),
    ("what was gone round is looked for only after the release", "ring/ring.c",
     "	return now.slot != ring->first_copied.slot || now.offset != ring->first_copied.offset;",
     "	return false && now.slot != ring->first_copied.slot;",
     "unit/unit-ring_loss"),
    ("a harvest does as much at once after a full exit", "ring/drain.c",
     "	return full_drains == harvest->full_drains ? RESET_ENTRIES : RESET_ENTRIES / 2;",
     "	return full_drains == harvest->full_drains ? RESET_ENTRIES : RESET_ENTRIES;",
     "unit/unit-drain_all"),
    ("a batch has no summary where its words change to another block", "pages/page_set.c",
     "if (i + 1 == batch->n || batch->word[i + 1] / BLOCK_WORDS != word / BLOCK_WORDS)",
     "if (i + 1 == batch->n)",
     "unit/unit-page_set"),
    ("a batch's summary is set before its last word", "pages/page_set.c",
     ("		if (i + AHEAD < batch->n)", "		if (i + 1 == batch->n || batch->word"),
     ("		set_block_summary(map, word / BLOCK_WORDS);\n		if (i + AHEAD < batch->n)",
      "		if (false && batch->word"),
     "unit/unit-page_set_steps"),
    ("a block of what is taken has no summary", "pages/page_set_take.c",
     "		block = batch->word[i] / BLOCK_WORDS;\n", "		block = batch->word[i] / BLOCK_WORDS * 0;\n",
     "unit/unit-page_set"),
    ("acknowledgements of two slots are counted for one", "api/iter.c",
     "	if (slot != acked->slot)\n		count_acked(acked);\n", "",
     "unit/unit-iter"),
    ("an acknowledgement that fails is not counted", "api/iter.c",
     "	count_acked(&acked);\n	if (i == n_runs)\n		return 0;",
     "	if (i == n_runs) {\n		count_acked(&acked);\n		return 0;\n	}",
     "unit/unit-iter"),
    ("a bitmap's full batch is not marked", "pages/bitmap_merge.c",
     "		if (dli_batch_has_room(&batch, PAGE_SET_LINE_WORDS))\n			continue;\n"
     "		new_pages += dli_page_set_mark_batch(set, &batch);\n",
     "		if (dli_batch_has_room(&batch, PAGE_SET_LINE_WORDS))\n			continue;\n",
     "unit/unit-harvest"),
    ("words after a bitmap's last line are not merged", "pages/bitmap_merge.c",
     "	append_words(&batch, words, lines * PAGE_SET_LINE_WORDS, n % PAGE_SET_LINE_WORDS);\n", "",
     "unit/unit-harvest"),
    ("a bitmap's bits past the slot's end are pages", "pages/bitmap_merge.c",
     "	words[n - 1] &= dli_bitmap_word(range_bits(n - 1, 0, pages));\n", "",
     "unit/unit-harvest"),
    ("a fold back forgets pages that are taken", "pages/page_set_take.c",
     "	if (!atomic_load_explicit(&set->in_flight.pages, memory_order_relaxed))", "	if (true)"),
    # Runs.
    ("a run goes on over pages that are clean", "api/iter.c",
     "	while (*at + 1 < batch->n && batch->word[*at + 1] == batch->word[*at] + 1) {",
     "	while (*at + 1 < batch->n) {",
     "unit/unit-iter"),
    ("a word is begun anew where the runs are full", "api/iter.c",
     "		batch->bits[at] = bits;\n", "		(void)bits;\n"),
    ("a run's end takes the rest of its word along", "api/iter.c",
     "			*bits = next & (next + 1);\n", "",
     "unit/unit-iter"),
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


def plant(text, old, new):
    """None where the source is another one by now."""
    for there, instead in zip(*((x,) if isinstance(x, str) else x for x in (old, new))):
        if text.count(there) != 1:
            return None
        text = text.replace(there, instead)
    return text


def simulate(build, schedules):
    made = run(["ninja", "-j2", "-C", str(build), "tests/simulation/simulation"])
    if made.returncode:
        return "does not compile:\n" + made.stdout, ""
    try:
        ran = run([str(build / "tests/simulation/simulation"), "--schedules", str(schedules)],
                  timeout=120)
    except subprocess.TimeoutExpired:
        return "found", "does not end"
    found = re.search(r"^seed (\d+): ([^:]*): ", ran.stdout, re.M)
    if found:
        return f"after {found.group(1)}", found.group(2)
    if ran.returncode:
        return "found", f"exit status {ran.returncode}"
    return "NOT FOUND", ""


def hold(tree, build, test):
    """Another program, and the tests in it that fail. A script reads the sources beside it."""
    program = tree / "tests" / test
    if program.suffix != ".py":
        program = build / "tests" / test
        made = run(["ninja", "-j2", "-C", str(build), f"tests/{test}"])
        if made.returncode:
            return "NOT FOUND", made.stdout
    try:
        ran = run([str(program)], timeout=120)
    except subprocess.TimeoutExpired:
        return f"held by {test}", "does not end"
    if not ran.returncode:
        return "NOT FOUND", f"nor by {test}"
    failed = re.findall(r"^(?:\[  FAILED  \]|LOST) (\w+)(?:$|: )", ran.stdout, re.M)
    return f"held by {test}", ", ".join(dict.fromkeys(failed)) or f"exit status {ran.returncode}"


def try_one(tree, build, defect, schedules):
    file, old, new = defect[1:4]
    path = tree / "lib" / file
    before = path.read_text()
    broken = plant(before, old, new)
    if not broken:
        return "does not fit the source any more", ""
    path.write_text(broken)
    try:
        when, how = simulate(build, schedules)
        if when == "NOT FOUND" and len(defect) > 4:
            when, how = hold(tree, build, defect[4])
    finally:
        path.write_text(before)
    return when, how


def check(top):
    """Whether every defect can be planted, and every other program that is named exists."""
    wrong = [f"{name}: does not fit lib/{file}" for name, file, old, new, *_ in PLANTED
             if not plant((top / "lib" / file).read_text(), old, new)]
    for name, *_, test in (defect for defect in PLANTED if len(defect) > 4):
        room, program = test.split("/")
        source = program if program.endswith(".py") else "test_" + program.split("-", 1)[1] + ".c"
        if not (top / "tests" / room / source).exists():
            wrong.append(f"{name}: there is no tests/{room}/{source}")
    print("\n".join(wrong) or f"{len(PLANTED)} defects fit the source")
    return 1 if wrong else 0


def main():
    top = pathlib.Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--work", help="a directory for the copy and its build")
    parser.add_argument("--schedules", type=int, default=20000, help="at most; default %(default)s")
    parser.add_argument("--only", help="only the defects whose name contains this")
    parser.add_argument("--check", action="store_true",
                        help="only see that each defect still fits the source; builds nothing")
    arguments = parser.parse_args()
    if arguments.check:
        return check(top)
    if not arguments.work:
        parser.error("--work is needed")
    work = pathlib.Path(arguments.work)
    work.mkdir(parents=True, exist_ok=True)
    tree, build = prepare(top, work)
    missed = 0
    for defect in PLANTED:
        if arguments.only and arguments.only not in defect[0]:
            continue
        begin = time.monotonic()
        when, how = try_one(tree, build, defect, arguments.schedules)
        missed += not when.startswith(("after", "found", "held"))
        print(f"| {defect[0]} | {when} | {how} | {time.monotonic() - begin:.0f} s |", flush=True)
    print(f"{missed} not found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
