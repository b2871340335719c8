/* SPDX-License-Identifier: MIT */
/*
 * The public calls, on the model kernel, with any arguments and in any order. An invalid call fails
 * with the error that the header documents and changes nothing: no counter, description, pending
 * page or slot of the kernel. A valid call succeeds. At the end the copy equals the memory.
 */
#include "calls.h"

#include <errno.h>
#include <limits.h>

enum { MAX_STEPS = 250 };

struct world world;

static void start(struct world *w)
{
	uint8_t how = input_u8(&w->in);
	uint32_t flags = how < 240 ? how & DL_START_CLEAN : (uint32_t)input_wild(&w->in);
	struct snapshot before;
	int expected = 0, r;

	if (flags & ~(uint32_t)DL_START_CLEAN)
		expected = -EINVAL;
	else if (w->on)
		expected = -EBUSY;
	if (expected)
		world_snapshot(w, &before);
	r = dl_log_start(w->log, flags);
	trace("start %u: %d\n", flags, r);
	expect(r == expected, "%d, expected %d", r, expected);
	if (r) {
		world_expect_same(w, &before);
		return;
	}
	w->on = true;
	memset(w->excused, true, sizeof(w->excused));
	for (unsigned int i = 0; i < w->slot_count; i++) {
		if (w->slots[i].flags & DL_SLOT_NO_LOG)
			continue;
		if (flags & DL_START_CLEAN)
			world_equalize(w, &w->slots[i]);
		else
			world_excuse(w, &w->slots[i], false);
	}
	if (!(flags & DL_START_CLEAN))
		memset(w->copy, 0xff, sizeof(w->copy));
}

static void stop(struct world *w)
{
	int r = dl_log_stop(w->log);

	trace("stop: %d\n", r);
	expect(!r, "%d", r);
	w->on = false;
	w->iter = NULL;
	w->handed_count = w->acked_count = 0;
	memset(w->excused, true, sizeof(w->excused));
}

static void harvest(struct world *w)
{
	uint8_t how = input_u8(&w->in);
	uint32_t flags = how < 240 ? how & DL_HARVEST_FINAL : (uint32_t)input_wild(&w->in);
	uint64_t bytes = 1;
	int expected = w->on ? 0 : -ECANCELED, r;

	if (flags & ~(uint32_t)DL_HARVEST_FINAL)
		expected = -EINVAL;
	for (int i = 0; i < VCPUS && flags == DL_HARVEST_FINAL; i++)
		model_vcpu_exit(w->model, w->vcpu_fds[i], KVM_EXIT_INTR);
	r = dl_log_harvest(w->log, flags, how & 2 ? &bytes : NULL);
	trace("harvest %u: %d\n", flags, r);
	expect(r == expected, "%d, expected %d", r, expected);
	expect(r || !(how & 2) || !(bytes % w->page_bytes),
	       "%llu bytes are pending, no whole pages", (unsigned long long)bytes);
}

static void iter_new(struct world *w)
{
	struct dl_cursor *iter = NULL;
	int expected = 0, r;

	if (!w->on)
		expected = -ECANCELED;
	else if (w->iter)
		expected = -EBUSY;
	r = dl_log_begin(w->log, &iter);
	trace("begin: %d\n", r);
	expect(r == expected && !r == !!iter, "%d, expected %d", r, expected);
	if (r)
		return;
	w->iter = iter;
	w->handed_count = w->acked_count = 0;
}

static void iter_read(struct world *w)
{
	static struct dl_extent runs[8];
	uint8_t how = input_u8(&w->in);
	uint32_t room = MAX_HANDED - w->handed_count, most = how & 7;
	int n;

	if (how > 250)
		expect(dl_cursor_read(w->iter, runs, (uint32_t)INT_MAX + how) == -EINVAL, "read");
	if (most > room)
		return;
	n = dl_cursor_read(w->iter, runs, most);
	trace("read %u: %d\n", most, n);
	if (!w->iter || !most) {
		expect(n == -EINVAL, "%d", n);
		return;
	}
	expect(n >= 0 && n <= (int)most, "%d", n);
	for (int i = 0; i < n; i++) {
		const struct dl_extent *run = &runs[i];

		world_copy_run(w, run);
		w->handed[w->handed_count++] =
			(struct range){ run->slot,	   false,      run->ticket,
					run->offset_bytes, run->bytes, run->hva };
	}
}

static const struct range *range_with(const struct range *ranges, unsigned int count,
				      const struct dl_extent *run, uint64_t offset)
{
	for (unsigned int i = 0; i < count; i++)
		if (ranges[i].ticket == run->ticket &&
		    offset - ranges[i].offset_bytes < ranges[i].bytes)
			return &ranges[i];
	return NULL;
}

/* A range that was handed out with the same ticket, or NULL. */
static const struct range *range_of(const struct world *w, uint64_t ticket)
{
	for (unsigned int i = 0; i < w->handed_count; i++)
		if (w->handed[i].ticket == ticket)
			return &w->handed[i];
	return NULL;
}

