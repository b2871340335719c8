/* SPDX-License-Identifier: MIT */
#include "rig.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { RIGS = 4 };
static struct rig *rigs[RIGS];

void rig_skip(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	printf("skip: ");
	vprintf(format, args);
	printf("\n");
	va_end(args);
	skip();
	abort();
}

/* cmocka reports a skip in a setup function as a failure, so the setup runs inside the test. */
static void run_guarded(void **state)
{
	const struct CMUnitTest *test = *state;
	int r = machine_available();

	if (r < 0)
		rig_skip("/dev/kvm: %s", strerror(-r));
	machine_watchdog(test->name, MACHINE_WATCHDOG_SECONDS);
	*state = test->initial_state;
	if (test->setup_func)
		assert_int_equal(test->setup_func(state), 0);
	test->test_func(state);
}

int rig_run(const char *name, const struct CMUnitTest *tests, size_t count)
{
	struct CMUnitTest *wrapped = calloc(count, sizeof(*wrapped));
	int failures;

	if (!wrapped)
		return 1;
	setvbuf(stdout, NULL, _IOLBF, 0);
	cmocka_set_test_filter(getenv("KVM_TESTS"));
	for (size_t i = 0; i < count; i++) {
		wrapped[i] = (struct CMUnitTest){
			.name = tests[i].name,
			.test_func = run_guarded,
			.teardown_func = tests[i].teardown_func,
			.initial_state = (void *)(uintptr_t)&tests[i],
		};
	}
	failures = _cmocka_run_group_tests(name, wrapped, count, NULL, NULL);
	free(wrapped);
	return failures;
}

int rig_teardown(void **state)
{
	(void)state;
	rig_free_all();
	machine_watchdog("nothing", 0);
	return 0;
}

static struct rig *register_rig(void)
{
	for (unsigned int i = 0; i < RIGS; i++) {
		if (rigs[i])
			continue;
		rigs[i] = calloc(1, sizeof(**rigs));
		assert_non_null(rigs[i]);
		rigs[i]->machine.vm_fd = rigs[i]->machine.kvm_fd = -1;
		return rigs[i];
	}
	fail_msg("too many rigs in one test");
	abort();
}

static void free_slots(struct rig *rig)
{
	for (unsigned int i = 0; i < rig->slot_count; i++)
		munmap(rig->slots[i].memory, rig->slots[i].bytes);
	rig->slot_count = 0;
}

void rig_free(struct rig *rig)
{
	if (!rig)
		return;
	for (unsigned int i = 0; i < RIGS; i++) {
		if (rigs[i] == rig)
			rigs[i] = NULL;
	}
	for (unsigned int i = 0; i < RIG_WORKERS; i++)
		worker_end(&rig->workers[i]);
	for (unsigned int i = 0; i < rig->machine.vcpu_count; i++) {
		if (rig->machine.vcpus[i].threaded)
			machine_stop(&rig->machine.vcpus[i]);
	}
	for (unsigned int i = 0; i < rig->vcpu_count; i++)
		dl_vcpu_remove(rig->vcpus[i].log);
	checker_free(&rig->checker);
	dl_log_close(rig->log);
	machine_close(&rig->machine);
	free_slots(rig);
	free(rig);
}

void rig_free_all(void)
{
	for (unsigned int i = 0; i < RIGS; i++)
		rig_free(rigs[i]);
}

/* Some hosts reject small rings, because of their page size or of Intel's PML: ask the kernel. */
static bool kernel_takes_ring(int kvm_fd, uint32_t entries)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
		.args = { entries * sizeof(struct kvm_dirty_gfn) },
	};
	int fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	int r;

	assert_true(fd >= 0);
	r = ioctl(fd, KVM_ENABLE_CAP, &cap);
	if (r < 0) {
		cap.cap = KVM_CAP_DIRTY_LOG_RING;
		r = ioctl(fd, KVM_ENABLE_CAP, &cap);
	}
	close(fd);
	return r == 0;
}

