/* SPDX-License-Identifier: MIT */
/*
 * How long a vCPU with a full ring stands still, with 64 vCPUs, against a reaper as established
 * VMMs have it: a vCPU that exits with a full ring takes one global lock, empties every ring, and
 * calls one reset.
 *
 * Runs in virtual time (actors.h), as no machine at hand has 65 processors. The model:
 *   - the code of both sides is real, and takes the time that it takes here, on one processor with
 *     warm caches; ring cells from other processors' caches would make both slower;
 *   - RESET costs what was seen on a real /dev/kvm (6.18): 220 ns, 19 ns an entry of random pages
 *     under slots_lock, and 35 us (30 to 40 were seen) after it for the TLB flush while other vCPUs
 *     run; and 20 ns for each ring that it checks. A call that sets the signal mask: 100 ns;
 *   - a full ring is one with 576 cells left (64, and 512 of PML), as on Intel;
 *   - one thread harvests every 10 ms. Pending pages are read afterwards, in no time;
 *   - threads sleep in locks, and take 5 us to wake up.
 * Not modelled: the guest's own faults and exits, contention of mmu_lock between faults and resets,
 * memory bandwidth, and the other uses of a VMM's global lock.
 *
 * Two loads. Bursts: each vCPU dirties a page every 2 us for a while (20 ms on average), then one
 * every 50 us (60 ms on average). Steady: every vCPU dirties a page every 2 us, so that rings fill
 * at nearly the same moment.
 */
#include "../unit/random.h"
#include "actors.h"
#include "bench.h"
#include "figures.h"
#include "reference.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GUEST_PAGES (UINT64_C(1) << 24)

enum {
	VCPUS = 64,
	ENTRIES = 4096,
	RESERVED_ENTRIES = 576,
	HARVEST_NS = 10000000,
	WARM_NS = 20000000,
	END_NS = 220000000,
	FAST_NS = 2000,
	SLOW_NS = 50000,
	FAST_SPAN_NS = 20000000,
	SLOW_SPAN_NS = 60000000,
	RESET_NS = 220,
	RESET_RING_NS = 20,
	RESET_ENTRY_NS = 19,
	FLUSH_NS = 35000,
	SIGNAL_MASK_NS = 100,
	MOST_STALLS = 1 << 16,
	MOST_HARVESTERS = 4,
};

struct guest_cpu {
	uint64_t next_ns, interval_ns, span_ends_ns;
	struct random random;
	bool stopped;
};

/* Breakdown of the time of stalls. */
struct account {
	const char *name;
	double ns;
};

static struct {
	struct kernel kernel;
	struct reference reference;
	struct guest_cpu cpus[VCPUS];
	bool is_ours, in_bursts;
	struct actor_mutex slots_lock, global_lock;
	double stalls_ns[MOST_STALLS];
	size_t n;
	uint64_t entries, resets, harvests;
	struct account accounts[ACTOR_PARTS + 2];
	double harvest_ns;
} scene;

static bool is_full(uint32_t v)
{
	return scene.kernel.rings[v].filled >= ENTRIES - RESERVED_ENTRIES;
}

/* Exponentially distributed times, in integers: the sum of coin tosses. */
static uint64_t random_span_ns(struct random *random, uint64_t mean_ns)
{
	const uint32_t steps = 16;
	uint64_t n = 1;

	while (n < 8 * steps && random_below(random, steps))
		n++;
	return n * (mean_ns / steps);
}

static void begin_span(struct guest_cpu *cpu, bool fast)
{
	cpu->interval_ns = fast ? FAST_NS : SLOW_NS;
	cpu->span_ends_ns += random_span_ns(&cpu->random, fast ? FAST_SPAN_NS : SLOW_SPAN_NS);
}

/* Fills the rings with what the guest wrote until now. */
static void write_until(uint64_t now_ns)
{
	for (uint32_t v = 0; v < VCPUS; v++) {
		struct guest_cpu *cpu = &scene.cpus[v];

		while (!cpu->stopped && cpu->next_ns <= now_ns && !is_full(v)) {
			uint64_t page = random_below(&cpu->random, GUEST_PAGES);

			kernel_fill(&scene.kernel, v, &page, 1);
			scene.entries++;
			if (cpu->next_ns >= cpu->span_ends_ns)
				begin_span(cpu, cpu->interval_ns == SLOW_NS);
			cpu->next_ns += cpu->interval_ns;
		}
	}
}

