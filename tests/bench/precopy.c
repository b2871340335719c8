/* SPDX-License-Identifier: MIT */
/*
 * A whole migration by examples/precopy, against as many bytes through the same kind of socket: one
 * process writes them from as much memory, another reads them into as much, in pieces of the same
 * size. Both memories are as precopy's: huge pages if available, part of the source touched before,
 * the destination untouched. For the busy guest a thread writes memory here too, for as long.
 */
#include "bench.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MEMORY_BYTES  (UINT64_C(512) << 20)
#define TOUCHED_BYTES (UINT64_C(96) << 20) /* of 512 MiB, by precopy's guest and its device */
#define PIECE_BYTES   (UINT64_C(256) << 10)

/* More pairs than elsewhere, as single pairs differ by a factor of four. */
enum { LEAST_RUNS = 21, REPORT_BYTES = 16 << 10, PATIENCE_SECONDS = 120 };

struct precopy_run {
	double total_ns, downtime_ns, wire_bytes, last_pages;
};

static double number(const char *report, const char *name)
{
	char key[40];
	const char *at;

	snprintf(key, sizeof(key), "\"%s\": ", name);
	at = strstr(report, key);
	if (!at)
		bench_die(name, EPROTO);
	return strtod(at + strlen(key), NULL);
}

/* Reads precopy's report. Returns false if it could not migrate: without /dev/kvm, say. */
static bool run_precopy(char *report, const char *dirty_rate)
{
	const char *const arguments[] = {
		BENCH_PRECOPY, "--json",	  "--memory", "512M", "--bandwidth",
		"0",	       "--no-zero-pages", "--vcpus",  "1",    "--backend",
		"kvm",	       "--dirty-rate",	  dirty_rate, NULL
	};
	size_t bytes = 0;
	int pipes[2], status;
	ssize_t n;
	pid_t child;

	if (pipe(pipes))
		bench_die("pipe", errno);
	child = fork();
	if (child < 0)
		bench_die("fork", errno);
	if (!child) {
		alarm(PATIENCE_SECONDS);
		dup2(pipes[1], STDOUT_FILENO);
		close(pipes[0]);
		execv(BENCH_PRECOPY, (char *const *)arguments);
		_exit(127);
	}
	close(pipes[1]);
	while (bytes < REPORT_BYTES - 1 &&
	       (n = read(pipes[0], report + bytes, REPORT_BYTES - 1 - bytes)) > 0)
		bytes += (size_t)n;
	report[bytes] = '\0';
	close(pipes[0]);
	return waitpid(child, &status, 0) == child && !status;
}

/* Pages of the final pass, the first pass in the report with "final": true. */
static double last_pages(const char *report)
{
	const char *row = strstr(report, "\"final\": true");

	return row ? number(row, "sent_pages") : 0;
}

static bool migrate(const char *dirty_rate, struct precopy_run *run)
{
	static char report[REPORT_BYTES];

	if (!run_precopy(report, dirty_rate))
		return false;
	*run = (struct precopy_run){
		.total_ns = number(report, "total_ns"),
		.downtime_ns = number(report, "downtime_ns"),
		.wire_bytes = number(strstr(report, "\"pages_sent\""), "wire_bytes"),
		.last_pages = last_pages(report),
	};
	return true;
}

static char *new_memory(void)
{
	char *memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		bench_die("mmap", errno);
	(void)madvise(memory, MEMORY_BYTES, MADV_HUGEPAGE);
	return memory;
}

static uint64_t piece_at(uint64_t at, uint64_t end)
{
	uint64_t bytes = end - at < PIECE_BYTES ? end - at : PIECE_BYTES;
	uint64_t room = MEMORY_BYTES - at % MEMORY_BYTES;

	return bytes < room ? bytes : room;
}

static _Noreturn void read_all(int fd, uint64_t end)
{
	char *memory = new_memory();

	for (uint64_t at = 0; at < end;) {
		ssize_t n = read(fd, memory + at % MEMORY_BYTES, piece_at(at, end));

		if (n <= 0)
			_exit(1);
		at += (uint64_t)n;
	}
	_exit(write(fd, "", 1) != 1);
}

