/* SPDX-License-Identifier: MIT */
#include "throttle.h"
#include "../clock.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* A baseline of this length tells speeds apart that differ by a percent. */
#define MEASURE_NS (500 * NS_PER_MS)

#define TOUCH_NS      (10 * NS_PER_S)
#define TOUCH_STEP_NS (10 * NS_PER_MS)

/* QEMU looks at its migration bitmap no more often. */
#define PERIOD_NS NS_PER_S

static const struct throttle_kind *const kinds[] = {
	[THROTTLE_AUTO_CONVERGE] = &throttle_auto_converge,
	[THROTTLE_DIRTY_LIMIT] = &throttle_dirty_limit,
	[THROTTLE_PLAN] = &throttle_plan,
};

static void sleep_ns(uint64_t ns, const volatile sig_atomic_t *cancelled)
{
	struct timespec end = clock_timespec(clock_ns() + ns);

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL) == EINTR)
		if (*cancelled)
			return;
}

/* How fast the readers have been since then. */
static struct reading_speed speed_since(const struct throttle *throttle,
					const struct machine_reads *then, uint64_t then_ns)
{
	struct machine_reads now = machine_reads(throttle->machine);
	double pages = (double)(now.pages - then->pages);
	uint64_t ns = clock_ns() - then_ns, cpu_ns = now.cpu_ns - then->cpu_ns;

	return (struct reading_speed){
		.per_s = ns ? pages * 1e9 / (double)ns : 0,
		.per_cpu_s = cpu_ns ? pages * 1e9 / (double)cpu_ns : 0,
	};
}

/* A guest that has not touched its memory yet would wait for the host to find some. */
static void wait_for_memory(const struct throttle *throttle)
{
	const struct options *options = throttle->options;
	uint64_t pages = throttle->machine->layout.share_pages *
			 (throttle->machine->layout.vcpus - options->readers);
	uint64_t end_ns = clock_ns() + TOUCH_NS;

	while (!options->dirty_bytes_per_s && machine_records(throttle->machine) < 2 * pages &&
	       clock_ns() < end_ns)
		sleep_ns(TOUCH_STEP_NS, throttle->outlets->outlet[0].sender.cancelled);
}

void throttle_measure(struct throttle *throttle)
{
	struct machine_reads reads;
	uint64_t start_ns;

	if (!throttle->options->readers)
		return;
	wait_for_memory(throttle);
	reads = machine_reads(throttle->machine);
	start_ns = clock_ns();
	sleep_ns(MEASURE_NS, throttle->outlets->outlet[0].sender.cancelled);
	throttle->report->throttling.before = speed_since(throttle, &reads, start_ns);
}

static void *throttle_main(void *opaque)
{
	struct throttle *throttle = opaque;
	struct pollfd stop = { .fd = throttle->stop_fd, .events = POLLIN };
	struct timespec timeout;
	uint64_t ns;

	do {
		pthread_mutex_lock(&throttle->lock);
		ns = throttle->kind->step(throttle);
		throttle->activity->held_vcpus =
			(uint32_t)__builtin_popcount(throttle->kind->limited(throttle));
		pthread_mutex_unlock(&throttle->lock);
		timeout = clock_timespec(ns);
	} while (ppoll(&stop, 1, &timeout, NULL) <= 0);
	return NULL;
}

