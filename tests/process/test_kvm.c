/* SPDX-License-Identifier: MIT */
/* On the real /dev/kvm: the system calls of each class, every call that fails once, what a child inherits. */
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

/* What the calls of each class need. */
struct subject {
	struct rig *rig;
	struct rig_slot *slot;
	struct rig_slot *other; /* set and removed */
	struct dl_iter *iter;
};

static void subject_open(struct subject *subject, uint32_t mode)
{
	const struct rig_config config = { .mode = mode, .vcpus = 1 };

	*subject = (struct subject){ .rig = rig_new(&config) };
	subject->slot = rig_slot(subject->rig, 0, GUEST_DATA_GPA, PAGES);
	subject->other = rig_memory(subject->rig, 1, 4ull * GUEST_DATA_GPA, PAGES);
	assert_int_equal(dl_log_start(subject->rig->log, 0), 0);
	rig_pass(subject->rig, 0);
}

static void write_some(struct subject *subject, uint64_t value)
{
	const struct rig_range range = { .slot = subject->slot, .pages = PAGES };

	rig_write(subject->rig, 0, &range, value);
}

/* Not in an assertion's way: these run inside filters too. */
static int slots(struct subject *subject)
{
	int r = rig_slot_set(subject->rig, subject->other, 0, 0);

	return r ? r : rig_slot_remove(subject->rig, subject->other, DL_SLOT_DISCARD);
}

static int vcpus(struct subject *subject)
{
	struct rig_vcpu *vcpu = &subject->rig->vcpus[0];

	dl_vcpu_remove(vcpu->log);
	return dl_vcpu_add(subject->rig->log, vcpu->machine->fd, &vcpu->log);
}

static int restart(struct subject *subject)
{
	int r = dl_log_stop(subject->rig->log);

	return r ? r : dl_log_start(subject->rig->log, 0);
}

static int harvest(struct subject *subject)
{
	uint64_t pending_bytes;
	int r = dl_harvest(subject->rig->log, 0, &pending_bytes);

	return r ? r : dl_harvest(subject->rig->log, DL_HARVEST_FINAL, &pending_bytes);
}

static int drain(struct subject *subject)
{
	return dl_vcpu_drain(subject->rig->vcpus[0].log);
}

static int mark(struct subject *subject)
{
	int r = dl_mark(subject->rig->log, 0, GUEST_DATA_GPA, 1);

	return r ? r : dl_slot_mark(subject->rig->log, 0, 5000, 5000);
}

static int iteration(struct subject *subject)
{
	struct dl_iter *iter;
	int r = dl_iter_new(subject->rig->log, 0, &iter);

	if (!r)
		dl_iter_free(iter);
	return r;
}

static int read_runs(struct subject *subject)
{
	struct dl_run run;
	int n = dl_iter_read(subject->iter, &run, 1);

	return n > 0 ? dl_iter_ack(subject->iter, &run, 1) : n;
}

static int ask(struct subject *subject)
{
	struct dl_config config = { .size = sizeof(config) };
	struct dl_stats stats = { .size = sizeof(stats) };
	uint64_t from_now_ns;
	char text[400];
	int r = dl_log_config(subject->rig->log, &config);

	r = r ? r : dl_log_stats(subject->rig->log, &stats);
	r = r ? r : dl_vcpu_stats(subject->rig->vcpus[0].log, &stats);
	r = r ? r : dl_log_harvest_due(subject->rig->log, &from_now_ns);
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
	{ CLASS_OPEN, probe },	    { CLASS_SLOTS, slots },	{ CLASS_VCPUS, vcpus },
	{ CLASS_SESSION, restart }, { CLASS_DRAIN, drain },	{ CLASS_HARVEST, harvest },
	{ CLASS_MARK, mark },	    { CLASS_READ, read_runs },	{ CLASS_ITERATION, iteration },
	{ CLASS_ASK, ask },	    { CLASS_CLOSE, close_log },
};

enum { ACTS = sizeof(acts) / sizeof(acts[0]) };

/* Something to do for what comes next. */
static void prepare(struct subject *subject, unsigned int act)
{
	write_some(subject, act);
	if (acts[act].class == CLASS_READ)
		assert_int_equal(dl_iter_new(subject->rig->log, 0, &subject->iter), 0);
	if (acts[act].class == CLASS_ITERATION)
		dl_iter_free(subject->iter);
}

