/* SPDX-License-Identifier: MIT */
#include "device_process.h"
#include "../clock.h"
#include "device_message.h"
#include "sealed_file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_LIMIT_NS (10 * NS_PER_S)
/* After the migration nobody waits long for a process that hangs. */
#define END_LIMIT_NS (2 * NS_PER_S)

enum { PROCESS_FD = 3, POLL_MS = 20 };

extern char **environ;

static int fail(struct device_process *process, int failure, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static int fail(struct device_process *process, int failure, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(process->why, sizeof(process->why), format, args);
	va_end(args);
	return failure;
}

/* Notes that the process is gone: it may have written pages that it did not log. */
static int lose(struct device_process *process, int failure, const char *how)
{
	process->failure = failure;
	return fail(process, failure,
		    "the device process %s; what it wrote last may not be in its log", how);
}

/* Waits for the process, which has closed the connection, and says how it ended. */
static int note_end(struct device_process *process)
{
	char how[80] = "has ended";
	int status;

	if (waitpid(process->pid, &status, 0) == process->pid) {
		if (WIFSIGNALED(status))
			snprintf(how, sizeof(how), "was killed by signal %d", WTERMSIG(status));
		else
			snprintf(how, sizeof(how), "ended with status %d", WEXITSTATUS(status));
	}
	process->pid = 0;
	close(process->fd);
	return lose(process, -EPIPE, how);
}

static int note_failure(struct device_process *process, struct device_message *message)
{
	message->why[sizeof(message->why) - 1] = '\0';
	process->failure = -EIO;
	return fail(process, -EIO, "the device process: %s", message->why);
}

static int send_message(struct device_process *process, const struct device_message *message,
			int fd)
{
	struct iovec iov = { (void *)message, sizeof(*message) };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(fd))];
	} control = { .bytes = { 0 } };
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		header.msg_control = control.bytes;
		header.msg_controllen = sizeof(control.bytes);
		CMSG_FIRSTHDR(&header)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&header)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&header)->cmsg_len = CMSG_LEN(sizeof(fd));
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&header)), &fd, sizeof(fd));
	}
	/* If the process has ended, the answer says so. */
	if (sendmsg(process->fd, &header, MSG_NOSIGNAL) < 0 && errno != EPIPE &&
	    errno != ECONNRESET)
		return fail(process, -errno, "cannot send the device process a message: %s",
			    strerror(errno));
	return 0;
}

static bool is_cancelled(const struct device_process *process)
{
	return process->cancelled && *process->cancelled;
}

