/* SPDX-License-Identifier: MIT */
/* On the real /dev/kvm: the system calls by class, a failure of each, and inherited descriptors. */
#include "recorder.h"
#include "rig.h"
#include "sanitized.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGES = 200 };

static int recording;

/* The arguments of the calls. */
struct subject {
	struct rig *rig;
	struct rig_slot *slot;
	struct rig_slot *other; /* to be set and removed */
	struct dl_cursor *cursor;
};

static void subject_open(struct subject *subject, uint32_t mode)
{
	const struct rig_config config = { .mode = mode, .vcpus = 1 };

	*subject = (struct subject){ .rig = rig_new(&config) };
	subject->slot = rig_slot(subject->rig, 0, GUEST_DATA_GPA, PAGES);
	subject->other = rig_memory(subject->rig, 1, 4ull * GUEST_DATA_GPA, PAGES);
	assert_int_equal(dl_cursor_new(subject->rig->log, NULL, &subject->cursor), 0);
	assert_int_equal(dl_harvest(subject->cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_end(subject->cursor, 0), 0);
}

static void write_some(struct subject *subject, uint64_t value)
{
	const struct rig_range range = { .slot = subject->slot, .pages = PAGES };

	rig_write(subject->rig, 0, &range, value);
}

/* These functions return errors and do not assert, because they also run under a seccomp filter. */
static int slots(struct subject *subject)
{
	int r = rig_slot_set(subject->rig, subject->other, 0, 0);

	return r ? r : rig_slot_remove(subject->rig, subject->other);
}

static int vcpus(struct subject *subject)
{
	struct rig_vcpu *vcpu = &subject->rig->vcpus[0];

	dl_vcpu_remove(vcpu->log);
	return dl_vcpu_add(subject->rig->log, vcpu->machine->fd, 0, 0, &vcpu->log);
}

static int cursors(struct subject *subject)
{
	dl_cursor_free(subject->cursor);
	return dl_cursor_new(subject->rig->log, NULL, &subject->cursor);
}

static int harvest(struct subject *subject)
{
	uint64_t words[PAGES / 64 + 1] = { 0 }, pending_bytes;
	int r = dl_cursor_take(subject->cursor, 0, DL_TAKE_HARVEST, words, PAGES / 64 + 1, NULL);

	return r ? r : dl_harvest(subject->cursor, DL_HARVEST_PAUSED, &pending_bytes);
}

static int drain(struct subject *subject)
{
	return dl_vcpu_drain(subject->rig->vcpus[0].log, 0);
}

/* Three times, as the interval of a guest that rests may double. */
static int reap(struct subject *subject)
{
	struct dl_log *log = subject->rig->log;
	int r = dl_log_reap(log, DL_REAP_NOW, NULL);

	for (int i = 0; i < 3 && !r; i++)
		r = dl_log_reap(log, 0, NULL);
	return r;
}

static int descriptor(struct subject *subject)
{
	int r = dl_log_fd(subject->rig->log);

	return r < 0 ? r : 0;
}

static int mark(struct subject *subject)
{
	int r = dl_mark_gpa(subject->rig->log, 0, GUEST_DATA_GPA, 1);

	return r ? r : dl_mark_slot(subject->rig->log, 0, 5000, 5000);
}

static int end_pass(struct subject *subject)
{
	return dl_cursor_end(subject->cursor, 0);
}

static int read_extents(struct subject *subject)
{
	struct dl_extent extent;
	int n = dl_cursor_read(subject->cursor, &extent, 1);
	int r = dl_slot_clear(subject->rig->log, 0, 0, PAGES * subject->rig->page_bytes);

	if (n <= 0 || r)
		return n < 0 ? n : r;
	return dl_cursor_ack(subject->cursor, &extent, 1);
}

static int ask(struct subject *subject)
{
	struct dl_config config = { .size = sizeof(config) };
	struct dl_stats stats = { .size = sizeof(stats) };
	struct dl_cursor_stats cursor_stats = { .size = sizeof(cursor_stats) };
	char text[400];
	int r = dl_log_config(subject->rig->log, &config);

	r = r ? r : dl_log_stats(subject->rig->log, &stats);
	r = r ? r : dl_vcpu_stats(subject->rig->vcpus[0].log, &stats);
	r = r ? r : dl_cursor_stats(subject->cursor, &cursor_stats);
	r = r ? r : dl_log_last_error(subject->rig->log, text, sizeof(text)) < 0;
	return r ? r : dl_log_describe(subject->rig->log, text, sizeof(text)) < 0;
}

static int probe(struct subject *subject)
{
	return dl_probe(subject->rig->machine.vm_fd, NULL, NULL, NULL, 0);
}

static int close_log(struct subject *subject)
{
	dl_log_close(subject->rig->log);
	subject->rig->log = NULL;
	return 0;
}

static const struct {
	enum call_class class;
	int (*make)(struct subject *subject);
} acts[] = {
	{ CLASS_OPEN, probe },
	{ CLASS_SLOTS, slots },
	{ CLASS_VCPUS, vcpus },
	{ CLASS_CURSORS, cursors },
	{ CLASS_DRAIN, drain },
	{ CLASS_HARVEST, harvest },
	{ CLASS_DESCRIPTOR, descriptor },
	{ CLASS_REAP, reap },
	{ CLASS_MARK, mark },
	{ CLASS_READ, read_extents },
	{ CLASS_END, end_pass },
	{ CLASS_QUERY, ask },
	{ CLASS_CLOSE, close_log },
};

enum { ACTS = sizeof(acts) / sizeof(acts[0]) };

/* Gives the next act some work. */
static void prepare(struct subject *subject, unsigned int act)
{
	write_some(subject, act);
}

static void system_calls_are_listed(uint32_t mode)
{
	struct subject subject;

	if (recording)
		rig_skip("this kernel or sandbox does not support seccomp listeners: %s",
			 strerror(-recording));
	subject_open(&subject, mode);
	for (unsigned int i = 0; i < ACTS; i++) {
		int r;

		prepare(&subject, i);
		recorder_enter(acts[i].class);
		r = acts[i].make(&subject);
		recorder_enter(CLASS_OUTSIDE);
		assert_int_equal(r, 0);
	}
	assert_int_equal(recorder_unlisted(), 0);
}

static void ring_system_calls_are_listed(void **state)
{
	(void)state;
	system_calls_are_listed(DL_MODE_RING);
	assert_true(recorder_count(CLASS_HARVEST, SYS_ioctl, KVM_RESET_DIRTY_RINGS) > 0);
}

static void bitmap_system_calls_are_listed(void **state)
{
	(void)state;
	system_calls_are_listed(DL_MODE_BITMAP);
	assert_true(recorder_count(CLASS_HARVEST, SYS_ioctl, KVM_GET_DIRTY_LOG) > 0);
}

struct filtered_act {
	struct subject *subject;
	unsigned int act;
	const struct call_row *without;
	int result;
};

/* The thread registers with liburcu and malloc before it installs its filter. */
static void *act_under_filter(void *opaque)
{
	struct filtered_act *filtered = opaque;
	struct subject *subject = filtered->subject;

	(void)!dl_mark_gpa(subject->rig->log, 0, 0, 0);
	free(malloc(1));
	filtered->result = calls_enforce(acts[filtered->act].class, filtered->without);
	if (!filtered->result)
		filtered->result = acts[filtered->act].make(subject);
	syscall(SYS_exit, 0);
	return NULL;
}

/* Runs in a child, which the filter may kill. Exits with 0, or 1 + the number of the failed act. */
static void run_filtered(uint32_t mode, enum call_class only, const struct call_row *without)
{
	struct subject subject;

	/* With more arenas, malloc would ask for the number of CPUs after the eighth. */
	mallopt(M_ARENA_MAX, 2);
	subject_open(&subject, mode);
	for (unsigned int i = 0; i < ACTS; i++) {
		struct filtered_act filtered = { .subject = &subject, .act = i };
		pthread_t thread;

		prepare(&subject, i);
		if (acts[i].class == only)
			filtered.without = without;
		if (pthread_create(&thread, NULL, act_under_filter, &filtered) ||
		    pthread_join(thread, NULL) || filtered.result)
			_exit((int)i + 1);
	}
	_exit(0);
}

static int run_filtered_child(uint32_t mode, enum call_class only, const struct call_row *without)
{
	pid_t child;
	int status;

	fflush(NULL);
	child = fork();
	assert_true(child >= 0);
	if (!child)
		run_filtered(mode, only, without);
	assert_int_equal(waitpid(child, &status, 0), child);
	return status;
}

static bool killed_by_filter(int status)
{
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS;
}

/* The listed calls are enough under a seccomp filter, and a filter without one of them kills. */
static void filter_allows_the_listed_calls(uint32_t mode, unsigned long request)
{
	const struct rig_config config = { .mode = mode, .vcpus = 1 };
	const struct call_row *needed[] = {
		calls_find(CLASS_HARVEST, SYS_ioctl, request),
		calls_find(CLASS_SLOTS, SYS_membarrier, 0),
		calls_find(CLASS_CURSORS, SYS_rt_sigprocmask, 0),
	};

	/* Skips the test if the mode is not supported, before there is a child to confuse. */
	rig_free(rig_new(&config));
	assert_int_equal(run_filtered_child(mode, CLASS_OUTSIDE, NULL), 0);
	for (unsigned int i = 0; i < 3; i++) {
		assert_non_null(needed[i]);
		assert_true(
			killed_by_filter(run_filtered_child(mode, needed[i]->class, needed[i])));
	}
}

static void ring_filter_allows_the_listed_calls(void **state)
{
	(void)state;
	filter_allows_the_listed_calls(DL_MODE_RING, KVM_RESET_DIRTY_RINGS);
}

static void bitmap_filter_allows_the_listed_calls(void **state)
{
	(void)state;
	filter_allows_the_listed_calls(DL_MODE_BITMAP, KVM_GET_DIRTY_LOG);
}

static struct spy spy; /* outlives a test that fails, as the rig does */
static unsigned int calls_before_fault, faults;
static struct dl_os below;

static bool fails_now(void)
{
	if (calls_before_fault && !--calls_before_fault) {
		faults++;
		return true;
	}
	return false;
}

static bool fail_one(struct spy *s, int fd, unsigned long request, void *arg, int *result)
{
	(void)s;
	(void)fd;
	(void)request;
	(void)arg;
	*result = -EIO;
	return fails_now();
}

static int map_or_fail(void *opaque, int fd, uint64_t offset_bytes, size_t bytes, int prot,
		       int flags, void **addr)
{
	if (fails_now())
		return -EIO;
	return below.mmap(opaque, fd, offset_bytes, bytes, prot, flags, addr);
}

/* Checks a call that may fail once. EBADF: the error made a descriptor look like another type. */
static void check_retry(int first, int second)
{
	if (first)
		assert_true(faults == 1 && (first == -EIO || first == -EBADF));
	assert_int_equal(first ? second : first, 0);
}

#define RETRY(expression)                                       \
	do {                                                    \
		int first_ = (expression);                      \
                                                                \
		check_retry(first_, first_ ? (expression) : 0); \
	} while (0)

/* Reads, copies and acknowledges the rest of the open pass. */
static int read_all(struct rig *rig, struct dl_cursor *cursor)
{
	struct dl_extent extents[16];
	int r = 0, n;

	while ((n = dl_cursor_read(cursor, extents, 16)) > 0 && !r) {
		for (int i = 0; i < n; i++)
			checker_copy_run(&rig->checker, &extents[i]);
		r = dl_cursor_ack(cursor, extents, (uint32_t)n);
	}
	return n < 0 ? n : r;
}

static void pass_with_a_fault(struct rig *rig, struct dl_cursor *cursor, uint32_t flags)
{
	RETRY(dl_harvest(cursor, flags, NULL));
	RETRY(read_all(rig, cursor));
	RETRY(dl_cursor_end(cursor, 0));
	checker_flush(&rig->checker);
	checker_expect_equal(&rig->checker);
}

/* The short life of a log whose n-th call fails. Returns false if it makes fewer calls. */
static bool run_with_a_fault(uint32_t mode, unsigned int n)
{
	const struct rig_config config = { .mode = mode, .spy = &spy };
	struct rig_range range = { .pages = PAGES };
	uint64_t words[PAGES / 64 + 1] = { 0 };
	struct rig_slot *slot, *other;
	struct dl_cursor *cursor;
	struct rig_vcpu *vcpu;
	struct rig *rig;

	spy_init(&spy);
	spy.intercept = fail_one;
	below = spy.os;
	spy.os.mmap = map_or_fail;
	calls_before_fault = faults = 0;
	rig = rig_new(&config);
	slot = rig_memory(rig, 0, GUEST_DATA_GPA, PAGES);
	other = rig_memory(rig, 1, 4ull * GUEST_DATA_GPA, PAGES);
	vcpu = rig_vcpu(rig, false);
	range.slot = slot;
	calls_before_fault = n;
	RETRY(dl_vcpu_add(rig->log, vcpu->machine->fd, 0, 0, &vcpu->log));
	RETRY(rig_slot_set(rig, slot, 0, 0));
	RETRY(rig_slot_set(rig, other, 0, 0));
	RETRY(dl_cursor_new(rig->log, NULL, &cursor));
	pass_with_a_fault(rig, cursor, 0);
	rig_write(rig, 0, &range, n);
	RETRY(dl_vcpu_drain(vcpu->log, 0));
	pass_with_a_fault(rig, cursor, 0);
	RETRY(dl_cursor_take(cursor, 0, DL_TAKE_HARVEST, words, PAGES / 64 + 1, NULL));
	RETRY(rig_slot_remove(rig, other));
	rig_write(rig, 0, &range, 2ull * n);
	rig_stop(rig);
	pass_with_a_fault(rig, cursor, DL_HARVEST_PAUSED);
	dl_cursor_free(cursor);
	calls_before_fault = 0;
	rig_free(rig);
	return faults;
}

static void every_call_can_be_retried(uint32_t mode)
{
	unsigned int n = 1;

	while (run_with_a_fault(mode, n))
		n++;
	assert_true(n > 12);
}

static void ring_every_call_can_be_retried(void **state)
{
	(void)state;
	every_call_can_be_retried(DL_MODE_RING);
}

static void bitmap_every_call_can_be_retried(void **state)
{
	(void)state;
	every_call_can_be_retried(DL_MODE_BITMAP);
}

/* An open that fails before it enables the rings has changed nothing and can be retried. */
static void a_failed_open_can_be_retried(void **state)
{
	(void)state;
	for (unsigned int n = 1;; n++) {
		struct dl_options options = { .size = sizeof(options), .os = &spy.os };
		struct dl_config is = { .size = sizeof(is) }, chosen = is;
		struct machine machine;
		struct dl_log *log;
		int r;

		spy_init(&spy);
		spy.intercept = fail_one;
		faults = 0;
		assert_int_equal(machine_open(&machine), 0);
		assert_int_equal(dl_probe(machine.vm_fd, &options, &is, NULL, 0), 0);
		calls_before_fault = n;
		r = dl_log_open(machine.vm_fd, &options, &log, NULL, 0);
		if (r) {
			assert_true(r == -EIO || r == -EBADF);
			r = dl_log_open(machine.vm_fd, &options, &log, NULL, 0);
		}
		/* The retry fails with EBUSY if the rings are already enabled. */
		assert_true(!r || (r == -EBUSY && is.mode == DL_MODE_RING));
		calls_before_fault = 0;
		if (!r) {
			/* A failed query of a capability did not disable the feature. */
			assert_int_equal(dl_log_config(log, &chosen), 0);
			/* A fault may hide that the kernel has no watches; a watch would say so. */
			chosen.has &= is.has | ~(uint32_t)DL_HAS_WATCH;
			assert_memory_equal(&chosen, &is, sizeof(is));
			dl_log_close(log);
		}
		machine_close(&machine);
		if (!faults)
			break;
		assert_true(n < 50);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(ring_every_call_can_be_retried),
		rig_test(bitmap_every_call_can_be_retried),
		rig_test(a_failed_open_can_be_retried),
	};
	/* The seccomp listener cannot be removed, so these come last. */
	const struct CMUnitTest filtered[] = {
		rig_test(ring_filter_allows_the_listed_calls),
		rig_test(bitmap_filter_allows_the_listed_calls),
		rig_test(ring_system_calls_are_listed),
		rig_test(bitmap_system_calls_are_listed),
	};
	int failures = rig_run_tests("process on /dev/kvm", tests);

	if (SANITIZED)
		return failures;
	failures += rig_run("filtered", filtered, 2);
	recording = recorder_start();
	return failures + rig_run("recorded", filtered + 2, 2);
}
