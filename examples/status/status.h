/* SPDX-License-Identifier: MIT */
#ifndef STATUS_STATUS_H
#define STATUS_STATUS_H

#include "activity.h"

#include <dirtylog/dirtylog.h>

#include <stddef.h>

/*
 * Publishes what a log does on a unix socket, for dirtytop and others. Any program that uses the
 * library can link this folder:
 *
 *	status_open(); open the log; status_start(); status_set_cursor(); ... dl_cursor_free();
 *	status_end(); dl_log_close(); status_close();
 *
 * THE PROTOCOL, version 1. To whom connects, the server sends one line at once and one each
 * interval: a JSON object and a newline. The interval is half a second; the reader may send another
 * one at any time, in milliseconds (STATUS_MIN_MS to STATUS_MAX_MS) as decimal digits and a
 * newline. A reader that sends anything else is dropped. The last line has "ended": true, and then
 * the connection is closed; a connection that is closed without it was lost, or dropped.
 *
 * A line has these keys, and may have more in a later release. Another number in dirtylog_status
 * means that their meaning has changed. Counters begin with 0 and only grow, so rates are
 * differences of two lines; "pages" are of page_bytes each.
 *
 *	dirtylog_status   1
 *	sequence, time_ns, elapsed_ns   of the line; the monotonic clock, and since status_start()
 *	interval_ms       of this reader
 *	program, pid      who publishes
 *	state             waiting, live, paused, handover; after the end, the publisher's word
 *	ended             whether this is the last line
 *	mode, backup_bitmap, ring_entries, page_bytes   of dl_log_config()
 *	log               of dl_log_stats(): entries, new_pages, duplicates, stale_entries,
 *	                  resets, short_resets, overflows, repairs, full_exits,
 *	                  high_water_entries, ioctl_ns
 *	cursor            of dl_cursor_stats(), or null without a cursor: pending_bytes,
 *	                  unacked_bytes, read_bytes, acked_bytes, passes
 *	pass              number (0: none yet), bytes that it can hand out, sent_bytes
 *	sent              pages, wire_bytes: since the beginning
 *	verdict           of the plan: continue, switchover, throttled, late, diverging
 *	held_vcpus        so many are limited now
 *	vcpus             array of {cookie, entries, new_pages, resets, full_exits, overflows,
 *	                  high_water_entries}; counters of the ring, 0 in bitmap mode
 *	slots             array of {slot, gpa, bytes}
 *	heat              cell_bytes, and pages: an array of how many pages were sent, by part
 *	                  of memory, over the slots one after another
 *
 * The server has one thread, which makes calls that never block and writes without waiting: a
 * reader whose socket is full is dropped. The migration and the vCPUs wait for nobody. Only the
 * user who runs the program, and root, can connect.
 */

enum { STATUS_VERSION = 1, STATUS_VCPUS = 256, STATUS_READERS = 16 };
enum { STATUS_DEFAULT_MS = 500, STATUS_MIN_MS = 10, STATUS_MAX_MS = 60000 };

struct status_vcpu {
	const struct dl_vcpu *vcpu;
	uint64_t cookie;
};

/* The handles that are published. They must live until status_end() has returned. */
struct status_source {
	const char *program;
	const struct dl_log *log;
	const struct activity *activity;
	uint32_t n_vcpus;
	struct status_vcpu vcpus[STATUS_VCPUS];
};

struct status;

/* A NULL status is accepted by all calls, which then do nothing. */

/*
 * Makes the socket, and no thread: readers that connect wait for status_start(). A file that exists
 * is kept and makes it fail, unless it is a socket that an earlier server has left behind. Returns
 * NULL with the reason in why.
 */
struct status *status_open(const char *path, char *why, size_t why_bytes);

/* Begins to serve. Returns 0 or a negative errno value. */
int status_start(struct status *status, const struct status_source *source);

/* The consumer whose counters are published; NULL before it is freed. */
void status_set_cursor(struct status *status, const struct dl_cursor *cursor);

/* Sends the last line, with this state, and stops serving. Does nothing if it was not started. */
void status_end(struct status *status, const char *state);

/* Removes the socket, unless another file has taken its place. */
void status_close(struct status *status);

#endif
