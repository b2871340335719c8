/* SPDX-License-Identifier: MIT */
/* Threads of vCPUs, of the device and of the display; the big lock; pauses. */
#include "vmm.h"

#include <limits.h>
#include <sched.h>
#include <string.h>

void vmm_lock(struct vmm *vmm)
{
	pthread_mutex_lock(&vmm->big_lock);
}

void vmm_unlock(struct vmm *vmm)
{
	pthread_mutex_unlock(&vmm->big_lock);
}

uint64_t vmm_logged_value(struct vmm *vmm, const struct ram_block *block, uint64_t page,
			  enum ram_writer writer)
{
	uint64_t completed = atomic_load(&vmm->completed[writer]);
	uint64_t value = ram_value(block->host, block, page, writer);

	return value <= completed ? value : 0;
}

/* Anywhere that the guest may have memory; marked pages are the script's. */
static uint64_t random_gpa(const struct vmm *vmm, struct random *random, enum ram_writer writer)
{
	static const struct {
		uint64_t at, pages;
	} places[] = {
		{ 0, RAM_PAGES },
		{ 0, 64 },
		{ FIRMWARE_AT, FIRMWARE_PAGES },
		{ SMRAM_AT, SMRAM_PAGES },
		{ BAR_AT, DISPLAY_PAGES },
		{ OTHER_BAR_AT, DISPLAY_PAGES },
		{ BLOB_AT, BLOB_MOST_PAGES },
	};
	uint64_t place = random_below(random, sizeof(places) / sizeof(places[0])), page;

	page = places[place].at + random_below(random, places[place].pages);
	if (page % 8 == MARKED_PAGE)
		page--;
	return vmm->hv.base_gpa + page * vmm->hv.page_bytes + ram_place(writer);
}

static void store(struct vmm_thread *thread, const uint64_t *gpa, unsigned int n)
{
	struct hv_stores stores = { .value = ++thread->value, .n = n };
	struct vmm *vmm = thread->vmm;

	memcpy(stores.gpa, gpa, n * sizeof(*gpa));
	vmm->hv.backend->store(&vmm->hv, thread->vcpu, &stores);
	atomic_store(&vmm->completed[thread->writer], thread->value);
}

/* Some of what a guest does ends in a device, under the big lock. */
static void vcpu_step(struct vmm_thread *thread)
{
	struct vmm *vmm = thread->vmm;
	uint64_t gpa[HV_STORES];

	for (int i = 0; i < HV_STORES; i++)
		gpa[i] = random_gpa(vmm, &thread->random, thread->writer);
	store(thread, gpa, HV_STORES);
	if (!atomic_load(&vmm->no_device) && !random_below(&thread->random, 8)) {
		vmm_lock(vmm);
		vmm_device_store(vmm, &vmm->ram, random_below(&thread->random, 64) * 8);
		vmm_unlock(vmm);
	}
	atomic_fetch_add(&thread->steps, 1);
}

static void device_step(struct vmm_thread *thread)
{
	struct vmm *vmm = thread->vmm;
	struct ram_block *block = vmm->blocks[random_below(&thread->random, 4)];
	uint64_t page = random_below(&thread->random, block->pages);

	vmm_device_store(vmm, block, page % 8 == MARKED_PAGE ? page - 1 : page);
	atomic_fetch_add(&thread->steps, 1);
}

/* Under the big lock. */
static void wait_while_paused(struct vmm *vmm)
{
	vmm->parked++;
	pthread_cond_broadcast(&vmm->changed);
	while (atomic_load(&vmm->paused) && !atomic_load(&vmm->stop))
		pthread_cond_wait(&vmm->changed, &vmm->big_lock);
	vmm->parked--;
}

static void *run_vcpu(void *opaque)
{
	struct vmm_thread *thread = opaque;
	struct vmm *vmm = thread->vmm;

	while (!atomic_load(&vmm->stop)) {
		if (atomic_load(&vmm->paused)) {
			vmm->hv.backend->leave(&vmm->hv, thread->vcpu);
			vmm_lock(vmm);
			wait_while_paused(vmm);
			vmm_unlock(vmm);
			continue;
		}
		vcpu_step(thread);
	}
	vmm->hv.backend->leave(&vmm->hv, thread->vcpu);
	return NULL;
}

static void *run_device(void *opaque)
{
	struct vmm_thread *thread = opaque;
	struct vmm *vmm = thread->vmm;

	while (!atomic_load(&vmm->stop)) {
		vmm_lock(vmm);
		if (atomic_load(&vmm->paused))
			wait_while_paused(vmm);
		else
			device_step(thread);
		vmm_unlock(vmm);
		sched_yield();
	}
	return NULL;
}

static void *run_display(void *opaque)
{
	struct vmm *vmm = opaque;

	while (!atomic_load(&vmm->stop)) {
		vmm_lock(vmm);
		vmm_mirror_refresh(vmm, &vmm->display);
		vmm_unlock(vmm);
		sched_yield();
	}
	return NULL;
}

/* The vCPUs of the guest, and the device after them. */
static struct vmm_thread *thread_at(struct vmm *vmm, unsigned int i)
{
	return &vmm->threads[i < VMM_THREADED_VCPUS ? i : HV_VCPUS];
}