static void skip_if_unsupported(const struct rig *rig, const struct dl_options *options)
{
	char why[200];

	if (dl_probe(rig->machine.kvm_fd, options, NULL, why, sizeof(why)) == -EOPNOTSUPP)
		rig_skip("%s", why);
	if (options->mode == DL_MODE_RING && options->ring_entries &&
	    !kernel_takes_ring(rig->machine.kvm_fd, options->ring_entries))
		rig_skip("this host does not support rings of %u entries", options->ring_entries);
}

static void open_log(struct rig *rig)
{
	const struct rig_config *config = &rig->config;
	struct dl_options options = {
		.size = sizeof(options),
		.mode = config->mode,
		.backup = config->backup,
		.ring_entries = config->ring_entries,
		.os = config->spy ? &config->spy->os : NULL,
	};
	char why[200];
	int r;

	skip_if_unsupported(rig, &options);
	r = dl_log_open(rig->machine.vm_fd, &options, &rig->log, why, sizeof(why));
	if (r)
		fail_msg("dl_log_open: %s: %s", strerror(-r), why);
	rig->log_config.size = sizeof(rig->log_config);
	assert_int_equal(dl_log_config(rig->log, &rig->log_config), 0);
}

struct rig *rig_new(const struct rig_config *config)
{
	static uint64_t turn;
	struct rig *rig = register_rig();

	rig->config = *config;
	assert_int_equal(machine_open(&rig->machine), 0);
	rig->page_bytes = rig->machine.page_bytes;
	if (config->before_open)
		config->before_open(&rig->machine);
	open_log(rig);
	checker_init(&rig->checker, rig->log, rig->page_bytes, NULL);
	rig->checker.batch_runs = CHECKER_MAX_RUNS;
	if (++turn % 2)
		checker_deliver_late(&rig->checker, turn);
	assert_int_equal(machine_load_guest(&rig->machine), 0);
	for (unsigned int i = 0; i < config->vcpus; i++)
		rig_vcpu(rig, true);
	return rig;
}

static void fill(struct rig *rig, struct rig_slot *slot)
{
	for (size_t i = 0; i < slot->bytes; i += rig->page_bytes)
		memset(slot->memory + i, (int)(i / rig->page_bytes + slot->slot) | 1,
		       rig->page_bytes);
}

struct rig_slot *rig_memory(struct rig *rig, uint32_t slot, uint64_t gpa, uint64_t pages)
{
	struct rig_slot *new = &rig->slots[rig->slot_count];

	assert_true(rig->slot_count < RIG_SLOTS);
	*new = (struct rig_slot){ .slot = slot, .gpa = gpa, .bytes = pages * rig->page_bytes };
	new->memory =
		mmap(NULL, new->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(new->memory, MAP_FAILED);
	rig->slot_count++;
	fill(rig, new);
	new->block = checker_add(&rig->checker, new->memory, new->bytes);
	return new;
}

struct dl_slot rig_slot_description(const struct rig_slot *slot, uint32_t flags, uint32_t kvm_flags)
{
	return (struct dl_slot){
		.size = sizeof(struct dl_slot),
		.flags = flags,
		.slot = slot->slot,
		.kvm_flags = kvm_flags,
		.gpa = slot->gpa,
		.bytes = slot->bytes,
		.hva = (uintptr_t)slot->memory,
	};
}

int rig_slot_set(struct rig *rig, const struct rig_slot *slot, uint32_t flags, uint32_t kvm_flags)
{
	const struct dl_slot set = rig_slot_description(slot, flags, kvm_flags);

	return checker_slot_set(&rig->checker, &set);
}

int rig_slot_remove(struct rig *rig, const struct rig_slot *slot)
{
	return checker_slot_drop(&rig->checker, slot->slot, 0);
}

void rig_join(struct rig *rig, uint32_t flags)
{
	assert_int_equal(checker_join(&rig->checker, flags), 0);
}

void rig_leave(struct rig *rig)
{
	checker_leave(&rig->checker);
}

struct rig_slot *rig_slot(struct rig *rig, uint32_t slot, uint64_t gpa, uint64_t pages)
{
	struct rig_slot *new = rig_memory(rig, slot, gpa, pages);

