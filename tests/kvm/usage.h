/* SPDX-License-Identifier: MIT */
#ifndef KVM_USAGE_H
#define KVM_USAGE_H

/* Memory, mappings and descriptors that the process holds, for tests that nothing leaks. */

#include <stdint.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define USAGE_KEEPS_MEMORY 1 /* the sanitizer holds on to freed memory */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define USAGE_KEEPS_MEMORY 1
#endif
#endif
#ifndef USAGE_KEEPS_MEMORY
#define USAGE_KEEPS_MEMORY 0
#endif

struct usage {
	uint64_t resident_bytes;
	uint64_t heap_bytes; /* allocated from malloc; 0 if the C library does not tell */
	unsigned int fds, mappings;
};

/* Gives back what malloc keeps free, then measures. */
struct usage usage_measure(void);

#endif
