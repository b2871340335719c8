/* SPDX-License-Identifier: MIT */
/* Creation, reference counting and destruction of a log. */

#include "log.h"

#include "vcpu_check.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

static int init_objects(struct dl_log *log)
{
	int r = -pthread_mutex_init(&log->lock, NULL);

	if (r)
		return r;
	r = -pthread_mutex_init(&log->changes, NULL);
	if (r)
		goto no_changes;
	r = dli_reset_init(&log->reset, log->vm.os, log->vm.fd);
	if (r)
		goto no_reset;
	r = dli_vcpu_list_init(&log->vcpus);
	if (r)
		goto no_vcpus;
	r = dli_reaper_init(&log->reaper, log->vm.os);
	if (r)
		goto no_reaper;
	r = dli_slots_init(&log->slots);
	if (!r)
		return 0;
	dli_reaper_fini(&log->reaper);
no_reaper:
	pthread_mutex_destroy(&log->vcpus.lock);
no_vcpus:
	dli_reset_fini(&log->reset);
no_reset:
	pthread_mutex_destroy(&log->changes);
no_changes:
	pthread_mutex_destroy(&log->lock);
	return r;
}

static int init_alive(struct dl_log *log)
{
	uint32_t page_bytes = dli_os_page_bytes(log->vm.os);
	void *page;
	int r = dli_os_reserve(log->vm.os, page_bytes, &page);

	if (r)
		return r;
	/* Before Linux 4.14 there is no such advice, and a child is not noticed. */
	(void)dli_os_advise(log->vm.os, page, page_bytes, MADV_WIPEONFORK);
	log->alive = page;
	*log->alive = 1;
	return 0;
}

static void fini_alive(struct dl_log *log)
{
	dli_os_unmap(log->vm.os, (void *)log->alive, dli_os_page_bytes(log->vm.os));
}

int dli_log_new(int vm_fd, const struct dl_options *options, struct dl_log **out)
{
	struct dl_log *log = dli_allocate(1, sizeof(*log));
	int r;

	if (!log)
		return -ENOMEM;
	r = dli_vm_open(&log->vm, dli_os_or_system(options->os), vm_fd);
	if (r) {
		free(log);
		return r;
	}
	log->pace.os = log->vm.os;
	atomic_init(&log->references, 1);
	r = init_alive(log);
	if (r)
		goto no_alive;
	r = init_objects(log);
	if (r)
		goto no_objects;
	*out = log;
	return 0;
no_objects:
	fini_alive(log);
no_alive:
	dli_vm_close(&log->vm);
	free(log);
	return r;
}

void dli_log_get(struct dl_log *log)
{
	atomic_fetch_add_explicit(&log->references, 1, memory_order_relaxed);
}

void dli_log_put(struct dl_log *log)
{
	/* Pairs with itself: every user is done (release) before the last one frees (acquire). */
	if (atomic_fetch_sub_explicit(&log->references, 1, memory_order_acq_rel) != 1)
		return;
	dli_vcpu_check_forget_all(&log->vcpus);
	dli_vcpu_list_fini(&log->vcpus);
	dli_slots_fini(&log->slots);
	dli_bitmap_release(&log->buffer, log->vm.os);
	dli_reset_fini(&log->reset);
	dli_reaper_fini(&log->reaper);
	fini_alive(log);
	dli_vm_close(&log->vm);
	pthread_mutex_destroy(&log->lock);
	pthread_mutex_destroy(&log->changes);
	free(log);
}
