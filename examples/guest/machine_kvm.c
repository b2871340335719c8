/* SPDX-License-Identifier: MIT */
#include "arch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/kvm.h>

/* The machine on the real /dev/kvm. */

#ifndef KVM_EXIT_DIRTY_RING_FULL
#define KVM_EXIT_DIRTY_RING_FULL 31
#endif

/* Does nothing: the delivery of the signal is what interrupts KVM_RUN. */
static void on_stop(int number)
{
	(void)number;
}

static int kvm_open(struct machine *machine)
{
	struct sigaction action = { .sa_handler = on_stop };
	int r;

	sigemptyset(&action.sa_mask);
	sigaction(SIGUSR1, &action, NULL);
	machine->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (machine->kvm_fd < 0)
		return machine_fail(machine, -errno, "cannot open /dev/kvm: %s", strerror(errno));
	machine->vm_fd = ioctl(machine->kvm_fd, KVM_CREATE_VM, 0);
	if (machine->vm_fd < 0) {
		r = machine_fail(machine, -errno, "KVM_CREATE_VM: %s", strerror(errno));
		close(machine->kvm_fd);
		return r;
	}
	arch_open(machine);
	return 0;
}

static void kvm_close(struct machine *machine)
{
	close(machine->vm_fd);
	close(machine->kvm_fd);
}

static int kvm_set_slot(struct machine *machine, uint32_t id)
{
	const struct layout_slot *slot = &machine->layout.slots[id];
	struct kvm_userspace_memory_region region = {
		.slot = id,
		.guest_phys_addr = slot->gpa,
		.memory_size = slot->bytes,
		.userspace_addr = (uintptr_t)machine->memory + slot->offset_bytes,
	};

	if (ioctl(machine->vm_fd, KVM_SET_USER_MEMORY_REGION, &region))
		return machine_fail(machine, -errno, "cannot set memslot %u: %s", id,
				    strerror(errno));
	return 0;
}

static int kvm_run_bytes(const struct machine *machine)
{
	return ioctl(machine->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
}

static int kvm_add_vcpu(struct vcpu *vcpu)
{
	int bytes = kvm_run_bytes(vcpu->machine);
	void *run;

	if (bytes < 0)
		return vcpu_fail(vcpu, -errno, "KVM_GET_VCPU_MMAP_SIZE: %s", strerror(errno));
	vcpu->fd = ioctl(vcpu->machine->vm_fd, KVM_CREATE_VCPU, (unsigned long)vcpu->id);
	if (vcpu->fd < 0)
		return vcpu_fail(vcpu, -errno, "KVM_CREATE_VCPU: %s", strerror(errno));
	run = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (run == MAP_FAILED)
		return vcpu_fail(vcpu, -errno, "cannot map kvm_run: %s", strerror(errno));
	vcpu->run = run;
	return arch_add_vcpu(vcpu);
}

static void kvm_remove_vcpu(struct vcpu *vcpu)
{
	if (vcpu->run)
		munmap(vcpu->run, (size_t)kvm_run_bytes(vcpu->machine));
	if (vcpu->fd >= 0)
		close(vcpu->fd);
}

static int kvm_boot(struct machine *machine)
{
	arch_page_tables(machine);
	return 0;
}

static int kvm_run(struct vcpu *vcpu)
{
	int r;

	if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
		if (errno == EINTR || errno == EAGAIN)
			return 0;
		return vcpu_fail(vcpu, -errno, "KVM_RUN: %s", strerror(errno));
	}
	if (vcpu->run->exit_reason == KVM_EXIT_INTR)
		return 0;
	if (vcpu->run->exit_reason != KVM_EXIT_DIRTY_RING_FULL)
		return arch_doorbell(vcpu);
	/* The vCPU cannot run until its ring has been drained. */
	vcpu->was_full = true;
	r = dl_vcpu_drain(vcpu->log_vcpu, 0);
	return r ? vcpu_fail(vcpu, r, "dl_vcpu_drain: %s", strerror(-r)) : 0;
}

static void set_immediate_exit(struct vcpu *vcpu, uint8_t on)
{
	__atomic_store_n(&vcpu->run->immediate_exit, on, __ATOMIC_SEQ_CST);
}

/* The flag stops a KVM_RUN that is about to begin, the signal one that is in progress. */
static void kvm_interrupt(struct vcpu *vcpu)
{
	set_immediate_exit(vcpu, 1);
	pthread_kill(vcpu->thread, SIGUSR1);
}

static void kvm_resume(struct vcpu *vcpu)
{
	set_immediate_exit(vcpu, 0);
}

/*
 * The next KVM_RUN completes an exit for I/O; if the registers were saved before it, the
 * instruction would be repeated or lost. With immediate_exit set, that KVM_RUN does nothing else.
 */
static int kvm_complete_io(struct vcpu *vcpu)
{
	int tries;

	set_immediate_exit(vcpu, 1);
	for (tries = 0; tries < 100; tries++)
		if (ioctl(vcpu->fd, KVM_RUN, 0) < 0)
			return errno == EINTR ? 0
					      : vcpu_fail(vcpu, -errno, "cannot complete I/O: %s",
							  strerror(errno));
	return vcpu_fail(vcpu, -EIO, "I/O did not complete");
}

const struct machine_kind machine_kvm = {
	.name = "kvm",
	.open = kvm_open,
	.close = kvm_close,
	.set_slot = kvm_set_slot,
	.add_vcpu = kvm_add_vcpu,
	.remove_vcpu = kvm_remove_vcpu,
	.boot = kvm_boot,
	.boot_vcpu = arch_boot_vcpu,
	.save = arch_save,
	.load = arch_load,
	.run = kvm_run,
	.interrupt = kvm_interrupt,
	.resume = kvm_resume,
	.complete_io = kvm_complete_io,
};
