/* SPDX-License-Identifier: MIT */
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static const char *watched = "nothing";

static void on_kick(int signal)
{
	(void)signal;
}

static void on_alarm(int signal)
{
	static const char text[] = "\nwatchdog: timed out: ";

	(void)signal;
	(void)!write(STDERR_FILENO, text, sizeof(text) - 1);
	(void)!write(STDERR_FILENO, watched, strlen(watched));
	(void)!write(STDERR_FILENO, "\n", 1);
	_exit(1);
}

int machine_kick_signal(void)
{
	return SIGUSR1;
}

static void install_handlers(void)
{
	struct sigaction kick = { .sa_handler = on_kick };
	struct sigaction alarmed = { .sa_handler = on_alarm };

	sigaction(machine_kick_signal(), &kick, NULL);
	sigaction(SIGALRM, &alarmed, NULL);
}

/* Factor for all time limits, for slow machines such as emulated ones. */
static unsigned int patience_factor(void)
{
	const char *text = getenv("DIRTYLOG_PATIENCE");
	int factor = text ? atoi(text) : 1;

	return factor > 0 ? (unsigned int)factor : 1;
}

void machine_watchdog(const char *what, unsigned int seconds)
{
	install_handlers();
	watched = what;
	alarm(seconds * patience_factor());
}

