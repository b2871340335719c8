/* SPDX-License-Identifier: MIT */
#ifndef SNAPSHOT_TAKE_H
#define SNAPSHOT_TAKE_H

#include "file.h"
#include "held.h"
#include "host.h"
#include "options.h"
#include "sabotage.h"

/*
 * Takes points of a running guest. The use of the library is here.
 *
 * The cursor "since" says what changed since the last complete point. Its pass is committed when
 * the file has its name and keeps it; if it does not come to that, the pages are pending again, and
 * the next point has them.
 *
 * With passes before the pause there is a second cursor, "near". It is emptied when a point begins,
 * and then says what was written after that: in the pause, it alone is read. When the point is
 * complete it is what changed since then, so that the two cursors change places.
 */
struct taker {
	const struct options *options;
	struct host *host;
	struct device *device;
	struct writer *writer;
	struct dl_cursor *since, *near; /* near: NULL without passes before the pause */
	struct file file;
	struct held held;
	struct saboteur saboteur;
	bool ended_early;	   /* by --sabotage */
	bool stopped;		   /* guest and device, after the last point */
	struct snap_header parent; /* number 0: there is none yet */
	uint64_t last_number;	   /* the largest in the directory */
	struct snap_state state;
};

/* The cost of a point. */
struct cost {
	uint64_t live_bytes;	       /* handed out before the pause */
	uint64_t paused_bytes;	       /* in the pause */
	uint64_t written_paused_bytes; /* of these, what had no room in the buffer */
	uint64_t pause_ns;	       /* the parts below, without the proof */
	uint64_t vcpus_ns, devices_ns, harvest_ns, copy_ns, state_ns;
	uint64_t proof_ns; /* the guest stood still so much longer for the sum of its memory */
	uint64_t ns;	   /* until the file was complete */
	uint64_t file_bytes, data_pages, zero_pages, extents, writes;
};

/* One point. */
struct taken {
	uint64_t number;
	bool base;
	bool complete;
	struct cost cost;
	char why[200]; /* it is not complete */
};

/* Makes the cursors: all memory is pending, or nothing where the guest continues a point. */
int taker_init(struct taker *taker, const struct options *options, struct host *host,
	       struct device *device, struct writer *writer, const struct snap_header *parent,
	       char *why, size_t why_bytes);
void taker_free(struct taker *taker);

/*
 * Takes the next point while the guest runs; afterwards it runs on, unless it is the last one: then
 * it is stopped and the device is paused.
 * Returns 0 also if the point is not complete, as the next one makes up for it; or a negative errno
 * value if there is no sense in going on, with the reason in taken->why.
 */
int taker_take(struct taker *taker, bool full, bool last, struct taken *taken);

/* The guest runs on after the last one, if it is stopped: another point will be the last. */
void taker_resume(struct taker *taker);

#endif
