/* SPDX-License-Identifier: MIT */
/* Faults in system calls, and their counts. */
#include <sys/ioctl.h>

#include "../uffd_scan.h"
#include "api.h"

enum { MAX_ERROR = 4095 };

static const unsigned long requests[] = {
	[DLM_CALL_CHECK_EXTENSION] = KVM_CHECK_EXTENSION,
	[DLM_CALL_GET_API_VERSION] = KVM_GET_API_VERSION,
	[DLM_CALL_ENABLE_CAP] = KVM_ENABLE_CAP,
	[DLM_CALL_SET_USER_MEMORY_REGION] = KVM_SET_USER_MEMORY_REGION,
	[DLM_CALL_GET_DIRTY_LOG] = KVM_GET_DIRTY_LOG,
	[DLM_CALL_CLEAR_DIRTY_LOG] = KVM_CLEAR_DIRTY_LOG,
	[DLM_CALL_RESET_DIRTY_RINGS] = KVM_RESET_DIRTY_RINGS,
	[DLM_CALL_VCPU_IOCTL] = MODEL_CALL_VCPU_IOCTL,
	[DLM_CALL_MMAP] = MODEL_CALL_MMAP,
	[DLM_CALL_MMAP_VCPU] = MODEL_CALL_MMAP_VCPU,
	[DLM_CALL_MUNMAP] = MODEL_CALL_MUNMAP,
	[DLM_CALL_SIGNAL_MASK] = MODEL_CALL_SIGMASK,
	[DLM_CALL_DUP] = MODEL_CALL_DUP,
	[DLM_CALL_CLOSE] = MODEL_CALL_CLOSE,
	[DLM_CALL_MADVISE] = MODEL_CALL_MADVISE,
	[DLM_CALL_MPROTECT] = MODEL_CALL_MPROTECT,
	[DLM_CALL_TIMER] = MODEL_CALL_TIMER,
	[DLM_CALL_TIMER_SET] = MODEL_CALL_TIMER_SET,
	[DLM_CALL_USERFAULTFD] = MODEL_CALL_USERFAULTFD,
	[DLM_CALL_PAGEMAP] = MODEL_CALL_PAGEMAP,
	[DLM_CALL_UFFD_API] = UFFDIO_API,
	[DLM_CALL_UFFD_REGISTER] = UFFDIO_REGISTER,
	[DLM_CALL_UFFD_UNREGISTER] = UFFDIO_UNREGISTER,
	[DLM_CALL_PAGEMAP_SCAN] = MODEL_PAGEMAP_SCAN,
	[DLM_CALL_THREAD_CLOCK] = MODEL_CALL_THREAD_CLOCK,
	[DLM_CALL_THREAD_NS] = MODEL_CALL_THREAD_NS,
};

static bool is_call(uint32_t call)
{
	return call && call < sizeof(requests) / sizeof(requests[0]);
}

static bool is_ioctl(uint32_t call)
{
	return call <= DLM_CALL_VCPU_IOCTL ||
	       (call >= DLM_CALL_UFFD_API && call <= DLM_CALL_PAGEMAP_SCAN);
}

/* Calls with a slot or a capability. */
static bool has_object(uint32_t call)
{
	return call != DLM_CALL_GET_API_VERSION && call <= DLM_CALL_CLEAR_DIRTY_LOG;
}

static int check_reset(const struct dlm_vm *vm, const struct dlm_fault *fault)
{
	if (fault->kind > DLM_FAULT_RESET_LATE_FLUSH)
		return dlmi_fail(vm, -EINVAL, "fault.kind: %u is unknown", fault->kind);
	if (fault->call != DLM_CALL_RESET_DIRTY_RINGS)
		return dlmi_fail(vm, -EINVAL, "fault.kind: %u is for RESET_DIRTY_RINGS only",
				 fault->kind);
	if (fault->error)
		return dlmi_fail(vm, -EINVAL, "fault.error: a reset of this kind does not fail");
	if (fault->entries && fault->kind == DLM_FAULT_RESET_LATE_FLUSH)
		return dlmi_fail(vm, -EINVAL, "fault.entries: not with RESET_LATE_FLUSH");
	if (!fault->entries && fault->kind == DLM_FAULT_RESET_LOSES)
		return dlmi_fail(vm, -EINVAL, "fault.entries: RESET_LOSES takes one at least");
	return 0;
}

static int check_error(const struct dlm_vm *vm, const struct dlm_fault *fault)
{
	if (fault->error < 1 || fault->error > MAX_ERROR)
		return dlmi_fail(vm, -EINVAL, "fault.error: %d is no positive errno value",
				 fault->error);
	if (fault->kind == DLM_FAULT_ERROR_AFTER && !is_ioctl(fault->call))
		return dlmi_fail(vm, -EINVAL, "fault.kind: ERROR_AFTER is for ioctls");
	if (fault->entries)
		return dlmi_fail(vm, -EINVAL, "fault.entries: for RESET_SHORT and RESET_LOSES");
	return 0;
}

