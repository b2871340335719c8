/* SPDX-License-Identifier: MIT */
#ifndef KVM_LIFE_H
#define KVM_LIFE_H

/*
 * The random life of a VM: a few migrations, during which slots change, vCPUs are added, removed
 * and given other work, devices write, iterations and whole migrations are abandoned, and the log
 * is closed. Each migration writes every page at some point. After a migration that completes, the
 * copy must equal the memory. A seed determines the sequence of actions, but not the interleaving
 * of the vCPUs with it.
 */

#include <stdint.h>

struct life_tally {
	uint64_t lives;
	uint64_t migrations; /* started */
	uint64_t completed;
	uint64_t stopped, closed; /* abandoned by dl_cursor_free() and dl_log_close() */
	uint64_t reopened;	  /* logs that were opened again on the same VM */
	uint64_t passes;
	uint64_t pages_written; /* with the number of the generation */
	uint64_t pages_sent, pages_compared;
	uint64_t slot_changes;
	uint64_t vcpus_added, vcpus_parked;
	uint64_t full_exits, overflows;
};

/* Lives one VM with at most most_migrations migrations. Any error fails the test. */
void life_run(uint64_t seed, uint64_t most_migrations, struct life_tally *tally);

#endif