/* True if the whole run was handed out, and no page of it acknowledged yet. */
static bool may_ack(const struct world *w, const struct dl_extent *run)
{
	uint64_t page_bytes = w->page_bytes;

	if (!run->bytes || run->bytes % page_bytes || run->offset_bytes % page_bytes)
		return false;
	for (uint64_t at = 0; at < run->bytes; at += page_bytes) {
		if (!range_with(w->handed, w->handed_count, run, run->offset_bytes + at) ||
		    range_with(w->acked, w->acked_count, run, run->offset_bytes + at))
			return false;
	}
	return true;
}

static void spoil_run(struct world *w, struct dl_extent *run)
{
	switch (input_u8(&w->in) % 8) {
	case 0: /* not looked at */
		run->slot = (uint32_t)input_wild(&w->in);
		break;
	case 1:
		run->ticket = input_wild(&w->in);
		break;
	case 2:
		run->offset_bytes = input_wild(&w->in);
		break;
	case 3:
		run->bytes = input_wild(&w->in);
		break;
	case 4:
		run->offset_bytes += (uint64_t)input_u8(&w->in) * w->page_bytes;
		break;
	case 5:
		run->bytes = (1 + (uint64_t)input_u8(&w->in)) * w->page_bytes;
		break;
	case 6:
		run->gpa = input_wild(&w->in);
		run->hva = input_wild(&w->in);
		break;
	}
}

/* The cursor accepts pages that it has read ahead; the caller then loses them. */
static void excuse_unseen(struct world *w, const struct dl_extent *run)
{
	const struct range *any = range_of(w, run->ticket);

	for (uint64_t at = 0; at < run->bytes; at += w->page_bytes) {
		uint64_t hva = any->hva - any->offset_bytes + run->offset_bytes + at;

		if (world_in_arena(w, hva))
			w->excused[world_arena_page(w, hva)] = true;
	}
}

static void iter_ack(struct world *w)
{
	uint8_t which = input_u8(&w->in), how = input_u8(&w->in);
	const struct range *of;
	struct dl_extent run = { 0 };
	int r;

	if (w->handed_count) {
		const struct range *from = &w->handed[which % w->handed_count];

		run = (struct dl_extent){ .slot = from->slot,
					  .ticket = from->ticket,
					  .offset_bytes = from->offset_bytes,
					  .bytes = from->bytes,
					  .hva = from->hva };
	}
	for (int i = how % 4; i > 1; i--)
		spoil_run(w, &run);
	if (w->acked_count == MAX_HANDED || (run.bytes >> 28 && !(run.bytes % w->page_bytes)))
		return;
	r = dl_cursor_ack(w->iter, &run, 1);
	trace("ack slot %#x %#llx: %d\n", run.slot, (unsigned long long)run.offset_bytes, r);
	expect(!r || r == -EINVAL, "%d", r);
	expect(w->iter || r, "%d", r);
	of = range_of(w, run.ticket);
	/* Another ticket is of another cursor, or of an earlier pass; or its slot has changed. */
	if (!of || of->gone || r == -EINVAL) {
		expect(!of || of->gone || !may_ack(w, &run), "%d", r);
		return;
	}
	if (!may_ack(w, &run))
		excuse_unseen(w, &run);
	w->acked[w->acked_count++] =
		(struct range){ run.slot, false, run.ticket, run.offset_bytes, run.bytes, 0 };
}

static void iter_free(struct world *w)
{
	int r = dl_cursor_end(w->iter, 0);

	expect(r == (w->iter ? 0 : -EINVAL), "%d", r);
	w->iter = NULL;
	w->handed_count = w->acked_count = 0;
}

static void stores(struct world *w)
{
	uint8_t which = input_u8(&w->in), first = input_u8(&w->in), count = input_u8(&w->in);
	const struct dl_slot *slot;

	if (!w->slot_count)
		return;
	slot = &w->slots[which % w->slot_count];
	for (uint32_t i = 0; i <= count % 64u; i++)
		world_store(w, slot, (first + i) % (slot->bytes / w->page_bytes),
			    which / 16 % (VCPUS + 1));
}

static void reap(struct world *w, uint8_t how)
{
	uint32_t flags = how & 1 ? DL_REAP_NOW : 0;
	bool arms = w->on && w->config.mode == DL_MODE_RING;
	uint64_t again_ns = 0;
	int r, fd;

	model_advance(w->model, (uint64_t)how << 16);
	r = dl_log_reap(w->log, flags | (uint32_t)DL_REAP_NOW << (1 + how % 4), &again_ns);
	expect(r == -EINVAL && !again_ns, "%d", r);
	r = dl_log_reap(w->log, flags, &again_ns);
	trace("reap %u: %d, %llu ns\n", flags, r, (unsigned long long)again_ns);
	expect(!r && again_ns && (again_ns != UINT64_MAX) == arms, "%d", r);
	if (!(how & 32))
		return;
	fd = dl_log_fd(w->log);
	expect(fd > 0 && dl_log_fd(w->log) == fd, "%d", fd);
	expect(!dl_log_reap(w->log, 0, &again_ns) && model_timer_left(w->model, fd) == again_ns,
	       "the descriptor is not set to %llu ns", (unsigned long long)again_ns);
}

