/* SPDX-License-Identifier: MIT */
/*
 * The cost of the dirty log for a guest on the real /dev/kvm, against ring size and harvest
 * interval. vCPUs write one word of each page of their range, round after round. Their stores per
 * second are compared with those of the same vCPUs in the same VM without logging. Writes
 * tab-separated values, medians of the runs, to the standard output.
 */

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <dirtylog/dirtylog.h>

#include "machine.h"

#define COUNT(a)  (sizeof(a) / sizeof((a)[0]))
#define SECOND_NS UINT64_C(1000000000)

enum { REAP = 0, MOST_RUNS = 99, MOST_VCPUS = 2 };

static const uint32_t rings[] = { 256, 1024, 4096, 16384, 65536 };
static const uint32_t intervals_ms[] = { REAP, 1, 3, 10, 30, 100, 300 };

static struct {
	enum guest_mode guest;
	unsigned int vcpus, runs;
	uint64_t pages, run_ns;
} options = { .guest = GUEST_USER, .vcpus = 1, .runs = 7, .pages = 2048, .run_ns = SECOND_NS / 2 };

struct vcpu {
	struct machine_vcpu *machine;
	struct dl_vcpu *log;
	_Atomic uint64_t drain_ns;
};

/* A VM, measured once. */
struct trial {
	struct machine machine;
	struct dl_log *log;
	struct dl_cursor *cursor;
	struct vcpu vcpus[MOST_VCPUS];
	uint8_t *memory;
	size_t bytes;
	uint32_t ring_entries, interval_ms;
	uint64_t harvests, harvest_ns;
};

struct result {
	double speed, full_exits, drain_share, harvests, harvest_share, entries, overflows;
};

static void check(int r, const char *what)
{
	if (r >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, strerror(-r));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

static void sleep_until(uint64_t ns)
{
	const struct timespec t = { .tv_sec = (time_t)(ns / SECOND_NS),
				    .tv_nsec = (long)(ns % SECOND_NS) };

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static int on_full(void *opaque)
{
	struct vcpu *vcpu = opaque;
	uint64_t begin_ns = now_ns();
	int r = dl_vcpu_drain(vcpu->log, 0);

	atomic_fetch_add(&vcpu->drain_ns, now_ns() - begin_ns);
	return r;
}

static void add_vcpu(struct trial *trial, unsigned int i)
{
	struct vcpu *vcpu = &trial->vcpus[i];

	check(machine_add_vcpu(&trial->machine, &vcpu->machine), "adding a vCPU");
	vcpu->machine->on_full = on_full;
	vcpu->machine->opaque = vcpu;
	check(dl_vcpu_add(trial->log, vcpu->machine->fd, 0, 0, &vcpu->log), "dl_vcpu_add");
}

static void add_memory(struct trial *trial)
{
	struct dl_slot slot = { .size = sizeof(slot), .gpa = GUEST_DATA_GPA };
	void *memory;

	trial->bytes = options.vcpus * options.pages * trial->machine.page_bytes;
	memory = mmap(NULL, trial->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		      0);
	check(memory == MAP_FAILED ? -errno : 0, "guest memory");
	memset(memory, 1, trial->bytes);
	trial->memory = memory;
	slot.bytes = trial->bytes;
	slot.hva = (uintptr_t)memory;
	check(dl_slot_set(trial->log, &slot), "dl_slot_set");
}

static void trial_open(struct trial *trial)
{
	const struct dl_options log_options = {
		.size = sizeof(log_options),
		.mode = DL_MODE_RING,
		.ring_entries = trial->ring_entries,
	};
	char why[200];

	check(machine_open(&trial->machine), "/dev/kvm");
	check(dl_log_open(trial->machine.vm_fd, &log_options, &trial->log, why, sizeof(why)),
	      "dl_log_open");
	check(machine_load_guest(&trial->machine), "the guest's slot");
	for (unsigned int i = 0; i < options.vcpus; i++)
		add_vcpu(trial, i);
	add_memory(trial);
}

static void trial_close(struct trial *trial)
{
	for (unsigned int i = 0; i < options.vcpus; i++)
		check(machine_stop(trial->vcpus[i].machine), "the run of a vCPU");
	dl_cursor_free(trial->cursor);
	for (unsigned int i = 0; i < options.vcpus; i++)
		dl_vcpu_remove(trial->vcpus[i].log);
	dl_log_close(trial->log);
	machine_close(&trial->machine);
	munmap(trial->memory, trial->bytes);
}

static void start_guest(struct trial *trial)
{
	const uint64_t range_bytes = options.pages * trial->machine.page_bytes;

	for (unsigned int i = 0; i < options.vcpus; i++) {
		const struct guest_job job = {
			.program = GUEST_COUNT,
			.mode = options.guest,
			.gpa = GUEST_DATA_GPA + i * range_bytes,
			.count = options.pages,
			.stride_bytes = trial->machine.page_bytes,
		};

		check(machine_go(trial->vcpus[i].machine, &job), "starting a vCPU");
	}
}

/* The sum of the guest's counters. */
static uint64_t stores(const struct trial *trial)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < trial->bytes; i += trial->machine.page_bytes)
		sum += *(volatile uint64_t *)(trial->memory + i);
	return sum;
}

