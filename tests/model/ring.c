/* SPDX-License-Identifier: MIT */
/* The rings: push and KVM_RESET_DIRTY_RINGS. */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

/* A RESET in progress: its unprotected batch, and the fault that makes it misbehave. */
struct reset {
	struct model_vm *vm;
	struct model_reset_fault fault;
	bool faulty;
	bool bailed; /* stopped as by a signal */
	sigset_t caller_mask;
	uint32_t slot;
	uint64_t page, mask;
	int taken_entries;
};

int mk_ring_new(struct model_vcpu *vcpu)
{
	const struct model_options *options = &vcpu->vm->model->options;
	uint32_t bytes = vcpu->vm->ring_bytes;

	vcpu->ring_memfd = -1;
	if (!bytes)
		return 0;
	vcpu->ring_memfd = memfd_create("model-ring", MFD_CLOEXEC);
	if (vcpu->ring_memfd < 0 || ftruncate(vcpu->ring_memfd, bytes))
		return -ENOMEM;
	vcpu->cells = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->ring_memfd, 0);
	if (vcpu->cells == MAP_FAILED) {
		vcpu->cells = NULL;
		return -ENOMEM;
	}
	vcpu->ring_entries = bytes / sizeof(struct kvm_dirty_gfn);
	vcpu->soft_limit_entries = vcpu->ring_entries - options->reserved_entries;
	vcpu->dirty_index = options->ring_first_index;
	vcpu->reset_index = options->ring_first_index;
	return 0;
}

void mk_ring_free(struct model_vcpu *vcpu)
{
	if (vcpu->cells)
		munmap(vcpu->cells, vcpu->ring_entries * sizeof(*vcpu->cells));
	if (vcpu->ring_memfd >= 0)
		close(vcpu->ring_memfd);
}

static bool ring_soft_full(const struct model_vcpu *vcpu)
{
	return vcpu->dirty_index - vcpu->reset_index >= vcpu->soft_limit_entries;
}

/* Checked before entering the guest. Only a push sets the request; only this clears it. */
bool mk_ring_is_full(struct model_vcpu *vcpu)
{
	const struct model_options *options = &vcpu->vm->model->options;

	if (!vcpu->soft_full_request && !(options->looks_at_ring_on_entry && vcpu->cells))
		return false;
	if (ring_soft_full(vcpu))
		return true;
	vcpu->soft_full_request = false;
	return false;
}

static void fill_cell(struct model_vcpu *vcpu, struct kvm_dirty_gfn *cell, uint32_t slot,
		      uint64_t page)
{
	if (!(__atomic_load_n(&cell->flags, __ATOMIC_ACQUIRE))) {
		/* Plain stores, as in the kernel: ThreadSanitizer detects an early reader. */
		cell->slot = slot;
		cell->offset = page;
		return;
	}
	/* Overflow: nothing orders these stores against a reader. */
	__atomic_store_n(&cell->slot, slot, __ATOMIC_RELAXED);
	__atomic_store_n(&cell->offset, page, __ATOMIC_RELAXED);
	vcpu->overwritten_entries++;
}

void mk_ring_push(struct model_vcpu *vcpu, uint32_t slot, uint64_t page)
{
	struct kvm_dirty_gfn *cell = &vcpu->cells[vcpu->dirty_index & (vcpu->ring_entries - 1)];

	pthread_mutex_lock(&vcpu->cells_lock);
	fill_cell(vcpu, cell, slot, page);
	__atomic_store_n(&cell->flags, KVM_DIRTY_GFN_F_DIRTY, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&vcpu->cells_lock);
	vcpu->dirty_index++;
	vcpu->pushed_entries++;
	if (ring_soft_full(vcpu))
		vcpu->soft_full_request = true;
}

/* slots_lock is held. Ignores entries of deleted slots and of pages outside the slot. */
static void protect_batch(struct reset *reset, struct model_vcpu *vcpu)
{
	struct memslot *slot = mk_slot_by_id(reset->vm, reset->slot);
	uint64_t last = 63 - (uint64_t)__builtin_clzll(reset->mask);

	if (slot && reset->page + last >= reset->page && reset->page + last < slot->pages) {
		mk_pages_protect(reset->vm, slot, reset->page, reset->mask);
		mk_event_page(reset->vm->model, MODEL_RESET_PROTECTED, vcpu->fd, reset->slot,
			      reset->page);
	}
	reset->mask = 0;
}

/* Adds the entry to the batch if all of it then lies within 64 pages. */
static bool batch_takes(struct reset *reset, uint32_t slot, uint64_t page)
{
	uint64_t back = reset->page - page;

	if (!reset->mask || slot != reset->slot)
		return false;
	if (page - reset->page < 64) {
		reset->mask |= 1ULL << (page - reset->page);
		return true;
	}
	if (back < 64 && reset->mask << back >> back == reset->mask) {
		reset->page = page;
		reset->mask = reset->mask << back | 1;
		return true;
	}
	return false;
}

