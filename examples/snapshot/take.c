/* SPDX-License-Identifier: MIT */
#include "take.h"
#include "../clock.h"
#include "crc32.h"
#include "racy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/time.h>

enum { EXTENTS = 256, MAX_PAUSED_PASSES = 8 };

/* Why a point is not complete; the first reason counts. */
static int fail(struct taken *taken, int failure, const char *what, const char *why)
{
	if (!*taken->why)
		snprintf(taken->why, sizeof(taken->why), "%s%s%.150s", what, *what ? ": " : "",
			 why);
	return failure;
}

static int fail_log(struct taker *taker, struct taken *taken, int failure, const char *call)
{
	char words[200] = "";

	if (dl_log_last_error(taker->host->log, words, sizeof(words)) <= 0)
		snprintf(words, sizeof(words), "%s", strerror(-failure));
	return fail(taken, failure, call, words);
}

static int fail_file(struct taker *taker, struct taken *taken, int failure)
{
	return fail(taken, failure, "", taker->writer->why);
}

/* Where the pages of an extent go. */
typedef int (*take_pages)(struct taker *taker, uint64_t image_bytes, uint64_t bytes);

/* The guest may write meanwhile, and the sum must be that of what is written: a copy. */
static int take_live(struct taker *taker, uint64_t image_bytes, uint64_t bytes)
{
	const uint8_t *memory = saboteur_memory(&taker->saboteur) + image_bytes;
	int r;

	racy_reads_begin();
	r = file_copy(&taker->file, memory, image_bytes, bytes);
	racy_reads_end();
	return r;
}

/* Nobody writes: what is not held is written from where it is. */
static int take_paused(struct taker *taker, uint64_t image_bytes, uint64_t bytes)
{
	const uint8_t *memory = saboteur_memory(&taker->saboteur) + image_bytes;

	if (held_add(&taker->held, memory, image_bytes, bytes))
		return 0;
	return file_add(&taker->file, memory, image_bytes, bytes);
}

static int take_nothing(struct taker *taker, uint64_t image_bytes, uint64_t bytes)
{
	(void)taker;
	(void)image_bytes;
	(void)bytes;
	return 0;
}

/* An extent, less what --sabotage leaves out. */
static int take_extent(struct taker *taker, take_pages take, const struct dl_extent *extent)
{
	/* The cookie is where the slot is in the image. */
	uint64_t image_bytes = extent->cookie + extent->offset_bytes, done;
	uint64_t page_bytes = taker->host->machine.layout.page_bytes;
	bool paused = take == take_paused;
	int r = 0;

	if (taker->saboteur.kind != SABOTAGE_ACK && taker->saboteur.kind != SABOTAGE_DROP)
		return take(taker, image_bytes, extent->bytes);
	for (done = 0; !r && done < extent->bytes; done += page_bytes)
		if (!saboteur_skips(&taker->saboteur, image_bytes + done, paused))
			r = take(taker, image_bytes + done, page_bytes);
	return r;
}

/* Reads the open pass to its end. The contents are read after the extents were handed out. */
static int read_pass(struct taker *taker, struct dl_cursor *cursor, take_pages take,
		     uint64_t *bytes, struct taken *taken)
{
	struct dl_extent extents[EXTENTS];
	int n, r = 0;

	while (!r && (n = dl_cursor_read(cursor, extents, EXTENTS)) > 0)
		for (int i = 0; !r && i < n; i++) {
			r = take_extent(taker, take, &extents[i]);
			*bytes += extents[i].bytes;
		}
	if (r)
		return fail_file(taker, taken, r);
	return n < 0 ? fail_log(taker, taken, n, "dl_cursor_read") : 0;
}

static int harvest(struct taker *taker, struct dl_cursor *cursor, uint32_t flags, uint64_t *pending,
		   struct taken *taken)
{
	int r = dl_harvest(cursor, flags, pending);

	return r ? fail_log(taker, taken, r, "dl_harvest") : 0;
}

