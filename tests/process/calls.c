/* SPDX-License-Identifier: MIT */
#include "calls.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <linux/audit.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>

/* In <linux/fs.h> since Linux 6.7; its argument has twelve 64-bit words. */
#undef PAGEMAP_SCAN
#define PAGEMAP_SCAN _IOWR('f', 16, uint64_t[12])

#define CALL(class, call)                                       \
	{                                                       \
		CLASS_##class, SYS_##call, #call, 0, NULL, true \
	}
#define RARE(class, call)                                        \
	{                                                        \
		CLASS_##class, SYS_##call, #call, 0, NULL, false \
	}
#define IOCTL(class, request)                                              \
	{                                                                  \
		CLASS_##class, SYS_ioctl, "ioctl", request, #request, true \
	}

/* futex if another thread holds the lock; clock_gettime if the vDSO cannot read the clock. */
#define LOCKS(class) RARE(class, futex)
#define CLOCK(class) RARE(class, clock_gettime)

/* System calls that malloc() and free() of the C library may make. */
#define MALLOC(class)                                                                    \
	RARE(class, brk), RARE(class, mmap), RARE(class, munmap), RARE(class, mprotect), \
		RARE(class, madvise)

/* liburcu uses poll(2) while a thread stays in a long read section. */
#ifdef SYS_poll
#define POLL(class) RARE(class, poll)
#else
#define POLL(class) RARE(class, ppoll)
#endif
#define GRACE_PERIOD(class) CALL(class, membarrier), POLL(class)

