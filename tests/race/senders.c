/* SPDX-License-Identifier: MIT */
#include "senders.h"

#include "cmocka_all.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { SENDERS = 3, MAX_EXTENTS = 8 };

struct pass;

/* The box holds extents that this sender has copied and the previous sender acknowledges. */
struct sender {
	struct pass *pass;
	unsigned int number;
	pthread_t thread;
	int result;
	pthread_mutex_t lock; /* protects the box */
	struct dl_extent box[MAX_EXTENTS];
	uint32_t boxed;
};

struct pass {
	struct checker *checker;
	struct dl_cursor *cursor;
	bool lossy;
	struct sender senders[SENDERS];
};

static void expect(int result, int also, const char *what)
{
	if (!result || result == also)
		return;
	print_error("%s: %d\n", what, result);
	abort();
}

/* Returns 0 from the library too if another thread has ended the pass. */
static void acknowledge(struct pass *pass, const struct dl_extent *extent)
{
	size_t page_bytes = pass->checker->page_bytes;
	uint64_t first_bytes = extent->bytes / page_bytes / 2 * page_bytes;
	struct dl_extent halves[2] = { *extent, *extent };

	halves[0].bytes = first_bytes;
	halves[1].offset_bytes += first_bytes;
	halves[1].bytes -= first_bytes;
	expect(first_bytes ? dl_cursor_ack(pass->cursor, halves, 2)
			   : dl_cursor_ack(pass->cursor, &halves[1], 1),
	       0, "dl_cursor_ack");
}

static void empty_box(struct sender *sender)
{
	struct dl_extent extents[MAX_EXTENTS];
	uint32_t n;

	pthread_mutex_lock(&sender->lock);
	n = sender->boxed;
	memcpy(extents, sender->box, n * sizeof(*extents));
	sender->boxed = 0;
	pthread_mutex_unlock(&sender->lock);
	for (uint32_t i = 0; i < n; i++)
		acknowledge(sender->pass, &extents[i]);
}

static void fill_box(struct sender *sender, const struct dl_extent *extents, uint32_t n)
{
	empty_box(sender);
	pthread_mutex_lock(&sender->lock);
	memcpy(sender->box, extents, n * sizeof(*extents));
	sender->boxed = n;
	pthread_mutex_unlock(&sender->lock);
}

static void *run_sender(void *opaque)
{
	struct sender *sender = opaque;
	struct pass *pass = sender->pass;
	struct dl_extent extents[MAX_EXTENTS];
	int n;

	while ((n = dl_cursor_read(pass->cursor, extents, MAX_EXTENTS)) > 0) {
		uint32_t first = pass->lossy ? 1 : 0;

		for (int i = (int)first; i < n; i++)
			checker_copy_run(pass->checker, &extents[i]);
		fill_box(sender, extents + first, (uint32_t)n - first);
		empty_box(&pass->senders[(sender->number + 1) % SENDERS]);
	}
	expect(n, -EBUSY, "dl_cursor_read");
	sender->result = n;
	return NULL;
}

static void begin(struct pass *pass)
{
	for (unsigned int i = 0; i < SENDERS; i++) {
		struct sender *sender = &pass->senders[i];

		sender->pass = pass;
		sender->number = i;
		pthread_mutex_init(&sender->lock, NULL);
	}
	for (unsigned int i = 0; i < SENDERS; i++) {
		struct sender *sender = &pass->senders[i];

		if (pthread_create(&sender->thread, NULL, run_sender, sender))
			abort();
	}
}

int senders_pass(struct checker *checker, struct dl_cursor *cursor, uint32_t flags, bool lossy,
		 uint64_t *pending_bytes)
{
	struct pass pass = { .checker = checker, .cursor = cursor, .lossy = lossy };
	int r = 0;

	expect(dl_harvest(cursor, flags, pending_bytes), 0, "dl_harvest");
	begin(&pass);
	for (unsigned int i = 0; i < SENDERS; i++) {
		pthread_join(pass.senders[i].thread, NULL);
		r = r ? r : pass.senders[i].result;
	}
	for (unsigned int i = 0; i < SENDERS && !lossy; i++)
		empty_box(&pass.senders[i]);
	for (unsigned int i = 0; i < SENDERS; i++)
		pthread_mutex_destroy(&pass.senders[i].lock);
	expect(dl_cursor_end(cursor, 0), 0, "dl_cursor_end");
	return r;
}
