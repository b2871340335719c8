/* SPDX-License-Identifier: MIT */
/* This machine's /dev/kvm, with the guest of tests/kvm. */
#include "hv.h"

#include "../kvm/machine.h"

#include <errno.h>
#include <stdlib.h>

static void give_second_space(struct hv *hv, struct machine *machine)
{
	hv->has_second_space = machine_capability(machine, KVM_CAP_MULTI_ADDRESS_SPACE) >= 2 &&
			       !machine_set_region(machine, 1u << 16 | MACHINE_GUEST_SLOT, 0, 0,
						   GUEST_SLOT_BYTES, machine->guest_memory);
}

static void open_machine(struct hv *hv, const struct model_options *options)
{
	struct machine *machine = calloc(1, sizeof(*machine));

	(void)options;
	hv_check(machine ? 0 : -ENOMEM, "a machine");
	hv_check(machine_open(machine), "machine_open");
	hv->below = machine;
	hv->os = NULL;
	hv->vm_fd = machine->vm_fd;
	hv->probe_fd = machine->kvm_fd;
	hv->page_bytes = (uint32_t)machine->page_bytes;
	hv->base_gpa = GUEST_DATA_GPA;
	/* The second space is there to be used only once a slot is in it. */
	hv->has_second_space = machine_capability(machine, KVM_CAP_MULTI_ADDRESS_SPACE) >= 2;
}

static void close_machine(struct hv *hv)
{
	machine_close(hv->below);
	free(hv->below);
}

/* The log is open by now, and in ring mode it must be the first to see a memslot. */
static void load_once(struct hv *hv)
{
	struct machine *machine = hv->below;

	if (machine->guest_memory)
		return;
	hv_check(machine_load_guest(machine), "machine_load_guest");
	give_second_space(hv, machine);
}

static void add_vcpu(struct hv *hv, struct hv_vcpu *vcpu)
{
	struct machine_vcpu *machine_vcpu;

	load_once(hv);
	hv_check(machine_add_vcpu(hv->below, &machine_vcpu), "machine_add_vcpu");
	machine_vcpu->on_full = vcpu->on_full;
	machine_vcpu->opaque = vcpu->opaque;
	vcpu->below = machine_vcpu;
	vcpu->fd = machine_vcpu->fd;
	if (vcpu->as_id)
		hv_check(guest_enter_second_space(vcpu->fd), "guest_enter_second_space");
}

static void store(struct hv *hv, struct hv_vcpu *vcpu, const struct hv_stores *stores)
{
	struct guest_job job = {
		.program = GUEST_WRITE_TABLE,
		.mode = GUEST_USER,
		.count = stores->n,
		.value = stores->value,
	};
	struct machine_vcpu *machine_vcpu = vcpu->below;
	uint64_t *table = machine_table(machine_vcpu);
	int r;

	(void)hv;
	job.gpa = guest_table_gpa(machine_vcpu->index);
	for (unsigned int i = 0; i < stores->n; i++)
		table[i] = stores->gpa[i];
	r = machine_run(machine_vcpu, &job);
	hv_check(r == MACHINE_DONE || r < 0 ? r : -EPROTO, "a vCPU");
}

/* A job that has ended left the guest. */
static void leave(struct hv *hv, struct hv_vcpu *vcpu)
{
	(void)hv;
	(void)vcpu;
}

const struct hv_backend hv_kvm = {
	.open = open_machine,
	.close = close_machine,
	.add_vcpu = add_vcpu,
	.store = store,
	.leave = leave,
};
