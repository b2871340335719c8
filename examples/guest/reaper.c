/* SPDX-License-Identifier: MIT */
#include "reaper.h"
#include "../clock.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { LOG, STOP, FDS };

/* Between two looks at whether a rest is over. */
enum { REST_MS = 10 };

/* Until the time that dl_log_reap() has said; without end where the descriptor says it. */
static int timeout_ms(const struct reaper *reaper, uint64_t again_ns)
{
	if (reaper->log_fd >= 0)
		return -1;
	return again_ns < NS_PER_S ? (int)(again_ns / NS_PER_MS) + 1 : 1000;
}

void reaper_kick(struct reaper *reaper)
{
	uint64_t cookies[LAYOUT_MAX_VCPUS];
	int n = dl_log_kicks(reaper->log, cookies, LAYOUT_MAX_VCPUS);

	for (int i = 0; i < n; i++)
		machine_kick(reaper->machine, (uint32_t)cookies[i]);
}

static void *reaper_main(void *arg)
{
	struct reaper *reaper = arg;
	struct pollfd fds[FDS] = {
		[LOG] = { .fd = reaper->log_fd, .events = POLLIN },
		[STOP] = { .fd = reaper->stop_fd, .events = POLLIN },
	};
	uint64_t again_ns = 0;

	for (;;) {
		bool rests = reaper->rests;

		fds[LOG].fd = rests ? -1 : reaper->log_fd;
		if (poll(fds, FDS, rests ? REST_MS : timeout_ms(reaper, again_ns)) < 0)
			continue;
		if (fds[STOP].revents)
			return NULL;
		if (rests)
			continue;
		/* After an error nothing is lost: it backs off, and a harvest meets it too. */
		(void)!dl_log_reap(reaper->log, 0, &again_ns);
		reaper->reaps++;
		reaper_kick(reaper);
	}
}

int reaper_start(struct reaper *reaper, struct machine *machine, struct dl_log *log)
{
	int r;

	reaper->machine = machine;
	reaper->log = log;
	reaper->log_fd = -1;
	if (!machine->model) {
		reaper->log_fd = dl_log_fd(log);
		if (reaper->log_fd < 0)
			return reaper->log_fd;
	}
	reaper->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (reaper->stop_fd < 0)
		return -errno;
	r = pthread_create(&reaper->thread, NULL, reaper_main, reaper);
	if (r)
		close(reaper->stop_fd);
	reaper->has_thread = !r;
	return -r;
}

void reaper_stop(struct reaper *reaper)
{
	if (!reaper->has_thread)
		return;
	eventfd_write(reaper->stop_fd, 1);
	pthread_join(reaper->thread, NULL);
	close(reaper->stop_fd);
	reaper->has_thread = false;
}
