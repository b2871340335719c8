/* SPDX-License-Identifier: MIT */
/* Probes the kernel's capabilities, and chooses a mode with a reason. */

#include "kvm/caps.h"

#include "kvm/error_text.h"
#include "kvm/uapi.h"
#include "kvm/uffd.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/*
 * Ring size if the caller names none: 256 KiB of kernel memory a vCPU. Four times what VMMs
 * commonly use, since a ring that fills stops its vCPU.
 */
#define DEFAULT_RING_ENTRIES 16384u

/* The limit of the oldest kernels, which do not report KVM_CAP_NR_MEMSLOTS. */
#define DEFAULT_SLOT_IDS 32u

void dli_say(char *why, size_t why_bytes, const char *format, ...)
{
	va_list args;

	if (!why || !why_bytes)
		return;
	va_start(args, format);
	vsnprintf(why, why_bytes, format, args);
	va_end(args);
}

/*
 * Returns 0 if the kernel lacks the capability. An error, which is kept in *error, does not say
 * that: a capability must not count as absent because of it.
 */
static int check_extension(const struct dl_os *os, int fd, unsigned long cap, int *error)
{
	int r = dli_os_ioctl_value(os, fd, KVM_CHECK_EXTENSION, cap);

	if (r < 0 && !*error)
		*error = r;
	return r < 0 ? 0 : r;
}

bool dli_caps_is_system_fd(const struct dl_os *os, int fd)
{
	return dli_os_ioctl_value(os, fd, KVM_GET_API_VERSION, 0) >= 0;
}

static void probe_rings(const struct dl_os *os, int fd, struct dli_caps *caps, int *error)
{
	int tso = check_extension(os, fd, KVM_CAP_DIRTY_LOG_RING, error);
	int acq_rel = check_extension(os, fd, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, error);
	int bytes = acq_rel ? acq_rel : tso;

	if (tso)
		caps->has |= DL_HAS_RING_TSO;
	if (acq_rel)
		caps->has |= DL_HAS_RING_ACQ_REL;
	caps->ring_max_entries = (uint32_t)bytes / sizeof(struct kvm_dirty_gfn);
	if (check_extension(os, fd, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, error))
		caps->has |= DL_HAS_BACKUP;
}

static void probe_bitmaps(const struct dl_os *os, int fd, struct dli_caps *caps, int *error)
{
	int manual = check_extension(os, fd, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, error);

	if (!(manual & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE))
		return;
	caps->has |= DL_HAS_MANUAL_PROTECT;
	if (manual & KVM_DIRTY_LOG_INITIALLY_SET)
		caps->has |= DL_HAS_INITIALLY_SET;
}

int dli_caps_probe(const struct dl_os *os, int fd, struct dli_caps *caps)
{
	int error = 0;
	int ids = check_extension(os, fd, KVM_CAP_NR_MEMSLOTS, &error);
	int spaces = check_extension(os, fd, KVM_CAP_MULTI_ADDRESS_SPACE, &error);

	memset(caps, 0, sizeof(*caps));
	caps->page_bytes = dli_os_page_bytes(os);
	caps->ring_alone_safe = dli_os_ring_alone_safe(os);
	caps->slot_ids = ids ? (uint32_t)ids : DEFAULT_SLOT_IDS;
	caps->address_spaces = spaces > 1 ? (uint32_t)spaces : 1;
	probe_rings(os, fd, caps, &error);
	probe_bitmaps(os, fd, caps, &error);
	if (!error && dli_uffd_available(os))
		caps->has |= DL_HAS_WATCH;
	/* Files of other kinds return these for an ioctl that they do not know. */
	return error == -ENOTTY || error == -EINVAL ? -EBADF : error;
}

void dli_caps_say_failure(char *why, size_t why_bytes, int fd, const char *what_else, int error)
{
	char text[ERROR_TEXT_BYTES];

	if (error == -EBADF)
		dli_say(why, why_bytes, "file descriptor %d %s", fd, what_else);
	else if (error == -EIO)
		dli_say(why, why_bytes,
			"the VM of file descriptor %d belongs to another process: KVM serves only "
			"the one that created it, and no child of it",
			fd);
	else
		dli_say(why, why_bytes, "file descriptor %d cannot be asked what it can do: %s", fd,
			dli_error_text(error, text));
}

