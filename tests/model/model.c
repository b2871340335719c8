/* SPDX-License-Identifier: MIT */
/* The model and its table of system calls. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

/* The architecture's error for an unknown VM ioctl. */
static int unknown_vm_ioctl(const struct model *model)
{
	return model->options.arch == DL_OS_ARCH_RING_NEEDS_BACKUP ? -EINVAL : -ENOTTY;
}

static int vm_ioctl(struct model_vm *vm, const struct model_call *call)
{
	struct model *model = vm->model;

	if (mk_is_region_ioctl(model, call->request))
		return mk_set_region(vm, call);
	switch (call->request) {
	case KVM_CREATE_VCPU:
		return mk_vcpu_create(vm, (unsigned long)call->arg & 0xffffffffUL);
	case KVM_CHECK_EXTENSION:
		return mk_check_extension(model, (uintptr_t)call->arg);
	case KVM_ENABLE_CAP:
		return call->arg ? mk_enable_cap(vm, call->arg) : -EFAULT;
	case KVM_GET_DIRTY_LOG:
		return mk_get_dirty_log(vm, call);
	case KVM_CLEAR_DIRTY_LOG:
		if (!has(model, MODEL_HAS_MANUAL_PROTECT))
			return unknown_vm_ioctl(model);
		return mk_clear_dirty_log(vm, call->arg);
	case KVM_RESET_DIRTY_RINGS:
		if (!has(model, MODEL_HAS_RING_TSO | MODEL_HAS_RING_ACQ_REL))
			return unknown_vm_ioctl(model);
		return mk_reset_rings(vm);
	default:
		return unknown_vm_ioctl(model);
	}
}

static int system_ioctl(struct model *model, const struct model_call *call)
{
	switch (call->request) {
	case KVM_GET_API_VERSION:
		return call->arg ? -EINVAL : KVM_API_VERSION;
	case KVM_CREATE_VM:
		return mk_vm_create(model);
	case KVM_CHECK_EXTENSION:
		return mk_check_extension(model, (uintptr_t)call->arg);
	case KVM_GET_VCPU_MMAP_SIZE:
		return call->arg ? -EINVAL : 3 * (int)model->options.page_bytes;
	default:
		return -EINVAL;
	}
}

static int vcpu_ioctl(struct model_vcpu *vcpu, const struct model_call *call)
{
	if (_IOC_TYPE(call->request) != KVMIO)
		return -EINVAL;
	/* A vCPU ioctl waits for KVM_RUN to end. */
	pthread_mutex_lock(&vcpu->run_lock);
	pthread_mutex_unlock(&vcpu->run_lock);
	return -EINVAL;
}

static int dispatch(struct model *model, const struct model_call *call)
{
	struct model_vm *vm = mk_find_vm(model, call->fd);
	struct model_vcpu *vcpu = mk_find_vcpu(model, call->fd);

	if (model_is_watch_fd(call->fd))
		return mk_watch_ioctl(model, call);
	if (call->fd == model_system_fd(model))
		return system_ioctl(model, call);
	if (vm)
		return vm_ioctl(vm, call);
	return vcpu ? vcpu_ioctl(vcpu, call) : -EBADF;
}

/* Those of a vCPU have a name for all of them besides their own. */
static int begin_ioctl(struct model *model, const struct model_call *call, bool *after)
{
	struct model_call any = *call;
	int result = mk_call_begin(model, call, after);

	any.request = MODEL_CALL_VCPU_IOCTL;
	if (!result && mk_find_vcpu(model, call->fd))
		result = mk_call_begin(model, &any, after);
	return result;
}

static int os_ioctl(void *opaque, int fd, unsigned long request, void *arg)
{
	struct model *model = opaque;
	struct model_call call = { .request = request, .arg = arg, .fd = fd };
	int saved_errno = errno, fault, result;
	bool after;

	mk_event_call(model, MODEL_BEFORE_CALL, &call, 0);
	fault = begin_ioctl(model, &call, &after);
	result = fault;
	if (!fault || after) {
		call.undelivered = fault;
		result = dispatch(model, &call);
		/* If the call failed by itself, its own error takes precedence. */
		if (fault && result >= 0)
			result = fault;
	}
	mk_event_call(model, MODEL_AFTER_CALL, &call, result);
	errno = saved_errno;
	return result;
}

