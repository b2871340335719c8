/* SPDX-License-Identifier: MIT */
#ifndef SIMULATION_WORLD_H
#define SIMULATION_WORLD_H

/*
 * The state of one run: the model kernel and its guest, the log under test, the copy that the
 * senders make, and the slots of the caller (a VMM).
 */

#include <dirtylog/dirtylog.h>

#include "channels.h"
#include "faults.h"
#include "insight.h"
#include "model.h"
#include "plan.h"
#include "stand_ins.h"

enum {
	PAGE_BYTES = SIM_PAGE_BYTES,
	BLOCK_BYTES = PLAN_BLOCK_PAGES * PAGE_BYTES,
	DEVICE_LOG_WORDS = PLAN_BLOCK_PAGES / 64 + 1,
	INCARNATIONS = 160,
	EXCUSES = 4096,
	MAX_EXITS = 600, /* full exits of one store: far more than a recovery takes */
	MAX_TRIES = 40,	 /* of a call that fails because of a fault */
};

/* A slot from creation to removal. Every run that is handed out must fit one. */
struct incarnation {
	const struct place *place;
	uint64_t gpa_page;
	uint64_t removed_at;	/* in points; 0: it exists */
	uint64_t next_gpa_page; /* while it is being set */
	uint64_t old_gpa_page, moved_at;
	bool no_log, read_only, wanted, is_set;
};

/* The caller's state of a place. */
struct place_state {
	struct incarnation *now; /* NULL: no slot */
};

struct page_note {
	uint64_t generation, written_at;
	const char *by;
	/* A bit for each consumer: its copy must equal the page at the end of a pass. */
	uint8_t due;
	/* Likewise: a removed slot's words have the page, and it is to be sent once more. */
	uint8_t kept;
};

struct excuse {
	uint32_t slot;
	uint64_t page;
	uint64_t repairs; /* once so many are done, it counts no more */
};

struct vcpu_state {
	int fd;
	struct dl_vcpu *handle;
	uint32_t users; /* of the handle, besides the vCPU itself */
	bool created;
};

struct world {
	const struct plan *plan;
	struct model *model;
	struct dl_os os;
	int vm_fd;
	struct dl_log *log;
	char why[400];

	struct place_state places[PLAN_SLOTS];
	struct incarnation incarnations[INCARNATIONS];
	uint32_t incarnation_count;
	struct vcpu_state vcpus[PLAN_VCPUS];
	uint64_t generation;
	uint64_t chance; /* state of a random generator */
	/* Device writes to each place, until a device takes them from there. */
	uint64_t device_logs[PLAN_SLOTS][DEVICE_LOG_WORDS];
	struct page_note notes[PLAN_BLOCKS][PLAN_BLOCK_PAGES];

	struct consumer consumers[CONSUMERS];
	uint8_t kept_for; /* consumers with kept pages */
	uint64_t epoch; /* changes at the beginning and end of each start and stop of a consumer */
	uint32_t changers; /* changes of slots in progress */
	uint64_t changes;  /* increases when one begins and ends */
	uint32_t pauses;   /* the guest must not run */
	uint32_t in_guest; /* writers of the guest that do */

	/* dl_log_close() is the last call on the log. */
	bool closing, closed;
	uint32_t log_users;

	struct dl_plan *migration; /* NULL: there is no plan */
	const struct consumer *migrated;
	uint32_t migration_users;

	struct faults faults;
	uint32_t resets_running, slot_calls_running;
	uint32_t duplicates;
	bool duplicate_failed;

	struct excuse excuses[EXCUSES];
	uint32_t excuse_count;
	struct world_counts {
		uint64_t points, switches, overwritten, full_exits;
		uint64_t late, inexact, faults, passes, sessions, torn, excused, pauses, looks;
	} counts;
};

extern struct world world;

/* The memory of the guest. */
extern uint8_t memory[PLAN_BLOCKS][BLOCK_BYTES];

/* world.c */
void world_begin(const struct plan *plan);
void world_setup(void);
void world_close_log(void);
void world_end(void);

/* Brackets each call on the log, which another task may close. False: it is being closed. */
bool log_enter(void);
void log_leave(void);

/* The result, which must be 0 or more, one of allowed (ended by 0), or the error of a fault. */
int expect_result(const char *call, int r, const int *allowed);
#define EXPECT(call, r, ...) expect_result(call, r, (const int[]){ __VA_ARGS__ __VA_OPT__(, ) 0 })

/* Notes that the current task writes the page, and returns the value to write. */
uint64_t new_generation(uint32_t block, uint32_t page);
uint32_t place_in_page(uint64_t generation);

