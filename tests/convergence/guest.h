/* SPDX-License-Identifier: MIT */
#ifndef CONVERGENCE_GUEST_H
#define CONVERGENCE_GUEST_H

/*
 * The guest's writes. Its memory has a few hundred thousand pages, whatever its size: a page of the
 * library stands for unit_bytes of the guest, and rings and slots are as much smaller. Rates stay
 * true, so time does; only what happens within a unit is not seen.
 */

#include "kernel.h"
#include "loads.h"
#include "random.h"

struct stream {
	enum stream_kind kind;
	double pages_per_s, on_s, off_s;
	double phase_s; /* of the turns */
	uint64_t first, pages;
	double owed;	   /* writes that are due and not made */
	uint64_t position; /* of a sweep */
	uint64_t left;	   /* of a GC's sweep */
	double next_s;	   /* when a GC's sweep begins */
	double log_pages;  /* of a Zipf */
};

struct guest_vcpu {
	struct stream streams[CREW_STREAMS];
	bool reader;
};

struct guest {
	double unit_bytes;
	uint64_t pages;	      /* of the whole memory */
	uint64_t first, used; /* that which is written */
	uint32_t vcpu_count;
	struct guest_vcpu vcpus[KERNEL_VCPUS];
	struct random *random;
};

/* Sizes only; guest_place() comes before the first write. */
void guest_init(struct guest *guest, const struct load *load, struct random *random);

/* Fills the kernel's zero pages. */
void guest_place(const struct guest *guest, const struct load *load, struct kernel *kernel);

/*
 * A vCPU runs for a part of the time from at_s to at_s + for_s. True: its ring is full, and the
 * rest of its writes waits until it runs again.
 */
bool guest_run(struct guest *guest, struct kernel *kernel, uint32_t vcpu, double at_s, double for_s,
	       double share);

#endif
