/* SPDX-License-Identifier: MIT */
/* The checks around each call of a tour. */
#include "tour.h"

#include "cmocka_all.h"
#include "cursor.h"
#include "log.h"
#include "ring/ring_private.h"
#include "kvm/uapi.h"
#include "../model/uffd_scan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

static const char *const call_names[TOUR_CALLS] = {
	[TOUR_OUTSIDE] = "outside",
	[TOUR_PROBE] = "dl_probe",
	[TOUR_OPEN] = "dl_log_open",
	[TOUR_CONFIG] = "dl_log_config",
	[TOUR_DESCRIBE] = "dl_log_describe",
	[TOUR_LOG_STATS] = "dl_log_stats",
	[TOUR_VCPU_STATS] = "dl_vcpu_stats",
	[TOUR_LAST_ERROR] = "dl_log_last_error",
	[TOUR_FD] = "dl_log_fd",
	[TOUR_REAP] = "dl_log_reap",
	[TOUR_SLOT_SET] = "dl_slot_set",
	[TOUR_SLOT_REMOVE] = "dl_slot_remove",
	[TOUR_SLOT_CLEAR] = "dl_slot_clear",
	[TOUR_SLOT_WATCH] = "dl_slot_watch",
	[TOUR_VCPU_ADD] = "dl_vcpu_add",
	[TOUR_VCPU_REMOVE] = "dl_vcpu_remove",
	[TOUR_CURSOR_NEW] = "dl_cursor_new",
	[TOUR_CURSOR_FREE] = "dl_cursor_free",
	[TOUR_CURSOR_STATS] = "dl_cursor_stats",
	[TOUR_HARVEST] = "dl_harvest",
	[TOUR_HARVEST_PAUSED] = "dl_harvest (paused)",
	[TOUR_DRAIN] = "dl_vcpu_drain",
	[TOUR_MARK] = "dl_mark_gpa",
	[TOUR_MARK_SLOT] = "dl_mark_slot",
	[TOUR_MARK_HVA] = "dl_mark_hva",
	[TOUR_MARK_IOV] = "dl_mark_iov",
	[TOUR_MARK_BITMAP] = "dl_mark_bitmap",
	[TOUR_READ] = "dl_cursor_read",
	[TOUR_ACK] = "dl_cursor_ack",
	[TOUR_END] = "dl_cursor_end",
	[TOUR_TAKE] = "dl_cursor_take",
	[TOUR_LIMIT] = "dl_vcpu_limit",
	[TOUR_PAUSE_DUE] = "dl_vcpu_pause_due",
	[TOUR_KICKS] = "dl_log_kicks",
	[TOUR_PLAN_NEW] = "dl_plan_new",
	[TOUR_PLAN_SENT] = "dl_plan_sent",
	[TOUR_PLAN_NEXT] = "dl_plan_next",
	[TOUR_PLAN_FREE] = "dl_plan_free",
	[TOUR_CLOSE] = "dl_log_close",
};

const char *tour_call_name(enum tour_call call)
{
	return call_names[call];
}

#define RING_MODEL                                       \
	.page_bytes = 4096, .virtual_clock = true,       \
	.reserved_entries = 188, /* full at 68 of 256 */ \
		.has_signal_short_reset = true

