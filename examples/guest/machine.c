/* SPDX-License-Identifier: MIT */
#include "machine.h"
#include "sealed_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_BYTES (UINT64_C(2) << 20)

int machine_fail(struct machine *machine, int failure, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(machine->why, sizeof(machine->why), format, args);
	va_end(args);
	return failure;
}

const struct machine_kind *machine_choose(enum backend backend, char *why, size_t why_bytes)
{
	int fd;

	if (why_bytes)
		why[0] = '\0';
	if (backend == BACKEND_MODEL)
		return &machine_model;
	fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (fd >= 0) {
		close(fd);
		return &machine_kvm;
	}
	snprintf(why, why_bytes, "cannot open /dev/kvm: %s", strerror(errno));
	return backend == BACKEND_AUTO ? &machine_model : NULL;
}

static void advise_memory(struct machine *machine)
{
	(void)madvise(machine->memory, machine->layout.memory_bytes, MADV_HUGEPAGE);
	/* Keep guest memory out of core dumps. */
	(void)madvise(machine->memory, machine->layout.memory_bytes, MADV_DONTDUMP);
	/* A fork would protect all of it, and each page's next write would be a fault. */
	(void)madvise(machine->memory, machine->layout.memory_bytes, MADV_DONTFORK);
}

static int map_memory(struct machine *machine)
{
	uint64_t bytes = machine->layout.memory_bytes + HUGE_BYTES;
	uintptr_t start;
	void *mapping;

	mapping = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mapping == MAP_FAILED)
		return machine_fail(machine, -errno, "cannot map %llu MiB of guest memory: %s",
				    (unsigned long long)(bytes >> 20), strerror(errno));
	start = ((uintptr_t)mapping + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1);
	machine->mapping = mapping;
	machine->mapping_bytes = bytes;
	machine->memory = (uint8_t *)start;
	advise_memory(machine);
	return 0;
}

int machine_share_memory(struct machine *machine)
{
	uint64_t bytes = machine->layout.memory_bytes;
	int fd = sealed_file("guest", bytes), r = fd;

	if (fd >= 0) {
		if (mmap(machine->memory, bytes, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, 0) != MAP_FAILED) {
			advise_memory(machine);
			machine->memory_fd = fd;
			return 0;
		}
		r = -errno;
		close(fd);
	}
	return machine_fail(machine, r, "cannot share %llu MiB of guest memory: %s",
			    (unsigned long long)(bytes >> 20), strerror(-r));
}

int machine_open(struct machine *machine, const struct machine_kind *kind,
		 const struct layout *layout, bool guest_user)
{
	pthread_condattr_t attr;
	int r;

	memset(machine, 0, sizeof(*machine));
	machine->kind = kind;
	machine->layout = *layout;
	machine->guest_user = guest_user;
	machine->kvm_fd = -1;
	machine->vm_fd = -1;
	machine->memory_fd = -1;
	r = map_memory(machine);
	if (r)
		return r;
	r = kind->open(machine);
	if (r) {
		munmap(machine->mapping, machine->mapping_bytes);
		return r;
	}
	pthread_mutex_init(&machine->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&machine->changed, &attr);
	pthread_condattr_destroy(&attr);
	return 0;
}

static int plug_slot(struct machine *machine, struct dl_log *log, uint32_t id)
{
	const struct layout_slot *from = &machine->layout.slots[id];
	struct dl_slot slot = { .size = sizeof(slot),
				.slot = id,
				.gpa = from->gpa,
				.bytes = from->bytes,
				.hva = (uintptr_t)machine->memory + from->offset_bytes,
				.cookie = from->offset_bytes };
	int r;

	if (!log)
		return machine->kind->set_slot(machine, id);
	r = dl_slot_set(log, &slot);
	return r ? machine_fail(machine, r, "cannot set memslot %u: %s", id, strerror(-r)) : 0;
}

static int plug_vcpu(struct machine *machine, struct dl_log *log, uint32_t id)
{
	struct vcpu *vcpu = &machine->vcpus[id];
	int r;

	vcpu->machine = machine;
	vcpu->id = id;
	vcpu->fd = -1;
	vcpu->io_complete = true;
	machine->vcpus_added = id + 1;
	r = machine->kind->add_vcpu(vcpu);
	if (r)
		return machine_fail(machine, r, "%s", vcpu->why);
	if (!log)
		return 0;
	r = dl_vcpu_add(log, vcpu->fd, id, 0, &vcpu->log_vcpu);
	return r ? machine_fail(machine, r, "cannot add vCPU %u to the log: %s", id, strerror(-r))
		 : 0;
}

int machine_plug(struct machine *machine, struct dl_log *log)
{
	uint32_t id;
	int r = 0;

	for (id = 0; !r && id < LAYOUT_SLOTS; id++)
		r = plug_slot(machine, log, id);
	for (id = 0; !r && id < machine->layout.vcpus; id++)
		r = plug_vcpu(machine, log, id);
	return r;
}