static int start_thread(struct throttle *throttle)
{
	sigset_t all, before;
	int r;

	throttle->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (throttle->stop_fd < 0)
		return -errno;
	/* The program's signals are for its other threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&throttle->thread, NULL, throttle_main, throttle);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	throttle->has_thread = !r;
	if (r)
		close(throttle->stop_fd);
	return -r;
}

static uint64_t new_pages(const struct throttle *throttle)
{
	struct dl_stats stats = { .size = sizeof(stats) };

	return dl_log_stats(throttle->log, &stats) ? 0 : stats.new_pages;
}

int throttle_start(struct throttle *throttle, struct dl_log *log, struct dl_cursor *cursor)
{
	int r = 0;

	throttle->kind = kinds[throttle->options->throttle];
	throttle->log = log;
	throttle->cursor = cursor;
	pthread_mutex_init(&throttle->lock, NULL);
	throttle->started = true;
	throttle->start_ns = throttle->pass_ns = throttle->period_ns = clock_ns();
	throttle->first_reads = machine_reads(throttle->machine);
	if (!throttle->kind)
		return 0;
	if (throttle->kind->start)
		r = throttle->kind->start(throttle);
	if (r)
		return r;
	machine_set_pauses(throttle->machine, throttle->kind->pause_due, throttle);
	return start_thread(throttle);
}

/*
 * As in QEMU: at the end of a pass, the first one left out, if the last look is a second ago. The
 * second time that the guest has dirtied more than half of what was sent, it is held back harder.
 */
static void look_at_period(struct throttle *throttle, const struct pass_row *row)
{
	uint64_t now_ns = clock_ns(), pages = new_pages(throttle), dirty_bytes;

	throttle->period_wire_bytes += row->wire_bytes;
	if (now_ns - throttle->period_ns < PERIOD_NS)
		return;
	dirty_bytes = (pages - throttle->period_new_pages) * throttle->machine->layout.page_bytes;
	if (throttle->passes > 1 && dirty_bytes > throttle->period_wire_bytes / 2 &&
	    ++throttle->excesses == 2) {
		throttle->excesses = 0;
		throttle->kind->harder(throttle);
	}
	throttle->period_ns = now_ns;
	throttle->period_new_pages = pages;
	throttle->period_wire_bytes = 0;
}

bool throttle_enough(struct throttle *throttle)
{
	if (!throttle->kind || !throttle->kind->ask)
		return false;
	if (!throttle->outlets->enough) {
		pthread_mutex_lock(&throttle->lock);
		throttle->kind->ask(throttle);
		pthread_mutex_unlock(&throttle->lock);
	}
	return throttle->outlets->enough;
}

/* How much of the pass the vCPUs in the mask were free to run, on average. */
static uint32_t run_percent(const struct throttle *throttle, uint32_t mask, const uint64_t *held_ns,
			    uint64_t pass_ns)
{
	uint64_t all_ns = 0, free_ns = 0;

	for (uint32_t id = 0; id < throttle->machine->layout.vcpus; id++) {
		if (!(mask & 1u << id))
			continue;
		all_ns += pass_ns;
		free_ns += held_ns[id] < pass_ns ? pass_ns - held_ns[id] : 0;
	}
	return all_ns ? (uint32_t)((free_ns * 100 + all_ns / 2) / all_ns) : 100;
}

void throttle_pass_done(struct throttle *throttle, struct pass_row *row)
{
	uint64_t now_ns = clock_ns(), held_ns[LAYOUT_MAX_VCPUS];
	struct vcpu_holds holds;

	if (!throttle->kind)
		return;
	pthread_mutex_lock(&throttle->lock);
	throttle->passes++;
	if (throttle->kind->harder)
		look_at_period(throttle, row);
	row->limited = throttle->kind->limited(throttle);
	row->verdict = throttle->verdict;
	pthread_mutex_unlock(&throttle->lock);
	for (uint32_t id = 0; id < throttle->machine->layout.vcpus; id++) {
		machine_holds(throttle->machine, id, &holds);
		held_ns[id] = holds.held_ns - throttle->pass_held_ns[id];
		throttle->pass_held_ns[id] = holds.held_ns;
		/* Also those that are free again by now. */
		if (held_ns[id])
			row->limited |= 1u << id;
	}
	row->run_percent = run_percent(throttle, row->limited, held_ns, now_ns - throttle->pass_ns);
	throttle->pass_ns = now_ns;
	throttle->report->throttling.ever_limited |= row->limited;
}

void throttle_note_end(struct throttle *throttle)
{
	struct throttling *result = &throttle->report->throttling;
	struct vcpu_holds holds;

	if (!throttle->started || result->ns)
		return;
	result->ns = clock_ns() - throttle->start_ns;
	result->during = speed_since(throttle, &throttle->first_reads, throttle->start_ns);
	for (uint32_t id = 0; id < throttle->machine->layout.vcpus; id++) {
		bool reader = machine_is_reader(throttle->machine, id);

		machine_holds(throttle->machine, id, &holds);
		*(reader ? &result->readers : &result->writers) += 1;
		*(reader ? &result->readers_held_ns : &result->writers_held_ns) += holds.held_ns;
		if (holds.count)
			result->ever_limited |= 1u << id;
		if (holds.longest_ns > result->longest_pause_ns)
			result->longest_pause_ns = holds.longest_ns;
	}
}

void throttle_stop(struct throttle *throttle)
{
	if (!throttle->started)
		return;
	throttle_note_end(throttle);
	throttle->started = false;
	throttle->activity->held_vcpus = 0;
	if (throttle->has_thread) {
		eventfd_write(throttle->stop_fd, 1);
		pthread_join(throttle->thread, NULL);
		close(throttle->stop_fd);
		throttle->has_thread = false;
	}
	machine_set_pauses(throttle->machine, NULL, NULL);
	if (throttle->kind && throttle->kind->stop)
		throttle->kind->stop(throttle);
	pthread_mutex_destroy(&throttle->lock);
}
