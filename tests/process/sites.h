/* SPDX-License-Identifier: MIT */
#ifndef PROCESS_SITES_H
#define PROCESS_SITES_H

/*
 * Every place where the library asks its process or the kernel for something: a system call through
 * struct dl_os, the caller's set_region, an allocation. They are numbered in the order in which they
 * come; one of them can be made to fail. What the library holds of memory, mappings and descriptors
 * is counted.
 */

#include <stdbool.h>
#include <stdint.h>

#include <dirtylog/os.h>

/* Requests that are no ioctls. */
enum {
	SITE_MMAP = 1,	/* anonymous memory */
	SITE_MMAP_VCPU, /* of a vCPU's file */
	SITE_MUNMAP,
	SITE_SIGNAL_MASK,
	SITE_DUP,
	SITE_CLOSE,
	SITE_SET_REGION,
	SITE_ALLOCATION,
};

struct site_fault {
	uint32_t at; /* the number of the site that fails, from 1 on; 0: none */
	uint32_t times;
	int error; /* positive */
	bool done; /* what was asked for is done all the same */
};

struct sites {
	struct dl_os os; /* for the library */
	struct dl_os below;
	/* NULL, or called when the library goes over to the kernel, and when it is back. */
	void (*cross)(unsigned long request, bool there);
	struct site_fault fault;
	uint32_t count;
	uint32_t hits;
	unsigned long request; /* of the last site that failed */
	uint32_t capability;   /* of that, where it was KVM_ENABLE_CAP */
	uint32_t allocations;  /* made so far */
	/* Held now. */
	long blocks, maps, duplicates;
};

void sites_init(struct sites *sites, const struct dl_os *below, const struct site_fault *fault);

/*
 * This thread enters the library, and leaves it: only in between are allocations the library's.
 * Calls of struct dl_os are outside by themselves.
 */
void sites_enter(struct sites *sites);
void sites_leave(void);

/* A site that is not one of struct dl_os. Returns 0, or the negative errno value to fail with. */
int sites_pass(struct sites *sites, unsigned long request);

const char *sites_request_name(unsigned long request);

#endif
