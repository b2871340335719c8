/* SPDX-License-Identifier: MIT */
#ifndef BENCH_GUEST_H
#define BENCH_GUEST_H

/* A real guest on /dev/kvm with its dirty log; counts and times the log's system calls. */

#include "../kvm/machine.h"

#include <dirtylog/dirtylog.h>
#include <dirtylog/os.h>

enum {
	GUEST_PAGE_BYTES = 4096,
	GUEST_PAGES = 1 << 16,
	GUEST_DIRTY_PAGES = 4096,
	GUEST_RING_ENTRIES = 8192,
};

struct guest_system {
	struct dl_os os;
	uint64_t ioctl_ns; /* of RESET, GET and CLEAR */
};

struct bench_guest {
	struct machine machine;
	struct machine_vcpu *vcpu, *other;
	struct dl_vcpu *handles[2];
	struct guest_system system;
	struct dl_log *log;
	struct dl_cursor *cursor;
	void *memory;
};

/* Returns NULL, or why such a guest cannot run here. */
const char *guest_missing(uint32_t mode);

/* mode: of the log. timed: its ioctls go through a timing wrapper. */
void guest_open(struct bench_guest *guest, uint32_t mode, bool timed);
void guest_close(struct bench_guest *guest);

/* Lets the guest write GUEST_DIRTY_PAGES pages, in order or at random. */
void guest_write_pages(struct bench_guest *guest, bool random);

/* Begins a pass of the guest's cursor. */
void guest_harvest(struct bench_guest *guest);

/* Reads and acknowledges the pages of the open pass, and ends it. Returns their number. */
uint64_t guest_iterate(struct bench_guest *guest);

/* Another vCPU of the guest, which only spins. */
void guest_start_other(struct bench_guest *guest);
void guest_stop_other(struct bench_guest *guest);

#endif