static atomic_bool busy;
static char *written;

/* Like precopy's guest, writes a word of one page after the other, in random order. */
static void *write_memory(void *unused)
{
	uint32_t page = 1;

	(void)unused;
	while (atomic_load_explicit(&busy, memory_order_relaxed)) {
		page = page * 1664525u + 1013904223u;
		++*(volatile uint64_t *)(written + (page >> 8) % (TOUCHED_BYTES / 4096) * 4096);
	}
	return NULL;
}

static void write_all(int fd, const char *memory, uint64_t end)
{
	char answer;

	for (uint64_t at = 0; at < end;) {
		ssize_t n = write(fd, memory + at % MEMORY_BYTES, piece_at(at, end));

		if (n <= 0)
			bench_die("write", errno);
		at += (uint64_t)n;
	}
	if (read(fd, &answer, 1) != 1)
		bench_die("the reader failed", EIO);
}

static double plain_loop_ns(uint64_t bytes, bool is_busy)
{
	char *memory = new_memory();
	pthread_t thread;
	uint64_t begin_ns;
	double ns;
	int fds[2];
	pid_t child;

	memset(memory, 1, TOUCHED_BYTES);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds))
		bench_die("socketpair", errno);
	child = fork();
	if (child < 0)
		bench_die("fork", errno);
	if (!child) {
		close(fds[0]);
		munmap(memory, MEMORY_BYTES);
		read_all(fds[1], bytes);
	}
	close(fds[1]);
	written = memory;
	atomic_store(&busy, is_busy);
	if (is_busy && pthread_create(&thread, NULL, write_memory, NULL))
		bench_die("pthread_create", EAGAIN);
	begin_ns = bench_now_ns();
	write_all(fds[0], memory, bytes);
	ns = (double)(bench_now_ns() - begin_ns);
	atomic_store(&busy, false);
	if (is_busy)
		pthread_join(thread, NULL);
	close(fds[0]);
	waitpid(child, NULL, 0);
	munmap(memory, MEMORY_BYTES);
	return ns;
}

static void figure(const char *name, const char *dirty_rate, bool is_busy)
{
	double total_ns[BENCH_MOST_RUNS], plain_ns[BENCH_MOST_RUNS], downtime_ns[BENCH_MOST_RUNS];
	const size_t runs = bench_runs() > LEAST_RUNS ? bench_runs() : LEAST_RUNS;
	struct precopy_run last = { 0 };
	const struct bench_pair pair = {
		.name = name,
		.against = "the same bytes in a plain write and read loop",
		.unit = "MiB",
		.units = MEMORY_BYTES >> 20,
		.bar = 1.2,
		.is_floor = true,
	};

	if (!bench_wants(name))
		return;
	for (size_t i = 0; i < runs; i++) {
		if (!migrate(dirty_rate, &last)) {
			bench_skip(name, "examples/precopy does not run a guest here");
			return;
		}
		total_ns[i] = last.total_ns;
		downtime_ns[i] = last.downtime_ns;
		plain_ns[i] = plain_loop_ns((uint64_t)last.wire_bytes, is_busy);
	}
	bench_note(&pair, total_ns, plain_ns, runs);
	bench_say("%.0f ms against %.0f; median downtime %.1f ms; last run: %.0f final pages, "
		  "%.0f MiB sent",
		  bench_median(total_ns, runs) / 1e6, bench_median(plain_ns, runs) / 1e6,
		  bench_median(downtime_ns, runs) / 1e6, last.last_pages,
		  last.wire_bytes / (1 << 20));
}

int main(int argc, char **argv)
{
	bench_begin(argc, argv, "bench-precopy");
	signal(SIGPIPE, SIG_IGN);
	figure("precopy: 512 MiB, idle guest", "4096", false);
	figure("precopy: 512 MiB, busy guest", "0", true);
	return bench_end();
}
