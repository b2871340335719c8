/* SPDX-License-Identifier: MIT */
/* The script of a tour: every public call, in every state of a log. */
#include "tour.h"

#include "cmocka_all.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>

enum {
	BIG_PAGES = 76, /* more than a ring holds */
	SMALL_PAGES = 4,
	RUNS = 5,
	/* Slots. */
	BIG = 0,
	SMALL = 1,
	NEW = 2,
	CLEAN = 3,
	CALLERS = 4, /* the caller makes its ioctls */
	OTHER_SPACE = 5,
};

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

static void read_with(struct tour *tour, struct dl_iter *iter)
{
	struct dl_run runs[RUNS];
	int n = 0;

	do {
		TOUR(tour, TOUR_ITER_READ, (n = dl_iter_read(iter, runs, RUNS)));
		for (int i = 0; i < n; i++)
			checker_copy_run(&tour->checker, &runs[i]);
		if (n > 0)
			TOUR(tour, TOUR_ITER_ACK, dl_iter_ack(iter, runs, (uint32_t)n));
	} while (n > 0);
}

static void begin_reading(struct tour *tour)
{
	TOUR(tour, TOUR_ITER_NEW, dl_iter_new(tour->guest.log, 0, &tour->iter));
}

static void end_reading(struct tour *tour)
{
	struct dl_iter *iter = tour->iter;

	TOUR_VOID(tour, TOUR_ITER_FREE, dl_iter_free(iter));
	tour->iter = NULL;
}

void tour_read(struct tour *tour)
{
	begin_reading(tour);
	read_with(tour, tour->iter);
	end_reading(tour);
}

void tour_disturb(struct tour *tour)
{
	if (!tour->logging || tour->disturbing)
		return;
	tour->disturbing = true;
	if (!tour->iter)
		tour_read(tour);
	for (unsigned int i = 0; i < tour->written_count; i++)
		store(tour, &tour->guest.vcpus[0], (uint32_t)(tour->written[i] >> 32),
		      tour->written[i] & UINT32_MAX);
	tour->disturbing = false;
}