/* consumers.c */
bool any_consumer(void);
uint32_t consumers_of_wanted(void);
int consumer_start(struct consumer *consumer, bool clean);
void consumer_stop(struct consumer *consumer);
/* Its last call has returned, or the log is closed: nobody uses it any more. */
void consumer_forget(struct consumer *consumer);

/* receivers.c */
enum { ALL_CONSUMERS = (1 << CONSUMERS) - 1 };

void receivers_begin(void);
/*
 * These copy pages at once, to some consumers' receivers; what is on its way arrives later. The
 * first is for the receiver that goes by blocks of memory, the second for the one that goes by
 * guest address, where a slot is or will be, the third for both.
 */
void receivers_copy_block(uint32_t consumers, uint32_t block, uint32_t first_page, uint32_t pages);
void receivers_copy_gpa(uint32_t consumers, const struct place *place, uint64_t gpa_page);
void receivers_copy_place(uint32_t consumers, const struct place *place, uint64_t gpa_page);
/* These void what was sent before. */
void receivers_spoil_place(uint32_t consumers, const struct place *place, uint64_t gpa_page);
void receivers_spoil_all(uint32_t consumers);
/* A part of a message. */
void receivers_get(uint32_t consumer, const struct message *message, uint32_t at, uint32_t bytes);
bool receivers_differ(uint32_t consumer, uint32_t block, uint32_t page);
bool receivers_differ_at(uint32_t consumer, uint32_t block, uint32_t page, uint64_t gpa_page);

/* vcpu.c */
void vcpu_plug(struct vcpu_state *vcpu);
void vcpu_unplug(struct vcpu_state *vcpu);
void vcpu_write(struct vcpu_state *vcpu, uint32_t place, uint32_t page);
void vcpu_stop_all(void);
/* Bracket what writes without the VMM; wait while the guest is paused. */
void guest_enter(void);
void guest_leave(void);
/* Between these, no vCPU is in the guest. */
void guest_pause(void);
void guest_resume(void);
void vcpu_act(const struct actor *actor, const struct op *op);

/* layout.c */
struct setting {
	uint32_t flags; /* enum dl_slot_flag; WANTED counts unless another slot has the memory */
	uint32_t gpa_choice;
	bool read_only;
};

int layout_set(uint32_t place, const struct setting *setting);
void layout_act(const struct op *op);
void layout_note_start(const struct consumer *consumer);
uint64_t layout_gpa(uint32_t place); /* 0: there is no slot */
/* Where a page of a block is at home for the consumer; 0: nowhere. */
uint64_t layout_home(const struct consumer *consumer, uint32_t block, uint32_t page);
bool layout_covers(const struct consumer *consumer, uint32_t place);

/* senders.c */
struct pass {
	struct consumer *consumer;
	uint32_t max_runs, give_up_after;
	uint32_t ack_share; /* one run in so many is not acknowledged; 0: all are */
	uint64_t state;
	uint64_t pages;
	bool takes_too;
};

/* Reads a pass, which is open or begins. False if it did not reach the end. */
bool sender_pass(struct pass *pass);
/* After its harvest. */
void sender_pass_begins(struct consumer *consumer, bool is_open);
/* The last user of a pass ends it. */
void sender_leave(struct consumer *consumer);
void sender_act(const struct op *op);

/* takers.c */
/* Takes every slot once. Returns the number of pages. */
uint64_t taker_round(struct consumer *consumer, uint32_t flags, bool *failed);
void taker_act(struct consumer *consumer, uint64_t *state);

/* throttle.c */
void throttle_act(const struct op *op);
/* Before the vCPU enters the guest. */
void throttle_vcpu(struct vcpu_state *vcpu);
/* Bytes of a consumer that may have a plan. */
void throttle_sent(const struct consumer *consumer, uint64_t bytes);
void throttle_wait_for_users(const uint32_t *users);
void throttle_free_plan(void);
void throttle_end(void);

/* check.c */
/* Fails unless the run fits a slot that there was when the read began, or later. */
const struct incarnation *check_run(struct consumer *consumer, const struct dl_extent *run,
				    uint64_t read_began_at);

/* actors.c */
void session_act(const struct op *op);

/* actors.c */
void actor_run(void *opaque);

/* oracle.c */
void oracle_finale(void *opaque);
void oracle_after_reset(void);

/* cells.c */
void cells_begin(void);
/* Whether a page of a place is in an entry that the kernel lost, and no repair found since. */
bool cells_excuse(const struct place *place, uint32_t page);
/* A slot is being removed, or was just now. */
void cells_slot_goes(uint32_t slot);

/* promise.c */
struct promise {
	uint64_t epoch;
	uint32_t n;
	struct promised {
		const struct dl_vcpu *vcpu;
		uint32_t filled_to;
		uint64_t overflows;
	} all[PLAN_VCPUS];
};

void promise_note(struct promise *promise);
void promise_check(const struct promise *promise);

#endif