/* A pass of near, which need not be repeatable: since still has what it hands out. */
static int near_pass(struct taker *taker, uint32_t flags, take_pages take, uint64_t *bytes,
		     uint64_t *pending, struct taken *taken)
{
	int r = harvest(taker, taker->near, flags, pending, taken);

	if (!r)
		r = read_pass(taker, taker->near, take, bytes, taken);
	dl_cursor_end(taker->near, r ? 0 : DL_END_COMMIT);
	return r;
}

static int flush_live(struct taker *taker, struct taken *taken)
{
	int r = file_flush(&taker->file);

	return r ? fail_file(taker, taken, r) : 0;
}

/*
 * While the guest runs: what changed since the last point, and then what was written meanwhile. The
 * pass of since stays open until the file is complete.
 */
static int live_passes(struct taker *taker, struct taken *taken)
{
	uint64_t pending, unread = 0;
	int r = near_pass(taker, 0, take_nothing, &unread, &pending, taken);

	/* Everything that is written from here on is pending in near. */
	if (!r)
		r = harvest(taker, taker->since, taken->base ? DL_HARVEST_ALL : 0, &pending, taken);
	if (!r)
		r = read_pass(taker, taker->since, take_live, &taken->cost.live_bytes, taken);
	if (!r)
		r = flush_live(taker, taken);
	for (uint32_t pass = 1; !r && pass < taker->options->passes; pass++) {
		r = near_pass(taker, 0, take_live, &taken->cost.live_bytes, &pending, taken);
		if (!r)
			r = flush_live(taker, taken);
	}
	return r;
}

/* Passes until one finds nothing: what the kernel notices late is in the next one. */
static int near_paused_passes(struct taker *taker, struct taken *taken)
{
	uint64_t pending = 1, start_ns, before;
	int r = 0;

	for (int pass = 0; !r && pending; pass++) {
		if (pass == MAX_PAUSED_PASSES)
			return fail(taken, -EBUSY, "", "memory is written in the pause");
		start_ns = clock_ns();
		r = harvest(taker, taker->near, DL_HARVEST_PAUSED, &pending, taken);
		taken->cost.harvest_ns += clock_ns() - start_ns;
		before = clock_ns();
		if (!r)
			r = read_pass(taker, taker->near, take_paused, &taken->cost.paused_bytes,
				      taken);
		dl_cursor_end(taker->near, r ? 0 : DL_END_COMMIT);
		taken->cost.copy_ns += clock_ns() - before;
	}
	return r;
}

/*
 * The same with one cursor, whose pass must stay open: the harvest is repeated until it finds no
 * more than before, and only then read.
 */
static int since_paused_pass(struct taker *taker, struct taken *taken)
{
	uint64_t pending = 0, before = UINT64_MAX, start_ns = clock_ns();
	uint32_t all = taken->base ? DL_HARVEST_ALL : 0;
	int r = 0;

	for (int pass = 0; !r && pending != before; pass++) {
		if (pass > MAX_PAUSED_PASSES)
			return fail(taken, -EBUSY, "", "memory is written in the pause");
		dl_cursor_end(taker->since, 0);
		before = pass ? pending : UINT64_MAX;
		r = harvest(taker, taker->since, DL_HARVEST_PAUSED | all, &pending, taken);
	}
	taken->cost.harvest_ns += clock_ns() - start_ns;
	start_ns = clock_ns();
	if (!r)
		r = read_pass(taker, taker->since, take_paused, &taken->cost.paused_bytes, taken);
	taken->cost.copy_ns += clock_ns() - start_ns;
	return r;
}

static int save_state(struct taker *taker, struct taken *taken)
{
	struct machine *machine = &taker->host->machine;
	uint64_t start_ns = clock_ns();
	int r = machine_save(machine, taker->state.vcpus);

	taken->cost.state_ns = clock_ns() - start_ns;
	return r ? fail(taken, r, "", machine->why) : 0;
}

