/* SPDX-License-Identifier: MIT */
/* The caller's memory layout: slots are set, moved and removed while the other actors run. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "world.h"

static bool is_there(uint32_t p)
{
	return world.places[p].now;
}

static bool is_unlogged(uint32_t p)
{
	return is_there(p) && world.places[p].now->no_log;
}

/* Notes whether passes must transfer the memory of a place. */
static void set_due(const struct place *place, bool due)
{
	for (uint32_t i = 0; i < place->pages; i++)
		world.notes[place->block][place->first_page + i].due = due;
}

static void settle_due(void)
{
	for (uint32_t i = 0; i < world.plan->place_count; i++)
		if (is_there(i) && world.places[i].now->is_set && !is_unlogged(i))
			set_due(&world.plan->places[i], true);
}

void layout_note_session(void)
{
	for (uint32_t i = 0; i < world.plan->place_count; i++)
		set_due(&world.plan->places[i], false);
	settle_due();
}

uint64_t layout_gpa(uint32_t p)
{
	return is_there(p) ? world.places[p].now->gpa_page : 0;
}

/* Another slot over the same block. */
static bool has_neighbour(uint32_t p, bool unlogged)
{
	for (uint32_t i = 0; i < world.plan->place_count; i++)
		if (i != p && is_there(i) && (!unlogged || is_unlogged(i)) &&
		    world.plan->places[i].block == world.plan->places[p].block)
			return true;
	return false;
}

/* Serialises the caller's own ioctls. */
static struct sim_mutex region_lock;

void layout_begin(void)
{
	sim_mutex_init(&region_lock);
}

static int region_ioctl(const struct kvm_userspace_memory_region *region)
{
	struct kvm_userspace_memory_region r = *region;
	const struct dl_os *below = model_os(world.model);
	struct fault fault;

	sim_point(SIM_SITE("the caller's slot ioctl"));
	if (faults_meet(FAULT_REGION, &fault)) {
		faults_note_error(EIO);
		return -EIO;
	}
	return below->ioctl(below->opaque, world.vm_fd, KVM_SET_USER_MEMORY_REGION, &r);
}

int layout_set_region(void *opaque, uint32_t slot, uint32_t kvm_flags)
{
	/* -ENOENT if the slot is deleted in KVM and dl_slot_remove() has not been called yet. */
	int r = -ENOENT;

	sim_mutex_lock(&region_lock, "the caller's lock", NULL);
	for (uint32_t i = 0; i < world.plan->place_count && r == -ENOENT; i++) {
		struct place_state *state = &world.places[i];

		if (world.plan->places[i].slot != slot || !state->kernel_has)
			continue;
		state->region.flags = kvm_flags;
		r = region_ioctl(&state->region);
	}
	sim_mutex_unlock(&region_lock, SIM_SITE("the caller's lock"));
	if (r == -ENOENT)
		faults_note_error(ENOENT);
	return r;
}

static struct dl_slot describe(const struct place *place, uint32_t flags, uint64_t gpa_page,
			       bool read_only)
{
	return (struct dl_slot){
		.size = sizeof(struct dl_slot),
		.flags = flags,
		.slot = place->slot,
		.kvm_flags = read_only ? KVM_MEM_READONLY : 0,
		.gpa = gpa_page * PAGE_BYTES,
		.bytes = (uint64_t)place->pages * PAGE_BYTES,
		.hva = (uintptr_t)memory[place->block] + place->first_page * PAGE_BYTES,
	};
}

/* Without the log's flags, so the slot is not logged until dl_slot_set() is called. */
static int set_in_kernel(uint32_t p, const struct dl_slot *slot)
{
	struct place_state *state = &world.places[p];
	struct kvm_userspace_memory_region before;
	int r;

	sim_mutex_lock(&region_lock, "the caller's lock", NULL);
	before = state->region;

	/* An existing slot is unlogged now, so the library may find that it has no bitmap. */
	if (state->kernel_has)
		faults_note_error(ENOENT);
	state->region = (struct kvm_userspace_memory_region){
		.slot = slot->slot,
		.flags = slot->kvm_flags,
		.guest_phys_addr = slot->gpa,
		.memory_size = slot->bytes,
		.userspace_addr = slot->hva,
	};
	r = region_ioctl(&state->region);
	if (r)
		state->region = before;
	else
		state->kernel_has = true;
	sim_mutex_unlock(&region_lock, SIM_SITE("the caller's lock"));
	return r;
}

