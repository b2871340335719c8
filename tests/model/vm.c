/* SPDX-License-Identifier: MIT */
/* VMs and vCPUs, their file descriptors and mappings. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

#define FIRST_FD   (1 << 24)
#define FDS_PER_VM (MAX_VCPUS + 1)
#define RUN_PAGES  3  /* kvm_run and the pages that x86 maps after it */
#define RING_PAGE  64 /* KVM_DIRTY_LOG_PAGE_OFFSET, which some architectures' headers lack */

#if defined(__SANITIZE_THREAD__)
#define WATCHED_BY_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WATCHED_BY_TSAN 1
#endif
#endif
#ifndef WATCHED_BY_TSAN
#define WATCHED_BY_TSAN 0
#endif

int model_system_fd(struct model *model)
{
	(void)model;
	return FIRST_FD;
}

struct model_vm *mk_find_vm(struct model *model, int fd)
{
	uint32_t index;

	if (fd <= FIRST_FD || (fd - FIRST_FD - 1) % FDS_PER_VM)
		return NULL;
	index = (uint32_t)(fd - FIRST_FD - 1) / FDS_PER_VM;
	return index < model->vm_count ? model->vms[index] : NULL;
}

struct model_vcpu *mk_find_vcpu(struct model *model, int fd)
{
	struct model_vm *vm;
	uint32_t index;

	if (fd <= FIRST_FD)
		return NULL;
	index = (uint32_t)(fd - FIRST_FD - 1) % FDS_PER_VM;
	vm = mk_find_vm(model, fd - (int)index);
	return vm && index && index - 1 < vm->vcpu_count ? vm->vcpus[index - 1] : NULL;
}

static void init_lock(pthread_mutex_t *lock)
{
	pthread_mutex_init(lock, NULL);
}

static void init_slots_rw(pthread_rwlock_t *lock)
{
	pthread_rwlockattr_t attributes;

	pthread_rwlockattr_init(&attributes);
	/* vCPUs that store continuously must not starve a slot change. */
	pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(lock, &attributes);
	pthread_rwlockattr_destroy(&attributes);
}

static struct model_vm *vm_new(struct model *model, int fd)
{
	struct model_vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return NULL;
	vm->model = model;
	vm->fd = fd;
	init_lock(&vm->lock);
	init_lock(&vm->slots_lock);
	init_lock(&vm->mmu_lock);
	init_slots_rw(&vm->slots_rw);
	vm->copy_memfd = memfd_create("model-bitmap", MFD_CLOEXEC);
	if (vm->copy_memfd < 0 || mk_slots_new(vm)) {
		mk_vm_free(vm);
		return NULL;
	}
	return vm;
}

/* Stored before it is counted, as in publish_vcpu(). */
static void publish_vm(struct model *model, struct model_vm *vm)
{
	model->vms[model->vm_count] = vm;
	model->vm_count++;
}

int mk_vm_create(struct model *model)
{
	struct model_vm *vm;
	uint32_t index;
	int result;

	pthread_mutex_lock(&model->lock);
	index = model->vm_count;
	result = FIRST_FD + 1 + (int)index * FDS_PER_VM;
	if (index == MAX_VMS)
		result = -EMFILE;
	else if (!(vm = vm_new(model, result)))
		result = -ENOMEM;
	else
		publish_vm(model, vm);
	pthread_mutex_unlock(&model->lock);
	return result;
}

int model_vm_create(struct model *model)
{
	return mk_vm_create(model);
}

static void vcpu_free(struct model_vcpu *vcpu)
{
	mk_ring_free(vcpu);
	if (vcpu->run)
		munmap(vcpu->run, vcpu->vm->model->options.page_bytes);
	if (vcpu->run_memfd >= 0)
		close(vcpu->run_memfd);
	pthread_mutex_destroy(&vcpu->run_lock);
	pthread_mutex_destroy(&vcpu->guest_lock);
	pthread_mutex_destroy(&vcpu->cells_lock);
	free(vcpu);
}

void mk_vm_free(struct model_vm *vm)
{
	uint32_t i;

	for (i = 0; i < vm->vcpu_count; i++)
		vcpu_free(vm->vcpus[i]);
	mk_slots_free(vm);
	free(vm->stale);
	if (vm->copy_memfd >= 0)
		close(vm->copy_memfd);
	pthread_mutex_destroy(&vm->lock);
	pthread_mutex_destroy(&vm->slots_lock);
	pthread_mutex_destroy(&vm->mmu_lock);
	pthread_rwlock_destroy(&vm->slots_rw);
	free(vm);
}

static int run_page_new(struct model_vcpu *vcpu)
{
	uint32_t page_bytes = vcpu->vm->model->options.page_bytes;
	void *run;

	vcpu->run_memfd = memfd_create("model-run", MFD_CLOEXEC);
	if (vcpu->run_memfd < 0 || ftruncate(vcpu->run_memfd, (off_t)RUN_PAGES * page_bytes))
		return -ENOMEM;
	run = mmap(NULL, page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->run_memfd, 0);
	if (run == MAP_FAILED)
		return -ENOMEM;
	vcpu->run = run;
	return 0;
}

