/* SPDX-License-Identifier: MIT */
/* The script of a tour: every public call, in every state of a log. */
#include "tour.h"

#include "cmocka_all.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>

/* The first page of a slot before it moves. */
static uint64_t first_page_of(unsigned int slot)
{
	return slot * 1000u;
}

static bool is_ring(const struct tour *tour)
{
	return tour->mode->options.mode == DL_MODE_RING;
}

static void store(struct tour *tour, const struct guest_vcpu *vcpu, uint32_t as_id, uint64_t page)
{
	struct guest *guest = &tour->guest;
	uint64_t value = atomic_fetch_add(&guest->value, 1) + 1;
	uint64_t gpa = page * guest->page_bytes + value * 8 * 37 % guest->page_bytes;

	for (int exits = 0; exits < GUEST_MAX_EXITS; exits++) {
		int r = model_vcpu_write(guest->model, vcpu->fd, as_id, gpa, &value, sizeof(value));

		if (r != KVM_EXIT_DIRTY_RING_FULL) {
			assert_int_equal(r, 0);
			return;
		}
		if (!vcpu->handle)
			break;
		TOUR(tour, TOUR_DRAIN, dl_vcpu_drain(vcpu->handle, 0));
	}
	tour_problem(tour, "a vCPU cannot enter the guest");
	longjmp(tour->abandon, 1);
}

void tour_write(struct tour *tour, unsigned int vcpu, uint32_t as_id, uint64_t gpa_page)
{
	if (tour->written_count < 64 && !tour->disturbing)
		tour->written[tour->written_count++] = (uint64_t)as_id << 32 | gpa_page;
	store(tour, &tour->guest.vcpus[vcpu], as_id, gpa_page);
}

void tour_disturb(struct tour *tour)
{
	if (!tour->logging || tour->disturbing)
		return;
	tour->disturbing = true;
	if (!tour->in_pass)
		tour_take(tour);
	for (unsigned int i = 0; i < tour->written_count; i++)
		store(tour, &tour->guest.vcpus[0], (uint32_t)(tour->written[i] >> 32),
		      tour->written[i] & UINT32_MAX);
	tour->disturbing = false;
}

static struct dl_slot slot_of(const struct tour *tour, unsigned int i)
{
	const struct guest *guest = &tour->guest;
	uint32_t number = i == OTHER_SPACE ? 1 << 16 : i;
	/* OTHER_SPACE maps the memory of BIG in the second address space. */
	const struct guest_block *block = &guest->blocks[i == OTHER_SPACE ? BIG : i];

	return guest_slot(guest, number, first_page_of(i == OTHER_SPACE ? BIG : i), block, 0,
			  block->pages);
}

/* The caller creates the slot, which the log adopts. */
static void create_by_caller(struct tour *tour, const struct dl_slot *slot)
{
	struct guest *guest = &tour->guest;
	struct kvm_userspace_memory_region region = {
		.slot = slot->slot,
		.guest_phys_addr = slot->gpa,
		.memory_size = slot->bytes,
		.userspace_addr = slot->hva,
	};

	assert_int_equal(guest->os.ioctl(guest->os.opaque, guest->vm_fd, KVM_SET_USER_MEMORY_REGION,
					 &region),
			 0);
}

void tour_set_slot(struct tour *tour, unsigned int i, uint32_t flags)
{
	struct dl_slot *slot = &tour->slots[i];

	if (i == CALLERS && !tour->exists[i]) {
		flags |= DL_SLOT_EXISTS;
		create_by_caller(tour, slot);
	}
	slot->flags = flags;
	TOUR(tour, TOUR_SLOT_SET, dl_slot_set(tour->guest.log, slot));
	tour->exists[i] = true;
}

static void move_slot(struct tour *tour, unsigned int i)
{
	tour->slots[i].gpa += 500 * tour->guest.page_bytes;
	tour_set_slot(tour, i, 0);
}

/* Its pages are copied by the words that the removal has filled. */
void tour_remove_slot(struct tour *tour, unsigned int i, uint32_t flags)
{
	uint64_t words[2] = { 0 };

	TOUR(tour, TOUR_SLOT_REMOVE,
	     dl_slot_remove(tour->guest.log, tour->slots[i].slot, flags, words, 2));
	tour->exists[i] = false;
	tour_copy_words(tour, &tour->slots[i], words);
}

