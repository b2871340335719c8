/* SPDX-License-Identifier: MIT */
/*
 * The public calls, on the model kernel, with any arguments and in any order. An invalid call fails
 * with the error that the header documents and changes nothing: no counter, description, pending
 * page or slot of the kernel. A valid call succeeds. At the end the copy equals the memory.
 */
#include "calls.h"

#include <errno.h>

enum { MAX_STEPS = 250 };

struct world world;

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
	bool arms = w->cursor && w->config.mode == DL_MODE_RING;
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
		r = dl_vcpu_add(w->log, w->vcpu_fds[i], FIRST_COOKIE + (uint64_t)i, 0,
				&w->vcpus[i]);
		expect(!r, "%d", r);
		w->limits[i].own = 0;
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
	expect(dl_cursor_new(NULL, NULL, NULL) == -EINVAL &&
		       dl_cursor_new(w->log, NULL, NULL) == -EINVAL &&
		       dl_harvest(NULL, 0, NULL) == -EINVAL &&
		       dl_cursor_take(NULL, 0, 0, NULL, 0, NULL) == -EINVAL &&
		       dl_mark_gpa(NULL, 0, 0, 0) == -EINVAL &&
		       dl_mark_slot(NULL, 0, 0, 0) == -EINVAL &&
		       dl_mark_hva(NULL, NULL, 0) == -EINVAL &&
		       dl_mark_iov(NULL, NULL, 0, 0, 0) == -EINVAL &&
		       dl_mark_bitmap(NULL, NULL, NULL, 0, NULL) == -EINVAL &&
		       dl_slot_watch(NULL, 0, NULL, 0) == -EINVAL &&
		       dl_slot_set(w->log, NULL) == -EINVAL && dl_vcpu_drain(NULL, 0) == -EINVAL &&
		       dl_log_stats(w->log, NULL) == -EINVAL && dl_vcpu_limit(NULL, 1) == -EINVAL &&
		       dl_vcpu_pause_due(w->vcpus[0], NULL) == -EINVAL &&
		       dl_log_kicks(w->log, NULL, 1) == -EINVAL &&
		       dl_plan_new(NULL, NULL, NULL) == -EINVAL &&
		       dl_plan_sent(NULL, 0, 0) == -EINVAL &&
		       dl_plan_next(NULL, 0, NULL) == -EINVAL,
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
		cursor_new(w);
		break;
	case 10:
		switch (input_u8(&w->in) % 4) {
		case 0:
			limits(w);
			break;
		case 1:
			cursor_free(w);
			break;
		case 2 ... 3:
			watches(w);
			break;
		}
		break;
	case 11 ... 14:
		cursor_harvest(w);
		break;
	case 15 ... 16:
		cursor_take(w);
		break;
	case 17 ... 19:
		cursor_read(w);
		break;
	case 20 ... 22:
		cursor_ack(w);
		break;
	case 23:
		cursor_end(w);
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
	if (w->cursor) {
		cursor_end(w);
		world_check_equal(w);
	}
	world_close(w);
	return 0;
}
