/* SPDX-License-Identifier: MIT */
/* The actors of a run: each is a coroutine that performs its operations in order. */
#include <errno.h>
#include <string.h>

#include "world.h"

void session_act(const struct op *op)
{
	struct consumer *consumer = &world.consumers[op->slot];
	int r = -1;

	if (consumer->is_starting || consumer->is_stopping || !log_enter())
		return;
	if (op->code == OP_STOP && consumer->cursor)
		consumer_stop(consumer);
	for (int tries = 0; op->code == OP_START && r && !consumer->cursor &&
			    !consumer->is_starting && tries < MAX_TRIES;
	     tries++) {
		r = consumer_start(consumer, op->number & 1);
		if (r)
			sim_yield(SIM_SITE("dl_cursor_new again"));
	}
	log_leave();
}

static void device_store(const struct place *place, uint32_t page)
{
	uint64_t generation = new_generation(place->block, place->first_page + page);
	size_t at = (place->first_page + page) * (size_t)PAGE_BYTES + place_in_page(generation);

	memcpy(&memory[place->block][at], &generation, 8);
	sim_point(SIM_SITE("a device wrote"));
}

/*
 * All devices share the log of a place, and each takes what it finds there. A bit stands for two
 * pages, as pages here are smaller than any of a foreign log.
 */
static void device_mark_bitmap(const struct place *place, uint32_t page, uint32_t pages)
{
	enum { LOG_PAGE_BYTES = 2 * PAGE_BYTES };
	uint64_t *log = world.device_logs[place - world.plan->places], marked_bytes;
	uint64_t odd = place->gpa_pages[0] % 2;
	const struct dl_bitmap bitmap = {
		.size = sizeof(bitmap),
		.flags = DL_BITMAP_TAKE,
		.as_id = place->slot >> 16,
		.gpa = (place->gpa_pages[0] - odd) * PAGE_BYTES,
		.bytes = (odd + place->pages) * PAGE_BYTES,
		.page_bytes = LOG_PAGE_BYTES,
	};

	for (uint64_t i = page; i < page + pages; i++)
		log[(i + odd) / 128] |= UINT64_C(1) << (i + odd) / 2 % 64;
	EXPECT("dl_mark_bitmap",
	       dl_mark_bitmap(world.log, &bitmap, log, DEVICE_LOG_WORDS, &marked_bytes));
}

static void device_mark(const struct op *op, const struct place *place, uint32_t page,
			uint32_t pages)
{
	uint64_t at = (uint64_t)page * PAGE_BYTES + op->number % 8;
	uint64_t bytes = (uint64_t)(pages - 1) * PAGE_BYTES + 1;

	if (op->number & 8)
		device_mark_bitmap(place, page, pages);
	else if (op->number & 4)
		EXPECT("dl_mark_hva",
		       dl_mark_hva(world.log,
				   memory[place->block] + place->first_page * (uint64_t)PAGE_BYTES +
					   at,
				   bytes));
	else if (op->number & 1)
		EXPECT("dl_mark_slot", dl_mark_slot(world.log, place->slot, at, bytes));
	else
		EXPECT("dl_mark_gpa",
		       dl_mark_gpa(world.log, place->slot >> 16,
				   place->gpa_pages[0] * (uint64_t)PAGE_BYTES + at, bytes));
}

/* Writes, then marks: page by page, or all pages at once. */
static void device_write(const struct op *op)
{
	const struct place *place = &world.plan->places[op->slot];
	uint32_t page = op->page, pages = op->count;

	if (!place->is_stable || !log_enter())
		return;
	if (pages > place->pages - page)
		pages = place->pages - page;
	for (uint32_t i = 0; i < pages; i++) {
		device_store(place, page + i);
		if (op->number & 2)
			device_mark(op, place, page + i, 1);
	}
	if (!(op->number & 2))
		device_mark(op, place, page, pages);
	log_leave();
}

/* Marks without a write, in slots that may come and go. */
static void noise_mark(const struct op *op)
{
	const struct place *place = &world.plan->places[op->slot];
	uint64_t gpa = (place->gpa_pages[op->number & 1] + op->page) * (uint64_t)PAGE_BYTES;

	if (!log_enter())
		return;
	if (op->number & 2)
		EXPECT("dl_mark_slot",
		       dl_mark_slot(world.log, place->slot, op->page * (uint64_t)PAGE_BYTES,
				    op->count * (uint64_t)PAGE_BYTES),
		       -ENOENT);
	else
		EXPECT("dl_mark_gpa",
		       dl_mark_gpa(world.log, 0, gpa, op->count * (uint64_t)PAGE_BYTES * 20),
		       -ENOENT);
	log_leave();
}

