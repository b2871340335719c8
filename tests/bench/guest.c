/* SPDX-License-Identifier: MIT */
#include "guest.h"

#include "../unit/random.h"
#include "bench.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { EXTENTS = 256 };

static int timed_ioctl(void *opaque, int fd, unsigned long request, void *arg)
{
	struct guest_system *system = opaque;
	uint64_t begin_ns = bench_now_ns();
	int r = ioctl(fd, request, arg);

	r = r < 0 ? -errno : r;
	if (request == KVM_RESET_DIRTY_RINGS || request == KVM_GET_DIRTY_LOG ||
	    request == KVM_CLEAR_DIRTY_LOG)
		system->ioctl_ns += bench_now_ns() - begin_ns;
	return r;
}

static int plain_mmap(void *opaque, int fd, uint64_t offset_bytes, size_t bytes, int prot,
		      int flags, void **addr)
{
	(void)opaque;
	*addr = mmap(NULL, bytes, prot, flags, fd, (off_t)offset_bytes);
	return *addr == MAP_FAILED ? -errno : 0;
}

static int plain_munmap(void *opaque, void *addr, size_t bytes)
{
	(void)opaque;
	return munmap(addr, bytes) ? -errno : 0;
}

static int plain_signal_mask(void *opaque, int how, const sigset_t *set, sigset_t *old)
{
	(void)opaque;
	return -pthread_sigmask(how, set, old);
}

const char *guest_missing(uint32_t mode)
{
	static char why[200];
	struct dl_options options = {
		.size = sizeof(options),
		.mode = mode,
		.ring_entries = mode == DL_MODE_RING ? GUEST_RING_ENTRIES : 0,
	};
	struct machine machine;
	int r = machine_available();

	if (sysconf(_SC_PAGESIZE) != GUEST_PAGE_BYTES)
		return "requires pages of 4 KiB";
	if (r >= 0)
		r = machine_open(&machine);
	if (r < 0) {
		snprintf(why, sizeof(why), "/dev/kvm: %s", strerror(-r));
		return why;
	}
	r = dl_probe(machine.kvm_fd, &options, NULL, why, sizeof(why));
	machine_close(&machine);
	return r < 0 ? why : NULL;
}

static void add_memory(struct bench_guest *guest)
{
	const uint64_t bytes = (uint64_t)GUEST_PAGES * GUEST_PAGE_BYTES;
	struct dl_slot slot = {
		.size = sizeof(slot),
		.slot = 1,
		.gpa = GUEST_DATA_GPA,
		.bytes = bytes,
	};

	guest->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (guest->memory == MAP_FAILED)
		bench_die("mmap of guest memory", errno);
	slot.hva = (uintptr_t)guest->memory;
	bench_check(dl_slot_set(guest->log, &slot), "dl_slot_set");
}

static void open_log(struct bench_guest *guest, uint32_t mode, bool timed)
{
	struct dl_options options = {
		.size = sizeof(options),
		.mode = mode,
		.ring_entries = mode == DL_MODE_RING ? GUEST_RING_ENTRIES : 0,
		.os = timed ? &guest->system.os : NULL,
	};

	guest->system.os = (struct dl_os){
		.size = sizeof(guest->system.os),
		.opaque = &guest->system,
		.ioctl = timed_ioctl,
		.mmap = plain_mmap,
		.munmap = plain_munmap,
		.signal_mask = plain_signal_mask,
	};
	bench_check(dl_log_open(guest->machine.vm_fd, &options, &guest->log, NULL, 0),
		    "dl_log_open");
}

void guest_open(struct bench_guest *guest, uint32_t mode, bool timed)
{
	const struct dl_cursor_options options = {
		.size = sizeof(options),
		.flags = DL_CURSOR_CLEAN,
		.vcpus = 2,
	};

	memset(guest, 0, sizeof(*guest));
	bench_check(machine_open(&guest->machine), "a VM");
	open_log(guest, mode, timed);
	bench_check(machine_load_guest(&guest->machine), "the guest's code");
	bench_check(machine_add_vcpu(&guest->machine, &guest->vcpu), "a vCPU");
	bench_check(machine_add_vcpu(&guest->machine, &guest->other), "a vCPU");
	bench_check(dl_vcpu_add(guest->log, guest->vcpu->fd, 0, 0, &guest->handles[0]),
		    "dl_vcpu_add");
	bench_check(dl_vcpu_add(guest->log, guest->other->fd, 0, 0, &guest->handles[1]),
		    "dl_vcpu_add");
	add_memory(guest);
	bench_check(dl_cursor_new(guest->log, &options, &guest->cursor), "dl_cursor_new");
}

void guest_close(struct bench_guest *guest)
{
	dl_cursor_free(guest->cursor);
	dl_vcpu_remove(guest->handles[0]);
	dl_vcpu_remove(guest->handles[1]);
	dl_log_close(guest->log);
	machine_close(&guest->machine);
	munmap(guest->memory, (uint64_t)GUEST_PAGES * GUEST_PAGE_BYTES);
}

void guest_write_pages(struct bench_guest *guest, bool random)
{
	struct guest_job job = {
		.program = random ? GUEST_WRITE_TABLE : GUEST_WRITE,
		.mode = GUEST_USER,
		.gpa = random ? guest_table_gpa(guest->vcpu->index) : GUEST_DATA_GPA,
		.count = GUEST_DIRTY_PAGES,
		.stride_bytes = GUEST_PAGE_BYTES,
		.value = 1,
	};
	uint64_t *table = machine_table(guest->vcpu);
	struct random generator = { 1 };
	const uint64_t each = GUEST_PAGES / GUEST_DIRTY_PAGES;

	/* One page of each stretch, in an order other than that of the memory. */
	for (uint64_t i = 0; random && i < GUEST_DIRTY_PAGES; i++) {
		uint64_t page =
			i * 1597 % GUEST_DIRTY_PAGES * each + random_below(&generator, each);

		table[i] = GUEST_DATA_GPA + page * GUEST_PAGE_BYTES;
	}
	if (machine_run(guest->vcpu, &job) != MACHINE_DONE)
		bench_die("the guest did not finish its job", EIO);
}

void guest_harvest(struct bench_guest *guest)
{
	bench_check(dl_harvest(guest->cursor, 0, NULL), "dl_harvest");
}

uint64_t guest_iterate(struct bench_guest *guest)
{
	struct dl_extent extents[EXTENTS];
	uint64_t pages = 0;
	int n;

	while ((n = dl_cursor_read(guest->cursor, extents, EXTENTS)) > 0) {
		for (int i = 0; i < n; i++)
			pages += extents[i].bytes / GUEST_PAGE_BYTES;
		bench_check(dl_cursor_ack(guest->cursor, extents, (uint32_t)n), "dl_cursor_ack");
	}
	bench_check(n, "dl_cursor_read");
	bench_check(dl_cursor_end(guest->cursor, 0), "dl_cursor_end");
	return pages;
}

/* Uses the guest code's slot, which is not logged. */
void guest_start_other(struct bench_guest *guest)
{
	struct guest_job job = {
		.program = GUEST_COUNT,
		.mode = GUEST_USER,
		.gpa = guest_table_gpa(guest->other->index),
		.count = 1,
		.stride_bytes = GUEST_PAGE_BYTES,
	};
	volatile uint64_t *rounds = machine_table(guest->other);

	*rounds = 0;
	bench_check(machine_go(guest->other, &job), "a running vCPU");
	while (!*rounds)
		;
}

void guest_stop_other(struct bench_guest *guest)
{
	bench_check(machine_stop(guest->other), "a running vCPU");
}
