/* SPDX-License-Identifier: MIT */
#ifndef VMM_VMM_H
#define VMM_VMM_H

/*
 * A VMM in the shape of the established ones. RAM blocks have a dirty bitmap for each consumer; a
 * sync takes what the library knows of a memslot, and fans it out into them. Guest toggles delete
 * and create memslots at any time. A big lock covers all of that; vCPUs and devices contend for it,
 * and only drains of full rings run without it.
 *
 *	slots.c    the memory listener: memslots, and the words of those that are removed
 *	accel.c    syncs and clears
 *	vcpus.c    threads, the big lock, pauses
 *	display.c  two consumers that never end: a display, and what was translated from guest code
 *	rate.c     a dirty-rate meter
 *	migrate.c  migrations, which read memory without the big lock
 *
 * Lock order: big_lock, send_lock, slots_lock.
 */

#include <pthread.h>
#include <stdatomic.h>

#include <dirtylog/dirtylog.h>

#include "../unit/random.h"
#include "hv.h"
#include "memory.h"

enum {
	VMM_SLOTS = 24,
	VMM_DISPLAY_SLOT = 7,
	VMM_THREADED_VCPUS = 2,
	/* Most paused takes until nothing is left. */
	VMM_LAST_TAKES = 6,
};

/* Guest addresses, in pages from hv.base_gpa on. */
enum {
	RAM_PAGES = 512,
	FIRMWARE_AT = 128, /* shadows RAM when it is switched there */
	FIRMWARE_PAGES = 32,
	SMRAM_AT = 200, /* RAM that only the second address space sees, unless it is opened */
	SMRAM_PAGES = 24,
	BAR_AT = 1024,
	OTHER_BAR_AT = 2048,
	DISPLAY_PAGES = 64,
	BLOB_AT = 4096,
	BLOB_PAGES = 24,
	BLOB_MOST_PAGES = 160,
	/* Threads never write pages with this number modulo 8. Only the script of a test does. */
	MARKED_PAGE = 7,
};

/* Mistakes of a VMM, planted to see them found. */
enum vmm_misuse {
	MISUSE_FORGET_CLEAR = 1,      /* no dl_slot_clear() before the contents are sent */
	MISUSE_READ_FIRST = 2,	      /* contents are read before dl_slot_clear() */
	MISUSE_DROP_WORDS = 4,	      /* dl_slot_remove() without words */
	MISUSE_KEEP_WORDS = 8,	      /* the words are never given back */
	MISUSE_LAST_TAKE = 16,	      /* the last pass is not repeated */
	MISUSE_NO_LAST_TAKE = 32,     /* there is none */
	MISUSE_FORGET_ALIAS = 64,     /* the second address space's slots are not WANTED */
	MISUSE_NO_FAN_OUT = 128,      /* a sync serves only the consumer that asked */
	MISUSE_NO_MARK = 256,	      /* a device does not mark what it wrote */
	MISUSE_SHADOW_FIRST = 512,    /* the display copies before it syncs */
	MISUSE_SKIP_NEW_PAGES = 1024, /* pages that a resize adds are not dirty */
	MISUSE_UNCOUNTED = 2048,      /* the meter does not hear of removed slots */
};

struct vmm_config {
	const struct hv_backend *backend;
	struct model_options model;
	uint32_t mode, log_backup, ring_entries;
	bool shared;	 /* one WANTED cursor serves all; otherwise each consumer has its own */
	bool no_clear;	 /* syncs of a migration take with DL_TAKE_NO_CLEAR */
	bool give_marks; /* words come back by dl_mark_slot(), not by the bitmaps */
	bool threads;	 /* otherwise vCPUs and devices run inside vmm_run() */
	uint32_t misuse;
};

struct vmm_slot {
	bool used;
	uint32_t number; /* as_id << 16 | id */
	struct flat_range range;
	uint64_t *words; /* for takes */
};

/* A cursor, and the clients whose bitmaps its pages fill. */
struct vmm_consumer {
	struct dl_cursor *cursor; /* NULL: not there */
	uint32_t clients;
};

/* A consumer that keeps a copy of a block up to date for ever. */
struct vmm_mirror {
	enum ram_client client;
	struct ram_block *block;
	struct vmm_consumer consumer; /* unused with a shared cursor */
	uint8_t *shadow;
	uint64_t *seen; /* words of all writers before a sync */
	atomic_ulong refreshes, stale_words;
};

struct vmm_thread {
	struct vmm *vmm;
	pthread_t thread;
	struct hv_vcpu *vcpu; /* NULL: the device */
	struct dl_vcpu *handle;
	enum ram_writer writer;
	struct random random;
	uint64_t value; /* of its last store */
	atomic_ulong steps;
};

struct vmm_meter {
	bool running;
	struct dl_cursor *cursor;
	uint64_t *before[MEMORY_REGIONS]; /* words of all writers, by block */
	uint64_t truth_pages, counted_pages, missed_pages;
};

