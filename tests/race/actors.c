/* SPDX-License-Identifier: MIT */
/* vCPUs, devices, layout changes, visitors and the backup. */
#include "actors.h"

#include "cmocka_all.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

unsigned long writes = 6000, passes = 50;
struct guest guest;
struct dl_cursor *migration, *backup;
struct checker sent, backed_up;
struct guest_block *block, *moving_block;
atomic_uint writers_left;
struct actors_seen seen;

static void count(atomic_ulong *counter)
{
	atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static unsigned long get(atomic_ulong *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static bool is_over(void)
{
	return !atomic_load_explicit(&writers_left, memory_order_relaxed);
}

/* After so many writes, waits for the same share of the passes. */
static void pace(unsigned long made)
{
	while (get(&seen.passes) < made * passes / writes)
		sched_yield();
}

/* Waits for n more passes. */
static void wait_passes(unsigned long n)
{
	unsigned long until = get(&seen.passes) + n;

	while (!is_over() && get(&seen.passes) < until)
		sched_yield();
}

static void writer_done(void)
{
	atomic_fetch_sub_explicit(&writers_left, 1, memory_order_relaxed);
}

static void die(const char *what, int result)
{
	print_error("%s: %d\n", what, result);
	abort();
}

static void expect(int result, int also, const char *what)
{
	if (result && result != also)
		die(what, result);
}

/* A value that no other store uses; it also selects the place in the page. */
static uint64_t next_value(struct actor *actor, unsigned long i)
{
	return (uint64_t)(actor->number + 1) << 48 | i;
}

static uint64_t place_of(uint64_t value)
{
	return value * 8 * 37 % guest.page_bytes;
}

static uint64_t any_gpa(struct actor *actor)
{
	const uint64_t busy_pages = PAGES - QUIET_PAGES;
	uint64_t page = random_below(&actor->random, busy_pages + 2 * MOVING_PAGES);

	if (page < busy_pages)
		return (GPA_PAGE + page) * guest.page_bytes;
	page -= busy_pages;
	if (page >= MOVING_PAGES)
		page += MOVING_GPA_PAGE - MOVING_PAGES;
	return (MOVING_GPA_PAGE + page) * guest.page_bytes;
}

static void store(struct actor *actor, const struct guest_vcpu *vcpu, uint64_t value)
{
	uint64_t gpa = any_gpa(actor) + place_of(value);

	for (int exits = 0; exits < GUEST_MAX_EXITS; exits++) {
		int r = model_vcpu_write(guest.model, vcpu->fd, 0, gpa, &value, sizeof(value));

		if (r == -EFAULT)
			count(&seen.absent);
		if (r != KVM_EXIT_DIRTY_RING_FULL) {
			expect(r, -EFAULT, "a guest's store");
			return;
		}
		count(&seen.full_exits);
		expect(dl_vcpu_drain(vcpu->handle, 0), 0, "dl_vcpu_drain");
	}
	die("full exits of one store", GUEST_MAX_EXITS);
}

/* Removes the handle, which keeps the ring, and adds the vCPU again. */
static void plug_again(struct guest_vcpu *vcpu)
{
	model_vcpu_exit(guest.model, vcpu->fd, KVM_EXIT_INTR);
	dl_vcpu_remove(vcpu->handle);
	expect(dl_vcpu_add(guest.log, vcpu->fd, 0, 0, &vcpu->handle), 0, "dl_vcpu_add");
	count(&seen.plugs);
}

static void run_guest(struct actor *actor, struct guest_vcpu *vcpu, unsigned long n)
{
	for (unsigned long i = 0; i < n; i++) {
		if (!random_below(&actor->random, 256))
			plug_again(vcpu);
		store(actor, vcpu, next_value(actor, i));
		pace(i);
	}
	model_vcpu_exit(guest.model, vcpu->fd, KVM_EXIT_INTR);
}

void *run_vcpu(void *opaque)
{
	struct actor *actor = opaque;

	run_guest(actor, &guest.vcpus[actor->number], writes);
	writer_done();
	return NULL;
}

/* vCPUs that are created later, one after another, and removed for good. */
void *run_late_vcpus(void *opaque)
{
	struct actor *actor = opaque;

	for (unsigned long i = 0; i < LATE_VCPUS; i++) {
		struct guest_vcpu vcpu = { .fd = model_vcpu_create(guest.model, guest.vm_fd) };

		expect(dl_vcpu_add(guest.log, vcpu.fd, 0, 0, &vcpu.handle), 0, "dl_vcpu_add");
		actor->number += MOST_THREADS;
		run_guest(actor, &vcpu, writes / LATE_VCPUS);
		dl_vcpu_remove(vcpu.handle);
	}
	writer_done();
	return NULL;
}

/* Writes, then marks by address or by slot, even if there is no slot at the moment. */
void *run_device(void *opaque)
{
	struct actor *actor = opaque;

	for (unsigned long i = 0; i < writes; i++) {
		bool moving = random_below(&actor->random, 2);
		struct guest_block *to = moving ? moving_block : block;
		uint64_t value = next_value(actor, i);
		uint64_t at =
			random_below(&actor->random, to->pages - QUIET_PAGES) * guest.page_bytes +
			place_of(value);
		int r;

		pace(i);
		model_copy(to->memory + at, &value, sizeof(value));
		if (moving || i % 2)
			r = dl_mark_slot(guest.log, moving, at, sizeof(value));
		else
			r = dl_mark_gpa(guest.log, 0, GPA_PAGE * guest.page_bytes + at,
					sizeof(value));
		/* Without the slot: setting it makes all pages dirty. */
		expect(r, moving ? -ENOENT : 0, "a mark");
	}
	writer_done();
	return NULL;
}

void *run_kernel_writer(void *opaque)
{
	struct actor *actor = opaque;

	for (unsigned long i = 0; i < writes; i++) {
		uint64_t value = next_value(actor, i), gpa = any_gpa(actor) + place_of(value);

		pace(i);
		expect(model_kernel_write(guest.model, guest.vm_fd, 0, gpa, &value, sizeof(value)),
		       -EFAULT, "a kernel's store");
	}
	writer_done();
	return NULL;
}

/* Reads some of what is pending, acknowledges half of it, and forgets the rest or gives it back. */
static void visit_pass(struct actor *actor, struct dl_cursor *cursor)
{
	struct dl_extent extents[8];
	int r = dl_harvest(cursor, 0, NULL), n = 0;

	/* Without its slot, a display has nothing to show. */
	expect(r, -ENOENT, "dl_harvest");
	for (int i = 0; !r && i < 4; i++) {
		n = dl_cursor_read(cursor, extents, 8);
		if (n < 0)
			die("dl_cursor_read", n);
		expect(dl_cursor_ack(cursor, extents, (uint32_t)n / 2), 0, "dl_cursor_ack");
	}
	expect(dl_cursor_end(cursor, random_below(&actor->random, 2) ? DL_END_COMMIT : 0), 0,
	       "dl_cursor_end");
}

void *run_visitor(void *opaque)
{
	static const uint32_t flags[] = { 0, DL_CURSOR_CLEAN, DL_CURSOR_ONE_SLOT,
					  DL_CURSOR_ONE_SLOT | DL_CURSOR_CLEAN, DL_CURSOR_WANTED };
	struct actor *actor = opaque;

	while (!is_over()) {
		struct dl_cursor_options options = { .size = sizeof(options) };
		struct dl_stats stats = { .size = sizeof(stats) };
		struct dl_cursor *cursor;

		options.flags = flags[random_below(&actor->random, 5)];
		options.slot = (uint32_t)random_below(&actor->random, 2);
		options.coalesce_bytes = random_below(&actor->random, 3) * guest.page_bytes;
		options.max_extent_bytes = random_below(&actor->random, 3) * guest.page_bytes;
		expect(dl_cursor_new(guest.log, &options, &cursor), 0, "dl_cursor_new");
		for (uint64_t n = random_below(&actor->random, 4); n; n--) {
			visit_pass(actor, cursor);
			expect(dl_log_stats(guest.log, &stats), 0, "dl_log_stats");
			wait_passes(1);
		}
		dl_cursor_free(cursor);
		count(&seen.visits);
		/* Once per pass: otherwise no ring becomes full. */
		wait_passes(1);
	}
	return NULL;
}

static void back_up(const uint64_t *words, const struct guest_block *from)
{
	for (uint64_t page = 0; page < from->pages; page++) {
		uint64_t offset_bytes = page * guest.page_bytes;
		const struct dl_extent extent = { .hva = (uintptr_t)from->memory + offset_bytes,
						  .offset_bytes = offset_bytes,
						  .bytes = guest.page_bytes };

		if (words[page / 64] >> page % 64 & 1)
			checker_copy_run(&backed_up, &extent);
	}
}

/* Takes the pages of one slot and copies them. Returns the bytes taken. */
uint64_t take_slot(uint32_t slot, uint32_t flags)
{
	const struct guest_block *from = slot ? moving_block : block;
	uint64_t words[8] = { 0 }, taken_bytes = 0;
	int r = dl_cursor_take(backup, slot, flags, words, 8, &taken_bytes);

	/* Slot 1 is wholly pending when it comes back, so its pages may be dropped. */
	expect(r, slot ? -ENOENT : 0, "dl_cursor_take");
	if (flags & DL_TAKE_NO_CLEAR) {
		r = dl_slot_clear(guest.log, slot, 0, from->pages * guest.page_bytes);
		expect(r, slot ? -ENOENT : 0, "dl_slot_clear");
		count(&seen.deferred);
	}
	back_up(words, from);
	return taken_bytes;
}

void *run_backup(void *opaque)
{
	struct actor *actor = opaque;

	while (!is_over()) {
		uint32_t slot = (uint32_t)random_below(&actor->random, 2);
		uint32_t flags = random_below(&actor->random, 2) ? DL_TAKE_NO_CLEAR : 0;

		flags |= random_below(&actor->random, 4) ? DL_TAKE_HARVEST : 0;
		take_slot(slot, flags);
		count(&seen.takes);
		wait_passes(random_below(&actor->random, 2));
	}
	return NULL;
}

/* Sets, moves and removes slot 1, always with the same memory. It exists at the end. */
void *run_layout(void *opaque)
{
	struct actor *actor = opaque;
	struct dl_slot slot = guest_slot(&guest, 1, MOVING_GPA_PAGE, moving_block, 0, MOVING_PAGES);
	uint64_t words[MOVING_PAGES / 64 + 1];

	while (!is_over()) {
		slot.gpa =
			(1 + random_below(&actor->random, 2)) * MOVING_GPA_PAGE * guest.page_bytes;
		slot.flags = random_below(&actor->random, 2) ? DL_SLOT_WANTED : 0;
		expect(dl_slot_set(guest.log, &slot), 0, "dl_slot_set");
		if (!random_below(&actor->random, 3)) {
			bool keep = random_below(&actor->random, 2);

			expect(dl_slot_remove(guest.log, 1, 0, keep ? words : NULL,
					      keep ? MOVING_PAGES / 64 + 1 : 0),
			       0, "dl_slot_remove");
			expect(dl_slot_set(guest.log, &slot), 0, "dl_slot_set");
		}
		count(&seen.slot_changes);
		wait_passes(1);
	}
	return NULL;
}

/* Ends passes of the migration in the middle. */
void *run_ends(void *opaque)
{
	while (!is_over()) {
		wait_passes(1);
		expect(dl_cursor_end(migration, 0), 0, "dl_cursor_end");
		count(&seen.ends);
	}
	return NULL;
}

void *run_passes(void *opaque)
{
	while (!is_over()) {
		if (senders_pass(&sent, migration, 0, true, NULL))
			count(&seen.ended_passes);
		count(&seen.passes);
	}
	return NULL;
}