	assert_int_equal(rig_slot_set(rig, new, 0, 0), 0);
	return new;
}

static int drain(void *opaque)
{
	struct rig_vcpu *vcpu = opaque;

	return vcpu->log ? dl_vcpu_drain(vcpu->log, 0) : MACHINE_FULL;
}

void rig_vcpu_add(struct rig *rig, struct rig_vcpu *vcpu)
{
	assert_null(vcpu->log);
	assert_int_equal(dl_vcpu_add(rig->log, vcpu->machine->fd, 0, 0, &vcpu->log), 0);
}

struct rig_vcpu *rig_vcpu(struct rig *rig, bool add)
{
	struct rig_vcpu *vcpu = &rig->vcpus[rig->vcpu_count];

	assert_int_equal(machine_add_vcpu(&rig->machine, &vcpu->machine), 0);
	vcpu->machine->on_full = drain;
	vcpu->machine->opaque = vcpu;
	rig->vcpu_count++;
	if (add)
		rig_vcpu_add(rig, vcpu);
	return vcpu;
}

/* Each vCPU writes a word of its own in every page. */
static uint64_t word_offset(unsigned int vcpu)
{
	return (vcpu + 1) * sizeof(uint64_t) * 8;
}

volatile uint64_t *rig_word(const struct rig *rig, const struct rig_slot *slot, uint64_t page,
			    unsigned int vcpu)
{
	return (volatile uint64_t *)(slot->memory + page * rig->page_bytes + word_offset(vcpu));
}

static void shuffle(uint64_t *table, uint64_t count)
{
	unsigned int seed = 1;

	for (uint64_t i = count - 1; i > 0; i--) {
		uint64_t other = (uint64_t)rand_r(&seed) % (i + 1);
		uint64_t swap = table[i];

		table[i] = table[other];
		table[other] = swap;
	}
}

/* The job for a range; returns the guest physical address of its last word. */
static uint64_t make_job(struct rig *rig, unsigned int vcpu, const struct rig_range *range,
			 bool endless, struct guest_job *job)
{
	uint64_t gpa = range->slot->gpa + range->first_page * rig->page_bytes + word_offset(vcpu);
	uint64_t *table = machine_table(rig->vcpus[vcpu].machine);

	assert_in_range(range->pages, 1, range->slot->bytes / rig->page_bytes);
	job->count = range->pages;
	if (!range->shuffled) {
		job->program = endless ? GUEST_COUNT : GUEST_WRITE;
		job->gpa = gpa;
		job->stride_bytes = rig->page_bytes;
		return gpa + (range->pages - 1) * rig->page_bytes;
	}
	assert_in_range(range->pages, 1, GUEST_TABLE_ENTRIES);
	for (uint64_t i = 0; i < range->pages; i++)
		table[i] = gpa + i * rig->page_bytes;
	shuffle(table, range->pages);
	job->program = endless ? GUEST_COUNT_TABLE : GUEST_WRITE_TABLE;
	job->gpa = guest_table_gpa(vcpu);
	return table[range->pages - 1];
}

void rig_count(struct rig *rig, unsigned int vcpu, const struct rig_range *range)
{
	struct guest_job job = { .mode = rig->config.guest };
	uint64_t last = make_job(rig, vcpu, range, true, &job);

	rig->vcpus[vcpu].rounds =
		(volatile uint64_t *)(range->slot->memory + (last - range->slot->gpa));
	assert_int_equal(machine_go(rig->vcpus[vcpu].machine, &job), 0);
}

void rig_count_all(struct rig *rig, const struct rig_slot *slot)
{
	struct rig_range range = { .slot = slot, .pages = slot->bytes / rig->page_bytes };

	for (unsigned int i = 0; i < rig->vcpu_count; i++) {
		range.shuffled = i % 2;
		rig_count(rig, i, &range);
	}
}

static void check_alive(const struct rig_vcpu *vcpu)
{
	int end = atomic_load(&vcpu->machine->end);

	if (end != MACHINE_RUNNING)
		fail_msg("vCPU %u ended with %d, exit reason %u", vcpu->machine->index, end,
			 vcpu->machine->exit_reason);
}

void rig_wait_rounds(struct rig *rig, unsigned int vcpu, uint64_t rounds)
{
	uint64_t begin = *rig->vcpus[vcpu].rounds;

	while (*rig->vcpus[vcpu].rounds - begin < rounds) {
		check_alive(&rig->vcpus[vcpu]);
		sched_yield();
	}
}

void rig_write_mode(struct rig *rig, unsigned int vcpu, const struct rig_range *range,
		    uint64_t value, enum guest_mode mode)
{
	struct guest_job job = { .mode = mode, .value = value };
	int r;

	make_job(rig, vcpu, range, false, &job);
	r = machine_run(rig->vcpus[vcpu].machine, &job);
	if (r != MACHINE_DONE)
		fail_msg("vCPU %u ended with %d, exit reason %u", vcpu, r,
			 rig->vcpus[vcpu].machine->exit_reason);
}

void rig_write(struct rig *rig, unsigned int vcpu, const struct rig_range *range, uint64_t value)
{
	rig_write_mode(rig, vcpu, range, value, rig->config.guest);
}

void rig_stop(struct rig *rig)
{
	for (unsigned int i = 0; i < rig->vcpu_count; i++) {
		struct machine_vcpu *vcpu = rig->vcpus[i].machine;
		int end;

		if (!vcpu->threaded)
			continue;
		end = machine_stop(vcpu);
		if (end != MACHINE_STOPPED)
			fail_msg("vCPU %u ended with %d, exit reason %u", i, end,
				 vcpu->exit_reason);
	}
}

void rig_resume(struct rig *rig)
{
	for (unsigned int i = 0; i < rig->vcpu_count; i++)
		assert_int_equal(machine_go(rig->vcpus[i].machine, NULL), 0);
}

uint64_t rig_pass(struct rig *rig, uint32_t flags)
{
	uint64_t pending_bytes = UINT64_MAX;
	int r = dl_harvest(rig->checker.cursor, flags, &pending_bytes);

	rig->passes++;
	if (!r)
		r = checker_finish_pass(&rig->checker, 1);
	if (r)
		fail_msg("pass %u failed: %s", rig->passes, strerror(-r));
	return pending_bytes;
}

void rig_passes(struct rig *rig, unsigned int passes)
{
	for (unsigned int pass = 0; pass < passes; pass++) {
		for (unsigned int i = 0; i < rig->vcpu_count; i++) {
			if (rig->vcpus[i].machine->threaded)
				rig_wait_rounds(rig, i, 1);
		}
		rig_pass(rig, 0);
	}
}

uint64_t rig_harvest(struct rig *rig, uint32_t flags)
{
	uint64_t pending_bytes = UINT64_MAX;

	assert_int_equal(checker_harvest(&rig->checker, flags, &pending_bytes), 0);
	return pending_bytes;
}

void rig_finish(struct rig *rig)
{
	rig_stop(rig);
	assert_int_equal(checker_last_pass(&rig->checker, 1), 0);
	checker_expect_equal(&rig->checker);
}

struct dl_stats rig_stats(const struct rig *rig)
{
	struct dl_stats stats = { .size = sizeof(stats) };

