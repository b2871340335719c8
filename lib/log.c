/* SPDX-License-Identifier: MIT */
/* Opening and closing the log of a VM. */

#include "log.h"

#include "abi.h"
#include "rcu.h"
#include "session.h"
#include "uapi.h"

#include <stdio.h>
#include <stdlib.h>

/* Below this many entries a host with Intel PML refuses a ring: (64 + 512) * 16 bytes, rounded. */
#define SAFE_RING_ENTRIES 1024u

uint32_t dl_library_version(void)
{
	return DL_VERSION;
}

void dli_log_get(struct dl_log *log)
{
	atomic_fetch_add_explicit(&log->references, 1, memory_order_relaxed);
}

void dli_log_put(struct dl_log *log)
{
	/* Pairs with itself: all are through with the log (release) before the last frees it (acquire). */
	if (atomic_fetch_sub_explicit(&log->references, 1, memory_order_acq_rel) != 1)
		return;
	dli_slots_sweep(&log->slots, true);
	dli_vcpu_list_fini(&log->vcpus);
	dli_slots_fini(&log->slots);
	dli_bitmap_release(&log->buffer, log->os);
	dli_reset_fini(&log->reset);
	pthread_mutex_destroy(&log->lock);
	pthread_mutex_destroy(&log->reading);
	free(log);
}

void dli_log_note_failure(struct dl_log *log, const char *what, uint32_t slot, int error)
{
	snprintf(log->last_failure, sizeof(log->last_failure),
		 "%s for slot %u of address space %u: %s", what, slot & 0xffff, slot >> 16,
		 strerrordesc_np(-error));
}

int dli_log_slot_ioctl(struct dl_log *log, unsigned long request, void *arg)
{
	uint64_t begin_ns = dli_os_now_ns();
	int r = dli_os_ioctl(log->os, log->vm_fd, request, arg);

	atomic_fetch_add_explicit(&log->slot_ioctl_ns, dli_os_now_ns() - begin_ns,
				  memory_order_relaxed);
	return r;
}

static int enable_cap(struct dl_log *log, uint32_t cap, uint64_t arg)
{
	struct kvm_enable_cap enable = { .cap = cap, .args = { arg } };

	return dli_os_ioctl(log->os, log->vm_fd, KVM_ENABLE_CAP, &enable);
}

/* The kernel says EINVAL for several things; what it can be is told from the size. */
static int ring_refused(struct dl_log *log, const struct dl_options *options, int r)
{
	if (r == -EINVAL && options->mode == DL_MODE_AUTO) {
		snprintf(
			log->reason, sizeof(log->reason),
			"bitmap: the kernel refused rings of %u entries, as it does once a vCPU exists "
			"(or where its smallest ring is larger)",
			log->caps.ring_entries);
		log->caps.mode = DL_MODE_BITMAP;
		log->caps.backup = false;
		log->caps.ring_entries = 0;
		return 0;
	}
	if (r == -EINVAL && log->caps.ring_entries >= SAFE_RING_ENTRIES) {
		snprintf(
			log->reason, sizeof(log->reason),
			"the kernel refused the rings: a vCPU exists already; open the log before the "
			"first one is created");
		return -EBUSY;
	}
	snprintf(log->reason, sizeof(log->reason), "the kernel refused rings of %u entries: %s%s",
		 log->caps.ring_entries, strerrordesc_np(-r),
		 r == -EINVAL ? " (a vCPU exists already, or this host's smallest ring is larger)"
			      : "");
	return r;
}

static int enable_backup(struct dl_log *log)
{
	int r = enable_cap(log, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 0);

	if (!r)
		return 0;
	snprintf(log->reason, sizeof(log->reason),
		 "the rings are on and stay so, but the kernel refused the backup bitmap: %s",
		 r == -EINVAL ? "a memslot exists already; open the log before the first one is set"
			      : strerrordesc_np(-r));
	return r == -EINVAL ? -EBUSY : r;
}

static int enable_rings(struct dl_log *log, const struct dl_options *options)
{
	struct dli_caps *caps = &log->caps;
	uint32_t cap = caps->has & DL_HAS_RING_ACQ_REL ? KVM_CAP_DIRTY_LOG_RING_ACQ_REL
						       : KVM_CAP_DIRTY_LOG_RING;
	int r = enable_cap(log, cap, (uint64_t)caps->ring_entries * sizeof(struct kvm_dirty_gfn));

	if (r)
		return ring_refused(log, options, r);
	if (caps->backup && (r = enable_backup(log)))
		return r;
	/*
	 * INITIALLY_SET, should anybody have asked for it, leaves pages unprotected when logging is
	 * switched on and counts on CLEAR, which rings do not use: writes would be lost.
	 */
	if (!(caps->has & DL_HAS_MANUAL_PROTECT))
		return 0;
	r = enable_cap(log, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 0);
	if (r)
		snprintf(
			log->reason, sizeof(log->reason),
			"the rings are on and stay so, but manual protection could not be switched "
			"off: %s",
			strerrordesc_np(-r));
	return r;
}

