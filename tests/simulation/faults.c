/* SPDX-License-Identifier: MIT */
#include "faults.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "world.h"

enum { DUPLICATE_FD = 1 << 30, RING_OFFSET = 64 * PAGE_BYTES };

const char *const fault_names[FAULT_KINDS] = {
	"reset fails",	    "reset ends early", "reset loses its batch",
	"late TLB flush",   "GET fails",	"CLEAR fails",
	"slot ioctl fails", "ENABLE_CAP fails", "mmap fails",
	"vCPU fd is dead",  "no memory",	"dup fails",
};

/* The cells of each vCPU's ring, as mapped by the library. */
static struct kvm_dirty_gfn *cells[PLAN_VCPUS];

void faults_note_error(int error)
{
	world.faults.errors_met[error / 64] |= UINT64_C(1) << error % 64;
}

bool faults_may_give(int error)
{
	return error > 0 && error < 192 &&
	       world.faults.errors_met[error / 64] & UINT64_C(1) << error % 64;
}

void faults_arm(const struct fault *fault)
{
	if (fault->kind == FAULT_ALLOCATION) {
		faults_note_error(ENOMEM);
		sim_allocations_until_failure = 1 + fault->number % 6;
	} else if (world.faults.n < FAULTS_AT_ONCE) {
		world.faults.armed[world.faults.n++] = *fault;
	}
}

void faults_clear(void)
{
	world.faults.n = 0;
	sim_allocations_until_failure = 0;
}

/* Whether this call is to fail. */
bool faults_meet(uint8_t kind, struct fault *fault)
{
	for (uint32_t i = 0; i < world.faults.n; i++) {
		struct fault *armed = &world.faults.armed[i];

		if (armed->kind != kind)
			continue;
		if (armed->skip) {
			armed->skip--;
			continue;
		}
		*fault = *armed;
		if (!--armed->times)
			*armed = world.faults.armed[--world.faults.n];
		world.faults.met++;
		world.counts.faults++;
		sim_trace("fault: %s%s", fault_names[kind], fault->after ? " (afterwards)" : "");
		return true;
	}
	return false;
}

/* A caller never sees an interruption: the call is retried, or fails with EIO. */
static int failure(const struct fault *fault)
{
	bool is_interruption = fault->error == EINTR || fault->error == EAGAIN;

	faults_note_error(is_interruption ? EIO : fault->error);
	return -fault->error;
}

static int pass_on(int fd, unsigned long request, void *arg)
{
	const struct dl_os *below = model_os(world.model);

	return below->ioctl(below->opaque, fd, request, arg);
}

/* Fails before or after the work is done. */
static int fail_or_pass_on(uint8_t kind, int fd, unsigned long request, void *arg)
{
	struct fault fault;
	int r;

	if (!faults_meet(kind, &fault))
		return pass_on(fd, request, arg);
	if (!fault.after)
		return failure(&fault);
	r = pass_on(fd, request, arg);
	return r < 0 ? r : failure(&fault);
}

static int get_dirty_log(int fd, struct kvm_dirty_log *log)
{
	uint64_t nowhere[PLAN_BLOCK_PAGES / 64 + 1];
	struct kvm_dirty_log undelivered = { .slot = log->slot, .dirty_bitmap = nowhere };
	struct fault fault;
	int r;

	if (!faults_meet(FAULT_GET, &fault))
		return pass_on(fd, KVM_GET_DIRTY_LOG, log);
	if (!fault.after)
		return failure(&fault);
	r = pass_on(fd, KVM_GET_DIRTY_LOG, &undelivered);
	return r < 0 ? r : failure(&fault);
}

/* The number of cells that a RESET would take now. */
static uint32_t released_cells(void)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < PLAN_VCPUS; i++) {
		struct model_ring ring;

		if (!cells[i] || !world.vcpus[i].created ||
		    model_vcpu_ring(world.model, world.vcpus[i].fd, &ring))
			continue;
		for (uint32_t c = 0; c < ring.entries; c++, n++)
			if (!(cells[i][(ring.reset_index + c) & (ring.entries - 1)].flags &
			      KVM_DIRTY_GFN_F_RESET))
				break;
	}
	return n;
}

