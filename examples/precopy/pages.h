/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_PAGES_H
#define PRECOPY_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Sizes are multiples of 64. The memory may change meanwhile: the answer is then about either. */

bool page_is_zero(const void *page, size_t bytes);

/* Not against an adversary: it finds what was lost by mistake. */
uint64_t page_hash(const void *page, size_t bytes);

#endif
