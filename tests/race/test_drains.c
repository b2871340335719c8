/* SPDX-License-Identifier: MIT */
/*
 * Drains and harvests of several threads at once. Each vCPU writes pages of a slot of its own, each
 * page once a round, and its thread drains when the ring is full and harvests now and then; others
 * harvest all the time. A harvest may leave a ring to whoever is at it, or pass over it as quiet, but
 * when it returns, all that had been written before it began is pending: whose pages, nobody else
 * knows better than the thread that wrote them. A round ends with a pass that must find every page.
 *
 * Inside a round the threads have nothing in common but the library and the model kernel.
 */
#include "cmocka_all.h"
#include "guest.h"
#include "log.h"
#include "random.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum { VCPUS = 4, HARVESTERS = 2, PAGES = 1000, RING_ENTRIES = 256 };

static unsigned int rounds = 10;

/* How seldom, on average, a vCPU's thread harvests, and drains; how often the others harvest, a round. */
static unsigned int writes_a_harvest, writes_a_drain, harvests_a_round;
/* Overflows are made good for by pages that nobody wrote. */
static bool overflows;
static struct guest guest;

static struct vcpu {
	pthread_t thread;
	unsigned int number;
	struct dli_page_set *set;
	struct random random;
	uint64_t value; /* of the last store */
	unsigned long harvests;
} vcpus[VCPUS];

static struct {
	pthread_t thread;
	unsigned long harvests;
} harvesters[HARVESTERS];

/* Of a round, so that no thread is through before the others begin. Relaxed: no order among them. */
static atomic_uint vcpus_at_work;
static atomic_ulong writes, harvests;