const struct call_row call_rows[] = {
	CALL(FIRST, rt_sigprocmask),
	RARE(FIRST, mmap),
	RARE(FIRST, mremap),
	LOCKS(FIRST),

	CALL(EXIT, rt_sigprocmask),
	CALL(EXIT, exit),
	LOCKS(EXIT),
	RARE(EXIT, madvise),
	RARE(EXIT, munmap),

	IOCTL(OPEN, KVM_CHECK_EXTENSION),
	IOCTL(OPEN, KVM_GET_API_VERSION),
	IOCTL(OPEN, KVM_ENABLE_CAP),
	IOCTL(OPEN, KVM_RESET_DIRTY_RINGS),
	CALL(OPEN, rt_sigprocmask),
	CALL(OPEN, fcntl),
	CALL(OPEN, mmap),
	CALL(OPEN, madvise),
	/* Probes of the calls that dl_slot_watch() would need. */
	CALL(OPEN, openat),
	IOCTL(OPEN, PAGEMAP_SCAN),
	CALL(OPEN, userfaultfd),
	IOCTL(OPEN, UFFDIO_API),
	CALL(OPEN, close),
	MALLOC(OPEN),

	IOCTL(SLOTS, KVM_SET_USER_MEMORY_REGION),
	IOCTL(SLOTS, KVM_RESET_DIRTY_RINGS),
	IOCTL(SLOTS, KVM_GET_DIRTY_LOG),
	IOCTL(SLOTS, KVM_CLEAR_DIRTY_LOG),
	/* Made when a watched slot is removed. */
	IOCTL(SLOTS, PAGEMAP_SCAN),
	IOCTL(SLOTS, UFFDIO_UNREGISTER),
	CALL(SLOTS, close),
	CALL(SLOTS, rt_sigprocmask),
	CALL(SLOTS, mmap),
	CALL(SLOTS, munmap),
	GRACE_PERIOD(SLOTS),
	MALLOC(SLOTS),
	LOCKS(SLOTS),
	CLOCK(SLOTS),

	IOCTL(WATCH, PAGEMAP_SCAN),
	IOCTL(WATCH, UFFDIO_API),
	IOCTL(WATCH, UFFDIO_REGISTER),
	IOCTL(WATCH, UFFDIO_UNREGISTER),
	CALL(WATCH, rt_sigprocmask),
	CALL(WATCH, openat),
	CALL(WATCH, userfaultfd),
	CALL(WATCH, mmap),
	CALL(WATCH, munmap),
	CALL(WATCH, close),
	RARE(WATCH, fcntl),
	GRACE_PERIOD(WATCH),
	MALLOC(WATCH),
	LOCKS(WATCH),

	/* Not an ioctl of KVM: its error tells the type of the descriptor. */
	{ CLASS_VCPUS, SYS_ioctl, "ioctl", _IO(0xad, 0x7f), "_IO(0xad, 0x7f)", true },
	IOCTL(VCPUS, KVM_RESET_DIRTY_RINGS),
	CALL(VCPUS, mmap),
	CALL(VCPUS, munmap),
	CALL(VCPUS, madvise),
	CALL(VCPUS, rt_sigprocmask),
	RARE(VCPUS, close),
	MALLOC(VCPUS),
	LOCKS(VCPUS),
	CLOCK(VCPUS),

	IOCTL(CURSORS, KVM_SET_USER_MEMORY_REGION),
	IOCTL(CURSORS, KVM_ENABLE_CAP),
	IOCTL(CURSORS, KVM_RESET_DIRTY_RINGS),
	CALL(CURSORS, rt_sigprocmask),
	CALL(CURSORS, mmap),
	CALL(CURSORS, timerfd_settime),
	CALL(CURSORS, munmap),
	RARE(CURSORS, close),
	GRACE_PERIOD(CURSORS),
	MALLOC(CURSORS),
	LOCKS(CURSORS),
	CLOCK(CURSORS),

	IOCTL(HARVEST, KVM_RESET_DIRTY_RINGS),
	IOCTL(HARVEST, KVM_GET_DIRTY_LOG),
	IOCTL(HARVEST, KVM_CLEAR_DIRTY_LOG),
	IOCTL(HARVEST, KVM_SET_USER_MEMORY_REGION),
	IOCTL(HARVEST, PAGEMAP_SCAN),
	CALL(HARVEST, rt_sigprocmask),
	LOCKS(HARVEST),
	CLOCK(HARVEST),

	/* fcntl and close in a process whose standard streams are closed. */
	CALL(DESCRIPTOR, rt_sigprocmask),
	CALL(DESCRIPTOR, timerfd_create),
	CALL(DESCRIPTOR, timerfd_settime),
	RARE(DESCRIPTOR, fcntl),
	RARE(DESCRIPTOR, close),
	LOCKS(DESCRIPTOR),

	IOCTL(REAP, KVM_RESET_DIRTY_RINGS),
	CALL(REAP, rt_sigprocmask),
	CALL(REAP, timerfd_settime),
	LOCKS(REAP),
	CLOCK(REAP),

	IOCTL(DRAIN, KVM_RESET_DIRTY_RINGS),
	CALL(DRAIN, rt_sigprocmask),
	RARE(DRAIN, timerfd_settime),
	LOCKS(DRAIN),
	CLOCK(DRAIN),

	CALL(LIMIT, rt_sigprocmask),
	CALL(LIMIT, timerfd_settime),
	LOCKS(LIMIT),
	CLOCK(LIMIT),

	CLOCK(PAUSE),

	IOCTL(PLAN_NEXT, KVM_RESET_DIRTY_RINGS),
	IOCTL(PLAN_NEXT, KVM_GET_DIRTY_LOG),
	IOCTL(PLAN_NEXT, KVM_CLEAR_DIRTY_LOG),
	IOCTL(PLAN_NEXT, KVM_SET_USER_MEMORY_REGION),
	IOCTL(PLAN_NEXT, PAGEMAP_SCAN),
	CALL(PLAN_NEXT, rt_sigprocmask),
	RARE(PLAN_NEXT, timerfd_settime),
	LOCKS(PLAN_NEXT),
	CLOCK(PLAN_NEXT),

	CALL(PLAN, rt_sigprocmask),
	RARE(PLAN, timerfd_settime),
	MALLOC(PLAN),
	LOCKS(PLAN),
	CLOCK(PLAN),

	IOCTL(READ, KVM_CLEAR_DIRTY_LOG),
	CALL(READ, rt_sigprocmask),
	LOCKS(READ),
	CLOCK(READ),

	CALL(END, rt_sigprocmask),
	/* Where an acknowledgement is in progress. */
	RARE(END, membarrier),
	POLL(END),
	LOCKS(END),

	IOCTL(CLOSE, KVM_SET_USER_MEMORY_REGION),
	IOCTL(CLOSE, KVM_RESET_DIRTY_RINGS),
	IOCTL(CLOSE, UFFDIO_UNREGISTER),
	CALL(CLOSE, rt_sigprocmask),
	CALL(CLOSE, timerfd_settime),
	CALL(CLOSE, munmap),
	CALL(CLOSE, close),
	GRACE_PERIOD(CLOSE),
	MALLOC(CLOSE),
	LOCKS(CLOSE),
	CLOCK(CLOSE),
};

const size_t call_row_count = sizeof(call_rows) / sizeof(call_rows[0]);

#define QUERY_CALLS                                                         \
	"dl_log_config, dl_log_describe, dl_log_last_error, dl_log_stats, " \
	"dl_vcpu_stats, dl_cursor_stats"

#define MARK_CALLS                                              \
	"dl_mark_gpa, dl_mark_slot, dl_mark_hva, dl_mark_iov, " \
	"dl_mark_bitmap, dl_cursor_ack, dl_plan_sent, dl_log_kicks, dl_library_version"

