/* SPDX-License-Identifier: MIT */
#include "guest.h"

#include "cmocka_all.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

static void count(struct guest *guest, unsigned long request)
{
	switch (request) {
	case KVM_RESET_DIRTY_RINGS:
		atomic_fetch_add(&guest->resets, 1);
		break;
	case KVM_GET_DIRTY_LOG:
		atomic_fetch_add(&guest->gets, 1);
		break;
	case KVM_CLEAR_DIRTY_LOG:
		atomic_fetch_add(&guest->clears, 1);
		break;
	case KVM_SET_USER_MEMORY_REGION:
		atomic_fetch_add(&guest->regions, 1);
		break;
	case KVM_ENABLE_CAP:
		atomic_fetch_add(&guest->enables, 1);
		break;
	}
}

/* A duplicate is its original with this bit. */
enum { DUPLICATE = 1 << 30 };

static int watched_dup(void *opaque, int fd)
{
	struct guest *guest = opaque;

	if (fd < 0 || fd & DUPLICATE)
		return -EBADF;
	atomic_fetch_add(&guest->duplicates, 1);
	return fd | DUPLICATE;
}

static int watched_madvise(void *opaque, void *addr, size_t bytes, int advice)
{
	const struct guest *guest = opaque;
	const struct dl_os *below = model_os(guest->model);

	return below->madvise(below->opaque, addr, bytes, advice);
}

static int watched_mprotect(void *opaque, void *addr, size_t bytes, int prot)
{
	const struct guest *guest = opaque;
	const struct dl_os *below = model_os(guest->model);

	return below->mprotect(below->opaque, addr, bytes, prot);
}

static int watched_timer(void *opaque)
{
	const struct dl_os *below = model_os(((struct guest *)opaque)->model);

	return below->timer(below->opaque);
}

static int watched_timer_set(void *opaque, int fd, uint64_t from_now_ns)
{
	struct guest *guest = opaque;
	const struct dl_os *below = model_os(guest->model);

	atomic_fetch_add(&guest->timer_sets, 1);
	return below->timer_set(below->opaque, fd, from_now_ns);
}

static uint64_t watched_now_ns(void *opaque)
{
	const struct dl_os *below = model_os(((struct guest *)opaque)->model);

	return below->now_ns(below->opaque);
}

static int watched_userfaultfd(void *opaque)
{
	const struct dl_os *below = model_os(((struct guest *)opaque)->model);

	return below->userfaultfd(below->opaque);
}

static int watched_pagemap(void *opaque)
{
	const struct dl_os *below = model_os(((struct guest *)opaque)->model);

	return below->pagemap(below->opaque);
}

static int watched_close(void *opaque, int fd)
{
	struct guest *guest = opaque;
	const struct dl_os *below = model_os(guest->model);

	if (model_is_timer(guest->model, fd) || model_is_watch_fd(fd))
		return below->close(below->opaque, fd);
	assert_true(fd & DUPLICATE);
	assert_true(atomic_fetch_sub(&guest->duplicates, 1) > 0);
	return 0;
}

static int watched_ioctl(void *opaque, int fd, unsigned long request, void *arg)
{
	struct guest *guest = opaque;
	const struct dl_os *below = model_os(guest->model);
	int result = 0;

	if (fd == guest->vm_fd)
		atomic_fetch_add(&guest->calls_of_vm_fd, 1);
	if (fd >= 0)
		fd &= ~DUPLICATE;
	count(guest, request);
	if (guest->config.intercept && guest->config.intercept(guest, fd, request, arg, &result))
		return result;
	return below->ioctl(below->opaque, fd, request, arg);
}

static int watched_mmap(void *opaque, int fd, uint64_t offset_bytes, size_t bytes, int prot,
			int flags, void **addr)
{
	struct guest *guest = opaque;
	const struct dl_os *below = model_os(guest->model);
	int r = below->mmap(below->opaque, fd, offset_bytes, bytes, prot, flags, addr);

	if (!r)
		atomic_fetch_add(&guest->mappings, 1);
	return r;
}

static int watched_munmap(void *opaque, void *addr, size_t bytes)
{
	struct guest *guest = opaque;
	const struct dl_os *below = model_os(guest->model);
	int r = below->munmap(below->opaque, addr, bytes);

	if (!r)
		atomic_fetch_sub(&guest->mappings, 1);
	return r;
}

