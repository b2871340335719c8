/* SPDX-License-Identifier: MIT */
#include "world.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef KVM_CAP_DIRTY_LOG_RING_ACQ_REL
#define KVM_CAP_DIRTY_LOG_RING_ACQ_REL 223
#endif

enum {
	VM_FD = 100,
	FIRST_VCPU_FD = 1000,
	PAGE_BYTES = 4096,
	RING_MAX_BYTES = 1 << 20,
	RESERVED_ENTRIES = 64, /* above the soft limit, in addition to the PML buffer */
	CELL_DIRTY = KVM_DIRTY_GFN_F_DIRTY,
	CELL_RELEASED = KVM_DIRTY_GFN_F_RESET,
};

/* Each vCPU dirties this many pages in turn, then starts over. */
#define VCPU_PAGES (UINT64_C(1) << 17)

/*
 * The costs of an idle reset, a reset and an entry were measured on a machine with two cores whose
 * KVM runs without hardware support, while another vCPU ran. The exit and the flush are guesses for
 * bare metal.
 */
const struct world_costs world_costs = {
	.exit_ns = 2000,
	.idle_reset_ns = 218,
	.reset_ns = 35000,
	.entry_ns = 10,
	.library_ns = 10,
	.vcpu_ns = 50,
	.flush_ns = 1500,
};

static void check(int r, const char *what)
{
	if (r >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, strerror(-r));
	exit(1);
}

/* The kernel. */

static struct kvm_dirty_gfn *cell(const struct world *world, struct world_vcpu *vcpu, uint32_t i)
{
	return &vcpu->cells[i & (world->config.ring_entries - 1)];
}

static uint32_t soft_limit(const struct world *world)
{
	return world->config.ring_entries - RESERVED_ENTRIES - world->config.pml_entries;
}

static void push(struct world *world, struct world_vcpu *vcpu, uint64_t n)
{
	uint64_t base = (uint64_t)(vcpu - world->vcpus) * VCPU_PAGES;

	for (uint64_t i = 0; i < n; i++) {
		struct kvm_dirty_gfn *to = cell(world, vcpu, vcpu->next++);

		to->slot = 0;
		to->offset = base + vcpu->page++ % VCPU_PAGES;
		__atomic_store_n(&to->flags, CELL_DIRTY, __ATOMIC_RELEASE);
	}
}

static void dirty(struct world *world, struct world_vcpu *vcpu, uint64_t pages)
{
	uint32_t block = world->config.pml_entries;

	vcpu->pages += pages;
	if (!block) {
		push(world, vcpu, pages);
		return;
	}
	pages += vcpu->buffered;
	vcpu->buffered = (uint32_t)(pages % block);
	push(world, vcpu, pages - vcpu->buffered);
}

/* Lets the vCPU run. The caller makes sure that its ring has room. */
static void run_to(struct world *world, struct world_vcpu *vcpu, uint64_t to_ns)
{
	uint64_t ns, pause_ns;
	double pages;

	if (to_ns <= vcpu->at_ns)
		return;
	ns = to_ns - vcpu->at_ns;
	pause_ns = vcpu->pause_ns < ns ? vcpu->pause_ns : ns;
	vcpu->pause_ns -= pause_ns;
	pages = vcpu->pages_per_ns * (double)(ns - pause_ns) + vcpu->part_of_a_page;
	vcpu->part_of_a_page = pages - floor(pages);
	vcpu->at_ns = to_ns;
	if (vcpu->held_until_ns <= to_ns)
		vcpu->held = 0;
	dirty(world, vcpu, (uint64_t)pages);
}

/* A TLB flush makes every running vCPU leave the guest, which empties its PML buffer. */
static void flush(struct world *world, uint64_t at_ns)
{
	for (uint32_t i = 0; i < world->config.vcpus; i++) {
		struct world_vcpu *vcpu = &world->vcpus[i];

		if (vcpu == world->draining || vcpu->at_ns > at_ns)
			continue;
		vcpu->pause_ns += world->config.costs.flush_ns;
		vcpu->lost_ns += world->config.costs.flush_ns;
		push(world, vcpu, vcpu->buffered);
		vcpu->buffered = 0;
	}
}

