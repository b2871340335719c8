/* SPDX-License-Identifier: MIT */
#ifndef MIGRATIONS_GUEST_CHECKER_H
#define MIGRATIONS_GUEST_CHECKER_H

/* A checker of a guest of the model kernel. */

#include "checker.h"
#include "guest.h"

/* Adds the blocks that the guest has allocated since the last call. */
static inline void checker_add_guest(struct checker *checker, const struct guest *guest)
{
	for (unsigned int i = checker->block_count; i < guest->block_count; i++)
		checker_add(checker, guest->blocks[i].memory,
			    guest->blocks[i].pages * guest->page_bytes);
}

static inline void checker_init_guest(struct checker *checker, const struct guest *guest)
{
	checker_init(checker, guest->log, guest->page_bytes, model_copy);
	checker_add_guest(checker, guest);
}

#endif
