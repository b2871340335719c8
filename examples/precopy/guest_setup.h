/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_GUEST_SETUP_H
#define PRECOPY_GUEST_SETUP_H

#include "handover.h"

/* Gives the source its guest. Failures have their reason in the report's error. */

/* Opens a machine with its log, and creates the guest in it. */
int guest_create(struct source *source, struct host *host);

/* Fills in the report's lines about the guest. */
void guest_describe(struct source *source, const struct host *host);

/* The devices of a guest that has arrived go on where they were. */
int guest_start_devices(struct source *source, const struct host *host);

#endif