static unsigned long get(const atomic_ulong *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static void count(atomic_ulong *counter)
{
	atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static bool is_over(void)
{
	return !atomic_load_explicit(&vcpus_at_work, memory_order_relaxed);
}

/* What there should be of them by now. */
static unsigned long harvests_due(void)
{
	return get(&writes) * harvests_a_round / (VCPUS * PAGES);
}

static void die(const char *what, unsigned long is, unsigned long should)
{
	print_error("%s: %lu, not %lu\n", what, is, should);
	abort();
}

static void harvest(void)
{
	int r = dl_harvest(guest.log, 0, NULL);

	if (r)
		die("dl_harvest", (unsigned long)-r, 0);
}

/* Nothing but this vCPU's writes makes pages of its slot pending, and nobody takes them now. */
static void harvest_and_look(struct vcpu *vcpu, unsigned long written)
{
	unsigned long pending;

	harvest();
	vcpu->harvests++;
	pending = dli_page_set_pending_pages(vcpu->set);
	if (pending < written || (pending > written && !overflows))
		die("pending after a harvest", pending, written);
}

static void drain(const struct vcpu *vcpu)
{
	int r = dl_vcpu_drain(guest.vcpus[vcpu->number].handle);

	if (r)
		die("dl_vcpu_drain", (unsigned long)-r, 0);
}

static void write_page(struct vcpu *vcpu, uint64_t page)
{
	int fd = guest.vcpus[vcpu->number].fd;
	uint64_t gpa = (vcpu->number * PAGES + page) * guest.page_bytes, value = ++vcpu->value;

	for (int exits = 0; exits < GUEST_MAX_EXITS; exits++) {
		int r = model_vcpu_write(guest.model, fd, 0, gpa, &value, sizeof(value));

		if (!r)
			return;
		if (r != KVM_EXIT_DIRTY_RING_FULL)
			die("a guest's store", (unsigned long)r, 0);
		drain(vcpu);
	}
	die("exits of a vCPU that does not get into the guest", GUEST_MAX_EXITS, 1);
}

static void *run_vcpu(void *opaque)
{
	struct vcpu *vcpu = opaque;
	/* Coprime with PAGES: in another order each round, and seldom neighbours. */
	unsigned long step = 7 + 10 * random_below(&vcpu->random, 90);

	for (unsigned long i = 0; i < PAGES; i++) {
		write_page(vcpu, i * step % PAGES);
		count(&writes);
		if (!random_below(&vcpu->random, writes_a_drain))
			drain(vcpu);
		while (get(&harvests) < harvests_due())
			sched_yield();
		if (!random_below(&vcpu->random, writes_a_harvest))
			harvest_and_look(vcpu, i + 1);
	}
	harvest_and_look(vcpu, PAGES);
	atomic_fetch_sub_explicit(&vcpus_at_work, 1, memory_order_relaxed);
	return NULL;
}

static void *run_harvester(void *of_this_thread)
{
	while (!is_over()) {
		harvest();
		++*(unsigned long *)of_this_thread;
		count(&harvests);
		while (!is_over() && get(&harvests) > harvests_due())
			sched_yield();
	}
	return NULL;
}

static void run_round(void)
{
	static uint64_t pages[VCPUS * PAGES];

	atomic_store(&vcpus_at_work, VCPUS);
	atomic_store(&writes, 0);
	atomic_store(&harvests, 0);
	for (int i = 0; i < VCPUS; i++)
		assert_int_equal(pthread_create(&vcpus[i].thread, NULL, run_vcpu, &vcpus[i]), 0);
	for (int i = 0; i < HARVESTERS; i++)
		assert_int_equal(pthread_create(&harvesters[i].thread, NULL, run_harvester,
						&harvesters[i].harvests),
				 0);
	for (int i = 0; i < VCPUS; i++)
		pthread_join(vcpus[i].thread, NULL);
	for (int i = 0; i < HARVESTERS; i++)
		pthread_join(harvesters[i].thread, NULL);
	assert_int_equal(guest_drain(&guest, pages, VCPUS * PAGES), VCPUS * PAGES);
}

static void open_guest(const struct guest_config *config)
{
	guest_open(&guest, config);
	memset(vcpus, 0, sizeof(vcpus));
	memset(harvesters, 0, sizeof(harvesters));
	for (unsigned int i = 0; i < VCPUS; i++) {
		struct vcpu *vcpu = &vcpus[i];

		guest_add_slot(&guest, i, i * PAGES, PAGES);
		guest_vcpu(&guest, true);
		vcpu->number = i;
		vcpu->random.state = 7919 * (i + 1);
		vcpu->set = dli_slot_find(dli_slots_table(&guest.log->slots), i)->set;
	}
	assert_int_equal(dl_log_start(guest.log, DL_START_CLEAN), 0);
}

/* A reset that several drains share is asked for by each. */
static void tell(void)
{
	unsigned long full_exits = 0, asked = 0, own = 0, others = 0;

	for (int i = 0; i < VCPUS; i++) {
		struct dl_stats stats = { .size = sizeof(stats) };

		assert_int_equal(dl_vcpu_stats(guest.vcpus[i].handle, &stats), 0);
		asked += stats.resets;
		full_exits += stats.full_exits;
		own += vcpus[i].harvests;
	}
	for (int i = 0; i < HARVESTERS; i++)
		others += harvesters[i].harvests;
	print_message(
		"%lu harvests of vCPUs' threads, %lu of others; %lu full exits; %lu resets, %lu "
		"asked for by drains; %lu overflows\n",
		own, others, full_exits, (unsigned long)guest_stats(&guest).resets, asked,
		(unsigned long)guest_stats(&guest).overflows);
	assert_true(asked && others);
}

static void run(const struct model_options *model)
{
	open_guest(&(struct guest_config){
		.model = *model,
		.options = { .mode = DL_MODE_RING, .ring_entries = RING_ENTRIES } });
	for (unsigned int i = 0; i < rounds; i++)
		run_round();
	tell();
	guest_close(&guest);
}

static void harvests_all_the_time(void **state)
{
	writes_a_harvest = 100;
	writes_a_drain = 25;
	harvests_a_round = 200;
	overflows = false;
	run(&(struct model_options){ .has = MODEL_HAS_RING_ACQ_REL,
				     .ring_first_index = 0xffffff00 });
}

static void harvests_beside_full_rings(void **state)
{
	writes_a_harvest = 500;
	writes_a_drain = 1000;
	harvests_a_round = 10;
	overflows = false;
	run(&(struct model_options){ .has = MODEL_HAS_RING_ACQ_REL });
}

/* A harvest may owe a repair for them, but then it makes it, whoever found out. */
static void harvests_beside_rings_that_overflow(void **state)
{
	writes_a_harvest = 500;
	writes_a_drain = 1000;
	harvests_a_round = 10;
	overflows = true;
	run(&(struct model_options){ .has = MODEL_HAS_RING_ACQ_REL,
				     .write_order = MODEL_STORE_THEN_LOG,
				     .batch_writes = 512 });
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(harvests_all_the_time),
		cmocka_unit_test(harvests_beside_full_rings),
		cmocka_unit_test(harvests_beside_rings_that_overflow),
	};

	if (argc > 1 && !strcmp(argv[1], "--long"))
		rounds = 600;
	return RUN_TESTS("races: drains and harvests", tests);
}