static const char *const class_names[CLASSES] = {
	[CLASS_OUTSIDE] = "outside",
	[CLASS_FIRST] = "a thread's first call, on top of the call's own",
	[CLASS_EXIT] = "the end of a thread that made one",
	[CLASS_OPEN] = "dl_probe, dl_log_open",
	[CLASS_SLOTS] = "dl_slot_set, dl_slot_remove",
	[CLASS_WATCH] = "dl_slot_watch",
	[CLASS_VCPUS] = "dl_vcpu_add, dl_vcpu_remove",
	[CLASS_CURSORS] = "dl_cursor_new, dl_cursor_free",
	[CLASS_HARVEST] = "dl_harvest, dl_cursor_take",
	[CLASS_DESCRIPTOR] = "dl_log_fd",
	[CLASS_REAP] = "dl_log_reap",
	[CLASS_DRAIN] = "dl_vcpu_drain",
	[CLASS_LIMIT] = "dl_vcpu_limit",
	[CLASS_PAUSE] = "dl_vcpu_pause_due",
	[CLASS_PLAN_NEXT] = "dl_plan_next",
	[CLASS_PLAN] = "dl_plan_new, dl_plan_free",
	[CLASS_MARK] = MARK_CALLS,
	[CLASS_READ] = "dl_cursor_read, dl_slot_clear",
	[CLASS_END] = "dl_cursor_end",
	[CLASS_QUERY] = QUERY_CALLS,
	[CLASS_CLOSE] = "dl_log_close",
};

const char *calls_class_name(enum call_class class)
{
	return class_names[class];
}

const struct call_row *calls_find(enum call_class class, long number, unsigned long request)
{
	for (size_t i = 0; i < call_row_count; i++) {
		const struct call_row *row = &call_rows[i];

		if (row->class == class && row->number == number &&
		    (number != SYS_ioctl || row->request == request))
			return row;
	}
	return NULL;
}

/* Prints one cell of the table. A call with two rows, one of them for malloc, is printed once. */
static void print_list(FILE *to, enum call_class class, bool ioctls, bool always)
{
	const char *before = " ";

	for (size_t i = 0; i < call_row_count; i++) {
		const struct call_row *row = &call_rows[i];

		if (row->class != class || row->always != always || !row->request_name == ioctls ||
		    calls_find(class, row->number, row->request) != row)
			continue;
		fprintf(to, "%s%s", before, ioctls ? row->request_name : row->name);
		before = ", ";
	}
	if (before[0] == ' ')
		fputs(" -", to);
	fputs(" |", to);
}

void calls_print(FILE *to)
{
	fputs("| call | ioctl(2) with | makes | may make |\n| --- | --- | --- | --- |\n", to);
	for (int class = CLASS_FIRST; class < CLASSES; class ++) {
		fprintf(to, "| %s |", class_names[class]);
		print_list(to, (enum call_class) class, true, true);
		print_list(to, (enum call_class) class, false, true);
		print_list(to, (enum call_class) class, false, false);
		fputc('\n', to);
	}
}

#if defined(__x86_64__)
#define THIS_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define THIS_ARCH AUDIT_ARCH_AARCH64
#endif

#ifdef THIS_ARCH

enum { MAX_STEPS = 128 };

struct program {
	struct sock_filter steps[MAX_STEPS];
	unsigned short count;
};

static void add(struct program *program, struct sock_filter step)
{
	if (program->count < MAX_STEPS)
		program->steps[program->count++] = step;
}

static void load(struct program *program, size_t offset)
{
	add(program, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset));
}

/* The accumulator holds the system call number, before and after. */
static void allow(struct program *program, const struct call_row *row)
{
	const size_t number = offsetof(struct seccomp_data, nr);
	/* The low half on a little-endian machine; the high half of a request is 0. */
	const size_t request = offsetof(struct seccomp_data, args[1]);
	struct sock_filter let = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);

	if (row->number != SYS_ioctl) {
		add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
							  (uint32_t)row->number, 0, 1));
		add(program, let);
		return;
	}
	add(program,
	    (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)row->number, 0, 3));
	load(program, request);
	add(program,
	    (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)row->request, 0, 1));
	add(program, let);
	load(program, number);
}

int calls_enforce(enum call_class class, const struct call_row *without)
{
	const struct call_row end = { .number = SYS_exit };
	const struct sock_filter kill = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	struct program program = { .count = 0 };
	struct sock_fprog filter = { .filter = program.steps };

	load(&program, offsetof(struct seccomp_data, arch));
	add(&program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, THIS_ARCH, 1, 0));
	add(&program, kill);
	load(&program, offsetof(struct seccomp_data, nr));
	allow(&program, &end);
	for (size_t i = 0; i < call_row_count; i++)
		if (call_rows[i].class == class && &call_rows[i] != without)
			allow(&program, &call_rows[i]);
	add(&program, kill);
	filter.len = program.count;
	if (program.count == MAX_STEPS)
		return -E2BIG;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0))
		return -errno;
	return 0;
}

#else

int calls_enforce(enum call_class class, const struct call_row *without)
{
	return -ENOSYS;
}

#endif