static uint32_t take_back(struct world *world, struct world_vcpu *vcpu)
{
	uint32_t n = 0;

	while (n < world->config.ring_entries) {
		struct kvm_dirty_gfn *from = cell(world, vcpu, vcpu->first);

		if (!(__atomic_load_n(&from->flags, __ATOMIC_ACQUIRE) & CELL_RELEASED))
			break;
		__atomic_store_n(&from->flags, 0, __ATOMIC_RELEASE);
		vcpu->first++;
		n++;
	}
	vcpu->held = n;
	return n;
}

static int reset(struct world *world)
{
	const struct world_costs *costs = &world->config.costs;
	uint64_t taken = 0, begin_ns;

	if (!world->ring_is_on)
		return -EINVAL;
	for (uint32_t i = 0; i < world->config.vcpus; i++)
		taken += take_back(world, &world->vcpus[i]);
	world->resets++;
	begin_ns = world->clock_ns > world->reset_free_at_ns ? world->clock_ns
							     : world->reset_free_at_ns;
	world->clock_ns = begin_ns;
	if (taken)
		flush(world, begin_ns);
	world->clock_ns += taken ? costs->reset_ns + taken * costs->entry_ns : costs->idle_reset_ns;
	world->reset_free_at_ns = world->clock_ns;
	for (uint32_t i = 0; i < world->config.vcpus; i++)
		if (world->vcpus[i].held)
			world->vcpus[i].held_until_ns = world->clock_ns;
	world->clock_ns += taken * costs->library_ns;
	return (int)taken;
}

static int kernel_ioctl(void *opaque, int fd, unsigned long request, void *arg)
{
	struct world *world = opaque;

	switch (request) {
	case KVM_CHECK_EXTENSION:
		return (unsigned long)arg == KVM_CAP_DIRTY_LOG_RING_ACQ_REL ? RING_MAX_BYTES : 0;
	case KVM_ENABLE_CAP:
		world->ring_is_on |=
			((struct kvm_enable_cap *)arg)->cap == KVM_CAP_DIRTY_LOG_RING_ACQ_REL;
		return 0;
	case KVM_RESET_DIRTY_RINGS:
		return reset(world);
	case KVM_SET_USER_MEMORY_REGION:
		return 0;
	default:
		return fd >= FIRST_VCPU_FD ? -EINVAL : -ENOTTY;
	}
}

static int kernel_mmap(void *opaque, int fd, uint64_t offset_bytes, size_t bytes, int prot,
		       int flags, void **addr)
{
	struct world *world = opaque;

	if (fd >= FIRST_VCPU_FD) {
		struct world_vcpu *vcpu = &world->vcpus[fd - FIRST_VCPU_FD];

		*addr = offset_bytes ? (void *)vcpu->cells : vcpu->run;
		return 0;
	}
	*addr = mmap(NULL, bytes, prot, flags, -1, 0);
	return *addr == MAP_FAILED ? -errno : 0;
}

static int kernel_munmap(void *opaque, void *addr, size_t bytes)
{
	struct world *world = opaque;

	for (uint32_t i = 0; i < world->config.vcpus; i++)
		if (addr == world->vcpus[i].cells || addr == world->vcpus[i].run)
			return 0;
	return munmap(addr, bytes) ? -errno : 0;
}

static uint64_t kernel_now_ns(void *opaque)
{
	const struct world *world = opaque;

	return world->clock_ns;
}

static int kernel_signal_mask(void *opaque, int how, const sigset_t *set, sigset_t *old)
{
	(void)opaque;
	(void)how;
	(void)set;
	if (old)
		memset(old, 0, sizeof(*old));
	return 0;
}

/* The guest. */

/* Pages that the vCPU dirties until its ring is full, with "used" cells in use. */
static double room(const struct world *world, const struct world_vcpu *vcpu, uint32_t used)
{
	uint32_t limit = soft_limit(world), block = world->config.pml_entries;
	uint32_t cells = used < limit ? limit - used : 0;

	if (!cells)
		return 0;
	if (block)
		cells = (cells + block - 1) / block * block - vcpu->buffered;
	return (double)cells - vcpu->part_of_a_page;
}