static void system_calls_seen(uint32_t mode)
{
	struct subject subject;

	if (recording)
		rig_skip("this kernel or sandbox has no seccomp listeners: %s",
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
	assert_int_equal(recorder_check(), 0);
}

static void ring_system_calls_seen(void **state)
{
	(void)state;
	system_calls_seen(DL_MODE_RING);
	assert_true(recorder_count(CLASS_HARVEST, SYS_ioctl, KVM_RESET_DIRTY_RINGS) > 0);
}

static void bitmap_system_calls_seen(void **state)
{
	(void)state;
	system_calls_seen(DL_MODE_BITMAP);
	assert_true(recorder_count(CLASS_HARVEST, SYS_ioctl, KVM_GET_DIRTY_LOG) > 0);
}

struct policed {
	struct subject *subject;
	unsigned int act;
	const struct call_row *without;
	int result;
};

/* What registers the thread comes before its filter. */
static void *act_under_filter(void *opaque)
{
	struct policed *policed = opaque;
	struct subject *subject = policed->subject;

	(void)!dl_mark(subject->rig->log, 0, 0, 0);
	free(malloc(1));
	policed->result = calls_enforce(acts[policed->act].class, policed->without);
	if (!policed->result)
		policed->result = acts[policed->act].make(subject);
	syscall(SYS_exit, 0);
	return NULL;
}

/* The process of its own that a filter may kill. Ends with 0, or one more than the act that failed. */
static void run_policed(uint32_t mode, enum call_class only, const struct call_row *without)
{
	struct subject subject;

	/* Else malloc asks for the number of CPUs when it has made eight arenas. */
	mallopt(M_ARENA_MAX, 2);
	subject_open(&subject, mode);
	for (unsigned int i = 0; i < ACTS; i++) {
		struct policed policed = { .subject = &subject, .act = i };
		pthread_t thread;

		prepare(&subject, i);
		if (acts[i].class == only)
			policed.without = without;
		if (pthread_create(&thread, NULL, act_under_filter, &policed) ||
		    pthread_join(thread, NULL) || policed.result)
			_exit((int)i + 1);
	}
	_exit(0);
}

static int status_policed(uint32_t mode, enum call_class only, const struct call_row *without)
{
	pid_t child;
	int status;

	fflush(NULL);
	child = fork();
	assert_true(child >= 0);
	if (!child)
		run_policed(mode, only, without);
	assert_int_equal(waitpid(child, &status, 0), child);
	return status;
}

static bool killed_by_filter(int status)
{
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS;
}

/* The kernel itself lets nothing pass but what the table has; and it has nothing to spare. */
static void system_calls_enforced(uint32_t mode, unsigned long request)
{
	const struct rig_config config = { .mode = mode, .vcpus = 1 };
	const struct call_row *needed[] = {
		calls_find(CLASS_HARVEST, SYS_ioctl, request),
		calls_find(CLASS_SLOTS, SYS_membarrier, 0),
		calls_find(CLASS_SESSION, SYS_rt_sigprocmask, 0),
	};

	/* What cannot be had here skips the test before there is a child that would go on with it. */
	rig_free(rig_new(&config));
	assert_int_equal(status_policed(mode, CLASS_OUTSIDE, NULL), 0);
	for (unsigned int i = 0; i < 3; i++) {
		assert_non_null(needed[i]);
		assert_true(killed_by_filter(status_policed(mode, needed[i]->class, needed[i])));
	}
}

static void ring_system_calls_enforced(void **state)
{
	(void)state;
	system_calls_enforced(DL_MODE_RING, KVM_RESET_DIRTY_RINGS);
}

static void bitmap_system_calls_enforced(void **state)
{
	(void)state;
	system_calls_enforced(DL_MODE_BITMAP, KVM_GET_DIRTY_LOG);
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

/* A call that may fail once. What is taken for something else, where nobody can tell, is EBADF. */
static void settle(int first, int second)
{
	if (first)
		assert_true(faults == 1 && (first == -EIO || first == -EBADF));
	assert_int_equal(first ? second : first, 0);
}

#define AGAIN(expression)                                  \
	do {                                               \
		int first_ = (expression);                 \
                                                           \
		settle(first_, first_ ? (expression) : 0); \
	} while (0)

static void pass_with_a_fault(struct rig *rig, uint32_t flags)
{
	AGAIN(dl_harvest(rig->log, flags, NULL));
	if (checker_drain(&rig->checker, 1))
		assert_int_equal(checker_drain(&rig->checker, 1), 0);
	checker_expect_equal(&rig->checker);
}

/* A short life with the n-th call failing. Whether there was one. */
static bool live_with_a_fault(uint32_t mode, unsigned int n)
{
	const struct rig_config config = { .mode = mode, .spy = &spy };
	struct rig_range range = { .pages = PAGES };
	struct rig_slot *slot, *other;
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
	AGAIN(dl_vcpu_add(rig->log, vcpu->machine->fd, &vcpu->log));
	AGAIN(rig_slot_set(rig, slot, 0, 0));
	AGAIN(rig_slot_set(rig, other, 0, 0));
	AGAIN(dl_log_start(rig->log, 0));
	pass_with_a_fault(rig, 0);
	rig_write(rig, 0, &range, n);
	AGAIN(dl_vcpu_drain(vcpu->log));
	pass_with_a_fault(rig, 0);
	AGAIN(rig_slot_remove(rig, other, 0));
	rig_write(rig, 0, &range, 2ull * n);
	rig_stop(rig);
	pass_with_a_fault(rig, DL_HARVEST_FINAL);
	AGAIN(dl_log_stop(rig->log));
	calls_before_fault = 0;
	rig_free(rig);
	return faults;
}

static void every_call_fails_once(uint32_t mode)
{
	unsigned int n = 1;

	while (live_with_a_fault(mode, n))
		n++;
	assert_true(n > 12);
}

static void ring_every_call_fails_once(void **state)
{
	(void)state;
	every_call_fails_once(DL_MODE_RING);
}

static void bitmap_every_call_fails_once(void **state)
{
	(void)state;
	every_call_fails_once(DL_MODE_BITMAP);
}

/* An open that failed before the rings were on has changed nothing, and can be made again. */
static void an_open_fails_once(void **state)
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
		/* But for what comes after the rings, which are on by then. */
		assert_true(!r || (r == -EBUSY && is.mode == DL_MODE_RING));
		calls_before_fault = 0;
		if (!r) {
			/* Nothing that could not be asked was taken for absent. */
			assert_int_equal(dl_log_config(log, &chosen), 0);
			assert_memory_equal(&chosen, &is, sizeof(is));
			dl_log_close(log);
		}
		machine_close(&machine);
		if (!faults)
			break;
		assert_true(n < 50);
	}
}

