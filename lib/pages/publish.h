/* SPDX-License-Identifier: MIT */
#ifndef DLI_PUBLISH_H
#define DLI_PUBLISH_H

#include "pages/slot_table.h"
#include "pages/words.h"

struct dli_publish_result {
	uint32_t new_pages; /* the others were pending already */
	uint32_t stale;	    /* pages of slots that are gone, or past a slot's end */
	/*
	 * A page lies past its slot's end. The kernel protects nothing of a batch with such a page.
	 */
	bool outside;
};

/* Makes pages that rings named pending; while logging is off it records nothing. */
struct dli_publish_result dli_publish(struct dli_slots *slots, const struct dli_dirty_word *words,
				      uint32_t n);

#endif