static uint32_t released(const struct kernel_ring *ring)
{
	uint32_t n = 0;

	while (n < ring->filled &&
	       ring->cells[(ring->next - ring->filled + n) & (ENTRIES - 1)].flags ==
		       KVM_DIRTY_GFN_F_RESET)
		n++;
	return n;
}

static void take_back(struct kernel_ring *ring, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		ring->cells[(ring->next - ring->filled + i) & (ENTRIES - 1)].flags = 0;
	ring->filled -= n;
}

/* Called with the clock off. */
static uint32_t reset(struct kernel *kernel)
{
	uint32_t n[VCPUS], all = 0;

	actor_mutex_lock(&scene.slots_lock, "slots_lock");
	for (uint32_t v = 0; v < VCPUS; v++)
		all += n[v] = released(&kernel->rings[v]);
	actor_spend(RESET_NS + VCPUS * RESET_RING_NS + (uint64_t)all * RESET_ENTRY_NS);
	for (uint32_t v = 0; v < VCPUS; v++)
		take_back(&kernel->rings[v], n[v]);
	actor_mutex_unlock(&scene.slots_lock);
	if (all)
		actor_spend(FLUSH_NS);
	scene.resets++;
	return all;
}

static int (*other_ioctl)(void *opaque, int fd, unsigned long request, void *arg);

static int timed_ioctl(void *opaque, int fd, unsigned long request, void *arg)
{
	bool clock = actor_clock(false);
	int r;

	if (request == KVM_RESET_DIRTY_RINGS)
		r = (int)reset(opaque);
	else
		r = other_ioctl(opaque, fd, request, arg);
	actor_clock(clock);
	return r;
}

static int timed_signal_mask(void *opaque, int how, const sigset_t *set, sigset_t *old)
{
	(void)opaque;
	(void)how;
	(void)set;
	if (old)
		memset(old, 0, sizeof(*old));
	actor_spend(SIGNAL_MASK_NS);
	return 0;
}

static void empty_all_rings(void)
{
	actor_mutex_lock(&scene.global_lock, "the global lock");
	reference_reap(&scene.reference);
	actor_mutex_unlock(&scene.global_lock);
}

static void account(const char *name, double ns)
{
	struct account *account = scene.accounts;

	while (account->name && strcmp(account->name, name))
		account++;
	account->name = name;
	account->ns += ns;
}

static void note_stall(uint64_t began_ns)
{
	const struct actor_parts *parts = actor_parts();

	if (began_ns < WARM_NS || scene.n == MOST_STALLS)
		return;
	scene.stalls_ns[scene.n++] = (double)(actor_now_ns() - began_ns);
	account("code", (double)parts->code_ns);
	account("system calls", (double)parts->system_ns);
	for (uint32_t i = 0; i < parts->waits; i++)
		account(parts->wait[i].name, (double)parts->wait[i].ns);
}

static void drain(uint32_t v)
{
	uint64_t began_ns = actor_now_ns();

	scene.cpus[v].stopped = true;
	actor_parts_clear();
	do {
		scene.kernel.rings[v].run->exit_reason = KVM_EXIT_DIRTY_RING_FULL;
		actor_clock(true);
		if (scene.is_ours)
			bench_check(dl_vcpu_drain(scene.kernel.rings[v].vcpu, 0), "dl_vcpu_drain");
		else
			empty_all_rings();
		actor_clock(false);
	} while (is_full(v));
	note_stall(began_ns);
	scene.cpus[v].next_ns = actor_now_ns() + scene.cpus[v].interval_ns;
	scene.cpus[v].stopped = false;
}

/* The earlier of when the ring would be full at this rate and when the rate changes. */
static uint64_t look_again_ns(uint32_t v)
{
	const struct guest_cpu *cpu = &scene.cpus[v];
	uint64_t room = ENTRIES - RESERVED_ENTRIES - scene.kernel.rings[v].filled;
	uint64_t full_ns = cpu->next_ns + (room - 1) * cpu->interval_ns;

	uint64_t change_ns = cpu->span_ends_ns + SLOW_NS;

	if (change_ns < cpu->next_ns)
		change_ns = cpu->next_ns;
	return full_ns < change_ns ? full_ns : change_ns;
}

