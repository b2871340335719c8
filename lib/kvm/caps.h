/* SPDX-License-Identifier: MIT */
#ifndef DLI_CAPS_H
#define DLI_CAPS_H

#include <dirtylog/dirtylog.h>

#include "kvm/os.h"

/* The capabilities of the kernel, and the configuration chosen from them. */
struct dli_caps {
	uint32_t has;		   /* DL_HAS_* */
	uint32_t ring_max_entries; /* 0: no rings */
	uint32_t page_bytes;
	uint32_t slot_ids;	 /* slot numbers of one address space: 0 to slot_ids - 1 */
	uint32_t address_spaces; /* at least 1 */
	bool ring_alone_safe;

	uint32_t mode;	       /* DL_MODE_RING or DL_MODE_BITMAP */
	bool backup;	       /* only with DL_MODE_RING */
	uint32_t ring_entries; /* only with DL_MODE_RING */
};

/* Probes /dev/kvm or a VM; -EBADF if fd is neither. */
int dli_caps_probe(const struct dl_os *os, int fd, struct dli_caps *caps);

/* True if fd is /dev/kvm, which answers CHECK_EXTENSION as a VM does. */
bool dli_caps_is_system_fd(const struct dl_os *os, int fd);

/*
 * Chooses the mode from what was probed and the caller's validated options. Writes the reason, or
 * what is missing, into why.
 */
int dli_caps_choose(struct dli_caps *caps, const struct dl_options *options, char *why,
		    size_t why_bytes);

/* Writes a reason for the caller, whose buffer may be NULL or too short. */
void __attribute__((format(printf, 3, 4)))
dli_say(char *why, size_t why_bytes, const char *format, ...);

/*
 * Says why fd could not be probed or opened: for -EBADF that it is of the wrong kind, as what_else
 * puts it, and otherwise what the error means.
 */
void dli_caps_say_failure(char *why, size_t why_bytes, int fd, const char *what_else, int error);

void dli_caps_config(const struct dli_caps *caps, struct dl_config *config);

#endif
