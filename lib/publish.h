/* SPDX-License-Identifier: MIT */
#ifndef DLI_PUBLISH_H
#define DLI_PUBLISH_H

#include "log.h"

/* A dli_ring_sink whose opaque is the log: pages become pending. */
struct dli_sunk dli_publish(void *opaque, const struct dli_dirty_word *words, uint32_t n);

#endif
