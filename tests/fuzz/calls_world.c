/* SPDX-License-Identifier: MIT */
#include "calls.h"

#include <errno.h>
#include <sys/ioctl.h>

enum { MAX_EXITS = 1000 };

struct dl_slot *world_slot(struct world *w, uint32_t slot)
{
	for (unsigned int i = 0; i < w->slot_count; i++)
		if (w->slots[i].slot == slot)
			return &w->slots[i];
	return NULL;
}

int world_region(struct world *w, const struct dl_slot *slot, uint64_t bytes, uint32_t flags)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot->slot,
		.flags = flags,
		.guest_phys_addr = slot->gpa,
		.memory_size = bytes,
		.userspace_addr = slot->hva,
	};
	const struct dl_os *os = model_os(w->model);

	return os->ioctl(os->opaque, w->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
}

bool world_in_arena(const struct world *w, uint64_t hva)
{
	return hva - (uintptr_t)w->arena < ARENA_BYTES;
}

/* The first eight bytes of a page; the others are unused. */
uint64_t *world_memory(const struct world *w, uint64_t hva)
{
	uint64_t offset = (hva - (uintptr_t)w->arena) / w->page_bytes * w->page_bytes;

	return (uint64_t *)(void *)(w->arena + offset);
}

uint64_t world_arena_page(const struct world *w, uint64_t hva)
{
	return (hva - (uintptr_t)w->arena) / w->page_bytes;
}

void world_excuse(struct world *w, const struct dl_slot *slot, bool excused)
{
	for (uint64_t at = 0; at < slot->bytes; at += w->page_bytes)
		if (world_in_arena(w, slot->hva + at))
			w->excused[world_arena_page(w, slot->hva + at)] = excused;
}

void world_equalize(struct world *w, const struct dl_slot *slot)
{
	for (uint64_t at = 0; at < slot->bytes; at += w->page_bytes)
		if (world_in_arena(w, slot->hva + at))
			w->copy[world_arena_page(w, slot->hva + at)] =
				*world_memory(w, slot->hva + at);
	world_excuse(w, slot, false);
}

void world_copy_run(struct world *w, const struct dl_extent *run)
{
	expect(run->bytes && !((run->bytes | run->offset_bytes) % w->page_bytes),
	       "a run of %llu bytes", (unsigned long long)run->bytes);
	for (uint64_t at = 0; at < run->bytes; at += w->page_bytes) {
		uint64_t page = world_arena_page(w, run->hva + at);

		if (!world_in_arena(w, run->hva + at))
			continue;
		w->copy[page] = *world_memory(w, run->hva + at);
		w->excused[page] = false;
	}
}

/* Stores by a vCPU or, if vcpu is VCPUS, by the kernel itself if the mode records that. */
void world_store(struct world *w, const struct dl_slot *slot, uint64_t page, int vcpu)
{
	uint64_t gpa = slot->gpa + page * w->page_bytes, hva = slot->hva + page * w->page_bytes;
	uint32_t as_id = slot->slot >> 16;
	int r;

	if (!world_in_arena(w, hva))
		return;
	w->value++;
	if (vcpu == VCPUS) {
		if (w->config.mode != DL_MODE_BITMAP && !w->config.backup)
			return;
		r = model_kernel_write(w->model, w->vm_fd, as_id, gpa, &w->value, 8);
	} else {
		int exits = 0;

		while ((r = model_vcpu_write(w->model, w->vcpu_fds[vcpu], as_id, gpa, &w->value,
					     8)) == KVM_EXIT_DIRTY_RING_FULL) {
			expect(++exits < MAX_EXITS, "vCPU %d cannot enter the guest", vcpu);
			expect(!dl_vcpu_drain(w->vcpus[vcpu], 0), "drain");
		}
	}
	expect(r == (slot->kvm_flags & KVM_MEM_READONLY ? -EFAULT : 0), "store: %d", r);
	if (!r && (!w->cursor || slot->flags & DL_SLOT_NO_LOG))
		w->excused[world_arena_page(w, hva)] = true;
	trace("  stored %#llx by %d\n", (unsigned long long)gpa, vcpu);
}

/* No vCPU is in KVM_RUN: what _PAUSED promises. */
void world_stop_vcpus(struct world *w)
{
	for (int i = 0; i < VCPUS; i++)
		model_vcpu_exit(w->model, w->vcpu_fds[i], KVM_EXIT_INTR);
}

void world_forget_pass(struct world *w)
{
	w->in_pass = false;
	w->handed_count = w->acked_count = 0;
}

/* A whole pass, which is copied and acknowledged, or given up. Returns what was pending. */
static uint64_t pass(struct world *w, uint32_t flags, uint64_t *hash, bool ack)
{
	uint64_t pending_bytes = 0;
	struct dl_extent runs[16];
	int n, r = dl_harvest(w->cursor, flags, &pending_bytes);

	expect(!r, "%d", r);
	while ((n = dl_cursor_read(w->cursor, runs, 16)) > 0) {
		for (int i = 0; i < n; i++) {
			*hash = (*hash ^ runs[i].slot ^ runs[i].bytes << 20 ^ runs[i].hva) *
				UINT64_C(0x9e3779b97f4a7c15);
			*hash = (*hash ^ runs[i].offset_bytes ^ runs[i].gpa << 9) *
				UINT64_C(0x2545f4914f6cdd1d);
			if (ack)
				world_copy_run(w, &runs[i]);
		}
		if (ack)
			expect(!dl_cursor_ack(w->cursor, runs, (uint32_t)n), "ack");
	}
	expect(!n, "%d", n);
	expect(!dl_cursor_end(w->cursor, 0), "end");
	return pending_bytes;
}

