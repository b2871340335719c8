/* SPDX-License-Identifier: MIT */
#ifndef LAB_VHOST_SCENE_H
#define LAB_VHOST_SCENE_H

/*
 * A VM with a slot, a vhost device that writes there, and a consumer. A round is some traffic, the
 * guest's own writes, and a pass; it knows what the device has written, and compares.
 */
#include "vhost_device.h"

enum {
	VHOST_RX = 0, /* the queue whose buffers the device fills */
	VHOST_TX = 1, /* the queue whose buffers it reads: it writes the used ring only */
	VHOST_PAGES = 64,
	VHOST_BUFFER_BYTES = 1024, /* half of them in one page and half in the next */
};

/* Kinds of device writes. */
enum vhost_written {
	VHOST_USED_RING = 1,
	VHOST_BUFFER = 2,
};

/* The mapping of the slot's memory that the device has. */
enum vhost_mapping {
	VHOST_GUESTS_MAPPING,
	VHOST_ALIAS,
	VHOST_WATCHED_ALIAS,
};

struct vhost_scene {
	struct rig *rig;
	struct rig_slot *slot;
	uint8_t *alias;
	struct vhost_device device;
	unsigned int round;
	/* Writes to each page since the last pass: enum vhost_written. */
	uint8_t written[VHOST_PAGES];
};

/* A VM with an open device, without a log. Skips the test if the machine cannot have it. */
void vhost_scene_open(struct vhost_scene *scene, uint32_t mode, enum vhost_mapping mapping,
		      const char *path, uint64_t features);

/* Also closes what a test that failed has left, and a scene that is zeroed. */
void vhost_scene_close(struct vhost_scene *scene);

/* A consumer joins and reads everything that is pending. */
void vhost_scene_join(struct vhost_scene *scene);

/* Offers empty buffers until this many wait for the device. */
void vhost_scene_offer(struct vhost_scene *scene, unsigned int buffers);

/* The byte that this round's traffic consists of. */
uint8_t vhost_scene_byte(const struct vhost_scene *scene);

/* Waits for a buffer and notes what the device has written. Returns its offset in the slot. */
uint64_t vhost_scene_consume(struct vhost_scene *scene, unsigned int queue, uint32_t *bytes);

/* Takes the device's log, as doc/sources.md does before each pass. */
void vhost_scene_sync(const struct vhost_scene *scene);

/*
 * The guest writes too, then a pass. Every page that has changed, and no other, must be in it,
 * except pages that the device has written in these ways (enum vhost_written): all of them must be
 * missing. Begins the next round.
 */
void vhost_scene_pass(struct vhost_scene *scene, unsigned int missing);

/* A pass like any other, after everything that is missing in the copy was marked. */
void vhost_scene_mend(struct vhost_scene *scene);

#endif
