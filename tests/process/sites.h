/* SPDX-License-Identifier: MIT */
#ifndef PROCESS_SITES_H
#define PROCESS_SITES_H

/*
 * Fault injection at every site where the library depends on its process or the kernel: a system
 * call through struct dl_os, the set_region callback of the caller, an allocation. Sites are
 * numbered in the order of execution, and one of them can be made to fail. The memory, mappings and
 * descriptors that the library holds are counted.
 */

#include <stdbool.h>
#include <stdint.h>

#include <dirtylog/os.h>

/* Sites other than ioctls, which use their request number. */
enum {
	SITE_MMAP = 1,	/* anonymous memory */
	SITE_MMAP_VCPU, /* the ring of a vCPU */
	SITE_MUNMAP,
	SITE_SIGNAL_MASK,
	SITE_DUP,
	SITE_MADVISE,
	SITE_MPROTECT,
	SITE_CLOSE,
	SITE_TIMER,
	SITE_TIMER_SET,
	SITE_USERFAULTFD,
	SITE_PAGEMAP,
	SITE_SET_REGION,
	SITE_ALLOCATION,
};

struct site_fault {
	uint32_t at; /* number of the site that fails, starting from 1; 0: none */
	uint32_t times;
	int error;     /* positive */
	bool executed; /* the request is executed, then fails */
};

struct sites {
	struct dl_os os; /* for the library */
	struct dl_os below;
	/* If not NULL, called before and after each request to the kernel. */
	void (*cross)(unsigned long request, bool entering);
	struct site_fault fault;
	uint32_t count;
	uint32_t hits;
	unsigned long request; /* of the last site that failed */
	uint32_t capability;   /* of the last site that failed, if it was KVM_ENABLE_CAP */
	uint32_t allocations;  /* total number */
	/* Currently held. */
	long blocks, maps, duplicates; /* duplicates: all descriptors */
};

void sites_init(struct sites *sites, const struct dl_os *below, const struct site_fault *fault);

/*
 * The calling thread enters and leaves the library. Allocations in between belong to the library,
 * except for those inside the functions of struct dl_os.
 */
void sites_enter(struct sites *sites);
void sites_leave(void);

/* Passes a site that is not in struct dl_os. Returns 0, or -errno if it must fail. */
int sites_pass(struct sites *sites, unsigned long request);

const char *sites_request_name(unsigned long request);

#endif