/* Chooses the ring size. A host's minimum is not reported: only enabling can show it. */
static int choose_ring_entries(struct dli_caps *caps, uint32_t wanted, char *why, size_t why_bytes)
{
	uint32_t page_entries = caps->page_bytes / (uint32_t)sizeof(struct kvm_dirty_gfn);

	if (wanted > caps->ring_max_entries) {
		dli_say(why, why_bytes, "%u ring entries exceed this kernel's limit of %u", wanted,
			caps->ring_max_entries);
		return -E2BIG;
	}
	if (wanted && wanted < page_entries) {
		dli_say(why, why_bytes, "%u ring entries are fewer than the %u of one host page",
			wanted, page_entries);
		return -EINVAL;
	}
	caps->ring_entries = wanted ? wanted : DEFAULT_RING_ENTRIES;
	if (caps->ring_entries > caps->ring_max_entries)
		caps->ring_entries = caps->ring_max_entries;
	return 0;
}

/* Why rings cannot be used, or NULL. */
static const char *ring_obstacle(const struct dli_caps *caps, uint32_t backup)
{
	bool has_backup = caps->has & DL_HAS_BACKUP;

	if (!caps->ring_max_entries)
		return "this kernel has no dirty rings";
	if (backup == DL_BACKUP_REQUIRED && !has_backup)
		return "the backup bitmap is required, and this kernel has none beside its rings";
	if (caps->ring_alone_safe || (has_backup && backup != DL_BACKUP_OFF))
		return NULL;
	/* Without a bitmap, KVM there does not split huge mappings: one entry for many pages. */
	if (backup == DL_BACKUP_OFF)
		return "the backup bitmap is off as requested, and without it rings lose vCPU "
		       "writes to huge pages on this architecture";
	return "this kernel has no backup bitmap beside its rings, without which they lose vCPU "
	       "writes to huge pages on this architecture";
}

static const char *bitmap_kind(const struct dli_caps *caps)
{
	if (caps->has & DL_HAS_INITIALLY_SET)
		return "cleared in chunks, and initially set unless the start is clean";
	if (caps->has & DL_HAS_MANUAL_PROTECT)
		return "cleared in chunks";
	return "cleared as it is read";
}

static void take_bitmap(struct dli_caps *caps, const char *reason, char *why, size_t why_bytes)
{
	caps->mode = DL_MODE_BITMAP;
	caps->backup = false;
	caps->ring_entries = 0;
	dli_say(why, why_bytes, "bitmap, %s: %s", bitmap_kind(caps), reason);
}

static void take_ring(struct dli_caps *caps, uint32_t backup, char *why, size_t why_bytes)
{
	const char *order = caps->has & DL_HAS_RING_ACQ_REL ? "acquire/release" : "TSO";
	const char *beside;

	caps->mode = DL_MODE_RING;
	caps->backup = backup != DL_BACKUP_OFF && caps->has & DL_HAS_BACKUP;
	if (caps->backup)
		beside = "with the backup bitmap, which records writes made while no vCPU runs";
	else if (backup == DL_BACKUP_OFF)
		beside = "without the backup bitmap, as requested";
	else
		beside = "without a backup bitmap: the kernel has none, and none is needed here";
	dli_say(why, why_bytes, "ring of %u entries per vCPU (%s), %s", caps->ring_entries, order,
		beside);
}

int dli_caps_choose(struct dli_caps *caps, const struct dl_options *options, char *why,
		    size_t why_bytes)
{
	const char *obstacle = ring_obstacle(caps, options->backup);
	int r;

	if (options->mode == DL_MODE_BITMAP) {
		take_bitmap(caps, "as requested", why, why_bytes);
		return 0;
	}
	if (obstacle && options->mode == DL_MODE_RING) {
		dli_say(why, why_bytes, "%s", obstacle);
		return -EOPNOTSUPP;
	}
	if (obstacle) {
		take_bitmap(caps, obstacle, why, why_bytes);
		return 0;
	}
	r = choose_ring_entries(caps, options->ring_entries, why, why_bytes);
	if (r)
		return r;
	take_ring(caps, options->backup, why, why_bytes);
	return 0;
}

void dli_caps_config(const struct dli_caps *caps, struct dl_config *config)
{
	*config = (struct dl_config){
		.size = sizeof(*config),
		.has = caps->has,
		.mode = caps->mode,
		.backup = caps->backup,
		.ring_entries = caps->ring_entries,
		.ring_max_entries = caps->ring_max_entries,
		.page_bytes = caps->page_bytes,
	};
}