static int watched_signal_mask(void *opaque, int how, const sigset_t *set, sigset_t *old)
{
	const struct dl_os *below = model_os(((struct guest *)opaque)->model);

	return below->signal_mask(below->opaque, how, set, old);
}

static int watched_thread_clock(void *opaque, int64_t *clock_id)
{
	const struct dl_os *below = model_os(((struct guest *)opaque)->model);

	return below->thread_clock(below->opaque, clock_id);
}

static int watched_thread_ns(void *opaque, int64_t clock_id, uint64_t *ns)
{
	const struct dl_os *below = model_os(((struct guest *)opaque)->model);

	return below->thread_ns(below->opaque, clock_id, ns);
}

void guest_new(struct guest *guest, const struct guest_config *config)
{
	memset(guest, 0, sizeof(*guest));
	if (config)
		guest->config = *config;
	guest->model = model_new(&guest->config.model);
	assert_non_null(guest->model);
	guest->os = *model_os(guest->model);
	guest->os.opaque = guest;
	guest->os.ioctl = watched_ioctl;
	guest->os.mmap = watched_mmap;
	guest->os.munmap = watched_munmap;
	guest->os.signal_mask = watched_signal_mask;
	guest->os.dup = watched_dup;
	guest->os.madvise = watched_madvise;
	guest->os.mprotect = watched_mprotect;
	guest->os.close = watched_close;
	guest->os.timer = watched_timer;
	guest->os.timer_set = watched_timer_set;
	guest->os.now_ns = watched_now_ns;
	guest->os.thread_clock = guest->os.thread_clock ? watched_thread_clock : NULL;
	guest->os.thread_ns = guest->os.thread_ns ? watched_thread_ns : NULL;
	guest->os.userfaultfd = watched_userfaultfd;
	guest->os.pagemap = watched_pagemap;
	guest->page_bytes = guest->os.page_bytes;
	guest->vm_fd = model_vm_create(guest->model);
	assert_true(guest->vm_fd > 0);
}

int guest_open_log(struct guest *guest)
{
	struct dl_options *options = &guest->config.options;

	options->size = sizeof(*options);
	options->os = &guest->os;
	return dl_log_open(guest->vm_fd, options, &guest->log, guest->why, sizeof(guest->why));
}

void guest_open(struct guest *guest, const struct guest_config *config)
{
	guest_new(guest, config);
	if (guest_open_log(guest))
		fail_msg("%s", guest->why);
}

void guest_close(struct guest *guest)
{
	for (unsigned int i = 0; i < guest->vcpu_count; i++)
		dl_vcpu_remove(guest->vcpus[i].handle);
	guest_leave(guest);
	dl_log_close(guest->log);
	assert_int_equal(atomic_load(&guest->duplicates), 0);
	/* A test that replaced these calls has counted nothing. */
	if (guest->os.mmap == watched_mmap && guest->os.munmap == watched_munmap)
		assert_int_equal(atomic_load(&guest->mappings), 0);
	model_free(guest->model);
	for (unsigned int i = 0; i < guest->block_count; i++)
		free(guest->blocks[i].memory);
	memset(guest, 0, sizeof(*guest));
}

static uint64_t next_value(struct guest *guest)
{
	return atomic_fetch_add_explicit(&guest->value, 1, memory_order_relaxed) + 1;
}

struct guest_block *guest_memory(struct guest *guest, uint64_t pages)
{
	struct guest_block *block = &guest->blocks[guest->block_count++];
	size_t bytes = pages * guest->page_bytes;

	assert_true(guest->block_count <= GUEST_BLOCKS);
	block->pages = pages;
	block->memory = aligned_alloc(guest->page_bytes, bytes);
	assert_non_null(block->memory);
	for (size_t i = 0; i < bytes / 8; i++)
		((uint64_t *)(void *)block->memory)[i] = guest->block_count << 24 | i;
	return block;
}

