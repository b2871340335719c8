/* SPDX-License-Identifier: MIT */
/* VM ioctls on slots, and the time that they take. */

#include "kvm/vm.h"

#include <errno.h>

int dli_vm_open(struct dli_vm *vm, const struct dl_os *os, int fd)
{
	int r = dli_os_dup(os, fd);

	if (r < 0 && r != -EOPNOTSUPP)
		return r;
	vm->os = os;
	vm->own_fd = r >= 0;
	vm->fd = vm->own_fd ? r : fd;
	return 0;
}

void dli_vm_close(struct dli_vm *vm)
{
	if (vm->own_fd)
		dli_os_close(vm->os, vm->fd);
}

static void add_time_since(struct dli_vm *vm, uint64_t begin_ns)
{
	atomic_fetch_add_explicit(&vm->slot_ioctl_ns, dli_os_now_ns(vm->os) - begin_ns,
				  memory_order_relaxed);
}

int dli_vm_slot_ioctl(struct dli_vm *vm, unsigned long request, void *arg)
{
	uint64_t begin_ns = dli_os_now_ns(vm->os);
	int r = dli_os_ioctl(vm->os, vm->fd, request, arg);

	add_time_since(vm, begin_ns);
	return r;
}

int dli_vm_slot_ioctl_once(struct dli_vm *vm, unsigned long request, void *arg)
{
	uint64_t begin_ns = dli_os_now_ns(vm->os);
	int r = dli_os_ioctl_once(vm->os, vm->fd, request, arg);

	add_time_since(vm, begin_ns);
	return r;
}