static int delete_in_kernel(uint32_t p)
{
	struct kvm_userspace_memory_region region;
	int r;

	sim_mutex_lock(&region_lock, "the caller's lock", NULL);
	region = world.places[p].region;
	region.memory_size = 0;
	region.flags = 0;
	/* From now on the library may use a slot that KVM does not have. */
	faults_note_error(ENOENT);
	r = region_ioctl(&region);
	if (!r)
		world.places[p].kernel_has = false;
	sim_mutex_unlock(&region_lock, SIM_SITE("the caller's lock"));
	return r;
}

static struct incarnation *new_incarnation(const struct place *place, const struct dl_slot *slot)
{
	struct incarnation *it = &world.incarnations[world.incarnation_count];

	if (world.incarnation_count == INCARNATIONS)
		sim_fail(SIM_MISUSE, "too many slots");
	world.incarnation_count++;
	*it = (struct incarnation){
		.place = place,
		.gpa_page = slot->gpa / PAGE_BYTES,
		.no_log = slot->flags & DL_SLOT_NO_LOG,
		.read_only = slot->kvm_flags & KVM_MEM_READONLY,
	};
	return it;
}

/*
 * If the caller made the ioctl, a new slot that the library rejects is set again. A slot that moved
 * is known to the library "where it is now" even after an error, as the interface says.
 */
static int tell_set(struct dl_slot *slot, bool by_caller, bool moved)
{
	int r = -1, most = by_caller && !moved ? MAX_TRIES : 1;

	if (by_caller)
		slot->flags |= DL_SLOT_CALLER_IOCTL;
	for (int tries = 0; r && tries < most; tries++) {
		if (tries)
			sim_yield(SIM_SITE("dl_slot_set again"));
		r = dl_slot_set(world.log, slot);
		EXPECT("dl_slot_set", r);
	}
	return by_caller && moved ? 0 : r;
}

static void set_is_done(uint32_t p, struct incarnation *it, const struct dl_slot *slot)
{
	const struct place *place = &world.plan->places[p];

	it->gpa_page = slot->gpa / PAGE_BYTES;
	it->is_set = true;
	world.places[p].now = it;
	if (it->no_log)
		set_due(place, false);
	settle_due();
}

/*
 * No page of a new clean slot counts as dirty, so the copy must be equal before; writes from the
 * ioctl on are logged. All pages of any other new slot, or of one that moves, are pending when the
 * call returns, so the earlier copy of them is spoilt.
 */
static void prepare_copy(const struct place *place, bool is_clean, bool is_same)
{
	if (is_clean)
		copy_pages(place->block, place->first_page, place->pages);
	else if (!is_same)
		memset(copy[place->block] + place->first_page * PAGE_BYTES, 0xee,
		       (size_t)place->pages * PAGE_BYTES);
}

/* Nothing has changed, except that the copy was spoilt. */
static void set_has_failed(uint32_t p, struct incarnation *it, bool moved)
{
	const struct place *place = &world.plan->places[p];

	copy_pages(place->block, place->first_page, place->pages);
	if (moved)
		return;
	it->removed_at = sim.now;
	world.places[p].now = NULL;
	for (int tries = 0; world.plan->set_region && delete_in_kernel(p) && tries < MAX_TRIES;)
		tries++;
}

/* Two places can share an id; then only one of them exists at a time. */
static bool id_is_taken(uint32_t p)
{
	for (uint32_t i = 0; i < world.plan->place_count; i++)
		if (i != p && is_there(i) &&
		    world.plan->places[i].slot == world.plan->places[p].slot)
			return true;
	return false;
}

static uint32_t sound_flags(uint32_t p, uint32_t flags)
{
	/* All slots over the same memory are logged, or none is. */
	if (is_there(p) ? is_unlogged(p) : has_neighbour(p, true))
		flags |= DL_SLOT_NO_LOG;
	else if (is_there(p) || has_neighbour(p, false))
		flags &= ~(uint32_t)DL_SLOT_NO_LOG;
	return flags;
}