/*
 * Always leaves a cell behind. A batch that is lost while RESET reports the full count (a stop,
 * the freezer or ptrace can cause that, a blocked signal cannot) is invisible; doc/kernel.md says
 * that the library does not defend against it.
 */
static void misbehave(uint8_t kind, const struct fault *fault)
{
	uint32_t n = released_cells();

	if (!n)
		return;
	world.faults.reset_faulty = true;
	model_reset_fault(world.model, &(struct model_reset_fault){
					       .times = 1,
					       .stop = true,
					       .stop_after_entries = fault->number % n,
					       .drop_batch = kind == FAULT_RESET_LOST_BATCH,
				       });
}

static int reset_rings(int fd)
{
	struct fault fault;
	int r;

	if (!sim.current->signals_blocked)
		sim_fail(SIM_MISUSE, "a RESET while signals are not blocked");
	if (world.resets_running++)
		sim_fail(SIM_MISUSE, "two RESETs at once");
	if (faults_meet(FAULT_RESET_LOST_BATCH, &fault))
		misbehave(FAULT_RESET_LOST_BATCH, &fault);
	else if (faults_meet(FAULT_RESET_SHORT, &fault))
		misbehave(FAULT_RESET_SHORT, &fault);
	r = fail_or_pass_on(FAULT_RESET_ERROR, fd, KVM_RESET_DIRTY_RINGS, NULL);
	if (r < 0)
		world.faults.reset_faulty = true;
	model_faults_clear(world.model);
	world.resets_running--;
	oracle_after_reset();
	sim_trace("RESET = %d", r);
	return r;
}

static struct kvm_userspace_memory_region *region_of(uint32_t slot)
{
	struct faults *faults = &world.faults;

	for (uint32_t i = 0; i < faults->n_regions; i++)
		if (faults->regions[i].slot == slot)
			return &faults->regions[i];
	if (faults->n_regions == FAULTS_REGIONS)
		sim_fail(SIM_MISUSE, "too many slot numbers");
	return &faults->regions[faults->n_regions++];
}

/*
 * No caller can cope with a slot that was created, moved or deleted by a call which then fails. The
 * library can with one that only switches logging.
 */
static int set_region(int fd, struct kvm_userspace_memory_region *region)
{
	struct kvm_userspace_memory_region *now = region_of(region->slot);
	bool only_flags = now->memory_size && now->memory_size == region->memory_size &&
			  now->guest_phys_addr == region->guest_phys_addr;
	struct fault fault;
	bool fails = faults_meet(FAULT_REGION, &fault);
	int r;

	if (fails && !(fault.after && only_flags))
		return failure(&fault);
	r = pass_on(fd, KVM_SET_USER_MEMORY_REGION, region);
	if (r < 0)
		return r;
	*now = *region;
	return fails ? failure(&fault) : r;
}

static int slot_call(int fd, unsigned long request, void *arg)
{
	int r;

	if (world.slot_calls_running++)
		sim_fail(SIM_MISUSE, "two GET, CLEAR or slot ioctls at once");
	if (request == KVM_GET_DIRTY_LOG)
		r = get_dirty_log(fd, arg);
	else if (request == KVM_CLEAR_DIRTY_LOG)
		r = fail_or_pass_on(FAULT_CLEAR, fd, request, arg);
	else
		r = set_region(fd, arg);
	world.slot_calls_running--;
	sim_trace("%s slot %#x = %d",
		  request == KVM_GET_DIRTY_LOG	   ? "GET"
		  : request == KVM_CLEAR_DIRTY_LOG ? "CLEAR"
						   : "SET_USER_MEMORY_REGION",
		  *(uint32_t *)arg, r);
	return r;
}

static void check_caller(int fd)
{
	if (sim.current->rcu_depth)
		sim_fail(SIM_MISUSE, "a system call inside a read section");
	if (fd == world.vm_fd)
		sim_fail(SIM_MISUSE, "the caller's fd is used: its number may name another VM");
}

static int vcpu_call(int fd, unsigned long request, void *arg)
{
	struct fault fault;

	return faults_meet(FAULT_VCPU_FD, &fault) ? failure(&fault) : pass_on(fd, request, arg);
}