/* Nothing is written during a pass, so no page may differ after it. */
static void pass(struct tour *tour, uint32_t flags)
{
	uint64_t pending, differing;

	/* Repeat after a failure: tour_disturb() may have written too late for this pass. */
	do {
		tour->disturbed = false;
		TOUR(tour, flags ? TOUR_HARVEST_FINAL : TOUR_HARVEST,
		     dl_harvest(tour->guest.log, flags, &pending));
		tour->disturbed = false;
		tour_read(tour);
	} while (tour->disturbed);
	differing = checker_differing_pages(&tour->checker);
	if (differing)
		tour_problem(tour, "%lu pages differ after a %s pass", (unsigned long)differing,
			     flags ? "final" : "normal");
	tour->written_count = 0;
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

/* The ioctl of the caller. 0 bytes delete the slot. */
static void set_region_by_caller(struct tour *tour, unsigned int i, const struct dl_slot *slot,
				 uint64_t bytes)
{
	struct guest *guest = &tour->guest;

	tour->regions[i] = (struct kvm_userspace_memory_region){
		.slot = slot->slot,
		.guest_phys_addr = slot->gpa,
		.memory_size = bytes,
		.userspace_addr = slot->hva,
	};
	assert_int_equal(guest->os.ioctl(guest->os.opaque, guest->vm_fd, KVM_SET_USER_MEMORY_REGION,
					 &tour->regions[i]),
			 0);
}

static bool is_callers(const struct tour *tour, unsigned int i)
{
	return tour->mode->caller_regions || i == CALLERS;
}

static void set_slot(struct tour *tour, unsigned int i, uint32_t flags)
{
	struct dl_slot *slot = &tour->slots[i];

	if (is_callers(tour, i)) {
		flags |= DL_SLOT_CALLER_IOCTL;
		set_region_by_caller(tour, i, slot, slot->bytes);
	}
	slot->flags = flags;
	TOUR(tour, TOUR_SLOT_SET, dl_slot_set(tour->guest.log, slot));
}

static void move_slot(struct tour *tour, unsigned int i)
{
	tour->slots[i].gpa += 500 * tour->guest.page_bytes;
	set_slot(tour, i, 0);
}

static void remove_slot(struct tour *tour, unsigned int i, uint32_t flags)
{
	if (is_callers(tour, i)) {
		flags |= DL_SLOT_CALLER_IOCTL;
		set_region_by_caller(tour, i, &tour->slots[i], 0);
	}
	TOUR(tour, TOUR_SLOT_REMOVE, dl_slot_remove(tour->guest.log, tour->slots[i].slot, flags));
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
	struct dl_stats stats = { .size = sizeof(stats) };
	struct guest *guest = &tour->guest;
	uint64_t from_now_ns;

	TOUR(tour, TOUR_DESCRIBE, dl_log_describe(guest->log, guest->why, sizeof(guest->why)));
	TOUR(tour, TOUR_LOG_STATS, dl_log_stats(guest->log, &stats));
	TOUR(tour, TOUR_VCPU_STATS, dl_vcpu_stats(guest->vcpus[0].handle, &stats));
	if (tour->logging)
		TOUR(tour, TOUR_DUE, dl_log_harvest_due(guest->log, &from_now_ns));
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
	pass(tour, 0);
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
	set_slot(tour, BIG, 0);
	set_slot(tour, SMALL, 0);
	set_slot(tour, OTHER_SPACE, 0);
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
	TOUR(tour, TOUR_START, dl_log_start(tour->guest.log, flags));
	tour->logging = true;
}

static void stop(struct tour *tour)
{
	tour->logging = false;
	/* Leave an entry in a ring; stop discards it. */
	store(tour, &tour->guest.vcpus[1], 0, 9);
	TOUR(tour, TOUR_STOP, dl_log_stop(tour->guest.log));
}

static void writes_and_marks(struct tour *tour)
{
	struct guest *guest = &tour->guest;
	const struct iovec scattered[] = {
		{ .iov_base = guest->blocks[BIG].memory + 74 * 4096, .iov_len = 10 },
		{ .iov_base = guest->blocks[SMALL].memory, .iov_len = 10 },
	};

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
	pass(tour, 0);
	/* Fill the ring of a vCPU. */
	for (uint64_t page = 0; page < BIG_PAGES; page++)
		tour_write(tour, 0, 0, page);
	pass(tour, 0);
	query(tour);
}

/* Runs that are read but not acknowledged are pending again after dl_iter_free(). */
static void iterations(struct tour *tour)
{
	struct dl_run runs[2];

	for (uint64_t page = 0; page < 40; page += 4)
		tour_write(tour, 0, 0, page);
	TOUR(tour, TOUR_HARVEST, dl_harvest(tour->guest.log, 0, NULL));
	begin_reading(tour);
	TOUR(tour, TOUR_ITER_READ, dl_iter_read(tour->iter, runs, 2));
	tour_write(tour, 1, 0, 1);
	TOUR(tour, TOUR_HARVEST, dl_harvest(tour->guest.log, 0, NULL));
	read_with(tour, tour->iter);
	end_reading(tour);
	pass(tour, 0);
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
	set_slot(tour, NEW, 0);
	set_slot(tour, CALLERS, 0);
	/* A clean slot: its contents count as sent. */
	model_copy(tour->checker.blocks[CLEAN].copy, tour->guest.blocks[CLEAN].memory,
		   SMALL_PAGES * 4096);
	pass(tour, 0);
	set_slot(tour, CLEAN, DL_SLOT_CLEAN);
	write_small(tour, NEW);
	write_small(tour, CLEAN);
	write_small(tour, CALLERS);
	tour->written_count = 0; /* the slots move */
	move_slot(tour, NEW);
	move_slot(tour, CALLERS);
	write_small(tour, NEW);
	write_small(tour, CALLERS);
	pass(tour, 0);
	write_small(tour, CLEAN);
	write_small(tour, NEW);
	tour->written_count = 0; /* the slots are removed */
	remove_slot(tour, CLEAN, 0);
	pass(tour, 0);
	remove_slot(tour, CALLERS, 0);
	remove_slot(tour, NEW, DL_SLOT_DISCARD);
	model_copy(tour->checker.blocks[NEW].copy, tour->guest.blocks[NEW].memory,
		   SMALL_PAGES * 4096);
	pass(tour, 0);
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
	pass(tour, 0);
	tour_write(tour, 2, 0, 52);
	remove_vcpu(tour, 1);
	store(tour, &tour->guest.vcpus[1], 0, 53);
	pass(tour, 0);
	add_vcpu(tour, 1);
	tour_write(tour, 1, 0, 54);
	tour_write(tour, 2, 0, 55);
	pass(tour, 0);
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
	pass(tour, 0);
	for (uint64_t page = 0; page < BIG_PAGES; page++)
		tour_write(tour, 0, 0, page);
	pass(tour, 0);
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
	pass(tour, DL_HARVEST_FINAL);
}

static void close_log(struct tour *tour)
{
	struct guest *guest = &tour->guest;

	for (uint64_t page = 0; page < 60; page++)
		tour_write(tour, 0, 0, page);
	begin_reading(tour);
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
	end_reading(tour);
}

void tour_script(struct tour *tour)
{
	set_up(tour);
	start(tour, 0);
	pass(tour, 0);
	writes_and_marks(tour);
	reap(tour);
	iterations(tour);
	slots_change_while_logging(tour);
	vcpus_change_while_logging(tour);
	overflow(tour);
	final_pass(tour);
	stop(tour);
	checker_equalize(&tour->checker);
	start(tour, DL_START_CLEAN);
	for (uint64_t page = 20; page < 30; page++)
		tour_write(tour, page & 1, 0, page);
	pass(tour, 0);
	final_pass(tour);
	close_log(tour);
}
