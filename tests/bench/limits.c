/* SPDX-License-Identifier: MIT */
/*
 * How well limits of a vCPU hold on this machine: a guest on /dev/kvm writes as fast as it can, in
 * real time, with one limit after the other, and the fastest and the slowest second are printed. A
 * machine that is busy with something else makes them worse.
 */
#include "bench.h"
#include "guest.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum {
	SLOT = 1,
	FREE_S = 2,
	LIMITED_S = 12,
	SETTLING_S = 2,
	SAMPLES = 1 << 16,
	MILLISECOND = 1000000,
};

#define SECOND UINT64_C(1000000000)

static struct machine machine;
static struct machine_vcpu *vcpu;
static struct dl_log *dirty_log;
static struct dl_cursor *cursor;
static struct dl_vcpu *handle;
static pthread_t taker;
static atomic_bool ending;
static atomic_ullong longest_pause_ns;

/* How many new pages there were until when. */
static struct {
	uint64_t at_ns, pages;
} samples[SAMPLES];
static size_t n_samples;

static int drain(void *opaque)
{
	(void)opaque;
	return dl_vcpu_drain(handle, 0);
}

static void pause_if_due(void)
{
	uint64_t pause_ns;

	bench_check(dl_vcpu_pause_due(handle, &pause_ns), "dl_vcpu_pause_due");
	if (pause_ns > atomic_load(&longest_pause_ns))
		atomic_store(&longest_pause_ns, pause_ns);
	if (pause_ns)
		nanosleep(&(struct timespec){ (time_t)(pause_ns / SECOND),
					      (long)(pause_ns % SECOND) },
			  NULL);
}

static void *run_vcpu(void *opaque)
{
	const struct guest_job job = {
		.program = GUEST_COUNT,
		.mode = GUEST_USER,
		.gpa = GUEST_DATA_GPA,
		.count = GUEST_PAGES,
		.stride_bytes = GUEST_PAGE_BYTES,
	};

	bench_check(guest_start(vcpu->fd, &job), "guest_start");
	while (!atomic_load(&ending)) {
		machine_unkick(vcpu);
		pause_if_due();
		bench_check(machine_continue(vcpu), "KVM_RUN");
	}
	return opaque;
}

/* What is taken is new when it is written again. */
static void *take_all(void *opaque)
{
	static uint64_t words[GUEST_PAGES / 64];

	while (!atomic_load(&ending)) {
		memset(words, 0, sizeof(words));
		bench_check(dl_cursor_take(cursor, SLOT, 0, words, GUEST_PAGES / 64, NULL),
			    "dl_cursor_take");
		nanosleep(&(struct timespec){ .tv_nsec = 10 * MILLISECOND }, NULL);
	}
	return opaque;
}

static void sample(void)
{
	struct dl_stats stats = { .size = sizeof(stats) };

	if (n_samples == SAMPLES)
		bench_die("more samples than there is room for", 0);
	bench_check(dl_vcpu_stats(handle, &stats), "dl_vcpu_stats");
	samples[n_samples].at_ns = bench_now_ns();
	samples[n_samples++].pages = stats.new_pages;
}

/* Serves the descriptor. */
static void serve_for(uint64_t ns)
{
	struct pollfd poll_fd = { .fd = dl_log_fd(dirty_log), .events = POLLIN };
	uint64_t end_ns = bench_now_ns() + ns, cookie;

	bench_check(poll_fd.fd, "dl_log_fd");
	while (bench_now_ns() < end_ns) {
		if (poll(&poll_fd, 1, 10) < 0 && errno != EINTR)
			bench_die("poll", errno);
		bench_check(dl_log_reap(dirty_log, 0, NULL), "dl_log_reap");
		sample();
		while (dl_log_kicks(dirty_log, &cookie, 1) > 0)
			machine_kick(vcpu);
	}
}

