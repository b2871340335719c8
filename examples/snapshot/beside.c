/* SPDX-License-Identifier: MIT */
#include "beside.h"
#include "../clock.h"
#include "image.h"
#include "racy.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define REFRESH_NS (3 * NS_PER_MS)

enum { EXTENTS = 64, MAX_PAUSED_PASSES = 8 };

static void copy(struct consumer *consumer, const struct dl_extent *extent)
{
	uint64_t offset = extent->cookie + extent->offset_bytes;

	racy_reads_begin();
	memcpy(consumer->replica + offset, consumer->host->machine.memory + offset, extent->bytes);
	racy_reads_end();
	consumer->bytes += extent->bytes;
}

/* A migration acknowledges what has arrived, a display commits a frame at its end. */
static int pass(struct consumer *consumer, uint32_t flags, uint64_t *pending)
{
	struct dl_extent extents[EXTENTS];
	int n = 0, r = dl_harvest(consumer->cursor, flags, pending);

	/* The display's slot is not there at the moment. */
	if (r == -ENOENT && consumer->display) {
		*pending = 0;
		return 0;
	}
	while (!r && (n = dl_cursor_read(consumer->cursor, extents, EXTENTS)) > 0) {
		for (int i = 0; i < n; i++)
			copy(consumer, &extents[i]);
		if (!consumer->display)
			r = dl_cursor_ack(consumer->cursor, extents, (uint32_t)n);
	}
	if (!r)
		r = n;
	dl_cursor_end(consumer->cursor, consumer->display && !r ? DL_END_COMMIT : 0);
	consumer->passes++;
	return r;
}

static void *consumer_main(void *arg)
{
	struct consumer *consumer = arg;
	struct timespec refresh = clock_timespec(REFRESH_NS);
	uint64_t pending;

	while (!consumer->failure && !atomic_load(&consumer->stopping)) {
		consumer->failure = pass(consumer, 0, &pending);
		nanosleep(&refresh, NULL);
	}
	return NULL;
}

static int start(struct consumer *consumer, struct host *host, bool display)
{
	const struct layout *layout = &host->machine.layout;
	const struct layout_slot *slot = &layout->slots[LAYOUT_DEVICE_SLOT];
	const struct dl_cursor_options options = {
		.size = sizeof(options),
		.flags = display ? DL_CURSOR_ONE_SLOT | DL_CURSOR_CLEAN : 0,
		.vcpus = layout->vcpus,
		.slot = LAYOUT_DEVICE_SLOT,
	};
	int r;

	consumer->host = host;
	consumer->display = display;
	consumer->replica = image_map(layout->memory_bytes);
	if (!consumer->replica)
		return -ENOMEM;
	r = dl_cursor_new(host->log, &options, &consumer->cursor);
	if (r)
		return r;
	/* A clean cursor tells of what is written from here on; what was there is copied once. */
	if (display)
		memcpy(consumer->replica + slot->offset_bytes,
		       host->machine.memory + slot->offset_bytes, slot->bytes);
	r = pthread_create(&consumer->thread, NULL, consumer_main, consumer);
	consumer->has_thread = !r;
	return -r;
}

int beside_start(struct beside *beside, struct host *host, char *why, size_t why_bytes)
{
	int r = start(&beside->consumers[0], host, false);

	if (!r)
		r = start(&beside->consumers[1], host, true);
	if (r)
		snprintf(why, why_bytes, "the consumers beside: %s", strerror(-r));
	return r;
}

static void join(struct consumer *consumer)
{
	atomic_store(&consumer->stopping, true);
	if (consumer->has_thread)
		pthread_join(consumer->thread, NULL);
	consumer->has_thread = false;
}

static int64_t compare(const struct consumer *consumer)
{
	const struct layout *layout = &consumer->host->machine.layout;
	const struct layout_slot *slot = &layout->slots[LAYOUT_DEVICE_SLOT];
	uint64_t at = consumer->display ? slot->offset_bytes : 0;
	uint64_t end = consumer->display ? at + slot->bytes : layout->memory_bytes;
	int64_t differ = 0;

	for (; at < end; at += layout->page_bytes)
		differ += memcmp(consumer->replica + at, consumer->host->machine.memory + at,
				 layout->page_bytes) != 0;
	return differ;
}

static int64_t end(struct consumer *consumer)
{
	uint64_t pending = 1;

	join(consumer);
	for (int i = 0; !consumer->failure && pending; i++)
		consumer->failure = i < MAX_PAUSED_PASSES
					    ? pass(consumer, DL_HARVEST_PAUSED, &pending)
					    : -EBUSY;
	return consumer->failure ? consumer->failure : compare(consumer);
}

int64_t beside_end(struct beside *beside, char *why, size_t why_bytes)
{
	int64_t differ = 0;

	for (int i = 0; i < 2; i++) {
		int64_t more = end(&beside->consumers[i]);

		if (more < 0) {
			snprintf(why, why_bytes, "the %s beside: %s", i ? "display" : "migration",
				 strerror((int)-more));
			return more;
		}
		differ += more;
	}
	return differ;
}

void beside_free(struct beside *beside)
{
	for (int i = 0; i < 2; i++) {
		struct consumer *consumer = &beside->consumers[i];

		join(consumer);
		dl_cursor_free(consumer->cursor);
		if (consumer->host)
			image_unmap(consumer->replica, consumer->host->machine.layout.memory_bytes);
	}
}