/* Descriptors of a VM in this process; all are closed in what it executes. */
static unsigned int vm_descriptors(void)
{
	DIR *directory = opendir("/proc/self/fd");
	struct dirent *entry;
	unsigned int count = 0;

	assert_non_null(directory);
	while ((entry = readdir(directory))) {
		char path[64] = "", target[64] = "";

		snprintf(path, sizeof(path), "/proc/self/fd/%.16s", entry->d_name);
		if (readlink(path, target, sizeof(target) - 1) < 0 || !strstr(target, "kvm-vm"))
			continue;
		count++;
		assert_int_equal(fcntl(atoi(entry->d_name), F_GETFD), FD_CLOEXEC);
	}
	closedir(directory);
	return count;
}

static void no_descriptor_outlives_an_exec(void **state)
{
	const struct rig_config config = { .mode = DL_MODE_RING, .vcpus = 1 };
	struct rig *rig = rig_new(&config);

	(void)state;
	rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	assert_int_equal(dl_log_start(rig->log, 0), 0);
	assert_int_equal(vm_descriptors(), 1);
	close(STDIN_FILENO);
	dl_log_close(rig->log);
	rig->log = NULL;
	assert_int_equal(vm_descriptors(), 2);
	assert_int_equal(fcntl(STDIN_FILENO, F_GETFD), -1); /* no standard stream */
	dl_vcpu_remove(rig->vcpus[0].log);
	rig->vcpus[0].log = NULL;
	assert_int_equal(vm_descriptors(), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(ring_every_call_fails_once),
		rig_test(bitmap_every_call_fails_once),
		rig_test(an_open_fails_once),
		rig_test(no_descriptor_outlives_an_exec),
	};
	/* The listener is for ever, so these come last. */
	const struct CMUnitTest filtered[] = {
		rig_test(ring_system_calls_enforced),
		rig_test(bitmap_system_calls_enforced),
		rig_test(ring_system_calls_seen),
		rig_test(bitmap_system_calls_seen),
	};
	int failures = rig_run_tests("process on /dev/kvm", tests);

	if (SANITIZED)
		return failures;
	failures += rig_run("filtered", filtered, 2);
	recording = recorder_start();
	return failures + rig_run("recorded", filtered + 2, 2);
}
