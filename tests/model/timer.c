/* SPDX-License-Identifier: MIT */
/* Timer descriptors, and the clock, which a test may move by hand. */
#include <errno.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define FIRST_TIMER_FD (1 << 28)
#define SECOND_NS      1000000000u

static uint64_t now_ns(struct model *model)
{
	struct timespec t;

	if (model->options.virtual_clock)
		return atomic_load(&model->virtual_ns);
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

uint64_t mk_now_ns(void *opaque)
{
	return now_ns(opaque);
}

/* Called with call_lock held. */
static struct model_timer *find(struct model *model, int fd)
{
	for (int i = 0; i < MAX_TIMERS; i++)
		if (model->timers[i].open && model->timers[i].fd == fd)
			return &model->timers[i];
	return NULL;
}

/* A descriptor of the system: an eventfd is made readable by model_advance(). */
static int real_fd(const struct model *model)
{
	int fd = model->options.virtual_clock
			 ? eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
			 : timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* The descriptor is readable from the timer's expiration on. Called with call_lock held. */
static void show(const struct model *model, const struct model_timer *timer, uint64_t now)
{
	uint64_t left_ns = timer->expires_ns > now ? timer->expires_ns - now : 1;
	struct itimerspec once = { 0 };
	uint64_t count;

	if (!timer->real)
		return;
	if (!model->options.virtual_clock) {
		once.it_value.tv_sec = timer->armed ? (time_t)(left_ns / SECOND_NS) : 0;
		once.it_value.tv_nsec = timer->armed ? (long)(left_ns % SECOND_NS) : 0;
		timerfd_settime(timer->fd, 0, &once, NULL);
	} else if (timer->armed && timer->expires_ns <= now) {
		eventfd_write(timer->fd, 1);
	} else {
		eventfd_read(timer->fd, &count);
	}
}

static int create(struct model *model)
{
	int result = -EMFILE;

	pthread_mutex_lock(&model->call_lock);
	for (int i = 0; i < MAX_TIMERS; i++) {
		if (model->timers[i].open)
			continue;
		result = model->options.real_timers ? real_fd(model) : FIRST_TIMER_FD + i;
		model->timers[i] = (struct model_timer){ .open = result >= 0,
							 .real = model->options.real_timers,
							 .fd = result };
		break;
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
	uint64_t now = now_ns(model);
	struct model_timer *timer;
	bool after;
	int saved_errno = errno, result = mk_call_begin(model, &call, &after);

	if (result)
		return result;
	pthread_mutex_lock(&model->call_lock);
	timer = find(model, fd);
	if (timer) {
		timer->armed = from_now_ns;
		timer->expires_ns = now + from_now_ns;
		show(model, timer, now);
	}
	errno = saved_errno;
	pthread_mutex_unlock(&model->call_lock);
	return timer ? 0 : -EBADF;
}

bool mk_timer_close(struct model *model, int fd)
{
	struct model_timer *timer;

	pthread_mutex_lock(&model->call_lock);
	timer = find(model, fd);
	if (timer) {
		timer->open = false;
		if (timer->real)
			close(timer->fd);
	}
	pthread_mutex_unlock(&model->call_lock);
	return timer;
}

void model_advance(struct model *model, uint64_t ns)
{
	int saved_errno = errno;

	atomic_fetch_add(&model->virtual_ns, ns);
	pthread_mutex_lock(&model->call_lock);
	for (int i = 0; i < MAX_TIMERS; i++)
		if (model->timers[i].open)
			show(model, &model->timers[i], now_ns(model));
	pthread_mutex_unlock(&model->call_lock);
	errno = saved_errno;
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