static int stop(struct taker *taker, struct taken *taken)
{
	struct machine *machine = &taker->host->machine;
	uint64_t start_ns = clock_ns(), vcpus_ns;
	int r = machine_pause(machine);

	vcpus_ns = clock_ns();
	taken->cost.vcpus_ns = vcpus_ns - start_ns;
	device_pause(taker->device);
	taker->stopped = true;
	if (r)
		return fail(taken, r, "", machine->why);
	r = device_save(taker->device, &taker->state.device);
	taken->cost.devices_ns = clock_ns() - vcpus_ns;
	return r ? fail_log(taker, taken, r, "the device") : 0;
}

void taker_resume(struct taker *taker)
{
	if (!taker->stopped)
		return;
	machine_resume(&taker->host->machine);
	device_resume(taker->device);
	taker->stopped = false;
}

static void prove(struct taker *taker, struct taken *taken, uint32_t *crc)
{
	uint64_t start_ns = clock_ns();

	if (taker->options->sabotage == SABOTAGE_DISCARD)
		device_discard(taker->device);
	if (taker->options->prove != PROVE_ALL)
		return;
	*crc = crc32_add(0, taker->host->machine.memory, taker->host->machine.layout.memory_bytes);
	taken->cost.proof_ns = clock_ns() - start_ns;
}

/* The guest stands still from here to its end, unless it is the last point. */
static int pause(struct taker *taker, bool last, struct taken *taken, uint32_t *crc)
{
	uint64_t start_ns = clock_ns();
	int r;

	saboteur_copy(&taker->saboteur);
	r = stop(taker, taken);
	if (!r)
		r = taker->near ? near_paused_passes(taker, taken)
				: since_paused_pass(taker, taken);
	/* Pages that had no room in the buffer are written before the memory changes. */
	if (!r) {
		uint64_t before_ns = clock_ns();

		r = file_flush(&taker->file);
		taken->cost.copy_ns += clock_ns() - before_ns;
		if (r)
			fail_file(taker, taken, r);
	}
	if (!r)
		r = save_state(taker, taken);
	taken->cost.pause_ns = clock_ns() - start_ns;
	taken->cost.written_paused_bytes = taken->cost.paused_bytes - taker->held.used_bytes;
	prove(taker, taken, crc);
	if (!last)
		taker_resume(taker);
	return r;
}