static void add_vcpu(struct tour *tour, unsigned int i)
{
	struct guest_vcpu *vcpu = &tour->guest.vcpus[i];

	TOUR(tour, TOUR_VCPU_ADD, dl_vcpu_add(tour->guest.log, vcpu->fd, 0, 0, &vcpu->handle));
}

static void remove_vcpu(struct tour *tour, unsigned int i)
{
	struct guest_vcpu *vcpu = &tour->guest.vcpus[i];

	TOUR_VOID(tour, TOUR_VCPU_REMOVE, dl_vcpu_remove(vcpu->handle));
	vcpu->handle = NULL;
}

static void open_log(struct tour *tour)
{
	struct guest *guest = &tour->guest;
	const struct dl_options *options = &guest->config.options;
	struct dl_config config = { .size = sizeof(config) };

	TOUR(tour, TOUR_PROBE, dl_probe(model_system_fd(guest->model), options, &config, NULL, 0));
	TOUR(tour, TOUR_PROBE,
	     dl_probe(guest->vm_fd, options, &config, guest->why, sizeof(guest->why)));
	TOUR(tour, TOUR_OPEN,
	     dl_log_open(guest->vm_fd, options, &guest->log, guest->why, sizeof(guest->why)));
	TOUR(tour, TOUR_CONFIG, dl_log_config(guest->log, &config));
	assert_int_equal(config.mode, options->mode);
	if (!config.backup != !(tour->mode->model.has & MODEL_HAS_BACKUP))
		tour_problem(tour, "the backup bitmap is not as configured");
}

static void query(struct tour *tour)
{
	struct dl_cursor_stats cursor_stats = { .size = sizeof(cursor_stats) };
	struct dl_stats stats = { .size = sizeof(stats) };
	struct guest *guest = &tour->guest;

	TOUR(tour, TOUR_DESCRIBE, dl_log_describe(guest->log, guest->why, sizeof(guest->why)));
	TOUR(tour, TOUR_LOG_STATS, dl_log_stats(guest->log, &stats));
	TOUR(tour, TOUR_VCPU_STATS, dl_vcpu_stats(guest->vcpus[0].handle, &stats));
	TOUR(tour, TOUR_LAST_ERROR, dl_log_last_error(guest->log, guest->why, sizeof(guest->why)));
	if (tour->logging)
		TOUR(tour, TOUR_CURSOR_STATS, dl_cursor_stats(tour->cursor, &cursor_stats));
}

/*
 * While logging: what is in the rings, from a ring that fills too, and a full exit after the
 * interval has grown. With the pass after it, nothing that a reap took may be missing.
 */
static void reap(struct tour *tour)
{
	struct guest *guest = &tour->guest;
	uint64_t again_ns;

	for (int looks = 0; looks < 3; looks++) {
		model_advance(guest->model, 1000000000);
		TOUR(tour, TOUR_REAP, dl_log_reap(guest->log, 0, &again_ns));
	}
	for (uint64_t page = 0; page < BIG_PAGES; page++)
		tour_write(tour, 0, 0, page);
	TOUR(tour, TOUR_REAP, dl_log_reap(guest->log, DL_REAP_NOW, &again_ns));
	tour_write(tour, 1, 0, 3);
	tour_pass(tour, 0);
}

static void set_up(struct tour *tour)
{
	open_log(tour);
	for (unsigned int i = 0; i < 5; i++)
		guest_memory(&tour->guest, i == BIG ? BIG_PAGES : SMALL_PAGES);
	for (unsigned int i = 0; i < 6; i++)
		tour->slots[i] = slot_of(tour, i);
	checker_init_guest(&tour->checker, &tour->guest);
	/* The blocks without a slot must not differ. */
	for (unsigned int i = NEW; i <= CALLERS; i++)
		model_copy(tour->checker.blocks[i].copy, tour->guest.blocks[i].memory,
			   SMALL_PAGES * 4096);
	tour_set_slot(tour, BIG, 0);
	tour_set_slot(tour, SMALL, 0);
	tour_set_slot(tour, OTHER_SPACE, 0);
	for (unsigned int i = 0; i < 3; i++)
		guest_vcpu(&tour->guest, false);
	add_vcpu(tour, 0);
	add_vcpu(tour, 1);
	TOUR(tour, TOUR_FD, dl_log_fd(tour->guest.log));
	TOUR(tour, TOUR_REAP, dl_log_reap(tour->guest.log, 0, NULL));
	query(tour);
}

