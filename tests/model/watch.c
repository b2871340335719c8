/* SPDX-License-Identifier: MIT */
/*
 * userfaultfd's asynchronous write-protection and PAGEMAP_SCAN. A mapping is what was registered;
 * all memory counts as mapped. Stores through it are reported by model_alias_wrote().
 */
#include <errno.h>
#include <stdlib.h>

#include "internal.h"
#include "uffd_scan.h"

enum { UFFD_FD = 1 << 27, PAGEMAP_FD, MAX_WATCHES = 256 };

/* A range that is registered. A bit a page: written since it was protected. */
struct watch {
	uint64_t start, pages;
	uint64_t *written;
};

struct model_watches {
	pthread_mutex_t lock;
	struct watch watches[MAX_WATCHES];
	uint32_t count;
	int open; /* descriptors */
};

int mk_watches_new(struct model *model)
{
	model->watches = calloc(1, sizeof(*model->watches));
	if (!model->watches)
		return -ENOMEM;
	return -pthread_mutex_init(&model->watches->lock, NULL);
}

void mk_watches_free(struct model *model)
{
	if (!model->watches)
		return;
	for (uint32_t i = 0; i < model->watches->count; i++)
		free(model->watches->watches[i].written);
	pthread_mutex_destroy(&model->watches->lock);
	free(model->watches);
}

static int make(struct model *model, unsigned long request, int fd)
{
	struct model_call call = { .request = request, .fd = -1 };
	bool after;
	int result = mk_call_begin(model, &call, &after);

	if (result)
		return result;
	pthread_mutex_lock(&model->watches->lock);
	model->watches->open++;
	pthread_mutex_unlock(&model->watches->lock);
	return fd;
}

int mk_userfaultfd(void *opaque)
{
	return make(opaque, MODEL_CALL_USERFAULTFD, UFFD_FD);
}

int mk_pagemap(void *opaque)
{
	return make(opaque, MODEL_CALL_PAGEMAP, PAGEMAP_FD);
}

bool mk_watch_close(struct model *model, int fd)
{
	if (fd != UFFD_FD && fd != PAGEMAP_FD)
		return false;
	pthread_mutex_lock(&model->watches->lock);
	model->watches->open--;
	pthread_mutex_unlock(&model->watches->lock);
	return true;
}

int model_watch_descriptors(struct model *model)
{
	int open;

	pthread_mutex_lock(&model->watches->lock);
	open = model->watches->open;
	pthread_mutex_unlock(&model->watches->lock);
	return open;
}

/* The watch that has the page, or NULL. */
static struct watch *find(const struct model *model, uint64_t address)
{
	struct model_watches *all = model->watches;

	for (uint32_t i = 0; i < all->count; i++)
		if (address - all->watches[i].start <
		    all->watches[i].pages * model->options.page_bytes)
			return &all->watches[i];
	return NULL;
}

static uint64_t page_of(const struct model *model, const struct watch *watch, uint64_t address)
{
	return (address - watch->start) / model->options.page_bytes;
}

void model_alias_wrote(struct model *model, const void *alias, size_t bytes)
{
	uint64_t page_bytes = model->options.page_bytes;
	uint64_t at = (uintptr_t)alias / page_bytes * page_bytes, end = (uintptr_t)alias + bytes;

	pthread_mutex_lock(&model->watches->lock);
	for (; at < end; at += page_bytes) {
		struct watch *watch = find(model, at);
		uint64_t page = watch ? page_of(model, watch, at) : 0;

		if (watch)
			watch->written[page / 64] |= 1ULL << page % 64;
	}
	pthread_mutex_unlock(&model->watches->lock);
}

/* Nothing is protected yet. */
static int add(struct model *model, struct uffdio_register *range)
{
	struct model_watches *all = model->watches;
	uint64_t pages = range->range.len / model->options.page_bytes;
	struct watch *watch = &all->watches[all->count];

	if (range->mode != UFFDIO_REGISTER_MODE_WP || !pages ||
	    (range->range.start | range->range.len) % model->options.page_bytes)
		return -EINVAL;
	if (all->count == MAX_WATCHES)
		return -ENOMEM;
	watch->written = malloc((pages + 63) / 64 * sizeof(uint64_t));
	if (!watch->written)
		return -ENOMEM;
	for (uint64_t i = 0; i < (pages + 63) / 64; i++)
		watch->written[i] = ~0ULL;
	watch->start = range->range.start;
	watch->pages = pages;
	all->count++;
	range->ioctls = 1ULL << _UFFDIO_ZEROPAGE | 1ULL << _UFFDIO_WRITEPROTECT;
	return 0;
}