static bool ignored_by_default(int signal)
{
	return signal == SIGCHLD || signal == SIGURG || signal == SIGWINCH || signal == SIGCONT;
}

/*
 * All signals are blocked here, so a signal that the caller does not block stays pending when it
 * arrives, as it does during a system call.
 */
static bool caller_signal_pending(const struct reset *reset)
{
	struct sigaction action;
	sigset_t pending;
	int signal;

	if (sigpending(&pending) || sigisemptyset(&pending))
		return false;
	for (signal = 1; signal < NSIG; signal++) {
		if (sigismember(&pending, signal) != 1 ||
		    sigismember(&reset->caller_mask, signal) == 1)
			continue;
		if (sigaction(signal, NULL, &action) || action.sa_handler == SIG_IGN)
			continue;
		if (action.sa_handler != SIG_DFL || !ignored_by_default(signal))
			return true;
	}
	return false;
}

/* Whether the next entry, which the vCPU's ring has, is left behind by a fault. */
static bool stops_here(const struct reset *reset, const struct model_vcpu *vcpu)
{
	const struct kvm_dirty_gfn *cell =
		&vcpu->cells[vcpu->reset_index & (vcpu->ring_entries - 1)];

	if (!reset->faulty || !reset->fault.stop ||
	    (uint32_t)reset->taken_entries < reset->fault.stop_after_entries)
		return false;
	if (__atomic_load_n(&cell->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_RESET)
		mk_reset_fault_count(reset->vm->model);
	return true;
}

static bool must_bail(const struct reset *reset, const struct model_vcpu *vcpu)
{
	if (stops_here(reset, vcpu))
		return true;
	return reset->vm->model->options.has_signal_short_reset && caller_signal_pending(reset);
}

static bool take_entry(struct reset *reset, struct model_vcpu *vcpu, uint32_t *slot, uint64_t *page)
{
	uint32_t index = vcpu->reset_index;
	struct kvm_dirty_gfn *cell = &vcpu->cells[index & (vcpu->ring_entries - 1)];

	if (!(__atomic_load_n(&cell->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_RESET))
		return false;
	/* Atomic, because a vCPU that overflows may overwrite the cell at the same time. */
	*slot = __atomic_load_n(&cell->slot, __ATOMIC_RELAXED);
	*page = __atomic_load_n(&cell->offset, __ATOMIC_RELAXED);
	__atomic_store_n(&cell->flags, 0, __ATOMIC_RELEASE);
	vcpu->reset_index = index + 1;
	reset->taken_entries++;
	mk_event_page(reset->vm->model, MODEL_RESET_INVALIDATED, vcpu->fd, *slot, *page);
	return true;
}

/* A signal makes the kernel drop the batch of the ring that it is at; a fault may, too. */
static bool drops_batch(const struct reset *reset)
{
	if (!reset->faulty)
		return reset->bailed;
	if (reset->fault.stop)
		return reset->bailed && reset->fault.drop_batch;
	return reset->bailed || reset->fault.drop_batch;
}

static void reset_ring(struct reset *reset, struct model_vcpu *vcpu)
{
	uint32_t slot;
	uint64_t page;

	reset->mask = 0;
	while (reset->taken_entries < INT_MAX) {
		if (must_bail(reset, vcpu)) {
			reset->bailed = true;
			break;
		}
		if (!take_entry(reset, vcpu, &slot, &page))
			break;
		if (batch_takes(reset, slot, page))
			continue;
		if (reset->mask)
			protect_batch(reset, vcpu);
		reset->slot = slot;
		reset->page = page;
		reset->mask = 1;
	}
	if (!reset->mask)
		return;
	if (!drops_batch(reset))
		protect_batch(reset, vcpu);
	else if (reset->faulty && reset->fault.drop_batch)
		mk_reset_fault_count(reset->vm->model);
}

static int reset_all(struct model_vm *vm, struct reset *reset)
{
	uint32_t i, count;

	pthread_mutex_lock(&vm->slots_lock);
	count = vm->vcpu_count;
	for (i = 0; i < count && !reset->bailed; i++)
		reset_ring(reset, vm->vcpus[i]);
	pthread_mutex_unlock(&vm->slots_lock);
	mk_event_page(vm->model, MODEL_RESET_UNLOCKED, vm->fd, 0, 0);
	if (reset->taken_entries && reset->faulty && reset->fault.late_flush)
		mk_reset_fault_count(vm->model);
	else if (reset->taken_entries)
		mk_tlb_flush(vm);
	return reset->taken_entries;
}

int mk_reset_rings(struct model_vm *vm)
{
	struct reset reset = { .vm = vm };
	sigset_t all;
	int result;

	if (!vm->ring_bytes)
		return -EINVAL;
	reset.faulty = mk_reset_fault_take(vm->model, &reset.fault);
	if (!vm->model->options.has_signal_short_reset)
		return reset_all(vm, &reset);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &reset.caller_mask);
	result = reset_all(vm, &reset);
	pthread_sigmask(SIG_SETMASK, &reset.caller_mask, NULL);
	return result;
}