/* Aligns to the model's page size, which may be larger than this machine's. */
int mk_map_memory(const struct model *model, size_t bytes, int prot, int flags, void **addr)
{
	size_t align = model->options.page_bytes;
	size_t host_page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	size_t slack = align > host_page_bytes ? align : 0;
	size_t head;
	char *mapped;

	if (!bytes)
		return -EINVAL;
	bytes = (bytes + host_page_bytes - 1) & ~(host_page_bytes - 1);
	mapped = mmap(NULL, bytes + slack, prot, flags & ~MAP_FIXED, -1, 0);
	if (mapped == MAP_FAILED)
		return -errno;
	if (slack) {
		head = (align - (uintptr_t)mapped % align) % align;
		if (head)
			munmap(mapped, head);
		mapped += head;
		if (slack - head)
			munmap(mapped + bytes, slack - head);
	}
	*addr = mapped;
	return 0;
}

static int do_mmap(struct model *model, int fd, uint64_t offset_bytes, size_t bytes, int prot,
		   int flags, void **addr)
{
	struct model_vcpu *vcpu = mk_find_vcpu(model, fd);
	struct model_call call = { .request = MODEL_CALL_MMAP, .fd = fd };
	bool after;
	int result;

	result = mk_call_begin(model, &call, &after);
	call.request = MODEL_CALL_MMAP_VCPU;
	if (!result && vcpu)
		result = mk_call_begin(model, &call, &after);
	if (result)
		return result;
	if (vcpu)
		return mk_vcpu_mmap(vcpu, offset_bytes, bytes, prot, flags, addr);
	if (mk_find_vm(model, fd) || fd == model_system_fd(model))
		return -ENODEV;
	return fd == -1 ? mk_map_memory(model, bytes, prot, flags, addr) : -EBADF;
}

static int os_mmap(void *opaque, int fd, uint64_t offset_bytes, size_t bytes, int prot, int flags,
		   void **addr)
{
	struct model *model = opaque;
	struct model_call call = { .request = MODEL_CALL_MMAP, .fd = fd };
	int saved_errno = errno, result;

	mk_event_call(model, MODEL_BEFORE_CALL, &call, 0);
	result = do_mmap(model, fd, offset_bytes, bytes, prot, flags, addr);
	mk_event_call(model, MODEL_AFTER_CALL, &call, result);
	errno = saved_errno;
	return result;
}

static int os_munmap(void *opaque, void *addr, size_t bytes)
{
	struct model *model = opaque;
	struct model_call call = { .request = MODEL_CALL_MUNMAP, .arg = addr, .fd = -1 };
	int saved_errno = errno, result;
	bool after;

	mk_event_call(model, MODEL_BEFORE_CALL, &call, 0);
	result = mk_call_begin(model, &call, &after);
	if (!result && !mk_return_lent_cells(model, addr) && munmap(addr, bytes))
		result = -errno;
	mk_event_call(model, MODEL_AFTER_CALL, &call, result);
	errno = saved_errno;
	return result;
}

static int os_signal_mask(void *opaque, int how, const sigset_t *set, sigset_t *old)
{
	struct model *model = opaque;
	struct model_call call = { .request = MODEL_CALL_SIGMASK, .fd = -1 };
	int saved_errno = errno, result;
	bool after;

	mk_event_call(model, MODEL_BEFORE_CALL, &call, 0);
	result = mk_call_begin(model, &call, &after);
	if (!result)
		result = -pthread_sigmask(how, set, old);
	mk_event_call(model, MODEL_AFTER_CALL, &call, result);
	errno = saved_errno;
	return result;
}

