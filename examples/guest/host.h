/* SPDX-License-Identifier: MIT */
#ifndef GUEST_HOST_H
#define GUEST_HOST_H

#include "device.h"

/* A guest on this host: the machine that runs it, and the machine's log if it is to move on. */
struct host {
	struct machine machine;
	bool open; /* the machine is */
	struct dl_log *log;
	struct dl_config config;
	char reason[512];		  /* for the choice of mode, from the library */
	struct device_state device_state; /* as it has arrived */
};

/* Opens the machine. Returns 0, or a negative errno value with the reason in the machine's why. */
int host_open(struct host *host, const struct machine_kind *kind, const struct layout *layout,
	      bool guest_user);

/*
 * Opens the log of a machine that has no vCPUs yet; the table of system calls is the machine's.
 * Returns 0, or a negative errno value with the reason in why.
 */
int host_open_log(struct host *host, const struct dl_options *wanted, char *why, size_t why_bytes);

/* Closes what is open. */
void host_close(struct host *host);

#endif