static void describe(struct taker *taker, struct taken *taken, struct snap_header *header)
{
	const struct machine *machine = &taker->host->machine;
	struct timeval now;

	gettimeofday(&now, NULL);
	*header = (struct snap_header){
		.magic = SNAP_MAGIC,
		.version = SNAP_VERSION,
		.header_bytes = sizeof(*header),
		.number = taken->number,
		.memory_bytes = machine->layout.memory_bytes,
		.page_bytes = machine->layout.page_bytes,
		.vcpus = machine->layout.vcpus,
		.machine = SNAP_MACHINE,
		.backend = machine->kind == &machine_model ? BACKEND_MODEL : BACKEND_KVM,
		.guest_user = machine->guest_user,
		.working_set_bytes = taker->options->working_set_bytes,
		.quantum_ns = machine->quantum_ns,
		.taken_ns = (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_usec * 1000,
	};
	while (snap_id_is_none(header->id))
		if (getrandom(header->id, sizeof(header->id), 0) < 0 && errno != EINTR)
			memcpy(header->id, &header->taken_ns, sizeof(header->taken_ns));
	if (!taken->base)
		memcpy(header->parent, taker->parent.id, sizeof(header->parent));
}

/* The one place where the library forgets pages. */
static void end_pass(struct taker *taker, bool complete)
{
	struct dl_cursor *near = taker->near;

	dl_cursor_end(taker->since, complete ? DL_END_COMMIT : 0);
	if (complete && near) {
		taker->near = taker->since;
		taker->since = near;
	}
}

static int write_point(struct taker *taker, bool last, struct taken *taken)
{
	uint32_t crc = 0, *proof = taker->options->prove == PROVE_ALL ? &crc : NULL;
	struct snap_header header;
	int r;

	describe(taker, taken, &header);
	r = file_begin(&taker->file, taker->writer, &header);
	if (r)
		fail_file(taker, taken, r);
	if (!r && taker->near)
		r = live_passes(taker, taken);
	if (r)
		return r;
	r = pause(taker, last, taken, &crc);
	if (r)
		return r;
	taker->ended_early = taker->options->sabotage == SABOTAGE_COMMIT_EARLY;
	if (taker->ended_early)
		end_pass(taker, true);
	r = held_write(&taker->held, &taker->file);
	if (!r)
		r = file_finish(&taker->file, &taker->state, proof);
	return r ? fail_file(taker, taken, r) : 0;
}

static void note_cost(struct taker *taker, struct cost *cost)
{
	cost->file_bytes = taker->file.file_bytes;
	cost->data_pages = taker->file.data_pages;
	cost->zero_pages = taker->file.zero_pages;
	cost->extents = taker->file.n_extents;
	cost->writes = taker->file.writes;
}

int taker_take(struct taker *taker, bool full, bool last, struct taken *taken)
{
	uint64_t start_ns = clock_ns();
	int r;

	memset(taken, 0, sizeof(*taken));
	taken->number = taker->last_number + 1;
	taken->base = full || !taker->parent.number;
	if (taken->number > SNAP_MAX_NUMBER)
		return fail(taken, -EOVERFLOW, "",
			    "there is no number for another point: go on in "
			    "a new directory");
	r = write_point(taker, last, taken);
	/* The file is there to stay, or the pages are pending again. */
	if (!taker->ended_early)
		end_pass(taker, !r);
	taker->ended_early = false;
	taken->cost.ns = clock_ns() - start_ns;
	held_forget(&taker->held);
	if (r) {
		file_abort(&taker->file);
		/* Its reason may be better than a closed socket's. */
		if (!*taken->why)
			fail(taken, r, "", *taker->writer->why ? taker->writer->why : strerror(-r));
		if (last && !taker->stopped)
			(void)stop(taker, taken);
		return r == -ETIMEDOUT ? r : 0;
	}
	taken->complete = true;
	note_cost(taker, &taken->cost);
	taker->parent = taker->file.header;
	taker->last_number = taker->parent.number;
	return 0;
}

static int new_cursor(struct taker *taker, bool clean, struct dl_cursor **cursor, char *why,
		      size_t why_bytes)
{
	const struct dl_cursor_options options = {
		.size = sizeof(options),
		.flags = clean ? DL_CURSOR_CLEAN : 0,
		.vcpus = taker->host->machine.layout.vcpus,
		.coalesce_bytes = taker->options->coalesce_bytes,
		.max_extent_bytes = SNAP_EXTENT_BYTES,
	};
	int r = dl_cursor_new(taker->host->log, &options, cursor);

	if (r)
		snprintf(why, why_bytes, "dl_cursor_new: %s", strerror(-r));
	return r;
}

int taker_init(struct taker *taker, const struct options *options, struct host *host,
	       struct device *device, struct writer *writer, const struct snap_header *parent,
	       char *why, size_t why_bytes)
{
	int r;

	memset(taker, 0, sizeof(*taker));
	taker->options = options;
	taker->host = host;
	taker->device = device;
	taker->writer = writer;
	if (parent)
		taker->parent = *parent;
	r = held_init(&taker->held, options->pause_copy ? options->buffer_bytes : 0);
	if (!r)
		r = saboteur_init(&taker->saboteur, options->sabotage, &host->machine);
	if (r) {
		snprintf(why, why_bytes, "no memory for the buffer");
		return -ENOMEM;
	}
	r = new_cursor(taker, parent, &taker->since, why, why_bytes);
	if (!r && options->passes)
		r = new_cursor(taker, true, &taker->near, why, why_bytes);
	return r;
}

void taker_free(struct taker *taker)
{
	dl_cursor_free(taker->near);
	dl_cursor_free(taker->since);
	held_free(&taker->held);
	file_free(&taker->file);
	saboteur_free(&taker->saboteur);
	memset(taker, 0, sizeof(*taker));
}