static int begin(struct model *model, unsigned long request, int fd)
{
	struct model_call call = { .request = request, .fd = fd };
	bool after;

	return mk_call_begin(model, &call, &after);
}

/* The model's file descriptors are plain numbers; timers and those of watches are closed. */
static int os_dup(void *opaque, int fd)
{
	int result = begin(opaque, MODEL_CALL_DUP, fd);

	return result ? result : fd;
}

static int os_close(void *opaque, int fd)
{
	int result = begin(opaque, MODEL_CALL_CLOSE, fd);

	if (!mk_watch_close(opaque, fd))
		(void)mk_timer_close(opaque, fd);
	return result;
}

/* Real memory, so real advice. */
static int os_madvise(void *opaque, void *addr, size_t bytes, int advice)
{
	int saved_errno = errno;
	int result = begin(opaque, MODEL_CALL_MADVISE, -1);

	if (!result && madvise(addr, bytes, advice))
		result = -errno;
	errno = saved_errno;
	return result;
}

static int os_mprotect(void *opaque, void *addr, size_t bytes, int prot)
{
	int saved_errno = errno;
	int result = begin(opaque, MODEL_CALL_MPROTECT, -1);

	if (!result && mprotect(addr, bytes, prot))
		result = -errno;
	errno = saved_errno;
	return result;
}

static void fill_defaults(struct model_options *options)
{
	if (!options->has)
		options->has = MODEL_HAS_RING_TSO | MODEL_HAS_RING_ACQ_REL |
			       MODEL_HAS_MANUAL_PROTECT | MODEL_HAS_INITIALLY_SET | MODEL_HAS_WATCH;
	if (!options->page_bytes)
		options->page_bytes = 4096;
	if (!options->arch)
		options->arch = DL_OS_ARCH_RING_ALONE_SAFE;
	if (!options->ring_max_bytes)
		options->ring_max_bytes = 1 << 20;
	if (options->pml_entries > MAX_PML_ENTRIES)
		options->pml_entries = MAX_PML_ENTRIES;
	if (!options->reserved_entries)
		options->reserved_entries = 64 + options->pml_entries;
	if (!options->slot_ids)
		options->slot_ids = 32764;
	if (!options->address_spaces)
		options->address_spaces = 2;
	if (!options->batch_writes)
		options->batch_writes = 1;
}

struct model *model_new(const struct model_options *options)
{
	struct model *model = calloc(1, sizeof(*model));

	if (!model)
		return NULL;
	if (options)
		model->options = *options;
	model->number = mk_model_number();
	fill_defaults(&model->options);
	pthread_mutex_init(&model->lock, NULL);
	pthread_mutex_init(&model->call_lock, NULL);
	atomic_init(&model->virtual_ns, 1000000000);
	model->os = (struct dl_os){
		.size = sizeof(model->os),
		.page_bytes = model->options.page_bytes,
		.arch = model->options.arch,
		.opaque = model,
		.ioctl = os_ioctl,
		.mmap = os_mmap,
		.munmap = os_munmap,
		.signal_mask = os_signal_mask,
		.dup = os_dup,
		.close = os_close,
		.madvise = os_madvise,
		.mprotect = os_mprotect,
		.timer = mk_timer,
		.timer_set = mk_timer_set,
		.now_ns = mk_now_ns,
		.thread_clock = model->options.thread_clocks ? mk_thread_clock : NULL,
		.thread_ns = model->options.thread_clocks ? mk_thread_ns : NULL,
		.userfaultfd = mk_userfaultfd,
		.pagemap = mk_pagemap,
	};
	if (mk_watches_new(model)) {
		model_free(model);
		return NULL;
	}
	return model;
}

void model_free(struct model *model)
{
	uint32_t i;

	if (!model)
		return;
	for (i = 0; i < model->vm_count; i++)
		mk_vm_free(model->vms[i]);
	mk_watches_free(model);
	pthread_mutex_destroy(&model->lock);
	pthread_mutex_destroy(&model->call_lock);
	free(model);
}

const struct dl_os *model_os(struct model *model)
{
	return &model->os;
}
