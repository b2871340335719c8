/* SPDX-License-Identifier: MIT */
/* dl_log_open(), dl_log_close(), dl_log_config(), dl_log_describe(). */

#include "api/abi.h"
#include "api/options.h"
#include "call.h"
#include "coverage.h"
#include "kvm/error_text.h"
#include "kvm/uapi.h"
#include "throttle.h"
#include "pages/rcu.h"
#include "watch.h"

#include <stdio.h>

/* A host with Intel PML refuses smaller rings: (64 + 512) * 16 bytes, rounded up. */
#define SAFE_RING_ENTRIES 1024u

uint32_t dl_library_version(void)
{
	return DL_VERSION;
}

static int enable_cap(struct dl_log *log, uint32_t cap, uint64_t arg)
{
	struct kvm_enable_cap enable = { .cap = cap, .args = { arg } };

	return dli_os_ioctl(log->vm.os, log->vm.fd, KVM_ENABLE_CAP, &enable);
}

/* EINVAL has several causes; the ring size narrows them down. */
static int ring_refused(struct dl_log *log, const struct dl_options *options, int r)
{
	char text[ERROR_TEXT_BYTES];

	if (r == -EINVAL && options->mode == DL_MODE_AUTO) {
		snprintf(log->reason, sizeof(log->reason),
			 "bitmap: the kernel refused rings of %u entries, as it does once a vCPU "
			 "exists (or if its smallest ring is larger)",
			 log->caps.ring_entries);
		log->caps.mode = DL_MODE_BITMAP;
		log->caps.backup = false;
		log->caps.ring_entries = 0;
		return 0;
	}
	if (r == -EINVAL && log->caps.ring_entries >= SAFE_RING_ENTRIES) {
		snprintf(log->reason, sizeof(log->reason),
			 "the kernel refused the rings: a vCPU exists already; open the log before "
			 "the first one is created");
		return -EBUSY;
	}
	snprintf(log->reason, sizeof(log->reason), "the kernel refused rings of %u entries: %s%s",
		 log->caps.ring_entries, dli_error_text(r, text),
		 r == -EINVAL ? " (a vCPU exists already, or this host's smallest ring is larger)"
			      : "");
	return r;
}

static int enable_backup(struct dl_log *log)
{
	char text[ERROR_TEXT_BYTES];
	int r = enable_cap(log, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 0);

	if (!r)
		return 0;
	snprintf(log->reason, sizeof(log->reason),
		 "the rings are on and stay so, but the kernel refused the backup bitmap: %s",
		 r == -EINVAL ? "a memslot exists already; open the log before the first one is set"
			      : dli_error_text(r, text));
	return r == -EINVAL ? -EBUSY : r;
}

static int enable_rings(struct dl_log *log, const struct dl_options *options)
{
	char text[ERROR_TEXT_BYTES];
	struct dli_caps *caps = &log->caps;
	uint32_t cap = caps->has & DL_HAS_RING_ACQ_REL ? KVM_CAP_DIRTY_LOG_RING_ACQ_REL
						       : KVM_CAP_DIRTY_LOG_RING;
	int r = enable_cap(log, cap, (uint64_t)caps->ring_entries * sizeof(struct kvm_dirty_gfn));

	if (r)
		return ring_refused(log, options, r);
	if (caps->backup && (r = enable_backup(log)))
		return r;
	/*
	 * Switch off INITIALLY_SET, in case another user of the VM enabled it. It leaves pages
	 * unprotected when logging starts and relies on CLEAR, which rings do not use: writes would
	 * be lost.
	 */
	if (!(caps->has & DL_HAS_MANUAL_PROTECT))
		return 0;
	r = enable_cap(log, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 0);
	if (r)
		snprintf(
			log->reason, sizeof(log->reason),
			"the rings are on and stay so, but manual protection could not be switched "
			"off: %s",
			dli_error_text(r, text));
	return r;
}

/* Probes with a reset: the kernel refuses it without rings, and it consumes no unreleased entry. */
static int check_rings_off(struct dl_log *log)
{
	char text[ERROR_TEXT_BYTES];
	bool on = false;
	int r;

	if (!log->caps.ring_max_entries)
		return 0;
	r = dli_reset_probe(log->vm.os, log->vm.fd, &on);
	if (!r && !on)
		return 0;
	if (r) {
		snprintf(log->reason, sizeof(log->reason),
			 "the rings may be on already, as no reset answers: %s",
			 dli_error_text(r, text));
		return r;
	}
	snprintf(
		log->reason, sizeof(log->reason),
		"the rings of this VM are on already: another log or program uses them, or an "
		"earlier dl_log_open() of this VM enabled them; the kernel cannot switch them off");
	return -EBUSY;
}

