/* SPDX-License-Identifier: MIT */
#ifndef DLI_VM_H
#define DLI_VM_H

#include "kvm/os.h"

#include <stdatomic.h>

/* The VM, and the time that its ioctls on slots take. */
struct dli_vm {
	const struct dl_os *os;
	int fd;
	bool own_fd; /* fd is a duplicate; otherwise the table of system calls has no dup */
	_Atomic uint64_t slot_ioctl_ns;
};

/*
 * Duplicates the caller's file descriptor: once that is closed its number may name another VM,
 * which would get this guest's memory by the next ioctl on a slot.
 */
int dli_vm_open(struct dli_vm *vm, const struct dl_os *os, int fd);
void dli_vm_close(struct dli_vm *vm);

/* An ioctl on one slot of the VM, timed: KVM_SET_USER_MEMORY_REGION, KVM_CLEAR_DIRTY_LOG. */
int dli_vm_slot_ioctl(struct dli_vm *vm, unsigned long request, void *arg);

/* Like dli_vm_slot_ioctl(), but never retried: the ioctl may have done part of its work. */
int dli_vm_slot_ioctl_once(struct dli_vm *vm, unsigned long request, void *arg);

#endif
