/* SPDX-License-Identifier: MIT */
#include "machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/kvm.h>

#include "model.h"

/*
 * The machine on the model kernel. No guest code runs: each vCPU's thread does the guest's work
 * itself and stores through the model, which logs like KVM. A guest in kernel mode behaves as on
 * KVM backends that emulate it: the store comes before the ring entry, and a full ring is noticed
 * only between batches of stores.
 */

#ifndef KVM_EXIT_DIRTY_RING_FULL
#define KVM_EXIT_DIRTY_RING_FULL 31
#endif

enum { BATCH_WRITES = 100, FULL_TRIES = 1000000 };

static int modelled_open(struct machine *machine)
{
	struct model_options options = { .page_bytes = machine->layout.page_bytes };

	if (!machine->guest_user) {
		options.write_order = MODEL_STORE_THEN_LOG;
		options.batch_writes = BATCH_WRITES;
	}
	machine->model = model_new(&options);
	if (!machine->model)
		return machine_fail(machine, -ENOMEM, "out of memory for the model kernel");
	machine->os = model_os(machine->model);
	machine->vm_fd = model_vm_create(machine->model);
	if (machine->vm_fd >= 0)
		return 0;
	model_free(machine->model);
	return machine_fail(machine, machine->vm_fd, "the model kernel cannot create a VM");
}

static void modelled_close(struct machine *machine)
{
	model_free(machine->model);
}

static int modelled_set_slot(struct machine *machine, uint32_t id)
{
	const struct layout_slot *slot = &machine->layout.slots[id];
	struct kvm_userspace_memory_region region = {
		.slot = id,
		.guest_phys_addr = slot->gpa,
		.memory_size = slot->bytes,
		.userspace_addr = (uintptr_t)machine->memory + slot->offset_bytes,
	};
	int r;

	r = machine->os->ioctl(machine->os->opaque, machine->vm_fd, KVM_SET_USER_MEMORY_REGION,
			       &region);
	return r ? machine_fail(machine, r, "cannot set memslot %u: %s", id, strerror(-r)) : 0;
}

static int modelled_add_vcpu(struct vcpu *vcpu)
{
	vcpu->fd = model_vcpu_create(vcpu->machine->model, vcpu->machine->vm_fd);
	return vcpu->fd < 0 ? vcpu_fail(vcpu, vcpu->fd, "the model kernel cannot create it") : 0;
}

static void modelled_remove_vcpu(struct vcpu *vcpu)
{
	(void)vcpu;
}

static int modelled_boot(struct machine *machine)
{
	(void)machine;
	return 0;
}

static int modelled_boot_vcpu(struct vcpu *vcpu)
{
	(void)vcpu;
	return 0;
}

/* A vCPU has no registers: all of its state is in its control page. */
static int modelled_save(struct vcpu *vcpu, struct vcpu_state *state)
{
	(void)vcpu;
	memset(state, 0, sizeof(*state));
	return 0;
}

static int modelled_load(struct vcpu *vcpu, const struct vcpu_state *state)
{
	(void)vcpu;
	(void)state;
	return 0;
}

static int guest_store(struct vcpu *vcpu, uint64_t gpa, const void *data, size_t bytes)
{
	int r, tries;

	for (tries = 0; tries < FULL_TRIES; tries++) {
		r = model_vcpu_write(vcpu->machine->model, vcpu->fd, 0, gpa, data, bytes);
		if (r != KVM_EXIT_DIRTY_RING_FULL)
			return r ? vcpu_fail(vcpu, r, "cannot store to guest memory: %s",
					     strerror(-r))
				 : 0;
		vcpu->was_full = true;
		r = dl_vcpu_drain(vcpu->log_vcpu, 0);
		if (r)
			return vcpu_fail(vcpu, r, "dl_vcpu_drain: %s", strerror(-r));
	}
	return vcpu_fail(vcpu, -EIO, "its ring is still full after %d drains", FULL_TRIES);
}

/* Same as pick_page in the guest code. */
static uint64_t pick_page(struct guest_control *control)
{
	uint64_t index = control->next_index, among = control->share_pages;

	if (control->pattern == GUEST_PATTERN_SEQUENTIAL) {
		control->next_index = index + 1 < among ? index + 1 : 0;
		return index;
	}
	control->random ^= control->random << 13;
	control->random ^= control->random >> 7;
	control->random ^= control->random << 17;
	if (control->pattern == GUEST_PATTERN_HOT && control->random & 7)
		among = control->hot_pages;
	return (control->random >> 32) * among >> 32;
}

static uint64_t page_address(const struct guest_control *control, uint64_t index)
{
	uint64_t gpa = control->first_address + index * control->page_bytes;

	return gpa >= control->gap_at ? gpa + control->gap_bytes : gpa;
}

static bool record_matches(const struct record *record, uint64_t gpa,
			   const struct guest_control *control, uint64_t generation)
{
	static const struct record untouched;
	struct record expected = record_make(gpa, control->vcpu, generation);

	return !memcmp(record, generation ? &expected : &untouched, sizeof(expected));
}