static int check(const struct dlm_vm *vm, const struct dlm_fault *fault)
{
	if (!is_call(fault->call))
		return dlmi_fail(vm, -EINVAL, "fault.call: %u is unknown", fault->call);
	if (fault->flags & ~(uint32_t)DLM_FAULT_ONLY)
		return dlmi_fail(vm, -EINVAL, "fault.flags: unknown ones, %#x", fault->flags);
	if (fault->reserved)
		return dlmi_fail(vm, -EINVAL, "fault.reserved: not 0");
	if ((fault->flags & DLM_FAULT_ONLY) && !has_object(fault->call))
		return dlmi_fail(vm, -EINVAL,
				 "fault.flags: call %u names neither slot nor capability",
				 fault->call);
	return fault->kind <= DLM_FAULT_ERROR_AFTER ? check_error(vm, fault)
						    : check_reset(vm, fault);
}

/* Resets have a number too, behind those of the calls. */
static int add_reset(struct dlm_vm *vm, const struct dlm_fault *fault)
{
	const struct model_reset_fault reset = {
		.skip = fault->skip,
		.times = fault->times,
		.stop = fault->kind != DLM_FAULT_RESET_LATE_FLUSH,
		.stop_after_entries = fault->entries,
		.drop_batch = fault->kind == DLM_FAULT_RESET_LOSES,
		.late_flush = fault->kind == DLM_FAULT_RESET_LATE_FLUSH,
	};

	if (vm->has_reset_fault)
		return dlmi_fail(vm, -ENOSPC, "a reset misbehaves already: dlm_faults_clear()");
	vm->has_reset_fault = true;
	model_reset_fault(vm->model, &reset);
	return MAX_FAULTS;
}

static int add_error(struct dlm_vm *vm, const struct dlm_fault *fault)
{
	const struct model_fault error = {
		.request = requests[fault->call],
		.skip = fault->skip,
		.times = fault->times,
		.error = fault->error,
		.after = fault->kind == DLM_FAULT_ERROR_AFTER,
		.only_slot = fault->flags & DLM_FAULT_ONLY,
		.slot = fault->only,
	};
	int number = model_fault_add(vm->model, &error);

	if (number < 0)
		return dlmi_fail(vm, number, "%d faults are there: dlm_faults_clear()", MAX_FAULTS);
	vm->fault_count = (uint32_t)number + 1;
	return number;
}

int dlm_fault_add(struct dlm_vm *vm, const struct dlm_fault *fault)
{
	int result = dlmi_check_size(vm, "fault", fault, sizeof(*fault));

	if (!vm)
		return -EINVAL;
	if (!result)
		result = check(vm, fault);
	if (result)
		return result;
	pthread_mutex_lock(&vm->lock);
	result = fault->kind > DLM_FAULT_ERROR_AFTER ? add_reset(vm, fault) : add_error(vm, fault);
	pthread_mutex_unlock(&vm->lock);
	return result;
}

static int injected(struct dlm_vm *vm, int fault, uint64_t *times)
{
	if (fault == DLM_ALL_FAULTS)
		*times = model_faults_injected(vm->model);
	else if (fault == MAX_FAULTS && vm->has_reset_fault)
		*times = model_reset_faults_injected(vm->model);
	else if (fault >= 0 && (uint32_t)fault < vm->fault_count)
		*times = model_fault_injected(vm->model, fault);
	else
		return dlmi_fail(vm, -ENOENT, "there is no fault %d", fault);
	return 0;
}

int dlm_fault_injected(const struct dlm_vm *vm, int fault, uint64_t *times)
{
	struct dlm_vm *writable = (struct dlm_vm *)vm;
	int result;

	if (!vm || !times)
		return dlmi_fail(vm, -EINVAL, "times is NULL");
	pthread_mutex_lock(&writable->lock);
	result = injected(writable, fault, times);
	pthread_mutex_unlock(&writable->lock);
	return result;
}

void dlm_faults_clear(struct dlm_vm *vm)
{
	if (!vm)
		return;
	pthread_mutex_lock(&vm->lock);
	model_faults_clear(vm->model);
	vm->fault_count = 0;
	vm->has_reset_fault = false;
	pthread_mutex_unlock(&vm->lock);
}

int dlm_calls(const struct dlm_vm *vm, uint32_t call, uint64_t *times)
{
	if (!vm || !times)
		return dlmi_fail(vm, -EINVAL, "times is NULL");
	if (!is_call(call))
		return dlmi_fail(vm, -EINVAL, "call: %u is unknown", call);
	*times = model_calls(vm->model, requests[call]);
	return 0;
}
