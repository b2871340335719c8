/* SPDX-License-Identifier: MIT */
/*
 * A seccomp filter refuses rt_sigprocmask(2), each time in a child of its own. What the library can
 * report it reports, and changes nothing; a thread's first call ends in liburcu, which aborts, as
 * doc/embedding.md says.
 */
#include "cmocka_all.h"
#include "guest.h"
#include "sanitized.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGES = 64, AS_EXPECTED = 42, NO_SECCOMP = 43 };

static struct guest guest;

/* In the child, where cmocka cannot fail. */
#define REQUIRE(condition)                                           \
	do {                                                         \
		if (!(condition)) {                                  \
			fprintf(stderr, "not so: %s\n", #condition); \
			_exit(1);                                    \
		}                                                    \
	} while (0)

static void refuse_signal_masks(void)
{
	struct sock_filter steps[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigprocmask, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog filter = { .len = 4, .filter = steps };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0))
		_exit(NO_SECCOMP);
	REQUIRE(pthread_sigmask(SIG_BLOCK, NULL, NULL) == EPERM);
}

/* Returns how the child ended, as waitpid(2) does. */
static int in_a_child(void (*run)(void))
{
	const struct rlimit no_core = { 0 };
	int status;
	pid_t child = fork();

	assert_true(child >= 0);
	if (!child) {
		(void)setrlimit(RLIMIT_CORE, &no_core);
		signal(SIGABRT, SIG_DFL);
		run();
		_exit(AS_EXPECTED);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == NO_SECCOMP) {
		printf("skip: seccomp filters are not supported here\n");
		skip();
	}
	return status;
}

static void open_without(void)
{
	guest_new(&guest, &(struct guest_config){ .options = { .mode = DL_MODE_RING } });
	refuse_signal_masks();
	REQUIRE(guest_open_log(&guest) == -EPERM);
	REQUIRE(!guest.log);
	REQUIRE(*guest.why);
}

static void a_log_is_refused_in_words(void **state)
{
	int status = in_a_child(open_without);

	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), AS_EXPECTED);
}

static void open_guest(void)
{
	guest_open(&guest, &(struct guest_config){ .options = { .mode = DL_MODE_RING } });
	guest_add_slot(&guest, 0, 0, PAGES);
	guest_join(&guest, DL_CURSOR_CLEAN);
	REQUIRE(guest_write(&guest, guest_vcpu(&guest, true), 0, 7) == 0);
	REQUIRE(dl_mark_gpa(guest.log, 0, 0, 1) == 0);
}

static void harvest_without(void)
{
	unsigned int resets;

	open_guest();
	resets = guest.resets;
	refuse_signal_masks();
	REQUIRE(dl_harvest(guest.cursor, 0, NULL) == -EPERM);
	/* A reset that a signal cuts short would lose writes: there was none. */
	REQUIRE(guest.resets == resets);
	/* This thread has made its first call, and marks without a system call. */
	REQUIRE(dl_mark_gpa(guest.log, 0, guest.page_bytes, 1) == 0);
	REQUIRE(guest_pending(&guest) == 2 * guest.page_bytes);
}

static void no_ring_is_reset(void **state)
{
	int status = in_a_child(harvest_without);

	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), AS_EXPECTED);
}

static void *mark_once(void *unused)
{
	(void)dl_mark_gpa(guest.log, 0, 0, 1);
	return NULL;
}

static void first_call_without(void)
{
	pthread_t thread;

	open_guest();
	refuse_signal_masks();
	REQUIRE(pthread_create(&thread, NULL, mark_once, NULL) == 0);
	pthread_join(thread, NULL);
}

/* No other end is possible: the process must not go on without the mark. */
static void a_first_call_aborts(void **state)
{
	int status;

	if (SANITIZED_THREADS) {
		printf("skip: ThreadSanitizer ends where it is refused rt_sigprocmask itself\n");
		skip();
	}
	status = in_a_child(first_call_without);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_log_is_refused_in_words),
		cmocka_unit_test(no_ring_is_reset),
		cmocka_unit_test(a_first_call_aborts),
	};

	return RUN_TESTS("process: refused system calls", tests);
}