/* Fills a quarter of the memory outside the working set, up to a limit. The rest stays zero. */
static void fill_memory(struct machine *machine)
{
	const struct layout *layout = &machine->layout;
	uint64_t working_end =
		layout->working_offset + layout->vcpus * layout->share_pages * layout->page_bytes;
	uint64_t at = layout->slots[1].offset_bytes, left = UINT64_C(256) << 20, word = 1;
	uint64_t *words;

	for (; at + HUGE_BYTES <= layout->memory_bytes && left; at += 4 * HUGE_BYTES) {
		if (at + HUGE_BYTES > layout->working_offset && at < working_end)
			continue;
		words = (uint64_t *)(machine->memory + at);
		while (words < (uint64_t *)(machine->memory + at + HUGE_BYTES)) {
			word = word * RECORD_FACTOR + at;
			*words++ = word;
		}
		left -= HUGE_BYTES;
	}
}

/* Its pages have contents, or it would have nothing to check. */
static void make_reader(struct machine *machine, uint32_t id)
{
	struct guest_control *control = machine_control(machine, id);
	const struct layout *layout = &machine->layout;
	uint64_t table_offset = layout->generations_offset + id * layout->generations_bytes;
	uint64_t *generations = (uint64_t *)(machine->memory + table_offset), page, offset;
	struct record record;

	control->pattern = GUEST_PATTERN_READ;
	control->quantum = MACHINE_READS;
	for (page = 0; page < layout->share_pages; page++) {
		offset = layout->working_offset +
			 (id * layout->share_pages + page) * layout->page_bytes;
		record = record_make(layout_gpa(layout, offset), id, 1);
		memcpy(machine->memory + offset, &record, sizeof(record));
		generations[page] = record.generation;
	}
}

static uint32_t writers(const struct machine *machine)
{
	return machine->layout.vcpus - machine->readers;
}

/* A hundred quanta per second, or fewer if a quantum would be less than a page. */
static uint64_t quantum_pages(const struct machine *machine, uint64_t dirty_bytes_per_s)
{
	uint64_t pages_per_s = dirty_bytes_per_s / machine->layout.page_bytes / writers(machine);

	return pages_per_s < 100 ? 1 : pages_per_s / 100;
}

int machine_boot(struct machine *machine, uint32_t pattern, uint64_t dirty_bytes_per_s)
{
	const struct layout *layout = &machine->layout;
	struct guest_control *control;
	uint64_t quantum = 0;
	uint32_t id;
	int r;

	if (dirty_bytes_per_s) {
		quantum = quantum_pages(machine, dirty_bytes_per_s);
		machine->quantum_ns =
			(uint64_t)((double)quantum * layout->page_bytes * writers(machine) * 1e9 /
				   (double)dirty_bytes_per_s);
	}
	memcpy(machine->memory + layout->code_offset, guest_code,
	       (size_t)(guest_code_end - guest_code));
	for (id = 0; id < layout->vcpus; id++) {
		control = machine_control(machine, id);
		layout_control(layout, id, control);
		control->pattern = pattern;
		control->quantum = quantum;
		control->quantum_left = quantum;
		if (id >= writers(machine))
			make_reader(machine, id);
	}
	fill_memory(machine);
	r = machine->kind->boot(machine);
	for (id = 0; !r && id < layout->vcpus; id++) {
		r = machine->kind->boot_vcpu(&machine->vcpus[id]);
		if (r)
			machine_fail(machine, r, "%s", machine->vcpus[id].why);
	}
	return r;
}

int machine_save(struct machine *machine, struct vcpu_state *states)
{
	uint32_t id;
	int r;

	for (id = 0; id < machine->layout.vcpus; id++) {
		r = machine->kind->save(&machine->vcpus[id], &states[id]);
		if (r)
			return machine_fail(machine, r, "%s", machine->vcpus[id].why);
	}
	return 0;
}

int machine_load(struct machine *machine, const struct vcpu_state *states)
{
	uint32_t id;
	int r;

	for (id = 0; id < machine->layout.vcpus; id++) {
		r = machine->kind->load(&machine->vcpus[id], &states[id]);
		if (r)
			return machine_fail(machine, r, "%s", machine->vcpus[id].why);
	}
	return 0;
}

/* Closing the log is up to its owner. vCPU handles may be removed before or after that. */
void machine_close(struct machine *machine)
{
	struct vcpu *vcpu;
	uint32_t id;

	pthread_mutex_lock(&machine->lock);
	machine->running = false;
	machine->exiting = true;
	for (id = 0; id < machine->vcpus_added; id++)
		if (machine->vcpus[id].has_thread)
			machine->kind->interrupt(&machine->vcpus[id]);
	pthread_cond_broadcast(&machine->changed);
	pthread_mutex_unlock(&machine->lock);
	for (id = 0; id < machine->vcpus_added; id++) {
		vcpu = &machine->vcpus[id];
		if (vcpu->has_thread)
			pthread_join(vcpu->thread, NULL);
		dl_vcpu_remove(vcpu->log_vcpu);
		machine->kind->remove_vcpu(vcpu);
	}
	machine->kind->close(machine);
	munmap(machine->mapping, machine->mapping_bytes);
	if (machine->memory_fd >= 0)
		close(machine->memory_fd);
	pthread_cond_destroy(&machine->changed);
	pthread_mutex_destroy(&machine->lock);
}