const struct tour_mode tour_modes[TOUR_MODES] = {
	{ .name = "ring",
	  .model = { RING_MODEL,
		     .has = MODEL_HAS_RING_ACQ_REL | MODEL_HAS_MANUAL_PROTECT | MODEL_HAS_WATCH },
	  .options = { .mode = DL_MODE_RING, .ring_entries = 256 } },
	{ .name = "ring, backup",
	  .model = { RING_MODEL,
		     .has = MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP | MODEL_HAS_MANUAL_PROTECT },
	  .options = { .mode = DL_MODE_RING, .ring_entries = 256 } },
	{ .name = "ring, two cursors",
	  .model = { RING_MODEL, .has = MODEL_HAS_RING_ACQ_REL | MODEL_HAS_MANUAL_PROTECT },
	  .options = { .mode = DL_MODE_RING, .ring_entries = 256 },
	  .two_cursors = true },
	{ .name = "bitmap",
	  .model = { .has = MODEL_HAS_RING_ACQ_REL },
	  .options = { .mode = DL_MODE_BITMAP } },
	{ .name = "bitmap, manual",
	  .model = { .virtual_clock = true, .has = MODEL_HAS_MANUAL_PROTECT | MODEL_HAS_WATCH },
	  .options = { .mode = DL_MODE_BITMAP } },
	{ .name = "bitmap, initially set",
	  .model = { .has = MODEL_HAS_MANUAL_PROTECT | MODEL_HAS_INITIALLY_SET },
	  .options = { .mode = DL_MODE_BITMAP } },
	{ .name = "bitmap, initially set, two cursors",
	  .model = { .has = MODEL_HAS_MANUAL_PROTECT | MODEL_HAS_INITIALLY_SET },
	  .options = { .mode = DL_MODE_BITMAP },
	  .two_cursors = true },
};

void tour_problem(struct tour *tour, const char *format, ...)
{
	char text[300];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	tour->result->problems++;
	print_error("%s: site %u (%s in %s) with %s%s: %s\n", tour->mode->name,
		    tour->sites.fault.at, sites_request_name(tour->result->request),
		    tour_call_name(tour->result->call), strerrorname_np(tour->sites.fault.error),
		    tour->sites.fault.executed ? ", executed" : "", text);
}

static bool is_free(pthread_mutex_t *lock)
{
	if (pthread_mutex_trylock(lock))
		return false;
	pthread_mutex_unlock(lock);
	return true;
}

static bool locks_are_free(struct dl_log *log)
{
	if (!is_free(&log->changes) || !is_free(&log->lock) || !is_free(&log->vcpus.lock) ||
	    !is_free(&log->reset.lock) || !is_free(&log->reaper.lock) || log->reset.busy)
		return false;
	for (struct dl_cursor *cursor = log->cursors; cursor; cursor = cursor->next)
		if (!is_free(&cursor->lock))
			return false;
	for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(&log->vcpus, vcpu));)
		if (!is_free(&vcpu->ring->lock))
			return false;
	return true;
}

static void check_side_effects(struct tour *tour, enum tour_call call)
{
	sigset_t now, none;

	if (errno != EXDEV)
		tour_problem(tour, "errno was changed to %s by %s", strerrorname_np(errno),
			     tour_call_name(call));
	sigemptyset(&none);
	pthread_sigmask(SIG_SETMASK, &none, &now);
	if (memcmp(&now, &none, 8))
		tour_problem(tour, "%s left signals blocked", tour_call_name(call));
	if (tour->guest.log && call != TOUR_CLOSE && !locks_are_free(tour->guest.log))
		tour_problem(tour, "%s left a lock held", tour_call_name(call));
}

static bool in_bitmap_mode(const struct tour *tour)
{
	return tour->mode->options.mode == DL_MODE_BITMAP;
}

