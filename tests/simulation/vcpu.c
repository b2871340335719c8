/* SPDX-License-Identifier: MIT */
/* vCPUs: they store, exit with a full ring, drain it and continue. */
#include "world.h"

void vcpu_plug(struct vcpu_state *vcpu)
{
	int r = -1;

	if (!vcpu->created) {
		vcpu->fd = model_vcpu_create(world.model, world.vm_fd);
		if (vcpu->fd < 0)
			sim_fail(SIM_RESULT, "model_vcpu_create() = %d", vcpu->fd);
		vcpu->created = true;
	}
	/* A fault may make it fail; it must succeed once the fault is over. */
	for (int tries = 0; r && log_enter(); tries++) {
		r = dl_vcpu_add(world.log, vcpu->fd, 0, 0, &vcpu->handle);
		log_leave();
		EXPECT("dl_vcpu_add", r);
		if (r && tries > MAX_TRIES)
			sim_fail(SIM_RESULT, "dl_vcpu_add() keeps failing: %d", r);
		if (r)
			sim_yield(SIM_SITE("dl_vcpu_add again"));
	}
}

void vcpu_unplug(struct vcpu_state *vcpu)
{
	struct dl_vcpu *handle = vcpu->handle;

	if (!handle)
		return;
	model_vcpu_exit(world.model, vcpu->fd, KVM_EXIT_INTR);
	vcpu->handle = NULL;
	throttle_wait_for_users(&vcpu->users);
	dl_vcpu_remove(handle);
	EXPECT("dl_vcpu_remove", 0);
}

static void drain(struct vcpu_state *vcpu)
{
	EXPECT("dl_vcpu_drain", dl_vcpu_drain(vcpu->handle, 0));
}

/* Whether the vCPU may retry to enter the guest. */
static bool still_has_hope(struct vcpu_state *vcpu, uint32_t exits)
{
	struct model_ring ring;

	if (exits < MAX_EXITS)
		return true;
	model_vcpu_ring(world.model, vcpu->fd, &ring);
	sim_fail(SIM_STUCK_VCPU,
		 "a vCPU cannot enter the guest any more: dirty index %u, reset index %u",
		 ring.dirty_index, ring.reset_index);
}

static bool is_running(const void *opaque)
{
	return !world.pauses;
}

void guest_enter(void)
{
	sim_wait(is_running, NULL, "the end of a pause", SIM_SITE("into the guest"));
	world.in_guest++;
}

void guest_leave(void)
{
	world.in_guest--;
}

static bool nobody_is_in_the_guest(const void *opaque)
{
	return !world.in_guest;
}

void guest_pause(void)
{
	world.pauses++;
	sim_wait(nobody_is_in_the_guest, NULL, "the guest", SIM_SITE("the guest is paused"));
	vcpu_stop_all();
}

void guest_resume(void)
{
	world.pauses--;
}

void vcpu_stop_all(void)
{
	for (uint32_t i = 0; i < PLAN_VCPUS; i++)
		if (world.vcpus[i].created)
			model_vcpu_exit(world.model, world.vcpus[i].fd, KVM_EXIT_INTR);
}

static void store(struct vcpu_state *vcpu, uint32_t as_id, uint64_t gpa, uint64_t generation,
		  bool unchecked)
{
	gpa += place_in_page(generation);
	if (unchecked) {
		(void)model_vcpu_write_unchecked(world.model, vcpu->fd, as_id, gpa, &generation, 8);
		return;
	}
	for (uint32_t exits = 0; still_has_hope(vcpu, exits); exits++) {
		int r = model_vcpu_write(world.model, vcpu->fd, as_id, gpa, &generation, 8);

		/* -EFAULT: the slot is gone, or has moved. */
		if (r != KVM_EXIT_DIRTY_RING_FULL)
			return;
		world.counts.full_exits++;
		sim_trace("full exit");
		drain(vcpu);
		sim_point(SIM_SITE("after a full exit"));
		if (exits % 8 == 7)
			sim_yield(SIM_SITE("full again and again"));
	}
}

static void write_page(struct vcpu_state *vcpu, uint32_t p, uint32_t page, bool unchecked)
{
	const struct place *place = &world.plan->places[p];
	uint64_t gpa_page = layout_gpa(p);
	uint32_t in_block = place->first_page + page;

	if (!gpa_page)
		return;
	sim_point(SIM_SITE("the guest stores"));
	throttle_vcpu(vcpu);
	guest_enter();
	store(vcpu, place->slot >> 16, (gpa_page + page) * PAGE_BYTES,
	      new_generation(place->block, in_block), unchecked);
	guest_leave();
}

void vcpu_write(struct vcpu_state *vcpu, uint32_t p, uint32_t page)
{
	write_page(vcpu, p, page, false);
}

static void write_pages(struct vcpu_state *vcpu, const struct op *op, bool unchecked)
{
	uint32_t pages = world.plan->places[op->slot].pages;

	sim_trace("%s slot %#x pages %u+%u", op_names[op->code], world.plan->places[op->slot].slot,
		  op->page, op->count);
	for (uint32_t i = 0; i < op->count && pages; i++)
		write_page(vcpu, op->slot, (op->page + (op->flags ? 7 * i : i)) % pages, unchecked);
}

static void drain_outside(struct vcpu_state *vcpu, const struct op *op)
{
	guest_enter();
	/* If it is already out with a full ring, the exit reason stays. */
	if (op->number & 1)
		model_vcpu_exit(world.model, vcpu->fd, KVM_EXIT_IO);
	else if (!model_vcpu_enter(world.model, vcpu->fd))
		model_vcpu_exit(world.model, vcpu->fd, KVM_EXIT_INTR);
	drain(vcpu);
	if (op->number & 2)
		drain(vcpu);
	guest_leave();
}

void vcpu_act(const struct actor *actor, const struct op *op)
{
	struct vcpu_state *vcpu = &world.vcpus[actor->number];

	if (!vcpu->handle)
		return;
	switch (op->code) {
	case OP_WRITE:
	case OP_UNCHECKED:
		write_pages(vcpu, op, op->code == OP_UNCHECKED);
		break;
	case OP_EXIT:
		model_vcpu_exit(world.model, vcpu->fd, KVM_EXIT_IO);
		break;
	case OP_DRAIN:
		drain_outside(vcpu, op);
		break;
	case OP_REPLUG:
		vcpu_unplug(vcpu);
		sim_point(SIM_SITE("a vCPU is away"));
		vcpu_plug(vcpu);
		break;
	}
}
