/* SPDX-License-Identifier: MIT */
/* Memory that slots can map, and its second mapping. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "api.h"

static void unmap(const struct dlm_block *block)
{
	if (block->memory)
		munmap(block->memory, block->bytes);
	if (block->alias)
		munmap(block->alias, block->bytes);
}

/* Maps a file at an address that has the model's alignment. */
static int map_file(const struct dlm_vm *vm, int fd, uint64_t bytes, void **addr)
{
	int result = mk_map_memory(vm->model, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, addr);

	if (result)
		return result;
	if (mmap(*addr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		return -ENOMEM;
	return 0;
}

/* The second mapping costs nothing until somebody asks for it. */
static int map_twice(const struct dlm_vm *vm, uint64_t bytes, struct dlm_block *block)
{
	int fd = memfd_create("dirtylog-model", MFD_CLOEXEC);
	int result = fd < 0 || ftruncate(fd, (off_t)bytes) ? -ENOMEM : 0;

	block->bytes = bytes;
	if (!result)
		result = map_file(vm, fd, bytes, &block->memory);
	if (!result)
		result = map_file(vm, fd, bytes, &block->alias);
	if (fd >= 0)
		close(fd);
	if (result)
		unmap(block);
	return result;
}

void dlmi_memory_free_all(struct dlm_vm *vm)
{
	while (vm->blocks) {
		struct dlm_block *block = vm->blocks;

		vm->blocks = block->next;
		unmap(block);
		free(block);
	}
}

static int block_new(struct dlm_vm *vm, uint64_t bytes, void **memory)
{
	struct dlm_block *block = calloc(1, sizeof(*block));

	if (!block || map_twice(vm, bytes, block)) {
		free(block);
		return dlmi_fail(vm, -ENOMEM, "no memory for %llu bytes",
				 (unsigned long long)bytes);
	}
	block->bytes = bytes;
	*memory = block->memory;
	pthread_mutex_lock(&vm->lock);
	block->next = vm->blocks;
	vm->blocks = block;
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

int dlm_memory_new(struct dlm_vm *vm, uint64_t bytes, void **memory)
{
	int saved_errno = errno, result;

	if (memory)
		*memory = NULL;
	if (!vm || !memory)
		return dlmi_fail(vm, -EINVAL, "memory is NULL");
	if (!bytes || bytes % vm->page_bytes || bytes > SIZE_MAX / 2)
		return dlmi_fail(vm, -EINVAL, "bytes: %llu is 0, or not made of pages of %llu",
				 (unsigned long long)bytes, (unsigned long long)vm->page_bytes);
	result = block_new(vm, bytes, memory);
	errno = saved_errno;
	return result;
}

static bool is_mapped(const struct dlm_slots *slots, const struct dlm_block *block)
{
	uint64_t start = (uintptr_t)block->memory;

	for (uint32_t i = 0; i < slots->count; i++)
		if (slots->places[i].hva < start + block->bytes &&
		    start < slots->places[i].hva + slots->places[i].bytes)
			return true;
	return false;
}

/* Called with the lock held. */
static int block_free(struct dlm_vm *vm, const struct dlm_slots *slots, void *memory)
{
	struct dlm_block **link = &vm->blocks, *block;

	while (*link && (*link)->memory != memory)
		link = &(*link)->next;
	block = *link;
	if (!block)
		return dlmi_fail(vm, -ENOENT, "memory: %p is no memory of dlm_memory_new()",
				 memory);
	if (is_mapped(slots, block))
		return dlmi_fail(vm, -EBUSY, "memory: a slot still maps a part of %p", memory);
	*link = block->next;
	unmap(block);
	dlmi_journal_forget(vm, (uintptr_t)block->memory, block->bytes);
	free(block);
	return 0;
}

int dlm_memory_free(struct dlm_vm *vm, void *memory)
{
	struct dlm_slots slots;
	int saved_errno = errno, result;

	if (!vm)
		return -EINVAL;
	result = dlmi_slots(vm, &slots);
	if (result)
		return result;
	pthread_mutex_lock(&vm->lock);
	result = block_free(vm, &slots, memory);
	pthread_mutex_unlock(&vm->lock);
	free(slots.places);
	errno = saved_errno;
	return result;
}

int dlm_memory_alias(struct dlm_vm *vm, void *memory, void **alias)
{
	struct dlm_block *block;

	if (alias)
		*alias = NULL;
	if (!vm || !alias)
		return dlmi_fail(vm, -EINVAL, "alias is NULL");
	pthread_mutex_lock(&vm->lock);
	for (block = vm->blocks; block && block->memory != memory; block = block->next)
		;
	if (block) {
		block->is_aliased = true;
		*alias = block->alias;
	}
	pthread_mutex_unlock(&vm->lock);
	if (!block)
		return dlmi_fail(vm, -ENOENT, "memory: %p is no memory of dlm_memory_new()",
				 memory);
	return 0;
}

uint64_t dlmi_alias_of(struct dlm_vm *vm, uint64_t hva)
{
	const struct dlm_block *block;
	uint64_t alias = 0;

	pthread_mutex_lock(&vm->lock);
	for (block = vm->blocks; block && !alias; block = block->next)
		if (block->is_aliased && hva - (uintptr_t)block->memory < block->bytes)
			alias = hva - (uintptr_t)block->memory + (uintptr_t)block->alias;
	pthread_mutex_unlock(&vm->lock);
	return alias;
}

uint64_t dlmi_memory_of(struct dlm_vm *vm, uint64_t address)
{
	const struct dlm_block *block;

	pthread_mutex_lock(&vm->lock);
	for (block = vm->blocks; block; block = block->next) {
		if (address - (uintptr_t)block->alias < block->bytes) {
			address = address - (uintptr_t)block->alias + (uintptr_t)block->memory;
			break;
		}
	}
	pthread_mutex_unlock(&vm->lock);
	return address;
}