static uint64_t full_at_ns(const struct world *world, const struct world_vcpu *vcpu)
{
	uint64_t runs_at_ns = vcpu->at_ns + vcpu->pause_ns, at_ns;
	uint32_t used = vcpu->next - vcpu->first;

	if (!(vcpu->pages_per_ns > 0))
		return UINT64_MAX;
	if (vcpu->held) {
		at_ns = runs_at_ns +
			(uint64_t)ceil(room(world, vcpu, used + vcpu->held) / vcpu->pages_per_ns);
		if (at_ns < vcpu->held_until_ns)
			return at_ns;
	}
	return runs_at_ns + (uint64_t)ceil(room(world, vcpu, used) / vcpu->pages_per_ns);
}

static void drain(struct world *world, struct world_vcpu *vcpu, uint64_t full_ns)
{
	uint64_t stall_ns;

	run_to(world, vcpu, full_ns);
	vcpu->full_exits++;
	vcpu->run->exit_reason = KVM_EXIT_DIRTY_RING_FULL;
	world->clock_ns = full_ns + world->config.costs.exit_ns;
	if (world->clock_ns < world->rings_free_at_ns)
		world->clock_ns = world->rings_free_at_ns;
	world->draining = vcpu;
	check(dl_vcpu_drain(vcpu->handle, 0), "dl_vcpu_drain");
	world->draining = NULL;
	vcpu->held = 0;
	vcpu->at_ns = world->clock_ns;
	stall_ns = vcpu->at_ns - full_ns;
	vcpu->lost_ns += stall_ns;
	if (stall_ns > vcpu->longest_stall_ns)
		vcpu->longest_stall_ns = stall_ns;
}

static void run_all(struct world *world, uint64_t to_ns)
{
	for (;;) {
		struct world_vcpu *first = NULL;
		uint64_t first_ns = to_ns;

		for (uint32_t i = 0; i < world->config.vcpus; i++) {
			uint64_t at_ns = full_at_ns(world, &world->vcpus[i]);

			if (at_ns < first_ns) {
				first_ns = at_ns;
				first = &world->vcpus[i];
			}
		}
		if (!first)
			break;
		drain(world, first, first_ns);
	}
	for (uint32_t i = 0; i < world->config.vcpus; i++)
		run_to(world, &world->vcpus[i], to_ns);
}

void world_set_rate(struct world *world, uint32_t vcpu, double pages_per_second)
{
	run_all(world, world->now_ns);
	world->vcpus[vcpu].pages_per_ns = pages_per_second / (double)WORLD_SECOND_NS;
}

void world_sleep(struct world *world, uint64_t ns)
{
	world->now_ns += ns;
	run_all(world, world->now_ns);
}

static void begin_look(struct world *world)
{
	world->looks++;
	run_all(world, world->now_ns);
	world->clock_ns = world->now_ns;
}

/* The call has ended. resets: their number when it began. One that resets nothing takes no time. */
static void end_look(struct world *world, uint64_t resets)
{
	if (world->resets != resets) {
		world->clock_ns += world->config.vcpus * world->config.costs.vcpu_ns;
		world->harvests++;
	}
	world->harvest_ns += world->clock_ns - world->now_ns;
	world->now_ns = world->rings_free_at_ns = world->clock_ns;
	run_all(world, world->now_ns);
}

void world_harvest(struct world *world)
{
	uint64_t resets = world->resets;

	begin_look(world);
	check(dl_harvest(world->cursor, 0, NULL), "dl_harvest");
	check(dl_cursor_end(world->cursor, 0), "dl_cursor_end");
	end_look(world, resets);
}

static uint64_t look(struct world *world, uint32_t flags)
{
	uint64_t resets = world->resets, again_ns;

	begin_look(world);
	check(dl_log_reap(world->log, flags, &again_ns), "dl_log_reap");
	end_look(world, resets);
	return again_ns;
}

/*
 * In the world the vCPUs run when the call has ended, so that it does not see what they write
 * meanwhile. A second look does.
 */
uint64_t world_reap(struct world *world, uint32_t flags)
{
	uint64_t harvests = world->harvests, again_ns = look(world, flags);

	return world->harvests == harvests ? again_ns : look(world, 0);
}