/* Returns 1 and a message, 0 if there is none within the time, or a failure of the process. */
static int receive(struct device_process *process, struct device_message *message,
		   uint64_t limit_ns)
{
	struct pollfd pollfd = { .fd = process->fd, .events = POLLIN };
	ssize_t bytes;

	while (!poll(&pollfd, 1, limit_ns ? POLL_MS : 0) || !pollfd.revents)
		if (clock_ns() >= limit_ns || is_cancelled(process))
			return 0;
	bytes = recv(process->fd, message, sizeof(*message), MSG_DONTWAIT);
	if (bytes < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (bytes <= 0)
		return note_end(process);
	if (bytes != sizeof(*message))
		return lose(process, -EPROTO, "sends what is no message");
	return message->type == DEVICE_FAILED ? note_failure(process, message) : 1;
}

/* Waits for the answer to the request, past the answer to one that was cancelled. */
static int receive_answer(struct device_process *process, uint32_t type, uint64_t limit_ns)
{
	struct device_message message;

	while (clock_ns() < limit_ns) {
		int r = receive(process, &message, limit_ns);

		if (r < 0)
			return r;
		if (r && message.type == process->unanswered) {
			process->unanswered = 0;
		} else if (r && message.type != type) {
			return lose(process, -EPROTO, "answers another question");
		} else if (r) {
			process->report->writes = message.writes;
			return 0;
		}
		if (is_cancelled(process)) {
			process->unanswered = type;
			return fail(process, -EINTR, "cancelled");
		}
	}
	return lose(process, -ETIMEDOUT, "does not answer");
}

/* Sends the message, with the file if fd is one, and waits for the answer. */
static int request(struct device_process *process, struct device_message message, int fd,
		   uint64_t wait_ns)
{
	uint64_t limit_ns = clock_ns() + wait_ns;
	int r;

	if (process->failure || !process->pid)
		return process->failure;
	r = send_message(process, &message, fd);
	return r ? r : receive_answer(process, message.type, limit_ns);
}

/* posix_spawn() rather than fork(): other threads are running and may hold locks. */
static int spawn(struct device_process *process, int fd)
{
	char program[] = "precopy", option[] = "--device-process-fd", number[16];
	char *argv[] = { program, option, number, NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t blocked;
	int r;

	snprintf(number, sizeof(number), "%d", PROCESS_FD);
	sigemptyset(&blocked);
	/* Ctrl-C is for the source; the device notices that the connection closes. */
	sigaddset(&blocked, SIGINT);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &blocked);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	posix_spawn_file_actions_init(&actions);
	r = posix_spawn_file_actions_adddup2(&actions, fd, PROCESS_FD);
	if (!r)
		r = posix_spawn(&process->pid, "/proc/self/exe", &actions, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	if (!r)
		return 0;
	process->pid = 0;
	return fail(process, -r, "cannot start the device process: %s", strerror(r));
}

static int connect_process(struct device_process *process)
{
	int fds[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds))
		return fail(process, -errno, "cannot create a socket pair: %s", strerror(errno));
	r = spawn(process, fds[1]);
	close(fds[1]);
	if (r)
		close(fds[0]);
	process->fd = fds[0];
	return r;
}

int device_process_start(struct device_process *process, const struct machine *machine,
			 const volatile sig_atomic_t *cancelled, struct process_report *report)
{
	const struct layout *layout = &machine->layout;
	uint64_t offset_bytes = device_process_offset(layout);
	const struct device_message memory = {
		.type = DEVICE_MEMORY,
		.page_bytes = layout->page_bytes,
		.gpa = layout_gpa(layout, offset_bytes),
		.offset_bytes = offset_bytes,
		.bytes = device_process_bytes(layout),
	};
	const struct device_message start = { .type = DEVICE_START };
	int r;

	memset(process, 0, sizeof(*process));
	process->report = report;
	process->cancelled = cancelled;
	process->page_bytes = layout->page_bytes;
	r = connect_process(process);
	report->pid = process->pid;
	if (!r)
		r = request(process, memory, machine->memory_fd, ANSWER_LIMIT_NS);
	return r ? r : request(process, start, -1, ANSWER_LIMIT_NS);
}

/* The log reaches as far as guest memory, as that of vhost does. Returns its file. */
static int make_log(struct device_process *process, const struct machine *machine)
{
	const struct layout_slot *last = &machine->layout.slots[LAYOUT_DEVICE_SLOT - 1];
	uint64_t bits = (last->gpa + last->bytes) / DEVICE_LOG_PAGE_BYTES;
	uint64_t n_words = (bits + 63) / 64, bytes = n_words * sizeof(uint64_t);
	int fd = sealed_file("dirty-log", bytes), r = fd;
	void *words;

	if (fd >= 0) {
		words = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (words != MAP_FAILED) {
			process->words = words;
			process->n_words = n_words;
			return fd;
		}
		r = -errno;
		close(fd);
	}
	return fail(process, r, "cannot make a log for the device process: %s", strerror(-r));
}

int device_process_log(struct device_process *process, const struct machine *machine)
{
	struct device_message message = { .type = DEVICE_LOG };
	int fd, r;

	if (!process->pid)
		return process->failure;
	fd = make_log(process, machine);
	if (fd < 0)
		return fd;
	message.bytes = process->n_words * sizeof(uint64_t);
	r = request(process, message, fd, ANSWER_LIMIT_NS);
	close(fd);
	return r;
}

/* --sabotage log: takes the bits, and forgets them. */
static void drop_log(struct device_process *process)
{
	for (uint64_t i = 0; i < process->n_words; i++)
		process->report->dropped_pages += (uint64_t)__builtin_popcountll(
			__atomic_exchange_n(&process->words[i], 0, __ATOMIC_ACQUIRE));
}

/* The bits that the process sets from here on are for the next pass. */
static int take_log(struct device_process *process, struct dl_log *log)
{
	const struct dl_bitmap bitmap = {
		.size = sizeof(bitmap),
		.flags = DL_BITMAP_TAKE | DL_BITMAP_LE,
		.bytes = process->n_words * 64 * DEVICE_LOG_PAGE_BYTES,
		.page_bytes = DEVICE_LOG_PAGE_BYTES,
	};
	uint64_t marked_bytes = 0, pages;
	char words[160] = "";
	int r;

	process->report->takes++;
	if (process->drops_log) {
		drop_log(process);
		return 0;
	}
	r = dl_mark_bitmap(log, &bitmap, process->words, process->n_words, &marked_bytes);
	pages = marked_bytes / process->page_bytes;
	process->report->logged_pages += pages;
	process->report->row_pages += pages;
	if (!r || process->failure)
		return r;
	if (dl_log_last_error(log, words, sizeof(words)) <= 0)
		snprintf(words, sizeof(words), "%s", strerror(-r));
	return fail(process, r, "dl_mark_bitmap: %s", words);
}

int device_process_sync(struct device_process *process, struct dl_log *log)
{
	struct device_message message;
	int r;

	if (!process->words)
		return process->failure;
	/* Check for the end first: everything logged before it is then taken. */
	if (!process->failure && receive(process, &message, 0) == 1) {
		if (message.type != process->unanswered)
			(void)lose(process, -EPROTO, "answers without a question");
		process->unanswered = 0;
	}
	r = take_log(process, log);
	return process->failure ? process->failure : r;
}

/* After its answer the device writes no more, so that the log is complete. */
int device_process_stop(struct device_process *process, struct dl_log *log)
{
	const struct device_message stop = { .type = DEVICE_STOP };
	int r, sync;

	if (!process->report)
		return 0;
	r = request(process, stop, -1, ANSWER_LIMIT_NS);
	sync = device_process_sync(process, log);
	if (r || sync)
		return r ? r : sync;
	process->report->stopped_writes = process->report->writes;
	if (process->drops_log && !process->report->dropped_pages)
		return fail(process, -ENODATA, "the sabotage has dropped nothing");
	return 0;
}

int device_process_check(struct device_process *process)
{
	for (uint64_t i = 0; process->words && i < process->n_words; i++)
		if (__atomic_load_n(&process->words[i], __ATOMIC_RELAXED))
			return lose(process, -EBUSY, "has written memory after it had stopped");
	return 0;
}

int device_process_resume(struct device_process *process)
{
	const struct device_message log_off = { .type = DEVICE_LOG_OFF };
	const struct device_message start = { .type = DEVICE_START };
	int r;

	if (!process->report)
		return 0;
	/* The cancellation is why the guest goes on here; it is no reason to wait for nothing. */
	process->cancelled = NULL;
	r = request(process, log_off, -1, END_LIMIT_NS);
	if (!r)
		r = request(process, start, -1, END_LIMIT_NS);
	process->report->runs = process->pid && !r;
	return r;
}

/* Waits until the process has ended, and kills it if it does not. */
static void wait_for_end(struct device_process *process)
{
	uint64_t limit_ns = clock_ns() + END_LIMIT_NS;
	struct device_message message;

	(void)shutdown(process->fd, SHUT_WR);
	while (process->pid && clock_ns() < limit_ns)
		(void)receive(process, &message, limit_ns);
	if (!process->pid)
		return;
	kill(process->pid, SIGKILL);
	(void)note_end(process);
}

void device_process_end(struct device_process *process)
{
	const struct device_message stop = { .type = DEVICE_STOP };

	process->cancelled = NULL;
	/* For the count of its writes. */
	if (process->report && process->report->runs)
		(void)request(process, stop, -1, END_LIMIT_NS);
	if (process->pid)
		wait_for_end(process);
	if (process->words)
		munmap(process->words, process->n_words * sizeof(uint64_t));
	process->words = NULL;
}