/* True if the documentation of the call allows it to ignore this error. */
static bool may_ignore(const struct tour *tour, enum tour_call call, int error, int r)
{
	unsigned long request = tour->result->request;

	switch (request) {
	case SITE_MUNMAP:
	case SITE_CLOSE:
	case SITE_MADVISE:  /* forks are not noticed then */
	case SITE_MPROTECT: /* nor slots that the VMM replaced */
		return true;
	case UFFDIO_UNREGISTER: /* the memory may be gone */
		return true;
	case SITE_USERFAULTFD: /* then there is no DL_HAS_WATCH */
	case SITE_PAGEMAP:
	case UFFDIO_API:
		return call == TOUR_PROBE || call == TOUR_OPEN;
	case MODEL_PAGEMAP_SCAN: /* the slot is wholly dirty, where it is not only a question */
		return call != TOUR_HARVEST && call != TOUR_HARVEST_PAUSED && call != TOUR_TAKE;
	case KVM_GET_API_VERSION: /* fails on a VM descriptor anyway */
		return true;
	case SITE_TIMER_SET: /* its first setting has shown that it works */
		return call != TOUR_FD && call != TOUR_REAP;
	case SITE_SIGNAL_MASK:
		/* A call that returns nothing goes on; a removal goes on without its reset. */
		return call == TOUR_SLOT_REMOVE || call == TOUR_CLOSE || call == TOUR_CURSOR_FREE ||
		       call == TOUR_VCPU_REMOVE || call == TOUR_PLAN_FREE;
	case KVM_RESET_DIRTY_RINGS:
		/* They only ask whether rings are on; this is the answer where they are off. */
		if (call == TOUR_OPEN || (call == TOUR_CURSOR_NEW && in_bitmap_mode(tour)))
			return error == EINVAL || error == ENOTTY;
		/* These entries can be reset later, and nothing is lost. */
		return call == TOUR_SLOT_REMOVE || call == TOUR_CLOSE || call == TOUR_CURSOR_FREE;
	case KVM_SET_USER_MEMORY_REGION:
		return call == TOUR_CLOSE || call == TOUR_CURSOR_FREE;
	case KVM_GET_DIRTY_LOG: /* the slot is wholly dirty then */
		return call == TOUR_SLOT_REMOVE;
	case KVM_CLEAR_DIRTY_LOG:
		/* If extents were read already, the next call returns the error. */
		if (call == TOUR_READ)
			return r > 0;
		/* A clean slot that cannot be cleared counts as dirty. */
		return call == TOUR_SLOT_SET;
	default:
		/* The ioctl that probes for a vCPU, which fails like this on one. */
		return call == TOUR_VCPU_ADD && request != SITE_MMAP_VCPU &&
		       request != SITE_ALLOCATION && error == EINVAL;
	}
}

/* True if the library retries the request: not if it may have been executed in part. */
static bool is_retried(enum tour_call call, unsigned long request, int error)
{
	if (request == KVM_GET_DIRTY_LOG || request == MODEL_PAGEMAP_SCAN ||
	    (request == KVM_RESET_DIRTY_RINGS && call != TOUR_OPEN))
		return false;
	return (error == EINTR || error == EAGAIN) && request > SITE_ALLOCATION;
}

static int expected(const struct tour *tour, enum tour_call call)
{
	unsigned long request = tour->result->request;
	int error = tour->sites.fault.error;

	if (error == EAGAIN && request < SITE_ALLOCATION)
		error = ENOMEM;
	/* Not retried, because the request may have been executed in part. */
	if (error == EINTR || error == EAGAIN)
		error = EIO;
	if (call == TOUR_VCPU_ADD && request == SITE_MMAP_VCPU && error != ENOMEM)
		return -EBADF; /* or the error itself, if it hit the mapping of the ring */
	return -error;
}

static void check_result(struct tour *tour, enum tour_call call, int r)
{
	unsigned long request = tour->result->request;
	int error = tour->sites.fault.error;

	if (r == -EINTR || r == -EAGAIN) {
		tour_problem(tour, "%s returned %s", tour_call_name(call), strerrorname_np(-r));
	} else if (r < 0) {
		bool refused = tour->sites.capability == KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP;
		bool lacks = call == TOUR_SLOT_WATCH && r == -EOPNOTSUPP;
		bool other_kind = call == TOUR_OPEN || call == TOUR_PROBE || call == TOUR_VCPU_ADD;

		if (r != expected(tour, call) && r != -error && !(other_kind && r == -EBADF) &&
		    !(refused && r == -EBUSY) && !lacks)
			tour_problem(tour, "%s returned %s", tour_call_name(call),
				     strerrorname_np(-r));
	} else if (!may_ignore(tour, call, error, r) && !is_retried(call, request, error)) {
		tour_problem(tour, "%s returned %d", tour_call_name(call), r);
	}
}

static void enter(struct tour *tour, enum tour_call call)
{
	if (tour->watch.around)
		tour->watch.around(call, true);
	errno = EXDEV;
	sites_enter(&tour->sites);
}

static void leave(struct tour *tour, enum tour_call call)
{
	sites_leave();
	if (tour->watch.around)
		tour->watch.around(call, false);
}

