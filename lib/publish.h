/* SPDX-License-Identifier: MIT */
#ifndef DLI_PUBLISH_H
#define DLI_PUBLISH_H

#include "log.h"

/* A dli_ring_sink whose opaque is the log: entries become pending pages. */
struct dli_sunk dli_publish(void *opaque, const struct kvm_dirty_gfn *entries, uint32_t n);

#endif