/* Opening and closing. */

static void *zeroed_pages(size_t bytes)
{
	void *memory =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	check(memory == MAP_FAILED ? -errno : 0, "memory for a ring");
	return memory;
}

static void add_vcpus(struct world *world)
{
	for (uint32_t i = 0; i < world->config.vcpus; i++) {
		struct world_vcpu *vcpu = &world->vcpus[i];

		vcpu->run = zeroed_pages(PAGE_BYTES);
		vcpu->cells = zeroed_pages(world->config.ring_entries * sizeof(*vcpu->cells));
		check(dl_vcpu_add(world->log, FIRST_VCPU_FD + (int)i, 0, 0, &vcpu->handle),
		      "dl_vcpu_add");
	}
}

static void add_cursor(struct world *world)
{
	const struct dl_cursor_options options = {
		.size = sizeof(options),
		.flags = DL_CURSOR_CLEAN,
		.vcpus = world->config.vcpus,
	};

	check(dl_cursor_new(world->log, &options, &world->cursor), "dl_cursor_new");
}

void world_renew_cursor(struct world *world)
{
	dl_cursor_free(world->cursor);
	add_cursor(world);
}

static void open_log(struct world *world)
{
	const struct dl_options options = {
		.size = sizeof(options),
		.mode = DL_MODE_RING,
		.ring_entries = world->config.ring_entries,
		.idle_ns = world->config.idle_ns,
		.os = &world->os,
	};
	struct dl_slot slot = {
		.size = sizeof(slot),
		.bytes = world->config.vcpus * VCPU_PAGES * PAGE_BYTES,
		.hva = UINT64_C(1) << 46, /* never accessed */
	};

	check(dl_log_open(VM_FD, &options, &world->log, NULL, 0), "dl_log_open");
	check(dl_slot_set(world->log, &slot), "dl_slot_set");
	add_vcpus(world);
	add_cursor(world);
}

struct world *world_new(const struct world_config *config)
{
	struct world *world = calloc(1, sizeof(*world));

	check(world ? 0 : -ENOMEM, "memory for a world");
	check(config->vcpus > WORLD_VCPUS ? -EINVAL : 0, "number of vCPUs");
	world->config = *config;
	/* Start at a time other than 0, which the library must not mistake for "never". */
	world->now_ns = world->clock_ns = WORLD_SECOND_NS;
	world->os = (struct dl_os){
		.size = sizeof(world->os),
		.arch = DL_OS_ARCH_RING_ALONE_SAFE,
		.page_bytes = PAGE_BYTES,
		.opaque = world,
		.ioctl = kernel_ioctl,
		.mmap = kernel_mmap,
		.munmap = kernel_munmap,
		.signal_mask = kernel_signal_mask,
		.now_ns = kernel_now_ns,
	};
	open_log(world);
	/* Do not count the resets of opening and starting. */
	world->now_ns = world->clock_ns;
	world->reset_free_at_ns = world->resets = 0;
	for (uint32_t i = 0; i < config->vcpus; i++)
		world->vcpus[i].at_ns = world->now_ns;
	world->began_ns = world->now_ns;
	return world;
}

void world_free(struct world *world)
{
	dl_cursor_free(world->cursor);
	for (uint32_t i = 0; i < world->config.vcpus; i++)
		dl_vcpu_remove(world->vcpus[i].handle);
	dl_log_close(world->log);
	for (uint32_t i = 0; i < world->config.vcpus; i++) {
		munmap(world->vcpus[i].run, PAGE_BYTES);
		munmap(world->vcpus[i].cells,
		       world->config.ring_entries * sizeof(*world->vcpus[i].cells));
	}
	free(world);
}

uint64_t world_full_exits(const struct world *world)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < world->config.vcpus; i++)
		n += world->vcpus[i].full_exits;
	return n;
}

double world_lost_share(const struct world *world)
{
	double lost_ns = 0, all_ns = 0;

	for (uint32_t i = 0; i < world->config.vcpus; i++) {
		lost_ns += (double)world->vcpus[i].lost_ns;
		all_ns += (double)(world->vcpus[i].at_ns - world->began_ns);
	}
	return all_ns > 0 ? lost_ns / all_ns : 0;
}