/* A reset is refused where there are no rings, and takes back nothing that is not released. */
static int check_rings_off(struct dl_log *log)
{
	int r;

	if (!log->caps.ring_max_entries)
		return 0;
	r = dli_os_ioctl_value(log->os, log->vm_fd, KVM_RESET_DIRTY_RINGS, 0);
	if (r == -EINVAL || r == -ENOTTY)
		return 0;
	if (r < 0) {
		snprintf(log->reason, sizeof(log->reason), "the VM does not answer: %s",
			 strerrordesc_np(-r));
		return r;
	}
	snprintf(log->reason, sizeof(log->reason),
		 "the rings of this VM are on already: another log, or another program, has it");
	return -EBUSY;
}

static int choose(struct dl_log *log, const struct dl_options *options)
{
	int r = dli_caps_probe(log->os, log->vm_fd, &log->caps);

	if (!r && dli_caps_is_system_fd(log->os, log->vm_fd))
		r = -EBADF;
	if (r) {
		snprintf(log->reason, sizeof(log->reason), "file descriptor %d is not a VM",
			 log->vm_fd);
		return r;
	}
	r = dli_caps_choose(&log->caps, options, log->reason, sizeof(log->reason));
	if (!r)
		r = check_rings_off(log);
	if (!r && dli_log_is_ring(log))
		r = enable_rings(log, options);
	return r;
}

static int init_objects(struct dl_log *log)
{
	int r = -pthread_mutex_init(&log->lock, NULL);

	if (r)
		return r;
	r = -pthread_mutex_init(&log->reading, NULL);
	if (r)
		goto no_reading;
	r = dli_reset_init(&log->reset, log->os, log->vm_fd);
	if (r)
		goto no_reset;
	r = dli_vcpu_list_init(&log->vcpus);
	if (r)
		goto no_vcpus;
	r = dli_slots_init(&log->slots);
	if (!r)
		return 0;
	pthread_mutex_destroy(&log->vcpus.lock);
no_vcpus:
	dli_reset_fini(&log->reset);
no_reset:
	pthread_mutex_destroy(&log->reading);
no_reading:
	pthread_mutex_destroy(&log->lock);
	return r;
}

static struct dl_log *log_new(int vm_fd, const struct dl_options *options)
{
	struct dl_log *log = dli_allocate(1, sizeof(*log));

	if (!log)
		return NULL;
	log->os = dli_os_or_system(options->os);
	log->vm_fd = vm_fd;
	log->set_region = options->set_region;
	log->opaque = options->opaque;
	atomic_init(&log->references, 1);
	if (init_objects(log)) {
		free(log);
		return NULL;
	}
	return log;
}

static void tell(char *why, size_t why_bytes, const char *reason)
{
	if (why && why_bytes)
		snprintf(why, why_bytes, "%s", reason);
}

int dl_log_open(int vm_fd, const struct dl_options *options, struct dl_log **out, char *why,
		size_t why_bytes)
{
	struct dl_options o;
	struct dl_log *log;
	int r = dli_options_read(options, &o, why, why_bytes);

	if (r)
		return r;
	if (!out)
		return -EINVAL;
	log = log_new(vm_fd, &o);
	if (!log) {
		tell(why, why_bytes, "no memory");
		return -ENOMEM;
	}
	r = choose(log, &o);
	tell(why, why_bytes, log->reason);
	if (r) {
		dli_log_put(log);
		return r;
	}
	dli_rcu_read_lock();
	dli_rcu_read_unlock();
	*out = log;
	return 0;
}

void dl_log_close(struct dl_log *log)
{
	if (!log)
		return;
	pthread_mutex_lock(&log->reading);
	pthread_mutex_lock(&log->lock);
	/* A slot that cannot be switched off cannot be told to anybody any more. */
	(void)dli_stop_logging(log);
	/* Pairs with dli_log_is_closed(). */
	atomic_store_explicit(&log->closed, true, memory_order_release);
	dli_reset_close(&log->reset, dli_vcpu_list_in_use(&log->vcpus));
	pthread_mutex_unlock(&log->lock);
	pthread_mutex_unlock(&log->reading);
	dli_log_put(log);
}

int dl_log_config(const struct dl_log *log, struct dl_config *is)
{
	struct dl_config config;

	if (!log || !is)
		return -EINVAL;
	dli_caps_config(&log->caps, &config);
	return dli_abi_write(is, sizeof(config), &config, sizeof(config));
}

int dl_log_describe(const struct dl_log *log, char *text, size_t text_bytes)
{
	pthread_mutex_t *lock;
	int n;

	if (!log || (!text && text_bytes))
		return -EINVAL;
	/* The lock is not part of what const promises. */
	lock = (pthread_mutex_t *)&log->lock;
	pthread_mutex_lock(lock);
	n = snprintf(text, text_bytes, "%s%s%s", log->reason,
		     log->last_failure[0] ? "; last failure: " : "", log->last_failure);
	pthread_mutex_unlock(lock);
	return n;
}