struct dl_slot guest_slot(const struct guest *guest, uint32_t number, uint64_t gpa_page,
			  const struct guest_block *block, uint64_t first_page, uint64_t pages)
{
	return (struct dl_slot){
		.size = sizeof(struct dl_slot),
		.slot = number,
		.gpa = gpa_page * guest->page_bytes,
		.bytes = pages * guest->page_bytes,
		.hva = (uintptr_t)block->memory + first_page * guest->page_bytes,
	};
}

struct guest_block *guest_add_slot(struct guest *guest, uint32_t number, uint64_t gpa_page,
				   uint64_t pages)
{
	struct guest_block *block = guest_memory(guest, pages);
	struct dl_slot slot = guest_slot(guest, number, gpa_page, block, 0, pages);

	assert_int_equal(dl_slot_set(guest->log, &slot), 0);
	return block;
}

struct guest_vcpu *guest_vcpu(struct guest *guest, bool add)
{
	struct guest_vcpu *vcpu = &guest->vcpus[guest->vcpu_count++];

	assert_true(guest->vcpu_count <= GUEST_VCPUS);
	vcpu->fd = model_vcpu_create(guest->model, guest->vm_fd);
	assert_true(vcpu->fd > 0);
	if (add)
		guest_vcpu_add(guest, vcpu);
	return vcpu;
}

void guest_vcpu_add(struct guest *guest, struct guest_vcpu *vcpu)
{
	assert_int_equal(dl_vcpu_add(guest->log, vcpu->fd, 0, 0, &vcpu->handle), 0);
}

/* Anywhere in the page, so that copying only a part of it fails. */
static uint64_t place_in_page(const struct guest *guest, uint64_t value)
{
	return value * 8 * 37 % guest->page_bytes;
}

int guest_write(struct guest *guest, struct guest_vcpu *vcpu, uint32_t as_id, uint64_t gpa_page)
{
	uint64_t value = next_value(guest);
	uint64_t gpa = gpa_page * guest->page_bytes + place_in_page(guest, value);

	for (int exits = 0; exits < GUEST_MAX_EXITS; exits++) {
		int r = model_vcpu_write(guest->model, vcpu->fd, as_id, gpa, &value, sizeof(value));

		if (r != KVM_EXIT_DIRTY_RING_FULL)
			return r;
		atomic_fetch_add(&vcpu->full_exits, 1);
		/* Ignore an error: it leaves the ring as it is, and the vCPU exits again. */
		(void)!dl_vcpu_drain(vcpu->handle, 0);
	}
	print_error("a vCPU still cannot enter the guest\n");
	abort();
}

void guest_kernel_write(struct guest *guest, uint64_t gpa_page)
{
	uint64_t value = next_value(guest);

	if (model_kernel_write(guest->model, guest->vm_fd, 0,
			       gpa_page * guest->page_bytes + place_in_page(guest, value), &value,
			       sizeof(value)))
		abort();
}

/* In a log of the device's own, with four pages for one of the host's or one for four. */
static int device_mark_bitmap(struct guest *guest, uint64_t gpa, uint64_t bytes, uint64_t way)
{
	uint64_t page_bytes = guest->page_bytes * 4 / (way % 2 ? 16 : 1);
	const struct dl_bitmap bitmap = {
		.size = sizeof(bitmap),
		.flags = DL_BITMAP_TAKE,
		.gpa = gpa - gpa % page_bytes,
		.bytes = 64 * page_bytes,
		.page_bytes = page_bytes,
	};
	uint64_t word = 1 | UINT64_C(1) << (gpa + bytes - 1 - bitmap.gpa) / page_bytes;
	uint64_t marked_bytes;

	return dl_mark_bitmap(guest->log, &bitmap, &word, 1, &marked_bytes);
}

/* By guest address, by host address, as the second of two vectors, or by a bitmap. */
static int device_mark(struct guest *guest, uint64_t gpa, uint8_t *at, uint64_t bytes, uint64_t way)
{
	const struct iovec iov[] = { { guest, 5 }, { at, bytes } };

	if (way % 4 == 0)
		return dl_mark_gpa(guest->log, 0, gpa, bytes);
	if (way % 4 == 1)
		return dl_mark_hva(guest->log, at, bytes);
	if (way % 4 == 2)
		return device_mark_bitmap(guest, gpa, bytes, way / 4);
	return dl_mark_iov(guest->log, iov, 2, 5, bytes);
}

