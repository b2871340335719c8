/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_DEVICE_PROCESS_H
#define PRECOPY_DEVICE_PROCESS_H

#include "machine.h"
#include "report.h"

#include <signal.h>

/*
 * The VMM's side of --device-process: a device in a process of its own, like a vhost-user back end.
 * It writes pages at the end of guest memory, past KVM and past this process, and sets their bits
 * in a bitmap that both map. doc/sources.md has the rules; here they are kept:
 *
 *	device_process_log()    the log runs before dl_cursor_new()
 *	device_process_sync()   before each harvest
 *	device_process_stop()   while the vCPUs stand still, before the paused harvest
 *
 * All functions do nothing without a process. They return 0, or a negative errno value with the
 * reason in why. After the first failure of the process they return that one again.
 */
struct device_process {
	struct process_report *report;
	pid_t pid; /* 0: none, or it has ended */
	int fd;
	uint32_t page_bytes;
	uint64_t *words; /* of the log, which the process writes too; NULL: it does not log */
	uint64_t n_words;
	bool drops_log; /* --sabotage log */
	/* Ends a wait for an answer; NULL: nothing does. */
	const volatile sig_atomic_t *cancelled;
	uint32_t unanswered; /* type of a request that was cancelled; 0: none */
	int failure;	     /* of the process */
	char why[240];
};

/* The device's pages. The first one has the count of writes once the device is stopped. */
enum { DEVICE_PROCESS_PAGES = 64 };

static inline uint64_t device_process_bytes(const struct layout *layout)
{
	return (uint64_t)DEVICE_PROCESS_PAGES * layout->page_bytes;
}

/* They end where the RAM ends, and the guest does not touch them. */
static inline uint64_t device_process_offset(const struct layout *layout)
{
	return layout->device_offset - device_process_bytes(layout);
}

/* Whether the guest leaves room for them. */
static inline bool device_process_fits(const struct layout *layout)
{
	uint64_t working_bytes = layout->vcpus * layout->share_pages * layout->page_bytes;

	return layout->slots[2].bytes >= device_process_bytes(layout) &&
	       layout->working_offset + working_bytes <= device_process_offset(layout);
}

/*
 * Starts the process on the memory of the machine, which is shared. The device goes on where it was
 * when it stopped, after checking the pages it finds. While *cancelled is set, no later call waits.
 */
int device_process_start(struct device_process *process, const struct machine *machine,
			 const volatile sig_atomic_t *cancelled, struct process_report *report);

/* From now on the device logs what it writes. */
int device_process_log(struct device_process *process, const struct machine *machine);

/*
 * Takes what the device has logged, and marks it. Fails if the process has ended, after it has
 * taken what the process had logged until then.
 */
int device_process_sync(struct device_process *process, struct dl_log *log);

/*
 * Stops the device, and takes its log for the last time. While it stands still, the log need not be
 * looked at again.
 */
int device_process_stop(struct device_process *process, struct dl_log *log);

/* Fails if the device has logged a write since it was stopped. */
int device_process_check(struct device_process *process);

/* The guest goes on here: the device logs no more, and goes on too. Waits two seconds at most. */
int device_process_resume(struct device_process *process);

void device_process_end(struct device_process *process);

/* The process itself: serves the connection until it is closed. Returns an exit status. */
int device_process_main(int fd);

#endif