static double stores_per_ns_unlogged(const struct trial *trial)
{
	const uint64_t total = options.vcpus * options.pages, first = stores(trial);
	uint64_t begin, begin_ns;

	/* Let the guest map all pages first. */
	while (stores(trial) - first < 2 * total)
		sleep_until(now_ns() + SECOND_NS / 1000);
	begin = stores(trial);
	begin_ns = now_ns();
	do
		sleep_until(now_ns() + options.run_ns / 2);
	while (stores(trial) == begin);
	return (double)(stores(trial) - begin) / (double)(now_ns() - begin_ns);
}

static void harvest(struct trial *trial)
{
	uint64_t begin_ns = now_ns();

	check(dl_harvest(trial->cursor, 0, NULL), "dl_harvest");
	check(dl_cursor_end(trial->cursor, 0), "dl_cursor_end");
	trial->harvest_ns += now_ns() - begin_ns;
	trial->harvests++;
}

static void harvest_at_intervals(struct trial *trial, uint64_t until_ns)
{
	const uint64_t interval_ns = trial->interval_ms * SECOND_NS / 1000;
	uint64_t next_ns = now_ns() + interval_ns;

	while (next_ns < until_ns) {
		sleep_until(next_ns);
		harvest(trial);
		next_ns += interval_ns;
		if (next_ns < now_ns())
			next_ns = now_ns();
	}
	sleep_until(until_ns);
}

static void serve_descriptor(struct trial *trial, uint64_t until_ns)
{
	struct pollfd log = { .fd = dl_log_fd(trial->log), .events = POLLIN };
	uint64_t begin_ns;

	check(log.fd, "dl_log_fd");
	while ((begin_ns = now_ns()) < until_ns) {
		/* Rounded up: a timeout of 0 does not wait. */
		if (poll(&log, 1, (int)((until_ns - begin_ns) / 1000000) + 1) <= 0)
			continue;
		begin_ns = now_ns();
		check(dl_log_reap(trial->log, 0, NULL), "dl_log_reap");
		trial->harvest_ns += now_ns() - begin_ns;
		trial->harvests++;
	}
}

static struct result measure_logged(struct trial *trial, double unlogged_per_ns)
{
	const struct dl_cursor_options cursor_options = {
		.size = sizeof(cursor_options),
		.flags = DL_CURSOR_CLEAN,
		.vcpus = options.vcpus,
	};
	struct dl_stats stats = { .size = sizeof(stats) };
	struct result result = { 0 };
	uint64_t first, begin_ns, ns, drain_ns = 0, full_exits = 0;

	check(dl_cursor_new(trial->log, &cursor_options, &trial->cursor), "dl_cursor_new");
	first = stores(trial);
	begin_ns = now_ns();
	if (trial->interval_ms == REAP)
		serve_descriptor(trial, begin_ns + options.run_ns);
	else
		harvest_at_intervals(trial, begin_ns + options.run_ns);
	result.speed = (double)(stores(trial) - first);
	ns = now_ns() - begin_ns;
	check(dl_log_stats(trial->log, &stats), "dl_log_stats");
	for (unsigned int i = 0; i < options.vcpus; i++) {
		drain_ns += trial->vcpus[i].drain_ns;
		full_exits += trial->vcpus[i].machine->full_exits;
	}
	result.speed /= (double)ns * unlogged_per_ns;
	result.full_exits = (double)full_exits * 1e9 / (double)ns;
	result.drain_share = (double)drain_ns / (double)ns / options.vcpus;
	result.harvests = (double)trial->harvests * 1e9 / (double)ns;
	result.harvest_share = (double)trial->harvest_ns / (double)ns;
	result.entries = (double)stats.entries * 1e9 / (double)ns;
	result.overflows = (double)stats.overflows * 1e9 / (double)ns;
	return result;
}

