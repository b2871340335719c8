/* SPDX-License-Identifier: MIT */
/* The clock and the timers. */
#include "api.h"

uint64_t dlm_clock_ns(const struct dlm_vm *vm)
{
	return vm ? mk_now_ns(vm->model) : 0;
}

int dlm_clock_advance(struct dlm_vm *vm, uint64_t ns)
{
	if (!vm)
		return -EINVAL;
	if (!vm->model->options.virtual_clock)
		return dlmi_fail(vm, -EOPNOTSUPP,
				 "the VM has the real clock: DLM_VM_VIRTUAL_CLOCK is not set");
	model_advance(vm->model, ns);
	return 0;
}

int dlm_timer_left(const struct dlm_vm *vm, int fd, uint64_t *left_ns)
{
	if (!vm || !left_ns)
		return dlmi_fail(vm, -EINVAL, "left_ns is NULL");
	if (!model_is_timer(vm->model, fd))
		return dlmi_fail(vm, -ENOENT, "%d is no timer of this VM", fd);
	*left_ns = model_timer_left(vm->model, fd);
	return 0;
}