/* If the caller makes the ioctls, KVM already has the slot. */
static int tell(uint32_t p, struct dl_slot *slot)
{
	struct place_state *state = &world.places[p];
	bool moved = is_there(p), by_caller = world.plan->set_region;
	struct incarnation *it = state->now;
	int r;

	if (!moved)
		it = new_incarnation(&world.plan->places[p], slot);
	/* The guest may use a slot once it exists; the caller's own, once the library knows it. */
	if (!moved && !by_caller)
		state->now = it;
	r = tell_set(slot, by_caller, moved);
	if (r)
		set_has_failed(p, it, moved);
	else
		set_is_done(p, it, slot);
	return r;
}

int layout_set(uint32_t p, uint32_t flags, uint32_t gpa_choice, bool read_only)
{
	const struct place *place = &world.plan->places[p];
	uint64_t gpa_page = place->gpa_pages[gpa_choice], epoch = world.epoch;
	struct dl_slot slot;
	bool is_clean;
	int r;

	if (!place->pages || id_is_taken(p))
		return 0;
	/* KVM cannot change this flag. */
	if (is_there(p))
		read_only = world.places[p].now->read_only;
	slot = describe(place, sound_flags(p, flags), gpa_page, read_only);
	is_clean = !is_there(p) && slot.flags & DL_SLOT_CLEAN;
	prepare_copy(place, is_clean, layout_gpa(p) == gpa_page);
	if (world.plan->set_region && (r = set_in_kernel(p, &slot))) {
		copy_pages(place->block, place->first_page, place->pages);
		return r;
	}
	r = tell(p, &slot);
	/*
	 * A session that began meanwhile assumes nothing to be sent. And a guest that writes to a
	 * caller's slot before the library knows the slot writes unlogged.
	 */
	if (!r && is_clean && (epoch != world.epoch || world.plan->set_region))
		copy_pages(place->block, place->first_page, place->pages);
	return r;
}

static int tell_removed(const struct place *place, uint32_t flags, bool by_caller)
{
	int r = -1;

	if (by_caller)
		flags |= DL_SLOT_CALLER_IOCTL;
	for (int tries = 0; r && tries < (by_caller ? MAX_TRIES : 1); tries++) {
		if (tries)
			sim_yield(SIM_SITE("dl_slot_remove again"));
		r = dl_slot_remove(world.log, place->slot, flags);
		EXPECT("dl_slot_remove", r);
	}
	return r;
}

int layout_remove(uint32_t p, bool discard)
{
	const struct place *place = &world.plan->places[p];
	struct place_state *state = &world.places[p];
	struct incarnation *it = state->now;
	uint64_t epoch = world.epoch;
	bool was_on = world.is_on;
	int r = 0;

	if (!it)
		return 0;
	/* With two slots over the same memory, the pages of the other are still needed. */
	discard &= !has_neighbour(p, false);
	if (world.plan->set_region && (r = delete_in_kernel(p)))
		return r;
	r = tell_removed(place, discard ? DL_SLOT_DISCARD : 0, world.plan->set_region);
	if (r)
		return r;
	state->now = NULL;
	it->removed_at = sim.now;
	if (discard)
		it->discarded_at = sim.now;
	/* Its pages are handed out again only if logging was on all the time. */
	if (discard || !was_on || epoch != world.epoch || it->no_log)
		set_due(place, false);
	settle_due();
	return 0;
}

void layout_act(const struct op *op)
{
	uint32_t flags = 0;

	if (!log_enter())
		return;
	if (op->code == OP_REMOVE) {
		sim_trace("remove slot %#x", world.plan->places[op->slot].slot);
		EXPECT("remove", layout_remove(op->slot, op->number & 2));
	} else {
		if (op->number % 2 == 0)
			flags |= DL_SLOT_CLEAN;
		if (!(op->number >> 2 & 7))
			flags |= DL_SLOT_NO_LOG;
		sim_trace("set slot %#x flags %#x", world.plan->places[op->slot].slot, flags);
		EXPECT("set",
		       layout_set(op->slot, flags, op->number >> 5 & 1, !(op->number >> 6 & 7)));
	}
	log_leave();
}
