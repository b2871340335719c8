/* SPDX-License-Identifier: MIT */
/* vCPUs: life, KVM_RUN, rings. */
#include <stdlib.h>

#include "api.h"

#define WHO (vcpu ? vcpu->vm : NULL)

static int add(struct dlm_vm *vm, struct dlm_vcpu *vcpu)
{
	int fd = model_vcpu_create(vm->model, vm->fd);

	if (fd == -EINVAL)
		return dlmi_fail(vm, -EMFILE, "%d vCPUs exist", MAX_VCPUS);
	if (fd < 0)
		return dlmi_fail(vm, fd, "no memory for a vCPU");
	vcpu->vm = vm;
	vcpu->model = mk_find_vcpu(vm->model, fd);
	vcpu->index = vm->vcpu_count;
	vm->vcpus[vm->vcpu_count++] = vcpu;
	return 0;
}

int dlm_vcpu_add(struct dlm_vm *vm, struct dlm_vcpu **out)
{
	struct dlm_vcpu *vcpu;
	int saved_errno = errno, result;

	if (out)
		*out = NULL;
	if (!vm || !out)
		return dlmi_fail(vm, -EINVAL, "vcpu is NULL");
	vcpu = calloc(1, sizeof(*vcpu));
	if (!vcpu)
		return dlmi_fail(vm, -ENOMEM, "no memory for a vCPU");
	pthread_mutex_lock(&vm->lock);
	result = add(vm, vcpu);
	pthread_mutex_unlock(&vm->lock);
	if (result)
		free(vcpu);
	else
		*out = vcpu;
	errno = saved_errno;
	return result;
}

static bool is_running(const struct dlm_vcpu *vcpu)
{
	bool running;

	pthread_mutex_lock(&vcpu->model->run_lock);
	running = vcpu->model->in_guest;
	pthread_mutex_unlock(&vcpu->model->run_lock);
	return running;
}

int dlm_vcpu_remove(struct dlm_vcpu *vcpu)
{
	if (!vcpu)
		return -EINVAL;
	if (is_running(vcpu))
		return dlmi_fail(vcpu->vm, -EBUSY, "vCPU %u is in KVM_RUN: dlm_vcpu_exit() first",
				 vcpu->index);
	if (atomic_exchange(&vcpu->is_unplugged, true))
		return dlmi_fail(vcpu->vm, -EBUSY, "vCPU %u is unplugged already", vcpu->index);
	return 0;
}

int dlm_vcpu_add_again(struct dlm_vcpu *vcpu)
{
	if (!vcpu)
		return -EINVAL;
	if (!atomic_exchange(&vcpu->is_unplugged, false))
		return dlmi_fail(vcpu->vm, -EBUSY, "vCPU %u is plugged in already", vcpu->index);
	return 0;
}

int dlm_vcpu_fd(const struct dlm_vcpu *vcpu)
{
	return vcpu ? vcpu->model->fd : -EINVAL;
}

uint32_t dlm_vcpu_index(const struct dlm_vcpu *vcpu)
{
	return vcpu ? vcpu->index : UINT32_MAX;
}

uint32_t dlm_vcpu_exit_reason(const struct dlm_vcpu *vcpu)
{
	return vcpu ? __atomic_load_n(&vcpu->model->run->exit_reason, __ATOMIC_RELAXED) : 0;
}

static int check_plugged(const struct dlm_vcpu *vcpu)
{
	if (!vcpu)
		return -EINVAL;
	if (vcpu->is_unplugged)
		return dlmi_fail(vcpu->vm, -EBUSY, "vCPU %u is unplugged", vcpu->index);
	return 0;
}

int dlm_vcpu_enter(struct dlm_vcpu *vcpu)
{
	int result = check_plugged(vcpu);

	if (result)
		return result;
	return model_vcpu_enter(vcpu->vm->model, vcpu->model->fd) ? DLM_RING_FULL : 0;
}

int dlm_vcpu_exit(struct dlm_vcpu *vcpu, uint32_t exit_reason)
{
	if (!vcpu)
		return -EINVAL;
	if (is_running(vcpu))
		model_vcpu_exit(vcpu->vm->model, vcpu->model->fd, exit_reason);
	return 0;
}

