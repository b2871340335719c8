/* SPDX-License-Identifier: MIT */
#include "memory.h"

#include "hv.h"

#include <errno.h>

struct region *memory_add(struct memory *memory, const struct region *region)
{
	hv_check(memory->n_regions < MEMORY_REGIONS ? 0 : -ENOSPC, "a region");
	memory->regions[memory->n_regions] = *region;
	return &memory->regions[memory->n_regions++];
}

/* The region that is seen at an address, or NULL. */
static const struct region *region_at(const struct memory *memory, uint32_t as_id, uint64_t page)
{
	const struct region *best = NULL;

	for (unsigned int i = 0; i < memory->n_regions; i++) {
		const struct region *region = &memory->regions[i];

		if (!region->enabled || !(region->spaces & 1u << as_id) ||
		    page < region->gpa_page || page >= region->gpa_page + region->pages)
			continue;
		if (!best || region->priority > best->priority)
			best = region;
	}
	return best;
}

/* The first address after page at which a region begins or ends; UINT64_MAX: none. */
static uint64_t next_edge(const struct memory *memory, uint64_t page)
{
	uint64_t edge = UINT64_MAX;

	for (unsigned int i = 0; i < memory->n_regions; i++) {
		const uint64_t ends[] = { memory->regions[i].gpa_page,
					  memory->regions[i].gpa_page + memory->regions[i].pages };

		for (int end = 0; end < 2; end++)
			if (ends[end] > page && ends[end] < edge)
				edge = ends[end];
	}
	return edge;
}

/* Appends a range, or lengthens the last one that it continues. */
static void append(struct flat_view *view, const struct flat_range *range)
{
	struct flat_range *last = view->n ? &view->ranges[view->n - 1] : NULL;

	if (last && last->block == range->block &&
	    last->gpa_page + last->pages == range->gpa_page &&
	    last->block_page + last->pages == range->block_page) {
		last->pages += range->pages;
		return;
	}
	hv_check(view->n < MEMORY_RANGES ? 0 : -ENOSPC, "a flat view");
	view->ranges[view->n++] = *range;
}

static void render(const struct memory *memory, uint32_t as_id, struct flat_view *view)
{
	uint64_t page = 0, edge;

	view->n = 0;
	for (; (edge = next_edge(memory, page)) != UINT64_MAX; page = edge) {
		const struct region *region = region_at(memory, as_id, page);

		if (!region || !region->block)
			continue;
		append(view, &(struct flat_range){
				     .block = region->block,
				     .block_page = region->block_page + page - region->gpa_page,
				     .gpa_page = page,
				     .pages = edge - page,
			     });
	}
}

static bool has_range(const struct flat_view *view, const struct flat_range *range)
{
	for (unsigned int i = 0; i < view->n; i++) {
		const struct flat_range *other = &view->ranges[i];

		if (other->block == range->block && other->block_page == range->block_page &&
		    other->gpa_page == range->gpa_page && other->pages == range->pages)
			return true;
	}
	return false;
}

static void replace_view(struct memory *memory, uint32_t as_id, const struct flat_view *new)
{
	struct flat_view old = memory->views[as_id];
	const struct memory_listener *listener = &memory->listener;

	memory->views[as_id] = *new;
	for (unsigned int i = 0; i < old.n; i++)
		if (!has_range(new, &old.ranges[i]))
			listener->removed(listener->opaque, as_id, &old.ranges[i]);
	for (unsigned int i = 0; i < new->n; i++)
		if (!has_range(&old, &new->ranges[i]))
			listener->added(listener->opaque, as_id, &new->ranges[i]);
}

void memory_commit(struct memory *memory)
{
	for (uint32_t as_id = 0; as_id < MEMORY_SPACES; as_id++) {
		struct flat_view view;

		render(memory, as_id, &view);
		replace_view(memory, as_id, &view);
	}
}

const struct flat_range *memory_find(const struct memory *memory, uint32_t as_id, uint64_t gpa_page)
{
	const struct flat_view *view = &memory->views[as_id];

	for (unsigned int i = 0; i < view->n; i++)
		if (gpa_page >= view->ranges[i].gpa_page &&
		    gpa_page < view->ranges[i].gpa_page + view->ranges[i].pages)
			return &view->ranges[i];
	return NULL;
}