static int take_off(struct model *model, const struct uffdio_range *range)
{
	struct model_watches *all = model->watches;

	for (uint32_t i = 0; i < all->count; i++) {
		if (all->watches[i].start != range->start)
			continue;
		free(all->watches[i].written);
		all->watches[i] = all->watches[--all->count];
		break;
	}
	return 0;
}

/* Whether the page is of the categories that are asked for; then perhaps it is protected. */
static int look(struct model *model, const struct model_scan_arg *arg, uint64_t address)
{
	struct watch *watch = find(model, address);
	uint64_t page, bit;
	bool is_written;

	if (!watch)
		return arg->flags & MODEL_SCAN_CHECK ? -EPERM : 0;
	page = page_of(model, watch, address);
	bit = 1ULL << page % 64;
	is_written = watch->written[page / 64] & bit;
	return arg->category_mask == MODEL_PAGE_WPALLOWED || is_written;
}

static void protect(struct model *model, uint64_t address)
{
	struct watch *watch = find(model, address);
	uint64_t page = page_of(model, watch, address);

	watch->written[page / 64] &= ~(1ULL << page % 64);
}

/* Adds a page to the regions. False: there is no room. */
static bool report(struct model_page_region *regions, uint64_t room, int *count, uint64_t address,
		   uint64_t page_bytes, uint64_t categories)
{
	if (*count && regions[*count - 1].end == address) {
		regions[*count - 1].end += page_bytes;
		return true;
	}
	if ((uint64_t)*count == room)
		return false;
	regions[(*count)++] =
		(struct model_page_region){ address, address + page_bytes, categories };
	return true;
}

/* undelivered: it protects, and reports nothing. */
static int scan(struct model *model, struct model_scan_arg *arg, bool undelivered)
{
	struct model_page_region *regions = (void *)(uintptr_t)arg->vec;
	uint64_t page_bytes = model->options.page_bytes, at = arg->start;
	int count = 0;

	if (arg->size != sizeof(*arg) || arg->start % page_bytes || arg->flags & ~3ULL ||
	    (!arg->vec != !arg->vec_len))
		return -EINVAL;
	for (; at < arg->end; at += page_bytes) {
		int found = look(model, arg, at);

		if (found < 0)
			return found;
		if (!found)
			continue;
		if (!undelivered &&
		    !report(regions, arg->vec_len, &count, at, page_bytes, arg->return_mask))
			break;
		if (arg->flags & MODEL_SCAN_PROTECT)
			protect(model, at);
	}
	arg->walk_end = at;
	return count;
}

static int dispatch(struct model *model, const struct model_call *call)
{
	bool is_new = has(model, MODEL_HAS_WATCH);
	struct uffdio_api *api = call->arg;

	if (!model->watches->open)
		return -EBADF;
	switch (call->request) {
	case UFFDIO_API:
		return is_new && !(api->features & ~(uint64_t)MODEL_UFFD_FEATURES) ? 0 : -EINVAL;
	case UFFDIO_REGISTER:
		return add(model, call->arg);
	case UFFDIO_UNREGISTER:
		return take_off(model, call->arg);
	case MODEL_PAGEMAP_SCAN:
		return is_new ? scan(model, call->arg, call->undelivered) : -ENOTTY;
	default:
		return -ENOTTY;
	}
}

bool model_is_watch_fd(int fd)
{
	return fd == UFFD_FD || fd == PAGEMAP_FD;
}

int mk_watch_ioctl(struct model *model, const struct model_call *call)
{
	int result;

	pthread_mutex_lock(&model->watches->lock);
	result = dispatch(model, call);
	pthread_mutex_unlock(&model->watches->lock);
	return result;
}