static void open_guest(void)
{
	struct dl_slot slot = {
		.size = sizeof(slot),
		.slot = SLOT,
		.gpa = GUEST_DATA_GPA,
		.bytes = (uint64_t)GUEST_PAGES * GUEST_PAGE_BYTES,
	};
	struct dl_options options = { .size = sizeof(options), .mode = DL_MODE_RING };
	void *memory = mmap(NULL, slot.bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (memory == MAP_FAILED)
		bench_die("mmap of guest memory", errno);
	slot.hva = (uintptr_t)memory;
	bench_check(machine_open(&machine), "a VM");
	bench_check(dl_log_open(machine.vm_fd, &options, &dirty_log, NULL, 0), "dl_log_open");
	bench_check(machine_load_guest(&machine), "the guest's code");
	bench_check(machine_add_vcpu(&machine, &vcpu), "a vCPU");
	vcpu->on_full = drain;
	bench_check(dl_vcpu_add(dirty_log, vcpu->fd, 0, 0, &handle), "dl_vcpu_add");
	bench_check(dl_slot_set(dirty_log, &slot), "dl_slot_set");
	bench_check(dl_cursor_new(dirty_log, NULL, &cursor), "dl_cursor_new");
}

static double pages_per_s(size_t from, size_t to)
{
	return (double)(samples[to].pages - samples[from].pages) * 1e9 /
	       (double)(samples[to].at_ns - samples[from].at_ns);
}

/* Since a sample. */
static void find_seconds(size_t since, double *slowest, double *fastest)
{
	size_t to = since;

	*slowest = 1e300;
	*fastest = 0;
	for (size_t from = since; from < n_samples; from++) {
		double rate;

		while (to < n_samples && samples[to].at_ns < samples[from].at_ns + SECOND)
			to++;
		if (to == n_samples)
			return;
		rate = pages_per_s(from, to);
		*slowest = rate < *slowest ? rate : *slowest;
		*fastest = rate > *fastest ? rate : *fastest;
	}
}

static void measure(uint64_t limit, double unlimited)
{
	double slowest, fastest;
	size_t since;

	bench_check(dl_vcpu_limit(handle, limit * GUEST_PAGE_BYTES), "dl_vcpu_limit");
	serve_for(SETTLING_S * SECOND);
	since = n_samples - 1;
	atomic_store(&longest_pause_ns, 0);
	serve_for(LIMITED_S * SECOND);
	find_seconds(since, &slowest, &fastest);
	printf("| %llu | %.0f%% | %.1f%% | %.1f%% | %.1f%% | %.1f |\n", (unsigned long long)limit,
	       100 * (double)limit / unlimited,
	       100 * pages_per_s(since, n_samples - 1) / (double)limit,
	       100 * slowest / (double)limit, 100 * fastest / (double)limit,
	       (double)atomic_load(&longest_pause_ns) / MILLISECOND);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static const uint64_t limits[] = { 2000, 5000, 10000, 20000, 50000, 100000 };
	const char *missing;
	double unlimited;

	if (argc > 1) {
		printf("Usage: %s\n\n"
		       "Prints how well limits of a vCPU hold on /dev/kvm, in some 90 s.\n",
		       argv[0]);
		return strcmp(argv[1], "--help") ? EXIT_FAILURE : EXIT_SUCCESS;
	}
	missing = guest_missing(DL_MODE_RING);
	if (missing) {
		fprintf(stderr, "%s: %s\n", argv[0], missing);
		return EXIT_FAILURE;
	}
	open_guest();
	bench_check(-pthread_create(&vcpu->thread, NULL, run_vcpu, NULL), "pthread_create");
	bench_check(-pthread_create(&taker, NULL, take_all, NULL), "pthread_create");
	serve_for(FREE_S * SECOND);
	unlimited = pages_per_s(n_samples / 4, n_samples - 1);
	printf("| limit, pages/s | of its speed | mean | slowest second | fastest second | longest "
	       "pause, ms |\n| --- | --- | --- | --- | --- | --- |\n");
	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++)
		measure(limits[i], unlimited);
	atomic_store(&ending, true);
	machine_kick(vcpu);
	pthread_join(vcpu->thread, NULL);
	pthread_join(taker, NULL);
	dl_cursor_free(cursor);
	dl_vcpu_remove(handle);
	dl_log_close(dirty_log);
	machine_close(&machine);
	return EXIT_SUCCESS;
}