static void start(struct tour *tour, uint32_t flags)
{
	const struct dl_cursor_options options = {
		.size = sizeof(options),
		.flags = flags,
		.vcpus = 2,
	};

	TOUR(tour, TOUR_CURSOR_NEW, dl_cursor_new(tour->guest.log, &options, &tour->cursor));
	tour->logging = true;
	if (tour->mode->two_cursors)
		TOUR(tour, TOUR_CURSOR_NEW, dl_cursor_new(tour->guest.log, NULL, &tour->second));
}

static void stop(struct tour *tour)
{
	tour->logging = false;
	/* Leave an entry in a ring; it is discarded. */
	store(tour, &tour->guest.vcpus[1], 0, 9);
	TOUR_VOID(tour, TOUR_CURSOR_FREE, dl_cursor_free(tour->cursor));
	if (tour->mode->two_cursors)
		TOUR_VOID(tour, TOUR_CURSOR_FREE, dl_cursor_free(tour->second));
	tour->cursor = tour->second = NULL;
}

static void writes_and_marks(struct tour *tour)
{
	struct guest *guest = &tour->guest;
	const struct iovec scattered[] = {
		{ .iov_base = guest->blocks[BIG].memory + 74 * 4096, .iov_len = 10 },
		{ .iov_base = guest->blocks[SMALL].memory, .iov_len = 10 },
	};

	const struct dl_bitmap bitmap = {
		.size = sizeof(bitmap),
		.flags = DL_BITMAP_TAKE,
		.gpa = first_page_of(BIG) * 4096 + 68 * 4096,
		.bytes = 4096,
		.page_bytes = 4096,
	};
	uint64_t word = 1, marked_bytes;

	for (uint64_t page = 3; page < 12; page++)
		tour_write(tour, page & 1, 0, page);
	tour_write(tour, 1, 1, 60);
	TOUR(tour, TOUR_DRAIN, dl_vcpu_drain(guest->vcpus[0].handle, 0));
	memset(guest->blocks[SMALL].memory + 3000, (int)guest->value, 100);
	TOUR(tour, TOUR_MARK, dl_mark_gpa(guest->log, 0, first_page_of(SMALL) * 4096 + 3000, 100));
	memset(guest->blocks[BIG].memory + 70 * 4096, (int)guest->value, 10);
	TOUR(tour, TOUR_MARK_SLOT, dl_mark_slot(guest->log, BIG, 70 * 4096, 10));
	memset(guest->blocks[BIG].memory + 72 * 4096, (int)guest->value, 10);
	TOUR(tour, TOUR_MARK_HVA,
	     dl_mark_hva(guest->log, guest->blocks[BIG].memory + 72 * 4096, 10));
	memset(scattered[0].iov_base, (int)guest->value, 10);
	memset(scattered[1].iov_base, (int)guest->value, 10);
	TOUR(tour, TOUR_MARK_IOV, dl_mark_iov(guest->log, scattered, 2, 0, 20));
	memset(guest->blocks[BIG].memory + 68 * 4096, (int)guest->value, 10);
	TOUR(tour, TOUR_MARK_BITMAP, dl_mark_bitmap(guest->log, &bitmap, &word, 1, &marked_bytes));
	tour_pass(tour, 0);
	/* Fill the ring of a vCPU. */
	for (uint64_t page = 0; page < BIG_PAGES; page++)
		tour_write(tour, 0, 0, page);
	tour_pass(tour, 0);
	query(tour);
}

/* Extents that are read but not acknowledged are pending again after dl_cursor_end(). */
static void unfinished_passes(struct tour *tour)
{
	struct dl_extent extents[2];

	for (uint64_t page = 0; page < 40; page += 4)
		tour_write(tour, 0, 0, page);
	tour_begin_pass(tour, 0);
	TOUR(tour, TOUR_READ, dl_cursor_read(tour->cursor, extents, 2));
	tour_write(tour, 1, 0, 1);
	tour_end_pass(tour);
	tour_begin_pass(tour, 0);
	tour_read_pass(tour);
	tour_end_pass(tour);
	tour_pass(tour, 0);
	tour_take_second(tour);
}

/*
 * A vCPU that writes more than it may, by a limit of its own and by a plan's: it is kicked, asks
 * for its pause, and no page is lost for it. The plan reads bitmaps after a quarter of a second.
 */