static struct model_vcpu *vcpu_new(struct model_vm *vm, int fd, unsigned long id)
{
	struct model_vcpu *vcpu = calloc(1, sizeof(*vcpu));

	if (!vcpu)
		return NULL;
	vcpu->vm = vm;
	vcpu->fd = fd;
	vcpu->id = id;
	vcpu->run_memfd = -1;
	init_lock(&vcpu->run_lock);
	init_lock(&vcpu->guest_lock);
	init_lock(&vcpu->cells_lock);
	if (mk_ring_new(vcpu) || run_page_new(vcpu)) {
		vcpu_free(vcpu);
		return NULL;
	}
	return vcpu;
}

static bool vcpu_id_taken(const struct model_vm *vm, unsigned long id)
{
	uint32_t i;

	for (i = 0; i < vm->vcpu_count; i++)
		if (vm->vcpus[i]->id == id)
			return true;
	return false;
}

/* Stored before it is counted: resets and flushes walk the array without the lock. */
static void publish_vcpu(struct model_vm *vm, struct model_vcpu *vcpu)
{
	vm->vcpus[vm->vcpu_count] = vcpu;
	vm->vcpu_count++;
}

/* ULONG_MAX stands for the next free id. */
int mk_vcpu_create(struct model_vm *vm, unsigned long id)
{
	struct model_vcpu *vcpu;
	uint32_t count;
	int result;

	pthread_mutex_lock(&vm->lock);
	count = vm->vcpu_count;
	result = vm->fd + 1 + (int)count;
	while (id == (unsigned long)-1 && vcpu_id_taken(vm, count))
		count++;
	if (id == (unsigned long)-1)
		id = count;
	if (vm->vcpu_count == MAX_VCPUS || id >= MAX_VCPUS)
		result = -EINVAL;
	else if (vcpu_id_taken(vm, id))
		result = -EEXIST;
	else if (!(vcpu = vcpu_new(vm, result, id)))
		result = -ENOMEM;
	else
		publish_vcpu(vm, vcpu);
	pthread_mutex_unlock(&vm->lock);
	return result;
}

int model_vcpu_create(struct model *model, int vm_fd)
{
	struct model_vm *vm = mk_find_vm(model, vm_fd);

	return vm ? mk_vcpu_create(vm, (unsigned long)-1) : -EBADF;
}

/*
 * ThreadSanitizer tracks memory by its address, so under it the first mapping of a ring is the
 * model's own, on loan. Without it every mapping is new, and a use after munmap crashes.
 */
static bool lend_cells(struct model_vcpu *vcpu, size_t bytes)
{
	struct model *model = vcpu->vm->model;
	bool lent = false;

	if (!WATCHED_BY_TSAN || !vcpu->cells || bytes > vcpu->ring_entries * sizeof(*vcpu->cells))
		return false;
	pthread_mutex_lock(&model->lock);
	if (!vcpu->cells_lent) {
		vcpu->cells_lent = true;
		lent = true;
	}
	pthread_mutex_unlock(&model->lock);
	return lent;
}

bool mk_return_lent_cells(struct model *model, const void *addr)
{
	uint32_t v, c;
	bool taken = false;

	if (!WATCHED_BY_TSAN)
		return false;
	pthread_mutex_lock(&model->lock);
	for (v = 0; v < model->vm_count; v++) {
		for (c = 0; c < model->vms[v]->vcpu_count; c++) {
			struct model_vcpu *vcpu = model->vms[v]->vcpus[c];

			if (!vcpu->cells_lent || vcpu->cells != addr)
				continue;
			vcpu->cells_lent = false;
			taken = true;
		}
	}
	pthread_mutex_unlock(&model->lock);
	return taken;
}

int mk_vcpu_mmap(struct model_vcpu *vcpu, uint64_t offset_bytes, size_t bytes, int prot, int flags,
		 void **addr)
{
	uint32_t page_bytes = vcpu->vm->model->options.page_bytes;
	uint64_t ring_start = (uint64_t)RING_PAGE * page_bytes;
	uint64_t ring_end = ring_start + vcpu->vm->ring_bytes;
	uint64_t last, file_offset = offset_bytes;
	int fd = vcpu->run_memfd;
	void *mapped;

	if (!bytes || offset_bytes % page_bytes)
		return -EINVAL;
	/* Like the kernel, check the first and the last page only. */
	last = offset_bytes + (bytes - 1) / page_bytes * page_bytes;
	if (((offset_bytes >= ring_start && offset_bytes < ring_end) ||
	     (last >= ring_start && last < ring_end)) &&
	    ((prot & PROT_EXEC) || !(flags & MAP_SHARED)))
		return -EINVAL;
	if (offset_bytes >= ring_start && vcpu->cells) {
		fd = vcpu->ring_memfd;
		file_offset = offset_bytes - ring_start;
		if (!file_offset && lend_cells(vcpu, bytes)) {
			*addr = vcpu->cells;
			return 0;
		}
	}
	/* Touching pages past the end of the file raises SIGBUS, as in KVM's mappings. */
	mapped = mmap(NULL, bytes, prot, flags & ~MAP_FIXED, fd, (off_t)file_offset);
	if (mapped == MAP_FAILED)
		return -errno;
	*addr = mapped;
	return 0;
}
