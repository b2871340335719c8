/* SPDX-License-Identifier: MIT */
/* The VM, and the reason of the last failure. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "api.h"

uint32_t dlm_library_version(void)
{
	return DL_VERSION;
}

int dlmi_fail(const struct dlm_vm *vm, int error, const char *format, ...)
{
	struct dlm_vm *writable = (struct dlm_vm *)vm;
	va_list arguments;

	if (!vm)
		return error;
	va_start(arguments, format);
	pthread_mutex_lock(&writable->error_lock);
	vsnprintf(writable->error, sizeof(writable->error), format, arguments);
	pthread_mutex_unlock(&writable->error_lock);
	va_end(arguments);
	return error;
}

int dlm_last_error(const struct dlm_vm *vm, char *text, size_t text_bytes)
{
	struct dlm_vm *writable = (struct dlm_vm *)vm;
	int length;

	if (!vm || (!text && text_bytes))
		return -EINVAL;
	pthread_mutex_lock(&writable->error_lock);
	length = snprintf(text, text_bytes, "%s", vm->error);
	pthread_mutex_unlock(&writable->error_lock);
	return length;
}

bool dlmi_tail_is_zero(const void *given, size_t known, size_t size)
{
	const char *bytes = given;

	for (size_t i = known; i < size; i++)
		if (bytes[i])
			return false;
	return true;
}

int dlmi_check_size(const struct dlm_vm *vm, const char *name, const void *given, size_t known)
{
	uint32_t size;

	if (!given)
		return dlmi_fail(vm, -EINVAL, "%s is NULL", name);
	memcpy(&size, given, sizeof(size));
	if (size < known)
		return dlmi_fail(vm, -EINVAL, "%s.size: %u is too small", name, size);
	if (!dlmi_tail_is_zero(given, known, size))
		return dlmi_fail(vm, -E2BIG, "%s: fields that this release does not know", name);
	return 0;
}

/* Called by the model after a store of the guest or the kernel. */
static void stored(void *opaque, const struct model_stored *store)
{
	struct dlm_vm *vm = opaque;
	struct dlm_write write = { .writer = DLM_WRITER_KERNEL, .ns = mk_now_ns(vm->model) };

	if (store->vcpu_fd >= 0) {
		write.writer = DLM_WRITER_VCPU;
		write.vcpu = (uint32_t)(store->vcpu_fd - vm->fd - 1);
	}
	dlmi_journal_add(vm, &write, store->hva, store->bytes);
}

static void init_locks(struct dlm_vm *vm)
{
	pthread_rwlockattr_t attributes;

	pthread_mutex_init(&vm->lock, NULL);
	pthread_mutex_init(&vm->error_lock, NULL);
	pthread_rwlockattr_init(&attributes);
	/* vCPUs that store continuously must not starve the start of a pass. */
	pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&vm->writes, &attributes);
	pthread_rwlockattr_destroy(&attributes);
	dlmi_journal_init(vm);
}

static struct dlm_vm *vm_new(struct model_options *options)
{
	struct dlm_vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return NULL;
	init_locks(vm);
	options->stored = stored;
	options->stored_opaque = vm;
	vm->model = model_new(options);
	vm->fd = vm->model ? model_vm_create(vm->model) : -ENOMEM;
	if (vm->fd < 0) {
		dlm_vm_free(vm);
		return NULL;
	}
	vm->model_vm = mk_find_vm(vm->model, vm->fd);
	vm->page_bytes = model_os(vm->model)->page_bytes;
	return vm;
}

int dlm_vm_new(const struct dlm_options *given, struct dlm_vm **vm, char *why, size_t why_bytes)
{
	struct model_options options;
	int saved_errno = errno, result;

	if (why && why_bytes)
		*why = '\0';
	if (!vm)
		return -EINVAL;
	*vm = NULL;
	result = dlmi_options(given, &options, why, why_bytes);
	if (result)
		return result;
	*vm = vm_new(&options);
	errno = saved_errno;
	if (!*vm && why && why_bytes)
		snprintf(why, why_bytes, "no memory for a VM");
	return *vm ? 0 : -ENOMEM;
}

void dlm_vm_free(struct dlm_vm *vm)
{
	int saved_errno = errno;

	if (!vm)
		return;
	model_free(vm->model);
	dlmi_memory_free_all(vm);
	for (uint32_t i = 0; i < vm->vcpu_count; i++)
		free(vm->vcpus[i]);
	dlmi_journal_free(vm);
	pthread_rwlock_destroy(&vm->writes);
	pthread_mutex_destroy(&vm->lock);
	pthread_mutex_destroy(&vm->error_lock);
	free(vm);
	errno = saved_errno;
}

int dlm_vm_fd(const struct dlm_vm *vm)
{
	return vm ? vm->fd : -EINVAL;
}

int dlm_vm_system_fd(const struct dlm_vm *vm)
{
	return vm ? model_system_fd(vm->model) : -EINVAL;
}

const struct dl_os *dlm_vm_os(const struct dlm_vm *vm)
{
	return vm ? model_os(vm->model) : NULL;
}

int dlm_vm_running(const struct dlm_vm *vm)
{
	uint32_t count;
	int running = 0;

	if (!vm)
		return -EINVAL;
	count = vm->model_vm->vcpu_count;
	for (uint32_t i = 0; i < count; i++) {
		struct model_vcpu *vcpu = vm->model_vm->vcpus[i];

		pthread_mutex_lock(&vcpu->run_lock);
		running += vcpu->in_guest;
		pthread_mutex_unlock(&vcpu->run_lock);
	}
	return running;
}

void dlm_copy(void *to, const void *from, size_t bytes)
{
	model_copy(to, from, bytes);
}
