/* SPDX-License-Identifier: MIT */
#ifndef GUEST_PAGES_H
#define GUEST_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Sizes are multiples of 64. If the memory changes meanwhile, the result may mix old and new. */

bool page_is_zero(const void *page, size_t bytes);

/* Not cryptographic: detects pages lost by mistake, not by an adversary. */
uint64_t page_hash(const void *page, size_t bytes);

#endif
