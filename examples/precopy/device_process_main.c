/* SPDX-License-Identifier: MIT */
/* The process of --device-process: the device's side of the connection, and the device. */
#include "device_process.h"
#include "device_message.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { WRITER = 0x200, BURST_WRITES = 16, BURST_MS = 1 };

struct process_device {
	int fd;
	bool running;
	uint8_t *pages; /* shared with the VMM */
	uint64_t pages_bytes, gpa;
	uint32_t page_bytes;
	uint64_t n_pages; /* with records: all but the first one */
	uint8_t *log;	  /* shared with the VMM; NULL: writes are not logged */
	uint64_t log_bytes;
	uint64_t writes;
	char why[160]; /* empty: no failure */
};

/* After this the device writes no more. */
static void fail(struct process_device *device, const char *what, uint64_t gpa)
{
	if (!*device->why)
		snprintf(device->why, sizeof(device->why), "%s at %#" PRIx64, what, gpa);
	device->running = false;
}

/*
 * Sets the bit of what was written. Release: the VMM takes the bit and then reads the page, where
 * the write must be by then.
 */
static void log_write(struct process_device *device, uint64_t gpa)
{
	uint64_t bit = gpa / DEVICE_LOG_PAGE_BYTES;

	if (!device->log)
		return;
	if (bit / 8 < device->log_bytes)
		__atomic_fetch_or(&device->log[bit / 8], (uint8_t)(1u << bit % 8),
				  __ATOMIC_RELEASE);
	else
		fail(device, "the log is too short for the write", gpa);
}

static void store(struct process_device *device, uint64_t page, uint64_t generation)
{
	uint64_t offset = page * device->page_bytes;
	struct record record = record_make(device->gpa + offset, WRITER, generation);

	memcpy(device->pages + offset, &record, sizeof(record));
	log_write(device, device->gpa + offset);
}

static bool holds(const struct process_device *device, uint64_t page, uint64_t generation)
{
	uint64_t offset = page * device->page_bytes;
	struct record expected = record_make(device->gpa + offset, WRITER, generation);

	return !memcmp(device->pages + offset, &expected, sizeof(expected));
}

/* The page of a write; they are numbered from 1 on, and each is the generation of its record. */
static uint64_t page_of(const struct process_device *device, uint64_t write)
{
	return 1 + write % device->n_pages;
}

static void write_burst(struct process_device *device)
{
	for (int i = 0; i < BURST_WRITES; i++) {
		uint64_t write = device->writes + 1, page = page_of(device, write);

		if (write > device->n_pages && !holds(device, page, write - device->n_pages)) {
			fail(device, "found damage", device->gpa + page * device->page_bytes);
			return;
		}
		store(device, page, write);
		device->writes = write;
	}
}

/*
 * Saves how far the device is, in a page that it writes at no other time: only the last take of the
 * log can find it.
 */
static void stop(struct process_device *device)
{
	if (device->running)
		store(device, 0, device->writes);
	device->running = false;
}

/*
 * Continues where the device stopped, here or on another host. Before its first stop the page of
 * its state is zero.
 */
static void find_state(struct process_device *device)
{
	static const struct record none;
	struct record first;

	memcpy(&first, device->pages, sizeof(first));
	if (!memcmp(&first, &none, sizeof(first)))
		return;
	if (!holds(device, 0, first.generation)) {
		fail(device, "found damage", device->gpa);
		return;
	}
	device->writes = first.generation;
	for (uint64_t back = 0; back < device->n_pages && back < device->writes; back++) {
		uint64_t page = page_of(device, device->writes - back);

		if (!holds(device, page, device->writes - back))
			fail(device, "found damage", device->gpa + page * device->page_bytes);
	}
}

static void *map(struct process_device *device, int fd, uint64_t offset, uint64_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);

	if (at != MAP_FAILED)
		return at;
	snprintf(device->why, sizeof(device->why), "cannot map a file of the VMM: %s",
		 strerror(errno));
	return NULL;
}

static void set_memory(struct process_device *device, const struct device_message *message, int fd)
{
	device->pages = map(device, fd, message->offset_bytes, message->bytes);
	if (!device->pages)
		return;
	device->gpa = message->gpa;
	device->page_bytes = message->page_bytes;
	device->n_pages = message->bytes / message->page_bytes - 1;
	find_state(device);
}

static void set_log(struct process_device *device, uint64_t bytes, int fd)
{
	if (device->log)
		munmap(device->log, device->log_bytes);
	device->log = bytes ? map(device, fd, 0, bytes) : NULL;
	device->log_bytes = bytes;
}

static void obey(struct process_device *device, const struct device_message *message, int fd)
{
	switch (message->type) {
	case DEVICE_MEMORY:
		set_memory(device, message, fd);
		break;
	case DEVICE_LOG:
		set_log(device, message->bytes, fd);
		break;
	case DEVICE_LOG_OFF:
		set_log(device, 0, -1);
		break;
	case DEVICE_START:
		device->running = device->pages && !*device->why;
		break;
	case DEVICE_STOP:
		stop(device);
		break;
	default:
		snprintf(device->why, sizeof(device->why), "unknown message %u", message->type);
		break;
	}
}

static bool answer(const struct process_device *device, uint32_t type)
{
	struct device_message message = {
		.type = *device->why ? DEVICE_FAILED : type,
		.writes = device->writes,
	};

	memcpy(message.why, device->why, sizeof(message.why));
	return send(device->fd, &message, sizeof(message), MSG_NOSIGNAL) == sizeof(message);
}

/* Returns false at the end of the connection. */
static bool serve(struct process_device *device)
{
	struct device_message message;
	struct iovec iov = { &message, sizeof(message) };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr header = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	struct cmsghdr *part;
	int fd = -1;

	if (recvmsg(device->fd, &header, MSG_CMSG_CLOEXEC) != sizeof(message))
		return false;
	part = CMSG_FIRSTHDR(&header);
	if (part && part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS &&
	    part->cmsg_len == CMSG_LEN(sizeof(fd)))
		memcpy(&fd, CMSG_DATA(part), sizeof(fd));
	obey(device, &message, fd);
	if (fd >= 0)
		close(fd);
	return answer(device, message.type);
}

int device_process_main(int fd)
{
	struct process_device device = { .fd = fd };
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };

	for (;;) {
		int n = poll(&pollfd, 1, device.running ? BURST_MS : -1);

		if (n > 0 && !serve(&device))
			return STATUS_MOVED;
		if (n < 0 && errno != EINTR)
			return STATUS_FAILED;
		if (n || !device.running)
			continue;
		write_burst(&device);
		/* Unsolicited: the VMM checks before each pass. */
		if (*device.why && !answer(&device, DEVICE_FAILED))
			return STATUS_FAILED;
	}
}
