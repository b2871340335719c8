/* SPDX-License-Identifier: MIT */
/* A VMM from its parts. */
#include "vmm.h"

#include <string.h>

static void open_log(struct vmm *vmm)
{
	struct dl_options options = {
		.size = sizeof(options),
		.mode = vmm->config.mode,
		.backup = vmm->config.log_backup,
		.ring_entries = vmm->config.ring_entries,
		.os = vmm->hv.os,
	};
	struct dl_config is = { .size = sizeof(is) };
	char why[400];

	hv_check(dl_log_open(vmm->hv.vm_fd, &options, &vmm->log, why, sizeof(why)), why);
	hv_check(dl_log_config(vmm->log, &is), "dl_log_config");
	vmm->has_bitmaps = is.mode == DL_MODE_BITMAP || is.backup;
}

static void open_ram(struct vmm *vmm)
{
	uint32_t page_bytes = vmm->hv.page_bytes;

	ram_open(&vmm->ram, "ram", RAM_PAGES, RAM_PAGES, page_bytes);
	ram_open(&vmm->firmware, "firmware", FIRMWARE_PAGES, FIRMWARE_PAGES, page_bytes);
	ram_open(&vmm->display_ram, "display", DISPLAY_PAGES, DISPLAY_PAGES, page_bytes);
	ram_open(&vmm->blob, "blob", BLOB_PAGES, BLOB_MOST_PAGES, page_bytes);
	vmm->blocks[0] = &vmm->ram;
	vmm->blocks[1] = &vmm->firmware;
	vmm->blocks[2] = &vmm->display_ram;
	vmm->blocks[3] = &vmm->blob;
}

static void map_ram(struct vmm *vmm)
{
	struct memory *memory = &vmm->memory;
	struct region region = {
		.block = &vmm->ram, .pages = RAM_PAGES, .spaces = 3, .enabled = true
	};

	memory_add(memory, &region);
	region = (struct region){ .block = &vmm->firmware,
				  .gpa_page = FIRMWARE_AT,
				  .pages = FIRMWARE_PAGES,
				  .spaces = 3,
				  .priority = 1,
				  .enabled = true };
	vmm->firmware_region = memory_add(memory, &region);
	region = (struct region){ .gpa_page = SMRAM_AT,
				  .pages = SMRAM_PAGES,
				  .spaces = 1,
				  .priority = 1,
				  .enabled = true };
	vmm->smram_hole = memory_add(memory, &region);
	region = (struct region){ .block = &vmm->display_ram,
				  .gpa_page = BAR_AT,
				  .pages = DISPLAY_PAGES,
				  .spaces = 1,
				  .enabled = true };
	vmm->bar = memory_add(memory, &region);
	region = (struct region){ .block = &vmm->blob,
				  .gpa_page = BLOB_AT,
				  .pages = BLOB_PAGES,
				  .spaces = 1,
				  .enabled = true };
	vmm->blob_region = memory_add(memory, &region);
}

/* Runs without the big lock: a thread that holds it may wait for the ring to be emptied. */
static int drain(void *opaque)
{
	struct vmm_thread *thread = opaque;
	int r = dl_vcpu_drain(thread->handle, 0);

	atomic_fetch_add(&thread->vmm->full_exits, 1);
	return r;
}

static void add_vcpu(struct vmm *vmm, enum ram_writer writer, uint32_t as_id)
{
	struct vmm_thread *thread = &vmm->threads[writer];
	struct hv_vcpu *vcpu = &vmm->vcpus[vmm->n_vcpus++];

	thread->vcpu = vcpu;
	vcpu->as_id = as_id;
	vcpu->on_full = drain;
	vcpu->opaque = thread;
	vmm->hv.backend->add_vcpu(&vmm->hv, vcpu);
	hv_check(dl_vcpu_add(vmm->log, vcpu->fd, writer, 0, &thread->handle), "dl_vcpu_add");
}

static void add_vcpus(struct vmm *vmm)
{
	bool second = vmm->hv.has_second_space;

	add_vcpu(vmm, RAM_VCPU0, 0);
	add_vcpu(vmm, RAM_VCPU1, second);
	add_vcpu(vmm, RAM_SCRIPT, 0);
	if (second)
		add_vcpu(vmm, RAM_SCRIPT_SMM, 1);
	for (unsigned int i = 0; i <= HV_VCPUS; i++) {
		vmm->threads[i].vmm = vmm;
		vmm->threads[i].writer = (enum ram_writer)i;
		vmm->threads[i].random.state = i + 1;
	}
}

static void init_locks(struct vmm *vmm)
{
	pthread_mutex_init(&vmm->big_lock, NULL);
	pthread_mutex_init(&vmm->send_lock, NULL);
	pthread_mutex_init(&vmm->slots_lock, NULL);
	pthread_cond_init(&vmm->changed, NULL);
}

void vmm_open(struct vmm *vmm, const struct vmm_config *config)
{
	memset(vmm, 0, sizeof(*vmm));
	vmm->config = *config;
	init_locks(vmm);
	vmm->hv.backend = config->backend;
	vmm->hv.backend->open(&vmm->hv, &vmm->config.model);
	open_log(vmm);
	open_ram(vmm);
	add_vcpus(vmm);
	map_ram(vmm);
	vmm_commit(vmm);
	if (config->shared) {
		vmm->shared.clients = RAM_ALL & ~RAM_BIT(RAM_RATE);
		vmm->shared.cursor = vmm_cursor(vmm, DL_CURSOR_WANTED, 0);
	}
	vmm_mirror_open(vmm, &vmm->display, &vmm->display_ram, RAM_DISPLAY);
	vmm_mirror_open(vmm, &vmm->code, &vmm->firmware, RAM_CODE);
	vmm_start_threads(vmm);
}

static void remove_slots(struct vmm *vmm)
{
	for (unsigned int i = 0; i < vmm->memory.n_regions; i++)
		vmm->memory.regions[i].enabled = false;
	vmm_commit(vmm);
}

void vmm_close(struct vmm *vmm)
{
	vmm_stop_threads(vmm);
	remove_slots(vmm);
	dl_cursor_free(vmm->migration.cursor);
	dl_cursor_free(vmm->shared.cursor);
	vmm_mirror_close(&vmm->display);
	vmm_mirror_close(&vmm->code);
	for (unsigned int i = 0; i <= HV_VCPUS; i++)
		dl_vcpu_remove(vmm->threads[i].handle);
	dl_log_close(vmm->log);
	vmm->hv.backend->close(&vmm->hv);
	for (unsigned int i = 0; i < sizeof(vmm->blocks) / sizeof(vmm->blocks[0]); i++)
		ram_close(vmm->blocks[i]);
	pthread_cond_destroy(&vmm->changed);
	pthread_mutex_destroy(&vmm->slots_lock);
	pthread_mutex_destroy(&vmm->send_lock);
	pthread_mutex_destroy(&vmm->big_lock);
}
