/* SPDX-License-Identifier: MIT */
#include "timeline.h"
#include "../clock.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define FIRST_INTERVAL_NS (5 * NS_PER_MS)

static void make_room(struct timeline *timeline)
{
	for (uint32_t i = 1; 2 * i < timeline->n; i++)
		timeline->samples[i] = timeline->samples[2 * i];
	timeline->n = (timeline->n + 1) / 2;
	timeline->interval_ns *= 2;
}

static void take_sample(struct timeline *timeline)
{
	struct dl_stats stats = { .size = sizeof(stats) };

	if (dl_log_stats(timeline->log, &stats))
		return;
	if (timeline->n == TIMELINE_SAMPLES)
		make_room(timeline);
	timeline->samples[timeline->n++] = (struct sample){
		.ns = clock_ns() - timeline->start_ns,
		.new_pages = stats.new_pages,
		.sent_pages = timeline->activity->sent_pages,
	};
}

static void *timeline_main(void *opaque)
{
	struct timeline *timeline = opaque;
	struct pollfd stop = { .fd = timeline->stop_fd, .events = POLLIN };

	do
		take_sample(timeline);
	while (poll(&stop, 1, (int)(timeline->interval_ns / NS_PER_MS)) <= 0);
	take_sample(timeline);
	return NULL;
}

int timeline_start(struct timeline *timeline, const struct dl_log *log,
		   const struct activity *activity)
{
	sigset_t all, before;
	int r;

	timeline->log = log;
	timeline->activity = activity;
	timeline->n = 0;
	timeline->start_ns = clock_ns();
	timeline->interval_ns = FIRST_INTERVAL_NS;
	timeline->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (timeline->stop_fd < 0)
		return -errno;
	/* The program's signals are for its other threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&timeline->thread, NULL, timeline_main, timeline);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r)
		close(timeline->stop_fd);
	timeline->has_thread = !r;
	return -r;
}

void timeline_stop(struct timeline *timeline)
{
	if (!timeline->has_thread)
		return;
	eventfd_write(timeline->stop_fd, 1);
	pthread_join(timeline->thread, NULL);
	close(timeline->stop_fd);
	timeline->has_thread = false;
}
