/* SPDX-License-Identifier: MIT */
#ifndef DLI_CURSOR_H
#define DLI_CURSOR_H

#include "log.h"
#include "pages/view.h"

struct dli_run {
	uint64_t first_page, pages;
};

/*
 * One consumer, and its pass.
 *
 * A view has an index in the registry from its beginning to its end, so that an acknowledgement
 * finds it without a lock: inside an RCU read section, because a removed view is freed after a
 * grace period. A pass walks the views in order, which its harvest fixes.
 *
 * Fields are under the cursor's lock if they have no other comment. Pages are taken in batches; if
 * the bitmap is cleared by hand, a batch is at most one chunk, so that one KVM_CLEAR_DIRTY_LOG
 * covers it. No extent is longer than a batch.
 */
struct dl_cursor {
	struct dl_log *log;
	struct dl_cursor *next; /* of the log */
	/* Constant. */
	uint32_t id, flags, slot, page_shift;
	uint64_t coalesce_pages, max_pages;

	pthread_mutex_t lock;
	bool attached; /* false: the log is closed. Also under log->changes. */
	bool paused;   /* the open pass began with no vCPU in KVM_RUN */
	bool planned;  /* has a plan; under log->lock */
	bool skips;    /* leaves out, in its first pass, what is written again meanwhile */
	uint64_t last_pass;
	/* Number of the open pass; 0: none. Also read by acknowledgements. */
	_Atomic uint64_t pass;
	_Atomic uint32_t acks; /* acknowledgements in progress */

	/* Changed under the log's lock too. */
	_Atomic(struct dli_view *) *views; /* the registry */
	_Atomic uint32_t n_views;	   /* entries in use, empty ones among them */
	uint32_t first_free;		   /* no entry before it is empty */

	struct dli_view **order;
	uint32_t n_order, at;
	uint64_t next_block; /* in the set of order[at] */
	uint32_t word;	     /* index in the batch of the next word to hand out */
	struct dli_batch batch;
	struct dli_run held; /* of the batch, cut off and not handed out yet; no pages: none */
	void *memory;	     /* of views and order */
	size_t memory_bytes;

	_Atomic uint64_t read_pages, acked_pages, passes;
};

/* A ticket: whose extent this is. Zero is none. */
enum { TICKET_INDEX_BITS = 17, TICKET_PASS_BITS = 32 };

#ifndef MAX_VIEWS /* some tests have little memory */
#define MAX_VIEWS (UINT32_C(1) << TICKET_INDEX_BITS)
#endif

#define PASS_MASK ((UINT64_C(1) << TICKET_PASS_BITS) - 1)

static inline uint64_t dli_ticket(const struct dl_cursor *cursor, uint64_t pass, uint32_t index)
{
	return (uint64_t)cursor->id << (TICKET_INDEX_BITS + TICKET_PASS_BITS) |
	       (pass & PASS_MASK) << TICKET_INDEX_BITS | index;
}

static inline uint64_t dli_ticket_pass(uint64_t ticket)
{
	return ticket >> TICKET_INDEX_BITS & PASS_MASK;
}

static inline uint64_t dli_ticket_cursor(uint64_t ticket)
{
	return ticket >> (TICKET_INDEX_BITS + TICKET_PASS_BITS);
}

static inline uint64_t dli_cursor_pass(const struct dl_cursor *cursor)
{
	/* For acknowledgements: pairs with dli_pass_close(). */
	return atomic_load_explicit(&cursor->pass, memory_order_seq_cst);
}

/* Makes a cursor that covers nothing yet. */
int dli_cursor_new(struct dl_log *log, const struct dl_cursor_options *options,
		   struct dl_cursor **cursor);
void dli_cursor_delete(struct dl_cursor *cursor);

/*
 * True if a cursor that logs wants slots with these flags (DL_SLOT_*), or if one that does not
 * wants to see what an audit of the slot finds.
 */
bool dli_cursor_wants(const struct dl_cursor *cursor, uint32_t slot, uint32_t flags);

/* True if a slot with these flags would be logged for this cursor. */
bool dli_cursor_covers(const struct dl_cursor *cursor, uint32_t slot, uint32_t flags);

/* Gives a view its index. -ENOMEM: there is none left. Under the log's lock. */
int dli_cursor_register(struct dl_cursor *cursor, struct dli_view *view);

/* Under both locks. */
void dli_cursor_unregister(struct dl_cursor *cursor, struct dli_view *view);

static inline struct dli_view *dli_cursor_view_at(const struct dl_cursor *cursor, uint32_t index)
{
	/* Pairs with dli_cursor_register(): the view is complete. */
	return atomic_load_explicit(&cursor->views[index], memory_order_acquire);
}

/* True if the cursor logs nothing, and is only shown what audits find. */
static inline bool dli_cursor_is_audit(const struct dl_cursor *cursor)
{
	return cursor->flags & DL_CURSOR_MISSED;
}

/* The cursor's view of a slot, or NULL. Under the log's lock. */
static inline struct dli_view *dli_cursor_view(const struct dl_cursor *cursor,
					       const struct dli_slot *slot)
{
	return dli_cursor_is_audit(cursor) ? dli_slot_missed_view(slot, cursor)
					   : dli_slot_view(slot, cursor);
}

static inline uint32_t dli_cursor_count(const struct dl_cursor *cursor)
{
	/* Pairs with dli_cursor_register(): the entries that it counts have been written. */
	return atomic_load_explicit(&cursor->n_views, memory_order_acquire);
}

/* Pages that are known to be pending, or in flight. Any thread, inside a read section or a lock. */
uint64_t dli_cursor_pending_pages(const struct dl_cursor *cursor);
uint64_t dli_cursor_in_flight_pages(const struct dl_cursor *cursor);

/*
 * For a change of slots: no cursor reads, begins or ends a pass, joins or leaves meanwhile. Takes
 * all locks of the log down to log->lock.
 */
void dli_changes_begin(struct dl_log *log);
void dli_changes_end(struct dl_log *log);

/* True if a cursor's pass is open. Between the two calls above. */
bool dli_any_pass_open(const struct dl_log *log);

/*
 * The first half of an end, under the cursor's lock. No acknowledgement that has found the pass
 * open is in progress after this: it could take a page of the next pass for its own. May wait for
 * one, so the log's lock is better not held. Returns the pass, for the second half; 0: none open.
 */
uint64_t dli_pass_close(struct dl_cursor *cursor);

/* The next functions are called with the cursor's lock and the log's lock held. */

/* Begins a pass: dli_view_catch_up() for each view. */
void dli_cursor_catch_up(struct dl_cursor *cursor);

/* From now on what is new is what is new to this cursor: it has a plan. Under the log's lock. */
void dli_cursor_set_planned(struct dl_cursor *cursor, bool planned);

/* Moves what was marked since the last time into the sets of all cursors. */
void dli_cursor_distribute(struct dl_cursor *cursor);

/*
 * Ends a pass that was closed. commit: forgets all pages that were handed out; otherwise they are
 * pending again.
 */
void dli_pass_end(struct dl_cursor *cursor, uint64_t pass, bool commit);

/* Takes a view out of the open pass: its slot changes. Pages that it handed out stay in flight. */
void dli_pass_leave(struct dl_cursor *cursor, struct dli_view *view);

/*
 * Begins a slot anew, for one cursor or for all: its pages are all pending, and in no open pass.
 * The next pass hands out again what an open one had handed out.
 */
void dli_pass_restart_view(struct dl_cursor *cursor, struct dli_view *view);
void dli_pass_restart_slot(struct dl_log *log, struct dli_slot *slot);

#endif
