/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_OUTLETS_H
#define PRECOPY_OUTLETS_H

#include "send.h"

#include <pthread.h>
#include <stdatomic.h>

/*
 * The source's connections: one, or several with --channels. Each has a thread that reads from the
 * cursor, so a pass goes over all of them at once. Between passes all of them are flushed: versions
 * of a page from two passes must not overtake each other.
 */
struct outlet {
	struct outlets *outlets;
	struct wire *wire;
	struct wire own_wire; /* of those after the first */
	struct sender sender;
	struct pass_row row;
	pthread_t thread;
	bool has_thread;
	int result;
	const char *failed_call; /* of the library; NULL: the wire has failed */
};

struct outlets {
	struct outlet outlet[WIRE_MAX_CHANNELS];
	unsigned int n;
	struct dl_cursor *cursor;
	struct pass_progress progress;
	atomic_bool failed;
	atomic_bool enough; /* leave the rest of the pass pending */
};

/*
 * The first connection is the control wire; the others get the sockets that follow in fds, which
 * outlets_close() closes. like is what all senders have in common.
 */
void outlets_init(struct outlets *outlets, struct wire *control, const int *fds, unsigned int n,
		  const struct sender *like);
void outlets_close(struct outlets *outlets);

/* All of them tell the plan what they have sent; NULL: none. No pass is being sent. */
void outlets_set_plan(struct outlets *outlets, struct dl_plan *plan);

/* Says on each further connection which migration it belongs to; or that it ends. */
int outlets_announce(struct outlets *outlets, uint64_t token);
int outlets_finish(struct outlets *outlets);

/*
 * Sends the cursor's open pass and waits until the destination has it in place. Returns 0, or a
 * negative errno value: of *failed_call, or of a wire with the reason in the control wire's why.
 */
int outlets_send_pass(struct outlets *outlets, struct dl_cursor *cursor, struct pass_row *row,
		      const char **failed_call);

#endif