	assert_int_equal(dl_log_stats(rig->log, &stats), 0);
	return stats;
}

void rig_start_worker(struct rig *rig, unsigned int index, int (*step)(struct worker *worker))
{
	struct worker *worker = &rig->workers[index];

	worker->step = step;
	worker->opaque = rig;
	worker->index = index;
	assert_int_equal(worker_start(worker), 0);
}

int rig_harvest_step(struct worker *worker)
{
	const struct dl_cursor_options clean = { .size = sizeof(clean), .flags = DL_CURSOR_CLEAN };
	const struct rig *rig = worker->opaque;
	struct dl_cursor *cursor;
	int r = dl_cursor_new(rig->log, &clean, &cursor);

	for (int i = 0; i < 5 && !r; i++) {
		r = dl_log_reap(rig->log, DL_REAP_NOW, NULL);
		if (!r)
			r = dl_harvest(cursor, 0, NULL);
		if (!r)
			r = dl_cursor_end(cursor, DL_END_COMMIT);
	}
	dl_cursor_free(cursor);
	return r;
}

void rig_end_workers(struct rig *rig)
{
	for (unsigned int i = 0; i < RIG_WORKERS; i++) {
		struct worker *worker = &rig->workers[i];

		if (!worker->running)
			continue;
		worker_wait(worker, 1);
		assert_int_equal(worker_end(worker), 0);
	}
}