/* Writes by the kernel without a vCPU, as by an ITS. */
static void kernel_write(const struct op *op)
{
	const struct place *place = &world.plan->places[op->slot];

	for (uint32_t i = 0; i < op->count && i < 8; i++) {
		uint32_t page = (op->page + i) % (place->pages ? place->pages : 1);
		uint64_t gpa_page = layout_gpa(op->slot), generation;

		if (!gpa_page || !place->pages)
			return;
		sim_point(SIM_SITE("the kernel stores"));
		guest_enter();
		generation = new_generation(place->block, place->first_page + page);
		(void)model_kernel_write(world.model, world.vm_fd, place->slot >> 16,
					 (gpa_page + page) * PAGE_BYTES + place_in_page(generation),
					 &generation, 8);
		guest_leave();
	}
}

static void arm_fault(const struct op *op)
{
	static const int errors[] = { EIO, ENOMEM, EFAULT, EINTR, ENOENT, EAGAIN };
	struct fault fault = {
		.kind = (uint8_t)op->flags,
		.skip = (uint8_t)op->page,
		.times = op->count,
		.number = op->number,
		.error = errors[op->number % 6],
		.after = op->number >> 8 & 1,
	};

	if (fault.kind == FAULT_VCPU_FD)
		fault.error = EBADF;
	if (fault.kind == FAULT_MMAP)
		fault.error = ENOMEM;
	if (fault.kind == FAULT_ENABLE_CAP)
		fault.after = false;
	faults_arm(&fault);
}

static void reap(uint32_t flags)
{
	uint64_t again_ns;

	EXPECT("dl_log_reap", dl_log_reap(world.log, flags, &again_ns));
}

static void watch(const struct op *op)
{
	struct dl_stats stats = { .size = sizeof(stats) };
	char text[100];

	if (!log_enter())
		return;
	switch (op->number % 5) {
	case 0:
		EXPECT("dl_log_stats", dl_log_stats(world.log, &stats));
		break;
	case 1:
		EXPECT("dl_log_describe", dl_log_describe(world.log, text, sizeof(text)));
		break;
	case 2:
		EXPECT("dl_log_last_error", dl_log_last_error(world.log, text, sizeof(text)));
		break;
	case 3:
		reap(op->number & 8 ? DL_REAP_NOW : 0);
		break;
	default:
		EXPECT("dl_slot_clear", dl_slot_clear(world.log, 0, 0, PAGE_BYTES), -ENOENT);
	}
	log_leave();
}

static bool nobody_uses_the_log(const void *opaque)
{
	return !world.log_users;
}

/* vCPUs and an iterator may remain in use during the close and after it. */
static void close_log(void)
{
	world.closing = true;
	sim_wait(nobody_uses_the_log, NULL, "the log's users", SIM_SITE("before dl_log_close"));
	sim_trace("dl_log_close");
	world_close_log();
	sim_trace("dl_log_close is done");
}

static void act(const struct actor *actor, const struct op *op)
{
	switch (actor->kind) {
	case ACTOR_VCPU:
		vcpu_act(actor, op);
		break;
	case ACTOR_DEVICE:
		if (op->code == OP_MARK)
			device_write(op);
		else
			noise_mark(op);
		break;
	case ACTOR_KERNEL_WRITER:
		kernel_write(op);
		break;
	case ACTOR_SLOTTER:
		layout_act(op);
		break;
	case ACTOR_HARVESTER:
	case ACTOR_SENDER:
		sender_act(op);
		break;
	case ACTOR_CANCELLER:
		session_act(op);
		break;
	case ACTOR_FAULTS:
		arm_fault(op);
		break;
	case ACTOR_WATCHER:
		watch(op);
		break;
	case ACTOR_CLOSER:
		close_log();
		break;
	case ACTOR_THROTTLER:
		throttle_act(op);
		break;
	}
}

void actor_run(void *opaque)
{
	const struct actor *actor = opaque;
	const struct plan *plan = world.plan;

	for (uint32_t i = 0; i < actor->ops; i++) {
		const struct op *op = &plan->ops[actor->first_op + i];

		/* Actors with few operations would end before the others begin. */
		if (actor->kind != ACTOR_VCPU && op->number >> 20 & 1) {
			sim.current->stalled_until = sim.now + (op->number >> 21) % 1500;
			sim_yield(SIM_SITE("idle"));
		}
		sim_point(SIM_SITE("the next operation"));
		if (!op->dropped)
			act(actor, op);
	}
}
