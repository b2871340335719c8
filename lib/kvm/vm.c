/* SPDX-License-Identifier: MIT */
/* VM ioctls on slots, and the time that they take. */

#include "kvm/vm.h"

static void add_time_since(struct dli_vm *vm, uint64_t begin_ns)
{
	atomic_fetch_add_explicit(&vm->slot_ioctl_ns, dli_os_now_ns() - begin_ns,
				  memory_order_relaxed);
}

int dli_vm_slot_ioctl(struct dli_vm *vm, unsigned long request, void *arg)
{
	uint64_t begin_ns = dli_os_now_ns();
	int r = dli_os_ioctl(vm->os, vm->fd, request, arg);

	add_time_since(vm, begin_ns);
	return r;
}

int dli_vm_slot_ioctl_once(struct dli_vm *vm, unsigned long request, void *arg)
{
	uint64_t begin_ns = dli_os_now_ns();
	int r = dli_os_ioctl_once(vm->os, vm->fd, request, arg);

	add_time_since(vm, begin_ns);
	return r;
}
