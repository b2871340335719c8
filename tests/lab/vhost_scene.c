/* SPDX-License-Identifier: MIT */
#include "vhost_scene.h"

#include "alias.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	BUFFERS = 16, /* two pages each */
	GUEST_FIRST_PAGE = 56,
	GUEST_PAGES = 5,
};

static void need_watch(struct vhost_scene *scene)
{
	char why[300];
	int r = dl_slot_watch(scene->rig->log, scene->slot->slot, scene->alias, 0);

	if (!r)
		return;
	assert_int_equal(r, -EOPNOTSUPP);
	assert_in_range(dl_log_last_error(scene->rig->log, why, sizeof(why)), 1, sizeof(why));
	rig_skip("%s", why);
}

void vhost_scene_open(struct vhost_scene *scene, uint32_t mode, enum vhost_mapping mapping,
		      const char *path, uint64_t features)
{
	const struct rig_config config = { .mode = mode, .vcpus = 1 };

	*scene = (struct vhost_scene){ .rig = rig_new(&config) };
	scene->slot = rig_memory(scene->rig, 0, GUEST_DATA_GPA, VHOST_PAGES);
	scene->alias = alias_new(scene->slot);
	assert_int_equal(rig_slot_set(scene->rig, scene->slot, 0, 0), 0);
	if (mapping == VHOST_WATCHED_ALIAS)
		need_watch(scene);
	scene->device.rig = scene->rig;
	scene->device.slot = scene->slot;
	scene->device.memory = mapping == VHOST_GUESTS_MAPPING ? scene->slot->memory : scene->alias;
	vhost_open(&scene->device, path, features);
}

void vhost_scene_close(struct vhost_scene *scene)
{
	vhost_close(&scene->device);
	rig_free(scene->rig);
	if (scene->alias)
		munmap(scene->alias, VHOST_PAGES * (uint64_t)sysconf(_SC_PAGESIZE));
	*scene = (struct vhost_scene){ 0 };
}

void vhost_scene_join(struct vhost_scene *scene)
{
	rig_join(scene->rig, 0);
	rig_pass(scene->rig, 0);
	checker_expect_equal(&scene->rig->checker);
	memset(scene->written, 0, sizeof(scene->written));
	scene->round++;
}

void vhost_scene_offer(struct vhost_scene *scene, unsigned int buffers)
{
	const struct vhost_queue *queue = &scene->device.queues[VHOST_RX];
	uint64_t page_bytes = scene->rig->page_bytes, page;

	assert_in_range(buffers, 1, BUFFERS);
	while ((uint16_t)(queue->offered - queue->consumed) < buffers) {
		page = VHOST_FIRST_BUFFER_PAGE + queue->offered % BUFFERS * 2;
		vhost_offer(&scene->device, VHOST_RX,
			    (page + 1) * page_bytes - VHOST_BUFFER_BYTES / 2, VHOST_BUFFER_BYTES,
			    VRING_DESC_F_WRITE);
	}
	vhost_kick(&scene->device, VHOST_RX);
}

/* Even, as no byte of new memory is. */
uint8_t vhost_scene_byte(const struct vhost_scene *scene)
{
	return (uint8_t)(2 * scene->round);
}

static void note(struct vhost_scene *scene, uint64_t offset, uint64_t bytes,
		 enum vhost_written written)
{
	uint64_t page_bytes = scene->rig->page_bytes;

	for (uint64_t at = offset; at < offset + bytes; at = (at / page_bytes + 1) * page_bytes)
		scene->written[at / page_bytes] |= (uint8_t)written;
}

uint64_t vhost_scene_consume(struct vhost_scene *scene, unsigned int queue, uint32_t *bytes)
{
	uint64_t offset = vhost_consume(&scene->device, queue, bytes);

	note(scene, offset, *bytes, VHOST_BUFFER);
	note(scene, scene->device.queues[queue].used_offset, 1, VHOST_USED_RING);
	return offset;
}

void vhost_scene_sync(const struct vhost_scene *scene)
{
	assert_int_equal(vhost_sync(scene->rig->log, 0, &scene->device.log), 0);
}

static bool differs(const struct vhost_scene *scene, uint64_t page)
{
	uint64_t at = page * scene->rig->page_bytes;

	return memcmp(scene->slot->memory + at, scene->slot->block->copy + at,
		      scene->rig->page_bytes);
}

static unsigned int count_changed(const struct vhost_scene *scene)
{
	unsigned int changed = 0;

	for (unsigned int page = 0; page < VHOST_PAGES; page++) {
		changed += differs(scene, page);
		if (scene->written[page] && !differs(scene, page))
			fail_msg("page %u was written and has not changed", page);
	}
	return changed;
}

static unsigned int check_missing(const struct vhost_scene *scene, unsigned int missing)
{
	unsigned int lost = 0;

	for (unsigned int page = 0; page < VHOST_PAGES; page++) {
		bool expected = scene->written[page] & missing;

		if (differs(scene, page) != expected)
			fail_msg("page %u, written as %u, is %s the pass", page,
				 scene->written[page], expected ? "in" : "missing in");
		lost += expected;
	}
	return lost;
}

void vhost_scene_pass(struct vhost_scene *scene, unsigned int missing)
{
	const struct rig_range guests = {
		.slot = scene->slot,
		.first_page = GUEST_FIRST_PAGE,
		.pages = GUEST_PAGES,
	};
	unsigned int changed, lost;
	uint64_t reported;

	rig_write(scene->rig, 0, &guests, scene->round);
	changed = count_changed(scene);
	reported = rig_pass(scene->rig, 0) / scene->rig->page_bytes;
	lost = check_missing(scene, missing);
	printf("  %u pages changed, %" PRIu64 " reported, %u lost\n", changed, reported, lost);
	assert_int_equal(reported, changed - lost);
	assert_true(changed >= lost + GUEST_PAGES);
	assert_true(!missing == !lost);
	memset(scene->written, 0, sizeof(scene->written));
	scene->round++;
}

void vhost_scene_mend(struct vhost_scene *scene)
{
	for (unsigned int page = 0; page < VHOST_PAGES; page++) {
		if (differs(scene, page))
			vhost_mark(&scene->device, page * scene->rig->page_bytes, 1);
	}
	rig_pass(scene->rig, 0);
	checker_expect_equal(&scene->rig->checker);
}
