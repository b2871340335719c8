/* SPDX-License-Identifier: MIT */
#ifndef VMM_SCENES_H
#define VMM_SCENES_H

/*
 * What happens to a VM in the middle of migrations. Each scene ends with the VM running and no
 * migration; its verdict says whether every consumer has seen everything.
 */

#include "vmm.h"

struct scene {
	const char *name;
	void (*run)(struct vmm *vmm);
	uint32_t breaks_under; /* enum vmm_misuse: each of these makes the verdict bad */
	bool needs_threads, needs_second_space;
	/*
	 * Slots are removed that come back with no vCPU running, or not at all. Otherwise words are
	 * not missed where the kernel sets all bits of a new slot.
	 */
	bool changes_paused;
};

extern const struct scene scenes[];
extern const unsigned int n_scenes;

struct verdict {
	uint64_t wrong_pages;  /* of all destinations, at the end of each migration */
	uint64_t stale_words;  /* in a mirror after a sync */
	uint64_t missed_pages; /* by the meter */
	bool endless;	       /* a last pass never said 0 */
	bool counted_too_few;  /* the meter says less than the truth */
	/* Without these a scene has shown nothing. */
	uint64_t pages_sent, refreshes;
};

/* Runs a scene in a VM of its own. */
struct verdict scene_verdict(const struct scene *scene, const struct vmm_config *config);

static inline bool verdict_is_good(const struct verdict *verdict)
{
	return !verdict->wrong_pages && !verdict->stale_words && !verdict->missed_pages &&
	       !verdict->endless && !verdict->counted_too_few;
}

#endif