/* A hash of which slots the kernel has. */
static uint64_t hash_kernel_slots(struct world *w)
{
	uint64_t hash = 0;
	uint8_t state;

	for (uint32_t as_id = 0; as_id < ADDRESS_SPACES; as_id++)
		for (uint32_t id = 0; id < SLOT_IDS; id++)
			hash = hash * 3 + !model_page_states(w->model, w->vm_fd, as_id << 16 | id,
							     0, 1, &state);
	return hash;
}

/* Cuts the text behind the reason: the last failure is the call's own, the rest follows it. */
static void cut_news(char *text, size_t bytes)
{
	static const char *const news[] = { "; last failure", "; rings overflowed",
					    "; a vCPU that is to pause" };

	for (size_t i = 0; i < sizeof(news) / sizeof(news[0]); i++) {
		char *at = strstr(text, news[i]);

		if (at)
			memset(at, 0, bytes - (size_t)(at - text));
	}
}

void world_snapshot(struct world *w, struct snapshot *snapshot)
{
	memset(snapshot, 0, sizeof(*snapshot));
	/*
	 * First: what it collects is not news to the second snapshot. A pass that is given up
	 * leaves the clean pages between coalesced runs pending.
	 */
	if (w->cursor && !w->in_pass && !w->coalesces)
		pass(w, 0, &snapshot->pending, false);
	snapshot->stats.size = sizeof(snapshot->stats);
	expect(!dl_log_stats(w->log, &snapshot->stats), "stats");
	/* Time passes even if the call changes nothing. */
	snapshot->stats.ioctl_ns = 0;
	/* A scan of this function's pass may judge what that of the call before has found. */
	snapshot->stats.missed_bytes = 0;
	expect(dl_log_describe(w->log, snapshot->text, sizeof(snapshot->text)) > 0, "describe");
	cut_news(snapshot->text, sizeof(snapshot->text));
	snapshot->regions = model_calls(w->model, KVM_SET_USER_MEMORY_REGION);
	snapshot->kernel_slots = hash_kernel_slots(w);
}

void world_expect_same(struct world *w, const struct snapshot *before)
{
	struct snapshot now;

	world_snapshot(w, &now);
	expect(!memcmp(&now.stats, &before->stats, sizeof(now.stats)), "the counters changed");
	expect(now.pending == before->pending, "the pending pages changed");
	expect(now.kernel_slots == before->kernel_slots, "the kernel's slots changed");
	/* The text may name an ioctl that the kernel refused. */
	if (now.regions == before->regions)
		expect(!strcmp(now.text, before->text), "the description changed: %s", now.text);
}

/* The last passes, after which the copy must equal the memory. */
void world_check_equal(struct world *w)
{
	uint64_t hash = 0;
	int passes = 0;

	world_stop_vcpus(w);
	while (pass(w, DL_HARVEST_PAUSED, &hash, true))
		expect(++passes < 10, "there is no last pass");
	for (uint64_t page = 0; page * w->page_bytes < ARENA_BYTES; page++) {
		uint64_t hva = (uintptr_t)w->arena + page * w->page_bytes;

		expect(w->excused[page] || w->copy[page] == *world_memory(w, hva),
		       "page %llu differs from the copy", (unsigned long long)page);
	}
}

static void expect_closed(struct world *w)
{
	struct dl_stats stats = { .size = sizeof(stats) };
	struct dl_extent run = { 0 };

	for (int i = 0; i < VCPUS; i++) {
		expect(!dl_vcpu_drain(w->vcpus[i], 0), "drain");
		expect(dl_vcpu_stats(w->vcpus[i], &stats) == -ECANCELED, "stats");
	}
	expect(dl_harvest(w->cursor, 0, NULL) == -ECANCELED, "harvest");
	expect(dl_cursor_read(w->cursor, &run, 1) == -ECANCELED, "read");
	expect(dl_cursor_ack(w->cursor, &run, 1) == -ECANCELED, "ack");
	expect(!dl_cursor_end(w->cursor, 0), "end");
	limits_closed(w);
}

/* Closes the handles in the order that the input says; the cursor's is the last. */
void world_close(struct world *w)
{
	uint8_t order = input_u8(&w->in);
	bool vcpus_first = order & 1;

	for (int i = 0; i < VCPUS && vcpus_first; i++)
		dl_vcpu_remove(w->vcpus[i]);
	if (order & 2)
		cursor_end(w);
	if (order & 4)
		plan_free(w);
	dl_log_close(w->log);
	if (!vcpus_first && w->cursor)
		expect_closed(w);
	for (int i = 0; i < VCPUS && !vcpus_first; i++)
		dl_vcpu_remove(w->vcpus[i]);
	/* It keeps the log until now. */
	dl_cursor_free(w->cursor);
	plan_free(w);
	model_free(w->model);
}