static void limits(struct tour *tour)
{
	const struct dl_goal goal = { .size = sizeof(goal), .downtime_ns = 1 };
	struct dl_advice advice = { .size = sizeof(advice) };
	struct guest *guest = &tour->guest;
	struct dl_vcpu *vcpu = guest->vcpus[0].handle;
	uint64_t pause_ns, cookies[2], again_ns;
	struct dl_plan *plan;

	if (tour->mode->options.mode == DL_MODE_RING)
		TOUR(tour, TOUR_LIMIT, dl_vcpu_limit(vcpu, 4096));
	TOUR(tour, TOUR_PLAN_NEW, dl_plan_new(tour->cursor, &goal, &plan));
	for (int looks = 0; looks < 4; looks++) {
		for (uint64_t page = 0; page < 40; page++)
			tour_write(tour, 0, 0, page);
		model_advance(guest->model, 300000000);
		TOUR(tour, TOUR_REAP, dl_log_reap(guest->log, DL_REAP_NOW, &again_ns));
		TOUR(tour, TOUR_KICKS, dl_log_kicks(guest->log, cookies, 2));
		TOUR(tour, TOUR_PAUSE_DUE, dl_vcpu_pause_due(vcpu, &pause_ns));
		tour_write(tour, 1, 0, (uint64_t)looks);
		if (tour->exists[OTHER_SPACE])
			tour_write(tour, 1, 1, (uint64_t)looks);
		TOUR(tour, TOUR_PLAN_SENT, dl_plan_sent(plan, 4096, 300000000));
		TOUR(tour, TOUR_PLAN_NEXT, dl_plan_next(plan, 0, &advice));
		tour_pass(tour, 0);
	}
	TOUR_VOID(tour, TOUR_PLAN_FREE, dl_plan_free(plan));
	if (tour->mode->options.mode == DL_MODE_RING)
		TOUR(tour, TOUR_LIMIT, dl_vcpu_limit(vcpu, 0));
	tour_pass(tour, 0);
}

static void write_small(struct tour *tour, unsigned int i)
{
	uint64_t first_page = tour->slots[i].gpa / tour->guest.page_bytes;

	for (uint64_t page = 0; page < SMALL_PAGES; page += 3)
		tour_write(tour, 1, 0, first_page + page);
}

static void slots_change_while_logging(struct tour *tour)
{
	for (unsigned int i = NEW; i <= CALLERS; i++)
		memset(tour->guest.blocks[i].memory, (int)i, SMALL_PAGES * 4096);
	tour_set_slot(tour, NEW, 0);
	tour_set_slot(tour, CALLERS, 0);
	/* A clean slot: its contents count as sent. */
	model_copy(tour->checker.blocks[CLEAN].copy, tour->guest.blocks[CLEAN].memory,
		   SMALL_PAGES * 4096);
	tour_pass(tour, 0);
	tour_set_slot(tour, CLEAN, DL_SLOT_CLEAN | DL_SLOT_PAUSED);
	write_small(tour, NEW);
	write_small(tour, CLEAN);
	write_small(tour, CALLERS);
	tour->written_count = 0; /* the slots move */
	move_slot(tour, NEW);
	move_slot(tour, CALLERS);
	write_small(tour, NEW);
	write_small(tour, CALLERS);
	tour_pass(tour, 0);
	write_small(tour, CLEAN);
	write_small(tour, NEW);
	tour->written_count = 0; /* the slots are removed */
	tour_remove_slot(tour, CLEAN, 0);
	tour_pass(tour, 0);
	tour_remove_slot(tour, CALLERS, 0);
	tour_remove_slot(tour, NEW, DL_REMOVE_PAUSED);
	model_copy(tour->checker.blocks[NEW].copy, tour->guest.blocks[NEW].memory,
		   SMALL_PAGES * 4096);
	tour_pass(tour, 0);
}

/* Releases an entry as a previous owner of the ring might have, and marks its page. */
static void release_one(struct tour *tour, struct guest_vcpu *vcpu)
{
	const struct dl_os *os = &tour->guest.os;
	struct kvm_dirty_gfn *cells;

	assert_int_equal(os->mmap(os->opaque, vcpu->fd, 64 * 4096, 256 * sizeof(*cells),
				  PROT_READ | PROT_WRITE, MAP_SHARED, (void **)&cells),
			 0);
	__atomic_store_n(&cells[0].flags, 2, __ATOMIC_RELEASE);
	os->munmap(os->opaque, cells, 256 * sizeof(*cells));
	TOUR(tour, TOUR_MARK, dl_mark_gpa(tour->guest.log, 0, 50 * 4096, 1));
}