void tour_begin(struct tour *tour, struct tour_attempt *attempt, enum tour_call call)
{
	*attempt = (struct tour_attempt){ .call = call,
					  .hits = tour->sites.hits,
					  .allocations = tour->sites.allocations };
	enter(tour, call);
}

/* If a capability after the rings cannot be enabled, open fails with the rings enabled. */
static void check_refused_backup(struct tour *tour)
{
	const struct guest *guest = &tour->guest;
	struct dl_log *log;

	if (tour->sites.capability != KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP &&
	    tour->sites.capability != KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)
		return;
	if (dl_log_open(guest->vm_fd, &guest->config.options, &log, NULL, 0) != -EBUSY)
		tour_problem(tour, "the rings are not enabled");
	longjmp(tour->abandon, 1);
}

/* A failed start must have disabled logging of all slots again. */
static void check_all_off(struct tour *tour)
{
	const struct dli_slot_table *table = dli_slots_table(&tour->guest.log->slots);
	const struct dli_slot *slot;

	for (struct dli_slot_walk walk = dli_slot_walk(table); (slot = dli_slot_next(&walk));)
		if (slot->logged)
			tour_problem(tour, "slot %#x is logged after a start that failed",
				     slot->slot);
}

bool tour_again(struct tour *tour, struct tour_attempt *attempt, int r)
{
	bool hit = tour->sites.hits != attempt->hits;

	leave(tour, attempt->call);
	if (hit && !tour->result->hit) {
		tour->result->hit = true;
		tour->result->call = attempt->call;
		tour->result->request = tour->sites.request;
		tour->result->returned = r < 0;
	}
	attempt->hits = tour->sites.hits;
	check_side_effects(tour, attempt->call);
	if (hit)
		check_result(tour, attempt->call, r);
	else if (r < 0)
		tour_problem(tour, "%s fails without a fault, with %s",
			     tour_call_name(attempt->call), strerrorname_np(-r));
	if (r >= 0)
		return false;
	if (!hit || ++attempt->failures > tour->sites.fault.times)
		longjmp(tour->abandon, 1);
	if (attempt->call == TOUR_CURSOR_NEW && !tour->logging && tour->sites.fault.times == 1)
		check_all_off(tour);
	if (attempt->call == TOUR_OPEN)
		check_refused_backup(tour);
	tour->disturbed = true;
	tour_disturb(tour);
	attempt->hits = tour->sites.hits;
	enter(tour, attempt->call);
	return true;
}

void tour_end(struct tour *tour, struct tour_attempt *attempt)
{
	tour->result->allocations[attempt->call] += tour->sites.allocations - attempt->allocations;
}

static void check_nothing_held(struct tour *tour)
{
	if (tour->sites.blocks)
		tour_problem(tour, "%ld allocations are not freed", tour->sites.blocks);
	if (tour->sites.maps)
		tour_problem(tour, "%ld mappings are not unmapped", tour->sites.maps);
	if (tour->sites.duplicates)
		tour_problem(tour, "%ld file descriptors are not closed", tour->sites.duplicates);
}

static void free_guest(struct tour *tour)
{
	checker_free(&tour->checker);
	for (unsigned int i = 0; i < tour->guest.block_count; i++)
		free(tour->guest.blocks[i].memory);
	model_free(tour->guest.model);
}

void tour_run(const struct tour_mode *mode, const struct site_fault *fault,
	      const struct tour_watch *watch, struct tour_result *result)
{
	const struct guest_config config = { .model = mode->model, .options = mode->options };
	static struct tour tour; /* the log keeps its address */

	memset(&tour, 0, sizeof(tour));
	memset(result, 0, sizeof(*result));
	tour.mode = mode;
	tour.result = result;
	if (watch)
		tour.watch = *watch;
	guest_new(&tour.guest, &config);
	sites_init(&tour.sites, &tour.guest.os, fault);
	tour.sites.cross = tour.watch.cross;
	tour.guest.config.options.size = sizeof(struct dl_options);
	tour.guest.config.options.os = &tour.sites.os;
	if (!setjmp(tour.abandon)) {
		tour_script(&tour);
		check_nothing_held(&tour);
	}
	sites_leave();
	result->sites = tour.sites.count;
	free_guest(&tour);
}