static void vcpu(void *which)
{
	uint32_t v = (uint32_t)(uintptr_t)which;

	while (actor_now_ns() < END_NS) {
		if (is_full(v))
			drain(v);
		else
			actor_sleep_until(look_again_ns(v));
	}
}

static void harvester(void *unused)
{
	(void)unused;
	for (uint64_t next_ns = HARVEST_NS; next_ns < END_NS;) {
		uint64_t began_ns;

		actor_sleep_until(next_ns);
		began_ns = actor_now_ns();
		actor_clock(true);
		if (scene.is_ours)
			kernel_harvest(&scene.kernel);
		else
			empty_all_rings();
		actor_clock(false);
		scene.harvests++;
		scene.harvest_ns += (double)(actor_now_ns() - began_ns);
		if (scene.is_ours)
			(void)kernel_iterate(&scene.kernel);
		next_ns = actor_now_ns() > next_ns + HARVEST_NS ? actor_now_ns()
								: next_ns + HARVEST_NS;
	}
}

static void begin_guest(uint64_t seed)
{
	for (uint32_t v = 0; v < VCPUS; v++) {
		struct guest_cpu *cpu = &scene.cpus[v];

		memset(cpu, 0, sizeof(*cpu));
		cpu->random = (struct random){ seed * VCPUS + v };
		cpu->next_ns = random_below(&cpu->random, FAST_NS);
		cpu->interval_ns = FAST_NS;
		cpu->span_ends_ns = UINT64_MAX / 2;
		if (!scene.in_bursts)
			continue;
		cpu->span_ends_ns = 0;
		begin_span(cpu, !random_below(&cpu->random, 4));
	}
}

static void begin(uint64_t seed)
{
	struct kernel *kernel = &scene.kernel;

	scene.n = 0;
	scene.entries = scene.resets = scene.harvests = 0;
	scene.harvest_ns = 0;
	memset(scene.accounts, 0, sizeof(scene.accounts));
	actors_begin(write_until);
	kernel_open(kernel, VCPUS, ENTRIES, GUEST_PAGES);
	other_ioctl = kernel->os.ioctl;
	kernel->os.ioctl = timed_ioctl;
	kernel->os.signal_mask = timed_signal_mask;
	begin_guest(seed);
}

static void run_to_the_end(void)
{
	actors_run();
	scene.kernel.os.ioctl = other_ioctl;
}

static void simulate(bool ours, uint64_t seed)
{
	scene.is_ours = ours;
	begin(seed);
	reference_open(&scene.reference, &scene.kernel);
	for (uintptr_t v = 0; v < VCPUS; v++)
		actors_spawn(vcpu, (void *)v);
	actors_spawn(harvester, NULL);
	run_to_the_end();
	reference_close(&scene.reference);
	kernel_close(&scene.kernel);
}

static void harvest_once(void *cursor)
{
	actor_clock(true);
	bench_check(dl_harvest(cursor, 0, NULL), "dl_harvest");
	actor_clock(false);
	if ((double)actor_now_ns() > scene.harvest_ns)
		scene.harvest_ns = (double)actor_now_ns();
}

/*
 * Harvests 64 rings, three quarters full, until the last thread ends. The guest is stopped. Each
 * thread has a cursor of its own; only the first cursor covers the memory.
 */
static double harvest_by(unsigned int threads, uint64_t seed)
{
	struct dl_cursor *others[MOST_HARVESTERS];
	struct random random = { seed };

	begin(seed);
	for (uint32_t v = 0; v < VCPUS; v++) {
		scene.cpus[v].stopped = true;
		for (uint32_t i = 0; i < ENTRIES / 4 * 3; i++) {
			uint64_t page = random_below(&random, GUEST_PAGES);

			kernel_fill(&scene.kernel, v, &page, 1);
		}
	}
	actors_spawn(harvest_once, scene.kernel.cursor);
	for (unsigned int i = 1; i < threads; i++) {
		others[i] = kernel_add_cursor(&scene.kernel, DL_CURSOR_WANTED);
		actors_spawn(harvest_once, others[i]);
	}
	run_to_the_end();
	for (unsigned int i = 1; i < threads; i++)
		dl_cursor_free(others[i]);
	if (kernel_reset(&scene.kernel) || scene.kernel.rings[0].filled)
		bench_die("the rings are not empty", 0);
	kernel_close(&scene.kernel);
	return scene.harvest_ns;
}