struct vmm {
	struct vmm_config config;
	struct hv hv;
	struct dl_log *log;
	struct ram_block ram, firmware, display_ram, blob;
	struct ram_block *blocks[4];
	struct memory memory;
	struct region *firmware_region, *smram_hole, *bar, *blob_region;

	pthread_mutex_t big_lock, send_lock, slots_lock;
	struct vmm_slot slots[VMM_SLOTS]; /* under slots_lock */
	bool slots_paused;		  /* a change of slots runs with no vCPU */

	struct vmm_consumer shared; /* WANTED */
	struct vmm_mirror display, code;
	struct vmm_meter meter;

	bool migrating;
	struct vmm_consumer migration;
	uint64_t pages_sent, rounds, wrong_pages;
	bool endless;	  /* a last pass did not end */
	bool has_bitmaps; /* the kernel records its own writes */
	/* Called between the clearing and the reading of a page. */
	void (*between)(struct vmm *vmm, struct ram_block *block, uint64_t page);

	struct hv_vcpu vcpus[HV_VCPUS];
	unsigned int n_vcpus;
	struct vmm_thread threads[HV_VCPUS + 1];
	pthread_t display_thread;
	atomic_bool paused, stop, no_device;
	unsigned int parked, running; /* under big_lock */
	pthread_cond_t changed;
	atomic_ulong full_exits;
	atomic_ullong completed[RAM_WRITERS]; /* value of the last store that is logged by now */
	atomic_ullong device_value;
};

void vmm_open(struct vmm *vmm, const struct vmm_config *config);
void vmm_close(struct vmm *vmm);

static inline bool vmm_misuses(const struct vmm *vmm, enum vmm_misuse misuse)
{
	return vmm->config.misuse & misuse;
}

void vmm_lock(struct vmm *vmm);
void vmm_unlock(struct vmm *vmm);

/* slots.c, under the big lock. */

/* A guest toggle: makes changes of regions visible. paused: no vCPU runs. */
void vmm_commit(struct vmm *vmm);
/* Tells the library which slots the shared cursor wants. */
void vmm_want(struct vmm *vmm);

/* accel.c. */

/* Under the big lock: takes of every slot of a block (NULL: all blocks). Returns the pages. */
uint64_t vmm_sync(struct vmm *vmm, struct vmm_consumer *consumer, const struct ram_block *block,
		  uint32_t flags);
/* Any thread: protects a range of a block in all slots that map it. */
void vmm_clear(struct vmm *vmm, struct ram_block *block, uint64_t first, uint64_t pages);
struct dl_cursor *vmm_cursor(struct vmm *vmm, uint32_t flags, uint32_t slot);

/* vcpus.c. */

void vmm_start_threads(struct vmm *vmm);
void vmm_stop_threads(struct vmm *vmm);
/* The guest and its devices make at least so many steps. */
void vmm_run(struct vmm *vmm, unsigned long steps);
/* Of the vCPU that has made the fewest. */
unsigned long vmm_fewest_steps(const struct vmm *vmm);
/* No vCPU is in KVM_RUN, no device writes. Without the big lock. */
void vmm_pause(struct vmm *vmm);
void vmm_resume(struct vmm *vmm);
/* The test's own vCPU stores once, in this address space. Not beside vmm_commit(). */
void vmm_script_store(struct vmm *vmm, uint32_t as_id, uint64_t gpa_page);
/* A device writes a page of a block. Under the big lock. */
void vmm_device_store(struct vmm *vmm, struct ram_block *block, uint64_t page);
/* While paused: the kernel writes guest memory, if it can be made to. */
void vmm_kernel_store(struct vmm *vmm, uint64_t gpa_page);
/*
 * The value of a writer's word, or 0 if it is of a store that may not be logged yet: its vCPU has
 * not left the guest since.
 */
uint64_t vmm_logged_value(struct vmm *vmm, const struct ram_block *block, uint64_t page,
			  enum ram_writer writer);

/* display.c. */

void vmm_mirror_open(struct vmm *vmm, struct vmm_mirror *mirror, struct ram_block *block,
		     enum ram_client client);
void vmm_mirror_close(struct vmm_mirror *mirror);
/* Under the big lock: syncs, and copies what is dirty. Counts what is older than before it. */
void vmm_mirror_refresh(struct vmm *vmm, struct vmm_mirror *mirror);

/* rate.c, without the big lock. */

void vmm_meter_start(struct vmm *vmm);
void vmm_meter_stop(struct vmm *vmm);

/* migrate.c, without the big lock. */

void vmm_migrate_start(struct vmm *vmm);
/* A sync, and all that is dirty is sent. */
void vmm_migrate_round(struct vmm *vmm);
/* Pauses; passes until nothing is left. The VM stays paused, and logging on. */
void vmm_migrate_last(struct vmm *vmm);
/* Ends a migration, complete or not. */
void vmm_migrate_end(struct vmm *vmm);
/* Pages that the destination has wrong. While the VM is paused. */
uint64_t vmm_differing_pages(const struct vmm *vmm);

#endif
