/* SPDX-License-Identifier: MIT */
#include "../output.h"
#include "../clock.h"
#include "destination.h"
#include "device_process.h"
#include "listener.h"
#include "options.h"
#include "report.h"
#include "source.h"
#include "transport.h"
#include "watch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * precopy: live-migrates a guest between two processes. See --help; the migration is in source.c.
 */

#define CHILD_TIMEOUT_NS (40 * NS_PER_S)

/* In the child: executes the program again, so that the sides share no memory. */
static void exec_destination(const int *fds, uint32_t n, char *program)
{
	char option[] = "--destination-fd", numbers[WIRE_MAX_CHANNELS][16];
	char *argv[2 + 2 * WIRE_MAX_CHANNELS] = { program };

	for (uint32_t i = 0; i < n; i++) {
		snprintf(numbers[i], sizeof(numbers[i]), "%d", fds[i]);
		argv[1 + 2 * i] = option;
		argv[2 + 2 * i] = numbers[i];
		(void)fcntl(fds[i], F_SETFD, 0);
	}
	/* Ctrl-C is for the source; the destination notices that the connection closes. */
	signal(SIGINT, SIG_IGN);
	execv("/proc/self/exe", argv);
	report_print_error("cannot start the destination: %s", strerror(errno));
	_exit(STATUS_FAILED);
}

/* The child exits once the connection is closed; kill it if it does not. */
static void wait_for_child(pid_t child)
{
	uint64_t limit_ns = clock_ns() + CHILD_TIMEOUT_NS;
	struct timespec step = clock_timespec(NS_PER_MS);

	while (!waitpid(child, NULL, WNOHANG) && clock_ns() < limit_ns)
		nanosleep(&step, NULL);
	if (clock_ns() < limit_ns)
		return;
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

static void close_all(const int *fds, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		close(fds[i]);
}

/* Makes a connection for each channel: the source's ends and the destination's. */
static int make_pairs(const struct options *options, int *ends, int *others, char *why,
		      size_t why_bytes)
{
	for (uint32_t i = 0; i < options->channels; i++) {
		int fds[2], r = transport_pair(options->tcp, fds, why, why_bytes);

		if (r) {
			close_all(ends, i);
			close_all(others, i);
			return r;
		}
		ends[i] = fds[0];
		others[i] = fds[1];
	}
	return 0;
}

static int run_both(const struct options *options, char *program, struct watch *watch)
{
	int ends[WIRE_MAX_CHANNELS], others[WIRE_MAX_CHANNELS], status;
	struct host host = { 0 };
	char why[256];
	pid_t child;

	if (make_pairs(options, ends, others, why, sizeof(why)))
		return report_early_failure(options, STATUS_FAILED, "%s", why);
	child = fork();
	if (child < 0)
		return report_early_failure(options, STATUS_FAILED, "cannot fork: %s",
					    strerror(errno));
	if (!child)
		exec_destination(others, options->channels, program);
	close_all(others, options->channels);
	status = source_run(options, ends, child, &host, watch);
	wait_for_child(child);
	return status;
}

/* From a host that has a guest, or one that is to create it. */
static int run_connecting(const struct options *options, struct host *host, struct watch *watch)
{
	int fds[WIRE_MAX_CHANNELS];
	char why[256];
	uint32_t n;

	for (n = 0; n < options->channels; n++) {
		fds[n] = transport_connect(options->connect, why, sizeof(why));
		if (fds[n] < 0)
			break;
	}
	if (n == options->channels)
		return source_run(options, fds, 0, host, watch);
	close_all(fds, n);
	if (!host->open)
		return report_early_failure(options, STATUS_FAILED, "%s", why);
	host_close(host);
	return report_early_failure(options, STATUS_FAILED,
				    "%s; the guest has arrived, and ends here", why);
}

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
	(void)number;
	interrupted = 1;
}

static void print_ignored(const char *why)
{
	fprintf(stderr, "precopy: destination: ignored a connection: %s\n", why);
}

/* The further connections come where the first one came. */
struct listening {
	struct doors doors; /* first, for next_connection() */
	struct listener *listener;
};

static int next_connection(const struct doors *doors, int first_fd, char *why, size_t why_bytes)
{
	const struct listening *listening = (const struct listening *)doors;

	return listener_wait_again(listening->listener, first_fd, &interrupted, why, why_bytes);
}

static int listen_and_run(const struct options *options, struct listener *listener,
			  struct host *host)
{
	const struct listening listening = { { next_connection, &interrupted }, listener };
	char why[256];
	int fd = listener_wait(listener, &interrupted, why, sizeof(why));

	if (fd < 0)
		return report_early_failure(options, STATUS_FAILED, "%s", why);
	return destination_run(options, fd, &listening.doors, host);
}

static int run_listening(const struct options *options, struct watch *watch)
{
	const struct sigaction action = { .sa_handler = on_interrupt };
	struct listener *listener;
	struct host host = { 0 };
	char why[256];
	int status;

	listener = listener_open(options->listen, print_ignored, why, sizeof(why));
	if (!listener)
		return report_early_failure(options, STATUS_FAILED, "%s", why);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	fprintf(stderr, "precopy: destination: listening on %s\n", listener_address(listener));
	status = listen_and_run(options, listener, &host);
	listener_close(listener);
	if (!host.open)
		return status;
	/* The guest moves on. */
	if (!interrupted)
		return run_connecting(options, &host, watch);
	host_close(&host);
	return report_early_failure(options, STATUS_FAILED,
				    "interrupted; the guest has arrived, and ends here");
}

/* The further connections of a destination that a source has started. */
struct given {
	struct doors doors; /* first, for next_given() */
	const struct options *options;
	uint32_t *used;
};

static int next_given(const struct doors *doors, int first_fd, char *why, size_t why_bytes)
{
	const struct given *given = (const struct given *)doors;

	if (*given->used < given->options->destination_fds_given)
		return given->options->destination_fds[(*given->used)++];
	snprintf(why, why_bytes, "there is no further connection");
	return -ENOTCONN;
}

static int run_started(const struct options *options)
{
	struct host host = { 0 };
	uint32_t used = 1;
	const struct given given = { { next_given, NULL }, options, &used };

	for (uint32_t i = 0; i < options->destination_fds_given; i++)
		(void)fcntl(options->destination_fds[i], F_SETFD, FD_CLOEXEC);
	return destination_run(options, options->destination_fds[0], &given.doors, &host);
}

static int run_watched(const struct options *options, char *program, struct watch *watch)
{
	struct host host = { 0 };

	if (options->listen)
		return run_listening(options, watch);
	if (options->connect)
		return run_connecting(options, &host, watch);
	return run_both(options, program, watch);
}

static int run(const struct options *options, char *program)
{
	struct watch watch;

	if (options->device_process_fd >= 0)
		return device_process_main(options->device_process_fd);
	if (options->destination_fds_given)
		return run_started(options);
	if (watch_open(&watch, options))
		return STATUS_FAILED;
	return watch_close(&watch, run_watched(options, program, &watch));
}

int main(int argc, char **argv)
{
	struct options options;
	int status, r;

	output_open();
	status = options_parse(&options, argc, argv);
	if (status < 0)
		status = run(&options, argv[0]);
	r = output_close();
	if (!r)
		return status;
	report_print_error("cannot write all of the output: %s", strerror(-r));
	return status == STATUS_MOVED ? STATUS_UNREPORTED : status;
}