int dlm_vcpu_thread(struct dlm_vcpu *vcpu)
{
	if (!vcpu)
		return -EINVAL;
	model_vcpu_thread(vcpu->vm->model, vcpu->model->fd);
	vcpu->has_thread = true;
	return 0;
}

int dlm_vcpu_pause(struct dlm_vcpu *vcpu, uint64_t ns)
{
	if (!vcpu)
		return -EINVAL;
	if (!vcpu->vm->model->options.virtual_clock)
		return dlmi_fail(vcpu->vm, -EOPNOTSUPP,
				 "the VM has the real clock: a thread that sleeps does not run");
	if (!vcpu->has_thread)
		return dlmi_fail(vcpu->vm, -EBUSY, "no thread runs vCPU %u: dlm_vcpu_thread()",
				 vcpu->index);
	if (ns && is_running(vcpu))
		return dlmi_fail(vcpu->vm, -EBUSY, "vCPU %u is in KVM_RUN: dlm_vcpu_exit() first",
				 vcpu->index);
	model_vcpu_pause(vcpu->vm->model, vcpu->model->fd, ns);
	return 0;
}

typedef int store_fn(struct model *model, int vcpu_fd, uint32_t as_id, uint64_t gpa,
		     const void *data, size_t bytes);

/* The store of one page's part, by the guest or for it. Returns 0, DLM_RING_FULL or an error. */
static int write_part(struct dlm_vcpu *vcpu, store_fn *store, uint32_t as_id, uint64_t gpa,
		      const void *data, uint64_t bytes)
{
	uint64_t value = 0;
	int result;

	if (!data) {
		value = dlmi_new_value(vcpu->vm);
		bytes = bytes < sizeof(value) ? bytes : sizeof(value);
		data = &value;
	}
	pthread_rwlock_rdlock(&vcpu->vm->writes);
	result = store(vcpu->vm->model, vcpu->model->fd, as_id, gpa, data, bytes);
	pthread_rwlock_unlock(&vcpu->vm->writes);
	if (result < 0)
		return dlmi_fail(vcpu->vm, result,
				 "no writable memory at %#llx of address space %u",
				 (unsigned long long)gpa, as_id);
	return result ? DLM_RING_FULL : 0;
}

int dlm_vcpu_write(struct dlm_vcpu *vcpu, uint32_t as_id, uint64_t gpa, const void *data,
		   uint64_t bytes, uint64_t *done_bytes)
{
	uint64_t done = done_bytes ? *done_bytes : 0, part;
	int result = check_plugged(vcpu);

	if (!result)
		result = dlmi_range_check(vcpu->vm, gpa, bytes);
	if (result)
		return result;
	if (done > bytes)
		return dlmi_fail(vcpu->vm, -EINVAL, "*done_bytes: %llu is more than bytes",
				 (unsigned long long)done);
	if (!done_bytes && dlmi_first_part(vcpu->vm, gpa, bytes) < bytes)
		return dlmi_fail(vcpu->vm, -EINVAL,
				 "done_bytes: NULL is for a range inside one page");
	while (!result && done < bytes) {
		part = dlmi_first_part(vcpu->vm, gpa + done, bytes - done);
		result = write_part(vcpu, model_vcpu_write, as_id, gpa + done,
				    data ? (const char *)data + done : NULL, part);
		done += result ? 0 : part;
	}
	if (done_bytes)
		*done_bytes = done;
	return result;
}

int dlm_vcpu_kernel_write(struct dlm_vcpu *vcpu, uint32_t as_id, uint64_t gpa, const void *data,
			  uint64_t bytes)
{
	uint64_t done = 0, part;
	int result = check_plugged(vcpu);

	if (!result)
		result = dlmi_range_check(vcpu->vm, gpa, bytes);
	for (; !result && done < bytes; done += part) {
		part = dlmi_first_part(vcpu->vm, gpa + done, bytes - done);
		result = write_part(vcpu, model_vcpu_write_unchecked, as_id, gpa + done,
				    data ? (const char *)data + done : NULL, part);
	}
	return result;
}

