/* SPDX-License-Identifier: MIT */
#ifndef STATUS_ACTIVITY_H
#define STATUS_ACTIVITY_H

#include "heat.h"

/*
 * What a consumer of the log is doing: it stores, anybody else loads. No lock, so that a look at a
 * migration never delays it.
 */

enum activity_state {
	ACTIVITY_WAITING,  /* the guest does not move yet */
	ACTIVITY_LIVE,	   /* passes while the guest runs */
	ACTIVITY_PAUSED,   /* the guest is stopped */
	ACTIVITY_HANDOVER, /* the destination has everything, and takes over */
	ACTIVITY_STATES,
};

struct activity {
	_Atomic uint32_t state;	     /* enum activity_state */
	_Atomic uint32_t pass;	     /* from 1 on; 0: none has begun */
	_Atomic uint64_t pass_bytes; /* that the pass can hand out */
	_Atomic uint64_t pass_sent_bytes;
	_Atomic uint64_t sent_pages; /* since the beginning, zero pages included */
	_Atomic uint64_t wire_bytes;
	_Atomic uint32_t verdict;    /* enum dl_verdict of its plan */
	_Atomic uint32_t held_vcpus; /* limited now, by whatever throttles the guest */
	struct heat heat;
};

#endif