void vmm_start_threads(struct vmm *vmm)
{
	if (!vmm->config.threads)
		return;
	vmm->running = VMM_THREADED_VCPUS + 1;
	for (unsigned int i = 0; i < vmm->running; i++) {
		struct vmm_thread *thread = thread_at(vmm, i);

		hv_check(-pthread_create(&thread->thread, NULL,
					 thread->vcpu ? run_vcpu : run_device, thread),
			 "pthread_create");
	}
	hv_check(-pthread_create(&vmm->display_thread, NULL, run_display, vmm), "pthread_create");
}

void vmm_stop_threads(struct vmm *vmm)
{
	vmm_lock(vmm);
	atomic_store(&vmm->stop, true);
	pthread_cond_broadcast(&vmm->changed);
	vmm_unlock(vmm);
	for (unsigned int i = 0; i < vmm->running; i++)
		pthread_join(thread_at(vmm, i)->thread, NULL);
	if (vmm->running)
		pthread_join(vmm->display_thread, NULL);
	vmm->running = 0;
}

static void wait_for_threads(struct vmm *vmm, unsigned long steps)
{
	unsigned long target[VMM_THREADED_VCPUS + 1];
	unsigned long refreshes = atomic_load(&vmm->display.refreshes) + 1;

	for (unsigned int i = 0; i < vmm->running; i++)
		target[i] = atomic_load(&thread_at(vmm, i)->steps) + steps;
	for (unsigned int i = 0; i < vmm->running; i++)
		while (atomic_load(&thread_at(vmm, i)->steps) < target[i])
			sched_yield();
	while (atomic_load(&vmm->display.refreshes) < refreshes)
		sched_yield();
}

unsigned long vmm_fewest_steps(const struct vmm *vmm)
{
	unsigned long fewest = ULONG_MAX;

	for (unsigned int i = 0; i < VMM_THREADED_VCPUS; i++) {
		unsigned long steps = atomic_load(&vmm->threads[i].steps);

		fewest = steps < fewest ? steps : fewest;
	}
	return fewest;
}

static void step_all(struct vmm *vmm)
{
	for (unsigned int i = 0; i < VMM_THREADED_VCPUS; i++)
		vcpu_step(thread_at(vmm, i));
	vmm_lock(vmm);
	device_step(thread_at(vmm, VMM_THREADED_VCPUS));
	vmm_unlock(vmm);
}

void vmm_run(struct vmm *vmm, unsigned long steps)
{
	if (vmm->config.threads)
		wait_for_threads(vmm, steps);
	else
		for (unsigned long i = 0; i < steps; i++)
			step_all(vmm);
	vmm_lock(vmm);
	if (!vmm->config.threads)
		vmm_mirror_refresh(vmm, &vmm->display);
	vmm_mirror_refresh(vmm, &vmm->code);
	vmm_unlock(vmm);
}

void vmm_pause(struct vmm *vmm)
{
	vmm_lock(vmm);
	atomic_store(&vmm->paused, true);
	while (vmm->parked < vmm->running)
		pthread_cond_wait(&vmm->changed, &vmm->big_lock);
	for (unsigned int i = 0; i < vmm->n_vcpus; i++)
		vmm->hv.backend->leave(&vmm->hv, &vmm->vcpus[i]);
	vmm_unlock(vmm);
}

void vmm_resume(struct vmm *vmm)
{
	vmm_lock(vmm);
	atomic_store(&vmm->paused, false);
	pthread_cond_broadcast(&vmm->changed);
	vmm_unlock(vmm);
}

void vmm_script_store(struct vmm *vmm, uint32_t as_id, uint64_t gpa_page)
{
	struct vmm_thread *thread = &vmm->threads[as_id ? RAM_SCRIPT_SMM : RAM_SCRIPT];
	uint64_t gpa = vmm->hv.base_gpa + gpa_page * vmm->hv.page_bytes + ram_place(thread->writer);

	if (!thread->vcpu)
		return;
	store(thread, &gpa, 1);
	vmm->hv.backend->leave(&vmm->hv, thread->vcpu);
}

void vmm_device_store(struct vmm *vmm, struct ram_block *block, uint64_t page)
{
	uint64_t value = atomic_fetch_add(&vmm->device_value, 1) + 1;
	uint8_t *at = block->host + page * block->page_bytes + ram_place(RAM_DEVICE);

	__atomic_store_n((uint64_t *)(void *)at, value, __ATOMIC_RELEASE);
	if (vmm_misuses(vmm, MISUSE_NO_MARK))
		return;
	/* Established devices set the VMM's own bitmaps; one that knows of the library marks. */
	if (value % 2 || dl_mark_hva(vmm->log, at, sizeof(value)))
		ram_dirty(block, RAM_ALL, page, 1);
	atomic_store(&vmm->completed[RAM_DEVICE], value);
}

void vmm_kernel_store(struct vmm *vmm, uint64_t gpa_page)
{
	uint64_t gpa = vmm->hv.base_gpa + gpa_page * vmm->hv.page_bytes + ram_place(RAM_KERNEL);
	uint64_t value = atomic_fetch_add(&vmm->completed[RAM_KERNEL], 1) + 1;

	if (vmm->hv.backend->kernel_store && vmm->has_bitmaps)
		vmm->hv.backend->kernel_store(&vmm->hv, gpa, value);
}