static int check_pages(const struct dlm_vcpu *vcpu, uint64_t gpa, uint64_t bytes)
{
	int result = check_plugged(vcpu);

	if (!result)
		result = dlmi_range_check(vcpu->vm, gpa, bytes);
	if (!result && (!bytes || (gpa | bytes) % vcpu->vm->page_bytes))
		result = dlmi_fail(vcpu->vm, -EINVAL, "gpa, bytes: not made of pages of %llu",
				   (unsigned long long)vcpu->vm->page_bytes);
	return result;
}

/* Leaves KVM_RUN, which empties the buffer of logged writes, and enters it again. */
static int look_at_ring(struct dlm_vcpu *vcpu)
{
	model_vcpu_exit(vcpu->vm->model, vcpu->model->fd, KVM_EXIT_INTR);
	return dlm_vcpu_enter(vcpu);
}

int dlm_vcpu_fill_ring(struct dlm_vcpu *vcpu, uint32_t as_id, uint64_t gpa, uint64_t bytes)
{
	int result = check_pages(vcpu, gpa, bytes);
	uint64_t at, pushed;

	if (result)
		return result;
	do {
		pushed = vcpu->model->pushed_entries;
		for (at = 0; !result && at < bytes; at += vcpu->vm->page_bytes)
			result = write_part(vcpu, model_vcpu_write, as_id, gpa + at, NULL,
					    sizeof(uint64_t));
		if (!result)
			result = look_at_ring(vcpu);
	} while (!result && vcpu->model->pushed_entries != pushed);
	return result;
}

/* Memory that is no slot's is another error. */
static bool is_logged(struct dlm_vm *vm, uint32_t as_id, uint64_t gpa)
{
	const struct memslot *slot = NULL;
	bool logged;

	mk_slots_read_lock(vm->model_vm);
	if (as_id < vm->model->options.address_spaces)
		slot = mk_slot_by_gpa(vm->model_vm, as_id, gpa);
	logged = !slot || (slot->flags & KVM_MEM_LOG_DIRTY_PAGES);
	mk_slots_read_unlock(vm->model_vm);
	return logged;
}

int dlm_vcpu_overflow_ring(struct dlm_vcpu *vcpu, uint32_t as_id, uint64_t gpa, uint64_t bytes,
			   uint32_t entries)
{
	int result = check_pages(vcpu, gpa, bytes);
	uint64_t at = 0, pushed, end;

	if (result)
		return result;
	if (!vcpu->model->cells)
		return dlmi_fail(vcpu->vm, -EOPNOTSUPP, "vCPU %u has no ring", vcpu->index);
	if (!is_logged(vcpu->vm, as_id, gpa))
		return dlmi_fail(vcpu->vm, -EINVAL, "the slot at %#llx is not logged",
				 (unsigned long long)gpa);
	end = vcpu->model->overwritten_entries + entries;
	while (!result && vcpu->model->overwritten_entries < end) {
		pushed = vcpu->model->pushed_entries;
		result = write_part(vcpu, model_vcpu_write_unchecked, as_id, gpa + at, NULL,
				    sizeof(uint64_t));
		if (!result && vcpu->model->pushed_entries == pushed)
			result = dlmi_fail(vcpu->vm, -EINVAL, "the slot at %#llx is not logged",
					   (unsigned long long)(gpa + at));
		at = (at + vcpu->vm->page_bytes) % bytes;
	}
	return result;
}

int dlm_vcpu_ring(const struct dlm_vcpu *vcpu, struct dlm_ring *ring)
{
	int result = dlmi_check_size(WHO, "ring", ring, sizeof(*ring));
	struct model_ring is;

	if (!vcpu)
		return -EINVAL;
	if (result)
		return result;
	model_vcpu_ring(vcpu->vm->model, vcpu->model->fd, &is);
	ring->entries = is.entries;
	ring->soft_limit_entries = is.soft_limit_entries;
	ring->used_entries = is.dirty_index - is.reset_index;
	ring->pushed_entries = is.pushed_entries;
	ring->overwritten_entries = is.overwritten_entries;
	return 0;
}
