/* SPDX-License-Identifier: MIT */
/* Timer descriptors, and the clock, which a test may move by hand. */
#include <errno.h>
#include <time.h>

#include "internal.h"

#define FIRST_TIMER_FD (1 << 28)

static uint64_t now_ns(struct model *model)
{
	struct timespec t;

	if (model->options.virtual_clock)
		return atomic_load(&model->virtual_ns);
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t mk_now_ns(void *opaque)
{
	return now_ns(opaque);
}

/* Called with call_lock held. */
static struct model_timer *find(struct model *model, int fd)
{
	uint32_t index = (uint32_t)fd - FIRST_TIMER_FD;

	return index < MAX_TIMERS && model->timers[index].open ? &model->timers[index] : NULL;
}

static int create(struct model *model)
{
	int result = -EMFILE;

	pthread_mutex_lock(&model->call_lock);
	for (int i = 0; i < MAX_TIMERS && result < 0; i++) {
		if (model->timers[i].open)
			continue;
		model->timers[i] = (struct model_timer){ .open = true };
		result = FIRST_TIMER_FD + i;
	}
	pthread_mutex_unlock(&model->call_lock);
	return result;
}

int mk_timer(void *opaque)
{
	struct model_call call = { .request = MODEL_CALL_TIMER, .fd = -1 };
	bool after;
	int result = mk_call_begin(opaque, &call, &after);

	return result ? result : create(opaque);
}

int mk_timer_set(void *opaque, int fd, uint64_t from_now_ns)
{
	struct model_call call = { .request = MODEL_CALL_TIMER_SET, .fd = fd };
	struct model *model = opaque;
	struct model_timer *timer;
	bool after;
	int result = mk_call_begin(model, &call, &after);

	if (result)
		return result;
	pthread_mutex_lock(&model->call_lock);
	timer = find(model, fd);
	if (timer) {
		timer->armed = from_now_ns;
		timer->expires_ns = now_ns(model) + from_now_ns;
	}
	pthread_mutex_unlock(&model->call_lock);
	return timer ? 0 : -EBADF;
}

bool mk_timer_close(struct model *model, int fd)
{
	struct model_timer *timer;

	pthread_mutex_lock(&model->call_lock);
	timer = find(model, fd);
	if (timer)
		timer->open = false;
	pthread_mutex_unlock(&model->call_lock);
	return timer;
}

void model_advance(struct model *model, uint64_t ns)
{
	atomic_fetch_add(&model->virtual_ns, ns);
}

uint64_t model_timer_left(struct model *model, int fd)
{
	uint64_t left_ns = UINT64_MAX, now = now_ns(model);
	const struct model_timer *timer;

	pthread_mutex_lock(&model->call_lock);
	timer = find(model, fd);
	if (timer && timer->armed)
		left_ns = timer->expires_ns > now ? timer->expires_ns - now : 0;
	pthread_mutex_unlock(&model->call_lock);
	return left_ns;
}

bool model_is_timer(struct model *model, int fd)
{
	bool is_timer;

	pthread_mutex_lock(&model->call_lock);
	is_timer = find(model, fd);
	pthread_mutex_unlock(&model->call_lock);
	return is_timer;
}