static void vcpu_calls(struct world *w)
{
	uint8_t how = input_u8(&w->in);
	struct dl_vcpu *second = NULL;
	int i = how & 1, r;

	if (how & 2)
		expect(!dl_vcpu_drain(w->vcpus[i], 0), "drain");
	if (how & 4) {
		r = dl_vcpu_add(w->log, w->vm_fd, 0, 0, &second);
		expect(r == -EBADF, "%d", r);
	}
	if (how & 8) {
		/* In bitmap mode a second handle of a vCPU cannot be recognized. */
		r = dl_vcpu_add(w->log, w->vcpu_fds[i], 0, 0, &second);
		expect(r == (w->config.mode == DL_MODE_RING ? -EEXIST : 0), "%d", r);
		if (!r)
			dl_vcpu_remove(second);
	}
	if (how & 64)
		reap(w, how);
	if (how & 16) {
		model_vcpu_exit(w->model, w->vcpu_fds[i], KVM_EXIT_INTR);
		dl_vcpu_remove(w->vcpus[i]);
		r = dl_vcpu_add(w->log, w->vcpu_fds[i], 0, 0, &w->vcpus[i]);
		expect(!r, "%d", r);
	}
}

/* Calls that fill structs and texts of any size, and calls with NULL. */
static void fill_structs(struct world *w)
{
	uint8_t size = input_u8(&w->in), text_bytes = input_u8(&w->in);
	uint8_t out[256 + 8], text[256 + 1];
	uint32_t size32 = size;
	int r;

	memset(out, '#', sizeof(out));
	memset(text, '#', sizeof(text));
	memcpy(out, &size32, sizeof(size32));
	if (size < 8)
		memset(out + 4, '#', 4);
	r = size & 1 ? dl_log_stats(w->log, (void *)out) : dl_log_config(w->log, (void *)out);
	expect(r == (size < (size & 1 ? sizeof(struct dl_stats) : sizeof(struct dl_config))
			     ? -EINVAL
			     : 0),
	       "%d", r);
	for (size_t i = r ? 4 : size; i < sizeof(out); i++)
		expect(out[i] == '#', "it writes past the end of the struct");
	r = dl_log_describe(w->log, (char *)text, text_bytes);
	expect(r > 0 && text[text_bytes] == '#', "%d", r);
	expect(!text_bytes || memchr(text, 0, text_bytes), "the text is not terminated");
	expect(dl_log_start(NULL, 0) == -EINVAL && dl_log_stop(NULL) == -EINVAL &&
		       dl_log_harvest(NULL, 0, NULL) == -EINVAL &&
		       dl_mark_gpa(NULL, 0, 0, 0) == -EINVAL &&
		       dl_mark_slot(NULL, 0, 0, 0) == -EINVAL &&
		       dl_mark_hva(NULL, NULL, 0) == -EINVAL &&
		       dl_mark_iov(NULL, NULL, 0, 0, 0) == -EINVAL &&
		       dl_slot_set(w->log, NULL) == -EINVAL &&
		       dl_log_begin(w->log, NULL) == -EINVAL && dl_vcpu_drain(NULL, 0) == -EINVAL &&
		       dl_log_stats(w->log, NULL) == -EINVAL,
	       "NULL is not refused");
}

static void step(struct world *w)
{
	switch (input_u8(&w->in) % 32) {
	case 0 ... 4:
		slots_set(w);
		break;
	case 5:
		slots_remove(w);
		break;
	case 6 ... 7:
		slots_mark(w);
		break;
	case 8 ... 9:
		start(w);
		break;
	case 10:
		if (input_u8(&w->in) % 4 == 1)
			stop(w);
		break;
	case 11 ... 14:
		harvest(w);
		break;
	case 15 ... 16:
		iter_new(w);
		break;
	case 17 ... 19:
		iter_read(w);
		break;
	case 20 ... 22:
		iter_ack(w);
		break;
	case 23:
		iter_free(w);
		break;
	case 24 ... 29:
		stores(w);
		break;
	case 30:
		vcpu_calls(w);
		break;
	case 31:
		fill_structs(w);
		break;
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct world *w = &world;

	memset(w, 0, sizeof(*w));
	w->in = (struct input){ data, bytes };
	world_open(w);
	for (int i = 0; i < MAX_STEPS && w->in.left; i++)
		step(w);
	if (w->on) {
		iter_free(w);
		world_check_equal(w);
	}
	world_close(w);
	return 0;
}