int machine_available(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

int machine_open(struct machine *machine)
{
	int r;

	memset(machine, 0, sizeof(*machine));
	machine->vm_fd = -1;
	machine->page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	machine->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (machine->kvm_fd < 0)
		return -errno;
	install_handlers();
	r = ioctl(machine->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (r < 0)
		return -errno;
	machine->run_bytes = (size_t)r;
	machine->vm_fd = ioctl(machine->kvm_fd, KVM_CREATE_VM, 0);
	if (machine->vm_fd < 0)
		return -errno;
	return guest_setup_vm(machine->vm_fd);
}

int machine_set_region(struct machine *machine, uint32_t slot, uint32_t kvm_flags, uint64_t gpa,
		       uint64_t bytes, const void *memory)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = kvm_flags,
		.guest_phys_addr = gpa,
		.memory_size = bytes,
		.userspace_addr = (uintptr_t)memory,
	};

	return ioctl(machine->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? -errno : 0;
}

int machine_capability(const struct machine *machine, int capability)
{
	return ioctl(machine->vm_fd, KVM_CHECK_EXTENSION, capability);
}

int machine_load_guest(struct machine *machine)
{
	void *memory = mmap(NULL, GUEST_SLOT_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return -errno;
	machine->guest_memory = memory;
	guest_load(memory);
	return machine_set_region(machine, MACHINE_GUEST_SLOT, 0, 0, GUEST_SLOT_BYTES, memory);
}

int machine_add_vcpu(struct machine *machine, struct machine_vcpu **vcpu)
{
	struct machine_vcpu *new;
	void *run;

	if (machine->vcpu_count == GUEST_MAX_VCPUS)
		return -ENOSPC;
	new = &machine->vcpus[machine->vcpu_count];
	memset(new, 0, sizeof(*new));
	new->machine = machine;
	new->index = machine->vcpu_count;
	new->fd = ioctl(machine->vm_fd, KVM_CREATE_VCPU, (unsigned long)new->index);
	if (new->fd < 0)
		return -errno;
	run = mmap(NULL, machine->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, new->fd, 0);
	if (run == MAP_FAILED) {
		int r = -errno;

		close(new->fd);
		return r;
	}
	new->run = run;
	machine->vcpu_count++;
	if (vcpu)
		*vcpu = new;
	return guest_setup_vcpu(machine->kvm_fd, machine->vm_fd, new->fd);
}

void machine_close(struct machine *machine)
{
	for (unsigned int i = 0; i < machine->vcpu_count; i++) {
		struct machine_vcpu *vcpu = &machine->vcpus[i];

		if (vcpu->threaded)
			machine_stop(vcpu);
		munmap(vcpu->run, machine->run_bytes);
		close(vcpu->fd);
	}
	machine->vcpu_count = 0;
	if (machine->vm_fd >= 0)
		close(machine->vm_fd);
	if (machine->kvm_fd >= 0)
		close(machine->kvm_fd);
	machine->vm_fd = machine->kvm_fd = -1;
	if (machine->guest_memory)
		munmap(machine->guest_memory, GUEST_SLOT_BYTES);
	machine->guest_memory = NULL;
}

uint64_t *machine_table(struct machine_vcpu *vcpu)
{
	return (uint64_t *)((char *)vcpu->machine->guest_memory + guest_table_gpa(vcpu->index));
}

/* Atomic, because both the vCPU's thread and the thread that stops it write this field. */
static void set_immediate_exit(struct machine_vcpu *vcpu, uint8_t value)
{
	__atomic_store_n(&vcpu->run->immediate_exit, value, __ATOMIC_SEQ_CST);
}

/* KVM completes an I/O exit in the next KVM_RUN; the registers can only be set after that. */
static int complete_io(struct machine_vcpu *vcpu)
{
	int r;

	set_immediate_exit(vcpu, 1);
	r = ioctl(vcpu->fd, KVM_RUN, 0);
	set_immediate_exit(vcpu, 0);
	return r < 0 && errno != EINTR ? -errno : 0;
}

static int on_full(struct machine_vcpu *vcpu)
{
	atomic_fetch_add(&vcpu->full_exits, 1);
	return vcpu->on_full ? vcpu->on_full(vcpu->opaque) : MACHINE_FULL;
}

static void drop_access(struct machine_vcpu *vcpu)
{
	atomic_fetch_add(&vcpu->lost_accesses, 1);
	if (!vcpu->run->mmio.is_write)
		memset(vcpu->run->mmio.data, 0, sizeof(vcpu->run->mmio.data));
}

int machine_continue(struct machine_vcpu *vcpu)
{
	for (;;) {
		int r = 0;

		if (atomic_load(&vcpu->stop)) {
			r = complete_io(vcpu);
			return r < 0 ? r : MACHINE_STOPPED;
		}
		if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
			if (errno != EINTR && errno != EAGAIN)
				return -errno;
			continue;
		}
		vcpu->exit_reason = vcpu->run->exit_reason;
		if (vcpu->exit_reason == KVM_EXIT_DIRTY_RING_FULL) {
			r = on_full(vcpu);
		} else if (guest_is_done(vcpu->run)) {
			r = complete_io(vcpu);
			return r < 0 ? r : MACHINE_DONE;
		} else if (vcpu->exit_reason == KVM_EXIT_MMIO) {
			drop_access(vcpu);
		} else {
			r = -EPROTO;
		}
		if (r)
			return r;
	}
}

int machine_run(struct machine_vcpu *vcpu, const struct guest_job *job)
{
	int r = guest_start(vcpu->fd, job);

	return r < 0 ? r : machine_continue(vcpu);
}

static void *vcpu_thread(void *opaque)
{
	struct machine_vcpu *vcpu = opaque;

	atomic_store(&vcpu->end, machine_continue(vcpu));
	return NULL;
}

int machine_go(struct machine_vcpu *vcpu, const struct guest_job *job)
{
	int r = job ? guest_start(vcpu->fd, job) : 0;

	if (r < 0)
		return r;
	atomic_store(&vcpu->end, MACHINE_RUNNING);
	r = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);
	if (r)
		return -r;
	vcpu->threaded = true;
	return 0;
}

int machine_wait(struct machine_vcpu *vcpu)
{
	pthread_join(vcpu->thread, NULL);
	vcpu->threaded = false;
	return atomic_load(&vcpu->end);
}

void machine_kick(struct machine_vcpu *vcpu)
{
	/*
	 * This order loses no kick: a vCPU thread that reads stop as false either sees
	 * immediate_exit, or is in the guest already and leaves it for the signal.
	 */
	atomic_store(&vcpu->stop, true);
	set_immediate_exit(vcpu, 1);
	pthread_kill(vcpu->thread, machine_kick_signal());
}

void machine_unkick(struct machine_vcpu *vcpu)
{
	set_immediate_exit(vcpu, 0);
	atomic_store(&vcpu->stop, false);
}

int machine_stop(struct machine_vcpu *vcpu)
{
	int r;

	machine_kick(vcpu);
	r = machine_wait(vcpu);
	machine_unkick(vcpu);
	return r;
}
