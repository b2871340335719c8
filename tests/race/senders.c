/* SPDX-License-Identifier: MIT */
#include "senders.h"

#include "cmocka_all.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { SENDERS = 3, MAX_RUNS = 8 };

struct pass;

/* The box holds runs that this sender has copied and the previous sender acknowledges. */
struct sender {
	struct pass *pass;
	unsigned int number;
	pthread_t thread;
	int result;
	pthread_mutex_t lock; /* protects the box */
	struct dl_run box[MAX_RUNS];
	uint32_t boxed;
};

struct pass {
	struct checker *checker;
	struct dl_iter *iter;
	bool lossy;
	struct sender senders[SENDERS];
};

/*
 * Only one sender copies at a time: the same memory can be in two slots (a removed one and its
 * successor), and an older version of a page must not overwrite a newer one.
 */
static pthread_mutex_t copy_lock = PTHREAD_MUTEX_INITIALIZER;

static void copy_run(struct pass *pass, const struct dl_run *run)
{
	pthread_mutex_lock(&copy_lock);
	checker_copy_run(pass->checker, run);
	pthread_mutex_unlock(&copy_lock);
}

static void expect_canceled(int result, const char *what)
{
	if (result == -ECANCELED)
		return;
	print_error("%s: %d, not 0 or -ECANCELED\n", what, result);
	abort();
}

static void acknowledge(struct pass *pass, const struct dl_run *run)
{
	size_t page_bytes = pass->checker->page_bytes;
	uint64_t first_bytes = run->bytes / page_bytes / 2 * page_bytes;
	struct dl_run halves[2] = { *run, *run };
	int r;

	halves[0].bytes = first_bytes;
	halves[1].offset_bytes += first_bytes;
	halves[1].bytes -= first_bytes;
	r = first_bytes ? dl_iter_ack(pass->iter, halves, 2)
			: dl_iter_ack(pass->iter, &halves[1], 1);
	if (r)
		expect_canceled(r, "dl_iter_ack");
}

static void empty_box(struct sender *sender)
{
	struct dl_run runs[MAX_RUNS];
	uint32_t n;

	pthread_mutex_lock(&sender->lock);
	n = sender->boxed;
	memcpy(runs, sender->box, n * sizeof(*runs));
	sender->boxed = 0;
	pthread_mutex_unlock(&sender->lock);
	for (uint32_t i = 0; i < n; i++)
		acknowledge(sender->pass, &runs[i]);
}

static void fill_box(struct sender *sender, const struct dl_run *runs, uint32_t n)
{
	empty_box(sender);
	pthread_mutex_lock(&sender->lock);
	memcpy(sender->box, runs, n * sizeof(*runs));
	sender->boxed = n;
	pthread_mutex_unlock(&sender->lock);
}

static void *run_sender(void *opaque)
{
	struct sender *sender = opaque;
	struct pass *pass = sender->pass;
	struct dl_run runs[MAX_RUNS];
	int n;

	while ((n = dl_iter_read(pass->iter, runs, MAX_RUNS)) > 0) {
		uint32_t first = pass->lossy ? 1 : 0;

		for (int i = (int)first; i < n; i++)
			copy_run(pass, &runs[i]);
		fill_box(sender, runs + first, (uint32_t)n - first);
		empty_box(&pass->senders[(sender->number + 1) % SENDERS]);
	}
	if (n)
		expect_canceled(n, "dl_iter_read");
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

int senders_pass(struct checker *checker, bool lossy)
{
	struct pass pass = { .checker = checker, .lossy = lossy };
	int r = dl_iter_new(checker->log, 0, &pass.iter);

	if (r) {
		expect_canceled(r, "dl_iter_new");
		return r;
	}
	begin(&pass);
	for (unsigned int i = 0; i < SENDERS; i++) {
		pthread_join(pass.senders[i].thread, NULL);
		r = r ? r : pass.senders[i].result;
	}
	for (unsigned int i = 0; i < SENDERS; i++)
		pthread_mutex_destroy(&pass.senders[i].lock);
	dl_iter_free(pass.iter);
	return r;
}
