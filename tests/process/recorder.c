/* SPDX-License-Identifier: MIT */
#include "recorder.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/seccomp.h>

enum { MAX_THREADS = 64 };

/* The class of each thread. A thread remembers its entry; the supervisor finds it by the id. */
static struct {
	_Atomic pid_t id;
	_Atomic int class;
} threads[MAX_THREADS];

static _Thread_local int own = -1;

static struct {
	_Atomic unsigned int calls[CLASSES][RECORDER_CALLS];
	struct {
		_Atomic unsigned long request;
		_Atomic unsigned int count;
	} requests[CLASSES][RECORDER_REQUESTS];
} recorded;

static _Atomic int listener = -1;

static void record_request(int class, unsigned long request)
{
	for (int i = 0; i < RECORDER_REQUESTS; i++) {
		unsigned long there = 0;

		if (atomic_compare_exchange_strong(&recorded.requests[class][i].request, &there,
						   request) ||
		    there == request) {
			atomic_fetch_add(&recorded.requests[class][i].count, 1);
			return;
		}
	}
}

static int class_of(pid_t id)
{
	for (int i = 0; i < MAX_THREADS; i++)
		if (atomic_load(&threads[i].id) == id)
			return atomic_load(&threads[i].class);
	return CLASS_OUTSIDE;
}

static void record(int class, long number, unsigned long request)
{
	if (class == CLASS_OUTSIDE || number < 0 || number >= RECORDER_CALLS)
		return;
	if (number == SYS_ioctl)
		record_request(class, request);
	else
		atomic_fetch_add(&recorded.calls[class][number], 1);
}

/* Must not allocate or take a lock: the thread that waits for it may hold the same lock. */
static void *supervise(void *opaque)
{
	int fd;

	while ((fd = atomic_load(&listener)) == -1)
		sched_yield();
	for (;;) {
		struct seccomp_notif call;
		struct seccomp_notif_resp answer;

		memset(&call, 0, sizeof(call));
		if (ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, &call)) {
			if (errno == EINTR || errno == ENOENT)
				continue;
			return NULL;
		}
		record(class_of((pid_t)call.pid), call.data.nr, (unsigned long)call.data.args[1]);
		memset(&answer, 0, sizeof(answer));
		answer.id = call.id;
		answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		(void)ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
}

int recorder_start(void)
{
	struct sock_filter notify = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
	struct sock_fprog filter = { .len = 1, .filter = &notify };
	pthread_t supervisor;
	long fd;
	int r = pthread_create(&supervisor, NULL, supervise, NULL);

	if (r)
		return -r;
	pthread_detach(supervisor);
	fd = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		     ? -1
		     : syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			       SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
	r = fd < 0 ? -errno : 0;
	/* An invalid descriptor ends the supervisor. */
	atomic_store(&listener, fd < 0 ? -2 : (int)fd);
	return r;
}

static int claim_entry(void)
{
	pid_t id = (pid_t)syscall(SYS_gettid);

	for (int i = 0; i < MAX_THREADS; i++) {
		pid_t unused = 0;

		if (atomic_compare_exchange_strong(&threads[i].id, &unused, id))
			return i;
	}
	return -1;
}

enum call_class recorder_enter(enum call_class class)
{
	if (own < 0)
		own = claim_entry();
	if (own < 0)
		return CLASS_OUTSIDE;
	return (enum call_class)atomic_exchange(&threads[own].class, (int)class);
}

void recorder_note(long number, unsigned long request)
{
	if (own >= 0)
		record(atomic_load(&threads[own].class), number, request);
}

void recorder_clear(void)
{
	memset(&recorded, 0, sizeof(recorded));
}

unsigned int recorder_count(enum call_class class, long number, unsigned long request)
{
	if (number != SYS_ioctl)
		return atomic_load(&recorded.calls[class][number]);
	for (int i = 0; i < RECORDER_REQUESTS; i++)
		if (atomic_load(&recorded.requests[class][i].request) == request)
			return atomic_load(&recorded.requests[class][i].count);
	return 0;
}

static unsigned int check_class(enum call_class class)
{
	unsigned int unlisted = 0;

	for (long number = 0; number < RECORDER_CALLS; number++) {
		if (!atomic_load(&recorded.calls[class][number]) || calls_find(class, number, 0))
			continue;
		printf("system call %ld is not listed for %s\n", number, calls_class_name(class));
		unlisted++;
	}
	for (int i = 0; i < RECORDER_REQUESTS; i++) {
		unsigned long request = atomic_load(&recorded.requests[class][i].request);

		if (!request || calls_find(class, SYS_ioctl, request))
			continue;
		printf("ioctl %#lx is not listed for %s\n", request, calls_class_name(class));
		unlisted++;
	}
	return unlisted;
}

unsigned int recorder_unlisted(void)
{
	unsigned int unlisted = 0;

	for (int class = CLASS_FIRST; class < CLASSES; class ++)
		unlisted += check_class((enum call_class) class);
	return unlisted;
}

unsigned int recorder_missing(void)
{
	unsigned int missing = 0;

	for (size_t i = 0; i < call_row_count; i++) {
		const struct call_row *row = &call_rows[i];

		if (!row->always || recorder_count(row->class, row->number, row->request))
			continue;
		printf("%s was not made by %s\n", row->request_name ? row->request_name : row->name,
		       calls_class_name(row->class));
		missing++;
	}
	return missing;
}