static int os_ioctl(void *opaque, int fd, unsigned long request, void *arg)
{
	int r;

	check_caller(fd);
	sim_point(SIM_SITE("ioctl"));
	if (fd != DUPLICATE_FD || !world.duplicates)
		return vcpu_call(fd, request, arg);
	fd = world.vm_fd;
	if (request == KVM_RESET_DIRTY_RINGS && world.log)
		r = reset_rings(fd);
	else if (request == KVM_GET_DIRTY_LOG || request == KVM_CLEAR_DIRTY_LOG ||
		 request == KVM_SET_USER_MEMORY_REGION)
		r = slot_call(fd, request, arg);
	else if (request == KVM_ENABLE_CAP)
		r = fail_or_pass_on(FAULT_ENABLE_CAP, fd, request, arg);
	else
		r = pass_on(fd, request, arg);
	if (world.plan->slow_calls && sim_below(&world.chance, 2)) {
		sim.current->stalled_until = sim.now + sim_below(&world.chance, 800);
		sim_yield(SIM_SITE("ioctl is slow"));
	}
	sim_point(SIM_SITE("ioctl returns"));
	return r;
}

static int os_mmap(void *opaque, int fd, uint64_t offset_bytes, size_t bytes, int prot, int flags,
		   void **addr)
{
	const struct dl_os *below = model_os(world.model);
	struct fault fault;
	int r;

	check_caller(fd);
	sim_point(SIM_SITE("mmap"));
	if (fd >= 0 && faults_meet(FAULT_VCPU_FD, &fault))
		return failure(&fault);
	if (faults_meet(FAULT_MMAP, &fault))
		return failure(&fault);
	r = below->mmap(below->opaque, fd, offset_bytes, bytes, prot, flags, addr);
	for (uint32_t i = 0; i < PLAN_VCPUS && !r; i++)
		if (world.vcpus[i].created && world.vcpus[i].fd == fd &&
		    offset_bytes == RING_OFFSET)
			cells[i] = *addr;
	return r;
}

static int os_munmap(void *opaque, void *addr, size_t bytes)
{
	const struct dl_os *below = model_os(world.model);

	check_caller(-1);
	sim_point(SIM_SITE("munmap"));
	return below->munmap(below->opaque, addr, bytes);
}

static int os_signal_mask(void *opaque, int how, const sigset_t *set, sigset_t *old)
{
	struct sim_task *task = sim.current;
	bool all = set && sigismember(set, SIGUSR1) == 1;

	if (old && task->signals_blocked)
		sigfillset(old);
	else if (old)
		sigemptyset(old);
	if (set)
		task->signals_blocked = how == SIG_BLOCK ? task->signals_blocked || all : all;
	return 0;
}

static int os_dup(void *opaque, int fd)
{
	struct fault fault;

	if (fd != world.vm_fd)
		sim_fail(SIM_MISUSE, "a dup() of a file descriptor that is not the VM's");
	if (faults_meet(FAULT_DUP, &fault)) {
		world.duplicate_failed = true;
		return failure(&fault);
	}
	world.duplicates++;
	return DUPLICATE_FD;
}

static int os_close(void *opaque, int fd)
{
	if (fd != DUPLICATE_FD || !world.duplicates)
		sim_fail(SIM_MISUSE, "a close() of a file descriptor that is not the library's");
	world.duplicates--;
	return 0;
}

/* No simulated process forks. */
static int os_madvise(void *opaque, void *addr, size_t bytes, int advice)
{
	return 0;
}

void faults_os(struct dl_os *os)
{
	memset(cells, 0, sizeof(cells));
	*os = (struct dl_os){
		.size = sizeof(*os),
		/* 0: the library asks the system, which returns SIM_PAGE_BYTES. */
		.page_bytes = 0,
		.arch = DL_OS_ARCH_RING_ALONE_SAFE,
		.ioctl = os_ioctl,
		.mmap = os_mmap,
		.munmap = os_munmap,
		.signal_mask = os_signal_mask,
		.dup = os_dup,
		.close = os_close,
		.madvise = os_madvise,
	};
}
