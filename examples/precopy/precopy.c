/* SPDX-License-Identifier: MIT */
#include "../output.h"
#include "clock.h"
#include "destination.h"
#include "listener.h"
#include "options.h"
#include "report.h"
#include "source.h"
#include "transport.h"

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
static void exec_destination(int fd, char *program)
{
	char number[16];
	char option[] = "--destination-fd";
	char *argv[] = { program, option, number, NULL };

	snprintf(number, sizeof(number), "%d", fd);
	(void)fcntl(fd, F_SETFD, 0);
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

static int run_both(const struct options *options, char *program)
{
	struct host host = { 0 };
	char why[256];
	pid_t child;
	int fds[2], status;

	if (transport_pair(options->tcp, fds, why, sizeof(why)))
		return report_early_failure(options, STATUS_FAILED, "%s", why);
	child = fork();
	if (child < 0)
		return report_early_failure(options, STATUS_FAILED, "cannot fork: %s",
					    strerror(errno));
	if (!child)
		exec_destination(fds[1], program);
	close(fds[1]);
	status = source_run(options, fds[0], child, &host);
	wait_for_child(child);
	return status;
}

/* From a host that has a guest, or one that is to create it. */
static int run_connecting(const struct options *options, struct host *host)
{
	char why[256];
	int fd = transport_connect(options->connect, why, sizeof(why));

	if (fd >= 0)
		return source_run(options, fd, 0, host);
	host_close(host);
	return report_early_failure(options, STATUS_FAILED, "%s", why);
}

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
	(void)number;
	interrupted = 1;
}

static void print_listening(const char *address)
{
	fprintf(stderr, "precopy: destination: listening on %s\n", address);
}

static void print_ignored(const char *why)
{
	fprintf(stderr, "precopy: destination: ignored a connection: %s\n", why);
}

static int run_listening(const struct options *options)
{
	struct sigaction action = { .sa_handler = on_interrupt }, before[2];
	struct host host = { 0 };
	char why[256];
	int fd, status;

	sigaction(SIGINT, &action, &before[0]);
	sigaction(SIGTERM, &action, &before[1]);
	fd = listener_wait(options->listen, print_listening, print_ignored, &interrupted, why,
			   sizeof(why));
	sigaction(SIGINT, &before[0], NULL);
	sigaction(SIGTERM, &before[1], NULL);
	if (fd < 0)
		return report_early_failure(options, STATUS_FAILED, "%s", why);
	status = destination_run(options, fd, &host);
	/* The guest moves on. */
	return host.open ? run_connecting(options, &host) : status;
}

static int run(const struct options *options, char *program)
{
	struct host host = { 0 };

	if (options->destination_fd >= 0) {
		(void)fcntl(options->destination_fd, F_SETFD, FD_CLOEXEC);
		return destination_run(options, options->destination_fd, &host);
	}
	if (options->listen)
		return run_listening(options);
	if (options->connect)
		return run_connecting(options, &host);
	return run_both(options, program);
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