static int choose_mode(struct dl_log *log, int vm_fd, const struct dl_options *options)
{
	int r = dli_caps_probe(log->vm.os, log->vm.fd, &log->caps);

	if (!r && dli_caps_is_system_fd(log->vm.os, log->vm.fd))
		r = -EBADF;
	if (r) {
		dli_caps_say_failure(log->reason, sizeof(log->reason), vm_fd, "is not a VM", r);
		return r;
	}
	r = dli_caps_choose(&log->caps, options, log->reason, sizeof(log->reason));
	if (!r)
		r = check_rings_off(log);
	if (!r && dli_log_is_ring(log))
		r = enable_rings(log, options);
	return r;
}

static void copy_reason(char *why, size_t why_bytes, const char *reason)
{
	if (why && why_bytes)
		snprintf(why, why_bytes, "%s", reason);
}

int dl_log_open(int vm_fd, const struct dl_options *options, struct dl_log **out, char *why,
		size_t why_bytes)
{
	char text[ERROR_TEXT_BYTES];
	struct dl_options o;
	struct dl_log *log;
	int r = dli_options_read(options, &o, why, why_bytes);

	if (out)
		*out = NULL;
	if (r)
		return r;
	if (!out) {
		dli_say(why, why_bytes, "there is no place for the handle");
		return -EINVAL;
	}
	r = dli_log_new(vm_fd, &o, &log);
	if (r == -EBADF)
		dli_say(why, why_bytes, "file descriptor %d is not open", vm_fd);
	else if (r)
		dli_say(why, why_bytes, "no memory, or no duplicate of file descriptor %d: %s",
			vm_fd, dli_error_text(r, text));
	if (r)
		return r;
	r = choose_mode(log, vm_fd, &o);
	copy_reason(why, why_bytes, log->reason);
	if (r) {
		dli_log_put(log);
		return r;
	}
	dli_reaper_configure(&log->reaper, log->caps.ring_entries, o.idle_ns);
	/* Registers this thread with liburcu, which allocates: not in its first mark. */
	dli_rcu_read_lock();
	dli_rcu_read_unlock();
	*out = log;
	return 0;
}

/* Pass and views of a cursor end; its handle stays, for dl_cursor_free(). */
static void detach_cursors(struct dl_log *log)
{
	struct dl_cursor *cursor, *next;

	for (cursor = log->cursors; cursor; cursor = next) {
		next = cursor->next;
		dli_leave(cursor);
		pthread_mutex_unlock(&cursor->lock);
	}
}

void dl_log_close(struct dl_log *log)
{
	struct dli_call call;

	if (!log || dli_log_in_child(log))
		return;
	(void)dli_call_begin(&call, log);
	/* Waits for calls in progress, except those that only mark or acknowledge. */
	dli_changes_begin(log);
	/* Pairs with dli_log_is_closed(). */
	atomic_store_explicit(&log->closed, true, memory_order_release);
	/* Ignore failures: the log is gone for the caller, and with it dl_log_last_error(). */
	detach_cursors(log);
	dli_reaper_silence(&log->reaper);
	dli_watch_end_all(log);
	dli_reset_close(&log->reset, log->vm.own_fd && dli_vcpu_list_in_use(&log->vcpus));
	dli_changes_end(log);
	dli_call_end(&call);
	dli_log_put(log);
}

int dl_log_config(const struct dl_log *log, struct dl_config *is)
{
	struct dl_config config;

	if (!log)
		return -EINVAL;
	if (!is)
		return dli_log_fail(log, DLI_BAD_COUNT, DLI_NO_NUMBER, -EINVAL);
	if (dli_log_in_child(log))
		return -EIO;
	dli_caps_config(&log->caps, &config);
	return dli_abi_report(log, is, &config, sizeof(config));
}

/* A host where rings overflow again and again is better served by bitmaps. */
#define MANY_REPAIRS 3u

int dl_log_describe(const struct dl_log *log, char *text, size_t text_bytes)
{
	uint64_t repairs;
	bool ignored;
	char failure[200];

	if (!log)
		return -EINVAL;
	if (!text && text_bytes)
		return dli_log_fail(log, DLI_BAD_COUNT, DLI_NO_NUMBER, -EINVAL);
	if (dli_log_in_child(log))
		return -EIO;
	repairs = atomic_load_explicit(&log->repairs, memory_order_relaxed);
	(void)dli_last_error_text(&log->error, failure, sizeof(failure));
	ignored = dli_log_is_ring(log) && dli_limits_are_ignored(log);
	return snprintf(text, text_bytes, "%s%s%s%s%s", log->reason,
			failure[0] ? "; last failure: " : "", failure,
			repairs < MANY_REPAIRS
				? ""
				: "; rings overflowed again and again: serve dl_log_fd(), use "
				  "larger rings, or DL_MODE_BITMAP",
			ignored ? "; a vCPU that is to pause does not ask dl_vcpu_pause_due()"
				: "");
}

int dl_log_last_error(const struct dl_log *log, char *text, size_t text_bytes)
{
	if (!log)
		return -EINVAL;
	if (!text && text_bytes)
		return dli_log_fail(log, DLI_BAD_COUNT, DLI_NO_NUMBER, -EINVAL);
	if (dli_log_in_child(log))
		return -EIO;
	return dli_last_error_text(&log->error, text, text_bytes);
}
