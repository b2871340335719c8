/* SPDX-License-Identifier: MIT */
/* The model kernel. */
#include "hv.h"

#include <errno.h>

enum { MOST_EXITS = 4000 };

static void open_model(struct hv *hv, const struct model_options *options)
{
	struct model *model = model_new(options);

	hv_check(model ? 0 : -ENOMEM, "model_new");
	hv->below = model;
	hv->os = model_os(model);
	hv->vm_fd = model_vm_create(model);
	hv_check(hv->vm_fd, "model_vm_create");
	hv->probe_fd = model_system_fd(model);
	hv->page_bytes = hv->os->page_bytes;
	hv->base_gpa = UINT64_C(16) << 20;
	hv->has_second_space = true;
}

static void close_model(struct hv *hv)
{
	model_free(hv->below);
}

static void add_vcpu(struct hv *hv, struct hv_vcpu *vcpu)
{
	vcpu->fd = model_vcpu_create(hv->below, hv->vm_fd);
	hv_check(vcpu->fd, "model_vcpu_create");
}

static void store_one(struct hv *hv, struct hv_vcpu *vcpu, uint64_t gpa, uint64_t value)
{
	int r = KVM_EXIT_DIRTY_RING_FULL;

	for (int exits = 0; r == KVM_EXIT_DIRTY_RING_FULL && exits < MOST_EXITS; exits++) {
		r = model_vcpu_write(hv->below, vcpu->fd, vcpu->as_id, gpa, &value, sizeof(value));
		if (r == KVM_EXIT_DIRTY_RING_FULL)
			hv_check(vcpu->on_full(vcpu->opaque), "a drain");
	}
	if (r && r != -EFAULT)
		hv_check(-EPROTO, "a vCPU still cannot enter the guest");
}

static void store(struct hv *hv, struct hv_vcpu *vcpu, const struct hv_stores *stores)
{
	for (unsigned int i = 0; i < stores->n; i++)
		store_one(hv, vcpu, stores->gpa[i], stores->value);
}

static void leave(struct hv *hv, struct hv_vcpu *vcpu)
{
	model_vcpu_exit(hv->below, vcpu->fd, KVM_EXIT_INTR);
}

static void kernel_store(struct hv *hv, uint64_t gpa, uint64_t value)
{
	hv_check(model_kernel_write(hv->below, hv->vm_fd, 0, gpa, &value, sizeof(value)),
		 "model_kernel_write");
}

const struct hv_backend hv_model = {
	.open = open_model,
	.close = close_model,
	.add_vcpu = add_vcpu,
	.store = store,
	.leave = leave,
	.kernel_store = kernel_store,
};