static struct result measure(uint32_t ring_entries, uint32_t interval_ms)
{
	struct trial *trial = calloc(1, sizeof(*trial));
	struct result result;

	check(trial ? 0 : -ENOMEM, "memory for a trial");
	trial->ring_entries = ring_entries;
	trial->interval_ms = interval_ms;
	trial_open(trial);
	start_guest(trial);
	result = measure_logged(trial, stores_per_ns_unlogged(trial));
	trial_close(trial);
	free(trial);
	return result;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Least, median and greatest value of one member of the results. */
static void spread(const struct result *results, size_t offset, double out[3])
{
	double values[MOST_RUNS];

	for (unsigned int i = 0; i < options.runs; i++)
		memcpy(&values[i], (const char *)&results[i] + offset, sizeof(double));
	qsort(values, options.runs, sizeof(double), compare);
	out[0] = values[0];
	out[1] = values[options.runs / 2];
	out[2] = values[options.runs - 1];
}

static double median(const struct result *results, size_t offset)
{
	double out[3];

	spread(results, offset, out);
	return out[1];
}

#define MEDIAN(results, member) median(results, offsetof(struct result, member))

static void measure_point(uint32_t ring_entries, uint32_t interval_ms)
{
	struct result results[MOST_RUNS];
	double speed[3], drain[3];

	for (unsigned int run = 0; run < options.runs; run++)
		results[run] = measure(ring_entries, interval_ms);
	spread(results, offsetof(struct result, speed), speed);
	spread(results, offsetof(struct result, drain_share), drain);
	printf("%s\t%u\t%llu\t%u\t", options.guest == GUEST_USER ? "user" : "kernel", options.vcpus,
	       (unsigned long long)options.pages, ring_entries);
	if (interval_ms == REAP)
		printf("reap");
	else
		printf("%u", interval_ms);
	printf("\t%.5f\t%.5f\t%.5f\t%.5f\t%.5f\t%.1f\t%.1f\t%.5f\t%.0f\t%.1f\n", speed[1], speed[0],
	       speed[2], drain[1], drain[2], MEDIAN(results, full_exits), MEDIAN(results, harvests),
	       MEDIAN(results, harvest_share), MEDIAN(results, entries),
	       MEDIAN(results, overflows));
	fflush(stdout);
}

static void read_options(int argc, char **argv)
{
	static const char usage[] = "tuning-kvm [-k] [-v VCPUS] [-p PAGES] [-r RUNS] [-m MS]\n"
				    "  -k  a guest in kernel mode\n"
				    "  -p  pages that each vCPU writes\n"
				    "  -m  milliseconds of each run\n";
	int option;

	while ((option = getopt(argc, argv, "kv:p:r:m:")) != -1) {
		unsigned long value = optarg ? strtoul(optarg, NULL, 10) : 0;

		if (option == 'k')
			options.guest = GUEST_KERNEL;
		else if (option == 'v' && value && value <= MOST_VCPUS)
			options.vcpus = (unsigned int)value;
		else if (option == 'p' && value)
			options.pages = value;
		else if (option == 'r' && value && value <= MOST_RUNS)
			options.runs = (unsigned int)value;
		else if (option == 'm' && value)
			options.run_ns = value * SECOND_NS / 1000;
		else {
			fputs(usage, stderr);
			exit(2);
		}
	}
}

int main(int argc, char **argv)
{
	int r = machine_available();

	read_options(argc, argv);
	if (r < 0) {
		printf("skip: /dev/kvm: %s\n", strerror(-r));
		return 77;
	}
	printf("guest\tvcpus\tpages\tring_entries\tinterval_ms\tspeed\tspeed_min\tspeed_max"
	       "\tdrain_share\tdrain_share_max\tfull_exits_per_second\tharvests_per_second"
	       "\tharvest_share\tentries_per_second\toverflows_per_second\n");
	for (size_t ring = 0; ring < COUNT(rings); ring++)
		for (size_t i = 0; i < COUNT(intervals_ms); i++)
			measure_point(rings[ring], intervals_ms[i]);
	return 0;
}
