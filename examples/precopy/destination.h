/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_DESTINATION_H
#define PRECOPY_DESTINATION_H

#include "host.h"
#include "options.h"

/* Where the further connections of a source with --channels come from. */
struct doors {
	/*
	 * Returns the next one after the source's first, which is connected still, or a negative
	 * errno value with the reason in why.
	 */
	int (*next)(const struct doors *doors, int first_fd, char *why, size_t why_bytes);
	/* Not NULL: once it is set, the migration is refused, unless the guest runs already. */
	const volatile sig_atomic_t *cancelled;
};

/*
 * Receives a guest over a connected socket, and as many further ones as the source says, and
 * resumes it. Returns the exit status. With --connect, a guest that has arrived well is left on the
 * host, stopped, with a log to move on with.
 */
int destination_run(const struct options *options, int fd, const struct doors *doors,
		    struct host *host);

#endif
