/* SPDX-License-Identifier: MIT */
#ifndef KVM_LIFE_H
#define KVM_LIFE_H

/*
 * The life of a VM, by chance: some migrations, during which slots change, vCPUs come, go and are
 * given other work, devices write, iterations and whole migrations are given up, and the log is
 * closed. Every page is written in each migration, at some moment of it; after one that comes to its
 * end the copy equals the memory. The same seed does the same things; when vCPUs do theirs is the host's matter.
 */

#include <stdint.h>

struct life_tally {
	uint64_t lives;
	uint64_t migrations; /* begun: these ... */
	uint64_t completed;
	uint64_t stopped, closed; /* ... and in mid-way, these */
	uint64_t reopened;	  /* logs, on the same VM */
	uint64_t passes;
	uint64_t pages_written; /* with the generation's number */
	uint64_t pages_sent, pages_compared;
	uint64_t slot_changes;
	uint64_t vcpus_added, vcpus_parked;
	uint64_t full_exits, overflows;
};

/* Fails the test where anything is not as it should be. At most so many migrations. */
void life_run(uint64_t seed, uint64_t most_migrations, struct life_tally *tally);

#endif