/* Range-checked: the control page of a copy came from elsewhere, so gpa may be anything. */
static int guest_load(struct vcpu *vcpu, uint64_t gpa, void *data, size_t bytes)
{
	const struct machine *machine = vcpu->machine;
	const struct layout_slot *slot;

	for (slot = machine->layout.slots; slot < machine->layout.slots + LAYOUT_SLOTS; slot++)
		if (gpa >= slot->gpa && gpa - slot->gpa <= slot->bytes - bytes) {
			memcpy(data, machine->memory + slot->offset_bytes + (gpa - slot->gpa),
			       bytes);
			return 0;
		}
	return vcpu_fail(vcpu, -EFAULT, "no guest memory at %#llx", (unsigned long long)gpa);
}

/* Writes back what the vCPU changed in its control page, in one store: it is a single page. */
static int store_control(struct vcpu *vcpu, const struct guest_control *control)
{
	const struct layout *layout = &vcpu->machine->layout;
	uint64_t gpa = layout_gpa(layout, layout_control_offset(layout, vcpu->id));

	return guest_store(vcpu, gpa + GUEST_NEXT_INDEX, &control->next_index,
			   sizeof(*control) - GUEST_NEXT_INDEX);
}

static int report_damage(struct vcpu *vcpu, struct guest_control *control, uint64_t gpa,
			 uint64_t expected, uint64_t found)
{
	int r;

	control->bad_address = gpa;
	control->bad_expected = expected;
	control->bad_found = found;
	r = store_control(vcpu, control);
	return r ? r : GUEST_EVENT_DAMAGE;
}

/* One iteration of the loop of the guest code. */
static int check_and_write_page(struct vcpu *vcpu)
{
	struct guest_control control = *machine_control(vcpu->machine, vcpu->id);
	uint64_t index = pick_page(&control), generation, entry, gpa;
	struct record record;
	int r, event = 0;

	gpa = page_address(&control, index);
	entry = control.table_address + index * sizeof(generation);
	r = guest_load(vcpu, entry, &generation, sizeof(generation));
	if (!r)
		r = guest_load(vcpu, gpa, &record, sizeof(record));
	if (r)
		return r;
	if (!record_matches(&record, gpa, &control, generation))
		return report_damage(vcpu, &control, gpa, generation, record.generation);
	generation++;
	record = record_make(gpa, control.vcpu, generation);
	control.records++;
	if (!--control.quantum_left) {
		control.quantum_left = control.quantum;
		event = GUEST_EVENT_QUANTUM;
	}
	r = guest_store(vcpu, gpa, &record, sizeof(record));
	if (!r)
		r = guest_store(vcpu, entry, &generation, sizeof(generation));
	if (!r)
		r = store_control(vcpu, &control);
	return r ? r : event;
}

/* Takes all of a page in, as the guest code's loop does. */
static int read_contents(struct vcpu *vcpu, uint64_t gpa, uint64_t page_bytes)
{
	uint64_t words[64], at;
	int r = 0;

	for (at = 0; !r && at < page_bytes; at += sizeof(words))
		r = guest_load(vcpu, gpa + at, words, sizeof(words));
	return r;
}

/* One iteration of the loop of a reader. */
static int check_and_read_page(struct vcpu *vcpu)
{
	struct guest_control control = *machine_control(vcpu->machine, vcpu->id);
	uint64_t pages = control.share_pages ? control.share_pages : 1;
	uint64_t index = vcpu->read_index % pages, generation = 0;
	uint64_t gpa = page_address(&control, index);
	struct record record;
	int r;

	r = guest_load(vcpu, control.table_address + index * sizeof(generation), &generation,
		       sizeof(generation));
	if (!r)
		r = guest_load(vcpu, gpa, &record, sizeof(record));
	if (!r)
		r = read_contents(vcpu, gpa, control.page_bytes);
	if (r)
		return r;
	if (!record_matches(&record, gpa, &control, generation))
		return report_damage(vcpu, &control, gpa, generation, record.generation);
	vcpu->read_index++;
	return control.quantum && vcpu->read_index % control.quantum ? 0 : GUEST_EVENT_READ;
}

static int one_page(struct vcpu *vcpu)
{
	return machine_is_reader(vcpu->machine, vcpu->id) ? check_and_read_page(vcpu)
							  : check_and_write_page(vcpu);
}

static int modelled_run(struct vcpu *vcpu)
{
	int event = 0;

	while (!event && !vcpu->was_full &&
	       !atomic_load_explicit(&vcpu->interrupted, memory_order_relaxed))
		event = one_page(vcpu);
	model_vcpu_exit(vcpu->machine->model, vcpu->fd, event ? KVM_EXIT_IO : KVM_EXIT_INTR);
	return event;
}

static void modelled_interrupt(struct vcpu *vcpu)
{
	atomic_store(&vcpu->interrupted, true);
}

static void modelled_resume(struct vcpu *vcpu)
{
	atomic_store(&vcpu->interrupted, false);
}

static int modelled_complete_io(struct vcpu *vcpu)
{
	(void)vcpu;
	return 0;
}

const struct machine_kind machine_model = {
	.name = "model",
	.open = modelled_open,
	.close = modelled_close,
	.set_slot = modelled_set_slot,
	.add_vcpu = modelled_add_vcpu,
	.remove_vcpu = modelled_remove_vcpu,
	.boot = modelled_boot,
	.boot_vcpu = modelled_boot_vcpu,
	.save = modelled_save,
	.load = modelled_load,
	.run = modelled_run,
	.interrupt = modelled_interrupt,
	.resume = modelled_resume,
	.complete_io = modelled_complete_io,
};
