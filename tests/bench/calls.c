/* SPDX-License-Identifier: MIT */
/*
 * System calls and allocations of a harvest after warm-up. A child harvests on the real /dev/kvm
 * while its parent watches each of its system calls with ptrace. The C library's allocator is
 * interposed for the whole process.
 */
#include "bench.h"
#include "figures.h"
#include "guest.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HARVESTS = 5, MARK = 0x6d61726b };

/* Counts between the marks, summed over all harvests. */
struct counts {
	uint64_t resets, gets, clears, masks, other, allocations;
};

static volatile uint64_t allocations;

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t n, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);
void *malloc(size_t bytes);
void *calloc(size_t n, size_t bytes);
void *realloc(void *memory, size_t bytes);

void *malloc(size_t bytes)
{
	allocations++;
	return __libc_malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
	allocations++;
	return __libc_calloc(n, bytes);
}

void *realloc(void *memory, size_t bytes)
{
	allocations++;
	return __libc_realloc(memory, bytes);
}

enum { BEGIN = 1, END = 2 };

/* A system call without effect, as a mark for the tracer. */
static void mark(uint64_t what, uint64_t allocated)
{
	syscall(SYS_getpriority, MARK, what, allocated);
}

/* Runs in the child. */
static _Noreturn void harvest(uint32_t mode)
{
	static struct bench_guest guest;
	uint64_t before;

	guest_open(&guest, mode, false);
	for (int i = 0; i <= HARVESTS; i++) {
		guest_write_pages(&guest, true);
		if (i)
			mark(BEGIN, 0);
		before = allocations;
		guest_harvest(&guest);
		mark(END, allocations - before);
		if (guest_iterate(&guest) != GUEST_DIRTY_PAGES)
			bench_die("the harvest does not have the pages that the guest wrote", 0);
	}
	guest_close(&guest);
	_exit(0);
}

static void note_call(struct counts *counts, const struct __ptrace_syscall_info *call)
{
	unsigned long request = call->entry.args[1];

	if (call->entry.nr == SYS_rt_sigprocmask)
		counts->masks++;
	else if (call->entry.nr != SYS_ioctl)
		counts->other++;
	else if (request == KVM_RESET_DIRTY_RINGS)
		counts->resets++;
	else if (request == KVM_GET_DIRTY_LOG)
		counts->gets++;
	else if (request == KVM_CLEAR_DIRTY_LOG)
		counts->clears++;
	else
		counts->other++;
}

static void look_at_call(pid_t child, bool *inside, struct counts *counts)
{
	struct __ptrace_syscall_info call = { 0 };

	if (ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof(call), &call) < 0)
		bench_die("PTRACE_GET_SYSCALL_INFO", errno);
	if (call.op != PTRACE_SYSCALL_INFO_ENTRY)
		return;
	if (call.entry.nr != SYS_getpriority || call.entry.args[0] != MARK) {
		if (*inside)
			note_call(counts, &call);
		return;
	}
	if (*inside)
		counts->allocations += call.entry.args[2];
	*inside = call.entry.args[1] == BEGIN;
}

/* Traces the child until it ends. Returns its status, or -EPERM if it may not be traced. */
static int watch(pid_t child, struct counts *counts)
{
	bool inside = false;
	int status;

	if (waitpid(child, &status, 0) < 0)
		bench_die("waitpid", errno);
	if (!WIFSTOPPED(status))
		return -EPERM;
	ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
	for (int signal = 0;;) {
		if (ptrace(PTRACE_SYSCALL, child, 0, signal) < 0 || waitpid(child, &status, 0) < 0)
			bench_die("ptrace", errno);
		if (!WIFSTOPPED(status))
			return status;
		signal = WSTOPSIG(status);
		if (signal == (SIGTRAP | 0x80)) {
			look_at_call(child, &inside, counts);
			signal = 0;
		}
	}
}

/* Returns false if a process may not be traced. */
static bool count(uint32_t mode, struct counts *counts)
{
	pid_t child;
	int status;

	fflush(NULL);
	child = fork();
	if (child < 0)
		bench_die("fork", errno);
	if (!child) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
			_exit(EXIT_FAILURE);
		raise(SIGSTOP);
		harvest(mode);
	}
	status = watch(child, counts);
	if (status > 0)
		bench_die("the harvesting child failed", 0);
	return status != -EPERM;
}

static void figure(const char *name, uint32_t mode)
{
	struct counts counts = { 0 };
	const struct bench_pair pair = {
		.name = name,
		.against = "RESET, GET, and the signal mask twice around each; no allocation",
		.unit = "",
		.units = HARVESTS,
		.bar = 1,
		.is_floor = true,
	};
	const char *missing = guest_missing(mode);
	double made, allowed;

	if (!bench_wants(name))
		return;
	if (missing) {
		bench_skip(name, missing);
		return;
	}
	if (!count(mode, &counts)) {
		bench_skip(name, "ptrace is not allowed");
		return;
	}
	/* Locks are held with asynchronous signals blocked, a reset with all of them. */
	allowed = mode == DL_MODE_RING ? 5 * HARVESTS : 3 * HARVESTS;
	made = (double)(counts.resets + counts.gets + counts.clears + counts.masks + counts.other +
			counts.allocations);
	bench_note(&pair, &made, &allowed, 1);
	bench_say("per harvest: %g RESET, %g GET, %g CLEAR, %g rt_sigprocmask, %g other, "
		  "%g allocations",
		  (double)counts.resets / HARVESTS, (double)counts.gets / HARVESTS,
		  (double)counts.clears / HARVESTS, (double)counts.masks / HARVESTS,
		  (double)counts.other / HARVESTS, (double)counts.allocations / HARVESTS);
}

int main(int argc, char **argv)
{
	bench_begin(argc, argv, "bench-calls");
	figure("calls: harvest of a ring", DL_MODE_RING);
	figure("calls: harvest of a bitmap", DL_MODE_BITMAP);
	return bench_end();
}