static void harvest_figure(unsigned int threads)
{
	double measured[BENCH_MOST_RUNS], other[BENCH_MOST_RUNS];
	char name[80];
	const struct bench_pair pair = {
		.name = name,
		.against = "by one thread",
		.unit = "harvest",
		.units = 1,
	};

	snprintf(name, sizeof(name), "harvest: 64 full rings by %u threads", threads);
	if (!bench_wants(name))
		return;
	for (size_t i = 0; i < bench_runs(); i++) {
		measured[i] = harvest_by(threads, i + 1);
		other[i] = harvest_by(1, i + 1);
	}
	bench_note(&pair, measured, other, bench_runs());
}

static double part(double share)
{
	if (!scene.n)
		bench_die("no ring was ever full", 0);
	return scene.stalls_ns[(size_t)(share * (double)(scene.n - 1))];
}

static void explain(const char *who)
{
	fprintf(stderr, "  %-8s %5zu stalls, us: median %.0f, p90 %.0f, p99 %.0f, most %.0f; mean",
		who, scene.n, part(.5) / 1e3, part(.9) / 1e3, part(.99) / 1e3, part(1) / 1e3);
	for (const struct account *a = scene.accounts; a->name; a++)
		fprintf(stderr, "%s %s %.1f", a == scene.accounts ? "" : ",", a->name,
			a->ns / (double)scene.n / 1e3);
	fprintf(stderr, "\n           %.1f M entries, %llu resets, %llu harvests of %.0f us\n",
		(double)scene.entries / 1e6, (unsigned long long)scene.resets,
		(unsigned long long)scene.harvests,
		scene.harvest_ns / (double)scene.harvests / 1e3);
}

static void figure(const char *load, bool in_bursts)
{
	double median[BENCH_MOST_RUNS], p99[BENCH_MOST_RUNS], median_other[BENCH_MOST_RUNS],
		p99_other[BENCH_MOST_RUNS];
	uint64_t stalls = 0, resets = 0, harvests = 0;
	char name[80];
	struct bench_pair pair = {
		.name = name,
		.against = "one global lock, every ring emptied",
		.unit = "stall",
		.units = 1,
		.bar = 0.1,
		.is_floor = true,
	};

	snprintf(name, sizeof(name), "stall: 64 vCPUs, %s", load);
	if (!bench_wants(name))
		return;
	scene.in_bursts = in_bursts;
	for (size_t i = 0; i < bench_runs(); i++) {
		simulate(true, i + 1);
		(void)bench_median(scene.stalls_ns, scene.n); /* for its sorting */
		median[i] = part(.5);
		p99[i] = part(.99);
		stalls += scene.n;
		resets += scene.resets;
		harvests += scene.harvests;
		if (!i)
			explain("library");
		simulate(false, i + 1);
		(void)bench_median(scene.stalls_ns, scene.n);
		median_other[i] = part(.5);
		p99_other[i] = part(.99);
		if (!i)
			explain("global");
	}
	snprintf(name, sizeof(name), "stall: 64 vCPUs, %s, median", load);
	bench_note(&pair, median, median_other, bench_runs());
	snprintf(name, sizeof(name), "stall: 64 vCPUs, %s, p99", load);
	bench_note(&pair, p99, p99_other, bench_runs());
	bench_say("%llu full exits and %llu harvests shared %llu resets",
		  (unsigned long long)stalls, (unsigned long long)harvests,
		  (unsigned long long)resets);
}

int main(int argc, char **argv)
{
	bench_begin(argc, argv, "bench-stall");
	figure("bursts", true);
	figure("steady", false);
	harvest_figure(2);
	harvest_figure(4);
	return bench_end();
}