static void vcpus_change_while_logging(struct tour *tour)
{
	struct guest_vcpu *late = &tour->guest.vcpus[2];

	store(tour, late, 0, 50);
	store(tour, late, 0, 51);
	if (is_ring(tour))
		release_one(tour, late);
	add_vcpu(tour, 2);
	tour_pass(tour, 0);
	tour_write(tour, 2, 0, 52);
	remove_vcpu(tour, 1);
	store(tour, &tour->guest.vcpus[1], 0, 53);
	tour_pass(tour, 0);
	add_vcpu(tour, 1);
	tour_write(tour, 1, 0, 54);
	tour_write(tour, 2, 0, 55);
	tour_pass(tour, 0);
}

/* Writes without a check for a full ring: it overflows, and the library must resync it. */
static void overflow(struct tour *tour)
{
	struct guest *guest = &tour->guest;

	if (!is_ring(tour))
		return;
	for (uint64_t i = 0; i < 600; i++) {
		uint64_t value = ++guest->value;

		assert_int_equal(model_vcpu_write_unchecked(guest->model, guest->vcpus[0].fd, 0,
							    i % BIG_PAGES * 4096, &value, 8),
				 0);
	}
	tour_write(tour, 1, 0, 7);
	tour_look(tour);
	tour_pass(tour, 0);
	for (uint64_t page = 0; page < BIG_PAGES; page++)
		tour_write(tour, 0, 0, page);
	tour_pass(tour, 0);
}

/* Stops all vCPUs and saves in-kernel state, which writes to guest memory. */
static void final_pass(struct tour *tour)
{
	struct guest *guest = &tour->guest;
	uint64_t value = ++guest->value;

	tour_write(tour, 0, 0, 2);
	guest_stop(guest);
	if (!is_ring(tour) || tour->mode->model.has & MODEL_HAS_BACKUP)
		assert_int_equal(model_kernel_write(guest->model, guest->vm_fd, 0, 60 * 4096,
						    &value, sizeof(value)),
				 0);
	tour_pass(tour, DL_HARVEST_PAUSED);
	tour_take_second(tour);
}

static void close_log(struct tour *tour)
{
	struct guest *guest = &tour->guest;

	tour_begin_pass(tour, 0);
	for (uint64_t page = 0; page < 60; page++)
		tour_write(tour, 0, 0, page);
	tour->logging = false;
	TOUR_VOID(tour, TOUR_CLOSE, dl_log_close(guest->log));
	/* The handles keep the log alive, and a vCPU with a full ring can still be drained. */
	for (uint64_t page = 0; page < BIG_PAGES; page++)
		store(tour, &guest->vcpus[2], 0, page);
	TOUR(tour, TOUR_DRAIN, dl_vcpu_drain(guest->vcpus[0].handle, 0));
	for (unsigned int i = 1; i < 3; i++)
		remove_vcpu(tour, i);
	remove_vcpu(tour, 0);
	guest->log = NULL;
	tour_end_pass(tour);
	TOUR_VOID(tour, TOUR_CURSOR_FREE, dl_cursor_free(tour->cursor));
	if (tour->mode->two_cursors)
		TOUR_VOID(tour, TOUR_CURSOR_FREE, dl_cursor_free(tour->second));
}

void tour_script(struct tour *tour)
{
	set_up(tour);
	start(tour, 0);
	tour_pass(tour, 0);
	writes_and_marks(tour);
	reap(tour);
	unfinished_passes(tour);
	limits(tour);
	slots_change_while_logging(tour);
	tour_watches(tour);
	vcpus_change_while_logging(tour);
	overflow(tour);
	final_pass(tour);
	stop(tour);
	checker_equalize(&tour->checker);
	start(tour, DL_CURSOR_CLEAN);
	for (uint64_t page = 20; page < 30; page++)
		tour_write(tour, page & 1, 0, page);
	tour_pass(tour, 0);
	tour_watch_slot(tour, SMALL, true, 0);
	final_pass(tour);
	close_log(tour);
}