void guest_device_write(struct guest *guest, struct guest_block *block, uint64_t page,
			uint64_t gpa_page)
{
	uint64_t value = next_value(guest), place = place_in_page(guest, value);
	uint8_t *at = block->memory + page * guest->page_bytes + place;

	model_copy(at, &value, sizeof(value));
	if (device_mark(guest, gpa_page * guest->page_bytes + place, at, sizeof(value), value))
		abort();
}

void guest_stop(struct guest *guest)
{
	for (unsigned int i = 0; i < guest->vcpu_count; i++)
		model_vcpu_exit(guest->model, guest->vcpus[i].fd, KVM_EXIT_INTR);
}

int guest_new_cursor(struct guest *guest, uint32_t flags, uint32_t slot, struct dl_cursor **cursor)
{
	const struct dl_cursor_options options = {
		.size = sizeof(options),
		.flags = flags,
		.slot = slot,
	};

	return dl_cursor_new(guest->log, &options, cursor);
}

int guest_try_join(struct guest *guest, uint32_t flags)
{
	assert_null(guest->cursor);
	return guest_new_cursor(guest, flags, 0, &guest->cursor);
}

void guest_join(struct guest *guest, uint32_t flags)
{
	assert_int_equal(guest_try_join(guest, flags), 0);
}

void guest_leave(struct guest *guest)
{
	dl_cursor_free(guest->cursor);
	guest->cursor = NULL;
}

int guest_harvest(struct guest *guest, uint32_t flags)
{
	int r = dl_harvest(guest->cursor, flags, NULL);

	if (!r)
		assert_int_equal(dl_cursor_end(guest->cursor, 0), 0);
	return r;
}

struct dl_cursor_stats guest_cursor_stats(const struct dl_cursor *cursor)
{
	struct dl_cursor_stats stats = { .size = sizeof(stats) };

	assert_int_equal(dl_cursor_stats(cursor, &stats), 0);
	return stats;
}

uint64_t guest_pending(const struct guest *guest)
{
	return guest->cursor ? guest_cursor_stats(guest->cursor).pending_bytes : 0;
}

uint64_t guest_unacked(const struct guest *guest)
{
	return guest->cursor ? guest_cursor_stats(guest->cursor).unacked_bytes : 0;
}

int guest_finish_pass(struct guest *guest, struct dl_cursor *cursor, uint64_t *gpa_pages,
		      int max_pages)
{
	struct dl_extent extents[7];
	int n, pages = 0;

	while ((n = dl_cursor_read(cursor, extents, 7)) > 0) {
		for (int i = 0; i < n; i++)
			for (uint64_t at = 0; at < extents[i].bytes; at += guest->page_bytes)
				if (pages++ < max_pages)
					gpa_pages[pages - 1] =
						(extents[i].gpa + at) / guest->page_bytes;
		assert_int_equal(dl_cursor_ack(cursor, extents, (uint32_t)n), 0);
	}
	assert_int_equal(n, 0);
	assert_int_equal(dl_cursor_end(cursor, 0), 0);
	return pages > max_pages ? -1 : pages;
}

int guest_pass_of(struct guest *guest, struct dl_cursor *cursor, uint32_t flags,
		  uint64_t *gpa_pages, int max_pages)
{
	assert_int_equal(dl_harvest(cursor, flags, NULL), 0);
	return guest_finish_pass(guest, cursor, gpa_pages, max_pages);
}

int guest_pass(struct guest *guest, uint32_t flags, uint64_t *gpa_pages, int max_pages)
{
	return guest_pass_of(guest, guest->cursor, flags, gpa_pages, max_pages);
}

void guest_fail_region(struct guest *guest, uint32_t slot, uint32_t skip, uint32_t times)
{
	const struct model_fault fault = { .request = KVM_SET_USER_MEMORY_REGION,
					   .skip = skip,
					   .times = times,
					   .error = ENOMEM,
					   .only_slot = true,
					   .slot = slot };

	assert_int_equal(model_fault(guest->model, &fault), 0);
}

struct dl_stats guest_stats(const struct guest *guest)
{
	struct dl_stats stats = { .size = sizeof(stats) };

	assert_int_equal(dl_log_stats(guest->log, &stats), 0);
	return stats;
}
